//! May this user or client have a token, and what does it say? The gateway's own OAuth2 endpoints, without their I/O.
//!
//! Source: RFC 6749 §4.3–§6, RFC 9068 for the token's form, RFC 7009, RFC 7662, RFC 8414. The password grant is
//! legacy (RFC 9700 §2.4 says that it must not be used) and must be switched on by `danger_password_grant`. Never
//! makes anything random, and never remembers: the caller brings chance and the store.

mod clients;
mod form;
mod refresh;
mod signing;
mod users;

use std::time::Duration;

use http::HeaderMap;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::authenticate::binding::Bound;
use super::authenticate::dpop;
use super::authenticate::jwt::VerifyKey;
use super::authorize::Roles;
use super::unknown::Unknown;
use crate::settings::{Named, Section};
use crate::types::{Binding, RequestId, RoleSet, Timestamp};

pub use clients::{Client, GrantType, compose_secret, is_client_name};
use clients::{Clients, narrow};
pub use form::{Form, PasswordGrant};
pub use refresh::{Family, Kept, RefreshToken};
use signing::OwnKeys;
pub(super) use signing::signing_pair;
use users::Users;
pub use users::hash_password;

/// The largest body of a token request in bytes.
pub const MOST_FORM: usize = 8 << 10;
/// The longest that an access token lives: how long a revoked one is remembered hangs on it.
pub const MOST_LIFETIME: Duration = Duration::from_hours(24);
/// What begins the claim `gty` of a client's own token.
pub const CLIENT_CREDENTIALS: &str = "client-credentials";

/// The user whom a form names, for limits that count by user; `None` where it names none, or two.
#[must_use]
pub fn user(form: &[u8]) -> Option<String> {
    let mut names = form_urlencoded::parse(form).filter(|(name, _)| name == "username").map(|(_, value)| value);
    let name = names.next()?.into_owned();
    names.next().is_none().then_some(name)
}

/// The gateway as an issuer of tokens.
pub struct TokenIssuer {
    issuer: Box<str>,
    audience: Box<str>,
    lifetime: Duration,
    refresh_lifetime: Duration,
    unknown_after: Option<Duration>,
    password_grant: bool,
    keys: OwnKeys,
    users: Users,
    clients: Clients,
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .field("users", &self.users.len())
            .field("clients", &self.clients)
            .finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// Reads `[token]`, `[users.NAME]` and `[clients.NAME]`.
    #[must_use]
    pub fn compile(section: Section<'_>, root: &Section<'_>, roles: &Roles) -> Option<Self> {
        let issuer: Option<String> =
            section.required("issuer", "write the https URL under which clients know the gateway");
        if issuer.as_ref().is_some_and(|issuer| !issuer.starts_with("https://") || issuer.contains(['?', '#'])) {
            section.mistake(
                "issuer",
                "does not begin with https://, or has a query or fragment",
                "write the https URL under which clients know the gateway (RFC 8414 §2)",
            );
        }
        let audience: Option<String> =
            section.required("audience", "write a name for this gateway; tokens for others are refused");
        let lifetime = section.or("lifetime", Duration::from_mins(15));
        if lifetime > MOST_LIFETIME {
            section.mistake(
                "lifetime",
                "is more than a day, in which nobody asks again whether its owner may still have it",
                "write at most \"1d\"; clients ask again by themselves, and users have refresh tokens",
            );
        }
        let refresh_lifetime = section.or("refresh_lifetime", Duration::from_hours(24 * 30));
        if !(lifetime..=Duration::from_hours(24 * 366)).contains(&refresh_lifetime) {
            section.mistake(
                "refresh_lifetime",
                "is shorter than `lifetime` or longer than a year",
                "write one such as \"30d\"",
            );
        }
        let unknown = section.or("revocation_unknown", Unknown::Refuse);
        let unknown_after = section.or("revocation_unknown_after", Duration::from_secs(10));
        if unknown_after < Duration::from_secs(1) {
            section.mistake(
                "revocation_unknown_after",
                "is less than a second, in which no gateway can know",
                "write one such as \"10s\"",
            );
        }
        let password_grant = section.or("danger_password_grant", false);
        if !password_grant && !root.has("clients") {
            section.mistake(
                "danger_password_grant",
                "is not true, and no client is defined, so nobody could get a token",
                "define [clients.NAME], or remove [token]; danger_password_grant = true is for first-party clients that need \
                 it (RFC 9700 §2.4 advises against it)",
            );
        }
        let users = Users::compile(root, roles);
        let clients = Clients::compile(root, roles, users.as_ref(), password_grant);
        let keys = OwnKeys::compile(&section);
        section.finish();
        Some(Self {
            issuer: issuer?.into(),
            audience: audience?.into(),
            lifetime,
            refresh_lifetime,
            unknown_after: (unknown == Unknown::Refuse).then_some(unknown_after),
            password_grant,
            keys: keys?,
            users: users?,
            clients,
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

    /// What its tokens are verified with: the key that signs, and those before and after it.
    #[must_use]
    pub fn verify_keys(&self) -> &[VerifyKey] {
        &self.keys.verify
    }

    /// After how long without knowing which tokens are revoked none is good any more; `None`: never.
    #[must_use]
    pub fn unknown_after(&self) -> Option<Duration> {
        self.unknown_after
    }

    /// Whether there is a client at all.
    #[must_use]
    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// The public keys (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Vec<u8> {
        self.keys.jwks()
    }

    /// What clients are told about the gateway (RFC 8414 §2). `path` gives the path of an endpoint, where there is
    /// one.
    #[must_use]
    pub fn metadata(&self, path: impl Fn(Endpoint) -> Option<String>) -> Vec<u8> {
        let origin = self.issuer.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let methods = json!(["client_secret_basic", "client_secret_post"]);
        let mut document = json!({
            "issuer": &*self.issuer,
            // REQUIRED (§2), and never empty (§3.2); there is no endpoint that would answer with anything.
            "response_types_supported": ["none"],
            "grant_types_supported": self.grant_types(),
            "token_endpoint_auth_methods_supported": methods,
            // RFC 9449 §5.1.
            "dpop_signing_alg_values_supported": dpop::algorithms().collect::<Vec<_>>(),
        });
        let mut add = |name: &str, value: Value| document.as_object_mut().and_then(|it| it.insert(name.into(), value));
        if self.clients.iter().any(|client| client.bound == Bound::Certificate) {
            // RFC 8705 §3.3.
            add("tls_client_certificate_bound_access_tokens", json!(true));
        }
        let scopes = self.clients.scopes();
        if !scopes.is_empty() {
            add("scopes_supported", json!(scopes));
        }
        for (endpoint, name, asks_clients) in [
            (Endpoint::Token, "token_endpoint", false),
            (Endpoint::Jwks, "jwks_uri", false),
            (Endpoint::Revoke, "revocation_endpoint", true),
            (Endpoint::Introspect, "introspection_endpoint", true),
        ] {
            let Some(path) = path(endpoint) else { continue };
            add(name, json!(format!("{origin}{path}")));
            if asks_clients {
                add(&format!("{name}_auth_methods_supported"), methods.clone());
            }
        }
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// Where RFC 8414 §3.1 puts the metadata of this issuer.
    #[must_use]
    pub fn metadata_path(&self) -> String {
        let path = self.issuer.splitn(4, '/').nth(3).unwrap_or_default().trim_end_matches('/');
        let begin = "/.well-known/oauth-authorization-server";
        if path.is_empty() { begin.to_owned() } else { format!("{begin}/{path}") }
    }

    fn grant_types(&self) -> Vec<&'static str> {
        let offered = GrantType::NAMES.iter().filter(|(_, grant)| self.offers(*grant));
        offered.map(|(name, _)| *name).collect()
    }

    fn offers(&self, grant: GrantType) -> bool {
        grant == GrantType::Password && self.password_grant || self.clients.iter().any(|client| client.may(grant))
    }

    /// Which client asks; `None` where none says who it is.
    ///
    /// # Errors
    /// [`Refusal::Client`], alike for an unknown client and a wrong secret; [`Refusal::Request`].
    pub fn client(&self, form: &Form, headers: &HeaderMap) -> Result<Option<&Client>, Refusal> {
        // Without clients there is only the legacy grant, whose forms may name one that means nothing here.
        if self.clients.is_empty() { Ok(None) } else { self.clients.decide(form, headers) }
    }

    /// Reads what is asked for, and whether this client may ask for it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn grant<'a>(&'a self, form: &Form, client: Option<&'a Client>) -> Result<Grant<'a>, Refusal> {
        let name = form.require("grant_type", "grant_type is missing")?;
        let grant = GrantType::parse(name).filter(|grant| self.offers(*grant)).ok_or(Refusal::GrantType)?;
        if client.is_some_and(|client| !client.may(grant)) {
            return Err(Refusal::Unauthorized);
        }
        match (grant, client) {
            // Who names no client would escape what a client's tokens are bound to.
            (GrantType::Password, None) if self.clients.bind_users() => Err(Refusal::Client),
            (GrantType::Password, client) => {
                let scope = match client {
                    Some(client) => client.scope(form.find("scope"))?,
                    // Nobody said who would be bound by it.
                    None if form.find("scope").is_some() => return Err(Refusal::Scope),
                    None => String::new(),
                };
                Ok(Grant::Password { password: PasswordGrant::read(form)?, client, scope })
            }
            (_, None) => Err(Refusal::Client),
            (GrantType::ClientCredentials, Some(client)) => {
                Ok(Grant::ClientCredentials { client, scope: client.scope(form.find("scope"))? })
            }
            (GrantType::RefreshToken, Some(client)) => {
                let token = form.require("refresh_token", "refresh_token is missing")?;
                let token = RefreshToken::parse(token).ok_or(Refusal::Refresh)?;
                Ok(Grant::Refresh { client, token, scope: form.find("scope").map(Into::into) })
            }
        }
    }

    /// The roles of a user; `None` where there is no such user.
    #[must_use]
    pub fn roles_of(&self, user: &str) -> Option<RoleSet> {
        self.users.roles(user)
    }

    /// Checks a user's password. Takes tens of milliseconds and megabytes, for unknown users too.
    ///
    /// # Errors
    /// [`Refusal::Grant`] alike for an unknown user and a wrong password.
    pub fn check(&self, grant: &PasswordGrant) -> Result<(), Refusal> {
        self.users.check(grant)
    }

    /// What a family begins with, where the client gets refresh tokens.
    #[must_use]
    pub fn begin(&self, client: &Client, user: &str, scope: &str, now: Timestamp) -> Option<Family> {
        client.may(GrantType::RefreshToken).then(|| Family {
            client: client.name.to_string(),
            user: user.to_owned(),
            password: self.users.password_mark(user).unwrap_or_default(),
            scope: scope.to_owned(),
            iat: now.secs(),
            exp: now.secs().saturating_add(self.refresh_lifetime.as_secs()),
        })
    }

    /// Whether the user of a family is still there, with the password that it began with.
    #[must_use]
    pub fn stands(&self, family: &Family) -> bool {
        self.users.password_mark(&family.user).is_some_and(|mark| mark == family.password)
    }

    /// Whether a family's newest token gives this client a new one, and for which scopes.
    ///
    /// # Errors
    /// [`Refusal::Refresh`]; [`Refusal::Scope`].
    pub fn refresh(
        &self,
        client: &Client,
        family: &Family,
        asked: Option<&str>,
        now: Timestamp,
    ) -> Result<String, Refusal> {
        if family.client != *client.name || family.exp <= now.secs() || !self.stands(family) {
            return Err(Refusal::Refresh);
        }
        // What the client may no longer have is not given again.
        let allowed = client.scope(None)?;
        let still = family.scope.split(' ').filter(|scope| allowed.split(' ').any(|allowed| allowed == *scope));
        narrow(still.filter(|scope| !scope.is_empty()), asked)
    }

    /// Makes an access token. `id` becomes its `jti`.
    ///
    /// # Errors
    /// [`Refusal::Signing`], if the key can't sign.
    pub fn mint(&self, holder: &Holder<'_>, roles: &Roles, id: RequestId, now: Timestamp) -> Result<Minted, Refusal> {
        let (sub, held): (&str, RoleSet) = match (holder.user, holder.client) {
            (Some(user), _) => (user, self.users.roles(user).unwrap_or_default()),
            (None, Some(client)) => (&client.name, client.roles),
            (None, None) => return Err(Refusal::Client),
        };
        let lifetime = holder.client.and_then(|client| client.lifetime).unwrap_or(self.lifetime).as_secs();
        let names = roles.list(held);
        let claims = Claims {
            iss: &self.issuer,
            sub,
            aud: &self.audience,
            client_id: holder.client.map_or(sub, |client| &client.name),
            iat: now.secs(),
            exp: now.secs().saturating_add(lifetime),
            jti: id.as_str(),
            roles: names.split(',').filter(|name| !name.is_empty()).collect(),
            scope: holder.scope,
            gty: if holder.user.is_none() { CLIENT_CREDENTIALS } else { "" },
            grant_id: holder.grant,
            cnf: Confirmation::of(&holder.bound),
        };
        let key = self.keys.verify.first().ok_or(Refusal::Signing)?;
        let access_token = sign(&claims, key, &self.keys.signing)?;
        Ok(Minted {
            access_token,
            token_type: if holder.bound.key.is_some() { "DPoP" } else { "Bearer" },
            expires_in: lifetime,
            scope: holder.scope.to_owned(),
            refresh_token: None,
        })
    }

    /// Whether this client may ask about, or revoke, a token that this client was given.
    #[must_use]
    pub fn may_handle(client: &Client, owner: &str) -> bool {
        client.all_tokens || *client.name == *owner
    }
}

fn sign(claims: &Claims<'_>, key: &VerifyKey, signing_key: &EncodingKey) -> Result<String, Refusal> {
    let mut header = Header::new(key.algorithm.0);
    header.typ = Some("at+jwt".into());
    header.kid = key.kid.as_deref().map(Into::into);
    jsonwebtoken::encode(&header, claims, signing_key).map_err(|_| Refusal::Signing)
}

/// What the gateway answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Gives tokens (RFC 6749 §3.2).
    Token,
    /// Takes tokens back (RFC 7009).
    Revoke,
    /// Says what a token is worth (RFC 7662).
    Introspect,
    /// Publishes the keys (RFC 7517).
    Jwks,
    /// Publishes the metadata (RFC 8414).
    Metadata,
}

impl Named for Endpoint {
    const SHAPE: &'static str = "\"token\", \"revoke\", \"introspect\", \"jwks\" or \"metadata\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("token", Self::Token),
        ("revoke", Self::Revoke),
        ("introspect", Self::Introspect),
        ("jwks", Self::Jwks),
        ("metadata", Self::Metadata),
    ];
}

impl Endpoint {
    /// Its name in TOML.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, endpoint)| *endpoint == self).map_or("", |(name, _)| name)
    }

    /// Whether it reads a form; the others only show a document.
    #[must_use]
    pub fn takes_form(self) -> bool {
        matches!(self, Self::Token | Self::Revoke | Self::Introspect)
    }
}

/// What is asked for, by a client that may.
#[derive(Debug)]
pub enum Grant<'a> {
    /// A token for a user's password.
    Password {
        /// Name and password.
        password: PasswordGrant,
        /// Through which client, if one said who it is.
        client: Option<&'a Client>,
        /// The scopes that it gets.
        scope: String,
    },
    /// A token for the client itself.
    ClientCredentials {
        /// Which.
        client: &'a Client,
        /// The scopes that it gets.
        scope: String,
    },
    /// A token for a refresh token.
    Refresh {
        /// Who shows it.
        client: &'a Client,
        /// What it shows.
        token: RefreshToken,
        /// The scopes that it asks for.
        scope: Option<String>,
    },
}

/// Whom an access token is for.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The user; none where a client acts for itself.
    pub user: Option<&'a str>,
    /// The client; none in the legacy grant.
    pub client: Option<&'a Client>,
    /// The scopes.
    pub scope: &'a str,
    /// The family that it stems from; empty where there is none.
    pub grant: &'a str,
    /// What it is bound to.
    pub bound: Binding,
}

/// `cnf` (RFC 7800 §3.1).
#[derive(Serialize)]
struct Confirmation {
    #[serde(rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(rename = "jkt", skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Confirmation {
    fn of(bound: &Binding) -> Option<Self> {
        let Binding { certificate, key } = bound;
        let written = |thumbprint: &Option<_>| thumbprint.as_ref().map(dpop::write_thumbprint);
        (certificate.is_some() || key.is_some()).then(|| Self { certificate: written(certificate), key: written(key) })
    }
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
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    gty: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    grant_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cnf: Option<Confirmation>,
}

/// A token response (RFC 6749 §5.1).
#[derive(Serialize)]
pub struct Minted {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
}

impl Minted {
    /// With a refresh token beside it.
    #[must_use]
    pub fn with_refresh(self, token: &RefreshToken) -> Self {
        Self { refresh_token: Some(token.expose().to_owned()), ..self }
    }
}

/// What introspection says of a good access token (RFC 7662 §2.2).
#[must_use]
pub fn describe(claims: &Map<String, Value>) -> Value {
    let is_proven = claims.get("cnf").is_some_and(|cnf| cnf.get("jkt").is_some());
    let mut said = json!({ "active": true, "token_type": if is_proven { "DPoP" } else { "Bearer" } });
    if let Some(said) = said.as_object_mut() {
        for name in ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "roles", "cnf"] {
            said.extend(claims.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        if claims.get("gty").is_none() {
            said.extend(claims.get("sub").map(|user| ("username".to_owned(), user.clone())));
        }
    }
    said
}

/// What introspection says of a good refresh token.
#[must_use]
pub fn describe_refresh(family: &Family) -> Value {
    let Family { client, user, scope, iat, exp, password: _ } = family;
    let mut said = json!({
        "active": true, "client_id": client, "username": user, "sub": user, "iat": iat, "exp": exp
    });
    if let Some(said) = said.as_object_mut().filter(|_| !scope.is_empty()) {
        said.insert("scope".into(), json!(scope));
    }
    said
}

/// Why there is no token (RFC 6749 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `invalid_request`, and what is wrong with it.
    Request(&'static str),
    /// `invalid_dpop_proof`, and what is wrong with it (RFC 9449 §5).
    Proof(&'static str),
    /// `unsupported_grant_type`.
    GrantType,
    /// `invalid_scope`: more than this client, or anybody, may have.
    Scope,
    /// `invalid_grant`: unknown user or wrong password, alike.
    Grant,
    /// `invalid_grant`: no refresh token that is good, or not this client's.
    Refresh,
    /// `invalid_grant`: a refresh token that was used before; its family has ended.
    Reused,
    /// `invalid_client`: unknown or not proven, alike.
    Client,
    /// `unauthorized_client`: a grant that this client may not use.
    Unauthorized,
    /// `invalid_grant`: a token that another client was given (RFC 7009 §2.1).
    NotYours,
    /// The key could not sign: ours, not the client's.
    Signing,
}
