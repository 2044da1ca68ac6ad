//! A Redis that is gone, held up, or back: each limit says what that means, and no request waits long.

use std::time::{Duration, Instant};

use harness::{Answer, Gateway, Recorder, Redis, eventually};

const POLICY: &str = r#"
[limits.denied]
quota = 3
window = "60s"
by = ["address"]
store_lost = "deny"
[limits.allowed]
quota = 3
window = "60s"
by = ["address"]
store_lost = "allow"
[limits.local]
quota = 3
window = "60s"
by = ["address"]
store_lost = "local"
[store]
timeout = "200ms"
[routes.known]
limits = ["denied"]
[routes.models]
limits = ["allowed"]
[routes.open]
limits = ["local"]
[routes.admin]
limits = ["local", "allowed", "denied"]
[routes.model]
limits = ["local", "allowed"]
"#;

struct World {
    redis: Redis,
    worker: Recorder,
    gateway: Gateway,
}

impl World {
    async fn new() -> Self {
        let redis = Redis::start().await;
        let worker = Recorder::start();
        let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(POLICY).start().await;
        Self { redis, worker, gateway }
    }

    async fn ask(&self, path: &str) -> Answer {
        self.gateway.client().get(path).key("admin").send().await
    }

    /// What every limit does while there is no Redis.
    async fn assert_lost(&self) {
        let before = self.worker.seen().len();
        for path in ["/known", "/admin"] {
            let answer = self.ask(path).await;
            answer.assert_problem(503, "limit-store-lost");
            assert_eq!(answer.header("retry-after"), "1");
        }
        assert_eq!(self.worker.seen().len(), before, "what can't be counted and must be does not pass");
        for _ in 0..10 {
            let answer = self.ask("/models").await;
            assert_eq!((answer.status, answer.header("ratelimit")), (200, String::new()), "uncounted");
        }
        // Counted in this process alone, and as exactly.
        for left in [2, 1, 0] {
            let answer = self.ask("/open").await;
            assert!(
                answer.header("ratelimit").starts_with(&format!("\"local\";r={left};")),
                "{}",
                answer.header("ratelimit")
            );
        }
        self.ask("/open").await.assert_problem(429, "limit-exceeded");
        // One of several limits is counted, and the other is not.
        self.ask("/models/iris").await.assert_problem(429, "limit-exceeded");
        assert_eq!(self.worker.seen().len(), before + 13);
    }

    /// Waits until Redis counts again, by a limit that allows everything meanwhile.
    async fn counted_again(&self) -> Answer {
        eventually("Redis counts again", async || {
            Some(self.ask("/models").await).filter(|answer| !answer.header("ratelimit").is_empty())
        })
        .await
    }

    fn events(&self, name: &str) -> usize {
        self.gateway.log().matching(|line| line["event"] == name).len()
    }
}

#[tokio::test]
async fn a_killed_redis_is_lost_and_found_again() {
    let mut world = World::new().await;
    assert_eq!(world.ask("/known").await.status, 200);
    world.redis.kill();
    world.assert_lost().await;
    let lost = world.gateway.log().event("store-lost").await;
    assert!(lost["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{lost}");
    world.redis.revive().await;
    let answer = world.counted_again().await;
    assert!(answer.header("ratelimit").starts_with("\"allowed\";r="), "{}", answer.header("ratelimit"));
    world.gateway.log().event("store-back").await;
    // Each thread finds it again by itself, at the latest when the refusal says.
    let found = eventually("the strict limit counts again", async || {
        Some(world.ask("/known").await).filter(|answer| answer.status != 503)
    })
    .await;
    assert_eq!(found.status, 200);
}

#[tokio::test]
async fn a_redis_that_is_held_up_is_lost_and_goes_on_counting_where_it_was() {
    let world = World::new().await;
    for _ in 0..2 {
        assert_eq!(world.ask("/known").await.status, 200);
    }
    world.redis.pause();
    let began = Instant::now();
    world.assert_lost().await;
    // Twenty requests, two threads, one of them waits for the time limit now and then.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "requests wait for a Redis that is held up: {:?}",
        began.elapsed()
    );
    world.redis.resume();
    world.counted_again().await;
    world.gateway.log().event("store-back").await;
    // The one that was sent into the silence may have been counted when Redis went on; more may not.
    let mut admitted = 2;
    for _ in 0..40 {
        admitted += usize::from(world.ask("/known").await.status == 200);
    }
    assert!(admitted <= 3, "the window was forgotten: {admitted}");
}

#[tokio::test]
async fn a_loss_is_told_once() {
    let mut world = World::new().await;
    assert_eq!(world.ask("/known").await.status, 200);
    world.redis.kill();
    for _ in 0..10 {
        world.ask("/models").await;
        world.ask("/known").await;
    }
    world.gateway.log().event("store-lost").await;
    assert!(world.gateway.stop().await.success());
    assert_eq!((world.events("store-lost"), world.events("store-back")), (1, 0));
}

#[tokio::test]
async fn a_gateway_starts_without_its_redis_and_finds_it_later() {
    let mut redis = Redis::start().await;
    redis.kill();
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(POLICY).start().await;
    gateway.client().get("/known").key("admin").send().await.assert_problem(503, "limit-store-lost");
    worker.assert_untouched();
    redis.revive().await;
    let ask = || gateway.client().get("/known").key("admin").send();
    let found = eventually("Redis is found", async || Some(ask().await).filter(|answer| answer.status != 503)).await;
    assert_eq!(found.status, 200);
}

#[tokio::test]
async fn guesses_are_not_free_while_the_store_is_lost() {
    let mut world = World::new().await;
    world.redis.kill();
    // By a strict limit a wrong credential gets the same answer as a right one.
    world.gateway.client().get("/known").key("unknown").send().await.assert_problem(503, "limit-store-lost");
    // By a local one it is charged here.
    let open = "[routes.known]\nlimits = [\"local\"]\n";
    let gateway =
        Gateway::builder().worker(&world.worker).redis(&world.redis).policy(POLICY).policy(open).start().await;
    let guess = || gateway.client().get("/known").key("unknown").send();
    for _ in 0..3 {
        assert_eq!(guess().await.status, 401);
    }
    guess().await.assert_problem(429, "limit-exceeded");
    world.worker.assert_untouched();
}

#[tokio::test]
async fn every_key_in_redis_ends_by_itself() {
    let redis = Redis::start().await;
    let worker = Recorder::start();
    let short = "[limits.allowed]\nwindow = \"1s\"\n[limits.denied]\nby = [\"principal\", \"route\"]\n";
    let gateway = Gateway::builder().worker(&worker).redis(&redis).policy(POLICY).policy(short).start().await;
    for _ in 0..5 {
        gateway.client().get("/admin").key("admin").send().await;
    }
    let keys = redis.keys();
    assert_eq!(keys.len(), 3, "{keys:?}");
    for (key, life) in &keys {
        // A window, and an eighth of it in which nothing has to be prolonged.
        let longest = if key.contains("allowed") { 1_125 } else { 67_500 };
        assert!((1..=longest).contains(life), "{key} lives {life} ms");
        assert!(key.starts_with("{modelgate}:"), "all in one slot of a cluster: {key}");
        assert!(!key.contains("mgk_"), "no credential in a key: {key}");
    }
    eventually("the short window's key is gone", async || (redis.keys().len() == 2).then_some(())).await;
}

#[tokio::test]
async fn a_redis_that_forgot_the_script_counts_on() {
    let world = World::new().await;
    assert_eq!(world.ask("/known").await.status, 200);
    world.redis.flush_scripts();
    assert_eq!(world.ask("/known").await.status, 200);
    world.redis.flush_scripts();
    let last = world.ask("/known").await;
    assert!(last.header("ratelimit").starts_with("\"denied\";r=0;"), "{}", last.header("ratelimit"));
    assert_eq!(world.events("store-lost"), 0);
}

#[tokio::test]
async fn a_connection_that_redis_closed_while_idle_is_no_loss() {
    let world = World::new().await;
    // Both threads have a connection, as far as chance allows.
    for _ in 0..16 {
        world.ask("/models").await;
    }
    world.redis.hang_up();
    let answer = world.ask("/known").await;
    assert_eq!(answer.status, 200, "Redis is there and was not asked: {}", answer.text());
    assert_eq!(world.events("store-lost"), 0);
}

#[tokio::test]
async fn a_restart_between_two_requests_is_no_loss() {
    let mut world = World::new().await;
    for _ in 0..16 {
        world.ask("/models").await;
    }
    world.redis.revive().await;
    let answer = world.ask("/known").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.events("store-lost"), 0);
}

#[tokio::test]
async fn parallel_requests_share_a_new_connection_and_count_exactly() {
    let world = World::new().await;
    world.ask("/models").await;
    world.redis.hang_up();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..30 {
        clients.spawn(world.gateway.client().get("/known").key("admin").send());
    }
    let answers = clients.join_all().await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    // One that Redis had counted before it hung up may count twice, and none is admitted beyond.
    assert!((1..=3).contains(&count(200)) && count(200) + count(429) == 30, "{} of {}", count(200), count(429));
    assert_eq!(world.worker.seen().len(), 1 + count(200));
}

/// A server that takes every log-in, and answers what is asked then without an end. Says how much was taken of it.
fn endless() -> (std::net::SocketAddr, std::sync::mpsc::Receiver<usize>) {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};

    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().ok()?;
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                loop {
                    line.clear();
                    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
                    let mut command = Vec::new();
                    for _ in 0..line.trim().strip_prefix('*')?.parse::<usize>().ok()? {
                        line.clear();
                        reader.read_line(&mut line).ok()?;
                        let mut word = vec![0; line.trim().strip_prefix('$')?.parse::<usize>().ok()? + 2];
                        reader.read_exact(&mut word).ok()?;
                        command.push(String::from_utf8_lossy(&word).trim().to_ascii_uppercase());
                    }
                    if !command.iter().any(|word| matches!(word.as_str(), "EVALSHA" | "EVAL")) {
                        writer.write_all(b"+OK\r\n").ok()?;
                        continue;
                    }
                    writer.write_all(b"$2147483647\r\n").ok()?;
                    let (part, mut taken) = (vec![b'x'; 1 << 20], 0);
                    while taken < 256 << 20 && writer.write_all(&part).is_ok() {
                        taken += part.len();
                    }
                    sender.send(taken).ok()?;
                    return Some(());
                }
            });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn an_answer_without_an_end_fills_no_memory() {
    let worker = Recorder::start();
    let (address, taken) = endless();
    let policy = format!(
        "[store]\nkind = \"redis\"\nurl = \"redis://{address}\"\ntimeout = \"20s\"\n\
         [limits.few]\nquota = 5\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
         [routes.known]\nlimits = [\"few\"]\n"
    );
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    gateway.client().get("/known").key("reader").send().await.assert_problem(503, "limit-store-lost");
    let lost = gateway.log().event("store-lost").await;
    assert!(lost["cause"].as_str().is_some_and(|cause| cause.contains("without an end")), "{lost}");
    let taken = tokio::task::spawn_blocking(move || taken.recv()).await.expect("no panic").expect("it was asked");
    assert!(taken < 64 << 20, "{taken} octets were taken");
    worker.assert_untouched();
}
