//! One certificate with its key: read, checked, and ready to be shown.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::asn1_rs::{FromDer as _, Sequence, oid};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use super::{Part, Wrong, ocsp, provider};
use crate::types::Secret;

/// What a certificate is read from, as it stood in its files.
#[derive(PartialEq)]
pub(super) struct Material {
    /// The certificate and those between it and the root, in PEM.
    pub(super) chain: Vec<u8>,
    /// The private key, in PEM.
    pub(super) key: Secret,
    /// An OCSP response, in DER.
    pub(super) ocsp: Option<Vec<u8>>,
}

/// A certificate that can be shown.
#[derive(Debug)]
pub(super) struct Certificate {
    /// With its key, and with its staple while that holds.
    pub(super) key: Arc<CertifiedKey>,
    /// The hosts that it is for, in lower case; `*.` begins those that stand for every name below.
    pub(super) hosts: Vec<String>,
    /// When it expires, in seconds since 1970.
    pub(super) expires: i64,
    /// Until when its staple holds.
    stapled_until: Option<i64>,
    /// Why it has no staple, where it should have one.
    pub(super) unstapled: Option<String>,
}

impl Certificate {
    /// Reads and checks a certificate at a time in seconds since 1970.
    pub(super) fn read(material: &Material, now: i64) -> Result<Self, Wrong> {
        let wrong = |part, reason: &str, remedy| Err(Wrong { part, reason: reason.to_owned(), remedy });
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&material.chain).collect::<Result<_, _>>().unwrap_or_default();
        let Some(first) = chain.first().cloned() else {
            return wrong(
                Part::Certificate,
                "names a file without a certificate in PEM",
                "name the file that begins with -----BEGIN CERTIFICATE-----",
            );
        };
        let Ok(key) = PrivateKeyDer::from_pem_slice(material.key.expose()) else {
            return wrong(
                Part::Key,
                "refers to something that is not a private key in PEM",
                "refer to the key that belongs to the certificate",
            );
        };
        let mut key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| Wrong {
            part: Part::Certificate,
            reason: format!("can't be used with this private key: {error}"),
            remedy: "check that both belong together",
        })?;
        let Ok((_, parsed)) = X509Certificate::from_der(&first) else {
            return wrong(Part::Certificate, "names a file whose first certificate can't be read", "make it anew");
        };
        let (begins, expires) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        if now >= expires {
            let reason = format!("has expired on {}, so every client would refuse it", date(expires));
            return wrong(Part::Certificate, &reason, "renew it");
        }
        if now < begins {
            let reason = format!("is not valid before {}, so every client would refuse it", date(begins));
            return wrong(Part::Certificate, &reason, "use one that is valid now, and check this machine's clock");
        }
        let mut certificate =
            Self { hosts: hosts(&parsed), expires, stapled_until: None, unstapled: None, key: Arc::new(key.clone()) };
        let must_staple = must_staple(&parsed);
        match staple(material.ocsp.as_deref(), parsed.raw_serial(), now) {
            Ok(None) if must_staple => {
                return wrong(
                    Part::Certificate,
                    "may only be shown with an OCSP response (its TLS feature says so), and `ocsp` names none",
                    "name a file with the response in DER: ocsp = \"server.ocsp\"",
                );
            }
            Ok(None) => {}
            Ok(Some((der, until))) => {
                key.ocsp = Some(der.to_vec());
                certificate.key = Arc::new(key);
                certificate.stapled_until = Some(until);
            }
            // What is wrong for good is a mistake. What time has made of a good response is not, unless nobody
            // would take the certificate without it.
            Err(Unfit::Never(reason)) => {
                return wrong(Part::Ocsp, reason, "fetch the response for this certificate from its issuer");
            }
            Err(Unfit::Now(reason)) if must_staple => {
                return wrong(Part::Ocsp, &reason, "fetch the response anew; the certificate may not be shown without");
            }
            Err(Unfit::Now(reason)) => certificate.unstapled = Some(reason),
        }
        Ok(certificate)
    }

    /// Takes the staple away when it no longer holds.
    pub(super) fn take_old_staple(&mut self, now: i64) -> bool {
        let Some(until) = self.stapled_until.take_if(|until| now >= *until) else { return false };
        self.key = Arc::new(CertifiedKey { ocsp: None, ..CertifiedKey::clone(&self.key) });
        self.unstapled = Some(held_until(until));
        true
    }
}

/// How far the clock of who signs responses may be ahead of ours, in seconds.
const CLOCK_SKEW: i64 = 300;

/// Why a response is not stapled.
enum Unfit {
    Never(&'static str),
    Now(String),
}

fn held_until(until: i64) -> String {
    format!("held until {}, so it is not sent any more", date(until))
}

fn staple<'m>(der: Option<&'m [u8]>, serial: &[u8], now: i64) -> Result<Option<(&'m [u8], i64)>, Unfit> {
    let Some(der) = der else { return Ok(None) };
    let vouched = ocsp::read(der, serial).map_err(Unfit::Never)?;
    if now >= vouched.until {
        return Err(Unfit::Now(held_until(vouched.until)));
    }
    if now + CLOCK_SKEW < vouched.from {
        return Err(Unfit::Now(format!("holds from {} on, so it is not sent yet", date(vouched.from))));
    }
    Ok(Some((der, vouched.until)))
}

/// The names of hosts among the alternative names. Others are of no use with SNI (RFC 6066 §3).
fn hosts(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    });
    names.filter(|host| DnsName::try_from(host.strip_prefix("*.").unwrap_or(host)).is_ok()).collect()
}

/// Whether the certificate asks for a staple: feature `status_request` (RFC 7633 §4.2.3).
fn must_staple(certificate: &X509Certificate<'_>) -> bool {
    const STATUS_REQUEST: u16 = 5;
    let features = certificate.iter_extensions().find(|extension| extension.oid == oid!(1.3.6.1.5.5.7.1.24));
    let listed = features.and_then(|extension| Sequence::from_der(extension.value).ok());
    listed.is_some_and(|(_, list)| list.der_sequence_of::<u16, _>().is_ok_and(|all| all.contains(&STATUS_REQUEST)))
}

/// A time for people: `2026-11-05T12:00:00Z`.
pub(super) fn date(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} s after 1970"))
}
