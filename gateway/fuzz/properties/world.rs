//! The gateway in one thread without TLS: a client's octets from memory, the real journey under a real policy, and a
//! worker on a Unix socket that keeps what it was sent.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::Duration;

use gateway::activity::{Activity, Peer, Reader, Watched};
use gateway::connection_limit::Refused;
use gateway::deadline::Pace;
use gateway::edge::api_keys::{ApiKeys, SharedApiKeys};
use gateway::edge::counter::{Counter, SharedStore, StoreSettings};
use gateway::edge::grants::{Grants, SharedGrants};
use gateway::edge::introspection::Introspector;
use gateway::edge::keys::KeyRing;
use gateway::edge::log::{BatchLog, Format, LogWriter};
use gateway::edge::metrics::Metrics;
use gateway::edge::upstream::{Cards, Pool, PoolSettings};
use gateway::exchange::{Core, PasswordRoom, Snapshot};
use gateway::journey;
use gateway::policy::Policy;
use gateway::policy::authenticate::seen::SeenTokens;
use gateway::problem::{HeadFault, Reason};
use gateway::types::{ClientAddress, RequestIds};
use gateway::wire::{Bounds as WireBounds, Wire};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::{spawn_local, yield_now};
use tokio::time::MissedTickBehavior;

use crate::http1::{self as strict, Bounds, Message};
use crate::policy::compiled;

/// The client's address.
pub(crate) const CLIENT: &str = "192.0.2.7";
/// The bounds of heads.
pub(crate) const HEADS: WireBounds = WireBounds { head: 8 << 10, headers: 24 };
/// The largest body that is taken.
pub(crate) const MOST_BODY: usize = 4 << 10;

/// Everybody may call everything, with bodies that stream and bodies that are judged. No time limit is in reach: what
/// stands still is a fault, and a process that is paused is none.
const POLICY: &str = r#"
    pools.w = { workers = ["unix:SOCKET"], connect_timeout = "1h", answer_timeout = "1h", body_timeout = "1h", idle_timeout = "1h" }
    defaults = { authenticate = "anonymous", limits = [] }
    cors.page = { origins = ["https://app.example.com"] }
    [routes.stream]
    path = "/s/*"
    methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    pool = "w"
    authorize = "anonymous"
    cors = "page"
    body = { format = "opaque", content_types = ["application/octet-stream"], max = "4KiB" }
    [routes.json]
    path = "/j/*"
    methods = ["GET", "POST"]
    pool = "w"
    authorize = "anonymous"
    body = { max = "4KiB", depth = 4 }
    [routes.empty]
    path = "/e"
    methods = ["GET", "HEAD", "POST"]
    pool = "w"
    authorize = "anonymous"
"#;

/// What came of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// What the client was sent.
    pub(crate) answers: Vec<u8>,
    /// The whole messages that the worker was sent, in order.
    pub(crate) forwarded: Vec<Message>,
    /// What it was sent of others before their connection ended.
    pub(crate) broken_off: Vec<Vec<u8>>,
    /// What it can't read.
    pub(crate) unreadable: Vec<Vec<u8>>,
}

/// A gateway and its worker.
pub(crate) struct World {
    runtime: LocalRuntime,
    core: Rc<Core>,
    record: Rc<Record>,
    socket: PathBuf,
    _stop: watch::Sender<bool>,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let thread = std::thread::current().id();
        let socket = std::env::temp_dir().join(format!("gateway-fuzz-{}-{thread:?}", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let toml = POLICY.replace("SOCKET", &socket.to_string_lossy());
        let (pools, policy, store) = compiled(&toml, |root| {
            let pools = PoolSettings::compile_all(root);
            let names: Vec<_> = pools.iter().map(|pool| Arc::clone(pool.name())).collect();
            (pools, Policy::compile(root, &names), StoreSettings::compile(root.section_or_empty("store")))
        });
        let policy = policy.expect("a legal policy");
        // Each turn asks the kernel what is new, so that few turns settle everything.
        let runtime = Builder::new_current_thread().enable_all().event_interval(1).build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        let _entered = runtime.enter();
        let issuers = policy.authenticator.issuers();
        let (keys, introspector) = (KeyRing::new(issuers), Introspector::new(issuers));
        let metrics = Metrics::new(Reason::SLUGS, Refused::SLUGS, 1);
        let store = Arc::new(SharedStore::new(store.expect("legal settings"), 1));
        let (stop, stopping) = watch::channel(false);
        let log = LogWriter::start(Format::Json, io::sink()).expect("a thread").log();
        let core = Rc::new(Core {
            counter: Counter::new(Arc::clone(&store), 0, &policy.limits, |_| ()),
            snapshot: Arc::new(Snapshot {
                cards: Cards::default(),
                routes: metrics.routes(policy.routes.iter().map(|route| &*route.name)),
                pools: Vec::new(),
                generation: 1,
                adopted: AtomicUsize::new(0),
                policy: Arc::new(policy),
                keys,
                introspector,
                hsts: true,
                body_pace: Pace { pause: Duration::from_secs(3600), rate: 1 },
            }),
            api_keys: ApiKeys::new(Arc::new(SharedApiKeys::new(Arc::clone(&store))), None),
            grants: Grants::new(Arc::new(SharedGrants::new(store))),
            pools: pools.iter().map(|pool| Rc::new(Pool::new(pool, 0, &[]))).collect(),
            log: BatchLog::new(log),
            metrics: Arc::new(metrics),
            thread: 0,
            seen_tokens: SeenTokens::default(),
            assertions: gateway::policy::assertion::Assertions::default(),
            ids: Rc::new(RequestIds::new([0; 16])),
            passwords: Arc::new(PasswordRoom::new(1)),
            stopping,
        });
        let record = Rc::<Record>::default();
        let listener = UnixListener::bind(&socket).expect("a socket");
        runtime.block_on({
            let record = Rc::clone(&record);
            async move { spawn_local(work(listener, record)) }
        });
        drop(_entered);
        Self { runtime, core, record, socket, _stop: stop }
    }

    /// What the worker sends in answer to the next request, and whether it closes then.
    #[allow(dead_code, reason = "not every target has use for it")]
    pub(crate) fn script(&self, answer: Vec<u8>, closes: bool) {
        self.record.script.replace(Some((answer, closes)));
    }

    /// Serves one connection, whose client sends a stream in pieces of these lengths and then no more.
    pub(crate) fn serve(&self, stream: &[u8], cuts: &[u8]) -> Outcome {
        self.record.turns.set(0);
        let answers = self.runtime.block_on(async {
            // A task of its own: a look at the clock must not look after the connection too.
            let mut connection = spawn_local(connection(Rc::clone(&self.core), self.client(stream, cuts)));
            let answers = tokio::select! {
                biased;
                answers = &mut connection => answers,
                () = self.stalls() => panic!("the connection stands still"),
            };
            self.settle().await;
            answers.expect("the connection's task ends")
        });
        Outcome { answers, ..self.record.outcome.take() }
    }

    fn client(&self, stream: &[u8], cuts: &[u8]) -> Client {
        Client {
            stream: stream.to_vec(),
            at: 0,
            cuts: cuts.to_vec().into_iter().cycle(),
            rest: Cell::new(0),
            answers: Vec::new(),
            record: Rc::clone(&self.record),
        }
    }

    /// Ends when nothing has moved for some time in which this process ran.
    async fn stalls(&self) {
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut turns, mut still) = (self.record.turns.get(), 0);
        while still < 40 {
            clock.tick().await;
            still = if turns == self.record.turns.replace(0) { still + 1 } else { 0 };
            turns = 0;
        }
    }

    /// Waits until the worker has seen everything that was sent, and the end of what was broken off.
    async fn settle(&self) {
        let (mut quiet, mut turns) = (0, 0);
        while quiet < 6 || self.record.inside.get() > 0 {
            let before = self.record.turns.get();
            yield_now().await;
            quiet = if before == self.record.turns.get() { quiet + 1 } else { 0 };
            turns += 1;
            assert!(turns < 10_000, "a request that was broken off keeps its connection");
        }
    }
}

/// Serves a client, as the server's `http1` does it.
async fn connection(core: Rc<Core>, client: Client) -> Vec<u8> {
    let peer = ClientAddress::new(CLIENT.parse().expect("an address"));
    let activity = Activity::new(true);
    let mut connection = http1::Builder::new()
        .max_headers(HEADS.headers + 1)
        .max_header_size(HEADS.head * 2)
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(
            TokioIo::new(Watched::new(client, Rc::clone(&activity), Reader::Wire(Wire::new(HEADS)))),
            service_fn(|request| {
                journey::serve(Rc::clone(&core), peer.clone(), activity.begin(), None, false, request, None)
            }),
        );
    let _ = Pin::new(&mut connection).await;
    let (mut client, fault) = connection.into_parts().io.into_inner().into_inner();
    if let Some(fault) = fault {
        let answer = journey::refuse(Rc::clone(&core), peer.clone(), activity.begin(), HeadFault::Wire(fault));
        let (head, body) = answer.into_parts();
        let body = body.collect().await.expect("an answer of our own").to_bytes();
        let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
        for (name, value) in &head.headers {
            text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        client.answers.extend_from_slice(&[&text[..], &body].concat());
    }
    client.answers
}

/// The client's side: pieces from memory, then the end; answers into memory.
struct Client {
    stream: Vec<u8>,
    at: usize,
    cuts: std::iter::Cycle<std::vec::IntoIter<u8>>,
    /// How often to come back before the next piece is there.
    rest: Cell<u8>,
    answers: Vec<u8>,
    record: Rc<Record>,
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(rest) = self.rest.get().checked_sub(1) {
            self.rest.set(rest);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.record.moved();
        let cut = self.cuts.next().unwrap_or(63);
        let most = if cut == u8::MAX { usize::MAX } else { usize::from(cut % 64) + 1 };
        let there = most.min(self.stream.len() - self.at).min(buf.remaining());
        buf.put_slice(&self.stream[self.at..self.at + there]);
        self.at += there;
        self.rest.set(cut / 64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        self.record.moved();
        self.answers.extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Peer for Client {
    fn ask(&mut self, _: &mut Context<'_>) {}

    fn is_gone(&self) -> bool {
        false
    }
}

/// What the worker saw.
#[derive(Default)]
struct Record {
    outcome: RefCell<Outcome>,
    /// What is answered next, and whether the connection ends with it.
    script: RefCell<Option<(Vec<u8>, bool)>>,
    /// How many connections are inside a message.
    inside: Cell<usize>,
    /// How often anything moved.
    turns: Cell<usize>,
}

impl Record {
    fn moved(&self) {
        self.turns.set(self.turns.get() + 1);
    }
}

async fn work(listener: UnixListener, record: Rc<Record>) {
    loop {
        let (stream, _) = listener.accept().await.expect("the gateway connects");
        spawn_local(converse(stream, Rc::clone(&record)));
    }
}

/// Answers each request with its number, once it is whole. Nothing is bounded here, and nothing forgiven.
async fn converse(mut stream: UnixStream, record: Rc<Record>) {
    const BOUNDS: Bounds =
        Bounds { head: usize::MAX >> 1, fields: usize::MAX, target: usize::MAX, chunk_line: 64, trailers: 0 };
    let mut octets = Vec::new();
    loop {
        let read = stream.read_buf(&mut octets).await;
        record.moved();
        let mut outcome = record.outcome.borrow_mut();
        if !matches!(read, Ok(1..)) {
            if !octets.is_empty() {
                record.inside.set(record.inside.get() - 1);
                outcome.broken_off.push(octets);
            }
            return;
        }
        if octets.len() == read.unwrap_or_default() {
            record.inside.set(record.inside.get() + 1);
        }
        let reading = strict::read(&octets, &BOUNDS, &|_| true);
        if let (strict::End::Short, []) = (reading.end, &*reading.messages) {
            continue;
        }
        record.inside.set(record.inside.get() - 1);
        let mut messages = reading.messages;
        let Some(message) = messages.pop().filter(|_| messages.is_empty() && reading.end == strict::End::Clean) else {
            outcome.unreadable.push(std::mem::take(&mut octets));
            return;
        };
        octets.clear();
        let body = outcome.forwarded.len().to_string();
        let content = if message.method == b"HEAD" { "" } else { &body };
        outcome.forwarded.push(message);
        drop(outcome);
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Number: {body}\r\n\r\n{content}");
        let (answer, closes) = record.script.take().unwrap_or((answer.into_bytes(), false));
        // At once, so that whatever is too much is there before another request comes.
        let _ = stream.write_all(&answer).await;
        if closes {
            return;
        }
    }
}
