//! Stopping: what was begun is finished, what has not begun is turned away, and nothing is lost in between.

use std::io;

use harness::client::flower;
use harness::identity::key;
use harness::wire::plain;
use harness::{Client, Gate, Gateway, Recorder, Reply, Wire, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Answers when the gate is opened.
fn behind(gate: &Gate) -> Recorder {
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"label\":\"setosa\"}";
    Recorder::replying(Reply::early().read_body().wait(gate).write(answer))
}

/// A prediction in octets.
fn prediction() -> String {
    let (key, body) = (key("predictor"), flower().to_string());
    format!(
        "POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn in_flight_requests_are_finished(signal: &str) {
    let gate = Gate::default();
    let worker = behind(&gate);
    let mut gateway = Gateway::before(&worker).await;
    let http2 = gateway.http2().connect().await;
    let mut asking: Vec<_> = (0..3).map(|_| tokio::spawn(gateway.client().predict("predictor").send())).collect();
    for _ in 0..3 {
        let (mut stream, request) = (http2.beside(), gateway.http2().predict("predictor"));
        asking.push(tokio::spawn(async move { stream.send(request).await }));
    }
    worker.wait_for_requests(6).await;
    gateway.signal(signal);
    let stopping = gateway.log().event("stopping").await;
    assert_eq!(stopping["signal"], format!("SIG{signal}"));

    // No new connection, and no more readiness, while the others are being finished.
    let refused =
        eventually("new connections to be refused", async || TcpStream::connect(gateway.address()).await.err());
    assert_eq!(refused.await.kind(), io::ErrorKind::ConnectionRefused);
    let ready = plain(gateway.admin(), "GET", "/readyz").await;
    assert_eq!((ready.status, &ready.json()["checks"]["gateway"]), (503, &json!("stopping")));
    assert_eq!(plain(gateway.admin(), "GET", "/livez").await.status, 200);
    assert_eq!(asking.iter().filter(|asking| asking.is_finished()).count(), 0, "they are still in flight");

    gate.open();
    for (index, asking) in asking.into_iter().enumerate() {
        let answer = asking.await.expect("it was asked");
        assert_eq!((answer.status, &answer.json()["label"]), (200, &json!("setosa")), "{index}");
        let connection = if index < 3 { "close" } else { "" };
        assert_eq!(answer.header("connection"), connection, "{index}");
    }
    drop(http2);
    assert_eq!(gateway.ended().await.code(), Some(0));
    let predictions = worker.seen().iter().filter(|seen| seen.line().contains("/predict")).count();
    assert_eq!(predictions, 6, "beside one question for readiness");
    let log = gateway.log();
    assert_eq!(log.matching(|line| line["log"] == "access" && line["status"] == 200).len(), 6, "each has its record");
    assert_eq!(log.all().last().expect("lines")["event"], "stopped");
}

#[tokio::test]
async fn in_flight_requests_are_finished_after_sigterm() {
    in_flight_requests_are_finished("TERM").await;
}

#[tokio::test]
async fn in_flight_requests_are_finished_after_sigint() {
    in_flight_requests_are_finished("INT").await;
}

/// Asks until the gateway says that it closes; gives back how many answers came. The number of requests that
/// were sent is the same, or this fails.
async fn ask_until_told_to_stop(client: Client) -> usize {
    let mut wire = Wire::open(&client).await;
    let prediction = prediction();
    let mut answers = 0;
    loop {
        wire.send(&prediction).await;
        let answer = wire.try_answer().await.expect("what was sent is answered");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answers += 1;
        if answer.header("connection") == "close" {
            wire.closed().await.expect("nothing behind the last answer");
            return answers;
        }
    }
}

#[tokio::test]
async fn no_request_is_lost_under_load() {
    let worker = Recorder::start();
    let mut gateway = Gateway::before(&worker).await;
    let clients: Vec<_> = (0..8).map(|_| tokio::spawn(ask_until_told_to_stop(gateway.client()))).collect();
    worker.wait_until(|seen| seen.len() >= 300).await;
    gateway.signal("TERM");
    let mut answers = 0;
    for client in clients {
        answers += client.await.expect("each request gets its answer");
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(answers, worker.seen().len(), "as many answers as the worker saw requests");
    let recorded = gateway.log().matching(|line| line["log"] == "access" && line["status"] == 200).len();
    assert_eq!(recorded, answers);
}

#[tokio::test]
async fn no_request_that_was_taken_is_lost_over_http_2() {
    let worker = Recorder::start();
    let mut gateway = Gateway::before(&worker).await;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let client = gateway.http2();
            tokio::spawn(async move {
                let mut connection = client.connect().await;
                let mut answers = 0;
                // After GOAWAY nothing more can be sent, and what was not taken was not served (RFC 9113 §6.8).
                while let Ok(answer) = connection.try_send(client.predict("predictor")).await {
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    worker.wait_until(|seen| seen.len() >= 300).await;
    gateway.signal("TERM");
    let mut answers: usize = 0;
    for client in clients {
        answers += client.await.expect("a client");
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(answers, worker.seen().len(), "as many answers as the worker saw requests");
}

#[tokio::test]
async fn a_request_that_is_on_its_way_is_still_answered() {
    let worker = Recorder::start();
    let mut gateway = Gateway::before(&worker).await;
    let mut begun = Wire::open(&gateway.client()).await;
    let mut kept = Wire::open(&gateway.client()).await;
    kept.send(prediction()).await;
    assert_eq!(kept.answer().await.status, 200);
    let prediction = prediction();
    let (first, second) = prediction.split_at(30);
    begun.send(first).await;
    gateway.signal("TERM");
    gateway.log().event("stopping").await;
    begun.send(second).await;
    kept.send(&prediction).await;
    for wire in [&mut begun, &mut kept] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.header("connection").as_str()), (200, "close"));
        wire.closed().await.expect("nothing more");
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert_eq!(worker.seen().len(), 3);
}

#[tokio::test]
async fn connections_without_a_request_do_not_hold_the_end_up() {
    let worker = Recorder::start();
    let mut gateway = Gateway::builder().worker(&worker).policy("[listener]\ndrain = \"1h\"\n").start().await;
    let mut fresh = Wire::open(&gateway.client()).await;
    let mut idle = Wire::open(&gateway.client()).await;
    idle.send(prediction()).await;
    assert_eq!(idle.answer().await.status, 200);
    let http2 = gateway.http2().connect().await;
    assert_eq!(http2.beside().send(gateway.http2().predict("predictor")).await.status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    fresh.closed().await.expect("closed without a word");
    idle.closed().await.expect("closed without a word");
}

#[tokio::test]
async fn http_2_is_told_by_goaway() {
    let worker = Recorder::start();
    let mut gateway = Gateway::before(&worker).await;
    let mut stream = gateway.http2().tls().await;
    // The client's preface and empty settings (RFC 9113 §3.4).
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("it takes them");
    let mut octets = vec![0; 9];
    stream.read_exact(&mut octets).await.expect("its own settings come first");
    gateway.signal("TERM");
    // However it ends, what came before it counts.
    let _ = stream.read_to_end(&mut octets).await;
    let mut frames = Vec::new();
    let mut rest = &octets[..];
    while let [a, b, c, kind, tail @ ..] = rest {
        frames.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        rest = tail.get(5 + length..).unwrap_or_default();
    }
    assert!(frames.contains(&7), "GOAWAY among the types of frames {frames:?}");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn whoever_takes_too_long_is_left_behind() {
    let worker = Recorder::replying(Reply::never());
    let overlay = "[listener]\ndrain = \"300ms\"\n[pools.models]\nanswer_timeout = \"1h\"\n";
    let mut gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let asking = tokio::spawn(gateway.client().predict("predictor").try_send());
    worker.wait_for_requests(1).await;
    assert_eq!(gateway.stop().await.code(), Some(0));
    assert!(asking.await.expect("it was asked").is_err(), "there was no answer to give");
    worker.wait_for_hang_ups(1).await;
}
