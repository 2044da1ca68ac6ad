//! Whom does the head call? One authority, or a refusal.
//!
//! Source: RFC 9112 §3.2, RFC 9113 §8.3.1. Pure; hyper has parsed the octets before, and for HTTP/1 `wire`
//! has held them to the grammar.

use http::header::{self, HeaderMap};
use http::uri::Scheme;
use http::{Method, Uri, Version};

use crate::problem::HeadFault;
use crate::wire;

/// Reads the head: gives back the authority that the client called, with a port where it gave one.
///
/// # Errors
/// [`HeadFault`].
pub fn read<'r>(version: Version, method: &Method, uri: &'r Uri, headers: &'r HeaderMap) -> Result<&'r str, HeadFault> {
    let http1 = version != Version::HTTP_2;
    if !http1 {
        sayable_in_http1(uri, headers)?;
    }
    // Paths alone, or (HTTP/1) with this service's scheme and host before them.
    let foreign = http1 && uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS);
    if *method == Method::CONNECT || !uri.path().starts_with('/') || foreign {
        return Err(HeadFault::Target);
    }
    // HTTP/2 has no grammar of its own for targets (RFC 9113 §8.3.1); what HTTP/1 could not say is refused.
    let written = |query: &str| query.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>'));
    if !uri.query().is_none_or(written) {
        return Err(HeadFault::Target);
    }
    if !is_expected(headers) {
        return Err(HeadFault::Expectation);
    }
    host(http1, uri, headers)
}

/// Holds a head of HTTP/2, whose frames `wire` has not read, to what HTTP/1 can say, before it is written as
/// HTTP/1 (RFC 9113 §8.2, §8.3).
fn sayable_in_http1(uri: &Uri, headers: &HeaderMap) -> Result<(), HeadFault> {
    let malformed = |why| Err(HeadFault::Wire(wire::Fault::Malformed(why)));
    if let Some(target) = uri.path_and_query() {
        if target.as_str().len() > wire::MOST_TARGET {
            return Err(HeadFault::Wire(wire::Fault::TargetTooLong));
        }
        if !target.as_str().starts_with('/') {
            return Err(HeadFault::Target);
        }
    }
    // There is nothing but TLS here. It is not told where `:authority` is missing; then nothing hangs on it.
    if uri.scheme_str().is_some_and(|scheme| !scheme.eq_ignore_ascii_case("https")) {
        return malformed("its :scheme is not https");
    }
    for (name, value) in headers {
        if !wire::are_tokens(name.as_str().as_bytes()) {
            return malformed("a header's name is not a token");
        }
        let ends = [value.as_bytes().first(), value.as_bytes().last()];
        if ends.into_iter().flatten().any(u8::is_ascii_whitespace) {
            return malformed("a header's value begins or ends with a space");
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        return malformed("it has Content-Length twice");
    }
    Ok(())
}

/// Whether the client expects nothing, or the one thing that there is (RFC 9110 §10.1.1).
fn is_expected(headers: &HeaderMap) -> bool {
    let mut expected = headers.get_all(header::EXPECT).iter();
    match (expected.next(), expected.next()) {
        (None, _) => true,
        (Some(one), None) => one.as_bytes().eq_ignore_ascii_case(b"100-continue"),
        _ => false,
    }
}

fn host<'r>(http1: bool, uri: &'r Uri, headers: &'r HeaderMap) -> Result<&'r str, HeadFault> {
    let mut values = headers.get_all(header::HOST).iter();
    let named = values.next();
    if values.next().is_some() {
        return Err(HeadFault::Host("it has Host twice"));
    }
    let named = named.map(|value| value.to_str().map_err(|_| HeadFault::Host("its Host is malformed"))).transpose()?;
    let target = uri.authority().map(http::uri::Authority::as_str);
    let host = match (target, named) {
        (Some(target), Some(named)) if !target.eq_ignore_ascii_case(named) => {
            return Err(HeadFault::Host("its target and its Host disagree"));
        }
        // An absolute target does not stand for Host (RFC 9112 §3.2.2); `:authority` does.
        (Some(_), None) if http1 => return Err(HeadFault::Host("it has no Host")),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(HeadFault::Host("it has no Host")),
    };
    if is_host(host) { Ok(host) } else { Err(HeadFault::Host("its Host is malformed")) }
}

/// A host with an optional port, of the characters that names and addresses have.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => ("v6", Some(port)),
                None if rest.is_empty() => ("v6", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name_is_good = !name.is_empty()
        && name.len() <= 255
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    name_is_good && port.is_none_or(|port| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::is_host;
    use crate::problem::HeadFault;
    use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

    fn read_head(uri: &str, pairs: &[(&'static str, &'static str)]) -> Result<String, HeadFault> {
        read_version(Version::HTTP_11, uri, pairs)
    }

    fn read_version(version: Version, uri: &str, pairs: &[(&'static str, &'static str)]) -> Result<String, HeadFault> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let uri: Uri = uri.parse().expect("a literal target");
        super::read(version, &Method::POST, &uri, &headers).map(str::to_owned)
    }

    #[test]
    fn hosts() {
        for good in ["a.example", "a.example:8443", "127.0.0.1", "[::1]", "[::1]:8443", "localhost", "a_b"] {
            assert!(is_host(good), "{good}");
        }
        for wrong in [
            "", ":80", "a b", "a/b", "a@b", "a:", "a:x", "a:99999", "a:+80", "[::1", "[x]", "[::1]x", "a,b", "a:80:80",
            "é",
        ] {
            assert!(!is_host(wrong), "{wrong}");
        }
    }

    #[test]
    fn one_host_and_the_target_agrees() {
        assert_eq!(read_head("/", &[("host", "a")]), Ok("a".into()));
        assert_eq!(read_head("https://a/", &[("host", "A")]), Ok("a".into()));
        assert_eq!(read_version(Version::HTTP_2, "https://a/", &[]), Ok("a".into()));
        for (uri, pairs) in [
            ("/", &[][..]),
            ("https://a/", &[]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("https://a/", &[("host", "b")]),
            ("/", &[("host", "a/b")]),
        ] {
            assert!(matches!(read_head(uri, pairs), Err(HeadFault::Host(_))), "{uri} {pairs:?}");
        }
    }

    #[test]
    fn targets_and_expectations() {
        let host = ("host", "a");
        for uri in ["http://a/", "ftp://a/", "*", "a:443"] {
            assert_eq!(read_head(uri, &[host]), Err(HeadFault::Target), "{uri}");
        }
        assert_eq!(read_head("/", &[host, ("expect", "100-Continue")]), Ok("a".into()));
        for wrong in ["", "200-ok", "100-continue, x", "100-continue;q=1"] {
            assert_eq!(read_head("/", &[host, ("expect", wrong)]), Err(HeadFault::Expectation), "{wrong}");
        }
        let twice = [host, ("expect", "100-continue"), ("expect", "100-continue")];
        assert_eq!(read_head("/", &twice), Err(HeadFault::Expectation));
    }
}
