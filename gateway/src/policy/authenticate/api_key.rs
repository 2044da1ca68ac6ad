//! API keys: `mgk_<id>_<secret><check>`.
//!
//! The id is public and names the entry in the policy; the secret is 160 random bits in hexadecimal,
//! so a plain SHA-256 of the whole key is enough to store (there is nothing to guess); the check is the
//! start of a digest, so that a mistyped key is told from a wrong one. Only the digest is kept, the
//! lookup is by id, and the comparison takes the same time however much of the secret is right.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::authorize::Vocabulary;
use crate::settings::Section;
use crate::types::{ClaimSet, Principal, Scheme, Sha256, Timestamp};

/// What every key begins with, so that people and scanners recognise a leaked one.
pub const PREFIX: &str = "mgk_";
const SECRET_DIGITS: usize = 40;
const CHECK_DIGITS: usize = 8;

/// Builds a key from an id and 20 random bytes.
#[must_use]
pub fn compose(id: &str, secret: [u8; 20]) -> String {
    let body = secret.iter().fold(format!("{PREFIX}{id}_"), |key, byte| key + &format!("{byte:02x}"));
    let check = check(&body);
    body + &String::from_utf8_lossy(&check)
}

/// Whether an id can stand in a key.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check(body: &str) -> [u8; CHECK_DIGITS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = u32::from_be_bytes(Sha256::of(body.as_bytes()).prefix());
    std::array::from_fn(|place| DIGITS.get((number >> (28 - 4 * place)) as usize % 16).copied().unwrap_or_default())
}

#[derive(Debug)]
struct ApiKey {
    digest: Sha256,
    expires: Option<Timestamp>,
    principal: Arc<Principal>,
}

/// All keys by id.
#[derive(Debug)]
pub struct ApiKeys {
    keys: HashMap<Box<str>, ApiKey>,
    /// What an unknown id is compared with, so that it costs what a known one does.
    nobody: Sha256,
}

impl ApiKeys {
    /// Reads every `[api_keys.ID]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary) -> Self {
        let mut keys = HashMap::new();
        for section in root.sections("api_keys") {
            let id = section.name();
            if !is_id(&id) {
                section.mistake_here(
                    "has an id that can't stand in a key",
                    "use 1 to 64 lower-case letters, digits and -",
                );
            }
            let digest = section.required("digest", "paste the line that `gateway key new` printed");
            let owner: Option<String> = section.required("owner", "write who holds the key, to know whom to ask");
            let held = words.roles.references(&section, "roles");
            let scopes = words.scopes.references(&section, "scopes");
            let expires = section.optional::<String>("expires").and_then(|text| {
                let parsed = Timestamp::parse(&text);
                if parsed.is_none() {
                    section.mistake(
                        "expires",
                        format!("is {text:?}, which is not an instant"),
                        "write one such as \"2027-01-31T00:00:00Z\"",
                    );
                }
                parsed
            });
            section.finish();
            let (Some(digest), Some(_)) = (digest, owner) else { continue };
            let principal = words.principal(Scheme::ApiKey, &format!("key:{id}"), held, scopes, ClaimSet::default());
            let Some(principal) = principal else { continue };
            keys.insert(Box::from(&*id), ApiKey { digest, expires, principal: Arc::new(principal) });
        }
        Self { keys, nobody: Sha256::of(b"") }
    }

    /// Whom the key with this id stands for, as if it had been presented.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn holder(&self, id: &str, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        let key = self.keys.get(id).ok_or(Refusal::Unknown)?;
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        Ok(Arc::clone(&key.principal))
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(&self, presented: &[u8], now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        let (id, body, check_part) = parse(presented).ok_or(Refusal::Mistyped)?;
        let digest = Sha256::of(presented);
        let key = self.keys.get(id);
        // Compared in both cases, and the result looked at after, so that time tells nothing of ids.
        let matches = digest.matches(key.map_or(&self.nobody, |key| &key.digest));
        let Some(key) = key.filter(|_| matches) else {
            return Err(if check(body) == *check_part.as_bytes() { Refusal::Unknown } else { Refusal::Mistyped });
        };
        if key.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        Ok(Arc::clone(&key.principal))
    }
}

/// A key's id, all of it but the check, and the check.
fn parse(presented: &[u8]) -> Option<(&str, &str, &str)> {
    let text = std::str::from_utf8(presented).ok()?;
    let (id, tail) = text.strip_prefix(PREFIX)?.rsplit_once('_')?;
    let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_DIGITS)?)?;
    (is_id(id) && tail.len() == SECRET_DIGITS + CHECK_DIGITS).then_some((id, body, check))
}

/// Why a key is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not have a key's form, or its check part is wrong.
    Mistyped,
    /// It has the form and is not one of ours.
    Unknown,
    /// It was good once.
    Expired,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    #[test]
    fn keys_are_told_apart() {
        let key = compose("team-a", [7; 20]);
        let toml = format!(
            "[roles.predictor]\n[api_keys.team-a]\ndigest = \"{}\"\nowner = \"Team A\"\nroles = [\"predictor\"]\nexpires = \"2030-01-01T00:00:00Z\"",
            Sha256::of(key.as_bytes())
        );
        let (keys, mistakes) = with_section(&toml, |root| ApiKeys::compile(root, &Vocabulary::compile(root)));
        assert_eq!(mistakes, []);
        let now = Timestamp::from_secs(1_800_000_000);
        assert_eq!(keys.decide(key.as_bytes(), now).map(|p| p.id.to_string()), Ok("key:team-a".into()));
        assert_eq!(keys.decide(key.as_bytes(), Timestamp::from_secs(1_893_456_000)).err(), Some(Refusal::Expired));
        for (wrong, refusal) in [
            (compose("team-a", [8; 20]), Refusal::Unknown),
            (compose("team-b", [7; 20]), Refusal::Unknown),
            (key.replace("07", "08"), Refusal::Mistyped),
            (key.to_uppercase(), Refusal::Mistyped),
            (format!("{key} "), Refusal::Mistyped),
            (String::new(), Refusal::Mistyped),
            ("mgk_team-a_".into(), Refusal::Mistyped),
            ("mgk__".into(), Refusal::Mistyped),
        ] {
            assert_eq!(keys.decide(wrong.as_bytes(), now).err(), Some(refusal), "{wrong}");
        }
    }
}
