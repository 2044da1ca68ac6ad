//! Three gateways, 200 connections, one window: does it ever hold too much, and is what there is room for admitted?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::Admissions;
use harness::client::tls_config;
use serde_json::json;

use crate::gateways::Running;
use crate::load::{Load, Shape, Tally};
use crate::server::Server;
use crate::session::Request;
use crate::table::{Column, Table, save};
use crate::worker::Worker;

const QUOTA: u64 = 1_000;
const WINDOW: Duration = Duration::from_secs(10);
const LASTS: Duration = Duration::from_secs(40);
const CONNECTIONS: [usize; 3] = [67, 67, 66];
/// Requests a second at each gateway.
const RATE: f64 = 1_500.0;
/// How often Redis's record is read.
const LOOK: Duration = Duration::from_millis(200);

const POLICY: &str = r#"
[limits.all]
by = ["route"]
store_lost = "deny"
[routes.open]
path = "/open"
methods = ["GET"]
pool = "models"
authenticate = "anonymous"
authorize = "anonymous"
limits = ["all"]
"#;

pub(crate) fn run(as_json: bool, to_readme: bool) -> bool {
    let server = Server::start();
    let worker = Worker::start();
    let settings = format!(
        "[pools.models]\nworkers = [\"http://{}\"]\n[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{}\"\n\
         timeout = \"2s\"\n[limits.all]\nquota = {QUOTA}\nwindow = \"{}s\"\n",
        worker.address,
        server.port,
        WINDOW.as_secs()
    );
    let gateways: Vec<Running> =
        CONNECTIONS.iter().map(|_| Running::start(&[settings.clone(), POLICY.to_owned()], None)).collect();
    let request = Request { method: "GET", path: "/open", fields: Vec::new(), body: Vec::new() };
    eprintln!("limits: {} gateways, {} connections, {LASTS:?}", gateways.len(), CONNECTIONS.iter().sum::<usize>());
    let loads: Vec<_> = gateways
        .iter()
        .zip(CONNECTIONS)
        .map(|(gateway, connections)| {
            let (address, request) = (gateway.address, request.clone());
            std::thread::spawn(move || {
                let shape = Shape { connections, streams: 1, reconnect: false, rate: Some(RATE) };
                Load::new(address, Arc::new(tls_config(&["http/1.1"], &[])), shape, &[request]).run(LASTS + LOOK * 5)
            })
        })
        .collect();
    let ended = Arc::new(AtomicBool::new(false));
    let looking = {
        let (ended, mut connection) = (Arc::clone(&ended), server.connect());
        std::thread::spawn(move || {
            let mut admissions = Admissions::default();
            while !ended.load(Ordering::Relaxed) {
                let began = Instant::now();
                let key: Option<Vec<u8>> =
                    redis::cmd("GET").arg("{modelgate}:x10:all:route=open").query(&mut connection).expect("an answer");
                admissions.add(&key.unwrap_or_default());
                std::thread::sleep(LOOK.saturating_sub(began.elapsed()));
            }
            admissions
        })
    };
    let tallies: Vec<Tally> = loads.into_iter().map(|load| load.join().expect("a load ends")).collect();
    // One more look, at what came last.
    std::thread::sleep(LOOK * 2);
    ended.store(true, Ordering::Relaxed);
    let admissions = looking.join().expect("the record is read");
    report(&admissions, &tallies, as_json, to_readme)
}

fn report(admissions: &Admissions, tallies: &[Tally], as_json: bool, to_readme: bool) -> bool {
    let micros = |time: Duration| u64::try_from(time.as_micros()).expect("a short time");
    let most = admissions.most(micros(WINDOW));
    let possible = QUOTA * LASTS.as_secs() / WINDOW.as_secs();
    let admitted = admissions.within(micros(LASTS));
    let of = |status: u16| tallies.iter().filter_map(|tally| tally.statuses.get(&status)).sum::<u64>();
    let (served, refused) = (of(200), of(429));
    let others = tallies.iter().map(Tally::requests).sum::<u64>() - served - refused;
    let lost: u64 = tallies.iter().map(|tally| tally.lost).sum();
    let share = admitted as f64 * 100.0 / possible as f64;
    let good = most <= QUOTA
        && admitted * 1_000 >= possible * 995
        && others + lost == 0
        // What was admitted at the very end may not be answered.
        && served <= admissions.total();
    let table = Table {
        title: format!(
            "`tests/limits/run parallel`: three gateways, one Redis, {} connections, {QUOTA} per {WINDOW:?} for {LASTS:?}, by Redis's own record",
            CONNECTIONS.iter().sum::<usize>()
        ),
        columns: vec![
            Column::number("most in any window"),
            Column::number("admitted"),
            Column::number("possible"),
            Column::number("share"),
            Column::number("answered 200"),
            Column::number("answered 429"),
            Column::number("otherwise"),
        ],
        rows: vec![vec![
            most.to_string(),
            admitted.to_string(),
            possible.to_string(),
            format!("{share:.2} %"),
            served.to_string(),
            refused.to_string(),
            (others + lost).to_string(),
        ]],
    };
    if as_json {
        println!(
            "{}",
            json!({
                "most": most, "admitted": admitted, "possible": possible, "recorded": admissions.total(),
                "served": served, "refused": refused, "others": others, "lost": lost, "good": good,
            })
        );
    } else {
        println!("{}", table.text());
    }
    if to_readme {
        save("limits-parallel", &table.markdown());
    }
    good
}
