//! What a limit does where there is no room, beside refusing: hold the request, or only say so.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use harness::Wire;

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    requests_are_held_and_served_in_the_order_of_arrival
    a_wait_that_would_be_too_long_is_not_begun
    only_so_many_are_held
    nobody_overtakes_those_who_are_held
    others_are_not_delayed
    whoever_leaves_makes_room_for_the_next
    a_request_that_never_has_room_is_not_held
    a_limit_that_refuses_goes_before_one_that_holds
    a_shadow_refuses_nobody_and_says_so
    a_shadow_does_not_keep_others_from_counting
}

fn holding(quota: u32, window: &str, rest: &str) -> String {
    limit("held", &format!("quota = {quota}\nwindow = \"{window}\"\nwhen_full = \"throttle\"\n{rest}"))
        + "[routes.known]\nlimits = [\"held\"]\n"
}

fn ask(gateway: &Gateway, id: &str) -> harness::Request {
    gateway.client().get("/known").key(id)
}

async fn requests_are_held_and_served_in_the_order_of_arrival(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &holding(1, "1s", "max_delay = \"20s\"")).await;
    assert_eq!(ask(&gateway, "reader").send().await.status, 200);
    let began = Instant::now();
    let order: Arc<Mutex<Vec<usize>>> = Arc::default();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (request, order) = (ask(&gateway, "reader").header("x-number", &number.to_string()), Arc::clone(&order));
        clients.spawn(async move {
            let answer = request.send().await;
            order.lock().expect("nobody panics").push(number);
            answer
        });
        // Each stands behind the one before.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    for answer in clients.join_all().await {
        assert_eq!((answer.status, left(&answer, "ratelimit", "held")), (200, Some(0)), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), "");
    }
    assert_eq!(*order.lock().expect("nobody panics"), [0, 1, 2, 3]);
    assert!(
        began.elapsed() >= Duration::from_millis(3900),
        "{:?}: the window holds for those who waited",
        began.elapsed()
    );
    let numbers: Vec<String> = worker.seen().iter().filter_map(|seen| seen.header("x-number")).collect();
    assert_eq!(numbers, ["0", "1", "2", "3"]);
    assert_eq!(counted(&gateway, "held", "throttled").await, 4);
    assert_eq!(counted(&gateway, "held", "admitted").await, 5);
    assert_eq!(counted(&gateway, "held", "refused").await, 0);
}

async fn a_wait_that_would_be_too_long_is_not_begun(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &holding(1, "60s", "max_delay = \"20s\"")).await;
    assert_eq!(ask(&gateway, "reader").send().await.status, 200);
    let began = Instant::now();
    let refused = ask(&gateway, "reader").send().await;
    assert_limited(&refused, &["held"]);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!((55..=60).contains(&retry_after(&refused).as_secs()));
    assert_eq!(worker.seen().len(), 1);
}

async fn only_so_many_are_held(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &holding(1, "4s", "max_delay = \"30s\"\nmax_held = 2")).await;
    assert_eq!(ask(&gateway, "reader").send().await.status, 200);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(ask(&gateway, "reader").send());
    }
    let mut refused = 0;
    while refused < 6 {
        // Those who are refused are told at once, before anybody who waits is served.
        let answer = clients.join_next().await.expect("eight asked").expect("nobody panics");
        assert_limited(&answer, &["held"]);
        refused += 1;
    }
    // Who waits loses their place by leaving.
    clients.abort_all();
    while clients.join_next().await.is_some() {}
    assert_eq!(counted(&gateway, "held", "refused").await, 6);
}

async fn nobody_overtakes_those_who_are_held(store: Store) {
    let worker = Recorder::start();
    let policy = holding(1, "1s", "by = [\"route\"]\nmax_delay = \"15s\"\nmax_held = 2");
    let gateway = store.start(&worker, &policy).await;
    assert_eq!(ask(&gateway, "admin").send().await.status, 200);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..2 {
        held.spawn(ask(&gateway, "second").send());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    // More than may be held: they are refused at once, again and again, and one of them is always there first.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (stop, client) = (Arc::clone(&stop), gateway.client());
        flood.spawn(async move {
            let mut connection = client.connect().await;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let sent = connection.try_send(client.get("/known").key("reader").header("x-flood", "1")).await;
                // A connection has an end after so many requests.
                if sent.is_err() {
                    connection = client.connect().await;
                }
            }
        });
    }
    for answer in held.join_all().await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    flood.join_all().await;
    let first: Vec<bool> = worker.seen().iter().take(2).map(|seen| seen.header("x-flood").is_some()).collect();
    assert_eq!(first, [false, false], "the one who had room, and the first who was held");
}

async fn others_are_not_delayed(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &holding(1, "20s", "max_delay = \"30s\"")).await;
    let mut greedy = tokio::task::JoinSet::new();
    for _ in 0..20 {
        greedy.spawn(ask(&gateway, "reader").send());
    }
    worker.wait_for_requests(1).await;
    let began = Instant::now();
    for id in ["admin", "second", "nobody"] {
        assert_eq!(ask(&gateway, id).send().await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(worker.seen().len(), 4);
    greedy.abort_all();
}

async fn whoever_leaves_makes_room_for_the_next(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &holding(1, "1s", "max_delay = \"10s\"\nmax_held = 1")).await;
    let key = harness::identity::key("reader");
    let head = format!("GET /known HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n\r\n");
    for _ in 0..3 {
        // The place is free again, or this one would be refused.
        let answer = harness::eventually("a place", async || {
            Some(ask(&gateway, "reader").send().await).filter(|answer| answer.status == 200)
        });
        answer.await;
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(&head).await;
        // It waits; whoever comes now is refused.
        harness::eventually("it waits", async || (ask(&gateway, "reader").send().await.status == 429).then_some(()))
            .await;
        drop(wire);
    }
    gateway.log().wait_for(|line| line["reason"] == "client-gone").await;
}

async fn a_request_that_never_has_room_is_not_held(store: Store) {
    let worker = Recorder::start();
    let policy = limit("rows", "quota = 5\ncost = \"rows\"\nwhen_full = \"throttle\"\nmax_delay = \"60s\"")
        + &any_json("[\"rows\"]");
    let gateway = store.start(&worker, &policy).await;
    let began = Instant::now();
    let send = || gateway.client().post("/any").key("predictor").json(&json!([1, 2, 3, 4, 5, 6])).send();
    send().await.assert_problem(413, "limit-too-small");
    assert!(began.elapsed() < Duration::from_secs(10));
    worker.assert_untouched();
}

async fn a_limit_that_refuses_goes_before_one_that_holds(store: Store) {
    let worker = Recorder::start();
    let policy = holding(1, "2s", "max_delay = \"30s\"") + &limit("hard", "quota = 1") + "[routes.known.x]\n";
    let policy =
        policy.replace("[routes.known.x]\n", "").replace("limits = [\"held\"]", "limits = [\"held\", \"hard\"]");
    let gateway = store.start(&worker, &policy).await;
    assert_eq!(ask(&gateway, "reader").send().await.status, 200);
    let began = Instant::now();
    let refused = ask(&gateway, "reader").send().await;
    assert_limited(&refused, &["held", "hard"]);
    assert!(began.elapsed() < Duration::from_secs(10));
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_limited(&ask(&gateway, "reader").send().await, &["hard"]);
}

async fn a_shadow_refuses_nobody_and_says_so(store: Store) {
    let worker = Recorder::start();
    let policy = limit("tried", "quota = 2\nwhen_full = \"shadow\"")
        + &limit("each", "quota = 10")
        + "[routes.known]\nlimits = [\"tried\", \"each\"]\n";
    let gateway = store.start(&worker, &policy).await;
    for number in 0..6 {
        let answer = ask(&gateway, "reader").send().await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, "\"each\";q=10;w=60".into()));
        assert_eq!(left(&answer, "ratelimit", "each"), Some(9 - number));
        assert!(!answer.header("ratelimit").contains("tried"), "{}", answer.header("ratelimit"));
        let record = gateway.log().access(&answer.request_id()).await;
        let expected = if number < 2 { json!(null) } else { json!("tried") };
        assert_eq!(record["would_refuse"], expected, "{record}");
    }
    for (outcome, count) in [("admitted", 2), ("shadowed", 4), ("refused", 0)] {
        assert_eq!(counted(&gateway, "tried", outcome).await, count, "{outcome}");
    }
    assert_eq!(counted(&gateway, "each", "admitted").await, 6);
    assert_eq!(worker.seen().len(), 6);
}

async fn a_shadow_does_not_keep_others_from_counting(store: Store) {
    let worker = Recorder::start();
    let policy = limit("tried", "quota = 1\nwhen_full = \"shadow\"")
        + &limit("each", "quota = 3")
        + "[routes.known]\nlimits = [\"tried\", \"each\"]\n";
    let gateway = store.start(&worker, &policy).await;
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "reader").send().await.status, 200);
    }
    for _ in 0..3 {
        let refused = ask(&gateway, "reader").send().await;
        assert_limited(&refused, &["each"]);
        assert!(!refused.text().contains("tried") && !refused.header("ratelimit").contains("tried"));
    }
    assert_eq!(counted(&gateway, "each", "refused").await, 3);
    assert_eq!(counted(&gateway, "tried", "refused").await, 0);
    let shadow = "[limits.wide]\nwhen_full = \"shadow\"\nquota = 1\n";
    let gateway = store.start(&worker, shadow).await;
    for _ in 0..3 {
        // One that is asked alone, with 413 out of reach too.
        let answer = gateway.client().get("/models").key("reader").send().await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, String::new()));
    }
}
