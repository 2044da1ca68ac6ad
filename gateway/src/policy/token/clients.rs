//! `[clients.NAME]`: programs that ask for tokens by themselves, and what each may ask for.
//!
//! A secret has at least 128 random bits, so its SHA-256 is enough to store: there is nothing to guess.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderMap;

use super::form::{Form, Presented};
use super::users::Users;
use super::{MOST_LIFETIME, Refusal};
use crate::policy::authenticate::binding::Bound;
use crate::policy::authorize::Roles;
use crate::settings::{Named, Section};
use crate::types::{Name, RoleSet, Sha256};

/// What every secret that we make begins with, so that people and scanners recognise a leaked one.
const PREFIX: &str = "mgs_";
/// The longest secret that is looked at.
const MOST_SECRET: usize = 1024;

/// Writes a secret of 20 random bytes.
#[must_use]
pub fn compose_secret(random: [u8; 20]) -> String {
    random.iter().fold(PREFIX.to_owned(), |secret, byte| secret + &format!("{byte:02x}"))
}

/// Whether a client can be called so.
#[must_use]
pub fn is_client_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// A way to get a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantType {
    /// RFC 6749 §4.3, legacy.
    Password,
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// RFC 6749 §6.
    RefreshToken,
}

impl Named for GrantType {
    const SHAPE: &'static str = "\"client_credentials\", \"refresh_token\" or \"password\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("client_credentials", Self::ClientCredentials),
        ("refresh_token", Self::RefreshToken),
        ("password", Self::Password),
    ];
}

impl GrantType {
    /// The type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, grant)| *grant)
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its `client_id`.
    pub name: Name,
    digest: Sha256,
    pub(super) roles: RoleSet,
    scopes: Box<[Box<str>]>,
    grants: Box<[GrantType]>,
    pub(super) lifetime: Option<Duration>,
    /// Whether it may ask about, and revoke, what others were given.
    pub all_tokens: bool,
    /// What its tokens are bound to.
    pub bound: Bound,
}

impl Client {
    /// Whether it may use a grant.
    #[must_use]
    pub fn may(&self, grant: GrantType) -> bool {
        self.grants.contains(&grant)
    }

    /// What it gets of the scopes that it asks for; all that it may have where it asks for none in particular.
    ///
    /// # Errors
    /// [`Refusal::Scope`], where it asks for one that it may not have.
    pub fn scope(&self, asked: Option<&str>) -> Result<String, Refusal> {
        narrow(self.scopes.iter().map(|scope| &**scope), asked)
    }
}

/// The scopes out of `allowed` that were asked for, in the order of `allowed`.
pub(super) fn narrow<'a>(allowed: impl Iterator<Item = &'a str>, asked: Option<&str>) -> Result<String, Refusal> {
    let allowed: Vec<&str> = allowed.collect();
    let Some(asked) = asked else { return Ok(allowed.join(" ")) };
    let asked: Vec<&str> = asked.split(' ').collect();
    if asked.iter().any(|scope| !allowed.contains(scope)) {
        return Err(Refusal::Scope);
    }
    Ok(allowed.into_iter().filter(|scope| asked.contains(scope)).collect::<Vec<_>>().join(" "))
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    clients: BTreeMap<Name, Client>,
    /// What an unknown client's secret is compared with, so that it costs what a known one's does.
    nobody: Sha256,
}

impl Clients {
    /// Reads every `[clients.NAME]`.
    pub(super) fn compile(root: &Section<'_>, roles: &Roles, users: Option<&Users>, password_grant: bool) -> Self {
        let mut clients = BTreeMap::new();
        for section in root.sections("clients") {
            let client = Client::compile(&section, roles, password_grant);
            if users.is_some_and(|users| users.roles(&section.name()).is_some()) {
                section.mistake_here(
                    "has the name of a user, and who reads a token could not tell them apart",
                    "give one of them another name (RFC 9068 §5)",
                );
            }
            section.finish();
            clients.extend(client.map(|client| (Name::clone(&client.name), client)));
        }
        Self { clients, nobody: Sha256::of(b"") }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Client> {
        self.clients.values()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether the tokens that users get through one are bound to something.
    pub(super) fn bind_users(&self) -> bool {
        self.iter().any(|client| client.may(GrantType::Password) && client.bound != Bound::Any)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Client> {
        self.clients.get(name)
    }

    /// Every scope that somebody may have, once, in order.
    pub(super) fn scopes(&self) -> Vec<&str> {
        let mut scopes: Vec<&str> = self.iter().flat_map(|client| client.scopes.iter()).map(|scope| &**scope).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }

    /// Which client asks; `None` where none says who it is.
    pub(super) fn decide(&self, form: &Form, headers: &HeaderMap) -> Result<Option<&Client>, Refusal> {
        let Some(presented) = Presented::read(form, headers)? else { return Ok(None) };
        let secret = presented.secret.expose();
        let digest = Sha256::of(secret.get(..MOST_SECRET).unwrap_or(secret));
        let client = self.find(&presented.id);
        // Compared in both cases, and the result looked at after, so that time tells nothing of names.
        let matches = digest.matches(client.map_or(&self.nobody, |client| &client.digest));
        client.filter(|_| matches && secret.len() <= MOST_SECRET).map(Some).ok_or(Refusal::Client)
    }
}

impl Client {
    fn compile(section: &Section<'_>, roles: &Roles, password_grant: bool) -> Option<Self> {
        let name = section.name();
        if !is_client_name(&name) {
            section.mistake_here(
                "has a name that can't stand everywhere where clients are named",
                "use 1 to 64 letters, digits, -, _ and .",
            );
        }
        let digest: Option<Sha256> = section.required("digest", "paste the line that `gateway client new` printed");
        let held = roles.references(section, "roles");
        let mut scopes: Vec<Box<str>> = Vec::new();
        for (index, scope) in section.list::<String>("scopes") {
            // RFC 6749 §3.3.
            if scope.is_empty() || !scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
                let remedy = "use printable ASCII characters without spaces, \" and \\ (RFC 6749 §3.3)";
                section.mistake_at("scopes", index, "can't be a scope", remedy);
            }
            scopes.push(scope.into());
        }
        let grants = section.all::<GrantType>("grants");
        if grants.contains(&GrantType::Password) && !password_grant {
            section.mistake(
                "grants",
                "has \"password\", which is switched off",
                "remove it here, or write danger_password_grant = true under [token]",
            );
        }
        let all_tokens = section.or("all_tokens", false);
        if grants.is_empty() && !all_tokens {
            section.missing("grants", "list how it gets tokens: grants = [\"client_credentials\"]");
        }
        if grants.contains(&GrantType::RefreshToken) && !grants.contains(&GrantType::Password) {
            section.mistake(
                "grants",
                "has \"refresh_token\" without \"password\", and client_credentials never gives a refresh token",
                "add \"password\", or remove \"refresh_token\": with its secret it gets a new token at any time (RFC 6749 §4.4.3)",
            );
        }
        let lifetime = section.optional::<Duration>("lifetime");
        if lifetime.is_some_and(|lifetime| lifetime > MOST_LIFETIME || lifetime < Duration::from_secs(1)) {
            section.mistake("lifetime", "is not between a second and a day", "write at most \"1d\"");
        }
        let bound = section.or("bound", Bound::Any);
        Some(Self {
            name,
            digest: digest?,
            roles: roles.close(held),
            scopes: scopes.into(),
            grants: grants.into(),
            lifetime,
            all_tokens,
            bound,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    #[test]
    fn scopes_are_a_subset_in_one_order() {
        let narrow = |asked| narrow(["read", "write", "list"].into_iter(), asked);
        assert_eq!(narrow(None), Ok("read write list".into()));
        assert_eq!(narrow(Some("list read")), Ok("read list".into()));
        assert_eq!(narrow(Some("read read")), Ok("read".into()));
        for wrong in ["admin", "read admin", "READ", "read  write", " read", "read\twrite"] {
            assert_eq!(narrow(Some(wrong)), Err(Refusal::Scope), "{wrong:?}");
        }
    }

    #[test]
    fn a_secret_is_held_against_its_digest_alone() {
        let secret = compose_secret([7; 20]);
        let toml =
            format!("[clients.ci]\ndigest = \"{}\"\ngrants = [\"client_credentials\"]", Sha256::of(secret.as_bytes()));
        let (clients, mistakes) = with_section(&toml, |root| Clients::compile(root, &Roles::default(), None, false));
        assert_eq!(mistakes, []);
        let decide = |form: &str| {
            let form = Form::parse(form.as_bytes()).expect("a form");
            clients.decide(&form, &HeaderMap::new()).map(|client| client.map(|client| client.name.to_string()))
        };
        assert_eq!(decide(&format!("client_id=ci&client_secret={secret}")), Ok(Some("ci".into())));
        assert_eq!(decide("client_id=ci"), Ok(None), "nobody said that they were the client");
        for (id, wrong) in [("ci", "x"), ("nobody", secret.as_str()), ("CI", secret.as_str()), ("ci", &secret[..40])] {
            assert_eq!(decide(&format!("client_id={id}&client_secret={wrong}")), Err(Refusal::Client), "{id}");
        }
        assert!(!format!("{clients:?}").contains(&secret));
    }
}
