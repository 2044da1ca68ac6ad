//! What a request's head says: where it goes, with which method, and what it calls its body.

use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::problem::Refusal;

/// A model, and its version where one is named.
pub(super) type Named<'a> = (&'a str, Option<&'a str>);

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Live,
    Ready,
    Metrics,
    Models,
    Card(&'a str),
    Predict(Option<Named<'a>>),
    Server,
    V2Live,
    V2Ready,
    Model(Named<'a>),
    ModelReady(Named<'a>),
    Config(Named<'a>),
    Stats(Named<'a>),
    Infer(Named<'a>),
    Index,
    Load,
    Unload,
    Call(&'a str),
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let mut parts = path.strip_prefix('/')?.split('/');
        let parts: [Option<&str>; 8] = std::array::from_fn(|_| parts.next());
        match parts {
            [Some("v2"), ..] => Self::of_v2(parts),
            [Some("healthz"), None, ..] => Some(Self::Live),
            [Some("readyz"), None, ..] => Some(Self::Ready),
            [Some("metrics"), None, ..] => Some(Self::Metrics),
            [Some("predict"), None, ..] => Some(Self::Predict(None)),
            [Some("models"), None, ..] => Some(Self::Models),
            [Some("models"), Some(name), None, ..] => Some(Self::Card(name)),
            [Some("models"), Some(name), Some("predict"), None, ..] => Some(Self::Predict(Some((name, None)))),
            [Some("models"), Some(name), Some("versions"), Some(version), Some("predict"), None, ..] => {
                Some(Self::Predict(Some((name, Some(version)))))
            }
            [Some("inference.GRPCInferenceService"), Some(call), None, ..] => Some(Self::Call(call)),
            _ => None,
        }
    }

    fn of_v2(parts: [Option<&'a str>; 8]) -> Option<Self> {
        let (named, tail) = match parts {
            [_, None, ..] => return Some(Self::Server),
            [_, Some("health"), Some("live"), None, ..] => return Some(Self::V2Live),
            [_, Some("health"), Some("ready"), None, ..] => return Some(Self::V2Ready),
            [_, Some("repository"), Some("index"), None, ..] => return Some(Self::Index),
            [_, Some("repository"), Some("models"), Some(_), Some("load"), None, ..] => return Some(Self::Load),
            [_, Some("repository"), Some("models"), Some(_), Some("unload"), None, ..] => return Some(Self::Unload),
            [_, Some("models"), Some(name), Some("versions"), Some(version), tail, None, ..] => {
                ((name, Some(version)), tail)
            }
            [_, Some("models"), Some(name), tail, None, ..] => ((name, None), tail),
            _ => return None,
        };
        match tail {
            None => Some(Self::Model(named)),
            Some("ready") => Some(Self::ModelReady(named)),
            Some("config") => Some(Self::Config(named)),
            Some("stats") => Some(Self::Stats(named)),
            Some("infer") => Some(Self::Infer(named)),
            Some(_) => None,
        }
    }

    /// The path with names in place of what the caller chose, for logs.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Live => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Models => "/models",
            Self::Card(_) => "/models/{name}",
            Self::Predict(None) => "/predict",
            Self::Predict(Some((_, None))) => "/models/{name}/predict",
            Self::Predict(Some((_, Some(_)))) => "/models/{name}/versions/{version}/predict",
            Self::Server => "/v2",
            Self::V2Live => "/v2/health/live",
            Self::V2Ready => "/v2/health/ready",
            Self::Model(_) => "/v2/models/{name}",
            Self::ModelReady(_) => "/v2/models/{name}/ready",
            Self::Config(_) => "/v2/models/{name}/config",
            Self::Stats(_) => "/v2/models/{name}/stats",
            Self::Infer(_) => "/v2/models/{name}/infer",
            Self::Index => "/v2/repository/index",
            Self::Load => "/v2/repository/models/{name}/load",
            Self::Unload => "/v2/repository/models/{name}/unload",
            Self::Call(_) => "/inference.GRPCInferenceService/{call}",
        }
    }

    pub(super) fn check_method(self, method: &Method) -> Result<(), Refusal> {
        match self {
            Self::Predict(_) | Self::Infer(_) | Self::Index | Self::Load | Self::Unload | Self::Call(_) => {
                if *method == Method::POST { Ok(()) } else { Err(Refusal::WrongMethod("POST")) }
            }
            _ if *method == Method::GET || *method == Method::HEAD => Ok(()),
            _ => Err(Refusal::WrongMethod("GET, HEAD")),
        }
    }

    /// Whether anybody on the network may ask: probes and collectors of metrics cannot sign.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::Metrics | Self::V2Live | Self::V2Ready)
            || matches!(self, Self::Call("ServerLive" | "ServerReady"))
    }
}

/// How long the caller still waits: `X-Modelgate-Timeout`, whole milliseconds. What is no such number says nothing.
pub(super) fn patience(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = headers.get("x-modelgate-timeout")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(milliseconds))
}

/// The coding of a body; `None` where it is not compressed.
pub(super) fn coding(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(None);
    };
    let coding = coding.to_str().map_err(|_| Refusal::Encoded)?;
    let known = |name: &str| coding.eq_ignore_ascii_case(name);
    match codings.next() {
        None if known("identity") => Ok(None),
        None if known("gzip") || known("deflate") => Ok(Some(coding)),
        _ => Err(Refusal::Encoded),
    }
}

/// How many octets of a body are JSON where others follow: `Inference-Header-Content-Length`, once.
pub(super) fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let mut lengths = headers.get_all("inference-header-content-length").iter();
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    let number = length.to_str().ok().and_then(|text| text.parse().ok()).filter(|_| lengths.next().is_none());
    let malformed = || Refusal::Malformed("Inference-Header-Content-Length is no number of octets".to_owned());
    number.ok_or_else(malformed).map(Some)
}

/// A body may be called JSON, octets where it holds some, or nothing: some clients send no `Content-Type` at all.
pub(super) fn check_media_type(headers: &HeaderMap, octets: bool) -> Result<(), Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().map_err(|_| Refusal::NotCalledJson)?;
    let mut parts = value.split(';').map(str::trim);
    let known = parts.next().is_some_and(|essence| {
        essence.eq_ignore_ascii_case("application/json")
            || octets && essence.eq_ignore_ascii_case("application/octet-stream")
    });
    // JSON is UTF-8 (RFC 8259 §8.1), so another charset contradicts the type.
    let is_utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, charset)) if name.trim().eq_ignore_ascii_case("charset") => {
            charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if known && is_utf8 { Ok(()) } else { Err(Refusal::NotCalledJson) }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn routes() {
        for (path, route) in [
            ("/healthz", Some(Route::Live)),
            ("/predict", Some(Route::Predict(None))),
            ("/models", Some(Route::Models)),
            ("/models/iris", Some(Route::Card("iris"))),
            ("/models/iris/predict", Some(Route::Predict(Some(("iris", None))))),
            ("/models/iris/versions/2/predict", Some(Route::Predict(Some(("iris", Some("2")))))),
            ("/models/iris/versions/2", None),
            ("/models/iris/versions/2/predict/", None),
            ("/models/iris/versions/2/predict/x", None),
            ("/v2", Some(Route::Server)),
            ("/v2/health/live", Some(Route::V2Live)),
            ("/v2/models/iris", Some(Route::Model(("iris", None)))),
            ("/v2/models/iris/versions/2", Some(Route::Model(("iris", Some("2"))))),
            ("/v2/models/iris/ready", Some(Route::ModelReady(("iris", None)))),
            ("/v2/models/iris/infer", Some(Route::Infer(("iris", None)))),
            ("/v2/models/iris/versions/2/infer", Some(Route::Infer(("iris", Some("2"))))),
            ("/v2/models/iris/versions/2/infer/x", None),
            ("/v2/models/iris/explain", None),
            ("/v2/models", None),
            ("/v2/", None),
            ("/v2/repository/index", Some(Route::Index)),
            ("/v2/repository/models/iris/load", Some(Route::Load)),
            ("/inference.GRPCInferenceService/ModelInfer", Some(Route::Call("ModelInfer"))),
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
            assert_eq!(check_media_type(&headers, false).is_ok(), accepted, "{value}");
        }
        assert!(check_media_type(&HeaderMap::new(), false).is_ok());
        let octets = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))]);
        assert!(check_media_type(&octets, true).is_ok() && check_media_type(&octets, false).is_err());
        let brotli = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("br"))]);
        assert_eq!(coding(&brotli), Err(Refusal::Encoded));
        assert_eq!(coding(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_is_said_twice_is_refused() {
        let length = hyper::header::HeaderName::from_static("inference-header-content-length");
        let mut headers = HeaderMap::from_iter([
            (CONTENT_ENCODING, HeaderValue::from_static("GZip")),
            (length.clone(), HeaderValue::from_static("5")),
        ]);
        assert_eq!((coding(&headers), json_length(&headers)), (Ok(Some("GZip")), Ok(Some(5))));
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(length, HeaderValue::from_static("5"));
        assert_eq!(coding(&headers), Err(Refusal::Encoded));
        assert!(json_length(&headers).is_err());
    }
}
