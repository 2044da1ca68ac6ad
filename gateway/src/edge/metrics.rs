//! Numbers for Prometheus. Every thread counts in a place of its own; reading adds them up.
//!
//! Labels come from the policy alone (routes, slugs, pools), so no client can make new series.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::frames::Flood;
use crate::series::{Registry, SeriesList};
use crate::types::Name;

/// Upper bounds of the duration histogram, in microseconds.
const BUCKETS: [u64; 12] =
    [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000, 10_000_000];

/// One thread's numbers.
#[derive(Debug, Default)]
struct Shard {
    durations: [AtomicU64; BUCKETS.len() + 1],
    duration_micros: AtomicU64,
    reasons: Vec<AtomicU64>,
    connections: AtomicI64,
    accepted: AtomicU64,
    handshakes_failed: AtomicU64,
    refused: Vec<AtomicU64>,
    full: AtomicU64,
    upstream_connects: AtomicU64,
    /// By [`Flood`].
    floods: [AtomicU64; Flood::NAMES.len()],
}

/// All threads' numbers and what they are called.
#[derive(Debug)]
pub struct Metrics {
    routes: Registry<CLASSES>,
    no_route: SeriesList<CLASSES>,
    /// How often another policy was put in place, and how often one was not good.
    replaced: AtomicU64,
    kept: AtomicU64,
    reasons: &'static [&'static str],
    refused: &'static [&'static str],
    shards: Vec<Shard>,
}

/// The place where one thread counts.
#[derive(Clone, Copy, Debug)]
pub struct Tally<'m> {
    metrics: &'m Metrics,
    shard: Option<&'m Shard>,
    thread: usize,
}

/// A route's requests, by the first digit of their status.
pub type RouteSeries = SeriesList<CLASSES>;
const CLASSES: usize = 6;

impl Metrics {
    /// For these slugs of refused requests and of refused connections, and threads.
    #[must_use]
    pub fn new(reasons: &'static [&'static str], refused: &'static [&'static str], threads: usize) -> Self {
        let shard = || Shard {
            reasons: reasons.iter().map(|_| AtomicU64::new(0)).collect(),
            refused: refused.iter().map(|_| AtomicU64::new(0)).collect(),
            ..Shard::default()
        };
        let shards = (0..threads).map(|_| shard()).collect();
        let routes = Registry::new(threads);
        let no_route = routes.list(std::iter::once("(none)"));
        let (replaced, kept) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { routes, no_route, replaced, kept, reasons, refused, shards }
    }

    /// Where requests of these routes are counted.
    pub fn routes<'n>(&self, names: impl Iterator<Item = &'n str>) -> RouteSeries {
        self.routes.list(names)
    }

    /// Another policy was put in place, or (`false`) was not good.
    pub fn policy_replaced(&self, is_good: bool) {
        add(Some(if is_good { &self.replaced } else { &self.kept }), 1);
    }

    /// Where the thread at this position counts.
    #[must_use]
    pub fn tally(&self, thread: usize) -> Tally<'_> {
        Tally { metrics: self, shard: self.shards.get(thread), thread }
    }

    /// Numbers without labels.
    fn totals(&self, log_dropped: u64) -> Vec<(&'static str, &'static str, u64)> {
        vec![
            (
                "modelgate_connections_accepted_total",
                "Client connections that were accepted.",
                self.sum(|s| Some(&s.accepted)),
            ),
            (
                "modelgate_connections_full_total",
                "Times that a thread left connections in the kernel's queue because it had all that it may.",
                self.sum(|s| Some(&s.full)),
            ),
            (
                "modelgate_handshakes_failed_total",
                "TLS handshakes that failed or took too long.",
                self.sum(|s| Some(&s.handshakes_failed)),
            ),
            (
                "modelgate_upstream_connects_total",
                "Connections opened to workers.",
                self.sum(|s| Some(&s.upstream_connects)),
            ),
            (
                "modelgate_policies_replaced_total",
                "Policies that were read anew and serve.",
                self.replaced.load(Ordering::Relaxed),
            ),
            (
                "modelgate_policies_kept_total",
                "Policies that were read anew and were not good, so that the old one went on.",
                self.kept.load(Ordering::Relaxed),
            ),
            (
                "modelgate_log_records_dropped_total",
                "Log records lost because the writer could not follow.",
                log_dropped,
            ),
        ]
    }

    fn sum<'s>(&'s self, read: impl Fn(&'s Shard) -> Option<&'s AtomicU64>) -> u64 {
        self.shards.iter().filter_map(read).map(|number| number.load(Ordering::Relaxed)).sum()
    }

    /// The numbers in Prometheus' text format, version 0.0.4. `expiries` are certificates and when they expire,
    /// in seconds since 1970.
    #[must_use]
    pub fn render(&self, log_dropped: u64, expiries: &[(Name, i64)]) -> String {
        let mut out = String::with_capacity(4096);
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(&mut out, "modelgate_requests_total", "counter", "Requests that ended, by route and class of status.");
        self.routes.each(|route, series| {
            for (class, count) in (1..CLASSES).map(|class| (class, series.sum(class))).filter(|(_, count)| *count > 0) {
                let _ = writeln!(out, "modelgate_requests_total{{route=\"{route}\",class=\"{class}xx\"}} {count}");
            }
        });
        head(&mut out, "modelgate_refusals_total", "counter", "Requests that were refused or failed, by reason.");
        for (index, reason) in self.reasons.iter().enumerate() {
            let count = self.sum(|shard| shard.reasons.get(index));
            let _ = writeln!(out, "modelgate_refusals_total{{reason=\"{reason}\"}} {count}");
        }
        head(
            &mut out,
            "modelgate_http2_floods_total",
            "counter",
            "HTTP/2 connections that were ended for a flood, by kind.",
        );
        for (index, kind) in Flood::NAMES.iter().enumerate() {
            let count = self.sum(|shard| shard.floods.get(index));
            let _ = writeln!(out, "modelgate_http2_floods_total{{kind=\"{kind}\"}} {count}");
        }
        head(
            &mut out,
            "modelgate_request_duration_seconds",
            "histogram",
            "From a request's head to the end of its answer.",
        );
        let mut total = 0;
        for (index, bound) in BUCKETS.iter().enumerate() {
            total += self.sum(|shard| shard.durations.get(index));
            let (seconds, micros) = (bound / 1_000_000, bound % 1_000_000);
            let _ = writeln!(out, "modelgate_request_duration_seconds_bucket{{le=\"{seconds}.{micros:06}\"}} {total}");
        }
        total += self.sum(|shard| shard.durations.last());
        let spent = Duration::from_micros(self.sum(|shard| Some(&shard.duration_micros)));
        let _ = writeln!(out, "modelgate_request_duration_seconds_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "modelgate_request_duration_seconds_sum {}", spent.as_secs_f64());
        let _ = writeln!(out, "modelgate_request_duration_seconds_count {total}");
        let open: i64 = self.shards.iter().map(|shard| shard.connections.load(Ordering::Relaxed)).sum();
        head(&mut out, "modelgate_connections", "gauge", "Client connections that are open.");
        let _ = writeln!(out, "modelgate_connections {open}");
        head(
            &mut out,
            "modelgate_connections_refused_total",
            "counter",
            "Client connections that were closed before their handshake, by reason.",
        );
        for (index, reason) in self.refused.iter().enumerate() {
            let count = self.sum(|shard| shard.refused.get(index));
            let _ = writeln!(out, "modelgate_connections_refused_total{{reason=\"{reason}\"}} {count}");
        }
        head(
            &mut out,
            "modelgate_certificate_expiry_seconds",
            "gauge",
            "When a certificate expires, in seconds since 1970.",
        );
        for (name, expires) in expiries {
            // What Rust escapes in a string, Prometheus does in the same way.
            let _ = writeln!(out, "modelgate_certificate_expiry_seconds{{name={name:?}}} {expires}");
        }
        for (name, help, count) in self.totals(log_dropped) {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {count}");
        }
        out
    }
}

fn add(number: Option<&AtomicU64>, by: u64) {
    if let Some(number) = number {
        number.fetch_add(by, Ordering::Relaxed);
    }
}

impl Tally<'_> {
    /// Counts a request at its end, at the position of its route among `routes`. `reason` is the slug's position.
    pub fn request(
        &self,
        routes: &RouteSeries,
        route: Option<usize>,
        status: u16,
        reason: Option<usize>,
        took: Duration,
    ) {
        let Some(shard) = self.shard else { return };
        let series = route.map_or_else(|| self.metrics.no_route.first(), |route| routes.get(route));
        if let Some(series) = series {
            series.count(self.thread, usize::from(status / 100));
        }
        if let Some(reason) = reason {
            add(shard.reasons.get(reason), 1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|&bound| micros <= bound).unwrap_or(BUCKETS.len());
        add(shard.durations.get(bucket), 1);
        add(Some(&shard.duration_micros), micros);
    }

    /// Counts a connection that was accepted.
    pub fn connection_opened(&self) {
        if let Some(shard) = self.shard {
            shard.connections.fetch_add(1, Ordering::Relaxed);
            add(Some(&shard.accepted), 1);
        }
    }

    /// Counts a connection that ended.
    pub fn connection_closed(&self) {
        if let Some(shard) = self.shard {
            shard.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a connection that was closed before its handshake. `reason` is the slug's position.
    pub fn connection_refused(&self, reason: usize) {
        add(self.shard.and_then(|shard| shard.refused.get(reason)), 1);
    }

    /// Counts that no more connections are taken.
    pub fn connections_full(&self) {
        add(self.shard.map(|shard| &shard.full), 1);
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self) {
        add(self.shard.map(|shard| &shard.handshakes_failed), 1);
    }

    /// Counts an HTTP/2 connection that was ended for a flood.
    pub fn flooded(&self, flood: Flood) {
        add(self.shard.and_then(|shard| shard.floods.get(flood as usize)), 1);
    }

    /// Counts a connection to a worker.
    pub fn upstream_connected(&self) {
        add(self.shard.map(|shard| &shard.upstream_connects), 1);
    }
}
