//! What one connection is doing, so that its time limits can be kept without a timer per request.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bounds that a connection keeps.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a head's first octet to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// While the client takes nothing of what is being sent.
    pub stalled: Duration,
    /// How long a connection without a request outlives the sign to stop.
    pub linger: Duration,
}

impl Patience {
    /// How often a connection looks at its clock: a quarter of the shortest bound is exact enough.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.head.min(self.idle).min(self.stalled) / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// One connection's state.
#[derive(Debug)]
pub struct Activity {
    requests: Cell<usize>,
    since: Cell<Instant>,
    head_began: Cell<Option<Instant>>,
    write_stalled: Cell<Option<Instant>>,
    draining: Cell<Option<Instant>>,
}

impl Activity {
    /// A connection that was just made.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            head_began: Cell::default(),
            write_stalled: Cell::default(),
            draining: Cell::default(),
        })
    }

    /// A request's head is complete. The request ends when the guard is dropped.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.head_began.set(None);
        Busy(Rc::clone(self))
    }

    /// The gateway is stopping: the next answer is the connection's last.
    pub fn drain(&self) {
        self.draining.set(Some(Instant::now()));
    }

    /// Whether the gateway is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Whether a bound was passed.
    #[must_use]
    pub fn is_over(&self, patience: &Patience) -> bool {
        let past = |since: Option<Instant>, bound: Duration| since.is_some_and(|since| since.elapsed() >= bound);
        if past(self.write_stalled.get(), patience.stalled) {
            return true;
        }
        if self.requests.get() > 0 {
            return false;
        }
        past(self.head_began.get(), patience.head)
            || past(Some(self.since.get()), patience.idle)
            || (past(self.draining.get(), patience.linger) && self.head_began.get().is_none())
    }
}

/// A request that is being served.
#[derive(Debug)]
pub struct Busy(Rc<Activity>);

impl Busy {
    /// Whether the gateway is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.is_draining()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get().saturating_sub(1));
        self.0.since.set(Instant::now());
    }
}

/// A connection's stream, watched.
pub struct Watched<S> {
    stream: S,
    activity: Rc<Activity>,
}

impl<S> Watched<S> {
    /// Watches a stream.
    pub fn new(stream: S, activity: Rc<Activity>) -> Self {
        Self { stream, activity }
    }

    /// The stream.
    pub fn into_inner(self) -> S {
        self.stream
    }

    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        let stalled = &self.activity.write_stalled;
        if written.is_ready() {
            stalled.set(None);
        } else if stalled.get().is_none() {
            stalled.set(Some(Instant::now()));
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let activity = &self.activity;
        if buf.filled().len() > before && activity.requests.get() == 0 && activity.head_began.get().is_none() {
            activity.head_began.set(Some(Instant::now()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
