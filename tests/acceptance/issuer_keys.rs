//! Keys that an issuer publishes: fetched over HTTPS that is trusted, and only what can verify is used.

use std::sync::{Arc, Barrier};

use futures_util::future::join_all;
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
    // Once at the start, and once for the kid that is not known.
    assert_eq!(keys.asked(), 2, "known kids do not make the gateway fetch");
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_who_wait_for_it() {
    let (first, second) = (Signer::es256(), Signer::es256());
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[first.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys").await;
    // The fetch is under way until everybody else had a chance to ask.
    let (held, set) = (Arc::new(Barrier::new(2)), json!({ "keys": [first.jwk("1"), second.jwk("2")] }));
    keys.follow({
        let held = Arc::clone(&held);
        move |_| {
            held.wait();
            KeyServer::ok(&set)
        }
    });
    let header = json!({ "kid": "2" });
    let asked = (0..40).map(|_| ask(&gateway, &second, &header));
    let known = async {
        // Whoever has a key that is known does not wait.
        assert_eq!(ask(&gateway, &first, &json!({ "kid": "1" })).await.status, 200);
        tokio::task::spawn_blocking(move || held.wait()).await.expect("it is met");
    };
    let (answers, ()) = tokio::join!(join_all(asked), known);
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert_eq!(keys.asked(), 2, "one fetch for all");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_the_issuer_one_fetch_and_others_nothing() {
    let (known, stranger) = (Signer::es256(), Signer::es256());
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[known.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys").await;
    let flood = (0..80).map(|client| {
        let (gateway, stranger) = (&gateway, &stranger);
        async move {
            for number in 0..5 {
                let header = json!({ "kid": format!("made up {client} {number}") });
                ask(gateway, stranger, &header).await.assert_problem(401, "token-invalid");
            }
        }
    });
    let honest = async {
        for _ in 0..20 {
            assert_eq!(ask(&gateway, &known, &json!({ "kid": "1" })).await.status, 200);
        }
    };
    tokio::join!(join_all(flood), honest);
    assert_eq!(worker.seen().len(), 20);
    // One every ten seconds.
    assert!(keys.asked() <= 4, "the issuer was asked {} times", keys.asked());
}

#[tokio::test]
async fn an_issuer_that_hangs_holds_up_nobody_else() {
    let (known, stranger) = (Signer::es256(), Signer::es256());
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[known.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys").await;
    let held = Arc::new(Barrier::new(2));
    keys.follow({
        let held = Arc::clone(&held);
        move |_| {
            held.wait();
            KeyServer::status(500)
        }
    });
    let header = json!({ "kid": "2" });
    let waits = ask(&gateway, &stranger, &header);
    let others = async {
        while keys.asked() < 2 {
            assert_eq!(ask(&gateway, &known, &json!({ "kid": "1" })).await.status, 200);
        }
        // The fetch is under way now, and others are served.
        assert_eq!(ask(&gateway, &known, &json!({ "kid": "1" })).await.status, 200);
        tokio::task::spawn_blocking(move || held.wait()).await.expect("it is met");
    };
    let (refused, ()) = tokio::join!(waits, others);
    // The key may be good: that the issuer does not answer is not the client's fault.
    refused.assert_problem(503, "issuer-unavailable");
    assert!(!refused.header("retry-after").is_empty());
    let before = keys.asked();
    for _ in 0..20 {
        ask(&gateway, &stranger, &header).await.assert_problem(503, "issuer-unavailable");
    }
    // The gateway's own tries, one after a second and one two seconds later, and none for each who asks.
    assert!(keys.asked() - before <= 4, "the issuer was asked {} times", keys.asked() - before);
    // Whose key is known and who signed with another is told so.
    ask(&gateway, &stranger, &json!({ "kid": "1" })).await.assert_problem(401, "token-invalid");
    // What failed takes nothing away.
    assert_eq!(ask(&gateway, &known, &json!({ "kid": "1" })).await.status, 200);
}

#[tokio::test]
async fn a_reload_has_keys_fetched_at_once_that_were_withdrawn() {
    let (withdrawn, next) = (Signer::es256(), Signer::es256());
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[withdrawn.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    gateway.log().event("issuer-keys").await;
    assert_eq!(ask(&gateway, &withdrawn, &json!({ "kid": "1" })).await.status, 200);
    keys.publish(&[next.jwk("2")]);
    assert_eq!(ask(&gateway, &withdrawn, &json!({ "kid": "1" })).await.status, 200, "nobody has looked");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    harness::eventually("it is refused", async || {
        (ask(&gateway, &withdrawn, &json!({ "kid": "1" })).await.status == 401).then_some(())
    })
    .await;
    assert_eq!(ask(&gateway, &next, &json!({ "kid": "2" })).await.status, 200);
    // However often it is asked.
    let before = keys.asked();
    for _ in 0..20 {
        gateway.signal("HUP");
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    }
    assert!(keys.asked() - before <= 10, "{} fetches", keys.asked() - before);
}

#[tokio::test]
async fn the_last_good_keys_serve_for_a_stated_time() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    let keys = KeyServer::publishing(&[signer.jwk("1")]);
    let gateway = gateway(&worker, &keys).policy("[issuers.corp]\nkeys_kept = \"3s\"\n").start().await;
    gateway.log().event("issuer-keys").await;
    keys.answer(KeyServer::status(500));
    gateway.log().event("issuer-keys-failed").await;
    assert_eq!(ask(&gateway, &signer, &json!({ "kid": "1" })).await.status, 200, "the last good keys serve");
    gateway.log().event("issuer-keys-ended").await;
    let before = worker.seen().len();
    ask(&gateway, &signer, &json!({ "kid": "1" })).await.assert_problem(503, "issuer-unavailable");
    assert_eq!(worker.seen().len(), before);
    keys.publish(&[signer.jwk("1")]);
    let back = gateway.log().matching(|line| line["event"] == "issuer-keys").len() + 1;
    let again = || gateway.log().matching(|line| line["event"] == "issuer-keys").len() >= back;
    harness::eventually("the keys are back", async || again().then_some(())).await;
    assert_eq!(ask(&gateway, &signer, &json!({ "kid": "1" })).await.status, 200);
}

/// An issuer with metadata: its own server's address is its name.
fn discovering(worker: &Recorder, keys: &KeyServer, path: &str) -> GatewayBuilder {
    let overlay = format!(
        "[issuers.corp]\nissuer = \"{}\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\ndiscovery = true\n\
         ca = \"ca.pem\"\n",
        keys.at(path)
    );
    // The system's authorities are not asked where the issuer has its own.
    let builder = Gateway::builder().worker(worker).policy(overlay);
    builder.file("ca.pem", &TestCa::shared().authority).variable("SSL_CERT_FILE", "/dev/null")
}

#[tokio::test]
async fn metadata_say_where_the_keys_are() {
    let signer = Signer::es256();
    for (issuer, metadata) in [
        ("", "/.well-known/openid-configuration"),
        ("/realms/corp", "/realms/corp/.well-known/openid-configuration"),
        ("/realms/corp/", "/realms/corp/.well-known/openid-configuration"),
        ("", "/.well-known/oauth-authorization-server"),
        ("/realms/corp", "/.well-known/oauth-authorization-server/realms/corp"),
    ] {
        let worker = Recorder::start();
        let keys = KeyServer::answering("");
        let (iss, uri, jwk) = (keys.at(issuer), keys.at("/somewhere/else"), signer.jwk("1"));
        keys.follow(move |request| match request.split(' ').nth(1) {
            Some(path) if path == metadata => KeyServer::ok(&json!({ "issuer": iss, "jwks_uri": uri })),
            Some("/somewhere/else") => KeyServer::ok(&json!({ "keys": [jwk] })),
            _ => KeyServer::status(404),
        });
        let gateway = discovering(&worker, &keys, issuer).start().await;
        gateway.log().event("issuer-keys").await;
        let token = signer.token_with(&json!({ "kid": "1" }), &{
            let mut claims = claims();
            claims["iss"] = json!(keys.at(issuer));
            claims
        });
        let answer = gateway.client().post("/predict").bearer(&token).json(&flower()).send().await;
        assert_eq!(answer.status, 200, "{metadata}: {}", answer.text());
    }
}

#[tokio::test]
async fn metadata_that_can_not_be_believed_are_not() {
    let signer = Signer::es256();
    let worker = Recorder::start();
    let elsewhere = KeyServer::publishing(&[signer.jwk("1")]);
    let keys = KeyServer::answering("");
    let (iss, good) = (keys.at(""), elsewhere.url());
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {good}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    for (what, answer) in [
        ("another issuer", KeyServer::ok(&json!({ "issuer": "https://evil.example", "jwks_uri": good }))),
        ("an issuer with a slash more", KeyServer::ok(&json!({ "issuer": format!("{iss}/"), "jwks_uri": good }))),
        ("no issuer", KeyServer::ok(&json!({ "jwks_uri": good }))),
        ("no keys", KeyServer::ok(&json!({ "issuer": iss }))),
        ("keys without TLS", KeyServer::ok(&json!({ "issuer": iss, "jwks_uri": good.replace("https", "http") }))),
        ("keys in a file", KeyServer::ok(&json!({ "issuer": iss, "jwks_uri": "file:///etc/passwd" }))),
        ("a list", KeyServer::ok(&json!([{ "issuer": iss, "jwks_uri": good }]))),
        ("no JSON", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<html>".to_vec()),
        ("another issuer first", {
            let text = format!("{{\"issuer\":\"https://x.example\",\"issuer\":\"{iss}\",\"jwks_uri\":\"{good}\"}}");
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}").into_bytes()
        }),
        ("too large", KeyServer::ok(&json!({ "issuer": iss, "jwks_uri": good, "x": "x".repeat(300_000) }))),
        ("a redirect", redirect.into_bytes()),
    ] {
        keys.answer(answer);
        let gateway = discovering(&worker, &keys, "").start().await;
        gateway.log().event("issuer-keys-failed").await;
        let mut claims = claims();
        claims["iss"] = json!(iss);
        let token = signer.token_with(&json!({ "kid": "1" }), &claims);
        let answer = gateway.client().post("/predict").bearer(&token).json(&flower()).send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "issuer-unavailable"), "{what}");
    }
    assert_eq!(elsewhere.asked(), 0);
    worker.assert_untouched();
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
    // What everybody can sign with is nobody's key.
    let leaked = Signer::es256();
    let mut private = leaked.jwk("leaked");
    private["d"] = json!(base64url([7; 32]));
    let mut signing = encrypting.jwk("signs");
    signing["key_ops"] = json!(["sign"]);
    let symmetric = json!({ "kty": "oct", "kid": "hmac", "k": base64url(secret), "alg": "HS256", "use": "sig" });
    let worker = Recorder::start();
    let keys =
        KeyServer::publishing(&[json!({ "kty": "??" }), symmetric, sealed, other, private, signing, good.jwk("1")]);
    let gateway = gateway(&worker, &keys).start().await;
    assert_eq!(gateway.log().event("issuer-keys").await["keys"], "1");
    for (signer, header) in [
        (&encrypting, json!({ "kid": "enc" })),
        (&encrypting, json!({ "kid": "es384" })),
        (&encrypting, json!({ "kid": "signs" })),
        (&leaked, json!({ "kid": "leaked" })),
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
    assert_eq!(elsewhere.asked(), 0);
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
