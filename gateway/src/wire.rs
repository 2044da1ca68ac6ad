//! HTTP/1 octets as they arrive, read strictly and ahead of hyper.
//!
//! Source: RFC 9112 §2.2, §3, §5, §6, §7.1. hyper is lenient where another reader could see something
//! else (a bare line feed, both framings at once, a fragment) and answers what it refuses without a word.
//! This follows the same stream in place, line by line, without copying it: what is wrong with a head is
//! found before hyper sees its end, so it never becomes a request, and gets an answer that says why.
//! Pure: octets in, a verdict out.

use crate::types::octets::first_control;

/// What bounds a head.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Octets of a head, request line included.
    pub head: usize,
    /// Header fields.
    pub headers: usize,
}

/// The longest request target.
pub const MOST_TARGET: usize = 8 << 10;
/// The longest line of chunk framing or trailers.
const MOST_CHUNK_LINE: usize = 256;
/// The most trailer fields, which are read and dropped.
const MOST_TRAILERS: usize = 32;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It breaks the grammar, or can be framed in two ways.
    Malformed(&'static str),
    /// A transfer coding other than `chunked`.
    Coding,
    /// A target that is longer than any here.
    TargetTooLong,
    /// More octets or fields than are taken.
    HeadTooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    RequestLine,
    Headers,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers(usize),
    /// Something is wrong; nothing that follows is passed on.
    Ended,
}

/// One connection's stream.
#[derive(Debug)]
pub struct Wire {
    bounds: Bounds,
    state: State,
    fault: Option<Fault>,
    /// The beginning of a line whose end has not come yet.
    carry: Vec<u8>,
    head: Head,
}

/// What is known of the head that is being read.
#[derive(Debug, Default)]
struct Head {
    octets: usize,
    headers: usize,
    http10: bool,
    length: Option<u64>,
    codings: usize,
}

impl Wire {
    /// A stream at its beginning.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: State::RequestLine, fault: None, carry: Vec::new(), head: Head::default() }
    }

    /// Why the head that is being read is refused, if it is.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether the last message is whole and no other has begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state == State::RequestLine && self.head.octets == 0
    }

    /// Whether the beginning of a head has come, and not its end.
    #[must_use]
    pub fn is_in_head(&self) -> bool {
        self.state == State::Headers || (self.state == State::RequestLine && self.head.octets > 0)
    }

    /// Whether nothing more is to be passed on.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether the chunks of a body are broken: what is wrong ends the request that they belong to, and
    /// there is no other head to refuse.
    #[must_use]
    pub fn is_body_broken(&self) -> bool {
        self.state == State::Ended && self.fault.is_none()
    }

    /// Follows the next octets, and gives back how many of them may be passed on: all, but where
    /// something is wrong.
    pub fn follow(&mut self, octets: &[u8]) -> usize {
        let mut at = 0;
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
            let length = match self.state {
                State::Ended => return at,
                State::Body(left) => self.skip(left, rest.len(), State::Body, State::RequestLine),
                State::ChunkData(left) => self.skip(left, rest.len(), State::ChunkData, State::ChunkEnd),
                State::RequestLine | State::Headers => match self.head_line(rest) {
                    Ok(length) => length,
                    Err(fault) => {
                        self.state = State::Ended;
                        self.fault = Some(fault);
                        return at;
                    }
                },
                State::ChunkSize | State::ChunkEnd | State::Trailers(_) => {
                    let Ok(length) = self.line(rest) else {
                        self.state = State::Ended;
                        return at;
                    };
                    length
                }
            };
            at += length;
        }
        octets.len()
    }

    /// Passes over up to `left` octets of content.
    fn skip(&mut self, left: u64, there: usize, more: fn(u64) -> State, done: State) -> usize {
        let taken = usize::try_from(left).map_or(there, |left| left.min(there));
        let left = left - taken as u64;
        self.state = if left == 0 { done } else { more(left) };
        taken
    }

    /// Reads one line of a head. Most are whole and plain, and are read in one go.
    fn head_line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if self.state != State::Headers || !self.carry.is_empty() {
            return self.line(rest);
        }
        let plain = plain_field(rest);
        let length = match plain {
            Some((_, _, length)) => length,
            None if rest.starts_with(b"\r\n") => 2,
            None => return self.line(rest),
        };
        self.head.octets += length;
        if self.head.octets > self.bounds.head {
            return Err(Fault::HeadTooLarge);
        }
        match plain {
            None => self.state = self.end_of_head()?,
            Some((name, value, _)) => {
                self.head.headers += 1;
                if self.head.headers > self.bounds.headers {
                    return Err(Fault::HeadTooLarge);
                }
                self.head.framing(name, value)?;
            }
        }
        Ok(length)
    }

    /// Reads one line, or keeps its beginning until the rest comes.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let end = memchr::memchr(b'\n', rest);
        let length = end.map_or(rest.len(), |end| end + 1);
        let piece = rest.get(..length).unwrap_or(rest);
        let in_head = matches!(self.state, State::RequestLine | State::Headers);
        if in_head {
            self.head.octets += length;
            if self.head.octets > self.bounds.head {
                let target = self.state == State::RequestLine;
                return Err(if target { Fault::TargetTooLong } else { Fault::HeadTooLarge });
            }
        } else if self.carry.len() + length > MOST_CHUNK_LINE {
            return Err(Fault::Malformed("a line of its chunks is too long"));
        }
        if end.is_none() {
            self.carry.extend_from_slice(piece);
            return Ok(length);
        }
        if self.carry.is_empty() {
            self.whole_line(piece)?;
        } else {
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(piece);
            self.whole_line(&line)?;
            line.clear();
            self.carry = line;
        }
        Ok(length)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Fault::Malformed("a line ends without a carriage return"));
        };
        self.state = match self.state {
            // RFC 9112 §2.2: an empty line before a request is passed over; one after trailers ends the message.
            State::RequestLine | State::Trailers(_) if line.is_empty() => State::RequestLine,
            State::RequestLine => {
                self.head.http10 = request_line(line)?;
                State::Headers
            }
            State::Headers if line.is_empty() => self.end_of_head()?,
            State::Headers => {
                self.head.headers += 1;
                if self.head.headers > self.bounds.headers {
                    return Err(Fault::HeadTooLarge);
                }
                let (name, value) = field(line)?;
                self.head.framing(name, value)?;
                State::Headers
            }
            State::ChunkSize => match chunk_size(line)? {
                0 => State::Trailers(0),
                size => State::ChunkData(size),
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => return Err(Fault::Malformed("a chunk is longer than its size")),
            State::Trailers(count) if count < MOST_TRAILERS => {
                field(line)?;
                State::Trailers(count + 1)
            }
            State::Trailers(_) => return Err(Fault::HeadTooLarge),
            State::Body(_) | State::ChunkData(_) | State::Ended => self.state,
        };
        Ok(())
    }

    fn end_of_head(&mut self) -> Result<State, Fault> {
        let head = std::mem::take(&mut self.head);
        match (head.codings, head.length) {
            (0, None | Some(0)) => Ok(State::RequestLine),
            (0, Some(length)) => Ok(State::Body(length)),
            (_, Some(_)) => Err(Fault::Malformed("it has Content-Length and Transfer-Encoding")),
            (1, None) if head.http10 => Err(Fault::Malformed("HTTP/1.0 has no Transfer-Encoding")),
            (1, None) => Ok(State::ChunkSize),
            (_, None) => Err(Fault::Malformed("it has Transfer-Encoding twice")),
        }
    }
}

impl Head {
    /// Notes what a field says of how the body is framed.
    fn framing(&mut self, name: &[u8], value: &[u8]) -> Result<(), Fault> {
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Fault::Malformed("it has Content-Length twice"));
            }
            let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|value| value.parse().ok());
            self.length = Some(length.ok_or(Fault::Malformed("its Content-Length is not a number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(coding(value));
            }
        }
        Ok(())
    }
}

/// What is wrong with transfer codings other than `chunked` alone (RFC 9112 §6.1).
fn coding(value: &[u8]) -> Fault {
    let mut names = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
    if !names.next_back().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
        return Fault::Malformed("its last transfer coding is not chunked");
    }
    let mut known = false;
    for name in names {
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            return Fault::Malformed("its Transfer-Encoding is not a list of codings");
        }
        known |= name.eq_ignore_ascii_case(b"chunked");
    }
    if known { Fault::Malformed("it is chunked twice") } else { Fault::Coding }
}

/// A request line (RFC 9112 §3); gives back whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Fault> {
    let parts = cut(line, b' ').and_then(|(method, rest)| Some((method, cut(rest, b' ')?)));
    let Some((method, (target, version))) = parts.filter(|(_, (_, version))| !version.contains(&b' ')) else {
        return Err(Fault::Malformed("its request line is not method, target and version with one space between"));
    };
    if method.is_empty() || !are_tokens(method) {
        return Err(Fault::Malformed("its method is not a token"));
    }
    if target.len() > MOST_TARGET {
        return Err(Fault::TargetTooLong);
    }
    if !is_target(target) {
        return Err(Fault::Malformed("its target is malformed, has a character that must be escaped, or a fragment"));
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        _ => Err(Fault::Malformed("its version is not HTTP/1.1")),
    }
}

/// A request target that hyper takes too (RFC 9112 §3.2). Where a quotation mark or a grave
/// accent may stand is hyper's choice; the normal form of paths refuses both.
fn is_target(target: &[u8]) -> bool {
    let written = |b: u8| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'#');
    if !target.iter().fold(true, |good, &b| good & written(b)) {
        return false;
    }
    if memchr::memchr2(b'`', b'"', target).is_some() {
        let (path, query) = cut(target, b'?').unwrap_or((target, b""));
        if path.contains(&b'`') || query.contains(&b'"') {
            return false;
        }
    }
    match target.first() {
        None => false,
        Some(b'/') => true,
        Some(_) => http::Uri::try_from(target).is_ok_and(|uri| {
            uri.path().starts_with('/') || target == b"*" || uri.scheme().is_none() && uri.port().is_some()
        }),
    }
}

/// A header or trailer field (RFC 9112 §5): name and value without the white space around it.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Fault::Malformed("a header is folded over two lines"));
    }
    let (name, value) = cut(line, b':').ok_or(Fault::Malformed("a header has no colon"))?;
    if name.is_empty() || !are_tokens(name) {
        return Err(Fault::Malformed("a header's name is not a token, or is followed by a space"));
    }
    // Without a way out in between, so that many octets are looked at in one step.
    if !value.iter().fold(true, |good, &b| good & is_text(b)) {
        return Err(Fault::Malformed("a header's value has a control character"));
    }
    Ok((name, value.trim_ascii()))
}

/// The field at the beginning, where it is whole and has nothing but what nearly all have: its name, its value without
/// the white space around it, and the line's length. `None` says nothing about it.
fn plain_field(rest: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let (name, value) = rest.split_at_checked(rest.iter().position(|&b| !is_token_octet(b))?)?;
    let value = value.strip_prefix(b":").filter(|_| !name.is_empty())?;
    let (value, end) = value.split_at_checked(first_control(value)?)?;
    end.starts_with(b"\r\n").then(|| (name, value.trim_ascii(), name.len() + 1 + value.len() + 2))
}

/// A chunk's size (RFC 9112 §7.1). Extensions are held to their grammar, and mean nothing here.
pub(crate) fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    const WRONG: Fault = Fault::Malformed("a chunk's size is not a hexadecimal number");
    let (size, extensions) = line.split_at(line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len()));
    if !are_extensions(extensions) {
        return Err(Fault::Malformed("a chunk's size or extension is malformed"));
    }
    // 15 digits are more than any body here, and can't overflow.
    if !(1..=15).contains(&size.len()) {
        return Err(WRONG);
    }
    let size = std::str::from_utf8(size).map_err(|_| WRONG)?;
    u64::from_str_radix(size, 16).map_err(|_| WRONG)
}

/// Whether this is a row of `;name`, `;name=token` and `;name="quoted"`, with blanks where there may be some
/// (RFC 9112 §7.1.1).
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some((b';', after)) = after_blanks(rest).split_first() else { return false };
        let Some(after) = after_token(after_blanks(after)) else { return false };
        rest = after;
        let Some((b'=', value)) = after_blanks(rest).split_first() else { continue };
        let after = match after_blanks(value).split_first() {
            Some((b'"', quoted)) => after_quoted(quoted),
            _ => after_token(after_blanks(value)),
        };
        let Some(after) = after else { return false };
        rest = after;
    }
    true
}

fn after_blanks(mut rest: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t', after)) = rest.split_first() {
        rest = after;
    }
    rest
}

/// What comes after a token, where there is one.
fn after_token(rest: &[u8]) -> Option<&[u8]> {
    let end = rest.iter().position(|&b| !is_token(b)).unwrap_or(rest.len());
    rest.get(end..).filter(|_| end > 0)
}

/// What comes after the end of a quoted string (RFC 9110 §5.6.4) whose beginning was read.
fn after_quoted(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = match byte {
            b'"' => return Some(after),
            b'\\' => after.split_first().filter(|&(&b, _)| is_text(b))?.1,
            byte if is_text(byte) => after,
            _ => return None,
        };
    }
}

/// What is before and behind the first such octet.
fn cut(octets: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, behind) = octets.split_at_checked(memchr::memchr(at, octets)?)?;
    Some((before, behind.get(1..)?))
}

/// Which octets a value has (RFC 9110 §5.5).
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether all octets are a token's.
pub(crate) fn are_tokens(octets: &[u8]) -> bool {
    octets.iter().all(|&b| is_token_octet(b))
}

/// The same as [`is_token`], by one look instead of many comparisons.
fn is_token_octet(byte: u8) -> bool {
    #[expect(clippy::indexing_slicing, reason = "the compiler itself does it, and would stop")]
    static TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte as usize] = is_token(byte);
            byte += 1;
        }
        table
    };
    TOKEN.get(usize::from(byte)).is_some_and(|&token| token)
}

/// Which octets a token has (RFC 9110 §5.6.2).
#[must_use]
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::{Bounds, Fault, Wire};
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { head: 16 << 10, headers: 8 };

    /// Follows a stream whole; gives back the fault and what was passed on.
    fn follow(stream: &str) -> (Option<Fault>, bool, Vec<u8>) {
        let mut wire = Wire::new(BOUNDS);
        let mut octets = stream.as_bytes().to_vec();
        let passed = wire.follow(&octets);
        octets.truncate(passed);
        (wire.fault(), wire.is_ended(), octets)
    }

    #[test]
    fn good_streams_pass_untouched() {
        for stream in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET /a?b=c|d HTTP/1.1\r\nHost: a\r\nX: \t v\u{e9} \r\nEmpty:\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5 ; a = \"b;\\\"\" ;c\r\nhello\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00F\r\nGET / HTTP/1.1\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 16\r\n\r\nGET / HTTP/9.9\n\n",
        ] {
            let (fault, ended, passed) = follow(stream);
            assert_eq!((fault, ended), (None, false), "{stream}");
            assert_eq!(passed, stream.as_bytes());
        }
    }

    #[test]
    fn heads_that_two_readers_could_read_differently_never_end() {
        let get = |line: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n");
        for stream in [
            get("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            get("Transfer-Encoding: chunked\r\nContent-Length: 5"),
            get("Content-Length: 5\r\nContent-Length: 5"),
            get("Content-Length: 5, 5"),
            get("Content-Length: +5"),
            get("Content-Length: -1"),
            get("Content-Length: 0x5"),
            get("Content-Length:"),
            get("Content-Length: 5 5"),
            get("Content-Length: 99999999999999999999"),
            get("Transfer-Encoding: xchunked"),
            get("Transfer-Encoding: identity"),
            get("Transfer-Encoding: chunked, identity"),
            get("Transfer-Encoding: chunked, chunked"),
            get("Transfer-Encoding: chunked,"),
            get("Transfer-Encoding: ,chunked"),
            get("Transfer-Encoding: \"gzip\", chunked"),
            get("Transfer-Encoding:"),
            get("Transfer-Encoding: \u{b}chunked"),
            get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            get("Transfer-Encoding : chunked"),
            get("X: a\r\n b"),
            get("X: a\rb"),
            get("X: a\0b"),
            get("X: a\nY: b"),
            get("X\u{1}: a"),
            get(": a"),
            get("no colon"),
            "GET / HTTP/1.1\nHost: a\n\n".into(),
            "GET / HTTP/1.1\r\nHost: a\r\n\n".into(),
            "GET  / HTTP/1.1\r\n\r\n".into(),
            "GET / HTTP/1.1 \r\n\r\n".into(),
            "GET /a b HTTP/1.1\r\n\r\n".into(),
            "GET\t/ HTTP/1.1\r\n\r\n".into(),
            "GET /#x HTTP/1.1\r\n\r\n".into(),
            "GET /\u{e9} HTTP/1.1\r\n\r\n".into(),
            "GET / HTTP/1.2\r\n\r\n".into(),
            "GET / http/1.1\r\n\r\n".into(),
            "GET /\r\n\r\n".into(),
            " GET / HTTP/1.1\r\n\r\n".into(),
            "G(T / HTTP/1.1\r\n\r\n".into(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ] {
            let (fault, ended, passed) = follow(&stream);
            assert!(matches!(fault, Some(Fault::Malformed(_))) && ended, "{stream:?} {fault:?}");
            assert!(!passed.ends_with(b"\r\n\r\n"), "{stream:?}");
        }
        for coding in ["gzip, chunked", "identity,chunked", "a, b , chunked"] {
            assert_eq!(follow(&get(&format!("Transfer-Encoding: {coding}"))).0, Some(Fault::Coding));
        }
    }

    #[test]
    fn heads_are_bounded() {
        let long = "a".repeat(20 << 10);
        assert_eq!(follow(&format!("GET /{long} HTTP/1.1\r\n\r\n")).0, Some(Fault::TargetTooLong));
        assert_eq!(follow(&format!("GET /{} HTTP/1.1\r\n\r\n", &long[..9 << 10])).0, Some(Fault::TargetTooLong));
        assert_eq!(follow(&format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n")).0, Some(Fault::HeadTooLarge));
        assert_eq!(follow(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(9))).0, Some(Fault::HeadTooLarge));
    }

    #[test]
    fn broken_chunks_are_not_passed() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (chunks, passed) in [
            ("ZZ\r\n", ""),
            ("5\nhello", ""),
            ("-5\r\n", ""),
            ("0x5\r\n", ""),
            ("\r\n", ""),
            ("5 \r\nhello", ""),
            ("FFFFFFFFFFFFFFFFF\r\n", ""),
            ("5\r\nhelloX\r\n", "5\r\nhello"),
            ("5\r\nhello\n0\r\n\r\n", "5\r\nhello"),
            ("0\r\nbad trailer\r\n\r\n", "0\r\n"),
            ("5;\u{1}\r\nhello", ""),
            ("5;\r\nhello", ""),
            ("5 \r\nhello", ""),
            ("5;\ra\r\nhello", ""),
            ("5\r;a\r\nhello", ""),
            ("5;a=\x0cb\r\nhello", ""),
            ("5;a=b \r\nhello", ""),
            ("5;a=\r\nhello", ""),
            ("5;a=\"\r\n\"\r\nhello", ""),
            ("5;a=\"\\\"\r\nhello", ""),
            ("5;a b\r\nhello", ""),
            ("5;a=\"b\"c\r\nhello", ""),
        ] {
            let (fault, ended, got) = follow(&format!("{head}{chunks}"));
            assert_eq!((fault, ended), (None, true), "{chunks:?}");
            assert_eq!(String::from_utf8_lossy(&got), format!("{head}{passed}"));
        }
    }

    /// How a stream is read that comes octet by octet, which no line is read in one go of.
    fn follow_slowly(stream: &[u8]) -> (Option<Fault>, bool, usize) {
        let mut wire = Wire::new(BOUNDS);
        let passed = stream.chunks(1).take_while(|octet| wire.follow(octet) == 1).count();
        (wire.fault(), wire.is_ended(), passed)
    }

    proptest! {
        #[test]
        fn lines_that_come_at_once_are_read_as_those_that_do_not(
            fields in prop::collection::vec("[a-zA-Z:_ \\t\\x00\\x7f\\x80-\\xff]{0,12}:[ -~\\t\\r\\n\\x7f\\x80-\\xff]{0,24}(\r\n|\n|)", 0..10),
            framing in prop::sample::select(vec!["", "Content-Length: 3\r\n", "content-length: x\r\n", "Transfer-Encoding: chunked\r\n"]),
        ) {
            let stream = format!("POST / HTTP/1.1\r\n{}{framing}\r\nabc", fields.concat());
            let mut wire = Wire::new(BOUNDS);
            wire.follow(stream.as_bytes());
            let (fault, is_ended, _) = follow_slowly(stream.as_bytes());
            prop_assert_eq!((wire.fault(), wire.is_ended()), (fault, is_ended), "{:?}", stream);
        }

        #[test]
        fn pieces_make_no_difference(cuts in prop::collection::vec(1usize..40, 1..60), which in 0usize..4) {
            let stream = [
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                "GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
            ][which].as_bytes();
            let mut whole = Wire::new(BOUNDS);
            let passed = whole.follow(stream);
            let whole_is_clean = passed == stream.len();
            let mut pieces = Wire::new(BOUNDS);
            let mut rest = stream;
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.follow(piece);
                rest = more;
            }
            pieces.follow(rest);
            prop_assert_eq!(pieces.fault(), whole.fault());
            prop_assert_eq!(pieces.is_ended(), whole.is_ended());
            prop_assert_eq!(pieces.is_ended(), !whole_is_clean);
        }
    }
}
