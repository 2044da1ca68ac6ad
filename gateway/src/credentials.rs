//! Who sent a request? The decision of `policy::authenticate`, and what it waits for, fetched.
//!
//! The decision is pure and reads what this process knows. Where that is not enough it names what is wanted; that is
//! looked for here, within the bounds of whoever keeps it, and the same question is asked again.

use std::rc::Rc;
use std::sync::Arc;

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
    Known { keys: &*core.snapshot.keys, revocations: core.grants.revocations(), seen: &core.seen_tokens }
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
            Undecided::Wanting(wanted) => Box::pin(fetch(core, wanted)).await?,
        }
        undecided = match decide() {
            Ok(principal) => return Ok(principal),
            Err(undecided) => undecided,
        };
    }
    match undecided {
        Undecided::Refused(refusal) => Err(refusal),
        // Whoever keeps it did not keep its word.
        Undecided::Wanting(_) => Err(Refusal::IssuerUnavailable),
    }
}

/// Looks for what a decision waits for.
#[expect(clippy::unused_async, reason = "all that is wanted is somewhere else")]
async fn fetch(_core: &Rc<Core>, wanted: Wanted) -> Result<(), Refusal> {
    match wanted {}
}
