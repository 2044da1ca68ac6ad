//! Tokens: JWS compact, verified whole before any claim counts.
//!
//! Source: RFC 7519, RFC 8725, RFC 9068. `jsonwebtoken` verifies signatures and reads keys; form, header
//! and claims are held to the stricter rules here, on JSON without repeated members. The header chooses
//! nothing: the issuer's configuration says which algorithms there are, each key has exactly one, and
//! `jku`, `x5u`, `jwk` and `x5c` are never followed. Where an issuer is asked about tokens instead (RFC 7662), its answer
//! is held to the same rules as claims under its signature.

mod algorithm;
mod compile;
mod issuer;
mod jwk;
mod key;
mod outside;
mod own;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::seen::{KeySet, Verified};
use super::{Known, Undecided, Wanted};
use crate::policy::authorize::Vocabulary;
use crate::policy::token::TokenIssuer;
use crate::settings::Section;
use crate::types::{Principal, Secret, Sha256, Timestamp};

pub use algorithm::JwtAlgorithm;
pub use issuer::{Introspection, Place, Publication};
pub use jwk::key_set;
pub use key::{VerifyKey, fits, public_key, strong_secret};
pub use outside::{Introspected, Introspections, Keys, Proven, Published};
pub use own::{OwnToken, Revocations};

use issuer::{Issuer, KeySource};
pub(super) use parts::Parts;

/// The longest token that is looked at, in bytes.
const MOST_TOKEN: usize = 8 << 10;

/// All trusted issuers.
#[derive(Debug, Default)]
pub struct Issuers {
    all: Vec<Issuer>,
    /// The position of the one that is asked about tokens of no known form.
    opaque: Option<usize>,
    /// After how long without knowing what was revoked our own tokens are refused.
    unknown_after: Option<Duration>,
}

impl Issuers {
    /// Reads every `[issuers.NAME]`, and takes the gateway's own tokens in where it issues any.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary, own: Option<&TokenIssuer>) -> Self {
        let mut issuers = Vec::new();
        issuers.extend(own.map(Issuer::own));
        for section in root.sections("issuers") {
            let issuer = Issuer::compile(&section, words);
            section.finish();
            if let Some(issuer) = issuer {
                if issuers.iter().any(|other: &Issuer| other.iss == issuer.iss) {
                    root.mistake("issuers", format!("has two issuers called {:?}", issuer.iss), "keep one of them");
                }
                issuers.push(issuer);
            }
        }
        let mut asked = issuers.iter().enumerate().filter(|(_, issuer)| issuer.introspection.is_some());
        let opaque = asked.next();
        if let (Some((_, one)), Some((_, other))) = (opaque, asked.next()) {
            let reason = format!(
                "{:?} and {:?} both have [introspection], and an opaque token does not say which of them to ask",
                &*one.name, &*other.name
            );
            root.mistake("issuers", reason, "keep one of them; the other's tokens can be JWTs");
        }
        let opaque = opaque.map(|(position, _)| position);
        Self { all: issuers, opaque, unknown_after: own.and_then(TokenIssuer::unknown_after) }
    }

    /// Whether no token could ever be good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The issuers that publish their keys.
    pub fn published(&self) -> impl Iterator<Item = Published<'_>> {
        self.all.iter().enumerate().filter_map(|(position, issuer)| match &issuer.keys {
            KeySource::Published(publication) => Some(Published {
                position,
                name: &issuer.name,
                issuer: &issuer.iss,
                publication,
                ca: issuer.ca.as_deref(),
                algorithms: &issuer.algorithms,
            }),
            KeySource::Fixed(_) | KeySource::None => None,
        })
    }

    /// The issuers that are asked about tokens.
    pub fn introspected(&self) -> impl Iterator<Item = Introspected<'_>> {
        self.all.iter().enumerate().filter_map(|(position, issuer)| {
            let introspection = issuer.introspection.as_ref()?;
            Some(Introspected { position, name: &issuer.name, introspection, ca: issuer.ca.as_deref() })
        })
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Undecided`].
    pub fn decide(
        &self,
        token: &[u8],
        words: &Vocabulary,
        known: Known<'_>,
        now: Timestamp,
    ) -> Result<Arc<Principal>, Undecided> {
        if token.len() > MOST_TOKEN {
            return Err(Refusal::Malformed.into());
        }
        let digest = Sha256::of(token);
        let proven = known.seen.find(&digest, |issuer| known.keys.of(issuer), now);
        let (principal, own) = if let Some(proven) = proven {
            proven
        } else {
            let verified = match self.verify(token, words, known.keys, now) {
                Ok(verified) => verified,
                Err(Unproven::Refused(refusal)) => return Err(refusal.into()),
                Err(Unproven::Keys(issuer)) => return Err(Undecided::Wanting(Wanted::Keys { issuer })),
                Err(Unproven::Introspection(issuer)) => {
                    let Some(said) = known.introspections.said(issuer, &digest, now) else {
                        let token = Secret::new(token);
                        return Err(Undecided::Wanting(Wanted::Introspection { issuer, token }));
                    };
                    let Proven { principal, from, until } = said?;
                    Verified { principal, own: None, from, until, issuer, keys: known.keys.of(issuer) }
                }
            };
            let proven = (Arc::clone(&verified.principal), verified.own);
            known.seen.remember(&digest, verified);
            proven
        };
        // What was taken back is refused however often it was good before.
        if let Some(own) = own {
            own.check(known.revocations, self.unknown_after)?;
        }
        Ok(principal)
    }

    /// Whom a token stands for of which its issuer said this (RFC 7662 §2.2).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(
        &self,
        position: usize,
        said: &Map<String, Value>,
        words: &Vocabulary,
        now: Timestamp,
    ) -> Result<Proven, Refusal> {
        let issuer = self.all.get(position).ok_or(Refusal::Issuer)?;
        let introspection = issuer.introspection.as_ref().ok_or(Refusal::Issuer)?;
        let (from, until) = issuer.check_said(said, introspection.any_audience, now)?;
        let last = Timestamp::from_micros(now.micros().saturating_add(micros(introspection.cache_for)));
        Ok(Proven { principal: issuer.principal(said, words)?, from, until: until.min(last) })
    }

    /// What a token of our own says, where it is good.
    ///
    /// # Errors
    /// [`Refusal`]; every token of another issuer is [`Refusal::Issuer`].
    pub fn inspect(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Map<String, Value>, Refusal> {
        match self.check(token, keys, now) {
            Ok(checked) if checked.issuer.is_own => Ok(checked.claims),
            Err(Unproven::Refused(refusal)) => Err(refusal),
            _ => Err(Refusal::Issuer),
        }
    }

    /// Whether what [`Issuers::inspect`] said was taken back; gives back what it can be taken back by.
    ///
    /// # Errors
    /// [`Refusal::Revoked`], [`Refusal::RevocationUnknown`].
    pub fn standing(&self, claims: &Map<String, Value>, revocations: &dyn Revocations) -> Result<OwnToken, Refusal> {
        let own = OwnToken::of(claims);
        own.check(revocations, self.unknown_after).map(|()| own)
    }

    fn verify(&self, token: &[u8], words: &Vocabulary, keys: &dyn Keys, now: Timestamp) -> Result<Verified, Unproven> {
        let checked = self.check(token, keys, now)?;
        let principal = checked.issuer.principal(&checked.claims, words)?;
        let own = checked.issuer.is_own.then(|| OwnToken::of(&checked.claims));
        let (from, until) = checked.holds;
        Ok(Verified { principal, own, from, until, issuer: checked.position, keys: checked.keys })
    }

    fn check(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Checked<'_>, Unproven> {
        if let Some(issuer) = self.opaque.filter(|_| is_opaque(token)) {
            return Err(Unproven::Introspection(issuer));
        }
        let parts = Parts::read(token)?;
        // Nothing in the token counts before its signature holds; `iss` only says whose keys to try, or whom to ask.
        let named = parts.claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Issuer)?;
        let (position, issuer) =
            self.all.iter().enumerate().find(|(_, issuer)| *issuer.iss == *named).ok_or(Refusal::Issuer)?;
        if issuer.introspection.as_ref().is_some_and(|introspection| introspection.all_tokens) {
            return Err(Unproven::Introspection(position));
        }
        let algorithm = issuer.check_header(&parts.header)?;
        let kid = parts.header.get("kid").and_then(Value::as_str);
        let fetched = keys.of(position);
        let candidates = match &issuer.keys {
            KeySource::None => return Err(Refusal::Algorithm.into()),
            KeySource::Fixed(keys) => keys,
            KeySource::Published(_) => &**fetched.as_ref().ok_or(Refusal::NoKeys)?,
        };
        let verified = candidates
            .iter()
            .filter(|key| {
                key.algorithm == algorithm && (kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
            })
            .any(|key| {
                jsonwebtoken::crypto::verify(parts.signature, parts.signed, &key.key, algorithm.0).unwrap_or(false)
            });
        if !verified {
            // A key that was added since the set was fetched; whoever makes names up is told from that by asking, and
            // the issuer is asked now and then only.
            let is_new = kid.is_some() && !candidates.iter().any(|key| key.kid.as_deref() == kid);
            return Err(match issuer.keys {
                KeySource::Published(_) if is_new && keys.may_refetch(position) => Unproven::Keys(position),
                // It may be good, and that is not its bearer's fault.
                KeySource::Published(_) if is_new && keys.is_failing(position) => Refusal::NoKeys.into(),
                _ if is_new => Refusal::UnknownKey.into(),
                _ => Refusal::Signature.into(),
            });
        }
        let holds = issuer.check_claims(&parts.claims, now)?;
        Ok(Checked { position, issuer, claims: parts.claims, holds, keys: fetched })
    }
}

/// Whether it may be a token of another form than JWS: `b64token` (RFC 6750 §2.1) that is not in three parts. What has
/// the form of our own API keys (`mgk_`), refresh tokens (`mgr_`) and client secrets (`mgs_`) is not for others to see.
fn is_opaque(token: &[u8]) -> bool {
    let is_b64token = token.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(b));
    let is_ours = matches!(token, [b'm', b'g', kind, b'_', ..] if kind.is_ascii_lowercase());
    is_b64token && !is_ours && token.split(|b| *b == b'.').count() != 3
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a token is not proven.
enum Unproven {
    /// It is not good.
    Refused(Refusal),
    /// This issuer may have a new key.
    Keys(usize),
    /// This issuer knows.
    Introspection(usize),
}

impl From<Refusal> for Unproven {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A token whose signature and claims hold.
struct Checked<'a> {
    position: usize,
    issuer: &'a Issuer,
    claims: Map<String, Value>,
    holds: (Timestamp, Timestamp),
    keys: KeySet,
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a compact JWS with an unambiguous header and claims, or with features that are not taken.
    Malformed,
    /// Not an access token by its `typ`.
    Type,
    /// An algorithm that its issuer does not use here, or `none`.
    Algorithm,
    /// No issuer that is trusted.
    Issuer,
    /// The issuer's keys were not to be had so far, or not now, where it may have others.
    NoKeys,
    /// Not signed by one of the issuer's keys.
    Signature,
    /// None of the issuer's keys has the name that it gives.
    UnknownKey,
    /// Its issuer says that it does not stand, or no longer.
    Inactive,
    /// It never ends.
    NoEnd,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYet,
    /// It is meant for somebody else.
    Audience,
    /// It names no usable subject.
    Subject,
    /// It is bound to what can't be checked here, or not to what its issuer's tokens must be bound to.
    Binding,
    /// It was taken back.
    Revoked,
    /// Whether it was taken back is not known.
    RevocationUnknown,
}
