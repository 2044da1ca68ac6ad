//! Sends the cases' octets to a proxy, and keeps what came of them: answers, and octets at the worker.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::notation::{self, Step};
use super::Case;
use crate::client::tls_config;
use crate::recorder::{Recorder, Reply, Seen};

/// The request behind each case.
const NEXT: &str = "GET /№/next HTTP/1.1⏎Host: a.test⏎Connection: close⏎⏎";
/// Connections at once.
const AT_ONCE: usize = 16;

/// A proxy in front of the recorder.
#[derive(Clone, Copy, Debug)]
pub struct Proxy {
    /// Where it takes TLS connections.
    pub address: SocketAddr,
    /// How long it may be silent before a connection counts as left open.
    pub patience: Duration,
    /// Headers that it puts into every request: a name, and the value where that must be this one (`№`: any).
    pub ours: &'static [(&'static str, &'static str)],
}

impl Proxy {
    /// The gateway, with the policy of the rows.
    #[must_use]
    pub fn gateway(address: SocketAddr) -> Self {
        const OURS: &[(&str, &str)] = &[
            ("host", ""),
            ("via", "1.1 modelgate"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "a.test"),
            ("x-forwarded-proto", "https"),
            ("x-modelgate-principal", "anonymous"),
            ("x-modelgate-roles", ""),
            ("x-modelgate-route", ""),
            ("x-modelgate-scheme", "anonymous"),
            ("x-modelgate-timeout", "10000"),
            ("x-request-id", ""),
            ("content-type", "text/plain"),
        ];
        Self { address, patience: crate::PATIENCE, ours: OURS }
    }
}

/// One answer to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its status.
    pub status: u16,
    /// The last word of its problem's `type`, where it has one.
    pub slug: String,
    /// Whether it says `Connection: close`.
    pub close: bool,
}

/// What came of a case.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The answers, interim ones too.
    pub answers: Vec<Said>,
    /// Whether the connection was closed in the end.
    pub closed: bool,
    /// What came after the answers, or is none.
    pub garbage: String,
    /// What the worker got: each message in the notation, headers sorted, those of every request left out.
    pub messages: Vec<String>,
    /// The same, but for the next request, without what two proxies may write differently: framing, the case of names.
    pub meanings: Vec<String>,
}

impl Observed {
    /// All of it in one line.
    #[must_use]
    pub fn written(&self) -> String {
        let said = self.answers.iter().map(|said| {
            let close = if said.close && !said.slug.is_empty() { " close" } else { "" };
            format!("{} {}{close}", said.status, said.slug).trim_end().to_owned() + ", "
        });
        let end = if self.closed { "closed" } else { "left open" };
        let garbage = if self.garbage.is_empty() { String::new() } else { format!(" after {}", self.garbage) };
        format!("{}{end}{garbage}; {}", said.collect::<String>(), self.messages.join(" ⏭ "))
    }
}

/// A worker that keeps what it gets, and answers everything with 200.
#[must_use]
pub fn recorder() -> Recorder {
    Recorder::scripted(|_, seen| {
        let body: &[u8] = if seen.head.starts_with(b"HEAD ") { b"" } else { b"ok" };
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n".to_vec();
        answer.extend_from_slice(body);
        Reply::raw(answer)
    })
}

/// Runs the cases against a proxy. `ended` ends the proxy, so that its worker has everything it sent. The last
/// item is what the worker got and no case stands for.
pub async fn observe(
    proxy: Proxy,
    worker: &Recorder,
    cases: &[&'static Case],
    ended: impl AsyncFnOnce(),
) -> (Vec<(&'static Case, Observed)>, Vec<String>) {
    let config = Arc::new(tls_config(&["http/1.1"], &[]));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let conversations: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let (config, room, case) = (Arc::clone(&config), Arc::clone(&room), **case);
            tokio::spawn(async move {
                let _place = room.acquire().await;
                converse(proxy, config, &case, &mark(number)).await
            })
        })
        .collect();
    let mut observed = Vec::new();
    for (case, conversation) in cases.iter().zip(conversations) {
        observed.push((*case, conversation.await.expect("a conversation ends")));
    }
    ended().await;
    worker.wait_until_all_ended().await;
    let mut nobodys = Vec::new();
    for seen in worker.seen() {
        let number = marked(&seen.octets());
        match number.and_then(|number| observed.get_mut(number)) {
            Some((_, observed)) => {
                let mark = mark(number.unwrap_or(0));
                observed.messages.push(message(&seen, &mark, proxy.ours));
                if !seen.line().contains("/next ") {
                    observed.meanings.push(meaning(&seen, &mark));
                }
            }
            None => nobodys.push(notation::written(&seen.octets(), "")),
        }
    }
    for remains in worker.remains() {
        let number = marked(&remains);
        let text = format!("garbage {}", notation::written(&remains, &number.map_or_else(String::new, mark)));
        match number.and_then(|number| observed.get_mut(number)) {
            Some((_, observed)) => observed.messages.push(text),
            None => nobodys.push(text),
        }
    }
    for (_, observed) in &mut observed {
        // Two requests of one client may go over two connections to the worker, whose order is not known.
        let next = |message: &String| message.contains("/next ");
        observed.messages.sort_by_key(next);
    }
    (observed, nobodys)
}

fn mark(number: usize) -> String {
    format!("c{number:03}")
}

/// The number in the first mark.
fn marked(octets: &[u8]) -> Option<usize> {
    let digits = octets.windows(4).find(|window| window[0] == b'c' && window[1..].iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(&digits[1..]).ok()?.parse().ok()
}

async fn connect(proxy: &Proxy, config: Arc<ClientConfig>, trusted: bool) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    if trusted {
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)))?;
    }
    let stream = socket.connect(proxy.address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(config).connect(name, stream).await
}

async fn converse(proxy: Proxy, config: Arc<ClientConfig>, case: &Case, mark: &str) -> Observed {
    let mut stream = match connect(&proxy, config, case.trusted).await {
        Ok(stream) => stream,
        Err(error) => return Observed { garbage: format!("no connection: {error}"), ..Observed::default() },
    };
    let mut steps = notation::steps(case.sent, mark);
    if !steps.contains(&Step::Do("end")) {
        let next = notation::octets(NEXT, mark);
        match steps.last_mut() {
            Some(Step::Send(octets)) => octets.extend_from_slice(&next),
            _ => steps.push(Step::Send(next)),
        }
    }
    let mut got = Vec::new();
    let mut closed = false;
    for step in steps {
        match step {
            // A proxy that refuses may have closed before everything was sent.
            Step::Send(octets) => {
                let _ = stream.write_all(&octets).await;
                let _ = stream.flush().await;
            }
            Step::Do("await") => {
                let before = got.len();
                while !closed && !got[before..].windows(4).any(|window| window == b"\r\n\r\n") {
                    closed = read(&mut stream, &mut got, proxy.patience).await != Some(true);
                }
            }
            Step::Do("end") => {
                let _ = stream.shutdown().await;
            }
            Step::Do(_) => {}
        }
    }
    let ended = loop {
        match read(&mut stream, &mut got, proxy.patience).await {
            Some(true) => {}
            Some(false) => break true,
            None => break false,
        }
    };
    let mut observed = Observed { closed: ended, ..Observed::default() };
    let head_only = case.sent.starts_with("HEAD ");
    let mut rest = &got[..];
    while !rest.is_empty() {
        let Some((said, after)) = answer(rest, head_only && observed.answers.iter().all(|said| said.status < 200))
        else {
            observed.garbage = notation::written(rest, mark);
            break;
        };
        observed.answers.push(said);
        rest = after;
    }
    observed
}

/// Reads on: `Some(false)` at the end, `None` where nothing comes any more.
async fn read(stream: &mut TlsStream<TcpStream>, got: &mut Vec<u8>, patience: Duration) -> Option<bool> {
    let read = tokio::time::timeout(patience, stream.read_buf(got)).await.ok()?;
    Some(read.is_ok_and(|count| count > 0))
}

/// The first answer in what came, and what comes after it; `None` where it is not whole.
fn answer(octets: &[u8], head_only: bool) -> Option<(Said, &[u8])> {
    let end = octets.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let (head, mut rest) = octets.split_at(end);
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let mut body = Vec::new();
    if status >= 200 && status != 204 && status != 304 && !head_only {
        if let Some(length) = field("content-length") {
            let length = length.parse().ok()?;
            body = rest.get(..length)?.to_vec();
            rest = &rest[length..];
        } else if field("transfer-encoding").is_some() {
            loop {
                let line = rest.windows(2).position(|window| window == b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
                body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
                rest = rest.get(line + 2 + size + 2..)?;
                if size == 0 {
                    break;
                }
            }
        } else {
            body = std::mem::take(&mut rest).to_vec();
        }
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let slug = problem["type"].as_str().and_then(|kind| kind.rsplit(':').next()).unwrap_or_default().to_owned();
    let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Some((Said { status, slug, close }, rest))
}

/// What a request says, however its proxy writes it.
fn meaning(seen: &Seen, mark: &str) -> String {
    const OTHER: [&str; 8] = [
        "host",
        "via",
        "connection",
        "content-length",
        "transfer-encoding",
        "content-type",
        "x-request-id",
        "forwarded",
    ];
    let text = notation::written(&seen.head, mark);
    let mut lines = text.trim_end_matches('⏎').split('⏎');
    let first = lines.next().unwrap_or_default();
    let mut fields: Vec<String> = lines
        .map(|line| line.split_once(':').map_or((line.to_owned(), ""), |(name, value)| (name.to_lowercase(), value)))
        .filter(|(name, _)| !OTHER.contains(&name.as_str()))
        .filter(|(name, _)| !["x-forwarded-", "x-modelgate-", "x-envoy-"].iter().any(|ours| name.starts_with(ours)))
        .map(|(name, value)| format!("⏎{name}: {}", value.trim()))
        .collect();
    fields.sort_unstable();
    let unfinished = if seen.whole { "" } else { "unfinished " };
    format!("{unfinished}{first}{}⏎⏎{}", fields.concat(), notation::written(&seen.body, mark))
}

fn has_name(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
}

/// What the worker got, in the notation, without what every request has. What must be there and is not, is said.
fn message(seen: &Seen, mark: &str, ours: &[(&str, &str)]) -> String {
    let head = notation::written(&seen.head, mark);
    let mut lines: Vec<&str> = head.trim_end_matches('⏎').split('⏎').collect();
    let mut missing = String::new();
    for (name, value) in ours {
        let is_ours = |line: &str| {
            line.split_once(": ")
                .is_some_and(|(field, found)| field.eq_ignore_ascii_case(name) && (value.is_empty() || found == *value))
        };
        match lines.iter().copied().position(is_ours) {
            Some(at) => {
                lines.remove(at);
            }
            // Where the body does not come bit by bit the worker is told how long it is waited for.
            None if !matches!(*name, "content-type" | "x-modelgate-timeout")
                && !lines.iter().any(|line| has_name(line, name)) =>
            {
                missing = format!("without {name}: ");
            }
            None => {}
        }
    }
    lines[1..].sort_unstable();
    let unfinished = if seen.whole { "" } else { "unfinished " };
    format!("{unfinished}{missing}{}⏎⏎{}", lines.join("⏎"), notation::written(&seen.framed, mark))
}
