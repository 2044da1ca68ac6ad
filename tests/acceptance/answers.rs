//! How much of a prediction a caller sees, by role, and what is not of the declared form is not passed on.

use harness::client::flower;
use harness::{Gateway, Recorder, Reply, Worker};
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

#[tokio::test]
async fn tensors_of_the_worker_are_shaped_too() {
    let policy = r#"
[answers.labels]
form = "oip-v2"
show = "label"
[answers.rounded]
form = "oip-v2"
show = "all"
steps = 10
[routes.infer]
path = "/v2/models/{model}/infer"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
answers = "labels"
answers_for = { predictor = "rounded", admin = "full" }
body = { format = "oip-v2" }
"#;
    let worker = Worker::start().await;
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let rows = json!({ "inputs": [{ "name": "features", "datatype": "FP64", "shape": [2, 4], "data": [5.1, 3.5, 1.4, 0.2, 6.0, 2.9, 4.6, 1.6] }] });
    let ask = async |id: &str| gateway.client().post("/v2/models/iris/infer").key(id).json(&rows).send().await;
    let of = |answer: &Value, name: &str| {
        let outputs = answer["outputs"].as_array().expect("outputs").clone();
        outputs.into_iter().find(|output| output["name"] == name)
    };
    let (label, rounded, full) = (ask("reader").await, ask("predictor").await, ask("admin").await);
    for answer in [&label, &rounded, &full] {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let (label, rounded, full) = (label.json(), rounded.json(), full.json());
    assert!(of(&label, "probabilities").is_none() && of(&full, "probabilities").is_some());
    assert_eq!(
        of(&label, "class_name").map(|it| it["data"].clone()),
        of(&full, "class_name").map(|it| it["data"].clone())
    );
    let numbers = |answer: &Value| -> Vec<f64> {
        let data = of(answer, "probabilities").expect("it is there")["data"].clone();
        data.as_array().expect("numbers").iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    for (rounded, full) in numbers(&rounded).iter().zip(numbers(&full)) {
        assert!((rounded * 10.0 - (rounded * 10.0).round()).abs() < 1e-9, "{rounded}");
        assert!((rounded - full).abs() < 0.2, "{rounded} {full}");
    }
    for row in numbers(&rounded).chunks(3) {
        assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{row:?}");
    }
}
