//! Good tokens that are carried in ways that don't count: RFC 6750 §2, §3.1, RFC 9700 §4.3.2.

use harness::Request;
use harness::client::flower;
use serde_json::json;

use super::World;

#[tokio::test]
async fn a_token_counts_in_one_authorization_header_alone() {
    let world = World::new().await;
    let good = world.signers.token("own", &json!({}), &json!({}));
    let client = world.gateway.client();
    let get = |path: &str| client.get(path);
    let with = |name: &str, value: &str| get("/known").header(name, value);
    let bearer = format!("Bearer {good}");
    let missing: Vec<(&str, Request)> = vec![
        ("nothing", get("/known")),
        ("in the query", get(&format!("/known?access_token={good}"))),
        ("in the query, as authorization", get(&format!("/known?authorization=Bearer%20{good}"))),
        ("in a form", client.post("/predict").form(&format!("access_token={good}"))),
        ("in JSON", client.post("/predict").json(&json!({ "access_token": good }))),
        ("in a cookie", with("cookie", &format!("access_token={good}"))),
        ("in a cookie called Authorization", with("cookie", &format!("Authorization={bearer}"))),
        ("as a proxy's", with("proxy-authorization", &bearer)),
        ("X-Authorization", with("x-authorization", &bearer)),
        ("X-Forwarded-Authorization", with("x-forwarded-authorization", &bearer)),
        ("X-Access-Token", with("x-access-token", &good)),
        ("X-Auth-Token", with("x-auth-token", &good)),
        ("Basic", with("authorization", &format!("Basic {good}"))),
        ("Token", with("authorization", &format!("Token {good}"))),
        ("JWT", with("authorization", &format!("JWT {good}"))),
        ("Digest", with("authorization", &format!("Digest {good}"))),
        ("no scheme", with("authorization", &good)),
        ("a colon", with("authorization", &format!("Bearer:{good}"))),
        ("an equals sign", with("authorization", &format!("Bearer={good}"))),
        ("a tab", with("authorization", &format!("Bearer\t{good}"))),
        ("a scheme that begins so", with("authorization", &format!("Bearer2 {good}"))),
        ("a list of schemes", with("authorization", &format!("Basic x, {bearer}"))),
    ];
    for (what, request) in missing {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "credential-missing"), "{what}");
        // RFC 6750 §3.1: who sent nothing is not told of an error.
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer realm=\"modelgate\""), "{what}: {challenge}");
        assert!(!challenge.contains("error"), "{what}: {challenge}");
    }
    let malformed: Vec<(&str, Request, &str)> = vec![
        ("no token", with("authorization", "Bearer"), "credential-malformed"),
        ("spaces", with("authorization", "Bearer    "), "credential-malformed"),
        ("two tokens", with("authorization", &format!("{bearer} {good}")), "credential-malformed"),
        ("a parameter", with("authorization", &format!("{bearer} realm=x")), "credential-malformed"),
        ("two headers", get("/known").bearer(&good).bearer(&good), "credentials-several"),
        ("two headers, one bad", get("/known").bearer(&good).bearer("x"), "credentials-several"),
        ("two schemes", get("/known").bearer(&good).header("authorization", "Basic eDp4"), "credentials-several"),
        ("an empty one beside", get("/known").bearer(&good).header("authorization", ""), "credentials-several"),
        ("an API key beside", client.predict("predictor").bearer(&good), "credentials-several"),
        ("a bad API key beside", get("/known").bearer(&good).header("x-api-key", "x"), "credentials-several"),
    ];
    for (what, request, slug) in malformed {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, slug), "{what}: {}", answer.text());
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer realm=\"modelgate\", error=\"invalid_request\""), "{what}: {challenge}");
    }
    world.worker.assert_untouched();
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let request = client.post("/predict").header("authorization", &format!("{scheme} {good}"));
        assert_eq!(request.json(&flower()).send().await.status, 200, "{scheme}: schemes have no case (RFC 9110 §11.1)");
    }
    // No credential reaches the worker.
    assert!(world.worker.seen().iter().all(|seen| seen.header("authorization").is_none()));
}
