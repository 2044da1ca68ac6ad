//! Keys that an issuer publishes: fetched over HTTPS that is trusted, and only what can verify is used.

use harness::client::flower;
use harness::identity::{base64url, claims};
use harness::{Answer, Gateway, GatewayBuilder, KeyServer, Recorder, Signer, TestCa};
use serde_json::{Value, json};

const ISSUER: &str = "https://idp.example";

/// A gateway that trusts the test's CA and takes tokens of an issuer with published keys.
fn gateway(worker: &Recorder, keys: &KeyServer) -> GatewayBuilder {
    let url = keys.url();
    let overlay = format!(
        "[issuers.corp]\nissuer = \"{ISSUER}\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\njwks_url = \"{url}\"\n"
    );
    let builder = Gateway::builder().worker(worker).policy(overlay);
    builder.file("ca.pem", &TestCa::shared().authority).variable("SSL_CERT_FILE", "ca.pem")
}

async fn ask(gateway: &Gateway, signer: &Signer, header: &Value) -> Answer {
    let mut foreign = claims();
    foreign["iss"] = json!(ISSUER);
    let token = signer.token_with(header, &foreign);
    gateway.client().post("/predict").bearer(&token).json(&flower()).send().await
}

#[tokio::test]
async fn published_keys_verify_tokens_by_their_kid() {
    let (first, second, stranger) = (Signer::es256(), Signer::es256(), Signer::es256());
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[first.jwk("1"), second.jwk("2")]);
    let gateway = gateway(&worker, &keys).start().await;
    let event = gateway.log().event("issuer-keys").await;
    assert_eq!((&event["issuer"], &event["keys"]), (&json!("corp"), &json!("2")));
    for (signer, header, status) in [
        (&first, json!({ "kid": "1" }), 200),
        (&second, json!({ "kid": "2" }), 200),
        (&second, json!({}), 200),
        (&first, json!({ "kid": "2" }), 401),
        (&first, json!({ "kid": "3" }), 401),
        (&stranger, json!({ "kid": "1" }), 401),
        (&stranger, json!({}), 401),
    ] {
        let before = worker.seen().len();
        let answer = ask(&gateway, signer, &header).await;
        assert_eq!(answer.status, status, "{header}: {}", answer.text());
        assert_eq!(worker.seen().len() - before, usize::from(status == 200));
    }
    assert_eq!(keys.asked(), 1, "requests do not make the gateway fetch");
}

#[tokio::test]
async fn without_keys_tokens_can_not_be_checked_and_other_credentials_can() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    for answer in [
        "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nnot json".to_owned(),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"keys\":[]}".to_owned(),
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"keys\":[],\"keys\":[]}".to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{{\"keys\":[{}], \"x\": \"{}\"}}",
            signer.jwk("1"),
            "x".repeat(300_000)
        ),
    ] {
        let keys = KeyServer::answering(answer);
        let gateway = gateway(&worker, &keys).start().await;
        let event = gateway.log().event("issuer-keys-failed").await;
        assert_eq!(event["issuer"], "corp");
        let answer = ask(&gateway, &signer, &json!({})).await;
        answer.assert_problem(503, "issuer-unavailable");
        assert_eq!(answer.header("retry-after"), "10");
        worker.assert_untouched();
        assert_eq!(gateway.client().get("/known").send().await.status, 401);
        assert_eq!(gateway.client().token("grant_type=password&username=alice&password=x").send().await.status, 400);
    }
    let gateway = gateway(&worker, &KeyServer::publishing(&[signer.jwk("1")])).start().await;
    assert_eq!(gateway.client().predict("predictor").send().await.status, 200);
}

#[tokio::test]
async fn what_can_not_verify_is_no_key() {
    let (good, encrypting) = (Signer::es256(), Signer::es256());
    let secret = "0123456789abcdef0123456789abcdef";
    let mut sealed = encrypting.jwk("enc");
    sealed["use"] = json!("enc");
    let mut other = encrypting.jwk("es384");
    other["alg"] = json!("ES384");
    let symmetric = json!({ "kty": "oct", "kid": "hmac", "k": base64url(secret), "alg": "HS256", "use": "sig" });
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[json!({ "kty": "??" }), symmetric, sealed, other, good.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    assert_eq!(gateway.log().event("issuer-keys").await["keys"], "1");
    for (signer, header) in [
        (&encrypting, json!({ "kid": "enc" })),
        (&encrypting, json!({ "kid": "es384" })),
        (&Signer::hs256(secret), json!({ "kid": "hmac" })),
        (&Signer::hs256(secret), json!({ "kid": "hmac", "alg": "ES256" })),
    ] {
        ask(&gateway, signer, &header).await.assert_problem(401, "token-invalid");
    }
    worker.assert_untouched();
    assert_eq!(ask(&gateway, &good, &json!({ "kid": "1" })).await.status, 200);
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    let elsewhere = KeyServer::publishing(&[signer.jwk("1")]);
    let redirect = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        elsewhere.url()
    );
    let keys = KeyServer::answering(redirect);
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys-failed").await;
    ask(&gateway, &signer, &json!({})).await.assert_problem(503, "issuer-unavailable");
    assert_eq!((keys.asked(), elsewhere.asked()), (1, 0));
    worker.assert_untouched();
}

#[tokio::test]
async fn a_key_server_that_is_not_trusted_is_not_believed() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[signer.jwk("1")]);
    let gateway = gateway(&worker, &keys).variable("SSL_CERT_FILE", "/dev/null").start().await;
    gateway.log().event("issuer-keys-failed").await;
    ask(&gateway, &signer, &json!({})).await.assert_problem(503, "issuer-unavailable");
    assert_eq!(keys.asked(), 0, "nothing is asked over a connection that is not trusted");
    worker.assert_untouched();
}

#[tokio::test]
async fn keys_are_fetched_again_after_a_failure() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    let keys = KeyServer::answering("HTTP/1.1 503 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys-failed").await;
    keys.publish(&[signer.jwk("1")]);
    gateway.log().event("issuer-keys").await;
    let answer = ask(&gateway, &signer, &json!({ "kid": "1" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
