//! Names of tokens, as lists of revoked ones hold them.

use super::Sha256;

/// Names one token, or all tokens that stem from one grant: 128 bits of a digest, so that a list of revoked tokens
/// has entries of one size and tells nothing about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenId(u128);

impl TokenId {
    /// The name of the token with this `jti`.
    #[must_use]
    pub fn of_token(jti: &str) -> Self {
        Self::of("jti", jti.as_bytes())
    }

    /// The name of everything that stems from a grant.
    #[must_use]
    pub fn of_grant(grant: &str) -> Self {
        Self::of("grant", grant.as_bytes())
    }

    fn of(kind: &str, text: &[u8]) -> Self {
        let digest = Sha256::of(&[kind.as_bytes(), b":", text].concat());
        Self(digest.as_bytes().first_chunk().map_or(0, |first| u128::from_be_bytes(*first)))
    }

    /// Reads what [`TokenId::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// As octets.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::TokenId;

    #[test]
    fn a_token_and_a_grant_of_one_name_differ() {
        assert_ne!(TokenId::of_token("x"), TokenId::of_grant("x"));
        assert_eq!(TokenId::from_bytes(TokenId::of_token("x").to_bytes()), TokenId::of_token("x"));
    }
}
