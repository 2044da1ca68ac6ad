//! A client's body, while it is read whole or thrown away.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use http_body::Body as _;
use hyper::body::Incoming;

use crate::deadline::{Pace, Sender, within};
use crate::edge::upstream::ClientFault;
use crate::policy::body::BodyRule;
use crate::problem::Stop;
use crate::wakes::poll_body;

/// How much of an unwanted body is read so that the client sees the answer instead of a reset.
const DRAINED: usize = 64 << 10;
/// For how long.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// The client's body, while nobody has taken it.
pub struct ClientBody {
    incoming: Option<Incoming>,
    read: Rc<Cell<u64>>,
    expects: bool,
    passed_on: bool,
}

impl ClientBody {
    /// A body that nobody has read from; `read` counts its bytes. Where its client waits for a word before it
    /// sends (`expects`), the first attempt to read gives it (RFC 9110 §10.1.1).
    #[must_use]
    pub fn new(incoming: Incoming, read: Rc<Cell<u64>>, expects: bool) -> Self {
        Self { incoming: Some(incoming), read, expects, passed_on: false }
    }

    /// Takes the body away, to be passed on as it comes; `None` where there is none.
    pub fn take(&mut self) -> Option<Incoming> {
        self.passed_on = true;
        self.incoming.take().filter(|incoming| !incoming.is_end_stream())
    }

    /// Whether there is no body.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.incoming.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    /// Whether it ends without an octet, which HTTP/2 may say only behind the head (RFC 9113 §8.1).
    pub async fn ends_empty(&mut self, pace: Pace) -> bool {
        let announced = self.incoming.as_ref().map_or(0, |incoming| incoming.size_hint().lower());
        announced == 0 && self.whole(0, pace).await.is_ok()
    }

    /// Reads it to its end, which must come at this pace.
    ///
    /// # Errors
    /// [`Stop::BodyRead`].
    pub async fn whole(&mut self, max: usize, pace: Pace) -> Result<Bytes, Stop> {
        let stop = |fault| Stop::BodyRead(fault, Some(max));
        let Some(incoming) = self.incoming.as_mut() else { return Ok(Bytes::new()) };
        let read = &self.read;
        let reading = async {
            let mut sender = Sender::new(pace);
            let mut first = Bytes::new();
            let mut gathered = BytesMut::new();
            let mut length = 0;
            loop {
                let frame = poll_fn(|cx| match poll_body(incoming, cx) {
                    Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                    Poll::Pending => sender.poll_late(cx).map(|()| Err(ClientFault::Slow)),
                });
                let frame = frame.await?;
                let Some(frame) = frame else { break };
                let Ok(data) = frame.map_err(|error| ClientFault::of(&error))?.into_data() else { continue };
                length += data.len();
                read.set(length as u64);
                if length > max {
                    return Err(ClientFault::TooLarge);
                }
                if !sender.came(data.len() as u64) {
                    return Err(ClientFault::Slow);
                }
                // One part is the rule, and needs no copy.
                if first.is_empty() {
                    first = data;
                } else {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
            }
            Ok(if gathered.is_empty() { first } else { gathered.freeze() })
        };
        let whole = reading.await.map_err(stop)?;
        self.incoming = None;
        Ok(whole)
    }

    /// Reads a form for the token endpoint (RFC 6749 §3.2: form encoding alone).
    ///
    /// # Errors
    /// [`Stop::Body`] or [`Stop::BodyRead`].
    pub async fn form(&mut self, headers: &HeaderMap, pace: Pace) -> Result<Bytes, Stop> {
        let rule = BodyRule::form();
        rule.decide_head(headers).map_err(Stop::Body)?;
        self.whole(rule.max(), pace).await
    }

    /// Reads on a little after a refusal, so that a client in the middle of sending sees the answer and
    /// not a reset. Gives back whether the connection can be used again.
    pub async fn drain(&mut self, http1: bool) -> bool {
        // How much of a body that was passed on has been read, nobody here knows any more.
        let Some(incoming) = self.incoming.as_mut() else { return !(http1 && self.passed_on) };
        if incoming.is_end_stream() {
            return true;
        }
        if self.expects {
            // To read would ask for the body that is refused.
            return !http1;
        }
        // HTTP/2 could end the stream alone (RFC 9113 §8.1), which clients of some years take for an error.
        if incoming.size_hint().exact().is_some_and(|length| length > DRAINED as u64) {
            return !http1;
        }
        let reading = async {
            let mut left = DRAINED;
            while let Some(frame) = poll_fn(|cx| poll_body(incoming, cx)).await {
                let Ok(frame) = frame else { return false };
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
            true
        };
        within(DRAIN_TIME, reading).await.unwrap_or(false) || !http1
    }
}
