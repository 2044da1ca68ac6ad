//! The real binary over real sockets: what it answers, what it refuses, and how it ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::support::{Reply, World, exchange, text};
use serde_json::json;

const ROW: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;

#[test]
fn a_row_of_numbers_is_predicted() {
    let worker = World::new().serve("");
    assert_eq!(
        worker.event["models"],
        json!([{"name": "iris", "version": "1"}, {"name": "sentiment", "version": "1"}])
    );
    for path in ["/predict", "/models/iris/predict", "/models/iris/versions/1/predict"] {
        let reply = worker.post(path, ROW);
        assert_eq!(reply.status, 200, "{reply:?}");
        let expected = json!({
            "prediction": 0, "label": "setosa", "model": "iris", "version": "1",
            "probabilities": {"setosa": 1.0, "versicolor": 0.0, "virginica": 0.0},
        });
        assert_eq!(reply.json(), expected);
    }
    assert_eq!(worker.send("POST", "/predict", "", ROW).status, 200, "no Content-Type is taken as JSON");
}

#[test]
fn rows_are_predicted_in_order_and_unusual_values_are_named() {
    let worker = World::new().serve("");
    let unusual = r#"{"sepal_length":6.7,"sepal_width":3.0,"petal_length":6.0,"petal_width":9}"#;
    let json = worker.post("/predict", &format!("[{ROW},{unusual}]")).json();
    assert_eq!(json["predictions"][0]["label"], "setosa");
    assert_eq!(json["predictions"][0].get("out_of_training_range"), None);
    assert_eq!(json["predictions"][1]["label"], "virginica");
    assert_eq!(json["predictions"][1]["out_of_training_range"], json!(["petal_width"]));
    assert_eq!((&json["model"], &json["version"]), (&json!("iris"), &json!("1")));
    assert_eq!(json["predictions"][0].get("model"), None);
}

#[test]
fn rows_may_be_given_by_place_and_as_other_servers_take_them() {
    let worker = World::new().serve("");
    let one = worker.post("/predict", r#"{"features":[5.1,3.5,1.4,0.2]}"#).json();
    assert_eq!(one["label"], "setosa");
    for body in ["[[5.1,3.5,1.4,0.2]]", r#"{"instances":[[5.1,3.5,1.4,0.2]]}"#, &format!("{{\"instances\":[{ROW}]}}")] {
        assert_eq!(
            worker.post("/predict", body).json()["predictions"][0],
            json!({
                "prediction": 0, "label": "setosa", "probabilities": {"setosa": 1.0, "versicolor": 0.0, "virginica": 0.0},
            }),
            "{body}"
        );
    }
}

#[test]
fn texts_are_scored() {
    let worker = World::new().serve("");
    for (text, label) in [
        ("I love this, wonderful!", "positive"),
        ("This is terrible, I hate it.", "negative"),
        ("The parcel arrived on Tuesday.", "neutral"),
    ] {
        let json = worker.post("/predict", &json!({"text": text}).to_string()).json();
        assert_eq!(json["label"], label, "{json}");
        assert_eq!(json["model"], "sentiment");
        assert_eq!(json.get("prediction"), None);
        let score = json["score"].as_f64().expect("a score");
        assert!((-1.0..=1.0).contains(&score));
        let sum: f64 =
            ["negative", "neutral", "positive"].iter().filter_map(|c| json["probabilities"][c].as_f64()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{json}");
    }
    let json = worker.post("/models/sentiment/predict", r#"[{"text":"good"},{"text":"bad"}]"#).json();
    assert_eq!(json["predictions"][0]["label"], "positive");
    assert_eq!(json["predictions"][1]["label"], "negative");
}

#[test]
fn what_is_served_can_be_asked() {
    let worker = World::new().serve("");
    assert_eq!(worker.get("/healthz").json(), json!({"live": true}));
    assert_eq!(worker.get("/readyz").json(), json!({"live": true, "ready": true}));
    let models = worker.get("/models").json();
    assert_eq!(models["models"][0]["name"], "iris");
    assert_eq!(models["models"][0]["features"][3], "petal_width");
    let card = worker.get("/models/iris").json();
    assert_eq!(card["card"]["features"][0]["bounds"], json!({"above": 0.0, "at_most": 30.0}));
    assert_eq!(card["card"]["metrics"]["held_out"]["rows"], 150);
    let head = worker.send("HEAD", "/readyz", "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn every_mistake_is_refused_with_its_own_problem() {
    let worker = World::new().serve("");
    let long = json!({"text": "x".repeat(8193)}).to_string();
    let rows = format!("[{}]", vec![ROW; 1001].join(","));
    for (path, body, status, problem) in [
        ("/predict", "", 400, "malformed-json"),
        ("/predict", "{", 400, "malformed-json"),
        ("/predict", r#"{"text":"a"} x"#, 400, "malformed-json"),
        ("/predict", r#"{"text":NaN}"#, 400, "malformed-json"),
        ("/predict", r#"{"sepal_length":1e999}"#, 400, "malformed-json"),
        ("/predict", "[]", 400, "which-model"),
        ("/predict", "5", 400, "which-model"),
        ("/predict", r#"{"x":1}"#, 400, "which-model"),
        ("/predict", r#"{"x":1,"text":"a","petal_width":1}"#, 400, "which-model"),
        ("/predict", r#"{"petal_width":1}"#, 400, "invalid-row"),
        ("/predict", r#"{"text":"a","text":"a"}"#, 400, "invalid-row"),
        ("/predict", r#"{"text":"a","x":1}"#, 400, "invalid-row"),
        ("/predict", r#"{"text":5}"#, 400, "invalid-row"),
        ("/predict", r#"[{"text":"a"},[]]"#, 400, "invalid-row"),
        ("/predict", "[[1,2,3]]", 400, "which-model"),
        ("/predict", r#"{"features":[1,2,3,"4"]}"#, 400, "invalid-row"),
        ("/models/iris/predict", r#"{"instances":[]}"#, 400, "invalid-row"),
        ("/models/iris/predict", r#"{"instances":[[1,2,3]]}"#, 400, "invalid-row"),
        ("/models/iris/predict", "[]", 400, "invalid-row"),
        ("/models/iris/predict", r#"{"text":"a"}"#, 400, "invalid-row"),
        ("/predict", r#"{"text":" "}"#, 422, "out-of-bounds"),
        ("/predict", &long, 422, "out-of-bounds"),
        ("/predict", &ROW.replace("5.1", "0"), 422, "out-of-bounds"),
        ("/predict", &ROW.replace("5.1", "30.5"), 422, "out-of-bounds"),
        ("/predict", &rows, 413, "too-many-rows"),
        ("/models/rose/predict", ROW, 404, "no-such-model"),
        ("/models/iris/versions/2/predict", ROW, 404, "no-such-model"),
        ("/predictions", ROW, 404, "no-such-path"),
    ] {
        let reply = worker.post(path, body);
        let shown: String = body.chars().take(60).collect();
        assert_eq!((reply.status, reply.problem().as_str()), (status, problem), "{path} {shown}");
    }
    let reply = worker.post("/predict", &format!("[{ROW},{}]", ROW.replace("0.2", "-1")));
    let error = &reply.json()["errors"][0];
    assert_eq!((&error["pointer"], &error["code"]), (&json!("/1/petal_width"), &json!("out-of-bounds")));
    let not_text = worker.post("/predict", "{\"text\":\"\u{0}\"}");
    assert_eq!(not_text.problem(), "malformed-json", "control characters must be escaped");
}

#[test]
fn methods_and_media_types_are_checked() {
    let worker = World::new().serve("");
    let reply = worker.get("/predict");
    assert_eq!((reply.status, reply.problem().as_str()), (405, "method-not-allowed"));
    assert!(reply.head.contains("\r\nallow: post"), "{reply:?}");
    let reply = worker.post("/models", "");
    assert!(reply.status == 405 && reply.head.contains("\r\nallow: get, head"), "{reply:?}");
    for (header, problem) in [
        ("Content-Type: text/plain\r\n", "unsupported-media-type"),
        ("Content-Type: application/x-www-form-urlencoded\r\n", "unsupported-media-type"),
        ("Content-Encoding: br\r\n", "unsupported-encoding"),
    ] {
        let reply = worker.send("POST", "/predict", header, ROW);
        assert_eq!((reply.status, reply.problem().as_str()), (415, problem));
    }
}

#[test]
fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let worker = World::new().serve("max_body = \"1KiB\"");
    let mut announced = worker.connect();
    write!(announced, "POST /predict HTTP/1.1\r\nHost: w\r\nContent-Length: 1025\r\n\r\n").expect("sent");
    assert_eq!(Reply::read(&mut announced).problem(), "body-too-large");
    let mut chunked = worker.connect();
    write!(chunked, "POST /predict HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n").expect("sent");
    write!(chunked, "401\r\n{}\r\n", " ".repeat(1025)).expect("sent");
    assert_eq!(Reply::read(&mut chunked).problem(), "body-too-large");
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let worker = World::new().serve("body = \"20ms\"");
    let mut stream = worker.connect();
    write!(stream, "POST /predict HTTP/1.1\r\nHost: w\r\nContent-Length: 10\r\n\r\n{{").expect("sent");
    let reply = Reply::read(&mut stream);
    assert_eq!((reply.status, reply.problem().as_str()), (408, "body-too-slow"));
}

/// Begins a request and returns once the worker waits for its body.
fn begin(stream: &mut (impl Read + Write), length: usize) {
    let head = "POST /predict HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\n";
    write!(stream, "{head}Content-Length: {length}\r\n\r\n").expect("sent");
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).expect("an interim answer");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn one_request_too_many_is_turned_away_at_once() {
    let worker = World::new().serve("max_in_flight = 1");
    let mut first = worker.connect();
    begin(&mut first, ROW.len());
    let second = worker.post("/predict", ROW);
    assert_eq!((second.status, second.problem().as_str()), (503, "busy"));
    assert!(second.head.contains("\r\nretry-after: 1"), "{second:?}");
    assert_eq!(worker.get("/healthz").status, 200);
    drop(first);
}

#[test]
fn a_stop_lets_the_request_in_flight_finish() {
    let mut worker = World::new().serve("");
    let mut stream = worker.connect();
    begin(&mut stream, ROW.len());
    worker.terminate();
    assert_eq!(worker.event(), json!({"event": "draining", "connections": 1}));
    assert!(std::net::TcpStream::connect(worker.address()).is_err(), "no further connection is accepted");
    write!(stream, "{ROW}").expect("sent");
    assert_eq!(Reply::read(&mut stream).status, 200);
    assert_eq!(worker.event(), json!({"event": "stopped", "cut_off": 0}));
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let mut worker = World::new().serve("drain = \"20ms\"");
    let mut stream = worker.connect();
    begin(&mut stream, ROW.len());
    worker.terminate();
    assert_eq!(worker.event()["event"], "draining");
    assert_eq!(worker.event(), json!({"event": "stopped", "cut_off": 1}));
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn a_refusal_is_logged_with_the_request_id_and_without_the_text() {
    let mut worker = World::new().serve("");
    let header = "X-Request-Id: abc-123\r\n";
    worker.send("POST", "/models/sentiment/predict", header, r#"{"text":"a","canary":"canary"}"#);
    let event = worker.event();
    assert_eq!(
        event,
        json!({"event": "refused", "request_id": "abc-123", "route": "/models/{name}/predict", "status": 400,
               "reason": "invalid-row"})
    );
    worker.send("GET", "/canary", "X-Request-Id: no good\r\n", "");
    let event = worker.event();
    assert_eq!(event, json!({"event": "refused", "route": "none", "status": 404, "reason": "no-such-path"}));
}

#[test]
fn a_unix_socket_serves_and_is_removed() {
    let world = World::new();
    let path = world.root.path().join("worker.sock");
    let mut worker = world.serve_on(&format!("unix:{}", text(&path)), "");
    let mut stream = UnixStream::connect(&path).expect("a connection");
    assert_eq!(exchange(&mut stream, "POST", "/predict", "", ROW).status, 200);
    worker.terminate();
    assert_eq!(worker.wait().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn a_connection_serves_several_requests() {
    let worker = World::new().serve("");
    let mut stream = worker.connect();
    let head = "POST /predict HTTP/1.1\r\nHost: w\r\n";
    for _ in 0..2 {
        write!(stream, "{head}Content-Length: {}\r\n\r\n{ROW}", ROW.len()).expect("sent");
    }
    let last = exchange(&mut stream, "GET", "/healthz", "", "");
    assert_eq!(last.body.matches("setosa").count() + last.head.matches("setosa").count(), 4, "{last:?}");
    assert!(last.body.ends_with("{\"live\":true}"), "{last:?}");
}

#[test]
fn a_connection_that_stays_silent_is_closed() {
    let worker = World::new().serve("idle = \"20ms\"");
    let mut stream = worker.connect();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("the worker closes the connection");
    assert_eq!(worker.get("/healthz").status, 200);
}
