//! A connection to a worker that switched protocols: octets pass both ways until one side ends it.
//!
//! Source: RFC 9110 §7.8, RFC 6455 §4. Nothing of what passes is read. A tunnel keeps the place of its request at the
//! worker, and has two bounds: how long nothing may pass, and how old it may grow.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::incoming::Lease;
use crate::deadline::Deadline;

/// How much lies between the two sides, each way.
const BUFFER: usize = 16 << 10;
/// What is added to a key before it is hashed (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key of a client that asks for a WebSocket, as it must (RFC 6455 §4.1); `None` where it does not.
#[must_use]
pub fn websocket_key(headers: &HeaderMap) -> Option<&HeaderValue> {
    let one = |name: header::HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    let is = |name, wanted: &[u8]| one(name).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(wanted));
    let mut connection =
        headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    let asks = connection.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        && is(header::UPGRADE, b"websocket")
        && is(header::SEC_WEBSOCKET_VERSION, b"13");
    let key = one(header::SEC_WEBSOCKET_KEY).filter(|_| asks)?;
    STANDARD.decode(key).ok().filter(|nonce| nonce.len() == 16).map(|_| key)
}

/// Whether a worker's 101 answers this key and no other (RFC 6455 §4.2.2).
pub(super) fn is_accepted(key: &HeaderValue, answer: &HeaderMap) -> bool {
    let hashed = [key.as_bytes(), GUID].concat();
    let expected = STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &hashed));
    let mut said = answer.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
    said.next().is_some_and(|value| value.as_bytes() == expected.as_bytes()) && said.next().is_none()
}

/// A worker's side of a tunnel.
pub struct Tunnel {
    lease: Lease,
    idle: Duration,
    age: Duration,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tunnel")
    }
}

/// What became of a tunnel.
#[derive(Debug)]
pub struct Tunnelled {
    /// Octets to the worker.
    pub to_worker: u64,
    /// Octets to the client.
    pub to_client: u64,
    /// Why it ended.
    pub why: &'static str,
}

/// One of the two ways.
struct Way {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    ended: bool,
    count: u64,
}

impl Way {
    /// A way with something on it already.
    fn new(first: &[u8]) -> Self {
        let mut buffer = first.to_vec();
        buffer.resize(first.len().max(BUFFER), 0);
        Self { buffer: buffer.into(), from: 0, to: first.len(), ended: false, count: 0 }
    }

    /// Passes on what can be; ready when the reading side has ended and the writing side was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(rest) = self.buffer.get(self.from..self.to).filter(|rest| !rest.is_empty()) {
                let count = ready!(Pin::new(&mut *writer).poll_write(cx, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.from += count;
                self.count += count as u64;
                *moved = true;
                continue;
            }
            if self.ended {
                return Pin::new(&mut *writer).poll_shutdown(cx);
            }
            let mut room = ReadBuf::new(&mut self.buffer);
            match Pin::new(&mut *reader).poll_read(cx, &mut room)? {
                Poll::Ready(()) => {
                    (self.from, self.to) = (0, room.filled().len());
                    self.ended = self.to == 0;
                }
                Poll::Pending => {
                    ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Tunnel {
    pub(super) fn new(lease: Lease, idle: Duration, age: Duration) -> Self {
        Self { lease, idle, age }
    }

    /// Passes octets between the client and the worker until one of them has ended, or a bound is reached.
    /// `early` came from the client before.
    pub async fn run(mut self, client: &mut (impl AsyncRead + AsyncWrite + Unpin), early: &[u8]) -> Tunnelled {
        let (worker, first) = self.lease.link().switched();
        let (mut up, mut down) = (Way::new(early), Way::new(&first));
        let (mut idle, mut age) = (Deadline::new(self.idle), Deadline::new(self.age));
        let why = poll_fn(|cx| {
            let mut moved = false;
            // Each side has said goodbye within the protocol before it closes, so one end is both ends.
            for passed in [up.poll(cx, client, worker, &mut moved), down.poll(cx, worker, client, &mut moved)] {
                match passed {
                    Poll::Ready(Ok(())) => return Poll::Ready("closed"),
                    Poll::Ready(Err(_)) => return Poll::Ready("broken off"),
                    Poll::Pending => {}
                }
            }
            if moved {
                idle.reset();
            }
            match (idle.poll_reached(cx), age.poll_reached(cx)) {
                (Poll::Ready(()), _) => Poll::Ready("idle"),
                (_, Poll::Ready(())) => Poll::Ready("too old"),
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        });
        let why = why.await;
        Tunnelled { to_worker: up.count, to_client: down.count, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    /// The example of RFC 6455 §1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn a_key_is_answered_by_its_hash_alone() {
        let key = HeaderValue::from_static(KEY);
        assert!(is_accepted(&key, &headers(&[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")])));
        assert!(!is_accepted(&key, &headers(&[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")])));
        assert!(!is_accepted(&key, &HeaderMap::new()));
    }

    #[test]
    fn a_websocket_is_asked_for_in_one_way() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        assert!(websocket_key(&headers(&whole)).is_some());
        for left_out in 0..whole.len() {
            let some: Vec<_> =
                whole.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, pair)| *pair).collect();
            assert!(websocket_key(&headers(&some)).is_none(), "{left_out}");
        }
        for (name, value) in [("upgrade", "h2c"), ("sec-websocket-version", "8"), ("sec-websocket-key", "c2hvcnQ=")] {
            let mut wrong = headers(&whole);
            wrong.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert!(websocket_key(&wrong).is_none(), "{name}: {value}");
        }
    }
}
