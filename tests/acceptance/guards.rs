//! Bodies for models: requests of the Open Inference Protocol, and values held against a model's card.

use harness::{Gateway, Recorder};
use serde_json::{Value, json};

const POLICY: &str = r#"
[guards.iris]
card = "iris.json"
[guards.strict]
card = "iris.json"
outside_training = "refuse"
[guards.clipping]
card = "iris.json"
outside_bounds = "clip"
outside_training = "clip"
[routes.predict.body]
guard = "iris"
[routes.infer]
path = "/v2/models/{model}/infer"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
body = { format = "oip-v2", guard = "strict" }
[routes.clip]
path = "/clip"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
body = { format = "oip-v2", guard = "clipping" }
[routes.any]
path = "/any"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
body = { format = "oip-v2", max = "4KiB" }
"#;

fn card() -> String {
    let feature = |name: &str, minimum: f64, maximum: f64| {
        json!({
            "name": name, "type": "number", "unit": "cm", "bounds": { "above": 0.0, "at_most": 30.0 },
            "training_range": { "minimum": minimum, "maximum": maximum },
        })
    };
    let features = [
        feature("sepal_length", 4.3, 7.9),
        feature("sepal_width", 2.0, 4.4),
        feature("petal_length", 1.0, 6.9),
        feature("petal_width", 0.1, 2.5),
    ];
    json!({ "name": "iris", "platform": "x", "card": { "version": "1", "features": features, "classes": ["a", "b"] } })
        .to_string()
}

async fn world(worker: &Recorder) -> Gateway {
    Gateway::builder().worker(worker).file("iris.json", card()).policy(POLICY).start().await
}

#[tokio::test]
async fn values_that_the_model_has_not_seen_are_flagged_and_those_that_can_not_be_are_refused() {
    let worker = Recorder::start();
    let gateway = world(&worker).await;
    let ask = async |petal_width: Value| {
        let row = json!({ "sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": petal_width });
        gateway.client().post("/predict").key("predictor").json(&row).send().await
    };
    let usual = ask(json!(0.2)).await;
    assert_eq!((usual.status, usual.header("x-out-of-range").as_str()), (200, ""));
    let unusual = ask(json!(2.9)).await;
    assert_eq!((unusual.status, unusual.header("x-out-of-range").as_str()), (200, "petal_width"));
    assert_eq!(gateway.log().access(&unusual.request_id()).await["flagged"], "petal_width");
    assert_eq!(worker.seen().pop().expect("it came").json()["petal_width"], 2.9, "it goes on as it is");
    // The route's schema refuses what is not even between 0 and 30, so the guard alone is asked with rows in a list.
    let many = json!([{ "sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 30 }]);
    assert_eq!(
        gateway.client().post("/predict").key("predictor").json(&many).send().await.header("x-out-of-range"),
        "petal_width"
    );
}

#[tokio::test]
async fn tensors_are_held_against_the_card_and_nothing_else_reaches_the_worker() {
    let worker = Recorder::start();
    let gateway = world(&worker).await;
    let row =
        |values: &Value| json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 4], "data": values }] });
    let ask = async |path: &str, body: &Value| gateway.client().post(path).key("predictor").json(body).send().await;
    for (values, code) in [
        (json!([5.1, 3.5, 1.4, 31]), "out_of_bounds"),
        (json!([5.1, 3.5, 1.4, 0]), "out_of_bounds"),
        (json!([5.1, 3.5, 1.4, 2.9]), "out_of_training_range"),
        (json!([5.1, 3.5, 1.4]), "count"),
        (json!([5.1, 3.5, 1.4, "0.2"]), "type"),
    ] {
        let answer = ask("/v2/models/iris/infer", &row(&values)).await;
        answer.assert_problem(422, "body-invalid");
        assert_eq!(answer.json()["errors"][0]["code"], code, "{}", answer.text());
    }
    let wide = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 5], "data": [1, 2, 3, 4, 5] }] });
    ask("/v2/models/iris/infer", &wide).await.assert_problem(422, "body-invalid");
    worker.assert_untouched();
    assert_eq!(ask("/v2/models/iris/infer", &row(&json!([5.1, 3.5, 1.4, 0.2]))).await.status, 200);

    let clipped = ask("/clip", &row(&json!([5.1, 3.5, 1.4, 2.9]))).await;
    assert_eq!((clipped.status, clipped.header("x-normalized").as_str()), (200, "\"/inputs/0/data/3\";clipped"));
    assert_eq!(worker.seen().pop().expect("it came").json()["inputs"][0]["data"], json!([5.1, 3.5, 1.4, 2.5]));
}

#[tokio::test]
async fn tensors_as_octets_are_read_as_the_worker_reads_them() {
    let worker = Recorder::start();
    let gateway = world(&worker).await;
    let octets = |values: [f32; 4]| values.map(f32::to_le_bytes).concat();
    let head = json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": { "binary_data_size": 16 } }] }).to_string();
    let ask = async |path: &str, length: usize, tail: Vec<u8>| {
        let request =
            gateway.client().post(path).key("predictor").header("inference-header-content-length", &length.to_string());
        request
            .header("content-type", "application/octet-stream")
            .body([head.clone().into_bytes(), tail].concat())
            .send()
            .await
    };
    let good = octets([5.1, 3.5, 1.4, 0.2]);
    for (path, length, tail) in [
        ("/v2/models/iris/infer", head.len(), octets([5.1, 3.5, 1.4, f32::NAN])),
        ("/v2/models/iris/infer", head.len(), octets([5.1, 3.5, 1.4, 2.9])),
        ("/any", head.len(), good[..15].to_vec()),
        ("/any", head.len(), [&good[..], b"x"].concat()),
        ("/any", head.len() + 17, good.clone()),
    ] {
        ask(path, length, tail).await.assert_problem(422, "body-invalid");
    }
    ask("/any", head.len() - 1, good.clone()).await.assert_problem(400, "body-malformed");
    ask("/any", head.len(), vec![0; 5000]).await.assert_problem(413, "body-too-large");
    // Whoever reads JSON alone does not go by that header.
    let row = "{\"sepal_length\":5.1,\"sepal_width\":3.5,\"petal_length\":1.4,\"petal_width\":0.2}";
    let request = gateway.client().post("/predict").key("predictor").header("content-type", "application/json");
    request.header("inference-header-content-length", "2").body(row).send().await.assert_problem(415, "body-type");
    worker.assert_untouched();

    assert_eq!(ask("/v2/models/iris/infer", head.len(), good.clone()).await.status, 200);
    assert!(worker.seen().pop().expect("it came").body.ends_with(&good));
    assert_eq!(ask("/clip", head.len(), octets([5.1, 3.5, 1.4, 99.0])).await.status, 200);
    let seen = worker.seen().pop().expect("it came");
    assert!(
        seen.body.starts_with(head.as_bytes()) && seen.body.ends_with(&octets([5.1, 3.5, 1.4, 2.5])[..]),
        "the largest seen"
    );
    // Where the JSON is another, its length is another too, with octets behind it and without.
    let told = |seen: &harness::Seen| {
        let length = seen.header("inference-header-content-length").expect("it is said");
        length.parse::<usize>().expect("a number")
    };
    let in_json =
        json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 99] }] });
    let text = format!(" {in_json} ");
    let request = gateway.client().post("/clip").key("predictor").header("content-type", "application/octet-stream");
    let request = request.header("inference-header-content-length", &text.len().to_string()).body(text);
    assert_eq!(request.send().await.status, 200);
    let seen = worker.seen().pop().expect("it came");
    assert_eq!(told(&seen), seen.body.len());
    assert_eq!(seen.json()["inputs"][0]["data"][3], 2.5);
    let both = json!({ "inputs": [
        { "name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": { "binary_data_size": 16 } },
        { "name": "petal_width", "datatype": "FP32", "shape": [1], "data": [99] },
    ] });
    let text = both.to_string();
    let request = gateway.client().post("/clip").key("predictor").header("content-type", "application/octet-stream");
    let request = request.header("inference-header-content-length", &text.len().to_string());
    assert_eq!(request.body([text.as_bytes(), &good].concat()).send().await.status, 200);
    let seen = worker.seen().pop().expect("it came");
    let (head, tail) = seen.body.split_at(told(&seen));
    let head: Value = serde_json::from_slice(head).expect("JSON");
    assert_eq!((&head["inputs"][1]["data"][0], tail), (&json!(2.5), &good[..]));
    // Triton's client sends JSON without saying so.
    let plain = json!({ "inputs": [{ "name": "x", "datatype": "BYTES", "shape": [1], "data": ["a"] }] }).to_string();
    assert_eq!(gateway.client().post("/any").key("predictor").body(plain).send().await.status, 200);
}
