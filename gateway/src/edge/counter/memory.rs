//! Windows in this process, shared by all threads.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::keys::Keys;
use crate::policy::limit::window::{Rule, Standing, Window};
use crate::policy::limit::{Decision, Demand, MOST_LIMITS};

/// Separate locks.
pub(super) const SHARDS: usize = 64;

/// A window, its name, and how it counts.
struct Kept {
    key: Box<[u8]>,
    hash: u64,
    window: Window,
    rule: Rule,
}

type Shard = HashTable<Kept>;

/// The in-process store.
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

/// The shards that one request needs, locked in one order everywhere, so that two requests can't wait for each other.
struct Locked<'a> {
    shards: [Option<(usize, MutexGuard<'a, Shard>)>; MOST_LIMITS],
}

impl Locked<'_> {
    fn shard(&mut self, hash: u64) -> Option<&mut Shard> {
        let mut held = self.shards.iter_mut().flatten();
        held.find(|(held, _)| *held == place(hash)).map(|(_, shard)| &mut **shard)
    }

    fn find(&mut self, hash: u64, key: &[u8]) -> Option<&mut Kept> {
        self.shard(hash)?.find_mut(hash, |kept| *kept.key == *key)
    }
}

/// Which shard a hash belongs to; not by the bits that choose a place inside it.
fn place(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or(0) % SHARDS
}

impl MemoryStore {
    /// An empty store for at most `max_windows` windows.
    #[must_use]
    pub fn new(max_windows: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), shards, windows: AtomicUsize::new(0), max_windows }
    }

    fn lock(&self, hashes: &[u64]) -> Locked<'_> {
        let mut order: [usize; MOST_LIMITS] = [SHARDS; MOST_LIMITS];
        for (slot, hash) in order.iter_mut().zip(hashes) {
            *slot = place(*hash);
        }
        order.sort_unstable();
        let mut last = SHARDS;
        let shards = order.map(|place| {
            if place == std::mem::replace(&mut last, place) {
                return None;
            }
            Some((place, self.shards.get(place)?.lock().unwrap_or_else(PoisonError::into_inner)))
        });
        Locked { shards }
    }

    /// Decides. The clock gives microseconds and never steps back; it is read once nobody else can change these
    /// windows, so that what another thread counted a moment ago never lies in the future. `quota` says how much
    /// this store admits of a limit, if it asks it at all. `None` where a window would have to be remembered and there is no room: forgetting another
    /// would admit too much there.
    #[must_use]
    pub fn admit(
        &self,
        demands: &[Demand<'_>],
        keys: &Keys,
        clock: impl FnOnce() -> u64,
        quota: impl Fn(&Demand<'_>) -> Option<u64>,
    ) -> Option<Decision> {
        let mut hashes = [0; MOST_LIMITS];
        for (hash, key) in hashes.iter_mut().zip(keys.iter()) {
            *hash = self.hasher.hash_one(key);
        }
        let hashes = hashes.get(..demands.len())?;
        let mut locked = self.lock(hashes);
        let now = clock();
        let mut found = Decision::new(true, now);
        let mut new = 0;
        for ((demand, hash), key) in demands.iter().zip(hashes).zip(keys.iter()) {
            let rule = &demand.limit.rule;
            let Some(quota) = quota(demand) else {
                found.push(Standing::UNKNOWN);
                continue;
            };
            let standing = if let Some(kept) = locked.find(*hash, key) {
                kept.rule = *rule;
                kept.window.advance(rule, now);
                kept.window.standing(rule, quota, demand.cost, now)
            } else {
                new += 1;
                Window::default().standing(rule, quota, demand.cost, now)
            };
            found.admitted &= !(standing.full && demand.is_enforced());
            found.push(standing);
        }
        if !found.admitted {
            return Some(found);
        }
        if new > 0 {
            let before = self.windows.fetch_add(new, Ordering::Relaxed);
            if before + new > self.max_windows {
                self.windows.fetch_sub(new, Ordering::Relaxed);
                return None;
            }
        }
        let mut unused = 0;
        for (index, ((demand, hash), key)) in demands.iter().zip(hashes).zip(keys.iter()).enumerate() {
            let rule = demand.limit.rule;
            let Some(standing) = found.standings_mut().get_mut(index).filter(|standing| standing.is_known()) else {
                continue;
            };
            if standing.full {
                // Only tried out, and full.
                unused += usize::from(locked.find(*hash, key).is_none());
                continue;
            }
            let Some(shard) = locked.shard(*hash) else { continue };
            let entry = shard.entry(*hash, |kept| *kept.key == *key, |kept| kept.hash);
            let fresh = || Kept { key: key.into(), hash: *hash, window: Window::default(), rule };
            let kept = entry.or_insert_with(fresh).into_mut();
            kept.window.record(&rule, demand.cost, now);
            *standing = Standing { full: false, ..kept.window.standing(&rule, u64::MAX, 0, now) };
        }
        self.windows.fetch_sub(unused, Ordering::Relaxed);
        Some(found)
    }

    /// Gives back, or charges beyond all quotas.
    pub fn settle(&self, key: &[u8], rule: &Rule, change: Change, clock: impl FnOnce() -> u64) {
        let hash = self.hasher.hash_one(key);
        let mut locked = self.lock(&[hash]);
        let now = clock();
        // A window that was forgotten meanwhile has nothing to give back; a charge begins it anew.
        if matches!(change, Change::Charge { .. }) && locked.find(hash, key).is_none() {
            if self.windows.fetch_add(1, Ordering::Relaxed) >= self.max_windows {
                self.windows.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            if let Some(shard) = locked.shard(hash) {
                let fresh = Kept { key: key.into(), hash, window: Window::default(), rule: *rule };
                shard.insert_unique(hash, fresh, |kept| kept.hash);
            }
        }
        let Some(kept) = locked.find(hash, key) else { return };
        kept.window.advance(rule, now);
        match change {
            Change::GiveBack { units, at } => kept.window.give_back(rule, units, at),
            Change::Charge { units } => kept.window.record(rule, units, now),
        }
    }

    /// Forgets windows that hold nothing any more. To be called now and then.
    pub fn sweep(&self, clock: impl Fn() -> u64) {
        self.retain(|kept| {
            kept.window.advance(&kept.rule, clock());
            !kept.window.is_empty()
        });
    }

    fn retain(&self, mut keep: impl FnMut(&mut Kept) -> bool) -> usize {
        let mut sum = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(&mut keep);
            let gone = before - shard.len();
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit(|kept| kept.hash);
            }
            self.windows.fetch_sub(gone, Ordering::Relaxed);
            sum += gone;
        }
        sum
    }

    /// The windows whose names hold `part`: name, how it counts, and where it stands.
    #[must_use]
    pub fn show(&self, part: &[u8], clock: impl Fn() -> u64) -> Vec<(Vec<u8>, Standing)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let now = clock();
            for kept in shard.iter_mut().filter(|kept| holds(&kept.key, part)) {
                kept.window.advance(&kept.rule, now);
                if !kept.window.is_empty() {
                    found.push((kept.key.to_vec(), kept.window.standing(&kept.rule, u64::MAX, 0, now)));
                }
            }
        }
        found
    }

    /// Forgets the windows whose names hold `part`; gives back how many there were.
    pub fn reset(&self, part: &[u8]) -> usize {
        self.retain(|kept| !holds(&kept.key, part))
    }
}

/// What becomes of units that were counted before all was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// So many are given back of those counted then.
    GiveBack {
        /// Units.
        units: u64,
        /// The store's time, in microseconds.
        at: u64,
    },
    /// So many more are counted.
    Charge {
        /// Units.
        units: u64,
    },
}

/// Whether a name has a part that ends where a name's parts do.
pub(super) fn holds(key: &[u8], part: &[u8]) -> bool {
    let ends = |at: usize| key.get(at).is_none_or(|&octet| octet == b':');
    part.is_empty() || memchr::memmem::find_iter(key, part).any(|at| ends(at + part.len()))
}
