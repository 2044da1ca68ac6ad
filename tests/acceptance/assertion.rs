//! What the gateway asserts to workers about who called.

use harness::identity::{now, part};
use harness::{Gateway, Recorder, Signer};
use serde_json::{Value, json};

const POLICY: &str = r#"
[assertion]
issuer = "https://gateway.internal"
algorithm = "ES256"
signing_key = { file = "assertion.key" }
lifetime = "60s"
pools = { models = "model-worker" }
[routes.scoped]
path = "/scoped"
methods = ["GET"]
pool = "models"
authorize = "authenticated"
scopes = ["read"]
"#;

#[tokio::test]
async fn a_worker_can_check_who_called_without_trusting_the_network() {
    let (worker, other) = (Recorder::start(), Recorder::start());
    let signer = Signer::es256();
    let beside = format!(
        "[pools.beside]\nworkers = [\"http://{}\"]\n[routes.beside]\npath = \"/beside\"\nmethods = [\"GET\"]\npool = \"beside\"\n\
         authorize = [\"reader\"]\n",
        other.address()
    );
    let gateway = Gateway::builder()
        .worker(&worker)
        .file("assertion.key", signer.private())
        .policy(POLICY)
        .policy(beside)
        .start()
        .await;
    let client = gateway.client();
    let told = || worker.seen().pop().expect("it came").headers("x-modelgate-assertion");

    // What a client says of itself is not passed on.
    let forged = signer.token_with(&json!({ "typ": "JWT" }), &json!({ "sub": "key:admin" }));
    assert_eq!(client.get("/models").key("reader").header("x-modelgate-assertion", &forged).send().await.status, 200);
    let first = told();
    assert_eq!(first.len(), 1);
    assert!(signer.made(&first[0]) && first[0] != forged);
    let (header, claims) = (part(&first[0], 0), part(&first[0], 1));
    assert_eq!((&header["alg"], header["kid"].is_string()), (&json!("ES256"), true));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://gateway.internal"), &json!("model-worker")));
    assert_eq!(
        (&claims["sub"], &claims["roles"], &claims["scope"]),
        (&json!("key:reader"), &json!(["reader"]), &Value::Null)
    );
    let (made, ends) = (claims["iat"].as_u64().expect("a time"), claims["exp"].as_u64().expect("a time"));
    assert!(now() - made < 30 && ends == made + 60, "{claims}");

    // It is no credential here.
    client.get("/models").bearer(&first[0]).send().await.assert_problem(401, "token-invalid");

    // The same serves the same caller, and each caller has its own.
    assert_eq!(client.get("/models").key("admin").send().await.status, 200);
    let admin = part(&told()[0], 1);
    assert_eq!((&admin["sub"], &admin["roles"]), (&json!("key:admin"), &json!(["admin", "predictor", "reader"])));
    let token = gateway.signer().token(&json!({ "scope": "read write" }));
    assert_eq!(client.get("/scoped").bearer(&token).send().await.status, 200);
    let scoped = part(&told()[0], 1);
    assert_eq!((&scoped["sub"], &scoped["scope"]), (&json!("user:alice"), &json!("read")));
    assert_eq!(client.get("/open").send().await.status, 200);
    let anonymous = part(&told()[0], 1);
    assert_eq!((&anonymous["sub"], &anonymous["roles"]), (&json!("anonymous"), &json!([])));

    // Pools that are not named get none.
    assert_eq!(client.get("/beside").key("reader").header("x-modelgate-assertion", &forged).send().await.status, 200);
    assert_eq!(other.seen().pop().expect("it came").headers("x-modelgate-assertion"), Vec::<String>::new());
}
