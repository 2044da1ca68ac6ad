//! A lost Redis, and limits that do more than refuse: nothing hangs, nothing panics, and all go on by themselves.

use std::time::Instant;

use harness::{Reply, eventually};

use super::*;

/// How long anything may take while there is no Redis, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

struct World {
    redis: Redis,
    gateway: Gateway,
    worker: Recorder,
}

impl World {
    async fn new(policy: &str) -> Self {
        let worker = Recorder::scripted(|_, seen| match seen.header("x-fail").as_deref() {
            None => Reply::json(&json!({ "usage": { "total_tokens": 7 } })),
            Some(_) => Reply::with(500, "", b""),
        });
        let redis = Redis::start().await;
        let store = "[store]\ntimeout = \"200ms\"\n";
        let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).policy(store).start().await;
        Self { redis, gateway, worker }
    }

    async fn ask(&self) -> Answer {
        let began = Instant::now();
        let answer = self.gateway.client().get("/known").key("reader").send().await;
        assert!(began.elapsed() < SOON, "{:?}: {}", began.elapsed(), answer.text());
        answer
    }

    async fn assert_sound(mut self) {
        assert!(!self.gateway.log().text().contains("panicked"), "{}", self.gateway.log().text());
        assert!(self.gateway.stop().await.success());
        assert!(!self.gateway.log().text().contains("panicked"), "{}", self.gateway.log().text());
    }
}

const ROUTE: &str = "[routes.known]\nlimits = [\"here\"]\n";

#[tokio::test]
async fn a_gateway_admits_its_share() {
    let mut world =
        World::new(&(limit("here", "quota = 10\nstore_lost = \"local\"\nlocal_percent = 25") + ROUTE)).await;
    assert_eq!(left(&world.ask().await, "ratelimit", "here"), Some(9));
    world.redis.kill();
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(world.ask().await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429, 429]);
    assert_eq!(counted(&world.gateway, "here", "fallback").await, 5);
    assert_eq!(total(&world.gateway, "modelgate_store_losses_total").await, 1);
    world.redis.revive().await;
    eventually("Redis counts again", async || (left(&world.ask().await, "ratelimit", "here") >= Some(5)).then_some(()))
        .await;
    world.assert_sound().await;
}

#[tokio::test]
async fn what_a_share_never_has_room_for_is_not_held() {
    let policy = limit(
        "rows",
        "quota = 100\ncost = \"rows\"\nstore_lost = \"local\"\nlocal_percent = 10\nwhen_full = \"throttle\"\nmax_delay = \"60s\"",
    ) + &any_json("[\"rows\"]");
    let mut world = World::new(&policy).await;
    world.redis.kill();
    let began = Instant::now();
    let answer = world.gateway.client().post("/any").key("predictor").json(&json!(vec![0; 50])).send().await;
    assert!([413, 429].contains(&answer.status), "{}", answer.text());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    world.worker.assert_untouched();
    world.assert_sound().await;
}

#[tokio::test]
async fn who_is_held_is_told_when_redis_goes_away() {
    let policy =
        limit("here", "quota = 1\nwindow = \"3s\"\nwhen_full = \"throttle\"\nmax_delay = \"30s\"\nmax_held = 50")
            + ROUTE;
    let mut world = World::new(&policy).await;
    assert_eq!(world.ask().await.status, 200);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..10 {
        clients.spawn(world.gateway.client().get("/known").key("reader").send());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.redis.kill();
    let began = Instant::now();
    for answer in clients.join_all().await {
        // Who is at the head of the queue may know how long it has to wait, and is told then.
        answer.assert_problem(503, "limit-store-lost");
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    world.assert_sound().await;
}

#[tokio::test]
async fn holding_goes_on_in_this_process() {
    let policy = limit(
        "here",
        "quota = 1\nwindow = \"1s\"\nstore_lost = \"local\"\nwhen_full = \"throttle\"\nmax_delay = \"20s\"",
    ) + ROUTE;
    let mut world = World::new(&policy).await;
    world.redis.kill();
    let began = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        clients.spawn(world.gateway.client().get("/known").key("reader").send());
    }
    for answer in clients.join_all().await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(began.elapsed() >= Duration::from_millis(2900), "{:?}", began.elapsed());
    world.assert_sound().await;
}

#[tokio::test]
async fn a_shadow_is_no_reason_to_refuse() {
    let policy = limit("tried", "quota = 1\nwhen_full = \"shadow\"")
        + &limit("here", "quota = 3\nstore_lost = \"local\"")
        + "[routes.known]\nlimits = [\"tried\", \"here\"]\n[routes.models]\nlimits = [\"tried\"]\n";
    let mut world = World::new(&policy).await;
    world.redis.kill();
    for status in [200, 200, 200, 429] {
        assert_eq!(world.ask().await.status, status);
    }
    for _ in 0..3 {
        let answer = world.gateway.client().get("/models").key("reader").send().await;
        assert_eq!((answer.status, answer.header("ratelimit")), (200, String::new()));
    }
    world.assert_sound().await;
}

#[tokio::test]
async fn what_is_given_back_goes_where_it_was_counted() {
    let policy = limit("here", "quota = 2\ngive_back = true\nstore_lost = \"local\"") + ROUTE;
    let mut world = World::new(&policy).await;
    let fail = async || world.gateway.client().get("/known").key("reader").header("x-fail", "1").send().await.status;
    for _ in 0..6 {
        eventually("room in Redis", async || (fail().await == 502).then_some(())).await;
    }
    world.redis.kill();
    let fail = async || world.gateway.client().get("/known").key("reader").header("x-fail", "1").send().await.status;
    for _ in 0..6 {
        eventually("room here", async || (fail().await == 502).then_some(())).await;
    }
    for status in [200, 200, 429] {
        let found =
            eventually("an answer", async || Some(world.ask().await.status).filter(|it| *it == status || *it == 200));
        assert_eq!(found.await, status);
    }
    world.assert_sound().await;
}

#[tokio::test]
async fn answers_are_settled_here_too() {
    let policy = limit(
        "here",
        "quota = 100\ncost = \"answer\"\nanswer_at = \"/usage/total_tokens\"\nreserve = 60\nstore_lost = \"local\"",
    ) + ROUTE;
    let mut world = World::new(&policy).await;
    world.redis.kill();
    for _ in 0..5 {
        eventually("room for the reserve", async || (world.ask().await.status == 200).then_some(())).await;
    }
    eventually("it is full", async || (world.ask().await.status == 429).then_some(())).await;
    world.assert_sound().await;
}

#[tokio::test]
async fn places_need_no_redis() {
    let policy = "[limits.few]\nin_flight = 2\nby = [\"principal\"]\n".to_owned()
        + &limit("here", "quota = 3\nstore_lost = \"allow\"")
        + "[routes.known]\nlimits = [\"few\", \"here\"]\n";
    let mut world = World::new(&policy).await;
    world.redis.kill();
    for _ in 0..6 {
        let answer = world.ask().await;
        assert_eq!(
            (answer.status, answer.header("ratelimit-policy")),
            (200, "\"few\";q=2;qu=\"concurrent-requests\"".into())
        );
    }
    // Refused for want of a store: their places are free again.
    let strict = policy.replace("allow", "deny");
    let gateway = Gateway::builder().worker(&world.worker).redis(&world.redis).policy(strict).start().await;
    for _ in 0..6 {
        let answer = gateway.client().get("/known").key("reader").send().await;
        answer.assert_problem(503, "limit-store-lost");
    }
    world.assert_sound().await;
}

#[tokio::test]
async fn a_redis_that_comes_and_goes_under_load_holds_up_nobody() {
    let policy = limit("here", "quota = 100000\nstore_lost = \"local\"\ngive_back = true")
        + &limit("tried", "quota = 5\nwhen_full = \"shadow\"")
        + &limit("held", "quota = 100000\nstore_lost = \"allow\"\nwhen_full = \"throttle\"\nby = [\"address\"]")
        + "[limits.few]\nin_flight = 100\nby = [\"principal\"]\n[routes.known]\nlimits = [\"here\", \"tried\", \"held\", \"few\"]\n";
    let mut world = World::new(&policy).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (stop, client) = (std::sync::Arc::clone(&stop), world.gateway.client());
        clients.spawn(async move {
            let mut connection = client.connect().await;
            let (mut count, mut slowest) = (0, Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let request = client.get("/known").key("reader");
                let request = if number == 0 { request.header("x-fail", "1") } else { request };
                let began = Instant::now();
                let answer = connection.send(request).await;
                assert_eq!(answer.status, if number == 0 { 502 } else { 200 }, "{}", answer.text());
                slowest = slowest.max(began.elapsed());
                count += 1;
            }
            (count, slowest)
        });
    }
    for round in 0..4 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if round % 2 == 0 {
            world.redis.pause();
            tokio::time::sleep(Duration::from_millis(400)).await;
            world.redis.resume();
        } else {
            world.redis.revive().await;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for (count, slowest) in clients.join_all().await {
        assert!(count > 10 && slowest < SOON, "{count} requests, the slowest in {slowest:?}");
    }
    world.assert_sound().await;
}
