//! The attacks: what each does to the gateway, what it is set to meanwhile, and how much of its memory that may take.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::Wire;
use harness::client::{handshake, tls_config};
use harness::floods::{Flood, flood};
use harness::frames::{Frames, PREFACE, block, flag, frame, kind, setting, settings, window_update};
use harness::identity::key;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

/// Connections that hold something each.
const MANY: usize = 400;
/// Connections that do something as fast as they can.
const FAST: usize = 16;
/// HTTP/2 connections that flood.
const FLOODING: usize = 8;
/// HTTP/2 connections that leave their answers where they are, and how many each asks for.
const STALLED: usize = 4;
const STREAMS: u32 = 100;

/// One attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// What counts as one of it.
    pub(crate) unit: &'static str,
    /// Settings beside [`POLICY`].
    pub(crate) settings: &'static str,
    act: Act,
    holds: Holds,
}

/// What connections can hold by the settings, for the bound on memory.
#[derive(Clone, Copy)]
enum Holds {
    Nothing,
    /// So many, before and inside their handshake.
    Handshakes(usize),
    /// So many, with HTTP/1.
    Http1(usize),
    /// So many, with HTTP/2; with so many requests at once in all, and so many answers on their way.
    Http2(usize, usize, usize),
}

#[derive(Clone, Copy)]
enum Act {
    Rest,
    /// slowhttptest with these arguments; `KEY` stands for a header with a good key. Then a path.
    Slow(&'static [&'static str], &'static str),
    /// A flood over HTTP/2 with such requests.
    Flood(Flood, fn() -> Vec<u8>),
    StalledStreams,
    Connect,
    Handshake,
    Garbage,
    Plain,
    Handshakes,
    /// A request again and again, on so many kept connections.
    Requests(usize, fn() -> String),
    HugeHeads,
    DrippedChunks,
}

/// Routes for what attackers ask, and a pool that is theirs: who may call a route can fill its pool.
pub(crate) const POLICY: &str = r#"
[limits.once]
quota = 1
window = "1h"
by = ["address"]
store_lost = "deny"
[routes.limited]
path = "/limited"
methods = ["GET"]
pool = "bulk"
authorize = ["predictor"]
limits = ["once"]
[routes.upload]
pool = "bulk"
[routes.large]
path = "/large"
methods = ["GET", "HEAD"]
pool = "bulk"
authenticate = "anonymous"
authorize = "anonymous"
[routes.bulk]
path = "/{what}"
methods = ["GET"]
pool = "bulk"
authorize = ["predictor"]
"#;

/// As many connections of one address as there are.
const OPEN_DOORS: &str = "[listener]\nmax_connections_per_address = 10000\n";
/// Bodies that drip are cut while somebody looks.
const IMPATIENT: &str = "[listener]\nmax_connections_per_address = 10000\nbody_timeout = \"2s\"\n";
/// The same for workers.
const IMPATIENT_POOL: &str =
    "[listener]\nmax_connections_per_address = 10000\n[pools.bulk]\nanswer_timeout = \"2s\"\ntotal_timeout = \"3s\"\n";

const fn attack(name: &'static str, unit: &'static str, settings: &'static str, act: Act, holds: Holds) -> Attack {
    Attack { name, unit, settings, act, holds }
}

const fn http2(name: &'static str, kind: Flood) -> Attack {
    flooding(name, kind, || request("POST", "/upload"))
}

const fn flooding(name: &'static str, kind: Flood, request: fn() -> Vec<u8>) -> Attack {
    attack(name, "frames", "", Act::Flood(kind, request), Holds::Http2(FLOODING, FLOODING * STREAMS as usize, 0))
}

const HEADERS: &[&str] = &["-H", "-c", "400", "-r", "400", "-i", "1", "-x", "24"];

/// All, in the order in which they are shown.
pub(crate) const ALL: &[Attack] = &[
    attack("at rest", "", "", Act::Rest, Holds::Nothing),
    attack("slow heads, 256 an address", "connections", "", Act::Slow(HEADERS, "/predict"), Holds::Http1(256)),
    attack("slow heads", "connections", OPEN_DOORS, Act::Slow(HEADERS, "/predict"), Holds::Http1(MANY)),
    attack(
        "slow bodies",
        "connections",
        IMPATIENT,
        Act::Slow(
            &[
                "-B",
                "-c",
                "400",
                "-r",
                "400",
                "-i",
                "1",
                "-s",
                "16000",
                "-x",
                "100",
                "-f",
                "application/json",
                "-m",
                "KEY",
            ],
            "/predict",
        ),
        Holds::Http1(MANY),
    ),
    attack(
        "slow reading of 8 MiB",
        "connections",
        OPEN_DOORS,
        Act::Slow(
            &["-X", "-c", "400", "-r", "400", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
            "/large",
        ),
        Holds::Http1(MANY),
    ),
    attack(
        "ranges",
        "connections",
        OPEN_DOORS,
        Act::Slow(&["-R", "-c", "400", "-r", "400", "-a", "5", "-b", "2000", "-t", "HEAD"], "/large"),
        Holds::Http1(MANY),
    ),
    attack("dripped chunks without an end", "chunks", IMPATIENT, Act::DrippedChunks, Holds::Http1(MANY)),
    attack("heads of 1 MiB", "heads", "", Act::HugeHeads, Holds::Http1(FAST)),
    attack("connections that say nothing", "connections", OPEN_DOORS, Act::Connect, Holds::Handshakes(MANY)),
    attack("handshakes, then nothing", "connections", OPEN_DOORS, Act::Handshake, Holds::Http1(MANY)),
    attack("handshakes, as fast as possible", "handshakes", "", Act::Handshakes, Holds::Handshakes(FAST)),
    attack("garbage instead of TLS", "connections", "", Act::Garbage, Holds::Handshakes(FAST)),
    attack("plain HTTP instead of TLS", "connections", "", Act::Plain, Holds::Handshakes(FAST)),
    attack("bad keys", "requests", "", Act::Requests(FAST, bad_key), Holds::Http1(FAST)),
    attack("requests over the limit", "requests", "", Act::Requests(FAST, over_limit), Holds::Http1(FAST)),
    http2("HTTP/2 rapid reset", Flood::RapidReset),
    flooding("HTTP/2 late reset, answered with 405", Flood::LateReset, || request("GET", "/upload")),
    flooding("HTTP/2 late reset, a worker busy", Flood::LateReset, || request("GET", "/silent")),
    http2("HTTP/2 MadeYouReset", Flood::MadeYouReset),
    http2("HTTP/2 CONTINUATION", Flood::Continuation),
    http2("HTTP/2 SETTINGS", Flood::Settings),
    http2("HTTP/2 PING", Flood::Ping),
    http2("HTTP/2 PRIORITY", Flood::Priority),
    http2("HTTP/2 WINDOW_UPDATE", Flood::WindowUpdate),
    http2("HTTP/2 unknown frames", Flood::Unknown),
    http2("HTTP/2 empty DATA", Flood::EmptyData),
    http2("HTTP/2 DATA of one octet", Flood::SmallData),
    http2("HTTP/2 padding", Flood::PaddedData),
    http2("HTTP/2 HPACK bomb", Flood::HeadBomb),
    attack(
        "HTTP/2 zero windows, answers of 8 MiB",
        "streams",
        "",
        Act::StalledStreams,
        // As many as the pool has places, on two threads.
        Holds::Http2(STALLED, STALLED * STREAMS as usize, 2 * 128),
    ),
    attack("bad keys, and one of two workers dead", "requests", DEAD, Act::Requests(FAST, bad_key), Holds::Http1(FAST)),
    attack("a worker that never answers", "requests", IMPATIENT_POOL, Act::Requests(MANY, silent), Holds::Http1(MANY)),
    attack("a worker that drips", "requests", IMPATIENT_POOL, Act::Requests(MANY, drip), Holds::Http1(MANY)),
    attack(UNREAD, "requests", "", Act::Requests(FAST, bad_key), Holds::Http1(FAST)),
];

/// Settings that ask for a dead worker beside the good one.
pub(crate) const DEAD: &str = "# a dead worker\n";
/// The attack under which nobody reads the log.
pub(crate) const UNREAD: &str = "bad keys, and nobody reads the log";

fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n")
}

fn bad_key() -> String {
    get("/models", &key("stranger"))
}

fn over_limit() -> String {
    get("/limited", &key("predictor"))
}

fn silent() -> String {
    get("/silent", &key("predictor"))
}

fn drip() -> String {
    get("/drip", &key("predictor"))
}

impl Holds {
    /// By the listener's default settings, in KiB.
    fn kib(self) -> usize {
        /// TLS: a record each way and what waits to go out (64 KiB), a task, and at its time the handshake.
        const TLS: usize = 96;
        /// `max_head` twice, because it is read ahead, or is there as sent and as fields.
        const HEAD: usize = 2 * 16;
        /// The route's `max` (16 KiB), while it is put together.
        const BODY: usize = 2 * 16;
        /// An answer that is read whole, and what was read beyond.
        const ANSWER: usize = 2 * 64;
        /// What may be on its way for one connection.
        const WINDOW: usize = 256;
        /// Six parts of 64 KiB.
        const STREAM: usize = 6 * 64;
        match self {
            Self::Nothing => 0,
            Self::Handshakes(count) => count * TLS,
            Self::Http1(count) => count * (TLS + HEAD + BODY + ANSWER),
            Self::Http2(count, requests, answers) => count * (TLS + WINDOW) + requests * HEAD + answers * STREAM,
        }
    }
}

impl Attack {
    /// How much more memory the gateway may take than before, in KiB: what the connections hold, and what does not
    /// grow with them.
    pub(crate) fn bound(&self) -> u64 {
        /// Batches of the log that wait to be written: 256 of 32 KiB, in buffers that grew to twice that. Beside
        /// them windows of limits, connections to workers, the honest client's.
        const BESIDE: usize = (16 + 8) << 10;
        (BESIDE + self.holds.kib()) as u64
    }

    /// Begins; it ends when what is given back is dropped.
    pub(crate) fn begin(&self, gateway: SocketAddr, count: &Count) -> Running {
        let at = At { gateway, http1: tls_config(&["http/1.1"], &[]), http2: tls_config(&["h2"], &[]) };
        let mut running = Running { tasks: JoinSet::new(), child: None };
        match self.act {
            Act::Rest => {}
            Act::Slow(arguments, path) => {
                running.child = Some(slowhttptest(arguments, gateway, path));
                count.add(MANY as u64);
            }
            Act::Flood(kind, request) => running.repeat(FLOODING, &at, count, move |at: At, count: Count| async move {
                let stream = at.shaken(&at.http2).await?;
                count.add(flood(kind, stream, &request(), Duration::from_secs(2)).await.sent);
                Ok(())
            }),
            Act::StalledStreams => running.repeat(STALLED, &at, count, stalled_streams),
            Act::Connect => running.repeat(MANY, &at, count, async |at, count| {
                let stream = TcpStream::connect(at.gateway).await?;
                count.add(1);
                until_closed(stream).await
            }),
            Act::Handshake => running.repeat(MANY, &at, count, async |at, count| {
                let stream = at.shaken(&at.http1).await?;
                count.add(1);
                until_closed(stream).await
            }),
            Act::Handshakes => running.repeat(FAST, &at, count, async |at, count| {
                drop(at.shaken(&at.http1).await?);
                count.add(1);
                Ok(())
            }),
            Act::Garbage => running.repeat(FAST, &at, count, async |at, count| {
                // No letter, which would be plain HTTP, and no handshake's record.
                say(&at, &[0x9a; 4096], &count).await
            }),
            Act::Plain => running.repeat(FAST, &at, count, async |at, count| {
                say(&at, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &count).await
            }),
            Act::Requests(times, text) => running.repeat(times, &at, count, move |at: At, count: Count| async move {
                let text = text();
                let mut wire = Wire::over(at.shaken(&at.http1).await?);
                loop {
                    wire.try_send(&text).await?;
                    count.add(1);
                    wire.try_answer().await.map_err(io::Error::other)?;
                }
            }),
            Act::HugeHeads => running.repeat(FAST, &at, count, async |at, count| {
                let mut stream = at.shaken(&at.http1).await?;
                count.add(1);
                let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Huge: {}\r\n\r\n", "x".repeat(1 << 20));
                stream.write_all(head.as_bytes()).await?;
                until_closed(stream).await
            }),
            Act::DrippedChunks => running.repeat(MANY, &at, count, dripped_chunks),
        }
        running
    }
}

/// How much of an attack was done.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where the attackers go, and how.
#[derive(Clone)]
struct At {
    gateway: SocketAddr,
    http1: ClientConfig,
    http2: ClientConfig,
}

impl At {
    async fn shaken(&self, config: &ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        handshake(self.gateway, config.clone()).await
    }
}

/// An attack that goes on.
pub(crate) struct Running {
    tasks: JoinSet<()>,
    child: Option<Child>,
}

impl Running {
    /// So many at once, each again and again: what the gateway cuts off comes back.
    fn repeat<F>(&mut self, times: usize, at: &At, count: &Count, act: impl Fn(At, Count) -> F + Clone + 'static)
    where
        F: Future<Output = io::Result<()>> + 'static,
    {
        /// Where there is no connection at all.
        const PAUSE: Duration = Duration::from_millis(10);
        for _ in 0..times {
            let (at, count, act) = (at.clone(), count.clone(), act.clone());
            self.tasks.spawn_local(async move {
                loop {
                    if act(at.clone(), count.clone()).await.is_err() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
        }
    }

    /// Whether it still does what it is to do: an attack that fell over attacks nobody.
    pub(crate) fn is_well(&mut self) -> bool {
        self.tasks.try_join_next().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn slowhttptest(arguments: &[&str], gateway: SocketAddr, path: &str) -> Child {
    // It has no option for headers, but writes this one as it is.
    let accept = format!("*/*\r\nX-API-Key: {}", key("predictor"));
    let arguments = arguments.iter().map(|argument| if *argument == "KEY" { &accept } else { *argument });
    let mut command = Command::new("slowhttptest");
    command.args(arguments).args(["-l", "3600", "-p", "60", "-v", "0", "-u", &format!("https://{gateway}{path}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("slowhttptest is installed")
}

/// The header block of a request that a worker gets.
fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("x-api-key", &key("predictor")),
        ("content-type", "application/octet-stream"),
    ])
}

async fn until_closed(mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut sink = [0; 4096];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

async fn say(at: &At, octets: &[u8], count: &Count) -> io::Result<()> {
    let mut stream = TcpStream::connect(at.gateway).await?;
    count.add(1);
    stream.write_all(octets).await?;
    until_closed(stream).await
}

/// Asks for many large answers and takes nothing of them, but says now and then that it is there.
async fn stalled_streams(at: At, count: Count) -> io::Result<()> {
    let mut frames = Frames::over(at.shaken(&at.http2).await?);
    let request = request("GET", "/large");
    let mut octets =
        [PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, 0)]), &window_update(0, 0x7000_0000)].concat();
    for index in 0..STREAMS {
        octets.extend(frame(kind::HEADERS, flag::WHOLE, index * 2 + 1, &request));
    }
    frames.send(octets).await?;
    count.add(STREAMS.into());
    while frames.next().await.is_some() {}
    Ok(())
}

/// One chunk of one octet after the other.
async fn dripped_chunks(at: At, count: Count) -> io::Result<()> {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\n\
         Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        key("predictor")
    );
    let mut stream = at.shaken(&at.http1).await?;
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(b"1\r\nx\r\n").await?;
        stream.flush().await?;
        count.add(1);
        let mut sink = [0; 4096];
        // A word from the gateway is its last here.
        if let Ok(read) = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut sink)).await {
            return read.map(drop);
        }
    }
}
