//! TLS towards servers of our own: workers and Redis.

use rustls::client::WantsClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::provider;
use crate::settings::Section;

/// Reads `ca`: who vouches for a server, and nobody else does. What is not PEM is a mistake.
#[must_use]
pub fn towards(section: &Section<'_>) -> Option<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let pem = section.file("ca", "name a PEM file with the authority's certificate")?;
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
    Some(builder.with_root_certificates(roots))
}
