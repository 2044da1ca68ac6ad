//! Tokens of our own: what takes one back.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Refusal;
use crate::types::TokenId;

/// What is known of our own tokens that were taken back; `edge::grants` keeps it fresh.
pub trait Revocations {
    /// Whether this was taken back.
    fn is_revoked(&self, id: TokenId) -> bool;
    /// For how long nobody has been able to know; zero while all is known.
    fn unknown_for(&self) -> Duration;
}

/// What a token of our own can be taken back by: itself, and the grant that it stems from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnToken {
    token: Option<TokenId>,
    grant: Option<TokenId>,
}

impl OwnToken {
    /// Reads the claims of one.
    #[must_use]
    pub fn of(claims: &Map<String, Value>) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        Self { token: text("jti").map(TokenId::of_token), grant: text("grant_id").map(TokenId::of_grant) }
    }

    /// Its own name.
    #[must_use]
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    pub(super) fn check(&self, revocations: &dyn Revocations, unknown_after: Option<Duration>) -> Result<(), Refusal> {
        if [self.token, self.grant].into_iter().flatten().any(|id| revocations.is_revoked(id)) {
            return Err(Refusal::Revoked);
        }
        match unknown_after {
            Some(after) if revocations.unknown_for() > after => Err(Refusal::RevocationUnknown),
            _ => Ok(()),
        }
    }
}
