//! Decisions that wait together go to Redis together.

use super::*;

const EACH: &str = "[routes.known]\nlimits = [\"each\"]\n";

#[tokio::test]
async fn requests_that_wait_share_a_call() {
    let worker = Recorder::start();
    let redis = Redis::start().await;
    let gateway =
        Gateway::builder().worker(&worker).redis(&redis).policy(limit("each", "quota = 80") + EACH).start().await;
    // Connections first, so that the requests come together.
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(gateway.http2().connect().await);
        let warm = connections.last_mut().expect("just added").send(gateway.http2().get("/known").key("admin")).await;
        assert_eq!(warm.status, 200);
    }
    let before = calls(&redis);
    let series = ["modelgate_store_round_trips_total", "modelgate_store_operations_total"];
    let told = [total(&gateway, series[0]).await, total(&gateway, series[1]).await];
    redis.pause();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (mut stream, request) = (connections[number % 4].beside(), gateway.http2().get("/known").key("reader"));
        clients.spawn(async move { stream.send(request).await });
    }
    // Well within the time limit of the tests' store, and long enough for all of them to arrive.
    tokio::time::sleep(Duration::from_millis(100)).await;
    redis.resume();
    let answers = clients.join_all().await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(200), count(429)), (80, 20), "all are decided, and exactly");
    assert_eq!(worker.seen().len(), 84);
    let made = calls(&redis) - before;
    assert!(made <= 25, "{made} calls for 100 requests");
    let now = [total(&gateway, series[0]).await, total(&gateway, series[1]).await];
    assert_eq!(now[0] - told[0], made, "round trips");
    assert!((81..=100).contains(&(now[1] - told[1])), "{} operations", now[1] - told[1]);
    assert_eq!(counted(&gateway, "each", "admitted").await, 84);
    assert_eq!(counted(&gateway, "each", "refused").await, 20);
    for outcome in ["throttled", "shadowed", "fallback"] {
        assert_eq!(counted(&gateway, "each", outcome).await, 0, "{outcome}");
    }
    assert_eq!(
        (total(&gateway, "modelgate_store_lost").await, total(&gateway, "modelgate_store_losses_total").await),
        (0, 0)
    );
}

#[tokio::test]
async fn a_request_that_comes_alone_makes_one_call() {
    let worker = Recorder::start();
    let redis = Redis::start().await;
    let policy = limit("each", "quota = 100")
        + &limit("all", "quota = 100\nby = [\"route\"]")
        + "[routes.known]\nlimits = [\"each\", \"all\"]\n";
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).start().await;
    let mut connection = gateway.client().connect().await;
    assert_eq!(connection.send(gateway.client().get("/known").key("reader")).await.status, 200);
    let before = calls(&redis);
    for _ in 0..20 {
        assert_eq!(connection.send(gateway.client().get("/known").key("reader")).await.status, 200);
    }
    assert_eq!(calls(&redis) - before, 20, "two limits, one call");
    assert_eq!(total(&gateway, "modelgate_store_operations_total").await, 21);
    let text = harness::wire::plain(gateway.admin(), "GET", "/metrics").await.text();
    let sum =
        text.lines().find_map(|line| line.strip_prefix("modelgate_store_round_trip_seconds_sum ")).expect("a sum");
    assert!(sum.parse::<f64>().is_ok_and(|sum| sum > 0.0 && sum < 60.0), "{sum}");
}

#[tokio::test]
async fn more_than_one_call_can_carry_are_all_decided() {
    let worker = Recorder::start();
    let redis = Redis::start().await;
    // The worker has room for all at once: what is asked here is how they are counted.
    let one_thread = "[listener]\nthreads = 1\nmax_streams = 250\n[pools.models]\nmax_waiting = 400\n";
    let policy = limit("each", "quota = 300") + EACH + one_thread;
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(policy).start().await;
    let mut connections = Vec::new();
    for _ in 0..4 {
        connections.push(gateway.http2().connect().await);
    }
    connections[0].send(gateway.http2().get("/known").key("admin")).await;
    redis.pause();
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..400 {
        let (mut stream, request) = (connections[number % 4].beside(), gateway.http2().get("/known").key("reader"));
        clients.spawn(async move { stream.send(request).await.status });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    redis.resume();
    let statuses = clients.join_all().await;
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!((count(200), count(429)), (300, 100));
}
