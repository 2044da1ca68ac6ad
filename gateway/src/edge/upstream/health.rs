//! `[pools.NAME.health]`: what makes a worker one that is not to be used, and the probes that ask it.
//!
//! One prober in each process asks every worker of a pool that wants it; the threads that serve ask nobody.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::task::JoinSet;

use super::ready::ask_ready;
use super::settings::{PoolSettings, WorkerSettings};
use super::standing;
use crate::settings::Section;

/// What makes a worker one that is not to be used.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthRule {
    pub(super) probes: Option<Probes>,
    pub(super) passive: Option<Passive>,
    /// In a hundred.
    max_ejected: u32,
}

impl HealthRule {
    /// How many of so many workers may be out at once. Of two, one may, whatever the share.
    pub(super) fn most_out(&self, workers: usize) -> usize {
        let share = workers * self.max_ejected as usize / 100;
        if self.max_ejected > 0 && workers > 1 { share.max(1) } else { share }
    }
}

/// How workers are asked.
#[derive(Clone, Debug)]
pub(super) struct Probes {
    path: Box<str>,
    interval: Duration,
    timeout: Duration,
    /// By how much of itself, in a hundred, an interval is longer or shorter.
    jitter: u32,
    pub(super) out_after: u32,
    pub(super) in_after: u32,
}

/// How requests that fail speak against a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passive {
    /// So many in a row; 0 for never.
    pub(super) row: u32,
    /// So many in a hundred of a window; 0 for never.
    pub(super) share: u32,
    pub(super) window: Duration,
    /// A window with fewer requests says nothing.
    pub(super) min_requests: u64,
    /// Whether answers with 5xx are failures.
    pub(super) errors: bool,
    /// How long it stays out the first time, and at most.
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Passive {
    /// How long a worker stays out that was put out so often before.
    pub(super) fn ejection(&self, times: u32) -> Duration {
        self.first.saturating_mul(1 << times.min(20)).min(self.longest)
    }
}

impl HealthRule {
    /// Reads `[pools.NAME.health]` of the pool's section. Without that table nobody is probed.
    pub(super) fn compile(pool: &Section<'_>, ready_path: &str) -> Self {
        let is_written = pool.has("health");
        let section = pool.section_or_empty("health");
        let seconds = Duration::from_secs;
        let path = section.or("path", ready_path.to_owned());
        if path.parse::<PathAndQuery>().is_err() || !path.starts_with('/') {
            section.mistake(
                "path",
                "is not a path",
                "write the path that says whether a worker is ready, such as \"/readyz\"",
            );
        }
        let probes = Probes {
            path: path.into(),
            interval: section.or("interval", seconds(5)),
            timeout: section.or("timeout", seconds(2)),
            jitter: section.or("jitter", 20),
            out_after: section.or("out_after", 2),
            in_after: section.or("in_after", 2),
        };
        let passive = Passive {
            row: section.or("max_failures_in_a_row", 5),
            share: section.or("max_failure_share", 50),
            window: section.or("window", seconds(10)),
            min_requests: section.or("min_requests", 20),
            errors: section.or("count_errors", false),
            first: section.or("ejected_for", seconds(10)),
            longest: section.or("max_ejected_for", seconds(300)),
        };
        let (active, on) = (section.or("active", true), section.or("passive", true));
        let max_ejected = section.or("max_ejected", 50);
        for (key, value, low, high) in [
            ("jitter", probes.jitter, 0, 90),
            ("out_after", probes.out_after, 1, 100),
            ("in_after", probes.in_after, 1, 100),
            ("max_failure_share", passive.share, 0, 100),
            ("max_ejected", max_ejected, 0, 100),
        ] {
            if !(low..=high).contains(&value) {
                section.mistake(key, format!("is {value}"), format!("write a number from {low} to {high}"));
            }
        }
        if probes.interval < Duration::from_millis(100) {
            section.mistake("interval", "is so short that the workers would do little else", "write 100ms or more");
        }
        if passive.longest < passive.first {
            section.mistake("max_ejected_for", "is shorter than `ejected_for`", "write a longer time");
        }
        section.finish();
        Self {
            probes: Some(probes).filter(|_| is_written && active),
            passive: Some(passive).filter(|_| on),
            max_ejected,
        }
    }
}

/// The probes of a policy's pools, which end with this.
#[derive(Debug)]
pub struct Probing(JoinSet<()>);

impl Probing {
    /// Begins to probe. Needs a runtime that takes local tasks.
    #[must_use]
    pub fn begin(pools: &[PoolSettings]) -> Self {
        let mut tasks = JoinSet::new();
        for pool in pools {
            let Some(probes) = pool.health.probes.clone() else { continue };
            for (position, worker) in pool.workers.iter().enumerate() {
                tasks.spawn_local(probe(pool.clone(), worker.clone(), position, probes.clone()));
            }
        }
        Self(tasks)
    }

    /// How many workers are probed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

async fn probe(pool: PoolSettings, worker: WorkerSettings, position: usize, probes: Probes) {
    let standing: &standing::Standing = &pool.standing;
    let chance = RandomState::new();
    let mut number = 0_u64;
    // Who was never asked is asked at once.
    let mut asks = standing.is_new(position);
    loop {
        if asks {
            let found = ask_ready(&pool, &worker, &probes.path, probes.timeout).await;
            standing.probed(&worker.known, found);
        }
        asks = true;
        number += 1;
        // Gateways that were started together ask one after the other.
        let spread = f64::from(u32::try_from(chance.hash_one(number) >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        let jitter = f64::from(probes.jitter) / 100.0;
        tokio::time::sleep(probes.interval.mul_f64(1.0 - jitter + 2.0 * jitter * spread)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_out_grows_to_its_bound_and_some_workers_stay_in() {
        let ((), mistakes) = crate::settings::tests::with_section("", |section| {
            let rule = HealthRule::compile(section, "/readyz");
            let passive = rule.passive.expect("it is on by itself");
            let seconds = [0, 1, 2, 5, 1000].map(|times| passive.ejection(times).as_secs());
            assert_eq!(seconds, [10, 20, 40, 300, 300]);
            assert_eq!([1, 2, 3, 4, 10].map(|workers| rule.most_out(workers)), [0, 1, 1, 2, 5]);
            assert!(rule.probes.is_none());
        });
        assert_eq!(mistakes, []);
    }
}
