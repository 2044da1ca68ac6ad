//! Tokens: JWS compact, verified whole before any claim counts.
//!
//! Source: RFC 7519, RFC 8725, RFC 9068. `jsonwebtoken` verifies signatures and reads keys; form, header
//! and claims are held to the stricter rules here, on JSON without repeated members. The header chooses
//! nothing: the issuer's configuration says which algorithms there are, each key has exactly one, and
//! `jku`, `x5u`, `jwk` and `x5c` are never followed.

mod algorithm;
mod issuer;
mod key;
mod own;
mod parts;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Known;
use super::seen::{KeySet, Verified};
use crate::policy::authorize::Vocabulary;
use crate::policy::token::TokenIssuer;
use crate::settings::Section;
use crate::types::{Name, Principal, Sha256, Timestamp};

pub use algorithm::JwtAlgorithm;
pub use key::{VerifyKey, fits, public_key, strong_secret};
pub use own::{OwnToken, Revocations};

use issuer::{Issuer, KeySource};
use parts::Parts;

/// The longest token that is looked at, in bytes.
const MOST_TOKEN: usize = 8 << 10;

/// Where the keys of issuers that publish them are found; `edge::keys` keeps them fresh.
pub trait Keys {
    /// The last good keys of the issuer at this position, if there were any yet.
    fn of(&self, issuer: usize) -> Option<Arc<Vec<VerifyKey>>>;
}

/// An issuer whose keys are fetched.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Its position.
    pub position: usize,
    /// Its name in TOML.
    pub name: &'a Name,
    /// Where its JWK Set is.
    pub url: &'a str,
    /// Who vouches for that host, in PEM; the system's authorities where absent.
    pub ca: Option<&'a [u8]>,
    /// The algorithms that its keys may have.
    pub algorithms: &'a [JwtAlgorithm],
}

/// All trusted issuers.
#[derive(Debug, Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// After how long without knowing what was revoked our own tokens are refused.
    unknown_after: Option<Duration>,
}

impl Issuers {
    /// Reads every `[issuers.NAME]`, and takes the gateway's own tokens in where it issues any.
    #[must_use]
    pub fn compile(root: &Section<'_>, own: Option<&TokenIssuer>) -> Self {
        let mut issuers = Vec::new();
        issuers.extend(own.map(Issuer::own));
        for section in root.sections("issuers") {
            let issuer = Issuer::compile(&section);
            section.finish();
            if let Some(issuer) = issuer {
                if issuers.iter().any(|other: &Issuer| other.iss == issuer.iss) {
                    root.mistake("issuers", format!("has two issuers called {:?}", issuer.iss), "keep one of them");
                }
                issuers.push(issuer);
            }
        }
        Self { issuers, unknown_after: own.and_then(TokenIssuer::unknown_after) }
    }

    /// Whether no token could ever be good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The issuers that publish their keys.
    pub fn published(&self) -> impl Iterator<Item = Published<'_>> {
        self.issuers.iter().enumerate().filter_map(|(position, issuer)| match &issuer.keys {
            KeySource::Url { url, ca } => {
                let (name, algorithms) = (&issuer.name, &*issuer.algorithms);
                Some(Published { position, name, url, ca: ca.as_deref(), algorithms })
            }
            KeySource::Fixed(_) => None,
        })
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(
        &self,
        token: &[u8],
        words: &Vocabulary,
        known: Known<'_>,
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        if token.len() > MOST_TOKEN {
            return Err(Refusal::Malformed);
        }
        let digest = Sha256::of(token);
        let proven = known.seen.find(&digest, |issuer| known.keys.of(issuer), now);
        let (principal, own) = if let Some(proven) = proven {
            proven
        } else {
            let verified = self.verify(token, words, known.keys, now)?;
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

    /// What a token of our own says, where it is good.
    ///
    /// # Errors
    /// [`Refusal`]; every token of another issuer is [`Refusal::Issuer`].
    pub fn inspect(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Map<String, Value>, Refusal> {
        let checked = self.check(token, keys, now)?;
        if checked.issuer.is_own { Ok(checked.claims) } else { Err(Refusal::Issuer) }
    }

    /// Whether what [`Issuers::inspect`] said was taken back; gives back what it can be taken back by.
    ///
    /// # Errors
    /// [`Refusal::Revoked`], [`Refusal::RevocationUnknown`].
    pub fn standing(&self, claims: &Map<String, Value>, revocations: &dyn Revocations) -> Result<OwnToken, Refusal> {
        let own = OwnToken::of(claims);
        own.check(revocations, self.unknown_after).map(|()| own)
    }

    fn verify(&self, token: &[u8], words: &Vocabulary, keys: &dyn Keys, now: Timestamp) -> Result<Verified, Refusal> {
        let checked = self.check(token, keys, now)?;
        let principal = checked.issuer.principal(&checked.claims, words)?;
        let own = checked.issuer.is_own.then(|| OwnToken::of(&checked.claims));
        let (from, until) = checked.holds;
        Ok(Verified { principal, own, from, until, issuer: checked.position, keys: checked.keys })
    }

    fn check(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Checked<'_>, Refusal> {
        let parts = Parts::read(token)?;
        // Nothing in the token counts before its signature holds; `iss` only says whose keys to try.
        let named = parts.claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Issuer)?;
        let (position, issuer) =
            self.issuers.iter().enumerate().find(|(_, issuer)| *issuer.iss == *named).ok_or(Refusal::Issuer)?;
        let algorithm = issuer.check_header(&parts.header)?;
        let kid = parts.header.get("kid").and_then(Value::as_str);
        let fetched = keys.of(position);
        let candidates = match &issuer.keys {
            KeySource::Fixed(keys) => keys,
            KeySource::Url { .. } => &**fetched.as_ref().ok_or(Refusal::NoKeys)?,
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
            return Err(Refusal::Signature);
        }
        let holds = issuer.check_claims(&parts.claims, now)?;
        Ok(Checked { position, issuer, claims: parts.claims, holds, keys: fetched })
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
    /// The issuer's keys were not to be had so far.
    NoKeys,
    /// Not signed by one of the issuer's keys.
    Signature,
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
    /// It was taken back.
    Revoked,
    /// Whether it was taken back is not known.
    RevocationUnknown,
}
