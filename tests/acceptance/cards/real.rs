//! The real model worker: its own cards, and its own way from version to version.

use std::fmt::Write as _;

use harness::wire::plain;
use harness::{Gateway, Upstream as _, Worker, eventually};
use serde_json::{Value, json};

use super::run;

const POLICY: &str = r#"
[reload]
watch = false
[guards.told]
card_path = "/v2/models/plants"
interval = "100ms"
outside_training = "refuse"
[routes.infer]
path = "/v2/models/{model}/infer"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
body = { format = "oip-v2", guard = "told" }
[pools.models.swap]
golden = "golden.json"
"#;

/// A model of plants whose leaves are so many times as long.
fn plants(times: u32) -> Vec<u8> {
    let mut table = "width,length,class\n".to_owned();
    for number in 0..60 {
        let (class, base) = if number % 2 == 0 { ("moss", 1) } else { ("fern", 4) };
        let _ = writeln!(table, "{},{},{class}", base + number % 3, (base + number % 5) * times);
    }
    Worker::train(&table, "class")
}

async fn before(worker: &Worker) -> Gateway {
    let golden = json!([{ "path": "/v2/models/plants", "expect": { "name": "plants" } }]).to_string();
    Gateway::builder().worker(worker).policy(POLICY).file("golden.json", golden).start().await
}

async fn ask(gateway: &Gateway, model: &str, length: f64) -> harness::Answer {
    let row = json!({ "inputs": [{ "name": "x", "datatype": "FP64", "shape": [1, 2], "data": [2, length] }] });
    gateway.client().post(&format!("/v2/models/{model}/infer")).key("predictor").json(&row).send().await
}

async fn answered(gateway: &Gateway) -> Value {
    plain(gateway.admin(), "GET", "/pools").await.json()["models"]["workers"][0]["answered"].clone()
}

#[tokio::test]
async fn values_are_held_against_what_the_worker_says_of_its_model() {
    let worker = Worker::serving("plants", &plants(1)).await;
    let gateway = before(&worker).await;
    let answer = ask(&gateway, "plants", 9.0).await;
    answer.assert_problem(422, "body-invalid");
    assert_eq!(answer.json()["errors"][0]["pointer"], "/inputs/0/data/1");
    // The worker has a model of texts too, which this guard is not for.
    ask(&gateway, "sentiment", 5.0).await.assert_problem(503, "card-unknown");
    assert_eq!(answered(&gateway).await, 0, "the worker did not hear of them");
    let answer = ask(&gateway, "plants", 5.0).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn a_version_that_is_put_into_its_directory_is_followed() {
    let worker = Worker::serving("plants", &plants(1)).await;
    let gateway = before(&worker).await;
    assert_eq!(ask(&gateway, "plants", 2.0).await.status, 200);
    ask(&gateway, "plants", 50.0).await.assert_problem(422, "body-invalid");
    worker.put("plants", "2", &plants(10));
    worker.signal("HUP");
    let followed = async || Some(ask(&gateway, "plants", 50.0).await.status).filter(|status| *status == 200);
    eventually("the new version's values pass", followed).await;
    ask(&gateway, "plants", 2.0).await.assert_problem(422, "body-invalid");
    gateway.log().wait_for(|line| line["event"] == "guard-card" && line["version"] == "2").await;
    let shown = plain(gateway.admin(), "GET", "/pools").await.json();
    assert_eq!(shown["models"]["guards"][0]["models"], json!([{ "name": "plants", "version": "2" }]));
}

#[tokio::test]
async fn after_a_swap_values_are_held_against_the_new_workers_card() {
    let (old, new) = (Worker::serving("plants", &plants(1)).await, Worker::serving("plants", &plants(10)).await);
    let gateway = before(&old).await;
    assert_eq!(ask(&gateway, "plants", 2.0).await.status, 200);
    assert_eq!(run(&gateway.operator(), &["pool", "swap", "models", "--to", &new.url()]), (Some(0), String::new()));
    let answer = ask(&gateway, "plants", 2.0).await;
    answer.assert_problem(422, "body-invalid");
    assert_eq!(answered(&gateway).await, 0, "the new one did not hear of it");
    assert_eq!(ask(&gateway, "plants", 50.0).await.status, 200);
}

#[tokio::test]
async fn the_card_comes_over_http_2_as_well() {
    let worker = Worker::serving("plants", &plants(1)).await;
    let golden = json!([{ "path": "/v2/models/plants", "expect": { "name": "plants" } }]).to_string();
    let builder = Gateway::builder().worker(&worker).policy(POLICY).file("golden.json", golden);
    let gateway = builder.policy("[pools.models]\nprotocol = \"http2\"\n").start().await;
    ask(&gateway, "plants", 9.0).await.assert_problem(422, "body-invalid");
    assert_eq!(ask(&gateway, "plants", 2.0).await.status, 200);
    worker.put("plants", "2", &plants(10));
    worker.signal("HUP");
    let followed = async || Some(ask(&gateway, "plants", 50.0).await.status).filter(|status| *status == 200);
    eventually("the new version's values pass", followed).await;
}
