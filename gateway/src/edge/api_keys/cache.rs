//! What this process knows of keys in Redis: bounded, and read under a lock that readers share.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::policy::authenticate::api_key::StoredKey;

/// Parts, each with a lock of its own.
const SHARDS: usize = 64;
/// How many ids that have no key are remembered.
const MOST_ABSENT: usize = 16_384;
/// How many ids that were changed are remembered, beside keys that there were.
const MOST_CHANGED: usize = 65_536;

/// A key, and when it was fetched.
#[derive(Clone, Debug)]
struct Kept {
    key: Arc<StoredKey>,
    /// Milliseconds since the process began.
    at: u64,
}

/// Two generations: when the younger is full the older is dropped, so that what is used stays.
#[derive(Debug, Default)]
struct Shard {
    young: HashMap<Box<str>, Kept>,
    old: HashMap<Box<str>, Kept>,
    /// Ids that have no key, and when that was found.
    absent: HashMap<Box<str>, u64>,
    /// Ids that had a key or were changed, and are to be fetched again.
    changed: HashSet<Box<str>>,
}

/// Keys by id.
#[derive(Debug)]
pub(super) struct Cache {
    shards: [RwLock<Shard>; SHARDS],
    hasher: RandomState,
    /// How many keys may be remembered.
    most: AtomicUsize,
}

/// What is known of an id, and since when.
pub(super) enum Known {
    Key(Arc<StoredKey>, u64),
    Absent(u64),
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: RandomState::new(),
            most: AtomicUsize::new(SHARDS),
        }
    }
}

impl Cache {
    /// How many keys may be remembered from now on.
    pub(super) fn allow(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many keys one generation of a shard may have.
    fn generation(&self) -> usize {
        (self.most.load(Ordering::Relaxed) / SHARDS / 2).max(1)
    }

    fn shard(&self, id: &str) -> &RwLock<Shard> {
        let [first, ..] = &self.shards;
        let index = usize::try_from(self.hasher.hash_one(id) % SHARDS as u64).unwrap_or_default();
        self.shards.get(index).unwrap_or(first)
    }

    /// What is known of an id.
    pub(super) fn find(&self, id: &str) -> Option<Known> {
        let shard = self.shard(id);
        let known = read(shard);
        if let Some(kept) = known.young.get(id) {
            return Some(Known::Key(Arc::clone(&kept.key), kept.at));
        }
        if !known.old.contains_key(id) {
            return known.absent.get(id).map(|at| Known::Absent(*at));
        }
        drop(known);
        let mut shard = write(shard);
        let kept = shard.old.remove(id)?;
        let found = Known::Key(Arc::clone(&kept.key), kept.at);
        shard.insert(id, kept, self.generation());
        Some(found)
    }

    /// Remembers a key.
    pub(super) fn keep(&self, id: &str, key: Arc<StoredKey>, at: u64) {
        let mut shard = write(self.shard(id));
        shard.forget(id);
        shard.insert(id, Kept { key, at }, self.generation());
    }

    /// Remembers that there is none.
    pub(super) fn keep_absent(&self, id: &str, at: u64) {
        let mut shard = write(self.shard(id));
        shard.forget(id);
        if shard.absent.len() >= MOST_ABSENT / SHARDS {
            shard.absent.clear();
        }
        shard.absent.insert(id.into(), at);
    }

    /// Forgets what is known of an id that was changed.
    pub(super) fn outdate(&self, id: &str) {
        let mut shard = write(self.shard(id));
        shard.forget(id);
        if shard.changed.len() >= MOST_CHANGED / SHARDS {
            shard.changed.clear();
        }
        shard.changed.insert(id.into());
    }

    /// Forgets everything but that there were these keys.
    pub(super) fn outdate_all(&self) {
        for shard in &self.shards {
            let mut shard = write(shard);
            let known = std::mem::take(&mut *shard);
            shard.changed = known.young.into_keys().chain(known.old.into_keys()).collect();
        }
    }

    /// Whether there was a key of this id, or somebody has changed it: no stranger made the id up.
    pub(super) fn is_changed(&self, id: &str) -> bool {
        read(self.shard(id)).changed.contains(id)
    }

    /// How many keys, and how many ids without one, are remembered.
    pub(super) fn len(&self) -> (usize, usize) {
        let sizes = self.shards.iter().map(|shard| {
            let shard = read(shard);
            (shard.young.len() + shard.old.len(), shard.absent.len())
        });
        sizes.fold((0, 0), |(keys, absent), (more, less)| (keys + more, absent + less))
    }
}

impl Shard {
    fn insert(&mut self, id: &str, kept: Kept, generation: usize) {
        if self.young.len() >= generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.into(), kept);
    }

    fn forget(&mut self, id: &str) {
        self.young.remove(id);
        self.old.remove(id);
        self.absent.remove(id);
        self.changed.remove(id);
    }
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::authenticate::api_key::Record;
    use crate::types::{Sha256, Timestamp};

    fn key() -> Arc<StoredKey> {
        let asked = format!("{{\"digest\":\"{}\",\"owner\":\"a\"}}", Sha256::of(b"x"));
        Arc::new(StoredKey::new(Record::new(asked.as_bytes(), Timestamp::from_secs(1)).expect("a record")))
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let (cache, key, most) = (Cache::default(), key(), 2048);
        cache.allow(most);
        cache.keep("used", Arc::clone(&key), 7);
        for number in 0..20_000 {
            cache.keep(&format!("team-{number}"), Arc::clone(&key), 0);
            cache.keep_absent(&format!("nobody-{number}"), 0);
            assert!(matches!(cache.find("used"), Some(Known::Key(_, 7))), "{number}");
        }
        let (keys, absent) = cache.len();
        assert!((most / 4..=most).contains(&keys) && absent <= MOST_ABSENT, "{keys} {absent}");
    }

    #[test]
    fn an_id_is_known_in_one_way_at_most() {
        let cache = Cache::default();
        cache.keep_absent("a", 1);
        assert!(matches!(cache.find("a"), Some(Known::Absent(1))));
        cache.keep("a", key(), 2);
        assert!(matches!(cache.find("a"), Some(Known::Key(_, 2))));
        cache.keep_absent("a", 3);
        assert!(matches!(cache.find("a"), Some(Known::Absent(3))));
        cache.outdate("a");
        assert!(cache.find("a").is_none() && cache.is_changed("a") && !cache.is_changed("b"));
        cache.keep("b", key(), 4);
        cache.keep_absent("c", 4);
        cache.outdate_all();
        assert_eq!(cache.len(), (0, 0));
        assert!(cache.is_changed("b") && !cache.is_changed("c"));
        cache.keep("b", key(), 5);
        assert!(!cache.is_changed("b"));
    }
}
