//! Costs that the worker's answer names: a reserve first, and what it was in truth afterwards.

use harness::{Gate, Reply, Seen, Wire, eventually};
use serde_json::Value;

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    an_answer_settles_what_was_reserved
    the_last_event_of_a_stream_settles_too
    an_answer_without_the_number_keeps_the_reserve
    a_reserve_counts_while_the_answer_is_awaited
    no_number_in_an_answer_is_too_large_to_be_counted
    a_client_that_leaves_pays_the_reserve
    a_client_can_not_hide_the_number_by_a_coding
}

const LIMIT: &str = "quota = 1000\ncost = \"answer\"\nanswer_at = \"/usage/total_tokens\"\nreserve = 100";

fn policy(rest: &str) -> String {
    limit("tokens", &format!("{LIMIT}\n{rest}")) + &any_json("[\"tokens\"]")
}

/// A worker that answers as its request says: `{"answer": ...}` in JSON, `{"events": [...]}` as a stream.
fn worker() -> Recorder {
    // The body is read after the head was told; the script takes what it answers from a header.
    Recorder::scripted(|_, seen: &Seen| {
        let wanted: Value = serde_json::from_str(&seen.header("x-answer").unwrap_or_default()).unwrap_or_default();
        let Some(events) = wanted["events"].as_array() else { return Reply::json(&wanted) };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        events
            .iter()
            .fold(Reply::raw(head), |reply, event| {
                let text = format!("data: {}\n\n", event.as_str().map_or_else(|| event.to_string(), str::to_owned));
                // Cut in the middle, as a network may.
                let (first, second) = text.split_at(text.len() / 2);
                [first, second].iter().fold(reply, |reply, part| reply.write(format!("{:x}\r\n{part}\r\n", part.len())))
            })
            .write("0\r\n\r\n")
    })
}

async fn ask(gateway: &Gateway, answer: &Value) -> Answer {
    let request = gateway.client().post("/any").key("predictor").json(&json!({}));
    request.header("x-answer", &answer.to_string()).send().await
}

/// Waits until so much is left: a settlement is on its way when the answer is there.
async fn assert_left(gateway: &Gateway, expected: u64) {
    // A request that names what it reserved changes nothing, once it is settled itself.
    let seen = std::cell::Cell::new(None);
    let found = eventually("the settlement", async || {
        let answer = ask(gateway, &json!({ "usage": { "total_tokens": 0 } })).await;
        seen.set(left(&answer, "x-answer-budget", "tokens"));
        (seen.get() == Some(expected - 100)).then_some(())
    });
    let found = tokio::time::timeout(Duration::from_secs(5), found).await;
    assert!(found.is_ok(), "{:?} is left in place of {expected}", seen.get().map(|left| left + 100));
}

async fn an_answer_settles_what_was_reserved(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy("")).await;
    let first = ask(&gateway, &json!({ "usage": { "total_tokens": 30 }, "text": "x" })).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-answer-budget"), "\"tokens\";q=1000;w=60;r=900;t=60");
    assert_eq!((first.header("ratelimit"), first.header("ratelimit-policy")), (String::new(), String::new()));
    assert_left(&gateway, 970).await;
    // More than was reserved, and more than there is.
    assert_eq!(ask(&gateway, &json!({ "usage": { "total_tokens": 270 } })).await.status, 200);
    assert_left(&gateway, 700).await;
    assert_eq!(ask(&gateway, &json!({ "usage": { "total_tokens": 5000 } })).await.status, 200);
    eventually("the debt is seen", async || (ask(&gateway, &json!({})).await.status == 429).then_some(())).await;
    let refused = ask(&gateway, &json!({})).await;
    assert_limited(&refused, &["tokens"]);
    assert_eq!(left(&refused, "x-answer-budget", "tokens"), Some(0));
    let other = gateway.client().post("/any").key("second").json(&json!({})).send().await;
    assert_eq!((other.status, left(&other, "x-answer-budget", "tokens")), (200, Some(900)));
}

async fn the_last_event_of_a_stream_settles_too(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy("")).await;
    let usage = |tokens: u64| json!({ "choices": [], "usage": { "total_tokens": tokens } });
    let answer = ask(&gateway, &json!({ "events": [{ "choices": ["a"] }, usage(3), usage(250), "[DONE]"] })).await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    assert_left(&gateway, 750).await;
    assert_eq!(ask(&gateway, &json!({ "events": [usage(50)] })).await.status, 200);
    assert_left(&gateway, 700).await;
}

async fn an_answer_without_the_number_keeps_the_reserve(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy("")).await;
    let mut rest = 1000;
    for answer in [
        json!({}),
        json!({ "usage": { "total_tokens": null } }),
        json!({ "usage": { "total_tokens": "7" } }),
        json!({ "usage": { "total_tokens": -7 } }),
        json!({ "events": [{ "choices": [] }, "[DONE]"] }),
    ] {
        assert_eq!(ask(&gateway, &answer).await.status, 200);
        rest -= 100;
        assert_left(&gateway, rest).await;
    }
}

async fn a_reserve_counts_while_the_answer_is_awaited(store: Store) {
    let gate = Gate::default();
    let reply = Reply::early()
        .read_body()
        .wait(&gate)
        .write("HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n{\"usage\":{\"total_tokens\":    1}}");
    let worker = Recorder::replying(reply);
    let gateway = store.start(&worker, &policy("")).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..10 {
        asked.spawn(gateway.client().post("/any").key("predictor").json(&json!({})).send());
    }
    worker.wait_for_requests(10).await;
    let refused = gateway.client().post("/any").key("predictor").json(&json!({})).send().await;
    assert_limited(&refused, &["tokens"]);
    gate.open();
    for answer in asked.join_all().await {
        assert_eq!(answer.status, 200);
    }
    // Ten tokens in place of a thousand: nobody remembers the refusal.
    let again = eventually("the reserves are given back", async || {
        let answer = gateway.client().post("/any").key("predictor").json(&json!({})).send().await;
        (answer.status == 200 && left(&answer, "x-answer-budget", "tokens") > Some(700)).then_some(answer)
    })
    .await;
    assert!(left(&again, "x-answer-budget", "tokens") <= Some(890), "{}", again.header("x-answer-budget"));
}

async fn no_number_in_an_answer_is_too_large_to_be_counted(store: Store) {
    for tokens in [(1_u64 << 48) + 100, 1 << 63, u64::MAX] {
        let worker = worker();
        let gateway = store
            .start(&worker, &policy(&format!("by = [\"principal\", \"route\"]\nwindow = \"{}s\"", 50 + tokens % 7)))
            .await;
        for _ in 0..2 {
            let answer = ask(&gateway, &json!({ "usage": { "total_tokens": tokens } })).await;
            assert!([200, 429].contains(&answer.status));
        }
        eventually("the window is full", async || {
            (ask(&gateway, &json!({ "usage": { "total_tokens": 0 } })).await.status == 429).then_some(())
        })
        .await;
        if let Store::Redis(redis) = &store {
            redis.tell("FLUSHALL");
        }
    }
}

async fn a_client_that_leaves_pays_the_reserve(store: Store) {
    let worker = Recorder::scripted(|number, _| {
        if number == 0 { Reply::never() } else { Reply::json(&json!({ "usage": { "total_tokens": 0 } })) }
    });
    let gateway = store.start(&worker, &policy("")).await;
    let mut wire = Wire::open(&gateway.client()).await;
    let key = harness::identity::key("predictor");
    wire.send(format!("POST /any HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}")).await;
    worker.wait_for_requests(1).await;
    drop(wire);
    gateway.log().wait_for(|line| line["reason"] == "client-gone").await;
    assert_left(&gateway, 900).await;
}

/// Who asks for a coding would get an answer in which nobody here finds a number.
async fn a_client_can_not_hide_the_number_by_a_coding(store: Store) {
    let worker = worker();
    let gateway = store.start(&worker, &policy("")).await;
    let request = gateway.client().post("/any").key("predictor").json(&json!({})).header("accept-encoding", "gzip, br");
    assert_eq!(request.send().await.status, 200);
    let coding = worker.only().header("accept-encoding");
    assert!(coding.as_deref().is_none_or(|coding| coding == "identity"), "{coding:?}");
}
