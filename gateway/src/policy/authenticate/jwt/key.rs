//! Keys that signatures are verified with, and what makes one fit for its algorithm.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};

use super::algorithm::JwtAlgorithm;

/// A key that signatures are verified with, bound to one algorithm.
#[derive(Clone, Debug)]
pub struct VerifyKey {
    /// What the token's `kid` is compared with; a key without one is tried for every token.
    pub kid: Option<Box<str>>,
    /// The only algorithm that it is used with (RFC 8725 §3.1).
    pub algorithm: JwtAlgorithm,
    /// The key.
    pub key: DecodingKey,
}

/// Reads a public key for an algorithm.
///
/// # Errors
/// Why it can't be used, without showing it.
pub fn public_key(algorithm: JwtAlgorithm, pem: &[u8]) -> Result<DecodingKey, String> {
    if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err("is a private key, and only the public one belongs here".into());
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => {
            return Err("is a public key beside an HMAC algorithm, for which it would be no secret".into());
        }
    };
    let key = key.map_err(|error| format!("is not a key for {:?}: {error}", algorithm.0))?;
    fits(algorithm, &key)?;
    Ok(key)
}

/// Whether a key has the size that its algorithm needs; one that has not would only ever refuse.
///
/// # Errors
/// Why not.
pub fn fits(algorithm: JwtAlgorithm, key: &DecodingKey) -> Result<(), String> {
    let (bytes, length) = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => (&[][..], n.len()),
        // RFC 8017 §A.1.1 in DER: the modulus with 14 octets around it.
        DecodingKeyKind::SecretOrDer(der) if algorithm.family() == AlgorithmFamily::Rsa => {
            (&[][..], der.len().saturating_sub(14))
        }
        DecodingKeyKind::SecretOrDer(bytes) => (bytes.as_slice(), bytes.len()),
    };
    if algorithm.0 == Algorithm::EdDSA && is_of_small_order(bytes) {
        return Err("is a point of small order, with which everything could be signed".into());
    }
    // Elliptic keys are uncompressed points: one octet and two coordinates (SEC 1 §2.3.3).
    let right = match algorithm.0 {
        Algorithm::ES256 => length == 65,
        Algorithm::ES384 => length == 97,
        Algorithm::EdDSA => length == 32,
        Algorithm::RS256 | Algorithm::PS256 => (256..=1024).contains(&length),
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(format!("has a size that {:?} does not take (RSA: 2048 bits at least)", algorithm.0))
    }
}

/// Whether it is one of the encodings of the eight points whose order divides the cofactor of Ed25519 (RFC 8032 §5.1),
/// the sign apart: y is 0, 1, -1, 0 and 1 with p added, or one of two of order 8.
fn is_of_small_order(point: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let [first, middle @ .., last] = point else { return false };
    let last = last & 0x7f;
    match (first, last) {
        (0 | 1, 0) => middle.iter().all(|b| *b == 0),
        (0xec..=0xee, 0x7f) => middle.iter().all(|b| *b == 0xff),
        _ => ORDER_8.iter().any(|[it @ .., end]| *end == last && point.starts_with(it)),
    }
}

/// Whether an HMAC secret is one that can't be guessed (RFC 8725 §3.5).
///
/// # Errors
/// Why not, without showing it.
pub fn strong_secret(secret: &[u8]) -> Result<(), String> {
    let distinct = secret.iter().fold([false; 256], |mut seen, &byte| {
        if let Some(seen) = seen.get_mut(usize::from(byte)) {
            *seen = true;
        }
        seen
    });
    match (secret.len(), distinct.iter().filter(|seen| **seen).count()) {
        (0..32, _) => Err(format!("is {} bytes long, and an HMAC secret has at least 32", secret.len())),
        (_, 0..10) => Err("repeats a few characters and could be guessed".into()),
        _ => Ok(()),
    }
}
