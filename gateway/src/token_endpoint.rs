//! The gateway's own OAuth2 token endpoint: the slow part, off the event loop.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::exchange::Core;
use crate::policy::token::{PasswordGrant, Refusal, TokenIssuer};
use crate::problem::Stop;
use crate::types::{RequestId, Timestamp};

/// How long a request waits for its password to be checked.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Answers a token request (RFC 6749 §4.3.2).
///
/// # Errors
/// [`Stop::Token`], alike for an unknown user and a wrong password; [`Stop::TokenBusy`], if as many
/// passwords are being checked as may be.
pub async fn answer(
    core: &Rc<Core>,
    issuer: &TokenIssuer,
    form: &[u8],
    id: RequestId,
    now: Timestamp,
) -> Result<Response<Bytes>, Stop> {
    let grant = PasswordGrant::parse(form).map_err(Stop::Token)?;
    let user = grant.username.clone();
    let Ok(_admitted) = core.passwords.admitted.try_acquire() else { return Err(Stop::TokenBusy) };
    let running = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&core.passwords.running).acquire_owned());
    let Ok(Ok(place)) = running.await else { return Err(Stop::TokenBusy) };
    let snapshot = Arc::clone(&core.snapshot);
    let checked = tokio::task::spawn_blocking(move || {
        let _place = place;
        snapshot.policy.issuer.as_ref().map_or(Err(Refusal::Grant), |issuer| issuer.check(&grant))
    });
    checked.await.map_err(|_| Stop::Internal("the password check ended early"))?.map_err(Stop::Token)?;
    let minted = issuer.mint(&user, &core.snapshot.policy.roles, id, now).map_err(Stop::Token)?;
    let body = serde_json::to_vec(&minted).map_err(|_| Stop::Internal("the token could not be written"))?;
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}
