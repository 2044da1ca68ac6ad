//! Does time tell? Refusals that must not be told apart are asked for in turn, in an order that chance chooses anew in
//! each round, on one kept connection, and their times are held against each other.
//!
//! The slowest tenth of each kind is left out: it is the machine's. What is left is compared by Welch's t, as dudect
//! does (Reparaz, Balasch, Verbauwhede, DATE 2017): beyond 4.5 a difference stands out of the noise.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a command that prints, and a world that can't be made ends it"
)]

mod statistics;

use std::process::ExitCode;
use std::time::Instant;

use gateway::policy::authenticate::api_key::compose;
use gateway::types::Sha256;
use harness::{Client, Gateway, Recorder, Redis, Request};

use statistics::{Sample, Summary, welch};

const USAGE: &str = "usage: timing [--save]";
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
/// Rounds that are not counted: caches have their sizes then.
const WARM_UP: usize = 100;
/// Rounds of refused keys, and of refused passwords, which take a hundred times as long.
const KEY_ROUNDS: usize = 20_000;
const PASSWORD_ROUNDS: usize = 2_000;
/// What a |t| is worth.
const TELLING: f64 = 4.5;

/// The secret of the keys that there are.
const SECRET: [u8; 20] = [7; 20];
/// No limit stands between a guess and its answer.
const POLICY: &str = "[listener]\nthreads = 1\nmax_requests_per_connection = 1000000\n\
                      [routes.known]\nlimits = []\n[routes.token]\nlimits = []\n";

/// Refusals that must not be told apart; the first is what others are held against.
struct Question {
    about: &'static str,
    rounds: usize,
    client: Client,
    kinds: Vec<(&'static str, Request)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let save = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--save"] => true,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let digest = |id: &str| Sha256::of(compose(id, SECRET).as_bytes()).to_string();
    let record = format!("{{\"v\":1,\"digest\":\"{}\",\"owner\":\"timing\",\"created\":1}}", digest("kept-a"));
    let mut set = redis::cmd("SET");
    set.arg("{modelgate}:key:kept-a").arg(record).exec(&mut redis.connect()).expect("Redis takes it");
    let policy = format!("{POLICY}[api_keys.team-a]\nowner = \"timing\"\ndigest = \"{}\"\n", digest("team-a"));
    let builder = || Gateway::builder().worker(&worker).policy(&policy);
    let alone = builder().start().await;
    let shared = builder().redis(&redis).policy("[api_key]\nstore = \"redis\"\n").start().await;

    let mut text = String::from(
        "| of | refused | held against | n | median µs | MAD | median µs | MAD | t |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut tells = false;
    for question in questions(&alone, &shared) {
        eprintln!("timing: {}, {} rounds", question.about, question.rounds);
        let samples = ask(&question).await;
        let Some(((first, _), others)) = question.kinds.split_first() else { continue };
        let Some((base, samples)) = samples.split_first() else { continue };
        for ((name, _), sample) in others.iter().zip(samples) {
            let (one, other) = (Summary::new(sample), Summary::new(base));
            let t = welch(&one, &other);
            tells |= t.abs() > TELLING;
            let row = format!(
                "| {} | {name} | {first} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {t:+.1} |\n",
                question.about, one.count, one.median, one.mad, other.median, other.mad
            );
            text.push_str(&row);
        }
    }
    worker.assert_untouched();
    print!("{text}");
    if save {
        write(&text);
    }
    if tells {
        eprintln!("timing: a difference stands out of the noise (|t| > {TELLING})");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Ids are of one length. All keys are well-formed, and wrong from the first octet of the secret on, or in the last alone.
fn questions(alone: &Gateway, shared: &Gateway) -> Vec<Question> {
    let nearly = {
        let mut secret = SECRET;
        secret[19] ^= 1;
        secret
    };
    let keys = |client: &Client, about, known: &str, unknown: &str| {
        let key = |id: &str, secret| client.get("/known").header("x-api-key", &compose(id, secret));
        let kinds = vec![
            ("unknown key", key(unknown, [9; 20])),
            ("wrong key, at its first octet", key(known, [9; 20])),
            ("wrong key, at its last octet", key(known, nearly)),
        ];
        Question { about, rounds: KEY_ROUNDS, client: client.clone(), kinds }
    };
    let client = alone.client();
    let log_in = |user: &str| client.token(&format!("grant_type=password&username={user}&password=wrong"));
    let kinds = vec![("unknown user", log_in("carol")), ("wrong password", log_in("alice"))];
    vec![
        keys(&client, "the policy's keys", "team-a", "team-z"),
        keys(&shared.client(), "keys in Redis, remembered", "kept-a", "kept-z"),
        Question { about: "passwords", rounds: PASSWORD_ROUNDS, client, kinds },
    ]
}

/// The microseconds of each kind's refusals.
async fn ask(question: &Question) -> Vec<Sample> {
    let mut connection = question.client.connect().await;
    let mut samples: Vec<Sample> = question.kinds.iter().map(|_| Sample::new()).collect();
    let mut chance = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..WARM_UP + question.rounds {
        let mut order: Vec<usize> = (0..question.kinds.len()).collect();
        for place in (1..order.len()).rev() {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(place, usize::try_from(chance >> 33).unwrap_or_default() % (place + 1));
        }
        for kind in order {
            let Some((name, request)) = question.kinds.get(kind) else { continue };
            let request = request.clone();
            let began = Instant::now();
            let answer = connection.send(request).await;
            let took = began.elapsed();
            assert!([400, 401].contains(&answer.status), "{name}: {}", answer.text());
            if let Some(sample) = samples.get_mut(kind).filter(|_| round >= WARM_UP) {
                sample.push(took.as_secs_f64() * 1e6);
            }
        }
    }
    samples
}

fn write(text: &str) {
    let (begin, end) = ("<!-- timing:begin -->\n", "<!-- timing:end -->");
    let readme = std::fs::read_to_string(README).expect("the README is there");
    let (before, rest) = readme.split_once(begin).expect("it has a mark for the beginning");
    let (_, after) = rest.split_once(end).expect("it has a mark for the end");
    std::fs::write(README, format!("{before}{begin}{text}{end}{after}")).expect("it can be written");
}
