//! Is the token shown by whoever it was given to? Tokens that are bound to a certificate or to a key.
//!
//! Source: RFC 7800 §3.1 (`cnf`), RFC 8705 §3, RFC 9449 §6. A bound token is good only with its proof, whoever issued
//! it, on every request; what it is bound to was read when it was verified. Never takes a bound token for a plain one.

use serde_json::{Map, Value};

use super::dpop::{self, Thumbprint};
use crate::policy::facts::Facts;
use crate::settings::Named;
use crate::types::Binding;

/// What an issuer's tokens, or a client's, must be bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// Nothing in particular.
    #[default]
    Any,
    /// A client certificate.
    Certificate,
    /// A key that `DPoP` proofs are signed with.
    Dpop,
}

impl Named for Bound {
    const SHAPE: &'static str = "\"any\", \"certificate\" or \"dpop\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("any", Self::Any), ("certificate", Self::Certificate), ("dpop", Self::Dpop)];
}

impl Bound {
    /// Whether a token that is bound so has what is asked for.
    #[must_use]
    pub fn is_met(self, bound: &Binding) -> bool {
        match self {
            Self::Any => true,
            Self::Certificate => bound.certificate.is_some(),
            Self::Dpop => bound.key.is_some(),
        }
    }
}

/// Reads what a token is bound to; `None` where it is bound to what can't be checked here.
#[must_use]
pub fn read(claims: &Map<String, Value>) -> Option<Binding> {
    let Some(confirmation) = claims.get("cnf") else { return Some(Binding::default()) };
    let members = confirmation.as_object().filter(|members| !members.is_empty())?;
    let mut bound = Binding::default();
    for (name, value) in members {
        let thumbprint = Some(dpop::thumbprint(value.as_str()?)?);
        match name.as_str() {
            "x5t#S256" => bound.certificate = thumbprint,
            "jkt" => bound.key = thumbprint,
            _ => return None,
        }
    }
    Some(bound)
}

/// How a token is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: DPoP`, with a proof beside it.
    Dpop,
}

/// Whether the connection and the scheme fit a token; gives back the key that a proof must be made with.
///
/// # Errors
/// [`Refusal`].
pub fn decide(bound: &Binding, shown: Shown, facts: &Facts<'_>) -> Result<Option<Thumbprint>, Refusal> {
    if let Some(thumbprint) = &bound.certificate {
        let certificate = facts.certificate.filter(|certificate| certificate.holds(facts.now));
        if !certificate.ok_or(Refusal::NoCertificate)?.thumbprint.matches(thumbprint) {
            return Err(Refusal::OtherCertificate);
        }
    }
    match (shown, bound.key) {
        (Shown::Bearer, None) => Ok(None),
        (Shown::Bearer, Some(_)) => Err(Refusal::NoProof),
        (Shown::Dpop, None) => Err(Refusal::Unbound),
        (Shown::Dpop, Some(key)) => Ok(Some(key)),
    }
}

/// Why a good token is not good from this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is bound to a certificate, and the connection has none that holds.
    NoCertificate,
    /// It is bound to another certificate.
    OtherCertificate,
    /// It is bound to a key, and shown without a proof.
    NoProof,
    /// It is shown with a proof, and bound to no key.
    Unbound,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_token_is_bound_to_is_read_or_the_token_is_not_taken() {
        let print = "A".repeat(43);
        let read = |claims: Value| read(claims.as_object().expect("an object"));
        let both = read(json!({ "cnf": { "jkt": print, "x5t#S256": print } })).expect("it can be read");
        assert!(both.key.is_some() && both.certificate.is_some());
        assert!(Bound::Dpop.is_met(&both) && Bound::Certificate.is_met(&both));
        let none = read(json!({})).expect("it is bound to nothing");
        assert!(none.key.is_none() && none.certificate.is_none());
        assert!(Bound::Any.is_met(&none) && !Bound::Dpop.is_met(&none) && !Bound::Certificate.is_met(&none));
        for wrong in [
            json!({ "cnf": {} }),
            json!({ "cnf": null }),
            json!({ "cnf": "x" }),
            json!({ "cnf": { "jkt": 1 } }),
            json!({ "cnf": { "jkt": "x" } }),
            json!({ "cnf": { "jkt": format!("{print}A") } }),
            json!({ "cnf": { "jkt": format!("{}B", "A".repeat(42)) } }),
            json!({ "cnf": { "jwk": {} } }),
            json!({ "cnf": { "kid": print } }),
            json!({ "cnf": { "jkt": print, "kid": print } }),
        ] {
            assert!(read(wrong.clone()).is_none(), "{wrong}");
        }
    }
}
