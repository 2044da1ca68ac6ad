//! Bodies: type, size, JSON that reads in one way only, the schema, clean text; all of it before the worker.

use std::time::Duration;

use harness::client::flower;
use harness::identity::key;
use harness::wire::in_chunks;
use harness::{Answer, Gateway, Recorder, Request, Wire};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

fn predict(gateway: &Gateway, content_type: &str, body: impl Into<bytes::Bytes>) -> Request {
    gateway.client().post("/predict").key("predictor").header("content-type", content_type).body(body)
}

/// A head for `/predict`, without its last line.
fn head(extra: &str) -> String {
    let key = key("predictor");
    format!(
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n{extra}"
    )
}

/// A head that asks to be told before the body is sent.
fn expecting(path: &str, id: &str, content_type: &str, length: usize) -> String {
    let key = key(id);
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: {content_type}\r\n\
         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The members of each fault, in the order of their pointers.
fn faults(answer: &Answer) -> Vec<Value> {
    let mut faults = answer.json()["errors"].as_array().cloned().unwrap_or_default();
    faults.sort_by_key(|fault| fault["pointer"].to_string());
    faults
}

#[tokio::test]
async fn only_the_routes_media_type_is_taken() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let body = flower().to_string();
    for wrong in [
        "text/plain",
        "application/jsonx",
        "application/json, text/plain",
        "text/plain; x=application/json",
        "application/x-www-form-urlencoded",
        "application",
        "",
    ] {
        let answer = predict(&gateway, wrong, body.clone()).send().await;
        answer.assert_problem(415, "body-type");
        assert_eq!(answer.header("accept"), "application/json", "{wrong:?}");
    }
    for client in [gateway.client(), gateway.http2()] {
        let missing = client.post("/predict").key("predictor").body(body.clone()).send().await;
        missing.assert_problem(415, "body-type");
    }
    let twice = predict(&gateway, "application/json", body.clone()).header("content-type", "application/json");
    twice.send().await.assert_problem(415, "body-type");
    worker.assert_untouched();
    for right in ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;a=b"] {
        assert_eq!(predict(&gateway, right, body.clone()).send().await.status, 200, "{right}");
    }
    assert_eq!(worker.seen().len(), 4);
}

#[tokio::test]
async fn a_coding_is_refused() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for coding in ["gzip", "br", "identity, gzip", "x"] {
        let answer = gateway.client().predict("predictor").header("content-encoding", coding).send().await;
        answer.assert_problem(415, "body-encoding");
        assert_eq!(answer.header("accept-encoding"), "identity");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_bound_and_not_one_octet_longer() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let padded = |length: usize| format!("{:length$}", flower().to_string());
    for client in [gateway.client(), gateway.http2()] {
        let ask = |length| client.post("/predict").key("predictor").json(&json!(null)).body(padded(length));
        let answer = ask(16_385).send().await;
        answer.assert_problem(413, "body-too-large");
        assert_eq!(answer.json()["max_bytes"], 16_384);
        assert_eq!(ask(16_384).send().await.status, 200);
    }
    assert_eq!(worker.seen().len(), 2);
    for seen in worker.seen() {
        assert_eq!(seen.body.len(), 16_384);
    }
}

#[tokio::test]
async fn an_announced_length_is_refused_before_the_body_comes() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for length in ["16385", "999999999999", "999999999999999999"] {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(head(&format!("Content-Length: {length}\r\n\r\n"))).await;
        wire.answer().await.assert_problem(413, "body-too-large");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn chunks_are_counted() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let chunked = |length: usize| {
        let body = format!("{:length$}", flower().to_string());
        head("Transfer-Encoding: chunked\r\n\r\n") + &in_chunks(&body, 5000)
    };
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(chunked(16_385)).await;
    wire.answer().await.assert_problem(413, "body-too-large");
    worker.assert_untouched();
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(chunked(16_384)).await;
    assert_eq!(wire.answer().await.status, 200);
    let seen = worker.only();
    assert_eq!((seen.header("content-length").as_deref(), seen.body.len()), (Some("16384"), 16_384));
}

#[tokio::test]
async fn json_that_readers_read_differently_is_refused_with_its_place() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let cases: &[(&[u8], &str, &str)] = &[
        (b"", "syntax", ""),
        (b" ", "syntax", ""),
        (b"{", "syntax", ""),
        (b"{'sepal_length':1}", "syntax", ""),
        (br#"{"sepal_length":NaN}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":Infinity}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":-Infinity}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":1e400}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":-1e400}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":0x10}"#, "syntax", ""),
        (br#"{"sepal_length":01}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":+1}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":.5}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":1,}"#, "syntax", ""),
        (br#"{"sepal_length":1} {}"#, "syntax", ""),
        (br#"{"sepal_length":1}x"#, "syntax", ""),
        (b"{\"sepal_length\":1}\0", "syntax", ""),
        (br#"{"sepal_length":1/*a comment*/}"#, "syntax", ""),
        (b"\xef\xbb\xbf{\"sepal_length\":1}", "syntax", ""),
        (b"\xff\xfe{\x00}\x00", "utf8", ""),
        (b"{\"sepal_length\":\"\xff\"}", "utf8", ""),
        (b"{\"sepal_length\":\"\xc0\xaf\"}", "utf8", ""),
        (b"{\"sepal_length\":\"\xed\xa0\x80\"}", "utf8", ""),
        (br#"{"sepal_length":"\ud800"}"#, "syntax", "/sepal_length"),
        (br#"{"sepal_length":"\udc00\ud800"}"#, "syntax", "/sepal_length"),
        (b"{\"sepal_length\":\"a\nb\"}", "syntax", "/sepal_length"),
        (br#"{"sepal_length":1,"sepal_length":1}"#, "duplicate_member", "/sepal_length"),
        (br#"{"sepal_length":1,"sepal\u005flength":1}"#, "duplicate_member", "/sepal_length"),
        (br#"[{"a/b~":1,"a/b~":2}]"#, "duplicate_member", "/0/a~1b~0"),
        (br#"{"a":{"b":[[[]]]}}"#, "depth", "/a/b/0/0"),
    ];
    for (body, code, pointer) in cases {
        let answer = predict(&gateway, "application/json", *body).send().await;
        answer.assert_problem(400, "body-malformed");
        let found = faults(&answer);
        assert_eq!((&found[0]["code"], &found[0]["pointer"]), (&json!(code), &json!(pointer)), "{}", answer.text());
        assert_eq!(found.len(), 1);
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn depth_is_bounded_and_never_costs_the_gateway_its_stack() {
    let worker = Recorder::start();
    let overlay = "[routes.predict.body]\nmax = \"4MiB\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for open in ["[", "{\"a\":"] {
        let answer = predict(&gateway, "application/json", open.repeat(500_000)).send().await;
        answer.assert_problem(400, "body-malformed");
        assert_eq!(faults(&answer)[0]["code"], "depth");
    }
    worker.assert_untouched();
    assert_eq!(gateway.client().predict("predictor").send().await.status, 200, "it serves on");
}

#[tokio::test]
async fn every_fault_is_listed_with_its_place_rule_limit_and_what_was_sent() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let body = json!({ "sepal_length": -1, "sepal_width": "wide", "petal_length": 30.5, "petal_size": 2 });
    let answer = gateway.client().post("/predict").key("predictor").json(&body).send().await;
    answer.assert_problem(422, "body-invalid");
    let mut whole = answer.json();
    whole["errors"] = faults(&answer).into();
    assert_eq!(
        whole,
        json!({
            "type": "urn:modelgate:problem:body-invalid",
            "title": "The body is not what is taken here",
            "status": 422,
            "detail": "The body has 5 faults, listed in `errors`.",
            "request_id": answer.request_id(),
            "errors": [
                { "pointer": "/petal_length", "code": "maximum", "detail": "must be at most 30", "limit": 30, "sent": 30.5 },
                { "pointer": "/petal_size", "code": "unknown_member", "detail": "is not a member that is known here" },
                { "pointer": "/petal_width", "code": "required", "detail": "is missing" },
                { "pointer": "/sepal_length", "code": "exclusive_minimum", "detail": "must be more than 0", "limit": 0, "sent": -1 },
                { "pointer": "/sepal_width", "code": "type", "detail": "must be number, was string", "limit": "number", "sent": "wide" },
            ],
        })
    );
    worker.assert_untouched();
}

#[tokio::test]
async fn a_list_is_taken_whole_or_refused_whole() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let ask = |body: &Value| gateway.client().post("/predict").key("predictor").json(body);
    let mut wrong = flower();
    wrong["sepal_length"] = json!(0);
    let answer = ask(&json!([flower(), wrong, 7])).send().await;
    answer.assert_problem(422, "body-invalid");
    let places: Vec<Value> = faults(&answer).iter().map(|fault| json!([fault["pointer"], fault["code"]])).collect();
    assert_eq!(json!(places), json!([["/1/sepal_length", "exclusive_minimum"], ["/2", "type"]]));
    let answer = ask(&json!([])).send().await;
    assert_eq!((answer.status, &faults(&answer)[0]["code"]), (422, &json!("min_items")), "{}", answer.text());
    let answer = ask(&json!(vec![flower(); 101])).send().await;
    assert_eq!((answer.status, &faults(&answer)[0]["code"]), (422, &json!("max_items")), "{}", answer.text());
    assert_eq!(faults(&answer)[0]["limit"], 100);
    worker.assert_untouched();
    let list = json!(vec![flower(); 100]);
    assert_eq!(ask(&list).send().await.status, 200);
    assert_eq!(worker.only().json(), list);
}

#[tokio::test]
async fn an_answer_about_a_hostile_body_stays_small() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let many: serde_json::Map<String, Value> = (0..1000).map(|index| (format!("m{index}"), json!(1))).collect();
    let answer = gateway.client().post("/predict").key("predictor").json(&many.into()).send().await;
    answer.assert_problem(422, "body-invalid");
    assert_eq!(faults(&answer).len(), 32);
    let mut long = flower();
    long["sepal_length"] = json!("é".repeat(5000));
    let answer = gateway.client().post("/predict").key("predictor").json(&long).send().await;
    assert_eq!(faults(&answer)[0]["sent"], format!("{}…", "é".repeat(64)));
    worker.assert_untouched();
}

#[tokio::test]
async fn a_route_without_a_body_rule_takes_none() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.get("/models").key("reader").json(&json!({})).send().await;
        answer.assert_problem(413, "body-not-taken");
    }
    let chunked = format!(
        "GET /models HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        key("reader")
    );
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(chunked).await;
    wire.answer().await.assert_problem(413, "body-not-taken");
    worker.assert_untouched();
}

#[tokio::test]
async fn text_is_cleaned_where_the_route_asks_and_everybody_is_told() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let ask = |text: &str| gateway.client().post("/sentiment").key("predictor").json(&json!({ "text": text }));
    for (sent, forwarded, note) in [
        ("cafe\u{301}", "café".to_owned(), "\"/text\";nfc"),
        ("a\u{0}b\u{7}c\u{7f}\u{85}\td\r\n", "abc\td\r\n".to_owned(), "\"/text\";controls=4"),
        (&"x".repeat(2005), "x".repeat(2000), "\"/text\";cut=5"),
        // Composed first, cut after: one character for two.
        (&"e\u{301}".repeat(2001), "é".repeat(2000), "\"/text\";nfc;cut=1"),
        (
            &("\u{1}a\u{308}".to_owned() + &"😀".repeat(2000)),
            "ä".to_owned() + &"😀".repeat(1999),
            "\"/text\";nfc;controls=1;cut=1",
        ),
    ] {
        let answer = ask(sent).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-normalized"), note);
        let seen = worker.seen().pop().expect("it was called");
        assert_eq!(seen.json(), json!({ "text": forwarded }), "{note}");
        assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string()));
        assert!(seen.whole, "the new length is right");
        assert_eq!(gateway.log().access(&answer.request_id()).await["normalized"], note);
    }
    // What is left must still be what the schema describes.
    let before = worker.seen().len();
    ask("\u{0}\u{1}").send().await.assert_problem(422, "body-invalid");
    assert_eq!(worker.seen().len(), before);
}

#[tokio::test]
async fn a_good_body_reaches_the_worker_byte_by_byte() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let flower =
        "\r\n{ \"petal_width\" :2.0e-1,\t\"sepal_length\":5.10, \"sepal\\u005fwidth\": 3.5,\"petal_length\": 14E-1 }\n";
    let text = "{\"text\" :  \"caf\u{e9} \\u0041\\/\\n \u{200b}\" }";
    for (path, body) in [("/predict", flower), ("/sentiment", text)] {
        let answer = gateway.client().post(path).key("predictor").json(&json!(null)).body(body).send().await;
        assert_eq!((answer.status, answer.header("x-normalized").as_str()), (200, ""), "{}", answer.text());
        let seen = worker.seen().pop().expect("it was called");
        assert_eq!(String::from_utf8_lossy(&seen.body), body);
        assert_eq!(gateway.log().access(&answer.request_id()).await["normalized"], Value::Null);
    }
    assert_eq!(worker.seen().len(), 2);
}

#[tokio::test]
async fn a_refusal_that_needs_no_body_comes_without_100_continue() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let body = flower().to_string();
    for (path, id, content_type, length, status) in [
        ("/predict", "unknown", "application/json", body.len(), 401),
        ("/predict", "reader", "application/json", body.len(), 403),
        ("/predict", "predictor", "text/plain", body.len(), 415),
        ("/predict", "predictor", "application/json", 20_000, 413),
        ("/nowhere", "predictor", "application/json", body.len(), 404),
        ("/known", "predictor", "application/json", body.len(), 405),
    ] {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(expecting(path, id, content_type, length)).await;
        assert_eq!(wire.answer().await.status, status, "{path} {id} {content_type} {length}");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn who_expects_100_continue_gets_it_when_the_body_is_wanted() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let body = flower().to_string();
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(expecting("/predict", "predictor", "application/json", body.len())).await;
    assert_eq!(wire.head().await.expect("an interim answer").status, 100);
    worker.assert_untouched();
    wire.send(&body).await;
    assert_eq!(wire.answer().await.status, 200);
    let seen = worker.only();
    assert_eq!((seen.json(), seen.header("expect")), (flower(), None));
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_refused() {
    let worker = Recorder::start();
    let overlay = "[listener]\nbody_timeout = \"200ms\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(head("Content-Length: 100\r\n\r\n{\"sepal_length\":")).await;
    let answer = wire.answer().await;
    answer.assert_problem(408, "body-slow");
    assert_eq!(answer.header("connection"), "close");
    wire.closed().await.expect("nothing more");
    worker.assert_untouched();
}

/// A body's parts, a little apart, for as long as nothing comes back; and what came.
async fn drip(gateway: &Gateway, head: String, part: &str, end: (usize, &str), pause: Duration) -> Answer {
    let (reader, mut writer) = tokio::io::split(gateway.client().tls().await);
    let mut answers = Wire::over(tokio::io::join(reader, tokio::io::sink()));
    let sending = async {
        writer.write_all(head.as_bytes()).await?;
        for _ in 0..end.0 {
            writer.write_all(part.as_bytes()).await?;
            writer.flush().await?;
            tokio::time::sleep(pause).await;
        }
        writer.write_all(end.1.as_bytes()).await?;
        writer.flush().await
    };
    let sending = async {
        // An error is the gateway's end of it, which is still to be heard of.
        let _ = sending.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answers.answer() => answer,
        () = sending => unreachable!("it never ends"),
    }
}

/// A head with a chunked body for `/predict`, whose body is read whole, or for `/upload`, where it is passed on.
fn chunked(path: &str, content_type: &str) -> String {
    let key = key("predictor");
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: {content_type}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    )
}

/// No pause is too long, and the route takes 1 MiB, for which it could drip for hours.
#[tokio::test]
async fn a_body_that_drips_is_refused() {
    let worker = Recorder::start();
    let overlay = "[listener]\nbody_timeout = \"1s\"\n[routes.predict.body]\nmax = \"1MiB\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for (path, content_type) in [("/predict", "application/json"), ("/upload", "application/octet-stream")] {
        let head = chunked(path, content_type);
        let answer = drip(&gateway, head, "1\r\n \r\n", (usize::MAX, ""), Duration::from_millis(20)).await;
        answer.assert_problem(408, "body-slow");
        assert_eq!(answer.header("connection"), "close");
    }
    let seen = worker.seen();
    assert!(seen.iter().all(|seen| seen.line().starts_with("POST /upload ") && !seen.whole), "{seen:?}");
}

/// Longer than one `body_timeout` in all, but never below the rate.
#[tokio::test]
async fn a_body_that_comes_slowly_and_steadily_is_taken() {
    let worker = Recorder::start();
    let overlay = "[listener]\nbody_timeout = \"2s\"\nmin_body_rate = \"64B\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let part = format!("40\r\n{}\r\n", " ".repeat(64));
    let last = format!("{:x}\r\n{}\r\n0\r\n\r\n", flower().to_string().len(), flower());
    for (path, content_type) in [("/predict", "application/json"), ("/upload", "application/octet-stream")] {
        let head = chunked(path, content_type);
        let answer = drip(&gateway, head, &part, (60, &last), Duration::from_millis(50)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for seen in worker.seen() {
        assert_eq!((seen.whole, seen.body.len()), (true, 60 * 64 + flower().to_string().len()));
    }
    assert_eq!(worker.seen().len(), 2);
}

#[tokio::test]
async fn chunks_that_can_not_be_read_are_refused() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for chunks in
        ["zz\r\n", "-1\r\n", "+5\r\nhello\r\n", "0x5\r\nhello\r\n", "5\r\nhelloXX0\r\n\r\n", "fffffffffffffffff\r\n"]
    {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(head("Transfer-Encoding: chunked\r\n\r\n") + chunks).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "body-framing"), "{chunks:?}");
        assert_eq!(answer.header("connection"), "close", "{chunks:?}");
        wire.closed().await.expect("nothing more");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn who_leaves_inside_a_body_is_recorded_and_never_forwarded() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(head("Content-Length: 100\r\n\r\n{\"sepal_length\":")).await;
    drop(wire);
    let record = gateway.log().wait_for(|line| line["log"] == "access" && line["path"] == "/predict").await;
    assert_eq!((&record["reason"], &record["status"]), (&json!("client-gone"), &json!(499)));
    worker.assert_untouched();
}
