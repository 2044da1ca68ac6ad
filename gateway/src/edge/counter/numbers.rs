//! What the limits did, for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::series::{Registry, SeriesList};

/// What became of a request at one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It had room.
    Admitted,
    /// It had none.
    Refused,
    /// It had none at first, and was held until it had.
    Throttled,
    /// It had none, and passed because the limit is only tried out.
    Shadowed,
    /// The store was lost, and it was counted in this process or passed uncounted.
    Fallback,
}

impl Event {
    const NAMES: [&'static str; 5] = ["admitted", "refused", "throttled", "shadowed", "fallback"];
}

impl Event {
    const COUNT: usize = Self::NAMES.len();
}

/// What one thread counts under one policy.
#[derive(Debug)]
pub(super) struct Tally {
    limits: SeriesList<{ Event::COUNT }>,
    thread: usize,
}

impl Tally {
    pub(super) fn count(&self, limit: usize, event: Event) {
        if let Some(series) = self.limits.get(limit) {
            series.count(self.thread, event as usize);
        }
    }
}

/// All threads' numbers.
#[derive(Debug)]
pub(super) struct Numbers {
    limits: Registry<{ Event::COUNT }>,
    /// Threads that have lost the store.
    lost: AtomicUsize,
    losses: AtomicU64,
    round_trips: AtomicU64,
    operations: AtomicU64,
    round_trip_micros: AtomicU64,
}

impl Numbers {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            limits: Registry::new(threads),
            lost: AtomicUsize::default(),
            losses: AtomicU64::default(),
            round_trips: AtomicU64::default(),
            operations: AtomicU64::default(),
            round_trip_micros: AtomicU64::default(),
        }
    }

    /// A place for a thread to count in, for limits of these names in the policy's order.
    pub(super) fn tally<'n>(&self, thread: usize, limits: impl Iterator<Item = &'n str>) -> Tally {
        Tally { limits: self.limits.list(limits), thread }
    }

    /// A thread has lost the store; whether it is the first.
    pub(super) fn lose(&self) -> bool {
        let is_first = self.lost.fetch_add(1, Ordering::Relaxed) == 0;
        self.losses.fetch_add(u64::from(is_first), Ordering::Relaxed);
        is_first
    }

    /// A thread has found it again; whether it is the last.
    pub(super) fn find(&self) -> bool {
        self.lost.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// So many operations went in one call, and took so long.
    pub(super) fn round_trip(&self, operations: usize, took: Duration) {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(u64::try_from(operations).unwrap_or(0), Ordering::Relaxed);
        self.round_trip_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    /// The numbers in Prometheus' text format.
    pub(super) fn render(&self, out: &mut String) {
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "modelgate_limit_requests_total";
        head(out, name, "counter", "Requests at each limit, by what became of them there.");
        self.limits.each(|limit, series| {
            for (event, word) in Event::NAMES.iter().enumerate() {
                let _ = writeln!(out, "{name}{{limit=\"{limit}\",outcome=\"{word}\"}} {}", series.sum(event));
            }
        });
        let micros = self.round_trip_micros.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a sum of times needs no more than 52 bits")]
        let seconds = micros as f64 / 1e6;
        let lost = self.lost.load(Ordering::Relaxed);
        for (name, kind, help, value) in [
            ("modelgate_store_lost", "gauge", "Threads that can't reach the store of limits.", lost.to_string()),
            (
                "modelgate_store_losses_total",
                "counter",
                "Times that the store of limits was lost.",
                self.losses.load(Ordering::Relaxed).to_string(),
            ),
            (
                "modelgate_store_round_trips_total",
                "counter",
                "Calls to the store of limits.",
                self.round_trips.load(Ordering::Relaxed).to_string(),
            ),
            (
                "modelgate_store_operations_total",
                "counter",
                "Decisions and settlements that went in these calls.",
                self.operations.load(Ordering::Relaxed).to_string(),
            ),
            (
                "modelgate_store_round_trip_seconds_sum",
                "counter",
                "What these calls took in all.",
                format!("{seconds}"),
            ),
        ] {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        }
    }
}
