//! What came of a pool's copies: how often the other pool agreed, how far apart it was, how long it took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::policy::agreement::Agreement;

/// Steps of a latency's scale in each doubling.
const STEPS: f64 = 4.0;
/// Up to 2^30 microseconds, which is a quarter of an hour.
const MOST_STEPS: usize = 121;

/// What copies must have shown before their pool's workers are promoted. Shares are of a hundred.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Answers that were compared, at least.
    pub compared: u64,
    /// Labels that are the same, and statuses, at least.
    pub agreement: f64,
    /// Copies that failed, at most.
    pub failed: f64,
    /// The largest difference of a probability, at most.
    pub distance: Option<f64>,
    /// The candidate's 95th percentile, at most, as a multiple of the live workers'.
    pub slowdown: Option<f64>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { compared: 100, agreement: 99.0, failed: 1.0, distance: None, slowdown: None }
    }
}

/// How two answers to one request compare.
pub(super) struct Compared {
    pub(super) is_same_status: bool,
    /// Where both are of a form that is known.
    pub(super) agreement: Option<Agreement>,
    pub(super) live: Duration,
    pub(super) other: Duration,
}

/// All copies of one pool since the start, or since another pool gets them. Asked for and written to beside the
/// requests, so a lock is good enough.
#[derive(Debug, Default)]
pub(super) struct Report(Mutex<Sums>);

#[derive(Debug, Default)]
struct Sums {
    dropped: u64,
    failed: u64,
    answered: u64,
    same_status: u64,
    compared: u64,
    labels: u64,
    same_labels: u64,
    distances: u64,
    distance_sum: f64,
    distance_max: f64,
    live: Latency,
    other: Latency,
}

/// How long answers took, by fourths of doublings of a microsecond.
#[derive(Debug)]
struct Latency {
    counts: [u64; MOST_STEPS],
    sum: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: [0; MOST_STEPS], sum: Duration::ZERO }
    }
}

impl Latency {
    fn count(&mut self, took: Duration) {
        let micros = took.as_secs_f64() * 1e6;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and bounded below")]
        let step = (micros.max(1.0).log2() * STEPS).ceil() as usize;
        if let Some(count) = self.counts.get_mut(step.min(MOST_STEPS - 1)) {
            *count += 1;
        }
        self.sum += took;
    }

    /// Milliseconds that so many in a thousand did not exceed, to a fifth.
    fn quantile(&self, thousandths: u64) -> f64 {
        let wanted = (self.counts.iter().sum::<u64>() * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let step = f64::from(u32::try_from(step.unwrap_or(0)).unwrap_or(0));
        (step / STEPS).exp2() / 1e3
    }

    fn show(&self, count: u64) -> Value {
        if count == 0 {
            return Value::Null;
        }
        let micro = |milliseconds: f64| (milliseconds * 1e3).round() / 1e3;
        json!({
            "mean_ms": micro(self.sum.as_secs_f64() * 1e3 / float(count)),
            "p50_ms": micro(self.quantile(500)),
            "p95_ms": micro(self.quantile(950)),
            "p99_ms": micro(self.quantile(990)),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn float(count: u64) -> f64 {
    count as f64
}

impl Report {
    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There was no room for a copy.
    pub(super) fn dropped(&self) {
        self.lock().dropped += 1;
    }

    /// The other pool gave no usable answer, or a 5xx.
    pub(super) fn failed(&self) {
        self.lock().failed += 1;
    }

    /// The other pool answered.
    pub(super) fn compared(&self, found: &Compared) {
        let mut sums = self.lock();
        sums.answered += 1;
        sums.same_status += u64::from(found.is_same_status);
        sums.live.count(found.live);
        sums.other.count(found.other);
        let Some(agreement) = &found.agreement else { return };
        sums.compared += 1;
        sums.labels += agreement.labels;
        sums.same_labels += agreement.same;
        if let Some(distance) = agreement.distance {
            sums.distances += 1;
            sums.distance_sum += distance;
            sums.distance_max = sums.distance_max.max(distance);
        }
    }

    /// The report for operators.
    pub(super) fn show(&self) -> Value {
        let sums = self.lock();
        let known = |count: u64, value: f64| if count == 0 { Value::Null } else { json!(value) };
        let share = |part: u64, all: u64| known(all, float(part) / float(all));
        json!({
            "copies": { "answered": sums.answered, "failed": sums.failed, "dropped": sums.dropped },
            "same_status": sums.same_status,
            "compared": sums.compared,
            "labels": { "compared": sums.labels, "same": sums.same_labels, "share": share(sums.same_labels, sums.labels) },
            "probabilities": {
                "compared": sums.distances,
                "largest_difference": known(sums.distances, sums.distance_max),
                "mean_difference": known(sums.distances, sums.distance_sum / float(sums.distances)),
            },
            "latency": { "live": sums.live.show(sums.answered), "candidate": sums.other.show(sums.answered) },
        })
    }

    /// Which thresholds are not met, and what is there.
    pub(super) fn unmet(&self, wanted: &Thresholds) -> Vec<String> {
        let sums = self.lock();
        // Written so that what is no number meets nothing.
        let at_least = |found: f64, least: f64| found >= least;
        let at_most = |found: f64, most: f64| found <= most;
        let percent = |part: u64, all: u64| if all == 0 { f64::NAN } else { float(part) * 100.0 / float(all) };
        let mut unmet = Vec::new();
        let mut check = |is_met: bool, what: String| unmet.extend(Some(what).filter(|_| !is_met));
        check(
            sums.compared >= wanted.compared,
            format!("{} answers were compared, and {} are asked for", sums.compared, wanted.compared),
        );
        for (what, part, all) in
            [("labels", sums.same_labels, sums.labels), ("statuses", sums.same_status, sums.answered)]
        {
            check(
                at_least(percent(part, all), wanted.agreement),
                format!("{part} of {all} {what} are the same, and {} % are asked for", wanted.agreement),
            );
        }
        let copies = sums.answered + sums.failed;
        check(
            at_most(percent(sums.failed, copies), wanted.failed),
            format!("{} of {copies} copies failed, and {} % may", sums.failed, wanted.failed),
        );
        if let Some(most) = wanted.distance {
            let what = if sums.distances == 0 {
                format!("no probabilities were compared, and they may be {most} apart")
            } else {
                format!("a probability is {:.3} apart, and {most} is allowed", sums.distance_max)
            };
            check(sums.distances > 0 && at_most(sums.distance_max, most), what);
        }
        if let Some(most) = wanted.slowdown {
            let (live, other) = (sums.live.quantile(950), sums.other.quantile(950));
            let what = format!("95 of 100 answers begin within {other:.3} ms, live within {live:.3} ms");
            check(
                sums.answered > 0 && at_most(other, live * most),
                format!("{what}, and {most} times that is allowed"),
            );
        }
        unmet
    }

    /// Copies that were answered, failed and dropped; labels that are the same, and that are not.
    pub(super) fn counts(&self) -> [u64; 5] {
        let sums = self.lock();
        [sums.answered, sums.failed, sums.dropped, sums.same_labels, sums.labels - sums.same_labels]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut latency = Latency::default();
        (1..=1000).for_each(|micros| latency.count(Duration::from_micros(micros * 10)));
        for (thousandths, exact) in [(500, 5.0), (950, 9.5), (990, 9.9)] {
            let found = latency.quantile(thousandths);
            assert!((exact..exact * 1.2).contains(&found), "{found} for {exact}");
        }
        latency.count(Duration::MAX / 4);
        assert_eq!(Latency::default().show(0), Value::Null);
    }

    #[test]
    fn thresholds_that_are_not_met_are_named() {
        let report = Report::default();
        let wanted = Thresholds { distance: Some(0.2), slowdown: Some(1.5), ..Thresholds::default() };
        assert_eq!(report.unmet(&wanted).len(), 6, "nothing was compared, so nothing is shown");
        let millisecond = Duration::from_millis(1);
        let found = |same, distance, other: u32| Compared {
            is_same_status: true,
            agreement: Some(Agreement { labels: 1, same, distance: Some(distance) }),
            live: millisecond,
            other: millisecond * other,
        };
        (0..100).for_each(|_| report.compared(&found(1, 0.1, 1)));
        assert_eq!(report.unmet(&wanted), [""; 0]);
        report.failed();
        report.failed();
        report.compared(&found(0, 0.3, 1));
        (0..10).for_each(|_| report.compared(&found(1, 0.1, 2)));
        let expected = [
            "2 of 113 copies failed, and 1 % may",
            "a probability is 0.300 apart, and 0.2 is allowed",
            "95 of 100 answers begin within 2.048 ms, live within 1.024 ms, and 1.5 times that is allowed",
        ];
        assert_eq!(report.unmet(&wanted), expected);
        let strict = Thresholds { agreement: 99.9, failed: f64::NAN, ..Thresholds::default() };
        let expected =
            ["110 of 111 labels are the same, and 99.9 % are asked for", "2 of 113 copies failed, and NaN % may"];
        assert_eq!(report.unmet(&strict), expected);
    }
}
