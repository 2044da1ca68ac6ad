//! One request: which route, what it holds, whether it may be predicted, and the answer. Knows no sockets.

pub mod grpc;
pub mod reply;
mod route;
pub mod rows;
pub mod score;
pub mod v2;
mod which;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::json;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use self::reply::{Body, Reply, inflate};
use self::route::{Named, Route, check_media_type, coding, json_length};
use self::score::Terms;
use self::which::{choose, summary};
use crate::body;
use crate::catalog::{Catalog, Served};
use crate::events::{Event, Events};
use crate::guard::Guard;
use crate::metrics::{self, Protocol, Totals};
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
    /// Most predictions being read or made at once.
    pub max_in_flight: u32,
    /// Whether values outside the training range are refused.
    pub strict_range: bool,
    /// Whether a request may have the directory looked through.
    pub repository_control: bool,
}

/// Everything that answers requests.
#[derive(Debug)]
pub struct Api {
    catalog: RwLock<Arc<Catalog>>,
    directory: PathBuf,
    reloading: tokio::sync::Mutex<()>,
    gate: Gate,
    limits: Limits,
    guard: Option<Guard>,
    totals: Totals,
    events: Arc<Events>,
    draining: AtomicBool,
}

/// What any kind of body can be read from.
pub trait Incoming: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> {}

impl<B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>> Incoming for B {}

/// A request id that is safe to write into a log: short, printable, no spaces.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    (id.len() <= 128 && id.bytes().all(|byte| byte.is_ascii_graphic())).then(|| id.to_owned())
}

fn named<'a>(catalog: &'a Catalog, (name, version): Named<'_>) -> Result<&'a Arc<Served>, Refusal> {
    catalog.find(name, version).ok_or(Refusal::NoSuchModel)
}

impl Api {
    /// An API that answers from `catalog`, loaded from `directory`; with a guard, only what the gateway vouches for.
    #[must_use]
    pub fn new(
        catalog: Catalog,
        directory: PathBuf,
        limits: Limits,
        guard: Option<Guard>,
        events: Arc<Events>,
    ) -> Self {
        Self {
            catalog: RwLock::new(Arc::new(catalog)),
            directory,
            reloading: tokio::sync::Mutex::default(),
            gate: Gate::new(limits.max_in_flight),
            limits,
            guard,
            totals: Totals::default(),
            events,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on, answers that this worker is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed)
    }

    /// The catalog as it is now; a request keeps the one it began with.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks through the directory and serves what has changed there. What cannot be used is told, and what was served
    /// in its place goes on.
    pub async fn reload(&self) {
        let _alone = self.reloading.lock().await;
        let (before, directory) = (self.snapshot(), self.directory.clone());
        let Some(after) = self.seen(spawn_blocking(move || before.changed(&directory)).await) else {
            return;
        };
        let before =
            std::mem::replace(&mut *self.catalog.write().unwrap_or_else(PoisonError::into_inner), Arc::new(after));
        let after = self.snapshot();
        for served in after.all().filter(|served| !before.all().any(|other| Arc::ptr_eq(served, other))) {
            self.events.emit(&Event::Serving { model: &served.name, version: &served.version });
        }
        for served in before.all().filter(|served| after.find(&served.name, Some(&served.version)).is_none()) {
            self.events.emit(&Event::Removed { model: &served.name, version: &served.version });
        }
        let new = after.refused().iter().filter(|refused| !before.refused().contains(refused));
        let refused =
            new.inspect(|refused| self.events.emit(&Event::ModelRefused { file: &refused.file, why: &refused.why }));
        self.totals.reloaded(refused.count());
    }

    /// What a look through the directory found. After one that broke off all goes on as it is, and the next tries again.
    fn seen(&self, look: Result<Option<Catalog>, JoinError>) -> Option<Catalog> {
        look.unwrap_or_else(|error| {
            self.events.emit(&Event::ReloadFailed { cause: error.to_string() });
            None
        })
    }

    /// Answers one request. Never fails: what cannot be answered is refused.
    pub async fn answer<B: Incoming>(&self, request: Request<B>) -> Reply {
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path());
        let answer = match route {
            None => Err(Refusal::NoSuchPath),
            Some(route) => match route.check_method(&head.method).and_then(|()| self.vouched(route, &head.headers)) {
                Err(refusal) => Err(refusal),
                Ok(()) => self.follow(route, &head.headers, body).await,
            },
        };
        answer.unwrap_or_else(|refusal| {
            self.totals.refused(refusal.status().as_u16());
            self.events.emit(&Event::Refused {
                request_id: request_id(&head.headers).as_deref(),
                route: route.map_or("none", Route::pattern),
                status: refusal.status().as_u16(),
                reason: refusal.slug(),
            });
            if grpc::wire::is_call(&head.headers) {
                grpc::wire::refuse(&refusal)
            } else if head.uri.path().starts_with("/v2") {
                refusal.v2_response().map(Body::from)
            } else {
                refusal.response().map(Body::from)
            }
        })
    }

    fn vouched(&self, route: Route<'_>, headers: &HeaderMap) -> Result<(), Refusal> {
        match &self.guard {
            Some(guard) if !route.is_open() => guard.check(headers, SystemTime::now()),
            _ => Ok(()),
        }
    }

    async fn follow<B: Incoming>(&self, route: Route<'_>, headers: &HeaderMap, body: B) -> Result<Reply, Refusal> {
        let catalog = self.snapshot();
        let ok = |value: &serde_json::Value| Ok(reply::json(StatusCode::OK, value));
        let status = if self.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        match route {
            Route::Live | Route::V2Live => ok(&json!({"live": true})),
            Route::Ready | Route::V2Ready => Ok(reply::json(status, &json!({"live": true, "ready": self.is_ready()}))),
            Route::Metrics => {
                let all: Vec<_> = catalog
                    .all()
                    .map(|of| (of.name.as_str(), of.version.as_str(), of.model.card(), &of.counts))
                    .collect();
                let text = metrics::render(&all, &self.totals, self.is_ready());
                Ok(reply::typed(StatusCode::OK, "text/plain; version=0.0.4", text.into_bytes()))
            }
            Route::Models => {
                let models: Vec<_> = catalog.current().map(|served| summary(&catalog, served)).collect();
                ok(&json!({"models": models}))
            }
            Route::Card(name) => {
                let served = named(&catalog, (name, None))?;
                Ok(reply::json(StatusCode::OK, &summary(&catalog, served).with_card()))
            }
            Route::Predict(model) => self.predict(&catalog, model, headers, body).await,
            Route::Server => ok(&v2::metadata::server()),
            Route::Model(model) => ok(&v2::metadata::model(&catalog, named(&catalog, model)?)),
            Route::ModelReady(model) => {
                let served = named(&catalog, model)?;
                Ok(reply::json(status, &json!({"name": served.name, "ready": self.is_ready()})))
            }
            Route::Config(model) => ok(&v2::metadata::config(named(&catalog, model)?)),
            Route::Stats(model) => ok(&v2::metadata::stats(named(&catalog, model)?)),
            Route::Infer(model) => self.infer(named(&catalog, model)?, headers, body).await,
            Route::Index => ok(&v2::metadata::index(&catalog)),
            Route::Load if self.limits.repository_control => {
                self.reload().await;
                ok(&json!({}))
            }
            Route::Load => Err(Refusal::NotOffered("`repository_control` is off; the directory is watched anyway")),
            Route::Unload => Err(Refusal::NotOffered("A model goes away when its file is removed from the directory")),
            Route::Call(call) => self.call(&catalog, call, headers, body).await,
        }
    }

    /// `POST /predict` and its kin.
    async fn predict<B: Incoming>(
        &self,
        catalog: &Catalog,
        model: Option<Named<'_>>,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Reply, Refusal> {
        let meant = model.map(|model| named(catalog, model)).transpose()?;
        let _place = self.gate.enter().ok_or(Refusal::Busy)?;
        check_media_type(headers, false)?;
        let terms = self.terms(route::patience(headers), Protocol::Predict);
        let bytes = self.read(headers, body).await?;
        let terms = terms.from_now();
        let json = body::parse(&bytes).map_err(Refusal::Malformed)?;
        let served = meant.map_or_else(|| choose(catalog, &json), Ok)?;
        Ok(reply::typed(StatusCode::OK, "application/json", rows::predict(served, &json, terms).await?))
    }

    /// `POST /v2/models/M/infer`
    async fn infer<B: Incoming>(&self, served: &Served, headers: &HeaderMap, body: B) -> Result<Reply, Refusal> {
        let _place = self.gate.enter().ok_or(Refusal::Busy)?;
        check_media_type(headers, true)?;
        let json = json_length(headers)?;
        let terms = self.terms(route::patience(headers), Protocol::Rest);
        let bytes = self.read(headers, body).await?;
        let (answer, json) = v2::infer(served, &bytes, json, terms.from_now()).await?;
        let Some(json) = json else {
            return Ok(reply::typed(StatusCode::OK, "application/json", answer));
        };
        let mut reply = reply::typed(StatusCode::OK, "application/octet-stream", answer);
        reply.headers_mut().insert("inference-header-content-length", HeaderValue::from(json));
        Ok(reply)
    }

    /// One call of the gRPC service.
    async fn call<B: Incoming>(
        &self,
        catalog: &Catalog,
        call: &str,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Reply, Refusal> {
        use grpc::message::{Empty, InferRequest, ModelRequest, Yes};
        use grpc::wire::{decode, encode, unframe};
        if !grpc::wire::is_call(headers) {
            return Err(Refusal::NotCalledJson);
        }
        let limit = self.limits.max_body;
        // Other calls carry next to nothing, and are answered when all places for predictions are taken.
        let (_place, most) = match call {
            "ModelInfer" => (Some(self.gate.enter().ok_or(Refusal::Busy)?), limit),
            _ => (None, limit.min(grpc::wire::MOST_ASKED)),
        };
        let terms = self.terms(grpc::wire::patience(headers), Protocol::Grpc);
        let bytes = self.collect(body, most).await?;
        let terms = terms.from_now();
        let message = || unframe(headers, &bytes, most);
        let find = || {
            let ModelRequest { name, version } = decode(message()?)?;
            named(catalog, (&name, Some(version.as_str()).filter(|version| !version.is_empty())))
        };
        match call {
            "ServerLive" => message().and_then(decode::<Empty>).map(|_| encode(&Yes { yes: true })),
            "ServerReady" => message().and_then(decode::<Empty>).map(|_| encode(&Yes { yes: self.is_ready() })),
            "ModelReady" => match find().map(|_| self.is_ready()) {
                Err(Refusal::NoSuchModel) => Ok(encode(&Yes { yes: false })),
                found => found.map(|yes| encode(&Yes { yes })),
            },
            "ServerMetadata" => Ok(encode(&grpc::server())),
            "ModelMetadata" => find().map(|served| encode(&grpc::model(catalog, served))),
            "RepositoryIndex" => Ok(encode(&grpc::index(catalog))),
            "ModelInfer" => {
                let message = message()?;
                grpc::size::check(&message, self.limits.max_rows, catalog.widest())?;
                let request: InferRequest = decode(message)?;
                let version = Some(request.model_version.as_str()).filter(|version| !version.is_empty());
                let served = named(catalog, (&request.model_name, version))?;
                Ok(encode(&grpc::infer(served, &request, terms).await?))
            }
            _ => Err(Refusal::NoSuchPath),
        }
    }

    fn terms(&self, patience: Option<Duration>, protocol: Protocol) -> Terms {
        let Limits { max_rows, strict_range, .. } = self.limits;
        let begun = Instant::now();
        let deadline = patience.and_then(|patience| begun.checked_add(patience));
        Terms { max_rows, strict: strict_range, deadline, begun, protocol }
    }

    /// The whole body, as it was before it was compressed.
    async fn read<B: Incoming>(&self, headers: &HeaderMap, body: B) -> Result<Bytes, Refusal> {
        let coding = coding(headers)?;
        let bytes = self.collect(body, self.limits.max_body).await?;
        coding.map_or(Ok(bytes.clone()), |coding| inflate(coding, &bytes, self.limits.max_body))
    }

    /// The whole body, counted as it arrives.
    async fn collect<B: Incoming>(&self, body: B, limit: usize) -> Result<Bytes, Refusal> {
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

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::Method;

    use super::*;

    fn api(max_in_flight: u32) -> Api {
        telling(max_in_flight, Box::new(std::io::sink()))
    }

    fn telling(max_in_flight: u32, sink: Box<dyn std::io::Write + Send>) -> Api {
        let limits = Limits {
            max_body: 64,
            max_rows: 2,
            body: Duration::from_secs(10),
            max_in_flight,
            strict_range: false,
            repository_control: false,
        };
        let events = Arc::new(Events::new(sink));
        Api::new(Catalog::built_in().expect("loads"), PathBuf::new(), limits, None, events)
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
    async fn a_look_that_broke_off_is_told() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let api = telling(1, Box::new(writer));
        let broken = spawn_blocking(|| std::panic::resume_unwind(Box::new("broken"))).await;
        assert!(api.seen(broken).is_none());
        drop(api);
        let told = std::io::read_to_string(reader).expect("a line");
        assert!(told.starts_with("{\"event\":\"reload-failed\",\"cause\":\""), "{told}");
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
