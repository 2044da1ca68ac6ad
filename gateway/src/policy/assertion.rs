//! What the gateway asserts to a worker about who called: a short-lived signed token (RFC 7519) with its own key.
//!
//! A worker that checks it need not trust the network between it and the gateway. It is made for one audience and one
//! principal, not for one request, so that a request does not pay for a signature: the same assertion serves until half
//! its life is over, and a worker always gets one with at least the other half left. Never a credential here: the
//! gateway takes no assertion, its own included.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use http::HeaderValue;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use serde::Serialize;

use super::authenticate::jwt::JwtAlgorithm;
use super::authorize::Vocabulary;
use super::token::signing_pair;
use crate::settings::Section;
use crate::types::{Name, Principal, RoleSet, ScopeSet, Timestamp};

/// The longest life of an assertion.
const MOST_LIFETIME: Duration = Duration::from_mins(5);
/// How many are kept of one generation; there are two.
const GENERATION: usize = 1024;

/// How assertions are made.
pub struct Assertion {
    issuer: Box<str>,
    lifetime: u64,
    /// The audience of each pool, by its position; none where the pool gets no assertion.
    audiences: Box<[Option<Box<str>>]>,
    header: Header,
    key: EncodingKey,
}

impl std::fmt::Debug for Assertion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assertion")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    roles: Vec<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    iat: u64,
    exp: u64,
}

impl Assertion {
    /// Reads `[assertion]`. `pools` are the pools' names.
    #[must_use]
    pub fn compile(section: &Section<'_>, pools: &[Name]) -> Option<Self> {
        let issuer: Option<String> = section.required("issuer", "write the name by which workers know this gateway");
        let lifetime = section.or("lifetime", Duration::from_mins(1));
        if !(Duration::from_secs(10)..=MOST_LIFETIME).contains(&lifetime) {
            section.mistake(
                "lifetime",
                "is shorter than clocks differ, or longer than a stolen assertion should work",
                "write one from \"10s\" to \"5m\"",
            );
        }
        let mut audiences: Vec<Option<Box<str>>> = vec![None; pools.len()];
        let named = section.section_or_empty("pools");
        for key in named.keys() {
            let audience: Option<String> = named.optional(key);
            let place = pools.iter().position(|pool| **pool == *key).and_then(|position| audiences.get_mut(position));
            if let Some(place) = place {
                *place = audience.map(Into::into);
            } else {
                let defined: Vec<&str> = pools.iter().map(|name| &**name).collect();
                named.undefined(key, None, ("pool", "pools"), key, &defined);
            }
        }
        if named.keys().is_empty() {
            section.missing(
                "pools",
                "name the pools that get one, each with its audience: pools = { models = \"model-worker\" }",
            );
        }
        named.finish();
        let algorithm: Option<JwtAlgorithm> = section.required("algorithm", "write one such as \"ES256\"");
        if algorithm.is_some_and(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            section.mistake(
                "algorithm",
                "is HMAC, with which whoever can check an assertion can make one",
                "write one such as \"ES256\" or \"EdDSA\"",
            );
        }
        let secret = section.secret("signing_key");
        let (algorithm, secret) = (algorithm?, secret?);
        let (key, verify, _) = signing_pair(section, algorithm, &secret)?;
        let mut header = Header::new(algorithm.0);
        header.kid = verify.kid.as_deref().map(Into::into);
        Some(Self { issuer: issuer?.into(), lifetime: lifetime.as_secs(), audiences: audiences.into(), header, key })
    }

    fn mint(&self, audience: &str, principal: &Principal, words: &Vocabulary, now: Timestamp) -> Option<HeaderValue> {
        let scope = words.scopes.list(principal.scopes);
        let claims = Claims {
            iss: &self.issuer,
            aud: audience,
            sub: &principal.id,
            roles: principal.roles.iter().map(|role| words.roles.name(role)).collect(),
            scope: &scope,
            iat: now.secs(),
            exp: now.secs().saturating_add(self.lifetime),
        };
        let mut value = HeaderValue::try_from(jsonwebtoken::encode(&self.header, &claims, &self.key).ok()?).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

type Generation = HashMap<(usize, Name, RoleSet, ScopeSet), (u64, HeaderValue)>;

/// One thread's assertions that still have half their life. When the younger generation is full, the older is dropped.
#[derive(Debug, Default)]
pub struct Assertions(RefCell<(Generation, Generation)>);

impl Assertions {
    /// The assertion of this principal for the pool at the position; `None` where the pool gets none.
    ///
    /// # Errors
    /// [`Unsigned`].
    pub fn of(
        &self,
        assertion: Option<&Assertion>,
        pool: usize,
        principal: &Principal,
        words: &Vocabulary,
        now: Timestamp,
    ) -> Result<Option<HeaderValue>, Unsigned> {
        let Some(assertion) = assertion else { return Ok(None) };
        let Some(audience) = assertion.audiences.get(pool).and_then(Option::as_deref) else { return Ok(None) };
        let (young, old) = &mut *self.0.borrow_mut();
        let key = (pool, Name::clone(&principal.id), principal.roles, principal.scopes);
        // A clock that was set back makes one anew as well.
        let holds = |made: u64| made <= now.secs() && now.secs() - made <= assertion.lifetime / 2;
        if let Some((made, value)) = young.get(&key)
            && holds(*made)
        {
            return Ok(Some(value.clone()));
        }
        let kept = old.remove(&key).filter(|(made, _)| holds(*made));
        let (made, value) = match kept {
            Some(kept) => kept,
            None => (now.secs(), assertion.mint(audience, principal, words, now).ok_or(Unsigned)?),
        };
        if young.len() >= GENERATION {
            *old = std::mem::take(young);
        }
        young.insert(key, (made, value.clone()));
        Ok(Some(value))
    }
}

/// The key can't sign, though it could when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsigned;
