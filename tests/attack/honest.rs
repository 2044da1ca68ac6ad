//! An honest client: so many requests a second, whatever becomes of those before.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::client::{flower, handshake_over, tls_config};
use harness::identity::key;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{sleep_until, timeout};

/// Kept connections, and how far apart their requests are: 200 a second in all.
const CONNECTIONS: u32 = 32;
const PERIOD: Duration = Duration::from_millis(160);
/// How far apart new connections are.
const NEW_PERIOD: Duration = Duration::from_millis(250);
/// The most connections that it has at once, with those that linger.
pub(crate) const MOST: i64 = 40;
/// What nobody waits longer for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Another address than the attackers', which limits by address tell apart.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What came of one request: how long it took from when it was due, or what went wrong.
type Outcome = Result<Duration, String>;

/// What came of all.
#[derive(Debug, Default)]
pub(crate) struct Felt {
    /// On kept connections.
    pub(crate) kept: Vec<Duration>,
    /// With a new connection for each.
    pub(crate) fresh: Vec<Duration>,
    pub(crate) errors: Vec<String>,
}

impl Felt {
    /// So many of a thousand took no longer than this.
    pub(crate) fn quantile(of: &mut [Duration], thousandths: usize) -> Duration {
        of.sort_unstable();
        let last = of.len().saturating_sub(1);
        of.get((of.len() * thousandths / 1000).min(last)).copied().unwrap_or_default()
    }
}

/// The client, on a thread of its own.
pub(crate) struct Honest {
    counted: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Felt>,
}

impl Honest {
    pub(crate) fn start(gateway: SocketAddr) -> Self {
        let (counted, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (counted, stop) = (Arc::clone(&counted), Arc::clone(&stop));
            move || {
                Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
                    .block_on(ask(gateway, counted, stop))
            }
        });
        Self { counted, stop, thread }
    }

    /// From now on what it feels counts, or no more.
    pub(crate) fn count(&self, counted: bool) {
        self.counted.store(counted, Ordering::Relaxed);
    }

    /// What it felt.
    pub(crate) fn stop(self) -> Felt {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends")
    }
}

async fn ask(gateway: SocketAddr, counted: Arc<AtomicBool>, stop: Arc<AtomicBool>) -> Felt {
    let (sender, mut outcomes) = unbounded_channel::<(bool, Outcome)>();
    for index in 0..CONNECTIONS {
        let first = Instant::now() + PERIOD * index / CONNECTIONS;
        tokio::spawn(run(gateway, first, true, Arc::clone(&counted), Arc::clone(&stop), sender.clone()));
    }
    tokio::spawn(run(gateway, Instant::now(), false, counted, stop, sender));
    let mut felt = Felt::default();
    while let Some((kept, outcome)) = outcomes.recv().await {
        match outcome {
            Ok(took) if kept => felt.kept.push(took),
            Ok(took) => felt.fresh.push(took),
            Err(why) => felt.errors.push(why),
        }
    }
    felt
}

/// Open loop: a request that is due while the one before is on its way is late by that, and the delay is its own.
async fn run(
    gateway: SocketAddr,
    mut due: Instant,
    keep: bool,
    counted: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    outcomes: UnboundedSender<(bool, Outcome)>,
) {
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        sleep_until(due.into()).await;
        let counts = counted.load(Ordering::Relaxed);
        let asked = timeout(PATIENCE, async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => connect(gateway).await?,
            };
            predict(&mut connection, gateway).await?;
            Ok(connection)
        });
        let outcome = match asked.await.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))) {
            Ok(connection) => {
                kept = Some(connection).filter(|_| keep);
                Ok(due.elapsed())
            }
            Err(why) => Err(why),
        };
        if counts && outcomes.send((keep, outcome)).is_err() {
            return;
        }
        due += if keep { PERIOD } else { NEW_PERIOD };
    }
}

async fn connect(gateway: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let told = |error: std::io::Error| format!("connect: {error}");
    let socket = TcpSocket::new_v4().map_err(told)?;
    socket.bind((ADDRESS, 0).into()).map_err(told)?;
    let stream = socket.connect(gateway).await.map_err(told)?;
    stream.set_nodelay(true).map_err(told)?;
    let stream = handshake_over(stream, "localhost", tls_config(&["http/1.1"], &[])).await;
    let stream = stream.map_err(|error| format!("handshake: {error}"))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

async fn predict(sender: &mut SendRequest<Full<Bytes>>, gateway: SocketAddr) -> Result<(), String> {
    let request = Request::post("/predict")
        .header("host", format!("localhost:{}", gateway.port()))
        .header("x-api-key", key("second"))
        .header("content-type", "application/json")
        .body(Full::from(flower().to_string()))
        .expect("a good request");
    let told = |error: hyper::Error| format!("request: {error:?}");
    sender.ready().await.map_err(told)?;
    let answer = sender.send_request(request).await.map_err(told)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(told)?.to_bytes();
    if status == 200 { Ok(()) } else { Err(format!("{status}: {}", String::from_utf8_lossy(&body))) }
}
