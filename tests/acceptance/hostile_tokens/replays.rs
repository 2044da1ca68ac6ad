//! Tokens that were good once: RFC 7009, RFC 9700 §4.14.

use harness::identity::{base64url, clients};
use harness::{Gateway, Recorder};
use serde_json::json;

use crate::oauth::credentials;

#[tokio::test]
async fn a_token_that_was_taken_back_stays_so_however_it_comes_again() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(clients()).start().await;
    let token = credentials(&gateway.client(), "ci").await;
    let ask = |token: &str, scheme: &str| {
        let value = format!("{scheme} {token}");
        gateway.client().get("/known").header("authorization", &value).send()
    };
    assert_eq!(ask(&token, "Bearer").await.status, 200);
    let revoke = gateway.client().post("/revoke").as_client("ci").form(&format!("token={token}"));
    assert_eq!(revoke.send().await.status, 200);
    let before = worker.seen().len();
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        let answer = ask(&token, scheme).await;
        answer.assert_problem(401, "token-revoked");
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""));
    }
    // Over HTTP/2, with other headers and at other routes.
    gateway.http2().get("/known").bearer(&token).send().await.assert_problem(401, "token-revoked");
    gateway.client().get("/models").bearer(&token).send().await.assert_problem(401, "token-revoked");
    // Without its name it is another text, and nobody signed that.
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims = harness::identity::part(&token, 1);
    for name in ["jti", "grant_id"] {
        claims[name] = json!("another");
    }
    let forged = format!("{}.{}.{}", parts[0], base64url(claims.to_string()), parts[2]);
    ask(&forged, "Bearer").await.assert_problem(401, "token-invalid");
    assert_eq!(worker.seen().len(), before);
    // Another token of the same client is another token.
    let next = credentials(&gateway.client(), "ci").await;
    assert_eq!(ask(&next, "Bearer").await.status, 200);
}

#[tokio::test]
async fn a_token_that_was_seen_before_is_still_held_against_the_clock() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).start().await;
    let token = gateway.signer().token(&json!({ "exp": harness::identity::now() + 2 }));
    let ask = || gateway.client().get("/known").bearer(&token).send();
    assert_eq!(ask().await.status, 200);
    let refused = harness::eventually("it has ended", async || {
        let answer = ask().await;
        (answer.status != 200).then_some(answer)
    });
    refused.await.assert_problem(401, "token-expired");
    let before = worker.seen().len();
    ask().await.assert_problem(401, "token-expired");
    assert_eq!(worker.seen().len(), before);
}
