//! Who sent a request? The decision of `policy::authenticate`, and what it waits for, fetched.
//!
//! The decision is pure and reads what this process knows. Where that is not enough it names what is wanted; that is
//! looked for here, within the bounds of whoever keeps it, and the same question is asked again.

use std::rc::Rc;
use std::sync::Arc;

use crate::edge::api_keys::Fetched;
use crate::exchange::Core;
use crate::policy::Route;
use crate::policy::authenticate::{Known, Refusal, Undecided, Wanted};
use crate::policy::facts::Facts;
use crate::types::Principal;

/// How many things one decision can wait for: each at most once.
const MOST_WANTED: usize = 4;

/// What credentials are held against beside the policy.
#[must_use]
pub fn known(core: &Core) -> Known<'_> {
    Known {
        keys: &*core.snapshot.keys,
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
            Undecided::Wanting(wanted) => Box::pin(fetch(core, wanted, facts)).await?,
        }
        undecided = match decide() {
            Ok(principal) => return Ok(principal),
            Err(undecided) => undecided,
        };
    }
    match undecided {
        Undecided::Refused(refusal) => Err(refusal),
        // Whoever keeps it did not keep its word.
        Undecided::Wanting(Wanted::ApiKey(_)) => Err(Refusal::ApiKeysUnavailable),
    }
}

/// Looks for what a decision waits for.
async fn fetch(core: &Rc<Core>, wanted: Wanted, facts: &Facts<'_>) -> Result<(), Refusal> {
    match wanted {
        Wanted::ApiKey(id) => {
            let fetched = core.api_keys.fetch(&id, facts.address, facts.now).await;
            if let Fetched::Malformed(why) = fetched.map_err(|_| Refusal::ApiKeysUnavailable)? {
                core.log.log().event("api-key-malformed", &[("id", &id), ("cause", why)]);
            }
            Ok(())
        }
    }
}
