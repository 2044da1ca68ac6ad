//! Requests that wait until their limit has room: first come, first served, for each window by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// Who waits for one window.
#[derive(Debug)]
pub(super) struct Gate {
    /// The one who asks the store; tokio's semaphore is fair.
    pub(super) turn: Semaphore,
    waiting: AtomicUsize,
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
    pub(super) fn join(&self, key: &[u8], most: usize) -> Option<Waiting<'_>> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = if let Some(gate) = gates.get(key) {
            Arc::clone(gate)
        } else {
            let gate = Arc::new(Gate { turn: Semaphore::new(1), waiting: AtomicUsize::new(0) });
            gates.insert(key.into(), Arc::clone(&gate));
            gate
        };
        if gate.waiting.load(Ordering::Relaxed) >= most {
            return None;
        }
        gate.waiting.fetch_add(1, Ordering::Relaxed);
        drop(gates);
        Some(Waiting { held: self, key: key.into(), gate })
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
