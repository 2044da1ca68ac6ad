//! HTTP/2 octet by octet (RFC 9113): what a client may say wrongly, what it is told, and what the worker sees.
//!
//! Each table's row has a name, the octets that are sent behind the preface, and what must come of them. What
//! is refused never reaches the worker; what ends one stream alone leaves the connection good for the next
//! request; what is forwarded is one message of HTTP/1, line by line.

mod connection;
mod floods;
mod messages;
mod workers;

use std::time::Duration;

use harness::frames::{Code, Ended, Frames, block, field, flag, frame, kind};
use harness::identity::key;
use harness::{Gateway, Recorder, Seen};

/// What must come of what was sent.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// An answer with this status, and the slug of its problem.
    Answer(u16, &'static str),
    /// The end of the stream alone.
    Reset(Code),
    /// The end of the connection.
    GoAway(Code),
    /// The end of the connection, without a word.
    Closed,
    /// Nothing: it is passed over.
    Nothing,
    /// 200, and the worker got this request line, these header lines beside ours, and this body.
    Forwarded(&'static str, &'static [&'static str], &'static str),
}

impl Expected {
    fn text(&self) -> String {
        match self {
            Self::Answer(status, slug) => format!("an answer of {status} {slug}"),
            Self::Reset(code) => format!("RST_STREAM with {code:?}"),
            Self::GoAway(code) => format!("GOAWAY with {code:?}"),
            Self::Closed => "the connection's end".to_owned(),
            Self::Nothing => "nothing".to_owned(),
            Self::Forwarded(..) => "an answer of 200 ".to_owned(),
        }
    }
}

/// One row.
struct Case {
    name: &'static str,
    sent: Vec<u8>,
    expected: Expected,
}

fn case(name: &'static str, sent: impl Into<Vec<u8>>, expected: Expected) -> Case {
    Case { name, sent: sent.into(), expected }
}

/// A request's head, field by field.
#[derive(Clone)]
struct Head(Vec<(Vec<u8>, Vec<u8>)>);

/// `GET /open`, where everybody may go.
fn get() -> Head {
    Head::of(&[(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/open")])
}

/// `POST /upload`, where a body of any octets is passed on.
fn post() -> Head {
    get()
        .set(":method", "POST")
        .set(":path", "/upload")
        .and("x-api-key", key("predictor"))
        .and("content-type", "application/octet-stream")
}

impl Head {
    fn of(fields: &[(&str, &str)]) -> Self {
        Self(fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
    }

    /// With another value.
    fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let place = self.0.iter_mut().find(|(known, _)| known == name.as_bytes()).expect("it is there");
        place.1 = value.as_ref().to_vec();
        self
    }

    /// Without it.
    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name.as_bytes());
        self
    }

    /// With one more at the end.
    fn and(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.0.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The header block.
    fn block(&self) -> Vec<u8> {
        self.0.iter().flat_map(|(name, value)| field(name, value)).collect()
    }

    /// One HEADERS frame on the first stream, which ends there.
    fn whole(&self) -> Vec<u8> {
        self.on(1)
    }

    /// The same on another stream.
    fn on(&self, stream: u32) -> Vec<u8> {
        frame(kind::HEADERS, flag::WHOLE, stream, self.block())
    }

    /// One HEADERS frame on the first stream, which goes on.
    fn open(&self) -> Vec<u8> {
        frame(kind::HEADERS, flag::END_HEADERS, 1, self.block())
    }

    /// With a body in these parts, the last of which ends the stream.
    fn body(&self, parts: &[&str]) -> Vec<u8> {
        let mut octets = self.open();
        for (index, part) in parts.iter().enumerate() {
            let last = index + 1 == parts.len();
            octets.extend(data(if last { flag::END_STREAM } else { flag::NONE }, part));
        }
        octets
    }
}

/// DATA on the first stream.
fn data(flags: u8, octets: impl AsRef<[u8]>) -> Vec<u8> {
    frame(kind::DATA, flags, 1, octets)
}

/// Trailers on the first stream.
fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(kind::HEADERS, flag::WHOLE, 1, block(fields))
}

/// Header lines that every forwarded request has, whatever its client says; masked.
const OURS: [&str; 10] = [
    "host: WORKER",
    "via: 2 modelgate",
    "x-forwarded-for: 127.0.0.1",
    "x-forwarded-host: localhost",
    "x-forwarded-proto: https",
    "x-request-id: ID",
    "x-modelgate-route: ROUTE",
    "x-modelgate-principal: WHO",
    "x-modelgate-roles: WHO",
    "x-modelgate-scheme: WHO",
];

/// The head as the worker got it, without what every forwarded request has.
fn forwarded(seen: &Seen) -> Vec<String> {
    let text = seen.text();
    let mut lines: Vec<String> = Vec::new();
    let mut ours: Vec<&str> = OURS.to_vec();
    for line in text.trim_end().split("\r\n") {
        let masked = match line.split_once(": ") {
            // Where the body does not come bit by bit.
            Some(("x-modelgate-timeout", "10000")) => continue,
            Some(("host", _)) => "host: WORKER",
            Some(("x-request-id", _)) => "x-request-id: ID",
            Some(("x-modelgate-route", "open" | "upload")) => "x-modelgate-route: ROUTE",
            Some(("x-modelgate-principal", "anonymous" | "key:predictor")) => "x-modelgate-principal: WHO",
            Some(("x-modelgate-roles", "" | "predictor,reader")) => "x-modelgate-roles: WHO",
            Some(("x-modelgate-scheme", "anonymous" | "api_key")) => "x-modelgate-scheme: WHO",
            _ => line,
        };
        match ours.iter().position(|line| *line == masked) {
            Some(at) => drop(ours.remove(at)),
            None => lines.push(masked.to_owned()),
        }
    }
    lines.extend(ours.iter().map(|missing| format!("MISSING {missing}")));
    lines[1..].sort();
    lines
}

/// Far above every stream that a row uses.
const NEXT: u32 = 0xff01;

/// What came of one row; an empty text if it is what must.
async fn verdict(gateway: &Gateway, worker: &Recorder, case: &Case, begin: &[u8]) -> String {
    let seen = worker.seen().len();
    let mut frames = Frames::open(&gateway.http2()).await;
    // It may be refused before all of it was sent.
    let _ = frames.send([begin, &case.sent].concat()).await;
    let ended = async {
        let ended = if matches!(case.expected, Expected::Nothing) { None } else { Some(frames.ended(1).await) };
        let may_begin = matches!(case.expected, Expected::GoAway(Code::FlowControlError));
        // RFC 9113 §6.9.1 leaves the choice, which hangs on how much of it was read at once.
        let ended = match ended {
            Some(Ended::Reset(Code::FlowControlError)) if may_begin => Some(Ended::GoAway(Code::FlowControlError)),
            ended => ended,
        };
        // Whatever ends one stream leaves the connection as it was, and its tables in step.
        let next = if let Some(Ended::GoAway(_) | Ended::Closed) = ended {
            frames.goodbye().await;
            None
        } else {
            let _ = frames.send(get().on(NEXT)).await;
            Some(frames.ended(NEXT).await)
        };
        (ended, next)
    };
    let Ok((ended, next)) = tokio::time::timeout(Duration::from_secs(20), ended).await else {
        return "nothing came of it, not even an end".to_owned();
    };
    let got = match &ended {
        Some(Ended::Answered(answer)) => format!("an answer of {} {}", answer.status, answer.slug()),
        Some(Ended::Reset(code)) => Expected::Reset(*code).text(),
        Some(Ended::GoAway(code)) => Expected::GoAway(*code).text(),
        Some(Ended::Closed) => Expected::Closed.text(),
        None => Expected::Nothing.text(),
    };
    let next = match next {
        Some(Ended::Answered(answer)) => (answer.status == 200).then_some(1).ok_or(format!("{}", answer.status)),
        Some(other) => Err(format!("{other:?}")),
        None => Ok(0),
    };
    let next = match next {
        Ok(next) => next,
        Err(next) => return format!("{got}, and the next request on the connection got {next}"),
    };
    let seen = worker.seen().split_off(seen);
    if got != case.expected.text() {
        return got;
    }
    if let Expected::Forwarded(line, fields, body) = case.expected {
        let Some(first) = seen.first() else { return "200, and the worker was not called".to_owned() };
        let mut wanted = fields.to_vec();
        wanted.sort_unstable();
        let lines = forwarded(first);
        if lines[0] != line || lines[1..] != wanted || first.body != body.as_bytes() {
            return format!("forwarded as {lines:#?} with {:?}", String::from_utf8_lossy(&first.body));
        }
        return if seen.len() == 2 { String::new() } else { format!("the worker was called {} times", seen.len()) };
    }
    // An answer of 200 that is no message to judge is the worker's.
    let called = seen.len() - next - usize::from(matches!(case.expected, Expected::Answer(200, _)));
    // Before the window was full, its beginning was on its way.
    let may_begin = matches!(case.expected, Expected::GoAway(Code::FlowControlError));
    if called == 0 || may_begin { String::new() } else { format!("{got}, but the worker was called") }
}

/// Judges every row, and fails with all that are not as they must be.
async fn judge(begin: &[u8], cases: Vec<Case>) {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut wrong = Vec::new();
    for case in &cases {
        let verdict = verdict(&gateway, &worker, case, begin).await;
        if !verdict.is_empty() {
            wrong.push(format!("{}: {verdict}; wanted is {}", case.name, case.expected.text()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
