//! Certificates of clients: whether they are asked for, and who vouches for them.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::certificate::date;
use super::{Part, Wrong, provider};
use crate::settings::Named;

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked, and may have none; one that they show must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

impl Named for ClientCertificates {
    const SHAPE: &'static str = "\"off\", \"optional\" or \"required\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)];
}

/// Who vouches for clients, as it stood in its files.
#[derive(PartialEq)]
pub(super) struct Trust {
    /// Certificates of authorities, in PEM.
    pub(super) ca: Vec<u8>,
    /// What they have revoked, in PEM.
    pub(super) crl: Option<Vec<u8>>,
}

impl Trust {
    /// What checks the certificates of clients, from a time in seconds since 1970 on.
    pub(super) fn verifier(&self, required: bool, now: i64) -> Result<Arc<dyn ClientCertVerifier>, Wrong> {
        let wrong = |part, reason: String, remedy| Wrong { part, reason, remedy };
        let ca = || wrong(Part::ClientCa, "names a file without a certificate in PEM".into(), "name your CA's file");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.ca) {
            roots.add(certificate.map_err(|_| ca())?).map_err(|_| ca())?;
        }
        if roots.is_empty() {
            return Err(ca());
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        if let Some(crl) = &self.crl {
            // A list that is too old says nothing of what was revoked since, so then nobody is let in.
            builder = builder.with_crls(lists(crl, now)?).enforce_revocation_expiration();
        }
        if !required {
            builder = builder.allow_unauthenticated();
        }
        let part = if self.crl.is_some() { Part::ClientCrl } else { Part::ClientCa };
        builder.build().map_err(|error| wrong(part, format!("can't be used: {error}"), "make it anew"))
    }
}

fn lists(pem: &[u8], now: i64) -> Result<Vec<CertificateRevocationListDer<'static>>, Wrong> {
    let wrong = |reason: String, remedy| Wrong { part: Part::ClientCrl, reason, remedy };
    let none = || {
        let remedy = "name the file that begins with -----BEGIN X509 CRL-----";
        wrong("names a file without a revocation list in PEM".into(), remedy)
    };
    let lists: Vec<_> =
        CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if lists.is_empty() {
        return Err(none());
    }
    for list in &lists {
        let (_, parsed) = CertificateRevocationList::from_der(list).map_err(|_| none())?;
        let until = parsed.next_update().map(|time| time.timestamp());
        if let Some(until) = until.filter(|until| now >= *until) {
            let reason = format!("holds until {}, so nobody can know what was revoked since", date(until));
            return Err(wrong(reason, "fetch the list anew"));
        }
    }
    Ok(lists)
}
