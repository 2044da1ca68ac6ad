//! Redis's clock steps while clients go on: no window of real time holds too much, and nobody is shut out for long.
//!
//! The steps are made by a library that is preloaded into the Redis server alone (`clock.c`).

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use harness::histories::Chance;
use harness::{Client, Redis};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::gateways::Running;
use crate::table::{Column, Table, save};
use crate::worker::Worker;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/limits/clock.c");
const QUOTA: usize = 5;
const WINDOW: Duration = Duration::from_secs(1);
const CLIENTS: usize = 60;
/// How often each asks, about.
const PACE: Duration = Duration::from_millis(60);
/// How much later than it might a client be admitted: its own pace, and a busy machine.
const SLACK: Duration = Duration::from_millis(400);
const STEPS: [i64; 8] = [1, -1, 3, -2, 60, -45, 3 * 3600, -2 * 3600];

const POLICY: &str = r#"
[client_address]
trusted_proxies = ["127.0.0.1"]
[limits.calls]
quota = 5
window = "1s"
by = ["header:x-tenant"]
store_lost = "deny"
[routes.open]
path = "/open"
methods = ["GET"]
pool = "models"
authenticate = "anonymous"
authorize = "anonymous"
limits = ["calls"]
"#;

/// When a step was made, and whether forward.
type Step = (Instant, bool);
/// When a request was sent and its answer heard, and whether it was admitted.
type Answered = (Instant, Instant, bool);

/// What came of it: requests, admissions, and what must not be.
#[derive(Default)]
struct Judged {
    asked: usize,
    admitted: usize,
    too_much: usize,
    shut_out: usize,
    longest: Duration,
}

async fn client(address: std::net::SocketAddr, tenant: usize, ended: Rc<Cell<bool>>, all: Rc<RefCell<Vec<Answered>>>) {
    let client = Client::http1(address);
    let mut connection = client.connect().await;
    while !ended.get() {
        let sent = Instant::now();
        let request = client.get("/open").header("x-tenant", &format!("t{tenant}"));
        let answer = connection.try_send(request).await.unwrap_or_else(|why| panic!("no answer: {why}"));
        assert!(matches!(answer.status, 200 | 429), "answered with {}", answer.status);
        all.borrow_mut().push((sent, Instant::now(), answer.status == 200));
        sleep(PACE).await;
    }
}

pub(crate) async fn run(rounds: usize, as_json: bool, to_readme: bool) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, program) = (directory.path().join("clock"), directory.path().join("redis-server"));
    set(&file, 0);
    let library = directory.path().join("clock.so");
    let compiled = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SOURCE).status();
    assert!(compiled.expect("there is a compiler").success(), "{SOURCE} does not compile");
    let script = format!(
        "#!/bin/sh\nexec env LD_PRELOAD={} CLOCK_OFFSET_FILE={} redis-server \"$@\"\n",
        library.display(),
        file.display()
    );
    std::fs::write(&program, script).expect("it can be written");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).expect("it is ours");
    let redis = Redis::builder().valkey(&program).start().await;
    let worker = Worker::start();
    let store = format!(
        "[pools.models]\nworkers = [\"http://{}\"]\n[store]\nkind = \"redis\"\nurl = \"{}\"\ntimeout = \"2s\"\n",
        worker.address,
        redis.url()
    );
    let settings = [store, POLICY.to_owned()];
    let gateways: Vec<Running> = (0..3).map(|_| Running::start(&settings, None)).collect();
    let ended = Rc::<Cell<bool>>::default();
    let mut asking = tokio::task::JoinSet::new();
    let answers: Vec<Rc<RefCell<Vec<Answered>>>> = (0..CLIENTS).map(|_| Rc::default()).collect();
    // Each tenant asks through two gateways.
    for (tenant, answers) in answers.iter().enumerate() {
        for gateway in [tenant % 3, (tenant + 1) % 3] {
            asking.spawn_local(client(gateways[gateway].address, tenant, Rc::clone(&ended), Rc::clone(answers)));
        }
    }
    let (mut chance, mut offset, mut steps) = (Chance(7), 0, Vec::<Step>::new());
    sleep(WINDOW * 2).await;
    for round in 0..rounds {
        for step in STEPS {
            offset += step;
            eprintln!("limits: round {}, the clock steps by {step} s", round + 1);
            let before = Instant::now();
            set(&file, offset);
            steps.push((before, step > 0));
            sleep(WINDOW * 2 + Duration::from_millis(chance.below(900))).await;
        }
    }
    ended.set(true);
    while let Some(done) = asking.join_next().await {
        done.expect("a client ends");
    }
    let mut judged = Judged::default();
    for answers in &answers {
        judged.judge(&mut answers.borrow_mut(), &steps);
    }
    judged.report(&steps, as_json, to_readme)
}

/// Says how far Redis's clock is from the machine's, in seconds.
fn set(file: &Path, offset: i64) {
    // In place, because it is mapped.
    let mut opened = OpenOptions::new().create(true).truncate(false).write(true).open(file).expect("it is ours");
    opened.write_all(&offset.to_ne_bytes()).expect("it can be written");
}

impl Judged {
    fn judge(&mut self, answers: &mut [Answered], steps: &[Step]) {
        answers.sort_by_key(|(sent, _, _)| *sent);
        let admitted: Vec<&Answered> = answers.iter().filter(|(_, _, admitted)| *admitted).collect();
        self.asked += answers.len();
        self.admitted += admitted.len();
        for (index, (sent, _, _)) in admitted.iter().enumerate() {
            // Those that were surely decided within one window of real time.
            let within = admitted[index..].iter().filter(|(_, heard, _)| *heard < *sent + WINDOW);
            let forward = steps.iter().filter(|(at, ahead)| *ahead && (*sent..*sent + WINDOW).contains(at)).count();
            self.too_much += usize::from(within.count() > QUOTA * (1 + forward));
        }
        for pair in admitted.windows(2) {
            let (begin, end) = (pair[0].1, pair[1].0);
            let gap = end.saturating_duration_since(begin);
            // A step back makes what is in the window count for one more.
            let back = steps.iter().filter(|(at, ahead)| !*ahead && (pair[0].0..pair[1].1).contains(at)).count();
            self.longest = self.longest.max(gap);
            self.shut_out += usize::from(gap > WINDOW * (1 + back as u32) + SLACK);
        }
    }

    fn report(&self, steps: &[Step], as_json: bool, to_readme: bool) -> bool {
        let good = self.too_much == 0 && self.shut_out == 0 && self.admitted > 0;
        let table = Table {
            title: format!(
                "`tests/limits/run clock`: {CLIENTS} callers, {QUOTA} per {WINDOW:?}, three gateways; Redis's clock steps by 1 s to 3 h"
            ),
            columns: [
                "steps",
                "asked",
                "admitted",
                "windows above",
                "shut out for longer than a window",
                "longest gap, s",
            ]
            .map(Column::number)
            .into(),
            rows: vec![vec![
                steps.len().to_string(),
                self.asked.to_string(),
                self.admitted.to_string(),
                self.too_much.to_string(),
                self.shut_out.to_string(),
                format!("{:.2}", self.longest.as_secs_f64()),
            ]],
        };
        if as_json {
            println!(
                "{}",
                json!({
                    "steps": steps.len(), "asked": self.asked, "admitted": self.admitted, "too_much": self.too_much,
                    "shut_out": self.shut_out, "longest_gap_seconds": self.longest.as_secs_f64(), "good": good,
                })
            );
        } else {
            println!("{}", table.text());
        }
        if to_readme {
            save("limits-clock", &table.markdown());
        }
        good
    }
}
