//! API keys: one good key in one header opens the route, anything else is refused before the worker.

use harness::client::flower;
use harness::identity::key;
use harness::{Gateway, Recorder};

/// `key` with its last digit changed, so that its check part is wrong.
fn mistyped(id: &str) -> String {
    let mut key = key(id);
    let last = key.pop();
    key.push(if last == Some('0') { '1' } else { '0' });
    key
}

#[tokio::test]
async fn a_good_key_opens_the_route_and_names_the_principal() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().predict("predictor").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = worker.only();
    assert_eq!(seen.line(), "POST /models/iris/predict HTTP/1.1");
    assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("key:predictor"));
    assert_eq!(seen.header("x-modelgate-scheme").as_deref(), Some("api_key"));
    assert_eq!(seen.header("x-modelgate-roles").as_deref(), Some("predictor,reader"));
    assert_eq!(seen.json(), flower());
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!(record["principal"], "key:predictor");
}

#[tokio::test]
async fn the_key_reaches_neither_the_worker_nor_the_log() {
    let worker = Recorder::start();
    let mut gateway = Gateway::before(&worker).await;
    gateway.client().predict("predictor").send().await;
    gateway.http2().predict("predictor").send().await;
    gateway.client().predict("unknown").send().await;
    assert_eq!(worker.seen().len(), 2);
    for seen in worker.seen() {
        assert_eq!(seen.headers("x-api-key"), Vec::<String>::new());
        assert!(!seen.text().contains("mgk_"), "{}", seen.text());
    }
    assert!(gateway.stop().await.success());
    assert!(!gateway.log().text().contains("mgk_"), "{}", gateway.log().text());
}

#[tokio::test]
async fn without_a_key_it_is_401_with_every_scheme_that_is_taken() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.post("/predict").json(&flower()).send().await;
        answer.assert_problem(401, "credential-missing");
        let challenge = answer.header("www-authenticate");
        // RFC 6750 §3.1: who sent nothing is told no error.
        assert_eq!(challenge, "Bearer realm=\"modelgate\", ApiKey realm=\"modelgate\", header=\"X-API-Key\"");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn bad_keys_are_told_apart_and_refused() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let good = key("predictor");
    // Another secret under a known id, with a check that fits.
    let forged = gateway::policy::authenticate::api_key::compose("predictor", [7; 20]);
    for (key, slug) in [
        (mistyped("predictor"), "api-key-mistyped"),
        ("hunter2".to_owned(), "api-key-mistyped"),
        (String::new(), "api-key-mistyped"),
        (good.to_uppercase(), "api-key-mistyped"),
        (format!("{good}0"), "api-key-mistyped"),
        (format!("{good}, {good}"), "api-key-mistyped"),
        (good.replace("mgk_", ""), "api-key-mistyped"),
        ("mgk_".repeat(1000), "api-key-mistyped"),
        (key("unknown"), "api-key-unknown"),
        (forged, "api-key-unknown"),
        (key("expired"), "api-key-expired"),
    ] {
        let answer = gateway.client().post("/predict").header("x-api-key", &key).json(&flower()).send().await;
        answer.assert_problem(401, slug);
        assert!(answer.header("www-authenticate").contains("ApiKey realm="), "{key}");
        let shown = answer.text() + &format!("{:?}", answer.headers);
        assert!(key.is_empty() || !shown.contains(&key), "a credential is never shown back: {shown}");
        let record =
            gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == answer.request_id()).await;
        assert_eq!(record["reason"], slug);
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn an_expired_key_with_a_wrong_secret_is_unknown_not_expired() {
    let gateway = Gateway::builder().start().await;
    let forged = gateway::policy::authenticate::api_key::compose("expired", [7; 20]);
    gateway.client().get("/known").header("x-api-key", &forged).send().await.assert_problem(401, "api-key-unknown");
}

#[tokio::test]
async fn two_keys_are_refused_even_if_both_are_good() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        client.predict("predictor").key("predictor").send().await.assert_problem(400, "credentials-several");
        client.predict("predictor").key("second").send().await.assert_problem(400, "credentials-several");
        client.predict("unknown").key("predictor").send().await.assert_problem(400, "credentials-several");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn the_header_can_have_another_name() {
    let worker = Recorder::start();
    let overlay = "[api_key]\nheader = \"X-Team-Token\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let unread = gateway.client().predict("predictor").send().await;
    unread.assert_problem(401, "credential-missing");
    assert!(unread.header("www-authenticate").contains("header=\"X-Team-Token\""));
    worker.assert_untouched();
    let answer =
        gateway.client().post("/predict").header("x-team-token", &key("predictor")).json(&flower()).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!worker.only().text().contains("mgk_"));
}

#[tokio::test]
async fn a_bad_key_never_falls_through_to_a_good_token() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let token = gateway.signer().token(&serde_json::json!({}));
    let request = gateway.client().predict("unknown").bearer(&token);
    assert_ne!(request.send().await.status, 200);
    worker.assert_untouched();
}

#[tokio::test]
async fn a_key_in_the_url_or_in_a_cookie_is_no_credential() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let key = key("predictor");
    let answer = gateway.client().get(&format!("/known?api_key={key}&X-API-Key={key}")).send().await;
    answer.assert_problem(401, "credential-missing");
    let answer = gateway.client().get("/known").header("cookie", &format!("X-API-Key={key}")).send().await;
    answer.assert_problem(401, "credential-missing");
    let answer = gateway.client().get("/known").header("authorization", &format!("ApiKey {key}")).send().await;
    answer.assert_problem(401, "credential-missing");
    worker.assert_untouched();
}

#[tokio::test]
async fn a_route_that_takes_only_keys_takes_no_token() {
    let worker = Recorder::start();
    let overlay = "[routes.known]\nauthenticate = [\"api_key\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let token = gateway.signer().token(&serde_json::json!({}));
    let answer = gateway.client().get("/known").bearer(&token).send().await;
    answer.assert_problem(401, "credential-missing");
    assert_eq!(answer.header("www-authenticate"), "ApiKey realm=\"modelgate\", header=\"X-API-Key\"");
    worker.assert_untouched();
    // What the route does not take is not the worker's business either.
    assert_eq!(gateway.client().get("/known").key("reader").bearer(&token).send().await.status, 200);
    assert_eq!(worker.only().headers("authorization"), Vec::<String>::new());
}
