//! When a limit admitted, by Redis's own record: the entries of a window's key, put together from many looks at it.

use std::collections::BTreeMap;

/// Octets of an entry, its time, and what stands before the first: those of a window whose sums are narrow.
const ENTRY: usize = 8;
const TIME: usize = 6;
const HEAD: usize = 2;

/// Units by the microsecond in which they were admitted.
#[derive(Clone, Debug, Default)]
pub struct Admissions(BTreeMap<u64, u64>);

fn number(octets: &[u8]) -> u64 {
    octets.iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet))
}

impl Admissions {
    /// Adds what the key holds now.
    pub fn add(&mut self, key: &[u8]) {
        let Some((head, entries)) = key.split_at_checked(HEAD) else { return };
        let mut before = number(head);
        for entry in entries.chunks_exact(ENTRY) {
            let (time, sum) = entry.split_at(TIME);
            let sum = number(sum);
            let units = sum.wrapping_sub(before) & 0xffff;
            before = sum;
            let known = self.0.entry(number(time)).or_default();
            *known = units.max(*known);
        }
    }

    /// All units.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The units within so many microseconds of the first.
    #[must_use]
    pub fn within(&self, micros: u64) -> u64 {
        let Some((first, _)) = self.0.first_key_value() else { return 0 };
        self.0.range(..first + micros).map(|(_, units)| units).sum()
    }

    /// The most units that any window of this length holds, in microseconds.
    #[must_use]
    pub fn most(&self, window: u64) -> u64 {
        let (mut most, mut held) = (0, 0);
        let mut oldest = self.0.iter().peekable();
        for (time, units) in &self.0 {
            held += units;
            while let Some((_, gone)) = oldest.next_if(|(at, _)| **at + window <= *time) {
                held -= gone;
            }
            most = most.max(held);
        }
        most
    }
}
