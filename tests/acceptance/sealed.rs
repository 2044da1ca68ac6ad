//! Fields of bodies and answers that are sealed on their way: what the worker, its records or clients without a role must
//! not read.

use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::{Gateway, GatewayBuilder, Recorder, Reply};
use serde_json::{Value, json};

const NEW: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
/// The key of the Fernet specification.
const OLD: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const POLICY: &str = r#"
[fernet]
key = { file = "new.key" }
[fernet.keys.old]
key = { file = "old.key" }
[routes.encrypt]
path = "/encrypt"
methods = ["POST"]
builtin = "encrypt"
authorize = ["reader"]
[routes.decrypt]
path = "/decrypt"
methods = ["POST"]
builtin = "decrypt"
authorize = ["reader"]

[schemas.patient]
type = "object"
additionalProperties = false
required = ["patient", "rows"]
properties.patient = { type = "object", additionalProperties = false, properties = { name = { type = "string", maxLength = 9 } } }
properties.rows = { type = "array", items = { type = "object" } }
properties.number = { type = "number" }
[routes.patient]
path = "/patient"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
sealed = "patient"
[routes.patient.body]
schema = "patient"
"#;

fn world(worker: &Recorder, rule: &str) -> GatewayBuilder {
    let builder = Gateway::builder().worker(worker).file("new.key", NEW).file("old.key", OLD);
    builder.policy(POLICY).policy(format!("[sealed.patient]\n{rule}"))
}

/// A worker that answers with these octets.
fn answering(body: impl AsRef<[u8]>) -> Recorder {
    Recorder::replying(Reply::with(200, "Content-Type: application/json\r\nETag: \"1\"\r\n", body.as_ref()))
}

async fn ask(gateway: &Gateway, id: &str, body: impl Into<String>) -> harness::Answer {
    let request = gateway.client().post("/patient").key(id).header("content-type", "application/json");
    request.body(body.into()).send().await
}

async fn sealed(gateway: &Gateway, text: &str) -> String {
    let answer = gateway.client().post("/encrypt").key("reader").json(&json!({ "text": text })).send().await;
    answer.json()["token"].as_str().expect("a token").to_owned()
}

async fn opened(gateway: &Gateway, token: &Value) -> Value {
    gateway.client().post("/decrypt").key("reader").json(&json!({ "token": token })).send().await.json()["text"].clone()
}

#[tokio::test]
async fn a_worker_never_sees_what_is_sealed_and_all_else_stays_as_it_was_written() {
    let worker = Recorder::start();
    let rule = "values = \"text\"\nseal_request = [\"/patient/name\", \"/rows/*/id\"]\n";
    let gateway = world(&worker, rule).start().await;
    let body = r#"{ "patient" : {"name":"Anna"}, "rows":[ {"id":"Bert","x":1.10}, {"y":[1e2]},{"id":"C\u00e4sar"} ], "number":123456789012345678901234567890 }"#;
    for client in [gateway.client(), gateway.http2()] {
        let request = client.post("/patient").key("reader").header("content-type", "application/json");
        let sent = request.header("content-digest", "sha-256=:x:").body(body).send().await;
        assert_eq!(sent.status, 200, "{}", sent.text());
        let seen = worker.seen().pop().expect("it came");
        assert!(!seen.text().contains("Anna") && !seen.text().contains("Bert"), "{}", seen.text());
        assert!(seen.headers("content-digest").is_empty(), "it is true no longer");
        let tokens: Vec<String> = ["/patient/name", "/rows/0/id", "/rows/2/id"]
            .map(|at| seen.json().pointer(at).and_then(Value::as_str).expect("a token").to_owned())
            .into();
        let mut expected = body.to_owned();
        for (token, (raw, text)) in tokens.iter().zip([("Anna", "Anna"), ("Bert", "Bert"), ("C\\u00e4sar", "Cäsar")]) {
            expected = expected.replace(&format!("\"{raw}\""), &format!("\"{token}\""));
            assert_eq!(opened(&gateway, &json!(token)).await, text);
        }
        assert_eq!(String::from_utf8_lossy(&seen.body), expected);
        assert_ne!(tokens[0], tokens[1], "each has an IV of its own");
    }
    assert!(!gateway.log().text().contains("Anna"), "no value is in a record");
}

#[tokio::test]
async fn what_clients_send_sealed_is_opened_and_then_judged() {
    let worker = Recorder::start();
    let gateway = world(&worker, "values = \"text\"\nopen_request = [\"/patient/name\"]\n").start().await;
    let body = |token: &str| json!({ "patient": { "name": token }, "rows": [] }).to_string();
    let sent = ask(&gateway, "reader", body(&sealed(&gateway, "An\"na").await)).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    assert_eq!(worker.only().json(), json!({ "patient": { "name": "An\"na" }, "rows": [] }));

    // The schema sees the value, and its fault does not tell it to whoever sent the token.
    let long = sealed(&gateway, "secret-secret").await;
    let sent = ask(&gateway, "reader", body(&long)).await;
    sent.assert_problem(422, "body-invalid");
    assert_eq!(
        sent.json()["errors"],
        json!([{ "pointer": "/patient/name", "code": "max_length", "detail": "must have at most 9 characters", "limit": 9 }])
    );
    for wrong in [long.replace("gAAA", "gAAB"), "Anna".into(), String::new()] {
        let sent = ask(&gateway, "reader", body(&wrong)).await;
        sent.assert_problem(422, "body-invalid");
        let fault = &sent.json()["errors"][0];
        assert_eq!((&fault["pointer"], &fault["code"]), (&json!("/patient/name"), &json!("fernet")));
        assert!(fault.get("sent").is_none() && (wrong.is_empty() || !sent.text().contains(&wrong)), "{}", sent.text());
    }
    let sent = ask(&gateway, "reader", json!({ "patient": { "name": ["Anna"] }, "rows": [] }).to_string()).await;
    sent.assert_problem(422, "body-invalid");
    // Nothing is there to be opened: what else the body lacks, the schema says.
    assert_eq!(ask(&gateway, "reader", "{\"patient\":{},\"rows\":[]}").await.status, 200);
    assert_eq!(worker.seen().len(), 2, "what is refused never came");
    assert!(!gateway.log().text().contains("secret-secret"), "no value is in a record");
}

#[tokio::test]
async fn what_is_sealed_is_judged_as_it_was_sent() {
    let worker = Recorder::start();
    let rule = "values = \"json\"\nseal_request = [\"/number\", \"/patient\"]\nmax_fields = 1\n";
    let gateway = world(&worker, rule).start().await;
    let sent = ask(&gateway, "reader", "{\"patient\":{\"name\":\"much too long\"},\"rows\":[]}").await;
    sent.assert_problem(422, "body-invalid");
    assert_eq!(sent.json()["errors"][0]["pointer"], "/patient/name");
    let sent = ask(&gateway, "reader", "{\"patient\":{},\"rows\":[],\"number\":1}").await;
    assert_eq!(sent.json()["errors"][0]["code"], "max_fields", "{}", sent.text());
    worker.assert_untouched();
    assert_eq!(ask(&gateway, "reader", "{\"patient\":{ \"name\" : \"A\" },\"rows\":[]}").await.status, 200);
    let seen = worker.only().json();
    assert_eq!(opened(&gateway, &seen["patient"]).await, "{ \"name\" : \"A\" }", "its JSON text, as it was written");

    // A text is asked for, and this is none.
    let gateway = world(&worker, "values = \"text\"\nseal_request = [\"/number\"]\n").start().await;
    let sent = ask(&gateway, "reader", "{\"patient\":{},\"rows\":[],\"number\":1}").await;
    sent.assert_problem(422, "body-invalid");
    assert_eq!(sent.json()["errors"][0]["pointer"], "/number");
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn values_of_any_kind_come_back_as_they_were() {
    let rule = "values = \"json\"\nseal_request = [\"/number\", \"/rows/*/v\"]\nopen_answer = [\"/number\", \"/rows/*/v\"]\nreaders = [\"predictor\"]\n";
    let body = r#"{"patient":{},"rows":[{"v":null},{"v":[1.0,{"a":"\u00e9"}]},{"v":"5"},{"v":5}],"number":0.10000000000000000000001}"#;
    let worker = Recorder::start();
    let gateway = world(&worker, rule).start().await;
    assert_eq!(ask(&gateway, "predictor", body).await.status, 200);
    let seen = worker.only();
    assert!(seen.json()["rows"].as_array().expect("rows").iter().all(|row| row["v"].is_string()), "{}", seen.text());

    // A worker that gives back what it got.
    let worker = answering(&seen.body);
    let gateway = world(&worker, rule).start().await;
    for client in [gateway.client(), gateway.http2()] {
        let request = client.post("/patient").key("predictor").header("content-type", "application/json");
        let sent = request.body(body).send().await;
        assert_eq!((sent.status, sent.text().as_str()), (200, body));
        assert_eq!(sent.header("etag"), "", "it was of other octets");
        assert_eq!(sent.header("content-length"), body.len().to_string());
    }
    // Who may not read them gets what the worker has.
    let sent = ask(&gateway, "reader", body).await;
    assert_eq!((&*sent.body, sent.header("etag").as_str()), (&*seen.body, "\"1\""));
}

#[tokio::test]
async fn an_answers_fields_are_sealed_for_whoever_must_not_read_them() {
    let answer = r#"{ "predictions":[ {"label":"a","name":"Anna","p":0.50},{"label":"b"} ] }"#;
    let reply = Reply::with(200, "Content-Type: application/json\r\n", answer.as_bytes());
    let worker = Recorder::replying(reply);
    let rule = "values = \"text\"\nseal_answer = [\"/predictions/*/name\"]\nreaders = [\"predictor\"]\n";
    let gateway = world(&worker, rule).start().await;
    let body = "{\"patient\":{},\"rows\":[]}";
    for id in ["predictor", "admin"] {
        assert_eq!(ask(&gateway, id, body).await.text(), answer, "{id}");
    }
    let sent = gateway.client().post("/patient").key("reader").header("accept-encoding", "gzip");
    let sent = sent.header("content-type", "application/json").body(body).send().await;
    let token = sent.json()["predictions"][0]["name"].clone();
    assert_eq!(sent.text(), answer.replace("Anna", token.as_str().expect("a token")));
    assert_eq!(opened(&gateway, &token).await, "Anna");
    assert!(worker.seen()[2].headers("accept-encoding").is_empty(), "what is read has no coding");
}

#[tokio::test]
async fn an_answer_that_can_not_be_sealed_or_opened_is_not_passed_on() {
    let body = "{\"patient\":{},\"rows\":[]}";
    let json_reply = |fields: &str, body: &str| {
        Reply::with(200, &format!("Content-Type: application/json\r\n{fields}"), body.as_bytes())
    };
    for (reply, cause) in [
        (
            Reply::with(200, "Content-Type: text/plain\r\n", b"secret"),
            "it has fields that are sealed, and is no whole JSON without a coding",
        ),
        (
            json_reply("Content-Encoding: gzip\r\n", "{\"name\":\"secret\"}"),
            "it has fields that are sealed, and is no whole JSON without a coding",
        ),
        (
            Reply::with(206, "Content-Type: application/json\r\nContent-Range: bytes 8-15/17\r\n", b"\"secret\""),
            "it has fields that are sealed, and is no whole JSON without a coding",
        ),
        (json_reply("", "{\"name\":\"secret\""), "it is not JSON that can be taken: syntax"),
        (json_reply("", "{\"name\":\"secret\",\"name\":\"\"}"), "it is not JSON that can be taken: duplicate_member"),
        (json_reply("", "{\"name\":[\"secret\"]}"), "\"/name\" is not a text, which is sealed here"),
        (json_reply("", &format!("{{\"name\":\"{}\"}}", "secret".repeat(200))), "it is longer than 1024 octets"),
    ] {
        let worker = Recorder::replying(reply);
        let rule = "values = \"text\"\nseal_answer = [\"/name\"]\nreaders = [\"predictor\"]\nmax = \"1KiB\"\n";
        let gateway = world(&worker, rule).start().await;
        let sent = ask(&gateway, "reader", body).await;
        sent.assert_problem(502, "answer-undeclared");
        assert!(!sent.text().contains("secret"), "{}", sent.text());
        assert_eq!(gateway.log().access(&sent.request_id()).await["cause"], cause);
        assert!(!gateway.log().text().contains("secret"), "no word of it is in the log");
    }
    let worker = Recorder::replying(json_reply("", "{\"name\":\"no token\"}"));
    let rule = "values = \"text\"\nopen_answer = [\"/name\"]\nreaders = [\"predictor\"]\n";
    let gateway = world(&worker, rule).start().await;
    let sent = ask(&gateway, "predictor", body).await;
    sent.assert_problem(502, "answer-undeclared");
    let cause = "\"/name\" is no token that was sealed with a key that is known here, or it is too old";
    assert_eq!(gateway.log().access(&sent.request_id()).await["cause"], cause);
    assert_eq!(ask(&gateway, "reader", body).await.json(), json!({ "name": "no token" }), "it is nobody's secret");
    // No content has no fields.
    let worker = Recorder::replying(Reply::with(204, "", b""));
    let gateway = world(&worker, "values = \"text\"\nseal_answer = [\"/name\"]\n").start().await;
    assert_eq!(ask(&gateway, "reader", body).await.status, 204);
}

#[tokio::test]
async fn answers_are_declared_as_workers_give_them_then_opened_shaped_and_sealed() {
    let rule = "values = \"text\"\nseal_request = [\"/patient/name\"]\nopen_answer = [\"/label\"]\nseal_answer = [\"/id\"]\nreaders = [\"predictor\"]\n";
    let more = r#"
[answers.label]
form = "predict"
show = "label"
[schemas.answer]
properties.label = { type = "string", pattern = "^gAAAA" }
[routes.patient]
answers = "label"
[routes.patient.answer]
format = "predict"
schema = "answer"
"#;
    let body = "{\"patient\":{\"name\":\"Anna\"},\"rows\":[]}";
    let worker = Recorder::start();
    let gateway = world(&worker, rule).start().await;
    assert_eq!(ask(&gateway, "reader", body).await.status, 200);
    let name = worker.only().json()["patient"]["name"].clone();
    let answer = json!({ "label": name, "id": "Anna", "probabilities": { "a": 1.0 }, "nodes": [1] });
    let worker = answering(answer.to_string());
    let gateway = world(&worker, rule).policy(more).start().await;
    assert_eq!(ask(&gateway, "predictor", body).await.json(), json!({ "label": "Anna", "id": "Anna" }));
    let sent = ask(&gateway, "reader", body).await.json();
    assert_eq!(sent.as_object().map(serde_json::Map::len), Some(2), "{sent}");
    for member in ["label", "id"] {
        assert_eq!(opened(&gateway, &sent[member]).await, "Anna");
    }
}

#[tokio::test]
async fn keys_rotate_and_a_rule_can_have_its_own() {
    let worker = Recorder::start();
    let body = |token: &str| json!({ "patient": { "name": token }, "rows": [] }).to_string();
    let open = "values = \"text\"\nopen_request = [\"/patient/name\"]\n";
    let gateway = world(&worker, open).start().await;
    // "hello", which the specification's key sealed in 1985.
    let old = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
    assert_eq!(ask(&gateway, "reader", body(old)).await.status, 200);
    let new = sealed(&gateway, "hello").await;

    let aged = world(&worker, &format!("{open}max_age = \"1d\"\n")).start().await;
    ask(&aged, "reader", body(old)).await.assert_problem(422, "body-invalid");
    assert_eq!(ask(&aged, "reader", body(&new)).await.status, 200);

    let own = world(&worker, &format!("{open}key = {{ file = \"old.key\" }}\n")).start().await;
    assert_eq!(ask(&own, "reader", body(old)).await.status, 200);
    ask(&own, "reader", body(&new)).await.assert_problem(422, "body-invalid");
    assert_eq!(worker.seen().len(), 3);
    for seen in worker.seen() {
        assert_eq!(seen.json()["patient"]["name"], "hello");
    }
}

#[tokio::test]
async fn operators_are_shown_what_is_sealed() {
    let worker = Recorder::start();
    let rule = "values = \"text\"\nopen_request = [\"/patient/name\"]\nseal_answer = [\"/name\", \"/x\"]\nreaders = [\"predictor\"]\n";
    let builder = world(&worker, rule);
    let output = |words: &[&str]| {
        let mut command = builder.command(words[0]);
        let output = command.args(&words[1..]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let routes = output(&["routes"]);
    assert!(routes.contains("opens /patient/name; seals for others /name, /x"), "{routes}");
    let gateway = builder.start().await;
    let token = sealed(&gateway, "Anna").await;
    let body = json!({ "patient": { "name": token }, "rows": [] }).to_string();
    let explained = |body: &str, role: &str| {
        let builder = world(&worker, rule).file("body.json", body);
        let mut command = builder.command("explain");
        command.args(["POST", "/patient", "--as", role, "--body", "body.json"]);
        String::from_utf8_lossy(&command.output().expect("it runs").stdout).into_owned()
    };
    let text = explained(&body, "role:reader");
    assert!(text.contains("opened by patient: 1"), "{text}");
    assert!(text.contains("this caller gets the answer sealed"), "{text}");
    assert!(!text.contains("Anna"), "{text}");
    let text = explained("{\"patient\":{\"name\":\"Anna\"},\"rows\":[]}", "role:reader");
    assert!(text.contains("body-invalid"), "{text}");
}

/// Gives a job to Python's `cryptography`. `None` where it is not installed.
fn python(job: &str, input: &Value) -> Option<Value> {
    let packages = std::env::var_os("AUTHLIB")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/fernet.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(job).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().expect("Python runs");
    child.stdin.take().expect("it is piped").write_all(input.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{job}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[tokio::test]
async fn pythons_cryptography_seals_what_is_opened_here_and_opens_what_is_sealed() {
    let values = json!(["grüß Gott", "", 5, 1.5, null, { "a": [true, "é"] }]);
    let input = json!({ "keys": [NEW, OLD], "values": values });
    let Some(tokens) = python("seal", &input) else { return };
    let rows = |values: &Value| {
        let rows: Vec<Value> = values.as_array().expect("a list").iter().map(|value| json!({ "v": value })).collect();
        json!({ "patient": {}, "rows": rows }).to_string()
    };
    let worker = Recorder::start();
    let gateway = world(&worker, "values = \"json\"\nopen_request = [\"/rows/*/v\"]\n").start().await;
    for key in ["first", "second"] {
        assert_eq!(ask(&gateway, "reader", rows(&tokens[key])).await.status, 200, "{key}");
        let seen: Vec<Value> = worker.seen().pop().expect("it came").json()["rows"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["v"].clone())
            .collect();
        assert_eq!(json!(seen), values, "{key}");
    }
    let token = gateway.client().post("/decrypt").key("reader").json(&json!({ "token": tokens["text"] })).send().await;
    assert_eq!(token.json(), json!({ "text": "grüß Gott" }));
    let text = sealed(&gateway, "grüß Gott").await;

    let worker = Recorder::start();
    let gateway = world(&worker, "values = \"json\"\nseal_request = [\"/rows/*/v\"]\n").start().await;
    assert_eq!(ask(&gateway, "reader", rows(&values)).await.status, 200);
    let seen: Vec<Value> =
        worker.only().json()["rows"].as_array().expect("a list").iter().map(|row| row["v"].clone()).collect();
    let opened = python("open", &json!({ "keys": [NEW, OLD], "tokens": seen, "text": text })).expect("as before");
    assert_eq!(opened, json!({ "values": values, "text": "grüß Gott" }));
}
