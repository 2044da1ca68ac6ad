//! API keys in Redis: what this process knows of them, and how it learns it.
//!
//! One record under each id ([`Record`]). A key that was not seen before is fetched by its id, once for all who wait,
//! and remembered; each gateway reads four times a second which ids were changed, and forgets what it knew of them
//! ([`Follower`]). What can't be read is not taken for nothing: for how long nobody has known what was changed is told
//! to the policy, which says what that means. Redis holds digests and no key.
//!
//! Bounds: keys and ids without a key that are remembered; fetches at once, their time, and how many of them a second
//! may be for ids that have no key. A record that can't be read is no key.

mod budget;
mod cache;
mod fetch;
mod follow;
mod manage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::counter::{Caller, Heard, SharedStore};
use crate::policy::authenticate::api_key::{Found, InRedis, StoredKey, StoredKeys};

use budget::Budget;
use cache::{Cache, Known};
pub use fetch::Fetched;
use fetch::Fetching;
pub use follow::Follower;
pub use manage::{Change, Listed};

/// For how long a key is not fetched again, while its changes are followed. Covers what can't be followed: a Redis
/// that has lost a key together with the word of it.
const FRESH: Duration = Duration::from_mins(5);
/// For how long it is remembered that an id has no key.
const ABSENT_FOR: Duration = Duration::from_secs(10);
/// After how long without word from Redis nobody tries to fetch; whoever follows its changes finds out when it is back.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// How many keys are fetched at once.
const MOST_FETCHES: usize = 64;
/// How many keys' last uses are noted.
const MOST_USED: usize = 1 << 20;

/// The name of the stream of changed ids, of the set of all ids, and of the set of last uses.
const CHANGED: &str = "keys:changed";
const ALL: &str = "keys";
const USED: &str = "keys:used";

/// The store did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLost;

/// What all threads share.
pub struct SharedApiKeys {
    store: Arc<SharedStore>,
    cache: Cache,
    fetching: Mutex<HashMap<Box<str>, Arc<Fetching>>>,
    room: Semaphore,
    budget: Budget,
    /// Milliseconds for which nobody has known what was changed.
    heard: Heard,
    /// The last minute in which each key was used: those that Redis was not told yet, or all where it is not told.
    used: Mutex<HashMap<Box<str>, u64>>,
    began: Instant,
}

impl std::fmt::Debug for SharedApiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedApiKeys").field("remembered", &self.cache.len()).finish_non_exhaustive()
    }
}

impl StoredKeys for SharedApiKeys {
    fn find(&self, id: &str) -> Found {
        let (now, lost) = (self.millis(), self.is_lost());
        let younger = |at: u64, than: Duration| u128::from(now.saturating_sub(at)) < than.as_millis();
        match self.cache.find(id) {
            // Better old than none: the policy says for how long.
            Some(Known::Key(key, at)) if lost || younger(at, FRESH) => Found::Key(key),
            Some(Known::Absent(at)) if !lost && younger(at, ABSENT_FOR) => Found::Absent,
            _ => Found::Unfetched,
        }
    }

    fn unknown_for(&self) -> Duration {
        self.heard.silence()
    }

    fn used(&self, id: &str, minute: u64) {
        self.note_used([(Box::from(id), minute)]);
    }
}

impl SharedApiKeys {
    /// Nothing known; in Redis, where windows are there.
    #[must_use]
    pub fn new(store: Arc<SharedStore>) -> Self {
        Self {
            store,
            cache: Cache::default(),
            fetching: Mutex::default(),
            room: Semaphore::new(MOST_FETCHES),
            budget: Budget::default(),
            heard: Heard::never(),
            used: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Takes a key as known, as if it had just been fetched.
    pub fn keep(&self, id: &str, key: Arc<StoredKey>) {
        self.cache.keep(id, key, self.millis());
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn is_lost(&self) -> bool {
        self.unknown_for() > LOST_AFTER
    }

    fn fetching(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Fetching>>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is known of an id; what is being fetched of it counts no more.
    fn outdate(&self, id: &str) {
        let fetching = self.fetching();
        if let Some(fetching) = fetching.get(id) {
            fetching.outdate();
        }
        self.cache.outdate(id);
    }

    /// The same for all ids.
    fn outdate_all(&self) {
        let fetching = self.fetching();
        fetching.values().for_each(|fetching| fetching.outdate());
        self.cache.outdate_all();
    }

    fn last_uses(&self) -> MutexGuard<'_, HashMap<Box<str>, u64>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_used(&self, uses: impl IntoIterator<Item = (Box<str>, u64)>) {
        let mut noted = self.last_uses();
        for (id, minute) in uses {
            if noted.len() < MOST_USED || noted.contains_key(&id) {
                let last = noted.entry(id).or_default();
                *last = minute.max(*last);
            }
        }
    }

    fn record_key(&self, id: &str) -> String {
        self.store.key("key:") + id
    }
}

/// Keys in Redis, as one thread uses them: its own connection.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    shared: Arc<SharedApiKeys>,
    caller: Caller,
}

impl ApiKeys {
    /// A thread's way to them, as its policy uses them.
    #[must_use]
    pub fn new(shared: Arc<SharedApiKeys>, rule: Option<InRedis>) -> Self {
        if let Some(rule) = rule {
            shared.cache.allow(rule.cache);
        }
        Self { caller: Caller::new(Arc::clone(&shared.store)), shared }
    }

    /// What is known of them, for decisions.
    #[must_use]
    pub fn known(&self) -> &dyn StoredKeys {
        &*self.shared
    }

    /// Adds what is remembered of them, in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let (keys, absent) = self.shared.cache.len();
        out.push_str("# HELP modelgate_api_keys_remembered What this process remembers of API keys in Redis.\n");
        out.push_str("# TYPE modelgate_api_keys_remembered gauge\n");
        for (kind, number) in [("key", keys), ("absent", absent)] {
            out.push_str("modelgate_api_keys_remembered{kind=\"");
            out.push_str(kind);
            out.push_str("\"} ");
            out.push_str(&number.to_string());
            out.push('\n');
        }
    }
}
