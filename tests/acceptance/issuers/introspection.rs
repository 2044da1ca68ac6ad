//! Tokens that only their issuer can read: asked about once, kept shortly, and never at others' cost.

use std::collections::HashMap;
use std::sync::{Arc, Barrier, Mutex, PoisonError};

use futures_util::future::join_all;
use harness::identity::{base64url, change, claims, key, now};
use harness::{Gateway, GatewayBuilder, KeyServer, Recorder, Signer, TestCa};
use serde_json::{Value, json};

use super::{ISSUER, corp, predict};

/// An issuer that knows tokens, and how often it was asked about each.
struct Idp {
    server: KeyServer,
    tokens: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What a good answer says.
fn good() -> Value {
    json!({ "active": true, "iss": ISSUER, "aud": "modelgate", "sub": "carol", "exp": now() + 300, "roles": ["predictor"] })
}

impl Idp {
    /// It knows these tokens, each with changes to a good answer.
    fn knowing(tokens: &[(&str, Value)]) -> Self {
        let known = tokens.iter().map(|(token, changes)| {
            let mut said = good();
            change(&mut said, changes);
            ((*token).to_owned(), said)
        });
        let (tokens, asked) = (Arc::new(Mutex::new(known.collect::<HashMap<_, _>>())), Arc::default());
        let idp = Self { server: KeyServer::answering(""), tokens, asked };
        idp.serve();
        idp
    }

    fn serve(&self) {
        let (tokens, asked) = (Arc::clone(&self.tokens), Arc::clone(&self.asked));
        self.server.follow(move |request| answer(&tokens, &asked, request));
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self, token: &str) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// A gateway that asks it.
    async fn gateway(&self, worker: &Recorder, keys: &str, more: &str) -> Gateway {
        self.builder(worker, keys, more).start().await
    }

    fn builder(&self, worker: &Recorder, keys: &str, more: &str) -> GatewayBuilder {
        let url = self.server.at("/introspect");
        let overlay = corp(&format!(
            "{keys}\nca = \"ca.pem\"\n[issuers.corp.introspection]\nurl = \"{url}\"\nclient_id = \"model gate\"\n\
             client_secret = {{ env = \"IDP_SECRET\" }}\n{more}"
        ));
        let builder = Gateway::builder().worker(worker).policy(overlay).file("ca.pem", &TestCa::shared().authority);
        builder.variable("IDP_SECRET", "pass:word").variable("SSL_CERT_FILE", "/dev/null")
    }
}

fn answer(tokens: &Mutex<HashMap<String, Value>>, asked: &Mutex<Vec<String>>, request: &str) -> Vec<u8> {
    let (head, body) = request.split_once("\r\n\r\n").unwrap_or_default();
    // `model+gate:pass%3Aword`: form-encoded before it is put together (RFC 6749 §2.3.1).
    let proof = "authorization: basic bw9kzwwrz2f0ztpwyxnzjtnbd29yza==";
    if !head.starts_with("POST /introspect HTTP/1.1\r\n") || !head.to_ascii_lowercase().contains(proof) {
        return KeyServer::status(401);
    }
    let Some(token) = body.strip_prefix("token=").and_then(|rest| rest.strip_suffix("&token_type_hint=access_token"))
    else {
        return KeyServer::status(400);
    };
    let token = token.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=").replace("%7E", "~");
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(token.clone());
    let known = tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&token).cloned();
    KeyServer::ok(&known.unwrap_or_else(|| json!({ "active": false })))
}

#[tokio::test]
async fn an_opaque_token_is_asked_about_once_and_then_known() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[("carols", json!({}))]);
    let gateway = idp.gateway(&worker, "", "").await;
    for _ in 0..20 {
        let answer = predict(&gateway, "carols").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(worker.seen()[0].header("x-modelgate-principal").as_deref(), Some("corp:carol"));
    assert_eq!(idp.asked(), ["carols"]);
    for _ in 0..5 {
        predict(&gateway, "nobodys").await.assert_problem(401, "token-invalid");
    }
    assert_eq!(idp.asked(), ["carols", "nobodys"], "what is refused is known for a while too");
    let log = gateway.log().text();
    assert!(!log.contains("carols") && !log.contains("pass:word"), "{log}");
}

#[tokio::test]
async fn an_answer_is_held_to_the_rules_that_tokens_are_held_to() {
    let worker = Recorder::start();
    let cases = [
        ("inactive", json!({ "active": false }), 401),
        ("active-in-words", json!({ "active": "true" }), 503),
        ("active-as-number", json!({ "active": 1 }), 503),
        ("no-active", json!({ "active": null }), 503),
        ("ended", json!({ "exp": now() - 60 }), 401),
        ("end-in-words", json!({ "exp": "tomorrow" }), 401),
        ("not-yet", json!({ "nbf": now() + 300 }), 401),
        ("other-audience", json!({ "aud": "another" }), 401),
        ("no-audience", json!({ "aud": null }), 401),
        ("other-issuer", json!({ "iss": "https://evil.example" }), 401),
        ("issuer-list", json!({ "iss": [ISSUER] }), 401),
        ("no-subject", json!({ "sub": null }), 401),
        ("bad-subject", json!({ "sub": "a\r\nx: 1" }), 401),
        ("refresh-token", json!({ "token_use": "refresh_token" }), 401),
        ("refresh-by-type", json!({ "typ": "Refresh" }), 401),
        ("id-token", json!({ "typ": "ID" }), 401),
        ("another-kind", json!({ "token_type": "refresh_token" }), 401),
        ("access-by-type", json!({ "typ": "Bearer", "token_type": "Bearer", "token_use": "access_token" }), 200),
        ("no-roles", json!({ "roles": [] }), 403),
        ("no-end", json!({ "exp": null }), 200),
        ("no-issuer", json!({ "iss": null }), 200),
        ("audiences", json!({ "aud": ["x", "modelgate"] }), 200),
        ("form+a/b~c.d_e-f==", json!({}), 200),
    ];
    for (token, changes, status) in cases {
        let idp = Idp::knowing(&[(token, changes)]);
        let gateway = idp.gateway(&worker, "", "").await;
        let before = worker.seen().len();
        let answer = predict(&gateway, token).await;
        assert_eq!(answer.status, status, "{token}: {}", answer.text());
        if status == 401 {
            assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "{token}");
        }
        assert_eq!(worker.seen().len() - before, usize::from(status == 200), "{token}");
    }
}

#[tokio::test]
async fn a_token_without_audience_is_taken_where_the_operator_says_so() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[("none", json!({ "aud": null })), ("other", json!({ "aud": "another" }))]);
    let gateway = idp.gateway(&worker, "", "danger_any_audience = true").await;
    predict(&gateway, "other").await.assert_problem(401, "token-invalid");
    worker.assert_untouched();
    assert_eq!(predict(&gateway, "none").await.status, 200);
}

#[tokio::test]
async fn an_answer_never_counts_longer_than_the_token_or_the_stated_time() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[("long", json!({}))]);
    let gateway = idp.gateway(&worker, "", "cache_for = \"1s\"").await;
    assert_eq!(predict(&gateway, "long").await.status, 200);
    // Taken back there: refused here when the time is over, without a restart.
    idp.forget("long");
    let refused = harness::eventually("it is refused", async || {
        let answer = predict(&gateway, "long").await;
        (answer.status != 200).then_some(answer)
    });
    refused.await.assert_problem(401, "token-invalid");
    let idp = Idp::knowing(&[("short", json!({ "exp": now() + 2 }))]);
    // Leeway is for what can't be asked.
    let gateway = idp.gateway(&worker, "leeway = \"60s\"", "cache_for = \"5m\"").await;
    assert_eq!(predict(&gateway, "short").await.status, 200);
    let refused = harness::eventually("it has ended", async || {
        let answer = predict(&gateway, "short").await;
        (answer.status != 200).then_some(answer)
    });
    refused.await.assert_problem(401, "token-expired");
    assert_eq!(idp.asked().len(), 2, "once, and once when it had ended");
}

#[tokio::test]
async fn who_asks_about_the_same_token_shares_one_question() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[("carols", json!({}))]);
    let gateway = idp.gateway(&worker, "", "").await;
    let held = Arc::new(Barrier::new(2));
    idp.server.follow({
        let (held, tokens, asked) = (Arc::clone(&held), Arc::clone(&idp.tokens), Arc::clone(&idp.asked));
        move |request| {
            held.wait();
            answer(&tokens, &asked, request)
        }
    });
    let asking = (0..40).map(|_| predict(&gateway, "carols"));
    let others = async {
        // Whoever has another credential does not wait.
        assert_eq!(gateway.client().predict("predictor").send().await.status, 200);
        tokio::task::spawn_blocking(move || held.wait()).await.expect("it is met");
    };
    let (answers, ()) = tokio::join!(join_all(asking), others);
    assert!(answers.iter().all(|answer| answer.status == 200), "{}", answers[0].text());
    assert_eq!(idp.asked(), ["carols"]);
}

#[tokio::test]
async fn a_flood_of_made_up_tokens_costs_the_issuer_a_stated_rate_and_known_tokens_nothing() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[("carols", json!({}))]);
    // Of five a second, one address has three.
    let gateway = idp.gateway(&worker, "", "rate = 5").await;
    assert_eq!(predict(&gateway, "carols").await.status, 200);
    let began = std::time::Instant::now();
    let flood = (0..60).map(|client| {
        let gateway = &gateway;
        async move {
            for number in 0..5 {
                let answer = predict(gateway, &format!("made-up-{client}-{number}")).await;
                assert!([401, 503].contains(&answer.status), "{}", answer.text());
            }
        }
    });
    let honest = async {
        for _ in 0..20 {
            assert_eq!(predict(&gateway, "carols").await.status, 200);
        }
    };
    tokio::join!(join_all(flood), honest);
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("a short test");
    assert!(idp.asked().len() <= 1 + 3 * (seconds + 2), "{} in {seconds} s", idp.asked().len());
    assert!(worker.seen().len() == 21);
}

#[tokio::test]
async fn only_tokens_of_no_known_form_are_shown_to_the_issuer() {
    let worker = Recorder::start();
    let idp = Idp::knowing(&[]);
    let signer = Signer::es256();
    let builder = idp.builder(&worker, "algorithms = [\"ES256\"]\njwks = \"keys.json\"", "");
    let gateway = builder.file("keys.json", json!({ "keys": [signer.jwk("1")] }).to_string()).start().await;
    let mut all = claims();
    all["iss"] = json!(ISSUER);
    assert_eq!(predict(&gateway, &signer.token_with(&json!({ "kid": "1" }), &all)).await.status, 200);
    let before = worker.seen().len();
    for token in [
        signer.token_with(&json!({ "kid": "2" }), &all),
        Signer::es256().token_with(&json!({}), &all),
        gateway.signer().token(&json!({ "aud": "other" })),
        "a.b.c".to_owned(),
        format!("{}.{}.", base64url("{\"alg\":\"none\"}"), base64url(all.to_string())),
        // Our own secrets in the wrong place.
        key("predictor"),
        "mgr_0123456789abcdef0123456789abcdef_0123456789abcdef0123456789abcdef01234567".to_owned(),
        "mgs_whatever".to_owned(),
        // No b64token (RFC 6750 §2.1).
        "what,is;this".to_owned(),
        "quoted\"".to_owned(),
    ] {
        predict(&gateway, &token).await.assert_problem(401, "token-invalid");
    }
    assert_eq!((idp.asked().len(), worker.seen().len()), (0, before));
    predict(&gateway, "opaque").await.assert_problem(401, "token-invalid");
    predict(&gateway, "a.b.c.d.e").await.assert_problem(401, "token-invalid");
    assert_eq!(idp.asked(), ["opaque", "a.b.c.d.e"]);
}

#[tokio::test]
async fn all_tokens_of_an_issuer_may_be_asked_about() {
    let worker = Recorder::start();
    let mut all = claims();
    all["iss"] = json!(ISSUER);
    // Whatever signs it: the issuer knows.
    let token = Signer::es256().token_with(&json!({}), &all);
    let idp = Idp::knowing(&[(&token, json!({}))]);
    let gateway = idp.gateway(&worker, "", "").await;
    assert_eq!(predict(&gateway, &token).await.status, 200);
    assert_eq!(idp.asked(), [token.as_str()]);
    // Those of others are not.
    let before = worker.seen().len();
    all["iss"] = json!("https://other.example");
    predict(&gateway, &Signer::es256().token_with(&json!({}), &all)).await.assert_problem(401, "token-invalid");
    assert_eq!((idp.asked().len(), worker.seen().len()), (1, before));
    // The gateway's own are read as ever.
    assert_eq!(predict(&gateway, &gateway.signer().token(&json!({}))).await.status, 200);
    assert_eq!(idp.asked().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_stops_its_tokens_alone() {
    for answer in [
        KeyServer::status(500),
        KeyServer::status(401),
        KeyServer::ok(&json!([])),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"active\":false,\"active\":true}".to_vec(),
        KeyServer::ok(&json!({ "active": true, "x": "x".repeat(100_000) })),
        b"HTTP/1.1 307 Moved\r\nLocation: https://localhost/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            .to_vec(),
        Vec::new(),
    ] {
        let worker = Recorder::start();
        let idp = Idp::knowing(&[("carols", json!({}))]);
        let gateway = idp.gateway(&worker, "", "").await;
        idp.server.answer(answer);
        let answer = predict(&gateway, "carols").await;
        answer.assert_problem(503, "issuer-unavailable");
        assert_eq!(gateway.log().event("introspection-failed").await["issuer"], "corp");
        worker.assert_untouched();
        assert_eq!(gateway.client().get("/known").send().await.status, 401);
        idp.serve();
        let back = async || (predict(&gateway, "carols").await.status == 200).then_some(());
        harness::eventually("it is asked again", back).await;
    }
}
