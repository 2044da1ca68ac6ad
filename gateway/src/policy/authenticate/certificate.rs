//! Client certificates: which one stands for whom.
//!
//! TLS has verified the chain, the key and what was revoked when the connection began. Here its names are held
//! against the policy's entries on every request, so that an entry that was removed refuses the next request of a
//! connection that is open. Never takes a name from anything but the leaf that TLS has verified.

use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::authorize::Vocabulary;
use crate::settings::Section;
use crate::types::{ClaimSet, ClientCertificate, Name, Principal, Scheme, Sha256, Timestamp};

/// The kinds of names, with the keys that they are written under.
const KINDS: [&str; 4] = ["san_dns", "san_uri", "san_email", "subject"];

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Sign {
    /// A name of one of the [`KINDS`].
    Name(usize, Box<str>),
    Fingerprint([u8; 32]),
}

impl Sign {
    fn compile(section: &Section<'_>) -> Option<Self> {
        let remedy =
            "write exactly one of san_dns, san_uri, san_email, subject (as RFC 4514 writes it) and fingerprint";
        let written: Vec<&str> = KINDS.into_iter().chain(["fingerprint"]).filter(|key| section.has(key)).collect();
        let key = match written.as_slice() {
            [] => {
                section.missing("san_dns", remedy);
                return None;
            }
            [key] => *key,
            [_, second, ..] => {
                section.mistake(second, "is one more way to know the certificate", remedy);
                return None;
            }
        };
        let Some(kind) = KINDS.iter().position(|known| *known == key) else {
            return section.optional::<Sha256>(key).map(|digest| Self::Fingerprint(*digest.as_bytes()));
        };
        let text = section.optional::<String>(key)?;
        if text.is_empty() || text.contains('*') && key == "san_dns" {
            section.mistake(key, format!("is {text:?}, and names are compared whole"), "write the whole name");
            return None;
        }
        Some(Self::Name(kind, if key == "san_dns" { text.to_ascii_lowercase().into() } else { text.into() }))
    }

    /// A certificate that has this and nothing else, for questions about the policy.
    fn example(&self) -> ClientCertificate {
        let mut certificate = ClientCertificate::nameless(Sha256::of(b""));
        certificate.until = Timestamp::from_micros(u64::MAX);
        match self.clone() {
            Self::Name(0, name) => certificate.dns = [name].into(),
            Self::Name(1, name) => certificate.uris = [name].into(),
            Self::Name(2, name) => certificate.emails = [name].into(),
            Self::Name(_, name) => certificate.subject = Some(name),
            Self::Fingerprint(digest) => certificate.thumbprint = Sha256::from_bytes(digest),
        }
        certificate
    }
}

/// Whom a certificate stands for.
#[derive(Debug)]
struct Entry {
    name: Name,
    principal: Arc<Principal>,
}

/// All entries.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By name, for each of the [`KINDS`].
    named: [HashMap<Box<str>, Entry>; KINDS.len()],
    by_fingerprint: HashMap<[u8; 32], Entry>,
    /// Whether TLS asks for certificates at all, as far as the configuration says.
    asked: bool,
}

impl Certificates {
    /// Reads every `[certificates.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary) -> Self {
        let mut all = Self::default();
        for section in root.sections("certificates") {
            let name = section.name();
            let sign = Sign::compile(&section);
            let id = super::principal_of(&section, format!("cert:{name}"));
            let held = words.roles.references(&section, "roles");
            let scopes = words.scopes.references(&section, "scopes");
            section.finish();
            let principal = words.principal(Scheme::Certificate, &id, held, scopes, ClaimSet::default());
            let (Some(sign), Some(principal)) = (sign, principal) else { continue };
            let entry = Entry { name: Name::clone(&name), principal: Arc::new(principal) };
            let other = match sign {
                Sign::Name(kind, text) => all.named.get_mut(kind).and_then(|named| named.insert(text, entry)),
                Sign::Fingerprint(digest) => all.by_fingerprint.insert(digest, entry),
            };
            if let Some(Entry { name: other, .. }) = other {
                let reason =
                    format!("has {other:?} and {name:?} known by the same sign, and nobody could tell which is meant");
                root.mistake("certificates", reason, "keep one of them");
            }
        }
        let listener = root.section("listener");
        let mode = listener.as_ref().and_then(|listener| listener.word("client_certificates"));
        all.asked = listener.is_none() || mode.is_some_and(|mode| mode != "off");
        all
    }

    /// Notes what keeps a route that takes certificates from ever seeing one.
    pub(super) fn check(&self, section: &Section<'_>) {
        if !self.asked {
            let reason = "takes client certificates, and [listener] does not ask for any";
            let remedy = "write client_certificates = \"optional\" and client_ca under [listener]";
            section.mistake("authenticate", reason, remedy);
        } else if self.by_fingerprint.is_empty() && self.named.iter().all(HashMap::is_empty) {
            let reason = "takes client certificates, and none is known, so nobody could call it with one";
            section.mistake("authenticate", reason, "define [certificates.NAME]");
        }
    }

    /// A certificate that the entry of this name is for.
    #[must_use]
    pub fn example(&self, name: &str) -> Option<ClientCertificate> {
        let is_it = |entry: &Entry| *entry.name == *name;
        let named = self.named.iter().enumerate().flat_map(|(kind, named)| {
            named.iter().filter(|(_, entry)| is_it(entry)).map(move |(text, _)| Sign::Name(kind, text.clone()))
        });
        let printed = self.by_fingerprint.iter().filter(|(_, entry)| is_it(entry));
        let sign = named.chain(printed.map(|(digest, _)| Sign::Fingerprint(*digest))).next();
        sign.map(|sign| sign.example())
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn decide(&self, certificate: &ClientCertificate, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        if !certificate.holds(now) {
            return Err(Refusal::Expired);
        }
        let subject = certificate.subject.as_slice();
        let shown = [&*certificate.dns, &*certificate.uris, &*certificate.emails, subject];
        let kinds = self.named.iter().zip(shown);
        let mut found = kinds
            .flat_map(|(entries, names)| names.iter().filter_map(|name| entries.get(name)))
            .chain(self.by_fingerprint.get(certificate.thumbprint.as_bytes()));
        let first = found.next().ok_or(Refusal::Unknown)?;
        // Which of two it stands for, nobody can say; and the one with more rights is no answer.
        if let Some(other) = found.find(|other| other.name != first.name) {
            return Err(Refusal::Ambiguous(Name::clone(&first.name), Name::clone(&other.name)));
        }
        Ok(Arc::clone(&first.principal))
    }
}

/// Why a certificate stands for nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No entry is for it.
    Unknown,
    /// Two entries are.
    Ambiguous(Name, Name),
    /// It has ended since its connection began.
    Expired,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    fn compile(toml: &str) -> (Certificates, usize) {
        let (certificates, mistakes) =
            with_section(toml, |root| Certificates::compile(root, &Vocabulary::compile(root)));
        (certificates, mistakes.len())
    }

    #[test]
    fn a_certificate_stands_for_the_one_entry_that_is_for_it() {
        let (certificates, mistakes) = compile(
            "[certificates.ci]\nsan_dns = \"CI.example.com\"\n[certificates.alice]\nsan_email = \"alice@example.com\"\n\
             principal = \"corp:alice\"\n[certificates.batch]\nsan_uri = \"spiffe://example.com/batch\"\n\
             [certificates.ops]\nsubject = \"CN=ops,O=Example\"",
        );
        assert_eq!(mistakes, 0);
        let now = Timestamp::from_secs(1_800_000_000);
        let base = || Sign::Name(0, "other.example.com".into()).example();
        let ask = |certificate: &ClientCertificate| certificates.decide(certificate, now).map(|it| it.id.to_string());
        let ci = certificates.example("ci").expect("it is defined");
        assert_eq!(ask(&ci), Ok("cert:ci".into()));
        assert_eq!(ask(&certificates.example("alice").expect("it is defined")), Ok("corp:alice".into()));
        assert_eq!(ask(&certificates.example("batch").expect("it is defined")), Ok("cert:batch".into()));
        assert_eq!(ask(&certificates.example("ops").expect("it is defined")), Ok("cert:ops".into()));
        assert_eq!(ask(&base()), Err(Refusal::Unknown));
        // A name of one kind is no name of another.
        let mut swapped = base();
        swapped.uris = ["ci.example.com".into(), "alice@example.com".into()].into();
        assert_eq!(ask(&swapped), Err(Refusal::Unknown));
        let mut both = ci.clone();
        both.emails = ["alice@example.com".into()].into();
        assert!(matches!(ask(&both), Err(Refusal::Ambiguous(..))));
        let mut old = ci;
        old.until = now;
        assert_eq!(ask(&old), Err(Refusal::Expired));
    }

    #[test]
    fn what_could_not_be_told_apart_is_a_mistake() {
        for wrong in [
            "[certificates.a]",
            "[certificates.a]\nsan_dns = \"a\"\nsubject = \"CN=a\"",
            "[certificates.a]\nsan_dns = \"*.example.com\"",
            "[certificates.a]\nsan_dns = \"\"",
            "[certificates.a]\nfingerprint = \"sha256:00\"",
            "[certificates.a]\nsan_dns = \"a\"\n[certificates.b]\nsan_dns = \"A\"",
            "[certificates.a]\nsan_dns = \"a\"\nprincipal = \"alice\"",
            "[certificates.a]\nsan_dns = \"a\"\nroles = [\"unknown\"]",
        ] {
            assert_eq!(compile(wrong).1, 1, "{wrong}");
        }
    }
}
