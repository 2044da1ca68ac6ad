//! Which headers pass between client and worker, and which only one side may say.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use crate::types::{Name, Principal, RequestId};

/// What a worker is told about a request, by us alone.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The header that API keys come in, which a worker never sees.
    pub credential: &'a HeaderName,
    /// The client's address.
    pub client: IpAddr,
    /// The authority of the request target, where it had one.
    pub authority: Option<&'a Authority>,
    /// Whether the request came over HTTP/2.
    pub http2: bool,
    /// Its name.
    pub id: RequestId,
    /// Who it was proven to come from.
    pub principal: &'a Principal,
    /// The route that it took.
    pub route: &'a Name,
}

/// Makes a client's headers those of the request to the worker: without what is hop-by-hop, spoofed or
/// secret, and with ours. Gives back `false` where `Connection` names a header that we rely on.
#[must_use]
pub fn for_worker(headers: &mut HeaderMap, told: &Told<'_>) -> bool {
    let relied_on = |name: &HeaderName| {
        name == told.credential
            || matches!(*name, header::CONTENT_TYPE | header::COOKIE | header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
            || is_ours(name.as_str())
    };
    if !remove_hop_by_hop(headers, relied_on) {
        return false;
    }
    join_cookies(headers);
    let authority = || told.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let host = headers.remove(header::HOST).or_else(authority).unwrap_or(HeaderValue::from_static("unknown"));
    let doomed: Vec<HeaderName> =
        headers.keys().filter(|name| *name == told.credential || is_ours(name.as_str())).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    headers.append(header::VIA, HeaderValue::from_static(if told.http2 { "2 modelgate" } else { "1.1 modelgate" }));
    let client = told.client.to_string();
    headers.insert("x-forwarded-for", HeaderValue::try_from(client).unwrap_or(HeaderValue::from_static("unknown")));
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert("x-forwarded-host", host);
    headers.insert("x-request-id", told.id.header());
    headers.insert("x-modelgate-principal", told.principal.header.clone());
    headers.insert("x-modelgate-roles", told.principal.roles_header.clone());
    headers.insert("x-modelgate-scheme", HeaderValue::from_static(told.principal.scheme.as_str()));
    headers.insert("x-modelgate-route", HeaderValue::from_str(told.route).unwrap_or(HeaderValue::from_static("-")));
    true
}

/// Whether only we may say it to a worker, by any spelling that a worker could read as the same: with
/// `_` for `-` (CGI and WSGI fold them), or as a well-known relative of a forwarding or identity header.
fn is_ours(name: &str) -> bool {
    name.contains('_')
        || ["x-modelgate-", "x-forwarded-", "x-original-", "x-rewrite-", "x-real-", "x-client-", "x-http-method"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || matches!(
            name,
            "authorization"
                | "host"
                | "forwarded"
                | "x-request-id"
                | "x-forwarded"
                | "x-method-override"
                | "expect"
                | "max-forwards"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "remote-user"
                | "x-remote-user"
                | "x-user"
        )
}

/// HTTP/2 may send one cookie in several fields; HTTP/1 readers expect one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Headers that belong to one connection (RFC 9110 §7.6.1), and those that RFC 9112 frames by.
static HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::CONTENT_LENGTH,
];

/// Headers of a worker's answer that are ours to say or nobody's to know.
static NOT_THE_WORKERS: [HeaderName; 5] = [
    header::SERVER,
    HeaderName::from_static("x-powered-by"),
    header::VIA,
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
];

/// Removes what `Connection` names, then every hop-by-hop header. Gives back `false` where `Connection`
/// names something that `keep` says we rely on, or what is no header.
fn remove_hop_by_hop(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> bool {
    if headers.contains_key(header::CONNECTION) {
        let names = headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|&b| b == b','));
        let names = names.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        let Ok(named) = names.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>() else { return false };
        if named.iter().any(&keep) {
            return false;
        }
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    true
}

/// Takes from an answer what is not for the client. Gives back `false` where `Connection` names what is no header.
#[must_use]
pub(super) fn clean_answer(headers: &mut HeaderMap) -> bool {
    if !remove_hop_by_hop(headers, |_| false) {
        return false;
    }
    for name in &NOT_THE_WORKERS {
        headers.remove(name);
    }
    // An absolute address would name the worker's own network.
    if headers
        .get(header::LOCATION)
        .is_some_and(|to| !to.as_bytes().starts_with(b"/") || to.as_bytes().starts_with(b"//"))
    {
        headers.remove(header::LOCATION);
    }
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("access-control-") || name.starts_with("x-modelgate-") || name.starts_with("ratelimit")
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hop_by_hop_header_survives() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret-Hop"),
            ("connection", "keep-alive"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("proxy-authorization", "Basic eDp5"),
            ("content-length", "3"),
            ("content-type", "application/json"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(remove_hop_by_hop(&mut headers, |_| false));
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn connection_can_not_take_away_what_we_rely_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, Authorization"));
        assert!(!remove_hop_by_hop(&mut headers, |name| *name == header::AUTHORIZATION));
    }

    #[test]
    fn no_alias_of_our_headers_passes() {
        for name in [
            "x-modelgate-principal",
            "x_modelgate_principal",
            "x-modelgate_roles",
            "x-forwarded-for",
            "x-forwarded_proto",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "authorization",
            "x-http-method-override",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["content-type", "accept", "traceparent", "inference-header-content-length", "user-agent"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
