//! What each worker tells of its models, for guards: the last good card, and what became of the last question.
//!
//! Asked on a connection of its own, read as hostile input, bounded in size, depth and time. No request waits for it. What a
//! worker told goes with it from policy to policy.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use tokio::time::Instant;

use super::headers::{ASSERTION, Forwarded};
use super::settings::{PoolSettings, WorkerSettings};
use super::{Call, Fault, Outgoing, Pool};
use crate::deadline::within;
use crate::policy::body::{Asked, Card};
use crate::types::Sha256;

/// The largest metadata in octets: those of 2,500 features.
const MOST_BYTES: usize = 1 << 20;
/// How long a worker has to tell.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a worker is asked again that did not tell.
const RETRY: Duration = Duration::from_secs(1);

/// What one worker told, by the paths where it was asked.
#[derive(Debug, Default)]
pub(super) struct ToldCards(Mutex<BTreeMap<Box<str>, ToldCard>>);

/// The last good card of a worker, and what became of the last question.
#[derive(Clone, Debug, Default)]
pub(super) struct ToldCard {
    /// The card and the digest of the answer that it was in.
    pub(super) card: Option<(Arc<Card>, Sha256)>,
    /// When that was told last.
    pub(super) at: Option<Instant>,
    /// Whether the worker was out since, so that it may be another one by now.
    pub(super) is_doubtful: bool,
    /// Why it was not told again.
    pub(super) failure: Option<String>,
    /// Answers that were good, and others.
    pub(super) counts: [u64; 2],
    /// Whether the card, or the failure, is news for the log.
    pub(super) news: [bool; 2],
    /// When to ask again.
    pub(super) due: Option<Instant>,
}

impl ToldCards {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Box<str>, ToldCard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is asked no longer.
    pub(super) fn retain(&self, wanted: &[Asked]) {
        self.all().retain(|path, _| wanted.iter().any(|asked| asked.path == *path));
    }

    /// Everything that was told, by path.
    pub(super) fn show(&self) -> BTreeMap<Box<str>, ToldCard> {
        self.all().clone()
    }

    /// Whether nothing was told yet.
    pub(super) fn is_empty(&self) -> bool {
        self.all().values().all(|told| told.card.is_none())
    }

    pub(super) fn of(&self, path: &str) -> ToldCard {
        self.all().get(path).cloned().unwrap_or_default()
    }

    /// The card to go by.
    pub(super) fn sure(&self, path: &str) -> Option<Arc<Card>> {
        let all = self.all();
        let told = all.get(path).filter(|told| !told.is_doubtful)?;
        told.card.as_ref().map(|(card, _)| Arc::clone(card))
    }

    pub(super) fn doubt(&self, path: &str) {
        if let Some(told) = self.all().get_mut(path) {
            told.is_doubtful = true;
        }
    }

    /// What is known, of which the news are told with it.
    pub(super) fn news(&self, path: &str) -> ToldCard {
        let mut all = self.all();
        let Some(told) = all.get_mut(path) else { return ToldCard::default() };
        let now = told.clone();
        told.news = [false; 2];
        now
    }

    /// Takes an answer; it says nothing of a worker that was out when it was asked.
    fn take(&self, path: &str, fetched: Result<Fetched, String>, was_out: bool, next: Duration) {
        let mut all = self.all();
        let told = all.entry(path.into()).or_default();
        let now = Instant::now();
        let pause = match fetched {
            Ok(Fetched { digest, card }) => {
                told.counts[0] += 1;
                told.news[0] |= card.is_some() || told.failure.is_some();
                (told.at, told.failure, told.is_doubtful) = (Some(now), None, was_out);
                told.card = card.map(|card| (Arc::new(card), digest)).or(told.card.take());
                next
            }
            Err(cause) => {
                told.counts[1] += 1;
                told.news[1] |= told.failure.as_ref() != Some(&cause);
                told.failure = Some(cause);
                next.min(RETRY)
            }
        };
        // Gateways that were started together ask one after the other.
        let chance = u16::try_from(RandomState::new().hash_one(0) & 0xFFFF).unwrap_or(0);
        told.due = Some(now + pause.mul_f64(0.8 + 0.4 * f64::from(chance) / 65_536.0));
    }
}

/// A good answer. The card is there where it is another one than before.
struct Fetched {
    digest: Sha256,
    card: Option<Card>,
}

/// Asks a worker for a model's card.
async fn fetch(pool: &Pool, path: &str, before: Option<Sha256>, shown: Option<HeaderValue>) -> Result<Fetched, String> {
    let target: PathAndQuery = path.parse().map_err(|_| "it is asked at what is no path")?;
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.extend(shown.map(|shown| (ASSERTION.clone(), shown)));
    let call = Call {
        method: &Method::GET,
        path: target.path(),
        query: target.query(),
        headers: Forwarded::ready(&headers, "card"),
        trailers: false,
        websocket: None,
        workers: u64::MAX,
    };
    let said = |fault: Fault| match fault {
        Fault::Unreachable(cause) => format!("it can't be reached: {cause}"),
        Fault::TooLarge => format!("its answer is larger than {MOST_BYTES} octets"),
        Fault::Slow => "it did not answer in time".into(),
        Fault::Failed(status) => format!("it answered {status}"),
        other => format!("{other:?}"),
    };
    let ask = async {
        let answer = pool.send(&call, Outgoing::Empty, &|| {}).await.map_err(said)?;
        let status = answer.response.status();
        if status != StatusCode::OK {
            return Err(format!("it answered {status}"));
        }
        answer.response.into_body().whole(MOST_BYTES).await.map_err(said)
    };
    let whole = within(TIMEOUT, ask).await.unwrap_or_else(|| Err("it took too long".into()))?;
    let digest = Sha256::of(&whole);
    if before.is_some_and(|before| before.matches(&digest)) {
        return Ok(Fetched { digest, card: None });
    }
    let card = Card::parse(&whole).map_err(|why| format!("its answer {why}"))?;
    Ok(Fetched { digest, card: Some(card) })
}

impl WorkerSettings {
    pub(super) async fn ask(&self, pool: &Pool, asked: &Asked, shown: Option<HeaderValue>) {
        let was_out = self.known.is_out();
        let before = self.cards.of(&asked.path).card.map(|(_, digest)| digest);
        let fetched = fetch(pool, &asked.path, before, shown).await;
        self.cards.take(&asked.path, fetched, was_out, asked.interval);
    }
}

/// Makes what workers of the pool at a position are told of the gateway.
pub type Shown<'a> = &'a dyn Fn(usize) -> Option<HeaderValue>;

impl PoolSettings {
    /// Takes what workers of other pools' state told, where they are the same and have told nothing here.
    pub fn keep_cards(pools: &mut [Self], before: &[Self]) {
        for pool in pools {
            let Some(old) = before.iter().find(|old| old.name == pool.name) else { continue };
            for worker in pool.workers.iter_mut().filter(|worker| worker.cards.is_empty()) {
                if let Some(old) = old.workers.iter().find(|old| old.label == worker.label) {
                    worker.cards = Arc::clone(&old.cards);
                }
            }
        }
    }

    /// Asks each worker, those alone that have told nothing unless it is `anew`. The pool is at this position.
    ///
    /// # Errors
    /// Who does not tell, and why.
    pub async fn learn(&self, at: usize, wanted: &[Asked], anew: bool, shown: Shown<'_>) -> Result<(), Vec<String>> {
        let each = self.workers.iter().flat_map(|worker| wanted.iter().map(move |asked| (worker, asked)));
        let each = each.filter(|(worker, asked)| anew || worker.cards.of(&asked.path).card.is_none());
        let answers = each.map(async |(worker, asked)| {
            let alone = self.alone(worker);
            worker.ask(&alone, asked, shown(at)).await;
            worker
                .cards
                .of(&asked.path)
                .failure
                .map(|why| format!("{} does not tell its card at {}: {why}", worker.label, asked.path))
        });
        let failures: Vec<String> = futures_util::future::join_all(answers).await.into_iter().flatten().collect();
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

/// The versions that a card is of, as a log names them.
pub(super) fn version(card: &Card) -> String {
    let named = card.models().iter().filter_map(|model| model.version.as_deref());
    named.collect::<Vec<_>>().join(", ")
}
