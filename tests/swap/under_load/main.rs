//! Changes workers in every way that there is, and kills some, while clients ask: `tests/swap/load`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a command that prints, counts small numbers, and can't go on without its world"
)]

mod clients;
mod report;
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use clients::Clients;
use report::{Done, Report};
use world::World;

const USAGE: &str = "\
usage: tests/swap/load [options]
  --rate N       requests a second (500)
  --seconds N    how long (30)
  --save         into README.md
Exits with 1 where a request failed that no killed worker had taken, or something did not come out as it should.";

#[derive(Debug)]
struct Options {
    rate: f64,
    seconds: f64,
    save: bool,
}

fn options() -> Option<Options> {
    let mut options = Options { rate: 500.0, seconds: 30.0, save: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next()?.parse().ok().filter(|number| *number > 0.0);
        match word.as_str() {
            "--rate" => options.rate = number()?,
            "--seconds" => options.seconds = number()?,
            "--save" => options.save = true,
            _ => return None,
        }
    }
    Some(options)
}

/// What is done, whether a worker is killed, and which versions answer from then on.
const STEPS: [(&str, Option<char>, &[&str]); 11] = [
    ("A and B serve version 1", None, &["1"]),
    ("shadow: C and D get copies", None, &["1"]),
    ("canary: C and D answer 30 % of the users", None, &["1", "2"]),
    ("promote: copies agree, C and D serve alone", None, &["2"]),
    ("crash: D is killed", Some('D'), &["2"]),
    ("D is started again, and is back", None, &["2"]),
    ("swap to E, which has no such model: refused", None, &["2"]),
    ("swap to F and G, F is killed: rolled back", Some('F'), &["2"]),
    ("swap to G, which stays", None, &["3"]),
    ("reload: G stays", None, &["3"]),
    ("the files say otherwise: A and B serve", None, &["1"]),
];

async fn perform(world: &mut World, step: usize) -> Result<(), String> {
    match step {
        0 => Ok(()),
        1 => world.shadow().await,
        2 => world.canary().await,
        3 => world.promote().await,
        4 => world.crash('D').await,
        5 => world.restart('D').await,
        6 => world.refused().await,
        7 => world.rolled_back().await,
        8 => world.swapped().await,
        9 => world.reloaded().await,
        _ => world.edited().await,
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let Some(Options { rate, seconds, save }) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let mut world = World::start().await;
    let (stop, stopped) = watch::channel(false);
    let clients = Arc::new(Clients::new(&world.gateway));
    let begin = Instant::now();
    let load = tokio::spawn(clients.run(rate, stopped));
    let mut done = Vec::new();
    let mut complaints = Vec::new();
    let slot = Duration::from_secs_f64(seconds / STEPS.len() as f64);
    for (number, (what, killed, versions)) in STEPS.into_iter().enumerate() {
        // What took longer than its time is given a while to be seen.
        let least = done.last().map_or(begin, |before: &Done| before.ended + slot / 2);
        sleep_until(least.max(begin + slot * number as u32)).await;
        let (at, counts) = (Instant::now(), world.counts().await);
        if let Err(complaint) = perform(&mut world, number).await {
            complaints.push(format!("{what}: {complaint}"));
        }
        done.push(Done { what, killed, versions, began: at, ended: Instant::now(), counts });
    }
    let least = done.last().map_or(begin, |last| last.ended + slot / 2);
    sleep_until(least.max(begin + slot * STEPS.len() as u32)).await;
    stop.send_replace(true);
    let outcomes = load.await.expect("the load does not panic");
    let counts = world.counts().await;
    // What it has not printed yet is on its way.
    world.gateway.stop().await;
    let report = Report::of(&world, begin, &done, &outcomes, &counts);
    println!("{report}");
    if save {
        report.save();
    }
    complaints.extend(report.complaints);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
