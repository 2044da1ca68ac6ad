//! Counting: the windows of `policy::limit`, held in this process or in Redis.
//!
//! Both stores decide all limits of one request at once and count it in all or in none. Redis decides
//! by one script and its own clock, so any number of gateways share a limit exactly. A Redis that does
//! not answer in time is lost: each limit says what that means, and no request waits longer than the
//! store's time limit.

mod link;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::Script;

use self::link::{Link, RedisSettings};
use crate::policy::limit::{Admission, Decision, Limit, Refusal, StoreLost, Subject, Window};
use crate::settings::{Named, Section};
use crate::types::{AddressBucket, Name};

/// How long a lost store is left alone before it is asked again.
const BACK_OFF: Duration = Duration::from_millis(500);
/// Separate locks in the in-process store.
const SHARDS: usize = 64;

/// Where windows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Redis,
}

impl Named for Kind {
    const SHAPE: &'static str = "\"memory\" or \"redis\"";
    const NAMES: &'static [(&'static str, Self)] = &[("memory", Self::Memory), ("redis", Self::Redis)];
}

/// `[store]`, compiled.
#[derive(Debug)]
pub struct StoreSettings {
    redis: Option<RedisSettings>,
    timeout: Duration,
    prefix: Box<str>,
    max_windows: usize,
}

impl StoreSettings {
    /// Reads `[store]`.
    #[must_use]
    pub fn compile(section: Section<'_>) -> Option<Self> {
        let kind = section.or("kind", Kind::Memory);
        let timeout = section.or("timeout", Duration::from_millis(50));
        let prefix = section.or("prefix", "modelgate".to_owned());
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            section.mistake(
                "prefix",
                "can't be the hash tag that keeps all keys in one slot of a Cluster",
                "write a name without braces, such as \"modelgate\"",
            );
        }
        let max_windows = section.or("max_windows", 262_144_usize);
        if max_windows < SHARDS {
            section.mistake("max_windows", "is too small", format!("write at least {SHARDS}"));
        }
        let redis = match kind {
            Kind::Memory => {
                link::forbid(&section);
                Some(None)
            }
            Kind::Redis => RedisSettings::compile(&section).map(Some),
        };
        section.finish();
        Some(Self { redis: redis?, timeout, prefix: prefix.into(), max_windows })
    }

    /// The name of the kind of store.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.redis.is_some() { "redis" } else { "memory" }
    }
}

/// Whose window it is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct WindowKey {
    limit: Name,
    address: Option<AddressBucket>,
    principal: Option<Name>,
    route: Option<Name>,
}

impl WindowKey {
    fn new(limit: &Limit, subject: &Subject<'_>) -> Self {
        Self {
            limit: Name::clone(&limit.name),
            address: limit.scope.address.then_some(subject.address),
            principal: limit.scope.principal.then(|| Name::clone(subject.principal)),
            route: limit.scope.route.then(|| Name::clone(subject.route)),
        }
    }
}

/// A window and how long what it remembers counts.
struct Kept {
    window: Window,
    length: u64,
}

type Shard = HashMap<WindowKey, Kept>;

/// The in-process store, shared by all threads.
pub struct MemoryStore {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    windows: AtomicUsize,
    max_windows: usize,
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("windows", &self.windows).finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store for at most `max_windows` windows.
    #[must_use]
    pub fn new(max_windows: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), shards, windows: AtomicUsize::new(0), max_windows }
    }

    /// Decides at `now` (microseconds of a clock that never steps back). `None` where a window would have
    /// to be remembered and there is no room: forgetting another would admit too much there.
    #[must_use]
    pub fn admit(&self, limits: &[Arc<Limit>], subject: &Subject<'_>, now: u64) -> Option<Decision> {
        let keys: Vec<(usize, WindowKey)> = limits
            .iter()
            .map(|limit| {
                let key = WindowKey::new(limit, subject);
                (usize::try_from(self.hasher.hash_one(&key)).unwrap_or(0) % SHARDS, key)
            })
            .collect();
        // Locked in one order everywhere, so that two requests can't wait for each other.
        let mut order: Vec<usize> = keys.iter().map(|(shard, _)| *shard).collect();
        order.sort_unstable();
        order.dedup();
        let mut locked: Vec<_> = order
            .iter()
            .filter_map(|&shard| Some((shard, self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner))))
            .collect();
        let mut standings = Vec::with_capacity(limits.len());
        let mut new = 0;
        for (limit, (shard, key)) in limits.iter().zip(&keys) {
            let kept = locked.iter_mut().find(|(index, _)| index == shard).and_then(|(_, shard)| shard.get_mut(key));
            if let Some(kept) = kept {
                kept.window.expire(now, limit.window);
                kept.length = limit.window;
                standings.push(kept.window.standing(limit, now));
            } else {
                new += 1;
                standings.push(Window::default().standing(limit, now));
            }
        }
        if standings.iter().any(|standing| standing.is_full()) {
            return Some(Decision { admitted: false, standings });
        }
        if new > 0 {
            let before = self.windows.fetch_add(new, Ordering::Relaxed);
            if before + new > self.max_windows {
                self.windows.fetch_sub(new, Ordering::Relaxed);
                return None;
            }
        }
        for ((limit, (shard, key)), standing) in limits.iter().zip(keys).zip(&mut standings) {
            let Some((_, shard)) = locked.iter_mut().find(|(index, _)| *index == shard) else { continue };
            let kept = shard.entry(key).or_insert_with(|| Kept { window: Window::default(), length: limit.window });
            kept.window.record(now);
            *standing = kept.window.standing(limit, now);
        }
        Some(Decision { admitted: true, standings })
    }

    /// Forgets windows that hold nothing any more. To be called now and then.
    pub fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|_, kept| {
                kept.window.expire(now, kept.length);
                !kept.window.is_empty()
            });
            let gone = before - shard.len();
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit();
            }
            self.windows.fetch_sub(gone, Ordering::Relaxed);
        }
    }
}

/// What all threads share.
#[derive(Debug)]
pub struct SharedStore {
    settings: StoreSettings,
    memory: MemoryStore,
    began: Instant,
    lost: AtomicBool,
}

impl SharedStore {
    /// The store that the settings ask for.
    #[must_use]
    pub fn new(settings: StoreSettings) -> Self {
        let memory = MemoryStore::new(settings.max_windows);
        Self { memory, settings, began: Instant::now(), lost: AtomicBool::new(false) }
    }

    /// Microseconds of a clock that never steps back.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Forgets what has expired in this process.
    pub fn sweep(&self) {
        self.memory.sweep(self.now());
    }

    /// Whether the store answers; asks it.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), String> {
        let Some(settings) = &self.settings.redis else { return Ok(()) };
        let ask = async {
            let link = Link::open(settings, self.settings.timeout).await?;
            link.call(&redis::cmd("PING")).await
        };
        match tokio::time::timeout(self.settings.timeout.max(Duration::from_millis(250)), ask).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(link::describe(&error)),
            Err(_) => Err("no answer in time".into()),
        }
    }
}

/// The store as one thread uses it: its own connection to Redis, so that threads share nothing.
pub struct Counter {
    shared: Arc<SharedStore>,
    script: Script,
    connection: RefCell<Option<Link>>,
    generation: Cell<u64>,
    ask_again: Cell<Option<Instant>>,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// A change of the store's state, to be recorded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// It stopped answering, and why.
    Lost(String),
    /// It answers again.
    Back,
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum Denied {
    /// Limits are full.
    Full(Refusal),
    /// The store is lost, and a limit says that this means no.
    StoreLost,
}

impl Counter {
    /// A thread's way to the store.
    #[must_use]
    pub fn new(shared: Arc<SharedStore>) -> Self {
        let script = Script::new(include_str!("counter.lua"));
        Self { shared, script, connection: RefCell::default(), generation: Cell::default(), ask_again: Cell::default() }
    }

    /// Decides all limits at once. `changed` is told when the store is lost or back.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admit(
        &self,
        limits: &[Arc<Limit>],
        subject: &Subject<'_>,
        changed: impl FnOnce(StoreChange),
    ) -> Result<Admission, Denied> {
        if limits.is_empty() {
            return Ok(Admission::uncounted());
        }
        let decided = if self.shared.settings.redis.is_some() {
            // On the heap, so that requests without it are smaller.
            Box::pin(self.ask_redis(limits, subject, changed)).await
        } else {
            self.shared.memory.admit(limits, subject, self.shared.now())
        };
        if let Some(decision) = decided {
            return Admission::from_decision(limits, &decision).map_err(Denied::Full);
        }
        self.without_store(limits, subject)
    }

    fn without_store(&self, limits: &[Arc<Limit>], subject: &Subject<'_>) -> Result<Admission, Denied> {
        if limits.iter().any(|limit| limit.store_lost == StoreLost::Deny) {
            return Err(Denied::StoreLost);
        }
        let local: Vec<Arc<Limit>> =
            limits.iter().filter(|limit| limit.store_lost == StoreLost::Local).cloned().collect();
        if local.is_empty() {
            return Ok(Admission::uncounted());
        }
        let decision = self.shared.memory.admit(&local, subject, self.shared.now()).ok_or(Denied::StoreLost)?;
        Admission::from_decision(&local, &decision).map_err(Denied::Full)
    }

    async fn ask_redis(
        &self,
        limits: &[Arc<Limit>],
        subject: &Subject<'_>,
        changed: impl FnOnce(StoreChange),
    ) -> Option<Decision> {
        if self.ask_again.get().is_some_and(|at| Instant::now() < at) {
            return None;
        }
        let timeout = self.shared.settings.timeout;
        let used = Cell::new(self.generation.get());
        let failure = match tokio::time::timeout(timeout, self.decide_in_redis(limits, subject, &used)).await {
            Ok(Ok(decision)) => {
                self.ask_again.set(None);
                if self.shared.lost.load(Ordering::Relaxed) && self.shared.lost.swap(false, Ordering::Relaxed) {
                    changed(StoreChange::Back);
                }
                return Some(decision);
            }
            Ok(Err(error)) => link::describe(&error),
            Err(_) => format!("no answer within {timeout:?}"),
        };
        // The connection's state is in doubt; the next attempt begins with a new one. Another call may have
        // begun with one already.
        if self.generation.get() == used.get() {
            self.connection.replace(None);
        }
        self.ask_again.set(Some(Instant::now() + BACK_OFF));
        if !self.shared.lost.swap(true, Ordering::Relaxed) {
            changed(StoreChange::Lost(failure));
        }
        None
    }

    async fn decide_in_redis(
        &self,
        limits: &[Arc<Limit>],
        subject: &Subject<'_>,
        used: &Cell<u64>,
    ) -> redis::RedisResult<Decision> {
        let held = self.connection.borrow().clone();
        if let Some(connection) = held {
            match self.call(connection, limits, subject).await {
                // Redis ends connections that are idle (`timeout`) and all of them when it restarts, and a master
                // may have become a replica. If it had counted before it went, the second call counts once more:
                // early by one, never late.
                Err(error) if link::is_fatal(&error) => {}
                done => return done,
            }
        }
        let Some(settings) = &self.shared.settings.redis else { return Ok(Decision::default()) };
        let connection = Link::open(settings, self.shared.settings.timeout).await?;
        used.set(self.generation.get() + 1);
        self.generation.set(used.get());
        self.connection.replace(Some(connection.clone()));
        self.call(connection, limits, subject).await
    }

    async fn call(
        &self,
        mut connection: Link,
        limits: &[Arc<Limit>],
        subject: &Subject<'_>,
    ) -> redis::RedisResult<Decision> {
        let mut call = self.script.prepare_invoke();
        for limit in limits {
            call.key(self.key(limit, subject)).arg(limit.quota).arg(limit.window);
        }
        let answer: Vec<u64> = call.invoke_async(&mut connection).await?;
        Decision::read(&answer, limits.len()).ok_or_else(|| {
            redis::RedisError::from((redis::ErrorKind::UnexpectedReturnType, "the script's answer has another form"))
        })
    }

    /// `{prefix}:limit:a=203.0.113.7:p=key:team-a:r=predict`. All keys share the tag in braces, so that
    /// a cluster keeps the windows of one decision together.
    fn key(&self, limit: &Limit, subject: &Subject<'_>) -> String {
        let mut key = format!("{{{}}}:{}", self.shared.settings.prefix, limit.name);
        if limit.scope.address {
            let _ = write!(key, ":a={}", subject.address);
        }
        if limit.scope.route {
            let _ = write!(key, ":r={}", subject.route);
        }
        // Last, because a subject may hold any printable character.
        if limit.scope.principal {
            let _ = write!(key, ":p={}", subject.principal);
        }
        key
    }
}
