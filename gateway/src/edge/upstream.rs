//! Forwarding: to one worker of a pool, over a kept connection, and the answer back.
//!
//! Source: RFC 9110 §7.6, RFC 9112 §6. Takes a [`Permit`] and an [`Admission`], so a request that skipped
//! a check can't be written down. What goes out is framed by us alone; what comes back loses everything
//! that is between the worker and us. Plain text goes to loopback and private addresses only, looked at
//! when the connection is made. Never sends a request twice unless no byte of it can have been read.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::policy::authorize::Permit;
use crate::policy::limit::Admission;
use crate::settings::{ByteSize, Section};
use crate::types::Name;

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
    max_head: usize,
    max_answer: u64,
    danger_plaintext: bool,
    ready_path: Box<str>,
}

/// Where a worker listens.
#[derive(Clone, Debug)]
enum Address {
    Tcp { host: Box<str>, port: u16, authority: HeaderValue },
    Unix { path: Box<Path> },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix { path: Path::new(path).into() })
            } else {
                Err("has a socket path that is not absolute".into())
            };
        }
        let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
        match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
            (Some("https"), ..) => Err("asks for TLS, which this version does not speak to workers".into()),
            (Some("http"), Some(authority), "" | "/", None) if !authority.as_str().contains('@') => Ok(Self::Tcp {
                host: authority.host().trim_matches(['[', ']']).into(),
                port: authority.port_u16().unwrap_or(80),
                authority: HeaderValue::from_str(authority.as_str()).map_err(|_| "has no usable host".to_owned())?,
            }),
            _ => Err("is not the URL of a worker".into()),
        }
    }
}

/// Whether an address is on a network that only we and our neighbours see (RFC 1918, RFC 4193).
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
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
            connect_timeout: section.or("connect_timeout", seconds(1)),
            answer_timeout: section.or("answer_timeout", seconds(10)),
            body_timeout: section.or("body_timeout", seconds(10)),
            idle_timeout: section.or("idle_timeout", seconds(30)),
            max_idle: section.or("max_idle", 64),
            max_head: section.or("max_answer_head", ByteSize(32 << 10)).0,
            max_answer: section.or("max_answer", ByteSize(16 << 20)).0 as u64,
            danger_plaintext,
            ready_path: ready_path.into(),
        };
        if !(8 << 10..=1 << 20).contains(&settings.max_head) {
            section.mistake("max_answer_head", "is out of bounds", "write a size from \"8KiB\" to \"1MiB\"");
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

/// What goes to a worker as a body.
pub enum Outgoing {
    /// Nothing.
    Empty,
    /// A body that was judged whole.
    Whole(Option<Bytes>),
    /// A body that is passed on as it comes, counted.
    Stream(ClientStream),
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing")
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = ClientFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(_)) => false,
            Self::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.inner.size_hint(),
        }
    }
}

/// What a client did wrong while its body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// More bytes than the route takes.
    TooLarge,
    /// None came for too long.
    Slow,
    /// Broken framing.
    Malformed,
    /// The connection ended inside it.
    Gone,
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the body is too large",
            Self::Slow => "the body came too slowly",
            Self::Malformed => "the body's framing is broken",
            Self::Gone => "the client left",
        })
    }
}

impl std::error::Error for ClientFault {}

impl ClientFault {
    /// What an error while reading a client's body means.
    #[must_use]
    pub fn of(error: &hyper::Error) -> Self {
        let kind = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .map(std::io::Error::kind);
        match kind {
            Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => Self::Malformed,
            _ if error.is_parse() => Self::Malformed,
            _ => Self::Gone,
        }
    }
}

/// How a client's body fares, for whoever waits for the worker's answer meanwhile.
#[derive(Debug, Default)]
pub struct Upload {
    fault: Cell<Option<ClientFault>>,
    open: Cell<bool>,
}

/// The slowest that a body may come as a whole, in bytes per second, beside the bound on each pause.
pub const SLOWEST: u64 = 1 << 10;

/// A client's body on its way, bounded in size, in the time between its parts and in time as a whole.
/// Trailers are dropped.
pub struct ClientStream {
    inner: Incoming,
    left: u64,
    idle: Duration,
    timer: Pin<Box<tokio::time::Sleep>>,
    last: tokio::time::Instant,
    upload: Rc<Upload>,
    read: Rc<Cell<u64>>,
}

impl ClientStream {
    /// A stream of at most `max` bytes. `upload` is told how it fares, `read` counts bytes.
    #[must_use]
    pub fn new(inner: Incoming, max: usize, idle: Duration, upload: Rc<Upload>, read: Rc<Cell<u64>>) -> Self {
        let now = tokio::time::Instant::now();
        upload.open.set(true);
        let last = now + idle + Duration::from_secs(max as u64 / SLOWEST);
        Self {
            inner,
            left: max as u64,
            idle,
            timer: Box::pin(tokio::time::sleep_until(now + idle)),
            last,
            upload,
            read,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        let fault = loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let length = data.len() as u64;
                    self.read.set(self.read.get() + length);
                    let Some(left) = self.left.checked_sub(length) else { break ClientFault::TooLarge };
                    self.left = left;
                    let next = tokio::time::Instant::now() + self.idle;
                    self.timer.as_mut().reset(next.min(self.last));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => break ClientFault::of(&error),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => match self.timer.as_mut().poll(cx) {
                    Poll::Ready(()) => break ClientFault::Slow,
                    Poll::Pending => return Poll::Pending,
                },
            }
        };
        self.upload.fault.set(Some(fault));
        Poll::Ready(Some(Err(fault)))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.upload.open.set(false);
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
            Rc::new(Worker { label: address.to_string().into(), address: address.clone(), idle: RefCell::default() })
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
        let exchange = self.in_time(upload, self.exchange(request, &connected)).await;
        // A client that broke its own body also breaks the connection to the worker; it is to blame.
        if let Some(fault) = upload.fault.get() {
            return Err(Fault::Client(fault));
        }
        let (response, worker, sender) = exchange?;
        let label = Name::clone(&worker.label);
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
        clean_answer(&mut head.headers);
        let size = body.size_hint();
        if size.lower() > self.settings.max_answer {
            return Err(Fault::TooLarge);
        }
        let lease = Lease { worker, sender: Some(sender), max_idle: self.settings.max_idle };
        let mut body = WorkerBody::Stream(Box::new(WorkerStream {
            inner: body,
            left: self.settings.max_answer,
            idle: self.settings.body_timeout,
            timer: None,
            lease,
        }));
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
            let uploading = upload.open.get();
            match timeout(self.settings.answer_timeout, exchange.as_mut()).await {
                Ok(done) => return done,
                Err(_) if uploading => {}
                Err(_) => return Err(Fault::Slow),
            }
        }
    }

    /// Tries the workers in turn. A request moves on only while no byte of it was sent.
    async fn exchange(
        &self,
        mut request: Request<Outgoing>,
        connected: &impl Fn(),
    ) -> Result<(Response<Incoming>, Rc<Worker>, Sender), Fault> {
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
                    Ok(response) => return Ok((response, Rc::clone(worker), sender)),
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

/// A connection lent to one exchange. It goes back only when the whole answer was read.
struct Lease {
    worker: Rc<Worker>,
    sender: Option<Sender>,
    max_idle: usize,
}

impl Lease {
    fn give_back(&mut self) {
        let Some(mut sender) = self.sender.take() else { return };
        let (worker, max_idle) = (Rc::clone(&self.worker), self.max_idle);
        tokio::task::spawn_local(async move {
            // Ready only once the connection has seen the end of both messages.
            if sender.ready().await.is_ok() {
                let mut idle = worker.idle.borrow_mut();
                if idle.len() >= max_idle {
                    idle.pop_front();
                }
                idle.push_back((sender, Instant::now()));
            }
        });
    }
}

/// A worker's answer on its way to the client.
pub enum WorkerBody {
    /// Read to its end already.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(Box<WorkerStream>),
}

impl fmt::Debug for WorkerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerBody")
    }
}

/// The part of an answer that is still at the worker.
pub struct WorkerStream {
    inner: Incoming,
    left: u64,
    idle: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    lease: Lease,
}

impl WorkerStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.timer = None;
                    // Trailers are not forwarded: nothing here knows what they would mean.
                    let Ok(data) = frame.into_data() else { continue };
                    let Some(left) = self.left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Some(Err(Fault::TooLarge)));
                    };
                    self.left = left;
                    if self.inner.is_end_stream() {
                        self.lease.give_back();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Fault::Broken(describe(&error))))),
                Poll::Ready(None) => {
                    self.lease.give_back();
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let idle = self.idle;
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                    return match timer.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(Some(Err(Fault::Slow))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl WorkerBody {
    /// Reads the answer to its end.
    async fn hold(self) -> Result<Self, Fault> {
        let Self::Stream(mut stream) = self else { return Ok(self) };
        let mut whole: Option<Bytes> = None;
        let mut gathered = Vec::new();
        while let Some(part) = std::future::poll_fn(|cx| stream.poll(cx)).await {
            let part = part?;
            match (&whole, gathered.is_empty()) {
                (None, true) => whole = Some(part),
                (Some(first), true) => {
                    gathered.extend_from_slice(first);
                    gathered.extend_from_slice(&part);
                }
                _ => gathered.extend_from_slice(&part),
            }
        }
        Ok(Self::Whole(if gathered.is_empty() { whole } else { Some(gathered.into()) }))
    }

    /// The next part of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    /// How much is still to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => stream.inner.size_hint(),
        }
    }
}

/// Headers that belong to one connection (RFC 9110 §7.6.1), and those that RFC 9112 frames by.
pub static HOP_BY_HOP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::CONTENT_LENGTH,
];

/// Headers of a worker's answer that are ours to say or nobody's to know.
static NOT_THE_WORKERS: [HeaderName; 5] = [
    header::SERVER,
    HeaderName::from_static("x-powered-by"),
    header::VIA,
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
];

/// Removes what `Connection` names, then every hop-by-hop header. Gives back `false` where `Connection`
/// names something that `keep` says we rely on.
pub fn remove_hop_by_hop(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> bool {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .collect();
        if named.iter().any(&keep) {
            return false;
        }
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    true
}

fn clean_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers, |_| false);
    for name in &NOT_THE_WORKERS {
        headers.remove(name);
    }
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name.starts_with("access-control-") || name.starts_with("x-modelgate-") || name.starts_with("ratelimit")
        })
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hop_by_hop_header_survives() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
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
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert!(remove_hop_by_hop(&mut headers, |_| false));
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn connection_can_not_take_away_what_we_rely_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, Authorization"));
        assert!(!remove_hop_by_hop(&mut headers, |name| *name == header::AUTHORIZATION));
    }

    #[test]
    fn worker_addresses() {
        for good in ["http://127.0.0.1:9001", "http://worker:9001/", "http://[::1]:80", "unix:/run/w.sock"] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "127.0.0.1:9001",
            "https://worker",
            "http://worker/path",
            "http://u:p@worker",
            "unix:w.sock",
            "ftp://x",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn private_addresses() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("192.168.1.1", true),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::1", true),
            ("2001:db8::1", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().expect("a literal address")), private, "{address}");
        }
    }
}
