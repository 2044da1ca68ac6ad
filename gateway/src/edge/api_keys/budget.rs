//! How often Redis is asked for ids that have no key: so often in a second and no more, whoever sends how many.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::AddressBucket;

/// In each second, for all clients together.
pub(super) const MOST: u32 = 1000;
/// In each second, for one client's address.
pub(super) const MOST_OF_ADDRESS: u32 = 100;
/// Where addresses are counted; those that fall on the same place share it.
const PLACES: usize = 1024;

/// The looks of this second. One counter holds the second in its upper half and the looks in its lower.
#[derive(Debug)]
pub(super) struct Budget {
    all: AtomicU64,
    addresses: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Budget {
    fn default() -> Self {
        let addresses = (0..PLACES).map(|_| AtomicU64::default()).collect();
        Self { all: AtomicU64::default(), addresses, hasher: RandomState::new() }
    }
}

impl Budget {
    fn place(&self, address: IpAddr) -> &AtomicU64 {
        let hash = self.hasher.hash_one(AddressBucket::of(address));
        let index = usize::try_from(hash % PLACES as u64).unwrap_or_default();
        self.addresses.get(index).unwrap_or(&self.all)
    }

    /// Takes one look, if there is one left.
    pub(super) fn take(&self, address: IpAddr, second: u32) -> bool {
        take(self.place(address), second, MOST_OF_ADDRESS) && take(&self.all, second, MOST)
    }

    /// Gives one back: there was a key.
    pub(super) fn give_back(&self, address: IpAddr, second: u32) {
        for counter in [self.place(address), &self.all] {
            let less = |now: u64| (now >> 32 == u64::from(second) && now & u64::from(u32::MAX) > 0).then(|| now - 1);
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

fn take(counter: &AtomicU64, second: u32, most: u32) -> bool {
    let more = |now: u64| {
        let used = if now >> 32 == u64::from(second) { now & u64::from(u32::MAX) } else { 0 };
        (used < most.into()).then_some(u64::from(second) << 32 | (used + 1))
    };
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn nobody_takes_more_than_is_there() {
        let budget = Budget::default();
        let taken = (0..10_000).filter(|_| budget.take(address(1), 5)).count();
        assert_eq!(taken, 100, "of one address");
        budget.give_back(address(1), 5);
        assert!(budget.take(address(1), 5) && !budget.take(address(1), 5));
        let taken = (2..100_000).filter(|number| budget.take(address(*number), 5)).count();
        assert_eq!(taken, 900, "of all");
        assert!(budget.take(address(1), 6), "in the next second");
        budget.give_back(address(1), 5);
    }
}
