//! The keys of the gateway's own tokens: one that signs, and those whose signatures hold besides, so that keys
//! change without refusing a live token. What is published of them is public (RFC 7517); an HMAC secret never is.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, EncodingKey};

use crate::policy::authenticate::jwt::{JwtAlgorithm, VerifyKey, public_key, strong_secret};
use crate::settings::Section;
use crate::types::Secret;

/// The keys.
pub(super) struct OwnKeys {
    pub(super) signing: EncodingKey,
    /// The one that belongs to `signing` first.
    pub(super) verify: Vec<VerifyKey>,
    published: JwkSet,
}

impl OwnKeys {
    /// Reads `algorithm`, `signing_key` and every `[token.keys.NAME]`.
    pub(super) fn compile(section: &Section<'_>) -> Option<Self> {
        let algorithm: Option<JwtAlgorithm> = section.required("algorithm", "write one such as \"ES256\"");
        let key = section.secret("signing_key");
        let pair = algorithm.zip(key).and_then(|(algorithm, key)| signing_pair(section, algorithm, &key));
        let mut others = Vec::new();
        for other in section.sections("keys") {
            others.extend(verify_only(&other));
            other.finish();
        }
        let (signing, first, jwk) = pair?;
        let (mut verify, mut published) = (vec![first], JwkSet { keys: Vec::from_iter(jwk) });
        for (key, jwk) in others {
            if key.kid.is_some() && verify.iter().any(|known| known.kid == key.kid) {
                section.mistake("keys", "has a key that stands here twice", "keep one of them");
            }
            verify.push(key);
            published.keys.extend(jwk);
        }
        Some(Self { signing, verify, published })
    }

    /// The JWK Set (RFC 7517 §5), public keys alone.
    pub(super) fn jwks(&self) -> Vec<u8> {
        serde_json::to_vec(&self.published).unwrap_or_default()
    }
}

fn verify_only(section: &Section<'_>) -> Option<(VerifyKey, Option<Jwk>)> {
    let algorithm: JwtAlgorithm = section.required("algorithm", "write the one that the key is for: \"ES256\"")?;
    match (section.has("public_key"), section.has("signing_key")) {
        (true, false) => {
            let pem = section.file("public_key", "name a PEM file with the public key")?;
            let read = public_key(algorithm, &pem).and_then(|key| {
                let jwk = Jwk::from_decoding_key(&key, Some(algorithm.0)).map_err(|error| error.to_string())?;
                let jwk = named(jwk)?;
                Ok((VerifyKey { kid: jwk.common.key_id.as_deref().map(Into::into), algorithm, key }, Some(jwk)))
            });
            read.map_err(|reason| {
                section.mistake("public_key", reason, "check that the key is of the algorithm's kind");
            })
            .ok()
        }
        (false, true) => {
            let secret = section.secret("signing_key")?;
            signing_pair(section, algorithm, &secret).map(|(_, key, jwk)| (key, jwk))
        }
        _ => {
            section.missing(
                "public_key",
                "write public_key = \"old.pem\", or signing_key = { file = \"next.key\" } for a key that will sign next or \
                 an HMAC secret",
            );
            None
        }
    }
}

/// Reads `signing_key`: what signs, what its signatures are verified with, and what of it is published.
pub(in crate::policy) fn signing_pair(
    section: &Section<'_>,
    algorithm: JwtAlgorithm,
    secret: &Secret,
) -> Option<(EncodingKey, VerifyKey, Option<Jwk>)> {
    key_pair(algorithm, secret)
        .map_err(|reason| {
            section.mistake(
                "signing_key",
                reason,
                "make one as certs/README.md shows: PEM (PKCS #8), or 32 random bytes or more for HS256",
            );
        })
        .ok()
}

/// The key under its own name: the thumbprint of RFC 7638, which says which key it is wherever it is listed.
fn named(mut jwk: Jwk) -> Result<Jwk, String> {
    jwk.common.key_id = Some(jwk.thumbprint(ThumbprintHash::SHA256).map_err(|error| error.to_string())?);
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    Ok(jwk)
}

fn public_part(algorithm: JwtAlgorithm, key: &EncodingKey) -> Result<Jwk, jsonwebtoken::errors::Error> {
    // A private key may have the public one beside it (RFC 5958 §2), which the other way does not read.
    match Ed25519KeyPair::from_pkcs8(key.as_bytes()) {
        Ok(pair) if algorithm.family() == AlgorithmFamily::Ed => {
            Jwk::from_decoding_key(&DecodingKey::from_ed_der(pair.public_key().as_ref()), Some(algorithm.0))
        }
        _ => Jwk::from_encoding_key(key, algorithm.0),
    }
}

/// Reads a signing key, what its signatures are verified with, and what of it is published.
fn key_pair(algorithm: JwtAlgorithm, secret: &Secret) -> Result<(EncodingKey, VerifyKey, Option<Jwk>), String> {
    let bytes = secret.expose();
    let wrong = |error: jsonwebtoken::errors::Error| format!("is not a key for {:?}: {error}", algorithm.0);
    let signing_key = match algorithm.family() {
        AlgorithmFamily::Hmac => {
            strong_secret(bytes)?;
            EncodingKey::from_secret(bytes)
        }
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(bytes).map_err(wrong)?,
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(bytes).map_err(wrong)?,
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(bytes).map_err(wrong)?,
    };
    let (key, jwk) = if algorithm.family() == AlgorithmFamily::Hmac {
        (DecodingKey::from_secret(bytes), None)
    } else {
        let jwk = named(public_part(algorithm, &signing_key).map_err(wrong)?)?;
        (DecodingKey::from_jwk(&jwk).map_err(wrong)?, Some(jwk))
    };
    // A key of the wrong size or curve shows itself when it is first used: here, not in a request.
    let signature = jsonwebtoken::crypto::sign(b"probe", &signing_key, algorithm.0).map_err(wrong)?;
    if !jsonwebtoken::crypto::verify(&signature, b"probe", &key, algorithm.0).unwrap_or(false) {
        return Err(format!("does not verify its own signatures with {:?}", algorithm.0));
    }
    let kid = jwk.as_ref().and_then(|jwk| jwk.common.key_id.as_deref()).map(Into::into);
    Ok((signing_key, VerifyKey { kid, algorithm, key }, jwk))
}
