//! Refresh tokens (RFC 6749 §6): opaque, random, kept as digests, and used once.
//!
//! All that follow one another are a family. It has a random name, which every token of it begins with, and knows the
//! digest of its newest token alone: whoever shows an older one shows that a token was copied, and ends the family
//! (RFC 9700 §4.14.2). What a family is kept under is a digest of its name, so who reads the store has no token.

use serde::{Deserialize, Serialize};

use crate::types::{Secret, Sha256, TokenId};

/// What every token begins with.
const PREFIX: &str = "mgr_";
const FAMILY: usize = 32;
const SECRET: usize = 40;

/// A refresh token, as it was shown or made.
#[derive(Debug)]
pub struct RefreshToken {
    text: Secret,
    family: Sha256,
}

impl RefreshToken {
    /// The first token of a new family.
    #[must_use]
    pub fn first(family: [u8; 16], secret: [u8; 20]) -> Self {
        Self::compose(&hex(&family), secret)
    }

    /// The token that follows this one.
    #[must_use]
    pub fn next(&self, secret: [u8; 20]) -> Self {
        let family = self.text.expose().get(PREFIX.len()..PREFIX.len() + FAMILY).unwrap_or_default();
        Self::compose(&String::from_utf8_lossy(family), secret)
    }

    fn compose(family: &str, secret: [u8; 20]) -> Self {
        let text = format!("{PREFIX}{family}_{}", hex(&secret));
        Self { family: Sha256::of(family.as_bytes()), text: Secret::new(text.into_bytes()) }
    }

    /// Reads one; `None` where it has not the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (family, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let formed = family.len() == FAMILY && secret.len() == SECRET && is_hex(family) && is_hex(secret);
        formed.then(|| Self { family: Sha256::of(family.as_bytes()), text: Secret::new(text.as_bytes()) })
    }

    /// What its family is kept under.
    #[must_use]
    pub fn family(&self) -> &Sha256 {
        &self.family
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        Sha256::of(self.text.expose())
    }

    /// The name of the family in access tokens, from which no refresh token can be told.
    #[must_use]
    pub fn grant(&self) -> String {
        hex(self.family.as_bytes().get(..16).unwrap_or_default())
    }

    /// All access tokens of the family, as lists of revoked ones name them.
    #[must_use]
    pub fn grant_id(&self) -> TokenId {
        TokenId::of_grant(&self.grant())
    }

    /// The token, for the one who gets it.
    #[must_use]
    pub fn expose(&self) -> &str {
        std::str::from_utf8(self.text.expose()).unwrap_or_default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// What a family was given for; the same from its beginning to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The client that it is bound to.
    pub client: String,
    /// The user who agreed.
    pub user: String,
    /// What tells whether the user's password is still the one that it began with; empty where that was not kept.
    #[serde(default)]
    pub password: String,
    /// The scopes that were given.
    pub scope: String,
    /// When it began, in seconds since the epoch.
    pub iat: u64,
    /// When it ends, however often it is used.
    pub exp: u64,
}

/// A family as the store keeps it: the digest of its newest token, and what it was given for.
#[derive(Clone)]
pub struct Kept {
    /// The digest of the newest token.
    pub newest: Sha256,
    /// What it was given for.
    pub family: Family,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("family", &self.family).finish_non_exhaustive()
    }
}

impl Kept {
    /// As octets: 32 of the digest, then JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.newest.as_bytes().to_vec();
        // Writing to memory never fails.
        let _ = serde_json::to_writer(&mut bytes, &self.family);
        bytes
    }

    /// Reads what [`Kept::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (newest, family) = bytes.split_first_chunk::<32>()?;
        Some(Self { newest: Sha256::from_bytes(*newest), family: serde_json::from_slice(family).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_one_family_follow_one_another() {
        let first = RefreshToken::first([1; 16], [2; 20]);
        let next = first.next([3; 20]);
        assert!(first.family().matches(next.family()) && !first.digest().matches(&next.digest()));
        let read = RefreshToken::parse(next.expose()).expect("our own form");
        assert!(read.family().matches(first.family()) && read.digest().matches(&next.digest()));
        assert_eq!(read.grant(), first.grant());
        assert!(!next.expose().contains(&next.grant()), "what access tokens say names no refresh token");
        assert!(!format!("{next:?}").contains(&next.expose()[10..]));
        let text = next.expose();
        for wrong in
            ["", "mgr_", "mgr_x_y", &text[1..], &text[..text.len() - 1], &text.to_uppercase(), &format!("{text}0")]
        {
            assert!(RefreshToken::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_kept_can_be_read() {
        let family = Family {
            client: "app".into(),
            user: "alice".into(),
            password: "p".into(),
            scope: "a b".into(),
            iat: 1,
            exp: 2,
        };
        let kept = Kept { newest: Sha256::of(b"x"), family };
        let read = Kept::from_bytes(&kept.to_bytes()).expect("our own form");
        assert!(read.newest.matches(&kept.newest));
        assert_eq!(read.family, kept.family);
        assert!(Kept::from_bytes(b"short").is_none());
    }
}
