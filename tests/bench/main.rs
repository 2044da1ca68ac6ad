//! Measures the gateway beside other proxies: `tests/bench/run`.
//!
//! Each job is a configuration and a load (`jobs`). Every program is first asked whether it really does the job
//! (`checks`), then all are measured in turn, round by round (`measure`): the program on one core, the load and the
//! worker's stand-in on another. What is counted is the program's own processor time.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on stops, and talks to a person"
)]

mod bare;
mod chart;
mod checks;
mod cpu;
mod floor;
mod jobs;
mod load;
mod measure;
mod peers;
mod report;
mod session;
mod wire;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use jobs::{JOBS, Job, Measure};
use measure::Sample;
use peers::{Peer, Running};
use report::{Cell, Row};
use world::World;

/// The gateway's, for the floor and bare hyper, which are this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
tests/bench/run [options]
  --jobs A,B      only these (--list names them)
  --peers A,B     only these: floor, bare, gateway, plain, haproxy, nginx, envoy
  --rounds N      how often each is measured; the median counts (3)
  --seconds N     how long each time (3)
  --quick         one round of one second
  --save          put the results into tests/bench and the README";

#[derive(Debug)]
struct Options {
    jobs: Vec<&'static Job>,
    peers: Vec<Peer>,
    rounds: usize,
    seconds: f64,
    save: bool,
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut options =
        Options { jobs: JOBS.iter().collect(), peers: Peer::ALL.to_vec(), rounds: 3, seconds: 3.0, save: false };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--jobs" => {
                let job =
                    |id: &str| JOBS.iter().find(|job| job.id == id).ok_or_else(|| format!("there is no job {id}"));
                options.jobs = value()?.split(',').map(job).collect::<Result<_, _>>()?;
            }
            "--peers" => {
                let peer = |id: &str| Peer::ALL.into_iter().find(|peer| peer.id() == id);
                let found = value()?.split(',').map(|id| peer(id).ok_or_else(|| format!("there is no peer {id}")));
                options.peers = found.collect::<Result<_, _>>()?;
            }
            "--rounds" => options.rounds = value()?.parse().map_err(|_| "--rounds takes a number")?,
            "--seconds" => options.seconds = value()?.parse().map_err(|_| "--seconds takes a number")?,
            "--quick" => (options.rounds, options.seconds) = (1, 1.0),
            "--save" => options.save = true,
            "--list" => {
                let lines: Vec<String> = JOBS.iter().map(|job| format!("{:12} {}", job.id, job.title)).collect();
                return Err(lines.join("\n"));
            }
            _ => return Err(USAGE.to_owned()),
        }
    }
    if options.save && (options.jobs.len() < JOBS.len() || options.peers.len() < Peer::ALL.len()) {
        return Err("--save takes all jobs and all peers: what is published is whole".to_owned());
    }
    Ok(options)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command @ ("floor" | "bare"), port, worker, shared, job] =
        arguments.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        let address = |port: &str| ([127, 0, 0, 1], port.parse().expect("a port")).into();
        let (port, worker, tls) = (address(port), address(worker), world::server_tls(Path::new(shared)));
        let refuses = JOBS.iter().any(|known| known.id == job && known.refused);
        let ended = if command == "floor" {
            floor::run(port, worker, tls, refuses)
        } else {
            bare::run(port, worker, tls, refuses)
        };
        eprintln!("{ended:?}");
        return ExitCode::FAILURE;
    }
    let options = match options(&arguments) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(64);
        }
    };
    let out = std::env::var_os("BENCH_OUT").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    let out = std::path::absolute(out).expect("a path");
    let mut world = World::make(&out.join("run"));
    let mut rows = Vec::new();
    for job in &options.jobs {
        println!("\n{}: {}", job.id, job.title);
        if job.features.contains(&"redis") {
            world.need_redis().expect("Redis starts");
        }
        rows.push(row(job, &options, &world));
    }
    let versions = options.peers.iter().map(|peer| (*peer, peer.version(&world))).collect();
    let results = report::Results { rows, versions, rounds: options.rounds, seconds: options.seconds };
    let written = results.write(&out).and_then(|()| if options.save { results.save(&out) } else { Ok(()) });
    drop(world);
    println!("\n{}", results.markdown());
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the results can't be written: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks every program, then measures those that do the job, in turn.
fn row(job: &'static Job, options: &Options, world: &World) -> Row {
    let mut cells = BTreeMap::new();
    let mut running: Vec<(Peer, Running)> = Vec::new();
    for &peer in &options.peers {
        match ready(peer, job, world) {
            Ok(started) => running.push((peer, started)),
            Err(reason) => {
                println!("  {:8} –  {reason}", peer.id());
                cells.insert(peer, Cell::Dropped(reason));
            }
        }
    }
    let mut samples: BTreeMap<Peer, Vec<Sample>> = BTreeMap::new();
    for round in 1..=options.rounds {
        for (peer, started) in &mut running {
            if cells.contains_key(peer) {
                continue;
            }
            let fresh = job.measure == Measure::IdleConnection && round > 1;
            let outcome = if fresh {
                // What memory was given back to the allocator would hide what a connection takes.
                peer.start(job, job.quota, world).map(|new| *started = new)
            } else {
                Ok(())
            };
            let duration = Duration::from_secs_f64(options.seconds);
            match outcome.and_then(|()| measure::round(job, started, world, duration)) {
                Ok(sample) => {
                    report::progress(*peer, round, job, &sample);
                    samples.entry(*peer).or_default().push(sample);
                }
                Err(reason) => {
                    println!("  {:8} –  {reason}", peer.id());
                    cells.insert(*peer, Cell::Dropped(reason));
                }
            }
        }
    }
    for (peer, samples) in samples {
        cells.entry(peer).or_insert_with(|| Cell::Measured(samples));
    }
    Row { job, cells }
}

/// A program that was seen to do the job, started anew with the job's own quota.
fn ready(peer: Peer, job: &Job, world: &World) -> Result<Running, String> {
    if let Some(reason) = peer.lacks(job, world) {
        return Err(reason.to_owned());
    }
    let limited = job.features.contains(&"limit") && !peer.is_yardstick();
    let started = peer.start(job, if limited { checks::QUOTA } else { job.quota }, world)?;
    checks::check(peer, job, &started, world)?;
    if !limited && job.measure != Measure::IdleConnection {
        return Ok(started);
    }
    drop(started);
    peer.start(job, job.quota, world)
}
