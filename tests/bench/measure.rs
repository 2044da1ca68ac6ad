//! One round of one job with one program.

use std::time::{Duration, Instant};

use crate::cpu::Tree;
use crate::jobs::{Job, Measure};
use crate::load::{Load, Tally};
use crate::peers::Running;
use crate::world::{World, client_tls};

/// Connections that are held at once.
const IDLE: usize = 2000;

/// What a round gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// In the job's unit.
    pub(crate) value: f64,
    pub(crate) requests_per_second: f64,
    /// How much of its core the program used.
    pub(crate) busy: f64,
    /// Microseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// Loads a running program for so long.
///
/// # Errors
/// If what came back was not what the job asks for.
pub(crate) fn round(job: &Job, running: &Running, world: &World, duration: Duration) -> Result<Sample, String> {
    let tls = client_tls(job.shape.streams > 1, job.post_quantum);
    let mut load = Load::new(running.address, tls, job.shape, &world.requests(job));
    let tree = running.tree();
    if job.measure == Measure::IdleConnection {
        return idle(&mut load, &tree, job);
    }
    // Until connections are made, buffers grown, caches filled and limits reached.
    load.run(duration.mul_f64(0.2).max(Duration::from_millis(300)));
    let (cpu, begin) = (tree.cpu(), Instant::now());
    let mut tally = load.run(duration);
    let (cpu, elapsed) = (tree.cpu().saturating_sub(cpu).as_secs_f64(), begin.elapsed().as_secs_f64());
    honest(job, &tally)?;
    let requests = tally.requests() as f64;
    if let Some(rate) = job.shape.rate
        && requests < rate * elapsed * 0.95
    {
        return Err(format!("it answered {:.0} a second of {rate}", requests / elapsed));
    }
    let micros = |latency: Option<Duration>| latency.map(|latency| latency.as_secs_f64() * 1e6);
    let (p50, p99) = (micros(tally.percentile(50)), micros(tally.percentile(99)));
    let value = match job.measure {
        Measure::Request => cpu * 1e6 / requests,
        Measure::Gigabyte => cpu * 1e9 / (requests * job.body as f64),
        Measure::Latency => p99.ok_or("no request was answered")?,
        Measure::IdleConnection => 0.0,
    };
    // A log of every request would fill the disk.
    let _ = std::fs::OpenOptions::new().write(true).truncate(true).open(&running.log);
    Ok(Sample { value, requests_per_second: requests / elapsed, busy: cpu / elapsed, p50, p99 })
}

fn idle(load: &mut Load, tree: &Tree, job: &Job) -> Result<Sample, String> {
    const LIMIT: Duration = Duration::from_mins(1);
    // Whatever is given back late is given back after this.
    let settle = || std::thread::sleep(Duration::from_millis(1500));
    // What only the first requests need is not what a connection needs.
    honest(job, &load.hold(IDLE / 10, LIMIT))?;
    settle();
    let before = tree.memory();
    let tally = load.hold(IDLE, LIMIT);
    honest(job, &tally)?;
    if tally.requests() != IDLE as u64 || tally.connects != IDLE as u64 {
        return Err(format!("{} of {IDLE} connections were answered, {} made", tally.requests(), tally.connects));
    }
    settle();
    let value = (tree.memory() - before) / IDLE as f64;
    Ok(Sample { value, requests_per_second: 0.0, busy: 0.0, p50: None, p99: None })
}

/// Every answer has to be of the kind that the job asks for.
fn honest(job: &Job, tally: &Tally) -> Result<(), String> {
    let wanted = |status: &u16| if job.refused { matches!(status, 401 | 403 | 429) } else { *status == 200 };
    let wrong: u64 = tally.statuses.iter().filter(|(status, _)| !wanted(status)).map(|(_, count)| count).sum();
    if tally.requests() == 0 {
        return Err("nothing was answered".to_owned());
    }
    if wrong + tally.lost > tally.requests() / 1000 {
        return Err(format!("answers were {:?}, and {} were lost", tally.statuses, tally.lost));
    }
    Ok(())
}
