//! Requests in flight, counted in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::policy::limit::{Demand, MOST_LIMITS};

/// How many requests of each kind are being served.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashMap<Box<[u8]>, u64>>);

/// A request's places; they are given back when it is dropped.
#[derive(Debug)]
pub struct Places {
    all: Arc<InFlight>,
    keys: Vec<Box<[u8]>>,
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

impl InFlight {
    /// Takes a place of each limit, or of none where one that is enforced has none left. Gives back how many
    /// requests each has, this one with them if it has its places.
    ///
    /// # Errors
    /// The same numbers, where there is no place.
    pub(super) fn take(
        self: &Arc<Self>,
        demands: &[Demand<'_>],
        keys: impl Iterator<Item = Box<[u8]>>,
    ) -> Result<(Places, [u64; MOST_LIMITS]), [u64; MOST_LIMITS]> {
        let keys: Vec<Box<[u8]>> = keys.collect();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = [0; MOST_LIMITS];
        let mut has_room = true;
        for ((demand, key), used) in demands.iter().zip(&keys).zip(&mut used) {
            *used = counts.get(key).copied().unwrap_or(0);
            has_room &= *used < demand.rate.quota || !demand.is_enforced();
        }
        if !has_room {
            return Err(used);
        }
        for (key, used) in keys.iter().zip(&mut used) {
            *used += 1;
            match counts.get_mut(key) {
                Some(count) => *count += 1,
                None => drop(counts.insert(key.clone(), 1)),
            }
        }
        drop(counts);
        Ok((Places { all: Arc::clone(self), keys }, used))
    }
}
