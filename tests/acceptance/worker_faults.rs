//! Workers that refuse, stall, break off, lie or leave: each has its own answer, and none harms the next request.

use harness::client::flower;
use harness::{Answer, Gateway, Recorder, Reply, Wire};
use serde_json::{Value, json};

/// One serving thread, so that connections to workers can be counted, and little patience.
const ONE_THREAD: &str = "[listener]\nthreads = 1\n";
const HASTE: &str = "[pools.models]\nanswer_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n";

async fn before(worker: &Recorder, overlay: &str) -> Gateway {
    Gateway::builder().worker(worker).policy(ONE_THREAD).policy(overlay).start().await
}

/// The reason and status in the record of an answer.
async fn recorded(gateway: &Gateway, request_id: &str) -> (Value, Value) {
    let record = gateway.log().access(request_id).await;
    (record["reason"].clone(), record["status"].clone())
}

async fn ask(gateway: &Gateway) -> Answer {
    gateway.client().predict("predictor").send().await
}

#[tokio::test]
async fn a_worker_that_refuses_connections_is_503() {
    let worker = Recorder::refusing();
    let gateway = before(&worker, "").await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.predict("predictor").send().await;
        answer.assert_problem(503, "worker-unreachable");
        assert_eq!(answer.header("retry-after"), "1");
        let shown = answer.text() + &format!("{:?}", answer.headers);
        assert!(!shown.contains(&worker.address().port().to_string()), "addresses inside stay inside: {shown}");
        let record = gateway.log().access(&answer.request_id()).await;
        assert!(
            record["cause"].as_str().is_some_and(|cause| cause.contains(&worker.address().to_string())),
            "{record}"
        );
    }
}

#[tokio::test]
async fn a_worker_that_never_answers_is_504() {
    let worker = Recorder::replying(Reply::never());
    let gateway = before(&worker, HASTE).await;
    let answer = ask(&gateway).await;
    answer.assert_problem(504, "worker-slow");
    assert_eq!(recorded(&gateway, &answer.request_id()).await, (json!("worker-slow"), json!(504)));
    worker.wait_for_hang_ups(1).await;
    assert_eq!(worker.only().json(), flower(), "it was asked once");
}

#[tokio::test]
async fn a_small_answer_that_stalls_in_its_body_is_504() {
    let reply = Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").stall();
    let worker = Recorder::replying(reply);
    let gateway = before(&worker, HASTE).await;
    let answer = ask(&gateway).await;
    answer.assert_problem(504, "worker-slow");
    worker.wait_for_hang_ups(1).await;
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn a_streamed_answer_that_stalls_is_broken_off() {
    let reply = Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").stall();
    let worker = Recorder::replying(reply);
    let gateway = before(&worker, HASTE).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = wire.head().await.expect("the head came");
    assert_eq!(head.status, 200);
    assert_eq!(wire.rest().await, "5\r\nhello\r\n", "closed without the last chunk");
    assert_eq!(recorded(&gateway, &head.request_id()).await, (json!("worker-slow"), json!(200)));
    let broken = gateway.http2().get("/open").try_send().await.expect_err("the stream is reset");
    assert!(broken.to_lowercase().contains("reset"), "{broken}");
    worker.wait_for_hang_ups(2).await;
}

#[tokio::test]
async fn a_worker_that_closes_instead_of_answering_is_502_and_not_asked_again() {
    let worker = Recorder::replying(Reply::early().read_body().close());
    let gateway = before(&worker, "").await;
    for client in [gateway.client(), gateway.http2()] {
        client.predict("predictor").send().await.assert_problem(502, "worker-broken");
    }
    assert_eq!(worker.seen().len(), 2, "what a worker may have served is never sent twice");
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_502() {
    let garbage = [
        "garbage\r\n\r\n".to_owned(),
        "\x16\x03\x03\x00\x02\x02\x28\r\n\r\n".to_owned(),
        "HTTP/1.1 two hundred\r\n\r\n".to_owned(),
        "HTTP/2 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(64 << 10)),
    ];
    let replies = garbage.clone();
    // Closed at the end, so that what can't be told from an unfinished head is told too.
    let worker = Recorder::scripted(move |number, _| Reply::raw(replies[number].clone()).close());
    let gateway = before(&worker, "").await;
    for (count, garbage) in garbage.iter().enumerate() {
        let answer = ask(&gateway).await;
        assert_eq!(answer.status, 502, "{garbage:?} gave {}", answer.text());
        assert_eq!(answer.problem(), "worker-broken", "{garbage:?}");
        assert_eq!(worker.seen().len(), count + 1, "asked once for {garbage:?}");
    }
}

#[tokio::test]
async fn a_small_answer_that_breaks_off_is_502() {
    let worker = Recorder::replying(Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").close());
    let gateway = before(&worker, "").await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.predict("predictor").send().await;
        answer.assert_problem(502, "worker-broken");
        assert!(!answer.text().contains("hello"));
        assert_eq!(recorded(&gateway, &answer.request_id()).await, (json!("worker-broken"), json!(502)));
    }
}

#[tokio::test]
async fn a_large_answer_that_breaks_off_breaks_the_clients_connection_off() {
    let start = "x".repeat(80_000);
    for framing in
        ["Content-Length: 100000\r\n\r\n".to_owned(), "Transfer-Encoding: chunked\r\n\r\n186a0\r\n".to_owned()]
    {
        let worker = Recorder::replying(Reply::raw(format!("HTTP/1.1 200 OK\r\n{framing}{start}")).close());
        let gateway = before(&worker, "").await;
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let head = wire.head().await.expect("the head came");
        assert_eq!(head.status, 200);
        let rest = wire.rest().await;
        assert!(rest.matches('x').count() <= 80_000 && !rest.ends_with("0\r\n\r\n"), "it must not look whole");
        assert_eq!(recorded(&gateway, &head.request_id()).await, (json!("worker-broken"), json!(200)));
        let broken = gateway.http2().get("/open").try_send().await.expect_err("the stream is reset");
        assert!(broken.to_lowercase().contains("reset"), "{broken}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_passed_on() {
    let body = "x".repeat(100_000);
    let replies = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n{body}\r\n0\r\n\r\n"),
    ];
    let worker = Recorder::scripted(move |number, _| Reply::raw(replies[number].clone()));
    let gateway = before(&worker, "[pools.models]\nmax_answer = \"90KiB\"\n").await;
    ask(&gateway).await.assert_problem(502, "worker-broken");
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = wire.head().await.expect("the head came");
    assert_eq!(head.status, 200);
    let rest = wire.rest().await;
    assert!(rest.matches('x').count() <= 90 << 10 && !rest.ends_with("0\r\n\r\n"), "it must not look whole");
    assert_eq!(recorded(&gateway, &head.request_id()).await, (json!("worker-broken"), json!(200)));
}

#[tokio::test]
async fn what_comes_after_an_answer_never_becomes_the_next_one() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for first in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst{poison}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n{poison}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n{poison}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst{}", "x".repeat(100)),
    ] {
        let reply = first.clone();
        let worker = Recorder::scripted(move |number, _| {
            Reply::raw(if number % 2 == 0 {
                reply.clone()
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond".into()
            })
        });
        let gateway = before(&worker, "").await;
        let mut connection = gateway.client().connect().await;
        for _ in 0..10 {
            let answer = connection.send(gateway.client().get("/open")).await;
            assert_ne!(answer.text(), "poison", "{first:?}");
            let answer = connection.send(gateway.client().get("/open")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "second"), "{first:?}");
        }
        assert_eq!(worker.seen().len(), 20);
    }
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let worker = Recorder::replying(Reply::raw(format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{{}}")));
    let gateway = before(&worker, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("link").as_str()), (200, "{}", ""));
    wire.closed().await.expect("nothing more");
}

#[tokio::test]
async fn a_switch_of_protocols_is_502() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let worker = Recorder::replying(Reply::raw(switch).stall());
    let gateway = before(&worker, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    wire.send(format!("GET /open HTTP/1.1\r\nHost: localhost\r\n{upgrade}")).await;
    wire.answer().await.assert_problem(502, "worker-broken");
    assert_eq!((worker.only().headers("upgrade"), worker.only().headers("connection")), (vec![], vec![]));
    worker.wait_for_hang_ups(1).await;
}

#[tokio::test]
async fn a_workers_failure_is_502_and_its_words_stay_inside() {
    const SECRET: &str = "Traceback: password=hunter2";
    for status in [500, 501, 502, 504, 505, 511, 599] {
        let headers = format!("X-Debug: {SECRET}\r\nContent-Type: text/plain\r\n");
        let worker = Recorder::replying(Reply::with(status, &headers, SECRET.as_bytes()));
        let mut gateway = before(&worker, "").await;
        let answer = ask(&gateway).await;
        answer.assert_problem(502, "worker-failed");
        let shown = answer.text() + &format!("{:?}", answer.headers);
        assert!(!shown.contains("hunter2"), "{shown}");
        let record = gateway.log().access(&answer.request_id()).await;
        assert!(record["cause"].as_str().is_some_and(|cause| cause.contains(&status.to_string())), "{record}");
        assert!(gateway.stop().await.success());
        assert!(!gateway.log().text().contains("hunter2"));
    }
}

#[tokio::test]
async fn a_worker_that_has_too_much_to_do_is_503_with_its_own_time() {
    for (header, retry) in
        [("Retry-After: 7\r\n", "7"), ("", "1"), ("Retry-After: soon\r\n", "1"), ("Retry-After: -1\r\n", "1")]
    {
        let worker = Recorder::replying(Reply::with(503, header, b"queue full at 10.0.0.7"));
        let gateway = before(&worker, "").await;
        let answer = ask(&gateway).await;
        answer.assert_problem(503, "worker-busy");
        assert_eq!(answer.header("retry-after"), retry, "{header}");
        assert!(!answer.text().contains("10.0.0.7"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_kept_connection_that_the_worker_closed_costs_no_request() {
    let reply = Reply::json(&json!({ "label": "setosa" })).close();
    let worker = Recorder::replying(reply);
    let gateway = before(&worker, "").await;
    let mut connection = gateway.client().connect().await;
    for count in 1..=5 {
        assert_eq!(connection.send(gateway.client().predict("predictor")).await.status, 200);
        worker.wait_for_closes(count).await;
        assert_eq!((worker.seen().len(), worker.connections()), (count, count));
    }
}

#[tokio::test]
async fn an_answer_that_says_close_ends_its_connection() {
    let headers = "Connection: close\r\n";
    let worker = Recorder::replying(Reply::with(200, headers, b"{}"));
    let gateway = before(&worker, "").await;
    let mut connection = gateway.client().connect().await;
    for _ in 0..3 {
        let answer = connection.send(gateway.client().get("/open")).await;
        assert_eq!((answer.status, answer.header("connection").as_str()), (200, ""), "the client's own goes on");
    }
    assert_eq!(worker.connections(), 3);
    worker.wait_for_hang_ups(3).await;
}

#[tokio::test]
async fn the_next_worker_of_a_pool_takes_over_from_one_that_refuses() {
    let (away, worker) = (Recorder::refusing(), Recorder::start());
    let gateway = Gateway::builder().worker(&away).worker(&worker).policy(ONE_THREAD).start().await;
    for count in 1..=4 {
        assert_eq!(ask(&gateway).await.status, 200);
        assert_eq!(worker.seen().len(), count);
    }
    // The new one has its own name as `Host`.
    assert_eq!(worker.seen()[0].header("host"), Some(worker.address().to_string()));
}

#[tokio::test]
async fn every_worker_of_a_pool_keeps_its_connection() {
    let (first, second) = (Recorder::start(), Recorder::start());
    let gateway = Gateway::builder().worker(&first).worker(&second).policy(ONE_THREAD).start().await;
    while first.seen().is_empty() || second.seen().is_empty() {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    for _ in 0..6 {
        assert_eq!(ask(&gateway).await.status, 200);
    }
    assert_eq!((first.connections(), second.connections()), (1, 1));
}

/// So much patience that only the client's leaving can end anything.
const PATIENCE: &str = "[pools.models]\nanswer_timeout = \"1h\"\nbody_timeout = \"1h\"\n";

async fn leaving_frees_the_worker(http2: bool, protocol: &str) {
    let worker = Recorder::replying(Reply::never());
    let gateway = before(&worker, PATIENCE).await;
    let client = if http2 { gateway.http2() } else { gateway.client() };
    let asking = tokio::spawn(client.predict("predictor").try_send());
    worker.wait_for_requests(1).await;
    asking.abort();
    worker.wait_for_hang_ups(1).await;
    let record = gateway.log().wait_for(|line| line["log"] == "access").await;
    assert_eq!(
        (&record["reason"], &record["status"], &record["route"], &record["protocol"]),
        (&json!("client-gone"), &json!(499), &json!("predict"), &json!(protocol))
    );
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_worker_over_http_1_1() {
    leaving_frees_the_worker(false, "HTTP/1.1").await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_worker_over_http_2() {
    leaving_frees_the_worker(true, "HTTP/2").await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_frees_the_worker() {
    let reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let worker = Recorder::replying(Reply::raw(reply).stall());
    let gateway = before(&worker, PATIENCE).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = wire.head().await.expect("the head came");
    drop(wire);
    worker.wait_for_hang_ups(1).await;
    let record = gateway.log().access(&head.request_id()).await;
    assert_eq!((&record["status"], &record["bytes_out"]), (&json!(200), &json!(5)));
    assert_eq!(record["reason"], "client-gone");
}
