//! A token taken apart: three parts, each with one spelling, the first two JSON without repeated members.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{MOST_TOKEN, Refusal};
use crate::policy::json;

/// A compact JWS, split and decoded, not verified.
pub(in crate::policy::authenticate) struct Parts<'t> {
    pub(in crate::policy::authenticate) header: Map<String, Value>,
    pub(in crate::policy::authenticate) claims: Map<String, Value>,
    pub(in crate::policy::authenticate) signed: &'t [u8],
    pub(in crate::policy::authenticate) signature: &'t str,
}

impl<'t> Parts<'t> {
    pub(in crate::policy::authenticate) fn read(token: &'t [u8]) -> Result<Self, Refusal> {
        if token.len() > MOST_TOKEN {
            return Err(Refusal::Malformed);
        }
        let text = std::str::from_utf8(token).map_err(|_| Refusal::Malformed)?;
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed);
        };
        let signed = text.get(..header.len() + 1 + claims.len()).unwrap_or_default().as_bytes();
        // The decoder refuses padding, other alphabets and stray last bits, so a token has one spelling.
        if BASE64_URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Refusal::Malformed);
        }
        Ok(Self { header: object(header)?, claims: object(claims)?, signed, signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    match json::parse(&bytes, 8) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Refusal::Malformed),
    }
}
