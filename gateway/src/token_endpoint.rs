//! The gateway's own OAuth2 endpoints: chance, the store and the slow part, which runs off the event loop.
//!
//! What is decided is decided in `policy::token`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde::Serialize;
use serde_json::json;

use crate::credentials::{known, spend_one};
use crate::edge::grants::StoreLost;
use crate::exchange::Core;
use crate::policy::Documents;
use crate::policy::authenticate::binding::Bound;
use crate::policy::authenticate::once::Once;
use crate::policy::authenticate::{dpop, jwt};
use crate::policy::facts::Facts;
use crate::policy::token::{
    Client, Endpoint, Form, Grant, Holder, Kept, MOST_LIFETIME, PasswordGrant, RefreshToken, Refusal, TokenIssuer,
    describe, describe_refresh,
};
use crate::problem::Stop;
use crate::types::{Binding, RequestId, Timestamp};

/// How long a request waits for its password to be checked.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A request to one of the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What its thread has.
    pub core: &'a Rc<Core>,
    /// What is known of it.
    pub facts: &'a Facts<'a>,
    /// Its body.
    pub form: &'a [u8],
    /// Its name.
    pub id: RequestId,
}

/// Shows the keys or the metadata, to everybody.
#[must_use]
pub fn document(documents: &Documents, endpoint: Endpoint) -> Response<Bytes> {
    let body = if endpoint == Endpoint::Jwks { &documents.jwks } else { &documents.metadata };
    let mut response = Response::new(body.clone());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// Answers a token, revocation or introspection request.
///
/// # Errors
/// [`Stop::Token`], alike for an unknown user and a wrong password, and for an unknown client and a wrong secret;
/// [`Stop::TokenBusy`], if as many passwords are being checked as may be; [`Stop::TokenStoreLost`].
pub async fn answer(endpoint: Endpoint, asked: Asked<'_>) -> Result<Response<Bytes>, Stop> {
    let issuer = asked.core.snapshot.policy.issuer.as_ref();
    let issuer = issuer.ok_or(Stop::Internal("a token route without an issuer"))?;
    let form = Form::parse(asked.form).map_err(Stop::Token)?;
    let client = issuer.client(&form, asked.facts.headers).map_err(Stop::Token)?;
    if endpoint == Endpoint::Token {
        return grant(issuer, asked, &form, client).await;
    }
    let client = client.ok_or(Stop::Token(Refusal::Client))?;
    let token = form.require("token", "token is missing").map_err(Stop::Token)?;
    match endpoint {
        Endpoint::Revoke => revoke(asked, client, token).await,
        _ => introspect(asked, client, token).await,
    }
}

async fn grant(
    issuer: &TokenIssuer,
    asked: Asked<'_>,
    form: &Form,
    client: Option<&Client>,
) -> Result<Response<Bytes>, Stop> {
    let Asked { core, id, facts, .. } = asked;
    let now = facts.now;
    let grant = issuer.grant(form, client).map_err(Stop::Token)?;
    let (bound, once) = bind(core, facts, client)?;
    // Once it is known that whoever shows the proof may have a token: strangers fill no memory with proofs.
    let spend = async || spend(core, once.as_ref(), now).await;
    let mint =
        |holder: &Holder<'_>| issuer.mint(holder, &core.snapshot.policy.vocabulary.roles, id, now).map_err(Stop::Token);
    match grant {
        Grant::ClientCredentials { client, scope } => {
            spend().await?;
            said(&mint(&Holder { user: None, client: Some(client), scope: &scope, grant: "", bound })?)
        }
        Grant::Password { password, client, scope } => {
            let user = check_password(core, password).await?;
            spend().await?;
            let family = client.and_then(|client| issuer.begin(client, &user, &scope, now));
            let mut holder = Holder { user: Some(&user), client, scope: &scope, grant: "", bound };
            let Some(family) = family else { return said(&mint(&holder)?) };
            let token = RefreshToken::first(random()?, random()?);
            let name = token.grant();
            holder.grant = &name;
            let minted = mint(&holder)?;
            core.grants.begin(token.family(), Kept { newest: token.digest(), family }, now).await.map_err(lost)?;
            said(&minted.with_refresh(&token))
        }
        Grant::Refresh { client, token, scope } => {
            let kept = core.grants.find(token.family(), now).await.map_err(lost)?;
            let kept = kept.ok_or(Stop::Token(Refusal::Refresh))?;
            if kept.family.client == *client.name && !issuer.stands(&kept.family) {
                end(core, &token, now).await?;
                return Err(Stop::Token(Refusal::Refresh));
            }
            let scope = issuer.refresh(client, &kept.family, scope.as_deref(), now).map_err(Stop::Token)?;
            spend().await?;
            let (grant, next) = (token.grant(), token.next(random()?));
            let user = Some(&*kept.family.user);
            let holder = Holder { user, client: Some(client), scope: &scope, grant: &grant, bound };
            let minted = mint(&holder)?;
            let fresh =
                core.grants.replace(token.family(), &token.digest(), &next.digest(), now).await.map_err(lost)?;
            if !fresh {
                // It was used before, so somebody has a copy; who of the two is asking, nobody can tell.
                end(core, &token, now).await?;
                return Err(Stop::Token(Refusal::Reused));
            }
            said(&minted.with_refresh(&next))
        }
    }
}

/// What the token is bound to: the key of the proof that it is asked for with, and the certificate of a client whose
/// tokens are bound to theirs; and that the proof counts once.
fn bind(core: &Core, facts: &Facts<'_>, client: Option<&Client>) -> Result<(Binding, Option<Once>), Stop> {
    let asked = client.map_or(Bound::Any, |client| client.bound);
    let refused = |why| Stop::Token(Refusal::Proof(why));
    let (mut bound, mut once) = (Binding::default(), None);
    if facts.headers.contains_key(&dpop::HEADER) || asked == Bound::Dpop {
        let proofs = core.snapshot.policy.authenticator.proofs();
        let proven = dpop::decide(proofs, facts, None).map_err(|refusal| refused(refusal.detail()))?;
        bound.key = Some(proven.key);
        once = Some(proven.once);
    }
    if asked == Bound::Certificate {
        let certificate = facts.certificate.filter(|certificate| certificate.holds(facts.now));
        let why = "this client's tokens are bound to its certificate; connect with it (RFC 8705 §3)";
        bound.certificate = Some(certificate.ok_or(Stop::Token(Refusal::Request(why)))?.thumbprint);
    }
    Ok((bound, once))
}

/// Takes a proof as used.
async fn spend(core: &Rc<Core>, once: Option<&Once>, now: Timestamp) -> Result<(), Stop> {
    let Some(once) = once else { return Ok(()) };
    if spend_one(core, once, now).await.map_err(lost)? {
        return Ok(());
    }
    Err(Stop::Token(Refusal::Proof("the proof was used before; make a new one for each request")))
}

/// Checks a password off the event loop, if not too many are being checked; gives back whose it is.
async fn check_password(core: &Rc<Core>, grant: PasswordGrant) -> Result<String, Stop> {
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
    Ok(user)
}

/// Ends a family: its access tokens first, so that none outlives it.
async fn end(core: &Core, token: &RefreshToken, now: Timestamp) -> Result<(), Stop> {
    let until = Timestamp::from_secs(now.secs().saturating_add(MOST_LIFETIME.as_secs()));
    core.grants.revoke(token.grant_id(), until, now).await.map_err(lost)?;
    core.grants.end(token.family()).await.map_err(lost)
}

/// RFC 7009: also a token that is not known, or no longer, is taken back, by doing nothing.
async fn revoke(asked: Asked<'_>, client: &Client, token: &str) -> Result<Response<Bytes>, Stop> {
    let (core, now) = (asked.core, asked.facts.now);
    let may = |owner: &str| {
        let may = TokenIssuer::may_handle(client, owner);
        if may { Ok(()) } else { Err(Stop::Token(Refusal::NotYours)) }
    };
    if let Some(token) = RefreshToken::parse(token) {
        if let Some(kept) = core.grants.find(token.family(), now).await.map_err(lost)? {
            may(&kept.family.client)?;
            end(core, &token, now).await?;
        }
        return said(&json!({}));
    }
    let issuers = core.snapshot.policy.authenticator.issuers();
    let Ok(claims) = issuers.inspect(token.as_bytes(), known(core).keys, now) else { return said(&json!({})) };
    may(claims.get("client_id").and_then(serde_json::Value::as_str).unwrap_or_default())?;
    let until = claims.get("exp").and_then(serde_json::Value::as_u64).unwrap_or_default();
    if let Some(id) = jwt::OwnToken::of(&claims).token() {
        core.grants.revoke(id, Timestamp::from_secs(until), now).await.map_err(lost)?;
    }
    said(&json!({}))
}

/// RFC 7662: what is not good, or not this client's to know, is inactive and nothing else.
async fn introspect(asked: Asked<'_>, client: &Client, token: &str) -> Result<Response<Bytes>, Stop> {
    let (core, now) = (asked.core, asked.facts.now);
    let inactive = || said(&json!({ "active": false }));
    if let Some(token) = RefreshToken::parse(token) {
        let kept = core.grants.find(token.family(), now).await.map_err(lost)?;
        let kept = kept.filter(|kept| kept.newest.matches(&token.digest()) && kept.family.exp > now.secs());
        let issuer = core.snapshot.policy.issuer.as_ref();
        let kept = kept.filter(|kept| issuer.is_some_and(|issuer| issuer.stands(&kept.family)));
        let kept = kept.filter(|kept| TokenIssuer::may_handle(client, &kept.family.client));
        return kept.map_or_else(inactive, |kept| said(&describe_refresh(&kept.family)));
    }
    let (issuers, known) = (core.snapshot.policy.authenticator.issuers(), known(core));
    let Ok(claims) = issuers.inspect(token.as_bytes(), known.keys, now) else { return inactive() };
    if !TokenIssuer::may_handle(client, claims.get("client_id").and_then(serde_json::Value::as_str).unwrap_or_default())
    {
        return inactive();
    }
    match issuers.standing(&claims, known.revocations) {
        Ok(_) => said(&describe(&claims)),
        Err(jwt::Refusal::RevocationUnknown) => Err(Stop::TokenStoreLost),
        Err(_) => inactive(),
    }
}

fn lost(StoreLost: StoreLost) -> Stop {
    Stop::TokenStoreLost
}

fn random<const N: usize>() -> Result<[u8; N], Stop> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Stop::Internal("the system gives no random bytes"))?;
    Ok(bytes)
}

/// An answer that nobody may keep (RFC 6749 §5.1).
fn said(body: &impl Serialize) -> Result<Response<Bytes>, Stop> {
    let body = serde_json::to_vec(body).map_err(|_| Stop::Internal("the answer could not be written"))?;
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}
