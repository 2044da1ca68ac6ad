//! Puts a new policy in the place of the old one while the gateway serves.
//!
//! The configuration is read whole. One mistake in it, and the old policy goes on: that is said in the log, in the
//! metrics and to whoever asked. Otherwise every thread begins its next request with the new one; what has begun ends
//! with the old one, so no request meets both. Ports, threads, the log and the store stay as they were at the start.

mod cards;
mod swap;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::deadline::Pace;
use crate::edge::counter::SharedStore;
use crate::edge::introspection::Introspector;
use crate::edge::keys::{KeyRing, Outcome};
use crate::edge::log::Log;
use crate::edge::metrics::Metrics;
use crate::edge::upstream::{Cards, PoolSettings, Tell};
use crate::exchange::Snapshot;
use crate::policy::Policy;
use crate::settings::Mistake;
use crate::types::Name;

pub use swap::{NOTE, Stage, Swap, Unswapped};

/// How long every thread has to take a new policy.
const ADOPTION: Duration = Duration::from_secs(5);
/// How many mistakes of one file are put into the log.
const MOST_TOLD: usize = 20;

/// What can be replaced, as it was read.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// The ways to the workers.
    pub pools: Vec<PoolSettings>,
    /// Whether answers say `Strict-Transport-Security`.
    pub hsts: bool,
    /// How slowly a client's body may come.
    pub body_pace: Pace,
    /// The tables that only a restart changes, and what they say.
    pub fixed: BTreeMap<&'static str, String>,
    /// The files that were read, as they were then.
    pub files: Vec<(PathBuf, Stamp)>,
}

/// What tells whether a file is another one: device, node, length and the time of its last change; nothing where it
/// is not there.
pub type Stamp = Option<[u64; 5]>;

/// What the disk is asked for.
#[derive(Clone)]
pub struct Source {
    /// Reads the configuration.
    pub load: Arc<dyn Fn() -> Result<Loaded, Vec<Mistake>> + Send + Sync>,
    /// Looks at a file.
    pub look: fn(&Path) -> Stamp,
}

/// What became of a reload.
#[derive(Debug)]
pub enum Reloaded {
    /// The policy with this number serves.
    Replaced {
        /// Its number since the start.
        generation: u64,
        /// Tables that were changed and wait for a restart.
        needs_restart: Vec<&'static str>,
        /// Pools whose workers were swapped and stay, because the files say of them what they said then.
        swapped: Vec<Name>,
    },
    /// The old one goes on.
    Kept(Vec<Mistake>),
}

/// Replaces policies, one at a time.
pub struct Reloader {
    source: Source,
    snapshots: watch::Sender<Arc<Snapshot>>,
    fixed: BTreeMap<&'static str, String>,
    /// The files that were looked at last, as they were then.
    files: RefCell<Vec<(PathBuf, Stamp)>>,
    threads: usize,
    /// Where changes in the standing of workers are told.
    tell: Tell,
    metrics: Arc<Metrics>,
    store: Arc<SharedStore>,
    log: Log,
    turn: Mutex<()>,
    /// The last swap of each pool.
    swaps: RefCell<BTreeMap<Box<str>, Swap>>,
    refreshing: RefCell<Option<JoinHandle<()>>>,
    /// Who asks workers for cards.
    following: RefCell<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What the reloader shares with the rest.
#[derive(Debug)]
pub struct Shared {
    /// How many threads serve.
    pub threads: usize,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The windows' store.
    pub store: Arc<SharedStore>,
    /// Where changes are told.
    pub log: Log,
}

impl Reloader {
    /// Begins with a configuration that was read already.
    #[must_use]
    pub fn new(loaded: Loaded, source: Source, shared: Shared) -> Self {
        let Shared { threads, metrics, store, log } = shared;
        let (fixed, files) = (loaded.fixed.clone(), RefCell::new(loaded.files.clone()));
        let told = log.clone();
        let tell: Tell = Arc::new(move |name, fields| told.event(name, fields));
        let first = snapshot(parts(loaded), &metrics, None, (threads, &tell));
        let (snapshots, _) = watch::channel(Arc::new(first));
        Self {
            source,
            snapshots,
            fixed,
            files,
            threads,
            tell,
            metrics,
            store,
            log,
            turn: Mutex::default(),
            swaps: RefCell::default(),
            refreshing: RefCell::default(),
            following: RefCell::default(),
        }
    }

    /// The snapshots, as they come.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// The one that serves.
    #[must_use]
    pub fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// Begins to fetch the keys of the issuers of the policy that serves. Needs a runtime that takes local tasks.
    pub fn refresh_keys(&self) {
        let (snapshot, log) = (self.now(), self.log.clone());
        let refreshing = tokio::task::spawn_local(async move {
            let issuers = snapshot.policy.authenticator.issuers();
            let changed = |issuer: &Name, outcome: &Outcome| match outcome {
                Outcome::Fetched(count) => {
                    log.event("issuer-keys", &[("issuer", issuer), ("keys", &count.to_string())]);
                }
                Outcome::Failed(cause) => log.event("issuer-keys-failed", &[("issuer", issuer), ("cause", cause)]),
                Outcome::Ended(cause) => log.event("issuer-keys-ended", &[("issuer", issuer), ("cause", cause)]),
            };
            snapshot.keys.refresh(issuers, changed).await;
        });
        if let Some(before) = self.refreshing.replace(Some(refreshing)) {
            before.abort();
        }
    }

    /// Reads the configuration anew and puts it in place if it is good. Comes back when every thread serves by it.
    pub async fn reload(&self, why: &str) -> Reloaded {
        let _turn = self.turn.lock().await;
        // Also where nothing else changes: whoever asks may know of a key that was withdrawn.
        self.now().keys.hurry();
        let load = Arc::clone(&self.source.load);
        // A disk that does not answer must not hold what else runs here.
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let broken = |error: tokio::task::JoinError| {
            vec![Mistake {
                place: String::new(),
                key: String::new(),
                reason: format!("can't be read: {error}"),
                remedy: "restart the gateway, and report this".into(),
            }]
        };
        let mut loaded = match loaded.unwrap_or_else(|error| Err(broken(error))) {
            Ok(loaded) => loaded,
            Err(mistakes) => return self.keep(why, mistakes),
        };
        let swapped = PoolSettings::keep_swapped(&mut loaded.pools, &self.now().pools);
        let mut failures = self.test(&loaded.policy, &loaded.pools).await;
        failures.extend(self.test_cards(&mut loaded).await);
        if !failures.is_empty() {
            return self.keep(why, failures);
        }
        let changed = |name: &&'static str| loaded.fixed.get(name) != self.fixed.get(name);
        let needs_restart: Vec<&'static str> = self.fixed.keys().copied().filter(changed).collect();
        self.files.replace(loaded.files.clone());
        let before = self.now();
        let generation =
            self.put(snapshot(parts(loaded), &self.metrics, Some(&before), (self.threads, &self.tell))).await;
        self.metrics.policy_replaced(true);
        self.tell_overtaken();
        let (number, restart) = (generation.to_string(), needs_restart.join(", "));
        let fields = [("why", why), ("generation", number.as_str()), ("needs_restart", restart.as_str())];
        self.log.event("policy-replaced", fields.get(..if restart.is_empty() { 2 } else { 3 }).unwrap_or_default());
        self.tell_kept(&swapped);
        Reloaded::Replaced { generation, needs_restart, swapped }
    }

    /// Puts a snapshot in place, and comes back when every thread serves by it. Gives back its number.
    async fn put(&self, next: Snapshot) -> u64 {
        let next = Arc::new(next);
        // What one policy refuses another may not.
        self.store.forget_refusals();
        self.snapshots.send_replace(Arc::clone(&next));
        self.refresh_keys();
        self.follow_cards();
        let begun = Instant::now();
        while next.adopted.load(Ordering::Acquire) < self.threads && begun.elapsed() < ADOPTION {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What a thread still asked under the old policy may have been refused meanwhile.
        self.store.forget_refusals();
        next.generation
    }

    /// Tests the workers that do not serve yet, in pools with golden predictions.
    async fn test(&self, policy: &Policy, pools: &[PoolSettings]) -> Vec<Mistake> {
        let (now, shown) = (self.now(), cards::assertion(policy));
        let mut failures = Vec::new();
        for (position, pool) in pools.iter().enumerate() {
            let serving = now.pools.iter().find(|old| old.name() == pool.name()).map(PoolSettings::workers);
            let tested = pool.test(&serving.unwrap_or_default(), shown(position).as_ref()).await;
            let Err(found) = tested else { continue };
            failures.extend(found.into_iter().map(|reason| Mistake {
                place: "new workers".into(),
                key: format!("pools.{}.workers", pool.name()),
                reason,
                remedy: "correct the worker or its golden predictions, or name another".into(),
            }));
        }
        failures
    }

    fn keep(&self, why: &str, mistakes: Vec<Mistake>) -> Reloaded {
        self.metrics.policy_replaced(false);
        let count = mistakes.len().to_string();
        self.log.event("policy-kept", &[("why", why), ("mistakes", &count)]);
        for mistake in mistakes.iter().take(MOST_TOLD) {
            let Mistake { place, key, reason, remedy } = mistake;
            self.log.event("policy-mistake", &[("place", place), ("key", key), ("cause", reason), ("remedy", remedy)]);
        }
        Reloaded::Kept(mistakes)
    }

    /// Reloads when a file has changed, for ever. Looks at them every so often.
    pub async fn watch(&self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let (mut now, look) = (self.files.borrow().clone(), self.source.look);
            let look = move || {
                for (path, stamp) in &mut now {
                    *stamp = look(path);
                }
                now
            };
            let Ok(now) = tokio::task::spawn_blocking(look).await else { continue };
            if now != *self.files.borrow() {
                // Where what is there now is not good, only another change is looked at.
                self.files.replace(now);
                self.reload("a file changed").await;
            }
        }
    }
}

/// What a snapshot is made of: the policy, the pools, and what of the listener is obeyed anew.
type Parts = (Arc<Policy>, Vec<PoolSettings>, bool, Pace);

fn parts(loaded: Loaded) -> Parts {
    let Loaded { policy, pools, hsts, body_pace, .. } = loaded;
    (Arc::new(policy), pools, hsts, body_pace)
}

fn snapshot(
    (policy, mut pools, hsts, body_pace): Parts,
    metrics: &Metrics,
    before: Option<&Snapshot>,
    shared: (usize, &Tell),
) -> Snapshot {
    PoolSettings::adopt(&mut pools, before.map_or(&[], |before| &before.pools), shared.0, shared.1);
    let issuers = policy.authenticator.issuers();
    let mut keys = KeyRing::new(issuers);
    if let Some(before) = before {
        keys = keys.keeping(issuers, &before.keys, before.policy.authenticator.issuers());
    }
    let introspector = Introspector::new(issuers);
    let cards = Cards::new(&policy.cards, &pools, before.map(|before| &before.cards));
    Snapshot {
        routes: metrics.routes(policy.routes.iter().map(|route| &*route.name)),
        keys,
        introspector,
        hsts,
        body_pace,
        cards,
        pools,
        generation: before.map_or(1, |before| before.generation + 1),
        adopted: AtomicUsize::new(0),
        policy,
    }
}
