//! May this principal call this route, for this model, from here and now? Nothing by default.
//!
//! Source: RFC 6750 §3.1 for scopes. Never asks what a credential is worth: that is `authenticate`'s question.

mod claims;
mod condition;
mod right;
mod roles;
mod scopes;

use std::sync::Arc;

use http::HeaderValue;

use super::authenticate::Authenticate;
use super::facts::Facts;
use super::shadow::Shadow;
use crate::settings::Section;
use crate::types::{Binding, ClaimSet, Name, Principal, Quotas, Role, RoleSet, Scheme, ScopeSet};

pub use claims::{ClaimRules, descend};
pub use right::{Right, Rights, Who};
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
            bound: Binding::default(),
            quotas: Quotas::default(),
        })
    }
}

/// What a route is asked for, beside who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The model; empty where none is named.
    pub model: &'a str,
    /// Whether the body names the model and was not read: whether rights are for it is decided again when it was.
    pub unread: bool,
    /// Its version; empty where none is named.
    pub version: &'a str,
    /// The facts of the request.
    pub facts: &'a Facts<'a>,
}

/// Who may call a route: whoever has one of these rights.
#[derive(Clone, Debug)]
pub struct Authorize(Box<[Arc<Right>]>);

impl Authorize {
    /// Reads `authorize`, with `scopes`, or `rights`.
    #[must_use]
    pub fn compile(
        section: &Section<'_>,
        words: &Vocabulary,
        rights: &Rights,
        authenticate: Option<&Authenticate>,
    ) -> Option<Self> {
        let remedy = "list the roles that may call it: authorize = [\"predictor\"]; \"authenticated\" means every proven \
                      principal, \"anonymous\" everybody; or list rights: rights = [\"office-hours\"]";
        let rights = match (section.has("authorize"), section.has("rights")) {
            (false, false) => {
                section.missing("authorize", remedy);
                return None;
            }
            (true, true) => {
                section.mistake("rights", "stands beside `authorize`", "keep one of them");
                return None;
            }
            (true, false) => {
                let who = Who::compile(section, "authorize", &words.roles, remedy);
                let scopes = words.scopes.references(section, "scopes");
                vec![Arc::new(Right::of(who?, scopes))]
            }
            (false, true) => {
                if section.has("scopes") {
                    section.mistake(
                        "scopes",
                        "stands beside `rights`, each of which has its own",
                        "move it to [rights.NAME]",
                    );
                }
                let named = rights.references(section);
                if named.is_empty() {
                    section.missing("rights", remedy);
                }
                named
            }
        };
        let (key, anonymous) =
            (if section.has("rights") { "rights" } else { "authorize" }, authenticate?.is_anonymous());
        for right in &rights {
            match (&right.who, anonymous) {
                (Who::Anonymous, false) => section.mistake(
                    key,
                    "is for \"anonymous\" callers while `authenticate` asks for a credential",
                    "write authenticate = \"anonymous\" too, or \"authenticated\" here",
                ),
                (Who::Authenticated | Who::AnyOf(_), true) => section.mistake(
                    key,
                    "asks for more than `authenticate`, which is \"anonymous\", so nobody could call it",
                    "ask for credentials, or write \"anonymous\" here too",
                ),
                (Who::Anonymous, true) if right.needs_credential() => section.mistake(
                    key,
                    "asks for scopes or claims while `authenticate` is \"anonymous\", so nobody could call it",
                    "ask for credentials",
                ),
                _ => {}
            }
        }
        Some(Self(rights.into()))
    }

    /// The rights, any one of which will do.
    #[must_use]
    pub fn rights(&self) -> &[Arc<Right>] {
        &self.0
    }

    /// Whether everybody may call it, without a condition.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.iter().any(|right| right.is_open())
    }

    /// Whether everybody who may call it has a role, a scope or a claim that not all have.
    #[must_use]
    pub fn asks_for_somebody(&self) -> bool {
        self.0.iter().all(|right| matches!(right.who, Who::AnyOf(_)) || right.needs_credential())
    }

    /// Whether it hangs on the model that is asked for.
    #[must_use]
    pub fn needs_model(&self) -> bool {
        self.0.iter().any(|right| right.needs_model())
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`]: what the principal lacks for the right that it comes nearest to.
    pub fn decide(&self, principal: &Principal, asked: &Asked<'_>) -> Result<Permit, Refusal> {
        let mut nearest = Refusal::Role;
        for right in &*self.0 {
            match right.decide(principal, asked) {
                Ok(role) => return Ok(Permit { role, right: right.name.clone(), is_tried: false }),
                Err(refusal) => nearest = nearest.nearer(refusal),
            }
        }
        Err(nearest)
    }
}

/// Evidence that the principal may call the route. Made by [`Authorize::decide`] alone.
#[derive(Clone, Debug)]
pub struct Permit {
    role: Option<Role>,
    right: Option<Name>,
    is_tried: bool,
}

impl Permit {
    /// Evidence that the route's rule is only tried out.
    #[must_use]
    pub fn tried(shadow: Shadow) -> Option<Self> {
        shadow.authorize.then_some(Self { role: None, right: None, is_tried: true })
    }

    /// Whether the rule was only tried out, and would have refused.
    #[must_use]
    pub fn is_tried(&self) -> bool {
        self.is_tried
    }

    /// The role that opened the route, where roles are asked for.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// The right that opened it, where it has a name.
    #[must_use]
    pub fn right(&self) -> Option<&Name> {
        self.right.as_ref()
    }
}

/// What a proven principal lacks, from the farthest to the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of its roles may call this.
    Role,
    /// Its credential lacks one of these scopes.
    Scope(ScopeSet),
    /// It may call this, and not with this method or for this model.
    Reach,
    /// It may, and not now, from there, or with these claims.
    Condition(Unmet),
}

/// The condition that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// The token's claims are others.
    Claims,
    /// The client's address is outside.
    Network,
    /// It is another time of day, or another day.
    Time,
    /// Its connection has no client certificate.
    Certificate,
}

/// A refusal as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub refusal: Refusal,
    /// The scopes to ask for, as a token says them, where a token lacks some (RFC 6750 §3.1).
    pub challenge: Option<HeaderValue>,
}

impl Denied {
    /// Of a principal.
    #[must_use]
    pub fn of(refusal: Refusal, principal: &Principal, words: &Vocabulary) -> Self {
        let challenge = match refusal {
            Refusal::Scope(asked) if principal.scheme == Scheme::Jwt => {
                let scopes = words.scopes.list(asked);
                let said = format!("Bearer realm=\"modelgate\", error=\"insufficient_scope\", scope=\"{scopes}\"");
                HeaderValue::try_from(said).ok()
            }
            _ => None,
        };
        Self { refusal, challenge }
    }
}

impl Refusal {
    fn rank(self) -> u8 {
        match self {
            Self::Role => 0,
            Self::Reach => 1,
            Self::Scope(_) => 2,
            Self::Condition(_) => 3,
        }
    }

    fn nearer(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::{Asked, Authorize, Refusal, Rights, Roles, Unmet, Vocabulary};
    use crate::policy::facts::Facts;
    use crate::settings::tests::with_section;
    use crate::types::{Name, Principal, RoleSet, Timestamp};
    use http::{HeaderMap, Method};
    use proptest::prelude::*;
    use serde_json::json;

    const ROLES: &str = "[roles.viewer]\n[roles.predictor]\nincludes = [\"viewer\"]\n[roles.admin]\nincludes = [\"predictor\"]\n[roles.other]\n";

    /// What a policy means by its words, and its rights.
    struct World {
        words: Vocabulary,
        rights: Rights,
    }

    impl World {
        fn of(rights: &str) -> Self {
            let read = |root: &crate::settings::Section<'_>| {
                let words = Vocabulary::compile(root);
                let rights = Rights::compile(root, &words);
                Self { words, rights }
            };
            let (world, mistakes) = with_section(&format!("{ROLES}{rights}"), read);
            assert_eq!(mistakes, []);
            world
        }

        fn rule(&self, names: &[&str]) -> Authorize {
            Authorize(names.iter().filter_map(|name| self.rights.find(name)).map(Arc::clone).collect())
        }

        fn principal(&self, roles: &[&str], scopes: &str, claims: &serde_json::Value) -> Principal {
            let set =
                roles.iter().filter_map(|name| self.words.roles.find(name)).fold(RoleSet::default(), RoleSet::with);
            Principal {
                roles: self.words.roles.close(set),
                scopes: self.words.scopes.set(scopes.split(' ')),
                claims: self.words.claims.met(claims.as_object().expect("an object")),
                ..Principal::nobody()
            }
        }
    }

    fn decide(
        rule: &Authorize,
        who: &Principal,
        method: &Method,
        (model, version): (&str, &str),
    ) -> Result<Option<Name>, Refusal> {
        let headers = HeaderMap::new();
        let now = Timestamp::from_secs(1_800_000_000);
        let (host, path, query, address) = ("", "/", None, IpAddr::from([192, 0, 2, 1]));
        let facts =
            Facts { method, host, path, sent_path: path, query, headers: &headers, certificate: None, address, now };
        rule.decide(who, &Asked { model, unread: false, version, facts: &facts }).map(|permit| permit.right().cloned())
    }

    #[test]
    fn inclusion_is_transitive_and_one_way() {
        let world = World::of("[rights.viewer]\nroles = [\"viewer\"]\n[rights.admin]\nroles = [\"admin\"]");
        let may = |right: &str, held: &[&str]| {
            decide(&world.rule(&[right]), &world.principal(held, "", &json!({})), &Method::GET, ("", "")).is_ok()
        };
        for (held, allowed) in
            [(&["viewer"][..], true), (&["predictor"], true), (&["admin"], true), (&["other"], false), (&[], false)]
        {
            assert_eq!(may("viewer", held), allowed, "{held:?}");
        }
        assert!(!may("admin", &["predictor"]));
    }

    #[test]
    fn a_cycle_of_roles_ends() {
        let toml = "[roles.a]\nincludes = [\"b\"]\n[roles.b]\nincludes = [\"a\"]";
        let (roles, mistakes) = with_section(toml, Roles::compile);
        assert!(mistakes.is_empty());
        assert_eq!(
            roles.list(roles.close(roles.find("a").map_or_else(RoleSet::default, |a| RoleSet::default().with(a)))),
            "a,b"
        );
    }

    #[test]
    fn all_of_a_right_must_hold_and_the_nearest_miss_is_told() {
        let world = World::of(
            "[rights.iris]\nroles = [\"predictor\"]\nmethods = [\"POST\"]\nmodels = [\"iris@2\", \"mood-*\"]\nscopes = [\"predict\"]\n\
             claims = { \"org.unit\" = [\"research\", \"lab\"], mfa = true }\n[rights.any]\nroles = [\"admin\"]",
        );
        let rule = world.rule(&["iris", "any"]);
        let claims = json!({ "org": { "unit": ["sales", "lab"] }, "mfa": true });
        let predictor = |scopes: &str, claims: &serde_json::Value| world.principal(&["predictor"], scopes, claims);
        let scope = Refusal::Scope(world.words.scopes.set(["predict"]));
        for (principal, method, model, expected) in [
            (predictor("read predict", &claims), Method::POST, ("iris", "2"), Ok(Some("iris"))),
            (predictor("predict", &claims), Method::POST, ("mood-en", ""), Ok(Some("iris"))),
            (predictor("predict", &claims), Method::POST, ("iris", "1"), Err(Refusal::Reach)),
            (predictor("predict", &claims), Method::POST, ("iris", ""), Err(Refusal::Reach)),
            (predictor("predict", &claims), Method::POST, ("", ""), Err(Refusal::Reach)),
            (predictor("predict", &claims), Method::GET, ("iris", "2"), Err(Refusal::Reach)),
            (predictor("predicted", &claims), Method::POST, ("iris", "2"), Err(scope)),
            (
                predictor("predict", &json!({ "mfa": true })),
                Method::POST,
                ("iris", "2"),
                Err(Refusal::Condition(Unmet::Claims)),
            ),
            (
                predictor("predict", &json!({ "org.unit": "lab", "mfa": "true" })),
                Method::POST,
                ("iris", "2"),
                Err(Refusal::Condition(Unmet::Claims)),
            ),
            (world.principal(&["viewer"], "predict", &claims), Method::POST, ("iris", "2"), Err(Refusal::Role)),
            (world.principal(&["admin"], "", &json!({})), Method::GET, ("", ""), Ok(Some("any"))),
        ] {
            let expected = expected.map(|name: Option<&str>| name.map(Name::from));
            assert_eq!(decide(&rule, &principal, &method, model), expected, "{method} {model:?}");
        }
    }

    proptest! {
        #[test]
        fn fewer_roles_never_grant_more(held in prop::sample::subsequence(vec!["viewer", "predictor", "admin", "other"], 0..=4), keep in 0usize..4, asked in prop::sample::select(vec!["viewer", "predictor", "admin", "other"])) {
            let world = World::of(&format!("[rights.it]\nroles = [{asked:?}]"));
            let rule = world.rule(&["it"]);
            let fewer = held.get(..keep.min(held.len())).unwrap_or_default();
            let may = |held: &[&str]| decide(&rule, &world.principal(held, "", &json!({})), &Method::GET, ("", "")).is_ok();
            if may(fewer) {
                prop_assert!(may(&held));
            }
        }
    }
}
