//! The admin listener: liveness, readiness, metrics. Never on the public one.
//!
//! Plain HTTP on loopback by default: it is for the machine's own supervisor and scraper. Shows no secret
//! and changes nothing.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

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

use crate::edge::counter::SharedStore;
use crate::edge::log::Log;
use crate::edge::metrics::Metrics;
use crate::edge::tls::Tls;
use crate::edge::upstream::Pool;
use crate::exchange::Snapshot;
use crate::settings::Section;

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
    /// The running policy.
    pub snapshot: Arc<Snapshot>,
    /// The windows' store.
    pub store: Arc<SharedStore>,
    /// Its own ways to the workers, for asking after them.
    pub pools: Vec<Pool>,
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
    text
}

async fn answer(admin: &Rc<Admin>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, media_type, body) = match request.uri().path() {
        _ if !read => (
            StatusCode::METHOD_NOT_ALLOWED,
            "application/json",
            json!({ "error": "only GET is taken here" }).to_string(),
        ),
        "/livez" => (StatusCode::OK, "application/json", json!({ "live": true }).to_string()),
        "/readyz" => {
            let (ready, body) = readiness(admin).await;
            (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, "application/json", body.to_string())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", metrics(admin)),
        _ => (
            StatusCode::NOT_FOUND,
            "application/json",
            json!({ "error": "there are /livez, /readyz and /metrics" }).to_string(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
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
    for pool in &admin.pools {
        note(format!("pool {}", pool.name()), pool.probe().await);
    }
    let issuers = admin.snapshot.policy.authenticator.issuers();
    for issuer in admin.snapshot.keys.missing(issuers) {
        // Only this issuer's tokens suffer; all other callers are served, so it is said and does not count.
        checks.insert(format!("issuer {issuer}"), "its keys could not be fetched so far".into());
    }
    (ready, json!({ "ready": ready, "checks": checks }))
}
