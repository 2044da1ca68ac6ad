//! The Open Inference Protocol as `config/oip-v2.toml` opens it, spoken by a client that we did not write.
//! `tests/swap/run` does the same with more clients and servers.

use std::process::Command;

use harness::gateway::Upstream;
use harness::identity::key;
use harness::{Gateway, Recorder, TestCa, Worker};

async fn before(worker: &impl Upstream) -> Gateway {
    let url = worker.url();
    let places = format!("[pools.v2]\nworkers = [\"{url}\"]\n[pools.v2-grpc]\nworkers = [\"{url}\"]\n");
    let limit = "[limits.per-address]\nquota = 1000\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n";
    let listener = "[listener]\ncertificate = \"own.pem\"\nprivate_key = { file = \"own.key\" }\n";
    let issued = TestCa::shared().issue_named();
    let builder = Gateway::builder().file("own.pem", &issued.certificate).file("own.key", &issued.private_key);
    let builder = builder.policy(include_str!("../../config/oip-v2.toml")).policy(limit).policy(places);
    builder.policy(listener).start().await
}

#[tokio::test]
async fn every_call_of_tritonclient_comes_through() {
    let Some(packages) = std::env::var_os("TRITONCLIENT") else { return };
    let worker = Worker::start().await;
    let gateway = before(&worker).await;
    let ca = gateway.directory().join("ca.pem");
    std::fs::write(&ca, &TestCa::shared().authority).expect("a temporary directory can be written to");
    for (kind, calls) in [("http", 35), ("grpc", 31)] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/swap/clients/triton.py");
        let mut python = Command::new("python3");
        python.args([script, kind, &gateway.address().to_string()]).arg(&ca).args([&*key("admin"), "label"]);
        python.env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = tokio::task::spawn_blocking(move || python.output()).await;
        let output = output.expect("it ends").expect("Python runs");
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}\n{wrong}");
        let failed: Vec<&str> = said.lines().filter(|line| !line.ends_with("\"said\": null}")).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(said.lines().count(), calls, "{said}");
    }
}

#[tokio::test]
async fn its_clients_can_read_why_they_were_refused() {
    let worker = Recorder::start();
    let gateway = before(&worker).await;
    let ask = |key| gateway.client().post("/v2/models/iris/infer").key(key).json(&serde_json::json!({ "inputs": [] }));
    let answer = ask("predictor").send().await;
    answer.assert_problem(422, "body-invalid");
    assert_eq!(answer.json()["error"], answer.json()["detail"]);
    let answer = ask("reader").send().await;
    answer.assert_problem(403, "role-missing");
    assert_eq!(answer.json()["error"], answer.json()["detail"]);
    let answer = gateway.client().get("/v2").send().await;
    answer.assert_problem(401, "credential-missing");
    assert_eq!(answer.json()["error"], answer.json()["detail"]);
    // Elsewhere a problem is a problem alone.
    let answer = gateway.client().get("/known").send().await;
    answer.assert_problem(401, "credential-missing");
    assert!(answer.json().get("error").is_none());
    worker.assert_untouched();
}
