//! A worker's answer is held to what its route declares: what differs is 502 and told in the log, and never passed on.

use harness::client::flower;
use harness::{Gate, Gateway, Recorder, Reply, Worker};
use serde_json::{Value, json};

const PREDICT: &str = r#"
[routes.predict.answer]
format = "predict"
max = "1KiB"
distribution = true
"#;

fn answer() -> Value {
    json!({ "label": "a", "probabilities": { "a": 0.75, "b": 0.25 }, "nodes": [1] })
}

fn replying(fields: &str, body: &Value) -> Reply {
    Reply::with(200, &format!("Content-Type: application/json\r\n{fields}"), body.to_string().as_bytes())
}

/// Holds an answer to be refused with 502, without a word of it, and told in the security record with what differed.
async fn assert_undeclared(gateway: &Gateway, sent: &harness::client::Answer, cause: &str) {
    sent.assert_problem(502, "answer-undeclared");
    assert!(!sent.text().contains("secret"), "{}", sent.text());
    let id = sent.request_id();
    let told = gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == id.as_str()).await;
    assert_eq!((&told["reason"], &told["cause"]), (&json!("answer-undeclared"), &json!(cause)), "{told}");
}

#[tokio::test]
async fn a_declared_answer_passes_as_it_is() {
    // Spelled as nobody here would spell it.
    let body = "{ \"label\":\"a\" , \"probabilities\": {\"a\": 7.50e-1,\"b\":0.250}, \"nodes\":[1] }";
    let reply = Reply::with(200, "Content-Type: application/json\r\nETag: \"1\"\r\n", body.as_bytes());
    let worker = Recorder::replying(reply);
    let gateway = Gateway::builder().worker(&worker).policy(PREDICT).start().await;
    for client in [gateway.client(), gateway.http2()] {
        let sent = client.predict("predictor").header("accept-encoding", "gzip").send().await;
        assert_eq!((sent.status, sent.text().as_str(), sent.header("etag").as_str()), (200, body, "\"1\""));
        assert!(
            worker.seen().iter().all(|seen| seen.headers("accept-encoding").is_empty()),
            "what is read has no coding"
        );
    }
}

#[tokio::test]
async fn what_differs_is_a_502_and_a_line_that_says_in_what() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut answer = answer();
        change(&mut answer);
        replying("", &answer)
    };
    for (reply, cause) in [
        (Reply::with(200, "Content-Type: text/html\r\n", b"<secret>"), "its media type is not application/json"),
        (Reply::with(200, "", answer().to_string().as_bytes()), "its media type is not application/json"),
        (replying("Content-Encoding: gzip\r\n", &answer()), "it has a coding that was not asked for"),
        (Reply::with(204, "", b""), "it is a part, or has no content"),
        (with(&|it| it["label"] = json!("secret".repeat(200))), "it is longer than 1024 octets"),
        (
            Reply::raw(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
                "x".repeat(2000)
            )),
            "it is longer than 1024 octets",
        ),
        (replying("", &json!("secret")), "it is not one JSON object"),
        (with(&|it| it["label"] = json!({ "secret": 1 })), "it has a label that is no text and no whole number"),
        (with(&|it| it["probabilities"]["a"] = json!(1.5)), "it has probabilities that are not from 0 to 1"),
        (with(&|it| it["probabilities"]["a"] = json!(0.5)), "it has a row of probabilities whose sum is not 1"),
        (replying("", &json!({ "predictions": [answer(), answer()] })), "it has 2 predictions for 1 rows"),
        (
            Reply::with(200, "Content-Type: application/json\r\n", b"{\"label\":\"secret\",\"label\":1}"),
            "it is not JSON that can be taken: duplicate_member",
        ),
    ] {
        let worker = Recorder::replying(reply);
        let gateway = Gateway::builder().worker(&worker).policy(PREDICT).start().await;
        let sent = gateway.client().predict("predictor").send().await;
        assert_undeclared(&gateway, &sent, cause).await;
        assert!(!gateway.log().text().contains("secret"), "no word of it is in the log");
        assert_eq!(worker.seen().len(), 1, "it is not asked twice");
    }
}

#[tokio::test]
async fn each_row_has_one_prediction() {
    let rows = |count: usize| Value::from(vec![flower(); count]);
    let worker = Recorder::replying(replying("", &json!({ "predictions": [answer(), answer()] })));
    let gateway = Gateway::builder().worker(&worker).policy(PREDICT).start().await;
    let ask = async |body: &Value| gateway.client().post("/predict").key("predictor").json(body).send().await;
    assert_eq!(ask(&rows(2)).await.status, 200);
    assert_undeclared(&gateway, &ask(&rows(3)).await, "it has 2 predictions for 3 rows").await;
}

#[tokio::test]
async fn a_clients_fault_is_told_as_the_worker_told_it() {
    let worker = Recorder::replying(Reply::with(400, "Content-Type: text/plain\r\n", b"three features, not four"));
    let gateway = Gateway::builder().worker(&worker).policy(PREDICT).start().await;
    let sent = gateway.client().predict("predictor").send().await;
    assert_eq!((sent.status, sent.text().as_str()), (400, "three features, not four"));
}

#[tokio::test]
async fn what_is_shaped_is_held_to_its_declaration_first() {
    let policy = format!(
        "{PREDICT}[answers.public]\nform = \"predict\"\nshow = \"label\"\n[routes.predict]\nanswers = \"public\"\n"
    );
    let broken = json!({ "label": "a", "probabilities": { "a": 0.1 } });
    let worker = Recorder::scripted(move |count, _| replying("", &if count == 0 { answer() } else { broken.clone() }));
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let sent = gateway.client().predict("predictor").send().await;
    assert_eq!((sent.status, sent.json()), (200, json!({ "label": "a" })));
    let sent = gateway.client().predict("predictor").send().await;
    assert_undeclared(&gateway, &sent, "it has a row of probabilities whose sum is not 1").await;
}

const STREAM: &str = r#"
[routes.models.answer]
format = "opaque"
content_types = ["text/event-stream"]
max = "64B"
"#;

/// The head of a stream, of this type.
fn stream(media_type: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n")
}

#[tokio::test]
async fn a_stream_goes_on_streaming_and_breaks_off_at_its_bound() {
    let gate = Gate::default();
    let event = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let first = stream("text/event-stream; charset=utf-8") + &event("data: first\n\n");
    // 12 octets have passed, and 52 may.
    let (full, over) = (event(&"y".repeat(51)), event("zz"));
    let worker = Recorder::replying(Reply::raw(first).wait(&gate).write(full).write(over).write("0\r\n\r\n"));
    let gateway = Gateway::builder().worker(&worker).policy(STREAM).start().await;
    let mut wire = harness::Wire::open(&gateway.client()).await;
    let key = harness::identity::key("reader");
    wire.send(format!("GET /models HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n")).await;
    let head = wire.until("data: first").await;
    assert!(head.starts_with("HTTP/1.1 200"), "it is there before the worker goes on: {head}");
    gate.open();
    let rest = wire.rest().await;
    assert!(!rest.contains("0\r\n\r\n"), "the answer's end is not claimed: {rest:?}");
    assert!(!rest.contains('z'), "nothing beyond the bound passes: {rest:?}");
    let told = gateway.log().wait_for(|line| line["log"] == "security" && line["status"] == 200).await;
    assert_eq!((&told["reason"], &told["cause"]), (&json!("answer-undeclared"), &json!("it is longer than 64 octets")));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_taken_for_a_whole_one() {
    let long = stream("text/event-stream") + "64\r\n" + &"x".repeat(100) + "\r\n0\r\n\r\n";
    let worker = Recorder::replying(Reply::raw(long));
    let gateway = Gateway::builder().worker(&worker).policy(STREAM).start().await;
    for client in [gateway.client(), gateway.http2()] {
        assert!(client.get("/models").key("reader").try_send().await.is_err(), "it ends as a broken one");
    }
    let whole = stream("text/event-stream") + "40\r\n" + &"x".repeat(64) + "\r\n0\r\n\r\n";
    let worker = Recorder::replying(Reply::raw(whole));
    let gateway = Gateway::builder().worker(&worker).policy(STREAM).start().await;
    for client in [gateway.client(), gateway.http2()] {
        assert_eq!(client.get("/models").key("reader").send().await.body.len(), 64);
    }
}

#[tokio::test]
async fn what_passes_unread_has_its_type_and_its_announced_length_judged_before_its_head() {
    for (reply, cause) in [
        (Reply::raw(stream("text/html") + "6\r\nsecret\r\n0\r\n\r\n"), "its media type is not text/event-stream"),
        (
            Reply::with(200, "Content-Type: text/event-stream\r\n", "secret".repeat(20).as_bytes()),
            "it is longer than 64 octets",
        ),
    ] {
        let worker = Recorder::replying(reply);
        let gateway = Gateway::builder().worker(&worker).policy(STREAM).start().await;
        for client in [gateway.client(), gateway.http2()] {
            let sent = client.get("/models").key("reader").send().await;
            assert_undeclared(&gateway, &sent, cause).await;
        }
    }
    // A coding is the client's to undo, where nobody reads it here.
    let coded = Reply::with(200, "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n", b"\x1f\x8b");
    let worker = Recorder::replying(coded);
    let gateway = Gateway::builder().worker(&worker).policy(STREAM).start().await;
    let sent = gateway.client().get("/models").key("reader").header("accept-encoding", "gzip").send().await;
    assert_eq!((sent.status, &*sent.body), (200, &b"\x1f\x8b"[..]));
    assert_eq!(worker.only().header("accept-encoding").as_deref(), Some("gzip"));
}

const INFER: &str = r#"
[routes.infer]
path = "/v2/models/{model}/infer"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
body = { format = "oip-v2" }
answer = { format = "oip-v2", distribution = true }
"#;

fn rows(extra: &Value) -> Value {
    let mut request = json!({ "inputs": [{ "name": "features", "datatype": "FP64", "shape": [2, 4], "data": [5.1, 3.5, 1.4, 0.2, 6.0, 2.9, 4.6, 1.6] }] });
    if let (Some(request), Some(extra)) = (request.as_object_mut(), extra.as_object()) {
        request.extend(extra.clone());
    }
    request
}

#[tokio::test]
async fn our_worker_answers_as_declared_in_json_and_octets() {
    let worker = Worker::start().await;
    let gateway = Gateway::builder().worker(&worker).policy(INFER).start().await;
    for extra in [
        json!({}),
        json!({ "id": "7", "outputs": [{ "name": "probabilities" }] }),
        json!({ "parameters": { "binary_data_output": true } }),
    ] {
        let sent = gateway.client().post("/v2/models/iris/infer").key("reader").json(&rows(&extra)).send().await;
        assert_eq!(sent.status, 200, "{extra} {}", sent.text());
    }
}

#[tokio::test]
async fn tensors_that_were_not_asked_for_or_hold_another_number_of_values_do_not_pass() {
    let output = json!({ "name": "leaf", "datatype": "INT64", "shape": [2], "data": [1, 2] });
    let octets = json!({ "outputs": [{ "name": "leaf", "datatype": "INT64", "shape": [2], "parameters": { "binary_data_size": 16 } }] }).to_string();
    let binary = |count: usize| {
        let body = [octets.as_bytes(), &vec![0; count]].concat();
        let fields =
            format!("Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {}\r\n", octets.len());
        Reply::with(200, &fields, &body)
    };
    let short = json!({ "name": "leaf", "datatype": "INT64", "shape": [3], "data": [1, 2] });
    let named = json!({ "outputs": [{ "name": "label" }] });
    for (extra, reply, cause) in [
        (json!({}), replying("", &json!({ "outputs": [output] })), ""),
        (json!({}), binary(16), ""),
        (json!({}), binary(24), "\"\" 8 octets behind the JSON belong to no output"),
        (
            json!({}),
            binary(8),
            "\"/outputs/0/parameters/binary_data_size\" is more than follows the JSON, or no number",
        ),
        (
            json!({}),
            replying("", &json!({ "outputs": [short] })),
            "\"/outputs/0/data\" has 2 values, and the shape says 3",
        ),
        (named, replying("", &json!({ "outputs": [output] })), "\"/outputs/0\" was not asked for"),
        (json!({ "id": "1" }), replying("", &json!({ "id": "2", "outputs": [output] })), "its id is another request's"),
    ] {
        let worker = Recorder::replying(reply);
        let gateway = Gateway::builder().worker(&worker).policy(INFER).start().await;
        let sent = gateway.client().post("/v2/models/iris/infer").key("reader").json(&rows(&extra)).send().await;
        if cause.is_empty() {
            assert_eq!(sent.status, 200, "{}", sent.text());
        } else {
            assert_undeclared(&gateway, &sent, cause).await;
        }
    }
}
