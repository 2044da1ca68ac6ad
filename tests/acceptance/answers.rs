//! How much of a prediction a caller sees, by role, and what is not of the declared form is not passed on.

use harness::client::flower;
use harness::{Gateway, Recorder, Reply};
use serde_json::{Value, json};

const POLICY: &str = r#"
[answers.public]
form = "predict"
show = "label"
[answers.some]
form = "predict"
show = "top"
top = 1
steps = 10
[routes.predict]
answers = "public"
answers_for = { predictor = "some", admin = "full" }
[routes.predict.body]
max = "16KiB"
"#;

fn answer() -> Value {
    json!({
        "prediction": 0, "label": "setosa", "probabilities": { "setosa": 0.91, "versicolor": 0.06, "virginica": 0.03 },
        "nodes": [4, 8, 15], "model": "iris", "version": "1",
    })
}

fn replying(status: u16, fields: &str, body: &Value) -> Reply {
    Reply::with(status, &format!("Content-Type: application/json\r\n{fields}"), body.to_string().as_bytes())
}

#[tokio::test]
async fn each_caller_sees_what_is_shown_to_its_roles() {
    let worker = Recorder::replying(replying(200, "ETag: \"1\"\r\nX-Own: 1\r\n", &answer()));
    let open = "[routes.predict]\nauthorize = \"authenticated\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(POLICY).policy(open).start().await;
    for (id, expected) in [
        ("nobody", json!({ "prediction": 0, "label": "setosa", "model": "iris", "version": "1" })),
        ("reader", json!({ "prediction": 0, "label": "setosa", "model": "iris", "version": "1" })),
        (
            "predictor",
            json!({ "prediction": 0, "label": "setosa", "probabilities": { "setosa": 0.9 }, "model": "iris", "version": "1" }),
        ),
        // A role that includes others sees the most of what they see.
        ("admin", answer()),
    ] {
        for client in [gateway.client(), gateway.http2()] {
            let sent = client.post("/predict").key(id).header("accept-encoding", "gzip").json(&flower()).send().await;
            assert_eq!((sent.status, sent.json()), (200, expected.clone()), "{id}");
            assert_eq!(sent.header("content-length"), sent.text().len().to_string(), "{id}");
            let whole = id == "admin";
            assert_eq!(
                (sent.header("etag"), sent.header("x-own").as_str()),
                (if whole { "\"1\"".into() } else { String::new() }, "1")
            );
            let seen = worker.seen().pop().expect("it came");
            assert_eq!(seen.headers("accept-encoding").is_empty(), !whole, "what is read here has no coding");
        }
    }
}

#[tokio::test]
async fn an_answer_of_another_form_is_not_passed_on() {
    for (reply, slug) in [
        (Reply::with(200, "Content-Type: text/html\r\n", b"<secret>"), "answer-undeclared"),
        (Reply::with(200, "", answer().to_string().as_bytes()), "answer-undeclared"),
        (replying(200, "Content-Encoding: gzip\r\n", &answer()), "answer-undeclared"),
        (replying(206, "Content-Range: bytes 0-1/9\r\n", &answer()), "answer-undeclared"),
        (replying(200, "", &json!({ "secret": 1 })), "answer-undeclared"),
        (replying(200, "", &json!({ "label": { "secret": 1 } })), "answer-undeclared"),
        (replying(200, "", &json!({ "label": "a", "probabilities": { "a": -1 } })), "answer-undeclared"),
        (replying(200, "", &json!({ "label": "x".repeat(2_000_000) })), "worker-broken"),
    ] {
        let worker = Recorder::replying(reply);
        let gateway = Gateway::builder().worker(&worker).policy(POLICY).start().await;
        let sent = gateway.client().predict("predictor").send().await;
        sent.assert_problem(502, slug);
        assert!(!sent.text().contains("secret"), "{}", sent.text());
        let record = gateway.log().access(&sent.request_id()).await;
        assert_eq!(record["reason"], slug);
        assert!(record["cause"].is_string(), "{record}");
        // Whoever sees all of it sees what the worker said.
        if slug == "answer-undeclared" {
            assert!(gateway.client().predict("admin").send().await.status < 300);
        }
    }
}

#[tokio::test]
async fn what_a_worker_says_of_a_clients_fault_passes_as_it_is() {
    let worker = Recorder::replying(replying(400, "", &json!({ "error": "three features, not four" })));
    let gateway = Gateway::builder().worker(&worker).policy(POLICY).start().await;
    let sent = gateway.client().predict("predictor").send().await;
    assert_eq!((sent.status, sent.json()), (400, json!({ "error": "three features, not four" })));
}
