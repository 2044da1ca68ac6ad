//! `DPoP` proofs: does who shows a token hold the key that it is bound to, for this request, now, and once?
//!
//! Source: RFC 9449 §4.3, each of whose checks is here; RFC 7638 for thumbprints. Whether a proof was used before is
//! asked of the store, after everything else holds. Never takes a key from anywhere but the proof itself, whose
//! thumbprint the token names.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, Uri};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde_json::{Map, Value};

use super::jwt::{JwtAlgorithm, Parts, fits};
use super::once::{Once, Proofs};
use crate::policy::facts::Facts;
use crate::policy::path;
use crate::settings::Named as _;
use crate::types::Sha256;

/// The header that proofs come in.
pub static HEADER: HeaderName = HeaderName::from_static("dpop");

/// The longest proof, in bytes: room for a key with 8192 bits, its signature, and a long URL.
const MOST_PROOF: usize = 6 << 10;
/// The longest name of a proof, in bytes.
const MOST_ID: usize = 256;
/// The members of a JWK that are secrets (RFC 7518 §6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The SHA-256 thumbprint of a key.
pub type Thumbprint = Sha256;

/// Reads a thumbprint as tokens write it.
#[must_use]
pub fn thumbprint(text: &str) -> Option<Thumbprint> {
    let octets = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    octets.try_into().ok().map(Sha256::from_bytes)
}

/// Writes it.
#[must_use]
pub fn write_thumbprint(thumbprint: &Thumbprint) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(thumbprint.as_bytes())
}

/// The algorithms that proofs are signed with.
pub fn algorithms() -> impl Iterator<Item = &'static str> {
    let asymmetric = JwtAlgorithm::NAMES.iter().filter(|(_, it)| it.family() != AlgorithmFamily::Hmac);
    asymmetric.map(|(name, _)| *name)
}

/// A proof that holds, if nobody has used it before.
#[derive(Clone, Copy, Debug)]
pub struct Proven {
    /// The key that it was made with.
    pub key: Thumbprint,
    /// What may be used once.
    pub once: Once,
}

/// Decides about the proof of a request. `token` is the access token that it is shown with and `bound` the key that it
/// is bound to; where one is asked for, there is none yet.
///
/// # Errors
/// [`Refusal`].
pub fn decide(proofs: &Proofs, facts: &Facts<'_>, token: Option<(&[u8], &Thumbprint)>) -> Result<Proven, Refusal> {
    let mut values = facts.headers.get_all(&HEADER).iter();
    let proof = match (values.next(), values.next()) {
        (None, _) => return Err(Refusal::Missing),
        (Some(proof), None) => proof.as_bytes(),
        (Some(_), Some(_)) => return Err(Refusal::Several),
    };
    if proof.len() > MOST_PROOF {
        return Err(Refusal::Malformed);
    }
    let parts = Parts::read(proof).map_err(|_| Refusal::Malformed)?;
    let (algorithm, key) = header(&parts.header)?;
    let made_with = key.thumbprint();
    if token.is_some_and(|(_, bound)| !made_with.matches(bound)) {
        return Err(Refusal::OtherKey);
    }
    let once = claims(&parts.claims, proofs, facts, token.map(|(token, _)| token), &made_with)?;
    // The dearest last.
    let verifying = key.verifying(algorithm).ok_or(Refusal::Key)?;
    match jsonwebtoken::crypto::verify(parts.signature, parts.signed, &verifying, algorithm.0) {
        Ok(true) => Ok(Proven { key: made_with, once }),
        _ => Err(Refusal::Signature),
    }
}

fn header(header: &Map<String, Value>) -> Result<(JwtAlgorithm, PublicKey<'_>), Refusal> {
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    if !text("typ").is_some_and(|typ| typ.eq_ignore_ascii_case("dpop+jwt")) {
        return Err(Refusal::Type);
    }
    // RFC 7515 §4.1.11: we understand no extension.
    if header.contains_key("crit") {
        return Err(Refusal::Malformed);
    }
    let algorithm = text("alg").and_then(JwtAlgorithm::parse).filter(|it| it.family() != AlgorithmFamily::Hmac);
    let algorithm = algorithm.ok_or(Refusal::Algorithm)?;
    let jwk = header.get("jwk").and_then(Value::as_object).ok_or(Refusal::Key)?;
    if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
        return Err(Refusal::PrivateKey);
    }
    Ok((algorithm, PublicKey::read(algorithm, jwk).ok_or(Refusal::Key)?))
}

fn claims(
    claims: &Map<String, Value>,
    proofs: &Proofs,
    facts: &Facts<'_>,
    token: Option<&[u8]>,
    key: &Thumbprint,
) -> Result<Once, Refusal> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("htm") != Some(facts.method.as_str()) {
        return Err(Refusal::Method);
    }
    if !text("htu").is_some_and(|url| is_target(url, proofs, facts)) {
        return Err(Refusal::Target);
    }
    let id = text("jti").filter(|id| (1..=MOST_ID).contains(&id.len())).ok_or(Refusal::Name)?;
    let at = claims.get("iat").and_then(Value::as_u64).ok_or(Refusal::Time)?;
    if !proofs.is_recent(at, facts.now) {
        return Err(Refusal::Time);
    }
    if let Some(token) = token {
        let hash = text("ath").and_then(thumbprint).ok_or(Refusal::Token)?;
        if !hash.matches(&Sha256::of(token)) {
            return Err(Refusal::Token);
        }
    }
    Ok(proofs.once(&["dpop", &write_thumbprint(key), id], at))
}

/// Whether a URL is that of the request, without its query (§4.3 point 9), both in their normal form (RFC 3986 §6.2).
fn is_target(url: &str, proofs: &Proofs, facts: &Facts<'_>) -> bool {
    let Ok(url) = url.parse::<Uri>() else { return false };
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else { return false };
    if !scheme.eq_ignore_ascii_case("https") || authority.as_str().contains('@') {
        return false;
    }
    proofs.is_authority(authority.as_str(), facts) && path::normalize(url.path()).is_ok_and(|path| path == facts.path)
}

/// A public key as a JWK has it (RFC 7518 §6, RFC 8037 §2): what its thumbprint is made of.
#[derive(Clone, Copy, Debug)]
enum PublicKey<'a> {
    Ec { curve: &'a str, x: &'a str, y: &'a str },
    Rsa { e: &'a str, n: &'a str },
    Okp { x: &'a str },
}

impl<'a> PublicKey<'a> {
    fn read(algorithm: JwtAlgorithm, jwk: &'a Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        // Canonical base64url alone, so that a key has one thumbprint.
        let number = |name: &str| text(name).filter(|text| BASE64_URL_SAFE_NO_PAD.decode(text).is_ok());
        if text("alg").is_some_and(|named| JwtAlgorithm::parse(named) != Some(algorithm)) {
            return None;
        }
        let curve = text("crv");
        match (algorithm.0, text("kty")?) {
            (Algorithm::ES256, "EC") if curve == Some("P-256") => {
                Some(Self::Ec { curve: "P-256", x: number("x")?, y: number("y")? })
            }
            (Algorithm::ES384, "EC") if curve == Some("P-384") => {
                Some(Self::Ec { curve: "P-384", x: number("x")?, y: number("y")? })
            }
            (Algorithm::EdDSA, "OKP") if curve == Some("Ed25519") => Some(Self::Okp { x: number("x")? }),
            (_, "RSA") if algorithm.family() == AlgorithmFamily::Rsa => {
                Some(Self::Rsa { e: number("e")?, n: number("n")? })
            }
            _ => None,
        }
    }

    /// RFC 7638 §3: the members that make the key, in their order, without spaces.
    fn thumbprint(self) -> Thumbprint {
        let text = match self {
            Self::Ec { curve, x, y } => format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#),
            Self::Rsa { e, n } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::Okp { x } => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#),
        };
        Sha256::of(text.as_bytes())
    }

    fn verifying(self, algorithm: JwtAlgorithm) -> Option<DecodingKey> {
        let key = match self {
            Self::Ec { x, y, .. } => DecodingKey::from_ec_components(x, y),
            Self::Rsa { e, n } => DecodingKey::from_rsa_components(n, e),
            Self::Okp { x } => DecodingKey::from_ed_components(x),
        };
        key.ok().filter(|key| fits(algorithm, key).is_ok())
    }
}

/// Why a proof is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    Missing,
    /// There are several.
    Several,
    /// It is no compact JWS that can be read in one way, or has what we don't understand.
    Malformed,
    /// Its `typ` is another.
    Type,
    /// An algorithm that proofs don't have.
    Algorithm,
    /// No public key, or none for its algorithm.
    Key,
    /// It shows a private key, which is known to others from now on.
    PrivateKey,
    /// Another key than the one that the token is bound to.
    OtherKey,
    /// Not signed with its key.
    Signature,
    /// Made for another method.
    Method,
    /// Made for another URL.
    Target,
    /// It has no usable name.
    Name,
    /// Made too long ago, or in the future.
    Time,
    /// Made for another token.
    Token,
}

impl Refusal {
    /// What is wrong, for whoever made it.
    #[must_use]
    pub fn detail(self) -> &'static str {
        match self {
            Self::Missing => "Send a proof in the header DPoP (RFC 9449 §4.1).",
            Self::Several => "Send exactly one header DPoP.",
            Self::Malformed => "The proof is not a signed JWT that can be read in one way, or has `crit`.",
            Self::Type => "The proof's `typ` is not dpop+jwt.",
            Self::Algorithm => "The proof's `alg` is not taken; WWW-Authenticate lists those that are.",
            Self::Key => "The proof's `jwk` is not a public key for its `alg`.",
            Self::PrivateKey => {
                "The proof's `jwk` has the private key in it. Make a new key; this one is no secret any more."
            }
            Self::OtherKey => "The proof was made with another key than the one that the token is bound to.",
            Self::Signature => "The proof's signature does not hold.",
            Self::Method => "The proof's `htm` is not the request's method.",
            Self::Target => "The proof's `htu` is not the request's URL.",
            Self::Name => "The proof has no usable `jti`: a string of 1 to 256 bytes, new for each proof.",
            Self::Time => {
                "The proof's `iat` is missing, too old or in the future. Check the clock and make a new one for each request."
            }
            Self::Token => "The proof's `ath` is not the SHA-256 of this token.",
        }
    }
}
