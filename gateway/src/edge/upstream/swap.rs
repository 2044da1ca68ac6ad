//! `[pools.NAME.swap]`: what new workers of a pool must show before they serve, and what ends their time early.
//!
//! A worker that is ready may still answer with another model. Golden predictions are requests whose answers are
//! known; every new worker is asked all of them, on connections of its own, before it gets a client's request.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use serde::Deserialize;
use serde_json::Value;

use super::headers::{ASSERTION, Forwarded};
use super::ready::ask_ready;
use super::settings::{PoolSettings, WorkerSettings};
use super::standing::{Counted, Known, Standing};
use super::{Call, Outgoing, Pool};
use crate::deadline::within;
use crate::policy::{agreement, json};
use crate::settings::Section;
use crate::types::Name;

/// How many golden predictions there may be.
const MOST_GOLDEN: usize = 100;
/// How deep one may be nested.
const DEPTH: usize = 32;
/// The longest answer to one that is read.
const MOST_ANSWER: usize = 1 << 20;
/// How long all workers have for all of them: less than whoever asked waits.
const PATIENCE: Duration = Duration::from_secs(25);

/// What new workers must show, and what rolls them back.
#[derive(Clone, Debug)]
pub(super) struct SwapRule {
    golden: Arc<[Golden]>,
    /// How long new workers are watched.
    watch: Duration,
    /// How many in a hundred requests may fail meanwhile.
    max_faults: u64,
    /// Fewer requests say nothing.
    min_requests: u64,
}

/// A request whose answer is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    method: Option<String>,
    path: String,
    #[serde(default)]
    body: Option<Value>,
    #[serde(default)]
    status: Option<u16>,
    expect: Value,
    #[serde(default)]
    tolerance: f64,
}

#[derive(Debug)]
struct Golden {
    method: Method,
    target: PathAndQuery,
    body: Option<Bytes>,
    status: u16,
    expect: Value,
    tolerance: f64,
}

impl SwapRule {
    /// Reads `[pools.NAME.swap]` of the pool's section.
    pub(super) fn compile(pool: &Section<'_>) -> Option<Self> {
        let section = pool.section("swap")?;
        let remedy = "name a JSON file with requests and what their answers must have: golden = \"golden.json\"";
        let golden = section.file("golden", remedy).and_then(|file| {
            read(&file).map_err(|reason| section.mistake("golden", format!("names a file that {reason}"), remedy)).ok()
        });
        let watch = section.or("watch", Duration::from_secs(30));
        let (max_faults, min_requests) = (section.or("max_faults", 20), section.or("min_requests", 5));
        if max_faults > 100 {
            section.mistake("max_faults", "is more than all", "write a number from 0 to 100");
        }
        section.finish();
        Some(Self { golden: golden?.into(), watch, max_faults, min_requests })
    }
}

fn read(file: &[u8]) -> Result<Vec<Golden>, String> {
    let value = json::parse(file, DEPTH).map_err(|error| format!("is not JSON: {} {}", error.pointer, error.detail))?;
    let written: Vec<Written> =
        serde_json::from_value(value).map_err(|error| format!("is no list of golden predictions: {error}"))?;
    if !(1..=MOST_GOLDEN).contains(&written.len()) {
        return Err(format!("has {} golden predictions; 1 to {MOST_GOLDEN} are taken", written.len()));
    }
    let golden = written.into_iter().enumerate().map(|(position, written)| {
        let Written { method, path, body, status, expect, tolerance } = written;
        let wrong = |what: &str| format!("has at /{position} {what}");
        let method = method.as_deref().unwrap_or(if body.is_some() { "POST" } else { "GET" });
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| wrong("no method"))?;
        let target = Some(path).filter(|path| path.starts_with('/')).and_then(|path| path.parse().ok());
        let status = status.unwrap_or(200);
        if !(200..500).contains(&status) {
            return Err(wrong("a status that is no answer; 200 to 499 are taken"));
        }
        if !(tolerance.is_finite() && tolerance >= 0.0) {
            return Err(wrong("a tolerance below 0"));
        }
        let body = body.map(|body| body.to_string().into());
        Ok(Golden { method, target: target.ok_or_else(|| wrong("no path"))?, body, status, expect, tolerance })
    });
    golden.collect()
}

impl Golden {
    async fn ask(&self, pool: &Pool, shown: Option<&HeaderValue>) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.extend(shown.map(|shown| (ASSERTION.clone(), shown.clone())));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if self.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let call = Call {
            method: &self.method,
            path: self.target.path(),
            query: self.target.query(),
            headers: Forwarded::ready(&headers, "golden"),
            trailers: false,
            websocket: None,
            workers: u64::MAX,
        };
        let body = self.body.clone().map_or(Outgoing::Empty, |body| Outgoing::Whole(Some(body)));
        let answer = pool.send(&call, body, &|| {}).await.map_err(|fault| format!("{fault:?}"))?;
        let status = answer.response.status();
        if status != self.status {
            return Err(format!("it answered {status}, not {}", self.status));
        }
        let whole = answer.response.into_body().whole(MOST_ANSWER).await.map_err(|fault| format!("{fault:?}"))?;
        let answer = json::parse(&whole, DEPTH).map_err(|error| format!("its answer is not JSON: {}", error.detail))?;
        agreement::has(&answer, &self.expect, self.tolerance)
    }
}

/// How many requests workers got, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All of them.
    pub requests: u64,
    /// Without a usable answer, or with a 5xx.
    pub faults: u64,
}

impl PoolSettings {
    /// Whether its workers can be swapped.
    #[must_use]
    pub fn is_swappable(&self) -> bool {
        self.swap.is_some()
    }

    /// How long new workers are watched.
    #[must_use]
    pub fn watch(&self) -> Duration {
        self.swap.as_ref().map_or(Duration::ZERO, |rule| rule.watch)
    }

    /// Its workers, as the log names them.
    #[must_use]
    pub fn workers(&self) -> Vec<Name> {
        self.workers.iter().map(|worker| Name::clone(&worker.label)).collect()
    }

    /// The same pool with other workers, which nobody knows yet.
    ///
    /// # Errors
    /// What is wrong with the URLs.
    pub fn with_workers(&self, urls: &[String]) -> Result<Self, Vec<String>> {
        let (mut workers, mut mistakes) = (Vec::<WorkerSettings>::new(), Vec::new());
        for url in urls {
            match WorkerSettings::read(url, 1, &workers, self.dial.danger_plaintext) {
                Ok(worker) => match self.can_reach(&worker) {
                    Ok(()) => workers.push(worker),
                    Err(reason) => mistakes.push(reason),
                },
                Err((reason, remedy)) => mistakes.push(format!("the worker {reason}: {remedy}")),
            }
        }
        if urls.is_empty() {
            mistakes.push("no worker is named".into());
        }
        if mistakes.is_empty() { Ok(Self { workers, ..self.clone() }) } else { Err(mistakes) }
    }

    /// Whether the pool's own rules let it speak to a worker that another one may have named.
    pub(super) fn can_reach(&self, worker: &WorkerSettings) -> Result<(), String> {
        if worker.address.is_tls() && self.dial.tls.is_none() {
            return Err(format!("{:?} speaks TLS, and the pool has no `ca` to check it against", &*worker.label));
        }
        Ok(())
    }

    /// The pool with the workers of another state of it: all else stays as it is now.
    #[must_use]
    pub fn with_workers_of(&self, other: &Self) -> Self {
        Self { workers: other.workers.clone(), promoted: other.promoted.clone(), ..self.clone() }
    }

    /// Tests every worker that is not among those that `serve` already: it must be ready and give the golden
    /// predictions. `shown` is what workers are told of who asks. Gives back how many were tested. A pool without golden
    /// predictions has nothing to test.
    ///
    /// # Errors
    /// What failed, each with its worker.
    pub async fn test(&self, serving: &[Name], shown: Option<&HeaderValue>) -> Result<usize, Vec<String>> {
        let Some(rule) = &self.swap else { return Ok(0) };
        let new: Vec<_> = self.workers.iter().filter(|worker| !serving.contains(&worker.label)).collect();
        let test = async {
            let mut failures = Vec::new();
            for worker in &new {
                failures.extend(self.test_one(rule, worker, shown).await);
            }
            failures
        };
        let failures = within(PATIENCE, test).await;
        let failures = failures.unwrap_or_else(|| vec![format!("the workers took more than {PATIENCE:?} in all")]);
        if failures.is_empty() { Ok(new.len()) } else { Err(failures) }
    }

    async fn test_one(&self, rule: &SwapRule, worker: &WorkerSettings, shown: Option<&HeaderValue>) -> Vec<String> {
        if let Err(reason) = ask_ready(self, worker, &self.ready_path, self.dial.timeout * 2).await {
            return vec![format!("{} is not ready: {reason}", worker.label)];
        }
        let pool = self.alone(worker);
        let mut failures = Vec::new();
        for (position, golden) in rule.golden.iter().enumerate() {
            if let Err(reason) = golden.ask(&pool, shown).await {
                let mut text = format!("{}, golden prediction {position}", worker.label);
                let _ = write!(text, " ({} {}): {reason}", golden.method, golden.target);
                failures.push(text);
            }
        }
        failures
    }

    /// The way to one worker, by itself: nobody else learns what it does there.
    pub(super) fn alone(&self, worker: &WorkerSettings) -> Pool {
        let known = Arc::new(Known::new(Name::clone(&worker.label), 0));
        let alone = Self {
            workers: vec![WorkerSettings { known, ..worker.clone() }],
            standing: Arc::new(Standing::new(Name::clone(&self.name), 0)),
            canary: None,
            shadow: None,
            ..self.clone()
        };
        Pool::new(&alone, 0, &[])
    }

    /// What became so far of the requests of those of its workers that are among these.
    #[must_use]
    pub fn tally(&self, among: &[Name]) -> Tally {
        let sum = |what: Counted| {
            let workers = self.workers.iter().filter(|worker| among.contains(&worker.label));
            workers.map(|worker| worker.known.counts.sum(what as usize)).sum::<u64>()
        };
        let (failed, busy) = (sum(Counted::Failed), sum(Counted::Busy));
        Tally { requests: sum(Counted::Answered) + failed + busy, faults: failed + busy + sum(Counted::Errors) }
    }

    /// Which of these workers the witnesses speak against, and why.
    #[must_use]
    pub fn failing_among(&self, among: &[Name]) -> Option<String> {
        let is_meant = |worker: &&WorkerSettings| worker.known.is_failing() && among.contains(&worker.label);
        let worker = self.workers.iter().find(is_meant)?;
        let shown = self.workers.iter().zip(self.standing.show()).find(|(other, _)| other.label == worker.label);
        let cause = shown.and_then(|(_, shown)| shown.cause).unwrap_or_default();
        Some(format!("{} fails: {cause}", worker.label))
    }

    /// Whether too many requests failed since a tally was made.
    #[must_use]
    pub fn fails_since(&self, before: Tally) -> Option<Tally> {
        let rule = self.swap.as_ref()?;
        let now = self.tally(&self.workers());
        let since = Tally {
            requests: now.requests.saturating_sub(before.requests),
            faults: now.faults.saturating_sub(before.faults),
        };
        let is_over = since.faults * 100 > rule.max_faults * since.requests;
        (is_over && since.requests >= rule.min_requests).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn golden_predictions_are_read_strictly() {
        let good = read(br#"[{"path":"/p?x=1","body":{"a":1},"expect":{"label":"a"}},{"path":"/m","expect":{}}]"#);
        let methods: Vec<_> = good.expect("it is good").iter().map(|golden| golden.method.clone()).collect();
        assert_eq!(methods, ["POST", "GET"]);
        for (wrong, said) in [
            ("[", "is not JSON"),
            ("{}", "is no list"),
            ("[]", "has 0 golden"),
            (r#"[{"path":"/p"}]"#, "missing field `expect`"),
            (r#"[{"path":"p","expect":{}}]"#, "at /0 no path"),
            (r#"[{"path":"/p","expect":{},"status":500}]"#, "at /0 a status"),
            (r#"[{"path":"/p","expect":{},"tolerance":-1}]"#, "at /0 a tolerance"),
            (r#"[{"path":"/p","expect":{},"expects":1}]"#, "unknown field `expects`"),
            (r#"[{"path":"/p","expect":{},"method":"G T"}]"#, "at /0 no method"),
        ] {
            let reason = read(wrong.as_bytes()).expect_err(wrong);
            assert!(reason.contains(said), "{wrong}: {reason}");
        }
    }
}
