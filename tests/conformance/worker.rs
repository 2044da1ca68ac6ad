//! What a worker answers, and what must come of it: for the client, and for the connection to the worker.
//!
//! Each case has a worker, a pool and a route of its own on one gateway. After it the client sends one more request
//! (`GET /№/next`), which must be answered whole by the worker, over the same connection or over a new one as the
//! row says; and the case's request must have reached the worker once.

mod cases;

use std::fmt::Write as _;

use super::Failure;
use super::notation::{self, Step};
use crate::client::{Answer, Client};
use crate::gateway::{Gateway, Upstream as _};
use crate::recorder::{Gate, Recorder, Reply, Seen};
use crate::wire::Wire;

pub use cases::CASES;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it tries.
    pub name: &'static str,
    /// What the client asks.
    pub asked: &'static str,
    /// What the worker answers; see [`notation`]. It reads the request whole before, where nothing else is said.
    pub answered: &'static str,
    /// What the client gets.
    pub told: Told,
    /// What becomes of the connection to the worker.
    pub then: Connection,
    /// Whether the case's request goes over a connection that served another before.
    pub kept: bool,
    /// More lines for the pool.
    pub pool: &'static str,
}

/// What a client gets.
#[derive(Clone, Copy, Debug)]
pub enum Told {
    /// This answer: its status, its own headers sorted, and its content. Headers that every answer has are left out.
    Answer(&'static str),
    /// This fault.
    Fault(u16, &'static str),
    /// 200 and a body that is broken off, or 502 where the worker breaks off before anything has gone out.
    BrokenOff,
}

/// What becomes of the connection to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It serves the next request.
    Kept,
    /// It is closed.
    Closed,
    /// It serves the next request if it is free in time.
    Either,
}

const GET: &str = "«get»⏎";

const fn case(name: &'static str, answered: &'static str, told: Told, then: Connection) -> Case {
    Case { name, asked: GET, answered, told, then, kept: false, pool: "" }
}

const fn asked(name: &'static str, asked: &'static str, answered: &'static str, told: Told, then: Connection) -> Case {
    Case { name, asked, answered, told, then, kept: false, pool: "" }
}

const fn kept(name: &'static str, asked: &'static str, answered: &'static str, told: Told, then: Connection) -> Case {
    Case { name, asked, answered, told, then, kept: true, pool: "" }
}

/// With little patience: for the head, between parts, and in all.
const fn hasty(name: &'static str, answered: &'static str, told: Told, pool: &'static str) -> Case {
    Case { name, asked: GET, answered, told, then: Connection::Closed, kept: false, pool }
}

fn mark(number: usize) -> String {
    format!("c{number:03}")
}

/// A worker for each case, and the gateway in front of them.
#[derive(Debug)]
pub struct World {
    gateway: Gateway,
    workers: Vec<(&'static Case, Recorder, Gate)>,
}

impl World {
    /// Starts them all.
    pub async fn start() -> Self {
        let workers: Vec<_> = CASES
            .iter()
            .map(|case| {
                let gate = Gate::default();
                let reply = reply(case.answered, &gate);
                let own = usize::from(case.kept);
                let worker = Recorder::scripted(move |number, _: &Seen| {
                    if number == own {
                        reply.clone()
                    } else {
                        Reply::with(200, "Content-Type: text/plain\r\n", b"next")
                    }
                });
                (case, worker, gate)
            })
            .collect();
        let mut policy = "[listener]\nthreads = 1\n[defaults]\nauthenticate = \"anonymous\"\nlimits = [\"wide\"]\n\
                          [limits.wide]\nquota = 100000\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"allow\"\n"
            .to_owned();
        for (number, (case, worker, _)) in workers.iter().enumerate() {
            let (name, url, pool) = (mark(number), worker.url(), case.pool);
            let body = "format = \"opaque\"\ncontent_types = [\"text/plain\"]\nmax = \"1MiB\"\n";
            for (route, path) in [("all", String::new()), ("rest", "/*".to_owned())] {
                let _ = write!(
                    policy,
                    "[routes.{name}-{route}]\npath = \"/{name}{path}\"\nmethods = [\"GET\", \"HEAD\", \"POST\", \"DELETE\"]\n\
                     pool = \"{name}\"\nauthorize = \"anonymous\"\n[routes.{name}-{route}.body]\n{body}"
                );
            }
            let _ = write!(policy, "[pools.{name}]\nworkers = [\"{url}\"]\n{pool}");
        }
        Self { gateway: Gateway::builder().without_base().policy(policy).start().await, workers }
    }

    /// Runs every case, all at once, and gives back those that did not come out as they say.
    pub async fn run(self) -> Vec<Failure> {
        let client = self.gateway.client();
        let running: Vec<_> = self
            .workers
            .into_iter()
            .enumerate()
            .map(|(number, (case, worker, gate))| {
                let client = client.clone();
                tokio::spawn(async move {
                    let mark = mark(number);
                    let found = run(&client, case, &worker, &gate, &mark).await.unwrap_or_else(|reason| reason);
                    let wanted = expected(case, &mark);
                    (!wanted.contains(&found)).then(|| Failure {
                        name: case.name,
                        sent: case.answered,
                        wanted: wanted.join("\n         or "),
                        found,
                    })
                })
            })
            .collect();
        let mut failures = Vec::new();
        for running in running {
            failures.extend(running.await.expect("a case ends"));
        }
        failures
    }
}

fn reply(cell: &str, gate: &Gate) -> Reply {
    let steps = notation::steps(cell, "");
    let mut reply = Reply::early();
    if steps.first() != Some(&Step::Do("early")) {
        reply = reply.read_body();
    }
    let mut steps = steps.into_iter();
    while let Some(step) = steps.next() {
        reply = match step {
            Step::Send(octets) => reply.write(octets),
            Step::Do("later") => reply.wait(gate),
            Step::Do("close") => reply.close(),
            Step::Do("stall") => reply.stall(),
            Step::Do("drip") => match steps.next() {
                Some(Step::Send(octets)) => reply.drip(octets),
                step => panic!("{step:?} can't drip"),
            },
            Step::Do(_) => reply,
        };
    }
    reply
}

/// What [`run`] finds where the row comes out as it should; one of these.
fn expected(case: &Case, mark: &str) -> Vec<String> {
    let told = match case.told {
        Told::Answer(cell) => {
            let (head, body) = cell.split_once("⏎⏎").unwrap_or((cell, ""));
            let mut lines: Vec<&str> = head.split('⏎').collect();
            lines[1..].sort_unstable();
            vec![notation::written(&notation::octets(&format!("{}⏎⏎{body}", lines.join("⏎")), mark), mark)]
        }
        Told::Fault(status, slug) => vec![format!("{status} {slug}")],
        Told::BrokenOff => vec!["200, broken off".to_owned(), "502 worker-broken".to_owned()],
    };
    told.iter().map(|told| format!("{told}; {:?}; next: 200 next; asked once", case.then)).collect()
}

async fn run(client: &Client, case: &Case, worker: &Recorder, gate: &Gate, mark: &str) -> Result<String, String> {
    let mut wire = Wire::open(client).await;
    if case.kept {
        next(&mut wire, mark, "before").await?;
    }
    let (told, is_open) = ask(&mut wire, case, mark).await?;
    gate.open();
    if case.then == Connection::Closed && !worker.ends(1).await {
        return Err(format!("{told}; the connection to the worker stays open"));
    }
    if !is_open {
        wire = Wire::open(client).await;
    }
    let after = next(&mut wire, mark, "next").await?;
    let connection = match (case.then, worker.connections()) {
        (Connection::Either, 1 | 2) => Connection::Either,
        (_, 1) => Connection::Kept,
        _ => Connection::Closed,
    };
    let times = worker
        .seen()
        .iter()
        .filter(|seen| !seen.line().contains("/next ") && !seen.line().contains("/before "))
        .count();
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    Ok(format!("{told}; {connection:?}; next: {after}; asked {times}"))
}

async fn next(wire: &mut Wire, mark: &str, name: &str) -> Result<String, String> {
    wire.try_send(format!("GET /{mark}/{name} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await.map_err(|e| e.to_string())?;
    let answer = wire.try_answer().await?;
    Ok(format!("{} {}", answer.status, answer.text()))
}

/// Sends the case's request. Gives back what the client was told, and whether its connection is still open.
async fn ask(wire: &mut Wire, case: &Case, mark: &str) -> Result<(String, bool), String> {
    let mut head = None;
    for step in notation::steps(case.asked, mark) {
        match step {
            // A gateway that has answered may have closed before everything was sent.
            Step::Send(octets) => drop(wire.try_send(octets).await),
            Step::Do("await") => head = Some(wire.head().await?),
            Step::Do(_) => {}
        }
    }
    let mut answer = match head {
        Some(head) => head,
        None => wire.head().await?,
    };
    if answer.version == http::Version::HTTP_10 && answer.header("content-length").is_empty() {
        // Until the end, as HTTP/1.0 has it.
        answer.body = wire.rest().await.into();
        return Ok((told(&answer), false));
    }
    let bodiless = case.asked.starts_with("HEAD ") || matches!(answer.status, 204 | 304) || answer.status < 200;
    if !bodiless && wire.body(&mut answer).await.is_err() {
        return Ok((format!("{}, broken off", answer.status), false));
    }
    let is_open = !answer.header("connection").eq_ignore_ascii_case("close");
    Ok((told(&answer), is_open))
}

/// An answer as a cell writes it.
fn told(answer: &Answer) -> String {
    const OURS: [&str; 12] = [
        "cache-control",
        "content-length",
        "content-security-policy",
        "date",
        "ratelimit",
        "ratelimit-policy",
        "referrer-policy",
        "strict-transport-security",
        "transfer-encoding",
        "x-content-type-options",
        "x-request-id",
        "connection",
    ];
    if answer.header("content-type") == "application/problem+json" {
        return format!("{} {}", answer.status, answer.problem());
    }
    let own = answer.headers.iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
    let mut lines: Vec<String> =
        own.map(|(name, value)| format!("{name}: {}", notation::written(value.as_bytes(), ""))).collect();
    lines.sort_unstable();
    lines.insert(0, answer.status.to_string());
    format!("{}⏎⏎{}", lines.join("⏎"), notation::written(&answer.body, ""))
}
