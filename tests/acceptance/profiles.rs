//! Pools whose protocol is known: which paths are open, where models and rows stand, what a 500 is.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::wire::plain;
use harness::{Answer, Gateway, GatewayBuilder, Recorder, Reply, Upstream as _, binary};
use serde_json::{Value, json};

const OIP: &str = r#"
[pools.v2]
profile = "oip-v2"
[routes.v2]
path = "/v2/*"
methods = ["GET", "HEAD", "DELETE"]
pool = "v2"
authorize = ["reader"]
[routes.infer]
path = "/v2/*"
methods = ["POST"]
pool = "v2"
authorize = ["predictor"]
cors = "browser"
body = {}
[routes.repository]
path = "/v2/repository/*"
methods = ["POST"]
pool = "v2"
opens = ["/v2/repository/index"]
authorize = ["admin"]
"#;

const OPENAI: &str = r#"
[pools.llm]
profile = "openai"
[rights.small]
roles = ["predictor"]
models = ["small-*"]
[rights.any]
roles = ["admin"]
[limits.texts]
quota = 4
cost = "rows"
window = "1h"
by = ["principal", "model"]
store_lost = "deny"
[routes.llm]
path = "/v1/*"
methods = ["GET", "POST"]
pool = "llm"
rights = ["small", "any"]
limits = ["texts"]
body = {}
"#;

fn at(worker: &Recorder, pool: &str) -> String {
    format!("[pools.{pool}]\nworkers = [{:?}]\n", worker.url())
}

/// A gateway with one serving thread, so that connections to workers can be counted.
fn builder(worker: &Recorder, policy: &str, pool: &str) -> GatewayBuilder {
    let threads = "[listener]\nthreads = 1\n[reload]\nwatch = false\n";
    Gateway::builder().policy(policy).policy(at(worker, pool)).policy(threads)
}

fn rows(data: &Value) -> Value {
    json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 3], "data": data }] })
}

async fn infer(gateway: &Gateway) -> Answer {
    let request = gateway.client().post("/v2/models/iris/infer").key("predictor");
    request.json(&rows(&json!([1, 2, 3]))).send().await
}

fn answer_with(status: u16, media_type: &str, body: &str) -> Reply {
    Reply::with(status, &format!("Content-Type: {media_type}\r\n"), body.as_bytes())
}

fn prediction() -> Reply {
    Reply::json(&json!({ "model_name": "iris", "outputs": [] }))
}

/// What Triton 2.51 answers to what it can't read.
const TRITON: [&str; 3] = [
    r#"{"error":"failed to parse the request JSON buffer: Missing a comma or } after an object member. at 57"}"#,
    r#"{"error":"Unable to parse 'data': Shape does not match true shape of 'data' field"}"#,
    r#"{"error":"Unable to parse 'data': attempt to access JSON non-number as double"}"#,
];
/// And what it answers where its model fails.
const TRITON_FAILS: &str =
    r#"{"error":"Failed to process the request(s) for model instance 'iris_0_0', message: ValueError: /srv/model.py"}"#;
/// The ends of what `MLServer` 1.7.1 answers with `debug`: to three columns where the model has four, and to a value too few.
const TRACEBACKS: [&str; 2] = [
    "  File \"/srv/lib/sklearn/utils/validation.py\", line 2926, in _check_n_features\n    raise ValueError(\n\
     ValueError: X has 3 features, but RandomForestClassifier is expecting 4 features as input.\n\n",
    "  File \"/srv/lib/mlserver/codecs/numpy.py\", line 163, in decode_input\n    return model_data.reshape(request_input.shape)\n\
     ValueError: cannot reshape array of size 3 into shape (1,4)\n\n",
];
/// What it answers without `debug` to these, and to everything else that goes wrong.
const MLSERVER: (&str, &str) = ("text/plain; charset=utf-8", "Internal Server Error");

#[tokio::test]
async fn paths_that_are_not_of_the_protocol_stay_closed_until_a_route_opens_them_for_a_role() {
    let worker = Recorder::start();
    let gateway = builder(&worker, OIP, "v2").start().await;
    for (method, path) in [
        ("POST", "/v2/repository/models/iris/load"),
        ("POST", "/v2/repository/models/iris/unload"),
        ("POST", "/v2/%72epository/models/iris/load"),
        ("POST", "/v2/models/iris"),
        ("POST", "/v2/models/iris/infer/"),
        ("POST", "/v2/models/iris/generate"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
        ("GET", "/v2/models/iris/config"),
        ("GET", "/v2/models/iris/infer"),
        ("GET", "/v2/trace/setting"),
        ("DELETE", "/v2/models/iris"),
    ] {
        for client in [gateway.client(), gateway.http2()] {
            let answer = client.request(method, path).key("admin").send().await;
            answer.assert_problem(404, "path-closed");
            assert_eq!(answer.json()["error"], answer.json()["detail"], "where its clients look");
        }
    }
    let stranger = gateway.client().post("/v2/repository/models/iris/load").send().await;
    stranger.assert_problem(404, "path-closed");
    let page =
        gateway.client().request("OPTIONS", "/v2/models/iris/config").header("origin", "https://app.example.com");
    let page = page.header("access-control-request-method", "POST").send().await;
    page.assert_problem(404, "path-closed");
    gateway.client().post("/v2/repository/index").key("predictor").send().await.assert_problem(403, "role-missing");
    gateway.client().post("/v2/repository/index").send().await.assert_problem(401, "credential-missing");
    worker.assert_untouched();

    let client = gateway.client();
    assert_eq!(client.post("/v2/repository/index").key("admin").send().await.status, 200);
    assert_eq!(infer(&gateway).await.status, 200);
    for path in ["/v2/health/ready", "/v2/models/iris", "/v2/models/iris/versions/1/ready"] {
        assert_eq!(client.get(path).key("reader").send().await.status, 200, "{path}");
    }
    assert_eq!(worker.seen().len(), 5);
}

#[tokio::test]
async fn a_body_for_a_pool_of_the_protocol_is_held_to_it_without_being_told() {
    let worker = Recorder::start();
    let gateway = builder(&worker, OIP, "v2").start().await;
    let request = gateway.client().post("/v2/models/iris/infer").key("predictor");
    request.json(&rows(&json!([1, 2]))).send().await.assert_problem(422, "body-invalid");
    worker.assert_untouched();
}

#[tokio::test]
async fn a_right_for_models_holds_where_the_path_names_them_and_nobody_wrote_so() {
    let worker = Recorder::start();
    let right = "[rights.iris]\nroles = [\"predictor\"]\nmodels = [\"iris@2\"]\n";
    let policy = OIP.replace("authorize = [\"predictor\"]", "rights = [\"iris\"]") + right;
    let gateway = builder(&worker, &policy, "v2").start().await;
    let ask = async |path: &str| {
        let request = gateway.client().post(path).key("predictor");
        request.json(&rows(&json!([1, 2, 3]))).send().await
    };
    for path in ["/v2/models/mood/versions/2/infer", "/v2/models/iris/versions/1/infer", "/v2/models/iris/infer"] {
        ask(path).await.assert_problem(403, "right-missing");
    }
    worker.assert_untouched();
    assert_eq!(ask("/v2/models/iris/versions/2/infer").await.status, 200);
}

#[tokio::test]
async fn a_right_for_models_holds_where_the_body_names_them() {
    let worker = Recorder::start();
    let gateway = builder(&worker, OPENAI, "llm").start().await;
    let ask =
        async |key: &str, body: Value| gateway.client().post("/v1/chat/completions").key(key).json(&body).send().await;
    for model in [json!("large"), json!(null), json!(["small-1"]), json!(""), json!("small"), json!({ "x": "small-1" })]
    {
        let refused = ask("predictor", json!({ "model": model, "messages": [] })).await;
        refused.assert_problem(403, "right-missing");
        let error = &refused.json()["error"];
        assert_eq!((&error["code"], &error["type"]), (&json!("right-missing"), &json!("permission_error")), "{error}");
        assert_eq!(error["message"], refused.json()["detail"]);
    }
    ask("predictor", json!({ "messages": [] })).await.assert_problem(403, "right-missing");
    let twice = gateway.client().post("/v1/chat/completions").key("predictor");
    let twice = twice.header("content-type", "application/json").body(r#"{"model":"small-1","model":"large"}"#);
    twice.send().await.assert_problem(400, "body-malformed");
    // Who has no right for any model is told so before a body is looked at, and a list of models names none.
    ask("reader", json!("no object")).await.assert_problem(403, "role-missing");
    gateway.client().get("/v1/models").key("predictor").send().await.assert_problem(403, "right-missing");
    gateway.client().get("/v1/models/large").key("predictor").send().await.assert_problem(403, "right-missing");
    worker.assert_untouched();

    let allowed = ask("predictor", json!({ "model": "small-1", "messages": [] })).await;
    assert_eq!(allowed.status, 200, "{}", allowed.text());
    let record = gateway.log().access(&allowed.request_id()).await;
    assert_eq!((&record["model"], &record["role"]), (&json!("small-1"), &json!("predictor")));
    assert_eq!(ask("admin", json!({ "model": "large", "messages": [] })).await.status, 200);
    assert_eq!(gateway.client().get("/v1/models/small-2").key("predictor").send().await.status, 200);
    let long = ask("admin", json!({ "model": "é".repeat(500), "messages": [] })).await;
    let record = gateway.log().access(&long.request_id()).await;
    assert_eq!(record["model"].as_str().map(str::len), Some(128), "what a client chose is not written at any length");
}

#[tokio::test]
async fn rows_are_counted_where_the_protocol_has_them_and_for_each_model_apart() {
    let worker = Recorder::start();
    let gateway = builder(&worker, OPENAI, "llm").start().await;
    let ask =
        async |path: &str, body: Value| gateway.client().post(path).key("predictor").json(&body).send().await.status;
    let texts = |model: &str, texts: &Value| json!({ "model": model, "input": texts });
    assert_eq!(ask("/v1/embeddings", texts("small-1", &json!(["a", "b", "c", "d", "e"]))).await, 413);
    assert_eq!(ask("/v1/embeddings", texts("small-1", &json!(["a", "b", "c"]))).await, 200);
    assert_eq!(ask("/v1/embeddings", texts("small-1", &json!(["a", "b"]))).await, 429);
    assert_eq!(ask("/v1/chat/completions", json!({ "model": "small-1", "messages": [{}, {}, {}], "n": 2 })).await, 429);
    assert_eq!(ask("/v1/chat/completions", json!({ "model": "small-1", "messages": [{}, {}, {}] })).await, 200);
    assert_eq!(ask("/v1/embeddings", texts("small-1", &json!("a"))).await, 429);
    assert_eq!(
        ask("/v1/embeddings", texts("small-2", &json!([1, 2, 3, 4, 5, 6]))).await,
        200,
        "the tokens of one text"
    );
    assert_eq!(worker.seen().len(), 3);
}

#[tokio::test]
async fn a_workers_refusal_has_its_protocols_form_and_nothing_else() {
    let pydantic =
        r#"{"detail":[{"type":"missing","loc":["body","inputs"],"msg":"Field required","input":{"secret":1}}]}"#;
    let cases = [
        (
            404,
            "text/plain",
            r#"{"error":"Request for unknown model: 'x' is not found"}"#,
            "Request for unknown model: 'x' is not found",
        ),
        (422, "application/json", pydantic, "body.inputs: Field required"),
        (400, "text/html", "<pre>Traceback /srv/app.py", "The worker refused the request with status 400."),
        (405, "application/json", "", "The worker refused the request with status 405."),
    ];
    let worker = Recorder::scripted(move |number, _| answer_with(cases[number].0, cases[number].1, cases[number].2));
    let gateway = builder(&worker, OIP, "v2").start().await;
    for (status, _, _, said) in cases {
        let answer = infer(&gateway).await;
        assert_eq!((answer.status, answer.json()), (status, json!({ "error": said })));
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert_eq!(worker.connections(), 1, "nothing is wrong with its connection");

    let own = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":400,"trace":"/srv"}}"#;
    let worker = Recorder::replying(answer_with(400, "application/json", own));
    let gateway = builder(&worker, OPENAI, "llm").start().await;
    let answer = gateway.client().post("/v1/chat/completions").key("admin").json(&json!({ "model": "m" })).send().await;
    let error = json!({ "message": "too long", "type": "invalid_request_error", "param": "messages", "code": 400 });
    assert_eq!((answer.status, answer.json()), (400, json!({ "error": error })));
}

/// How often an event of the pool's workers was told.
fn told(gateway: &Gateway, event: &str) -> usize {
    gateway.log().matching(|line| line["event"] == event).len()
}

const STRICT: &str =
    "[pools.v2.health]\nactive = false\ncount_errors = true\nmax_failures_in_a_row = 2\nejected_for = \"5m\"\n";

#[tokio::test]
async fn a_clients_fault_that_triton_answers_with_500_is_the_clients() {
    let worker = Recorder::scripted(|number, _| match TRITON.get(number % 4) {
        Some(said) => answer_with(500, "application/json", said),
        None => prediction(),
    });
    let gateway = builder(&worker, OIP, "v2").policy(STRICT).start().await;
    for number in 0..12 {
        let answer = infer(&gateway).await;
        if number % 4 == 3 {
            assert_eq!(answer.status, 200);
            continue;
        }
        answer.assert_problem(422, "input-refused");
        assert!(!answer.text().contains("parse"), "a worker's words stay inside: {}", answer.text());
        assert_eq!(answer.json()["error"], answer.json()["detail"]);
        let record = gateway.log().access(&answer.request_id()).await;
        assert_eq!((&record["status"], &record["reason"]), (&json!(422), &json!("input-refused")));
    }
    assert_eq!(told(&gateway, "worker-out") + told(&gateway, "worker-kept"), 0);
}

#[tokio::test]
async fn a_clients_fault_that_mlserver_answers_with_a_traceback_is_the_clients() {
    let worker = Recorder::scripted(|number, _| {
        let calls = "  File \"/srv/lib/starlette/routing.py\", line 73, in app\n    await app(scope)\n".repeat(60);
        let text = format!("Traceback (most recent call last):\n{calls}{}", TRACEBACKS[number % 2]);
        // Its server closes the connection then, and does not say so before.
        answer_with(500, MLSERVER.0, &text).close()
    });
    let gateway = builder(&worker, OIP, "v2").policy(STRICT).start().await;
    for _ in 0..6 {
        let answer = infer(&gateway).await;
        answer.assert_problem(422, "input-refused");
        assert!(!answer.text().contains("/srv"), "where a worker lies stays inside: {}", answer.text());
    }
    assert_eq!(worker.connections(), 6, "none is used again");
    assert_eq!(told(&gateway, "worker-out") + told(&gateway, "worker-kept"), 0);
}

#[tokio::test]
async fn a_500_that_the_profile_does_not_know_is_the_workers() {
    let other = "Traceback (most recent call last):\n  File \"/srv/model.py\", line 1, in predict\nMemoryError\n";
    for (media_type, body) in
        [("application/json", TRITON_FAILS), ("text/html", "Internal Server Error"), MLSERVER, ("text/plain", other)]
    {
        let worker = Recorder::replying(answer_with(500, media_type, body));
        let gateway = builder(&worker, OIP, "v2").policy(STRICT).start().await;
        for _ in 0..2 {
            infer(&gateway).await.assert_problem(502, "worker-failed");
        }
        // It is alone in its pool, so it stays in.
        gateway.log().event("worker-kept").await;
    }
    // Nor does anybody read one on another pool, or on another path.
    let worker = Recorder::replying(answer_with(500, "application/json", TRITON[0]));
    let gateway = builder(&worker, OIP, "v2").worker(&worker).start().await;
    gateway.client().predict("predictor").send().await.assert_problem(502, "worker-failed");
    gateway.client().get("/v2/models/iris").key("reader").send().await.assert_problem(502, "worker-failed");
}

#[tokio::test]
async fn a_500_without_a_word_is_the_clients_only_while_the_worker_predicts_for_others() {
    // 0: good; 1 to 3: wordless; 4: wordless once too often; 5: good; 6: wordless.
    let worker = Recorder::scripted(|number, _| match number {
        0 | 5 => prediction(),
        _ => answer_with(500, MLSERVER.0, MLSERVER.1),
    });
    let gateway = builder(&worker, OIP, "v2").policy(STRICT).start().await;
    for (number, status, slug) in [
        (0, 200, ""),
        (1, 422, "input-refused"),
        (2, 422, "input-refused"),
        (3, 422, "input-refused"),
        (4, 502, "worker-failed"),
        (5, 200, ""),
        (6, 422, "input-refused"),
    ] {
        let answer = infer(&gateway).await;
        assert_eq!(answer.status, status, "{number}: {}", answer.text());
        if status != 200 {
            answer.assert_problem(status, slug);
        }
    }
    assert_eq!(told(&gateway, "worker-out") + told(&gateway, "worker-kept"), 0, "one failure is not two in a row");
}

#[tokio::test]
async fn clients_faults_do_not_roll_a_swap_back_and_real_ones_do() {
    let golden = json!([{ "path": "/v2/models/iris", "expect": {} }]).to_string();
    let phase = Arc::new(AtomicUsize::new(0));
    let old = Recorder::replying(Reply::json(&json!({ "worker": "old" })));
    let new = Recorder::scripted({
        let phase = Arc::clone(&phase);
        move |number, seen| match (seen.line().starts_with("POST"), phase.load(Ordering::Relaxed)) {
            (true, 0) => answer_with(500, "application/json", TRITON[number % 3]),
            (true, _) => answer_with(500, "application/json", TRITON_FAILS),
            (false, _) => Reply::json(&json!({ "worker": "new" })),
        }
    });
    let rule = "[pools.v2.swap]\ngolden = \"golden.json\"\nwatch = \"1h\"\n";
    let gateway = builder(&old, OIP, "v2").file("golden.json", golden).policy(rule).start().await;
    let mut command = Command::new(binary("gateway"));
    command.args(["pool", "swap", "v2", "--to", &new.url(), "--admin", &gateway.operator()]);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for _ in 0..20 {
        infer(&gateway).await.assert_problem(422, "input-refused");
    }
    let pools = plain(gateway.admin(), "GET", "/pools/v2/swap").await.json();
    assert_eq!(pools["stage"], "watched", "{pools}");
    phase.store(1, Ordering::Relaxed);
    let mut failed = 0;
    while infer(&gateway).await.status != 200 {
        failed += 1;
        assert!(failed < 10_000, "it is never rolled back");
    }
    assert!(failed >= 5, "more than a fifth of all failed, {failed}");
    gateway.log().event("pool-swap-rolled-back").await;
}

#[test]
fn what_is_open_is_told_by_routes_and_explain() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = "[roles.reader]\n[roles.predictor]\n[roles.admin]\n[defaults]\nauthenticate = [\"api_key\"]\nlimits = []\n\
                [cors.browser]\norigins = [\"https://app.example.com\"]\n[pools.v2]\nworkers = [\"http://127.0.0.1:9\"]\n\
                [pools.llm]\nworkers = [\"http://127.0.0.1:9\"]\n";
    for (name, text) in [("base.toml", base), ("oip.toml", OIP), ("llm.toml", OPENAI)] {
        std::fs::write(directory.path().join(name), text).expect("it can be written");
    }
    std::fs::write(directory.path().join("body.json"), r#"{"model":"large","messages":[]}"#).expect("written");
    let run = |words: &[&str]| {
        let files = ["--config", "base.toml", "--config", "oip.toml", "--config", "llm.toml"];
        let mut command = Command::new(binary("gateway"));
        let output = command.current_dir(directory.path()).args(words).args(files).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let routes = run(&["routes"]);
    assert!(routes.contains("v2 (oip-v2), opens /v2/repository/index") && routes.contains("llm (openai)"), "{routes}");
    for (words, said) in [
        (&["explain", "POST", "/v2/repository/models/x/load", "--as", "role:admin"][..], "404 path-closed"),
        (&["explain", "POST", "/v2/repository/index", "--as", "role:admin"], "opened beyond the profile"),
        (&["explain", "GET", "/v2/models/x", "--as", "role:reader"], "metadata of oip-v2"),
        (
            &["explain", "POST", "/v1/chat/completions", "--as", "role:predictor", "--body", "body.json"],
            "403 right-missing",
        ),
        (
            &["explain", "POST", "/v1/chat/completions", "--as", "role:admin", "--body", "body.json"],
            "asks the model large",
        ),
        (&["explain", "GET", "/v1/models", "--as", "role:predictor"], "403 right-missing"),
        (&["explain", "POST", "/v1/chat/completions", "--as", "role:reader"], "403 role-missing"),
    ] {
        let text = run(words);
        assert!(text.contains(said), "{words:?}: {text}");
    }
}
