//! HTTP/2 frame by frame (RFC 9113 §4, §6): what no library would send, and what really comes back.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;
use crate::client::Client;

/// What every client begins with (RFC 9113 §3.4); its settings follow.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames (RFC 9113 §6).
pub mod flag {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const NONE: u8 = 0;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 32;
    /// A whole request without a body.
    pub const WHOLE: u8 = END_STREAM | END_HEADERS;
}

/// Settings (RFC 9113 §6.5.2).
pub mod setting {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
}

/// Why a stream or a connection was ended (RFC 9113 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the RFC")]
pub enum Code {
    NoError,
    ProtocolError,
    InternalError,
    FlowControlError,
    SettingsTimeout,
    StreamClosed,
    FrameSizeError,
    RefusedStream,
    Cancel,
    CompressionError,
    ConnectError,
    EnhanceYourCalm,
    InadequateSecurity,
    Http11Required,
}

impl Code {
    const ALL: [Self; 14] = [
        Self::NoError,
        Self::ProtocolError,
        Self::InternalError,
        Self::FlowControlError,
        Self::SettingsTimeout,
        Self::StreamClosed,
        Self::FrameSizeError,
        Self::RefusedStream,
        Self::Cancel,
        Self::CompressionError,
        Self::ConnectError,
        Self::EnhanceYourCalm,
        Self::InadequateSecurity,
        Self::Http11Required,
    ];

    pub(crate) fn read(octets: &[u8]) -> Self {
        let number = octets.iter().fold(0, |number, octet| number << 8 | usize::from(*octet));
        *Self::ALL.get(number).unwrap_or_else(|| panic!("{number} is no code of HTTP/2"))
    }
}

/// One frame: three octets of length, type, flags, stream, payload.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a payload that fits");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
#[must_use]
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, flag::NONE, 0, payload)
}

/// A `WINDOW_UPDATE` frame.
#[must_use]
pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, flag::NONE, stream, by.to_be_bytes())
}

/// A `RST_STREAM` frame with CANCEL.
#[must_use]
pub fn reset(stream: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, flag::NONE, stream, 8_u32.to_be_bytes())
}

/// A header field as a literal without indexing and without Huffman coding (RFC 7541 §6.2.2), so that any
/// octets can be sent as they are.
#[must_use]
pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0][..], &string(name.as_ref()), &string(value.as_ref())].concat()
}

/// Header fields, one after the other.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A string literal (RFC 7541 §5.2).
#[must_use]
pub fn string(octets: &[u8]) -> Vec<u8> {
    [&integer(0, 7, octets.len())[..], octets].concat()
}

/// An integer with a prefix of so many bits, under the bits of `first` above them (RFC 7541 §5.1).
#[must_use]
pub fn integer(first: u8, prefix: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    let low = |value: usize| u8::try_from(value).expect("it was cut to an octet");
    if value < most {
        return vec![first | low(value)];
    }
    let mut octets = vec![first | low(most)];
    value -= most;
    while value > 127 {
        octets.push(low(value & 127) | 128);
        value >>= 7;
    }
    octets.push(low(value));
    octets
}

/// One frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// How a stream or its connection ended, whichever was first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a whole answer.
    Answered(Answered),
    /// The stream alone, with `RST_STREAM`.
    Reset(Code),
    /// The connection, with GOAWAY.
    GoAway(Code),
    /// The connection, without a word.
    Closed,
}

/// An answer, so far as it can be read without decompressing all of its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The status of its final head.
    pub status: u16,
    /// Heads before that (1xx).
    pub interim: Vec<u16>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answered {
    /// The word that says what is wrong, of a problem (RFC 9457); empty for other answers.
    #[must_use]
    pub fn slug(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let kind = body["type"].as_str().unwrap_or_default();
        kind.strip_prefix("urn:modelgate:problem:").unwrap_or_default().to_owned()
    }
}

/// A connection, and what was read ahead from it.
#[derive(Debug)]
pub struct Frames<S = TlsStream<TcpStream>> {
    stream: S,
    buffer: Vec<u8>,
}

impl Frames {
    /// Over TLS, to where the client goes. Nothing is sent yet.
    pub async fn open(client: &Client) -> Self {
        Self::over(client.tls().await)
    }

    /// The same, begun with empty settings.
    pub async fn begin(client: &Client) -> Self {
        let mut frames = Self::open(client).await;
        frames.send([PREFACE, &settings(&[])].concat()).await.expect("a new connection takes what is sent");
        frames
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    /// Over a stream that is there already.
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The stream below.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Sends these octets.
    ///
    /// # Errors
    /// If the other side has closed.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(octets.as_ref()).await?;
        self.stream.flush().await
    }

    /// The next frame; `None` where the connection has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, id @ ..] = &self.buffer[..]
                && let Some((id, _)) = id.split_first_chunk::<4>()
            {
                let end = 9 + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
                if self.buffer.len() >= end {
                    let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes(*id));
                    let payload = self.buffer.drain(..end).skip(9).collect();
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            // However it ends, what came before it counts.
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
            if read.expect("something comes, or the end").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads on until this stream or the connection has ended.
    pub async fn ended(&mut self, stream: u32) -> Ended {
        let mut answer = Answered::default();
        while let Some(frame) = self.next().await {
            match frame.kind {
                kind::GOAWAY => return Ended::GoAway(Code::read(&frame.payload[4..8])),
                _ if frame.stream != stream => continue,
                kind::RST_STREAM => return Ended::Reset(Code::read(&frame.payload)),
                kind::HEADERS => {
                    let status = status(&frame.payload);
                    if (100..200).contains(&status) { answer.interim.push(status) } else { answer.status = status }
                }
                kind::DATA => answer.body.extend_from_slice(&frame.payload),
                _ => continue,
            }
            if frame.flags & flag::END_STREAM != 0 {
                return Ended::Answered(answer);
            }
        }
        Ended::Closed
    }

    /// Reads on until the connection has ended, and gives back the last GOAWAY's code.
    pub async fn goodbye(&mut self) -> Option<Code> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == kind::GOAWAY {
                code = Some(Code::read(&frame.payload[4..8]));
            }
        }
        code
    }
}

/// The status, which is the first field of an answer's head: indexed, or a literal with an indexed name (RFC 7541
/// §6.1, §6.2, Appendix A).
fn status(block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let block = match block {
        // A change of the table's size stands before it.
        [first, rest @ ..] if first & 0xe0 == 0x20 => rest,
        _ => block,
    };
    match block {
        [first @ 0x88..=0x8e, ..] => INDEXED[usize::from(first - 0x88)],
        [0x48 | 0x08 | 0x18, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |n, digit| n * 10 + u16::from(*digit - b'0')),
        [0x48 | 0x08 | 0x18, length, rest @ ..] if length & 0x80 != 0 => {
            let bits =
                rest.iter().take(usize::from(length & 0x7f)).fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet));
            digits(bits, u32::from(length & 0x7f) * 8)
        }
        _ => panic!("no status at the beginning of {block:?}"),
    }
}

/// Three digits in Huffman code: 0 to 2 have five bits, 3 to 9 six (RFC 7541 Appendix B).
fn digits(bits: u32, length: u32) -> u16 {
    let mut left = length;
    let mut number = 0;
    for _ in 0..3 {
        let five = bits >> (left - 5) & 0x1f;
        let (digit, width) = if five < 3 { (five, 5) } else { ((bits >> (left - 6) & 0x3f) - 0x19 + 3, 6) };
        number = number * 10 + u16::try_from(digit).expect("a digit");
        left -= width;
    }
    number
}
