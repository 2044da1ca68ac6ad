//! TLS towards servers of our own: workers and Redis.

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::provider;
use crate::settings::Section;
use crate::types::Sha256;

/// Reads `ca`: who vouches for a server, and nobody else does; and `certificate` with `private_key`: what the server
/// is shown of us, where it asks; with a digest of all of it. What is wrong with them is a mistake; `remedy` says which
/// `ca` is missing.
#[must_use]
pub fn towards(section: &Section<'_>, remedy: &str) -> Option<(ClientConfig, Sha256)> {
    let shown = shown(section);
    let pem = section.file("ca", remedy)?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if added == 0 {
        section.mistake(
            "ca",
            "names a file without a certificate in PEM",
            "name the file that begins with -----BEGIN CERTIFICATE-----",
        );
        return None;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().ok()?;
    let builder = builder.with_root_certificates(roots);
    // Digests of one length each, so that no part can pass for another.
    let mut digests = Sha256::of(&pem).as_bytes().to_vec();
    match shown? {
        None => Some((builder.with_no_client_auth(), Sha256::of(&digests))),
        Some((chain, key)) => {
            for part in chain.iter().map(|certificate| &**certificate).chain([key.secret_der()]) {
                digests.extend_from_slice(Sha256::of(part).as_bytes());
            }
            with_client(builder, (chain, key), section).map(|config| (config, Sha256::of(&digests)))
        }
    }
}

/// With a certificate that we show.
fn with_client(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    section: &Section<'_>,
) -> Option<ClientConfig> {
    match builder.with_client_auth_cert(chain, key) {
        Ok(config) => Some(config),
        Err(error) => {
            section.mistake(
                "certificate",
                format!("can't be used with its key: {error}"),
                "name a certificate and the key that it was made for",
            );
            None
        }
    }
}

/// The certificate that we show, with its key: none, one, or (`None`) a mistake.
#[expect(clippy::option_option, reason = "a mistake is not an absence")]
fn shown(section: &Section<'_>) -> Option<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>> {
    match (section.has("certificate"), section.has("private_key")) {
        (false, false) => return Some(None),
        (true, false) => {
            section.missing("private_key", "write the certificate's key: { env = \"NAME\" } or { file = \"path\" }");
            return None;
        }
        (false, true) => {
            section.missing("certificate", "name the PEM file of the certificate that the key was made for");
            return None;
        }
        (true, true) => {}
    }
    let (pem, key) = (section.file("certificate", ""), section.secret("private_key"));
    let chain: Option<Vec<_>> = CertificateDer::pem_slice_iter(&pem?).collect::<Result<_, _>>().ok();
    let chain = chain.filter(|chain| !chain.is_empty());
    if chain.is_none() {
        section.mistake(
            "certificate",
            "names a file without a certificate in PEM",
            "name the file that begins with -----BEGIN CERTIFICATE-----",
        );
    }
    let key = PrivateKeyDer::from_pem_slice(key?.expose()).ok();
    if key.is_none() {
        section.mistake(
            "private_key",
            "is not a private key in PEM",
            "name the file that begins with -----BEGIN PRIVATE KEY-----",
        );
    }
    Some(Some((chain?, key?)))
}
