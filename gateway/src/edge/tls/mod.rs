//! Certificates to a TLS acceptor, and to a new one when their files change.
//!
//! TLS 1.2 and 1.3 alone, with aws-lc-rs, post-quantum hybrid key exchange first (X25519MLKEM768), ALPN
//! `h2` and `http/1.1` (who offers only others is refused, RFC 7301 §3.2). No renegotiation and no early
//! data. Never falls back to plain text, and never shows a certificate that is known to be bad.

mod certificate;
mod client;
mod ocsp;
mod outgoing;
mod peer;
mod reload;
mod resolver;
mod shown;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use tokio_rustls::TlsAcceptor;

use crate::settings::Section;
use crate::types::{Name, Secret};
use certificate::{Certificate, Material};
use client::{ClientCertificates, Trust};
pub use outgoing::towards;
pub use peer::certificate as client_certificate;
pub use reload::Event;
use resolver::Resolver;
pub use shown::{Shown, Vouching};

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The name of the certificate that stands in `[listener]` itself.
const DEFAULT: &str = "default";

/// What TLS is spoken with.
pub struct Tls {
    current: ArcSwap<Current>,
    held: Mutex<Held>,
}

/// What holds for the next connection. Read without waiting for whoever looks at files.
struct Current {
    config: Arc<ServerConfig>,
    expiries: Vec<(Name, i64)>,
    /// What checks the certificates of clients.
    vouching: Option<Arc<Vouching>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Everything that the present configuration was made of.
struct Held {
    /// The default one first.
    certificates: Vec<HeldCertificate>,
    clients: Option<HeldTrust>,
    strict_sni: bool,
    tickets: Arc<dyn ProducesTickets>,
}

struct HeldCertificate {
    name: Name,
    files: CertificateFiles,
    /// What it was made of.
    material: Material,
    certificate: Certificate,
    /// What was wrong when its files were looked at last.
    complaint: Option<String>,
    /// Whether it was told that everybody can read the key.
    told_public: bool,
}

/// Where a certificate is read from.
struct CertificateFiles {
    certificate: String,
    /// `None` where it came from a variable, which does not change.
    private_key: Option<String>,
    ocsp: Option<String>,
}

struct HeldTrust {
    required: bool,
    ca: String,
    crl: Option<String>,
    trust: Trust,
    verifier: Arc<Vouching>,
    complaint: Option<String>,
}

/// A file that is wrong, or does not fit the others.
struct Wrong {
    part: Part,
    /// The end of a sentence that begins with the setting or the file.
    reason: String,
    remedy: &'static str,
}

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Certificate,
    Key,
    Ocsp,
    ClientCa,
    ClientCrl,
}

impl Part {
    /// The setting that names it.
    fn key(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Key => "private_key",
            Self::Ocsp => "ocsp",
            Self::ClientCa => "client_ca",
            Self::ClientCrl => "client_crl",
        }
    }
}

impl Tls {
    /// Reads what `[listener]` says of TLS.
    #[must_use]
    pub fn compile(section: &Section<'_>) -> Option<Arc<Self>> {
        let now = seconds(SystemTime::now());
        let default = HeldCertificate::compile(section, DEFAULT.into(), now);
        let mut others = Vec::new();
        let mut whole = true;
        for other in section.sections("certificates") {
            let held = HeldCertificate::compile_other(&other, now);
            other.finish_ref();
            match held {
                Some(certificate) => others.push((other, certificate)),
                None => whole = false,
            }
        }
        let strict_sni = section.or("strict_sni", false);
        let clients = HeldTrust::compile(section, now);
        let default = default.filter(|_| whole)?;
        let clients = clients.ok()?;
        if let Some((host, first, second)) = resolver::shared(
            [&default].into_iter().chain(others.iter().map(|(_, held)| held)).map(|held| &held.certificate),
        ) {
            // The first of them has no position among the others.
            let of = |index: usize| index.checked_sub(1).and_then(|index| others.get(index));
            let first = of(first).map_or_else(|| Name::from(DEFAULT), |(_, held)| Name::clone(&held.name));
            if let Some((section, _)) = of(second) {
                let reason =
                    format!("is for the host {host:?}, as the certificate {first:?} is, with the same kind of key");
                section.mistake("certificate", reason, "remove one, or use one with an ECDSA and one with an RSA key");
            }
        }
        let certificates = [default].into_iter().chain(others.into_iter().map(|(_, held)| held)).collect();
        let made = tickets().and_then(|tickets| {
            let held = Held { certificates, clients, strict_sni, tickets };
            held.current().map(|current| (held, current))
        });
        let remedy = "see whether this machine's random numbers work";
        let (held, current) =
            made.map_err(|error| section.mistake_here(format!("gives no TLS: {error}"), remedy)).ok()?;
        Some(Arc::new(Self { current: ArcSwap::from_pointee(current), held: Mutex::new(held) }))
    }

    /// What accepts a connection now, and what it asks about the client's certificate.
    #[must_use]
    pub fn acceptor(&self) -> (TlsAcceptor, Option<Arc<Vouching>>) {
        let current = self.current.load();
        (TlsAcceptor::from(Arc::clone(&current.config)), current.vouching.clone())
    }

    /// When each certificate expires, in seconds since 1970.
    #[must_use]
    pub fn expiries(&self) -> Vec<(Name, i64)> {
        self.current.load().expiries.clone()
    }
}

impl HeldCertificate {
    fn compile_other(section: &Section<'_>, now: i64) -> Option<Self> {
        let name = section.name();
        if *name == *DEFAULT {
            section.mistake_here("has the name of the certificate that stands in [listener]", "choose another name");
        }
        let held = Self::compile(section, name, now)?;
        if held.certificate.hosts.is_empty() {
            let reason = "is for no host (it has no DNS name among its alternative names), so it would never be shown";
            section.mistake("certificate", reason, "make one with the host's name");
        }
        Some(held)
    }

    fn compile(section: &Section<'_>, name: Name, now: i64) -> Option<Self> {
        let remedy = "name a PEM file with the certificate and those between it and the root";
        let certificate = section.named_file("certificate", remedy);
        let key = section.secret_and_file("private_key");
        let ocsp = section.has("ocsp").then(|| section.named_file("ocsp", "name a file with an OCSP response in DER"));
        let ((certificate, chain), (key, private_key)) = (certificate?, key?);
        let (ocsp_file, ocsp) = match ocsp {
            None => (None, None),
            Some(named) => named.map(|(file, der)| (Some(file), Some(der)))?,
        };
        let material = Material { chain, key, ocsp };
        let read = Certificate::read(&material, now).map_err(|wrong| wrong.note(section)).ok()?;
        Some(Self {
            name,
            files: CertificateFiles { certificate, private_key, ocsp: ocsp_file },
            material,
            certificate: read,
            complaint: None,
            told_public: false,
        })
    }
}

impl HeldTrust {
    /// Whom clients' certificates are trusted by; `Err` where that is wrong.
    fn compile(section: &Section<'_>, now: i64) -> Result<Option<Self>, ()> {
        let mode = section.or("client_certificates", ClientCertificates::Off);
        if mode == ClientCertificates::Off {
            for key in ["client_ca", "client_crl"].into_iter().filter(|key| section.has(key)) {
                let remedy = "write client_certificates = \"required\" or \"optional\"";
                section.mistake(key, "has no meaning while client_certificates is \"off\"", remedy);
            }
            return Ok(None);
        }
        let ca =
            section.named_file("client_ca", "name a PEM file with the certificates of those who vouch for clients");
        let crl = section.has("client_crl").then(|| section.named_file("client_crl", "name a PEM file"));
        let (file, ca) = ca.ok_or(())?;
        let (crl_file, crl) = match crl {
            None => (None, None),
            Some(named) => named.map(|(file, pem)| (Some(file), Some(pem))).ok_or(())?,
        };
        let trust = Trust { ca, crl };
        let required = mode == ClientCertificates::Required;
        let verifier = trust.verifier(required, now).map_err(|wrong| wrong.note(section))?;
        let verifier = Arc::new(Vouching(verifier));
        Ok(Some(Self { required, ca: file, crl: crl_file, trust, verifier, complaint: None }))
    }
}

impl Wrong {
    fn note(self, section: &Section<'_>) {
        section.mistake(self.part.key(), self.reason, self.remedy);
    }
}

impl Held {
    fn current(&self) -> Result<Current, rustls::Error> {
        let expiries = self.certificates.iter().map(|held| (Name::clone(&held.name), held.certificate.expires));
        let vouching = self.clients.as_ref().map(|clients| Arc::clone(&clients.verifier));
        Ok(Current { config: Arc::new(self.config()?), expiries: expiries.collect(), vouching })
    }

    fn config(&self) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(&clients.verifier.0)),
            None => builder.with_no_client_auth(),
        };
        let certificates = self.certificates.iter().map(|held| &held.certificate);
        let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(certificates, self.strict_sni)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption by tickets, whose keys rotate: no state per client, so none that clients can fill.
        config.ticketer = Arc::clone(&self.tickets);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // One ticket is what a client needs to come back; rustls would send two.
        config.send_tls13_tickets = 1;
        // What is sent before the handshake's end can be sent again by anybody (RFC 8446 §8).
        config.max_early_data_size = 0;
        Ok(config)
    }
}

fn tickets() -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new()
}

/// Seconds since 1970.
fn seconds(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
