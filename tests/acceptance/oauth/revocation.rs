//! Tokens that are taken back, and what is said of tokens (RFC 7009, RFC 7662).

use std::time::{Duration, Instant};

use harness::identity::{ALICE, AUDIENCE, ISSUER, client_secret, part};
use harness::{Client, Gateway, GatewayBuilder, Recorder, Redis, Signer, eventually};
use serde_json::json;

use super::{assert_error, builder, credentials, introspect, log_in, password, posted, refresh, revoke, status, text};

/// How soon every gateway must know.
const SOON: Duration = Duration::from_secs(1);

/// Waits until a token is refused, and gives back how long that took.
async fn refused(client: &Client, token: &str, since: Instant) -> Duration {
    eventually("the token is refused", async || (status(client, token).await == 401).then(|| since.elapsed())).await
}

fn shared(worker: &Recorder, redis: &Redis) -> GatewayBuilder {
    builder().worker(worker).redis(redis)
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once_and_others_are_not() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let (token, other) = (credentials(&client, "ci").await, credentials(&client, "ci").await);
    for _ in 0..3 {
        assert_eq!(status(&client, &token).await, 200, "seen before, too");
    }
    let answer = revoke(&client, "ci", &token).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store".into()));
    let answer = gateway.client().get("/known").bearer(&token).send().await;
    answer.assert_problem(401, "token-revoked");
    assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "RFC 6750 §3.1");
    // Each thread has its own table of tokens that it has seen.
    for _ in 0..8 {
        assert_eq!(status(&gateway.client(), &token).await, 401);
    }
    assert_eq!(status(&client, &other).await, 200);
}

#[tokio::test]
async fn revoking_what_is_no_token_is_a_success() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    let expired = gateway.signer().token(&json!({ "iat": 1, "exp": 2, "client_id": "ci" }));
    let forged = Signer::hs256("another secret of thirty-two octets").token(&json!({ "client_id": "ci" }));
    let stranger = format!("mgr_{}_{}", "0".repeat(32), "0".repeat(40));
    for unknown in ["x", "a.b.c", &expired, &forged, &stranger, &format!("{token}x")] {
        assert_eq!(revoke(&client, "ci", unknown).await.status, 200, "RFC 7009 §2.2: {unknown}");
    }
    for hint in ["access_token", "refresh_token", "anything"] {
        let form = format!("token={token}&token_type_hint={hint}&{}", posted("ci"));
        assert_eq!(client.post("/revoke").form(&form).send().await.status, 200, "RFC 7009 §2.1: a hint is a hint");
    }
    assert_eq!(status(&client, &token).await, 401);
}

#[tokio::test]
async fn only_a_proven_client_may_revoke_or_introspect() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    for path in ["/revoke", "/introspect"] {
        for form in [
            format!("token={token}"),
            format!("token={token}&client_id=ci"),
            format!("token={token}&client_id=ci&client_secret=wrong"),
            format!("token={token}&client_id=nobody&client_secret={}", client_secret("ci")),
        ] {
            assert_error(&client.post(path).form(&form).send().await, 401, "invalid_client");
        }
        let bearer = client.post(path).form(&format!("token={token}")).bearer(&token).send().await;
        assert_error(&bearer, 401, "invalid_client");
    }
    assert_eq!(introspect(&client, "ci", &token).await["active"], true);
}

#[tokio::test]
async fn a_client_revokes_its_own_tokens_and_an_operators_client_all() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    assert_error(&revoke(&client, "other", &token).await, 400, "invalid_grant");
    assert_eq!(status(&client, &token).await, 200);
    assert_eq!(revoke(&client, "watch", &token).await.status, 200);
    assert_eq!(status(&client, &token).await, 401);
    let legacy = client.log_in("alice", ALICE).await;
    assert_error(&revoke(&client, "other", &legacy).await, 400, "invalid_grant");
    assert_eq!(revoke(&client, "watch", &legacy).await.status, 200);
    assert_eq!(status(&client, &legacy).await, 401);
}

#[tokio::test]
async fn revoking_a_refresh_token_ends_all_that_stems_from_it() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let (first, token) = log_in(&client, "app").await;
    let answer = refresh(&client, "app", &token).await;
    let (second, newest) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    assert_error(&revoke(&client, "other", &newest).await, 400, "invalid_grant");
    assert_eq!(revoke(&client, "app", &newest).await.status, 200);
    assert_eq!(introspect(&client, "app", &newest).await, json!({ "active": false }));
    for access in [first, second] {
        assert_eq!(status(&client, &access).await, 401, "RFC 7009 §2.1");
    }
    assert_error(&refresh(&client, "app", &newest).await, 400, "invalid_grant");
}

#[tokio::test]
async fn introspection_says_what_a_good_token_is() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    let (said, claims) = (introspect(&client, "ci", &token).await, part(&token, 1));
    for (member, value) in [
        ("active", json!(true)),
        ("iss", json!(ISSUER)),
        ("aud", json!(AUDIENCE)),
        ("sub", json!("ci")),
        ("client_id", json!("ci")),
        ("scope", json!("predict read")),
        ("token_type", json!("Bearer")),
        ("exp", claims["exp"].clone()),
        ("iat", claims["iat"].clone()),
        ("jti", claims["jti"].clone()),
        ("username", json!(null)),
    ] {
        assert_eq!(said[member], value, "{member}");
    }
    assert_eq!(introspect(&client, "watch", &token).await, said, "a resource server asks too");
    let (access, token) = log_in(&client, "app").await;
    assert_eq!(introspect(&client, "app", &access).await["username"], "alice");
    let said = introspect(&client, "app", &token).await;
    assert_eq!(
        (&said["active"], &said["client_id"], &said["username"]),
        (&json!(true), &json!("app"), &json!("alice"))
    );
}

#[tokio::test]
async fn introspection_of_what_is_not_good_says_nothing_more() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let (token, foreign) = (credentials(&client, "ci").await, credentials(&client, "batch").await);
    assert_eq!(revoke(&client, "ci", &token).await.status, 200);
    let signer = gateway.signer();
    let (_, first) = log_in(&client, "app").await;
    assert_eq!(refresh(&client, "app", &first).await.status, 200);
    for wrong in [
        "x".to_owned(),
        token,
        foreign,
        first,
        signer.token(&json!({ "client_id": "ci", "iat": 1, "exp": 2 })),
        signer.token(&json!({ "client_id": "ci", "aud": "another" })),
        signer.token_with(&json!({ "typ": "JWT" }), &json!({ "client_id": "ci" })),
        Signer::hs256("another secret of thirty-two octets").token(&json!({ "client_id": "ci" })),
    ] {
        let answer = client.post("/introspect").form(&format!("token={wrong}")).as_client("ci").send().await;
        assert_eq!((answer.status, answer.text()), (200, "{\"active\":false}".into()), "RFC 7662 §2.2: {wrong}");
    }
}

#[tokio::test]
async fn a_token_revoked_on_one_gateway_is_refused_on_the_other_within_a_second() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    for _ in 0..3 {
        let token = credentials(&one.client(), "ci").await;
        assert_eq!(status(&other.client(), &token).await, 200);
        let since = Instant::now();
        assert_eq!(revoke(&one.client(), "ci", &token).await.status, 200);
        assert_eq!(status(&one.client(), &token).await, 401, "at once where it was revoked");
        let took = refused(&other.client(), &token, since).await;
        assert!(took < SOON, "{took:?}");
        assert_eq!(introspect(&other.client(), "ci", &token).await, json!({ "active": false }));
    }
}

#[tokio::test]
async fn a_family_that_ended_on_one_gateway_has_ended_on_the_other() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    let (_, first) = log_in(&one.client(), "app").await;
    let answer = refresh(&other.client(), "app", &first).await;
    let (access, newest) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    let since = Instant::now();
    assert_error(&refresh(&one.client(), "app", &first).await, 400, "invalid_grant");
    assert_error(&refresh(&other.client(), "app", &newest).await, 400, "invalid_grant");
    let took = refused(&other.client(), &access, since).await;
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn revocations_survive_a_restart_of_the_gateway() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let mut gateway = shared(&worker, &redis).start().await;
    let (token, good) = (credentials(&gateway.client(), "ci").await, credentials(&gateway.client(), "ci").await);
    let (_, kept) = log_in(&gateway.client(), "app").await;
    assert_eq!(revoke(&gateway.client(), "ci", &token).await.status, 200);
    gateway.stop().await;
    let gateway = shared(&worker, &redis).start().await;
    assert_eq!(status(&gateway.client(), &token).await, 401, "with the first request");
    assert_eq!(status(&gateway.client(), &good).await, 200);
    assert_eq!(refresh(&gateway.client(), "app", &kept).await.status, 200);
}

#[tokio::test]
async fn a_redis_that_has_forgotten_does_not_bring_a_token_back() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    let (one, other) = (shared(&worker, &redis).start().await, shared(&worker, &redis).start().await);
    let token = credentials(&one.client(), "ci").await;
    assert_eq!(revoke(&one.client(), "ci", &token).await.status, 200);
    refused(&other.client(), &token, Instant::now()).await;
    redis.revive().await;
    let second = credentials(&one.client(), "ci").await;
    eventually("Redis is found", async || (revoke(&one.client(), "ci", &second).await.status == 200).then_some(()))
        .await;
    refused(&other.client(), &second, Instant::now()).await;
    assert_eq!(status(&one.client(), &token).await, 401);
    assert_eq!(status(&other.client(), &token).await, 401);
}

#[tokio::test]
async fn while_it_is_not_known_what_was_revoked_tokens_are_refused_after_the_stated_time() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).policy("[token]\nrevocation_unknown_after = \"2s\"\n").start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    assert_eq!(status(&client, &token).await, 200);
    let since = Instant::now();
    redis.kill();
    let answer = eventually("tokens are refused", async || {
        let answer = client.get("/known").bearer(&token).send().await;
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    answer.assert_problem(503, "revocation-unknown");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(client.get("/known").key("reader").send().await.status, 200, "API keys have nothing to do with it");
    let answer = revoke(&client, "ci", &token).await;
    assert_error(&answer, 503, "temporarily_unavailable");
    assert_eq!(answer.header("retry-after"), "1", "RFC 7009 §2.2.1");
    assert_error(
        &client.token(&password("alice", ALICE)).as_client("app").send().await,
        503,
        "temporarily_unavailable",
    );
    redis.revive().await;
    let unrevoked = credentials(&client, "ci").await;
    eventually("tokens are good again", async || (status(&client, &unrevoked).await == 200).then_some(())).await;
    gateway.log().wait_for(|line| line["event"] == "revocations-known").await;
    assert_eq!(status(&client, &token).await, 401, "what this gateway was told to revoke stays revoked");
}

#[tokio::test]
async fn a_gateway_that_starts_without_redis_knows_nothing_and_takes_no_token() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    redis.kill();
    let gateway = shared(&worker, &redis).start().await;
    let client = gateway.client();
    let token = credentials(&client, "ci").await;
    client.get("/known").bearer(&token).send().await.assert_problem(503, "revocation-unknown");
    gateway.log().wait_for(|line| line["event"] == "revocations-unknown").await;
    redis.revive().await;
    eventually("Redis is found", async || (status(&client, &token).await == 200).then_some(())).await;
}

#[tokio::test]
async fn the_policy_may_say_that_not_knowing_means_yes() {
    let (worker, mut redis) = (Recorder::start(), Redis::start().await);
    redis.kill();
    let overlay = "[token]\nrevocation_unknown = \"allow\"\n";
    let gateway: Gateway = shared(&worker, &redis).policy(overlay).start().await;
    let token = credentials(&gateway.client(), "ci").await;
    assert_eq!(status(&gateway.client(), &token).await, 200);
}

#[tokio::test]
async fn the_store_holds_digests_and_everything_in_it_ends() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let gateway = shared(&worker, &redis).start().await;
    let client = gateway.client();
    let (access, token) = log_in(&client, "app").await;
    let newest = text(&refresh(&client, "app", &token).await, "refresh_token");
    assert_eq!(revoke(&client, "app", &access).await.status, 200);
    let keys = redis.keys();
    assert!(keys.iter().any(|(key, _)| key == "{modelgate}:revoked"), "{keys:?}");
    assert!(keys.iter().any(|(key, _)| key.starts_with("{modelgate}:refresh:")), "{keys:?}");
    let mut connection = redis.connect();
    let family = newest.split('_').nth(1).expect("a part").to_owned();
    let secret = newest.split('_').nth(2).expect("a part").to_owned();
    for (key, life) in keys {
        assert!(key.starts_with("{modelgate}:"), "one slot of a Cluster: {key}");
        assert!(life > 0, "{key} never ends");
        assert!(!key.contains(&family) && !key.contains(&secret), "{key}");
        if key.contains(":refresh:") {
            let kept: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut connection).expect("it is there");
            let kept = String::from_utf8_lossy(&kept).into_owned();
            assert!(kept.contains("alice") && !kept.contains(&family) && !kept.contains(&secret), "{kept}");
            assert!(life <= 30 * 86_400_000, "{life}");
        }
    }
}

/// Everything that the token endpoints ask of a store.
async fn assert_the_store_does(redis: &Redis) {
    let worker = Recorder::start();
    let store = "[store]\nusername = \"modelgate\"\npassword = { env = \"REDIS_PASSWORD\" }\n";
    let start = || shared(&worker, redis).policy(store).variable("REDIS_PASSWORD", "of-the-acl").start();
    let (one, other) = (start().await, start().await);
    let (access, first) = log_in(&one.client(), "app").await;
    let newest = text(&refresh(&other.client(), "app", &first).await, "refresh_token");
    assert_eq!(introspect(&one.client(), "app", &newest).await["active"], true);
    assert_error(&refresh(&one.client(), "app", &first).await, 400, "invalid_grant");
    assert_error(&refresh(&other.client(), "app", &newest).await, 400, "invalid_grant");
    assert!(refused(&other.client(), &access, Instant::now()).await < SOON);
    for gateway in [&one, &other] {
        let unknown = gateway.log().matching(|line| line["event"] == "revocations-unknown");
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[tokio::test]
async fn the_least_rights_in_redis_are_enough() {
    let redis = Redis::start().await;
    redis.tell(&crate::store_links::acl_user("of-the-acl"));
    redis.tell("ACL SETUSER default off");
    assert_the_store_does(&redis).await;
}

#[tokio::test]
async fn valkey_keeps_what_redis_does() {
    let Some(program) = harness::redis::valkey() else { return };
    let redis = Redis::builder().valkey(program).start().await;
    redis.tell(&crate::store_links::acl_user("of-the-acl"));
    assert_the_store_does(&redis).await;
}

#[tokio::test]
async fn a_list_of_many_pages_is_read_before_the_first_request() {
    let (worker, redis) = (Recorder::start(), Redis::start().await);
    let mut gateway = shared(&worker, &redis).start().await;
    let (first, last) = (credentials(&gateway.client(), "ci").await, credentials(&gateway.client(), "ci").await);
    assert_eq!(revoke(&gateway.client(), "ci", &first).await.status, 200);
    let mut connection = redis.connect();
    for number in 0..5000_u64 {
        let mut add = redis::cmd("XADD");
        let id = u128::from(number).to_be_bytes();
        add.arg("{modelgate}:revoked").arg("*").arg("i").arg(id.as_slice()).arg("e").arg(99_999_999_999_u64);
        add.exec(&mut connection).expect("it is added");
    }
    assert_eq!(revoke(&gateway.client(), "ci", &last).await.status, 200);
    gateway.stop().await;
    let gateway = shared(&worker, &redis).start().await;
    for token in [first, last] {
        gateway.client().get("/known").bearer(&token).send().await.assert_problem(401, "token-revoked");
    }
}
