//! Who a request was proven to come from.

use std::sync::Arc;

use http::HeaderValue;

use super::Name;

/// A role's position in the compiled policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role(u8);

impl Role {
    /// How many roles one policy can have: a set of them is one machine word pair.
    pub const MOST: usize = 128;

    /// The role at `index`, or `None` past [`Role::MOST`].
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        u8::try_from(index).ok().filter(|&i| usize::from(i) < Self::MOST).map(Self)
    }

    /// Its position.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleSet(u128);

impl RoleSet {
    /// The set and one more.
    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role.0)
    }

    /// Everything in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the role is in the set.
    #[must_use]
    pub fn contains(self, role: Role) -> bool {
        self.0 & 1 << role.0 != 0
    }

    /// The lowest role that both sets hold.
    #[must_use]
    pub fn first_common(self, other: Self) -> Option<Role> {
        let common = self.0 & other.0;
        (common != 0).then(|| usize::try_from(common.trailing_zeros()).ok()).flatten().and_then(Role::new)
    }

    /// Whether the set has no role.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How an identity was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Nobody proved anything; the route allows that.
    Anonymous,
    /// An API key.
    ApiKey,
    /// A signed token.
    Jwt,
}

impl Scheme {
    /// The name in logs, in TOML and to the worker.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
        }
    }
}

/// The identity proven for one request. Made by `policy::authenticate` alone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// How it was proven.
    pub scheme: Scheme,
    /// Unique among all principals: `key:<id>`, or `<issuer's name>:<subject>` (RFC 7519 §4.1.2: a
    /// subject is unique only within its issuer).
    pub id: Name,
    /// The roles, with those that they include.
    pub roles: RoleSet,
    /// `id` for the worker.
    pub header: HeaderValue,
    /// The roles' names, separated by commas, for the worker.
    pub roles_header: HeaderValue,
}

impl Principal {
    /// Somebody with a name and roles; `list` names the latter.
    #[must_use]
    pub fn named(kind: &str, name: &str, roles: RoleSet, list: &str) -> Self {
        let id = format!("{kind}:{name}");
        Self {
            scheme: Scheme::Jwt,
            header: HeaderValue::try_from(&id).unwrap_or(HeaderValue::from_static("somebody")),
            id: id.into(),
            roles,
            roles_header: HeaderValue::try_from(list).unwrap_or(HeaderValue::from_static("")),
        }
    }

    /// Who a refused credential stands for.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            scheme: Scheme::Anonymous,
            id: "".into(),
            roles: RoleSet::default(),
            header: HeaderValue::from_static(""),
            roles_header: HeaderValue::from_static(""),
        }
    }

    /// The principal of a route that asks for no credential.
    #[must_use]
    pub fn anonymous() -> Arc<Self> {
        Arc::new(Self {
            scheme: Scheme::Anonymous,
            id: "anonymous".into(),
            roles: RoleSet::default(),
            header: HeaderValue::from_static("anonymous"),
            roles_header: HeaderValue::from_static(""),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, RoleSet};

    #[test]
    fn role_sets() {
        let role = |i| Role::new(i).expect("a small index");
        let low = RoleSet::default().with(role(0)).with(role(5));
        let high = RoleSet::default().with(role(5)).with(role(127));
        assert_eq!(low.first_common(high), Some(role(5)));
        assert_eq!(low.first_common(RoleSet::default().with(role(1))), None);
        assert!(low.union(high).contains(role(127)) && !low.contains(role(127)));
        assert!(Role::new(128).is_none());
    }
}
