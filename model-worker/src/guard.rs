//! Whether the gateway vouches for a request. Reaching the port is not enough where a key is given: each request then
//! brings `X-Modelgate-Assertion`, a short-lived JWT that the gateway signed for this worker. The gateway sends the same
//! one for the same caller until half its life is over, so what has been verified is remembered.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderMap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use crate::failure::{Exit, Failure};
use crate::problem::Refusal;

const HEADER: &str = "x-modelgate-assertion";
/// How far two clocks may differ, in seconds.
const LEEWAY: u64 = 5;

/// Most assertions that are remembered.
const MOST_KNOWN: usize = 1024;

/// What must be in an assertion beside what the library checks; `roles` and `scope` are not looked at.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    iat: u64,
    exp: u64,
}

/// Checks assertions.
pub struct Guard {
    key: DecodingKey,
    validation: Validation,
    lifetime: u64,
    /// Assertions that were found good, with the second at which they expire.
    known: Mutex<HashMap<Box<str>, u64>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}

impl Guard {
    /// A guard that asks for assertions for `audience`, by `issuer`, signed with the key whose public half `pem` holds:
    /// P-256 for ES256 or Ed25519 for `EdDSA`. None lives for longer than `lifetime`.
    #[must_use]
    pub fn new(pem: &[u8], audience: &str, issuer: &str, lifetime: Duration) -> Option<Self> {
        let (key, algorithm) = DecodingKey::from_ed_pem(pem)
            .map(|key| (key, Algorithm::EdDSA))
            .or_else(|_| DecodingKey::from_ec_pem(pem).map(|key| (key, Algorithm::ES256)))
            .ok()?;
        let mut validation = Validation::new(algorithm);
        validation.set_audience(&[audience]);
        validation.set_issuer(&[issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        Some(Self { key, validation, lifetime: lifetime.as_secs(), known: Mutex::default() })
    }

    /// A guard whose key is in a file.
    ///
    /// # Errors
    ///
    /// Exit code 66 when the file is missing, 65 when it holds no such key.
    pub fn load(path: &Path, audience: &str, issuer: &str, lifetime: Duration) -> Result<Self, Failure> {
        let what = || format!("cannot use the key in {}", path.display());
        let pem = std::fs::read(path).map_err(|error| Failure::reading(what(), &error))?;
        Self::new(&pem, audience, issuer, lifetime).ok_or_else(|| {
            let hint = "give the gateway's public key: `openssl pkey -in private.pem -pubout`";
            Failure::new(Exit::BadData, what(), "it is no PEM public key of P-256 or Ed25519", hint)
        })
    }

    /// Lets a request through that the gateway vouches for, now.
    ///
    /// # Errors
    ///
    /// Why it does not; never what the assertion held.
    pub fn check(&self, headers: &HeaderMap, now: SystemTime) -> Result<(), Refusal> {
        let mut values = headers.get_all(HEADER).iter();
        let value = match (values.next(), values.next()) {
            (Some(only), None) => only.to_str().map_err(|_| Refusal::NotVouched("The assertion is no JWT"))?,
            (None, _) => return Err(Refusal::NotVouched("X-Modelgate-Assertion is missing")),
            _ => return Err(Refusal::NotVouched("X-Modelgate-Assertion is there more than once")),
        };
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(value).is_some_and(|expires| now < *expires) {
            return Ok(());
        }
        let claims = decode::<Claims>(value, &self.key, &self.validation)
            .map_err(|_| Refusal::NotVouched("The assertion is not signed for this worker, or has expired"))?
            .claims;
        let short = claims.exp.checked_sub(claims.iat).is_some_and(|life| life <= self.lifetime);
        if !short || claims.iat > now + LEEWAY {
            return Err(Refusal::NotVouched("The assertion lives for longer than is taken, or is from the future"));
        }
        if claims.sub.is_empty() {
            return Err(Refusal::NotVouched("The assertion names no principal"));
        }
        if known.len() >= MOST_KNOWN {
            known.retain(|_, expires| now < *expires);
        }
        if known.len() < MOST_KNOWN {
            known.insert(value.into(), claims.exp);
        }
        Ok(())
    }
}
