//! Connections: how many at once, how long each may be silent, and how they end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::api::Api;
use crate::events::{Event, Events};
use crate::listen::{Connection, Listener};

/// Largest head of a request, in bytes; what hyper buffers for one connection.
const MAX_HEAD: usize = 32 * 1024;

/// Pause after the system refused a connection: it is short of something, and asking at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What bounds the connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open at once.
    pub max_connections: usize,
    /// Longest wait for a request's head.
    pub idle: Duration,
    /// Longest wait for requests in flight after `stop`.
    pub drain: Duration,
}

/// Serves until `stop`, then finishes what is in flight.
pub async fn run(
    listener: Listener,
    api: Arc<Api>,
    bounds: Bounds,
    events: Arc<Events>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = pin!(stop);
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < bounds.max_connections => match accepted {
                Ok(stream) => {
                    connections.spawn(converse(stream, Arc::clone(&api), bounds.idle, stopped.clone()));
                }
                Err(error) => {
                    events.emit(&Event::AcceptFailed { cause: error.to_string() });
                    sleep(BACK_OFF).await;
                }
            }
        }
    }
    api.drain();
    // Connections that the system has already completed would be reset with the listener: take them first.
    while connections.len() < bounds.max_connections {
        let Ok(Ok(stream)) = timeout(Duration::ZERO, listener.accept()).await else {
            break;
        };
        connections.spawn(converse(stream, Arc::clone(&api), bounds.idle, stopped.clone()));
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
async fn converse(stream: Box<dyn Connection>, api: Arc<Api>, idle: Duration, mut stopped: watch::Receiver<bool>) {
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
