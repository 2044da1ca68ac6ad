//! One connection to a worker, while one exchange is on it: our request out, its answer's head back.
//!
//! Source: RFC 9112 §6, §7, §9.3. The exchange is driven by the task that serves the client, so nothing is
//! handed between tasks, and a client that goes takes the connection with it. Request and answer may
//! overlap. The connection is used again only when both ended where they said they would.

use std::cell::Cell;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use http_body::Body as _;
use tokio::io::{AsyncReadExt as _, AsyncWrite};

use super::Fault;
use super::chunks::{Chunks, Followed};
use super::connect::Socket;
use super::headers::passes_back;
use super::outgoing::{ClientFault, Outgoing};

/// Pieces of a body up to this go out with what is before them, in one piece.
const GATHERED: usize = 16 << 10;
/// How much is read at once, at first.
const READ: usize = 8 << 10;
/// How much is read at once of an answer that is long.
const READ_MORE: usize = 64 << 10;
/// The most header fields of an answer.
pub(super) const MOST_HEADERS: usize = 100;

/// The connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    /// What was read and is not used yet.
    input: BytesMut,
    /// Octets of interim answers before the final one.
    interim: usize,
    /// Whether a WebSocket is asked for.
    switches: bool,
    born: Instant,
}

/// A request on its way out.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and most of them can hold together")]
pub(super) struct Upload {
    /// Octets to be written: the head, framing, small pieces of the body.
    output: Vec<u8>,
    /// How many of them are the head.
    head: usize,
    written: usize,
    /// A large piece of the body, written after `output`.
    piece: Bytes,
    body: Outgoing,
    /// The body's length, as it was before any of it was taken; without one it is chunked.
    length: Option<u64>,
    /// All of the body is in `output` and `piece`.
    gathered: bool,
    /// Something was written since this was asked last.
    moved: bool,
    /// The client is what is waited for.
    awaits_client: bool,
    /// An octet was taken by the kernel.
    begun: bool,
}

/// Why a request can't go out.
pub(super) enum Unsent {
    /// The connection to the worker.
    Worker(io::Error),
    /// The client's body.
    Client(ClientFault),
}

/// How an answer's body ends.
#[derive(Debug)]
pub(super) enum Framing {
    /// So many octets are left.
    Length(u64),
    Chunked(Chunks),
    /// With the connection.
    Close,
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the worker keeps the connection.
    pub(super) keeps: bool,
}

thread_local! {
    /// Memory for the next request.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Drop for Upload {
    fn drop(&mut self) {
        // What a long request needed is not kept for the short ones that may follow.
        if self.output.capacity() <= 2 * GATHERED {
            self.output.clear();
            // Where the thread is ending, nobody needs it.
            let _ = SPARE.try_with(|spare| spare.set(std::mem::take(&mut self.output)));
        }
    }
}

impl Upload {
    /// A request whose head is still to be written.
    pub(super) fn new(body: Outgoing) -> Self {
        let mut output = SPARE.take();
        output.reserve(1024);
        Self {
            output,
            head: 0,
            written: 0,
            piece: Bytes::new(),
            gathered: body.is_end_stream(),
            length: body.size_hint().exact(),
            body,
            moved: false,
            awaits_client: false,
            begun: false,
        }
    }

    /// Writes the head, to which the framing is added here. Again for another worker, while nothing was sent: what was
    /// taken of the body for the one before stays behind it.
    pub(super) fn head(&mut self, method: &Method, write: impl FnOnce(&mut Vec<u8>)) {
        let taken = self.output.split_off(self.head);
        let output = &mut self.output;
        output.clear();
        write(output);
        match self.length {
            // RFC 9110 §8.6: a length of 0 is said where the method's meaning has a body.
            Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
            Some(length) => {
                output.extend_from_slice(b"content-length: ");
                output.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                output.extend_from_slice(b"\r\n");
            }
            None => output.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        output.extend_from_slice(b"\r\n");
        self.head = output.len();
        output.extend_from_slice(&taken);
    }

    /// Whether the kernel has taken any of it.
    pub(super) fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether all of it was written.
    pub(super) fn is_sent(&self) -> bool {
        self.gathered && self.written == self.output.len() && self.piece.is_empty()
    }

    /// Whether all of the client's body was read.
    pub(super) fn is_gathered(&self) -> bool {
        self.gathered
    }

    /// Whether the client is what is waited for.
    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client
    }

    /// Whether something was written since this was asked last.
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Takes from the body what is there, up to a piece that is worth a write of its own.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), ClientFault> {
        self.awaits_client = false;
        while !self.gathered && self.piece.is_empty() && self.output.len() - self.written < GATHERED {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => {
                    self.awaits_client = true;
                    break;
                }
                Poll::Ready(Some(frame)) => {
                    if let Ok(data) = frame?.into_data() {
                        self.add(data);
                    }
                    self.gathered = self.length.is_some() && self.body.is_end_stream();
                }
                Poll::Ready(None) => {
                    self.gathered = true;
                    if self.length.is_none() {
                        self.output.extend_from_slice(b"0\r\n\r\n");
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        if self.length.is_none() {
            let _ = write!(self.output, "{:X}\r\n", data.len());
        }
        // The end of a chunk belongs behind its data, so a chunk is gathered whatever its size.
        if self.length.is_none() || data.len() <= GATHERED {
            self.output.extend_from_slice(&data);
        } else {
            self.piece = data;
        }
        if self.length.is_none() {
            self.output.extend_from_slice(b"\r\n");
        }
    }

    fn took(&mut self, count: usize) {
        self.moved = true;
        self.begun = true;
        let head = count.min(self.output.len() - self.written);
        self.written += head;
        self.piece.advance(count - head);
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
            self.head = 0;
        }
    }
}

impl Link {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, input: BytesMut::new(), interim: 0, switches: false, born: Instant::now() }
    }

    /// Lets the worker switch to WebSocket.
    pub(super) fn may_switch(&mut self) {
        self.switches = true;
    }

    /// What is left of the connection when it has switched, and what came on it since.
    pub(super) fn switched(&mut self) -> (&mut Socket, Bytes) {
        (&mut self.socket, self.input.split().freeze())
    }

    /// When it was made.
    pub(super) fn born(&self) -> Instant {
        self.born
    }

    /// Whether the connection, with nothing on it, is in doubt.
    pub(super) fn is_stirred(&mut self, rested: bool) -> bool {
        !self.input.is_empty() || self.socket.is_stirred(rested)
    }

    /// Whether the answer on it has ended and nothing came after it.
    pub(super) fn is_quiet(&self) -> bool {
        self.input.is_empty()
    }

    /// How much was read and is not used yet.
    pub(super) fn buffered(&self) -> usize {
        self.input.len()
    }

    /// Makes it ready for the next request.
    pub(super) fn settle(&mut self) {
        self.interim = 0;
        // A long answer's buffer is not kept for the short ones that may follow.
        if self.input.capacity() > 2 * READ {
            self.input = BytesMut::new();
        }
    }

    /// Sends what can be sent. Ready when all of the request is out.
    pub(super) fn poll_send(&mut self, upload: &mut Upload, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            upload.gather(cx).map_err(Unsent::Client)?;
            let output = upload.output.get(upload.written..).unwrap_or_default();
            if output.is_empty() && upload.piece.is_empty() {
                let flushed = ready!(Pin::new(&mut self.socket).poll_flush(cx)).map_err(Unsent::Worker);
                return if upload.gathered { Poll::Ready(flushed) } else { Poll::Pending };
            }
            let socket = Pin::new(&mut self.socket);
            let written = match (output.is_empty(), upload.piece.is_empty()) {
                (_, true) => socket.poll_write(cx, output),
                (true, _) => socket.poll_write(cx, &upload.piece),
                _ => socket.poll_write_vectored(cx, &[IoSlice::new(output), IoSlice::new(&upload.piece)]),
            };
            match ready!(written) {
                Ok(0) => return Poll::Ready(Err(Unsent::Worker(io::ErrorKind::WriteZero.into()))),
                Ok(count) => upload.took(count),
                Err(error) => return Poll::Ready(Err(Unsent::Worker(error))),
            }
        }
    }

    /// Reads more; `false` at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<bool>> {
        self.input.reserve(most);
        pin!(self.socket.read_buf(&mut self.input)).poll(cx).map_ok(|count| count > 0)
    }

    /// Reads the head of the final answer to a request of this method. `max` bounds it, and all that is sent
    /// before it, in octets.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method, max: usize) -> Poll<Result<Head, Fault>> {
        loop {
            // A head is whole with its empty line; httparse takes a bare line feed for a line's end too.
            let length = head_length(&self.input);
            if length.unwrap_or(self.input.len()) + self.interim > max {
                return Poll::Ready(Err(Fault::Broken("its answer's head is too large".into())));
            }
            if let Some(length) = length {
                let head = parse(self.input.get(..length).unwrap_or_default(), method, self.switches)?;
                self.input.advance(length);
                if let Some(head) = head {
                    return Poll::Ready(Ok(head));
                }
                // Who asked for nothing of the kind is told nothing of the kind.
                self.interim += length;
                continue;
            }
            match ready!(self.poll_more(cx, READ)) {
                Ok(true) => {}
                Ok(false) if self.input.is_empty() => {
                    return Poll::Ready(Err(Fault::Broken("it closed the connection without an answer".into())));
                }
                Ok(false) => return Poll::Ready(Err(Fault::Broken("its answer's head broke off".into()))),
                Err(error) => return Poll::Ready(Err(Fault::Broken(error.to_string()))),
            }
        }
    }

    /// The next part of an answer's body.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Option<Result<Bytes, Fault>>> {
        let broken = |reason: &str| Poll::Ready(Some(Err(Fault::Broken(reason.to_owned()))));
        loop {
            let there = self.input.len();
            match framing {
                Framing::Length(0) => return Poll::Ready(None),
                _ if there == 0 => {}
                Framing::Length(left) => {
                    let count = usize::try_from(*left).map_or(there, |left| left.min(there));
                    *left -= count as u64;
                    return Poll::Ready(Some(Ok(self.input.split_to(count).freeze())));
                }
                Framing::Close => return Poll::Ready(Some(Ok(self.input.split().freeze()))),
                Framing::Chunked(chunks) => match chunks.follow(&self.input) {
                    Followed::Framing(count) => {
                        self.input.advance(count);
                        if chunks.is_end() {
                            *framing = Framing::Length(0);
                        }
                        continue;
                    }
                    Followed::Data(count) => return Poll::Ready(Some(Ok(self.input.split_to(count).freeze()))),
                    Followed::More => {}
                    Followed::Broken(reason) => return broken(reason),
                },
            }
            let most = if matches!(framing, Framing::Length(left) if *left < READ as u64) { READ } else { READ_MORE };
            match ready!(self.poll_more(cx, most)) {
                Ok(true) => {}
                Ok(false) if matches!(framing, Framing::Close) => {
                    *framing = Framing::Length(0);
                    return Poll::Ready(None);
                }
                Ok(false) => return broken("its answer broke off"),
                Err(error) => return Poll::Ready(Some(Err(Fault::Broken(error.to_string())))),
            }
        }
    }

    /// The rest of an answer whose length is known and small, whole.
    pub(super) fn poll_whole(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<Bytes, Fault>> {
        while self.input.len() < length {
            match ready!(self.poll_more(cx, length)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(Err(Fault::Broken("its answer broke off".into()))),
                Err(error) => return Poll::Ready(Err(Fault::Broken(error.to_string()))),
            }
        }
        // A copy is cheaper than sharing the buffer, which is used again for the next answer.
        let whole = self.input.get(..length).map(Bytes::copy_from_slice).unwrap_or_default();
        self.input.advance(length);
        Poll::Ready(Ok(whole))
    }
}

/// The length of a head that is whole.
fn head_length(input: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', input).find_map(|at| match input.get(at + 1..) {
        Some([b'\r', b'\n', ..]) => Some(at + 3),
        Some([b'\n', ..]) => Some(at + 2),
        _ => None,
    })
}

/// Reads a head that is whole; `None` for an interim answer.
fn parse(input: &[u8], method: &Method, switches: bool) -> Result<Option<Head>, Fault> {
    let broken = |reason: &str| Fault::Broken(reason.to_owned());
    let mut fields = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut answer = httparse::Response::new(&mut []);
    let read = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut answer, input, &mut fields)
        .map_err(|error| Fault::Broken(format!("its answer is not HTTP: {error}")))?;
    // httparse passes over empty lines at the beginning, behind which nobody here looks for a head.
    if read != httparse::Status::Complete(input.len()) || !input.starts_with(b"HTTP/") {
        return Err(broken("its answer is not HTTP: it does not begin with a status line"));
    }
    // RFC 9110 §15: there is none above 599.
    let code = answer.code.filter(|code| *code < 600);
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(|| broken("its status is none"))?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let to_websocket = |field: &&httparse::Header<'_>| {
            field.name.eq_ignore_ascii_case("upgrade") && field.value.eq_ignore_ascii_case(b"websocket")
        };
        if !switches || !answer.headers.iter().any(|field| to_websocket(&field)) {
            return Err(broken("it switched protocols unasked"));
        }
    } else if status.is_informational() {
        return Ok(None);
    }
    let http11 = answer.version == Some(1);
    // RFC 9112 §9.3.
    let (mut keeps, mut closes) = (http11, false);
    let mut length = None;
    let mut chunked = false;
    let mut named: Vec<&[u8]> = Vec::new();
    for field in &*answer.headers {
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = field.value.len() <= 18 && field.value.iter().all(u8::is_ascii_digit);
            let value =
                std::str::from_utf8(field.value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
            let value = value.ok_or_else(|| broken("its Content-Length is not a number"))?;
            if length.replace(value).is_some() {
                return Err(broken("it has Content-Length twice"));
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !http11 || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(broken("its Transfer-Encoding is not chunked alone"));
            }
            chunked = true;
        } else if field.name.eq_ignore_ascii_case("connection") {
            for name in field.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                if name.eq_ignore_ascii_case(b"close") {
                    closes = true;
                } else if name.eq_ignore_ascii_case(b"keep-alive") {
                    keeps = true;
                } else if !name.is_empty() {
                    HeaderName::from_bytes(name).map_err(|_| broken("its Connection can't be read"))?;
                    named.push(name);
                }
            }
        }
    }
    let bodiless = *method == Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS);
    let framing = match (chunked, length) {
        (true, Some(_)) => return Err(broken("it has Content-Length and Transfer-Encoding")),
        (true, None) if status == StatusCode::NO_CONTENT => return Err(broken("it has a coding and can have no body")),
        _ if bodiless => Framing::Length(0),
        (true, None) => Framing::Chunked(Chunks::default()),
        (false, Some(length)) => Framing::Length(length),
        (false, None) => {
            closes = true;
            Framing::Close
        }
    };
    // Room for what is added on the way back, so that the table does not grow.
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 14);
    for field in &*answer.headers {
        let is_named = named.iter().any(|name| name.eq_ignore_ascii_case(field.name.as_bytes()));
        if is_named || !passes_back(field.name, field.value) {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| broken("a header's name is malformed"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| broken("a header's value is malformed"))?;
        headers.append(name, value);
    }
    if let (true, Some(length)) = (*method == Method::HEAD, length) {
        // What a GET would have had (RFC 9110 §8.6).
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(Some(Head { status, headers, framing, keeps: keeps && !closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: a connection that broke before its first octet took the body with it, and the next worker got none.
    #[test]
    fn a_head_that_is_written_again_keeps_the_body_behind_it() {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for length in [3, GATHERED + 1] {
            let body = Bytes::from("x".repeat(length));
            let mut upload = Upload::new(Outgoing::Whole(Some(body.clone())));
            for host in ["a", "bb"] {
                upload.head(&Method::POST, |out| out.extend_from_slice(format!("host: {host}\r\n").as_bytes()));
                upload.gather(&mut cx).expect("a whole body");
                let sent = [&upload.output[..], &upload.piece].concat();
                let head = format!("host: {host}\r\ncontent-length: {length}\r\n\r\n");
                assert_eq!(sent, [head.as_bytes(), &body].concat(), "{host}");
            }
        }
    }
}
