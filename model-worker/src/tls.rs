//! TLS, where the network between gateway and worker is not trusted: the worker's certificate, and with a client
//! authority only callers whose certificates it signed.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::failure::{Exit, Failure};

/// The files that TLS needs.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// PEM: the worker's certificate, then those that lead to its root.
    pub certificate: &'a Path,
    /// PEM: its private key.
    pub key: &'a Path,
    /// PEM: whose certificates callers must bring; without it nobody is asked for one.
    pub client_ca: Option<&'a Path>,
}

fn failure(path: &Path, why: &str) -> Failure {
    let hint = "give PEM files: certificate chain, its private key, and the authority of the gateway's certificate";
    Failure::new(Exit::BadData, format!("cannot use {} for TLS", path.display()), why, hint)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::reading(format!("cannot read {}", path.display()), &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|error| failure(path, &error.to_string()))?;
    if found.is_empty() { Err(failure(path, "it holds no certificate")) } else { Ok(found) }
}

/// What accepts TLS connections: 1.2 and 1.3, HTTP/2 and HTTP/1.1.
///
/// # Errors
///
/// Exit code 66 when a file is missing, 65 when one does not hold what it should.
pub fn acceptor(files: Files<'_>) -> Result<TlsAcceptor, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(files.certificate)?;
    let key =
        PrivateKeyDer::from_pem_slice(&read(files.key)?).map_err(|_| failure(files.key, "it holds no private key"))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failure(files.certificate, &error.to_string()))?;
    let builder = match files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| failure(path, &error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| failure(path, &error.to_string()))?)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| failure(files.certificate, &error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
