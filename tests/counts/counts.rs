//! Counts the instructions that a request costs in the real gateway, and holds them against those recorded.
//!
//! The gateway runs under callgrind with one thread, a stand-in for the worker behind it, and one connection for each
//! job in front. Instructions do not hang on how busy a machine is, as times do. Most of what is done by the clock is
//! left out (see profile.rs); what is not only ever adds, so the least of several rounds counts.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    reason = "a command that prints, and a world that can't be made ends it"
)]

mod jobs;
mod profile;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use harness::{Gateway, Recorder, Redis};

use jobs::{JOBS, Job, POLICY};
use profile::{LEFT_OUT, instructions};

const USAGE: &str = "usage: counts GATEWAY [--record]";
const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/counts/expected.toml");
/// The largest growth that is not told, in percent; what shrinks by as much is worth a new record.
const TOLERANCE: f64 = 5.0;

/// Requests before the first that counts: caches, tables and the allocator have their sizes then.
const WARM_UP: u32 = 200;
const ROUNDS: u32 = 5;
/// Requests of one round.
const ROUND: u32 = 200;

/// Instructions per request, by the job's name.
type Counts = BTreeMap<String, u64>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (gateway, record) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [gateway] => (gateway, false),
        [gateway, "--record"] => (gateway, true),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    let rustc = rustc();
    let measured = match count(Path::new(gateway)).await {
        Ok(counts) => counts,
        Err(reason) => {
            eprintln!("counts: callgrind can't be told what to do: {reason}");
            return ExitCode::from(69);
        }
    };
    let (recorded_rustc, recorded) = recorded().unwrap_or_else(|error| {
        println!("counts: there is no record: {error}");
        (rustc.clone(), Counts::new())
    });
    print(&recorded, &measured);
    if record {
        write(&rustc, &measured);
        println!("counts: recorded, with {rustc}");
        return ExitCode::SUCCESS;
    }
    if recorded_rustc != rustc {
        println!("counts: not compared: recorded with {recorded_rustc}, and this is {rustc}");
        return ExitCode::SUCCESS;
    }
    judge(&recorded, &measured)
}

/// The compiler, because another one makes other instructions of the same source.
fn rustc() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The compiler that the recorded counts were made with, and the counts.
fn recorded() -> Result<(String, Counts), Box<figment::Error>> {
    let file = Figment::from(Toml::file_exact(EXPECTED));
    Ok((file.extract_inner("rustc")?, file.extract_inner("instructions")?))
}

fn write(rustc: &str, counts: &Counts) {
    let line = |job: &Job| format!("{} = {}\n", job.name, counts[job.name]);
    let lines = JOBS.iter().map(line).collect::<Vec<_>>().concat();
    let text = format!(
        "# Instructions per request, as tests/counts/run counts them. Written by `tests/counts/run --record`.\n\
         rustc = \"{rustc}\"\n\n[instructions]\n{lines}"
    );
    fs::write(EXPECTED, text).expect("the record can be written");
}

/// How much more than recorded, in percent.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn change(recorded: u64, measured: u64) -> f64 {
    (measured as f64 / recorded as f64 - 1.0) * 100.0
}

fn print(recorded: &Counts, measured: &Counts) {
    println!("{:<18} {:>10} {:>10} {:>8}", "instructions for", "recorded", "measured", "change");
    for job in &JOBS {
        let now = measured[job.name];
        match recorded.get(job.name) {
            Some(then) => println!("{:<18} {then:>10} {now:>10} {:>+7.1}%", job.name, change(*then, now)),
            None => println!("{:<18} {:>10} {now:>10} {:>8}", job.name, "-", "-"),
        }
    }
}

fn judge(recorded: &Counts, measured: &Counts) -> ExitCode {
    const HOW: &str = "tests/counts/run --record";
    let mut code = ExitCode::SUCCESS;
    for job in JOBS.map(|job| job.name) {
        match recorded.get(job).map(|then| change(*then, measured[job])) {
            Some(change) if change > TOLERANCE => {
                println!(
                    "counts: {job} costs {change:.1} % more than recorded, and {TOLERANCE} % are let pass: find what \
                     it does in vain, or record what it is worth with `{HOW}` and say why in the commit"
                );
                code = ExitCode::FAILURE;
            }
            Some(change) if change < -TOLERANCE => {
                println!("counts: {job} costs {:.1} % less than recorded: keep it so with `{HOW}`", -change);
            }
            Some(_) => {}
            None => {
                println!("counts: {job} was never recorded: record it with `{HOW}`");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

async fn count(program: &Path) -> Result<Counts, String> {
    let redis = Redis::start().await;
    let mut never_called = LEFT_OUT.to_vec();
    let mut counts = count_with(program, None, &mut never_called).await?;
    counts.extend(count_with(program, Some(&redis), &mut never_called).await?);
    for begin in never_called {
        println!("counts: {begin} was never called; where it has another name now, tell tests/counts/profile.rs");
    }
    Ok(counts)
}

/// Counts the jobs of a gateway with this store.
async fn count_with(
    program: &Path,
    redis: Option<&Redis>,
    never_called: &mut Vec<&'static str>,
) -> Result<Counts, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let valgrind = [
        "--quiet".into(),
        "--tool=callgrind".into(),
        // The start is not counted, and is several times faster so.
        "--instr-atstart=no".into(),
        // As profile.rs reads them.
        "--compress-strings=no".into(),
        "--compress-pos=no".into(),
        format!("--callgrind-out-file={}", out.display()),
        program.display().to_string(),
    ];
    let worker = Recorder::start();
    let words = [installed("valgrind")].into_iter().chain(valgrind);
    let mut builder = Gateway::builder().worker(&worker).program(words).policy(POLICY);
    if let Some(redis) = redis {
        // The one that asks is many times slower than it is made for.
        builder = builder.redis(redis).policy("[store]\ntimeout = \"30s\"\n");
    }
    let mut gateway = builder.start().await;
    let mut profiler = Profiler { process: gateway.id(), out: out.display().to_string(), dumps: 0, never_called };
    profiler.tell("instrumentation on")?;
    let mut counts = Counts::new();
    for job in JOBS.into_iter().filter(|job| job.redis == redis.is_some()) {
        let seen = worker.seen().len();
        counts.insert(job.name.to_owned(), least(&job, &gateway, &mut profiler).await?);
        let forwarded = if job.is_forwarded() { WARM_UP + ROUNDS * ROUND } else { 0 };
        assert_eq!(worker.seen().len() - seen, forwarded as usize, "{}: what the worker was sent", job.name);
    }
    assert!(gateway.stop().await.success(), "the gateway stops");
    Ok(counts)
}

/// Instructions of one request, in the round that cost least.
async fn least(job: &Job, gateway: &Gateway, profiler: &mut Profiler<'_>) -> Result<u64, String> {
    let mut line = job.open(gateway).await;
    line.send(WARM_UP).await;
    // What was before the first round is for nothing.
    drop(profiler.dump()?);
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        line.send(ROUND).await;
        least = least.min(instructions(&profiler.dump()?).expect("a profile that adds up") / u64::from(ROUND));
    }
    Ok(least)
}

/// Where a program is. The gateway is started without a `PATH`.
fn installed(program: &str) -> String {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{program} is not installed")).display().to_string()
}

/// Callgrind, as it runs.
struct Profiler<'a> {
    process: u32,
    out: String,
    dumps: u32,
    /// What is left out of the counts and was not there so far.
    never_called: &'a mut Vec<&'static str>,
}

impl Profiler<'_> {
    /// Tells callgrind something; gives back why it can't be told.
    fn tell(&self, command: &str) -> Result<(), String> {
        let mut vgdb = Command::new("vgdb");
        vgdb.arg(format!("--pid={}", self.process)).args(["--cmd-time-out=60", command]);
        let told = vgdb.output().expect("vgdb comes with valgrind");
        let reasons = String::from_utf8_lossy(&told.stderr);
        let reason = || reasons.lines().next().unwrap_or("vgdb fails").to_owned();
        told.status.success().then_some(()).ok_or_else(reason)
    }

    /// What was done since the last time this was asked.
    fn dump(&mut self) -> Result<String, String> {
        self.tell("dump")?;
        self.dumps += 1;
        let path = format!("{}.{}", self.out, self.dumps);
        let profile = fs::read_to_string(&path).expect("callgrind has written its counts");
        fs::remove_file(&path).expect("its file can be removed");
        self.never_called.retain(|begin| !profile.contains(&format!("fn={begin}")));
        Ok(profile)
    }
}
