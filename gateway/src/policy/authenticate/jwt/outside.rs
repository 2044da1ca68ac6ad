//! What is kept up outside of decisions: keys that issuers publish, and what they say of tokens.

use std::sync::Arc;

use super::Refusal;
use super::algorithm::JwtAlgorithm;
use super::issuer::{Introspection, Publication};
use super::key::VerifyKey;
use crate::types::{Name, Principal, Sha256, Timestamp};

/// Where the keys of issuers that publish them are found; `edge::keys` keeps them fresh.
pub trait Keys {
    /// The last good keys of the issuer at this position, if there are any.
    fn of(&self, issuer: usize) -> Option<Arc<Vec<VerifyKey>>>;
    /// Whether the issuer may be asked now for a key that is not among them.
    fn may_refetch(&self, issuer: usize) -> bool;
    /// Whether the last time that its keys were fetched they could not be had, so that there may be others.
    fn is_failing(&self, issuer: usize) -> bool;
}

/// What issuers said of tokens; `edge::introspection` asks them.
pub trait Introspections {
    /// What the issuer at this position said of the token with this digest, while it still counts.
    fn said(&self, issuer: usize, token: &Sha256, now: Timestamp) -> Option<Result<Proven, Refusal>>;
}

/// Whom an introspected token stands for, and for how long.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Whom.
    pub principal: Arc<Principal>,
    /// From when, leeway included.
    pub from: Timestamp,
    /// Until when, leeway included.
    pub until: Timestamp,
}

/// An issuer whose keys are fetched.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Its position.
    pub position: usize,
    /// Its name in TOML.
    pub name: &'a Name,
    /// The `iss` of its tokens.
    pub issuer: &'a str,
    /// Where its JWK Set is.
    pub publication: &'a Publication,
    /// Who vouches for its hosts, in PEM; the system's authorities where absent.
    pub ca: Option<&'a [u8]>,
    /// The algorithms that its keys may have.
    pub algorithms: &'a [JwtAlgorithm],
}

impl Published<'_> {
    /// Whether the same keys are fetched in the same way, whatever else the policy says of it.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.name, it.issuer, it.publication, it.ca, it.algorithms);
        of(self) == of(other)
    }
}

/// An issuer that is asked about tokens.
#[derive(Clone, Copy, Debug)]
pub struct Introspected<'a> {
    /// Its position.
    pub position: usize,
    /// Its name in TOML.
    pub name: &'a Name,
    /// How.
    pub introspection: &'a Introspection,
    /// Who vouches for its host, in PEM; the system's authorities where absent.
    pub ca: Option<&'a [u8]>,
}
