//! Keys that issuers publish: fetched, kept fresh, the last good set kept for a stated time.
//!
//! Source: RFC 7517, RFC 8414, OpenID Connect Discovery 1.0. A gateway starts while an issuer is down: only its tokens
//! get 503 until the first fetch. HTTPS alone, no redirect, bounded in size, number and time.
//!
//! One task for each issuer fetches, and nobody else. A request with a token whose key is not known asks that task and
//! waits with all others that do; how often that may happen is bounded, so whoever makes names of keys up costs the
//! issuer no more than one fetch in so many seconds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::rand;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{fetch, https_client};
use crate::policy::authenticate::jwt::{Issuers, Keys, Place, Published, VerifyKey, key_set};
use crate::policy::json;
use crate::types::{Name, Sha256};

/// How often a set is fetched again where it does not say for how long it is fresh, and the bounds of what it may say.
const FRESH: Duration = Duration::from_mins(5);
const LEAST_FRESH: Duration = Duration::from_mins(1);
const MOST_FRESH: Duration = Duration::from_hours(1);
/// How soon after a failure: after the first, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(10);
/// How often, at most, reloads make the gateway fetch.
const HURRIED: Duration = Duration::from_secs(1);
/// How often, at most, requests make the gateway fetch.
const ASKED: Duration = Duration::from_secs(10);
/// For how long what the metadata says counts.
const DISCOVERED: Duration = Duration::from_hours(1);
/// The longest fetch, the metadata's included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document in bytes.
const MOST_BYTES: usize = 256 << 10;
/// How many requests wait for one fetch.
const MOST_WAITING: usize = 1024;

/// The last good keys of every issuer that publishes them, by the issuer's position.
#[derive(Debug, Default)]
pub struct KeyRing(Vec<(usize, Arc<IssuerKeys>)>);

/// The keys of one issuer, and when to fetch them again.
#[derive(Debug)]
struct IssuerKeys {
    keys: ArcSwapOption<Vec<VerifyKey>>,
    plan: Mutex<Plan>,
    /// Wakes who fetches.
    wanted: Notify,
    /// Wakes who waits for a fetch.
    fetched: watch::Sender<()>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Plan {
    /// When to fetch.
    due: Instant,
    /// When requests may make the gateway fetch again.
    askable: Instant,
    /// When a reload last made the gateway fetch.
    hurried: Option<Instant>,
    /// Whether one has asked, and no fetch has begun since.
    asked: bool,
    /// When the last good set was fetched, and its digest.
    good: Option<(Instant, Sha256)>,
    /// How many fetches have failed since.
    failures: u32,
    /// Where the metadata said that the set is, and when.
    found: Option<(Instant, String)>,
    /// What became of the last fetch.
    told: Option<Outcome>,
}

/// What became of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There are so many keys.
    Fetched(usize),
    /// There was no answer, or none that is good. The last good keys serve.
    Failed(String),
    /// As [`Outcome::Failed`], and the last good keys are too old to serve.
    Ended(String),
}

impl Keys for KeyRing {
    fn of(&self, issuer: usize) -> Option<Arc<Vec<VerifyKey>>> {
        self.place(issuer).and_then(|found| found.keys.load_full())
    }

    fn may_refetch(&self, issuer: usize) -> bool {
        self.place(issuer).is_some_and(|found| {
            let plan = found.plan();
            plan.asked || plan.askable <= Instant::now()
        })
    }

    fn is_failing(&self, issuer: usize) -> bool {
        self.place(issuer).is_some_and(|found| found.plan().failures > 0)
    }
}

impl KeyRing {
    /// An empty place for each issuer that publishes keys.
    #[must_use]
    pub fn new(issuers: &Issuers) -> Self {
        Self(issuers.published().map(|issuer| (issuer.position, Arc::default())).collect())
    }

    /// Keeps the keys of issuers that another ring had, where they are the same under another policy.
    #[must_use]
    pub fn keeping(mut self, issuers: &Issuers, other: &Self, others: &Issuers) -> Self {
        for issuer in issuers.published() {
            let same = others.published().find(|old| old.is_same(&issuer)).and_then(|old| other.place(old.position));
            let place = self.0.iter_mut().find(|(position, _)| *position == issuer.position);
            if let (Some(same), Some((_, place))) = (same, place) {
                *place = Arc::clone(same);
            }
        }
        self
    }

    fn place(&self, issuer: usize) -> Option<&Arc<IssuerKeys>> {
        self.0.iter().find(|(position, _)| *position == issuer).map(|(_, found)| found)
    }

    /// The issuers, by name, whose keys are not there.
    #[must_use]
    pub fn missing(&self, issuers: &Issuers) -> Vec<Name> {
        let missing = issuers.published().filter(|issuer| self.of(issuer.position).is_none());
        missing.map(|issuer| Name::clone(issuer.name)).collect()
    }

    /// Waits for a fetch of the issuer's keys that begins after now, if there may be one. `false` where too many wait,
    /// or nobody fetches: then it is not known.
    pub async fn refetch(&self, issuer: usize) -> bool {
        let Some(found) = self.place(issuer) else { return true };
        let Some(_place) = Waiting::begin(&found.waiting) else { return false };
        let mut fetched = {
            let mut plan = found.plan();
            let now = Instant::now();
            if !plan.asked {
                if plan.askable > now {
                    return true;
                }
                plan.asked = true;
                plan.askable = now + ASKED;
                found.wanted.notify_one();
            }
            found.fetched.subscribe()
        };
        // A fetch that has begun may have to end first.
        timeout(2 * TIMEOUT, fetched.changed()).await.is_ok()
    }

    /// Has all keys fetched soon, so that none serves on that was withdrawn.
    pub fn hurry(&self) {
        for (_, found) in &self.0 {
            let mut plan = found.plan();
            let now = Instant::now();
            let soon = plan.hurried.map_or(now, |last| now.max(last + HURRIED));
            if plan.due > soon {
                plan.due = soon;
                plan.hurried = Some(soon);
                // A set that was found by old metadata may be elsewhere now.
                plan.found = None;
            }
            found.wanted.notify_one();
        }
    }

    /// Keeps the keys fresh for ever. `changed` is told the issuer and what became of a fetch that ended
    /// otherwise than the one before.
    pub async fn refresh(&self, issuers: &Issuers, changed: impl Fn(&Name, &Outcome)) {
        let fetches = issuers.published().filter_map(|issuer| {
            let found = self.place(issuer.position)?;
            Some(found.refresh(issuer, &changed))
        });
        futures_util::future::join_all(fetches).await;
    }
}

/// A place among those who wait for a fetch.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for IssuerKeys {
    fn default() -> Self {
        let now = Instant::now();
        let plan = Plan {
            due: now,
            askable: now,
            asked: false,
            hurried: None,
            good: None,
            failures: 0,
            found: None,
            told: None,
        };
        Self {
            keys: ArcSwapOption::empty(),
            plan: Mutex::new(plan),
            wanted: Notify::new(),
            fetched: watch::channel(()).0,
            waiting: AtomicUsize::new(0),
        }
    }
}

impl IssuerKeys {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn refresh(&self, issuer: Published<'_>, changed: &impl Fn(&Name, &Outcome)) {
        loop {
            // Who asked may have asked of a task that was ended before it fetched, by a reload.
            let due = {
                let plan = self.plan();
                if plan.asked { Instant::now() } else { plan.due }
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
            // Who asks from now on may want what is published while this fetch is under way.
            let asked = {
                let plan = self.plan();
                if !plan.asked && plan.due > Instant::now() {
                    continue;
                }
                plan.asked
            };
            let fetched = timeout(TIMEOUT, self.fetch(&issuer)).await;
            let fetched = fetched.unwrap_or_else(|_| Err("it took too long".into()));
            let outcome = self.take(&issuer, fetched);
            if asked {
                self.plan().asked = false;
                self.fetched.send_replace(());
            }
            let is_new = self.plan().told.replace(outcome.clone()).is_none_or(|before| before != outcome);
            if is_new {
                changed(issuer.name, &outcome);
            }
        }
    }

    /// Puts new keys in their place, or the old ones away where they are too old, and plans the next fetch.
    fn take(&self, issuer: &Published<'_>, fetched: Result<Set, String>) -> Outcome {
        let kept = issuer.publication.kept;
        let mut plan = self.plan();
        let now = Instant::now();
        match fetched {
            Ok(Set { keys, digest, fresh_for }) => {
                let count = keys.len();
                // What was verified with a set need not be verified anew while it is the same.
                let is_same = plan.good.as_ref().is_some_and(|(_, good)| good.matches(&digest));
                if !is_same || self.keys.load().is_none() {
                    self.keys.store(Some(Arc::new(keys)));
                }
                plan.good = Some((now, digest));
                plan.failures = 0;
                let fresh_for = fresh_for.map_or(FRESH, |stated| stated.clamp(LEAST_FRESH, MOST_FRESH));
                plan.due = now + fresh_for.min(kept / 2);
                Outcome::Fetched(count)
            }
            Err(cause) => {
                let retry = RETRY.min(FIRST_RETRY * 2_u32.saturating_pow(plan.failures.min(8)));
                plan.failures += 1;
                plan.found = None;
                plan.due = now + jittered(retry);
                let Some((good, _)) = plan.good else { return Outcome::Failed(cause) };
                let ends = good + kept;
                if ends <= now {
                    self.keys.store(None);
                    return Outcome::Ended(cause);
                }
                plan.due = plan.due.min(ends);
                Outcome::Failed(cause)
            }
        }
    }

    async fn fetch(&self, issuer: &Published<'_>) -> Result<Set, String> {
        let client = https_client(TIMEOUT, issuer.ca)?;
        let url = match &issuer.publication.place {
            Place::Set(url) => url.to_string(),
            Place::Metadata(urls) => {
                let found = self.plan().found.clone();
                if let Some((_, url)) = found.filter(|(at, _)| at.elapsed() < DISCOVERED) {
                    url
                } else {
                    let url = discover(&client, urls, issuer.issuer).await?;
                    self.plan().found = Some((Instant::now(), url.clone()));
                    url
                }
            }
        };
        let fetched = fetch(client.get(url), MOST_BYTES).await?;
        let keys = key_set(&fetched.body, issuer.algorithms)?;
        Ok(Set { keys, digest: Sha256::of(&fetched.body), fresh_for: fetched.fresh_for })
    }
}

/// A JWK Set that was fetched.
struct Set {
    keys: Vec<VerifyKey>,
    digest: Sha256,
    fresh_for: Option<Duration>,
}

/// Where the issuer's metadata says that its keys are. Metadata of another issuer say nothing (RFC 8414 §3.3, OpenID
/// Connect Discovery §4.3).
async fn discover(client: &reqwest::Client, urls: &[Box<str>], issuer: &str) -> Result<String, String> {
    let mut causes = Vec::new();
    for url in urls {
        match fetch(client.get(&**url), MOST_BYTES).await {
            Ok(fetched) => return jwks_uri(&fetched.body, issuer),
            Err(cause) => causes.push(cause),
        }
    }
    Err(format!("its metadata could not be had: {}", causes.join("; ")))
}

fn jwks_uri(metadata: &[u8], issuer: &str) -> Result<String, String> {
    let metadata = json::parse(metadata, 8).map_err(|wrong| format!("its metadata is not JSON: {}", wrong.detail))?;
    let text = |name: &str| metadata.get(name).and_then(|value| value.as_str());
    if text("issuer") != Some(issuer) {
        return Err("its metadata names another issuer".into());
    }
    let uri = text("jwks_uri").filter(|uri| uri.starts_with("https://"));
    uri.map(str::to_owned).ok_or_else(|| "its metadata has no jwks_uri with https".into())
}

/// Gateways that lost an issuer together do not come back to it together.
fn jittered(pause: Duration) -> Duration {
    let mut chance = [0];
    let _ = rand::fill(&mut chance);
    pause.mul_f64(0.8 + f64::from(chance[0]) / 640.0)
}
