//! What is secret goes in and never comes out: not into a log, an answer, a metric, or the worker's headers.

use harness::client::flower;
use harness::identity::{ALICE, SECRET, key};
use harness::wire::plain;
use harness::{Answer, Client, Gateway, Recorder, Redis, Reply, Request, Signer};
use serde_json::json;

const REDIS_PASSWORD: &str = "canary-redis-password";
const WRONG_PASSWORD: &str = "canary-wrong-password";
const QUERY: &str = "canary-query";
const HEADER: &str = "canary-header";
const BODY: &str = "canary-body";
const WORKER: &str = "canary-of-the-worker";

/// All that an answer shows.
fn shown(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.status, answer.headers, answer.text())
}

/// Every way through the gateway, and every way to be refused, each with canaries.
fn requests(client: &Client, token: &str, foreign: &str, mistyped: &str) -> Vec<Request> {
    let predict = || client.post(&format!("/predict?token={QUERY}&x={QUERY}")).json(&flower());
    let dressed = |id: &str| {
        let request = client.get(&format!("/known?q={QUERY}")).key(id).header("x-custom", HEADER);
        let request = request.header("cookie", &format!("session={HEADER}")).header("user-agent", HEADER);
        request
            .header("referer", &format!("https://{HEADER}.example.com"))
            .header("origin", &format!("https://{HEADER}.example.com"))
    };
    vec![
        predict().key("predictor"),
        predict().bearer(token),
        predict().key("predictor").bearer(token),
        predict().header("x-api-key", mistyped),
        predict().header("x-api-key", &key("unknown")),
        predict().header("x-api-key", HEADER),
        predict().bearer(foreign),
        predict().bearer(HEADER),
        predict().header("authorization", &format!("Bearer {token} {token}")),
        predict().header("authorization", &format!("Basic {HEADER}")),
        predict(),
        dressed("reader"),
        dressed("reader"),
        dressed("reader"),
        client.get(&format!("/admin?{QUERY}")).key("reader"),
        client.get(&format!("/nowhere?{QUERY}")).key("reader"),
        client.post(&format!("/known?{QUERY}")).key("reader"),
        client.get(&format!("/models//x?{QUERY}")).key("reader"),
        client.get(&format!("/models/fail?{QUERY}")).key("reader"),
        client.get(&format!("/models/break?{QUERY}")).key("reader"),
        client.post("/sentiment").key("predictor").json(&json!({ "text": format!("{BODY} cafe\u{301}") })),
        client.post("/sentiment").key("predictor").json(&json!(null)).body(format!("{{\"text\":\"{BODY}\"")),
        client
            .post("/sentiment")
            .key("predictor")
            .json(&json!(null))
            .body(format!("{{\"text\":\"{BODY}\",\"text\":\"{BODY}\"}}")),
        client.post("/sentiment").key("predictor").json(&json!(null)).body(BODY.repeat(4000)),
        client.post("/sentiment").key("predictor").header("content-type", HEADER).body(BODY),
        client.post("/sentiment").key("predictor").json(&json!(null)).header("content-encoding", HEADER).body(BODY),
        client.token(&format!("grant_type=password&username=alice&password={WRONG_PASSWORD}")),
        client.token(&format!("grant_type=password&username={QUERY}&password={WRONG_PASSWORD}")),
        client.token(&format!("grant_type=password&password={WRONG_PASSWORD}")),
        client.token(&format!("grant_type=x&client_secret={WRONG_PASSWORD}&client_id={QUERY}")),
        client.token(&format!("password={WRONG_PASSWORD}&password={WRONG_PASSWORD}")),
    ]
}

async fn no_canary_comes_out(format: &str) {
    // It answers well, fails with its own secret, or sends what is no HTTP, by the path.
    let worker = Recorder::scripted(|_, seen| match seen.line().split(' ').nth(1) {
        Some(path) if path.starts_with("/models/fail") => {
            Reply::with(500, &format!("X-Trace: {WORKER}\r\n"), WORKER.as_bytes())
        }
        Some(path) if path.starts_with("/models/break") => Reply::raw(format!("{WORKER}\r\n\r\n")).close(),
        _ => Reply::json(&json!({ "label": "setosa" })),
    });
    let mut redis = Redis::start().await;
    let mut admin = redis.connect();
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(REDIS_PASSWORD).exec(&mut admin).expect("a password");
    let overlay = format!(
        "[log]\nformat = \"{format}\"\n[store]\npassword = {{ env = \"REDIS_PASSWORD\" }}\n\
         [limits.few]\nquota = 2\nwindow = \"1h\"\nby = [\"principal\", \"route\"]\nstore_lost = \"allow\"\n\
         [routes.known]\nlimits = [\"few\"]\n"
    );
    let builder = Gateway::builder().worker(&worker).redis(&redis).policy(overlay);
    let mut gateway = builder.variable("REDIS_PASSWORD", REDIS_PASSWORD).start().await;

    let good = key("predictor");
    let token = gateway.client().log_in("alice", ALICE).await;
    let foreign = Signer::hs256("another secret that is long enough to be one").token(&json!({}));
    let mut mistyped = key("second");
    mistyped.replace_range(mistyped.len() - 1.., "x");
    let unknown = key("unknown");
    let mut answers = Vec::new();
    for client in [gateway.client(), gateway.http2()] {
        for request in requests(&client, &token, &foreign, &mistyped) {
            answers.push(shown(&request.send().await));
        }
    }
    let statuses: std::collections::BTreeSet<&str> = answers.iter().filter_map(|answer| answer.get(..3)).collect();
    let expected = ["200", "400", "401", "403", "404", "405", "413", "415", "429", "502"];
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), expected, "every way to end was gone");
    for octets in [
        format!("GET /known?{QUERY} HTTP/1.1\r\nHost: {HEADER} {HEADER}\r\nX-API-Key: {good}\r\n\r\n"),
        format!("GET /known?{QUERY} HTTP/1.1\r\nHost: localhost\r\n{HEADER}\r\nX-API-Key: {good}\r\n\r\n"),
        format!("GET https://{HEADER}/known HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {good}\r\n\r\n"),
        format!(
            "GET /known?{QUERY} HTTP/1.1\r\nHost: localhost\r\nConnection: close, Authorization\r\nAuthorization: Bearer {token}\r\n\r\n"
        ),
        format!(
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {HEADER}\r\nX-API-Key: {good}\r\n\r\n"
        ),
    ] {
        answers.push(gateway.client().raw(octets).await);
    }

    // With the wrong password, and then without a Redis at all.
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("other").exec(&mut admin).expect("another password");
    answers.push(plain(gateway.admin(), "GET", "/readyz").await.text());
    redis.kill();
    answers.push(plain(gateway.admin(), "GET", "/readyz").await.text());
    answers.push(shown(&gateway.client().predict("predictor").send().await));
    answers.push(plain(gateway.admin(), "GET", "/metrics").await.text());
    assert!(gateway.stop().await.success());

    let log = gateway.log().text();
    assert!(log.contains("store-lost") && log.contains("/sentiment") && log.contains("token-grant"), "{log}");
    let secret = |key: &str| key.rsplit('_').next().map(|secret| secret[..40].to_owned()).expect("a key's secret");
    let signature = |token: &str| token.rsplit('.').next().map(str::to_owned).expect("a token's signature");
    let canaries = [
        ("a good key", secret(&good)),
        ("another key", secret(&key("reader"))),
        ("a mistyped key", secret(&mistyped)),
        ("an unknown key", secret(&unknown)),
        ("a token", signature(&token)),
        ("a foreign token", signature(&foreign)),
        ("a password", ALICE.to_owned()),
        ("a password in a form", ALICE.replace(' ', "+")),
        ("a wrong password", WRONG_PASSWORD.to_owned()),
        ("the secret that signs", SECRET.to_owned()),
        ("the store's password", REDIS_PASSWORD.to_owned()),
        ("a query", QUERY.to_owned()),
        ("a header", HEADER.to_owned()),
        ("a body", BODY.to_owned()),
        ("a worker's words", WORKER.to_owned()),
    ];
    for (what, canary) in &canaries {
        for line in log.lines() {
            assert!(!line.contains(canary), "{what} in the log: {line}");
        }
        for answer in &answers {
            assert!(!answer.contains(canary), "{what} in an answer: {answer}");
        }
    }
    // The token was given out once, to who asked for it, and the worker never saw what opened its door.
    for seen in worker.seen() {
        for (what, canary) in &canaries[..11] {
            assert!(!seen.text().contains(canary), "{what} at the worker: {}", seen.text());
        }
    }
}

#[tokio::test]
async fn no_canary_comes_out_in_the_form_for_machines() {
    no_canary_comes_out("json").await;
}

#[tokio::test]
async fn no_canary_comes_out_in_the_form_for_people() {
    no_canary_comes_out("human").await;
}
