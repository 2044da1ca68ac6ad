//! Times until which something must be remembered, whatever becomes of the machine's clock.
//!
//! A clock that is set forward ends nothing: what was forgotten then would be good again when it is set back.

use std::time::{Duration, Instant};

use crate::types::Timestamp;

/// One time, by the wall clock and by the one that is never set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) steady: Instant,
}

impl Moment {
    /// Now, where the wall clock says this.
    pub(super) fn now(wall: Timestamp) -> Self {
        Self { wall, steady: Instant::now() }
    }

    /// A time later than this, by both.
    pub(super) fn until(self, wall: Timestamp) -> Self {
        let left = Duration::from_micros(wall.micros().saturating_sub(self.wall.micros()));
        Self { wall, steady: self.steady.checked_add(left).unwrap_or(self.steady) }
    }

    /// Whether it is there, by both.
    pub(super) fn is_over(self, now: Self) -> bool {
        self.wall <= now.wall && self.steady <= now.steady
    }

    #[cfg(test)]
    pub(super) fn at(secs: u64) -> Self {
        static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        Self { wall: Timestamp::from_secs(secs), steady: *BEGIN + Duration::from_secs(secs) }
    }
}
