//! What the gateway publishes of itself, and keys that change (RFC 7517, RFC 8414).

use harness::identity::{ISSUER, SECRET, part};
use harness::{Recorder, Signer, Signing};
use serde_json::{Value, json};

use super::{builder, credentials, status};

async fn published(gateway: &harness::Gateway, path: &str) -> Value {
    let answer = gateway.client().get(path).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "public, max-age=300");
    answer.json()
}

const JWKS: &str = "/.well-known/jwks.json";
const METADATA: &str = "/.well-known/oauth-authorization-server";

#[tokio::test]
async fn public_keys_are_published_and_nothing_else_of_them() {
    for signing in [Signing::Es256, Signing::Rs256] {
        let gateway = builder().signing(signing).start().await;
        let set = published(&gateway, JWKS).await;
        let keys = set["keys"].as_array().expect("keys");
        assert_eq!(keys.len(), 1, "{set}");
        let token = credentials(&gateway.client(), "ci").await;
        let header = part(&token, 0);
        assert_eq!(
            (&keys[0]["kid"], &keys[0]["alg"], &keys[0]["use"]),
            (&header["kid"], &header["alg"], &json!("sig"))
        );
        assert!(keys[0]["kid"].is_string());
        for private in ["d", "p", "q", "dp", "dq", "qi", "k"] {
            assert!(keys[0].get(private).is_none(), "{private}");
        }
    }
}

#[tokio::test]
async fn an_hmac_secret_is_never_published() {
    let overlay = "[token.keys.last]\nalgorithm = \"HS256\"\nsigning_key = { env = \"LAST\" }\n";
    let gateway = builder().policy(overlay).variable("LAST", "0123456789abcdef0123456789abcdef").start().await;
    let set = published(&gateway, JWKS).await;
    assert_eq!(set, json!({ "keys": [] }));
    assert!(!set.to_string().contains(SECRET));
}

#[tokio::test]
async fn the_metadata_is_what_rfc_8414_asks_for() {
    let gateway = builder().start().await;
    let said = published(&gateway, METADATA).await;
    assert_eq!(said["issuer"], ISSUER, "identical to the configured one");
    for (member, path) in [
        ("token_endpoint", "/token"),
        ("revocation_endpoint", "/revoke"),
        ("introspection_endpoint", "/introspect"),
        ("jwks_uri", JWKS),
    ] {
        assert_eq!(said[member], format!("{ISSUER}{path}"), "{member}");
    }
    assert_eq!(said["grant_types_supported"], json!(["client_credentials", "refresh_token", "password"]));
    assert_eq!(said["token_endpoint_auth_methods_supported"], json!(["client_secret_basic", "client_secret_post"]));
    assert_eq!(said["scopes_supported"], json!(["predict", "read"]));
    assert_eq!(said["response_types_supported"], json!(["none"]), "required, and an empty list must not stand there");
    let empty = said.as_object().expect("an object").iter().find(|(_, value)| **value == json!([]));
    assert_eq!(empty, None, "RFC 8414 §3.2");
}

#[tokio::test]
async fn the_metadata_names_only_what_there_is() {
    let overlay = "[routes.revoke]\npath = \"/elsewhere/revoke\"\n[token]\nissuer = \"https://localhost:8443/tenant\"\n\
                   [routes.metadata]\npath = \"/.well-known/oauth-authorization-server/tenant\"\n";
    let gateway = builder().policy(overlay).start().await;
    let said = published(&gateway, "/.well-known/oauth-authorization-server/tenant").await;
    assert_eq!(said["issuer"], "https://localhost:8443/tenant");
    assert_eq!(said["revocation_endpoint"], "https://localhost:8443/elsewhere/revoke");
    assert_eq!(gateway.client().get(METADATA).send().await.status, 404);
}

#[tokio::test]
async fn keys_change_without_refusing_a_live_token() {
    let worker = Recorder::start();
    let (old, new) = (Signer::es256(), Signer::rs256());
    let policy = |algorithm: &str, file: &str, other: &str| {
        format!(
            "[token]\nalgorithm = \"{algorithm}\"\nsigning_key = {{ file = \"{file}\" }}\n[token.keys.other]\n{other}\n"
        )
    };
    let begin = || {
        let builder = builder().worker(&worker).signing(Signing::Es256);
        builder.file("old.key", old.private()).file("old.pem", old.public()).file("new.key", new.private())
    };
    // First the next key is published, then it signs, and the last one holds on.
    let before = policy("ES256", "old.key", "algorithm = \"RS256\"\nsigning_key = { file = \"new.key\" }");
    let after = policy("RS256", "new.key", "algorithm = \"ES256\"\npublic_key = \"old.pem\"");
    let gateway = begin().policy(before).start().await;
    let token = credentials(&gateway.client(), "ci").await;
    assert_eq!(part(&token, 0)["alg"], "ES256");
    let announced = published(&gateway, JWKS).await;
    drop(gateway);

    let gateway = begin().policy(after).start().await;
    assert_eq!(status(&gateway.client(), &token).await, 200, "a live token stays good");
    let fresh = credentials(&gateway.client(), "ci").await;
    assert_eq!(part(&fresh, 0)["alg"], "RS256");
    assert_eq!(status(&gateway.client(), &fresh).await, 200);
    let kids = |set: &Value| {
        let keys =
            set["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("a name").to_owned());
        keys.collect::<std::collections::BTreeSet<_>>()
    };
    let now = published(&gateway, JWKS).await;
    assert_eq!(kids(&announced), kids(&now), "a key's name is its own, whoever lists it");
    assert!(kids(&now).contains(part(&fresh, 0)["kid"].as_str().expect("a name")));
    drop(gateway);

    let retired = "[token]\nalgorithm = \"RS256\"\nsigning_key = { file = \"new.key\" }\n";
    let gateway = begin().policy(retired).start().await;
    assert_eq!(status(&gateway.client(), &token).await, 401, "a retired key signs nothing");
    assert_eq!(status(&gateway.client(), &fresh).await, 200);
}

#[tokio::test]
async fn a_key_that_only_verifies_is_bound_to_its_algorithm() {
    let (worker, old) = (Recorder::start(), Signer::es256());
    let overlay = "[token.keys.old]\nalgorithm = \"ES256\"\npublic_key = \"old.pem\"\n";
    let builder = builder().worker(&worker).file("old.pem", old.public()).policy(overlay);
    let gateway = builder.start().await;
    assert_eq!(status(&gateway.client(), &old.token(&json!({}))).await, 200);
    // The public key as an HMAC secret (RFC 8725 §2.1).
    let confused = Signer::hs256(old.public()).token(&json!({}));
    assert_eq!(status(&gateway.client(), &confused).await, 401);
    assert_eq!(status(&gateway.client(), &Signer::es256().token(&json!({}))).await, 401);
}
