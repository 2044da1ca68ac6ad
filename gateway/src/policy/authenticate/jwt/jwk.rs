//! JWK Sets (RFC 7517), fetched or in a file: only what can verify is a key.

use jsonwebtoken::jwk::{Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde_json::Value;

use super::algorithm::JwtAlgorithm;
use super::key::{VerifyKey, fits};
use crate::policy::json;

/// The most keys of a set that are looked at.
const MOST_KEYS: usize = 64;

/// The keys of a published set that these algorithms can be verified with. Keys of other kinds may stand beside them
/// (RFC 7517 §5), symmetric ones never count, and one whose private half is shown is nobody's.
///
/// # Errors
/// Why there is none.
pub fn key_set(body: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Vec<VerifyKey>, String> {
    let set = json::parse(body, 8).map_err(|wrong| format!("its key set is not JSON: {}", wrong.detail))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or("its key set has no `keys`")?;
    let keys: Vec<VerifyKey> = listed.iter().take(MOST_KEYS).flat_map(|listed| keys_of(listed, algorithms)).collect();
    if keys.is_empty() { Err("its key set has no key for the algorithms that are configured".into()) } else { Ok(keys) }
}

/// The keys of a set that the operator wrote down; a private key in it is a mistake.
///
/// # Errors
/// Why it can't be used, without showing it.
pub(super) fn written_set(body: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Vec<VerifyKey>, String> {
    let set = json::parse(body, 8).map_err(|wrong| format!("is not a JWK Set: {}", wrong.detail))?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or("is not a JWK Set: it has no `keys`")?;
    written(listed, algorithms)
}

/// One key that the operator wrote down.
///
/// # Errors
/// Why it can't be used, without showing it.
pub(super) fn written_key(body: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Vec<VerifyKey>, String> {
    let key = json::parse(body, 8).map_err(|wrong| format!("is not a JWK: {}", wrong.detail))?;
    written(&[key], algorithms)
}

fn written(listed: &[Value], algorithms: &[JwtAlgorithm]) -> Result<Vec<VerifyKey>, String> {
    if listed.iter().any(is_private) {
        return Err("holds a private or symmetric key, and only public ones belong here".into());
    }
    let keys: Vec<VerifyKey> = listed.iter().flat_map(|listed| keys_of(listed, algorithms)).collect();
    match algorithms.iter().find(|algorithm| !keys.iter().any(|key| key.algorithm == **algorithm)) {
        Some(missing) => Err(format!("has no key for {:?}", missing.0)),
        None => Ok(keys),
    }
}

/// Whether it holds what signs: `d` of RSA, elliptic and Edwards curves, `k` of secrets (RFC 7518 §6, RFC 8037 §2).
fn is_private(listed: &Value) -> bool {
    ["d", "k"].iter().any(|member| listed.get(member).is_some())
}

/// A key, once for each algorithm that it may be used with.
fn keys_of(listed: &Value, algorithms: &[JwtAlgorithm]) -> Vec<VerifyKey> {
    let read = || {
        let jwk = serde_json::from_value::<Jwk>(listed.clone()).ok().filter(|_| !is_private(listed))?;
        let common = &jwk.common;
        let verifies = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|may| may.contains(&KeyOperations::Verify));
        let key = DecodingKey::from_jwk(&jwk).ok().filter(|key| verifies && key.family() != AlgorithmFamily::Hmac)?;
        Some((jwk, key))
    };
    let Some((jwk, key)) = read() else { return Vec::new() };
    let stated = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
    let fit = algorithms.iter().filter(|algorithm| {
        let is_stated = stated.as_ref().is_none_or(|stated| *stated == format!("{:?}", algorithm.0));
        is_stated && key.family() == algorithm.family() && fits(**algorithm, &key).is_ok()
    });
    let kid = jwk.common.key_id.as_deref();
    fit.map(|&algorithm| VerifyKey { kid: kid.map(Into::into), algorithm, key: key.clone() }).collect()
}
