//! Tokens: JWS compact, verified whole before any claim counts.
//!
//! Source: RFC 7519, RFC 8725, RFC 9068. `jsonwebtoken` verifies signatures and reads keys; form, header
//! and claims are held to the stricter rules here, on JSON without repeated members. The header chooses
//! nothing: the issuer's configuration says which algorithms there are, each key has exactly one, and
//! `jku`, `x5u`, `jwk` and `x5c` are never followed.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde_json::{Map, Value};

use super::Known;
use super::seen::Verified;
use crate::policy::authorize::{Vocabulary, descend};
use crate::policy::json;
use crate::policy::token::{CLIENT_CREDENTIALS, TokenIssuer};
use crate::settings::{Named, Section};
use crate::types::{Name, Principal, RoleSet, Scheme, Sha256, Timestamp, TokenId};

/// The longest token that is looked at, in bytes.
const MOST_TOKEN: usize = 8 << 10;
/// The longest `kid`, in bytes.
const MOST_KID: usize = 128;
/// The longest subject, in bytes (RFC 9068 sets none; OpenID Connect Core §2 says 255).
const MOST_SUBJECT: usize = 255;
/// Dates later than this (the year 9999) are not taken for dates.
const LAST_DATE: u64 = 253_402_300_799;

/// An algorithm as the configuration names it. `none` is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JwtAlgorithm(pub Algorithm);

impl Named for JwtAlgorithm {
    const SHAPE: &'static str = "\"HS256\", \"RS256\", \"PS256\", \"ES256\", \"ES384\" or \"EdDSA\"";
    const NAMES: &'static [(&'static str, Self)] = &[
        ("HS256", Self(Algorithm::HS256)),
        ("RS256", Self(Algorithm::RS256)),
        ("PS256", Self(Algorithm::PS256)),
        ("ES256", Self(Algorithm::ES256)),
        ("ES384", Self(Algorithm::ES384)),
        ("EdDSA", Self(Algorithm::EdDSA)),
    ];
}

impl JwtAlgorithm {
    fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Which kind of key the algorithm takes.
    #[must_use]
    pub fn family(self) -> AlgorithmFamily {
        match self.0 {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => AlgorithmFamily::Rsa,
            Algorithm::ES256 | Algorithm::ES384 => AlgorithmFamily::Ec,
            Algorithm::EdDSA => AlgorithmFamily::Ed,
            _ => AlgorithmFamily::Hmac,
        }
    }
}

/// A key that signatures are verified with, bound to one algorithm.
#[derive(Clone, Debug)]
pub struct VerifyKey {
    /// What the token's `kid` is compared with; a key without one is tried for every token.
    pub kid: Option<Box<str>>,
    /// The only algorithm that it is used with (RFC 8725 §3.1).
    pub algorithm: JwtAlgorithm,
    /// The key.
    pub key: DecodingKey,
}

/// Where the keys of issuers that publish them are found; `edge::keys` keeps them fresh.
pub trait Keys {
    /// The last good keys of the issuer at this position, if there were any yet.
    fn of(&self, issuer: usize) -> Option<Arc<Vec<VerifyKey>>>;
}

/// What is known of our own tokens that were taken back; `edge::grants` keeps it fresh.
pub trait Revocations {
    /// Whether this was taken back.
    fn is_revoked(&self, id: TokenId) -> bool;
    /// For how long nobody has been able to know; zero while all is known.
    fn unknown_for(&self) -> Duration;
}

/// What a token of our own can be taken back by: itself, and the grant that it stems from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnToken {
    token: Option<TokenId>,
    grant: Option<TokenId>,
}

impl OwnToken {
    /// Reads the claims of one.
    #[must_use]
    pub fn of(claims: &Map<String, Value>) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        Self { token: text("jti").map(TokenId::of_token), grant: text("grant_id").map(TokenId::of_grant) }
    }

    /// Its own name.
    #[must_use]
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    fn check(&self, revocations: &dyn Revocations, unknown_after: Option<Duration>) -> Result<(), Refusal> {
        if [self.token, self.grant].into_iter().flatten().any(|id| revocations.is_revoked(id)) {
            return Err(Refusal::Revoked);
        }
        match unknown_after {
            Some(after) if revocations.unknown_for() > after => Err(Refusal::RevocationUnknown),
            _ => Ok(()),
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Debug)]
enum KeySource {
    /// Known when the policy was compiled.
    Fixed(Vec<VerifyKey>),
    /// A JWK Set at this URL, fetched by `edge::keys`; `ca` is who vouches for its host, in PEM.
    Url { url: Box<str>, ca: Option<Box<[u8]>> },
}

/// An issuer whose keys are fetched.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Its position.
    pub position: usize,
    /// Its name in TOML.
    pub name: &'a Name,
    /// Where its JWK Set is.
    pub url: &'a str,
    /// Who vouches for that host, in PEM; the system's authorities where absent.
    pub ca: Option<&'a [u8]>,
    /// The algorithms that its keys may have.
    pub algorithms: &'a [JwtAlgorithm],
}

/// One trusted issuer.
#[derive(Debug)]
struct Issuer {
    name: Name,
    iss: Box<str>,
    audiences: Box<[Box<str>]>,
    algorithms: Box<[JwtAlgorithm]>,
    types: Box<[Box<str>]>,
    roles_claim: Box<str>,
    leeway: u64,
    keys: KeySource,
    /// Whether it is the gateway itself.
    is_own: bool,
}

/// All trusted issuers.
#[derive(Debug, Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// After how long without knowing what was revoked our own tokens are refused.
    unknown_after: Option<Duration>,
}

impl Issuers {
    /// Reads every `[issuers.NAME]`, and takes the gateway's own tokens in where it issues any.
    #[must_use]
    pub fn compile(root: &Section<'_>, own: Option<&TokenIssuer>) -> Self {
        let mut issuers = Vec::new();
        issuers.extend(own.map(|own| Issuer {
            name: "user".into(),
            iss: own.issuer().into(),
            audiences: [own.audience().into()].into(),
            algorithms: own.verify_keys().iter().map(|key| key.algorithm).collect(),
            types: ["at+jwt".into()].into(),
            roles_claim: "roles".into(),
            leeway: 0,
            keys: KeySource::Fixed(own.verify_keys().to_vec()),
            is_own: true,
        }));
        for section in root.sections("issuers") {
            let issuer = Issuer::compile(&section);
            section.finish();
            if let Some(issuer) = issuer {
                if issuers.iter().any(|other: &Issuer| other.iss == issuer.iss) {
                    root.mistake("issuers", format!("has two issuers called {:?}", issuer.iss), "keep one of them");
                }
                issuers.push(issuer);
            }
        }
        Self { issuers, unknown_after: own.and_then(TokenIssuer::unknown_after) }
    }

    /// Whether no token could ever be good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// The issuers that publish their keys.
    pub fn published(&self) -> impl Iterator<Item = Published<'_>> {
        self.issuers.iter().enumerate().filter_map(|(position, issuer)| match &issuer.keys {
            KeySource::Url { url, ca } => {
                let (name, algorithms) = (&issuer.name, &*issuer.algorithms);
                Some(Published { position, name, url, ca: ca.as_deref(), algorithms })
            }
            KeySource::Fixed(_) => None,
        })
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(
        &self,
        token: &[u8],
        words: &Vocabulary,
        known: Known<'_>,
        now: Timestamp,
    ) -> Result<Arc<Principal>, Refusal> {
        if token.len() > MOST_TOKEN {
            return Err(Refusal::Malformed);
        }
        let digest = Sha256::of(token);
        let proven = known.seen.find(&digest, |issuer| known.keys.of(issuer), now);
        let (principal, own) = if let Some(proven) = proven {
            proven
        } else {
            let verified = self.verify(token, words, known.keys, now)?;
            let proven = (Arc::clone(&verified.principal), verified.own);
            known.seen.remember(&digest, verified);
            proven
        };
        // What was taken back is refused however often it was good before.
        if let Some(own) = own {
            own.check(known.revocations, self.unknown_after)?;
        }
        Ok(principal)
    }

    /// What a token of our own says, where it is good.
    ///
    /// # Errors
    /// [`Refusal`]; every token of another issuer is [`Refusal::Issuer`].
    pub fn inspect(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Map<String, Value>, Refusal> {
        let checked = self.check(token, keys, now)?;
        if checked.issuer.is_own { Ok(checked.claims) } else { Err(Refusal::Issuer) }
    }

    /// Whether what [`Issuers::inspect`] said was taken back; gives back what it can be taken back by.
    ///
    /// # Errors
    /// [`Refusal::Revoked`], [`Refusal::RevocationUnknown`].
    pub fn standing(&self, claims: &Map<String, Value>, revocations: &dyn Revocations) -> Result<OwnToken, Refusal> {
        let own = OwnToken::of(claims);
        own.check(revocations, self.unknown_after).map(|()| own)
    }

    fn verify(&self, token: &[u8], words: &Vocabulary, keys: &dyn Keys, now: Timestamp) -> Result<Verified, Refusal> {
        let checked = self.check(token, keys, now)?;
        let principal = checked.issuer.principal(&checked.claims, words)?;
        let own = checked.issuer.is_own.then(|| OwnToken::of(&checked.claims));
        let (from, until) = checked.holds;
        Ok(Verified { principal, own, from, until, issuer: checked.position, keys: checked.keys })
    }

    fn check(&self, token: &[u8], keys: &dyn Keys, now: Timestamp) -> Result<Checked<'_>, Refusal> {
        let parts = Parts::read(token)?;
        // Nothing in the token counts before its signature holds; `iss` only says whose keys to try.
        let named = parts.claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Issuer)?;
        let (position, issuer) =
            self.issuers.iter().enumerate().find(|(_, issuer)| *issuer.iss == *named).ok_or(Refusal::Issuer)?;
        let algorithm = issuer.check_header(&parts.header)?;
        let kid = parts.header.get("kid").and_then(Value::as_str);
        let fetched = keys.of(position);
        let candidates = match &issuer.keys {
            KeySource::Fixed(keys) => keys,
            KeySource::Url { .. } => &**fetched.as_ref().ok_or(Refusal::NoKeys)?,
        };
        let verified = candidates
            .iter()
            .filter(|key| {
                key.algorithm == algorithm && (kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid)
            })
            .any(|key| {
                jsonwebtoken::crypto::verify(parts.signature, parts.signed, &key.key, algorithm.0).unwrap_or(false)
            });
        if !verified {
            return Err(Refusal::Signature);
        }
        let holds = issuer.check_claims(&parts.claims, now)?;
        Ok(Checked { position, issuer, claims: parts.claims, holds, keys: fetched })
    }
}

/// A token whose signature and claims hold.
struct Checked<'a> {
    position: usize,
    issuer: &'a Issuer,
    claims: Map<String, Value>,
    holds: (Timestamp, Timestamp),
    keys: super::seen::KeySet,
}

impl Issuer {
    fn compile(section: &Section<'_>) -> Option<Self> {
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

    fn check_header(&self, header: &Map<String, Value>) -> Result<JwtAlgorithm, Refusal> {
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
    fn check_claims(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<(Timestamp, Timestamp), Refusal> {
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

    fn principal(&self, claims: &Map<String, Value>, words: &Vocabulary) -> Result<Arc<Principal>, Refusal> {
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

/// Reads a public key for an algorithm.
///
/// # Errors
/// Why it can't be used, without showing it.
pub fn public_key(algorithm: JwtAlgorithm, pem: &[u8]) -> Result<DecodingKey, String> {
    if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
        return Err("is a private key, and only the public one belongs here".into());
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => {
            return Err("is a public key beside an HMAC algorithm, for which it would be no secret".into());
        }
    };
    let key = key.map_err(|error| format!("is not a key for {:?}: {error}", algorithm.0))?;
    fits(algorithm, &key)?;
    Ok(key)
}

/// Whether a key has the size that its algorithm needs; one that has not would only ever refuse.
///
/// # Errors
/// Why not.
pub fn fits(algorithm: JwtAlgorithm, key: &DecodingKey) -> Result<(), String> {
    let length = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
        // RFC 8017 §A.1.1 in DER: the modulus with 14 octets around it.
        DecodingKeyKind::SecretOrDer(der) if algorithm.family() == AlgorithmFamily::Rsa => der.len().saturating_sub(14),
        DecodingKeyKind::SecretOrDer(bytes) => bytes.len(),
    };
    // Elliptic keys are uncompressed points: one octet and two coordinates (SEC 1 §2.3.3).
    let right = match algorithm.0 {
        Algorithm::ES256 => length == 65,
        Algorithm::ES384 => length == 97,
        Algorithm::EdDSA => length == 32,
        Algorithm::RS256 | Algorithm::PS256 => (256..=1024).contains(&length),
        _ => true,
    };
    if right {
        Ok(())
    } else {
        Err(format!("has a size that {:?} does not take (RSA: 2048 bits at least)", algorithm.0))
    }
}

/// Whether an HMAC secret is one that can't be guessed (RFC 8725 §3.5).
///
/// # Errors
/// Why not, without showing it.
pub fn strong_secret(secret: &[u8]) -> Result<(), String> {
    let distinct = secret.iter().fold([false; 256], |mut seen, &byte| {
        if let Some(seen) = seen.get_mut(usize::from(byte)) {
            *seen = true;
        }
        seen
    });
    match (secret.len(), distinct.iter().filter(|seen| **seen).count()) {
        (0..32, _) => Err(format!("is {} bytes long, and an HMAC secret has at least 32", secret.len())),
        (_, 0..10) => Err("repeats a few characters and could be guessed".into()),
        _ => Ok(()),
    }
}

/// A compact JWS, split and decoded, not verified.
struct Parts<'t> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signed: &'t [u8],
    signature: &'t str,
}

impl<'t> Parts<'t> {
    fn read(token: &'t [u8]) -> Result<Self, Refusal> {
        if token.len() > MOST_TOKEN {
            return Err(Refusal::Malformed);
        }
        let text = std::str::from_utf8(token).map_err(|_| Refusal::Malformed)?;
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed);
        };
        let signed = text.get(..header.len() + 1 + claims.len()).unwrap_or_default().as_bytes();
        // The decoder refuses padding, other alphabets and stray last bits, so a token has one spelling.
        if BASE64_URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(Refusal::Malformed);
        }
        Ok(Self { header: object(header)?, claims: object(claims)?, signed, signature })
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    match json::parse(&bytes, 8) {
        Ok(Value::Object(members)) => Ok(members),
        _ => Err(Refusal::Malformed),
    }
}

/// Why a token is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a compact JWS with an unambiguous header and claims, or with features that are not taken.
    Malformed,
    /// Not an access token by its `typ`.
    Type,
    /// An algorithm that its issuer does not use here, or `none`.
    Algorithm,
    /// No issuer that is trusted.
    Issuer,
    /// The issuer's keys were not to be had so far.
    NoKeys,
    /// Not signed by one of the issuer's keys.
    Signature,
    /// It never ends.
    NoEnd,
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYet,
    /// It is meant for somebody else.
    Audience,
    /// It names no usable subject.
    Subject,
    /// It was taken back.
    Revoked,
    /// Whether it was taken back is not known.
    RevocationUnknown,
}
