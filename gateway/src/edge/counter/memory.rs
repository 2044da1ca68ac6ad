//! Windows in this process, shared by all threads.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::keys::Keys;
use crate::policy::limit::window::{Rule, Standing, Window};
use crate::policy::limit::{Decision, Demand, MOST_LIMITS};

/// Separate locks.
pub(super) const SHARDS: usize = 64;

/// A window and how it counts.
struct Kept {
    window: Window,
    rule: Rule,
}

type Shard = HashMap<Box<[u8]>, Kept>;

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
    fn shard(&mut self, index: usize) -> Option<&mut Shard> {
        let mut held = self.shards.iter_mut().flatten();
        held.find(|(held, _)| *held == index).map(|(_, shard)| &mut **shard)
    }
}

impl MemoryStore {
    /// An empty store for at most `max_windows` windows.
    #[must_use]
    pub fn new(max_windows: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::new(), shards, windows: AtomicUsize::new(0), max_windows }
    }

    fn place(&self, key: &[u8]) -> usize {
        usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS
    }

    fn lock(&self, places: &[usize]) -> Locked<'_> {
        let mut order: [usize; MOST_LIMITS] = [SHARDS; MOST_LIMITS];
        for (slot, place) in order.iter_mut().zip(places) {
            *slot = *place;
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
        let mut places = [0; MOST_LIMITS];
        for (place, key) in places.iter_mut().zip(keys.iter()) {
            *place = self.place(key);
        }
        let places = places.get(..demands.len())?;
        let mut locked = self.lock(places);
        let now = clock();
        let mut found = Decision::new(true, now);
        let mut new = 0;
        for ((demand, place), key) in demands.iter().zip(places).zip(keys.iter()) {
            let rule = &demand.limit.rule;
            let Some(quota) = quota(demand) else {
                found.push(Standing::UNKNOWN);
                continue;
            };
            let kept = locked.shard(*place).and_then(|shard| shard.get_mut(key));
            let standing = if let Some(kept) = kept {
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
        for (index, ((demand, place), key)) in demands.iter().zip(places).zip(keys.iter()).enumerate() {
            let rule = demand.limit.rule;
            let (Some(shard), Some(standing)) = (locked.shard(*place), found.standings_mut().get_mut(index)) else {
                continue;
            };
            if quota(demand).is_none() {
                continue;
            }
            if standing.full {
                // Only tried out, and full.
                unused += usize::from(!shard.contains_key(key));
                continue;
            }
            let kept = match shard.get_mut(key) {
                Some(kept) => kept,
                None => shard.entry(key.into()).or_insert_with(|| Kept { window: Window::default(), rule }),
            };
            kept.window.record(&rule, demand.cost, now);
            *standing = Standing { full: false, ..kept.window.standing(&rule, u64::MAX, 0, now) };
        }
        self.windows.fetch_sub(unused, Ordering::Relaxed);
        Some(found)
    }

    /// Gives back, or charges beyond all quotas.
    pub fn settle(&self, key: &[u8], rule: &Rule, change: Change, clock: impl FnOnce() -> u64) {
        let place = self.place(key);
        let mut locked = self.lock(&[place]);
        let now = clock();
        let Some(kept) = locked.shard(place).and_then(|shard| shard.get_mut(key)) else { return };
        kept.window.advance(rule, now);
        match change {
            Change::GiveBack { units, at } => kept.window.give_back(rule, units, at),
            Change::Charge { units } => kept.window.record(rule, units, now),
        }
    }

    /// Forgets windows that hold nothing any more. To be called now and then.
    pub fn sweep(&self, clock: impl Fn() -> u64) {
        self.retain(|_, kept| {
            kept.window.advance(&kept.rule, clock());
            !kept.window.is_empty()
        });
    }

    fn retain(&self, mut keep: impl FnMut(&[u8], &mut Kept) -> bool) -> usize {
        let mut sum = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|key, kept| keep(key, kept));
            let gone = before - shard.len();
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit();
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
            for (key, kept) in shard.iter_mut().filter(|(key, _)| holds(key, part)) {
                kept.window.advance(&kept.rule, now);
                if !kept.window.is_empty() {
                    found.push((key.to_vec(), kept.window.standing(&kept.rule, u64::MAX, 0, now)));
                }
            }
        }
        found
    }

    /// Forgets the windows whose names hold `part`; gives back how many there were.
    pub fn reset(&self, part: &[u8]) -> usize {
        self.retain(|key, _| !holds(key, part))
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
