//! Attacks a gateway, and shows what an honest client feels of it and how much memory it takes.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a command that prints, and a world that can't be made ends it"
)]

mod attacks;
mod honest;
mod report;
mod target;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use harness::eventually;
use tokio::time::{Instant, sleep};

use attacks::{ALL, Attack, Count, DEAD, POLICY, UNREAD};
use honest::Honest;
use report::Row;
use target::Target;

const USAGE: &str = "\
usage: tests/attack/run [options]
  --only TEXT    the attacks with this in their names
  --seconds N    how long each takes (8)
  --json         for machines
  --save         into README.md
Exits with 1 where the honest client had an error, or memory went beyond the stated bound.";

/// How long the honest client goes on before.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Options {
    only: String,
    seconds: u64,
    json: bool,
    save: bool,
}

fn options(mut arguments: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options { only: String::new(), seconds: 8, json: false, save: false };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => options.only = arguments.next()?,
            "--seconds" => options.seconds = arguments.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
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
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(options) = options(arguments.into_iter()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let mut rows = Vec::new();
    if !options.json {
        println!("{}", report::head());
    }
    for attack in ALL.iter().filter(|attack| attack.name.contains(&options.only)) {
        let row = run(attack, Duration::from_secs(options.seconds)).await;
        if !options.json {
            println!("{}", row.line());
        }
        rows.push(row);
    }
    if options.json {
        println!("{}", report::json(&rows));
    }
    if options.save {
        report::save(&rows, options.seconds);
    }
    if !rows.is_empty() && rows.iter().all(Row::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(attack: &Attack, duration: Duration) -> Row {
    let (good, bad) = (worker::start(), worker::start());
    let mut workers = vec![format!("http://{good}")];
    if attack.settings == DEAD {
        workers.push(format!("http://{}", worker::dead()));
    }
    let pools = format!("[pools.models]\nworkers = {workers:?}\n[pools.bulk]\nworkers = [\"http://{bad}\"]\n{POLICY}");
    let target = Target::start(&[&pools, attack.settings], attack.name == UNREAD);
    let honest = Honest::start(target.address);
    sleep(WARM_UP).await;
    let (before, _) = target.memory();
    honest.count(true);
    let count = Count::default();
    let mut running = attack.begin(target.address, &count);
    let end = Instant::now() + duration;
    let mut connections = 0;
    while Instant::now() < end {
        sleep(Duration::from_millis(250)).await;
        connections = connections.max(target.numbers().await.connections());
        assert!(running.is_well(), "{}: the attackers gave up", attack.name);
    }
    honest.count(false);
    let (_, peak) = target.memory();
    drop(running);
    // Theirs are gone when only the honest client's are left, with those that linger.
    let numbers = eventually("the attackers' connections to end", async || {
        let numbers = target.numbers().await;
        (numbers.connections() <= honest::MOST).then_some(numbers)
    })
    .await;
    let (after, _) = target.memory();
    let felt = honest.stop();
    Row::new(attack, count.sum(), connections, [before, peak, after], numbers.refused(), felt)
}
