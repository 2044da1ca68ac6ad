//! Sealed texts: Fernet tokens, as Python's `cryptography` makes and reads them.
//!
//! Source: the Fernet specification (github.com/fernet/spec, version 0x80): AES-128-CBC with PKCS #7, then HMAC-SHA256 over
//! version, time, IV and ciphertext, which is checked before anything is decrypted. Never makes an IV: the caller brings
//! it.

use std::time::Duration;

use aws_lc_rs::cipher::{
    AES_128, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::{Map, Value};

use super::body::Fault;
use crate::settings::{Named, Section};
use crate::types::{Secret, Timestamp};

const VERSION: u8 = 0x80;
const IV: usize = 16;
/// Version, time and IV.
const HEAD: usize = 1 + 8 + IV;
const MAC: usize = 32;
/// How far ahead the clock of whoever sealed may be, in seconds.
const MOST_SKEW: u64 = 60;

/// What is done with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It is sealed.
    Encrypt,
    /// It is opened.
    Decrypt,
}

impl Named for Direction {
    const SHAPE: &'static str = "\"encrypt\" or \"decrypt\"";
    const NAMES: &'static [(&'static str, Self)] = &[("encrypt", Self::Encrypt), ("decrypt", Self::Decrypt)];
}

struct Key {
    sign: hmac::Key,
    encrypt: PaddedBlockEncryptingKey,
    decrypt: PaddedBlockDecryptingKey,
}

impl Key {
    fn parse(secret: &Secret) -> Result<Self, &'static str> {
        const WRONG: &str = "is not a Fernet key: 32 octets in base64url, with padding";
        let octets = Secret::new(BASE64_URL_SAFE.decode(secret.expose()).map_err(|_| WRONG)?);
        let (sign, encrypt) = octets.expose().split_at_checked(16).filter(|(_, rest)| rest.len() == 16).ok_or(WRONG)?;
        let unbound = || UnboundCipherKey::new(&AES_128, encrypt).map_err(|_| WRONG);
        Ok(Self {
            sign: hmac::Key::new(hmac::HMAC_SHA256, sign),
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).map_err(|_| WRONG)?,
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).map_err(|_| WRONG)?,
        })
    }

    fn open(&self, token: &[u8], signed: &[u8], mac: &[u8]) -> Option<Vec<u8>> {
        hmac::verify(&self.sign, signed, mac).ok()?;
        let iv: [u8; IV] = token.get(9..HEAD)?.try_into().ok()?;
        let mut text = signed.get(HEAD..)?.to_vec();
        let opened = self.decrypt.decrypt(&mut text, DecryptionContext::Iv128((&iv).into())).ok()?;
        Some(opened.to_vec())
    }
}

/// The keys: the first seals, all open.
pub struct Fernet {
    keys: Vec<Key>,
    max_age: Option<u64>,
}

impl std::fmt::Debug for Fernet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fernet").field("keys", &self.keys.len()).field("max_age", &self.max_age).finish()
    }
}

impl Fernet {
    /// Reads `[fernet]`.
    #[must_use]
    pub fn compile(section: &Section<'_>) -> Option<Self> {
        let max_age = section.optional::<Duration>("max_age").map(|age| age.as_secs());
        Self::compile_keys(section).map(|fernet| Self { max_age, ..fernet })
    }

    /// With one key, which is written out.
    #[cfg(test)]
    pub(super) fn of(key: &str) -> Option<Self> {
        Some(Self { keys: vec![Key::parse(&Secret::from_text(key.as_bytes())).ok()?], max_age: None })
    }

    /// Reads `key` and `keys` of a table.
    pub(super) fn compile_keys(section: &Section<'_>) -> Option<Self> {
        let read = |section: &Section<'_>| {
            let key = section.secret("key");
            if !section.has("key") {
                section.missing("key", "write { file = \"fernet.key\" } or { env = \"NAME\" }");
            }
            let remedy =
                "make one with Fernet.generate_key() of Python's cryptography, or `openssl rand -base64 32 | tr +/ -_`";
            Key::parse(&key?).map_err(|reason| section.mistake("key", reason, remedy)).ok()
        };
        let first = read(section);
        let mut others = Vec::new();
        for other in section.sections("keys") {
            others.extend(read(&other));
            other.finish();
        }
        let mut keys = vec![first?];
        keys.append(&mut others);
        Some(Self { keys, max_age: None })
    }

    /// Seals a text.
    #[must_use]
    pub fn seal(&self, text: &[u8], iv: [u8; IV], now: Timestamp) -> Option<String> {
        let key = self.keys.first()?;
        let mut sealed = text.to_vec();
        key.encrypt.less_safe_encrypt(&mut sealed, EncryptionContext::Iv128((&iv).into())).ok()?;
        let mut token = Vec::with_capacity(HEAD + sealed.len() + MAC);
        token.push(VERSION);
        token.extend_from_slice(&now.secs().to_be_bytes());
        token.extend_from_slice(&iv);
        token.extend_from_slice(&sealed);
        let mac = hmac::sign(&key.sign, &token);
        token.extend_from_slice(mac.as_ref());
        Some(BASE64_URL_SAFE.encode(token))
    }

    /// How old a token may be, in seconds, where there is a bound.
    #[must_use]
    pub fn max_age(&self) -> Option<u64> {
        self.max_age
    }

    /// Opens what was sealed with one of the keys and is not too old.
    #[must_use]
    pub fn open(&self, token: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        self.open_within(token, now, self.max_age)
    }

    /// The same, for tokens of at most this age in seconds.
    #[must_use]
    pub fn open_within(&self, token: &[u8], now: Timestamp, max_age: Option<u64>) -> Option<Vec<u8>> {
        let token = BASE64_URL_SAFE.decode(token).ok()?;
        let (signed, mac) = token.split_at_checked(token.len().checked_sub(MAC)?)?;
        let made = u64::from_be_bytes(token.get(1..9)?.try_into().ok()?);
        if token.first() != Some(&VERSION) || signed.len() < HEAD + IV || made > now.secs().saturating_add(MOST_SKEW) {
            return None;
        }
        // Whether it is too old is told only to whoever shows a good one.
        let opened = self.keys.iter().find_map(|key| key.open(&token, signed, mac))?;
        max_age.is_none_or(|age| made.saturating_add(age) >= now.secs()).then_some(opened)
    }

    /// Answers a request to seal (`text`, or `base64` for what is no text) or to open (`token`).
    ///
    /// # Errors
    /// What is wrong with the body.
    pub fn answer(
        &self,
        direction: Direction,
        body: &Value,
        iv: [u8; IV],
        now: Timestamp,
    ) -> Result<Value, Box<Fault>> {
        let fault = |pointer: &str, code, detail: &str| {
            Box::new(Fault { pointer: pointer.into(), code, detail: detail.into(), limit: None, sent: None })
        };
        let empty = Map::new();
        let body = body.as_object().unwrap_or(&empty);
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if body.len() != 1 {
            return Err(fault(
                "",
                "required",
                "is not an object with one member: `text` or `base64` to encrypt, `token` to decrypt",
            ));
        }
        let (name, value) = match direction {
            Direction::Encrypt => {
                let sealed = match (text("text"), text("base64")) {
                    (Some(text), _) => self.seal(text.as_bytes(), iv, now),
                    (None, Some(octets)) => {
                        let octets = BASE64_URL_SAFE.decode(octets);
                        self.seal(
                            &octets.map_err(|_| fault("/base64", "base64", "is not base64url with padding"))?,
                            iv,
                            now,
                        )
                    }
                    (None, None) => return Err(fault("/text", "required", "is missing, or no text")),
                };
                ("token", sealed.ok_or_else(|| fault("", "sealing", "could not be sealed"))?)
            }
            Direction::Decrypt => {
                let token = text("token").ok_or_else(|| fault("/token", "required", "is missing, or no text"))?;
                let opened = self.open(token.as_bytes(), now);
                let opened = opened.ok_or_else(|| {
                    fault("/token", "fernet", "was not sealed with a key that is known here, or is too old")
                })?;
                match String::from_utf8(opened) {
                    Ok(text) => ("text", text),
                    Err(octets) => ("base64", BASE64_URL_SAFE.encode(octets.as_bytes())),
                }
            }
        };
        Ok(Value::Object(Map::from_iter([(name.to_owned(), Value::String(value))])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fernet(keys: &[&str], max_age: Option<u64>) -> Fernet {
        let keys = keys.iter().map(|key| Key::parse(&Secret::from_text(key.as_bytes())).expect("a key"));
        Fernet { keys: keys.collect(), max_age }
    }

    /// The specification's own vector.
    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const TOKEN: &str =
        "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

    #[test]
    fn the_specifications_vector() {
        let fernet = fernet(&[KEY], Some(60));
        let at = Timestamp::from_secs(499_162_800);
        assert_eq!(
            fernet.seal(b"hello", std::array::from_fn(|i| u8::try_from(i).expect("small")), at).as_deref(),
            Some(TOKEN)
        );
        assert_eq!(fernet.open(TOKEN.as_bytes(), Timestamp::from_secs(499_162_801)), Some(b"hello".to_vec()));
        assert_eq!(fernet.open(TOKEN.as_bytes(), Timestamp::from_secs(499_162_861)), None, "too old");
        assert_eq!(fernet.open(TOKEN.as_bytes(), Timestamp::from_secs(499_162_700)), None, "from the future");
    }

    #[test]
    fn nothing_opens_but_what_was_sealed() {
        let other = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let at = Timestamp::from_secs(499_162_800);
        let old = fernet(&[KEY], None);
        let new = fernet(&[other, KEY], None);
        let sealed = new.seal(b"x", [7; 16], at).expect("it seals");
        assert!(new.open(TOKEN.as_bytes(), at).is_some(), "the old key still opens");
        assert!(old.open(sealed.as_bytes(), at).is_none(), "the new one seals");
        let raw = BASE64_URL_SAFE.decode(&sealed).expect("base64url");
        for index in 0..raw.len() {
            let mut changed = raw.clone();
            changed[index] ^= 1;
            assert!(new.open(BASE64_URL_SAFE.encode(&changed).as_bytes(), at).is_none(), "{index}");
            assert!(new.open(BASE64_URL_SAFE.encode(&raw[..index]).as_bytes(), at).is_none(), "{index}");
        }
        for wrong in ["", "x", "====", "gAAAAA=="] {
            assert!(new.open(wrong.as_bytes(), at).is_none(), "{wrong}");
        }
        for wrong in ["", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4Q=="]
        {
            assert!(Key::parse(&Secret::from_text(wrong.as_bytes())).is_err(), "{wrong}");
        }
    }
}
