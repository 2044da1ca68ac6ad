//! One trusted issuer: what its tokens must say, and whom they stand for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Refusal;
use super::algorithm::JwtAlgorithm;
use super::key::VerifyKey;
use crate::policy::authenticate::binding::{self, Bound};
use crate::policy::authorize::{Vocabulary, descend};
use crate::policy::token::{CLIENT_CREDENTIALS, TokenIssuer};
use crate::types::{Name, Principal, RoleSet, Scheme, Secret, Timestamp};

/// The longest `kid`, in bytes.
const MOST_KID: usize = 128;
/// The longest subject, in bytes (RFC 9068 sets none; OpenID Connect Core §2 says 255).
const MOST_SUBJECT: usize = 255;
/// Dates later than this (the year 9999) are not taken for dates.
const LAST_DATE: u64 = 253_402_300_799;

/// Where an issuer's keys come from.
#[derive(Debug)]
pub(super) enum KeySource {
    /// It has none here: all its tokens are introspected.
    None,
    /// Known when the policy was compiled.
    Fixed(Vec<VerifyKey>),
    /// Fetched by `edge::keys`.
    Published(Publication),
}

/// Where a JWK Set is found, and for how long the last good one serves.
#[derive(Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub place: Place,
    /// For how long the last good keys serve while there are no others.
    pub kept: Duration,
}

/// Where an issuer's JWK Set is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// At this URL.
    Set(Box<str>),
    /// Where the issuer's metadata says, which is at the first of these URLs that has it.
    Metadata(Box<[Box<str>]>),
}

/// How an issuer is asked about a token (RFC 7662).
#[derive(Debug)]
pub struct Introspection {
    /// Its endpoint.
    pub url: Box<str>,
    /// What the gateway is called there.
    pub client_id: Box<str>,
    /// What proves it.
    pub client_secret: Secret,
    /// For how long an answer counts, at most.
    pub cache_for: Duration,
    /// How many questions a second, at most.
    pub rate: u32,
    /// Whether JWTs of this issuer are asked about too.
    pub(super) all_tokens: bool,
    /// Whether a token that names no audience is taken.
    pub(super) any_audience: bool,
}

/// One trusted issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: Name,
    pub(super) iss: Box<str>,
    pub(super) audiences: Box<[Box<str>]>,
    pub(super) algorithms: Box<[JwtAlgorithm]>,
    pub(super) types: Box<[Box<str>]>,
    pub(super) principal_claim: Box<str>,
    pub(super) roles_claim: Box<str>,
    /// What its words for roles mean here; where absent, they are ours.
    pub(super) roles_map: Option<HashMap<Box<str>, RoleSet>>,
    /// `scope`, or `scp` where there is none, if absent.
    pub(super) scopes_claim: Option<Box<str>>,
    pub(super) leeway: u64,
    /// What its tokens must be bound to.
    pub(super) bound: Bound,
    pub(super) keys: KeySource,
    /// Who vouches for its hosts, in PEM; the system's authorities where absent.
    pub(super) ca: Option<Box<[u8]>>,
    pub(super) introspection: Option<Introspection>,
    /// Whether it is the gateway itself.
    pub(super) is_own: bool,
}

impl Issuer {
    /// The gateway itself.
    pub(super) fn own(own: &TokenIssuer) -> Self {
        Self {
            name: "user".into(),
            iss: own.issuer().into(),
            audiences: [own.audience().into()].into(),
            algorithms: own.verify_keys().iter().map(|key| key.algorithm).collect(),
            types: ["at+jwt".into()].into(),
            principal_claim: "sub".into(),
            roles_claim: "roles".into(),
            roles_map: None,
            scopes_claim: None,
            leeway: 0,
            bound: Bound::Any,
            keys: KeySource::Fixed(own.verify_keys().to_vec()),
            ca: None,
            introspection: None,
            is_own: true,
        }
    }

    pub(super) fn check_header(&self, header: &Map<String, Value>) -> Result<JwtAlgorithm, Refusal> {
        let text = |name: &str| header.get(name).map(|value| value.as_str().ok_or(Refusal::Malformed)).transpose();
        let algorithm = text("alg")?.and_then(JwtAlgorithm::parse).ok_or(Refusal::Algorithm)?;
        if !self.algorithms.contains(&algorithm) {
            return Err(Refusal::Algorithm);
        }
        // RFC 7515 §4.1.11: what must be understood and is not ends it. We understand no extension.
        if ["crit", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::Malformed);
        }
        if text("kid")?.is_some_and(|kid| kid.len() > MOST_KID) {
            return Err(Refusal::Malformed);
        }
        let typ = text("typ")?.unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if !self.types.iter().any(|taken| **taken == *typ) {
            return Err(Refusal::Type);
        }
        Ok(algorithm)
    }

    /// Gives back from when until when they hold.
    pub(super) fn check_claims(
        &self,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        let ends = date(claims, "exp")?.ok_or(Refusal::NoEnd)?.saturating_add(self.leeway);
        let holds = self.check_dates(claims, ends, now)?;
        if self.is_for_us(claims) { Ok(holds) } else { Err(Refusal::Audience) }
    }

    /// Holds what the issuer itself said of a token against the same rules. It need not say everything (RFC 7662 §2.2).
    pub(super) fn check_said(
        &self,
        claims: &Map<String, Value>,
        any_audience: bool,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        match claims.get("active") {
            Some(Value::Bool(true)) => {}
            _ => return Err(Refusal::Inactive),
        }
        if claims.get("iss").is_some_and(|iss| iss.as_str() != Some(&self.iss)) {
            return Err(Refusal::Issuer);
        }
        // An issuer says of refresh and ID tokens too that they are active; those are no credentials (RFC 9068 §4).
        let kind = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        let is_access = |kind: &str| matches!(kind, "" | "access" | "access_token" | "at+jwt" | "application/at+jwt");
        let is_shown = matches!(&*kind("token_type"), "" | "bearer" | "dpop" | "access_token" | "n_a");
        let is_typed = matches!(&*kind("typ"), "bearer" | "dpop" | "jwt") || is_access(&kind("typ"));
        if !is_access(&kind("token_use")) || !is_typed || !is_shown {
            return Err(Refusal::Type);
        }
        // No leeway at the end: the issuer has looked at its own clock just now, and what it said must not outlive that.
        let ends = date(claims, "exp")?.unwrap_or(LAST_DATE);
        let holds = self.check_dates(claims, ends, now)?;
        if self.is_for_us(claims) || any_audience && !claims.contains_key("aud") {
            Ok(holds)
        } else {
            Err(Refusal::Audience)
        }
    }

    fn check_dates(
        &self,
        claims: &Map<String, Value>,
        ends: u64,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        if ends <= now.secs() {
            return Err(Refusal::Expired);
        }
        // Our own tokens have no leeway at their end, yet gateways' clocks differ at their beginning.
        let begins = date(claims, "nbf")?.max(date(claims, "iat")?).unwrap_or(0).saturating_sub(self.leeway.max(30));
        if begins > now.secs() {
            return Err(Refusal::NotYet);
        }
        Ok((Timestamp::from_secs(begins), Timestamp::from_secs(ends)))
    }

    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let is_ours =
            |audience: &Value| audience.as_str().is_some_and(|aud| self.audiences.iter().any(|ours| **ours == *aud));
        match claims.get("aud") {
            Some(Value::Array(many)) => many.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        }
    }

    pub(super) fn principal(&self, claims: &Map<String, Value>, words: &Vocabulary) -> Result<Arc<Principal>, Refusal> {
        let subject = descend(claims, &self.principal_claim).and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > MOST_SUBJECT || !subject.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::Subject);
        }
        let named = named_words(descend(claims, &self.roles_claim));
        let held = match &self.roles_map {
            Some(map) => named.filter_map(|name| map.get(name)).fold(RoleSet::default(), |sum, set| sum.union(*set)),
            None => named.filter_map(|name| words.roles.find(name)).fold(RoleSet::default(), RoleSet::with),
        };
        let scopes = match &self.scopes_claim {
            Some(path) => descend(claims, path),
            None => claims.get("scope").or_else(|| claims.get("scp")),
        };
        let scopes = words.scopes.set(named_words(scopes));
        let is_client = self.is_own && claims.get("gty").and_then(Value::as_str) == Some(CLIENT_CREDENTIALS);
        let id = format!("{}:{subject}", if is_client { "client" } else { &*self.name });
        let bound = binding::read(claims).filter(|bound| self.bound.is_met(bound)).ok_or(Refusal::Binding)?;
        let principal = words.principal(Scheme::Jwt, &id, held, scopes, words.claims.met(claims));
        principal.map(|principal| Arc::new(Principal { bound, ..principal })).ok_or(Refusal::Subject)
    }
}

/// A `NumericDate`, in seconds. It may have a fraction (RFC 7519 §2); it is cut.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_u64().or_else(|| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "inside the bounds just tested")]
        value.as_f64().filter(|f| (0.0..1e12).contains(f)).map(|f| f as u64)
    });
    seconds.filter(|&seconds| seconds <= LAST_DATE).map(Some).ok_or(Refusal::Malformed)
}

/// The words of a claim: a list of them, or one string with spaces between them (RFC 6749 §3.3).
fn named_words(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let (list, text) = match claim {
        Some(Value::Array(names)) => (Some(names), None),
        Some(Value::String(words)) => (None, Some(words)),
        _ => (None, None),
    };
    let listed = list.into_iter().flatten().filter_map(Value::as_str);
    listed.chain(text.into_iter().flat_map(|words| words.split(' ')))
}
