//! Which pages may read a route's answers? The Fetch standard's CORS protocol, server side.
//!
//! A preflight is answered here, before credentials, because a browser sends it without any. Never
//! authorises anything: a request from an unlisted page is served as any other, and its page can't
//! read the answer.

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::time::Duration;

use super::shadow::Shadow;
use crate::settings::Section;
use crate::types::Name;

/// The headers of ours that a page may always read, beside those that the rule names.
const EXPOSED: &str =
    "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, X-Normalized, X-Out-Of-Range";

/// What the answer to a preflight depends on.
pub const PREFLIGHT_VARY: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

/// One `[cors.NAME]`, compiled.
#[derive(Debug)]
pub struct Cors {
    /// `None`: any origin.
    origins: Option<Box<[HeaderValue]>>,
    credentials: bool,
    headers: HeaderValue,
    expose: HeaderValue,
    max_age: HeaderValue,
}

/// Reads every `[cors.NAME]`. `limited` are the headers beside our own in which this policy speaks of limits.
#[must_use]
pub fn compile_all(root: &Section<'_>, api_key_header: &HeaderName, limited: &str) -> HashMap<Name, Arc<Cors>> {
    let mut all = HashMap::new();
    for section in root.sections("cors") {
        all.insert(section.name(), Arc::new(Cors::compile(&section, api_key_header, limited)));
        section.finish();
    }
    all
}

impl Cors {
    fn compile(section: &Section<'_>, api_key_header: &HeaderName, limited: &str) -> Self {
        let credentials = section.or("credentials", false);
        let mut any = false;
        let mut origins = Vec::new();
        for (index, origin) in section.list::<String>("origins") {
            if origin == "*" {
                any = true;
                if credentials {
                    section.mistake_at(
                        "origins",
                        index,
                        "is \"*\" while credentials = true, so that every page could act as its visitor",
                        "list the origins, or remove `credentials`",
                    );
                }
            } else if origin == "null" || is_origin(&origin) {
                origins.extend(HeaderValue::from_str(&origin));
            } else {
                let reason = format!("is {origin:?}, which is not an origin as browsers send it");
                section.mistake_at("origins", index, reason, "write scheme and host in lower case, and a port where it is not the default: \"https://app.example.com\"");
            }
        }
        if any && !origins.is_empty() {
            section.mistake("origins", "has \"*\" beside other origins", "keep one of the two");
        }
        if !any && origins.is_empty() && section.all::<String>("origins").is_empty() {
            section.missing("origins", "list them: origins = [\"https://app.example.com\"]");
        }
        let mut headers = section.all::<String>("headers");
        if headers.is_empty() {
            // `Authorization` is never covered by a `*` (Fetch, "CORS-preflight fetch"), so it is listed.
            headers = vec!["Content-Type".into(), "Authorization".into(), "DPoP".into(), api_key_header.to_string()];
        }
        let names = |key: &str, list: &[String]| -> String {
            for (index, name) in list.iter().enumerate() {
                if HeaderName::from_bytes(name.as_bytes()).is_err() || name == "*" {
                    let reason = format!("is {name:?}, which is not a header name");
                    section.mistake_at(key, index, reason, "list header names; \"*\" is not offered");
                }
            }
            list.join(", ")
        };
        let headers = names("headers", &headers);
        let own = names("expose", &section.all::<String>("expose"));
        let expose = [EXPOSED, limited, &own].into_iter().filter(|names| !names.is_empty());
        let expose = expose.collect::<Vec<_>>().join(", ");
        let max_age = section.or("max_age", Duration::from_mins(10)).as_secs().to_string();
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        Self {
            origins: (!any).then(|| origins.into()),
            credentials,
            headers: value(&headers),
            expose: value(&expose),
            max_age: value(&max_age),
        }
    }

    /// The value of `Access-Control-Allow-Origin` for an origin, if it may read.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            None => Some(HeaderValue::from_static("*")),
            // Byte by byte and whole: `evilexample.com` is not `example.com`.
            Some(list) => list.iter().find(|listed| *listed == origin).cloned(),
        }
    }

    /// What an answer to this request must carry.
    #[must_use]
    pub fn decide(self: &Arc<Self>, request: &HeaderMap) -> Earned {
        let allow_origin = single(request, &ORIGIN).and_then(|origin| self.allowed(origin));
        Earned { cors: Arc::clone(self), allow_origin }
    }
}

/// Whether a string is an origin in its serialised form (RFC 6454 §6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https")
        && !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b))
        && !(scheme == "https" && authority.ends_with(":443"))
        && !(scheme == "http" && authority.ends_with(":80"))
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The method that a preflight asks for; `None` for what is no preflight (Fetch, "CORS-preflight
/// request": `OPTIONS` with `Origin` and `Access-Control-Request-Method`).
#[must_use]
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
        return None;
    }
    single(headers, &ACCESS_CONTROL_REQUEST_METHOD).and_then(|asked| Method::from_bytes(asked.as_bytes()).ok())
}

/// The CORS headers that an answer has earned, whatever becomes of the request.
#[derive(Clone, Debug)]
pub struct Earned {
    cors: Arc<Cors>,
    allow_origin: Option<HeaderValue>,
}

impl Earned {
    /// The same for a page whose origin is not listed, where that is only tried out.
    #[must_use]
    pub fn tried(mut self, shadow: Shadow, request: &HeaderMap) -> Self {
        if shadow.cors && self.allow_origin.is_none() {
            self.allow_origin = single(request, &ORIGIN).cloned();
        }
        self
    }

    /// Whether the page may read.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.allow_origin.is_some()
    }

    /// Puts the headers of an actual answer in place.
    pub fn apply(self, headers: &mut HeaderMap) {
        let Self { cors, allow_origin } = self;
        if cors.origins.is_some() {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = allow_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, cors.expose.clone());
            if cors.credentials {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }

    /// Puts the headers of a preflight's answer in place. `asked` is the method that the route takes.
    pub fn apply_preflight(self, asked: &Method, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static(PREFLIGHT_VARY));
        let Self { cors, allow_origin } = self;
        let Some(origin) = allow_origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if let Ok(asked) = HeaderValue::from_str(asked.as_str()) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, asked);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone());
        headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
        if cors.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    fn rule(toml: &str) -> (Arc<Cors>, usize) {
        let header = HeaderName::from_static("x-api-key");
        let (cors, mistakes) = with_section(toml, |section| Cors::compile(section, &header, ""));
        (Arc::new(cors), mistakes.len())
    }

    fn from(origin: &str) -> HeaderMap {
        HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).expect("a legal value"))])
    }

    #[test]
    fn an_origin_is_matched_whole() {
        let (cors, mistakes) = rule("origins = [\"https://example.com\"]\ncredentials = true");
        assert_eq!(mistakes, 0);
        for (origin, allowed) in [
            ("https://example.com", true),
            ("https://evilexample.com", false),
            ("https://example.com.evil", false),
            ("http://example.com", false),
            ("https://example.com:8443", false),
            ("https://EXAMPLE.com", false),
            ("null", false),
        ] {
            let earned = cors.decide(&from(origin));
            assert_eq!(earned.is_allowed(), allowed, "{origin}");
            let mut headers = HeaderMap::new();
            earned.apply(&mut headers);
            assert_eq!(headers.get(VARY).map(HeaderValue::as_bytes), Some(&b"Origin"[..]));
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), allowed);
        }
    }

    #[test]
    fn what_would_open_too_much_is_a_mistake() {
        for wrong in [
            "origins = [\"*\"]\ncredentials = true",
            "origins = []",
            "origins = [\"*\", \"https://a.example\"]",
            "origins = [\"https://a.example/\"]",
            "origins = [\"https://A.example\"]",
            "origins = [\"a.example\"]",
            "origins = [\"https://a.example:443\"]",
            "origins = [\"https://a.example\"]\nheaders = [\"*\"]",
        ] {
            assert_eq!(rule(wrong).1, 1, "{wrong}");
        }
    }

    #[test]
    fn a_plain_options_request_is_no_preflight() {
        let mut headers = from("https://a.example");
        assert_eq!(preflight(&Method::OPTIONS, &headers), None);
        headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        assert_eq!(preflight(&Method::OPTIONS, &headers), Some(Method::POST));
        assert_eq!(preflight(&Method::POST, &headers), None);
        headers.remove(ORIGIN);
        assert_eq!(preflight(&Method::OPTIONS, &headers), None);
    }
}
