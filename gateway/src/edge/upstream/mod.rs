//! Forwarding: to one worker of a pool, over a kept connection, and the answer back.
//!
//! Source: RFC 9110 §7.6, RFC 9112 §6. Takes a [`Permit`] and an [`Admission`], so a request that skipped
//! a check can't be written down. What goes out is framed by us alone; what comes back loses everything
//! that is between the worker and us. Plain text goes to loopback and private addresses only, looked at
//! when the connection is made. Never sends a request twice unless no byte of it can have been read.

mod address;
mod headers;
mod incoming;
mod outgoing;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use headers::{Told, for_worker};
pub use incoming::WorkerBody;
pub use outgoing::{ClientFault, ClientStream, Outgoing, SLOWEST, Upload};

use crate::policy::authorize::Permit;
use crate::policy::limit::Admission;
use crate::settings::{ByteSize, Section};
use crate::types::Name;
use address::{Address, is_private};
use headers::clean_answer;
use incoming::Lease;

/// An answer of known length up to this is read whole before it is passed on, so that a worker that
/// breaks off in the middle becomes a clear 502.
const HELD_WHOLE: u64 = 64 << 10;

/// `[pools.NAME]`, compiled.
#[derive(Debug)]
pub struct PoolSettings {
    name: Name,
    workers: Vec<Address>,
    connect_timeout: Duration,
    answer_timeout: Duration,
    body_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
    max_connections: usize,
    max_head: usize,
    max_answer: u64,
    danger_plaintext: bool,
    ready_path: Box<str>,
}

impl PoolSettings {
    /// Reads every `[pools.NAME]`.
    #[must_use]
    pub fn compile_all(root: &Section<'_>) -> Vec<Self> {
        let sections = root.sections("pools");
        if !root.has("pools") {
            root.missing("pools", "define where workers are: [pools.NAME] with workers = [\"http://127.0.0.1:9001\"]");
        }
        sections.into_iter().map(|section| Self::compile(section)).collect()
    }

    fn compile(section: Section<'_>) -> Self {
        let mut workers = Vec::new();
        let danger_plaintext = section.or("danger_plaintext_to_public_addresses", false);
        for (index, text) in section.list::<String>("workers") {
            match Address::parse(&text) {
                Ok(Address::Tcp { host, .. })
                    if !danger_plaintext && host.parse::<IpAddr>().is_ok_and(|address| !is_private(address)) =>
                {
                    section.mistake_at(
                        "workers",
                        index,
                        format!("is {text:?}: plain text to a public address, where others can read and change it"),
                        "use a private address, or say that you know with danger_plaintext_to_public_addresses = true",
                    );
                }
                Ok(address) => workers.push(address),
                Err(reason) => section.mistake_at(
                    "workers",
                    index,
                    format!("is {text:?}, which {reason}"),
                    "write one such as \"http://127.0.0.1:9001\" or \"unix:/run/worker.sock\"",
                ),
            }
        }
        if workers.is_empty() {
            section.missing("workers", "list where they are: workers = [\"http://127.0.0.1:9001\"]");
        }
        let seconds = Duration::from_secs;
        let ready_path = section.or("ready_path", "/readyz".to_owned());
        if ready_path.parse::<http::uri::PathAndQuery>().is_err() || !ready_path.starts_with('/') {
            section.mistake(
                "ready_path",
                "is not a path",
                "write the path that says whether a worker is ready, such as \"/readyz\"",
            );
        }
        let settings = Self {
            name: section.name(),
            workers,
            // Longer than a second, after which a lost SYN is sent again (RFC 6298 §2.1).
            connect_timeout: section.or("connect_timeout", seconds(3)),
            answer_timeout: section.or("answer_timeout", seconds(10)),
            body_timeout: section.or("body_timeout", seconds(10)),
            idle_timeout: section.or("idle_timeout", seconds(30)),
            max_idle: section.or("max_idle", 64),
            max_connections: section.or("max_connections", 128),
            max_head: section.or("max_answer_head", ByteSize(32 << 10)).0,
            max_answer: section.or("max_answer", ByteSize(16 << 20)).0 as u64,
            danger_plaintext,
            ready_path: ready_path.into(),
        };
        if !(8 << 10..=1 << 20).contains(&settings.max_head) {
            section.mistake("max_answer_head", "is out of bounds", "write a size from \"8KiB\" to \"1MiB\"");
        }
        if settings.max_connections == 0 {
            section.mistake("max_connections", "is 0, so no request could pass", "write how many there may be at once");
        }
        section.finish();
        settings
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Why a worker gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No worker of the pool took a connection: 503.
    Unreachable(String),
    /// Its name leads to a public address, which plain text must not go to: 503.
    NotPrivate,
    /// It did not answer in time: 504.
    Slow,
    /// It closed the connection, or what it sent is not HTTP, or broke off: 502.
    Broken(String),
    /// Its answer is larger than the pool allows: 502.
    TooLarge,
    /// It answered 5xx, which is not passed on: 502.
    Failed(StatusCode),
    /// It says that it has too much to do: 503.
    Busy {
        /// Its `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// The client's body broke; nothing is wrong with the worker.
    Client(ClientFault),
}

type Sender = SendRequest<Outgoing>;

/// One worker and the idle connections to it, of one thread.
struct Worker {
    address: Address,
    label: Name,
    idle: RefCell<VecDeque<(Sender, Instant)>>,
    /// Room for requests at once; each has a connection of its own.
    places: Arc<Semaphore>,
}

/// One pool as one thread uses it.
pub struct Pool {
    settings: Rc<PoolSettings>,
    workers: Vec<Rc<Worker>>,
    next: Cell<usize>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// A worker's answer.
#[derive(Debug)]
pub struct Answer {
    /// Head and body; the head has lost what is not for the client.
    pub response: Response<WorkerBody>,
    /// The worker's address, for the log.
    pub worker: Name,
}

impl Pool {
    /// A thread's way to a pool.
    #[must_use]
    pub fn new(settings: &PoolSettings) -> Self {
        let workers = settings.workers.iter().map(|address| {
            Rc::new(Worker {
                label: address.to_string().into(),
                address: address.clone(),
                idle: RefCell::default(),
                places: Arc::new(Semaphore::new(settings.max_connections)),
            })
        });
        Self { workers: workers.collect(), settings: Rc::new(settings.copy()), next: Cell::new(0) }
    }

    /// Sends an allowed and admitted request, and brings the answer's head back. `connected` is called
    /// for each new connection.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn forward(
        &self,
        mut request: Request<Outgoing>,
        _permit: Permit,
        _admission: Admission,
        upload: &Upload,
        connected: impl Fn(),
    ) -> Result<Answer, Fault> {
        *request.version_mut() = Version::HTTP_11;
        // RFC 9110 §8.6: where content has a meaning, its absence is said too.
        if request.body().is_end_stream() && matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH) {
            request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        // hyper leaves out a body of GET and HEAD whose length is not known, unless its framing is asked for.
        if matches!(*request.method(), Method::GET | Method::HEAD) && request.body().size_hint().exact().is_none() {
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let exchange = self.in_time(upload, self.exchange(request, &connected)).await;
        // A client that broke its own body also breaks the connection to the worker; it is to blame.
        if let Some(fault) = upload.fault() {
            return Err(Fault::Client(fault));
        }
        let (response, lease) = exchange?;
        let label = Name::clone(lease.label());
        let (mut head, body) = response.into_parts();
        match head.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after =
                    head.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
                return Err(Fault::Busy { retry_after });
            }
            status if status.is_server_error() => return Err(Fault::Failed(status)),
            // A switch that nobody asked for leaves the connection in doubt.
            StatusCode::SWITCHING_PROTOCOLS => return Err(Fault::Broken("it switched protocols unasked".into())),
            _ => {}
        }
        if !clean_answer(&mut head.headers) {
            return Err(Fault::Broken("its Connection can't be read".into()));
        }
        let size = body.size_hint();
        if size.lower() > self.settings.max_answer {
            return Err(Fault::TooLarge);
        }
        let mut body = WorkerBody::new(body, self.settings.max_answer, self.settings.body_timeout, lease);
        if size.exact().is_some_and(|length| length <= HELD_WHOLE) {
            body = body.hold().await?;
        }
        Ok(Answer { response: Response::from_parts(head, body), worker: label })
    }

    /// Waits for an answer as long as the pool allows, counted from the end of the client's body: while that
    /// is on its way, the worker can't be blamed, and the body keeps bounds of its own.
    async fn in_time<T>(&self, upload: &Upload, exchange: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let mut exchange = std::pin::pin!(exchange);
        loop {
            match timeout(self.settings.answer_timeout, exchange.as_mut()).await {
                Ok(done) => return done,
                Err(_) if upload.is_on_its_way() => {}
                Err(_) => return Err(Fault::Slow),
            }
        }
    }

    /// Tries the workers in turn. A request moves on only while no byte of it was sent.
    async fn exchange(
        &self,
        mut request: Request<Outgoing>,
        connected: &impl Fn(),
    ) -> Result<(Response<Incoming>, Lease), Fault> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        let count = self.workers.len().max(1);
        let mut failure = Fault::Unreachable("the pool has no worker".into());
        for turn in 0..count {
            let Some(worker) = self.workers.get((first.wrapping_add(turn)) % count) else { break };
            let host = match &worker.address {
                Address::Tcp { authority, .. } => authority.clone(),
                Address::Unix { .. } => HeaderValue::from_static("localhost"),
            };
            request.headers_mut().insert(header::HOST, host);
            // A burst waits here a little rather than opening more connections than the worker would take.
            let place = timeout(self.settings.connect_timeout, Arc::clone(&worker.places).acquire_owned()).await;
            let Ok(Ok(place)) = place else {
                failure = Fault::Busy { retry_after: None };
                continue;
            };
            loop {
                let (mut sender, kept) = match worker.take(self.settings.idle_timeout) {
                    Some(sender) => (sender, true),
                    None => match self.connect(worker).await {
                        Ok(sender) => {
                            connected();
                            (sender, false)
                        }
                        Err(fault) => {
                            failure = fault;
                            break;
                        }
                    },
                };
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        let lease = Lease::new(Rc::clone(worker), sender, place, self.settings.max_idle);
                        return Ok((response, lease));
                    }
                    Err(mut error) => match error.take_message() {
                        // Not one byte was sent: a kept connection had ended, and a fresh one may work.
                        Some(unsent) => {
                            request = unsent;
                            if !kept {
                                failure = Fault::Broken(error.into_error().to_string());
                                break;
                            }
                        }
                        None => return Err(Fault::Broken(describe(&error.into_error()))),
                    },
                }
            }
        }
        Err(failure)
    }

    async fn connect(&self, worker: &Worker) -> Result<Sender, Fault> {
        let unreachable = |reason: String| Fault::Unreachable(format!("{}: {reason}", worker.label));
        let connecting = async {
            match &worker.address {
                Address::Unix { path } => {
                    let stream = UnixStream::connect(path).await.map_err(|error| unreachable(error.to_string()))?;
                    self.handshake(TokioIo::new(stream)).await
                }
                Address::Tcp { host, port, .. } => {
                    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
                        Ok(address) => vec![SocketAddr::new(address, *port)],
                        Err(_) => tokio::net::lookup_host((&**host, *port))
                            .await
                            .map_err(|error| unreachable(error.to_string()))?
                            .collect(),
                    };
                    let mut failure = unreachable("its name leads nowhere".into());
                    for address in addresses {
                        if !is_private(address.ip()) && !self.settings.danger_plaintext {
                            failure = Fault::NotPrivate;
                            continue;
                        }
                        match TcpStream::connect(address).await {
                            Ok(stream) => {
                                // Small messages both ways: waiting to fill a segment only adds delay.
                                let _ = stream.set_nodelay(true);
                                return self.handshake(TokioIo::new(stream)).await;
                            }
                            Err(error) => failure = unreachable(error.to_string()),
                        }
                    }
                    Err(failure)
                }
            }
        };
        match timeout(self.settings.connect_timeout, connecting).await {
            Ok(done) => done,
            Err(_) => Err(unreachable("no connection in time".into())),
        }
    }

    async fn handshake<S>(&self, stream: TokioIo<S>) -> Result<Sender, Fault>
    where
        TokioIo<S>: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let handshake = http1::Builder::new().max_header_size(self.settings.max_head).handshake(stream).await;
        let (sender, connection) = handshake.map_err(|error| Fault::Broken(error.to_string()))?;
        tokio::task::spawn_local(async move {
            // Its error reaches the request that was on it; there is nobody else to tell.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Closes what has been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        for worker in &self.workers {
            worker
                .idle
                .borrow_mut()
                .retain(|(sender, since)| !sender.is_closed() && since.elapsed() < self.settings.idle_timeout);
        }
    }

    /// Where readiness is asked for: each worker's address and path.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.settings.name
    }

    /// Asks whether one worker at least is ready.
    ///
    /// # Errors
    /// Why none is.
    pub async fn probe(&self) -> Result<(), String> {
        let mut failure = "the pool has no worker".to_owned();
        for worker in &self.workers {
            let ask = async {
                let mut sender = self.connect(worker).await.map_err(|fault| format!("{fault:?}"))?;
                let request =
                    Request::get(&*self.settings.ready_path).header(header::HOST, "localhost").body(Outgoing::Empty);
                let request = request.map_err(|error| error.to_string())?;
                let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
                if answer.status().is_success() {
                    Ok(())
                } else {
                    Err(format!("{} answered {}", worker.label, answer.status()))
                }
            };
            match timeout(self.settings.connect_timeout * 2, ask).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => failure = reason,
                Err(_) => failure = format!("{} did not answer in time", worker.label),
            }
        }
        Err(failure)
    }
}

impl PoolSettings {
    fn copy(&self) -> Self {
        Self {
            name: Name::clone(&self.name),
            workers: self.workers.clone(),
            ready_path: self.ready_path.clone(),
            ..*self
        }
    }
}

fn describe(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Worker {
    fn take(&self, idle_timeout: Duration) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        // From the end: the connection used last is the warmest, and the others can grow old.
        while let Some((sender, since)) = idle.pop_back() {
            if sender.is_ready() && since.elapsed() < idle_timeout {
                return Some(sender);
            }
        }
        None
    }
}
