//! Requests that cost more than others: rows, and the body's bytes.

use serde_json::{Value, json};

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    rows_are_counted_where_bodies_have_them
    rows_can_be_somewhere_else
    who_claims_fewer_rows_in_one_place_pays_for_the_other
    no_number_of_rows_is_too_large_to_be_counted
    a_request_that_is_dearer_than_the_quota_is_told_so
    bytes_are_counted
    a_dearer_request_waits_until_enough_has_left
    all_or_nothing_holds_for_costs
    refused_bodies_are_counted_too
    large_quotas_and_buckets_count_as_exactly
}

async fn rows_are_counted_where_bodies_have_them(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 5000\ncost = \"rows\"") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let thousand: Vec<u32> = (0..1000).collect();
    let mut expected = 5000;
    for (body, rows) in [
        (json!(thousand), 1000),
        (json!({ "instances": thousand }), 1000),
        (json!({ "inputs": [{ "name": "x", "shape": [1000, 1], "datatype": "FP32", "data": thousand }] }), 1000),
        (json!({ "inputs": thousand[..7] }), 7),
        (json!({ "inputs": "one text" }), 1),
        (json!({ "text": "one" }), 1),
        (json!([]), 1),
        (json!("text"), 1),
    ] {
        let answer = gateway.client().post("/any").key("predictor").json(&body).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        expected -= rows;
        let said = answer.header("x-row-budget");
        assert!(said.starts_with(&format!("\"rows\";q=5000;w=60;r={expected};t=")), "{body}: {said}");
        // No unit of theirs is registered there.
        assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (String::new(), String::new()));
    }
    // What is left is 1,989 rows: two thousand have no room, one thousand have.
    let two_thousand: Vec<u32> = (0..2000).collect();
    let refused = gateway.client().post("/any").key("predictor").json(&json!(two_thousand)).send().await;
    assert_limited(&refused, &["rows"]);
    assert_eq!(left(&refused, "x-row-budget", "rows"), Some(expected), "a refusal uses up nothing");
    assert_eq!(gateway.client().post("/any").key("predictor").json(&json!(thousand)).send().await.status, 200);
    assert_eq!(gateway.client().post("/any").key("second").json(&json!(two_thousand)).send().await.status, 200);
}

async fn rows_can_be_somewhere_else(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 10\ncost = \"rows\"\nrows_at = \"/batch/items\"") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    for (body, rest) in [
        (json!({ "batch": { "items": [1, 2, 3] } }), 7),
        (json!({ "batch": { "items": 3 } }), 6),
        (json!([1, 2, 3, 4]), 5),
        (json!({ "batch": { "items": [] } }), 4),
    ] {
        let answer = gateway.client().post("/any").key("predictor").json(&body).send().await;
        assert_eq!((answer.status, left(&answer, "x-row-budget", "rows")), (200, Some(rest)), "{body}");
    }
}

async fn who_claims_fewer_rows_in_one_place_pays_for_the_other(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 100\ncost = \"rows\"") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let tensor = |rows: u32| json!({ "name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [] });
    for (body, rest) in [
        // A worker that speaks one protocol does not look at the other's member.
        (json!({ "instances": [1], "inputs": [tensor(20)] }), 80),
        (json!({ "instances": [1, 2, 3], "inputs": [tensor(1)] }), 77),
        // Nor at a tensor that is none.
        (json!({ "inputs": [tensor(20), { "name": "y" }] }), 57),
    ] {
        let answer = gateway.client().post("/any").key("predictor").json(&body).send().await;
        assert_eq!((answer.status, left(&answer, "x-row-budget", "rows")), (200, Some(rest)), "{body}");
    }
}

async fn no_number_of_rows_is_too_large_to_be_counted(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 100\ncost = \"rows\"") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    for rows in [1_u64 << 47, 1 << 48, (1 << 48) + 1, 1 << 63, u64::MAX] {
        let body = json!({ "inputs": [{ "name": "x", "shape": [rows, 4], "datatype": "FP32", "data": [] }] });
        let answer = gateway.client().post("/any").key("predictor").json(&body).send().await;
        answer.assert_problem(413, "limit-too-small");
    }
    worker.assert_untouched();
}

async fn a_request_that_is_dearer_than_the_quota_is_told_so(store: Store) {
    let worker = Recorder::start();
    let policy =
        limit("rows", "quota = 10\ncost = \"rows\"") + &limit("each", "quota = 2") + &any_json("[\"each\", \"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let send = |rows: usize| gateway.client().post("/any").key("predictor").json(&json!(vec![0; rows])).send();
    for _ in 0..5 {
        let answer = send(11).await;
        answer.assert_problem(413, "limit-too-small");
        assert_eq!(answer.header("retry-after"), "", "no time makes room for it");
        let body = answer.json();
        assert_eq!(
            (&body["violated_policies"], &body["cost"], &body["quota"], &body["retry_after"]),
            (&json!(["rows"]), &json!(11), &json!(10), &Value::Null)
        );
        assert_eq!((left(&answer, "x-row-budget", "rows"), left(&answer, "ratelimit", "each")), (Some(10), Some(2)));
    }
    worker.assert_untouched();
    let answer = send(10).await;
    assert_eq!(
        (answer.status, left(&answer, "x-row-budget", "rows"), left(&answer, "ratelimit", "each")),
        (200, Some(0), Some(1))
    );
    // Where both are so, coming later is no use either.
    send(11).await.assert_problem(413, "limit-too-small");
}

async fn bytes_are_counted(store: Store) {
    let worker = Recorder::start();
    let policy = limit("bytes", "quota = 1000\ncost = \"bytes\"")
        + "[routes.upload]\nlimits = [\"bytes\"]\n"
        + &any_json("[\"bytes\"]");
    let gateway = store.start(&worker, &policy).await;
    let upload = |length: usize| {
        let request =
            gateway.client().post("/upload").key("predictor").header("content-type", "application/octet-stream");
        request.body(vec![0; length]).send()
    };
    let answer = upload(400).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("ratelimit-policy"), "\"bytes\";q=1000;w=60;qu=\"content-bytes\"");
    assert_eq!(answer.header("ratelimit"), "\"bytes\";r=600;t=60");
    assert_eq!(left(&upload(0).await, "ratelimit", "bytes"), Some(599), "nothing is free");
    assert_limited(&upload(600).await, &["bytes"]);
    // As they were sent, whatever is in them.
    let text = gateway.http2().post("/any").key("predictor").header("content-type", "application/json");
    let answer = text.body(format!("[1]{}", " ".repeat(96))).send().await;
    assert_eq!((answer.status, left(&answer, "ratelimit", "bytes")), (200, Some(500)), "{}", answer.text());
    let answer = upload(1001).await;
    answer.assert_problem(413, "limit-too-small");
    assert_eq!(answer.header("retry-after"), "");
    assert_eq!(worker.seen().len(), 3);
    assert_eq!(worker.seen()[0].body.len(), 400, "what was counted is passed on whole");
}

async fn a_dearer_request_waits_until_enough_has_left(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 10\nwindow = \"3s\"\ncost = \"rows\"") + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let send = |rows: usize| gateway.client().post("/any").key("predictor").json(&json!(vec![0; rows])).send();
    assert_eq!(send(4).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(send(5).await.status, 200);
    // One row has room, five have as soon as the first four are gone, seven when all are.
    let (five, seven) = (send(5).await, send(7).await);
    assert_limited(&five, &["rows"]);
    assert_limited(&seven, &["rows"]);
    assert!(retry_after(&five) < retry_after(&seven), "{:?} {:?}", retry_after(&five), retry_after(&seven));
    assert_eq!(retry_after(&seven), Duration::from_secs(3));
    tokio::time::sleep(retry_after(&five)).await;
    assert_eq!(send(5).await.status, 200, "who comes when the answer says is admitted");
    let seven = send(7).await;
    assert_limited(&seven, &["rows"]);
    tokio::time::sleep(retry_after(&seven)).await;
    assert_eq!(send(7).await.status, 200);
}

async fn all_or_nothing_holds_for_costs(store: Store) {
    let worker = Recorder::start();
    let limits = limit("rows", "quota = 10\ncost = \"rows\"")
        + &limit("bytes", "quota = 10000\ncost = \"bytes\"\nby = [\"address\"]")
        + &limit("each", "quota = 5");
    let gateway = store.start(&worker, &(limits + &any_json("[\"each\", \"rows\", \"bytes\"]"))).await;
    let send = |rows: usize| gateway.client().post("/any").key("predictor").json(&json!(vec![0; rows])).send();
    let first = send(8).await;
    let standing = |answer: &Answer| {
        ["each", "bytes"]
            .map(|name| left(answer, "ratelimit", name))
            .into_iter()
            .chain([left(answer, "x-row-budget", "rows")])
            .collect::<Vec<_>>()
    };
    assert_eq!(standing(&first), [Some(4), Some(10_000 - 17), Some(2)]);
    for _ in 0..3 {
        let refused = send(3).await;
        assert_limited(&refused, &["rows"]);
        if matches!(store, Store::Memory) {
            assert_eq!(standing(&refused), standing(&first));
        }
    }
    assert_eq!(standing(&send(2).await), [Some(3), Some(10_000 - 17 - 5), Some(0)]);
}

async fn refused_bodies_are_counted_too(store: Store) {
    let worker = Recorder::start();
    let policy =
        limit("each", "quota = 3") + &limit("rows", "quota = 100\ncost = \"rows\"") + &any_json("[\"each\", \"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let wrong =
        || gateway.client().post("/any").key("predictor").header("content-type", "application/json").body("{").send();
    for rest in [2, 1, 0] {
        let answer = wrong().await;
        answer.assert_problem(400, "body-malformed");
        assert_eq!(left(&answer, "ratelimit", "each"), Some(rest), "{:?}", answer.headers);
    }
    assert_limited(&wrong().await, &["each"]);
    assert_limited(&gateway.client().post("/any").key("predictor").json(&json!([1])).send().await, &["each"]);
    worker.assert_untouched();
}

async fn large_quotas_and_buckets_count_as_exactly(store: Store) {
    let worker = Recorder::start();
    let policy = limit("month", "quota = 1000000000000\nwindow = \"31d\"\ncost = \"rows\"")
        + &limit("coarse", "quota = 3\nform = \"buckets\"\nbuckets = 10\nwindow = \"1h\"")
        + &any_json("[\"month\", \"coarse\"]");
    let gateway = store.start(&worker, &policy).await;
    for count in 1..=3_u64 {
        let answer = gateway.client().post("/any").key("predictor").json(&json!(vec![0; 500])).send().await;
        assert_eq!(answer.status, 200);
        let rest = 1_000_000_000_000 - 500 * count;
        let said = answer.header("x-row-budget");
        assert!(said.starts_with(&format!("\"month\";q=1000000000000;w=2678400;r={rest};t=26784")), "{said}");
    }
    let refused = gateway.client().post("/any").key("predictor").json(&json!([1])).send().await;
    assert_limited(&refused, &["coarse"]);
    assert!((3590..=3600).contains(&retry_after(&refused).as_secs()), "{:?}", retry_after(&refused));
}
