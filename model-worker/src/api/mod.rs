//! One request: which route, what it holds, whether it may be predicted, and the answer. Knows no sockets, and never
//! asks who the caller is.

mod route;
pub mod rows;
pub mod score;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;

use self::route::{Route, check_media_type};
use self::score::Terms;
use crate::body::{self, Json};
use crate::catalog::{Catalog, Served};
use crate::events::{Event, Events};
use crate::metrics::Protocol;
use crate::model::card::{Card, FeatureType};
use crate::problem::Refusal;
use crate::queue::Gate;

/// What bounds one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest body, in bytes.
    pub max_body: usize,
    /// Most rows.
    pub max_rows: u32,
    /// Longest wait for the whole body.
    pub body: Duration,
    /// Whether values outside the training range are refused.
    pub strict_range: bool,
}

/// Everything that answers requests.
#[derive(Debug)]
pub struct Api {
    catalog: RwLock<Arc<Catalog>>,
    gate: Gate,
    limits: Limits,
    events: Arc<Events>,
    draining: AtomicBool,
}

/// A request id that is safe to write into a log: short, printable, no spaces.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    (id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic())).then(|| id.to_owned())
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    json_bytes(status, serde_json::to_vec(body).unwrap_or_default())
}

fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl Api {
    /// An API that answers from `catalog`, with at most `max_in_flight` predictions being read or made.
    #[must_use]
    pub fn new(catalog: Catalog, max_in_flight: u32, limits: Limits, events: Arc<Events>) -> Self {
        let catalog = RwLock::new(Arc::new(catalog));
        Self { catalog, gate: Gate::new(max_in_flight), limits, events, draining: AtomicBool::new(false) }
    }

    /// From now on, answers that this worker is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The catalog as it is now; a request keeps the one it began with.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers one request. Never fails: what cannot be answered is refused.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path());
        let answer = match route {
            None => Err(Refusal::NoSuchPath),
            Some(route) => match route.check_method(&head.method) {
                Err(refusal) => Err(refusal),
                Ok(()) => self.follow(route, &head.headers, body).await,
            },
        };
        answer.unwrap_or_else(|refusal| {
            let response = refusal.response();
            self.events.emit(&Event::Refused {
                request_id: request_id(&head.headers).as_deref(),
                route: route.map_or("none", Route::pattern),
                status: response.status().as_u16(),
                reason: refusal.slug(),
            });
            response
        })
    }

    async fn follow<B>(&self, route: Route<'_>, headers: &HeaderMap, body: B) -> Result<Response<Full<Bytes>>, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let catalog = self.snapshot();
        match route {
            Route::Live => Ok(json_response(StatusCode::OK, &json!({"live": true}))),
            Route::Ready => {
                let ready = !self.draining.load(Ordering::Relaxed);
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Ok(json_response(status, &json!({"live": true, "ready": ready})))
            }
            Route::Models => {
                let models: Vec<_> = catalog.current().map(|served| summary(&catalog, served)).collect();
                Ok(json_response(StatusCode::OK, &json!({"models": models})))
            }
            Route::Card(name) => {
                let served = catalog.find(name, None).ok_or(Refusal::NoSuchModel)?;
                let summary = Summary { card: Some(served.model.card()), ..summary(&catalog, served) };
                Ok(json_response(StatusCode::OK, &summary))
            }
            Route::Predict(name, version) => {
                let named = match name {
                    Some(name) => Some(catalog.find(name, version).ok_or(Refusal::NoSuchModel)?),
                    None => None,
                };
                let _place = self.gate.enter().ok_or(Refusal::Busy)?;
                check_media_type(headers)?;
                let bytes = self.read(body).await?;
                let json = body::parse(&bytes).map_err(Refusal::Malformed)?;
                let served = match named {
                    Some(served) => served,
                    None => choose(&catalog, &json)?,
                };
                let terms = self.terms(headers, Protocol::Predict);
                Ok(json_bytes(StatusCode::OK, rows::predict(served, &json, terms).await?))
            }
        }
    }

    fn terms(&self, headers: &HeaderMap, protocol: Protocol) -> Terms {
        let Limits { max_rows, strict_range, .. } = self.limits;
        let begun = Instant::now();
        let deadline = route::patience(headers).and_then(|patience| begun.checked_add(patience));
        Terms { max_rows, strict: strict_range, deadline, begun, protocol }
    }

    /// The whole body, counted as it arrives.
    async fn read<B>(&self, body: B) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = self.limits.max_body;
        // What the caller announces is refused before it is sent.
        if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
            return Err(Refusal::BodyTooLarge(limit));
        }
        match timeout(self.limits.body, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::BodyTooLarge(limit)),
            Ok(Err(_)) => Err(Refusal::BodyBroken),
            Err(_) => Err(Refusal::BodyTooSlow),
        }
    }
}

/// A model as it is listed, and with its card where one model was asked for.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    name: &'a str,
    version: &'a str,
    versions: Vec<&'a str>,
    description: &'a str,
    features: Vec<&'a str>,
    classes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<&'a Card>,
}

fn summary<'a>(catalog: &'a Catalog, served: &'a Served) -> Summary<'a> {
    let card = served.model.card();
    Summary {
        name: &served.name,
        version: &served.version,
        versions: catalog.versions(&served.name).collect(),
        description: &card.description,
        features: card.features.iter().map(|feature| feature.name.as_str()).collect(),
        classes: &card.classes,
        card: None,
    }
}

/// The model whose features are the members of the first row. A row that shares members with one model only is meant
/// for it, so that the answer can say which member is wrong.
fn choose<'a>(catalog: &'a Catalog, json: &Json<'_>) -> Result<&'a Arc<Served>, Refusal> {
    let members: HashSet<&str> = match rows::first(json) {
        Some(Json::Object(members)) => members.iter().map(|(name, _)| name.as_ref()).collect(),
        _ => HashSet::new(),
    };
    // Values by place say less: the one model of numbers that takes so many.
    if let Some(Json::Array(items)) = rows::first(json) {
        let fits = |served: &&Arc<Served>| {
            let features = &served.model.card().features;
            features.len() == items.len() && features.iter().all(|feature| feature.kind == FeatureType::Number)
        };
        let fitting: Vec<_> = catalog.current().filter(fits).collect();
        if let [only] = fitting.as_slice() {
            return Ok(*only);
        }
    }
    let shared = |served: &&Arc<Served>| {
        served.model.card().features.iter().filter(|feature| members.contains(feature.name.as_str())).count()
    };
    let exact: Vec<_> = catalog
        .current()
        .filter(|served| served.model.card().features.len() == members.len() && shared(served) == members.len())
        .collect();
    let near: Vec<_> = catalog.current().filter(|served| shared(served) > 0).collect();
    match (exact.as_slice(), near.as_slice()) {
        ([only], _) | ([], [only]) => Ok(*only),
        _ => Err(Refusal::WhichModel(takes(catalog))),
    }
}

/// Which models take which members, in words.
fn takes(catalog: &Catalog) -> String {
    let models: Vec<String> = catalog
        .current()
        .map(|served| {
            let features = &served.model.card().features;
            let mut names: Vec<&str> = features.iter().take(10).map(|feature| feature.name.as_str()).collect();
            if features.len() > names.len() {
                names.push("and others");
            }
            format!("{} takes {}", served.name, names.join(", "))
        })
        .collect();
    format!("Send one row or an array of rows: {}. Or name the model: /models/{{name}}/predict.", models.join("; "))
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    fn api(max_in_flight: u32) -> Api {
        let limits = Limits { max_body: 64, max_rows: 2, body: Duration::from_secs(10), strict_range: false };
        let events = Arc::new(Events::new(Box::new(std::io::sink())));
        Api::new(Catalog::built_in().expect("loads"), max_in_flight, limits, events)
    }

    async fn status(api: &Api, method: Method, path: &str, body: &'static str) -> u16 {
        let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("path");
        api.answer(request).await.status().as_u16()
    }

    #[tokio::test]
    async fn readiness_ends_with_the_drain_and_liveness_does_not() {
        let api = api(1);
        assert_eq!(status(&api, Method::GET, "/readyz", "").await, 200);
        api.drain();
        assert_eq!(status(&api, Method::GET, "/readyz", "").await, 503);
        assert_eq!(status(&api, Method::GET, "/healthz", "").await, 200);
        assert_eq!(status(&api, Method::POST, "/predict", r#"{"text":"good"}"#).await, 200);
    }

    #[tokio::test]
    async fn no_place_is_503_for_predictions_only() {
        let api = api(0);
        assert_eq!(status(&api, Method::POST, "/predict", r#"{"text":"good"}"#).await, 503);
        assert_eq!(status(&api, Method::GET, "/healthz", "").await, 200);
    }

    #[tokio::test]
    async fn limits_hold() {
        let api = api(1);
        assert_eq!(status(&api, Method::POST, "/predict", r#"[{"text":"a"},{"text":"b"}]"#).await, 200);
        assert_eq!(status(&api, Method::POST, "/predict", r#"[{"text":"a"},{"text":"b"},{"text":"c"}]"#).await, 413);
        let long = r#"{"text":"0123456789012345678901234567890123456789012345678901234567890123456789"}"#;
        assert_eq!(status(&api, Method::POST, "/predict", long).await, 413);
    }
}
