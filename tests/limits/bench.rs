//! This limiter beside others, on one Redis that has a core to itself.
//!
//! Every driver is a process on the other core, with as many requests waiting as are named. What Redis used is its
//! own processor time, so that it does not hang on what else the machine does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::drive::Orders;
use crate::gateway_cost::{self, Cost};
use crate::server::{Done, OTHER_CORE, Server, pinned};
use crate::table::{Column, Table, save};

const WAITING: u64 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Ours,
    MovingWindow,
    Flexible,
}

impl Peer {
    const ALL: [Self; 3] = [Self::Ours, Self::MovingWindow, Self::Flexible];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "this limiter",
            Self::MovingWindow => "limits 5.8.0 (moving window)",
            Self::Flexible => "rate-limiter-flexible 11.4.0 (fixed window)",
        }
    }

    fn driver(self) -> Command {
        let peers = std::env::var_os("LIMITS_PEERS").map_or_else(|| PathBuf::from("target/limits"), PathBuf::from);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/limits/peers/");
        match self {
            Self::Ours => {
                let mut command = pinned(OTHER_CORE, std::env::current_exe().expect("this program has a path"));
                command.arg("drive");
                command
            }
            Self::MovingWindow => {
                let mut command = pinned(OTHER_CORE, "python3");
                command.arg(format!("{source}moving_window.py")).env("PYTHONPATH", peers.join("python"));
                command
            }
            Self::Flexible => {
                let mut command = pinned(OTHER_CORE, "node");
                command.arg(format!("{source}flexible.js")).env("NODE_PATH", peers.join("node/node_modules"));
                command
            }
        }
    }
}

/// What is asked.
struct Job {
    title: &'static str,
    orders: Orders,
    /// Whether everything is to be admitted, or nothing.
    admits: bool,
}

const WINDOW: u64 = 60;

fn jobs() -> Vec<Job> {
    let orders = Orders { keys: 1, before: 0, decisions: 0, quota: 0, window: WINDOW, waiting: WAITING };
    vec![
        Job {
            title: "1,000 callers in turn, 100 a minute each",
            orders: Orders { keys: 1000, decisions: 40_000, quota: 100, ..orders },
            admits: true,
        },
        Job {
            title: "20 callers in turn, 1,000 a minute each",
            orders: Orders { keys: 20, decisions: 20_000, quota: 1_000, ..orders },
            admits: true,
        },
        Job {
            title: "one caller, 10,000 a minute",
            orders: Orders { decisions: 10_000, quota: 10_000, ..orders },
            admits: true,
        },
        Job {
            title: "a flood from one caller who has used up 10 a minute",
            orders: Orders { before: 200, decisions: 20_000, quota: 10, ..orders },
            admits: false,
        },
    ]
}

/// What one driver brought.
struct Sample {
    decisions: u64,
    done: Done,
    seconds: f64,
    /// The driver's processor time, in seconds.
    cpu: f64,
}

impl Sample {
    fn per_decision(&self, of: f64) -> f64 {
        of / self.decisions as f64
    }

    fn redis_micros(&self) -> f64 {
        self.per_decision(self.done.cpu.as_secs_f64() * 1e6)
    }

    fn calls(&self) -> f64 {
        self.per_decision(self.done.calls as f64)
    }

    fn own_micros(&self) -> f64 {
        self.per_decision(self.cpu * 1e6)
    }
}

fn run(server: &Server, peer: Peer, orders: Orders, admits: Option<bool>) -> Sample {
    server.empty();
    let mut driver = peer.driver();
    let pipes = driver.args(orders.words(server.port)).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut driver = pipes.spawn().expect("the driver starts");
    let mut answers = BufReader::new(driver.stdout.take().expect("it is piped"));
    let mut line = String::new();
    answers.read_line(&mut line).expect("it is read");
    assert_eq!(line.trim(), "ready", "{} does not start", peer.name());
    let mut connection = server.connect();
    let before = server.done(&mut connection);
    driver.stdin.take().expect("it is piped").write_all(b"go\n").expect("it reads");
    line.clear();
    answers.read_line(&mut line).expect("it is read");
    let done = server.done(&mut connection).since(before);
    let _ = driver.wait();
    let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} said {line:?}", peer.name()));
    let number = |name: &str| answer[name].as_f64().expect("a number");
    if let Some(admits) = admits {
        let expected = if admits { orders.decisions } else { 0 };
        assert_eq!(answer["admitted"], expected, "{}: {orders:?}", peer.name());
    }
    Sample { decisions: orders.decisions, done, seconds: number("seconds"), cpu: number("cpu") }
}

/// The middle one of several rounds by what Redis used.
fn middle(mut samples: Vec<Sample>) -> Sample {
    samples.sort_by_key(|sample| sample.done.cpu);
    samples.swap_remove(samples.len() / 2)
}

/// What is aimed at, and what came of it.
struct Aim {
    text: String,
    is_met: bool,
}

pub(crate) fn bench(rounds: usize, as_json: bool, to_readme: bool) -> bool {
    let server = Server::start();
    let mut aims = Vec::new();
    let mut tables = Vec::new();
    let mut told = Vec::new();
    for job in jobs() {
        eprintln!("limits: {}", job.title);
        let mut rows = Vec::new();
        let mut samples: Vec<Vec<Sample>> = Peer::ALL.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (peer, samples) in Peer::ALL.iter().zip(&mut samples) {
                samples.push(run(&server, *peer, job.orders, Some(job.admits)));
            }
        }
        let samples: Vec<Sample> = samples.into_iter().map(middle).collect();
        for (peer, sample) in Peer::ALL.iter().zip(&samples) {
            rows.push(vec![
                peer.name().to_owned(),
                format!("{:.2}", sample.redis_micros()),
                format!("{:.3}", sample.calls()),
                format!("{:.2}", sample.per_decision(sample.done.commands as f64)),
                format!("{:.0}", sample.decisions as f64 / sample.seconds),
                format!("{:.1}", sample.own_micros()),
            ]);
            told.push(json!({
                "job": job.title, "limiter": peer.name(), "redis_micros": sample.redis_micros(),
                "round_trips": sample.calls(), "commands": sample.done.commands, "seconds": sample.seconds,
                "decisions": sample.decisions, "own_micros": sample.own_micros(),
            }));
        }
        aims.extend(judge(&job, &samples));
        tables.push(Table {
            title: job.title.to_owned(),
            columns: vec![
                Column::words("limiter"),
                Column::number("Redis µs"),
                Column::number("round trips"),
                Column::number("commands"),
                Column::number("decisions/s"),
                Column::number("own µs"),
            ],
            rows,
        });
        if !as_json {
            println!("{}", tables[tables.len() - 1].text());
        }
    }
    let sizes = sizes(&server, &mut aims);
    if !as_json {
        println!("{}", sizes.text());
    }
    tables.push(sizes);
    eprintln!("limits: a gateway with the limit and without");
    let cost = gateway_cost::measure(&server, rounds);
    aims.push(Aim {
        text: format!("a limit adds {:.1} µs of the gateway's time to an admitted request, aim 5", cost.added()),
        is_met: cost.added() <= 5.0,
    });
    aims.push(Aim {
        text: format!("{:.3} round trips a request of a real gateway, aim 0.1", cost.round_trips),
        is_met: cost.round_trips <= 0.1,
    });
    let of_gateway = gateway_table(&cost);
    let mut aims_text = String::new();
    for aim in &aims {
        aims_text.extend(["- ", &aim.text, if aim.is_met { "" } else { ": **missed**" }, "\n"]);
    }
    if as_json {
        println!(
            "{}",
            json!({ "rows": told, "gateway": cost.json(), "aims": aims.iter().map(|aim| json!({ "aim": aim.text, "met": aim.is_met })).collect::<Vec<_>>() })
        );
    } else {
        println!("{}\n{aims_text}", of_gateway.text());
    }
    tables.push(of_gateway);
    if to_readme {
        let tables: String = tables.iter().map(Table::markdown).collect();
        save("limits-bench", &format!("{HEAD}\n{tables}{aims_text}"));
    }
    aims.iter().all(|aim| aim.is_met)
}

const HEAD: &str = "\
`tests/limits/run bench`: 64 requests wait at any time; Redis 7 has a core to itself, whoever asks the other. *Redis µs* is \
Redis's processor time for each decision, *own µs* that of the process that asks, *commands* what clients and scripts asked \
of Redis. rate-limiter-flexible has no sliding window: it counts in fixed ones, which admit up to twice the quota around their \
ends, and is the cheaper for it.
";

/// Under load: at most 0.1 round trip, and a third of the best peer's time in Redis; in a flood nothing.
fn judge(job: &Job, samples: &[Sample]) -> Vec<Aim> {
    let (ours, peers) = samples.split_first().expect("this limiter comes first");
    if !job.admits {
        let commands = ours.done.commands;
        return vec![Aim { text: format!("a refused flood costs {commands} commands, aim 0"), is_met: commands == 0 }];
    }
    let best = peers.iter().map(Sample::redis_micros).fold(f64::INFINITY, f64::min);
    let sliding = peers.first().map_or(0.0, Sample::redis_micros);
    let ratio = ours.redis_micros() / best;
    let text = format!(
        "{}: {:.2} × the best peer's Redis time (aim 0.33; {:.2} × the sliding one's), {:.3} round trips (aim 0.1)",
        job.title,
        ratio,
        ours.redis_micros() / sliding,
        ours.calls()
    );
    vec![Aim { text, is_met: ratio <= 0.334 && ours.calls() <= 0.1 }]
}

/// What one window takes, by how much was admitted in it.
fn sizes(server: &Server, aims: &mut Vec<Aim>) -> Table {
    eprintln!("limits: octets of a window");
    let counts = [1, 10, 100, 1000];
    let of = |peer: Peer| {
        counts.map(|decisions| {
            // One after the other, so that each has a time of its own.
            let orders = Orders { keys: 1, before: 0, decisions, quota: 1_000, window: WINDOW, waiting: 1 };
            run(server, peer, orders, Some(true));
            server.largest()
        })
    };
    let mut rows: Vec<(&str, [u64; 4])> = Peer::ALL.iter().map(|peer| (peer.name(), of(*peer))).collect();
    rows.push(("a sorted set, one member for each", counts.map(|count| sorted_set(server, count))));
    let (ours, set) = (rows[0].1, rows[3].1);
    for (index, count) in counts.iter().enumerate().skip(1) {
        let ratio = ours[index] as f64 / set[index] as f64;
        aims.push(Aim {
            text: format!("{count} entries: {ratio:.2} × the sorted set's octets, aim 0.33"),
            is_met: ratio <= 0.334,
        });
    }
    let packed = ours[3] as f64 / 8_000.0;
    aims.push(Aim {
        text: format!("1,000 entries: {packed:.2} × the packed entries, aim 1.2"), is_met: packed <= 1.2
    });
    let mut columns = vec![Column::words("window")];
    columns.extend(["1 entry", "10", "100", "1,000"].map(Column::number));
    let row = |(name, sizes): &(&str, [u64; 4])| {
        std::iter::once((*name).to_owned()).chain(sizes.iter().map(u64::to_string)).collect()
    };
    Table {
        title: "Octets of one window in Redis (MEMORY USAGE)".to_owned(),
        columns,
        rows: rows.iter().map(row).collect(),
    }
}

/// A member of time and chance for each admission, as most sliding windows in Redis are written.
fn sorted_set(server: &Server, count: u64) -> u64 {
    server.empty();
    let mut connection = server.connect();
    for number in 0..count {
        let time = 1_750_000_000_000_000 + number * 1_000;
        let member = format!("{time}:{:08x}", number.wrapping_mul(2_654_435_761) as u32);
        let mut add = redis::cmd("ZADD");
        add.arg("{modelgate}:x60:calls:principal=caller-00000")
            .arg(time)
            .arg(member)
            .exec(&mut connection)
            .expect("it is added");
    }
    server.largest()
}

fn gateway_table(cost: &Cost) -> Table {
    let row =
        |name: &str, [micros, rate]: [f64; 2]| vec![name.to_owned(), format!("{micros:.1}"), format!("{rate:.0}")];
    Table {
        title: format!(
            "A gateway of one thread, {WAITING} connections over TLS, with an access log: {:.3} round trips and {:.2} µs of Redis a request",
            cost.round_trips, cost.redis_micros
        ),
        columns: vec![Column::words("limit"), Column::number("gateway µs"), Column::number("requests/s")],
        rows: vec![
            row("none", cost.without),
            row("held in the gateway", cost.in_memory),
            row("held in Redis", cost.in_redis),
        ],
    }
}
