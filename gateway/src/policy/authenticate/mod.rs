//! Who is it? Each scheme is asked in a fixed order; a credential that is present and bad ends the
//! question, and never falls through to another scheme.
//!
//! Source: RFC 9110 §11, RFC 6750 §3. Never reads a credential from a URL.

pub mod api_key;
pub mod jwt;
pub mod seen;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::authorize::Vocabulary;
use super::facts::Facts;
use super::limit::Limits;
use super::token::TokenIssuer;
use crate::settings::{Named, Section};
use crate::types::Principal;

use api_key::{ApiKeys, StoredKeys};
use jwt::{Issuers, Keys, Revocations};
use seen::SeenTokens;

/// A scheme that a route can name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepted {
    ApiKey,
    Jwt,
}

impl Named for Accepted {
    const SHAPE: &'static str = "\"api_key\" or \"jwt\"";
    const NAMES: &'static [(&'static str, Self)] = &[("api_key", Self::ApiKey), ("jwt", Self::Jwt)];
}

/// Which credentials a route takes.
#[derive(Clone, Debug)]
pub enum Authenticate {
    /// None is asked for: written out in the policy.
    Anonymous(Arc<Principal>),
    /// One of these.
    Credential {
        /// An API key is taken.
        api_key: bool,
        /// A token is taken.
        jwt: bool,
    },
}

impl Authenticate {
    /// Reads `authenticate`; `None` where it is absent or wrong.
    #[must_use]
    pub fn compile(section: &Section<'_>, authenticator: &Authenticator) -> Option<Self> {
        if !section.has("authenticate") {
            return None;
        }
        let remedy = "write a list such as [\"api_key\", \"jwt\"], or \"anonymous\" for everybody";
        if let Some(word) = section.word("authenticate") {
            if word == "anonymous" {
                return Some(Self::Anonymous(Principal::anonymous()));
            }
            section.mistake("authenticate", format!("is {word:?}"), remedy);
            return None;
        }
        let schemes = section.all::<Accepted>("authenticate");
        let (api_key, jwt) = (schemes.contains(&Accepted::ApiKey), schemes.contains(&Accepted::Jwt));
        if jwt && authenticator.issuers.is_empty() && !api_key {
            section.mistake(
                "authenticate",
                "takes only tokens, and no issuer of tokens is defined, so nobody could call it",
                "define [token] or [issuers.NAME]",
            );
        }
        if !api_key && !jwt {
            section.mistake("authenticate", "names no scheme, so nobody could call it", remedy);
            return None;
        }
        Some(Self::Credential { api_key, jwt })
    }

    /// The schemes, for people.
    #[must_use]
    pub fn list(&self) -> String {
        match self {
            Self::Anonymous(_) => "anonymous".into(),
            Self::Credential { api_key, jwt } => {
                let schemes = [(*api_key, "api_key"), (*jwt, "jwt")];
                schemes.iter().filter(|(taken, _)| *taken).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Whether the route asks for no credential.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous(_))
    }
}

/// What is known beside the policy.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The keys of issuers that publish them.
    pub keys: &'a dyn Keys,
    /// Which of our own tokens were taken back.
    pub revocations: &'a dyn Revocations,
    /// Tokens that were verified before.
    pub seen: &'a SeenTokens,
    /// API keys that are kept outside the policy.
    pub api_keys: &'a dyn StoredKeys,
}

/// Everything that credentials are held against.
#[derive(Debug)]
pub struct Authenticator {
    header: HeaderName,
    api_keys: ApiKeys,
    issuers: Issuers,
    challenges: Challenges,
}

impl Authenticator {
    /// Reads `[api_key]`, `[api_keys.ID]` and `[issuers.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary, limits: &Limits, own: Option<&TokenIssuer>) -> Self {
        let settings = root.section_or_empty("api_key");
        let name = settings.or("header", "X-API-Key".to_owned());
        let header = HeaderName::from_bytes(name.as_bytes()).ok().filter(|header| {
            let taken = [
                AUTHORIZATION,
                http::header::COOKIE,
                http::header::HOST,
                http::header::CONTENT_TYPE,
                http::header::CONTENT_LENGTH,
            ];
            !taken.contains(header) && !header.as_str().contains('_')
        });
        if header.is_none() {
            settings.mistake(
                "header",
                format!("is {name:?}, which can't carry API keys"),
                "write a header name such as \"X-API-Key\"",
            );
        }
        let api_keys = ApiKeys::compile(root, &settings, words, limits);
        settings.finish();
        let header = header.unwrap_or(HeaderName::from_static("x-api-key"));
        Self { challenges: Challenges::new(&name), header, api_keys, issuers: Issuers::compile(root, own) }
    }

    /// The header that API keys are read from.
    #[must_use]
    pub fn api_key_header(&self) -> &HeaderName {
        &self.header
    }

    /// The API keys.
    #[must_use]
    pub fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// The issuers of tokens that are trusted.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Undecided`]: what is missing can be had, and the question asked again, or the request is refused.
    pub fn decide(
        &self,
        rule: &Authenticate,
        facts: &Facts<'_>,
        words: &Vocabulary,
        known: Known<'_>,
    ) -> Result<Arc<Principal>, Undecided> {
        let Facts { headers, address, now, .. } = *facts;
        let (api_key, jwt) = match rule {
            Authenticate::Anonymous(principal) => return Ok(Arc::clone(principal)),
            Authenticate::Credential { api_key, jwt } => (*api_key, *jwt),
        };
        let key = if api_key { single(headers, &self.header)? } else { None };
        let bearer = if jwt { bearer(headers)? } else { None };
        match (key, bearer) {
            (Some(_), Some(_)) => Err(Refusal::Several.into()),
            (Some(key), None) => self.api_keys.decide(key.as_bytes(), (address, now), words, known.api_keys),
            (None, Some(token)) => match self.issuers.decide(token, words, known, now) {
                Ok(principal) => Ok(principal),
                Err(jwt::Refusal::NoKeys) => Err(Refusal::IssuerUnavailable.into()),
                Err(jwt::Refusal::RevocationUnknown) => Err(Refusal::RevocationUnknown.into()),
                Err(refusal) => Err(Refusal::Token(refusal).into()),
            },
            (None, None) => Err(Refusal::Missing.into()),
        }
    }

    /// The `WWW-Authenticate` values for an answer with 401, one for each scheme that the route takes.
    pub fn challenges(&self, rule: &Authenticate, refusal: &Refusal) -> impl Iterator<Item = HeaderValue> {
        let (api_key, jwt) = match rule {
            Authenticate::Anonymous(_) => (false, false),
            Authenticate::Credential { api_key, jwt } => (*api_key, *jwt),
        };
        let bearer = match refusal {
            Refusal::Token(_) => &self.challenges.bearer_invalid,
            Refusal::Several | Refusal::Malformed => &self.challenges.bearer_malformed,
            _ => &self.challenges.bearer,
        };
        [jwt.then(|| bearer.clone()), api_key.then(|| self.challenges.api_key.clone())].into_iter().flatten()
    }
}

/// The values of `WWW-Authenticate`, made once.
#[derive(Debug)]
struct Challenges {
    bearer: HeaderValue,
    bearer_invalid: HeaderValue,
    bearer_malformed: HeaderValue,
    api_key: HeaderValue,
}

impl Challenges {
    fn new(header: &str) -> Self {
        Self {
            bearer: HeaderValue::from_static("Bearer realm=\"modelgate\""),
            bearer_invalid: HeaderValue::from_static("Bearer realm=\"modelgate\", error=\"invalid_token\""),
            bearer_malformed: HeaderValue::from_static("Bearer realm=\"modelgate\", error=\"invalid_request\""),
            api_key: HeaderValue::try_from(format!("ApiKey realm=\"modelgate\", header=\"{header}\""))
                .unwrap_or(HeaderValue::from_static("ApiKey")),
        }
    }
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Refusal::Several),
    }
}

/// The token of `Authorization: Bearer`. Another scheme there is not ours to judge.
fn bearer(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let Some(value) = single(headers, &AUTHORIZATION)? else { return Ok(None) };
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at(value.iter().position(|&b| b == b' ').unwrap_or(value.len()));
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return Ok(None);
    }
    let token = rest.trim_ascii_start();
    if token.is_empty() || token.contains(&b' ') {
        return Err(Refusal::Malformed);
    }
    Ok(Some(token))
}

/// Why there is no principal yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Something that is kept elsewhere decides. Once it was looked for, the same question has an answer.
    Wanting(Wanted),
    /// There will be none.
    Refused(Refusal),
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a decision waits for, and `crate::credentials` fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The API key of this id.
    ApiKey(Box<str>),
}

/// Why no principal was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No credential was sent.
    Missing,
    /// More than one was sent.
    Several,
    /// `Authorization: Bearer` without one token behind it.
    Malformed,
    /// The API key is not good.
    ApiKey(api_key::Refusal),
    /// Whether the API key is good can't be known just now.
    ApiKeysUnavailable,
    /// The token is not good.
    Token(jwt::Refusal),
    /// The token's issuer is trusted and its keys could not be had so far.
    IssuerUnavailable,
    /// The token is ours, and whether it was taken back can't be known just now.
    RevocationUnknown,
}

impl Refusal {
    /// Whether it is for reasons of our own, so that nobody guesses by it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::IssuerUnavailable | Self::RevocationUnknown | Self::ApiKeysUnavailable)
    }
}
