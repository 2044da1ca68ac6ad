//! A connection to a worker that switched protocols: octets pass both ways until one side ends it.
//!
//! Source: RFC 9110 §7.8, RFC 6455 §4. Nothing of what passes is read but where frames end, so that both sides can be told
//! when the gateway stops. A tunnel keeps the place of its request at the worker, and has two bounds: how long nothing
//! may pass, and how old it may grow.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
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

/// How long the frame that is on its way has to pass when the gateway stops.
const PARTING: Duration = Duration::from_secs(1);
/// Close, 1001 "going away" (RFC 6455 §5.5.1, §7.4.1), as a server sends it.
const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xe9];
/// And as a client does, masked (§5.3), with a mask that is known because nothing in it is a secret.
const GOING_AWAY_MASKED: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

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

/// Where frames end in what passes one way (RFC 6455 §5.2).
#[derive(Default)]
struct Frames {
    /// What there is of a head that has begun: at most 14 octets, the mask among them.
    head: [u8; 14],
    have: usize,
    /// What the frame still has after its head.
    left: u64,
}

impl Frames {
    /// Follows what passes. Gives back how far whole frames reach in it, unless one reaches beyond it.
    fn pass(&mut self, octets: &[u8]) -> Option<usize> {
        let mut whole = self.is_between().then_some(0);
        let mut at = 0;
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
            if self.left > 0 {
                let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                at += step;
                self.left -= step as u64;
            } else if let (Some(place), Some(octet)) = (self.head.get_mut(self.have), rest.first()) {
                *place = *octet;
                (self.have, at) = (self.have + 1, at + 1);
                self.read_head();
            }
            if self.is_between() {
                whole = Some(at);
            }
        }
        whole
    }

    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Reads the head's length where it is all there.
    fn read_head(&mut self) {
        let [_, second, long @ ..] = &self.head;
        let number = |octets: usize| long.iter().take(octets).fold(0, |number, octet| number << 8 | u64::from(*octet));
        let (length, octets) = match second & 0x7f {
            126 => (number(2), 4),
            127 => (number(8), 10),
            length => (u64::from(length), 2),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        if self.have >= 2 && self.have == octets + mask {
            (self.have, self.left) = (0, length);
        }
    }
}

/// One of the two ways.
struct Way {
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    ended: bool,
    count: u64,
    frames: Frames,
    /// How far whole frames reach in the buffer.
    whole: Option<usize>,
    /// What is said before the end, where we end it.
    farewell: Option<&'static [u8]>,
}

impl Way {
    /// A way with something on it already.
    fn new(first: &[u8]) -> Self {
        let mut buffer = first.to_vec();
        buffer.resize(first.len().max(BUFFER), 0);
        let mut frames = Frames::default();
        let whole = frames.pass(first);
        let (buffer, to) = (buffer.into(), first.len());
        Self { buffer, from: 0, to, ended: false, count: 0, frames, whole, farewell: None }
    }

    /// Ends the way after the frame that is on it, and says so.
    fn part(&mut self) {
        let Some(whole) = self.whole.filter(|whole| *whole >= self.from && !self.ended) else { return };
        let Some(farewell) = self.farewell.take() else { return };
        let last = [self.buffer.get(self.from..whole).unwrap_or_default(), farewell].concat();
        (self.from, self.to, self.ended) = (0, last.len(), true);
        self.buffer = last.into();
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
            if self.farewell.is_some() {
                self.part();
            }
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
                    self.whole = self.frames.pass(room.filled());
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

    /// Passes octets between the client and the worker until one of them has ended, a bound is reached, or `stop` says
    /// that the gateway stops: then both are told, between two frames. `early` came from the client before.
    pub async fn run(
        mut self,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        early: &[u8],
        stop: impl Future<Output = ()>,
    ) -> Tunnelled {
        let (worker, first) = self.lease.link().switched();
        let (mut up, mut down) = (Way::new(early), Way::new(&first));
        let (mut idle, mut age) = (Deadline::new(self.idle), Deadline::new(self.age));
        let mut stop = pin!(stop);
        let mut parting: Option<Deadline> = None;
        let why = poll_fn(|cx| {
            if parting.is_none() && stop.as_mut().poll(cx).is_ready() {
                (up.farewell, down.farewell) = (Some(GOING_AWAY_MASKED), Some(GOING_AWAY));
                parting = Some(Deadline::new(PARTING));
            }
            let mut moved = false;
            let passed = [up.poll(cx, client, worker, &mut moved), down.poll(cx, worker, client, &mut moved)];
            if let Some(parting) = &mut parting {
                let is_over = passed.iter().all(Poll::is_ready) || parting.poll_reached(cx).is_ready();
                return if is_over { Poll::Ready("stopping") } else { Poll::Pending };
            }
            // Each side has said goodbye within the protocol before it closes, so one end is both ends.
            for passed in passed {
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

    #[test]
    fn frames_end_where_their_heads_say_however_they_are_cut() {
        let masked = [&[0x82, 0xfe, 0, 130, 1, 2, 3, 4][..], &[7; 130]].concat();
        let long = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65_536]].concat();
        let all = [&[0x81, 2, b'h', b'i'][..], &[0x89, 0x80, 1, 2, 3, 4], &masked, &long, &[0x88, 0]].concat();
        let ends = [0, 4, 10, 10 + masked.len(), 10 + masked.len() + long.len(), all.len()];
        for step in [1, 2, 3, 7, 1000, all.len()] {
            let (mut frames, mut found, mut from) = (Frames::default(), vec![0], 0);
            for part in all.chunks(step) {
                found.extend(frames.pass(part).map(|whole| from + whole));
                from += part.len();
            }
            found.dedup();
            assert!(found.iter().all(|end| ends.contains(end)) && found.ends_with(&[all.len()]), "{step}: {found:?}");
            assert!(step > 1 || found == ends, "{found:?}");
        }
        let mut endless = Frames::default();
        assert_eq!(endless.pass(&[&[0x82, 127][..], &[0xff; 100]].concat()), Some(0));
        assert_eq!(endless.pass(&[0xff; 100]), None);
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
