//! What the words of an issuer's tokens mean here, and keys that are written down in files.

use harness::identity::{base64url, change, claims};
use harness::{Gateway, Recorder, Signer};
use serde_json::{Value, json};

use super::{ISSUER, corp, predict};

/// A gateway that knows the issuer's key from a file.
async fn gateway(worker: &Recorder, signer: &Signer, more: &str) -> Gateway {
    let overlay = corp(&format!("algorithms = [\"ES256\"]\npublic_key = \"corp.pem\"\n{more}"));
    Gateway::builder().worker(worker).file("corp.pem", signer.public()).policy(overlay).start().await
}

fn token(signer: &Signer, changes: &Value) -> String {
    let mut all = claims();
    change(&mut all, &json!({ "iss": ISSUER, "roles": null }));
    change(&mut all, changes);
    signer.token_with(&json!({}), &all)
}

#[tokio::test]
async fn an_issuers_roles_mean_what_the_map_says_and_nothing_else() {
    let (worker, signer) = (Recorder::start(), Signer::es256());
    let map = "roles_claim = \"groups\"\n[issuers.corp.roles_map]\n\"idp/ml team\" = \"predictor\"\nboss = [\"admin\", \"reader\"]\n";
    let gateway = gateway(&worker, &signer, map).await;
    for (groups, predict_status, admin_status) in [
        (json!(["idp/ml team"]), 200, 403),
        (json!(["boss"]), 200, 200),
        (json!("boss other"), 200, 200),
        // Our own names are not theirs to give.
        (json!(["admin", "predictor"]), 403, 403),
        (json!(["idp/ml"]), 403, 403),
        (json!({ "boss": true }), 403, 403),
        (Value::Null, 403, 403),
    ] {
        let token = token(&signer, &json!({ "groups": groups }));
        let answer = predict(&gateway, &token).await;
        assert_eq!(answer.status, predict_status, "{groups}: {}", answer.text());
        let answer = gateway.client().get("/admin").bearer(&token).send().await;
        assert_eq!(answer.status, admin_status, "{groups}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_principal_may_be_named_by_another_claim() {
    let (worker, signer) = (Recorder::start(), Signer::es256());
    let gateway = gateway(&worker, &signer, "principal_claim = \"act.client_id\"").await;
    let ask = |changes: Value| {
        let token = token(&signer, &changes);
        let request = gateway.client().get("/known").bearer(&token);
        request.send()
    };
    // Held to what a subject is held to.
    for wrong in
        [json!(null), json!({}), json!({ "client_id": "" }), json!({ "client_id": 7 }), json!({ "client_id": "a b" })]
    {
        ask(json!({ "act": wrong })).await.assert_problem(401, "token-invalid");
    }
    worker.assert_untouched();
    assert_eq!(ask(json!({ "act": { "client_id": "batch" } })).await.status, 200);
    assert_eq!(worker.only().header("x-modelgate-principal").as_deref(), Some("corp:batch"));
}

#[tokio::test]
async fn keys_are_read_from_jwk_files() {
    let (first, second, worker) = (Signer::es256(), Signer::es256(), Recorder::start());
    let set = json!({ "keys": [first.jwk("1"), second.jwk("2")] }).to_string();
    for (key, content, second_status) in [("jwks", set, 200), ("public_key", format!("\n {}", first.jwk("1")), 401)] {
        let overlay = corp(&format!("algorithms = [\"ES256\"]\n{key} = \"keys.json\""));
        let gateway = Gateway::builder().worker(&worker).file("keys.json", content).policy(overlay).start().await;
        let mut all = claims();
        all["iss"] = json!(ISSUER);
        for (signer, kid, status) in [
            (&first, json!("1"), 200),
            (&first, Value::Null, 200),
            (&second, json!("2"), second_status),
            (&second, json!("1"), 401),
            (&first, json!("3"), 401),
            (&Signer::es256(), json!("1"), 401),
        ] {
            let answer = predict(&gateway, &signer.token_with(&json!({ "kid": kid }), &all)).await;
            assert_eq!(answer.status, status, "{key} {kid}: {}", answer.text());
        }
    }
}

#[test]
fn a_jwk_file_that_can_not_serve_is_a_mistake_and_is_not_shown() {
    let signer = Signer::es256();
    let mut private = signer.jwk("1");
    private["d"] = json!(base64url([7; 32]));
    let mut other = signer.jwk("1");
    other["alg"] = json!("ES384");
    let secret = json!({ "kty": "oct", "k": base64url([7; 32]) });
    for (what, key, content) in [
        ("a private key", "public_key", private.to_string()),
        ("a secret", "public_key", secret.to_string()),
        ("a private key in a set", "jwks", json!({ "keys": [signer.jwk("2"), private] }).to_string()),
        ("no key for the algorithm", "jwks", json!({ "keys": [other] }).to_string()),
        ("an empty set", "jwks", json!({ "keys": [] }).to_string()),
        ("no set", "jwks", signer.jwk("1").to_string()),
        ("two members", "jwks", format!("{{\"keys\":[],\"keys\":[{}]}}", signer.jwk("1"))),
        ("no JSON", "jwks", signer.public()),
    ] {
        let overlay = corp(&format!("algorithms = [\"ES256\"]\n{key} = \"keys.json\""));
        let output = Gateway::builder().file("keys.json", content).policy(overlay).output("check");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{what} is taken: {said}");
        assert!(said.contains(&format!("issuers.corp.{key}")), "{what}: {said}");
        assert!(!said.contains("BwcHBw"), "{what} is shown: {said}");
    }
}
