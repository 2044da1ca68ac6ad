//! What is counted, and how Prometheus reads it. Labels are names of models, versions, features and protocols, never
//! anything that a caller chose.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::card::Card;

/// How a request was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `/predict`
    Predict,
    /// Open Inference Protocol over REST.
    Rest,
    /// Open Inference Protocol over gRPC.
    Grpc,
}

const PROTOCOLS: [(Protocol, &str); 3] =
    [(Protocol::Predict, "predict"), (Protocol::Rest, "v2"), (Protocol::Grpc, "grpc")];

/// Upper bounds of the histogram's buckets, in microseconds.
const BUCKETS: [u64; 10] = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 100_000];

/// Counts of one version of one model.
#[derive(Debug, Default)]
pub struct Counts {
    requests: [AtomicU64; 3],
    rows: AtomicU64,
    unusual: Vec<AtomicU64>,
    buckets: [AtomicU64; BUCKETS.len()],
    nanoseconds: AtomicU64,
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Counts {
    /// Nothing yet, for the features of `card`.
    #[must_use]
    pub fn new(card: &Card) -> Self {
        Self { unusual: card.features.iter().map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    /// Counts one answered request.
    pub fn answered(&self, protocol: Protocol, rows: usize, took: Duration) {
        for (counter, (of, _)) in self.requests.iter().zip(PROTOCOLS) {
            if of == protocol {
                add(counter, 1);
            }
        }
        add(&self.rows, wide(rows));
        add(&self.nanoseconds, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        let bucket = BUCKETS.iter().position(|bound| took <= Duration::from_micros(*bound));
        if let Some(counter) = bucket.and_then(|bucket| self.buckets.get(bucket)) {
            add(counter, 1);
        }
    }

    /// Counts one value outside what training saw.
    pub fn unusual(&self, feature: usize) {
        if let Some(counter) = self.unusual.get(feature) {
            add(counter, 1);
        }
    }

    /// Requests and rows so far, and the nanoseconds that they took.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        let requests = self.requests.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
        (requests, self.rows.load(Ordering::Relaxed), self.nanoseconds.load(Ordering::Relaxed))
    }
}

/// Counts of the whole worker.
#[derive(Debug, Default)]
pub struct Totals {
    /// Refusals by status class: 4xx, 5xx.
    refused: [AtomicU64; 2],
    /// Reloads that found something new, and artifacts that were refused.
    reloads: [AtomicU64; 2],
}

impl Totals {
    /// Counts one refusal.
    pub fn refused(&self, status: u16) {
        let [client, server] = &self.refused;
        add(if status < 500 { client } else { server }, 1);
    }

    /// Counts one look at the directory that found something, and what it refused.
    pub fn reloaded(&self, refused: usize) {
        let [reloads, artifacts] = &self.reloads;
        add(reloads, 1);
        add(artifacts, wide(refused));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One model's counts, with its name and version.
pub type Entry<'a> = (&'a str, &'a str, &'a Card, &'a Counts);

/// Everything, in the text format 0.0.4.
#[must_use]
pub fn render(models: &[Entry<'_>], totals: &Totals, ready: bool) -> String {
    let mut text = String::new();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let labels =
        |(name, version, ..): &Entry<'_>| format!("model=\"{}\",version=\"{}\"", escaped(name), escaped(version));
    head(&mut text, "model_worker_ready", "gauge", "1 while requests are wanted, 0 while draining.");
    let _ = writeln!(text, "model_worker_ready {}", u8::from(ready));
    head(&mut text, "model_worker_requests_total", "counter", "Requests answered with predictions.");
    for entry in models {
        for (counter, (_, protocol)) in entry.3.requests.iter().zip(PROTOCOLS) {
            let of = labels(entry);
            let _ = writeln!(text, "model_worker_requests_total{{{of},protocol=\"{protocol}\"}} {}", load(counter));
        }
    }
    head(&mut text, "model_worker_rows_total", "counter", "Rows predicted.");
    for entry in models {
        let _ = writeln!(text, "model_worker_rows_total{{{}}} {}", labels(entry), load(&entry.3.rows));
    }
    head(&mut text, "model_worker_unusual_values_total", "counter", "Values outside what training saw.");
    for entry in models {
        for (feature, counter) in entry.2.features.iter().zip(&entry.3.unusual) {
            let (of, feature) = (labels(entry), escaped(&feature.name));
            let _ = writeln!(text, "model_worker_unusual_values_total{{{of},feature=\"{feature}\"}} {}", load(counter));
        }
    }
    head(&mut text, "model_worker_seconds", "histogram", "Time from the whole body to the answer.");
    for entry in models {
        let (of, mut sum) = (labels(entry), 0);
        for (bound, counter) in BUCKETS.iter().zip(&entry.3.buckets) {
            sum += load(counter);
            let seconds = Duration::from_micros(*bound).as_secs_f64();
            let _ = writeln!(text, "model_worker_seconds_bucket{{{of},le=\"{seconds}\"}} {sum}");
        }
        let (requests, _, nanoseconds) = entry.3.totals();
        let seconds = Duration::from_nanos(nanoseconds).as_secs_f64();
        let _ = writeln!(text, "model_worker_seconds_bucket{{{of},le=\"+Inf\"}} {requests}");
        let _ = writeln!(text, "model_worker_seconds_sum{{{of}}} {seconds}");
        let _ = writeln!(text, "model_worker_seconds_count{{{of}}} {requests}");
    }
    head(&mut text, "model_worker_refused_total", "counter", "Requests that were refused.");
    for (counter, status) in totals.refused.iter().zip(["4xx", "5xx"]) {
        let _ = writeln!(text, "model_worker_refused_total{{status=\"{status}\"}} {}", load(counter));
    }
    let [reloads, artifacts] = &totals.reloads;
    head(&mut text, "model_worker_reloads_total", "counter", "Changes of the model directory that were taken up.");
    let _ = writeln!(text, "model_worker_reloads_total {}", load(reloads));
    head(&mut text, "model_worker_artifacts_refused_total", "counter", "Artifacts that could not be used.");
    let _ = writeln!(text, "model_worker_artifacts_refused_total {}", load(artifacts));
    text
}
