//! What each client sees while Redis fails: three gateways under load, and limits that say each of the three things.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use harness::redis::sentinels::{MASTER, PASSWORD, SENTINEL_PASSWORD};
use harness::{Client, Gateway, GatewayBuilder, Redis, Sentinels, TestCa};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::gateways::Running;
use crate::proxy::Proxy;
use crate::table::{Column, Table, save};
use crate::worker::Worker;

/// How long the gateways wait for Redis, and how much longer a request may take on a machine that others use too.
const TIMEOUT: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(150);
/// Each client's pace. There are two for each of three limits at each of three gateways.
const PACE: Duration = Duration::from_millis(40);
/// How long a fault lasts, and for how long all must be well again before it counts as over.
const LASTS: Duration = Duration::from_secs(2);
const WELL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// How much a gateway may grow, in KiB.
const GROWTH: u64 = 8 << 10;

const LIMITS: [&str; 3] = ["deny", "allow", "local"];
const POLICY: &str = r#"
[limits.deny]
quota = 10000
window = "10s"
by = ["route"]
store_lost = "deny"
[limits.allow]
quota = 10000
window = "10s"
by = ["route"]
store_lost = "allow"
# 40 a second at each gateway, of the 50 that are asked there.
[limits.local]
quota = 1000
window = "1s"
by = ["route"]
store_lost = "local"
local_percent = 4
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Pause,
    Restart,
    FlushAll,
    FlushScripts,
    HangUp,
    Full,
    Replica,
    Slow,
    Loading,
    Cut,
    FailOver,
}

impl Fault {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Kill, "killed, back after 2 s"),
        (Self::Pause, "held up for 2 s (SIGSTOP)"),
        (Self::Restart, "restarted at once"),
        (Self::FlushAll, "FLUSHALL"),
        (Self::FlushScripts, "SCRIPT FLUSH"),
        (Self::HangUp, "all connections closed"),
        (Self::Full, "out of memory for 2 s (OOM)"),
        (Self::Replica, "a replica for 2 s (READONLY)"),
        (Self::Slow, "busy for 2 s (DEBUG SLEEP)"),
        (Self::Loading, "loading for 2 s (LOADING)"),
        (Self::Cut, "cut off for 2 s, nothing refused"),
        (Self::FailOver, "master killed, Sentinels promote"),
    ];

    /// Whether the gateways must not even notice.
    fn is_harmless(self) -> bool {
        matches!(self, Self::FlushAll | Self::FlushScripts | Self::HangUp)
    }
}

/// One answer.
struct Seen {
    at: Instant,
    limit: usize,
    status: u16,
    counted: bool,
    took: Duration,
}

impl Seen {
    fn is_well(&self) -> bool {
        self.status == 200 && self.counted
    }
}

#[derive(Default)]
struct Watch {
    seen: RefCell<Vec<Seen>>,
    errors: RefCell<Vec<String>>,
    ended: Cell<bool>,
}

enum Store {
    Single(Box<Redis>, Option<Proxy>),
    Watched(Box<Sentinels>),
}

struct Row {
    name: &'static str,
    /// By limit: counted, uncounted, 429, 503, anything else.
    answers: [[usize; 5]; 3],
    longest: Duration,
    /// From the repair to the last answer that was not as before.
    back: Duration,
    /// By gateway: how often it said lost, and back.
    told: Vec<(usize, usize)>,
    growth: u64,
    wrong: Vec<String>,
}

pub(crate) async fn run(only: &str, as_json: bool, to_readme: bool) -> bool {
    let mut rows = Vec::new();
    let worker = Worker::start();
    for (fault, name) in Fault::ALL.into_iter().filter(|(_, name)| name.contains(only)) {
        eprintln!("limits: {name}");
        rows.push(suffer(fault, name, &worker).await);
    }
    let table = table(&rows);
    if as_json {
        println!("{}", rows.iter().map(Row::json).collect::<Value>());
    } else {
        println!("{}", table.text());
    }
    for row in rows.iter().filter(|row| !row.wrong.is_empty()) {
        eprintln!("limits: {}: {}", row.name, row.wrong.join("; "));
    }
    if to_readme {
        save("limits-faults", &table.markdown());
    }
    rows.iter().all(|row| row.wrong.is_empty())
}

fn routes() -> String {
    let route = |name: &&str| {
        format!(
            "[routes.{name}]\npath = \"/{name}\"\nmethods = [\"GET\"]\npool = \"models\"\nauthenticate = \"anonymous\"\n\
             authorize = \"anonymous\"\nlimits = [\"{name}\"]\n"
        )
    };
    LIMITS.iter().map(route).collect()
}

fn with_certificates(builder: GatewayBuilder) -> GatewayBuilder {
    // With a name of its own: OpenSSL takes whoever is called as its issuer for its own issuer.
    let client = TestCa::shared().issue(&["gateway.internal"], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "gateway.internal");
    });
    let builder = builder.file("redis-ca.pem", &TestCa::shared().authority).file("client.pem", client.certificate);
    let builder = builder.file("client.key", client.private_key);
    builder.variable("REDIS_PASSWORD", PASSWORD).variable("SENTINEL_PASSWORD", SENTINEL_PASSWORD)
}

/// The store that a fault needs, and how gateways are told of it.
async fn store(fault: Fault) -> (Store, String) {
    if fault == Fault::FailOver {
        let sentinels = Sentinels::start().await;
        let text = format!(
            "sentinels = {:?}\nmaster = \"{MASTER}\"\nsentinel_password = {{ env = \"SENTINEL_PASSWORD\" }}\n\
             password = {{ env = \"REDIS_PASSWORD\" }}\nca = \"redis-ca.pem\"\ncertificate = \"client.pem\"\n\
             private_key = {{ file = \"client.key\" }}\n",
            sentinels.urls()
        );
        return (Store::Watched(Box::new(sentinels)), text);
    }
    let builder = Redis::builder().setting("enable-debug-command", "yes");
    let redis = builder.setting("loading-process-events-interval-bytes", "1024").start().await;
    if fault == Fault::Loading {
        redis.tell("DEBUG POPULATE 4000 ballast 64");
    }
    let proxy = if fault == Fault::Cut { Some(Proxy::start(redis.address()).await) } else { None };
    let url = proxy.as_ref().map_or_else(|| redis.url(), |proxy| format!("redis://127.0.0.1:{}", proxy.port));
    (Store::Single(Box::new(redis), proxy), format!("url = \"{url}\"\n"))
}

impl Store {
    /// Breaks it, waits as long as the fault lasts, and repairs it. When it was repaired.
    async fn suffer(&mut self, fault: Fault) -> Instant {
        let (redis, proxy) = match self {
            Self::Watched(sentinels) => {
                sentinels.master.kill();
                return Instant::now();
            }
            Self::Single(redis, proxy) => (redis, proxy),
        };
        let blocking = |redis: &Redis, command: &'static str| {
            let address = redis.address();
            tokio::task::spawn_blocking(move || {
                let client = redis::Client::open(format!("redis://{address}")).expect("a good URL");
                let mut words = command.split(' ');
                let mut asked = redis::cmd(words.next().unwrap_or_default());
                let _ =
                    words.fold(&mut asked, redis::Cmd::arg).exec(&mut client.get_connection().expect("it is there"));
            })
        };
        match fault {
            Fault::Kill => {
                redis.kill();
                sleep(LASTS).await;
                redis.revive().await;
            }
            Fault::Restart => redis.revive().await,
            Fault::Pause => {
                redis.pause();
                sleep(LASTS).await;
                redis.resume();
            }
            Fault::FlushAll => redis.tell("FLUSHALL"),
            Fault::FlushScripts => redis.flush_scripts(),
            Fault::HangUp => redis.hang_up(),
            Fault::Full => {
                redis.tell("CONFIG SET maxmemory 1");
                sleep(LASTS).await;
                redis.tell("CONFIG SET maxmemory 0");
            }
            Fault::Replica => {
                redis.tell("REPLICAOF 127.0.0.1 1");
                sleep(LASTS).await;
                redis.tell("REPLICAOF NO ONE");
            }
            Fault::Slow => blocking(redis, "DEBUG SLEEP 2").await.expect("it slept"),
            Fault::Loading => {
                redis.tell("CONFIG SET key-load-delay 500");
                blocking(redis, "DEBUG RELOAD").await.expect("it loaded");
                redis.tell("CONFIG SET key-load-delay 0");
            }
            Fault::Cut => {
                let proxy = proxy.as_ref().expect("there is one in between");
                proxy.cut(true);
                sleep(LASTS).await;
                proxy.cut(false);
            }
            Fault::FailOver => {}
        }
        Instant::now()
    }
}

async fn client(watch: Rc<Watch>, client: Client, limit: usize) {
    let mut clock = interval(PACE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = client.connect().await;
    while !watch.ended.get() {
        clock.tick().await;
        let at = Instant::now();
        match connection.try_send(client.get(&format!("/{}", LIMITS[limit]))).await {
            Ok(answer) => {
                let counted = answer.headers.contains_key("ratelimit");
                watch.seen.borrow_mut().push(Seen { at, limit, status: answer.status, counted, took: at.elapsed() });
            }
            Err(why) => {
                watch.errors.borrow_mut().push(why);
                connection = client.connect().await;
            }
        }
    }
}

async fn suffer(fault: Fault, name: &'static str, worker: &Worker) -> Row {
    let (mut store, text) = store(fault).await;
    let settings = format!(
        "[pools.models]\nworkers = [\"http://{}\"]\n[store]\nkind = \"redis\"\ntimeout = \"{TIMEOUT:?}\"\n{text}{POLICY}{}",
        worker.address,
        routes()
    );
    let launch = || Running::launch(with_certificates(Gateway::builder().without_base().policy(&settings)), None);
    let gateways = [launch(), launch(), launch()];
    let watch = Rc::<Watch>::default();
    let mut clients = tokio::task::JoinSet::new();
    for gateway in &gateways {
        for number in 0..6 {
            clients.spawn_local(client(Rc::clone(&watch), Client::http1(gateway.address), number % LIMITS.len()));
            sleep(PACE / 18).await;
        }
    }
    // Until all is well.
    well(&watch, Instant::now()).await;
    let memory = gateways.each_ref().map(Running::memory);
    let broken = Instant::now();
    let repaired = store.suffer(fault).await;
    let is_over = well(&watch, repaired).await;
    watch.ended.set(true);
    while clients.join_next().await.is_some() {}
    let grown = gateways.iter().zip(memory).map(|(gateway, before)| gateway.memory().saturating_sub(before));
    let mut row = Row {
        name,
        answers: Default::default(),
        longest: Duration::ZERO,
        back: Duration::ZERO,
        told: Vec::new(),
        growth: grown.max().unwrap_or(0),
        wrong: watch.errors.take(),
    };
    for seen in watch.seen.borrow().iter().filter(|seen| seen.at + seen.took >= broken) {
        let kind = match (seen.status, seen.counted) {
            (200, true) => 0,
            (200, false) => 1,
            (429, _) => 2,
            (503, _) => 3,
            _ => 4,
        };
        row.answers[seen.limit][kind] += 1;
        row.longest = row.longest.max(seen.took);
        if !seen.is_well() {
            row.back = row.back.max((seen.at + seen.took).saturating_duration_since(repaired));
        }
    }
    for gateway in &gateways {
        let events = gateway.events();
        let of = |event: &str| events.iter().filter(|line| line.contains(event)).count();
        row.told.push((of("\"store-lost\""), of("\"store-back\"")));
        row.wrong.extend(events.iter().filter(|line| line.contains("panicked")).cloned());
    }
    if !is_over {
        row.wrong.push("it is not over".into());
    }
    row.judge(fault);
    row
}

/// Waits until all clients have been well for a while, and were so since; whether that came.
async fn well(watch: &Watch, since: Instant) -> bool {
    loop {
        sleep(PACE).await;
        let last = watch.seen.borrow().iter().rev().find(|seen| !seen.is_well()).map(|seen| seen.at + seen.took);
        if last.unwrap_or(since).max(since).elapsed() >= WELL {
            return true;
        }
        if since.elapsed() > PATIENCE {
            return false;
        }
    }
}

impl Row {
    fn judge(&mut self, fault: Fault) {
        let [deny, allow, local] = self.answers;
        let mut check = |is_so: bool, what: &str| {
            if !is_so {
                self.wrong.push(what.to_owned());
            }
        };
        check(self.longest <= TIMEOUT + SLACK, "a request waited too long");
        check(self.growth <= GROWTH, "memory grew");
        check(deny[1] + deny[2] + deny[4] == 0, "`deny` let something pass uncounted, or refused for another reason");
        check(allow[2] + allow[3] + allow[4] == 0, "`allow` refused");
        check(local[1] + local[3] + local[4] == 0, "`local` did not count");
        let most = usize::from(!fault.is_harmless());
        let once = |(lost, back): &(usize, usize)| lost == back && *lost <= most;
        check(self.told.iter().all(once), "the state was not told once");
        check(!fault.is_harmless() || deny[3] + allow[1] + local[2] == 0, "it was noticed");
    }

    fn json(&self) -> Value {
        json!({
            "fault": self.name, "answers": self.answers, "longest_ms": self.longest.as_secs_f64() * 1e3,
            "back_ms": self.back.as_secs_f64() * 1e3, "told": self.told, "growth_kib": self.growth, "wrong": self.wrong,
        })
    }
}

fn table(rows: &[Row]) -> Table {
    let cells = |row: &Row| {
        let [deny, allow, local] = row.answers;
        let told: Vec<String> = row.told.iter().map(|(lost, back)| format!("{lost}/{back}")).collect();
        vec![
            row.name.to_owned(),
            format!("{} + {} × 503", deny[0], deny[3]),
            format!("{} + {} uncounted", allow[0], allow[1]),
            format!("{} + {} × 429", local[0], local[2]),
            format!("{:.0}", row.longest.as_secs_f64() * 1e3),
            format!("{:.0}", row.back.as_secs_f64() * 1e3),
            told.join(" "),
            row.growth.to_string(),
        ]
    };
    Table {
        title: format!(
            "`tests/limits/run faults`: three gateways, 450 requests a second, a store that is given {TIMEOUT:?}; *lost/back* are \
             the records of each gateway, *back after* runs from the repair to the last answer that was not as before"
        ),
        columns: vec![
            Column::words("Redis"),
            Column::words("deny"),
            Column::words("allow"),
            Column::words("local"),
            Column::number("longest ms"),
            Column::number("back after ms"),
            Column::words("lost/back"),
            Column::number("KiB more"),
        ],
        rows: rows.iter().map(cells).collect(),
    }
}
