//! Fetching one key that is not known: once for all who wait for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cache::Known;
use super::{ApiKeys, FRESH, SharedApiKeys, StoreLost};
use crate::edge::counter::octets;
use crate::policy::authenticate::api_key::{Malformed, Record, StoredKey};
use crate::types::Timestamp;

/// How often a key is fetched that is changed meanwhile.
const MOST_ATTEMPTS: usize = 3;

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Fetching {
    /// Closed when it has ended.
    ended: Semaphore,
    /// Whether the key was changed since it began.
    outdated: AtomicBool,
    failed: AtomicBool,
}

impl Fetching {
    fn new() -> Self {
        Self { ended: Semaphore::new(0), outdated: AtomicBool::new(false), failed: AtomicBool::new(false) }
    }

    pub(super) fn outdate(&self) {
        self.outdated.store(true, Ordering::Release);
    }
}

/// Ends a fetch, also where whoever asked has gone.
struct Turn<'a> {
    shared: &'a SharedApiKeys,
    id: &'a str,
    fetching: Arc<Fetching>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.shared.fetching().remove(self.id);
        self.fetching.ended.close();
    }
}

/// What came of a fetch: whatever there was is known now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// All is well.
    Known,
    /// There is a record that can't be read, so there is no key.
    Malformed(Malformed),
}

impl ApiKeys {
    /// Fetches what is kept under an id, for a client at an address; it is known afterwards.
    ///
    /// # Errors
    /// [`StoreLost`], also where too many ids without a key were asked for in this second.
    pub async fn fetch(&self, id: &str, address: IpAddr, now: Timestamp) -> Result<Fetched, StoreLost> {
        let shared = &*self.shared;
        if shared.is_lost() {
            return Err(StoreLost);
        }
        let patience = shared.store.patience();
        let turn = {
            let mut fetching = shared.fetching();
            if let Some(others) = fetching.get(id) {
                Err(Arc::clone(others))
            } else {
                let own = Arc::new(Fetching::new());
                fetching.insert(id.into(), Arc::clone(&own));
                Ok(Turn { shared, id, fetching: own })
            }
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(others) => {
                // It is closed, never given.
                let _ = timeout(patience * 2, others.ended.acquire()).await.map_err(|_| StoreLost)?;
                return if others.failed.load(Ordering::Acquire) { Err(StoreLost) } else { Ok(Fetched::Known) };
            }
        };
        let fetched = self.fetch_in_turn(&turn, address, now).await;
        if fetched.is_err() {
            turn.fetching.failed.store(true, Ordering::Release);
            // Under the lock under which it would be outdated.
            let _fetching = shared.fetching();
            let was_changed = turn.fetching.outdated.load(Ordering::Acquire);
            if let Some(Known::Key(key, _)) = shared.cache.find(id).filter(|_| !was_changed) {
                // What is known serves on, and is asked for again in a second.
                let age = u64::try_from(FRESH.as_millis()).unwrap_or(u64::MAX) - 1000;
                shared.cache.keep(id, key, shared.millis().saturating_sub(age));
                return Ok(Fetched::Known);
            }
        }
        fetched
    }

    async fn fetch_in_turn(&self, turn: &Turn<'_>, address: IpAddr, now: Timestamp) -> Result<Fetched, StoreLost> {
        let shared = &*self.shared;
        let patience = shared.store.patience();
        let _place = timeout(patience, shared.room.acquire()).await.map_err(|_| StoreLost)?.map_err(|_| StoreLost)?;
        let second = u32::try_from(now.secs()).unwrap_or(u32::MAX);
        let is_counted = !shared.cache.is_changed(turn.id);
        if is_counted && !shared.budget.take(address, second) {
            return Err(StoreLost);
        }
        let mut get = redis::cmd("GET");
        get.arg(shared.record_key(turn.id));
        for _ in 0..MOST_ATTEMPTS {
            turn.fetching.outdated.store(false, Ordering::Release);
            let answer = self.caller.call(&get).await.map_err(|_| StoreLost)?;
            let record = octets(&answer).map(|bytes| Record::read(&bytes));
            // Whoever changes the key waits for this lock before it forgets what is known.
            let fetching = shared.fetching();
            if turn.fetching.outdated.load(Ordering::Acquire) {
                continue;
            }
            let fetched = match record {
                Some(Ok(record)) => {
                    if is_counted {
                        shared.budget.give_back(address, second);
                    }
                    shared.cache.keep(turn.id, Arc::new(StoredKey::new(record)), shared.millis());
                    Fetched::Known
                }
                Some(Err(why)) => {
                    shared.cache.keep_absent(turn.id, shared.millis());
                    Fetched::Malformed(why)
                }
                None => {
                    shared.cache.keep_absent(turn.id, shared.millis());
                    Fetched::Known
                }
            };
            drop(fetching);
            return Ok(fetched);
        }
        Err(StoreLost)
    }
}
