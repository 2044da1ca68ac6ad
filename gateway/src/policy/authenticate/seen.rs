//! Tokens that were verified before, so that the same token is not verified twice.
//!
//! Exact, because everything that the verdict hangs on is looked at again or can't have changed: the
//! token is found by the SHA-256 of all its octets; the policy is the one that the table was made for; an
//! entry counts only while the very key set that verified it is the issuer's; and the time is held against
//! the token's own bounds on every request. What takes one of our own tokens back is kept with it, and the caller
//! looks on every request whether that has happened. Refusals are not remembered. Bounded, and filled by valid
//! tokens alone, so nobody without credentials can push anything out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::jwt::{OwnToken, VerifyKey};
use crate::types::{Principal, Sha256, Timestamp};

/// Entries of one generation; there are two.
const GENERATION: usize = 2048;

/// A key set that was fetched; `None` stands for keys that the policy fixed.
pub type KeySet = Option<Arc<Vec<VerifyKey>>>;

/// What a token proved, and for how long.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Whom.
    pub principal: Arc<Principal>,
    /// What takes it back, if it is ours.
    pub own: Option<OwnToken>,
    /// From when, leeway included.
    pub from: Timestamp,
    /// Until when, leeway included.
    pub until: Timestamp,
    /// The position of the issuer.
    pub issuer: usize,
    /// What its signature was verified with.
    pub keys: KeySet,
}

impl Verified {
    fn holds(&self, keys: &KeySet, now: Timestamp) -> bool {
        let same = match (&self.keys, keys) {
            (None, None) => true,
            (Some(then), Some(current)) => Arc::ptr_eq(then, current),
            _ => false,
        };
        same && self.from <= now && now < self.until
    }
}

/// A digest is as good as random already.
#[derive(Debug, Default)]
struct Taken(u64);

impl Hasher for Taken {
    fn finish(&self) -> u64 {
        self.0
    }

    // The array's length comes first, its octets last.
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

type Generation = HashMap<[u8; 32], Verified, BuildHasherDefault<Taken>>;

/// One thread's table. When the younger generation is full, the older is dropped: what is used stays.
#[derive(Debug, Default)]
pub struct SeenTokens(RefCell<(Generation, Generation)>);

impl SeenTokens {
    /// Whom this token has proven, where that still holds. `keys` gives an issuer's present key set.
    pub fn find(
        &self,
        digest: &Sha256,
        keys: impl Fn(usize) -> KeySet,
        now: Timestamp,
    ) -> Option<(Arc<Principal>, Option<OwnToken>)> {
        let generations = &mut *self.0.borrow_mut();
        let holds = |seen: &Verified| seen.holds(&keys(seen.issuer), now);
        if let Some(seen) = generations.0.get(digest.as_bytes()) {
            return holds(seen).then(|| (Arc::clone(&seen.principal), seen.own));
        }
        let seen = generations.1.remove(digest.as_bytes()).filter(holds)?;
        let proven = (Arc::clone(&seen.principal), seen.own);
        insert(generations, digest, seen);
        Some(proven)
    }

    /// Remembers a token that was verified.
    pub fn remember(&self, digest: &Sha256, verified: Verified) {
        insert(&mut self.0.borrow_mut(), digest, verified);
    }
}

fn insert(generations: &mut (Generation, Generation), digest: &Sha256, verified: Verified) {
    if generations.0.len() >= GENERATION {
        generations.1 = std::mem::take(&mut generations.0);
    }
    generations.0.insert(*digest.as_bytes(), verified);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(keys: KeySet) -> Verified {
        let at = Timestamp::from_secs;
        Verified { principal: Principal::anonymous(), own: None, from: at(100), until: at(200), issuer: 0, keys }
    }

    fn digest(number: usize) -> Sha256 {
        Sha256::of(&number.to_le_bytes())
    }

    #[test]
    fn a_token_holds_while_its_time_and_its_keys_do() {
        let seen = SeenTokens::default();
        let keys: KeySet = Some(Arc::default());
        seen.remember(&digest(1), verified(keys.clone()));
        let find = |keys: &KeySet, now| seen.find(&digest(1), |_| keys.clone(), Timestamp::from_secs(now)).is_some();
        assert!(find(&keys, 100) && find(&keys, 199));
        assert!(!find(&keys, 99) && !find(&keys, 200));
        assert!(!find(&Some(Arc::default()), 150), "other keys, though they look alike");
        assert!(!find(&None, 150));
        assert!(seen.find(&digest(2), |_| keys.clone(), Timestamp::from_secs(150)).is_none());
    }

    #[test]
    fn the_table_is_bounded_and_what_is_used_stays() {
        let seen = SeenTokens::default();
        let now = Timestamp::from_secs(150);
        seen.remember(&digest(0), verified(None));
        for number in 1..10 * GENERATION {
            seen.remember(&digest(number), verified(None));
            assert!(number % 100 != 0 || seen.find(&digest(0), |_| None, now).is_some(), "{number}");
        }
        let generations = seen.0.borrow();
        assert!(generations.0.len() + generations.1.len() <= 2 * GENERATION);
        drop(generations);
        assert!(seen.find(&digest(1), |_| None, now).is_none());
    }
}
