//! Who is it? Each scheme is asked in a fixed order; a credential that is present and bad ends the
//! question, and never falls through to another scheme.
//!
//! Source: RFC 9110 §11, RFC 6750 §3. Never reads a credential from a URL.

pub mod api_key;
pub mod binding;
pub mod certificate;
pub mod dpop;
pub mod jwt;
pub mod once;
pub mod seen;
pub mod signature;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::authorize::Vocabulary;
use super::facts::Facts;
use super::limit::Limits;
use super::token::TokenIssuer;
use crate::settings::{Named, Section};
use crate::types::{ClientCertificate, Principal, Secret};

use api_key::{ApiKeys, StoredKeys};
use certificate::Certificates;
use jwt::{Introspections, Issuers, Keys, Revocations};
use once::{Once, Proofs, Unspent};
use seen::SeenTokens;
use signature::Signers;

/// A scheme that a route can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// An API key, in its header.
    ApiKey,
    /// A token, as `Authorization: Bearer`, or with a proof as `Authorization: DPoP`.
    Jwt,
    /// The connection's client certificate.
    Mtls,
    /// A signature of the request (RFC 9421).
    Signature,
}

impl Accepted {
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, accepted)| *accepted == self).map_or("", |(name, _)| name)
    }
}

impl Named for Accepted {
    const SHAPE: &'static str = "\"api_key\", \"jwt\", \"mtls\" or \"signature\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("api_key", Self::ApiKey), ("jwt", Self::Jwt), ("mtls", Self::Mtls), ("signature", Self::Signature)];
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
        if schemes.iter().enumerate().any(|(index, scheme)| schemes.iter().take(index).any(|other| other == scheme)) {
            section.mistake("authenticate", "names a scheme twice", "name each once");
        }
        if schemes.contains(&Accepted::Signature) && authenticator.signers.is_empty() {
            let reason = "takes signed requests, and no key is known, so nobody could call it with one";
            section.mistake("authenticate", reason, "define [signing_keys.ID]");
        }
        if schemes.contains(&Accepted::Mtls) {
            authenticator.certificates.check(section);
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
    /// What issuers said of tokens that they were asked about.
    pub introspections: &'a dyn Introspections,
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
    certificates: Certificates,
    signers: Signers,
    proofs: Proofs,
    challenges: Challenges,
}

impl Authenticator {
    /// Reads `[api_key]`, `[api_keys.ID]`, `[issuers.NAME]`, `[certificates.NAME]`, `[signing_keys.ID]` and
    /// `[proofs]`.
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
        Self {
            challenges: Challenges::new(&name, root.has("proofs")),
            header,
            api_keys,
            issuers: Issuers::compile(root, words, own),
            certificates: Certificates::compile(root, words),
            signers: Signers::compile(root, words),
            proofs: Proofs::compile(root),
        }
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

    /// Which certificates stand for whom.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// The keys that requests are signed with.
    #[must_use]
    pub fn signers(&self) -> &Signers {
        &self.signers
    }

    /// What proofs are held to.
    #[must_use]
    pub fn proofs(&self) -> &Proofs {
        &self.proofs
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
                // At most one in the headers, and the certificate, which comes with the connection and so is no sign
                // that the other was not meant; in the order in which the route names them.
                let mut shown: [Option<Shown<'_>>; 2] = [None, None];
                let mut in_headers = false;
                for &scheme in schemes {
                    let Some(credential) = self.shown(scheme, facts)? else { continue };
                    let is_certificate = matches!(credential, Shown::Certificate(_));
                    // Which of two is meant, nobody but the client knows.
                    if !is_certificate && std::mem::replace(&mut in_headers, true) {
                        return Err(Refusal::Several.into());
                    }
                    shown.swap(0, 1);
                    let [free, _] = &mut shown;
                    *free = Some(credential);
                }
                self.prove(shown.into_iter().rev().flatten().map(Ok), facts, words, known)
            }
            Authenticate::AllOf(schemes) => {
                let shown = schemes.iter().map(|&scheme| self.shown(scheme, facts)?.ok_or(Refusal::Missing));
                self.prove(shown, facts, words, known)
            }
        }
    }

    /// Judges what is shown; all of it must name one principal. The first says what it may do, and each how much of it.
    fn prove<'f>(
        &self,
        shown: impl Iterator<Item = Result<Shown<'f>, Refusal>>,
        facts: &Facts<'_>,
        words: &Vocabulary,
        known: Known<'_>,
    ) -> Result<Arc<Principal>, Undecided> {
        let mut proven: Option<Arc<Principal>> = None;
        // Empty, it is not on the heap.
        let mut once = Vec::new();
        for shown in shown {
            let principal = self.judge(shown?, facts, words, known, &mut once)?;
            match &mut proven {
                Some(first) if first.id != principal.id => return Err(Refusal::Disagree.into()),
                Some(first) if !principal.quotas.is_empty() => {
                    let quotas = first.quotas.and(&principal.quotas);
                    *first = Arc::new(Principal { quotas, ..Principal::clone(first) });
                }
                Some(_) => {}
                None => proven = Some(principal),
            }
        }
        let principal = proven.ok_or(Refusal::Missing)?;
        if once.is_empty() { Ok(principal) } else { Err(Undecided::Once(Unspent { principal, once })) }
    }

    /// The credential of a scheme, where the request shows one.
    fn shown<'f>(&self, scheme: Accepted, facts: &Facts<'f>) -> Result<Option<Shown<'f>>, Refusal> {
        Ok(match scheme {
            Accepted::ApiKey => single(facts.headers, &self.header)?.map(|key| Shown::ApiKey(key.as_bytes())),
            Accepted::Jwt => token(facts.headers)?.map(|(token, how)| Shown::Token(token, how)),
            Accepted::Mtls => facts.certificate.map(Shown::Certificate),
            Accepted::Signature => signature::is_shown(facts.headers).then_some(Shown::Signature),
        })
    }

    fn judge(
        &self,
        shown: Shown<'_>,
        facts: &Facts<'_>,
        words: &Vocabulary,
        known: Known<'_>,
        once: &mut Vec<Once>,
    ) -> Result<Arc<Principal>, Undecided> {
        match shown {
            Shown::Certificate(shown) => {
                Ok(self.certificates.decide(shown, facts.now).map_err(Refusal::Certificate)?)
            }
            Shown::Signature => {
                let (principal, used) = self.signers.decide(facts, &self.proofs).map_err(Refusal::Signature)?;
                once.push(used);
                Ok(principal)
            }
            Shown::ApiKey(key) => self.api_keys.decide(key, (facts.address, facts.now), words, known.api_keys),
            Shown::Token(token, how) => {
                let principal = self.issuers.decide(token, words, known, facts.now)?;
                if let Some(key) = binding::decide(&principal.bound, how, facts).map_err(Refusal::Binding)? {
                    let proven = dpop::decide(&self.proofs, facts, Some((token, &key))).map_err(Refusal::Proof)?;
                    once.push(proven.once);
                }
                Ok(principal)
            }
        }
    }

    /// The `WWW-Authenticate` values for an answer with 401, one for each scheme that the route takes.
    pub fn challenges(&self, rule: &Authenticate, refusal: &Refusal) -> impl Iterator<Item = HeaderValue> {
        let [api_key, jwt, mtls] = [Accepted::ApiKey, Accepted::Jwt, Accepted::Mtls].map(|scheme| rule.takes(scheme));
        let bearer = match refusal {
            Refusal::Token(_) | Refusal::Binding(_) => &self.challenges.bearer_invalid,
            Refusal::Several | Refusal::Disagree | Refusal::Malformed => &self.challenges.bearer_malformed,
            _ => &self.challenges.bearer,
        };
        let dpop = match refusal {
            Refusal::Proof(_) | Refusal::Replayed => Some(&self.challenges.dpop_proof),
            Refusal::Binding(_) => Some(&self.challenges.dpop_token),
            _ => self.challenges.dpop.as_ref(),
        };
        let dpop = dpop.filter(|_| jwt).cloned();
        // TLS has no scheme of HTTP, and an answer with 401 names one (RFC 9110 §15.5.2).
        let certificate = mtls.then_some(HeaderValue::from_static("Certificate realm=\"modelgate\""));
        let signed = rule.takes(Accepted::Signature);
        let signature = signed.then_some(HeaderValue::from_static("Signature realm=\"modelgate\""));
        let api_key = api_key.then(|| self.challenges.api_key.clone());
        [jwt.then(|| bearer.clone()), dpop, api_key, certificate, signature].into_iter().flatten()
    }
}

/// A credential as a request shows it.
#[derive(Clone, Copy)]
enum Shown<'f> {
    ApiKey(&'f [u8]),
    Token(&'f [u8], binding::Shown),
    Certificate(&'f ClientCertificate),
    Signature,
}

/// The values of `WWW-Authenticate`, made once.
#[derive(Debug)]
struct Challenges {
    bearer: HeaderValue,
    bearer_invalid: HeaderValue,
    bearer_malformed: HeaderValue,
    api_key: HeaderValue,
    /// Where the policy speaks of proofs.
    dpop: Option<HeaderValue>,
    dpop_token: HeaderValue,
    dpop_proof: HeaderValue,
}

impl Challenges {
    fn new(header: &str, proofs: bool) -> Self {
        let algorithms = dpop::algorithms().collect::<Vec<_>>().join(" ");
        // RFC 9449 §7.1.
        let dpop = |error: &str| {
            let text = format!("DPoP realm=\"modelgate\", algs=\"{algorithms}\"{error}");
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("DPoP"))
        };
        Self {
            dpop: proofs.then(|| dpop("")),
            dpop_token: dpop(", error=\"invalid_token\""),
            dpop_proof: dpop(", error=\"invalid_dpop_proof\""),
            bearer: HeaderValue::from_static("Bearer realm=\"modelgate\""),
            bearer_invalid: HeaderValue::from_static("Bearer realm=\"modelgate\", error=\"invalid_token\""),
            bearer_malformed: HeaderValue::from_static("Bearer realm=\"modelgate\", error=\"invalid_request\""),
            api_key: HeaderValue::try_from(format!("ApiKey realm=\"modelgate\", header=\"{header}\""))
                .unwrap_or(HeaderValue::from_static("ApiKey")),
        }
    }
}

/// Reads whom a credential stands for, where that is somebody whom another credential can prove too.
fn principal_of(section: &Section<'_>, own: String) -> String {
    let id = section.or("principal", own);
    let (kind, subject) = id.split_once(':').unwrap_or_default();
    let is_id = !kind.is_empty() && !subject.is_empty() && id.len() <= 512 && id.bytes().all(|b| b.is_ascii_graphic());
    if !is_id {
        let remedy = "write it as tokens and keys name theirs: principal = \"corp:alice\", or \"key:team-a\"";
        section.mistake("principal", format!("is {id:?}, which names no principal"), remedy);
    }
    id
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Refusal::Several),
    }
}

/// The token of `Authorization: Bearer` or `DPoP`. Another scheme there is not ours to judge.
fn token(headers: &HeaderMap) -> Result<Option<(&[u8], binding::Shown)>, Refusal> {
    let Some(value) = single(headers, &AUTHORIZATION)? else { return Ok(None) };
    let value = value.as_bytes();
    let (scheme, rest) = value.split_at(value.iter().position(|&b| b == b' ').unwrap_or(value.len()));
    let how = if scheme.eq_ignore_ascii_case(b"Bearer") {
        binding::Shown::Bearer
    } else if scheme.eq_ignore_ascii_case(b"DPoP") {
        binding::Shown::Dpop
    } else {
        return Ok(None);
    };
    let token = rest.trim_ascii_start();
    if token.is_empty() || token.contains(&b' ') {
        return Err(Refusal::Malformed);
    }
    Ok(Some((token, how)))
}

/// Why there is no principal yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undecided {
    /// Something that is kept elsewhere decides. Once it was looked for, the same question has an answer.
    Wanting(Wanted),
    /// Somebody is proven, if nobody has shown the same proof before. That is the last question.
    Once(Unspent),
    /// There will be none.
    Refused(Refusal),
}

impl From<Refusal> for Undecided {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<jwt::Refusal> for Undecided {
    fn from(refusal: jwt::Refusal) -> Self {
        Self::Refused(match refusal {
            jwt::Refusal::NoKeys => Refusal::IssuerUnavailable,
            jwt::Refusal::RevocationUnknown => Refusal::RevocationUnknown,
            refusal => Refusal::Token(refusal),
        })
    }
}

/// What a decision waits for, and `crate::credentials` fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Keys of the issuer at this position that it did not publish so far.
    Keys {
        /// The position.
        issuer: usize,
    },
    /// What the issuer at this position says of a token.
    Introspection {
        /// The position.
        issuer: usize,
        /// The token.
        token: Secret,
    },
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
    /// All are good, and name different principals.
    Disagree,
    /// `Authorization: Bearer` or `DPoP` without one token behind it.
    Malformed,
    /// The API key is not good.
    ApiKey(api_key::Refusal),
    /// Whether the API key is good can't be known just now.
    ApiKeysUnavailable,
    /// The client certificate stands for nobody.
    Certificate(certificate::Refusal),
    /// The request's signature is not good.
    Signature(signature::Refusal),
    /// The token is not good.
    Token(jwt::Refusal),
    /// The token is good, and not from this client.
    Binding(binding::Refusal),
    /// The token's proof is not good.
    Proof(dpop::Refusal),
    /// The proof is good, and was shown before.
    Replayed,
    /// Whether it was shown before can't be known just now.
    ReplayUnknown,
    /// The token's issuer is trusted and its keys could not be had so far.
    IssuerUnavailable,
    /// The token is ours, and whether it was taken back can't be known just now.
    RevocationUnknown,
}

impl Refusal {
    /// Whether it is for reasons of our own, so that nobody guesses by it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::IssuerUnavailable | Self::RevocationUnknown | Self::ReplayUnknown | Self::ApiKeysUnavailable
        )
    }
}
