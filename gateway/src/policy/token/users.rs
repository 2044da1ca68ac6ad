//! `[users.NAME]`: whose passwords are exchanged for tokens. Checking one is slow on purpose.

use std::collections::HashMap;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm as Argon2Algorithm, Argon2, Params, Version};

use super::Refusal;
use super::form::PasswordGrant;
use crate::policy::authorize::Roles;
use crate::settings::Section;
use crate::types::{Name, RoleSet, Sha256};

/// The longest password in bytes: nothing is cut, and nothing is hashed that only costs time.
pub(super) const MOST_PASSWORD: usize = 1024;

/// One user who may ask for tokens.
struct User {
    digest: Box<str>,
    roles: RoleSet,
}

/// All of them.
pub(super) struct Users {
    users: HashMap<Name, User>,
    /// Checked for unknown users, so that they take the time of known ones.
    nobodies: Vec<Box<str>>,
}

impl Users {
    /// Reads every `[users.NAME]`.
    pub(super) fn compile(root: &Section<'_>, roles: &Roles) -> Option<Self> {
        let users = compile_users(root, roles);
        Some(Self { nobodies: nobodies(&users)?, users })
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// The roles of a user, where there is one.
    pub(super) fn roles(&self, name: &str) -> Option<RoleSet> {
        self.users.get(name).map(|user| user.roles)
    }

    /// What tells whether a user's password is the one that it was: part of a digest of its salted digest, which says
    /// nothing of either. `None` where there is no such user.
    pub(super) fn password_mark(&self, name: &str) -> Option<String> {
        self.users
            .get(name)
            .map(|user| Sha256::of(user.digest.as_bytes()).to_string().chars().skip(7).take(32).collect())
    }

    /// Checks a user's password. Takes tens of milliseconds and megabytes, for unknown users too.
    pub(super) fn check(&self, grant: &PasswordGrant) -> Result<(), Refusal> {
        let user = self.users.get(grant.username.as_str());
        let digest = user.map_or_else(|| self.nobody(&grant.username), |user| &*user.digest);
        let matches = PasswordHash::new(digest)
            .is_ok_and(|digest| argon2().verify_password(grant.password.expose(), &digest).is_ok());
        if matches && user.is_some() { Ok(()) } else { Err(Refusal::Grant) }
    }

    /// The digest that an unknown name is checked against: the same one each time.
    fn nobody(&self, name: &str) -> &str {
        let pick = u32::from_le_bytes(Sha256::of(name.as_bytes()).prefix()) as usize;
        self.nobodies.get(pick % self.nobodies.len().max(1)).map_or("", |digest| digest)
    }
}

fn compile_users(root: &Section<'_>, roles: &Roles) -> HashMap<Name, User> {
    let mut users = HashMap::new();
    for section in root.sections("users") {
        let name = section.name();
        if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_graphic()) {
            section.mistake_here(
                "has a name that can't stand in a token",
                "use up to 64 printable ASCII characters without spaces",
            );
        }
        let digest: Option<String> = section.required("digest", "paste the line that `gateway password hash` printed");
        if let Some(Err(reason)) = digest.as_deref().map(check_digest) {
            section.mistake("digest", reason, "paste the line that `gateway password hash` printed");
        }
        let held = roles.references(&section, "roles");
        section.finish();
        if let Some(digest) = digest {
            users.insert(name, User { digest: digest.into(), roles: roles.close(held) });
        }
    }
    users
}

/// Digests that no password has, one at the cost of each user's, so that time does not tell who exists:
/// every name that is unknown always costs what one of the known ones does.
fn nobodies(users: &HashMap<Name, User>) -> Option<Vec<Box<str>>> {
    let costs = users.values().filter_map(|user| Params::try_from(&PasswordHash::new(&user.digest).ok()?).ok());
    let mut costs: Vec<Params> = costs.collect();
    costs.sort_by_key(|params| (params.m_cost(), params.t_cost(), params.p_cost()));
    if costs.is_empty() {
        costs.push(Params::DEFAULT);
    }
    let mut digests: Vec<(Params, Box<str>)> = Vec::new();
    for cost in costs {
        let known = digests.iter().find(|(known, _)| *known == cost).map(|(_, digest)| digest.clone());
        let digest = if let Some(digest) = known {
            digest
        } else {
            let argon2 = Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, cost.clone());
            let digest = argon2.hash_password_with_salt(b"nobody's password", b"nobody's own salt");
            digest.ok()?.to_string().into()
        };
        digests.push((cost, digest));
    }
    Some(digests.into_iter().map(|(_, digest)| digest).collect())
}

/// Argon2id with OWASP's first choice of cost: 19 MiB, two passes, one lane.
fn argon2() -> Argon2<'static> {
    Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

/// The digest of a password, in PHC form. The salt must be random: it is what makes equal passwords differ.
///
/// # Errors
/// A reason, without the password.
pub fn hash_password(password: &[u8], salt: [u8; 16]) -> Result<String, String> {
    if password.is_empty() || password.len() > MOST_PASSWORD {
        return Err(format!("a password has 1 to {MOST_PASSWORD} bytes"));
    }
    argon2().hash_password_with_salt(password, &salt).map(|hash| hash.to_string()).map_err(|error| error.to_string())
}

fn check_digest(text: &str) -> Result<(), &'static str> {
    let digest = PasswordHash::new(text).map_err(|_| "is not a password digest")?;
    if digest.algorithm.as_str() != "argon2id" {
        return Err("is a digest of another kind than Argon2id");
    }
    let params = Params::try_from(&digest).map_err(|_| "has costs that can't be used")?;
    if digest.hash.is_none() {
        return Err("has no digest in it");
    }
    match (params.m_cost(), params.t_cost(), params.p_cost()) {
        (0..7168, _, _) => Err("uses less than 7 MiB, which is too cheap to guess"),
        (262_145.., _, _) | (_, 17.., _) | (_, _, 9..) => {
            Err("costs so much that a few requests would stop the gateway")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_costs_what_a_known_one_does() {
        let cheap =
            Argon2::new(Argon2Algorithm::Argon2id, Version::V0x13, Params::new(7168, 1, 1, None).expect("legal"));
        let digest = cheap.hash_password_with_salt(b"x", b"a salt of sixteen").expect("it can be hashed").to_string();
        let users = HashMap::from([("alice".into(), User { digest: digest.into(), roles: RoleSet::default() })]);
        let nobodies = nobodies(&users).expect("it can be hashed");
        assert!(nobodies.len() == 1 && nobodies.iter().all(|digest| digest.contains("m=7168,t=1,p=1")));
    }

    #[test]
    fn digests_that_are_too_cheap_or_too_dear_are_refused() {
        let good = hash_password(b"correct horse", [7; 16]).expect("it can be hashed");
        assert_eq!(check_digest(&good), Ok(()));
        for wrong in [
            "hunter2".to_owned(),
            "$2b$12$abcdefghijklmnopqrstuv".to_owned(),
            good.replace("argon2id", "argon2i"),
            good.replace("m=19456", "m=1024"),
            good.replace("m=19456", "m=4194304"),
            good.replace("t=2", "t=400"),
        ] {
            assert!(check_digest(&wrong).is_err(), "{wrong}");
        }
    }
}
