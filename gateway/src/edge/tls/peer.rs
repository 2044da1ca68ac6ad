//! What a client's certificate says, read once for each connection that shows one.

use std::rc::Rc;

use rustls::ServerConnection;
use x509_parser::asn1_rs::{FromDer as _, Oid, Tag, ToDer as _, oid};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{AttributeTypeAndValue, X509Certificate, X509Name};

use crate::types::{ClientCertificate, Sha256, Timestamp};

/// The most alternative names that are looked at. A certificate with more names nobody.
const MOST_NAMES: usize = 64;
/// The longest name, and the longest subject, in bytes.
const MOST_NAME: usize = 1024;

/// The certificate that the client of this connection has proven to hold; also where the connection was resumed,
/// whose ticket keeps it.
#[must_use]
pub fn certificate(connection: &ServerConnection) -> Option<Rc<ClientCertificate>> {
    connection.peer_certificates()?.first().map(|leaf| Rc::new(read(leaf)))
}

/// Reads it. What can't be read has a thumbprint and names nobody.
fn read(der: &[u8]) -> ClientCertificate {
    let mut certificate = ClientCertificate::nameless(Sha256::of(der));
    let Ok((_, parsed)) = X509Certificate::from_der(der) else { return certificate };
    let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    // It holds through its last second (RFC 5280 §4.1.2.5).
    certificate.until = Timestamp::from_secs(until.saturating_add(1));
    let Ok(names) = parsed.subject_alternative_name() else { return certificate };
    let names = names.map(|extension| &*extension.value.general_names).unwrap_or_default();
    if names.len() > MOST_NAMES {
        return certificate;
    }
    let (mut dns, mut uris, mut emails) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::DNSName(name) if is_plain(name) => dns.push(name.to_ascii_lowercase().into()),
            GeneralName::URI(name) if is_plain(name) => uris.push((*name).into()),
            GeneralName::RFC822Name(name) if is_plain(name) => emails.push((*name).into()),
            _ => {}
        }
    }
    (certificate.dns, certificate.uris, certificate.emails) = (dns.into(), uris.into(), emails.into());
    certificate.subject = subject(parsed.subject()).filter(|text| !text.is_empty() && text.len() <= MOST_NAME);
    certificate
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= MOST_NAME && name.bytes().all(|b| b.is_ascii_graphic())
}

/// A name as RFC 4514 writes it: the last part first. `None` where a part has another form than a plain string.
fn subject(name: &X509Name<'_>) -> Option<Box<str>> {
    let mut parts = Vec::new();
    for set in name.iter_rdn() {
        let attributes: Option<Vec<String>> = set.iter().map(attribute).collect();
        parts.push(attributes?.join("+"));
    }
    parts.reverse();
    Some(parts.join(",").into())
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    // RFC 4514 §3.
    const KNOWN: [(Oid<'static>, &str); 9] = [
        (oid!(2.5.4.3), "CN"),
        (oid!(2.5.4.7), "L"),
        (oid!(2.5.4.8), "ST"),
        (oid!(2.5.4.10), "O"),
        (oid!(2.5.4.11), "OU"),
        (oid!(2.5.4.6), "C"),
        (oid!(2.5.4.9), "STREET"),
        (oid!(0.9.2342.19200300.100.1.25), "DC"),
        (oid!(0.9.2342.19200300.100.1.1), "UID"),
    ];
    let (kind, value) = (attribute.attr_type(), attribute.attr_value());
    let Some((_, short)) = KNOWN.into_iter().find(|(oid, _)| oid == kind) else {
        // §2.4: a type without a name has its value in BER.
        let ber = value.to_der_vec().ok()?;
        return Some(ber.iter().fold(format!("{kind}=#"), |text, octet| text + &format!("{octet:02x}")));
    };
    if ![Tag::Utf8String, Tag::PrintableString, Tag::Ia5String].contains(&value.tag()) {
        return None;
    }
    let text = attribute.as_str().ok()?;
    let last = text.chars().count().saturating_sub(1);
    let mut written = format!("{short}=");
    for (index, character) in text.chars().enumerate() {
        let must_escape = matches!(character, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (character == ' ' && (index == 0 || index == last))
            || (character == '#' && index == 0);
        match character {
            '\0' => written.push_str("\\00"),
            _ if must_escape => written.extend(['\\', character]),
            _ => written.push(character),
        }
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read_made(adjust: impl FnOnce(&mut CertificateParams)) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        adjust(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        read(params.self_signed(&key).expect("a certificate can be made").der())
    }

    #[test]
    fn subjects_are_written_as_rfc_4514_does() {
        for (parts, written) in [
            (
                &[(DnType::CountryName, "GB"), (DnType::OrganizationName, "A, Inc."), (DnType::CommonName, "ci")][..],
                Some("CN=ci,O=A\\, Inc.,C=GB"),
            ),
            (&[(DnType::CommonName, " #a+b\"\\<>; ")], Some("CN=\\ #a\\+b\\\"\\\\\\<\\>\\;\\ ")),
            (&[(DnType::CommonName, "#x")], Some("CN=\\#x")),
            (&[(DnType::CommonName, "a\0b")], Some("CN=a\\00b")),
            (&[(DnType::CommonName, "Łódź")], Some("CN=Łódź")),
            (&[(DnType::CustomDnType(vec![1, 2, 3]), "x")], Some("1.2.3=#0c0178")),
            (&[], None),
        ] {
            let certificate = read_made(|params| {
                for (kind, value) in parts {
                    params.distinguished_name.push(kind.clone(), *value);
                }
            });
            assert_eq!(certificate.subject.as_deref(), written);
        }
    }

    #[test]
    fn names_are_told_apart_by_their_kind_and_bounded() {
        let name = |text: &str| text.to_owned().try_into().expect("a name");
        let certificate = read_made(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName(name("CI.example.com")),
                SanType::URI(name("spiffe://example.com/ci")),
                SanType::Rfc822Name(name("ci@example.com")),
            ];
        });
        assert_eq!(certificate.dns.as_ref(), [Box::from("ci.example.com")]);
        assert_eq!(certificate.uris.as_ref(), [Box::from("spiffe://example.com/ci")]);
        assert_eq!(certificate.emails.as_ref(), [Box::from("ci@example.com")]);
        let many = read_made(|params| {
            params.distinguished_name.push(DnType::CommonName, "x");
            params.subject_alt_names =
                (0..=MOST_NAMES).map(|number| SanType::DnsName(name(&format!("n{number}.example.com")))).collect();
        });
        assert!(many.dns.is_empty() && many.subject.is_none(), "it names nobody");
        let long = read_made(|params| params.distinguished_name.push(DnType::CommonName, "x".repeat(MOST_NAME + 1)));
        assert!(long.subject.is_none());
        assert!(read(b"no certificate").until == Timestamp::from_secs(0));
    }
}
