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
    let length = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
        // RFC 8017 §A.1.1 in DER: the modulus with 14 octets around it.
        DecodingKeyKind::SecretOrDer(der) if algorithm.family() == AlgorithmFamily::Rsa => der.len().saturating_sub(14),
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
    };
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
