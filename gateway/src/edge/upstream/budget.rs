//! How often a request that did not reach one worker may be brought to another.
//!
//! A pool that is going down must not get more work because of it: what is tried again is a share of what is asked,
//! and a few each second beside it, so that a pool with little to do can try again too.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// What one more try costs, in the unit that requests bring in.
const TRY: u32 = 100;
/// The most that can be saved up: so many tries at once.
const MOST: u32 = 32 * TRY;

/// The tries of one pool on one thread.
#[derive(Debug)]
pub(super) struct Budget {
    /// How many in a hundred requests may be tried again.
    share: u32,
    /// How many each second beside them.
    floor: u32,
    left: Cell<u32>,
    second: Cell<Option<Instant>>,
    used: Cell<u32>,
}

impl Budget {
    pub(super) fn new(share: u32, floor: u32) -> Self {
        Self { share, floor, left: Cell::new(0), second: Cell::new(None), used: Cell::new(0) }
    }

    /// A request came.
    pub(super) fn earn(&self) {
        self.left.set((self.left.get() + self.share).min(MOST));
    }

    /// Whether one may be tried again now; if so, it is paid for.
    pub(super) fn spend(&self, now: Instant) -> bool {
        if let Some(left) = self.left.get().checked_sub(TRY) {
            self.left.set(left);
            return true;
        }
        if self.second.get().is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second.set(Some(now));
            self.used.set(0);
        }
        let is_within = self.used.get() < self.floor;
        self.used.set(self.used.get() + u32::from(is_within));
        is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_is_asked_and_a_few_each_second() {
        let budget = Budget::new(20, 2);
        let now = Instant::now();
        assert_eq!([(); 3].map(|()| budget.spend(now)), [true, true, false], "the floor alone");
        for _ in 0..10 {
            budget.earn();
        }
        assert_eq!([(); 3].map(|()| budget.spend(now)), [true, true, false], "a fifth of ten");
        let later = now + Duration::from_secs(1);
        assert_eq!([(); 3].map(|()| budget.spend(later)), [true, true, false], "another second");
        for _ in 0..1_000_000 {
            budget.earn();
        }
        let tries = (0..1000).filter(|_| budget.spend(later)).count();
        assert_eq!(tries, 32, "what is saved up is bounded");
        assert!(!Budget::new(0, 0).spend(now));
    }
}
