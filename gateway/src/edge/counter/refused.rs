//! Refusals that are remembered, so that a flood from a limited client asks the store for nothing.
//!
//! In a sliding window that only admissions fill, nothing makes room sooner than the time at which the oldest
//! entries leave: whatever else is admitted meanwhile only comes behind them. So until `retry` has passed, a request
//! that costs as much or more is refused, whoever is asked. That is exact for limits whose units never come back
//! ([`Limit::may_return`] is false); others are not remembered. What is said of when to come again is exact for
//! costs that were refused themselves, if no other gateway has admitted cheaper ones since; where a caller has shown [`MOST_COSTS`] of them, a further one that is dearer is
//! refused with what stands for the next cheaper one, which may be too early. Two things can make room sooner: an operator who
//! resets a window or empties Redis, and a new policy. Nothing is remembered for longer than [`LONGEST`] for their
//! sake, and a new policy begins with an empty table.
//!
//! [`Limit::may_return`]: crate::policy::limit::Limit::may_return

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::keys::Keys;
use crate::policy::limit::window::Standing;
use crate::policy::limit::{Decision, Demand, MOST_LIMITS};

/// For how long a refusal is remembered at most.
const LONGEST: Duration = Duration::from_mins(1);
/// How many windows are remembered as full.
const MOST: usize = 1 << 16;
/// How many costs are remembered of one window.
const MOST_COSTS: usize = 4;
const SHARDS: usize = 16;

struct Refused {
    since: Instant,
    until: Instant,
    cost: u64,
    quota: u64,
    standing: Standing,
    /// Where the request's other limits stood then: their positions in the policy.
    others: Box<[(usize, Standing)]>,
}

impl Refused {
    /// What stands for a request of this cost among what is remembered of its window.
    fn find(all: &[Self], cost: u64, quota: u64, now: Instant) -> Option<&Self> {
        let valid = || all.iter().filter(|it| now < it.until && quota <= it.quota && it.cost <= cost);
        let cheaper = || valid().max_by_key(|it| it.cost).filter(|_| all.len() >= MOST_COSTS);
        valid().find(|it| it.cost == cost).or_else(cheaper)
    }

    /// Adds a refusal to what is remembered of its window.
    fn add(self, all: &mut Vec<Self>, now: Instant) {
        all.retain(|it| now < it.until && (it.cost, it.quota) != (self.cost, self.quota));
        if all.len() >= MOST_COSTS
            && let Some(dearest) = (0..all.len()).max_by_key(|index| all.get(*index).map(|it| it.cost))
        {
            all.swap_remove(dearest);
        }
        all.push(self);
    }
}

type Shard = Mutex<HashMap<Box<[u8]>, Vec<Refused>>>;

/// The table, shared by all threads.
pub(super) struct RefusedTable {
    hasher: RandomState,
    shards: [Shard; SHARDS],
    count: AtomicUsize,
}

impl Default for RefusedTable {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: Default::default(), count: AtomicUsize::new(0) }
    }
}

impl RefusedTable {
    fn shard(&self, key: &[u8]) -> Option<&Shard> {
        self.shards.get(usize::try_from(self.hasher.hash_one(key)).unwrap_or(0) % SHARDS)
    }

    /// What is known without the store: which limits are full, if any that is enforced is, and where the others
    /// stood. The positions are those of the demands.
    pub(super) fn find(&self, demands: &[Demand<'_>], keys: &Keys) -> Option<[Option<Standing>; MOST_LIMITS]> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = Instant::now();
        let mut known = [None; MOST_LIMITS];
        let mut is_refused = false;
        let mut guesses: [Option<Standing>; MOST_LIMITS] = [None; MOST_LIMITS];
        for (index, (demand, key)) in demands.iter().zip(keys.iter()).enumerate() {
            let shard = self.shard(key)?.lock().unwrap_or_else(PoisonError::into_inner);
            let found = shard.get(key).and_then(|all| Refused::find(all, demand.cost, demand.rate.quota, now));
            let Some(refused) = found else { continue };
            let passed = u64::try_from((now - refused.since).as_micros()).unwrap_or(u64::MAX);
            is_refused |= demand.is_enforced();
            *known.get_mut(index)? = Some(refused.standing.later(passed));
            for (other, guess) in demands.iter().zip(&mut guesses) {
                let stood = refused.others.iter().find(|(limit, _)| *limit == other.limit.index);
                *guess = guess.or(stood.map(|(_, standing)| Standing { full: false, ..standing.later(passed) }));
            }
        }
        for (known, guess) in known.iter_mut().zip(guesses) {
            *known = known.or(guess);
        }
        is_refused.then_some(known)
    }

    /// Remembers the limits that refused. `asked` is when the store was asked: what it said of the time left ran from
    /// then at the earliest, so that nobody is refused for the time that the answer took.
    pub(super) fn remember(&self, demands: &[Demand<'_>], keys: &Keys, decision: &Decision, asked: Instant) {
        for (index, (demand, standing)) in demands.iter().zip(decision.standings()).enumerate() {
            // A request that never has room says nothing about those that have.
            let lasts = standing.full && demand.cost <= demand.rate.quota && !demand.limit.may_return();
            if !lasts || self.count.load(Ordering::Relaxed) >= MOST {
                continue;
            }
            let others = demands.iter().zip(decision.standings()).enumerate().filter(|(other, _)| *other != index);
            let others = others.map(|(_, (demand, standing))| (demand.limit.index, *standing)).collect();
            let refused = Refused {
                since: asked,
                until: asked + Duration::from_micros(standing.retry).min(LONGEST),
                cost: demand.cost,
                quota: demand.rate.quota,
                standing: *standing,
                others,
            };
            let key = keys.at(index);
            let Some(shard) = self.shard(key) else { continue };
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(all) = shard.get_mut(key) {
                refused.add(all, asked);
            } else {
                shard.insert(key.into(), vec![refused]);
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Something cheaper was admitted by these windows: what was said of when to come again holds no more.
    pub(super) fn outdate(&self, keys: &Keys) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        for key in keys.iter() {
            let Some(shard) = self.shard(key) else { continue };
            if shard.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Forgets what has passed.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.retain(|_, all| all.iter().any(|refused| now < refused.until));
    }

    /// Forgets the windows that `gone` names.
    pub(super) fn forget(&self, gone: impl Fn(&[u8]) -> bool) {
        self.retain(|key, _| !gone(key));
    }

    fn retain(&self, keep: impl Fn(&[u8], &[Refused]) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = shard.len();
            shard.retain(|key, all| keep(key, all));
            self.count.fetch_sub(before - shard.len(), Ordering::Relaxed);
            if shard.capacity() > 4 * shard.len() + 64 {
                shard.shrink_to_fit();
            }
        }
    }
}
