//! Reads `[issuers.NAME]`.

use std::collections::HashMap;
use std::time::Duration;

use jsonwebtoken::{AlgorithmFamily, DecodingKey};

use super::algorithm::JwtAlgorithm;
use super::issuer::{Introspection, Issuer, KeySource, Place, Publication};
use super::jwk;
use super::key::{VerifyKey, public_key, strong_secret};
use crate::policy::authenticate::binding::Bound;
use crate::policy::authorize::{Roles, Vocabulary};
use crate::settings::{Named, Section};
use crate::types::RoleSet;

/// For how long the last good keys serve by default, and at most.
const KEPT: Duration = Duration::from_hours(24);
const MOST_KEPT: Duration = Duration::from_hours(7 * 24);
/// And at least: a fetch that fails is tried again after a second.
const LEAST_KEPT: Duration = Duration::from_secs(3);
/// For how long an answer about a token counts by default, and at most.
const CACHED: Duration = Duration::from_mins(1);
const MOST_CACHED: Duration = Duration::from_mins(5);
/// How many questions about tokens an issuer is asked in a second.
const RATE: u32 = 100;

/// Which tokens an issuer is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Introspected {
    Opaque,
    All,
}

impl Named for Introspected {
    const SHAPE: &'static str = "\"opaque\" or \"all\"";
    const NAMES: &'static [(&'static str, Self)] = &[("opaque", Self::Opaque), ("all", Self::All)];
}

impl Issuer {
    pub(super) fn compile(section: &Section<'_>, words: &Vocabulary) -> Option<Self> {
        let name = section.name();
        if matches!(&*name, "key" | "user" | "client" | "cert" | "signer" | "anonymous") {
            section.mistake_here(
                format!("is called {name:?}, which already means another kind of principal"),
                "give it another name",
            );
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            section.mistake_here(
                "has a name in which principals could not be told apart",
                "use letters, digits, - and _: its principals are called NAME:SUBJECT",
            );
        }
        let iss: Option<String> = section.required("issuer", "write the `iss` of its tokens, to the letter");
        let audiences: Vec<Box<str>> = match section.word("audience") {
            Some(audience) => vec![audience.into()],
            None => section.all::<String>("audience").into_iter().map(Into::into).collect(),
        };
        if audiences.is_empty() || audiences.iter().any(|audience| audience.is_empty()) {
            section.missing("audience", "write the `aud` that means us; a token for somebody else must not work here");
        }
        let algorithms = section.all::<JwtAlgorithm>("algorithms");
        let introspection = section.section("introspection");
        let has_keys = ["jwks_url", "discovery", "jwks", "public_key", "secret"].iter().any(|key| section.has(key));
        if algorithms.is_empty() && (has_keys || introspection.is_none()) {
            section.missing("algorithms", "list the algorithms that it signs with: algorithms = [\"RS256\"]");
        }
        let types: Vec<Box<str>> =
            section.all::<String>("token_types").into_iter().map(|t| t.to_ascii_lowercase().into()).collect();
        let types = if types.is_empty() { vec!["at+jwt".into()] } else { types };
        let leeway = section.or("leeway", Duration::from_secs(30));
        if leeway > Duration::from_mins(1) {
            section.mistake(
                "leeway",
                "is more than a minute, in which a token that has ended would still work",
                "write at most \"60s\"",
            );
        }
        let bound = section.or("bound", Bound::Any);
        let keys = if has_keys || introspection.is_none() {
            compile_keys(section, iss.as_deref(), &algorithms)
        } else {
            Some(KeySource::None)
        };
        let ca = section.has("ca").then(|| section.file("ca", "name a PEM file")).flatten();
        if section.has("ca") && introspection.is_none() && !matches!(keys, Some(KeySource::Published(_)) | None) {
            section.mistake("ca", "stands beside keys that nobody fetches", "remove it");
        }
        Some(Self {
            name,
            iss: iss?.into(),
            audiences: audiences.into(),
            algorithms: algorithms.into(),
            types: types.into(),
            principal_claim: section.or("principal_claim", "sub".to_owned()).into(),
            roles_claim: section.or("roles_claim", "roles".to_owned()).into(),
            roles_map: section.section("roles_map").map(|map| compile_map(map, &words.roles)),
            scopes_claim: section.optional::<String>("scopes_claim").map(Into::into),
            leeway: leeway.as_secs(),
            bound,
            keys: keys?,
            ca: ca.map(Into::into),
            introspection: introspection.map(|section| compile_introspection(section, has_keys)),
            is_own: false,
        })
        .filter(|issuer| issuer.introspection.as_ref().is_none_or(|introspection| !introspection.url.is_empty()))
    }
}

fn compile_keys(section: &Section<'_>, iss: Option<&str>, algorithms: &[JwtAlgorithm]) -> Option<KeySource> {
    let written = ["jwks_url", "discovery", "jwks", "public_key", "secret"];
    let mut written = written.into_iter().filter(|key| section.has(key));
    let kept = || {
        let kept = section.or("keys_kept", KEPT);
        if kept > MOST_KEPT {
            let reason = "is more than a week, for which a key that was withdrawn would still work";
            section.mistake("keys_kept", reason, "write at most \"7d\"");
        }
        if kept < LEAST_KEPT {
            let reason = format!("is {kept:?}, in which a fetch that fails can't be tried again");
            section.mistake("keys_kept", reason, "write at least \"3s\", and hours where nothing speaks against it");
        }
        kept
    };
    let published = |place| Some(KeySource::Published(Publication { place, kept: kept() }));
    match (written.next(), written.next()) {
        (Some("jwks_url"), None) => {
            let url: String = section.optional("jwks_url")?;
            check_https(section, "jwks_url", &url, "so anybody on the way could put keys there");
            check_asymmetric(section, algorithms);
            published(Place::Set(url.into()))
        }
        (Some("discovery"), None) => {
            if !section.optional::<bool>("discovery")? {
                section.mistake("discovery", "is false, and there are no other keys", "write true, or name the keys");
            }
            let iss = iss?;
            check_https(section, "issuer", iss, "so anybody on the way could put metadata there");
            check_asymmetric(section, algorithms);
            published(Place::Metadata(metadata_urls(iss)))
        }
        (Some("jwks"), None) => {
            let set = section.file("jwks", "name a file with the issuer's JWK Set")?;
            check_asymmetric(section, algorithms);
            fixed(section, "jwks", jwk::written_set(&set, algorithms))
        }
        (Some("public_key"), None) => {
            let content = section.file("public_key", "name a file with the issuer's public key, in PEM or as a JWK")?;
            if content.trim_ascii_start().starts_with(b"{") {
                check_asymmetric(section, algorithms);
                return fixed(section, "public_key", jwk::written_key(&content, algorithms));
            }
            let keys = algorithms.iter().filter_map(|&algorithm| match public_key(algorithm, &content) {
                Ok(key) => Some(VerifyKey { kid: None, algorithm, key }),
                Err(reason) => {
                    section.mistake("public_key", reason, "check that the key is of the algorithm's kind");
                    None
                }
            });
            Some(KeySource::Fixed(keys.collect()))
        }
        (Some(_), None) => {
            let secret = section.secret("secret")?;
            if let Err(reason) = strong_secret(secret.expose()) {
                section.mistake("secret", reason, "use 32 random bytes or more");
            }
            if algorithms.iter().any(|a| a.family() != AlgorithmFamily::Hmac) {
                section.mistake(
                    "algorithms",
                    "has an asymmetric algorithm beside `secret`",
                    "use `public_key` or `jwks_url`, or HS256 alone",
                );
            }
            let key = DecodingKey::from_secret(secret.expose());
            let keys = algorithms.iter().map(|&algorithm| VerifyKey { kid: None, algorithm, key: key.clone() });
            Some(KeySource::Fixed(keys.collect()))
        }
        (first, _) => {
            let remedy = "write exactly one of jwks_url, discovery = true, jwks (a file with a JWK Set), public_key (a \
                          file with one key, PEM or JWK) and secret ({ env } or { file })";
            match first {
                Some(key) => section.mistake(key, "stands beside other keys", remedy),
                None => section.missing("jwks_url", remedy),
            }
            None
        }
    }
}

fn fixed(section: &Section<'_>, key: &str, keys: Result<Vec<VerifyKey>, String>) -> Option<KeySource> {
    let keys = keys.map_err(|reason| section.mistake(key, reason, "check that the keys are of the algorithms' kinds"));
    keys.ok().map(KeySource::Fixed)
}

fn check_https(section: &Section<'_>, key: &str, url: &str, why: &str) {
    if !url.starts_with("https://") {
        section.mistake(key, format!("does not begin with https://, {why}"), "use https");
    }
}

fn check_asymmetric(section: &Section<'_>, algorithms: &[JwtAlgorithm]) {
    if algorithms.iter().any(|a| a.family() == AlgorithmFamily::Hmac) {
        section.mistake(
            "algorithms",
            "has an HMAC algorithm beside published keys, and what is published is no secret",
            "list the issuer's asymmetric algorithms",
        );
    }
}

/// Where an issuer's metadata may be: OpenID Connect Discovery §4, then RFC 8414 §3.1.
fn metadata_urls(iss: &str) -> Box<[Box<str>]> {
    let iss = iss.trim_end_matches('/');
    let authority = iss.strip_prefix("https://").unwrap_or(iss);
    let (host, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    [
        format!("{iss}/.well-known/openid-configuration").into(),
        format!("https://{host}/.well-known/oauth-authorization-server{path}").into(),
    ]
    .into()
}

/// What the issuer's words for roles mean: one role each, or a list.
fn compile_map(section: Section<'_>, roles: &Roles) -> HashMap<Box<str>, RoleSet> {
    let mut map = HashMap::new();
    for key in section.keys() {
        let Some(name) = section.word(key) else {
            map.insert(key.into(), roles.references(&section, key));
            continue;
        };
        if let Some(role) = roles.find(name) {
            map.insert(key.into(), RoleSet::default().with(role));
        } else {
            let defined: Vec<&str> = roles.names().iter().map(|name| &**name).collect();
            section.undefined(key, None, ("role", "roles"), name, &defined);
        }
    }
    section.finish();
    map
}

fn compile_introspection(section: Section<'_>, has_keys: bool) -> Introspection {
    let url: String = section.required("url", "write where the issuer introspects tokens").unwrap_or_default();
    if section.has("url") {
        check_https(&section, "url", &url, "so anybody on the way could read tokens and answer");
    }
    let client_id: Option<String> = section.required("client_id", "write what the issuer calls this gateway");
    let client_secret = section.secret("client_secret");
    let cache_for = section.or("cache_for", CACHED);
    if cache_for > MOST_CACHED {
        let reason = "is more than five minutes, for which a token that was taken back would still work";
        section.mistake("cache_for", reason, "write at most \"5m\"");
    }
    let rate = section.or("rate", RATE);
    if rate == 0 {
        section.mistake(
            "rate",
            "is 0, so no token could ever be good",
            "write how many questions a second may be asked",
        );
    }
    let tokens = section.or("tokens", if has_keys { Introspected::Opaque } else { Introspected::All });
    let any_audience = section.or("danger_any_audience", false);
    section.finish();
    Introspection {
        url: url.into(),
        client_id: client_id.unwrap_or_default().into(),
        client_secret: client_secret.unwrap_or_else(|| crate::types::Secret::new([])),
        cache_for,
        rate,
        all_tokens: tokens == Introspected::All,
        any_audience,
    }
}
