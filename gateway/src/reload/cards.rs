//! The cards that workers tell guards: asked before a worker serves, and again and again while it does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;

use crate::deadline::within;
use crate::edge::upstream::{Cards, PoolSettings};
use crate::exchange::Snapshot;
use crate::policy::Policy;
use crate::policy::assertion::Assertions;
use crate::settings::Mistake;
use crate::types::{Principal, Timestamp};

use super::{Loaded, Reloader};

/// How long is waited for cards where something else waits: a gateway that starts, a swap that rolls back.
const PATIENCE: Duration = Duration::from_secs(1);

/// What workers are told of the gateway where it asks for itself.
pub(super) fn assertion(policy: &Policy) -> impl Fn(usize) -> Option<HeaderValue> {
    let made = Assertions::default();
    move |pool| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let now = Timestamp::from_micros(u64::try_from(now).unwrap_or(u64::MAX));
        let (assertion, words) = (policy.assertion.as_ref(), &policy.vocabulary);
        made.of(assertion, pool, &Principal::anonymous(), words, now).ok().flatten()
    }
}

impl Reloader {
    /// Asks for the cards that nobody has told yet, before the first request; not for long.
    pub async fn first_cards(&self) {
        let now = self.now();
        let _ = within(PATIENCE, learn(&now.policy, &now.pools)).await;
        now.cards.settle(None);
    }

    /// Begins to ask for the cards that the policy that serves needs. Needs a runtime that takes local tasks.
    pub fn follow_cards(&self) {
        let (snapshot, tell) = (self.now(), Arc::clone(&self.tell));
        let following = tokio::task::spawn_local(async move {
            snapshot.cards.follow(&assertion(&snapshot.policy), &tell).await;
        });
        if let Some(before) = self.following.replace(Some(following)) {
            before.abort();
        }
    }

    /// Asks the new workers of a pool for the cards that its guards need, whatever they told before.
    pub(super) async fn learn(&self, next: &PoolSettings) -> Result<(), Vec<String>> {
        let Snapshot { policy, pools, .. } = &*self.now();
        let Some(position) = pools.iter().position(|pool| pool.name() == next.name()) else { return Ok(()) };
        let wanted = Cards::wanted(&policy.cards, pools, position);
        next.learn(position, &wanted, true, &assertion(policy)).await
    }

    /// The same for workers that come back and are waited for: what they told last counts where they tell nothing now.
    pub(super) async fn learn_again(&self, before: &PoolSettings) {
        let _ = within(PATIENCE, self.learn(before)).await;
    }

    /// Asks the workers of a configuration that was read for the cards that are not known yet. What would close a guard that
    /// is open now, or that is new, is a mistake.
    pub(super) async fn test_cards(&self, loaded: &mut Loaded) -> Vec<Mistake> {
        if loaded.policy.cards.is_empty() {
            return Vec::new();
        }
        let now = self.now();
        PoolSettings::keep_cards(&mut loaded.pools, &now.pools);
        let failures = learn(&loaded.policy, &loaded.pools).await;
        let next = Cards::new(&loaded.policy.cards, &loaded.pools, Some(&now.cards));
        let closed = next.closed().into_iter().filter(|of| !now.cards.closed().contains(of));
        let told = |guard: &str| Mistake {
            place: "workers".into(),
            key: format!("guards.{guard}.card_path"),
            reason: format!("leads to no card that can be used, so nothing would pass: {}", failures.join("; ")),
            remedy: "correct the path or the worker, or name a file in its place: card = \"card.json\"".into(),
        };
        closed.map(|of| told(&of.0)).collect()
    }
}

/// Asks the workers of all pools that have told nothing yet. Gives back who does not tell.
async fn learn(policy: &Policy, pools: &[PoolSettings]) -> Vec<String> {
    let shown = assertion(policy);
    let each = pools.iter().enumerate().map(async |(position, pool)| {
        let wanted = Cards::wanted(&policy.cards, pools, position);
        pool.learn(position, &wanted, false, &shown).await.err().unwrap_or_default()
    });
    futures_util::future::join_all(each).await.concat()
}
