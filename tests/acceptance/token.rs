//! `POST /token`: a password for a token (RFC 6749 §4.3), the gateway's legacy grant.

use harness::identity::{ALICE, AUDIENCE, BOB, ISSUER, now, part};
use harness::{Answer, Gateway, Recorder, Signing};
use serde_json::json;

/// Holds an answer to RFC 6749 §5.2.
fn assert_error(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json()["error"], error, "{}", answer.text());
}

fn form(user: &str, password: &str) -> String {
    format!("grant_type=password&username={user}&password={}", password.replace(' ', "+"))
}

async fn a_password_becomes_a_token_that_works(signing: Signing, alg: &str) {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).signing(signing).start().await;
    let before = now();
    let answer = gateway.client().token(&form("alice", ALICE)).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store".into(), "no-cache".into()));
    let body = answer.json();
    assert_eq!((&body["token_type"], &body["expires_in"]), (&json!("Bearer"), &json!(900)));
    let token = body["access_token"].as_str().expect("a token");
    let (header, claims) = (part(token, 0), part(token, 1));
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!(alg)));
    assert_eq!(header.get("kid").is_some(), signing != Signing::Hs256, "a published key has a name");
    // RFC 9068 §2.2.
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["sub"], &claims["client_id"]),
        (&json!(ISSUER), &json!(AUDIENCE), &json!("alice"), &json!("alice"))
    );
    assert_eq!(claims["roles"], json!(["predictor", "reader"]));
    let issued = claims["iat"].as_u64().expect("a date");
    assert!((before..=now()).contains(&issued));
    assert_eq!(claims["exp"].as_u64(), Some(issued + 900));
    assert!(!claims["jti"].as_str().expect("an id").is_empty());
    worker.assert_untouched();

    for client in [gateway.client(), gateway.http2()] {
        let answer = client.post("/predict").bearer(token).json(&harness::client::flower()).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let seen = &worker.seen()[0];
    assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("user:alice"));
    assert_eq!(seen.header("x-modelgate-scheme").as_deref(), Some("jwt"));
    assert_eq!(seen.headers("authorization"), Vec::<String>::new(), "the worker gets no credential");
    assert!(!gateway.log().text().contains(token));
}

#[tokio::test]
async fn a_password_becomes_a_token_with_hs256() {
    a_password_becomes_a_token_that_works(Signing::Hs256, "HS256").await;
}

#[tokio::test]
async fn a_password_becomes_a_token_with_es256() {
    a_password_becomes_a_token_that_works(Signing::Es256, "ES256").await;
}

#[tokio::test]
async fn a_password_becomes_a_token_with_rs256() {
    a_password_becomes_a_token_that_works(Signing::Rs256, "RS256").await;
}

#[tokio::test]
async fn a_token_carries_its_users_roles_and_no_more() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let token = gateway.http2().log_in("bob", BOB).await;
    assert_eq!(gateway.client().get("/models").bearer(&token).send().await.status, 200);
    let answer = gateway.client().post("/predict").bearer(&token).json(&harness::client::flower()).send().await;
    answer.assert_problem(403, "role-missing");
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn two_tokens_of_one_user_differ() {
    let gateway = Gateway::builder().start().await;
    let (first, second) =
        (gateway.client().log_in("alice", ALICE).await, gateway.client().log_in("alice", ALICE).await);
    assert_ne!(part(&first, 1)["jti"], part(&second, 1)["jti"]);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_alike() {
    let gateway = Gateway::builder().start().await;
    let mut bodies = Vec::new();
    for (user, password) in [
        ("alice", "wrong"),
        ("alice", BOB),
        ("mallory", ALICE),
        ("Alice", ALICE),
        ("alice", "correct horse battery staple "),
        ("%00alice", ALICE),
    ] {
        let answer = gateway.client().token(&form(user, password)).send().await;
        assert_error(&answer, 400, "invalid_grant");
        assert_eq!(answer.header("www-authenticate"), "");
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let text = gateway.log().text();
    assert!(!text.contains("battery") && !text.contains("reitet"), "{text}");
}

#[tokio::test]
async fn passwords_are_checked_a_few_at_a_time_and_others_are_asked_to_come_again() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..24 {
        clients.spawn(gateway.client().token(&form("alice", ALICE)).send());
    }
    // Predictions go on meanwhile.
    assert_eq!(gateway.client().predict("predictor").send().await.status, 200);
    let answers = clients.join_all().await;
    assert!(answers.iter().any(|answer| answer.status == 200));
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_error(answer, 503, "temporarily_unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn failed_log_ins_are_in_the_security_record() {
    let gateway = Gateway::builder().start().await;
    let answer = gateway.client().token(&form("alice", "wrong")).send().await;
    let record =
        gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == answer.request_id()).await;
    assert_eq!(record["reason"], "token-grant");
}

#[tokio::test]
async fn requests_that_can_be_read_in_two_ways_are_refused() {
    let gateway = Gateway::builder().start().await;
    let good = form("alice", ALICE);
    for (form, error) in [
        (format!("{good}&username=alice"), "invalid_request"),
        (format!("{good}&password=x"), "invalid_request"),
        (format!("{good}&grant_type=password"), "invalid_request"),
        (format!("{good}&client_id=a&client_id=a"), "invalid_request"),
        (String::new(), "invalid_request"),
        ("username=alice&password=x".into(), "invalid_request"),
        ("grant_type=password&username=alice".into(), "invalid_request"),
        ("grant_type=password&username=&password=x".into(), "invalid_request"),
        ("grant_type=&username=alice&password=x".into(), "invalid_request"),
        ("grant_type=client_credentials".into(), "unsupported_grant_type"),
        ("grant_type=PASSWORD&username=alice&password=x".into(), "unsupported_grant_type"),
        ("grant_type=refresh_token&refresh_token=x".into(), "unsupported_grant_type"),
        (format!("{good}&scope=admin"), "invalid_scope"),
    ] {
        assert_error(&gateway.client().token(&form).send().await, 400, error);
    }
    // RFC 6749 §3.2: an empty parameter counts as absent, and an unknown one is ignored.
    assert_eq!(gateway.client().token(&format!("{good}&scope=&client_id=x&other=y")).send().await.status, 200);
}

#[tokio::test]
async fn the_body_must_be_a_form() {
    let gateway = Gateway::builder().start().await;
    let json = json!({ "grant_type": "password", "username": "alice", "password": ALICE }).to_string();
    let form = form("alice", ALICE);
    for (kind, body) in [
        ("application/json", &json),
        ("application/json", &form),
        ("text/plain", &form),
        ("multipart/form-data; boundary=x", &form),
        ("application/x-www-form-urlencoded2", &form),
        ("", &form),
    ] {
        let answer = gateway.client().post("/token").header("content-type", kind).body(body.clone()).send().await;
        // An OAuth2 client reads `error` and nothing else (RFC 6749 §5.2).
        assert_error(&answer, 400, "invalid_request");
    }
    let answer = gateway.client().post("/token").body(form.clone()).send().await;
    assert_error(&answer, 400, "invalid_request");
    let typed =
        gateway.client().post("/token").header("content-type", "Application/X-WWW-Form-Urlencoded; charset=UTF-8");
    assert_eq!(typed.body(form).send().await.status, 200);
}

#[tokio::test]
async fn credentials_in_the_url_are_not_read() {
    let gateway = Gateway::builder().start().await;
    let answer = gateway.client().post(&format!("/token?{}", form("alice", ALICE))).form("").send().await;
    assert_error(&answer, 400, "invalid_request");
    let record = gateway.log().access(&answer.request_id()).await;
    assert!(!record.to_string().contains("battery"), "{record}");
}

#[tokio::test]
async fn only_post_is_taken() {
    let gateway = Gateway::builder().start().await;
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        let answer = gateway.client().request(method, "/token").send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, "POST".into()), "{method}");
    }
}

#[tokio::test]
async fn a_form_that_is_too_large_is_refused() {
    let gateway = Gateway::builder().start().await;
    let long = form("alice", &"x".repeat(9000));
    let answer = gateway.client().token(&long).send().await;
    assert_eq!(answer.status, 413, "{}", answer.text());
    // Longer than any password may be, and read in full: wrong like any other.
    assert_error(&gateway.client().token(&form("alice", &"x".repeat(2000))).send().await, 400, "invalid_grant");
}

#[tokio::test]
async fn long_passwords_are_not_cut() {
    let gateway = Gateway::builder().start().await;
    // Argon2 reads all of it: a right beginning is a wrong password (ASVS 6.2.9).
    let longer = format!("{ALICE}{}", "x".repeat(100));
    assert_error(&gateway.client().token(&form("alice", &longer)).send().await, 400, "invalid_grant");
}

#[tokio::test]
async fn without_a_token_section_there_is_no_endpoint_and_no_issuer() {
    let overlay = format!(
        "[roles.reader]\n[routes.known]\npath = \"/known\"\nmethods = [\"GET\"]\npool = \"models\"\nlimits = []\n\
         authenticate = [\"api_key\", \"jwt\"]\nauthorize = \"authenticated\"\n[api_keys.reader]\ndigest = \"{}\"\nowner = \"x\"\n",
        gateway::types::Sha256::of(harness::identity::key("reader").as_bytes())
    );
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).without_base().policy(overlay).start().await;
    gateway.client().token(&form("alice", ALICE)).send().await.assert_problem(404, "not-found");
    let token = gateway.signer().token(&json!({}));
    gateway.client().get("/known").bearer(&token).send().await.assert_problem(401, "token-invalid");
    worker.assert_untouched();
    assert_eq!(gateway.client().get("/known").key("reader").send().await.status, 200);
}
