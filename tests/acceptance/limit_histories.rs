//! Limits that three gateways share through one Redis, in real time: short forms of `tests/limits/run`.

use std::time::{Duration, Instant};

use harness::histories::{self, Chance, Rules};
use harness::{Admissions, Client, Gateway, Recorder, Redis};
use tokio::task::{JoinSet, LocalSet};

async fn gateways(worker: &Recorder, redis: &Redis, policy: &str) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..3 {
        let builder = Gateway::builder().worker(worker).redis(redis).without_base().policy(policy);
        gateways.push(builder.policy("[store]\ntimeout = \"5s\"\n").start().await);
    }
    gateways
}

#[tokio::test]
async fn random_histories_are_as_the_model_says() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let rules = Rules::random(&mut Chance(42));
    let gateways = gateways(&worker, &redis, &rules.toml()).await;
    let addresses: Vec<_> = gateways.iter().map(Gateway::address).collect();
    let played = LocalSet::new().run_until(histories::play(&rules, &addresses, &redis, 200, 50, 42)).await;
    assert!(played.wrong.is_empty(), "{} of {}: {}", played.wrong.len(), played.histories, played.wrong[0]);
    assert!(played.admitted > 0 && played.refused > 0 && played.faults > 0, "{played:?}");
}

const QUOTA: u64 = 200;
const WINDOW: Duration = Duration::from_secs(2);
const LASTS: Duration = Duration::from_secs(6);
const POLICY: &str = r#"
[limits.all]
quota = 200
window = "2s"
by = ["route"]
store_lost = "deny"
[routes.open]
path = "/open"
methods = ["GET"]
pool = "models"
authenticate = "anonymous"
authorize = "anonymous"
limits = ["all"]
"#;

#[tokio::test]
async fn parallel_gateways_admit_what_there_is_room_for_and_no_more() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateways = gateways(&worker, &redis, POLICY).await;
    let until = Instant::now() + LASTS + Duration::from_millis(500);
    let mut asking = JoinSet::new();
    for number in 0..30 {
        let client = Client::http1(gateways[number % 3].address());
        asking.spawn(async move {
            let mut connection = client.connect().await;
            let mut clock = tokio::time::interval(Duration::from_millis(20));
            let mut served = 0;
            while Instant::now() < until {
                clock.tick().await;
                let answer = connection.try_send(client.get("/open")).await.expect("an answer");
                assert!(matches!(answer.status, 200 | 429), "{}", answer.text());
                served += u64::from(answer.status == 200);
            }
            served
        });
    }
    let mut admissions = Admissions::default();
    let mut connection = redis.connect();
    let mut clock = tokio::time::interval(Duration::from_millis(200));
    while Instant::now() < until + Duration::from_millis(500) {
        clock.tick().await;
        let key: Option<Vec<u8>> =
            redis::cmd("GET").arg("{modelgate}:x2:all:route=open").query(&mut connection).expect("an answer");
        admissions.add(&key.unwrap_or_default());
    }
    let served: u64 = asking.join_all().await.into_iter().sum();
    let micros = |time: Duration| u64::try_from(time.as_micros()).expect("a short time");
    assert!(admissions.most(micros(WINDOW)) <= QUOTA, "{} in one window", admissions.most(micros(WINDOW)));
    assert_eq!(served, admissions.total(), "every admission was answered");
    // Of 600; a busy machine loses a little at the end of each window.
    let admitted = admissions.within(micros(LASTS));
    assert!(admitted >= 570, "{admitted} were admitted");
}
