//! Connections: how many at once, how long they may take, when to stop.
//!
//! One thread per core, each with a runtime, a listener on the shared port (`SO_REUSEPORT`), its own
//! connections to workers and its own log batch. A request never leaves the thread that accepted it, so
//! nothing on its way is locked or sent between cores.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::activity::{Activity, Over, Peer, Watched};
use crate::edge::tls;
use crate::exchange::{AnswerBody, Core};
use crate::journey;
use crate::listener::{LINGER, ListenerSettings, Listeners};
use crate::problem::HeadFault;
use crate::wire::{Bounds, Wire};

/// How long accepting rests after an error such as "too many open files".
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long an idle HTTP/2 connection may take to end after it was told to: a client that is there answers
/// a ping, and takes what is left of its answers.
const GOODBYE: Duration = Duration::from_secs(10);
/// How much is read and thrown away at a connection's end.
const MOST_LINGERED: usize = 256 << 10;
/// The threads that serve.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Serving {
    /// Waits until every thread has finished its requests or its time.
    ///
    /// # Errors
    /// The first error of a thread.
    pub fn join(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a serving thread ended early")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Serves until `stop` says so. `core` makes each thread's own part, inside its runtime.
///
/// # Errors
/// If a thread can't be started.
pub fn serve(
    settings: &Arc<ListenerSettings>,
    listeners: Listeners,
    stop: &watch::Receiver<bool>,
    core: impl Fn(usize) -> Core + Clone + Send + 'static,
) -> io::Result<Serving> {
    let mut threads = Vec::new();
    for (index, listener) in listeners.sockets.into_iter().enumerate() {
        let (settings, stop, core) = (Arc::clone(settings), stop.clone(), core.clone());
        let body = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
            runtime.block_on(async move {
                let thread = Thread {
                    core: Rc::new(core(index)),
                    acceptor: tls::acceptor(Arc::clone(&settings.tls)),
                    open: Rc::default(),
                    settings,
                    stop,
                };
                thread.accept(TcpListener::from_std(listener)?).await;
                Ok(())
            })
        };
        threads.push(std::thread::Builder::new().name(format!("serve-{index}")).spawn(body)?);
    }
    Ok(Serving { threads })
}

/// How many connections are open, and a way to hear of their end.
#[derive(Default)]
struct Open {
    count: Cell<usize>,
    ended: Notify,
}

/// One connection's place, given back however its task ends.
struct Place {
    core: Rc<Core>,
    open: Rc<Open>,
}

impl Place {
    fn take(thread: &Thread) -> Self {
        thread.open.count.set(thread.open.count.get() + 1);
        thread.core.metrics.tally(thread.core.thread).connection_opened();
        Self { core: Rc::clone(&thread.core), open: Rc::clone(&thread.open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.core.metrics.tally(self.core.thread).connection_closed();
        self.open.count.set(self.open.count.get() - 1);
        self.open.ended.notify_one();
    }
}

#[derive(Clone)]
struct Thread {
    core: Rc<Core>,
    acceptor: TlsAcceptor,
    open: Rc<Open>,
    settings: Arc<ListenerSettings>,
    stop: watch::Receiver<bool>,
}

impl Thread {
    async fn accept(mut self, listener: TcpListener) {
        let most = self.settings.max_connections.div_ceil(self.settings.threads);
        tokio::task::spawn_local(upkeep(Rc::clone(&self.core)));
        tokio::task::spawn_local(self.core.log.clone().keep_flushing());
        loop {
            // A place before a connection: what can't be served stays in the kernel's queue.
            let full = self.open.count.get() >= most;
            let accepted = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => break,
                () = self.open.ended.notified(), if full => continue,
                accepted = listener.accept(), if !full => accepted,
            };
            self.admit(accepted).await;
        }
        // What the kernel had accepted for us before the sign to stop is ours to answer.
        while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            self.admit(Ok(accepted)).await;
        }
        drop(listener);
        let drained = async {
            while self.open.count.get() > 0 {
                self.open.ended.notified().await;
            }
        };
        // Requests that are cut off after that have their records too: the last of the batch's owners, which
        // are these requests' tasks, sends it.
        let _ = tokio::time::timeout(self.settings.drain, drained).await;
    }

    async fn admit(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, or a client that left: neither is a reason to spin or to stop.
            tokio::time::sleep(ACCEPT_BACK_OFF).await;
            return;
        };
        let (this, place) = (self.clone(), Place::take(self));
        tokio::task::spawn_local(async move {
            this.connection(stream, peer.ip()).await;
            drop(place);
        });
    }

    async fn connection(&self, stream: TcpStream, peer: IpAddr) {
        // Answers are written whole; waiting to fill a segment only adds delay.
        let _ = stream.set_nodelay(true);
        let handshake = async {
            let mut first = [0];
            let length = stream.peek(&mut first).await?;
            // Every TLS connection begins with a handshake record (RFC 8446 §5.1); letters are plain HTTP.
            if length == 1 && first.iter().all(u8::is_ascii_uppercase) {
                explain_plain_http(stream).await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.acceptor.accept(stream).await
        };
        let Ok(Ok(stream)) = tokio::time::timeout(self.settings.handshake_timeout, handshake).await else {
            self.core.metrics.tally(self.core.thread).handshake_failed();
            return;
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, peer).await;
        } else {
            self.http1(stream, peer).await;
        }
    }

    async fn http1(&self, stream: TlsStream<TcpStream>, peer: IpAddr) {
        let activity = Activity::new(true);
        let wire = Wire::new(Bounds { head: self.settings.max_head, headers: self.settings.max_headers });
        let connection = http1::Builder::new()
            .max_headers(self.settings.max_headers + 1)
            // Above the bounds that `wire` keeps, whose answers say why.
            .max_header_size(self.settings.max_head * 2)
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(
                TokioIo::new(Watched::new(stream, Rc::clone(&activity), Some(wire))),
                service_fn(|request: Request<Incoming>| {
                    journey::serve(Rc::clone(&self.core), peer, activity.begin(), request)
                }),
            );
        // An idle HTTP/1 connection is not told at once: a request may be on its way. Its next answer
        // says `Connection: close`, and after a while without one it is closed.
        let mut connection = connection;
        self.drive(Pin::new(&mut connection), &activity, |_| false).await;
        let (mut stream, fault) = connection.into_parts().io.into_inner().into_inner();
        if let Some(fault) = fault {
            let answer = journey::refuse(Rc::clone(&self.core), peer, activity.begin(), HeadFault::Wire(fault));
            let written = write_answer(&mut stream, answer);
            let _ = tokio::time::timeout(LINGER, written).await;
        }
        linger(stream).await;
    }

    async fn http2(&self, stream: TlsStream<TcpStream>, peer: IpAddr) {
        let activity = Activity::new(false);
        let connection = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.settings.max_streams)
            .max_header_list_size(u32::try_from(self.settings.max_head).unwrap_or(u32::MAX))
            // Small windows bound what one connection can make us hold; large bodies are not what this is for.
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(256 << 10)
            .max_send_buf_size(64 << 10)
            .max_pending_accept_reset_streams(32)
            .max_local_error_reset_streams(64)
            .serve_connection(
                TokioIo::new(Watched::new(stream, Rc::clone(&activity), None)),
                service_fn(|request: Request<Incoming>| {
                    journey::serve(Rc::clone(&self.core), peer, activity.begin(), request)
                }),
            );
        let graceful = |connection: Pin<&mut http2::Connection<_, _, _>>| {
            connection.graceful_shutdown();
            true
        };
        self.drive(pin!(connection), &activity, graceful).await;
    }

    /// Runs a connection until it ends, breaks a bound, or is asked to stop. `graceful` tells the client, if the
    /// protocol can, and says whether it can.
    async fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        activity: &Activity,
        graceful: impl Fn(Pin<&mut C>) -> bool,
    ) {
        let mut stop = self.stop.clone();
        let patience = &self.settings.patience;
        let mut clock = tokio::time::interval(patience.interval());
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                // Its error is the client's doing, and the requests on it have their own records.
                _ = connection.as_mut() => return,
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    activity.drain();
                    graceful(connection.as_mut());
                    clock = tokio::time::interval(patience.interval().min(LINGER));
                }
                _ = clock.tick() => {
                    match activity.over(patience) {
                        None => {}
                        Some(Over::Stalled) => return,
                        Some(Over::Idle) => {
                            // HTTP/2 says which requests were not looked at, and may still hold the end of an
                            // answer that its client takes slowly. HTTP/1 has no word for it, and holds nothing.
                            if graceful(connection.as_mut()) {
                                let _ = tokio::time::timeout(patience.stalled.min(GOODBYE), connection).await;
                            }
                            return;
                        }
                    }
                }
            }
        }
    }
}

impl Peer for TlsStream<TcpStream> {
    fn ask(&mut self, cx: &mut Context<'_>) {
        // A change of keys is seen by TLS alone (RFC 8446 §4.6.3). TLS 1.2 has nothing like it; there a client
        // that is gone is noticed when its answer is sent.
        let _ = self.get_mut().1.refresh_traffic_keys();
        let _ = Pin::new(self).poll_flush(cx);
    }

    fn is_gone(&self) -> bool {
        !matches!(self.get_ref().0.take_error(), Ok(None))
    }
}

/// Writes an answer that hyper has no request for.
async fn write_answer(stream: &mut TlsStream<TcpStream>, answer: Response<AnswerBody>) -> io::Result<()> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(&body);
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Ends a connection so that the client sees the last answer: closing over bytes that it sent and nobody
/// read would reset the connection, and a reset overtakes the answer (RFC 9112 §9.6).
async fn linger(mut stream: TlsStream<TcpStream>) {
    let drained = async {
        stream.shutdown().await?;
        let mut left = MOST_LINGERED;
        let mut sink = [0; 4096];
        // Below TLS: what still comes is thrown away, so it need not be decrypted.
        let stream = stream.get_mut().0;
        while let Some(rest) = left.checked_sub(stream.read(&mut sink).await?) {
            if rest == left {
                break;
            }
            left = rest;
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Says to somebody who speaks plain HTTP on the TLS port what is wrong.
async fn explain_plain_http(mut stream: TcpStream) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 56\r\n\r\nThis port speaks HTTPS. Use https:// instead of http://\n";
    // Read once what is there: closing over unread bytes would reset the connection before the answer.
    let _ = stream.read(&mut [0; 4096]).await?;
    stream.write_all(ANSWER).await?;
    stream.shutdown().await
}

/// Closes connections to workers that nobody uses any more.
async fn upkeep(core: Rc<Core>) {
    let mut clock = tokio::time::interval(Duration::from_secs(5));
    loop {
        clock.tick().await;
        core.pools.iter().for_each(crate::edge::upstream::Pool::sweep);
    }
}

/// Runs HTTP/2 streams on the thread of their connection.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
