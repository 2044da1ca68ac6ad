//! A reader of HTTP/1 requests and answers, straight from RFC 9112, that shares nothing with the gateway's.
//!
//! It reads a whole stream at once. Where the RFC lets a recipient choose, it refuses, as the gateway says it does.

/// What bounds messages; the RFC leaves it to the recipient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Octets of a head, with the empty lines before it.
    pub(crate) head: usize,
    /// Header fields.
    pub(crate) fields: usize,
    /// Octets of a target.
    pub(crate) target: usize,
    /// Octets of a line of chunk framing or trailers.
    pub(crate) chunk_line: usize,
    /// Trailer fields.
    pub(crate) trailers: usize,
}

/// A message whose head was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) http10: bool,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) framing: Framing,
    /// The content, so far as it came.
    pub(crate) body: Vec<u8>,
    /// Where its head ends in the stream, and the message; 0 while it has not.
    pub(crate) head_end: usize,
    pub(crate) end: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    None,
    Length(u64),
    Chunked,
}

impl Message {
    pub(crate) fn values<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m [u8]> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_slice())
    }
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// After a whole message.
    Clean,
    /// Inside one.
    Short,
    /// In a head that can't be read: the first wrong line begins at `line`, and is seen to be wrong at `seen`.
    Head { line: usize, seen: usize },
    /// In framing of chunks that can't be read.
    Chunks { line: usize, seen: usize },
}

/// A stream, read.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Messages that are whole.
    pub(crate) messages: Vec<Message>,
    /// The one that is not, where its head is.
    pub(crate) partial: Option<Message>,
    pub(crate) end: End,
}

/// Whether a target can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Good,
    Bad,
    /// RFC 3986 does not have it; many readers do.
    Doubtful,
}

/// Reads a whole stream. `doubtful` decides about targets that the grammar does not have.
pub(crate) fn read(stream: &[u8], bounds: &Bounds, doubtful: &dyn Fn(&[u8]) -> bool) -> Reading {
    let mut reader = Reader { stream, at: 0, bounds, doubtful };
    let mut messages = Vec::new();
    loop {
        let begin = reader.at;
        let mut partial = Message::default();
        match reader.message(&mut partial) {
            Ok(()) => messages.push(partial),
            Err(end) => {
                let end = if end == End::Short && stream[begin..].is_empty() { End::Clean } else { end };
                let partial = (partial.head_end > 0).then_some(partial);
                return Reading { messages, partial, end };
            }
        }
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    /// The content, so far as it came.
    pub(crate) body: Vec<u8>,
    /// Whether all of it came.
    pub(crate) whole: bool,
}

impl Answer {
    /// The value of a field that comes once at most.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice());
        let value = values.next();
        assert!(values.next().is_none(), "{name} comes twice");
        value
    }

    pub(crate) fn closes(&self) -> bool {
        self.value("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"))
    }
}

/// Reads the answers to requests of these methods, and what comes behind them up to the end of the connection.
/// Interim answers are passed over (RFC 9110 §15.2), but a switch of protocols, which nobody asks for here.
pub(crate) fn read_answers<'s>(stream: &'s [u8], methods: &[Vec<u8>], bounds: &Bounds) -> (Vec<Answer>, End, &'s [u8]) {
    let mut reader = Reader { stream, at: 0, bounds, doubtful: &|_| false };
    let mut answers = Vec::new();
    let mut end = End::Clean;
    for method in methods {
        if reader.at == stream.len() {
            break;
        }
        let (read, answer) = loop {
            let mut answer = Answer::default();
            match reader.answer(method, &mut answer) {
                Ok(()) if matches!(answer.status, 100 | 102..=199) => {}
                read => break (read, answer),
            }
        };
        if answer.status > 0 {
            answers.push(answer);
        }
        if let Err(wrong) = read {
            end = wrong;
            break;
        }
    }
    (answers, end, &stream[reader.at..])
}

struct Reader<'s> {
    stream: &'s [u8],
    at: usize,
    bounds: &'s Bounds,
    doubtful: &'s dyn Fn(&[u8]) -> bool,
}

/// A line, and where it is.
struct Line<'s> {
    text: &'s [u8],
    begin: usize,
    seen: usize,
}

impl<'s> Reader<'s> {
    fn message(&mut self, message: &mut Message) -> Result<(), End> {
        self.head(message)?;
        message.head_end = self.at;
        match message.framing {
            Framing::None => {}
            Framing::Length(length) => {
                let rest = &self.stream[self.at..];
                let there = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                message.body.extend_from_slice(&rest[..there]);
                self.at += there;
                if (there as u64) < length {
                    return Err(End::Short);
                }
            }
            Framing::Chunked => self.chunks(&mut message.body)?,
        }
        message.end = self.at;
        Ok(())
    }

    /// §2.2: up to CRLF; a line feed alone is no line end here. `most` bounds it, from `self.at` on.
    fn line(&mut self, most: usize) -> Result<Line<'s>, (usize, Option<usize>)> {
        let begin = self.at;
        let rest = &self.stream[begin..];
        let feed = rest.iter().position(|b| *b == b'\n');
        if feed.map_or(rest.len(), |feed| feed + 1) > most {
            return Err((begin, Some(begin + most)));
        }
        let feed = feed.ok_or((begin, None))?;
        let text = rest[..feed].strip_suffix(b"\r").ok_or((begin, Some(begin + feed)))?;
        self.at += feed + 1;
        Ok(Line { text, begin, seen: begin + feed })
    }

    fn head(&mut self, message: &mut Message) -> Result<(), End> {
        let limit = self.at + self.bounds.head;
        let request = loop {
            let line = self.head_line(limit)?;
            if !line.text.is_empty() {
                break line;
            }
        };
        let wrong = |line: &Line<'_>| End::Head { line: line.begin, seen: line.seen };
        // §3: three parts with one space between, of octets that have no space.
        let parts: Vec<&[u8]> = request.text.split(|b| *b == b' ').collect();
        let [method, target, version] = *parts else { return Err(wrong(&request)) };
        let taken = target.len() <= self.bounds.target
            && match target_kind(target) {
                Target::Good => true,
                Target::Bad => false,
                Target::Doubtful => (self.doubtful)(target),
            };
        message.http10 = version == b"HTTP/1.0";
        if !is_token(method) || !taken || !(message.http10 || version == b"HTTP/1.1") {
            return Err(wrong(&request));
        }
        (message.method, message.target) = (method.to_vec(), target.to_vec());

        let (fields, framing) = self.fields(limit, message.http10)?;
        (message.fields, message.framing) = (fields, framing);
        Ok(())
    }

    /// §5 and §6: the fields of a head, up to its empty line, and how it is framed.
    fn fields(&mut self, limit: usize, http10: bool) -> Result<(Vec<(String, Vec<u8>)>, Framing), End> {
        let wrong = |line: &Line<'_>| End::Head { line: line.begin, seen: line.seen };
        let (mut fields, mut lengths, mut codings) = (Vec::new(), Vec::new(), 0);
        let last = loop {
            let line = self.head_line(limit)?;
            if line.text.is_empty() {
                break line;
            }
            let (name, value) = field(line.text).filter(|_| fields.len() < self.bounds.fields).ok_or(wrong(&line))?;
            // §6.3: what can't be a length, or comes twice, is seen at its line.
            if name == "content-length" {
                let length = length(value).filter(|_| lengths.is_empty()).ok_or(wrong(&line))?;
                lengths.push(length);
            }
            if name == "transfer-encoding" {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(wrong(&line));
                }
                codings += 1;
            }
            fields.push((name, value.to_vec()));
        };
        // §6.1, §6.3: one framing alone, and none that HTTP/1.0 does not have.
        let framing = match (&*lengths, codings) {
            ([], 0) => Framing::None,
            (&[length], 0) => Framing::Length(length),
            ([], 1) if !http10 => Framing::Chunked,
            _ => return Err(wrong(&last)),
        };
        Ok((fields, framing))
    }

    fn head_line(&mut self, limit: usize) -> Result<Line<'s>, End> {
        let line = self.line(limit - self.at);
        line.map_err(|(line, seen)| seen.map_or(End::Short, |seen| End::Head { line, seen }))
    }

    /// §4, and §6.3 for what has no body or ends with the connection.
    fn answer(&mut self, method: &[u8], answer: &mut Answer) -> Result<(), End> {
        let limit = self.at + self.bounds.head;
        let line = self.head_line(limit)?;
        let wrong = End::Head { line: line.begin, seen: line.seen };
        let (version, rest) = line.text.split_at_checked(9).ok_or(wrong)?;
        let (digits, reason) = rest.split_at_checked(3).ok_or(wrong)?;
        let http10 = version == b"HTTP/1.0 ";
        let written = digits.iter().all(u8::is_ascii_digit) && reason.first().is_none_or(|b| *b == b' ');
        if !(http10 || version == b"HTTP/1.1 ") || !written || !reason.iter().all(is_text) {
            return Err(wrong);
        }
        let status = digits.iter().fold(0, |status, b| status * 10 + u16::from(b - b'0'));
        if status < 100 || status == 101 {
            return Err(wrong);
        }
        let (fields, mut framing) = self.fields(limit, http10)?;
        (answer.status, answer.fields) = (status, fields);
        // §6.1: these have no coding.
        if framing == Framing::Chunked && matches!(status, 100..=199 | 204) {
            return Err(wrong);
        }
        let bodiless = method == b"HEAD" || matches!(status, 100..=199 | 204 | 304);
        if bodiless {
            framing = Framing::Length(0);
        }
        let rest = &self.stream[self.at..];
        match framing {
            Framing::None => {
                answer.body.extend_from_slice(rest);
                self.at = self.stream.len();
            }
            Framing::Length(length) => {
                let there = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                answer.body.extend_from_slice(&rest[..there]);
                self.at += there;
                if (there as u64) < length {
                    return Err(End::Short);
                }
            }
            Framing::Chunked => {
                self.chunks(&mut answer.body)?;
            }
        }
        answer.whole = true;
        Ok(())
    }

    /// §7.1.
    fn chunks(&mut self, body: &mut Vec<u8>) -> Result<(), End> {
        let next = |reader: &mut Self| {
            let line = reader.line(reader.bounds.chunk_line);
            line.map_err(|(line, seen)| seen.map_or(End::Short, |seen| End::Chunks { line, seen }))
        };
        let wrong = |line: &Line<'_>| End::Chunks { line: line.begin, seen: line.seen };
        loop {
            let line = next(self)?;
            let digits = line.text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
            let (size, extension) = line.text.split_at(digits);
            // 15 digits, leading zeros among them, are all that is taken.
            if digits == 0 || digits > 15 || !are_extensions(extension) {
                return Err(wrong(&line));
            }
            let size =
                size.iter().fold(0_usize, |size, b| size * 16 + char::from(*b).to_digit(16).unwrap_or(0) as usize);
            if size == 0 {
                break;
            }
            let rest = &self.stream[self.at..];
            let there = size.min(rest.len());
            body.extend_from_slice(&rest[..there]);
            self.at += there;
            if there < size {
                return Err(End::Short);
            }
            let end = next(self)?;
            if !end.text.is_empty() {
                return Err(wrong(&end));
            }
        }
        for count in 0.. {
            let line = next(self)?;
            if line.text.is_empty() {
                break;
            }
            if count == self.bounds.trailers || field(line.text).is_none() {
                return Err(wrong(&line));
            }
        }
        Ok(())
    }
}

/// §7.1.1: `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let named = spaces(rest).strip_prefix(b";").and_then(|rest| token(spaces(rest)));
        let Some(after) = named else { return false };
        let value = spaces(after).strip_prefix(b"=").map(spaces);
        let Some(after) = value.map_or(Some(after), |value| token(value).or_else(|| quoted(value))) else {
            return false;
        };
        rest = after;
    }
    true
}

fn spaces(text: &[u8]) -> &[u8] {
    let count = text.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    &text[count..]
}

/// What comes after a token.
fn token(text: &[u8]) -> Option<&[u8]> {
    let length = text.iter().take_while(|b| is_token(&[**b])).count();
    (length > 0).then(|| &text[length..])
}

/// RFC 9110 §5.6.4: what comes after a quoted string.
fn quoted(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some(after),
            [b'\\', escaped, after @ ..] if is_text(escaped) => after,
            [b'\\', ..] => return None,
            [octet, after @ ..] if is_text(octet) => after,
            _ => return None,
        };
    }
}

/// RFC 9110 §8.6, of at most 18 digits.
fn length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    let digits = (1..=18).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// §5: the name in lower case, and the value without the white space around it.
fn field(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let name = &line[..colon];
    let mut value = &line[colon + 1..];
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    (is_token(name) && value.iter().all(is_text)).then(|| (String::from_utf8_lossy(name).to_ascii_lowercase(), value))
}

/// RFC 9110 §5.5: what may stand in a field's value.
fn is_text(octet: &u8) -> bool {
    matches!(octet, b'\t' | b' '..=b'~' | 0x80..)
}

/// RFC 9110 §5.6.2.
pub(crate) fn is_token(name: &[u8]) -> bool {
    let tchar = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(tchar)
}

/// §3.2 and RFC 3986 §3.3, §3.4.
pub(crate) fn target_kind(target: &[u8]) -> Target {
    let in_uri = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(b);
    match target {
        _ if target.iter().any(|b| !b.is_ascii_graphic() || b"#<>".contains(b)) => Target::Bad,
        [] => Target::Bad,
        [b'/', rest @ ..] if rest.iter().all(in_uri) => Target::Good,
        _ => Target::Doubtful,
    }
}
