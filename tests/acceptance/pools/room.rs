//! Room for requests at a worker, and what is tried again.

use harness::{Recorder, Reply};
use serde_json::json;

use super::{ask, before, count};
use crate::admin::number;

#[tokio::test]
async fn where_all_places_are_taken_and_as_many_wait_as_may_the_next_is_refused_at_once() {
    let workers = [(); 2].map(|()| Recorder::replying(Reply::never()));
    let pool = "max_connections = 1\nmax_waiting = 1\nconnect_timeout = \"1h\"\nanswer_timeout = \"1h\"\n";
    let gateway = before(&workers.each_ref(), pool).await;
    let connection = gateway.http2().connect().await;
    let mut asked = tokio::task::JoinSet::new();
    let mut begin = || {
        let (mut connection, request) = (connection.beside(), gateway.http2().get("/open"));
        asked.spawn(async move { connection.send(request).await });
    };
    begin();
    begin();
    for worker in &workers {
        worker.wait_for_requests(1).await;
    }
    // Of three more, two wait, and one has its answer at once.
    begin();
    begin();
    begin();
    let answer = asked.join_next().await.expect("they were sent").expect("no panic");
    answer.assert_problem(503, "worker-busy");
    assert_eq!(answer.header("retry-after"), "1");
    let record = gateway.log().access(&answer.request_id()).await;
    assert!(record["cause"].as_str().is_some_and(|cause| cause.contains("max_waiting")), "{record}");
    assert_eq!(number(&gateway, "modelgate_pool_full_total{pool=\"models\"}").await.as_deref(), Some("1"));
    assert_eq!([count(&workers[0]), count(&workers[1])], [1, 1]);
    asked.abort_all();
}

#[tokio::test]
async fn a_reload_that_leaves_a_pool_alone_keeps_its_places_and_connections() {
    let held = Recorder::scripted(|number, _| if number == 1 { Reply::never() } else { Reply::json(&json!({})) });
    let pool = "max_connections = 1\nmax_waiting = 0\nconnect_timeout = \"1h\"\nanswer_timeout = \"1h\"\n";
    let gateway = before(&[&held], pool).await;
    assert_eq!(ask(&gateway, 1).await, [200]);
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    let waits = tokio::spawn(gateway.client().get("/open").send());
    held.wait_for_requests(2).await;
    assert_eq!(held.connections(), 1, "the kept connection serves on");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    // The one place is taken, whichever policy it was taken under.
    gateway.client().get("/open").send().await.assert_problem(503, "worker-busy");
    assert_eq!(count(&held), 2);
    // Another bound is another pool.
    let file = gateway.directory().join("3.toml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(&file, text.replace("max_connections = 1", "max_connections = 2")).expect("it can be written");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    waits.abort();
}

#[tokio::test]
async fn workers_are_told_how_long_they_are_waited_for() {
    let worker = Recorder::start();
    for (pool, told) in
        [("", Some("10000")), ("answer_timeout = \"1500ms\"\n", Some("1500")), ("tell_timeout = false\n", None)]
    {
        let gateway = before(&[&worker], pool).await;
        let before = worker.seen().len();
        let request = gateway.client().predict("predictor").header("x-modelgate-timeout", "1");
        assert_eq!(request.send().await.status, 200);
        let upload =
            gateway.client().post("/upload").key("predictor").header("content-type", "application/octet-stream");
        assert_eq!(upload.body("octets").send().await.status, 200);
        let seen = worker.seen();
        assert_eq!(seen[before].headers("x-modelgate-timeout"), told.map_or(Vec::new(), |told| vec![told.to_owned()]));
        // Of a body that comes bit by bit nobody knows when it ends.
        assert!(seen[before + 1].headers("x-modelgate-timeout").is_empty());
    }
}

#[tokio::test]
async fn what_a_worker_may_have_processed_is_never_sent_to_another() {
    let (bad, good) = (Recorder::replying(Reply::early().read_body().close()), Recorder::start());
    let gateway = before(&[&bad, &good], "[pools.models.health]\npassive = false\nactive = false\n").await;
    let statuses = ask(&gateway, 60).await;
    assert_eq!(count(&bad) + count(&good), 60, "each was sent once");
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), count(&bad));
    assert!(count(&bad) > 0);
}

#[tokio::test]
async fn requests_are_tried_again_within_a_budget_alone() {
    let (dead, good) = (Recorder::refusing(), Recorder::start());
    let never = "max_retry_share = 0\nmin_retries = 0\n[pools.models.health]\npassive = false\nactive = false\n";
    let gateway = before(&[&dead, &good], never).await;
    let statuses = ask(&gateway, 60).await;
    let failed = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(failed + count(&good), 60);
    let refused = number(&gateway, "modelgate_pool_retries_refused_total{pool=\"models\"}").await;
    assert_eq!(refused, Some(failed.to_string()));
    assert!(failed > 0);

    let good = Recorder::start();
    let always = "max_retry_share = 100\n[pools.models.health]\npassive = false\nactive = false\n";
    let gateway = before(&[&dead, &good], always).await;
    assert_eq!(ask(&gateway, 60).await, [200; 60]);
    assert_eq!(count(&good), 60);
    let retried = number(&gateway, "modelgate_pool_retries_total{pool=\"models\"}").await.expect("it is counted");
    assert_ne!(retried, "0");
}
