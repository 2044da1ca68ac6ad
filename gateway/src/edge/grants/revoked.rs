//! The tokens that were taken back and have not ended, as every request looks at them: without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::moment::Moment;
use crate::types::{Timestamp, TokenId};

/// How many are added before all are copied: adding one costs this much at most, and then once in so many times all.
const YOUNG: usize = 1024;

type Ids = HashMap<TokenId, Moment>;

#[derive(Clone, Default)]
struct Generations {
    young: Ids,
    old: Arc<Ids>,
}

/// What was revoked, and until when that matters.
#[derive(Default)]
pub(super) struct Revoked(ArcSwap<Generations>);

impl Revoked {
    /// Whether this was revoked.
    pub(super) fn has(&self, id: TokenId) -> bool {
        let now = self.0.load();
        !now.young.is_empty() && now.young.contains_key(&id) || !now.old.is_empty() && now.old.contains_key(&id)
    }

    /// Adds some; those that have ended anyway are passed over.
    pub(super) fn add(&self, ids: impl IntoIterator<Item = (TokenId, Timestamp)>, now: Moment) {
        let known = self.0.load();
        let is_new = |id: &TokenId| !known.young.contains_key(id) && !known.old.contains_key(id);
        let new = ids.into_iter().filter(|(id, until)| *until > now.wall && is_new(id));
        let new: Vec<_> = new.map(|(id, until)| (id, now.until(until))).collect();
        drop(known);
        if new.is_empty() {
            return;
        }
        self.0.rcu(|known| {
            let mut next = Generations::clone(known);
            next.young.extend(new.iter().copied());
            if next.young.len() > YOUNG {
                let mut old = Ids::clone(&next.old);
                old.extend(next.young.drain());
                next.old = Arc::new(old);
            }
            next
        });
    }

    /// Forgets what has ended.
    pub(super) fn sweep(&self, now: Moment) {
        self.0.rcu(|known| {
            let live = |ids: &Ids| {
                ids.iter().filter(|(_, until)| !until.is_over(now)).map(|(id, until)| (*id, *until)).collect()
            };
            Generations { young: live(&known.young), old: Arc::new(live(&known.old)) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_revoked_stays_so_until_it_ends() {
        let revoked = Revoked::default();
        let (id, at) = (|number: usize| TokenId::of_token(&number.to_string()), Timestamp::from_secs);
        let now = Moment::at;
        for number in 0..3 * YOUNG {
            revoked.add([(id(number), at(if number % 2 == 0 { 200 } else { 300 }))], now(100));
        }
        revoked.add([(id(9999), at(100))], now(100));
        assert!((0..3 * YOUNG).all(|number| revoked.has(id(number))));
        assert!(!revoked.has(id(9999)), "it had ended");
        // A clock that is set forward, and back, lets none come back.
        revoked.sweep(Moment { wall: at(100_000), ..now(101) });
        assert!((0..3 * YOUNG).all(|number| revoked.has(id(number))));
        revoked.sweep(now(200));
        assert!((0..3 * YOUNG).all(|number| revoked.has(id(number)) == (number % 2 == 1)));
    }
}
