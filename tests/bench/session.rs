//! What a client says and hears on one connection: HTTP/1.1 or HTTP/2, without sockets.

use std::fmt::Write as _;
use std::time::Instant;

use crate::wire::{field, head_length, status};

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Names in lower case; the same names in the same order in every request of one load.
    pub(crate) fields: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The octets of HTTP/1.1.
    pub(crate) fn http1(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", self.body.len());
        let mut octets = head.into_bytes();
        octets.extend_from_slice(&self.body);
        octets
    }
}

/// One request's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// 0 where there was no readable answer.
    pub(crate) status: u16,
    /// When it was sent, or should have been.
    pub(crate) due: Instant,
}

/// One connection's state.
#[derive(Debug)]
pub(crate) enum Session {
    Http1(Http1),
    Http2(Box<Http2>),
}

impl Session {
    pub(crate) fn new(http2: bool) -> Self {
        if http2 { Self::Http2(Box::default()) } else { Self::Http1(Http1::default()) }
    }

    /// What is sent before any request.
    pub(crate) fn open(&self) -> &'static [u8] {
        match self {
            Self::Http1(_) => b"",
            Self::Http2(_) => PREFACE,
        }
    }

    /// How many requests wait for their answers.
    pub(crate) fn in_flight(&self) -> usize {
        match self {
            Self::Http1(http1) => usize::from(http1.due.is_some()),
            Self::Http2(http2) => http2.in_flight.len(),
        }
    }

    /// Whether the other side wants no further request here.
    pub(crate) fn closing(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.closing,
            Self::Http2(http2) => http2.closing,
        }
    }

    /// Begins a request. `octets` is what HTTP/1.1 sends.
    pub(crate) fn send(&mut self, request: &Request, octets: &[u8], due: Instant, out: &mut Vec<u8>) {
        match self {
            Self::Http1(http1) => {
                http1.due = Some(due);
                out.extend_from_slice(octets);
            }
            Self::Http2(http2) => http2.send(request, due, out),
        }
    }

    /// Takes what arrived, answers what the protocol asks for and tells which requests ended.
    pub(crate) fn receive(&mut self, octets: &[u8], out: &mut Vec<u8>, done: &mut Vec<Done>) {
        match self {
            Self::Http1(http1) => http1.receive(octets, done),
            Self::Http2(http2) => http2.receive(octets, out, done),
        }
    }

    /// The requests that a lost connection leaves without an answer.
    pub(crate) fn lost(&self) -> Vec<Instant> {
        match self {
            Self::Http1(http1) => http1.due.into_iter().collect(),
            Self::Http2(http2) => http2.in_flight.iter().map(|stream| stream.due).collect(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Http1 {
    due: Option<Instant>,
    closing: bool,
    head: Vec<u8>,
    status: u16,
    rest: Rest,
}

#[derive(Clone, Copy, Debug, Default)]
enum Rest {
    #[default]
    Head,
    Length(usize),
    Chunked,
}

impl Http1 {
    fn receive(&mut self, octets: &[u8], done: &mut Vec<Done>) {
        match self.rest {
            Rest::Head => {
                self.head.extend_from_slice(octets);
                let Some(length) = head_length(&self.head) else { return };
                let head = &self.head[..length];
                self.status = status(head);
                self.closing = field(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                let rest = self.head.split_off(length);
                self.rest = match field(&self.head, "content-length") {
                    Some(length) => Rest::Length(length.parse().unwrap_or(0)),
                    None if field(&self.head, "transfer-encoding").is_some() => Rest::Chunked,
                    None => Rest::Length(0),
                };
                self.head.clear();
                self.receive(&rest, done);
            }
            Rest::Length(length) if octets.len() < length => self.rest = Rest::Length(length - octets.len()),
            Rest::Length(_) => self.end(done),
            Rest::Chunked => {
                self.head.extend_from_slice(octets);
                if self.head.ends_with(b"0\r\n\r\n") {
                    self.head.clear();
                    self.end(done);
                }
            }
        }
    }

    fn end(&mut self, done: &mut Vec<Done>) {
        self.rest = Rest::Head;
        done.extend(self.due.take().map(|due| Done { status: self.status, due }));
    }
}

/// Preface, SETTINGS with the widest window for streams, and as much for the connection (RFC 9113 §3.4, §6.5, §6.9).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff\
\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\x00\x00";

/// The last entry of HPACK's static table (RFC 7541 appendix A).
const STATIC_TABLE: usize = 61;

#[derive(Debug, Default)]
pub(crate) struct Http2 {
    in_flight: Vec<Stream>,
    next: u32,
    /// The fields that the other side knows by their index, the oldest first.
    indexed: Vec<(String, String)>,
    closing: bool,
    /// The part of a frame that has no end yet.
    incoming: Vec<u8>,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    status: u16,
    due: Instant,
}

impl Http2 {
    fn send(&mut self, request: &Request, due: Instant, out: &mut Vec<u8>) {
        // POST and https have their own entries.
        let mut block = vec![0x83, 0x87];
        self.encode(":path", request.path, &mut block);
        self.encode(":authority", "localhost", &mut block);
        for (name, value) in &request.fields {
            self.encode(name, value, &mut block);
        }
        self.encode("content-length", &request.body.len().to_string(), &mut block);
        let id = self.next * 2 + 1;
        self.next += 1;
        frame(1, 4, id, &block, out);
        frame(0, 1, id, &request.body, out);
        self.in_flight.push(Stream { id, status: 0, due });
    }

    /// One field: by its index where it was said before, or with its value. Values that differ from request to request
    /// stay out of the table, as browsers do with credentials.
    fn encode(&mut self, name: &str, value: &str, block: &mut Vec<u8>) {
        if let Some(at) = self.indexed.iter().position(|(known, same)| known == name && same == value) {
            integer(0x80, 7, STATIC_TABLE + self.indexed.len() - at, block);
            return;
        }
        let secret = matches!(name, "x-api-key" | "authorization");
        block.push(if secret { 0x10 } else { 0x40 });
        for text in [name, value] {
            integer(0, 7, text.len(), block);
            block.extend_from_slice(text.as_bytes());
        }
        if !secret {
            self.indexed.push((name.to_owned(), value.to_owned()));
        }
    }

    fn receive(&mut self, octets: &[u8], out: &mut Vec<u8>, done: &mut Vec<Done>) {
        let mut all = std::mem::take(&mut self.incoming);
        all.extend_from_slice(octets);
        let mut rest = all.as_slice();
        while let Some((head, after)) = rest.split_at_checked(9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            let id = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            self.frame(head[3], head[4], id, payload, out, done);
            rest = after;
        }
        let taken = all.len() - rest.len();
        all.drain(..taken);
        self.incoming = all;
    }

    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8], out: &mut Vec<u8>, done: &mut Vec<Done>) {
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        let stream = self.in_flight.iter().position(|stream| stream.id == id);
        match (kind, stream) {
            (1, Some(at)) => {
                // A size update of the table may come first; 200 has an entry, and any other status is a fault here.
                let first = payload.iter().find(|octet| **octet & 0xe0 != 0x20);
                self.in_flight[at].status = if first == Some(&0x88) { 200 } else { 0 };
            }
            (3, Some(at)) => self.in_flight[at].status = 0,
            (4, _) if flags & ACK == 0 => frame(4, ACK, 0, &[], out),
            (6, _) if flags & ACK == 0 => frame(6, ACK, 0, payload, out),
            (7, _) => self.closing = true,
            _ => {}
        }
        if let Some(at) = stream
            && (kind == 3 || kind <= 1 && flags & END_STREAM != 0)
        {
            let stream = self.in_flight.swap_remove(at);
            done.push(Done { status: stream.status, due: stream.due });
        }
    }
}

/// An HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).expect("a short payload");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

/// An HPACK integer behind a pattern (RFC 7541 §5.1).
fn integer(pattern: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    let octet = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    if value < most {
        out.push(pattern | octet(value));
        return;
    }
    out.push(pattern | octet(most));
    let mut rest = value - most;
    while rest >= 128 {
        out.push(octet(rest % 128) | 128);
        rest /= 128;
    }
    out.push(octet(rest));
}
