//! One trusted issuer: what it must be told of, and what its tokens must say.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde_json::{Map, Value};

use super::Refusal;
use super::algorithm::JwtAlgorithm;
use super::key::{VerifyKey, public_key, strong_secret};
use crate::policy::authorize::{Vocabulary, descend};
use crate::policy::token::{CLIENT_CREDENTIALS, TokenIssuer};
use crate::settings::Section;
use crate::types::{Name, Principal, RoleSet, Scheme, Timestamp};

/// The longest `kid`, in bytes.
const MOST_KID: usize = 128;
/// The longest subject, in bytes (RFC 9068 sets none; OpenID Connect Core §2 says 255).
const MOST_SUBJECT: usize = 255;
/// Dates later than this (the year 9999) are not taken for dates.
const LAST_DATE: u64 = 253_402_300_799;

/// Where an issuer's keys come from.
#[derive(Debug)]
pub(super) enum KeySource {
    /// Known when the policy was compiled.
    Fixed(Vec<VerifyKey>),
    /// A JWK Set at this URL, fetched by `edge::keys`; `ca` is who vouches for its host, in PEM.
    Url { url: Box<str>, ca: Option<Box<[u8]>> },
}

/// One trusted issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: Name,
    pub(super) iss: Box<str>,
    audiences: Box<[Box<str>]>,
    pub(super) algorithms: Box<[JwtAlgorithm]>,
    types: Box<[Box<str>]>,
    roles_claim: Box<str>,
    leeway: u64,
    pub(super) keys: KeySource,
    /// Whether it is the gateway itself.
    pub(super) is_own: bool,
}

impl Issuer {
    /// The gateway itself.
    pub(super) fn own(own: &TokenIssuer) -> Self {
        Self {
            name: "user".into(),
            iss: own.issuer().into(),
            audiences: [own.audience().into()].into(),
            algorithms: own.verify_keys().iter().map(|key| key.algorithm).collect(),
            types: ["at+jwt".into()].into(),
            roles_claim: "roles".into(),
            leeway: 0,
            keys: KeySource::Fixed(own.verify_keys().to_vec()),
            is_own: true,
        }
    }

    pub(super) fn compile(section: &Section<'_>) -> Option<Self> {
        let name = section.name();
        if matches!(&*name, "key" | "user" | "client" | "anonymous") {
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
        if algorithms.is_empty() {
            section.missing("algorithms", "list the algorithms that it signs with: algorithms = [\"RS256\"]");
        }
        let types: Vec<Box<str>> =
            section.all::<String>("token_types").into_iter().map(|t| t.to_ascii_lowercase().into()).collect();
        let types = if types.is_empty() { vec!["at+jwt".into()] } else { types };
        let roles_claim = section.or("roles_claim", "roles".to_owned());
        let leeway = section.or("leeway", Duration::from_secs(30));
        if leeway > Duration::from_mins(1) {
            section.mistake(
                "leeway",
                "is more than a minute, in which a token that has ended would still work",
                "write at most \"60s\"",
            );
        }
        let keys = Self::compile_keys(section, &algorithms);
        Some(Self {
            name,
            iss: iss?.into(),
            audiences: audiences.into(),
            algorithms: algorithms.into(),
            types: types.into(),
            roles_claim: roles_claim.into(),
            leeway: leeway.as_secs(),
            keys: keys?,
            is_own: false,
        })
    }

    fn compile_keys(section: &Section<'_>, algorithms: &[JwtAlgorithm]) -> Option<KeySource> {
        match (section.has("jwks_url"), section.has("public_key"), section.has("secret")) {
            (true, false, false) => {
                let url: String = section.optional("jwks_url")?;
                if !url.starts_with("https://") {
                    section.mistake(
                        "jwks_url",
                        "does not begin with https://, so anybody on the way could put keys there",
                        "use https",
                    );
                }
                if algorithms.iter().any(|a| a.family() == AlgorithmFamily::Hmac) {
                    section.mistake(
                        "algorithms",
                        "has an HMAC algorithm beside published keys, and what is published is no secret",
                        "list the issuer's asymmetric algorithms",
                    );
                }
                let ca = section.has("ca").then(|| section.file("ca", "name a PEM file")).flatten();
                Some(KeySource::Url { url: url.into(), ca: ca.map(Into::into) })
            }
            (false, true, false) => {
                let pem = section.file("public_key", "name a PEM file with the issuer's public key")?;
                let keys = algorithms.iter().filter_map(|&algorithm| match public_key(algorithm, &pem) {
                    Ok(key) => Some(VerifyKey { kid: None, algorithm, key }),
                    Err(reason) => {
                        section.mistake("public_key", reason, "check that the key is of the algorithm's kind");
                        None
                    }
                });
                Some(KeySource::Fixed(keys.collect()))
            }
            (false, false, true) => {
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
            _ => {
                section.missing(
                    "jwks_url",
                    "write exactly one of jwks_url, public_key (a PEM file) and secret ({ env } or { file })",
                );
                None
            }
        }
    }

    pub(super) fn check_header(&self, header: &Map<String, Value>) -> Result<JwtAlgorithm, Refusal> {
        let text = |name: &str| header.get(name).map(|value| value.as_str().ok_or(Refusal::Malformed)).transpose();
        let algorithm = text("alg")?.and_then(JwtAlgorithm::parse).ok_or(Refusal::Algorithm)?;
        if !self.algorithms.contains(&algorithm) {
            return Err(Refusal::Algorithm);
        }
        // RFC 7515 §4.1.11: what must be understood and is not ends it. We understand no extension.
        if ["crit", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::Malformed);
        }
        if text("kid")?.is_some_and(|kid| kid.len() > MOST_KID) {
            return Err(Refusal::Malformed);
        }
        let typ = text("typ")?.unwrap_or_default().to_ascii_lowercase();
        let typ = typ.strip_prefix("application/").unwrap_or(&typ);
        if !self.types.iter().any(|taken| **taken == *typ) {
            return Err(Refusal::Type);
        }
        Ok(algorithm)
    }

    /// Gives back from when until when they hold.
    pub(super) fn check_claims(
        &self,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), Refusal> {
        let now = now.secs();
        let date = |name: &str| match claims.get(name) {
            None => Ok(None),
            // A NumericDate may have a fraction (RFC 7519 §2); it is cut.
            Some(value) => {
                let seconds = value.as_u64().or_else(|| {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "inside the bounds just tested"
                    )]
                    value.as_f64().filter(|f| (0.0..1e12).contains(f)).map(|f| f as u64)
                });
                seconds.filter(|&seconds| seconds <= LAST_DATE).map(Some).ok_or(Refusal::Malformed)
            }
        };
        let ends = date("exp")?.ok_or(Refusal::NoEnd)?;
        let ends = ends.saturating_add(self.leeway);
        if ends <= now {
            return Err(Refusal::Expired);
        }
        // Our own tokens have no leeway at their end, yet gateways' clocks differ at their beginning.
        let begins = date("nbf")?.max(date("iat")?).unwrap_or(0).saturating_sub(self.leeway.max(30));
        if begins > now {
            return Err(Refusal::NotYet);
        }
        let holds = (Timestamp::from_secs(begins), Timestamp::from_secs(ends));
        let for_us =
            |audience: &Value| audience.as_str().is_some_and(|aud| self.audiences.iter().any(|ours| **ours == *aud));
        match claims.get("aud") {
            Some(Value::Array(many)) if many.iter().any(for_us) => Ok(holds),
            Some(one) if for_us(one) => Ok(holds),
            _ => Err(Refusal::Audience),
        }
    }

    pub(super) fn principal(&self, claims: &Map<String, Value>, words: &Vocabulary) -> Result<Arc<Principal>, Refusal> {
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > MOST_SUBJECT || !subject.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::Subject);
        }
        let named = descend(claims, &self.roles_claim);
        let held = named_words(named).filter_map(|name| words.roles.find(name)).fold(RoleSet::default(), RoleSet::with);
        let scopes = words.scopes.set(named_words(claims.get("scope").or_else(|| claims.get("scp"))));
        let is_client = self.is_own && claims.get("gty").and_then(Value::as_str) == Some(CLIENT_CREDENTIALS);
        let id = format!("{}:{subject}", if is_client { "client" } else { &*self.name });
        let principal = words.principal(Scheme::Jwt, &id, held, scopes, words.claims.met(claims));
        principal.map(Arc::new).ok_or(Refusal::Subject)
    }
}

/// The words of a claim: a list of them, or one string with spaces between them (RFC 6749 §3.3).
fn named_words(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let (list, text) = match claim {
        Some(Value::Array(names)) => (Some(names), None),
        Some(Value::String(words)) => (None, Some(words)),
        _ => (None, None),
    };
    let listed = list.into_iter().flatten().filter_map(Value::as_str);
    listed.chain(text.into_iter().flat_map(|words| words.split(' ')))
}
