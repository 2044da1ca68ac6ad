//! Connections: how many at once, how long each may be silent, and how they end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::events::{Event, Events};
use crate::listen::{Connection, Listener};

/// Largest head of a request, in bytes; what hyper buffers for one connection.
const MAX_HEAD: usize = 32 * 1024;

/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 128;

/// What a client that speaks HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pause after the system refused a connection: it is short of something, and asking at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What bounds the connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open at once.
    pub max_connections: usize,
    /// Longest wait for requests in flight after `stop`.
    pub drain: Duration,
}

/// What every connection is given.
#[derive(Clone)]
pub struct Door {
    /// Answers its requests.
    pub api: Arc<Api>,
    /// Ends its TLS, where it is to have any.
    pub tls: Option<TlsAcceptor>,
    /// Longest wait for its first octets, for each request's head, and for the peer to take more of an answer.
    pub idle: Duration,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

/// Serves until `stop`, then finishes what is in flight.
pub async fn run(listener: Listener, door: Door, bounds: Bounds, events: Arc<Events>, stop: impl Future<Output = ()>) {
    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < bounds.max_connections => match accepted {
                Ok(stream) => {
                    connections.spawn(converse(stream, door.clone(), stopped.clone()));
                }
                Err(error) => {
                    events.emit(&Event::AcceptFailed { cause: error.to_string() });
                    sleep(BACK_OFF).await;
                }
            }
        }
    }
    door.api.drain();
    // Connections that the system has already completed would be reset with the listener: take them first.
    while connections.len() < bounds.max_connections {
        let Ok(Ok(stream)) = timeout(Duration::ZERO, listener.accept()).await else {
            break;
        };
        connections.spawn(converse(stream, door.clone(), stopped.clone()));
    }
    drop(listener);
    let _ = stopping.send(true);
    events.emit(&Event::Draining { connections: connections.len() });
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let cut_off = if timeout(bounds.drain, all_ended).await.is_ok() { 0 } else { connections.len() };
    connections.shutdown().await;
    events.emit(&Event::Stopped { cut_off });
}

/// Answers the requests of one connection. Its errors are the peer's going away, of which there is nothing to say.
async fn converse(stream: Box<dyn Connection>, door: Door, stopped: watch::Receiver<bool>) {
    let Door { api, tls, idle } = door;
    let opened = timeout(idle, async {
        let stream = match tls {
            Some(tls) => Box::new(tls.accept(stream).await?),
            None => stream,
        };
        Rewound::new(stream, PREFACE, idle).await
    });
    match opened.await {
        Ok(Ok((stream, true))) => converse_http2(stream, api, idle, stopped).await,
        Ok(Ok((stream, false))) => converse_http1(stream, api, idle, stopped).await,
        Ok(Err(_)) | Err(_) => {}
    }
}

async fn converse_http1(stream: Rewound, api: Arc<Api>, idle: Duration, mut stopped: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // The connection first: a request that has already arrived is answered, not dropped.
        biased;
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// One request among those in flight, also where its stream is cancelled.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// HTTP/2 without TLS's agreement too (RFC 9113 §3.3): gRPC clients on a private network begin so.
async fn converse_http2(stream: Rewound, api: Arc<Api>, idle: Duration, mut stopped: watch::Receiver<bool>) {
    // Requests begun, and those in flight: what tells an idle connection, which hyper closes for HTTP/1 only.
    let begun = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&begun);
    let service = service_fn(move |request| {
        let (api, counts) = (Arc::clone(&api), Arc::clone(&counts));
        async move {
            let [all, now] = &*counts;
            all.fetch_add(1, Ordering::Relaxed);
            let _counted = InFlight::begin(now);
            Ok::<_, Infallible>(api.answer(request).await)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut before = usize::MAX;
    let draining = loop {
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            _ = stopped.wait_for(|stopped| *stopped) => break true,
            () = sleep(idle) => {
                let [all, now] = &*begun;
                let all = all.load(Ordering::Relaxed);
                if now.load(Ordering::Relaxed) == 0 && all == before {
                    break false;
                }
                before = all;
            }
        }
    };
    connection.as_mut().graceful_shutdown();
    if draining {
        let _ = connection.await;
    } else {
        // The peer may neither answer the farewell nor make room for answers.
        let _ = timeout(idle, connection).await;
    }
}

/// A connection whose first octets have been looked at, and whose peer must take what is written to it.
struct Rewound {
    stream: Box<dyn Connection>,
    seen: Vec<u8>,
    given: usize,
    patience: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Rewound {
    /// Reads until it is known whether the peer begins with `expected`.
    async fn new(mut stream: Box<dyn Connection>, expected: &[u8], patience: Duration) -> io::Result<(Self, bool)> {
        let mut seen = Vec::new();
        while seen.len() < expected.len() && expected.starts_with(&seen) {
            let missing = expected.len() - seen.len();
            let read = (&mut stream).take(u64::try_from(missing).unwrap_or(u64::MAX)).read_buf(&mut seen).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let begins = seen == expected;
        Ok((Self { stream, seen, given: 0, patience, stalled: None }, begins))
    }

    /// What came of writing, unless the peer has taken nothing for too long.
    fn in_time<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.seen.get(this.given..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let part = rest.get(..rest.len().min(buffer.remaining())).unwrap_or_default();
        buffer.put_slice(part);
        this.given += part.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.in_time(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(closed, cx)
    }
}
