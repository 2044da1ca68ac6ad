//! How many requests may be in flight at once: one more is turned away immediately, never made to wait.
//!
//! A prediction costs microseconds, so a waiting line would hold callers that are slow to send, not work that is slow
//! to do; the gateway can try elsewhere or tell its client at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The right to have one request in flight; given back when dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A bounded number of places.
#[derive(Debug, Clone)]
pub struct Gate {
    places: Arc<Semaphore>,
}

impl Gate {
    /// A gate with `places` places.
    #[must_use]
    pub fn new(places: u32) -> Self {
        let places = usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)) }
    }

    /// A place, or `None` when all are taken.
    #[must_use]
    pub fn enter(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_gate_turns_away_and_a_freed_place_is_usable_again() {
        let gate = Gate::new(2);
        let first = gate.enter();
        let second = gate.enter();
        assert!(first.is_some() && second.is_some());
        assert!(gate.enter().is_none());
        drop(first);
        assert!(gate.enter().is_some());
    }
}
