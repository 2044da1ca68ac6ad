//! Requests that wait until their limit has room: first come, first served, for each window by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::policy::limit::window::Standing;

/// Who waits for one window.
#[derive(Debug)]
pub(super) struct Gate {
    /// The one who asks the store; tokio's semaphore is fair.
    pub(super) turn: Semaphore,
    waiting: AtomicUsize,
    /// When the window was seen to be full last, and how.
    full: Mutex<(Instant, Standing)>,
}

impl Gate {
    /// Notes that the window is full.
    pub(super) fn note(&self, standing: Standing) {
        *self.full.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), standing);
    }

    /// How the window stands, as far as those who wait know. Who may not wait, or no longer, is told that and does
    /// not ask the store: being there when room is made, it would overtake those who wait for it.
    pub(super) fn standing(&self) -> Standing {
        let (at, standing) = *self.full.lock().unwrap_or_else(PoisonError::into_inner);
        standing.later(u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// All windows that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<Box<[u8]>, Arc<Gate>>>);

/// A place among those who wait; given back when it is dropped.
pub(super) struct Waiting<'a> {
    held: &'a Held,
    key: Box<[u8]>,
    pub(super) gate: Arc<Gate>,
}

impl Held {
    /// Whether somebody waits for the window.
    pub(super) fn is_waited_for(&self, key: &[u8]) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// Joins those who wait, if fewer than `most` do.
    ///
    /// # Errors
    /// How the window stands, where as many wait already.
    pub(super) fn join(&self, key: &[u8], most: usize) -> Result<Waiting<'_>, Standing> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = if let Some(gate) = gates.get(key) {
            Arc::clone(gate)
        } else {
            let gate = Arc::new(Gate {
                turn: Semaphore::new(1),
                waiting: AtomicUsize::new(0),
                full: Mutex::new((Instant::now(), Standing { full: true, ..Standing::UNKNOWN })),
            });
            gates.insert(key.into(), Arc::clone(&gate));
            gate
        };
        if gate.waiting.load(Ordering::Relaxed) >= most {
            return Err(gate.standing());
        }
        gate.waiting.fetch_add(1, Ordering::Relaxed);
        drop(gates);
        Ok(Waiting { held: self, key: key.into(), gate })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Under the lock, so that nobody joins a gate that is taken away.
        let mut gates = self.held.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.gate.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            gates.remove(&self.key);
        }
    }
}
