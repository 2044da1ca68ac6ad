//! Sealing and opening texts with the gateway's own key, for whoever has the role.

use harness::{Gateway, Recorder};
use serde_json::{Value, json};

const POLICY: &str = r#"
[fernet]
key = { file = "new.key" }
[fernet.keys.old]
key = { file = "old.key" }
[routes.encrypt]
path = "/encrypt"
methods = ["POST"]
builtin = "encrypt"
authorize = ["predictor"]
[routes.decrypt]
path = "/decrypt"
methods = ["POST"]
builtin = "decrypt"
authorize = ["admin"]
"#;
/// The key and the token of the Fernet specification.
const OLD: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const TOKEN: &str =
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

#[tokio::test]
async fn what_one_role_seals_another_opens_also_with_the_old_key() {
    let worker = Recorder::start();
    let gateway = Gateway::builder()
        .worker(&worker)
        .file("new.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
        .file("old.key", OLD)
        .policy(POLICY)
        .start()
        .await;
    let ask = async |path: &str, id: &str, body: &Value| gateway.client().post(path).key(id).json(body).send().await;
    let secret = "grüß Gott";
    let (first, second) = (
        ask("/encrypt", "predictor", &json!({ "text": secret })).await,
        ask("/encrypt", "predictor", &json!({ "text": secret })).await,
    );
    assert_eq!((first.status, second.status), (200, 200), "{}", first.text());
    assert_ne!(first.text(), second.text(), "each has an IV of its own");
    let opened = ask("/decrypt", "admin", &first.json()).await;
    assert_eq!((opened.status, opened.json()), (200, json!({ "text": secret })));
    assert_eq!(ask("/decrypt", "admin", &json!({ "token": TOKEN })).await.json(), json!({ "text": "hello" }));
    let octets = ask("/encrypt", "admin", &json!({ "base64": "_wA=" })).await.json();
    assert_eq!(ask("/decrypt", "admin", &octets).await.json(), json!({ "base64": "_wA=" }));

    ask("/decrypt", "predictor", &first.json()).await.assert_problem(403, "role-missing");
    ask("/encrypt", "reader", &json!({ "text": secret })).await.assert_problem(403, "role-missing");
    for (path, body) in [
        ("/encrypt", json!({})),
        ("/encrypt", json!({ "text": 1 })),
        ("/encrypt", json!({ "text": "a", "more": "b" })),
        ("/encrypt", json!({ "base64": "%" })),
        ("/decrypt", json!({ "token": "gAAAAA" })),
        ("/decrypt", json!({ "token": TOKEN.replace("Kj", "kJ").replace("021", "120") })),
        ("/decrypt", json!({ "text": TOKEN })),
    ] {
        let answer = ask(path, "admin", &body).await;
        answer.assert_problem(422, "body-invalid");
    }
    let log = gateway.log().matching(|_| true);
    assert!(!log.iter().any(|line| line.to_string().contains(secret)), "no text is in a record");
    worker.assert_untouched();
}
