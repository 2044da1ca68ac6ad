//! Other workers in a pool: tested first, watched afterwards, and no client notices.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::client::flower;
use harness::identity::part;
use harness::wire::plain;
use harness::{Gate, Gateway, GatewayBuilder, Recorder, Reply, Signer, Upstream as _, binary};
use serde_json::{Value, json};

use super::{ask, count};

/// A worker that says which it is, and gives golden predictions.
fn worker(name: &'static str) -> Recorder {
    Recorder::replying(says(name, 0.9))
}

fn says(name: &str, setosa: f64) -> Reply {
    Reply::json(&json!({ "label": "setosa", "probabilities": { "setosa": setosa }, "worker": name }))
}

fn golden() -> String {
    json!([
        { "path": "/models/iris/predict", "body": flower(),
          "expect": { "label": "setosa", "probabilities": { "setosa": 0.9 } }, "tolerance": 0.01 },
        { "path": "/models", "expect": {} },
    ])
    .to_string()
}

fn builder(old: &Recorder, rule: &str) -> GatewayBuilder {
    let rule = format!("[reload]\nwatch = false\n[pools.models.swap]\ngolden = \"golden.json\"\n{rule}");
    Gateway::builder().worker(old).file("golden.json", golden()).policy(rule)
}

/// Exit code, what it said, what it complained of.
fn swap(gateway: &Gateway, to: &str, more: &[&str]) -> (Option<i32>, String, String) {
    run(&gateway.operator(), to, more)
}

fn run(admin: &str, to: &str, more: &[&str]) -> (Option<i32>, String, String) {
    super::run_at(admin, &[&["pool", "swap", "models", "--to", to], more].concat())
}

async fn who_answers(gateway: &Gateway) -> Value {
    gateway.client().get("/open").send().await.json()["worker"].clone()
}

#[tokio::test]
async fn new_workers_take_all_that_begins_and_what_has_begun_ends_on_the_old_one() {
    let gate = Gate::default();
    let old = {
        let gate = gate.clone();
        Recorder::scripted(move |_, _| {
            Reply::early().read_body().wait(&gate).write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
        })
    };
    let (one, two) = (worker("one"), worker("two"));
    let gateway = builder(&old, "").start().await;
    let begun = tokio::spawn(gateway.client().get("/open").send());
    old.wait_for_requests(1).await;
    let (code, said, _) = swap(&gateway, &format!("{},{}", one.url(), two.url()), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Write the new workers into [pools.models]"), "{said}");
    // Each was asked whether it is ready, and both golden predictions.
    for worker in [&one, &two] {
        let lines: Vec<String> = worker.seen().iter().map(harness::Seen::line).collect();
        let expected = ["GET /readyz HTTP/1.1", "POST /models/iris/predict HTTP/1.1", "GET /models HTTP/1.1"];
        assert_eq!(lines, expected);
        assert_eq!(worker.seen()[1].json(), flower());
    }
    assert_eq!(ask(&gateway, 40).await, [200; 40]);
    assert!(count(&one) > 2 && count(&two) > 2);
    assert_eq!(count(&one) + count(&two), 44);
    gate.open();
    assert_eq!(begun.await.expect("no panic").text(), "old");
    assert_eq!(old.seen().len(), 1);
    let told = gateway.log().event("pool-swapped").await;
    assert_eq!((&told["log"], &told["pool"]), (&json!("security"), &json!("models")));
    assert!(told["note"].as_str().is_some_and(|note| note.contains("a restart takes those")), "{told}");
}

#[tokio::test]
async fn a_worker_that_is_not_ready_or_predicts_otherwise_gets_no_request() {
    let old = worker("old");
    let gateway = builder(&old, "").start().await;
    let loading = Recorder::scripted(|_, seen| {
        if seen.line().contains("/readyz") { Reply::with(503, "", b"loading") } else { says("new", 0.9) }
    });
    let (other, nobody) = (Recorder::replying(says("other", 0.7)), Recorder::refusing());
    let good = worker("good");
    for (to, complaint) in [
        (loading.url(), "is not ready"),
        (other.url(), "golden prediction 0 (POST /models/iris/predict): /probabilities/setosa is 0.7, not 0.9"),
        (nobody.url(), "is not ready"),
        (format!("{},{}", good.url(), other.url()), "golden prediction 0"),
        ("http://8.8.8.8:1".to_owned(), "plain text to a public address"),
        ("https://127.0.0.1:1".to_owned(), "no `ca`"),
        (format!("{},{}", good.url(), good.url()), "stands here already"),
    ] {
        let (code, _, said) = swap(&gateway, &to, &[]);
        assert_eq!(code, Some(1));
        assert!(said.contains("nothing was swapped") && said.contains(complaint), "{complaint} is not in\n{said}");
    }
    let gets = |worker: &Recorder| worker.seen().iter().filter(|seen| seen.header("via").is_some()).count();
    assert_eq!(ask(&gateway, 5).await, [200; 5]);
    assert_eq!((gets(&old), gets(&other), gets(&good), gets(&loading)), (5, 0, 0, 0));
    gateway.log().event("pool-swap-refused").await;
}

#[tokio::test]
async fn golden_predictions_carry_the_gateways_assertion() {
    let (old, new, signer) = (worker("old"), worker("new"), Signer::es256());
    let policy = "[assertion]\nissuer = \"https://gateway.internal\"\nalgorithm = \"ES256\"\nlifetime = \"60s\"\n\
                  signing_key = { file = \"assertion.key\" }\npools = { models = \"model-worker\" }\n";
    let gateway = builder(&old, "").file("assertion.key", signer.private()).policy(policy).start().await;
    assert_eq!(swap(&gateway, &new.url(), &[]).0, Some(0));
    let golden = new.seen().into_iter().find(|seen| seen.line().starts_with("POST")).expect("it was tested");
    let told = golden.headers("x-modelgate-assertion");
    assert!(told.len() == 1 && signer.made(&told[0]), "{told:?}");
    assert_eq!(part(&told[0], 1)["sub"], "anonymous");
}

#[tokio::test]
async fn new_workers_that_fail_are_rolled_back_by_themselves() {
    for fault in [Reply::with(500, "", b"no"), Reply::with(503, "", b"later"), Reply::early().read_body().close()] {
        let (old, well) = (worker("old"), Arc::new(AtomicBool::new(true)));
        let new = Recorder::scripted({
            let well = Arc::clone(&well);
            move |_, _| if well.load(Ordering::Relaxed) { says("new", 0.9) } else { fault.clone() }
        });
        let gateway = builder(&old, "watch = \"1h\"\n").start().await;
        assert_eq!(swap(&gateway, &new.url(), &[]).0, Some(0));
        assert_eq!(who_answers(&gateway).await, "new");
        well.store(false, Ordering::Relaxed);
        let mut failed = 0;
        while who_answers_or_fails(&gateway).await.is_none() {
            failed += 1;
        }
        assert!(failed >= 4, "five requests are the least that says something");
        let told = gateway.log().event("pool-swap-rolled-back").await;
        assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("requests failed")), "{told}");
        assert_eq!(who_answers(&gateway).await, "old");
        let last = plain(gateway.admin(), "GET", "/pools/models/swap").await.json();
        assert_eq!(last["stage"], "rolled_back");
    }
}

#[tokio::test]
async fn a_new_worker_that_is_not_ready_any_more_is_rolled_back_before_a_request_fails() {
    let (old, well) = (worker("old"), Arc::new(AtomicBool::new(true)));
    let new = Recorder::scripted({
        let well = Arc::clone(&well);
        move |_, _| if well.load(Ordering::Relaxed) { says("new", 0.9) } else { Reply::with(503, "", b"no") }
    });
    let probes = "watch = \"1h\"\n[pools.models.health]\ninterval = \"100ms\"\n";
    let gateway = builder(&old, probes).start().await;
    assert_eq!(swap(&gateway, &new.url(), &[]).0, Some(0));
    assert_eq!(who_answers(&gateway).await, "new");
    well.store(false, Ordering::Relaxed);
    let told = gateway.log().event("pool-swap-rolled-back").await;
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("answered 503")), "{told}");
    assert_eq!(who_answers(&gateway).await, "old");
}

async fn who_answers_or_fails(gateway: &Gateway) -> Option<Value> {
    let answer = gateway.client().get("/open").send().await;
    (answer.status == 200).then(|| answer.json()["worker"].clone())
}

#[tokio::test]
async fn whoever_waits_learns_how_the_watch_ended() {
    let (old, new) = (worker("old"), worker("new"));
    let gateway = builder(&old, "watch = \"100ms\"\n").start().await;
    let (code, said, _) = swap(&gateway, &new.url(), &["--wait"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("and stay"), "{said}");
    gateway.log().event("pool-swap-kept").await;
    assert_eq!(who_answers(&gateway).await, "new");
}

#[tokio::test]
async fn a_reload_leaves_swapped_workers_in_until_the_files_say_something_new_of_the_pool() {
    let (old, new) = (worker("old"), worker("new"));
    let gateway = builder(&old, "watch = \"100ms\"\n").policy("").policy("").start().await;
    let shown = async || plain(gateway.admin(), "GET", "/pools").await.json()["models"].clone();
    assert_eq!(shown().await["named_by_files"], Value::Null);
    assert_eq!(swap(&gateway, &new.url(), &["--wait"]).0, Some(0));
    for text in ["", "[pools.other]\nworkers = [\"http://127.0.0.1:9\"]\n"] {
        std::fs::write(gateway.directory().join("3.toml"), text).expect("it can be written");
        let (code, said, _) = super::run(&gateway, &["reload"]);
        assert_eq!(code, Some(0));
        assert!(said.contains("The pool models keeps the workers that were swapped in"), "{said}");
        assert_eq!(who_answers(&gateway).await, "new");
    }
    let told = gateway.log().event("pool-stays-swapped").await;
    let labels = [new.address().to_string(), old.address().to_string()];
    assert_eq!((&told["workers"], &told["named"]), (&json!(labels[0]), &json!(labels[1])));
    assert_eq!(shown().await["named_by_files"], json!([labels[1]]));
    // The same section, and something new in it: what it says holds.
    std::fs::write(gateway.directory().join("4.toml"), "[pools.models]\nmax_idle = 63\n").expect("it can be written");
    let (code, said, _) = super::run(&gateway, &["reload"]);
    assert_eq!((code, said.contains("keeps the workers")), (Some(0), false), "{said}");
    gateway.log().event("pool-swap-overtaken").await;
    assert_eq!(who_answers(&gateway).await, "old");
    assert_eq!(shown().await["named_by_files"], Value::Null);
}

#[tokio::test]
async fn what_a_reload_changed_meanwhile_stays_when_workers_are_rolled_back() {
    let (old, well) = (worker("old"), Arc::new(AtomicBool::new(true)));
    let new = Recorder::scripted({
        let well = Arc::clone(&well);
        move |_, _| if well.load(Ordering::Relaxed) { says("new", 0.9) } else { Reply::with(500, "", b"no") }
    });
    let gateway = builder(&old, "watch = \"1h\"\n").policy("").start().await;
    assert_eq!(swap(&gateway, &new.url(), &[]).0, Some(0));
    let changed = format!("[pools.models]\nworkers = [{:?}]\nbalance = \"hash\"\n", new.url());
    std::fs::write(gateway.directory().join("3.toml"), changed).expect("it can be written");
    assert_eq!(super::run(&gateway, &["reload"]).0, Some(0));
    well.store(false, Ordering::Relaxed);
    while who_answers_or_fails(&gateway).await.is_none() {}
    gateway.log().event("pool-swap-rolled-back").await;
    assert_eq!(who_answers(&gateway).await, "old");
    assert_eq!(plain(gateway.admin(), "GET", "/pools").await.json()["models"]["balance"], "hash");
}

#[tokio::test]
async fn a_swap_that_was_asked_for_ends_although_the_asker_goes_away() {
    let gate = Gate::default();
    let (old, slow) = (worker("old"), {
        let gate = gate.clone();
        Recorder::scripted(move |number, _| {
            let body = json!({ "label": "setosa", "probabilities": { "setosa": 0.9 }, "worker": "slow" }).to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let reply = Reply::early().read_body();
            if number == 1 { reply.wait(&gate).write(answer) } else { reply.write(answer) }
        })
    });
    let gateway = builder(&old, "").start().await;
    let mut command = Command::new(binary("gateway"));
    command.args(["pool", "swap", "models", "--to", &slow.url(), "--admin", &gateway.operator()]);
    let mut asker = command.spawn().expect("it runs");
    slow.wait_for_requests(2).await;
    asker.kill().and_then(|()| asker.wait()).expect("it ends");
    gate.open();
    gateway.log().event("pool-swapped").await;
    assert_eq!(who_answers(&gateway).await, "slow");
}

#[tokio::test]
async fn workers_that_a_file_names_are_tested_before_they_serve() {
    let (old, other, good) = (worker("old"), Recorder::replying(says("other", 0.7)), worker("good"));
    let gateway = builder(&old, "").policy("").start().await;
    let admin = gateway.operator();
    let reload = |to: &Recorder| {
        let file = gateway.directory().join("3.toml");
        std::fs::write(file, format!("[pools.models]\nworkers = [{:?}]\n", to.url())).expect("it can be written");
        let output = Command::new(binary("gateway")).args(["reload", "--admin", &admin]).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, complaint) = reload(&other);
    assert_eq!(code, Some(78));
    for part in ["pools.models.workers", "/probabilities/setosa is 0.7, not 0.9", "The old policy goes on."] {
        assert!(complaint.contains(part), "{part} is not in\n{complaint}");
    }
    gateway.log().event("policy-kept").await;
    assert_eq!(who_answers(&gateway).await, "old");
    assert_eq!(reload(&good), (Some(0), String::new()));
    assert_eq!(who_answers(&gateway).await, "good");
}

#[tokio::test]
async fn without_golden_predictions_workers_are_changed_by_files_alone() {
    let (old, new) = (worker("old"), worker("new"));
    let gateway = Gateway::before(&old).await;
    let (code, _, complaint) = swap(&gateway, &new.url(), &[]);
    assert_eq!(code, Some(1));
    assert!(complaint.contains("write [pools.models.swap]"), "{complaint}");
    new.assert_untouched();
    assert_eq!(plain(gateway.admin(), "GET", "/pools/models/swap").await.status, 404);
    assert_eq!(plain(gateway.admin(), "GET", "/pools/models/workers").await.status, 405);
}

#[tokio::test]
async fn no_request_fails_while_workers_are_swapped_again_and_again() {
    let (one, two) = (worker("one"), worker("two"));
    let gateway = builder(&one, "").start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (client, stop) = (if number % 2 == 0 { gateway.client() } else { gateway.http2() }, Arc::clone(&stop));
        clients.spawn(async move {
            let (mut connection, mut statuses) = (client.connect().await, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                statuses.push(connection.send(client.predict("predictor")).await.status);
            }
            statuses
        });
    }
    for turn in 0..6 {
        let (to, before) = if turn % 2 == 0 { (&two, &one) } else { (&one, &two) };
        let asked = to.seen().len();
        let (admin, url) = (gateway.operator(), to.url());
        let swapped = tokio::task::spawn_blocking(move || run(&admin, &url, &[])).await.expect("no panic");
        assert_eq!(swapped.0, Some(0), "from {}: {}", before.address(), swapped.2);
        to.wait_for_requests(asked + 50).await;
    }
    stop.store(true, Ordering::Relaxed);
    let statuses = clients.join_all().await.concat();
    assert!(statuses.len() >= 200, "{}", statuses.len());
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

/// The short form of `tests/swap/load`.
#[test]
fn workers_are_promoted_swapped_killed_and_rolled_back_and_no_client_notices() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swap-load"));
    let output = command.args(["--rate", "60", "--seconds", "4"]).output().expect("it runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains(" 0 failed otherwise"), "{}", text(&output.stdout));
}

#[test]
fn what_is_wrong_with_a_shadow_or_a_swap_is_said_at_the_start() {
    for (table, key, said) in [
        ("swap]\nwatch = \"1s\"", "pools.models.swap.golden", "is missing"),
        ("swap]\ngolden = \"none.json\"", "pools.models.swap.golden", "can't be read"),
        ("swap]\ngolden = \"bad.json\"", "pools.models.swap.golden", "at /0 no path"),
        ("swap]\ngolden = \"golden.json\"\nmax_faults = 101", "pools.models.swap.max_faults", "from 0 to 100"),
        ("shadow]\nto = \"models\"\nshare = 1", "pools.models.shadow.to", "is the pool itself"),
        ("shadow]\nto = \"other\"", "pools.models.shadow.share", "is missing"),
        ("shadow]\nto = \"other\"\nshare = 0", "pools.models.shadow.share", "from 1 to 100"),
        ("shadow]\nto = \"other\"\nshare = 1\nmax_in_flight = 0", "pools.models.shadow.max_in_flight", "is 0"),
        ("shadow]\nto = \"other\"\nshare = 1\nmax_memory = \"1KiB\"", "pools.models.shadow.max_memory", "\"1MiB\""),
    ] {
        let pools = format!("[pools.other]\nworkers = [\"http://127.0.0.1:9\"]\n[pools.models.{table}\n");
        let builder = Gateway::builder().file("golden.json", golden());
        let output = builder.file("bad.json", r#"[{"path":"p","expect":{}}]"#).policy(pools).output("check");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.lines().any(|line| line.ends_with(&format!("  {key}"))) && text.contains(said), "{table}: {text}");
        assert_eq!(output.status.code(), Some(78));
    }
}
