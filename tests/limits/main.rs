//! Shows what the limits do, beside others and while Redis fails: `tests/limits/run`.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a command that prints, counts small numbers, and can't go on without its world"
)]

mod bench;
mod clock;
#[path = "../bench/cpu.rs"]
#[expect(dead_code, reason = "memory is of no interest here")]
mod cpu;
mod drive;
mod faults;
mod gateway_cost;
mod gateways;
#[path = "../bench/load.rs"]
#[expect(dead_code, reason = "nor are idle connections")]
mod load;
mod model;
mod parallel;
mod proxy;
mod rules;
mod server;
#[path = "../bench/session.rs"]
mod session;
mod table;
#[path = "../bench/wire.rs"]
mod wire;
#[path = "../bench/worker.rs"]
#[expect(dead_code, reason = "nor what arrives at the worker")]
mod worker;

use std::process::ExitCode;

const USAGE: &str = "\
usage: tests/limits/run COMMAND [options]
  bench       beside `limits` of PyPI and rate-limiter-flexible of npm
  faults      what clients see while Redis fails
  clock       Redis's clock steps while clients go on
  histories   random histories over three gateways, each against a plain model
  parallel    three gateways, 200 connections, one window
Options:
  --rounds N  bench: how often each is measured, the middle one counts; clock: how often it steps all ways (3)
  --count N   histories: how many (10000)
  --seed N    histories: which (1)
  --only TEXT faults: those with this in their names
  --json      for machines
  --save      into README.md
Exits with 1 where an aim is missed.";

#[derive(Debug)]
struct Options {
    rounds: usize,
    count: u64,
    seed: u64,
    only: String,
    json: bool,
    save: bool,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { rounds: 3, count: 10_000, seed: 1, only: String::new(), json: false, save: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => options.rounds = arguments.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
            "--count" => options.count = arguments.next()?.parse().ok()?,
            "--seed" => options.seed = arguments.next()?.parse().ok()?,
            "--only" => options.only = arguments.next()?,
            "--json" => options.json = true,
            "--save" => options.save = true,
            _ => return None,
        }
    }
    Some(options)
}

#[tokio::main(flavor = "local")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first().filter(|_| !arguments.iter().any(|it| it == "--help")) else {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    };
    if command == "drive" {
        return if drive::run(rest).await.is_some() { ExitCode::SUCCESS } else { ExitCode::from(64) };
    }
    let good = match (command.as_str(), options(rest.iter().cloned())) {
        ("faults", Some(options)) => faults::run(&options.only, options.json, options.save).await,
        ("histories", Some(options)) => model::run(options.count, options.seed, options.json, options.save).await,
        ("clock", Some(options)) => clock::run(options.rounds, options.json, options.save).await,
        ("parallel", Some(options)) => parallel::run(options.json, options.save),
        ("bench", Some(options)) => bench::bench(options.rounds, options.json, options.save),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
