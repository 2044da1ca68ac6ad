//! When a limit admitted, by Redis's own record: the entries of a window's key, put together from many looks at it.

use std::collections::BTreeMap;

/// Units by the microsecond in which they were admitted.
#[derive(Clone, Debug, Default)]
pub struct Admissions(BTreeMap<u64, u64>);

/// The entries of a window's key whose sums are narrow: when, and how many units.
#[must_use]
pub fn entries(key: &[u8]) -> Vec<(u64, u64)> {
    let number = |octets: &[u8]| octets.iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
    let Some((head, entries)) = key.split_at_checked(2) else { return Vec::new() };
    let mut before = number(head);
    let entry = |entry: &[u8]| {
        let (time, sum) = entry.split_at(6);
        let sum = number(sum);
        (number(time), sum.wrapping_sub(std::mem::replace(&mut before, sum)) & 0xffff)
    };
    entries.chunks_exact(8).map(entry).collect()
}

impl Admissions {
    /// Adds what the key holds now.
    pub fn add(&mut self, key: &[u8]) {
        for (time, units) in entries(key) {
            let known = self.0.entry(time).or_default();
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
