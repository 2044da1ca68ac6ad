//! May this principal call this route? Roles, roles that include roles, and nothing by default.

mod claims;
mod roles;
mod scopes;

use http::HeaderValue;

use super::authenticate::Authenticate;
use crate::settings::Section;
use crate::types::{ClaimSet, Principal, Quotas, Role, RoleSet, Scheme, ScopeSet};

pub use claims::{ClaimRules, descend};
pub use roles::Roles;
pub use scopes::Scopes;

/// What the words of a credential mean under this policy.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// The roles.
    pub roles: Roles,
    /// The scopes that anything asks for.
    pub scopes: Scopes,
    /// What rights ask of claims.
    pub claims: ClaimRules,
}

impl Vocabulary {
    /// Reads the roles, and what scopes and claims anything asks for.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        Self { roles: Roles::compile(root), scopes: Scopes::compile(root), claims: ClaimRules::compile(root) }
    }

    /// Somebody proven. `roles` are closed here; `None` where the id can't stand in a header.
    #[must_use]
    pub fn principal(
        &self,
        scheme: Scheme,
        id: &str,
        roles: RoleSet,
        scopes: ScopeSet,
        claims: ClaimSet,
    ) -> Option<Principal> {
        let roles = self.roles.close(roles);
        Some(Principal {
            scheme,
            header: HeaderValue::try_from(id).ok()?,
            id: id.into(),
            roles,
            roles_header: HeaderValue::try_from(self.roles.list(roles)).unwrap_or(HeaderValue::from_static("")),
            scopes,
            claims,
            quotas: Quotas::default(),
        })
    }
}

/// Who may call a route.
#[derive(Clone, Debug)]
pub enum Authorize {
    /// Whoever passes authentication, which asks nobody for anything.
    Anonymous,
    /// Every proven principal.
    Authenticated,
    /// Principals that have one of these roles.
    AnyOf(RoleSet),
}

impl Authorize {
    /// Reads `authorize`.
    #[must_use]
    pub fn compile(section: &Section<'_>, roles: &Roles, authenticate: Option<&Authenticate>) -> Option<Self> {
        let remedy = "list the roles that may call it: authorize = [\"predictor\"]; \"authenticated\" means every proven \
                      principal, \"anonymous\" everybody";
        if !section.has("authorize") {
            section.missing("authorize", remedy);
            return None;
        }
        if let Some(word) = section.word("authorize") {
            let anonymous = authenticate.is_some_and(Authenticate::is_anonymous);
            return match (word, anonymous) {
                ("anonymous", true) => Some(Self::Anonymous),
                ("authenticated", false) => Some(Self::Authenticated),
                ("anonymous", false) => {
                    section.mistake(
                        "authorize",
                        "is \"anonymous\" while `authenticate` asks for a credential",
                        "write authenticate = \"anonymous\" too, or \"authenticated\" here",
                    );
                    None
                }
                ("authenticated", true) => {
                    section.mistake(
                        "authorize",
                        "is \"authenticated\" while `authenticate` is \"anonymous\", so nobody could call it",
                        "ask for credentials, or write \"anonymous\" here too",
                    );
                    None
                }
                _ => {
                    section.mistake("authorize", format!("is {word:?}, which is not one of its words"), remedy);
                    None
                }
            };
        }
        let required = roles.references(section, "authorize");
        if section.all::<String>("authorize").is_empty() {
            section.mistake("authorize", "names no role, so nobody could call it", remedy);
        }
        if authenticate.is_some_and(Authenticate::is_anonymous) {
            section.mistake(
                "authorize",
                "asks for roles while `authenticate` is \"anonymous\", so nobody could call it",
                "ask for credentials",
            );
        }
        Some(Self::AnyOf(required))
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`], if the principal has none of the roles.
    pub fn decide(&self, principal: &Principal) -> Result<Permit, Refusal> {
        match self {
            Self::Anonymous | Self::Authenticated => Ok(Permit { role: None }),
            Self::AnyOf(required) => match required.first_common(principal.roles) {
                Some(role) => Ok(Permit { role: Some(role) }),
                None => Err(Refusal),
            },
        }
    }
}

/// Evidence that the principal may call the route. Made by [`Authorize::decide`] alone.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    role: Option<Role>,
}

impl Permit {
    /// The role that opened the route, where roles are asked for.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.role
    }
}

/// The principal is proven and has none of the route's roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal;

#[cfg(test)]
mod tests {
    use super::{Authorize, Roles};
    use crate::settings::tests::with_section;
    use crate::types::{Principal, RoleSet};
    use proptest::prelude::*;

    const ROLES: &str = "[roles.viewer]\n[roles.predictor]\nincludes = [\"viewer\"]\n[roles.admin]\nincludes = [\"predictor\"]\n[roles.other]";

    fn roles() -> Roles {
        with_section(ROLES, Roles::compile).0
    }

    fn principal(roles: &Roles, names: &[&str]) -> Principal {
        let set = names.iter().filter_map(|name| roles.find(name)).fold(RoleSet::default(), RoleSet::with);
        Principal { roles: roles.close(set), ..(*Principal::anonymous()).clone() }
    }

    #[test]
    fn inclusion_is_transitive_and_one_way() {
        let roles = roles();
        let rule = Authorize::AnyOf(RoleSet::default().with(roles.find("viewer").expect("defined above")));
        for (held, allowed) in
            [(&["viewer"][..], true), (&["predictor"], true), (&["admin"], true), (&["other"], false), (&[], false)]
        {
            assert_eq!(rule.decide(&principal(&roles, held)).is_ok(), allowed, "{held:?}");
        }
        let rule = Authorize::AnyOf(RoleSet::default().with(roles.find("admin").expect("defined above")));
        assert!(rule.decide(&principal(&roles, &["predictor"])).is_err());
    }

    #[test]
    fn a_cycle_of_roles_ends() {
        let toml = "[roles.a]\nincludes = [\"b\"]\n[roles.b]\nincludes = [\"a\"]";
        let (roles, mistakes) = with_section(toml, Roles::compile);
        assert!(mistakes.is_empty());
        assert_eq!(roles.list(principal(&roles, &["a"]).roles), "a,b");
    }

    proptest! {
        #[test]
        fn fewer_roles_never_grant_more(held in prop::sample::subsequence(vec!["viewer", "predictor", "admin", "other"], 0..=4), keep in 0usize..4, asked in 0usize..4) {
            let roles = roles();
            let rule = Authorize::AnyOf(RoleSet::default().with(crate::types::Role::new(asked).expect("small")));
            let fewer = held.get(..keep.min(held.len())).unwrap_or_default();
            if rule.decide(&principal(&roles, fewer)).is_ok() {
                prop_assert!(rule.decide(&principal(&roles, &held)).is_ok());
            }
        }
    }
}
