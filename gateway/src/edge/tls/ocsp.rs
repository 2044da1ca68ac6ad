//! What an OCSP response says of one certificate, as far as a server must know before it staples it.
//!
//! Source: RFC 6960 §4.2.1. Who signed it is for clients to check, to whom the staple is addressed.

use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::prelude::ASN1Time;

/// A response that vouches for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    /// From when on, in seconds since 1970.
    pub(super) from: i64,
    /// Until when.
    pub(super) until: i64,
}

/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const NOT_DER: &str = "is not an OCSP response in DER";

/// Reads a response for the certificate with this serial number, as its octets are in DER.
///
/// # Errors
/// Why it does not vouch for the certificate, as the end of a sentence that begins with the file.
pub(super) fn read(der: &[u8], serial: &[u8]) -> Result<Vouched, &'static str> {
    let (response, _) = open(der, Class::Universal, Tag::Sequence)?;
    let (status, rest) = open(response, Class::Universal, Tag::Enumerated)?;
    if status != [0] {
        return Err("is a response that says the responder could not answer");
    }
    let (wrapped, _) = open(rest, Class::ContextSpecific, Tag(0))?;
    let (bytes, _) = open(wrapped, Class::Universal, Tag::Sequence)?;
    let (kind, rest) = open(bytes, Class::Universal, Tag::Oid)?;
    if kind != BASIC {
        return Err("is a response of a kind other than the basic one");
    }
    let (basic, _) = open(rest, Class::Universal, Tag::OctetString)?;
    let (basic, _) = open(basic, Class::Universal, Tag::Sequence)?;
    let (data, _) = open(basic, Class::Universal, Tag::Sequence)?;
    // The version, where it is not the first one.
    let data = open(data, Class::ContextSpecific, Tag(0)).map_or(data, |(_, rest)| rest);
    let (_, rest) = next(data)?; // who answers
    let (_, rest) = open(rest, Class::Universal, Tag::GeneralizedTime)?;
    let (mut singles, _) = open(rest, Class::Universal, Tag::Sequence)?;
    while !singles.is_empty() {
        let (single, rest) = open(singles, Class::Universal, Tag::Sequence)?;
        singles = rest;
        let (id, rest) = open(single, Class::Universal, Tag::Sequence)?;
        if serial_of(id)? == serial {
            return vouched(rest);
        }
    }
    Err("is a response about another certificate")
}

fn serial_of(id: &[u8]) -> Result<&[u8], &'static str> {
    let (_, rest) = open(id, Class::Universal, Tag::Sequence)?; // the hash that is used
    let (_, rest) = open(rest, Class::Universal, Tag::OctetString)?; // the issuer's name
    let (_, rest) = open(rest, Class::Universal, Tag::OctetString)?; // the issuer's key
    open(rest, Class::Universal, Tag::Integer).map(|(serial, _)| serial)
}

/// What follows the certificate's id: its status, and since and until when that holds.
fn vouched(status: &[u8]) -> Result<Vouched, &'static str> {
    let (status, rest) = next(status)?;
    match (status.class(), status.tag()) {
        (Class::ContextSpecific, Tag(0)) => {}
        (Class::ContextSpecific, Tag(1)) => return Err("says that the certificate is revoked"),
        _ => return Err("says that the certificate is not known"),
    }
    let (from, rest) = time(rest)?;
    let (until, _) = open(rest, Class::ContextSpecific, Tag(0))
        .map_err(|_| "does not say until when it holds, so nobody can know when it is too old")?;
    let (until, _) = time(until)?;
    Ok(Vouched { from, until })
}

fn time(der: &[u8]) -> Result<(i64, &[u8]), &'static str> {
    let (_, rest) = open(der, Class::Universal, Tag::GeneralizedTime)?;
    let (_, time) = ASN1Time::from_der(der).map_err(|_| NOT_DER)?;
    Ok((time.timestamp(), rest))
}

fn next(der: &[u8]) -> Result<(Any<'_>, &[u8]), &'static str> {
    Any::from_der(der).map(|(rest, any)| (any, rest)).map_err(|_| NOT_DER)
}

/// The content of the element that begins here, which must be of this kind, and what follows it.
fn open(der: &[u8], class: Class, tag: Tag) -> Result<(&[u8], &[u8]), &'static str> {
    let (element, rest) = next(der)?;
    if (element.class(), element.tag()) == (class, tag) { Ok((element.data, rest)) } else { Err(NOT_DER) }
}
