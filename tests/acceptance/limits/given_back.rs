//! `give_back = true`: what the worker failed to serve costs nothing.

use harness::{Reply, Wire, eventually};

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    what_the_worker_failed_to_serve_is_given_back
    an_answer_that_breaks_off_is_given_back
    what_the_client_did_wrong_is_not_given_back
    a_client_that_leaves_gets_nothing_back
    nothing_is_lost_among_many_that_are_given_back
    rows_are_given_back_whole
    only_limits_that_say_so_give_back
}

const HASTE: &str = "[pools.models]\nanswer_timeout = \"200ms\"\nbody_timeout = \"200ms\"\n";

fn policy() -> String {
    limit("back", "quota = 3\ngive_back = true") + "[routes.known]\nlimits = [\"back\"]\n" + HASTE
}

async fn ask(gateway: &Gateway) -> Answer {
    gateway.client().get("/known").key("reader").send().await
}

/// Waits until a request has room that leaves so much.
async fn assert_left(gateway: &Gateway, expected: u64) {
    let seen = std::cell::Cell::new(None);
    let found = eventually("what is given back", async || {
        // From a principal's point of view nothing is cheaper than a refusal: a route that is too dear for it.
        let answer = gateway.client().get("/known").key("reader").header("x-fail", "503").send().await;
        seen.set(left(&answer, "ratelimit", "back").map(|left| left + u64::from(answer.status != 429)));
        (seen.get() == Some(expected)).then_some(())
    });
    let found = tokio::time::timeout(Duration::from_secs(5), found).await;
    assert!(found.is_ok(), "{:?} is left in place of {expected}", seen.get());
}

/// A worker that answers with the status that `X-Fail` says.
fn worker() -> Recorder {
    Recorder::scripted(|_, seen| match seen.header("x-fail").as_deref() {
        None => Reply::json(&json!({})),
        Some("never") => Reply::never(),
        Some("close") => Reply::early().read_body().close(),
        Some("broken") => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").close(),
        Some(status) => Reply::with(status.parse().unwrap_or(500), "", b"no"),
    })
}

async fn what_the_worker_failed_to_serve_is_given_back(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy()).await;
    for (fails, status) in [("500", 502), ("503", 503), ("never", 504), ("close", 502), ("599", 502)] {
        for _ in 0..2 {
            let answer = gateway.client().get("/known").key("reader").header("x-fail", fails).send().await;
            assert_eq!(answer.status, status, "{fails}: {}", answer.text());
        }
        assert_left(&gateway, 3).await;
    }
    for expected in [2, 1, 0] {
        assert_eq!(ask(&gateway).await.status, 200);
        assert_left(&gateway, expected).await;
    }
    assert_limited(&ask(&gateway).await, &["back"]);

    let nobody = Recorder::refusing();
    let elsewhere =
        store.start(&nobody, &policy().replace("limits.back", "limits.other").replace("\"back\"", "\"other\"")).await;
    for _ in 0..10 {
        // One may come before the one ahead of it was given back, three may not.
        elsewhere.client().get("/known").key("reader").send().await.assert_problem(503, "worker-unreachable");
    }
}

async fn an_answer_that_breaks_off_is_given_back(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy()).await;
    for _ in 0..5 {
        let broken = gateway.client().get("/known").key("reader").header("x-fail", "broken").try_send().await;
        assert!(broken.is_err(), "{broken:?}");
        assert_left(&gateway, 3).await;
    }
}

async fn what_the_client_did_wrong_is_not_given_back(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy()).await;
    for (expected, status) in [(2, "400"), (1, "404"), (0, "429")] {
        let answer = gateway.client().get("/known").key("reader").header("x-fail", status).send().await;
        assert_eq!(answer.status.to_string(), status);
        assert_left(&gateway, expected).await;
    }
    assert_limited(&ask(&gateway).await, &["back"]);
}

async fn a_client_that_leaves_gets_nothing_back(store: Store) {
    let worker = worker();
    let policy = policy().replace("200ms", "20s");
    let gateway = store.start(&worker, &policy).await;
    let mut wire = Wire::open(&gateway.client()).await;
    let key = harness::identity::key("reader");
    wire.send(format!("GET /known HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nX-Fail: never\r\n\r\n")).await;
    worker.wait_for_requests(1).await;
    drop(wire);
    gateway.log().wait_for(|line| line["reason"] == "client-gone").await;
    assert_left(&gateway, 2).await;
}

async fn nothing_is_lost_among_many_that_are_given_back(store: Store) {
    let worker = worker();
    let limits =
        limit("back", "quota = 5000\ngive_back = true\nby = [\"route\"]") + "[routes.known]\nlimits = [\"back\"]\n";
    let gateway = store.start(&worker, &limits).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut connection = gateway.http2().connect().await;
        let client = gateway.http2();
        clients.spawn(async move {
            for _ in 0..25 {
                let mut streams = tokio::task::JoinSet::new();
                for _ in 0..4 {
                    let (mut stream, request) =
                        (connection.beside(), client.get("/known").key("reader").header("x-fail", "500"));
                    streams.spawn(async move { stream.send(request).await.status });
                }
                assert_eq!(streams.join_all().await, [502; 4]);
            }
            connection.send(client.get("/known").key("reader").header("x-fail", "500")).await
        });
    }
    clients.join_all().await;
    assert_left(&gateway, 5000).await;
}

async fn rows_are_given_back_whole(store: Store) {
    let worker = worker();
    let policy = limit("rows", "quota = 100\ncost = \"rows\"\ngive_back = true") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let send = |rows: usize, fails: &'static str| {
        let request = gateway.client().post("/any").key("predictor").json(&json!(vec![0; rows]));
        request.header("x-fail", fails).send()
    };
    assert_eq!(send(30, "400").await.status, 400);
    for _ in 0..3 {
        eventually("seventy rows have room again", async || (send(70, "500").await.status == 502).then_some(())).await;
    }
    eventually("seventy rows are left", async || {
        (left(&send(1, "500").await, "x-row-budget", "rows") == Some(69)).then_some(())
    })
    .await;
}

async fn only_limits_that_say_so_give_back(store: Store) {
    let worker = worker();
    let policy = policy() + &limit("kept", "quota = 100") + "[routes.known]\nlimits = [\"back\", \"kept\"]\n";
    let policy = policy.replacen("[routes.known]\nlimits = [\"back\"]\n", "", 1);
    let gateway = store.start(&worker, &policy).await;
    for count in 1..=10 {
        let answer = eventually("room", async || {
            let answer = gateway.client().get("/known").key("reader").header("x-fail", "500").send().await;
            Some(answer).filter(|answer| answer.status == 502)
        })
        .await;
        assert_eq!(left(&answer, "ratelimit", "kept"), Some(100 - count));
    }
}
