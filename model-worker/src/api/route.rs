//! What a request's head says: where it goes, with which method, and what it calls its body.

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::problem::Refusal;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Live,
    Ready,
    Models,
    Card(&'a str),
    Predict(Option<&'a str>, Option<&'a str>),
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let parts: [Option<&str>; 6] = std::array::from_fn(|_| parts.next());
        match parts {
            [Some("healthz"), None, ..] => Some(Self::Live),
            [Some("readyz"), None, ..] => Some(Self::Ready),
            [Some("predict"), None, ..] => Some(Self::Predict(None, None)),
            [Some("models"), None, ..] => Some(Self::Models),
            [Some("models"), Some(name), None, ..] => Some(Self::Card(name)),
            [Some("models"), Some(name), Some("predict"), None, ..] => Some(Self::Predict(Some(name), None)),
            [Some("models"), Some(name), Some("versions"), Some(version), Some("predict"), None] => {
                Some(Self::Predict(Some(name), Some(version)))
            }
            _ => None,
        }
    }

    /// The path with names in place of what the caller chose, for logs.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Live => "/healthz",
            Self::Ready => "/readyz",
            Self::Models => "/models",
            Self::Card(_) => "/models/{name}",
            Self::Predict(None, _) => "/predict",
            Self::Predict(Some(_), None) => "/models/{name}/predict",
            Self::Predict(Some(_), Some(_)) => "/models/{name}/versions/{version}/predict",
        }
    }

    pub(super) fn check_method(self, method: &Method) -> Result<(), Refusal> {
        match self {
            Self::Predict(..) if *method == Method::POST => Ok(()),
            Self::Predict(..) => Err(Refusal::WrongMethod("POST")),
            _ if *method == Method::GET || *method == Method::HEAD => Ok(()),
            _ => Err(Refusal::WrongMethod("GET, HEAD")),
        }
    }
}

/// How long the caller still waits: `X-Modelgate-Timeout`, whole milliseconds. What is no such number says nothing.
pub(super) fn patience(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = headers.get("x-modelgate-timeout")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

/// A body may be called JSON or nothing: some clients send no `Content-Type` at all.
pub(super) fn check_media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::Encoded);
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().map_err(|_| Refusal::NotCalledJson)?;
    let mut parts = value.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    // JSON is UTF-8 (RFC 8259 §8.1), so another charset contradicts the type.
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if is_json && is_utf8 { Ok(()) } else { Err(Refusal::NotCalledJson) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn routes() {
        for (path, route) in [
            ("/healthz", Some(Route::Live)),
            ("/predict", Some(Route::Predict(None, None))),
            ("/models", Some(Route::Models)),
            ("/models/iris", Some(Route::Card("iris"))),
            ("/models/iris/predict", Some(Route::Predict(Some("iris"), None))),
            ("/models/iris/versions/2/predict", Some(Route::Predict(Some("iris"), Some("2")))),
            ("/models/iris/versions/2", None),
            ("/models/iris/versions/2/predict/", None),
            ("/models/iris/versions/2/predict/x", None),
            ("/predict/", None),
            ("//predict", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn media_types() {
        for (value, accepted) in [
            ("application/json", true),
            ("Application/JSON; charset=UTF-8", true),
            ("application/json;charset=\"utf-8\"", true),
            ("application/json; charset=latin1", false),
            ("application/jsonp", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(check_media_type(&headers).is_ok(), accepted, "{value}");
        }
        assert!(check_media_type(&HeaderMap::new()).is_ok());
        let gzip = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        assert_eq!(check_media_type(&gzip), Err(Refusal::Encoded));
    }
}
