//! Copies of requests for another pool, whose answers nobody is shown.

use harness::client::flower;
use harness::wire::plain;
use harness::{Answer, Gate, Gateway, Recorder, Reply, Upstream as _, eventually};
use serde_json::{Value, json};

use super::{ONE_THREAD, count};
use crate::admin::number;

async fn before(live: &Recorder, candidate: &Recorder, more: &str) -> Gateway {
    let pool = format!(
        "[pools.candidate]\nworkers = [{:?}]\n[pools.models.shadow]\nto = \"candidate\"\nshare = 100\n{more}",
        candidate.url()
    );
    Gateway::builder().worker(live).policy(ONE_THREAD).policy(pool).start().await
}

async fn predict(gateway: &Gateway) -> Answer {
    gateway.client().predict("predictor").send().await
}

/// The report, once so many copies are answered, failed or dropped.
async fn report(gateway: &Gateway, copies: u64) -> Value {
    eventually("the copies are counted", async || {
        let report = plain(gateway.admin(), "GET", "/pools/models/compare").await.json();
        let sum: u64 = ["answered", "failed", "dropped"].iter().filter_map(|of| report["copies"][of].as_u64()).sum();
        (sum == copies).then_some(report)
    })
    .await
}

fn says(label: &str, setosa: f64) -> Reply {
    Reply::json(&json!({ "label": label, "probabilities": { "setosa": setosa, "virginica": 1.0 - setosa } }))
}

#[tokio::test]
async fn a_copy_goes_to_the_candidate_and_its_answer_to_nobody() {
    let (live, candidate) = (Recorder::replying(says("setosa", 0.75)), Recorder::replying(says("virginica", 0.25)));
    let gateway = before(&live, &candidate, "").await;
    let answer = predict(&gateway).await;
    assert_eq!((answer.status, &answer.json()["label"]), (200, &json!("setosa")));
    // By then it was read whole.
    let report = report(&gateway, 1).await;
    let (sent, copied) = (live.only(), candidate.only());
    assert_eq!((copied.line(), copied.json()), (sent.line(), flower()));
    for name in ["x-modelgate-principal", "x-modelgate-roles", "x-request-id", "content-type"] {
        assert_eq!(copied.header(name), sent.header(name), "{name}");
    }
    assert_eq!(
        (copied.header("x-modelgate-shadow").as_deref(), sent.header("x-modelgate-shadow")),
        (Some("yes"), None)
    );
    assert_eq!((copied.header("x-api-key"), copied.header("authorization")), (None, None));
    assert_eq!(report["copies"], json!({ "answered": 1, "failed": 0, "dropped": 0 }));
    assert_eq!((&report["same_status"], &report["compared"]), (&json!(1), &json!(1)));
    assert_eq!(report["labels"], json!({ "compared": 1, "same": 0, "share": 0.0 }));
    assert_eq!(report["probabilities"]["largest_difference"], 0.5);
    assert!(report["latency"]["candidate"]["p99_ms"].as_f64().is_some_and(|took| took > 0.0), "{report}");
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!((&record["pool"], &record["worker"]), (&json!("models"), &json!(live.address().to_string())));
}

#[tokio::test]
async fn a_candidate_that_never_answers_slows_nobody_and_gets_so_many_copies() {
    let gate = Gate::default();
    let stuck = {
        let gate = gate.clone();
        Recorder::scripted(move |_, _| Reply::early().read_body().wait(&gate).write("HTTP/1.1 204 No\r\n\r\n"))
    };
    let live = Recorder::start();
    let gateway = before(&live, &stuck, "max_in_flight = 2\n").await;
    for _ in 0..10 {
        assert_eq!(predict(&gateway).await.status, 200);
    }
    stuck.wait_for_requests(2).await;
    let dropped = "modelgate_shadow_copies_total{pool=\"models\",to=\"candidate\",outcome=\"dropped\"}";
    assert_eq!(number(&gateway, dropped).await.as_deref(), Some("8"));
    assert_eq!(count(&stuck), 2);
    gate.open();
    let report = report(&gateway, 10).await;
    assert_eq!(report["copies"], json!({ "answered": 2, "failed": 0, "dropped": 8 }));
    assert_eq!(report["same_status"], 0, "200 is not 204");
}

#[tokio::test]
async fn what_copies_hold_is_bounded_too() {
    let (live, candidate) = (Recorder::start(), Recorder::replying(Reply::never()));
    let gateway = before(&live, &candidate, "max_memory = \"1100KiB\"\n").await;
    for _ in 0..5 {
        assert_eq!(predict(&gateway).await.status, 200);
    }
    candidate.wait_for_requests(2).await;
    assert_eq!(count(&candidate), 2, "two answers of 256 KiB are provided for in each");
}

#[tokio::test]
async fn a_candidate_that_fails_is_counted_and_not_felt() {
    let (live, broken) = (Recorder::start(), Recorder::replying(Reply::with(500, "", b"no")));
    let gateway = before(&live, &broken, "").await;
    for _ in 0..5 {
        assert_eq!(predict(&gateway).await.status, 200);
    }
    assert_eq!(report(&gateway, 5).await["copies"], json!({ "answered": 0, "failed": 5, "dropped": 0 }));
}

#[tokio::test]
async fn what_has_no_body_of_json_and_what_failed_is_not_copied() {
    let (live, candidate) = (
        Recorder::scripted(|number, _| if number == 2 { Reply::with(500, "", b"no") } else { says("setosa", 1.0) }),
        Recorder::start(),
    );
    let gateway = before(&live, &candidate, "").await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    let opaque = gateway.client().post("/upload").key("predictor").header("content-type", "application/octet-stream");
    assert_eq!(opaque.body("{}").send().await.status, 200);
    assert_eq!(predict(&gateway).await.status, 502);
    assert_eq!(gateway.client().post("/predict").json(&flower()).send().await.status, 401);
    // The next one is, and comes alone.
    assert_eq!(predict(&gateway).await.status, 200);
    candidate.wait_for_requests(1).await;
    assert_eq!(report(&gateway, 1).await["copies"]["answered"], 1);
    assert_eq!(count(&candidate), 1);
}

#[tokio::test]
async fn answers_over_http2_and_answers_that_are_shaped_are_compared_as_the_worker_gave_them() {
    let (live, candidate) = (Recorder::replying(says("setosa", 0.75)), Recorder::replying(says("setosa", 0.5)));
    let shaped = "[answers.short]\nform = \"predict\"\nshow = \"label\"\n[routes.predict]\nanswers = \"short\"\n";
    let gateway = before(&live, &candidate, shaped).await;
    let answer = gateway.http2().predict("predictor").send().await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "label": "setosa" })));
    let report = report(&gateway, 1).await;
    assert_eq!((&report["labels"]["same"], &report["probabilities"]["largest_difference"]), (&json!(1), &json!(0.25)));
}

#[tokio::test]
async fn the_report_is_printed_and_outlives_a_reload() {
    let (live, candidate) = (Recorder::replying(says("setosa", 0.75)), Recorder::replying(says("setosa", 0.5)));
    let gateway = before(&live, &candidate, "").await;
    assert_eq!(predict(&gateway).await.status, 200);
    report(&gateway, 1).await;
    let run = |words: &[&str]| super::run(&gateway, words);
    assert_eq!(run(&["reload"]).0, Some(0));
    let (code, table, _) = run(&["pool", "compare", "models"]);
    assert_eq!(code, Some(0));
    for part in ["models", "candidate", "1 of 1 (100.00 %)", "0.250", "answer begins, p99"] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    let (_, json, _) = run(&["pool", "compare", "models", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON")["copies"]["answered"], 1);
    // What was found of one worker says nothing of another.
    let other = Recorder::start();
    let text = std::fs::read_to_string(gateway.directory().join("3.toml")).expect("it is there");
    let text = text.replace(&candidate.url(), &other.url());
    std::fs::write(gateway.directory().join("3.toml"), text).expect("it can be written");
    assert_eq!(run(&["reload"]).0, Some(0));
    assert_eq!(report(&gateway, 0).await["copies"]["answered"], 0);
    let (code, _, complaint) = run(&["pool", "compare", "candidate"]);
    assert_eq!(code, Some(69));
    assert!(complaint.contains("[pools.candidate.shadow]"), "{complaint}");
}
