//! The algorithms that tokens may be signed with.

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use crate::settings::Named;

/// An algorithm as the configuration names it. `none` is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtAlgorithm(pub Algorithm);

impl Named for JwtAlgorithm {
    const SHAPE: &'static str = "\"HS256\", \"RS256\", \"PS256\", \"ES256\", \"ES384\" or \"EdDSA\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("HS256", Self(Algorithm::HS256)),
        ("RS256", Self(Algorithm::RS256)),
        ("PS256", Self(Algorithm::PS256)),
        ("ES256", Self(Algorithm::ES256)),
        ("ES384", Self(Algorithm::ES384)),
        ("EdDSA", Self(Algorithm::EdDSA)),
    ];
}

impl JwtAlgorithm {
    /// The one of that name, which a token says.
    pub(in crate::policy::authenticate) fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Which kind of key the algorithm takes.
    #[must_use]
    pub fn family(self) -> AlgorithmFamily {
        match self.0 {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => AlgorithmFamily::Rsa,
            Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
            Algorithm::EdDSA => AlgorithmFamily::Ed,
            _ => AlgorithmFamily::Hmac,
        }
    }
}
