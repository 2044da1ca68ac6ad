//! Limits on requests in flight, which each gateway holds by itself.

use harness::{Gate, Reply, Wire, eventually};

use super::*;

/// So many at once, by principal.
fn few(count: u32) -> String {
    format!("[limits.few]\nin_flight = {count}\nby = [\"principal\"]\n")
}

const ROUTE: &str = "[routes.known]\nlimits = [\"few\"]\n";

fn held_up(gate: &Gate) -> Recorder {
    Recorder::replying(Reply::early().read_body().wait(gate).write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
}

fn ask(gateway: &Gateway, id: &str) -> harness::Request {
    gateway.client().get("/known").key(id)
}

#[tokio::test]
async fn so_many_at_once_and_not_one_more() {
    let gate = Gate::default();
    let worker = held_up(&gate);
    let gateway = Gateway::builder().worker(&worker).policy(few(3) + ROUTE).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..3 {
        clients.spawn(ask(&gateway, "reader").send());
    }
    worker.wait_for_requests(3).await;
    for client in [gateway.client(), gateway.http2()] {
        let refused = client.get("/known").key("reader").send().await;
        assert_limited(&refused, &["few"]);
        assert_eq!(refused.header("ratelimit-policy"), "\"few\";q=3;qu=\"concurrent-requests\"");
        assert_eq!(refused.header("ratelimit"), "\"few\";r=0");
        assert_eq!(refused.header("retry-after"), "1");
    }
    // Another principal has places of its own.
    clients.spawn(ask(&gateway, "admin").send());
    worker.wait_for_requests(4).await;
    gate.open();
    for answer in clients.join_all().await {
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit").starts_with("\"few\";r="), "{}", answer.header("ratelimit"));
    }
    let one = eventually("free places", async || {
        Some(ask(&gateway, "reader").send().await).filter(|it| it.header("ratelimit") == "\"few\";r=2")
    });
    assert_eq!(one.await.status, 200);
    assert_eq!(counted(&gateway, "few", "refused").await, 2);
    assert!(counted(&gateway, "few", "admitted").await >= 5);
}

#[tokio::test]
async fn a_pool_has_so_many_places_for_all_its_routes() {
    let gate = Gate::default();
    let worker = held_up(&gate);
    let policy = "[limits.few]\nin_flight = 2\nby = [\"pool\"]\n[routes.known]\nlimits = [\"few\"]\n[routes.open]\nlimits = [\"few\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(ask(&gateway, "reader").send());
    clients.spawn(gateway.client().get("/open").send());
    worker.wait_for_requests(2).await;
    assert_limited(&ask(&gateway, "admin").send().await, &["few"]);
    assert_limited(&gateway.client().get("/open").send().await, &["few"]);
    assert_eq!(worker.seen().len(), 2);
    gate.open();
    assert!(clients.join_all().await.iter().all(|answer| answer.status == 200));
}

#[tokio::test]
async fn places_are_free_again_however_their_requests_end() {
    let worker = Recorder::scripted(|_, seen| match seen.header("x-fail").as_deref() {
        Some("never") => Reply::never(),
        Some("close") => Reply::early().read_body().close(),
        Some("broken") => Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").close(),
        Some("500") => Reply::with(500, "", b""),
        _ => Reply::json(&json!({})),
    });
    let haste = "[pools.models]\nanswer_timeout = \"300ms\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(few(1) + ROUTE + haste).start().await;
    let free = async |what: &str| {
        let answer =
            eventually(what, async || Some(ask(&gateway, "reader").send().await).filter(|answer| answer.status == 200));
        assert_eq!(answer.await.header("ratelimit"), "\"few\";r=0");
    };
    for fails in ["500", "close", "broken", "never"] {
        free("a place").await;
        // One that ends just now may still have its place.
        let failed = eventually("a place", async || {
            let sent = ask(&gateway, "reader").header("x-fail", fails).try_send().await;
            match sent {
                Ok(answer) if answer.status == 429 => None,
                other => Some(other),
            }
        });
        assert!(failed.await.is_ok_and(|answer| answer.status >= 500) || fails == "broken", "{fails}");
        free(fails).await;
    }
    // Clients that leave: before the answer, and in the middle of one.
    for version in ["http/1.1", "h2"] {
        free("a place").await;
        let before = worker.seen().len();
        let client = if version == "h2" { gateway.http2() } else { gateway.client() };
        let leaving = tokio::spawn(client.get("/known").key("reader").header("x-fail", "never").send());
        worker.wait_for_requests(before + 1).await;
        leaving.abort();
        free(version).await;
    }
    // Refused for something else: a body that is not taken.
    let refused = gateway.client().request("GET", "/known").key("reader").body("x").send().await;
    assert_eq!(refused.status, 413, "{}", refused.text());
    free("a place").await;
}

#[tokio::test]
async fn a_stream_keeps_its_place_to_its_end() {
    let gate = Gate::default();
    let reply = Reply::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        .wait(&gate)
        .write("0\r\n\r\n");
    let worker = Recorder::replying(reply);
    let gateway = Gateway::builder().worker(&worker).policy(few(1) + ROUTE).start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    let key = harness::identity::key("reader");
    wire.send(format!("GET /known HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n\r\n")).await;
    let mut head = wire.head().await.expect("the head came");
    assert_limited(&ask(&gateway, "reader").send().await, &["few"]);
    gate.open();
    wire.body(&mut head).await.expect("the whole body");
    let next = eventually("a place", async || Some(ask(&gateway, "reader").send().await).filter(|it| it.status == 200));
    assert_eq!(next.await.text(), "hello");
}

#[tokio::test]
async fn places_and_windows_stand_side_by_side() {
    let gate = Gate::default();
    let worker = held_up(&gate);
    let policy = few(2) + &limit("each", "quota = 3") + "[routes.known]\nlimits = [\"few\", \"each\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..2 {
        clients.spawn(ask(&gateway, "reader").send());
    }
    worker.wait_for_requests(2).await;
    for _ in 0..5 {
        assert_limited(&ask(&gateway, "reader").send().await, &["few"]);
    }
    gate.open();
    clients.join_all().await;
    // No window counted those that found no place.
    let last = eventually("a place", async || {
        Some(ask(&gateway, "reader").send().await).filter(|it| it.header("retry-after") != "1")
    });
    let last = last.await;
    assert_eq!(last.status, 200, "{}", last.text());
    let both = |answer: &Answer, name: &str| {
        ["few", "each"].map(|limit| answer.header(name).contains(&format!("\"{limit}\";")))
    };
    assert_eq!(
        (both(&last, "ratelimit"), both(&last, "ratelimit-policy")),
        ([true; 2], [true; 2]),
        "{:?}",
        last.headers
    );
    assert_eq!(left(&last, "ratelimit", "each"), Some(0));
    // What the window says when it refuses is not lost behind what the places say.
    let refused = eventually("a place", async || {
        Some(ask(&gateway, "reader").send().await).filter(|it| it.header("retry-after") != "1")
    });
    let refused = refused.await;
    assert_limited(&refused, &["each"]);
    assert!(both(&refused, "ratelimit")[1] && both(&refused, "ratelimit-policy")[1], "{:?}", refused.headers);
    assert_eq!(left(&refused, "ratelimit", "each"), Some(0));
    // The tightest first.
    assert!(refused.header("ratelimit").starts_with("\"each\";r=0;"), "{}", refused.header("ratelimit"));
    assert!(refused.header("ratelimit-policy").starts_with("\"each\";"), "{}", refused.header("ratelimit-policy"));
}

#[tokio::test]
async fn places_can_be_tried_out_and_differ_by_role() {
    let gate = Gate::default();
    let worker = held_up(&gate);
    let policy = few(1)
        + "when_full = \"shadow\"\n[limits.strict]\nin_flight = 1\nby = [\"principal\"]\n[limits.strict.roles]\npredictor = 2\n\
                           [routes.known]\nlimits = [\"few\", \"strict\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(ask(&gateway, "admin").send());
    worker.wait_for_requests(1).await;
    clients.spawn(ask(&gateway, "admin").send());
    worker.wait_for_requests(2).await;
    let refused = ask(&gateway, "admin").send().await;
    assert_limited(&refused, &["strict"]);
    assert_eq!(refused.header("ratelimit-policy"), "\"strict\";q=2;qu=\"concurrent-requests\"");
    gate.open();
    clients.join_all().await;
    assert_eq!((counted(&gateway, "few", "admitted").await, counted(&gateway, "few", "shadowed").await), (1, 1));
    gateway.log().wait_for(|line| line["log"] == "access" && line["would_refuse"] == "few").await;
}

#[tokio::test]
async fn two_hundred_at_once_get_no_place_too_many() {
    let worker = Recorder::scripted(|_, _| Reply::json(&json!({})));
    let gateway = Gateway::builder().worker(&worker).policy(few(5) + ROUTE).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        let client = if number % 2 == 0 { gateway.http2() } else { gateway.client() };
        clients.spawn(client.get("/known").key("reader").send());
    }
    for answer in clients.join_all().await {
        assert!([200, 429].contains(&answer.status), "{}", answer.text());
    }
    eventually("all places are free", async || {
        (ask(&gateway, "reader").send().await.header("ratelimit") == "\"few\";r=4").then_some(())
    })
    .await;
}
