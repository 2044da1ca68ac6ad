//! What was used once and may not be used again, in this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::StoreLost;
use super::moment::Moment;
use crate::policy::authenticate::once::Once;

/// The most that are remembered. Whoever adds one has proven who they are.
const MOST: usize = 262_144;
/// How many are added before those that have ended are looked for.
const SWEEP_EVERY: usize = 4096;

#[derive(Default)]
struct Taken {
    until: HashMap<[u8; 32], Moment>,
    since_sweep: usize,
}

/// Bounded, and everything in it ends.
#[derive(Default)]
pub(super) struct Spent(Mutex<Taken>);

impl Spent {
    /// Takes one; says whether it was free.
    pub(super) fn take(&self, once: &Once, now: Moment) -> Result<bool, StoreLost> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.since_sweep += 1;
        if taken.since_sweep > SWEEP_EVERY {
            taken.since_sweep = 0;
            taken.until.retain(|_, until| !until.is_over(now));
        }
        if taken.until.get(once.name.as_bytes()).is_some_and(|until| !until.is_over(now)) {
            return Ok(false);
        }
        if taken.until.len() >= MOST {
            return Err(StoreLost);
        }
        taken.until.insert(*once.name.as_bytes(), now.until(once.until));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Sha256, Timestamp};

    fn once(number: usize, until: u64) -> Once {
        Once { name: Sha256::of(&number.to_le_bytes()), until: Timestamp::from_secs(until) }
    }

    #[test]
    fn each_is_taken_once_and_all_are_forgotten_in_the_end() {
        let (spent, at) = (Spent::default(), Moment::at);
        assert_eq!(spent.take(&once(1, 200), at(100)), Ok(true));
        assert_eq!(spent.take(&once(1, 200), at(199)), Ok(false));
        assert_eq!(spent.take(&once(2, 200), at(199)), Ok(true));
        for number in 10..10 + 2 * SWEEP_EVERY {
            assert_eq!(spent.take(&once(number, 400), at(300)), Ok(true));
        }
        let taken = spent.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(taken.until.len(), 2 * SWEEP_EVERY, "the first two have ended");
    }

    #[test]
    fn without_room_nothing_is_taken() {
        let (spent, at) = (Spent::default(), Moment::at);
        for number in 0..MOST {
            assert_eq!(spent.take(&once(number, 200), at(100)), Ok(true));
        }
        assert_eq!(spent.take(&once(MOST, 200), at(100)), Err(StoreLost));
        assert_eq!(spent.take(&once(0, 200), at(100)), Ok(false));
    }

    #[test]
    fn a_clock_that_is_set_forward_and_back_makes_nothing_free() {
        let (spent, at) = (Spent::default(), Moment::at);
        assert_eq!(spent.take(&once(1, 200), at(100)), Ok(true));
        let ahead = Moment { wall: Timestamp::from_secs(100_000), ..at(101) };
        for number in 10..10 + 2 * SWEEP_EVERY {
            assert_eq!(spent.take(&once(number, 200_000), ahead), Ok(true));
        }
        assert_eq!(spent.take(&once(1, 200), at(102)), Ok(false));
    }
}
