//! What issuers say of tokens that they alone can read: asked once, kept shortly.
//!
//! Source: RFC 7662. Kept by the token's SHA-256, never longer than the token holds and the policy allows; what is good
//! and what is not in tables of their own, so that made-up tokens push nothing out. Whoever asks about the same token
//! at the same time shares one question. How many questions are under way and asked in a second is bounded, for one
//! address at half of it, so a flood of made-up tokens costs the issuer a stated rate, and others have the other half.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use super::fetch::{fetch, https_client};
use crate::policy::authenticate::jwt::{Introspections, Issuers, Proven, Refusal};
use crate::policy::json;
use crate::types::{AddressBucket, Name, Secret, Sha256, Timestamp};

/// The longest question.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer in bytes.
const MOST_BYTES: usize = 64 << 10;
/// How many questions are under way, and how many requests wait for them.
const MOST_RUNNING: usize = 32;
const MOST_WAITING: usize = 1024;
/// Entries of one generation of each table; there are two.
const GENERATION: usize = 4096;
/// For how long a token stays refused.
const REFUSED: Duration = Duration::from_secs(10);
/// How often failures are told, at most.
const TOLD: Duration = Duration::from_secs(10);

/// Asks every issuer that introspects, by its position.
#[derive(Debug, Default)]
pub struct Introspector(Vec<(usize, Arc<Asker>)>);

/// There is no answer: the issuer does not give one, or more is asked than may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

impl Introspections for Introspector {
    fn said(&self, issuer: usize, token: &Sha256, now: Timestamp) -> Option<Result<Proven, Refusal>> {
        self.asker(issuer)?.said(token, now)
    }
}

impl Introspector {
    /// Ready to ask every issuer that introspects.
    #[must_use]
    pub fn new(issuers: &Issuers) -> Self {
        let askers = issuers.introspected().map(|issuer| {
            let introspection = issuer.introspection;
            let asker = Asker {
                name: Name::clone(issuer.name),
                url: introspection.url.clone(),
                client_id: form_encoded(introspection.client_id.as_bytes()),
                client_secret: Secret::new(form_encoded(introspection.client_secret.expose()).into_bytes()),
                rate: introspection.rate,
                client: https_client(TIMEOUT, issuer.ca),
                book: Mutex::default(),
            };
            (issuer.position, Arc::new(asker))
        });
        Self(askers.collect())
    }

    fn asker(&self, issuer: usize) -> Option<&Arc<Asker>> {
        self.0.iter().find(|(position, _)| *position == issuer).map(|(_, asker)| asker)
    }

    /// Asks about a token on behalf of this address, or waits for who does. What `judge` makes of the answer is kept;
    /// `failed` is told the issuer's name and why there is none, now and then.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(
        &self,
        issuer: usize,
        token: Secret,
        address: IpAddr,
        judge: impl FnOnce(&Map<String, Value>, Timestamp) -> Result<Proven, Refusal> + 'static,
        failed: impl FnOnce(&str, &str) + 'static,
    ) -> Result<(), Unanswered> {
        let asker = self.asker(issuer).ok_or(Unanswered)?;
        let digest = Sha256::of(token.expose());
        let address = AddressBucket::of(address);
        let (mut answered, is_first) = {
            let mut book = asker.book();
            if book.waiting >= MOST_WAITING {
                return Err(Unanswered);
            }
            let shared = book.running.get(digest.as_bytes()).map(|running| running.answered.subscribe());
            let is_first = shared.is_none();
            let answered = match shared {
                Some(answered) => answered,
                None => book.begin(*digest.as_bytes(), address, asker.rate)?,
            };
            book.waiting += 1;
            (answered, is_first)
        };
        if is_first {
            // On its own, so that who shares it does not depend on who asked first.
            let question = Question { asker: Arc::clone(asker), digest, is_answered: false };
            tokio::task::spawn_local(question.ask(token, judge, failed));
        }
        let _place = Waiting(asker);
        let outcome = timeout(2 * TIMEOUT, answered.wait_for(Option::is_some)).await;
        match outcome {
            Ok(Ok(answer)) => answer.unwrap_or(Err(Unanswered)),
            _ => Err(Unanswered),
        }
    }
}

/// Asks one issuer.
struct Asker {
    name: Name,
    url: Box<str>,
    client_id: String,
    client_secret: Secret,
    rate: u32,
    client: Result<reqwest::Client, String>,
    book: Mutex<Book>,
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asker").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was said, what is being asked, and how much.
#[derive(Default)]
struct Book {
    good: Generations<Proven>,
    refused: Generations<(Refusal, Timestamp)>,
    running: HashMap<[u8; 32], Running>,
    waiting: usize,
    /// The questions of this second.
    second: Option<Instant>,
    asked: u32,
    asked_for: HashMap<AddressBucket, u32>,
    /// When a failure was told last.
    told: Option<Instant>,
}

/// What becomes of a question, once it is known.
type Answered = watch::Receiver<Option<Result<(), Unanswered>>>;

/// A question that is under way.
struct Running {
    address: AddressBucket,
    answered: watch::Sender<Option<Result<(), Unanswered>>>,
}

impl Book {
    /// Begins one more question, where there may be one.
    fn begin(&mut self, token: [u8; 32], address: AddressBucket, rate: u32) -> Result<Answered, Unanswered> {
        if self.second.is_none_or(|second| second.elapsed() >= Duration::from_secs(1)) {
            self.second = Some(Instant::now());
            self.asked = 0;
            self.asked_for.clear();
        }
        let running_for = self.running.values().filter(|running| running.address == address).count();
        let asked_for = self.asked_for.get(&address).copied().unwrap_or_default();
        let is_full = self.running.len() >= MOST_RUNNING
            || running_for >= MOST_RUNNING / 2
            || self.asked >= rate
            || asked_for >= rate.div_ceil(2);
        if is_full {
            return Err(Unanswered);
        }
        self.asked += 1;
        self.asked_for.insert(address, asked_for + 1);
        let (answered, receiver) = watch::channel(None);
        self.running.insert(token, Running { address, answered });
        Ok(receiver)
    }
}

impl Asker {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self, token: &Sha256, now: Timestamp) -> Option<Result<Proven, Refusal>> {
        let mut book = self.book();
        if let Some(proven) = book.good.find(token.as_bytes()) {
            return (proven.from <= now && now < proven.until).then_some(Ok(proven));
        }
        let (refusal, until) = book.refused.find(token.as_bytes())?;
        (now < until).then_some(Err(refusal))
    }

    async fn ask(&self, token: &Secret) -> Result<Map<String, Value>, String> {
        let client = self.client.as_ref().map_err(String::clone)?;
        let token = form_encoded(token.expose());
        let secret = String::from_utf8_lossy(self.client_secret.expose());
        // Client secrets are form-encoded before they are put together (RFC 6749 §2.3.1).
        let request = client
            .post(&*self.url)
            .basic_auth(&self.client_id, Some(secret))
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("token={token}&token_type_hint=access_token"));
        let fetched = fetch(request, MOST_BYTES).await?;
        match json::parse(&fetched.body, 8) {
            Ok(Value::Object(said)) if said.get("active").is_some_and(Value::is_boolean) => Ok(said),
            Ok(_) => Err("its answer does not say whether the token is active".into()),
            Err(wrong) => Err(format!("its answer is not JSON: {}", wrong.detail)),
        }
    }
}

/// A place among those who wait.
struct Waiting<'a>(&'a Asker);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.book().waiting -= 1;
    }
}

/// A question that is under way. Whatever becomes of it, who waits for it is told.
struct Question {
    asker: Arc<Asker>,
    digest: Sha256,
    is_answered: bool,
}

impl Question {
    async fn ask(
        mut self,
        token: Secret,
        judge: impl FnOnce(&Map<String, Value>, Timestamp) -> Result<Proven, Refusal>,
        failed: impl FnOnce(&str, &str),
    ) {
        let said = timeout(TIMEOUT, self.asker.ask(&token)).await;
        let said = said.unwrap_or_else(|_| Err("it took too long".into()));
        let now = now();
        let judged = said.map(|said| judge(&said, now));
        let mut book = self.asker.book();
        let outcome = match judged {
            Ok(Ok(proven)) => {
                book.good.insert(*self.digest.as_bytes(), proven);
                Ok(())
            }
            Ok(Err(refusal)) => {
                let until = Timestamp::from_micros(now.micros() + u64::try_from(REFUSED.as_micros()).unwrap_or(0));
                book.good.remove(self.digest.as_bytes());
                book.refused.insert(*self.digest.as_bytes(), (refusal, until));
                Ok(())
            }
            Err(cause) => {
                if book.told.is_none_or(|told| told.elapsed() >= TOLD) {
                    book.told = Some(Instant::now());
                    failed(&self.asker.name, &cause);
                }
                Err(Unanswered)
            }
        };
        if let Some(running) = book.running.remove(self.digest.as_bytes()) {
            running.answered.send_replace(Some(outcome));
        }
        drop(book);
        self.is_answered = true;
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        // Nobody is left waiting where it was given up.
        if !self.is_answered {
            self.asker.book().running.remove(self.digest.as_bytes());
        }
    }
}

/// A table of two generations: when the younger is full, the older is dropped, and what is used stays.
struct Generations<T>(HashMap<[u8; 32], T>, HashMap<[u8; 32], T>);

impl<T> Default for Generations<T> {
    fn default() -> Self {
        Self(HashMap::new(), HashMap::new())
    }
}

impl<T: Clone> Generations<T> {
    fn find(&mut self, digest: &[u8; 32]) -> Option<T> {
        if let Some(kept) = self.0.get(digest) {
            return Some(kept.clone());
        }
        let kept = self.1.remove(digest)?;
        self.insert(*digest, kept.clone());
        Some(kept)
    }

    fn insert(&mut self, digest: [u8; 32], kept: T) {
        if self.0.len() >= GENERATION {
            self.1 = std::mem::take(&mut self.0);
        }
        self.0.insert(digest, kept);
    }

    fn remove(&mut self, digest: &[u8; 32]) {
        self.0.remove(digest);
        self.1.remove(digest);
    }
}

fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn form_encoded(bytes: &[u8]) -> String {
    form_urlencoded::byte_serialize(bytes).collect()
}
