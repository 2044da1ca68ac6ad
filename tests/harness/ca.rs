//! A certificate authority for one test run, and the certificate that gateways show.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::RootCertStore;

/// A CA that test clients trust, and a server certificate of it for `localhost` and `127.0.0.1`.
#[derive(Debug)]
pub struct TestCa {
    /// The CA's certificate, in PEM.
    pub authority: String,
    /// The server's certificate, in PEM.
    pub certificate: String,
    /// The server's private key, in PEM.
    pub private_key: String,
    /// A store that trusts the CA alone.
    pub roots: Arc<RootCertStore>,
}

impl TestCa {
    /// The one of this test run.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<TestCa> = OnceLock::new();
        SHARED.get_or_init(|| Self::make().expect("certificates can be made"))
    }

    fn make() -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = server.signed_by(&key, &authority)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("a certificate of ours can be trusted");
        Ok(Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
            roots: Arc::new(roots),
        })
    }
}
