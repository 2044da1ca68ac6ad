//! Who a request was proven to come from.

use std::sync::Arc;

use http::HeaderValue;

use super::{ClaimSet, Name, Quotas, RoleSet, ScopeSet, Sha256};

/// How an identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Nobody proved anything; the route allows that.
    Anonymous,
    /// An API key.
    ApiKey,
    /// A signed token.
    Jwt,
    /// A client certificate.
    Certificate,
    /// A signed request.
    Signature,
}

impl Scheme {
    /// The name in logs, in TOML and to the worker.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Certificate => "mtls",
            Self::Signature => "signature",
        }
    }
}

/// What a token is bound to, so that nobody else can use it (RFC 7800).
#[derive(Clone, Copy, Debug, Default)]
pub struct Binding {
    /// The SHA-256 of a client certificate (RFC 8705 §3.1).
    pub certificate: Option<Sha256>,
    /// The thumbprint of a key that proofs are signed with (RFC 9449 §6.1).
    pub key: Option<Sha256>,
}

/// The identity proven for one request. Made by `policy::authenticate` alone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// How it was proven.
    pub scheme: Scheme,
    /// Unique among all principals: `key:<id>`, `cert:<name>`, or `<issuer's name>:<subject>` (RFC 7519 §4.1.2: a
    /// subject is unique only within its issuer).
    pub id: Name,
    /// The roles, with those that they include.
    pub roles: RoleSet,
    /// The scopes that the credential carries, of those that the policy asks for.
    pub scopes: ScopeSet,
    /// The rights whose claims the credential has.
    pub claims: ClaimSet,
    /// What the credential is bound to.
    pub bound: Binding,
    /// What its credential may of a limit, in place of what the policy says of its roles.
    pub quotas: Quotas,
    /// `id` for the worker.
    pub header: HeaderValue,
    /// The roles' names, separated by commas, for the worker.
    pub roles_header: HeaderValue,
}

impl Principal {
    /// Who a refused credential stands for.
    #[must_use]
    pub fn nobody() -> Self {
        Self::unproven("")
    }

    /// The principal of a route that asks for no credential.
    #[must_use]
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Self::unproven("anonymous"))
    }

    fn unproven(id: &'static str) -> Self {
        Self {
            scheme: Scheme::Anonymous,
            id: id.into(),
            roles: RoleSet::default(),
            scopes: ScopeSet::default(),
            claims: ClaimSet::default(),
            bound: Binding::default(),
            quotas: Quotas::default(),
            header: HeaderValue::from_static(id),
            roles_header: HeaderValue::from_static(""),
        }
    }
}
