//! Signed requests: callers that hold a key and never send it.
//!
//! Source: RFC 9421, the subset that the README names, and RFC 9530 for the body's digest. One signature, by a key that
//! the policy knows, over everything that the request means here, made within a short window, and used once. What is
//! not covered, or not known, is refused: nothing of a signed request is left for others to choose. Never looks at the
//! body itself; [`check_body`] does, once it is whole.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName};
use jsonwebtoken::{Algorithm, DecodingKey};
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry, Parser};

use super::jwt::{JwtAlgorithm, public_key, strong_secret};
use super::once::{Once, Proofs};
use crate::policy::authorize::Vocabulary;
use crate::policy::facts::Facts;
use crate::settings::Section;
use crate::types::{ClaimSet, Principal, Scheme, Sha256, Timestamp};

static INPUT: HeaderName = HeaderName::from_static("signature-input");
static SIGNATURE: HeaderName = HeaderName::from_static("signature");
static DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// The longest value of each of the two headers, in bytes.
const MOST_VALUE: usize = 4 << 10;
/// The most components that a signature covers.
const MOST_COMPONENTS: usize = 32;
/// The longest nonce, in bytes.
const MOST_NONCE: usize = 256;

/// What a signature is verified with.
#[derive(Clone)]
enum Key {
    Hmac(Box<hmac::Key>),
    Ed25519(DecodingKey),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.algorithm())
    }
}

impl Key {
    fn compile(section: &Section<'_>) -> Option<Self> {
        match (section.has("secret"), section.has("public_key")) {
            (true, false) => {
                let secret = section.secret("secret")?;
                if let Err(reason) = strong_secret(secret.expose()) {
                    section.mistake("secret", reason, "use 32 random bytes or more");
                }
                Some(Self::hmac(secret.expose()))
            }
            (false, true) => {
                let pem = section.file("public_key", "name a PEM file with an Ed25519 public key")?;
                let read = public_key(JwtAlgorithm(Algorithm::EdDSA), &pem);
                let noted = read.map_err(|reason| section.mistake("public_key", reason, "use an Ed25519 key"));
                noted.ok().map(Self::Ed25519)
            }
            _ => {
                let remedy = "write exactly one of secret ({ env } or { file }) and public_key (a PEM file)";
                section.missing("secret", remedy);
                None
            }
        }
    }

    fn hmac(secret: &[u8]) -> Self {
        Self::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// Its name (RFC 9421 §6.2.2).
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Hmac(_) => "hmac-sha256",
            Self::Ed25519(_) => "ed25519",
        }
    }

    fn verifies(&self, base: &[u8], signature: &[u8]) -> bool {
        match self {
            // In constant time.
            Self::Hmac(key) => hmac::verify(key, base, signature).is_ok(),
            Self::Ed25519(key) => {
                let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
                jsonwebtoken::crypto::verify(&signature, base, key, Algorithm::EdDSA).unwrap_or(false)
            }
        }
    }
}

#[derive(Debug)]
struct Signer {
    key: Key,
    not_before: Option<Timestamp>,
    expires: Option<Timestamp>,
    principal: Arc<Principal>,
}

impl Signer {
    fn holder(&self, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        if self.expires.is_some_and(|expires| expires <= now) || self.not_before.is_some_and(|begins| now < begins) {
            return Err(Refusal::Ended);
        }
        Ok(Arc::clone(&self.principal))
    }
}

/// All keys by id.
#[derive(Debug)]
pub struct Signers {
    signers: HashMap<Box<str>, Signer>,
    /// What unknown ids are verified with, each always with the same, so that they cost what known ones do, of whichever
    /// kind those are.
    nobodies: Box<[Key]>,
}

impl Signers {
    /// Reads every `[signing_keys.ID]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary) -> Self {
        let mut signers = HashMap::new();
        let mut nobodies = Vec::new();
        for section in root.sections("signing_keys") {
            let id = section.name();
            let is_id =
                (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !is_id {
                section
                    .mistake_here("has an id that can't stand everywhere", "use 1 to 64 letters, digits, -, _ and .");
            }
            let key = Key::compile(&section);
            let owner: Option<String> = section.required("owner", "write who holds the key, to know whom to ask");
            let held = words.roles.references(&section, "roles");
            let scopes = words.scopes.references(&section, "scopes");
            let instant = |name: &str| {
                let text = section.optional::<String>(name)?;
                let parsed = Timestamp::parse(&text);
                if parsed.is_none() {
                    let remedy = "write one such as \"2027-01-31T00:00:00Z\"";
                    section.mistake(name, format!("is {text:?}, which is not an instant"), remedy);
                }
                parsed
            };
            let (not_before, expires) = (instant("not_before"), instant("expires"));
            section.finish();
            let principal =
                words.principal(Scheme::Signature, &format!("signer:{id}"), held, scopes, ClaimSet::default());
            let (Some(key), Some(_), Some(principal)) = (key, owner, principal) else { continue };
            nobodies.push(key.clone());
            signers.insert(Box::from(&*id), Signer { key, not_before, expires, principal: Arc::new(principal) });
        }
        Self { signers, nobodies: nobodies.into() }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }

    /// Whom the key with this id stands for, as if it had signed.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn holder(&self, id: &str, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        self.signers.get(id).ok_or(Refusal::Invalid("no such key"))?.holder(now)
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(&self, facts: &Facts<'_>, proofs: &Proofs) -> Result<(Arc<Principal>, Once), Refusal> {
        let shown = Signed::read(facts.headers)?;
        shown.check_coverage(facts)?;
        if !proofs.is_recent(shown.created, facts.now) {
            return Err(Refusal::Invalid("`created` is too old or in the future"));
        }
        if shown.expires.is_some_and(|expires| expires <= facts.now.secs()) {
            return Err(Refusal::Invalid("`expires` has passed"));
        }
        let base = shown.base(facts, proofs)?;
        let signer = self.signers.get(&*shown.key_id);
        let nobody = || {
            let pick = u32::from_le_bytes(Sha256::of(shown.key_id.as_bytes()).prefix()) as usize;
            self.nobodies.get(pick % self.nobodies.len().max(1))
        };
        // Whatever a key verifies that stands in for an unknown id, the id stands for nobody.
        let key = signer.map(|signer| &signer.key).or_else(nobody);
        let holds = key.is_some_and(|key| key.verifies(base.as_bytes(), &shown.signature));
        let signer = signer.filter(|_| holds).ok_or(Refusal::Invalid("no known key has made it over this request"))?;
        if shown.algorithm.as_deref().is_some_and(|named| named != signer.key.algorithm()) {
            return Err(Refusal::Invalid("`alg` is not its key's"));
        }
        let principal = signer.holder(facts.now)?;
        Ok((principal, proofs.once(&["signature", &shown.key_id, &shown.nonce], shown.created)))
    }
}

/// Whether a request shows a signature, or a part of one.
#[must_use]
pub fn is_shown(headers: &HeaderMap) -> bool {
    headers.contains_key(&INPUT) || headers.contains_key(&SIGNATURE)
}

/// Holds the body of a signed request to the digest that its signature covers.
///
/// # Errors
/// [`Refusal::Digest`].
pub fn check_body(headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
    let mut values = headers.get_all(&DIGEST).iter();
    let digest = match (values.next(), values.next()) {
        (None, _) if body.is_empty() => return Ok(()),
        (Some(digest), None) if digest.len() <= MOST_VALUE => digest,
        _ => return Err(Refusal::Digest),
    };
    let parsed: Dictionary = Parser::new(digest.as_bytes()).parse().map_err(|_| Refusal::Digest)?;
    let Some(ListEntry::Item(item)) = parsed.get("sha-256") else { return Err(Refusal::Digest) };
    let BareItem::ByteSequence(stated) = &item.bare_item else { return Err(Refusal::Digest) };
    let is_it = constant_time::verify_slices_are_equal(stated, Sha256::of(body).as_bytes()).is_ok();
    if is_it { Ok(()) } else { Err(Refusal::Digest) }
}

/// A signature as a request shows it; nothing of it is proven.
struct Signed {
    /// The names of what it covers.
    components: Vec<String>,
    /// Its list as it is signed: written anew from what was read (RFC 9421 §2.3).
    parameters: String,
    key_id: String,
    nonce: String,
    created: u64,
    expires: Option<u64>,
    algorithm: Option<String>,
    signature: Vec<u8>,
}

impl Signed {
    fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let value = |name: &HeaderName, why| {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (Some(value), None) if value.len() <= MOST_VALUE => Ok(value.as_bytes()),
                _ => Err(Refusal::Malformed(why)),
            }
        };
        let input = value(&INPUT, "send the header Signature-Input exactly once, with at most 4 KiB")?;
        let signature = value(&SIGNATURE, "send the header Signature exactly once, with at most 4 KiB")?;
        let one = |octets| {
            let mut members: Dictionary = Parser::new(octets).parse().ok()?;
            let (label, member) = members.pop()?;
            members.is_empty().then_some((label, member))
        };
        let why = "Signature-Input and Signature are dictionaries (RFC 9651) with one label, the same in both";
        let (Some((label, input)), Some((other, signature))) = (one(input), one(signature)) else {
            return Err(Refusal::Malformed(why));
        };
        let (ListEntry::InnerList(input), ListEntry::Item(signature)) = (input, signature) else {
            return Err(Refusal::Malformed(why));
        };
        let BareItem::ByteSequence(octets) = signature.bare_item else { return Err(Refusal::Malformed(why)) };
        if label != other || !signature.params.is_empty() {
            return Err(Refusal::Malformed(why));
        }
        Self::of(input, octets)
    }

    fn of(list: InnerList, signature: Vec<u8>) -> Result<Self, Refusal> {
        let why = "components are names without parameters, each once, and at most 32";
        let mut components = Vec::new();
        for item in &list.items {
            let BareItem::String(name) = &item.bare_item else { return Err(Refusal::Malformed(why)) };
            if !item.params.is_empty() {
                return Err(Refusal::Malformed(why));
            }
            components.push(name.as_str().to_owned());
        }
        let distinct: HashSet<&String> = components.iter().collect();
        if distinct.len() != components.len() || components.len() > MOST_COMPONENTS {
            return Err(Refusal::Malformed(why));
        }
        let (mut key_id, mut nonce, mut algorithm) = (None, None, None);
        let (mut created, mut expires) = (None, None);
        for (name, value) in &list.params {
            match (name.as_str(), value) {
                ("keyid", BareItem::String(text)) => key_id = Some(text.as_str().to_owned()),
                ("nonce", BareItem::String(text)) => nonce = Some(text.as_str().to_owned()),
                ("alg", BareItem::String(text)) => algorithm = Some(text.as_str().to_owned()),
                ("created", BareItem::Integer(at)) => created = u64::try_from(i64::from(*at)).ok(),
                ("expires", BareItem::Integer(at)) => {
                    let at = u64::try_from(i64::from(*at));
                    expires = Some(at.map_err(|_| Refusal::Malformed("`expires` is no time"))?);
                }
                _ => return Err(Refusal::Malformed("parameters are keyid, created, nonce, expires and alg alone")),
            }
        }
        let nonce = nonce.filter(|nonce| (1..=MOST_NONCE).contains(&nonce.len()));
        let (Some(key_id), Some(nonce), Some(created)) = (key_id, nonce, created) else {
            return Err(Refusal::Malformed("keyid, created and nonce (1 to 256 bytes) are required"));
        };
        let parameters = vec![ListEntry::InnerList(list)].serialize();
        let parameters = parameters.ok_or(Refusal::Malformed("its list is empty"))?;
        Ok(Self { components, parameters, key_id, nonce, created, expires, algorithm, signature })
    }

    fn check_coverage(&self, facts: &Facts<'_>) -> Result<(), Refusal> {
        let covers = |name: &str| self.components.iter().any(|component| component == name);
        let target = covers("@target-uri");
        let has = |name: &HeaderName| facts.headers.contains_key(name);
        let has_body = has(&TRANSFER_ENCODING) || facts.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        for (needed, covered, why) in [
            (true, covers("@method"), "it does not cover \"@method\""),
            (true, target || covers("@authority"), "it does not cover \"@authority\" or \"@target-uri\""),
            (true, target || covers("@path"), "it does not cover \"@path\""),
            (facts.query.is_some(), target || covers("@query"), "it does not cover \"@query\""),
            (has_body || has(&DIGEST), covers("content-digest"), "it does not cover \"content-digest\""),
            (has(&CONTENT_TYPE), covers("content-type"), "it does not cover \"content-type\""),
        ] {
            if needed && !covered {
                return Err(Refusal::Malformed(why));
            }
        }
        Ok(())
    }

    /// What is signed (RFC 9421 §2.5).
    fn base(&self, facts: &Facts<'_>, proofs: &Proofs) -> Result<String, Refusal> {
        let mut base = String::with_capacity(512);
        for component in &self.components {
            let authority = || proofs.authority(facts);
            let query = facts.query.map_or_else(String::new, |query| format!("?{query}"));
            let value = match component.as_str() {
                "@method" => facts.method.as_str().to_owned(),
                "@authority" => authority(),
                "@scheme" => "https".to_owned(),
                "@path" => facts.sent_path.to_owned(),
                // Without a query it is the question mark alone (§2.2.7).
                "@query" => format!("?{}", facts.query.unwrap_or_default()),
                "@target-uri" => format!("https://{}{}{query}", authority(), facts.sent_path),
                "@request-target" => format!("{}{query}", facts.sent_path),
                name => field(facts.headers, name)?,
            };
            base.extend(["\"", component, "\": ", &value, "\n"]);
        }
        base.extend(["\"@signature-params\": ", &self.parameters]);
        Ok(base)
    }
}

/// The value of a field (RFC 9421 §2.1).
fn field(headers: &HeaderMap, name: &str) -> Result<String, Refusal> {
    let unknown = Refusal::Malformed("it covers what is not known here, or not in the request");
    let values = headers.get_all(name).iter().map(|value| value.to_str().ok().map(str::trim));
    let values: Option<Vec<&str>> = values.collect();
    match values {
        Some(values) if !values.is_empty() && !name.bytes().any(|b| b.is_ascii_uppercase()) => Ok(values.join(", ")),
        _ => Err(unknown),
    }
}

/// Why a signed request is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It can't be read, or leaves open what must be signed; with what.
    Malformed(&'static str),
    /// Nobody known has signed this now; with why, for the operator.
    Invalid(&'static str),
    /// Its key was good once, or will be.
    Ended,
    /// The body is not the one that was signed.
    Digest,
}
