//! Who sent a request? The decision of `policy::authenticate`, and what it waits for, fetched.
//!
//! The decision is pure and reads what this process knows. Where that is not enough it names what is wanted; that is
//! looked for here, within the bounds of whoever keeps it, and the same question is asked again.

use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::edge::api_keys::Fetched;
use crate::edge::grants::StoreLost;
use crate::edge::introspection::Unanswered;
use crate::exchange::{Core, Snapshot};
use crate::policy::Route;
use crate::policy::authenticate::once::{Once, Unspent};
use crate::policy::authenticate::{Known, Refusal, Undecided, Wanted};
use crate::policy::facts::Facts;
use crate::types::{Principal, Timestamp};

/// How many things one decision can wait for: each at most once.
const MOST_WANTED: usize = 4;

/// What credentials are held against beside the policy.
#[must_use]
pub fn known(core: &Core) -> Known<'_> {
    let Snapshot { keys, introspector, .. } = &*core.snapshot;
    Known {
        keys,
        introspections: introspector,
        revocations: core.grants.revocations(),
        seen: &core.seen_tokens,
        api_keys: core.api_keys.known(),
    }
}

/// Decides who sent a request.
///
/// # Errors
/// [`Refusal`].
pub async fn prove(core: &Rc<Core>, route: &Route, facts: &Facts<'_>) -> Result<Arc<Principal>, Refusal> {
    let policy = &core.snapshot.policy;
    let decide = || policy.authenticator.decide(&route.authenticate, facts, &policy.vocabulary, known(core));
    let mut undecided = match decide() {
        Ok(principal) => return Ok(principal),
        Err(undecided) => undecided,
    };
    for _ in 0..MOST_WANTED {
        match undecided {
            Undecided::Refused(refusal) => return Err(refusal),
            Undecided::Once(unspent) => return Box::pin(spend(core, unspent, facts.now)).await,
            Undecided::Wanting(wanted) => Box::pin(fetch(core, wanted, facts)).await?,
        }
        undecided = match decide() {
            Ok(principal) => return Ok(principal),
            Err(undecided) => undecided,
        };
    }
    match undecided {
        Undecided::Refused(refusal) => Err(refusal),
        Undecided::Once(unspent) => Box::pin(spend(core, unspent, facts.now)).await,
        // Whoever keeps it did not keep its word.
        Undecided::Wanting(Wanted::ApiKey(_)) => Err(Refusal::ApiKeysUnavailable),
        Undecided::Wanting(Wanted::Keys { .. } | Wanted::Introspection { .. }) => Err(Refusal::IssuerUnavailable),
    }
}

/// Takes what may be used once; the principal, where nobody has before.
async fn spend(core: &Rc<Core>, unspent: Unspent, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
    for once in &unspent.once {
        match spend_one(core, once, now).await {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::Replayed),
            Err(StoreLost) => return Err(Refusal::ReplayUnknown),
        }
    }
    Ok(unspent.principal)
}

/// Takes one thing that may be used once; says whether nobody has before.
///
/// # Errors
/// [`StoreLost`], where nobody can know and the policy does not take this process's word.
pub async fn spend_one(core: &Rc<Core>, once: &Once, now: Timestamp) -> Result<bool, StoreLost> {
    let local = core.snapshot.policy.authenticator.proofs().allows_unknown();
    core.grants.spend(once, core.ids.next(), local, now).await
}

/// Looks for what a decision waits for.
async fn fetch(core: &Core, wanted: Wanted, facts: &Facts<'_>) -> Result<(), Refusal> {
    let snapshot = &core.snapshot;
    match wanted {
        Wanted::Keys { issuer } => {
            let fetched = snapshot.keys.refetch(issuer).await;
            if fetched { Ok(()) } else { Err(Refusal::IssuerUnavailable) }
        }
        Wanted::Introspection { issuer, token } => {
            let judged_by = Arc::clone(snapshot);
            let judge = move |said: &Map<String, Value>, now| {
                let policy = &judged_by.policy;
                policy.authenticator.issuers().judge(issuer, said, &policy.vocabulary, now)
            };
            let log = core.log.log().clone();
            let failed = move |name: &str, cause: &str| {
                log.event("introspection-failed", &[("issuer", name), ("cause", cause)]);
            };
            let asked = snapshot.introspector.ask(issuer, token, facts.address, judge, failed).await;
            asked.map_err(|Unanswered| Refusal::IssuerUnavailable)
        }
        Wanted::ApiKey(id) => {
            let fetched = core.api_keys.fetch(&id, facts.address, facts.now).await;
            if let Fetched::Malformed(why) = fetched.map_err(|_| Refusal::ApiKeysUnavailable)? {
                core.log.log().event("api-key-malformed", &[("id", &id), ("cause", why)]);
            }
            Ok(())
        }
    }
}
