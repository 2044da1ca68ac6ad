//! One exchange over HTTP/2: our request out, its answer back.
//!
//! Source: RFC 9113 §8.1, §8.7. A request goes to another worker only where this one says that it did not process it
//! (`REFUSED_STREAM`, or GOAWAY with a lower stream), and all of its body is there still. Answers are held to what those over
//! HTTP/1 are: their size, their pauses, their headers.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, SizeHint};

use super::headers::passes_back;
use super::incoming::{Waits, WorkerBody};
use super::link::{MOST_HEADERS, Unsent};
use super::outgoing::Outgoing;
use super::session::Slot;
use super::settings::PoolSettings;
use super::worker::Place;
use super::{Fault, HELD_WHOLE};
use crate::deadline::Deadline;

/// A request's body on its way out.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and most of them can hold together")]
pub(super) struct Sending {
    stream: Option<SendStream<Bytes>>,
    body: Outgoing,
    /// All of it, where it was judged whole.
    whole: Bytes,
    /// A piece that is not sent yet.
    rest: Bytes,
    /// Whether any of a body that comes in pieces was taken.
    touched: bool,
    ended: bool,
    moved: bool,
    awaits_client: bool,
}

impl Sending {
    pub(super) fn new(mut body: Outgoing) -> Self {
        let whole =
            if let Outgoing::Whole(bytes) = &mut body { bytes.take().unwrap_or_default() } else { Bytes::new() };
        Self {
            stream: None,
            body,
            rest: Bytes::new(),
            whole,
            touched: false,
            ended: false,
            moved: false,
            awaits_client: false,
        }
    }

    /// The body's length, where it is known.
    pub(super) fn length(&self) -> Option<u64> {
        Some(self.whole.len() as u64).filter(|length| *length > 0).or_else(|| self.body.size_hint().exact())
    }

    fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.body.is_end_stream()
    }

    fn begin(&mut self, stream: SendStream<Bytes>) {
        self.ended = self.is_empty();
        self.rest = self.whole.clone();
        self.stream = Some(stream);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let gone = |error: h2::Error| Unsent::Worker(std::io::Error::other(error));
        while !self.ended {
            let Some(stream) = &mut self.stream else { break };
            if self.rest.is_empty() {
                self.awaits_client = false;
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Pending => {
                        self.awaits_client = true;
                        return Poll::Pending;
                    }
                    Poll::Ready(None) => {
                        stream.send_data(Bytes::new(), true).map_err(gone)?;
                        self.ended = true;
                    }
                    Poll::Ready(Some(frame)) => {
                        self.touched = true;
                        self.rest = frame.map_err(Unsent::Client)?.into_data().unwrap_or_default();
                    }
                }
                continue;
            }
            if stream.capacity() == 0 {
                stream.reserve_capacity(self.rest.len());
                match ready!(stream.poll_capacity(cx)) {
                    Some(capacity) => drop(capacity.map_err(gone)?),
                    None => return Poll::Ready(Err(Unsent::Worker(std::io::ErrorKind::BrokenPipe.into()))),
                }
                continue;
            }
            let part = self.rest.split_to(stream.capacity().min(self.rest.len()));
            self.ended = self.rest.is_empty() && self.body.is_end_stream();
            stream.send_data(part, self.ended).map_err(gone)?;
            self.moved = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// A request that got no answer.
pub(super) struct Unanswered {
    pub(super) fault: Fault,
    /// What is known of one that was not processed, and of which all is there still.
    pub(super) unprocessed: Option<Unprocessed>,
}

/// Why a request was not processed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unprocessed {
    /// The connection ends, and a fresh one may work.
    Goodbye,
    /// The worker does not begin it.
    Refused,
}

impl Unanswered {
    fn of(error: &h2::Error, sending: &Sending) -> Self {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        // What the worker's GOAWAY speaks of alone fails with it; what it took on goes on, or breaks off.
        let unprocessed = match (refused, error.is_go_away()) {
            (true, _) => Some(Unprocessed::Refused),
            (_, true) => Some(Unprocessed::Goodbye),
            _ => None,
        };
        let unprocessed = unprocessed.filter(|_| error.is_remote() && !sending.touched);
        Self { fault: Fault::Broken(error.to_string()), unprocessed }
    }
}

/// Sends the request and waits for the answer's head, as long as the pool allows, counted from when the request is out.
pub(super) async fn converse(
    slot: &Slot,
    request: Request<()>,
    sending: &mut Sending,
    settings: &PoolSettings,
) -> Result<Response<RecvStream>, Unanswered> {
    let unsent = |error: h2::Error| Unanswered {
        fault: Fault::Broken(error.to_string()),
        unprocessed: Some(Unprocessed::Goodbye),
    };
    let ready = slot.send().ready().await;
    let (mut answer, stream) =
        ready.and_then(|mut send| send.send_request(request, sending.is_empty())).map_err(unsent)?;
    sending.begin(stream);
    let mut patience = Deadline::new(settings.answer_timeout);
    poll_fn(|cx| {
        let failed = |fault| Poll::Ready(Err(Unanswered { fault, unprocessed: None }));
        let sent = match sending.poll(cx) {
            Poll::Ready(Err(Unsent::Client(fault))) => return failed(Fault::Client(fault)),
            Poll::Ready(Err(Unsent::Worker(error))) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        };
        match (Pin::new(&mut answer).poll(cx), sent) {
            (Poll::Ready(Ok(answer)), _) => return Poll::Ready(Ok(answer)),
            (Poll::Ready(Err(error)), _) => return Poll::Ready(Err(Unanswered::of(&error, sending))),
            (Poll::Pending, Err(error)) => return failed(Fault::Broken(error.to_string())),
            (Poll::Pending, Ok(())) => {}
        }
        if std::mem::take(&mut sending.moved) || sending.awaits_client {
            patience.reset();
        }
        if sending.awaits_client { Poll::Pending } else { patience.poll_reached(cx).map(|()| Err(late())) }
    })
    .await
}

fn late() -> Unanswered {
    Unanswered { fault: Fault::Slow, unprocessed: None }
}

/// An answer's head, held to what one over HTTP/1 is: its headers as they reach the client, and its length.
pub(super) fn head(status: StatusCode, fields: &HeaderMap) -> Result<(HeaderMap, Option<u64>), Fault> {
    let broken = |reason: &str| Fault::Broken(reason.to_owned());
    if !(200..600).contains(&status.as_u16()) {
        return Err(broken("its status is none"));
    }
    if fields.len() > MOST_HEADERS {
        return Err(broken("its answer has too many headers"));
    }
    let mut lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next().map(|value| {
        let digits = value.to_str().ok().filter(|text| text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|text| text.parse().ok()).ok_or_else(|| broken("its Content-Length is not a number"))
    });
    if lengths.next().is_some() {
        return Err(broken("it has Content-Length twice"));
    }
    Ok((passing(fields, 14), length.transpose()?))
}

/// The fields that reach the client, with room for more.
fn passing(fields: &HeaderMap, room: usize) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len() + room);
    for (name, value) in fields {
        if passes_back(name.as_str(), value.as_bytes()) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// The part of an answer that is still at the worker.
pub struct Streamed {
    received: RecvStream,
    sending: Option<Sending>,
    /// Until the answer has ended.
    place: Option<(Place, Slot)>,
    /// What was announced and did not come yet.
    length: Option<u64>,
    left: u64,
    first: Option<Bytes>,
    waits: Waits,
    /// Whether trailers are passed on, and those that came.
    passes_trailers: bool,
    trailers: Option<HeaderMap>,
}

impl Streamed {
    pub(super) fn new(
        received: RecvStream,
        sending: Sending,
        place: (Place, Slot),
        length: Option<u64>,
        settings: &PoolSettings,
        passes_trailers: bool,
    ) -> Self {
        let mut this = Self {
            received,
            sending: Some(sending).filter(|sending| !sending.ended),
            place: Some(place),
            length,
            left: settings.max_answer,
            first: None,
            waits: Waits::new(settings.body_timeout, settings.total_timeout),
            passes_trailers,
            trailers: None,
        };
        if this.received.is_end_stream() {
            this.end();
        }
        this
    }

    /// Whether it came before all of the client's body was read.
    pub(super) fn is_early(&self) -> bool {
        self.sending.is_some()
    }

    fn end(&mut self) {
        if let Some((place, _slot)) = self.place.take() {
            place.0.answered();
        }
    }

    /// What of it is to be held back: an answer of known and small length is read whole, so that one that breaks off becomes
    /// a clear 502; of others what is there.
    pub(super) async fn begin(mut self) -> Result<WorkerBody, Fault> {
        let length = self.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX);
        if length as u64 <= HELD_WHOLE && !self.passes_trailers && self.sending.is_none() {
            let mut whole = BytesMut::with_capacity(length);
            while let Some(part) = poll_fn(|cx| self.poll(cx)).await {
                whole.extend_from_slice(&part?);
            }
            return Ok(WorkerBody::Whole(Some(whole.freeze())));
        }
        if self.place.is_some() {
            let first = poll_fn(|cx| match self.poll(cx) {
                Poll::Ready(part) => Poll::Ready(part.transpose()),
                Poll::Pending => Poll::Ready(Ok(None)),
            });
            self.first = first.await?;
        }
        let is_over = self.first.is_none() && self.place.is_none() && self.trailers.is_none();
        Ok(if is_over { WorkerBody::Whole(None) } else { WorkerBody::Streamed(Box::new(self)) })
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let part = self.poll_part(cx);
        if let (Poll::Ready(Some(Err(fault))), Some((place, slot))) = (&part, &self.place) {
            place.0.failed(fault);
            if *fault == Fault::Slow {
                slot.retire();
            }
        }
        part
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.place.is_none() {
            return Poll::Ready(None);
        }
        if let Some(sending) = &mut self.sending {
            match sending.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(Unsent::Client(fault))) => return Poll::Ready(Some(Err(Fault::Client(fault)))),
                // The worker wants no more of it; what it answers still counts.
                Poll::Ready(Ok(()) | Err(Unsent::Worker(_))) => self.sending = None,
            }
        }
        let broken = |error: h2::Error| Poll::Ready(Some(Err(Fault::Broken(error.to_string()))));
        loop {
            match self.received.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    self.waits.end();
                    // What is taken here is on its way to the client: more may come.
                    let _ = self.received.flow_control().release_capacity(data.len());
                    let Some(left) = self.left.checked_sub(data.len() as u64) else {
                        return Poll::Ready(Some(Err(Fault::TooLarge)));
                    };
                    self.left = left;
                    self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                    if self.received.is_end_stream() {
                        self.end();
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                    if self.place.is_none() {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(Some(Err(error))) => return broken(error),
                Poll::Ready(None) => match self.received.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        if trailers.as_ref().is_some_and(|trailers| trailers.len() > MOST_HEADERS) {
                            return Poll::Ready(Some(Err(Fault::Broken("its answer has too many trailers".into()))));
                        }
                        self.trailers = trailers.filter(|_| self.passes_trailers).map(|fields| passing(&fields, 0));
                        self.end();
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Err(error)) => return broken(error),
                    Poll::Pending => break,
                },
                Poll::Pending => break,
            }
        }
        self.waits.poll_over(cx).map(|()| Some(Err(Fault::Slow)))
    }

    pub(super) fn is_end(&self) -> bool {
        self.first.is_none() && self.place.is_none() && self.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        self.length.map_or_else(SizeHint::new, |length| SizeHint::with_exact(length + first))
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }
}
