//! Tokens for clients, and for users through clients (RFC 6749 §2.3, §3.2, §3.3, §4.4, §5 and §6).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use harness::identity::{ALICE, AUDIENCE, BOB, ISSUER, client_secret, part};
use harness::{Recorder, Signing};
use serde_json::json;

use super::{assert_error, builder, credentials, introspect, log_in, password, posted, refresh, text};

const CREDENTIALS: &str = "grant_type=client_credentials";

async fn a_client_gets_a_token_that_works(signing: Signing, alg: &str) {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).signing(signing).start().await;
    let answer = gateway.client().token(CREDENTIALS).as_client("ci").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store".into(), "no-cache".into()));
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(900)));
    assert_eq!(body["scope"], "predict read", "RFC 6749 §5.1: what it got, where it did not say what it wants");
    assert!(body.get("refresh_token").is_none(), "RFC 6749 §4.4.3");
    let token = text(&answer, "access_token");
    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!(alg)));
    // RFC 9068 §2.2.
    for (claim, value) in [
        ("iss", json!(ISSUER)),
        ("aud", json!(AUDIENCE)),
        ("sub", json!("ci")),
        ("client_id", json!("ci")),
        ("scope", json!("predict read")),
        ("roles", json!(["predictor", "reader"])),
    ] {
        assert_eq!(claims[claim], value, "{claim}");
    }
    assert_eq!(claims["exp"].as_u64(), claims["iat"].as_u64().map(|issued| issued + 900));
    assert!(!claims["jti"].as_str().expect("an id").is_empty());
    worker.assert_untouched();
    let answer = gateway.client().post("/predict").bearer(&token).json(&harness::client::flower()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &worker.seen()[0];
    assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("client:ci"), "no user's name can be this");
    assert_eq!(seen.headers("authorization"), Vec::<String>::new());
    let log = gateway.log().text();
    assert!(!log.contains(&token) && !log.contains(&client_secret("ci")));
}

#[tokio::test]
async fn a_client_gets_a_token_with_hs256() {
    a_client_gets_a_token_that_works(Signing::Hs256, "HS256").await;
}

#[tokio::test]
async fn a_client_gets_a_token_with_rs256() {
    a_client_gets_a_token_that_works(Signing::Rs256, "RS256").await;
}

#[tokio::test]
async fn a_client_gets_a_token_with_es256() {
    a_client_gets_a_token_that_works(Signing::Es256, "ES256").await;
}

#[tokio::test]
async fn a_client_may_say_who_it_is_in_the_header_or_in_the_form() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let header = |pair: String| format!("Basic {}", BASE64_STANDARD.encode(pair));
    let secret = client_secret("ci");
    for (form, authorization) in [
        (format!("{CREDENTIALS}&{}", posted("ci")), None),
        (CREDENTIALS.to_owned(), Some(header(format!("ci:{secret}")))),
        (CREDENTIALS.to_owned(), Some(header(format!("%63i:{}", secret.replace('_', "%5F"))))),
        (format!("{CREDENTIALS}&client_id=ci"), Some(header(format!("ci:{secret}")).replace("Basic", "basic"))),
    ] {
        let request = client.token(&form);
        let request = match &authorization {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{authorization:?} {}", answer.text());
    }
}

#[tokio::test]
async fn a_client_that_says_in_two_ways_who_it_is_is_refused() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let both = client.token(&format!("{CREDENTIALS}&{}", posted("ci"))).as_client("ci").send().await;
    assert_error(&both, 400, "invalid_request");
    let other = client.token(&format!("{CREDENTIALS}&client_id=app")).as_client("ci").send().await;
    assert_error(&other, 400, "invalid_request");
    let twice = client.token(CREDENTIALS).as_client("ci").as_client("ci").send().await;
    assert_error(&twice, 400, "invalid_request");
    let nameless = client.token(&format!("{CREDENTIALS}&client_secret={}", client_secret("ci"))).send().await;
    assert_error(&nameless, 400, "invalid_request");
}

#[tokio::test]
async fn an_unknown_client_and_a_wrong_secret_look_alike() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let mut bodies = Vec::new();
    for pair in [
        "ci:wrong".to_owned(),
        format!("ci:{}x", client_secret("ci")),
        format!("CI:{}", client_secret("ci")),
        format!("nobody:{}", client_secret("ci")),
        format!("ci:{}", client_secret("app")),
        "ci".to_owned(),
        String::new(),
    ] {
        let value = format!("Basic {}", BASE64_STANDARD.encode(&pair));
        let answer = client.token(CREDENTIALS).header("authorization", &value).send().await;
        assert_error(&answer, 401, "invalid_client");
        assert!(answer.header("www-authenticate").starts_with("Basic "), "the scheme that it used");
        bodies.push(answer.body);
    }
    let posted = client.token(&format!("{CREDENTIALS}&client_id=ci&client_secret=wrong")).send().await;
    assert_error(&posted, 401, "invalid_client");
    bodies.push(posted.body);
    let nobody = client.token(CREDENTIALS).send().await;
    assert_error(&nobody, 401, "invalid_client");
    bodies.push(nobody.body);
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test]
async fn a_digest_is_no_secret() {
    let gateway = builder().start().await;
    let digest = gateway::types::Sha256::of(client_secret("ci").as_bytes()).to_string();
    let answer = gateway.client().token(&format!("{CREDENTIALS}&client_id=ci&client_secret={digest}")).send().await;
    assert_error(&answer, 401, "invalid_client");
}

#[tokio::test]
async fn a_client_gets_the_scopes_that_it_asks_for_and_may_have() {
    let gateway = builder().start().await;
    let client = gateway.client();
    for (asked, got) in
        [("read", "read"), ("read+predict", "predict read"), ("read+read", "read"), ("", "predict read")]
    {
        let answer = client.token(&format!("{CREDENTIALS}&scope={asked}")).as_client("ci").send().await;
        assert_eq!((answer.status, answer.json()["scope"].clone()), (200, json!(got)), "{asked}");
        assert_eq!(part(&text(&answer, "access_token"), 1)["scope"], got);
    }
    let none = client.token(CREDENTIALS).as_client("batch").send().await.json();
    assert!(none.get("scope").is_none(), "there is none to name");
    for asked in ["admin", "read+admin", "READ", "read++predict", "+read", "read%00", "re%C3%A4d", "%22"] {
        let answer = client.token(&format!("{CREDENTIALS}&scope={asked}")).as_client("ci").send().await;
        assert_error(&answer, 400, "invalid_scope");
    }
    assert_error(
        &client.token(&format!("{CREDENTIALS}&scope=read")).as_client("batch").send().await,
        400,
        "invalid_scope",
    );
}

#[tokio::test]
async fn a_client_gets_its_own_roles_and_lifetime() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let answer = gateway.client().token(CREDENTIALS).as_client("batch").send().await;
    assert_eq!(answer.json()["expires_in"], 60);
    let token = text(&answer, "access_token");
    assert_eq!(gateway.client().get("/models").bearer(&token).send().await.status, 200);
    let answer = gateway.client().post("/predict").bearer(&token).json(&harness::client::flower()).send().await;
    answer.assert_problem(403, "role-missing");
}

#[tokio::test]
async fn a_client_may_use_its_own_grants_alone() {
    let gateway = builder().start().await;
    let client = gateway.client();
    assert_error(&client.token(CREDENTIALS).as_client("app").send().await, 400, "unauthorized_client");
    assert_error(&client.token(&password("alice", ALICE)).as_client("ci").send().await, 400, "unauthorized_client");
    assert_error(&refresh(&client, "ci", "mgr_x").await, 400, "unauthorized_client");
    assert_error(&client.token(CREDENTIALS).as_client("watch").send().await, 400, "unauthorized_client");
}

#[tokio::test]
async fn grants_that_no_client_has_are_not_offered() {
    let overlay = "[clients.app]\ngrants = [\"client_credentials\"]\n[clients.other]\ngrants = [\"client_credentials\"]\n\
                   [token]\ndanger_password_grant = false\n";
    let gateway = builder().policy(overlay).start().await;
    let client = gateway.client();
    assert_error(&client.token(&password("alice", ALICE)).send().await, 400, "unsupported_grant_type");
    for form in [
        "grant_type=authorization_code&code=x",
        "grant_type=refresh_token&refresh_token=x",
        "grant_type=CLIENT_CREDENTIALS",
        "grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer&assertion=x",
    ] {
        assert_error(&client.token(form).as_client("ci").send().await, 400, "unsupported_grant_type");
    }
    assert_eq!(client.token(CREDENTIALS).as_client("ci").send().await.status, 200);
}

#[tokio::test]
async fn repeated_parameters_are_refused_at_every_endpoint() {
    let gateway = builder().start().await;
    let client = gateway.client();
    for (path, form) in [
        ("/token", "grant_type=client_credentials&grant_type=client_credentials"),
        ("/token", "grant_type=client_credentials&scope=read&scope=read"),
        ("/token", "grant_type=client_credentials&x=&x="),
        ("/revoke", "token=x&token=x"),
        ("/introspect", "token=x&token=y"),
        ("/revoke", "token_type_hint=access_token"),
        ("/introspect", "token="),
        ("/token", ""),
    ] {
        let answer = client.post(path).form(form).as_client("ci").send().await;
        assert_error(&answer, 400, "invalid_request");
    }
}

#[tokio::test]
async fn only_post_and_forms_are_taken() {
    let gateway = builder().start().await;
    for path in ["/token", "/revoke", "/introspect"] {
        let answer = gateway.client().request("GET", path).as_client("ci").send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST".into()), "{path}");
        let answer = gateway.client().post(path).json(&json!({ "token": "x" })).as_client("ci").send().await;
        assert_error(&answer, 400, "invalid_request");
        let query = format!("{path}?grant_type=client_credentials&token=x");
        let answer = gateway.client().post(&query).form("").as_client("ci").send().await;
        assert_error(&answer, 400, "invalid_request");
    }
}

#[tokio::test]
async fn wrong_clients_are_counted_as_failed_log_ins_and_in_the_security_record() {
    let overlay = "[limits.guesses]\nquota = 2\nwindow = \"1h\"\nby = [\"address\"]\ncount = \"failures\"\nstore_lost = \"deny\"\n\
                   [routes.token]\nlimits = [\"guesses\"]\n";
    let gateway = builder().policy(overlay).start().await;
    let client = gateway.client();
    let wrong = format!("{CREDENTIALS}&client_id=ci&client_secret=wrong");
    for _ in 0..4 {
        assert_eq!(client.token(CREDENTIALS).as_client("ci").send().await.status, 200, "these cost nothing");
    }
    for _ in 0..2 {
        let answer = client.token(&wrong).send().await;
        assert_error(&answer, 401, "invalid_client");
        let record =
            gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == answer.request_id()).await;
        assert_eq!(record["reason"], "token-client");
    }
    assert_eq!(client.token(&wrong).send().await.status, 429);
}

#[tokio::test]
async fn users_log_in_through_a_client_and_get_a_refresh_token() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let (access, token) = log_in(&client, "app").await;
    let claims = part(&access, 1);
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("alice"), &json!("app")));
    assert_eq!(gateway.client().get("/known").bearer(&access).send().await.status, 200);
    assert_eq!(worker.seen()[0].header("x-modelgate-principal").as_deref(), Some("user:alice"));
    // At least 128 random bits, and no claim says which.
    assert!(token.len() > 64 && !claims.to_string().contains(token.split('_').nth(1).expect("a part")));
    let legacy = client.token(&password("alice", ALICE)).send().await.json();
    assert!(legacy.get("refresh_token").is_none(), "it would be bound to no client");
    let wrong = client.token(&password("alice", BOB)).as_client("app").send().await;
    assert_error(&wrong, 400, "invalid_grant");
}

#[tokio::test]
async fn a_refresh_token_gives_new_tokens_once() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let (_, first) = log_in(&client, "app").await;
    let answer = refresh(&client, "app", &first).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store".into(), "no-cache".into()));
    let (access, second) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    assert_ne!(first, second, "rotated");
    let claims = part(&access, 1);
    assert_eq!(
        (&claims["sub"], &claims["client_id"], &claims["scope"]),
        (&json!("alice"), &json!("app"), &json!("predict read"))
    );
    assert_eq!(client.get("/known").bearer(&access).send().await.status, 200);
    let third = refresh(&client, "app", &second).await;
    assert_eq!(third.status, 200, "{}", third.text());
    let log = gateway.log().text();
    assert!(!log.contains(&first) && !log.contains(&second));
}

#[tokio::test]
async fn a_refresh_token_that_comes_back_ends_its_family() {
    let worker = Recorder::start();
    let gateway = builder().worker(&worker).start().await;
    let client = gateway.client();
    let (_, first) = log_in(&client, "app").await;
    let (other, unrelated) = log_in(&client, "app").await;
    let answer = refresh(&client, "app", &first).await;
    let (access, second) = (text(&answer, "access_token"), text(&answer, "refresh_token"));
    let again = refresh(&client, "app", &first).await;
    assert_error(&again, 400, "invalid_grant");
    let record = gateway.log().access(&again.request_id()).await;
    assert_eq!(record["reason"], "token-reused");
    assert_error(&refresh(&client, "app", &second).await, 400, "invalid_grant");
    client.get("/known").bearer(&access).send().await.assert_problem(401, "token-revoked");
    assert_eq!(client.get("/known").bearer(&other).send().await.status, 200, "another log-in is another family");
    assert_eq!(refresh(&client, "app", &unrelated).await.status, 200);
}

#[tokio::test]
async fn a_refresh_token_is_its_clients_alone() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let (_, token) = log_in(&client, "app").await;
    assert_error(&refresh(&client, "other", &token).await, 400, "invalid_grant");
    assert_error(
        &client.token(&format!("grant_type=refresh_token&refresh_token={token}")).send().await,
        401,
        "invalid_client",
    );
    assert_eq!(refresh(&client, "app", &token).await.status, 200, "it was not used");
}

#[tokio::test]
async fn a_refresh_token_gives_no_more_scopes_than_it_was_given_for() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let narrow = format!("{}&scope=read", password("alice", ALICE));
    let first = text(&client.token(&narrow).as_client("app").send().await, "refresh_token");
    let ask = |token: String, scope: &str| {
        client.token(&format!("grant_type=refresh_token&refresh_token={token}&scope={scope}")).as_client("app")
    };
    assert_error(&ask(first.clone(), "predict").send().await, 400, "invalid_scope");
    let answer = ask(first, "read").send().await;
    assert_eq!((answer.status, &answer.json()["scope"]), (200, &json!("read")));
    let (_, wide) = log_in(&client, "app").await;
    let narrowed = ask(wide, "read").send().await;
    assert_eq!(narrowed.json()["scope"], "read");
    let whole = refresh(&client, "app", &text(&narrowed, "refresh_token")).await;
    assert_eq!(whole.json()["scope"], "predict read", "RFC 6749 §6: the new token is for what the old one was for");
}

#[tokio::test]
async fn refresh_tokens_that_are_none_are_refused() {
    let gateway = builder().start().await;
    let client = gateway.client();
    let (access, token) = log_in(&client, "app").await;
    let forged = format!("{}{}", &token[..token.len() - 40], "0".repeat(40));
    for wrong in ["x", "mgr_", &access, &token.to_uppercase(), &format!("{token}0")] {
        assert_error(&refresh(&client, "app", wrong).await, 400, "invalid_grant");
    }
    let stranger = format!("mgr_{}_{}", "0".repeat(32), "0".repeat(40));
    assert_error(&refresh(&client, "app", &stranger).await, 400, "invalid_grant");
    assert_eq!(refresh(&client, "app", &token).await.status, 200);
    // Who knows the name of a family had one of its tokens.
    assert_error(&refresh(&client, "app", &forged).await, 400, "invalid_grant");
    assert_error(&client.token("grant_type=refresh_token").as_client("app").send().await, 400, "invalid_request");
}

#[tokio::test]
async fn a_refresh_token_ends_at_its_time_however_often_it_is_used() {
    let overlay = "[token]\nlifetime = \"2s\"\nrefresh_lifetime = \"2s\"\n";
    let gateway = builder().policy(overlay).start().await;
    let client = gateway.client();
    let (_, mut token) = log_in(&client, "app").await;
    let ends = introspect(&client, "app", &token).await["exp"].as_u64().expect("an end");
    let answer = harness::eventually("the end", async || {
        let answer = refresh(&client, "app", &token).await;
        if answer.status == 200 {
            token = text(&answer, "refresh_token");
            return None;
        }
        Some(answer)
    })
    .await;
    assert!(harness::identity::now() >= ends);
    assert_error(&answer, 400, "invalid_grant");
}

#[tokio::test]
async fn a_refresh_token_ends_with_its_users_password() {
    const OTHER: &str =
        "$argon2id$v=19$m=7168,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$NLqTAJyfqOc9yxRuOqvDv+Js7TG3DcxtYS+LJ4W6P1s";
    for changed in [format!("[users.alice]\ndigest = \"{OTHER}\"\n"), String::new()] {
        let gateway = builder().policy("[reload]\nwatch = false\n").policy("").start().await;
        let client = gateway.client();
        let (access, token) = log_in(&client, "app").await;
        let (_, other) = log_in(&client, "app").await;
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
        let token = text(&refresh(&client, "app", &token).await, "refresh_token");
        // A reload that leaves the user alone ends nothing; now another password, or no user.
        let directory = gateway.directory();
        if changed.is_empty() {
            let base = std::fs::read_to_string(directory.join("1.toml")).expect("it is there");
            std::fs::write(directory.join("1.toml"), base.replace("[users.alice]", "[users.eve]")).expect("writable");
        }
        std::fs::write(directory.join("4.toml"), &changed).expect("it can be written");
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
        for token in [&token, &other] {
            assert_eq!(introspect(&client, "app", token).await, serde_json::json!({ "active": false }));
            assert_error(&refresh(&client, "app", token).await, 400, "invalid_grant");
        }
        // The access tokens of the family end with it.
        client.get("/known").bearer(&access).send().await.assert_problem(401, "token-revoked");
    }
}

#[tokio::test]
async fn one_refresh_token_used_at_once_by_many_gives_one_answer_at_most() {
    let redis = harness::Redis::start().await;
    let gateway = builder().redis(&redis).start().await;
    let client = gateway.http2();
    let (_, token) = log_in(&client, "app").await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let request = client.token(&format!("grant_type=refresh_token&refresh_token={token}")).as_client("app");
        asking.spawn(request.send());
    }
    let statuses: Vec<u16> = asking.join_all().await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn tokens_of_a_client_and_a_user_are_never_taken_for_each_other() {
    let output = builder().policy("[users.ci]\ndigest = \"$argon2id$v=19$m=7168,t=1,p=1$4+wVHGQLC6+n61U46RxAmw$NLqTAJyfqOc9yxRuOqvDv+Js7TG3DcxtYS+LJ4W6P1s\"\n").output("check");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("clients.ci\n    has the name of a user"), "{text}");
    let gateway = builder().start().await;
    let token = credentials(&gateway.client(), "ci").await;
    assert_eq!(part(&token, 1)["gty"], "client-credentials");
}
