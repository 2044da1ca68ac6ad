//! The Open Inference Protocol over REST, spoken to the real binary.

use std::io::Write;

use super::support::{Reply, World, exchange_bytes};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/iris/infer";

fn tensor(data: &Value, shape: &Value) -> String {
    json!({"inputs": [{"name": "input-0", "datatype": "FP64", "shape": shape, "data": data}]}).to_string()
}

fn error(reply: &Reply) -> String {
    assert!(reply.head.contains("content-type: application/json"), "{reply:?}");
    reply.json()["error"].as_str().expect("an error").to_owned()
}

#[test]
fn health_and_metadata_are_json() {
    let worker = World::new().serve("");
    assert_eq!(worker.get("/v2/health/live").json(), json!({"live": true}));
    assert_eq!(worker.get("/v2/health/ready").json(), json!({"live": true, "ready": true}));
    assert_eq!(worker.get("/v2/models/iris/ready").json(), json!({"name": "iris", "ready": true}));
    assert_eq!(worker.get("/v2/models/iris/versions/1/ready").status, 200);
    assert_eq!(worker.get("/v2").json()["extensions"][0], "binary_tensor_data");
    let model = worker.get("/v2/models/iris").json();
    assert_eq!((&model["name"], &model["versions"]), (&json!("iris"), &json!(["1"])));
    assert_eq!(model["inputs"], json!([{"name": "features", "datatype": "FP64", "shape": [-1, 4]}]));
    assert_eq!(model["outputs"][2], json!({"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}));
    let card = &model["card"];
    assert_eq!(card["features"][3]["training_range"], json!({"minimum": 0.1, "maximum": 2.5}));
    assert_eq!(card["features"][3]["bounds"], json!({"above": 0.0, "at_most": 30.0}));
    assert_eq!((&card["classes"][0], &card["version"]), (&json!("setosa"), &json!("1")));
    assert_eq!(card.get("golden"), None, "golden rows are rows of data");
    assert_eq!(worker.get("/v2/models/sentiment").json()["inputs"][0]["datatype"], "BYTES");
    let index = worker.send("POST", "/v2/repository/index", "", "").json();
    assert_eq!(index[0], json!({"name": "iris", "version": "1", "state": "READY", "reason": ""}));
    assert_eq!(worker.get("/v2/models/iris/config").json()["input"][0]["data_type"], "TYPE_FP64");
    let stats = worker.get("/v2/models/iris/stats").json();
    assert_eq!(stats["model_stats"][0]["inference_count"], 0);
    for (path, status) in [("/v2/models/rose", 404), ("/v2/models/iris/versions/2", 404), ("/v2/nothing", 404)] {
        let reply = worker.get(path);
        assert_eq!(reply.status, status, "{path}");
        error(&reply);
    }
    for call in ["load", "unload"] {
        let reply = worker.send("POST", &format!("/v2/repository/models/iris/{call}"), "", "");
        assert_eq!(reply.status, 403, "{}", error(&reply));
    }
    assert_eq!(worker.get(INFER).status, 405);
}

#[test]
fn stacked_named_flat_and_nested_inputs_are_the_same() {
    let worker = World::new().serve("");
    let rows = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]];
    let column = |index: usize, name: &str| {
        let data: Vec<f64> = rows.iter().map(|row| row[index]).collect();
        json!({"name": name, "datatype": "FP32", "shape": [2, 1], "data": data})
    };
    let names = ["petal_width", "sepal_width", "petal_length", "sepal_length"];
    let columns = [column(3, names[0]), column(1, names[1]), column(2, names[2]), column(0, names[3])];
    for body in [
        tensor(&json!(rows), &json!([2, 4])),
        tensor(&json!(rows.concat()), &json!([2, 4])),
        json!({"inputs": columns}).to_string(),
        json!({"model_name": "iris", "parameters": {"priority": 1}, "inputs": columns, "outputs": []}).to_string(),
    ] {
        let reply = worker.post(INFER, &body);
        assert_eq!(reply.status, 200, "{reply:?}");
        let json = reply.json();
        assert_eq!((&json["model_name"], &json["model_version"]), (&json!("iris"), &json!("1")));
        assert_eq!(json["outputs"][0], json!({"name": "label", "datatype": "INT64", "shape": [2, 1], "data": [0, 2]}));
        assert_eq!(json["outputs"][1]["data"], json!(["setosa", "virginica"]));
        assert_eq!(json["outputs"][2]["shape"], json!([2, 3]));
        assert_eq!(json.get("parameters"), None);
    }
}

#[test]
fn what_is_asked_for_is_answered_and_no_more() {
    let worker = World::new().serve("");
    let body = |outputs: Value| {
        let input = json!({"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 9.0]});
        json!({"id": "abc", "inputs": [input], "outputs": outputs}).to_string()
    };
    let json = worker.post("/v2/models/iris/versions/1/infer", &body(json!([{"name": "class_name"}]))).json();
    assert_eq!(json["id"], "abc");
    assert_eq!(json["outputs"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["outputs"][0]["name"], "class_name");
    assert_eq!(json["parameters"], json!({"out_of_training_range": "petal_width", "out_of_training_range_rows": 1}));
    for (outputs, place) in [
        (json!([{"name": "nothing"}]), "/outputs/0/name"),
        (json!([{"name": "label"}, {"name": "label"}]), "/outputs/1/name"),
        (json!([{"name": "label", "parameters": {"classification": 2}}]), "/outputs/0/parameters/classification"),
    ] {
        let reply = worker.post(INFER, &body(outputs));
        assert!(reply.status == 400 && error(&reply).contains(place), "{reply:?}");
    }
}

#[test]
fn texts_are_scored() {
    let worker = World::new().serve("");
    let body = |data: Value, shape: Value| {
        json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": shape, "data": data}]}).to_string()
    };
    let path = "/v2/models/sentiment/infer";
    for shape in [json!([2]), json!([2, 1])] {
        let json = worker.post(path, &body(json!(["I love it", "I hate it"]), shape)).json();
        assert_eq!(json["outputs"][1]["data"], json!(["positive", "negative"]));
        assert_eq!(json["outputs"][3]["name"], "score");
    }
    for (data, datatype) in
        [(json!([" "]), "blank"), (json!(["x".repeat(8193)]), "at most 8192"), (json!([5]), "strings")]
    {
        let reply = worker.post(path, &body(data, json!([1])));
        assert!(reply.status / 100 == 4 && error(&reply).contains(datatype), "{reply:?}");
    }
}

#[test]
fn a_clients_fault_is_told_with_its_place_and_is_never_a_500() {
    let worker = World::new().serve("");
    let row = json!([5.1, 3.5, 1.4, 0.2]);
    let input = |member: &str, value: Value| {
        let mut input = json!({"name": "x", "datatype": "FP64", "shape": [1, 4], "data": row});
        input[member] = value;
        json!({"inputs": [input]}).to_string()
    };
    let column = |name: &str| json!({"name": name, "datatype": "FP64", "shape": [1], "data": [1.0]});
    let named =
        |names: &[&str]| json!({"inputs": names.iter().map(|name| column(name)).collect::<Vec<_>>()}).to_string();
    for (body, status, place) in [
        (String::new(), 400, "malformed"),
        ("{".to_owned(), 400, "well-formed"),
        ("[1]".to_owned(), 400, "an object with `inputs`"),
        (input("data", json!(["5.1", "3.5", "1.4", "0.2"])), 400, "/inputs/0/data"),
        (input("data", json!([5.1, "3.5", 1.4, 0.2])), 400, "/inputs/0/data"),
        (input("data", json!([5.1, null, 1.4, 0.2])), 400, "/inputs/0/data/1"),
        (input("data", json!([true, true, true, true])), 400, "/inputs/0/data"),
        (input("data", json!([5.1, 3.5, 1.4])), 400, "/inputs/0/data"),
        (input("shape", json!([1, 3])), 400, "/inputs/0/shape"),
        (input("shape", json!([4])), 400, "/inputs/0/shape"),
        (input("shape", json!([0, 4])), 400, "/inputs/0/shape"),
        (input("shape", json!([-1, 4])), 400, "/inputs/0/shape/0"),
        (input("shape", json!([u64::MAX, 4])), 413, "rows"),
        (input("datatype", json!("FP99")), 400, "/inputs/0/datatype"),
        (input("datatype", json!("BYTES")), 400, "/inputs/0/datatype"),
        (input("datatype", json!("INT64")), 400, "/inputs/0/data/0"),
        (input("datatype", json!("UINT8")), 400, "/inputs/0/data/0"),
        (input("data", json!([5.1, 3.5, 1.4, 30.5])), 422, "/inputs/0/data/3"),
        (input("parameters", json!({"binary_data_size": 8})), 400, "/inputs/0/data"),
        (input("parameters", json!({"shared_memory_region": "r"})), 400, "shared_memory_region"),
        (tensor(&json!(vec![1.0; 4004]), &json!([1001, 4])), 413, "rows"),
        (json!({"inputs": []}).to_string(), 400, "/inputs"),
        (named(&["sepal_length", "sepal_width"]), 400, "/inputs: the model needs petal_length"),
        (named(&["sepal_length", "sepal_length"]), 400, "/inputs/1/name"),
        (named(&["sepal_length", "rose"]), 400, "/inputs/1/name"),
        (tensor(&row, &json!([1, 4])).replace("0.2", "NaN"), 400, "malformed"),
        (tensor(&row, &json!([1, 4])).replace("0.2", "1e999"), 400, "malformed"),
    ] {
        let reply = worker.post(INFER, &body);
        let shown: String = body.chars().take(120).collect();
        let place = if place == "malformed" { "well-formed" } else { place };
        assert!(reply.status == status && error(&reply).contains(place), "{shown}: {} {}", reply.status, reply.body);
    }
}

#[test]
fn a_strict_worker_refuses_what_training_did_not_see() {
    let worker = World::new().serve("strict_range = true");
    let reply = worker.post(INFER, &tensor(&json!([5.1, 3.5, 1.4, 0.2, 5.1, 3.5, 9.4, 0.2]), &json!([2, 4])));
    assert!(reply.status == 422 && error(&reply).contains("/inputs/0/data/6: expected 1 to 6.9"), "{reply:?}");
    let row = r#"[{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":9}]"#;
    let reply = worker.post("/predict", row);
    assert_eq!((reply.status, reply.problem().as_str()), (422, "out-of-training-range"));
    assert_eq!(reply.json()["errors"][0]["pointer"], "/0/petal_width");
    assert_eq!(worker.post(INFER, &tensor(&json!([5.1, 3.5, 1.4, 0.2]), &json!([1, 4]))).status, 200);
}

/// A request with its tensor behind the JSON, and the answer's JSON and octets.
fn octets(worker: &super::support::Worker, json: &Value, tail: &[u8]) -> (u16, Value, Vec<u8>) {
    let json = json.to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    let reply = exchange_bytes(&mut worker.connect(), "POST", INFER, &headers, &[json.as_bytes(), tail].concat());
    let length = reply.header("inference-header-content-length").map_or(reply.body.len(), |length| {
        assert!(reply.head.contains("content-type: application/octet-stream"), "{}", reply.head);
        length.parse().expect("a length")
    });
    let json = serde_json::from_slice(&reply.body[..length]).expect("JSON");
    (reply.status, json, reply.body[length..].to_vec())
}

#[test]
fn octets_are_taken_and_given() {
    let worker = World::new().serve("");
    let tail: Vec<u8> = [5.1_f32, 3.5, 1.4, 0.2].iter().flat_map(|number| number.to_le_bytes()).collect();
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}});
    let request = json!({"inputs": [input], "parameters": {"binary_data_output": true}});
    let (status, json, octets_back) = octets(&worker, &request, &tail);
    assert_eq!(status, 200, "{json}");
    let sizes: Vec<u64> = (0..3)
        .map(|index| json["outputs"][index]["parameters"]["binary_data_size"].as_u64().expect("a size"))
        .collect();
    assert_eq!(sizes, [8, 10, 12]);
    assert_eq!(json["outputs"][0].get("data"), None);
    let expected = [&0_i64.to_le_bytes()[..], &6_u32.to_le_bytes(), b"setosa", &1_f32.to_le_bytes(), &[0; 8]].concat();
    assert_eq!(octets_back, expected);
    let mixed = json!({"inputs": [input], "outputs": [
        {"name": "class_name"}, {"name": "label", "parameters": {"binary_data": true}}]});
    let (_, json, octets_back) = octets(&worker, &mixed, &tail);
    assert_eq!((&json["outputs"][0]["data"], octets_back.len()), (&json!(["setosa"]), 8));
    for (tail, place) in [
        (&tail[..12], "/inputs/0/parameters/binary_data_size"),
        (&[tail.as_slice(), &[0]].concat(), "/inputs: "),
        (&[&f32::NAN.to_le_bytes()[..], &tail[4..]].concat(), "/inputs/0/data/0"),
    ] {
        let (status, json, _) = octets(&worker, &request, tail);
        assert!(status == 400 && json["error"].as_str().expect("an error").contains(place), "{json}");
    }
    let reply = exchange_bytes(&mut worker.connect(), "POST", INFER, "Inference-Header-Content-Length: 99\r\n", b"{}");
    assert_eq!(reply.status, 400);
}

#[test]
fn a_compressed_body_is_taken_within_the_bound() {
    let worker = World::new().serve("max_body = \"4KiB\"");
    let squeeze = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).expect("written");
        encoder.finish().expect("compressed")
    };
    let send = |body: &[u8]| exchange_bytes(&mut worker.connect(), "POST", INFER, "Content-Encoding: gzip\r\n", body);
    assert_eq!(send(&squeeze(tensor(&json!([5.1, 3.5, 1.4, 0.2]), &json!([1, 4])).as_bytes())).status, 200);
    let bomb = squeeze(&vec![b' '; 1 << 20]);
    assert!(bomb.len() < 4096);
    assert_eq!(send(&bomb).status, 413);
    assert_eq!(send(b"not gzip").status, 400);
}

#[test]
fn a_request_whose_caller_has_stopped_waiting_is_not_worked_on() {
    let worker = World::new().serve("");
    let body = tensor(&json!([5.1, 3.5, 1.4, 0.2]), &json!([1, 4]));
    let reply = worker.send("POST", INFER, "X-Modelgate-Timeout: 0\r\n", &body);
    assert_eq!((reply.status, error(&reply).contains("deadline")), (504, true));
    assert_eq!(worker.send("POST", INFER, "X-Modelgate-Timeout: 60000\r\n", &body).status, 200);
    assert_eq!(worker.send("POST", INFER, "X-Modelgate-Timeout: soon\r\n", &body).status, 200);
}

#[test]
fn what_happens_is_counted() {
    let worker = World::new().serve("");
    worker.post(INFER, &tensor(&json!([5.1, 3.5, 1.4, 0.2, 5.1, 3.5, 1.4, 9.0]), &json!([2, 4])));
    worker.post(INFER, "{");
    let text = worker.get("/metrics").body;
    for line in [
        "model_worker_ready 1",
        "model_worker_requests_total{model=\"iris\",version=\"1\",protocol=\"v2\"} 1",
        "model_worker_rows_total{model=\"iris\",version=\"1\"} 2",
        "model_worker_unusual_values_total{model=\"iris\",version=\"1\",feature=\"petal_width\"} 1",
        "model_worker_seconds_count{model=\"iris\",version=\"1\"} 1",
        "model_worker_refused_total{status=\"4xx\"} 1",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }
}

#[test]
fn new_versions_are_taken_up_and_bad_files_are_not() {
    let world = World::new();
    let mut worker = world.serve("watch = \"10ms\"");
    let directory = world.root.path().join("iris");
    let put = |name: &str, bytes: &[u8]| {
        std::fs::write(directory.join(".unfinished"), bytes).expect("written");
        std::fs::rename(directory.join(".unfinished"), directory.join(name)).expect("renamed");
    };
    let version = |worker: &super::support::Worker| {
        worker.post(INFER, &tensor(&json!([5.1, 3.5, 1.4, 0.2]), &json!([1, 4]))).json()["model_version"].clone()
    };
    let good = std::fs::read(world.iris()).expect("an artifact");
    put("2.model", &good);
    assert_eq!(worker.event(), json!({"event": "serving", "model": "iris", "version": "2"}));
    assert_eq!(version(&worker), "2");
    // Another file in the same place that cannot be used.
    put("2.model", &good[..good.len() - 1]);
    let refused = worker.event();
    assert_eq!(refused["event"], "model-refused");
    assert!(refused["file"].as_str().expect("a file").ends_with("iris/2.model"));
    assert!(refused["why"].as_str().expect("a reason").contains("checksum"), "{refused}");
    assert_eq!(version(&worker), "2", "the old one goes on");
    let index = worker.send("POST", "/v2/repository/index", "", "").json();
    assert!(index.as_array().expect("models").iter().any(|model| model["state"] == "UNAVAILABLE"), "{index}");
    put("three.model", &good);
    assert_eq!(worker.event()["event"], "model-refused");
    std::fs::remove_file(directory.join("2.model")).expect("removed");
    assert_eq!(worker.event(), json!({"event": "removed", "model": "iris", "version": "2"}));
    assert_eq!(version(&worker), "1");
    assert!(worker.get("/metrics").body.contains("model_worker_artifacts_refused_total 2"), "each is counted once");
}

#[test]
fn a_request_in_flight_ends_on_the_model_that_it_began_with() {
    let world = World::new();
    let mut worker = world.serve("watch = \"0s\"");
    let body = tensor(&json!([5.1, 3.5, 1.4, 0.2]), &json!([1, 4]));
    let mut stream = worker.connect();
    let head = "Host: w\r\nConnection: close\r\nExpect: 100-continue\r\n";
    write!(stream, "POST {INFER} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n", body.len()).expect("sent");
    let mut go_on = [0; 25];
    std::io::Read::read_exact(&mut stream, &mut go_on).expect("an interim answer");
    std::fs::rename(world.iris(), world.root.path().join("iris/2.model")).expect("renamed");
    worker.signal("HUP");
    assert_eq!(worker.event()["event"], "serving");
    assert_eq!(worker.event()["event"], "removed");
    assert_eq!(worker.get("/v2/models/iris").json()["versions"], json!(["2"]));
    write!(stream, "{body}").expect("sent");
    assert_eq!(Reply::read(&mut stream).json()["model_version"], "1");
}

#[test]
fn loading_by_request_is_possible_where_it_is_allowed() {
    let world = World::new();
    let mut worker = world.serve("watch = \"0s\"\nrepository_control = true");
    std::fs::copy(world.iris(), world.root.path().join("iris/7.model")).expect("copied");
    assert_eq!(worker.send("POST", "/v2/repository/models/iris/load", "", "").status, 200);
    assert_eq!(worker.event(), json!({"event": "serving", "model": "iris", "version": "7"}));
}
