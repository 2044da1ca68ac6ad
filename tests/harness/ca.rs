//! A certificate authority for one test run, and the certificate that gateways show.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, ExtendedKeyUsagePurpose,
    IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, both in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub private_key: String,
}

impl Issued {
    /// The certificate as clients see it.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate of ours")
    }

    /// The private key as a client holds it.
    #[must_use]
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.private_key.as_bytes()).expect("a key of ours")
    }
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
            issuer: authority,
        })
    }

    /// One more certificate of the CA for these hosts, with a new key.
    pub fn issue(&self, hosts: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Issued {
        self.issue_with(&KeyPair::generate().expect("a key can be made"), hosts, adjust)
    }

    /// One more server's certificate with a name of its own, for clients with OpenSSL: it takes whoever is called as its
    /// issuer for its own issuer.
    #[must_use]
    pub fn issue_named(&self) -> Issued {
        self.issue(&["localhost", "127.0.0.1"], |params| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "gateway");
        })
    }

    /// One more certificate of the CA for these hosts and this key.
    pub fn issue_with(&self, key: &KeyPair, hosts: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Issued {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("hosts that are names");
        adjust(&mut params);
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate can be made");
        Issued { certificate: certificate.pem(), private_key: key.serialize_pem() }
    }

    /// A list of what the CA has revoked, in PEM.
    #[must_use]
    pub fn revocation_list(&self, params: &CertificateRevocationListParams) -> String {
        params.signed_by(&self.issuer).and_then(|list| list.pem()).expect("a list can be made")
    }

    /// The CA's private key, in PEM, for other programs that sign in its name.
    #[must_use]
    pub fn authority_key(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}
