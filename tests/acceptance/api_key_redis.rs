//! API keys in Redis: issued, rotated and revoked on one gateway, and so on all.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use gateway::policy::authenticate::api_key::compose;
use gateway::types::Sha256;
use harness::identity::{key, now};
use harness::wire::plain;
use harness::{Answer, Client, Gateway, GatewayBuilder, Recorder, Redis, Wire, binary, eventually};
use serde_json::{Value, json};

use crate::admin::number;
use crate::store_links::acl_user;

/// How soon every gateway must know.
const SOON: Duration = Duration::from_secs(1);

const POLICY: &str = "[api_key]\nstore = \"redis\"\n\
    [limits.few]\nquota = 1000\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"allow\"\n\
    [routes.known]\nlimits = [\"few\"]\n";

fn shared(worker: &Recorder, redis: &Redis) -> GatewayBuilder {
    Gateway::builder().worker(worker).redis(redis).policy(POLICY)
}

fn run(gateway: &Gateway, words: &[&str]) -> Output {
    let admin = gateway.operator();
    let mut command = Command::new(binary("gateway"));
    command.arg("key").args(words).args(["--admin", &admin]).output().expect("it runs")
}

/// What a command of `gateway key` prints where it does what it is asked.
fn did(gateway: &Gateway, words: &[&str]) -> String {
    let output = run(gateway, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// What it says where it does not.
fn refused(gateway: &Gateway, words: &[&str]) -> String {
    let output = run(gateway, words);
    assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "no key is shown that is none");
    String::from_utf8(output.stderr).expect("text")
}

fn issue(gateway: &Gateway, id: &str) -> String {
    did(gateway, &["issue", id, "--owner", "Team A", "--role", "predictor"])
}

fn list(gateway: &Gateway) -> Vec<Value> {
    serde_json::from_str(&did(gateway, &["list", "--json"])).expect("JSON")
}

fn listed(gateway: &Gateway, id: &str) -> Value {
    list(gateway).into_iter().find(|key| key["id"] == id).unwrap_or_default()
}

async fn ask(client: &Client, key: &str) -> Answer {
    client.get("/known").header("x-api-key", key).send().await
}

/// Waits until a key is refused, and gives back how long that took.
async fn assert_refused_soon(gateway: &Gateway, key: &str, slug: &str, since: Instant) {
    let client = gateway.client();
    let answer = eventually("the key is refused", async || {
        let answer = ask(&client, key).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    let took = since.elapsed();
    #[expect(clippy::print_stdout, reason = "how soon it was is worth a look")]
    {
        println!("refused after {took:?}");
    }
    answer.assert_problem(401, slug);
    assert!(took < SOON, "{took:?}");
}

/// Puts a record where a gateway looks for it.
fn put(redis: &Redis, id: &str, record: &str) {
    let mut set = redis::cmd("SET");
    set.arg(format!("{{modelgate}}:key:{id}")).arg(record).exec(&mut redis.connect()).expect("it is set");
}

fn record(key: &str) -> String {
    json!({ "v": 1, "digest": Sha256::of(key.as_bytes()).to_string(), "owner": "tests", "created": 1 }).to_string()
}

#[tokio::test]
async fn a_key_issued_on_one_gateway_is_good_on_all_and_revoked_within_a_second() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    for number in 0..3 {
        let id = format!("team-{number}");
        // That there is none is remembered, too.
        let stranger = compose(&id, [7; 20]);
        ask(&other.client(), &stranger).await.assert_problem(401, "api-key-unknown");
        let key = issue(&one, &id);
        assert!(key.starts_with(&format!("mgk_{id}_")), "{key}");
        let since = Instant::now();
        assert_eq!(ask(&one.client(), &key).await.status, 200, "at once where it was issued");
        eventually("it is good on the other", async || (ask(&other.client(), &key).await.status == 200).then_some(()))
            .await;
        assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
        let seen = worker.seen().pop().expect("it was asked");
        assert_eq!(seen.header("x-modelgate-principal"), Some(format!("key:{id}")));
        assert_eq!(seen.header("x-modelgate-roles").as_deref(), Some("predictor,reader"));
        ask(&other.client(), &stranger).await.assert_problem(401, "api-key-unknown");
        let since = Instant::now();
        did(&one, &["revoke", &id]);
        ask(&one.client(), &key).await.assert_problem(401, "api-key-unknown");
        assert_refused_soon(&other, &key, "api-key-unknown", since).await;
    }
    assert!(refused(&one, &["revoke", "team-0"]).contains("there is no key \"team-0\""));
}

#[tokio::test]
async fn keys_survive_a_restart_and_no_key_is_shown_or_kept_anywhere() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let mut gateway = shared(&worker, &redis).start().await;
    let key = issue(&gateway, "team-a");
    let next = did(&gateway, &["rotate", "team-a"]);
    let both = [&key, &next];
    for key in both {
        assert_eq!(ask(&gateway.client(), key).await.status, 200);
    }
    let metrics = plain(gateway.admin(), "GET", "/metrics").await.text();
    let keys = gateway.operate("GET", "/keys").await.text();
    assert!(keys.contains("team-a"), "{keys}");
    let mut connection = redis.connect();
    let kept: Vec<u8> = redis::cmd("GET").arg("{modelgate}:key:team-a").query(&mut connection).expect("it is there");
    gateway.stop().await;
    let log = gateway.log().text();
    assert!(log.contains("key-issued") && log.contains("key-rotated"), "{log}");
    let digests = both.map(|key| Sha256::of(key.as_bytes()).to_string());
    for text in [&log, &metrics, &keys] {
        assert!(!text.contains("mgk_") && !text.contains("sha256:"), "{text}");
    }
    let kept = String::from_utf8(kept).expect("text");
    assert!(digests.iter().all(|digest| kept.contains(digest)) && !kept.contains("mgk_"), "{kept}");
    let gateway = shared(&worker, &redis).start().await;
    for key in both {
        assert_eq!(ask(&gateway.client(), key).await.status, 200);
    }
}

#[tokio::test]
async fn a_rotated_key_has_two_secrets_for_a_while_and_never_three() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    let first = issue(&one, "team-a");
    assert_eq!(ask(&other.client(), &first).await.status, 200);
    let said: Value =
        serde_json::from_str(&did(&one, &["rotate", "team-a", "--overlap", "1h", "--json"])).expect("JSON");
    let second = said["key"].as_str().expect("a key").to_owned();
    assert!(said["old_ends"].as_u64().is_some_and(|ends| ends >= now() + 3500), "{said}");
    for gateway in [&one, &other] {
        eventually("the second is good", async || (ask(&gateway.client(), &second).await.status == 200).then_some(()))
            .await;
        assert_eq!(ask(&gateway.client(), &first).await.status, 200);
    }
    assert!(refused(&one, &["rotate", "team-a"]).contains("two are live already"));
    let since = Instant::now();
    did(&one, &["revoke", "team-a", "--old"]);
    assert_refused_soon(&other, &first, "api-key-unknown", since).await;
    assert_eq!(ask(&other.client(), &second).await.status, 200);
    assert!(refused(&one, &["revoke", "team-a", "--old"]).contains("no older one"));
    // The end of an overlap needs no word from anybody.
    let third = did(&one, &["rotate", "team-a", "--overlap", "2s"]);
    eventually("the third is good", async || (ask(&other.client(), &third).await.status == 200).then_some(())).await;
    let answer = eventually("the second ends", async || {
        let answer = ask(&other.client(), &second).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    answer.assert_problem(401, "api-key-expired");
    let since = Instant::now();
    let fourth = did(&one, &["rotate", "team-a", "--overlap", "0s"]);
    assert_refused_soon(&other, &third, "api-key-unknown", since).await;
    assert_eq!(ask(&other.client(), &fourth).await.status, 200);
}

#[tokio::test]
async fn a_key_is_good_at_its_time_and_from_its_networks_alone() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let client = gateway.client();
    for (id, words, status, slug) in [
        ("elsewhere", &["--network", "10.0.0.0/8"][..], 403, "api-key-network"),
        ("early", &["--not-before", "2090-01-01T00:00:00Z"], 401, "api-key-not-yet"),
        ("late", &["--expires", "2020-01-01T00:00:00Z"], 401, "api-key-expired"),
    ] {
        let key = did(&gateway, &[&["issue", id, "--owner", "tests", "--role", "predictor"], words].concat());
        ask(&client, &key).await.assert_problem(status, slug);
    }
    worker.assert_untouched();
    let here =
        did(&gateway, &["issue", "here", "--owner", "tests", "--network", "10.0.0.0/8", "--network", "127.0.0.0/8"]);
    assert_eq!(ask(&client, &here).await.status, 200);
    let states: Vec<_> = ["early", "late", "here"].iter().map(|id| listed(&gateway, id)["state"].clone()).collect();
    assert_eq!(states, ["not-yet", "expired", "good"]);
}

#[tokio::test]
async fn a_key_has_quotas_of_its_own() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let client = gateway.client();
    let few = did(&gateway, &["issue", "few", "--owner", "tests", "--limit", "few=2"]);
    let usual = did(&gateway, &["issue", "usual", "--owner", "tests"]);
    let answer = ask(&client, &few).await;
    assert_eq!((answer.status, answer.header("ratelimit-policy").as_str()), (200, "\"few\";q=2;w=60"));
    assert_eq!(ask(&client, &few).await.status, 200);
    ask(&client, &few).await.assert_problem(429, "limit-exceeded");
    assert_eq!(ask(&client, &usual).await.header("ratelimit-policy"), "\"few\";q=1000;w=60");
}

#[tokio::test]
async fn a_key_of_the_policy_has_quotas_networks_and_an_old_secret_too() {
    let worker = Recorder::start();
    let (new, old) = (compose("team-a", [1; 20]), compose("team-a", [2; 20]));
    let policy = format!(
        "[api_keys.team-a]\nowner = \"A\"\ndigest = \"{}\"\nlimits = {{ wide = 2 }}\nnetworks = [\"127.0.0.1\"]\n\
         old = {{ digest = \"{}\", expires = \"2090-01-01T00:00:00Z\" }}\n\
         [api_keys.elsewhere]\nowner = \"A\"\ndigest = \"{}\"\nnetworks = [\"192.0.2.0/24\"]\n",
        Sha256::of(new.as_bytes()),
        Sha256::of(old.as_bytes()),
        Sha256::of(compose("elsewhere", [3; 20]).as_bytes()),
    );
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let client = gateway.client();
    let answer = ask(&client, &new).await;
    assert_eq!((answer.status, answer.header("ratelimit-policy").as_str()), (200, "\"wide\";q=2;w=60"));
    assert_eq!(ask(&client, &old).await.status, 200);
    ask(&client, &old).await.assert_problem(429, "limit-exceeded");
    let served = worker.seen().len();
    ask(&client, &compose("elsewhere", [3; 20])).await.assert_problem(403, "api-key-network");
    assert_eq!(worker.seen().len(), served);
    // Without Redis: the policy's keys are shown and used, and none is issued.
    let shown = listed(&gateway, "team-a");
    assert_eq!(
        (&shown["store"], &shown["owner"], &shown["limits"]),
        (&json!("policy"), &json!("A"), &json!({ "wide": 2 }))
    );
    assert!(shown["last_used"].as_u64().is_some_and(|used| used + 120 > now()), "{shown}");
    assert_eq!(listed(&gateway, "elsewhere")["last_used"], Value::Null);
    assert!(refused(&gateway, &["issue", "team-b", "--owner", "B"]).contains("kept in the policy alone"));
}

#[tokio::test]
async fn what_the_policy_does_not_have_is_refused_with_what_it_has() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    for (words, said) in [
        (&["--role", "predicter"][..], "the role \"predicter\" is not defined; there are: admin, predictor, reader"),
        (&["--limit", "fwe=1"], "the limit \"fwe\" is not defined; there are: few, wide"),
        (&["--limit", "few=0"], "can't count 0"),
        (&["--limit", "few=99999999"], "can't count 99999999"),
        (&["--limit", "few"], "no NAME=QUOTA"),
        (&["--scope", "predict"], "asks for the scope \"predict\""),
        (&["--network", "everywhere"], "a network that is none"),
        (&["--expires", "soon"], "no instant"),
        (&["--not-before", "2090-01-01T00:00:00Z", "--expires", "2080-01-01T00:00:00Z"], "expires before it begins"),
    ] {
        let why = refused(&gateway, &[&["issue", "team-a", "--owner", "A"], words].concat());
        assert!(why.contains(said), "{words:?}: {why}");
    }
    assert!(refused(&gateway, &["issue", "Team A", "--owner", "A"]).contains("can't be an id"));
    assert!(refused(&gateway, &["issue", "reader", "--owner", "A"]).contains("stands in the policy"));
    assert!(refused(&gateway, &["revoke", "reader"]).contains("stands in the policy"));
    issue(&gateway, "team-a");
    assert!(refused(&gateway, &["issue", "team-a", "--owner", "A"]).contains("there is a key \"team-a\""));
    assert!(refused(&gateway, &["rotate", "stranger"]).contains("there is no key"));
    // An id of the policy is the policy's, whatever Redis has.
    let forged = compose("reader", [7; 20]);
    put(&redis, "reader", &record(&forged));
    ask(&gateway.client(), &forged).await.assert_problem(401, "api-key-unknown");
    assert_eq!(ask(&gateway.client(), &key("reader")).await.status, 200);
}

#[tokio::test]
async fn known_keys_serve_for_the_stated_time_without_redis_and_unknown_ones_not_at_all() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    let overlay = "[api_key]\nrevocation_unknown_after = \"3s\"\n";
    let gateway = shared(&worker, &redis).policy(overlay).start().await;
    let client = gateway.client();
    // Put there, so that no word of a change comes between.
    let (known, unseen) = (compose("team-a", [1; 20]), compose("unseen", [2; 20]));
    put(&redis, "team-a", &record(&known));
    put(&redis, "unseen", &record(&unseen));
    assert_eq!(ask(&client, &known).await.status, 200);
    let since = Instant::now();
    redis.kill();
    for key in [&unseen, &compose("stranger", [7; 20])] {
        let answer = ask(&client, key).await;
        answer.assert_problem(503, "api-keys-unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(ask(&client, &known).await.status, 200);
    ask(&client, &compose("team-a", [7; 20])).await.assert_problem(401, "api-key-unknown");
    let answer = eventually("the known one is refused", async || {
        let answer = ask(&client, &known).await;
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        (answer.status == 503).then_some(answer)
    })
    .await;
    answer.assert_problem(503, "api-keys-unavailable");
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    assert_eq!(client.get("/known").key("reader").send().await.status, 200, "the policy's keys go on");
    gateway.log().wait_for(|line| line["event"] == "api-keys-unknown").await;
    assert!(refused(&gateway, &["revoke", "team-a"]).contains("does not answer"));
    // It comes back and has forgotten everything.
    redis.revive().await;
    let answer = eventually("Redis is found", async || {
        let answer = ask(&client, &known).await;
        (answer.status != 503).then_some(answer)
    })
    .await;
    answer.assert_problem(401, "api-key-unknown");
    let again = eventually("keys are issued again", async || {
        let output = run(&gateway, &["issue", "team-b", "--owner", "B"]);
        output.status.success().then(|| String::from_utf8(output.stdout).expect("text").trim().to_owned())
    })
    .await;
    assert_eq!(ask(&client, &again).await.status, 200);
}

#[tokio::test]
async fn a_revocation_reaches_a_gateway_that_had_lost_redis() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    let key = issue(&one, "team-a");
    assert_eq!(ask(&other.client(), &key).await.status, 200);
    redis.hang_up();
    eventually("it is revoked", async || run(&one, &["revoke", "team-a"]).status.success().then_some(())).await;
    assert_refused_soon(&other, &key, "api-key-unknown", Instant::now()).await;
}

#[tokio::test]
async fn the_policy_may_say_that_known_keys_go_on_without_redis() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    let overlay = "[api_key]\nrevocation_unknown = \"allow\"\nrevocation_unknown_after = \"1s\"\n";
    let gateway = shared(&worker, &redis).policy(overlay).start().await;
    let client = gateway.client();
    let known = compose("team-a", [1; 20]);
    put(&redis, "team-a", &record(&known));
    assert_eq!(ask(&client, &known).await.status, 200);
    let unseen = compose("unseen", [7; 20]);
    ask(&client, &unseen).await.assert_problem(401, "api-key-unknown");
    redis.kill();
    gateway.log().wait_for(|line| line["event"] == "api-keys-unknown").await;
    let since = Instant::now();
    eventually("what is remembered as absent is not known any more", async || {
        assert_eq!(ask(&client, &known).await.status, 200);
        (ask(&client, &unseen).await.status == 503 && since.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_starts_without_redis_takes_keys_when_it_is_there() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    redis.kill();
    let gateway = shared(&worker, &redis).start().await;
    let key = compose("team-a", [7; 20]);
    ask(&gateway.client(), &key).await.assert_problem(503, "api-keys-unavailable");
    assert_eq!(ask(&gateway.client(), &harness::identity::key("reader")).await.status, 200);
    redis.revive().await;
    put(&redis, "team-a", &record(&key));
    eventually("the key is good", async || (ask(&gateway.client(), &key).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn the_last_use_is_shown_and_outlives_the_gateway() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (mut one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    let (used, unused) = (issue(&one, "used"), issue(&one, "unused"));
    let began = now();
    for key in [&used, &used, &key("reader")] {
        assert_eq!(ask(&one.client(), key).await.status, 200);
    }
    ask(&one.client(), &compose("unused", [7; 20])).await.assert_problem(401, "api-key-unknown");
    drop(unused);
    let is_recent = |shown: &Value| {
        let used = shown["last_used"].as_u64();
        used.is_some_and(|used| used.is_multiple_of(60) && (began - 60..=now()).contains(&used))
    };
    assert!(is_recent(&listed(&one, "used")), "{}", listed(&one, "used"));
    assert_eq!(listed(&one, "unused")["last_used"], Value::Null, "a wrong key is no use of it");
    assert_eq!(listed(&other, "used")["last_used"], Value::Null, "not told yet: once a minute");
    one.stop().await;
    for id in ["used", "reader"] {
        assert!(is_recent(&listed(&other, id)), "{}", listed(&other, id));
    }
    // The times are told in one command, and so are the keys.
    let text = did(&other, &["list"]);
    assert!(text.contains("last used") && text.contains("Team A") && !text.contains("sha256"), "{text}");
}

#[tokio::test]
async fn many_keys_are_listed_page_by_page() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let mut connection = redis.connect();
    let mut pipe = redis::pipe();
    for number in 0..2500 {
        let id = format!("k-{number:05}");
        pipe.cmd("SET").arg(format!("{{modelgate}}:key:{id}")).arg(record(&id)).ignore();
        pipe.cmd("ZADD").arg("{modelgate}:keys").arg(0).arg(id).ignore();
    }
    pipe.exec(&mut connection).expect("they are set");
    let keys = list(&gateway);
    let ids: Vec<_> = keys.iter().filter_map(|key| key["id"].as_str()).collect();
    assert_eq!(ids.len(), 2506, "with those of the policy");
    assert!(ids.is_sorted() && ids.contains(&"predictor"));
    let page = gateway.operate("GET", "/keys?limit=2&after=k-00000").await.json();
    assert_eq!((&page["keys"][0]["id"], &page["next"]), (&json!("k-00001"), &json!("k-00002")));
    for wrong in ["limit=0", "limit=1001", "limit=x"] {
        assert_eq!(gateway.operate("GET", &format!("/keys?{wrong}")).await.status, 400);
    }
}

#[tokio::test]
async fn a_record_that_can_not_be_read_is_no_key_and_is_logged_without_its_content() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let good = |id: &str| record(&compose(id, [7; 20]));
    for (id, text) in [
        ("not-json", "canary".to_owned()),
        ("other-version", good("other-version").replace("\"v\":1", "\"v\":2")),
        ("more", good("more").replace("\"v\":1", "\"v\":1,\"canary\":true")),
        ("twice", good("twice").replace("\"v\":1", "\"v\":1,\"v\":1")),
        ("long", good("long").replace("tests", &"canary".repeat(10_000))),
        ("deep", "[".repeat(100_000)),
    ] {
        put(&redis, id, &text);
        ask(&gateway.client(), &compose(id, [7; 20])).await.assert_problem(401, "api-key-unknown");
        gateway.log().wait_for(|line| line["event"] == "api-key-malformed" && line["id"] == id).await;
    }
    worker.assert_untouched();
    assert!(!gateway.log().text().contains("canary"), "{}", gateway.log().text());
    // It can be ended, and is in the way until then.
    assert!(refused(&gateway, &["issue", "not-json", "--owner", "A"]).contains("there is a key"));
    assert!(refused(&gateway, &["rotate", "not-json"]).contains("can't be kept"));
    did(&gateway, &["revoke", "not-json"]);
    issue(&gateway, "not-json");
}

#[tokio::test]
async fn a_flood_of_ids_costs_redis_a_stated_rate_and_the_gateway_a_bounded_table() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).policy("[api_key]\ncache = 128\n").start().await;
    let known = issue(&gateway, "known");
    assert_eq!(ask(&gateway.client(), &known).await.status, 200);
    let gets = || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.connect()).expect("numbers");
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls=")).expect("there were some");
        line.split(',').next().and_then(|calls| calls.parse::<u64>().ok()).expect("a number")
    };
    let (before, since) = (gets(), Instant::now());
    let mut connection = gateway.http2().connect().await;
    let mut refused = 0;
    for number in 0..1000_u32 {
        let mut secret = [7; 20];
        secret[..4].copy_from_slice(&number.to_be_bytes());
        let request = gateway.http2().get("/known").header("x-api-key", &compose(&format!("n-{number}"), secret));
        let answer = connection.send(request).await;
        if answer.status == 401 {
            answer.assert_problem(401, "api-key-unknown");
        } else {
            refused += 1;
            answer.assert_problem(503, "api-keys-unavailable");
        }
    }
    let allowed = 100 * (since.elapsed().as_secs() + 2);
    let asked = gets() - before;
    assert!(asked <= allowed, "{asked} in {:?}", since.elapsed());
    assert!(refused + asked >= 1000, "{refused} {asked}");
    assert_eq!(ask(&gateway.client(), &known).await.status, 200, "who is known feels nothing");
    let number = |kind: &str| format!("modelgate_api_keys_remembered{{kind=\"{kind}\"}}");
    // Keys that exist push each other out, and stay good.
    let keys: Vec<String> = (0..300).map(|number| compose(&format!("k-{number}"), [7; 20])).collect();
    for (number, key) in keys.iter().enumerate() {
        put(&redis, &format!("k-{number}"), &record(key));
    }
    for key in &keys {
        eventually("it is good", async || (ask(&gateway.client(), key).await.status == 200).then_some(())).await;
    }
    let remembered = crate::admin::number(&gateway, &number("key")).await.and_then(|text| text.parse::<u64>().ok());
    assert!(remembered.is_some_and(|number| (32..=128).contains(&number)), "{remembered:?}");
    assert_eq!(worker.seen().len(), 302);
}

#[tokio::test]
async fn a_key_that_many_wait_for_is_fetched_once() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let key = compose("team-a", [7; 20]);
    put(&redis, "team-a", &record(&key));
    redis.tell("CONFIG RESETSTAT");
    let client = gateway.http2();
    let connection = client.connect().await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let (mut connection, request) = (connection.beside(), client.get("/known").header("x-api-key", &key));
            tokio::spawn(async move { connection.send(request).await })
        })
        .collect();
    for answer in asking {
        assert_eq!(answer.await.expect("it was asked").status, 200);
    }
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.connect()).expect("numbers");
    assert!(stats.contains("cmdstat_get:calls=1,"), "{stats}");
}

#[tokio::test]
async fn what_is_asked_of_keys_is_read_strictly() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let ask = async |method: &str, path: &str, body: &str| {
        let mut wire = Wire::over(gateway.operator_stream().await);
        let length = body.len();
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        wire.answer().await
    };
    let good = json!({ "digest": Sha256::of(b"x").to_string(), "owner": "A" }).to_string();
    for (method, path, body, status) in [
        ("POST", "/keys/team-a", good.as_str(), 405),
        ("GET", "/keys/team-a", "", 405),
        ("PUT", "/keys", &good, 405),
        ("PUT", "/keys/team-a", "{}", 400),
        ("PUT", "/keys/team-a", "[]", 400),
        ("PUT", "/keys/team-a", &good.replace('{', "{\"created\":1,"), 400),
        ("PUT", "/keys/team-a", &good.replace('{', "{\"admin\":true,"), 400),
        ("PUT", "/keys/Team-A", &good, 400),
        ("PUT", "/keys/..", &good, 400),
        ("PUT", "/keys/team-a", &"x".repeat(20_000), 413),
        ("PUT", "/keys/team-a", &good, 201),
        ("PUT", "/keys/team-a/rotate", "{}", 400),
        ("PUT", "/keys/team-a/rotate", &good, 400),
        ("DELETE", "/keys/team-a/other", "", 405),
        ("DELETE", "/keys/team-a", "", 200),
        ("GET", "/keysx", "", 404),
    ] {
        let answer = ask(method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}: {}", answer.text());
        assert!(!answer.text().contains("sha256:"), "{}", answer.text());
    }
    assert!(number(&gateway, "modelgate_api_keys_remembered{kind=\"key\"}").await.is_some());
}

#[tokio::test]
async fn the_least_rights_in_redis_are_enough_for_keys() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    redis.tell(&acl_user("of-the-acl"));
    redis.tell("ACL SETUSER default off");
    let store = "[store]\nusername = \"modelgate\"\npassword = { env = \"REDIS_PASSWORD\" }\n";
    let start = || shared(&worker, &redis).policy(store).variable("REDIS_PASSWORD", "of-the-acl").start();
    let (mut one, other) = (start().await, start().await);
    let key = issue(&one, "team-a");
    assert_eq!(ask(&one.client(), &key).await.status, 200);
    let next = did(&one, &["rotate", "team-a"]);
    one.stop().await;
    assert_eq!(ask(&other.client(), &next).await.status, 200);
    assert!(listed(&other, "team-a")["last_used"].is_u64(), "{}", listed(&other, "team-a"));
    let since = Instant::now();
    did(&other, &["revoke", "team-a"]);
    assert_refused_soon(&other, &next, "api-key-unknown", since).await;
    let unknown = other.log().matching(|line| line["event"] == "api-keys-unknown");
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[tokio::test]
async fn a_new_policy_gives_a_key_in_redis_what_its_roles_mean_now() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).file("more.toml", "").start().await;
    let key = issue(&gateway, "team-a");
    let predict = async || {
        let request = gateway.client().post("/predict").json(&harness::client::flower());
        request.header("x-api-key", &key).send().await.status
    };
    assert_eq!(predict().await, 200);
    // The last of its files names another role for the route.
    let file = gateway.directory().join("2.toml");
    let policy = format!("{POLICY}[routes.predict]\nauthorize = [\"admin\"]\n");
    std::fs::write(file, policy).expect("it can be written");
    let output =
        Command::new(binary("gateway")).args(["reload", "--admin", &gateway.operator()]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(predict().await, 403);
}
