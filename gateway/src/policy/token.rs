//! May this user have a token? The gateway's own OAuth2 token endpoint, without its I/O.
//!
//! Source: RFC 6749 §4.3 and §5, RFC 9068 for the token's form. The password grant is legacy (RFC 9700
//! §2.4 says that it must not be used) and must be switched on by `danger_password_grant`. Checking a
//! password is slow on purpose; the caller runs it off the event loop.

use std::collections::HashMap;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm as Argon2Algorithm, Argon2, Params, Version};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, EncodingKey, Header};
use serde::Serialize;

use super::authenticate::jwt::{JwtAlgorithm, VerifyKey, strong_secret};
use super::authorize::Roles;
use crate::settings::Section;
use crate::types::{Name, RequestId, RoleSet, Secret, Sha256, Timestamp};

/// The longest password in bytes: nothing is cut, and nothing is hashed that only costs time.
const MOST_PASSWORD: usize = 1024;
/// The largest body of a token request in bytes.
pub const MOST_FORM: usize = 8 << 10;

/// The user whom a form names, for limits that count by user; `None` where it names none, or two.
#[must_use]
pub fn user(form: &[u8]) -> Option<String> {
    let mut names = form_urlencoded::parse(form).filter(|(name, _)| name == "username").map(|(_, value)| value);
    let name = names.next()?.into_owned();
    names.next().is_none().then_some(name)
}

/// One user who may ask for tokens.
struct User {
    digest: Box<str>,
    roles: RoleSet,
}

/// The gateway as an issuer of tokens.
pub struct TokenIssuer {
    issuer: Box<str>,
    audience: Box<str>,
    lifetime: Duration,
    signing_key: EncodingKey,
    verify_key: VerifyKey,
    users: HashMap<Name, User>,
    /// Checked for unknown users, so that they take the time of known ones.
    nobodies: Vec<Box<str>>,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("users", &self.users.len())
            .finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Reads `[token]` and `[users.NAME]`.
    #[must_use]
    pub fn compile(section: Section<'_>, root: &Section<'_>, roles: &Roles) -> Option<Self> {
        let issuer: Option<String> =
            section.required("issuer", "write the https URL under which clients know the gateway");
        if issuer.as_ref().is_some_and(|issuer| !issuer.starts_with("https://")) {
            section.mistake(
                "issuer",
                "does not begin with https://",
                "write the https URL under which clients know the gateway (RFC 8414 §2)",
            );
        }
        let audience: Option<String> =
            section.required("audience", "write a name for this gateway; tokens for others are refused");
        let lifetime = section.or("lifetime", Duration::from_mins(15));
        if lifetime > Duration::from_hours(24) {
            section.mistake(
                "lifetime",
                "is more than a day, and a token can't be taken back before it ends",
                "write at most \"1d\"",
            );
        }
        let algorithm: Option<JwtAlgorithm> = section.required("algorithm", "write one such as \"ES256\"");
        let key = section.secret("signing_key");
        if !section.or("danger_password_grant", false) {
            section.mistake(
                "danger_password_grant",
                "is not true, and the password grant is the only one that this version offers",
                "write danger_password_grant = true if first-party clients need it (RFC 9700 §2.4 advises against it), or remove [token]",
            );
        }
        let users = compile_users(root, roles);
        let keys = algorithm.zip(key).and_then(|(algorithm, key)| {
            key_pair(algorithm, &key)
                .map_err(|reason| {
                    section.mistake(
                        "signing_key",
                        reason,
                        "make one as certs/README.md shows: PEM (PKCS #8), or 32 random bytes or more for HS256",
                    );
                })
                .ok()
        });
        section.finish();
        let (signing_key, verify_key) = keys?;
        Some(Self {
            issuer: issuer?.into(),
            audience: audience?.into(),
            lifetime,
            signing_key,
            verify_key,
            nobodies: nobodies(&users)?,
            users,
        })
    }

    /// The `iss` of its tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The `aud` of its tokens.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// What its tokens are verified with.
    #[must_use]
    pub fn verify_key(&self) -> &VerifyKey {
        &self.verify_key
    }

    /// The roles of a user; `None` where there is no such user.
    #[must_use]
    pub fn roles_of(&self, user: &str) -> Option<RoleSet> {
        self.users.get(user).map(|user| user.roles)
    }

    /// Checks a user's password. Takes tens of milliseconds and megabytes, for unknown users too.
    ///
    /// # Errors
    /// [`Refusal::Grant`] alike for an unknown user and a wrong password.
    pub fn check(&self, grant: &PasswordGrant) -> Result<(), Refusal> {
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

    /// Makes a token for a user whose password was checked. `id` becomes its `jti`.
    ///
    /// # Errors
    /// [`Refusal::Signing`], if the key can't sign.
    pub fn mint(&self, user: &str, roles: &Roles, id: RequestId, now: Timestamp) -> Result<Minted, Refusal> {
        let held = self.users.get(user).map(|user| user.roles).unwrap_or_default();
        let names = roles.list(held);
        let claims = Claims {
            iss: &self.issuer,
            sub: user,
            aud: &self.audience,
            client_id: user,
            iat: now.secs(),
            exp: now.secs().saturating_add(self.lifetime.as_secs()),
            jti: id.as_str(),
            roles: names.split(',').filter(|name| !name.is_empty()).collect(),
        };
        let mut header = Header::new(self.verify_key.algorithm.0);
        header.typ = Some("at+jwt".into());
        header.kid = self.verify_key.kid.as_deref().map(Into::into);
        let access_token = jsonwebtoken::encode(&header, &claims, &self.signing_key).map_err(|_| Refusal::Signing)?;
        Ok(Minted { access_token, token_type: "Bearer", expires_in: self.lifetime.as_secs() })
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

/// Reads a signing key and what its signatures are verified with.
fn key_pair(algorithm: JwtAlgorithm, secret: &Secret) -> Result<(EncodingKey, VerifyKey), String> {
    let bytes = secret.expose();
    let wrong = |error: jsonwebtoken::errors::Error| format!("is not a key for {:?}: {error}", algorithm.0);
    let signing_key = match algorithm.family() {
        AlgorithmFamily::Hmac => {
            strong_secret(bytes)?;
            EncodingKey::from_secret(bytes)
        }
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(bytes).map_err(wrong)?,
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(bytes).map_err(wrong)?,
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(bytes).map_err(wrong)?,
    };
    let (key, kid) = if algorithm.family() == AlgorithmFamily::Hmac {
        (DecodingKey::from_secret(bytes), None)
    } else {
        let jwk = Jwk::from_encoding_key(&signing_key, algorithm.0).map_err(wrong)?;
        let kid = jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).map_err(wrong)?;
        (DecodingKey::from_jwk(&jwk).map_err(wrong)?, Some(kid.into()))
    };
    // A key of the wrong size or curve shows itself when it is first used: here, not in a request.
    let signature = jsonwebtoken::crypto::sign(b"probe", &signing_key, algorithm.0).map_err(wrong)?;
    if !jsonwebtoken::crypto::verify(&signature, b"probe", &key, algorithm.0).unwrap_or(false) {
        return Err(format!("does not verify its own signatures with {:?}", algorithm.0));
    }
    Ok((signing_key, VerifyKey { kid, algorithm, key }))
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    iat: u64,
    exp: u64,
    jti: &'a str,
    roles: Vec<&'a str>,
}

/// A token response (RFC 6749 §5.1).
#[derive(Serialize)]
pub struct Minted {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
}

/// A user name and password, asked to be exchanged for a token.
#[derive(Debug)]
pub struct PasswordGrant {
    /// Who.
    pub username: String,
    password: Secret,
}

impl PasswordGrant {
    /// Reads a form body (RFC 6749 §4.3.2). An empty parameter counts as absent; a repeated one is a fault.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn parse(form: &[u8]) -> Result<Self, Refusal> {
        let (mut grant_type, mut username, mut password, mut scope) = (None, None, None, None);
        if std::str::from_utf8(form).is_err() {
            return Err(Refusal::Request("the form is not UTF-8"));
        }
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(form) {
            if seen.contains(&name) {
                return Err(Refusal::Request("a parameter stands there twice"));
            }
            let value = (!value.is_empty()).then(|| value.into_owned());
            match &*name {
                "grant_type" => grant_type = value,
                "username" => username = value,
                "password" => password = value,
                "scope" => scope = value,
                // RFC 6749 §3.2: unrecognised parameters are ignored. FastAPI's form sends client_id too.
                _ => {}
            }
            seen.push(name);
        }
        match grant_type.as_deref() {
            None => return Err(Refusal::Request("grant_type is missing")),
            Some("password") => {}
            Some(_) => return Err(Refusal::GrantType),
        }
        if scope.is_some() {
            return Err(Refusal::Scope);
        }
        let username = username.ok_or(Refusal::Request("username is missing"))?;
        let password = Secret::new(password.ok_or(Refusal::Request("password is missing"))?.into_bytes());
        if password.expose().len() > MOST_PASSWORD || username.len() > 256 {
            return Err(Refusal::Grant);
        }
        Ok(Self { username, password })
    }
}

/// Why there is no token (RFC 6749 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `invalid_request`, and what is wrong with it.
    Request(&'static str),
    /// `unsupported_grant_type`.
    GrantType,
    /// `invalid_scope`: rights come from roles, so none is offered.
    Scope,
    /// `invalid_grant`: unknown user or wrong password, alike.
    Grant,
    /// The key could not sign: ours, not the client's.
    Signing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let grant = PasswordGrant::parse(b"grant_type=password&username=alice&password=a%20b%2Bc&client_id=&scope=")
            .expect("a good form");
        assert_eq!((grant.username.as_str(), grant.password.expose()), ("alice", &b"a b+c"[..]));
        for (form, refusal) in [
            (&b""[..], Refusal::Request("grant_type is missing")),
            (b"grant_type=", Refusal::Request("grant_type is missing")),
            (b"grant_type=client_credentials", Refusal::GrantType),
            (b"grant_type=password&username=a", Refusal::Request("password is missing")),
            (b"grant_type=password&username=&password=x", Refusal::Request("username is missing")),
            (
                b"grant_type=password&username=a&username=a&password=x",
                Refusal::Request("a parameter stands there twice"),
            ),
            (b"grant_type=password&username=a&password=x&scope=admin", Refusal::Scope),
            (b"grant_type=password&username=\xff", Refusal::Request("the form is not UTF-8")),
        ] {
            assert_eq!(PasswordGrant::parse(form).err(), Some(refusal), "{}", String::from_utf8_lossy(form));
        }
    }

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
