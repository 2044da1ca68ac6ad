//! Refusals that a gateway remembers: a flood costs Redis nothing, and nobody waits longer for it.

use harness::{Gate, Reply, eventually};

use super::*;

fn ask(gateway: &Gateway, id: &str) -> harness::Request {
    gateway.client().get("/known").key(id)
}

struct World {
    redis: Redis,
    worker: Recorder,
    gateway: Gateway,
}

impl World {
    async fn new(policy: &str) -> Self {
        let worker = Recorder::start();
        let redis = Redis::start().await;
        let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).start().await;
        Self { redis, worker, gateway }
    }

    /// Sends so many requests of one caller, on both threads; all must be refused by these limits.
    async fn flood(&self, count: usize, request: impl Fn() -> harness::Request, limits: &[&str]) {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut connection = self.gateway.client().connect().await;
            let requests: Vec<_> = (0..count / 8).map(|_| request()).collect();
            clients.spawn(async move {
                let mut answers = Vec::new();
                for request in requests {
                    answers.push(connection.send(request).await);
                }
                answers
            });
        }
        for answer in clients.join_all().await.iter().flatten() {
            assert_limited(answer, limits);
        }
    }
}

const EACH: &str = "[routes.known]\nlimits = [\"each\"]\n[routes.models]\nlimits = [\"each\"]\n";

#[tokio::test]
async fn a_flood_of_who_was_refused_costs_redis_nothing() {
    let world = World::new(&(limit("each", "quota = 2") + EACH)).await;
    for status in [200, 200, 429] {
        assert_eq!(ask(&world.gateway, "reader").send().await.status, status);
    }
    let before = calls(&world.redis);
    world.flood(200, || ask(&world.gateway, "reader"), &["each"]).await;
    let last = ask(&world.gateway, "reader").send().await;
    assert_eq!(calls(&world.redis) - before, 0);
    assert!(last.header("ratelimit").starts_with("\"each\";r=0;t="), "{}", last.header("ratelimit"));
    assert!((50..=60).contains(&retry_after(&last).as_secs()), "{:?}", retry_after(&last));
    // The same window wherever it is met, and no other one.
    assert_limited(&world.gateway.client().get("/models").key("reader").send().await, &["each"]);
    assert_eq!(calls(&world.redis) - before, 0);
    for id in ["admin", "second"] {
        for status in [200, 200, 429] {
            assert_eq!(ask(&world.gateway, id).send().await.status, status);
        }
    }
    assert_eq!(calls(&world.redis) - before, 6);
    assert_eq!(counted(&world.gateway, "each", "refused").await, 205);
    assert_eq!(world.worker.seen().len(), 6);
}

#[tokio::test]
async fn who_comes_when_the_answer_says_is_admitted() {
    let world = World::new(&(limit("each", "quota = 2\nwindow = \"2s\"") + EACH)).await;
    for _ in 0..3 {
        let refused = loop {
            let answer = ask(&world.gateway, "reader").send().await;
            if answer.status == 429 {
                break answer;
            }
        };
        world.flood(40, || ask(&world.gateway, "reader"), &["each"]).await;
        tokio::time::sleep(retry_after(&refused)).await;
        assert_eq!(ask(&world.gateway, "reader").send().await.status, 200);
    }
}

#[tokio::test]
async fn one_full_limit_of_several_is_enough() {
    let policy = limit("each", "quota = 2")
        + &limit("wide", "quota = 100\nby = [\"address\"]")
        + "[routes.known]\nlimits = [\"wide\", \"each\"]\n[routes.models]\nlimits = [\"wide\"]\n";
    let world = World::new(&policy).await;
    for status in [200, 200, 429] {
        assert_eq!(ask(&world.gateway, "reader").send().await.status, status);
    }
    let before = calls(&world.redis);
    world.flood(64, || ask(&world.gateway, "reader"), &["each"]).await;
    assert_eq!(calls(&world.redis) - before, 0);
    // None of them was counted by the other limit.
    let other = world.gateway.client().get("/models").key("reader").send().await;
    assert_eq!(left(&other, "ratelimit", "wide"), Some(97));
}

#[tokio::test]
async fn a_cheaper_request_is_not_held_to_what_a_dearer_one_was_told() {
    let world = World::new(&(limit("rows", "quota = 10\ncost = \"rows\"") + &any_json("[\"rows\"]"))).await;
    let send = |rows: usize| world.gateway.client().post("/any").key("predictor").json(&json!(vec![0; rows]));
    assert_eq!(send(5).send().await.status, 200);
    assert_limited(&send(8).send().await, &["rows"]);
    let before = calls(&world.redis);
    world.flood(40, || send(8), &["rows"]).await;
    assert_eq!(calls(&world.redis) - before, 0);
    for rows in [3, 2] {
        assert_eq!(send(rows).send().await.status, 200);
    }
    for rows in 1..=9 {
        assert_limited(&send(rows).send().await, &["rows"]);
    }
    // Many costs in turn are no way to Redis either.
    let before = calls(&world.redis);
    for _ in 0..5 {
        for rows in 1..=10 {
            assert_limited(&send(rows).send().await, &["rows"]);
        }
    }
    assert!(calls(&world.redis) - before <= 10, "{}", calls(&world.redis) - before);
}

#[tokio::test]
async fn who_may_more_is_not_held_to_what_others_were_told() {
    let policy = limit("each", "quota = 2\nby = [\"address\"]\n[limits.each.roles]\nadmin = 4") + EACH;
    let world = World::new(&policy).await;
    for status in [200, 200, 429, 429] {
        assert_eq!(ask(&world.gateway, "reader").send().await.status, status);
    }
    for status in [200, 200, 429, 429] {
        assert_eq!(ask(&world.gateway, "admin").send().await.status, status);
    }
}

#[tokio::test]
async fn what_may_come_back_is_not_remembered() {
    let gate = Gate::default();
    let worker = Recorder::scripted({
        let gate = gate.clone();
        move |number, _| match number {
            0 => Reply::early().read_body().wait(&gate).write("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
            _ => Reply::json(&json!({ "n": 1 })),
        }
    });
    let redis = Redis::start().await;
    let policy = limit("back", "quota = 1\ngive_back = true") + "[routes.known]\nlimits = [\"back\"]\n";
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).start().await;
    let held = tokio::spawn(ask(&gateway, "reader").send());
    worker.wait_for_requests(1).await;
    let before = calls(&redis);
    for _ in 0..5 {
        assert_limited(&ask(&gateway, "reader").send().await, &["back"]);
    }
    assert_eq!(calls(&redis) - before, 5);
    gate.open();
    assert_eq!(held.await.expect("nobody panics").status, 502);
    let answer = eventually("what is given back", async || {
        Some(ask(&gateway, "reader").send().await).filter(|it| it.status == 200)
    });
    answer.await;
}

#[tokio::test]
async fn a_shadow_that_is_full_refuses_nobody_from_memory_either() {
    let policy = limit("tried", "quota = 1\nwhen_full = \"shadow\"")
        + &limit("each", "quota = 4")
        + "[routes.known]\nlimits = [\"tried\", \"each\"]\n[routes.models]\nlimits = [\"tried\"]\n";
    let world = World::new(&policy).await;
    for status in [200, 200, 200, 200, 429, 429] {
        assert_eq!(ask(&world.gateway, "reader").send().await.status, status);
    }
    for _ in 0..4 {
        assert_eq!(world.gateway.client().get("/models").key("reader").send().await.status, 200);
    }
}
