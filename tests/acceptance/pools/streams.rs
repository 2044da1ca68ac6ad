//! Answers that come bit by bit, and connections that become something else than HTTP.

use harness::client::flower;
use harness::identity::key;
use harness::{Gate, Gateway, Recorder, Reply, StreamWorker, Wire};

use super::ONE_THREAD;

#[tokio::test]
async fn an_event_reaches_the_client_before_the_next_is_written() {
    for (head, ends) in [("Transfer-Encoding: chunked", "0\r\n\r\n"), ("Connection: close", "")] {
        let gate = Gate::default();
        let chunked = !ends.is_empty();
        let event = move |text: &str| {
            let text = format!("data: {text}\n\n");
            if chunked { format!("{:x}\r\n{text}\r\n", text.len()) } else { text }
        };
        let reply = Reply::early()
            .read_body()
            .write(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{head}\r\n\r\n"))
            .write(event("one"))
            .wait(&gate)
            .write(event("two") + ends);
        let worker = Recorder::replying(if chunked { reply } else { reply.close() });
        let gateway = Gateway::builder().worker(&worker).policy(ONE_THREAD).start().await;
        let mut wire = Wire::open(&gateway.client()).await;
        let body = flower().to_string();
        let request = format!(
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            key("predictor"),
            body.len(),
        );
        wire.send(request).await;
        let answer = wire.head().await.expect("the head came");
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/event-stream".into()));
        let first = wire.until("data: one\n\n").await;
        assert!(!first.contains("two"));
        gate.open();
        assert!(wire.rest().await.contains("data: two\n\n"));
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What answers that key (RFC 6455 §1.3).
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nServer: secret\r\n\r\n";
const SOCKET: &str = "[routes.socket]\npath = \"/socket\"\nmethods = [\"GET\"]\npool = \"models\"\nauthorize = [\"reader\"]\n\
                      cors = \"browser\"\nupgrade = [\"websocket\"]\n";

async fn before(worker: &Recorder, more: &str) -> Gateway {
    Gateway::builder().worker(worker).policy(ONE_THREAD).policy(SOCKET).policy(more).start().await
}

fn asking(path: &str, more: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: chat\r\n{more}\r\n"
    )
}

fn credential() -> String {
    format!("X-API-Key: {}\r\n", key("reader"))
}

#[tokio::test]
async fn a_websocket_passes_both_ways_until_one_side_ends_it() {
    // What follows the answer is no HTTP; the recorder reads up to an empty line all the same.
    let worker = Recorder::scripted(|number, _| match number {
        0 => Reply::early().write(format!("{ACCEPTED}welcome")),
        1 => Reply::early().write("\x01\u{0}back"),
        _ => Reply::early().write("bye").close(),
    });
    let gateway = before(&worker, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &credential())).await;
    let answer = wire.head().await.expect("an answer");
    assert_eq!(answer.status, 101);
    assert_eq!((answer.header("upgrade"), answer.header("connection")), ("websocket".into(), "upgrade".into()));
    assert_eq!(answer.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(!answer.headers.contains_key("server"));
    assert_eq!(wire.until("welcome").await, "welcome");
    wire.send("\u{0}\x02 forth\r\n\r\n").await;
    assert_eq!(wire.until("back").await, "\x01\u{0}back");
    wire.send("enough\r\n\r\n").await;
    assert_eq!(wire.rest().await, "bye");
    let seen = worker.seen();
    assert_eq!(
        (seen[0].header("upgrade").as_deref(), seen[0].header("connection").as_deref()),
        (Some("websocket"), Some("upgrade"))
    );
    assert_eq!(
        (seen[0].header("sec-websocket-protocol").as_deref(), seen[0].header("x-api-key")),
        (Some("chat"), None)
    );
    assert_eq!((seen[1].text().as_str(), seen[0].connection, seen[1].connection), ("\u{0}\x02 forth\r\n\r\n", 0, 0));
    let ended = gateway.log().event("websocket-ended").await;
    assert_eq!((&ended["request_id"], &ended["cause"]), (&answer.request_id().into(), &"closed".into()));
    assert_eq!((&ended["to_client"], &ended["to_worker"]), (&"16".into(), &"22".into()), "{ended}");
    assert_eq!(gateway.log().access(&answer.request_id()).await["status"], 101);
}

#[tokio::test]
async fn every_check_comes_before_a_websocket() {
    let worker = Recorder::replying(Reply::raw(ACCEPTED));
    let gateway = before(&worker, "").await;
    let foreign = format!("{}Origin: https://evil.example.com\r\n", credential());
    for (more, status) in [("", 401), ("X-API-Key: x\r\n", 401), (&*foreign, 403)] {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(asking("/socket", more)).await;
        assert_eq!(wire.answer().await.status, status);
    }
    worker.assert_untouched();
    let own = format!("{}Origin: https://app.example.com\r\n", credential());
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &own)).await;
    assert_eq!(wire.head().await.expect("an answer").status, 101);
}

#[tokio::test]
async fn where_no_route_allows_it_nothing_is_switched() {
    let worker = Recorder::replying(Reply::raw(ACCEPTED));
    let gateway = before(&worker, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/known", &credential())).await;
    wire.answer().await.assert_problem(502, "worker-broken");
    let seen = worker.only();
    assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None));
    // Over HTTP/2 nobody can ask for it in this way (RFC 9113 §8.2.2).
    gateway.http2().get("/socket").key("reader").send().await.assert_problem(502, "worker-broken");
    // Neither is a worker believed that did not read the key.
    let liar = Recorder::replying(Reply::raw(ACCEPTED.replace("s3pP", "s3pQ")));
    let gateway = before(&liar, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &credential())).await;
    wire.answer().await.assert_problem(502, "worker-broken");
    // And what it answers in place of switching is passed on.
    let other = Recorder::replying(Reply::with(404, "", b"none"));
    let gateway = before(&other, "").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &credential())).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "none"));
}

#[tokio::test]
async fn a_websocket_that_nobody_uses_or_that_is_old_is_closed() {
    for (bound, cause) in [("websocket_idle_timeout", "idle"), ("max_websocket_age", "too old")] {
        let worker = Recorder::replying(Reply::early().write(ACCEPTED).stall());
        let gateway = before(&worker, &format!("[pools.models]\n{bound} = \"200ms\"\n")).await;
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(asking("/socket", &credential())).await;
        assert_eq!(wire.head().await.expect("an answer").status, 101);
        assert_eq!(wire.rest().await, "");
        assert_eq!(gateway.log().event("websocket-ended").await["cause"], cause);
        worker.wait_for_hang_ups(1).await;
    }
}

#[tokio::test]
async fn a_websocket_is_told_when_the_gateway_stops_and_does_not_hold_it_up() {
    for half in [false, true] {
        let gate = Gate::default();
        let (first, rest) = if half { ("\u{1}\u{5}he", "llo") } else { ("\u{1}\u{5}hello", "") };
        let worker = {
            let gate = gate.clone();
            let opened = Reply::early().write(format!("{ACCEPTED}{first}"));
            Recorder::replying(if half { opened.wait(&gate).write(rest).stall() } else { opened.stall() })
        };
        let mut gateway = before(&worker, "[listener]\ndrain = \"1h\"\n").await;
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(asking("/socket", &credential())).await;
        assert_eq!(wire.head().await.expect("an answer").status, 101);
        assert_eq!(wire.until("he").await, "\u{1}\u{5}he");
        gateway.signal("TERM");
        gate.open();
        // The frame that has begun comes whole, and Close with 1001 behind it (RFC 6455 §7.4.1).
        let expected = [b"llo", &[0x88, 2, 0x03, 0xe9][..]].concat();
        assert_eq!(wire.rest().await, String::from_utf8_lossy(&expected));
        assert_eq!(gateway.log().event("websocket-ended").await["cause"], "stopping");
        worker.wait_for_hang_ups(1).await;
        assert!(gateway.ended().await.success());
    }
}

#[tokio::test]
async fn a_websocket_keeps_its_places_until_it_ends() {
    let worker = Recorder::replying(Reply::early().write(ACCEPTED).stall());
    let one = "[limits.one]\nin_flight = 1\nby = [\"principal\"]\n[routes.socket]\nlimits = [\"one\"]\n[pools.models]\nmax_connections = 1\n";
    let gateway = before(&worker, one).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &credential())).await;
    assert_eq!(wire.head().await.expect("an answer").status, 101);
    gateway.client().get("/socket").key("reader").send().await.assert_problem(429, "limit-exceeded");
    drop(wire);
    gateway.log().event("websocket-ended").await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(asking("/socket", &credential())).await;
    assert_eq!(wire.head().await.expect("an answer").status, 101);
}

#[tokio::test]
async fn what_upgrades_need_is_said_at_the_start() {
    let streams = StreamWorker::start().await;
    let overlay = SOCKET.replace("\"GET\"", "\"POST\"").replace("[\"websocket\"]", "[\"websocket\", \"h2c\"]");
    let pool = "[pools.models]\nprotocol = \"http2\"\n";
    let output = Gateway::builder().worker(&streams).policy(overlay).policy(pool).output("check");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in ["routes.socket.upgrade", "routes.socket.upgrade.1", "routes.socket.methods"] {
        assert!(text.lines().any(|line| line.ends_with(&format!("  {key}"))), "{key} is not in\n{text}");
    }
}
