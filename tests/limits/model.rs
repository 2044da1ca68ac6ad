//! Random histories over three gateways and one Redis, each against a plain model.

use harness::Redis;
use harness::histories::{self, Chance, Rules};
use serde_json::json;
use tokio::time::Instant;

use crate::gateways::Running;
use crate::table::{Column, Table, save};
use crate::worker::Worker;

/// Histories that are played at the same time.
const AT_ONCE: usize = 250;
/// Histories that share limits and routes of chance.
const WITH_RULES: u64 = 2_500;

pub(crate) async fn run(count: u64, seed: u64, as_json: bool, to_readme: bool) -> bool {
    let worker = Worker::start();
    let (mut histories, mut admitted, mut refused, mut faults, mut wrong) = (0, 0, 0, 0, Vec::new());
    let began = Instant::now();
    let mut chance = Chance(seed);
    while histories < count {
        let rules = Rules::random(&mut chance);
        let redis = Redis::start().await;
        let store = format!(
            "[pools.models]\nworkers = [\"http://{}\"]\n[store]\nkind = \"redis\"\nurl = \"{}\"\ntimeout = \"2s\"\n",
            worker.address,
            redis.url()
        );
        let settings = [store, rules.toml()];
        let gateways: Vec<Running> = (0..3).map(|_| Running::start(&settings, None)).collect();
        let addresses: Vec<_> = gateways.iter().map(|gateway| gateway.address).collect();
        let next = WITH_RULES.min(count - histories);
        let played = histories::play(&rules, &addresses, &redis, next, AT_ONCE, chance.number()).await;
        histories += played.histories;
        admitted += played.admitted;
        refused += played.refused;
        faults += played.faults;
        wrong.extend(played.wrong);
        eprintln!("limits: {histories} histories, {} wrong, {:.0?}", wrong.len(), began.elapsed());
    }
    for wrong in wrong.iter().take(10) {
        eprintln!("limits: {wrong}");
    }
    let table = Table {
        title: format!(
            "`tests/limits/run histories --seed {seed}`: three gateways, one Redis, {:.0?}",
            began.elapsed()
        ),
        columns: ["histories", "admitted", "refused", "faults of Redis", "unlike the model"].map(Column::number).into(),
        rows: vec![[histories, admitted, refused, faults, wrong.len() as u64].map(|number| number.to_string()).into()],
    };
    if as_json {
        println!(
            "{}",
            json!({ "histories": histories, "admitted": admitted, "refused": refused, "faults": faults, "wrong": wrong })
        );
    } else {
        println!("{}", table.text());
    }
    if to_readme {
        save("limits-histories", &table.markdown());
    }
    wrong.is_empty()
}
