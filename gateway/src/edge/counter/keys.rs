//! The names of the windows that one request is counted in.

use crate::policy::limit::scope::Subject;
use crate::policy::limit::{Demand, MOST_LIMITS};

/// One name for each limit, in their order, in one piece of memory.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    octets: Vec<u8>,
    ends: [usize; MOST_LIMITS],
    count: usize,
}

impl Keys {
    /// The names of a subject's windows.
    #[must_use]
    pub fn new(demands: &[Demand<'_>], subject: &Subject<'_>) -> Self {
        let mut keys = Self { octets: Vec::with_capacity(64 * demands.len()), ..Self::default() };
        for (demand, end) in demands.iter().zip(&mut keys.ends) {
            demand.limit.write_key(subject, &mut keys.octets);
            *end = keys.octets.len();
            keys.count += 1;
        }
        keys
    }

    /// The name at a position.
    #[must_use]
    pub fn at(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(0);
        self.octets.get(begin..end).unwrap_or_default()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.count).map(|index| self.at(index))
    }
}
