//! The body of a request on its way to a worker, and what its client can do wrong meanwhile.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::deadline::{Pace, Sender};
use crate::wakes::poll_body;

/// What goes to a worker as a body.
pub enum Outgoing {
    /// Nothing.
    Empty,
    /// A body that was judged whole.
    Whole(Option<Bytes>),
    /// A body that is passed on as it comes, counted.
    Stream(ClientStream),
}

impl Outgoing {
    /// Whether all of it is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !matches!(self, Self::Stream(_))
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outgoing")
    }
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = ClientFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(None) => true,
            Self::Whole(Some(_)) => false,
            Self::Stream(stream) => stream.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.inner.size_hint(),
        }
    }
}

/// What a client did wrong while its body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// More bytes than the route takes.
    TooLarge,
    /// None came for too long.
    Slow,
    /// Broken framing.
    Malformed,
    /// The connection ended inside it.
    Gone,
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the body is too large",
            Self::Slow => "the body came too slowly",
            Self::Malformed => "the body's framing is broken",
            Self::Gone => "the client left",
        })
    }
}

impl std::error::Error for ClientFault {}

impl ClientFault {
    /// What an error while reading a client's body means.
    #[must_use]
    pub fn of(error: &hyper::Error) -> Self {
        let kind = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .map(std::io::Error::kind);
        match kind {
            Some(std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData) => Self::Malformed,
            _ if error.is_parse() => Self::Malformed,
            _ => Self::Gone,
        }
    }
}

/// A client's body on its way, bounded in size and held to a pace. Trailers are dropped.
pub struct ClientStream {
    inner: Incoming,
    left: u64,
    sender: Sender,
    read: Rc<Cell<u64>>,
}

impl ClientStream {
    /// A stream of at most `max` bytes that comes at this pace. `read` counts bytes.
    #[must_use]
    pub fn new(inner: Incoming, max: usize, pace: Pace, read: Rc<Cell<u64>>) -> Self {
        Self { inner, left: max as u64, sender: Sender::new(pace), read }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientFault>>> {
        loop {
            match poll_body(&mut self.inner, cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let length = data.len() as u64;
                    self.read.set(self.read.get() + length);
                    let Some(left) = self.left.checked_sub(length) else {
                        return Poll::Ready(Some(Err(ClientFault::TooLarge)));
                    };
                    self.left = left;
                    let in_time = self.sender.came(length);
                    return Poll::Ready(Some(if in_time { Ok(Frame::data(data)) } else { Err(ClientFault::Slow) }));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(ClientFault::of(&error)))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return self.sender.poll_late(cx).map(|()| Some(Err(ClientFault::Slow))),
            }
        }
    }
}
