//! A worker's answer on its way to the client, and the connection that it comes on.

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::SizeHint;

use super::Fault;
use super::link::{Framing, Link, Unsent, Upload};
use super::stream::Streamed;
use super::worker::{Place, Worker};
use crate::deadline::Deadline;

/// A connection lent to one exchange. It is used again only when the exchange is over on both sides.
pub(super) struct Lease {
    /// On the heap, because it goes from hand to hand.
    link: Box<Link>,
    place: Place,
}

impl Lease {
    pub(super) fn new(link: Box<Link>, place: Place) -> Self {
        Self { link, place }
    }

    /// Closes the connection, and keeps the room for another.
    pub(super) fn into_place(self) -> Place {
        self.place
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.place.0
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Reads an answer's body of known length, which is not longer than a buffer, to its end.
    pub(super) async fn whole(&mut self, length: usize, pause: Duration, total: Duration) -> Result<Bytes, Fault> {
        let mut there = 0;
        let mut waits = Waits::new(pause, total);
        let whole = poll_fn(|cx| {
            let whole = self.link.poll_whole(cx, length);
            if whole.is_ready() {
                return whole;
            }
            if there < self.link.buffered() {
                there = self.link.buffered();
                waits.end();
            }
            waits.poll_over(cx).map(|()| Err(Fault::Slow))
        });
        whole.await
    }

    /// Keeps the connection for the next request.
    pub(super) fn give_back(self) {
        // What comes after an answer's end was not asked for, and the next request must not get it.
        if self.link.is_quiet() {
            self.place.0.keep(self.link);
        }
        // Whoever waits for the place finds the connection.
        drop(self.place);
    }
}

/// A worker's answer on its way to the client.
pub enum WorkerBody {
    /// Read to its end already.
    Whole(Option<Bytes>),
    /// As it comes.
    Stream(Box<WorkerStream>),
    /// As it comes, over HTTP/2.
    Streamed(Box<Streamed>),
}

impl fmt::Debug for WorkerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerBody")
    }
}

/// The part of an answer that is still at the worker.
pub struct WorkerStream {
    /// Until the answer has ended.
    lease: Option<Lease>,
    framing: Framing,
    /// A request that is not out yet: a worker may answer while it reads.
    upload: Option<Upload>,
    /// Whether the worker keeps the connection.
    keeps: bool,
    left: u64,
    /// What was read before the head was passed on.
    first: Option<Bytes>,
    waits: Waits,
}

/// The worker's pauses: each has a bound, and all together. A client that takes the answer slowly is not the
/// worker's doing, so only the time in which the worker is waited for counts.
pub(super) struct Waits {
    longest: Duration,
    left: Duration,
    pause: Option<(Instant, Deadline)>,
}

impl Waits {
    pub(super) fn new(longest: Duration, total: Duration) -> Self {
        Self { longest, left: total, pause: None }
    }

    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let longest = self.longest.min(self.left);
        self.pause.get_or_insert_with(|| (Instant::now(), Deadline::new(longest))).1.poll_reached(cx)
    }

    /// The worker sent something.
    pub(super) fn end(&mut self) {
        if let Some((began, _)) = self.pause.take() {
            self.left = self.left.saturating_sub(began.elapsed());
        }
    }
}

impl WorkerStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let part = self.poll_part(cx);
        if let (Poll::Ready(Some(Err(fault))), Some(lease)) = (&part, &self.lease) {
            lease.worker().failed(fault);
        }
        part
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(lease) = &mut self.lease else { return Poll::Ready(None) };
        if let Some(upload) = &mut self.upload {
            match lease.link().poll_send(upload, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(Unsent::Client(fault))) => return Poll::Ready(Some(Err(Fault::Client(fault)))),
                // The worker wants no more of it; what it answers still counts.
                Poll::Ready(Err(Unsent::Worker(_))) => {
                    self.upload = None;
                    self.keeps = false;
                }
            }
        }
        match lease.link().poll_data(cx, &mut self.framing) {
            Poll::Ready(Some(Ok(data))) => {
                self.waits.end();
                let Some(left) = self.left.checked_sub(data.len() as u64) else {
                    return Poll::Ready(Some(Err(Fault::TooLarge)));
                };
                self.left = left;
                self.end_if_whole();
                Poll::Ready(Some(Ok(data)))
            }
            Poll::Ready(end_or_fault) => {
                self.end_if_whole();
                Poll::Ready(end_or_fault)
            }
            Poll::Pending => self.waits.poll_over(cx).map(|()| Some(Err(Fault::Slow))),
        }
    }

    /// Lets the connection go when the answer has ended: back, or closed where anything is in doubt.
    fn end_if_whole(&mut self) {
        if matches!(self.framing, Framing::Length(0))
            && let Some(lease) = self.lease.take()
        {
            lease.worker().answered();
            if self.keeps && self.upload.is_none() {
                lease.give_back();
            }
        }
    }
}

impl WorkerBody {
    /// An answer of at most `max` bytes. `pauses` bounds each pause and all of them; `upload` is what is left
    /// of the request.
    pub(super) fn new(
        lease: Lease,
        framing: Framing,
        keeps: bool,
        upload: Option<Upload>,
        max: u64,
        pauses: (Duration, Duration),
    ) -> Self {
        let waits = Waits::new(pauses.0, pauses.1);
        let mut stream = WorkerStream { lease: Some(lease), framing, upload, keeps, left: max, first: None, waits };
        stream.end_if_whole();
        if stream.lease.is_none() { Self::Whole(None) } else { Self::Stream(Box::new(stream)) }
    }

    /// Reads what is there of the answer, so that one that is broken from its beginning becomes a clear 502.
    pub(super) async fn begin(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| {
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

    /// Reads an answer of known length, which is not longer than a buffer, to its end.
    pub(super) async fn hold(
        mut lease: Lease,
        length: usize,
        keeps: bool,
        pause: Duration,
        total: Duration,
    ) -> Result<Self, Fault> {
        let whole = match lease.whole(length, pause, total).await {
            Ok(whole) => whole,
            Err(fault) => {
                lease.worker().failed(&fault);
                return Err(fault);
            }
        };
        lease.worker().answered();
        if keeps {
            lease.give_back();
        }
        Ok(Self::Whole(Some(whole)))
    }

    /// The next part of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Stream(stream) => stream.poll(cx),
            Self::Streamed(stream) => stream.poll(cx),
        }
    }

    /// The trailers that came behind the body, once, where they are passed on.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Streamed(stream) => stream.take_trailers(),
            Self::Whole(_) | Self::Stream(_) => None,
        }
    }

    /// All of it, if it is not longer than `max` octets.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn whole(mut self, max: usize) -> Result<Bytes, Fault> {
        let mut whole = Vec::new();
        while let Some(part) = poll_fn(|cx| self.poll_data(cx)).await {
            let part = part?;
            if whole.len() + part.len() > max {
                return Err(Fault::TooLarge);
            }
            if whole.is_empty() && self.is_end() {
                return Ok(part);
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.into())
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_end(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(stream) => stream.first.is_none() && stream.lease.is_none(),
            Self::Streamed(stream) => stream.is_end(),
        }
    }

    /// How much is still to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(stream) => match stream.framing {
                Framing::Length(left) => {
                    SizeHint::with_exact(left + stream.first.as_ref().map_or(0, |first| first.len() as u64))
                }
                Framing::Chunked(_) | Framing::Close => SizeHint::new(),
            },
            Self::Streamed(stream) => stream.size_hint(),
        }
    }
}
