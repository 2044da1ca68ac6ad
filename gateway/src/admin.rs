//! The admin listener: liveness, readiness, metrics, how workers are and who they are, what callers have used of
//! their limits. Never on the public one.
//!
//! Plain HTTP on loopback by default: it is for the machine's own supervisor, scraper and operator. Shows no secret.
//! What it shows of callers, and what it changes, it does for those alone who ask it by an address: a page in a
//! browser on the same machine that names it otherwise (DNS rebinding) gets nothing, and no page may send DELETE or
//! PUT, which is what changes anything here.

mod keys;
mod pools;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::edge::api_keys::ApiKeys;
use crate::edge::counter::SharedStore;
use crate::edge::log::Log;
use crate::edge::metrics::Metrics;
use crate::edge::tls::Tls;
use crate::edge::upstream::{self, Complaint};
use crate::reload::{Reloaded, Reloader};
use crate::settings::Section;
use crate::types::Timestamp;

/// How many admin connections there may be at once.
const MOST_CONNECTIONS: usize = 32;

/// `[admin]`, compiled.
#[derive(Clone, Copy, Debug)]
pub struct AdminSettings {
    address: SocketAddr,
}

impl AdminSettings {
    /// Reads `[admin]`.
    #[must_use]
    pub fn compile(section: Section<'_>) -> Self {
        let address = section.or("address", SocketAddr::from(([127, 0, 0, 1], 9443)));
        if !section.or("danger_public", false) && !address.ip().is_loopback() {
            section.mistake(
                "address",
                "is not a loopback address, and this listener asks for no credential",
                "use 127.0.0.1, or say that you know with danger_public = true",
            );
        }
        section.finish();
        Self { address }
    }

    /// Takes the port.
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn bind(&self) -> io::Result<StdListener> {
        let listener = StdListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What the listener tells about.
#[derive(Debug)]
pub struct Admin {
    /// The running policy, and how it is replaced.
    pub reloader: Rc<Reloader>,
    /// The windows' store.
    pub store: Arc<SharedStore>,
    /// API keys in Redis.
    pub api_keys: ApiKeys,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The certificates, for when they expire.
    pub tls: Arc<Tls>,
    /// The log, for what it had to drop.
    pub log: Log,
    /// Whether the gateway is stopping.
    pub stop: watch::Receiver<bool>,
}

/// Serves for ever. Needs a local runtime around it.
///
/// # Errors
/// If the listener can't be used.
pub async fn serve(admin: Admin, listener: StdListener) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let admin = Rc::new(admin);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admin = Rc::clone(&admin);
        tokio::task::spawn_local(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), service_fn(|request| answer(&admin, request)));
            // A scrape is short; whoever holds a connection longer gives its place up.
            let _ = tokio::time::timeout(Duration::from_mins(1), connection).await;
            drop(place);
        });
    }
}

fn metrics(admin: &Admin) -> String {
    let mut text = admin.metrics.render(admin.log.dropped(), &admin.tls.expiries());
    admin.store.render(&mut text);
    if admin.reloader.now().policy.authenticator.api_keys().in_redis().is_some() {
        admin.api_keys.render(&mut text);
    }
    upstream::render(&admin.reloader.now().pools, &mut text);
    admin.reloader.now().cards.render(&mut text);
    text
}

async fn answer(admin: &Rc<Admin>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    const JSON: &str = "application/json";
    let path = &request.uri().path().to_owned();
    let keys_path = path.strip_prefix("/keys").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let pools_path = path.strip_prefix("/pools").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let refused = |why: &str| json!({ "error": why }).to_string();
    let (status, media_type, body) = match path.as_str() {
        path if (keys_path.is_some() || pools_path.is_some() || matches!(path, "/limits" | "/reload"))
            && !is_asked_by_address(&request) =>
        {
            (StatusCode::FORBIDDEN, JSON, refused("ask by an address or localhost, not by another name"))
        }
        _ if keys_path.is_some() => {
            let (status, body) = keys::answer(admin, keys_path.unwrap_or_default(), request).await;
            (status, JSON, body.to_string())
        }
        _ if pools_path.is_some() => {
            let (status, body) = Box::pin(pools::answer(admin, pools_path.unwrap_or_default(), request)).await;
            (status, JSON, body.to_string())
        }
        "/limits" if is_read || request.method() == Method::DELETE => {
            let (status, body) = limits(admin, &request).await;
            (status, JSON, body.to_string())
        }
        "/reload" if request.method() == Method::PUT => {
            let all = Rc::clone(&admin.reloader);
            let reloaded = to_the_end(async move { all.reload("the admin listener was asked").await });
            let (status, body) = match reloaded.await {
                Reloaded::Replaced { generation, needs_restart, swapped } => {
                    let swapped: Vec<&str> = swapped.iter().map(|pool| &**pool).collect();
                    let answer =
                        json!({ "generation": generation, "needs_restart": needs_restart, "swapped": swapped });
                    (StatusCode::OK, answer)
                }
                Reloaded::Kept(mistakes) => (StatusCode::UNPROCESSABLE_ENTITY, json!({ "mistakes": mistakes })),
            };
            (status, JSON, body.to_string())
        }
        "/reload" => (StatusCode::METHOD_NOT_ALLOWED, JSON, refused("only PUT is taken here")),
        _ if !is_read => (StatusCode::METHOD_NOT_ALLOWED, JSON, refused("only GET is taken here")),
        "/livez" => (StatusCode::OK, JSON, json!({ "live": true }).to_string()),
        "/readyz" => {
            let (ready, body) = readiness(admin).await;
            (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, JSON, body.to_string())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics(admin)),
        _ => (
            StatusCode::NOT_FOUND,
            JSON,
            refused("there are /livez, /readyz, /metrics, /pools, /limits, /keys and /reload"),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allow = match path.as_str() {
            _ if keys_path.is_some() => keys::allow(keys_path.unwrap_or_default()),
            _ if pools_path.is_some() => pools::allow(pools_path.unwrap_or_default()),
            "/limits" => "GET, HEAD, DELETE",
            "/reload" => "PUT",
            _ => "GET, HEAD",
        };
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    Ok(response)
}

/// Does work that must not stop half-way where the asker goes away.
///
/// # Panics
/// If the work does.
async fn to_the_end<T: 'static>(work: impl Future<Output = T> + 'static) -> T {
    match tokio::task::spawn_local(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The wall clock.
fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Whether the request names this listener by an address, or as localhost.
fn is_asked_by_address<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_address = host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    is_address || host == "localhost" || host.strip_prefix("localhost:").is_some_and(|port| port.parse::<u16>().is_ok())
}

/// What a principal has used, or that it is forgotten.
async fn limits<B>(admin: &Admin, request: &Request<B>) -> (StatusCode, Value) {
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let principal = form_urlencoded::parse(query).find(|(name, _)| name == "principal").map(|(_, value)| value);
    let snapshot = admin.reloader.now();
    let limit = |name: &str| snapshot.policy.limits.iter().find(|limit| *limit.name == *name);
    let answer = if request.method() == Method::DELETE {
        let Some(principal) = principal else {
            return (StatusCode::BAD_REQUEST, json!({ "error": "name whose with ?principal=" }));
        };
        admin.log.security("limits-reset", &[("principal", &principal)]);
        admin.store.reset(&principal).await.map(|gone| json!({ "reset": gone }))
    } else {
        let shown = admin.store.show(principal.as_deref(), |name| limit(name).map(|limit| limit.rule)).await;
        shown.map(|mut windows| {
            for window in &mut windows {
                window.quota = limit(&window.limit).and_then(|limit| limit.quota_of(principal.as_deref()));
            }
            json!({ "windows": windows })
        })
    };
    match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": format!("the store can't be asked: {why}") })),
    }
}

/// Ready: not stopping, the store answers, and every pool has a worker that is ready.
async fn readiness(admin: &Admin) -> (bool, Value) {
    let mut checks = Map::new();
    let mut ready = true;
    let mut note = |name: String, outcome: Result<(), String>| {
        ready &= outcome.is_ok();
        checks.insert(name, outcome.map_or_else(Value::String, |()| Value::String("ready".into())));
    };
    let stopping = *admin.stop.borrow();
    note("gateway".into(), if stopping { Err("stopping".into()) } else { Ok(()) });
    note("store".into(), admin.store.probe().await);
    let snapshot = admin.reloader.now();
    for pool in &snapshot.pools {
        let found = match pool.known_readiness() {
            Some(known) => known,
            None => pool.probe().await,
        };
        note(format!("pool {}", pool.name()), found);
    }
    let complaints = snapshot.cards.complaints();
    for Complaint { guard, pool, why, .. } in complaints.iter().filter(|complaint| complaint.is_closed) {
        let why = if why.is_empty() { "no worker that is in has told it" } else { &**why };
        note(format!("guard {guard} of pool {pool}"), Err(format!("closed, because its card is not known: {why}")));
    }
    for Complaint { guard, pool, why, .. } in complaints.iter().filter(|complaint| !complaint.is_closed) {
        // It goes on by the last good card, so it is said and does not count.
        checks.insert(format!("guard {guard} of pool {pool}"), format!("goes by what was told before: {why}").into());
    }
    let issuers = snapshot.policy.authenticator.issuers();
    for issuer in snapshot.keys.missing(issuers) {
        // Only this issuer's tokens suffer; all other callers are served, so it is said and does not count.
        checks.insert(format!("issuer {issuer}"), "its keys could not be fetched".into());
    }
    (ready, json!({ "ready": ready, "checks": checks }))
}
