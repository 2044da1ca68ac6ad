//! A worker's answer on its way to the client, and the connection that it came on.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::response::Parts;
use http::{StatusCode, Version, header};
use http_body::{Body as _, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::{Fault, Sender, Worker, describe};
use crate::types::Name;

/// What is wrong with how an answer says its length, where two readers could read it differently (RFC 9112 §6.3). The
/// first of them, hyper, has refused some already.
pub(super) fn framing_fault(head: &Parts) -> Option<&'static str> {
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Some("it has more than one Content-Length");
    }
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some("its transfer coding is not chunked alone");
    }
    if length.is_some() {
        return Some("it has Content-Length and Transfer-Encoding");
    }
    if head.version != Version::HTTP_11 || head.status == StatusCode::NO_CONTENT {
        return Some("it has a Transfer-Encoding that it can't have");
    }
    None
}

/// A connection lent to one exchange. It goes back only when the whole answer was read.
pub(super) struct Lease {
    worker: Rc<Worker>,
    sender: Option<(Sender, OwnedSemaphorePermit)>,
    max_idle: usize,
}

impl Lease {
    pub(super) fn new(worker: Rc<Worker>, sender: Sender, place: OwnedSemaphorePermit, max_idle: usize) -> Self {
        Self { worker, sender: Some((sender, place)), max_idle }
    }

    /// The worker's address, for the log.
    pub(super) fn label(&self) -> &Name {
        &self.worker.label
    }

    fn give_back(&mut self) {
        let Some((mut sender, place)) = self.sender.take() else { return };
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
            // Whoever waits for the place finds the connection.
            drop(place);
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
    /// What was read before the head was passed on.
    first: Option<Bytes>,
    idle: Duration,
    /// How long the worker may still be waited for, all pauses together.
    patience: Duration,
    pause: Option<Pause>,
    lease: Lease,
}

/// The worker is being waited for.
struct Pause {
    began: Instant,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl WorkerStream {
    /// The pause has ended. A client that takes the answer slowly is not the worker's doing, so only pauses count.
    fn resume(&mut self) {
        if let Some(pause) = self.pause.take() {
            self.patience = self.patience.saturating_sub(pause.began.elapsed());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.resume();
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
                    let longest = self.idle.min(self.patience);
                    let pause = self.pause.get_or_insert_with(|| Pause {
                        began: Instant::now(),
                        timer: Box::pin(tokio::time::sleep(longest)),
                    });
                    return match pause.timer.as_mut().poll(cx) {
                        Poll::Ready(()) => Poll::Ready(Some(Err(Fault::Slow))),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
    }
}

impl WorkerBody {
    /// An answer of at most `max` bytes, with at most `idle` between its parts and `patience` in all of them.
    pub(super) fn new(inner: Incoming, max: u64, idle: Duration, patience: Duration, lease: Lease) -> Self {
        Self::Stream(Box::new(WorkerStream { inner, left: max, first: None, idle, patience, pause: None, lease }))
    }

    /// Reads what is there of the answer, so that one that is broken from its beginning becomes a clear 502.
    pub(super) async fn begin(&mut self) -> Result<(), Fault> {
        std::future::poll_fn(|cx| {
            let Self::Stream(stream) = self else { return Poll::Ready(Ok(())) };
            match stream.poll(cx) {
                Poll::Ready(Some(Ok(first))) => stream.first = Some(first),
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(fault)),
                Poll::Ready(None) => *self = Self::Whole(None),
                Poll::Pending => {}
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Reads the answer to its end.
    pub(super) async fn hold(self) -> Result<Self, Fault> {
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
            Self::Stream(stream) => stream.first.is_none() && stream.inner.is_end_stream(),
        }
    }

    /// How much is still to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => {
                let mut hint = stream.inner.size_hint();
                let first = stream.first.as_ref().map_or(0, |first| first.len() as u64);
                if let Some(length) = hint.exact() {
                    hint = SizeHint::with_exact(length + first);
                }
                hint
            }
        }
    }
}
