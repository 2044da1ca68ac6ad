//! Which headers pass between client and worker, and which only one side may say.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use super::canary::caller;
use crate::policy::body::JSON_LENGTH;
use crate::types::{Name, Principal, RequestId};

/// Who called, signed by us.
pub(super) static ASSERTION: HeaderName = HeaderName::from_static("x-modelgate-assertion");

/// What a worker is told about a request, by us alone.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The header that API keys come in, which a worker never sees.
    pub credential: &'a HeaderName,
    /// The client's address, as text.
    pub client: &'a str,
    /// The authority of the request target, where it had one.
    pub authority: Option<&'a Authority>,
    /// Whether the request came over HTTP/2.
    pub http2: bool,
    /// Its name.
    pub id: RequestId,
    /// Who it was proven to come from.
    pub principal: &'a Principal,
    /// The same with a signature, where the pool is told so.
    pub assertion: Option<&'a HeaderValue>,
    /// The route that it took.
    pub route: &'a Name,
    /// Whether a number is looked for in the answer, which must then come without any coding.
    pub is_read_here: bool,
    /// How long its answer is waited for, in milliseconds.
    pub deadline: Option<&'a HeaderValue>,
    /// Whether the body is another than the client sent, so that the client's digests of it are no longer true.
    pub is_rewritten: bool,
    /// How much of such a body is JSON, where octets may follow it.
    pub json: Option<usize>,
}

/// A request's headers as the worker gets them: without what is hop-by-hop, spoofed or secret, and with
/// ours. Checked once, and written for the worker that is to get them.
#[derive(Debug)]
pub struct Forwarded<'a> {
    headers: &'a HeaderMap,
    /// Nothing where the headers are ready as they are.
    told: Option<Told<'a>>,
    caller: &'a str,
    /// What the client's `Connection` names, which goes no further (RFC 9110 §7.6.1).
    named: Vec<HeaderName>,
}

impl<'a> Forwarded<'a> {
    /// A client's headers; `None` where `Connection` names one that we rely on, or what is no header.
    #[must_use]
    pub fn new(headers: &'a HeaderMap, told: Told<'a>) -> Option<Self> {
        let mut named = Vec::new();
        for value in headers.get_all(header::CONNECTION) {
            if value == "keep-alive" || value == "close" {
                continue;
            }
            let listed = value.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii);
            for name in listed.filter(|name| !name.is_empty()) {
                named.push(HeaderName::from_bytes(name).ok()?);
            }
        }
        let relied_on = |name: &HeaderName| {
            name == told.credential
                || *name == JSON_LENGTH
                || matches!(
                    *name,
                    header::CONTENT_TYPE | header::COOKIE | header::CONTENT_LENGTH | header::TRANSFER_ENCODING
                )
                || fate(name.as_str()) == Fate::Ours
        };
        let caller = caller(told.principal, told.client);
        (!named.iter().any(relied_on)).then_some(Self { headers, told: Some(told), caller, named })
    }

    /// Headers that were made for a worker already, for one who asks.
    pub(super) fn ready(headers: &'a HeaderMap, caller: &'a str) -> Self {
        Self { headers, told: None, caller, named: Vec::new() }
    }

    /// Whether the body is JSON by its media type.
    pub(super) fn is_json(&self) -> bool {
        let media_type = self.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let essence = media_type.split(|&octet| octet == b';').next().unwrap_or_default().trim_ascii();
        essence.eq_ignore_ascii_case(b"application/json")
    }

    /// Whether the client sent such a header.
    #[must_use]
    pub fn has(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name)
    }

    /// Whose requests go to the same worker: the principal's, or of those who prove nothing the address's.
    pub(super) fn caller(&self) -> &'a str {
        self.caller
    }

    /// Writes them as fields of an HTTP/1 head, after `Host`.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.each(|name, value| field(out, name, value));
    }

    /// Adds them to an HTTP/2 head.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        self.each(|name, value| {
            // Both were read from a head, or are ours.
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        });
    }

    /// Tells each name and value.
    #[inline]
    fn each(&self, mut put: impl FnMut(&str, &[u8])) {
        let Some(told) = &self.told else {
            return self.headers.iter().for_each(|(name, value)| put(name.as_str(), value.as_bytes()));
        };
        let mut cookies = 0;
        for (name, value) in self.headers {
            let text = name.as_str();
            if fate(text) != Fate::Passes || name == told.credential || self.named.contains(name) {
                continue;
            }
            if *name == header::ACCEPT_ENCODING && told.is_read_here {
                continue;
            }
            if told.is_rewritten && DIGESTS.contains(&text) {
                continue;
            }
            if *name == JSON_LENGTH
                && let Some(length) = told.json
            {
                put(text, length.to_string().as_bytes());
            } else if *name == header::COOKIE {
                cookies += 1;
                if cookies > 1 {
                    continue;
                }
                put("cookie", &self.cookies());
            } else {
                put(text, value.as_bytes());
            }
        }
        put("via", if told.http2 { b"2 modelgate" } else { b"1.1 modelgate" });
        put("x-forwarded-for", told.client.as_bytes());
        put("x-forwarded-proto", b"https");
        let named = self.headers.get(header::HOST).map(HeaderValue::as_bytes);
        let host = named.or(told.authority.map(|authority| authority.as_str().as_bytes()));
        put("x-forwarded-host", host.unwrap_or(b"unknown"));
        put("x-request-id", told.id.as_str().as_bytes());
        put("x-modelgate-principal", told.principal.header.as_bytes());
        put("x-modelgate-roles", told.principal.roles_header.as_bytes());
        put("x-modelgate-scheme", told.principal.scheme.as_str().as_bytes());
        put("x-modelgate-route", told.route.as_bytes());
        if let Some(deadline) = told.deadline {
            put("x-modelgate-timeout", deadline.as_bytes());
        }
        if let Some(assertion) = told.assertion {
            put(ASSERTION.as_str(), assertion.as_bytes());
        }
    }

    /// HTTP/2 may send one cookie in several fields; HTTP/1 readers expect one (RFC 9113 §8.2.3).
    fn cookies(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (index, crumb) in self.headers.get_all(header::COOKIE).iter().enumerate() {
            if index > 0 {
                all.extend_from_slice(b"; ");
            }
            all.extend_from_slice(crumb.as_bytes());
        }
        all
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What says which octets a body has (RFC 9530, and what came before it).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// What becomes of a client's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It reaches the worker.
    Passes,
    /// It belongs to one connection (RFC 9110 §7.6.1), or RFC 9112 frames by it.
    HopByHop,
    /// Only we may say it to a worker, by any spelling that a worker could read as the same: with `_` for
    /// `-` (CGI and WSGI fold them), or as a well-known relative of a forwarding or identity header.
    Ours,
}

/// Names are in lower case.
fn fate(name: &str) -> Fate {
    // Names are short: to look at each octet is less than to begin a search.
    if name.bytes().any(|octet| octet == b'_') {
        return Fate::Ours;
    }
    let is_ours = |prefix: &&str| name.starts_with(*prefix);
    match name.as_bytes().first() {
        Some(b'x') => {
            const PREFIXES: [&str; 8] = [
                "x-modelgate-",
                "x-forwarded-",
                "x-original-",
                "x-rewrite-",
                "x-real-",
                "x-client-",
                "x-http-method",
                "x-remote-",
            ];
            let named = matches!(name, "x-request-id" | "x-forwarded" | "x-method-override" | "x-user");
            if named || PREFIXES.iter().any(is_ours) { Fate::Ours } else { Fate::Passes }
        }
        Some(b'a' | b'd' | b's' | b'h' | b'f' | b'e' | b'm' | b't' | b'c' | b'r' | b'k' | b'p' | b'u') => match name {
            "authorization" | "dpop" | "signature" | "signature-input" | "host" | "forwarded" | "expect"
            | "max-forwards" | "true-client-ip" | "cf-connecting-ip" | "remote-user" => Fate::Ours,
            "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "content-length" => Fate::HopByHop,
            _ => Fate::Passes,
        },
        _ => Fate::Passes,
    }
}

/// Whether a header of a worker's answer reaches the client. Names are in any case.
pub(super) fn passes_back(name: &str, value: &[u8]) -> bool {
    // By the first letter, which lets nearly all others go. What is dropped is between the worker and us, or ours to
    // say, or nobody's to know.
    let (dropped, prefix): (&[&str], &str) = match name.as_bytes().first().map_or(0, u8::to_ascii_lowercase) {
        b'a' => (&["alt-svc"], "access-control-"),
        b'c' => (&["connection", "content-length"], ""),
        b'k' => (&["keep-alive"], ""),
        // An absolute address would name the worker's own network.
        b'l' => return !name.eq_ignore_ascii_case("location") || value.starts_with(b"/") && !value.starts_with(b"//"),
        b'p' => (&["proxy-connection", "proxy-authenticate", "proxy-authorization"], ""),
        b'r' => (&[], "ratelimit"),
        b's' => (&["server", "strict-transport-security"], ""),
        b't' => (&["te", "trailer", "transfer-encoding"], ""),
        b'u' => (&["upgrade"], ""),
        b'v' => (&["via"], ""),
        b'x' => (&["x-powered-by"], "x-modelgate-"),
        _ => return true,
    };
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    !(dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) || !prefix.is_empty() && starts(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RequestIds;

    /// What a worker gets of these headers, or nothing where they are refused.
    fn forwarded(pairs: &[(&'static str, &'static str)]) -> Option<Vec<String>> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let (credential, principal, route) =
            (HeaderName::from_static("x-api-key"), Principal::anonymous(), Name::from("predict"));
        let told = Told {
            credential: &credential,
            client: "203.0.113.7",
            authority: None,
            http2: false,
            id: RequestIds::new([1; 16]).next(),
            principal: &principal,
            assertion: None,
            route: &route,
            is_read_here: false,
            deadline: None,
            is_rewritten: pairs.iter().any(|(name, _)| *name == "x-rewritten"),
            json: pairs.iter().any(|(name, _)| *name == "x-rewritten").then_some(41),
        };
        let mut out = Vec::new();
        Forwarded::new(&headers, told)?.write(&mut out);
        let text = String::from_utf8(out).expect("text");
        let ours = ["via:", "x-forwarded-", "x-request-id:", "x-modelgate-"];
        let theirs = text.lines().filter(|line| !ours.iter().any(|ours| line.starts_with(ours)));
        Some(theirs.map(str::to_owned).collect())
    }

    #[test]
    fn no_hop_by_hop_header_survives() {
        let passed = forwarded(&[
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
        ]);
        assert_eq!(passed, Some(vec!["content-type: application/json".to_owned()]));
    }

    #[test]
    fn connection_can_not_take_away_what_we_rely_on() {
        for name in [
            "Authorization",
            "x-api-key",
            "Host",
            "content-type",
            "Cookie",
            "X-Modelgate-Principal",
            "Inference-Header-Content-Length",
            "TE, a b",
        ] {
            assert_eq!(
                forwarded(&[("connection", Box::leak(format!("close, {name}").into_boxed_str()))]),
                None,
                "{name}"
            );
        }
    }

    #[test]
    fn a_body_that_was_rewritten_comes_with_its_own_length_of_json() {
        let name = "inference-header-content-length";
        assert_eq!(forwarded(&[(name, "7")]), Some(vec![format!("{name}: 7")]));
        let passed = forwarded(&[(name, "7"), ("x-rewritten", "yes")]).expect("they pass");
        assert_eq!(passed, [format!("{name}: 41"), "x-rewritten: yes".to_owned()]);
        assert_eq!(forwarded(&[("x-rewritten", "yes")]), Some(vec!["x-rewritten: yes".to_owned()]), "nobody asked");
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
            "x-remote-user",
            "remote-user",
            "x-api-key",
        ] {
            assert_eq!(forwarded(&[(name, "1")]), Some(vec![]), "{name}");
        }
        for name in ["content-type", "accept", "traceparent", "inference-header-content-length", "user-agent", "x-a"] {
            assert_eq!(forwarded(&[(name, "1")]), Some(vec![format!("{name}: 1")]), "{name}");
        }
    }

    #[test]
    fn digests_of_a_body_that_was_changed_do_not_pass() {
        let digest = ("content-digest", "sha-256=:AAAA:");
        assert_eq!(forwarded(&[digest]), Some(vec!["content-digest: sha-256=:AAAA:".to_owned()]));
        let passed =
            forwarded(&[digest, ("digest", "x"), ("repr-digest", "x"), ("content-md5", "x"), ("x-rewritten", "1")]);
        assert_eq!(passed, Some(vec!["x-rewritten: 1".to_owned()]));
    }

    #[test]
    fn crumbs_become_one_cookie() {
        assert_eq!(forwarded(&[("cookie", "a=1"), ("cookie", "b=2")]), Some(vec!["cookie: a=1; b=2".to_owned()]));
    }

    #[test]
    fn answers_lose_what_is_not_for_clients() {
        for name in ["Connection", "SERVER", "Access-Control-Allow-Origin", "RateLimit-Policy", "X-Modelgate-A", "Via"]
        {
            assert!(!passes_back(name, b"/x"), "{name}");
        }
        for (name, value, passes) in [
            ("Content-Type", "a/b", true),
            ("Set-Cookie", "a=b", true),
            ("Location", "/here", true),
            ("location", "//there", false),
            ("Location", "http://10.0.0.1/", false),
        ] {
            assert_eq!(passes_back(name, value.as_bytes()), passes, "{name}: {value}");
        }
    }
}
