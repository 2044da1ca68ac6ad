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
use super::token::TokenIssuer;
use crate::settings::{Named, Section};
use crate::types::{Principal, Timestamp};

use api_key::ApiKeys;
use jwt::{Issuers, Keys, Revocations};
use seen::SeenTokens;

/// A scheme that a route can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// An API key, in its header.
    ApiKey,
    /// A token, as `Authorization: Bearer`.
    Jwt,
}

impl Accepted {
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, accepted)| *accepted == self).map_or("", |(name, _)| name)
    }
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
    AnyOf(Box<[Accepted]>),
    /// All of these, for one principal; the first says what it may do.
    AllOf(Box<[Accepted]>),
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
        let (schemes, all) = if section.is_table("authenticate") {
            let table = section.section("authenticate")?;
            let schemes = table.all::<Accepted>("all_of");
            if schemes.len() < 2 {
                table.mistake("all_of", "names less than two schemes", "write a list such as [\"api_key\", \"jwt\"]");
            }
            table.finish();
            (schemes, true)
        } else {
            (section.all::<Accepted>("authenticate"), false)
        };
        let needs_jwt = schemes.contains(&Accepted::Jwt) && (all || schemes.len() == 1);
        if needs_jwt && authenticator.issuers.is_empty() {
            section.mistake(
                "authenticate",
                "takes only tokens, and no issuer of tokens is defined, so nobody could call it",
                "define [token] or [issuers.NAME]",
            );
        }
        if schemes.is_empty() {
            section.mistake("authenticate", "names no scheme, so nobody could call it", remedy);
            return None;
        }
        Some(if all { Self::AllOf(schemes.into()) } else { Self::AnyOf(schemes.into()) })
    }

    /// The schemes that it takes; none where it asks for none.
    #[must_use]
    pub fn schemes(&self) -> &[Accepted] {
        match self {
            Self::Anonymous(_) => &[],
            Self::AnyOf(schemes) | Self::AllOf(schemes) => schemes,
        }
    }

    /// Whether the scheme is taken.
    #[must_use]
    pub fn takes(&self, scheme: Accepted) -> bool {
        self.schemes().contains(&scheme)
    }

    /// The schemes, for people.
    #[must_use]
    pub fn list(&self) -> String {
        let names = self.schemes().iter().map(|scheme| scheme.name()).collect::<Vec<_>>();
        match self {
            Self::Anonymous(_) => "anonymous".into(),
            Self::AnyOf(_) => names.join(", "),
            Self::AllOf(_) => names.join(" and "),
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
    pub fn compile(root: &Section<'_>, words: &Vocabulary, own: Option<&TokenIssuer>) -> Self {
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
        settings.finish();
        let header = header.unwrap_or(HeaderName::from_static("x-api-key"));
        Self {
            challenges: Challenges::new(&name),
            header,
            api_keys: ApiKeys::compile(root, words),
            issuers: Issuers::compile(root, own),
        }
    }

    /// The header that API keys are read from.
    #[must_use]
    pub fn api_key_header(&self) -> &HeaderName {
        &self.header
    }

    /// Whom the API key with this id stands for, as if it had been presented.
    ///
    /// # Errors
    /// [`api_key::Refusal`].
    pub fn holder(&self, id: &str, now: Timestamp) -> Result<Arc<Principal>, api_key::Refusal> {
        self.api_keys.holder(id, now)
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
        match rule {
            Authenticate::Anonymous(principal) => Ok(Arc::clone(principal)),
            Authenticate::AnyOf(schemes) => {
                let mut shown = None;
                for &scheme in schemes {
                    // Which of two is meant, nobody but the client knows.
                    if let Some(credential) = self.shown(scheme, facts)?
                        && shown.replace(credential).is_some()
                    {
                        return Err(Refusal::Several.into());
                    }
                }
                self.judge(shown.ok_or(Refusal::Missing)?, facts, words, known)
            }
            Authenticate::AllOf(schemes) => {
                let mut proven: Option<Arc<Principal>> = None;
                for &scheme in schemes {
                    let shown = self.shown(scheme, facts)?.ok_or(Refusal::Missing)?;
                    let principal = self.judge(shown, facts, words, known)?;
                    match &proven {
                        Some(first) if first.id != principal.id => return Err(Refusal::Disagree.into()),
                        Some(_) => {}
                        None => proven = Some(principal),
                    }
                }
                proven.ok_or(Undecided::Refused(Refusal::Missing))
            }
        }
    }

    /// The credential of a scheme, where the request shows one.
    fn shown<'f>(&self, scheme: Accepted, facts: &Facts<'f>) -> Result<Option<Shown<'f>>, Refusal> {
        Ok(match scheme {
            Accepted::ApiKey => single(facts.headers, &self.header)?.map(|key| Shown::ApiKey(key.as_bytes())),
            Accepted::Jwt => bearer(facts.headers)?.map(Shown::Token),
        })
    }

    fn judge(
        &self,
        shown: Shown<'_>,
        facts: &Facts<'_>,
        words: &Vocabulary,
        known: Known<'_>,
    ) -> Result<Arc<Principal>, Undecided> {
        match shown {
            Shown::ApiKey(key) => Ok(self.api_keys.decide(key, facts.now).map_err(Refusal::ApiKey)?),
            Shown::Token(token) => match self.issuers.decide(token, words, known, facts.now) {
                Ok(principal) => Ok(principal),
                Err(jwt::Refusal::NoKeys) => Err(Refusal::IssuerUnavailable.into()),
                Err(jwt::Refusal::RevocationUnknown) => Err(Refusal::RevocationUnknown.into()),
                Err(refusal) => Err(Refusal::Token(refusal).into()),
            },
        }
    }

    /// The `WWW-Authenticate` values for an answer with 401, one for each scheme that the route takes.
    pub fn challenges(&self, rule: &Authenticate, refusal: &Refusal) -> impl Iterator<Item = HeaderValue> {
        let (api_key, jwt) = (rule.takes(Accepted::ApiKey), rule.takes(Accepted::Jwt));
        let bearer = match refusal {
            Refusal::Token(_) => &self.challenges.bearer_invalid,
            Refusal::Several | Refusal::Disagree | Refusal::Malformed => &self.challenges.bearer_malformed,
            _ => &self.challenges.bearer,
        };
        [jwt.then(|| bearer.clone()), api_key.then(|| self.challenges.api_key.clone())].into_iter().flatten()
    }
}

/// A credential as a request shows it.
#[derive(Clone, Copy)]
enum Shown<'f> {
    ApiKey(&'f [u8]),
    Token(&'f [u8]),
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
pub enum Wanted {}

/// Why no principal was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No credential was sent.
    Missing,
    /// More than one was sent.
    Several,
    /// All are good, and name different principals.
    Disagree,
    /// `Authorization: Bearer` without one token behind it.
    Malformed,
    /// The API key is not good.
    ApiKey(api_key::Refusal),
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
        matches!(self, Self::IssuerUnavailable | Self::RevocationUnknown)
    }
}
