//! Certificates to a TLS acceptor.
//!
//! TLS 1.2 and 1.3 alone, with aws-lc-rs, post-quantum hybrid key exchange first (X25519MLKEM768), ALPN
//! `h2` and `http/1.1`. Never falls back to plain text.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio_rustls::TlsAcceptor;

use crate::settings::Section;

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Reads `certificate` and `private_key` of `[listener]`.
#[must_use]
pub fn compile(section: &Section<'_>) -> Option<Arc<ServerConfig>> {
    let certificate =
        section.file("certificate", "name a PEM file with the certificate and those between it and the root");
    let key = section.secret("private_key");
    let (certificate, key) = (certificate?, key?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate).flatten().collect();
    if chain.is_empty() {
        section.mistake(
            "certificate",
            "names a file without a certificate in PEM",
            "name the file that begins with -----BEGIN CERTIFICATE-----",
        );
        return None;
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.expose()) else {
        section.mistake(
            "private_key",
            "refers to something that is not a private key in PEM",
            "refer to the key that belongs to the certificate",
        );
        return None;
    };
    server_config(chain, key)
        .map_err(|error| {
            section.mistake(
                "certificate",
                format!("can't be used with this private key: {error}"),
                "check that both belong together",
            );
        })
        .ok()
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Resumption by tickets, whose keys rotate: no state per client, so none that clients can fill.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket is what a client needs to come back; rustls would send two.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// An acceptor for the configuration.
#[must_use]
pub fn acceptor(config: Arc<ServerConfig>) -> TlsAcceptor {
    TlsAcceptor::from(config)
}
