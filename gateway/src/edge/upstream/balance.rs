//! Which worker of a pool gets a request.
//!
//! Pure but for a seed. `least_requests` draws two workers, each as often as its weight says, and takes the one with
//! fewer requests for its weight: close to the best choice, without looking at all of them (Mitzenmacher, "The Power
//! of Two Choices"). `hash` gives each principal an order of all workers (rendezvous hashing with weights, Thaler and
//! Ravishankar; Schindler's logarithm), so that a worker that comes or goes moves its own share and no other.

use std::cell::Cell;
use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState};

use crate::settings::Named;
use crate::types::Sha256;

/// How a pool's requests are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balance {
    LeastRequests,
    Hash,
}

impl Balance {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LeastRequests => "least_requests",
            Self::Hash => "hash",
        }
    }
}

impl Named for Balance {
    const SHAPE: &'static str = "\"least_requests\" or \"hash\"";
    const NAMES: &'static [(&'static str, Self)] = &[("least_requests", Self::LeastRequests), ("hash", Self::Hash)];
}

/// The workers that a request can't go to any more, by position.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u64);

impl Tried {
    /// How many workers one pool can have.
    pub(super) const MOST: usize = 64;

    pub(super) fn add(&mut self, position: usize) {
        self.0 |= 1 << position;
    }

    pub(super) fn has(self, position: usize) -> bool {
        self.0 & 1 << position != 0
    }
}

/// Where a worker stands on the way from a principal to its place; the same on every gateway.
pub(super) fn seed(url: &str) -> u64 {
    Sha256::of(url.as_bytes()).as_bytes().iter().take(8).fold(0, |seed, octet| seed << 8 | u64::from(*octet))
}

/// A principal, as `hash` sees it.
pub(super) fn key(of: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators".
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The worker that comes first for a key, among those that are open. Of each: seed and weight.
pub(super) fn first(
    key: u64,
    workers: impl Iterator<Item = (u64, u32)>,
    is_open: impl Fn(usize) -> bool,
) -> Option<usize> {
    let score = |seed: u64, weight: u32| {
        // Above 0 and below 1.
        #[expect(clippy::cast_precision_loss, reason = "53 of 64 bits are enough to tell workers apart")]
        let chance = ((mix(key ^ seed) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -f64::from(weight) / chance.ln()
    };
    let open = workers.enumerate().filter(|(position, _)| is_open(*position));
    let scored = open.map(|(position, (seed, weight))| (position, score(seed, weight)));
    scored.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(position, _)| position)
}

/// Draws workers, each as often as its weight says.
#[derive(Debug)]
pub(super) struct Draw {
    /// The weights up to and with each worker.
    sums: Box<[u32]>,
    state: Cell<u64>,
}

impl Draw {
    pub(super) fn new(weights: impl Iterator<Item = u32>) -> Self {
        let sums = weights.scan(0_u32, |sum, weight| {
            *sum = sum.saturating_add(weight);
            Some(*sum)
        });
        Self { sums: sums.collect(), state: Cell::new(RandomState::new().build_hasher().finish()) }
    }

    fn one(&self) -> usize {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let total = self.sums.last().copied().unwrap_or(1);
        // The upper half of a product: a number below the total (Lemire).
        let ticket = ((mix(state) >> 32) * u64::from(total)) >> 32;
        self.sums.iter().position(|sum| ticket < u64::from(*sum)).unwrap_or(0)
    }

    /// One that is open. Where the lot falls on closed ones again and again, the next that is open.
    fn open(&self, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        let mut drawn = 0;
        for _ in 0..4 {
            drawn = self.one();
            if is_open(drawn) {
                return Some(drawn);
            }
        }
        let count = self.sums.len();
        (drawn + 1..count).chain(0..drawn.min(count)).find(|position| is_open(*position))
    }

    /// Of two that are open, the one with less to do. `is_busier` says whether its first has more than its second.
    pub(super) fn two(
        &self,
        is_open: impl Fn(usize) -> bool,
        is_busier: impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        let first = self.open(&is_open)?;
        let second = self.open(|position| position != first && is_open(position));
        Some(second.filter(|second| is_busier(first, *second)).unwrap_or(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn draws_follow_the_weights() {
        let draw = Draw::new([1, 3].into_iter());
        let heavy = (0..40_000).filter(|_| draw.two(|_| true, |_, _| false) == Some(1)).count();
        assert!((29_000..31_000).contains(&heavy), "{heavy}");
    }

    #[test]
    fn a_single_open_worker_is_found_among_many() {
        let draw = Draw::new((0..64).map(|_| 1));
        for open in 0..64 {
            assert_eq!(draw.two(|position| position == open, |_, _| true), Some(open));
        }
        assert_eq!(draw.two(|_| false, |_, _| true), None);
    }

    #[test]
    fn the_one_with_less_to_do_is_taken() {
        let draw = Draw::new([1, 1].into_iter());
        for _ in 0..100 {
            assert_eq!(draw.two(|_| true, |first, _| first == 0), Some(1));
        }
    }

    fn order(key: u64, workers: &[(u64, u32)]) -> usize {
        first(key, workers.iter().copied(), |_| true).expect("there is one")
    }

    #[test]
    fn a_hash_follows_the_weights() {
        let workers = [(seed("http://a"), 1), (seed("http://b"), 3)];
        let heavy = (0..40_000).filter(|number| order(key(&format!("p{number}")), &workers) == 1).count();
        assert!((29_000..31_000).contains(&heavy), "{heavy}");
    }

    proptest! {
        #[test]
        fn a_worker_that_goes_moves_its_own_share_alone(
            key: u64,
            weights in prop::collection::vec(1_u32..100, 2..10),
            gone: prop::sample::Index,
        ) {
            let workers: Vec<_> =
                weights.iter().enumerate().map(|(number, weight)| (seed(&number.to_string()), *weight)).collect();
            let gone = gone.index(workers.len());
            let before = order(key, &workers);
            let after = first(key, workers.iter().copied(), |position| position != gone).expect("others are left");
            prop_assert_eq!(after == before, before != gone);
        }
    }
}
