//! The workers of a candidate in the place of a pool's own: tested, watched and rolled back as after a swap.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::wire::plain;
use harness::{Gateway, GatewayBuilder, Recorder, Reply, Upstream as _, eventually};
use serde_json::{Value, json};

use super::{ONE_THREAD, count, run};

fn says(name: &str, label: &str) -> Reply {
    Reply::json(&json!({ "label": label, "probabilities": { "setosa": 0.9 }, "worker": name }))
}

fn worker(name: &'static str) -> Recorder {
    Recorder::replying(says(name, "setosa"))
}

/// Whoever sends `X-Canary: yes` meets the candidate. `more` follows in `[pools.models.swap]`.
fn builder(live: &Recorder, candidate: &Recorder, more: &str) -> GatewayBuilder {
    let golden = json!([{ "path": "/models", "expect": { "label": "setosa" } }]).to_string();
    let pools = format!(
        "[pools.candidate]\nworkers = [{:?}]\n[pools.models.canary]\nto = \"candidate\"\nheader = \"X-Canary: yes\"\n\
         [pools.models.swap]\ngolden = \"golden.json\"\n{more}",
        candidate.url()
    );
    Gateway::builder().worker(live).policy(ONE_THREAD).policy(pools).file("golden.json", golden)
}

const SHADOW: &str = "[pools.models.shadow]\nto = \"candidate\"\nshare = 100\n";

/// The worker that answers, null where none does, and the pool.
async fn meets(gateway: &Gateway, canary: &str) -> (Value, Value) {
    let answer = gateway.client().get("/open").header("x-canary", canary).send().await;
    let record = gateway.log().access(&answer.request_id()).await;
    (answer.json()["worker"].clone(), record["pool"].clone())
}

fn by(worker: &str, pool: &str) -> (Value, Value) {
    (json!(worker), json!(pool))
}

#[tokio::test]
async fn the_candidates_workers_take_every_request_and_the_canary_ends_until_the_files_say_otherwise() {
    let (live, candidate) = (worker("live"), worker("candidate"));
    let gateway = builder(&live, &candidate, "watch = \"100ms\"\n").policy("").start().await;
    assert_eq!(
        (meets(&gateway, "no").await, meets(&gateway, "yes").await),
        (by("live", "models"), by("candidate", "candidate"))
    );
    let (code, said, complaint) = run(&gateway, &["pool", "promote", "models", "--canary", "--wait"]);
    assert_eq!(code, Some(0), "{complaint}");
    for part in ["now has every new request", "Its canary and its shadow rest", "and stay"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let told = gateway.log().event("pool-swapped").await;
    assert_eq!((&told["log"], &told["promoted"]), (&json!("security"), &json!("candidate")));
    for canary in ["no", "yes"] {
        assert_eq!(meets(&gateway, canary).await, by("candidate", "models"));
    }
    assert_eq!(plain(gateway.admin(), "GET", "/pools").await.json()["models"]["promoted"], "candidate");
    // Neither does a reload of what is there already bring the canary back.
    assert_eq!(run(&gateway, &["reload"]).0, Some(0));
    assert_eq!(meets(&gateway, "yes").await, by("candidate", "models"));
    // The files say who serves, and who is tried next.
    let next = worker("next");
    let files =
        format!("[pools.models]\nworkers = [{:?}]\n[pools.candidate]\nworkers = [{:?}]\n", candidate.url(), next.url());
    std::fs::write(gateway.directory().join("4.toml"), files).expect("it can be written");
    assert_eq!(run(&gateway, &["reload"]).0, Some(0));
    assert_eq!(
        (meets(&gateway, "no").await, meets(&gateway, "yes").await),
        (by("candidate", "models"), by("next", "candidate"))
    );
}

#[tokio::test]
async fn a_candidate_that_fails_once_it_serves_is_rolled_back_and_is_a_candidate_again() {
    let (live, well) = (worker("live"), Arc::new(AtomicBool::new(true)));
    let candidate = Recorder::scripted({
        let well = Arc::clone(&well);
        move |_, _| if well.load(Ordering::Relaxed) { says("candidate", "setosa") } else { Reply::with(500, "", b"no") }
    });
    let gateway = builder(&live, &candidate, "watch = \"1h\"\n").start().await;
    assert_eq!(run(&gateway, &["pool", "promote", "models"]).0, Some(0));
    assert_eq!(meets(&gateway, "no").await, by("candidate", "models"));
    well.store(false, Ordering::Relaxed);
    while meets(&gateway, "no").await.0.is_null() {}
    gateway.log().event("pool-swap-rolled-back").await;
    well.store(true, Ordering::Relaxed);
    assert_eq!(
        (meets(&gateway, "no").await, meets(&gateway, "yes").await),
        (by("live", "models"), by("candidate", "candidate"))
    );
    assert_eq!(plain(gateway.admin(), "GET", "/pools").await.json()["models"]["promoted"], Value::Null);
}

#[tokio::test]
async fn nobody_is_promoted_who_is_not_tried_or_not_good() {
    let (live, other) = (worker("live"), Recorder::replying(says("other", "virginica")));
    let two =
        format!("[pools.second]\nworkers = [{:?}]\n[pools.models.shadow]\nto = \"second\"\nshare = 1\n", live.url());
    let https = "[pools.candidate]\nworkers = [\"https://127.0.0.1:9\"]\nca = \"server.pem\"\n";
    for (more, words, complaint) in [
        ("", &["models"][..], "golden prediction 0 (GET /models): /label is \"virginica\", not \"setosa\""),
        ("", &["models", "--shadow"], "write [pools.models.shadow]"),
        ("", &["candidate"], "write [pools.candidate.canary] or [pools.candidate.shadow]"),
        (two.as_str(), &["models"], "say which with --canary or --shadow"),
        (https, &["models"], "no `ca`"),
    ] {
        let gateway = builder(&live, &other, "").policy(more).start().await;
        let (code, _, said) = run(&gateway, &[&["pool", "promote"], words].concat());
        assert_eq!(code, Some(1));
        assert!(said.contains("nothing was promoted") && said.contains(complaint), "{complaint} is not in\n{said}");
        assert_eq!(meets(&gateway, "no").await, by("live", "models"));
    }
    let open = "[pools.candidate]\nworkers = [\"http://127.0.0.1:9\"]\n[pools.models.canary]\nto = \"candidate\"\nweight = 0\n";
    let gateway = Gateway::builder().worker(&live).policy(open).start().await;
    let (code, _, said) = run(&gateway, &["pool", "promote", "models"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("write [pools.models.swap]"), "{said}");
}

#[tokio::test]
async fn what_copies_have_not_shown_keeps_the_candidate_out() {
    let live = worker("live");
    let candidate = Recorder::scripted(|number, seen| {
        let is_copy = seen.header("x-modelgate-shadow").is_some();
        says("candidate", if is_copy && number % 2 == 1 { "virginica" } else { "setosa" })
    });
    let gateway = builder(&live, &candidate, SHADOW).start().await;
    let copied = async |copies: u64| {
        for _ in 0..copies {
            assert_eq!(gateway.client().predict("predictor").send().await.status, 200);
            let copies = count(&live) as u64;
            eventually("the copy is counted", async || {
                let report = plain(gateway.admin(), "GET", "/pools/models/compare").await.json();
                (report["copies"]["answered"] == copies).then_some(())
            })
            .await;
        }
    };
    copied(4).await;
    let (code, said, complaint) = run(&gateway, &["pool", "compare", "models", "--promote", "--max-distance", "0.1"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("2 of 4 (50.00 %)"), "{said}");
    for part in [
        "nothing was promoted, and the old workers go on",
        "4 answers were compared, and 100 are asked for",
        "2 of 4 labels are the same, and 99 % are asked for",
    ] {
        assert!(complaint.contains(part), "{part} is not in\n{complaint}");
    }
    assert!(!complaint.contains("apart") && !complaint.contains("copies failed"), "{complaint}");
    assert_eq!(meets(&gateway, "no").await, by("live", "models"));
    let low = ["--min-compared", "4", "--min-agreement", "50", "--max-distance", "0"];
    let (code, said, complaint) = run(&gateway, &[&["pool", "compare", "models", "--promote"], &low[..]].concat());
    assert_eq!(code, Some(0), "{complaint}");
    assert!(said.contains("now has every new request"), "{said}");
    assert_eq!(meets(&gateway, "no").await, by("candidate", "models"));
    // Nothing is copied any more, and the report is there to be read.
    let asked = count(&candidate);
    assert_eq!(gateway.client().predict("predictor").send().await.status, 200);
    assert_eq!(count(&candidate), asked + 1);
    let report = plain(gateway.admin(), "GET", "/pools/models/compare").await.json();
    assert_eq!((&report["copies"]["answered"], &report["promoted"]), (&json!(4), &json!(true)));
}
