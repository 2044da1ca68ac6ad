//! The admin listener: liveness, readiness, metrics, how workers are and who they are, what callers have used of
//! their limits. Never on the public one.
//!
//! Plain HTTP, on loopback and on a socket by default: it is for the machine's own supervisor, scraper and operator.
//! Shows no secret. Over TCP it only tells how the gateway is. What it shows of callers, and what it changes, is for
//! those who come through the socket or show a secret ([`access`]). How workers are it tells those alone who ask by
//! an address: a page in a browser on the same machine that names it otherwise (DNS rebinding) gets nothing.

mod access;
mod keys;
mod pools;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::PathBuf;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
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

pub use access::SocketPlace;
use access::{Access, NOT_BY_NAME, Way};

/// How many admin connections there may be at once, over TCP and over the socket each.
const MOST_CONNECTIONS: usize = 32;

/// `[admin]`, compiled.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    address: SocketAddr,
    socket: SocketPlace,
    access: Access,
}

impl AdminSettings {
    /// Reads `[admin]`.
    #[must_use]
    pub fn compile(section: Section<'_>) -> Self {
        let address = section.or("address", SocketAddr::from(([127, 0, 0, 1], 9443)));
        if !section.or("danger_public", false) && !address.ip().is_loopback() {
            section.mistake(
                "address",
                "is not a loopback address, and what this listener tells is not for everybody",
                "use 127.0.0.1, or say that you know with danger_public = true",
            );
        }
        let (socket, access) = (SocketPlace::compile(&section), Access::compile(&section));
        section.finish();
        Self { address, socket, access }
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

    /// Where its socket is to be.
    #[must_use]
    pub fn socket(&self) -> &SocketPlace {
        &self.socket
    }

    /// Takes what it listens on.
    #[must_use]
    pub fn listen(&self, tcp: StdListener, socket: Option<(PathBuf, StdUnixListener)>) -> Listening {
        let (path, socket) = socket.unzip();
        Listening { tcp, socket, access: self.access.at(path) }
    }
}

/// Where operators are answered, and who of them may do what.
#[derive(Debug)]
pub struct Listening {
    tcp: StdListener,
    socket: Option<StdUnixListener>,
    access: Access,
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
/// If a listener can't be used.
pub async fn serve(admin: Admin, listening: Listening) -> io::Result<()> {
    let tcp = TcpListener::from_std(listening.tcp.try_clone()?)?;
    let asked = Rc::new(Asked { admin, listening });
    if let Some(socket) = &asked.listening.socket {
        let socket = UnixListener::from_std(socket.try_clone()?)?;
        let asked = Rc::clone(&asked);
        let us = UnixStream::pair()?.0.peer_cred()?.uid();
        tokio::task::spawn_local(async move {
            let accept = async || {
                let (stream, _) = socket.accept().await?;
                // Whatever may have become of its file: nobody else's programs.
                let who = stream.peer_cred()?.uid();
                if who == us || who == 0 { Ok(stream) } else { Err(io::ErrorKind::PermissionDenied.into()) }
            };
            accept_all(&asked, Way::Socket, accept).await;
        });
    }
    let accept = async || tcp.accept().await.map(|(stream, _)| stream);
    accept_all(&asked, Way::Tcp, accept).await;
    Ok(())
}

/// What answers, and whom.
struct Asked {
    admin: Admin,
    listening: Listening,
}

async fn accept_all<S>(asked: &Rc<Asked>, way: Way, accept: impl AsyncFn() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let asked = Rc::clone(asked);
        tokio::task::spawn_local(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_headers(64)
                .serve_connection(TokioIo::new(stream), service_fn(|request| answer(&asked, way, request)));
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

async fn answer(asked: &Asked, way: Way, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    const JSON: &str = "application/json";
    let admin = &asked.admin;
    let path = &request.uri().path().to_owned();
    let keys_path = path.strip_prefix("/keys").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let pools_path = path.strip_prefix("/pools").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let refused = |why: &str| json!({ "error": why }).to_string();
    let by_address = is_asked_by_address(&request);
    let barred = if keys_path.is_some() || matches!(path.as_str(), "/limits" | "/reload") || !is_read {
        asked.listening.access.decide(way, request.headers(), by_address).err()
    } else if pools_path.is_some() && way == Way::Tcp && !by_address {
        Some((StatusCode::FORBIDDEN, NOT_BY_NAME.to_owned()))
    } else {
        None
    };
    let (status, media_type, body) = match path.as_str() {
        _ if barred.is_some() => {
            let (status, why) = barred.unwrap_or_default();
            (status, JSON, refused(&why))
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
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
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
