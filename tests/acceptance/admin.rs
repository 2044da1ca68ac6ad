//! What operators ask: alive, ready, how much. On a port of their own, and on no other.

use std::process::Command;

use harness::wire::plain;
use harness::{Gateway, Recorder, Redis, Reply, Wire, Worker, binary};
use serde_json::{Value, json};

/// What `/readyz` says, and its status.
async fn readiness(gateway: &Gateway) -> (u16, Value) {
    let answer = plain(gateway.admin(), "GET", "/readyz").await;
    (answer.status, answer.json())
}

/// The value of one series.
pub(crate) async fn number(gateway: &Gateway, series: &str) -> Option<String> {
    let text = plain(gateway.admin(), "GET", "/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

#[tokio::test]
async fn a_gateway_with_all_that_it_needs_is_live_and_ready() {
    let worker = Worker::start().await;
    let redis = Redis::start().await;
    let gateway = Gateway::builder().worker(&worker).redis(&redis).start().await;
    let live = plain(gateway.admin(), "GET", "/livez").await;
    assert_eq!((live.status, live.json()), (200, json!({ "live": true })));
    assert_eq!(
        (live.header("content-type"), live.header("cache-control")),
        ("application/json".into(), "no-store".into())
    );
    let checks = json!({ "gateway": "ready", "store": "ready", "pool models": "ready" });
    assert_eq!(readiness(&gateway).await, (200, json!({ "ready": true, "checks": checks })));
}

#[tokio::test]
async fn a_worker_that_is_down_is_named() {
    let mut worker = Worker::start().await;
    let gateway = Gateway::before(&worker).await;
    assert_eq!(readiness(&gateway).await.0, 200);
    worker.kill();
    let (status, said) = readiness(&gateway).await;
    assert_eq!((status, &said["ready"], &said["checks"]["gateway"]), (503, &json!(false), &json!("ready")), "{said}");
    let why = said["checks"]["pool models"].as_str().expect("a reason");
    assert!(why.contains("refused"), "{said}");
    assert_eq!(plain(gateway.admin(), "GET", "/livez").await.status, 200, "it lives on");
}

#[tokio::test]
async fn a_worker_that_says_it_is_not_ready_is_believed() {
    let worker = Recorder::replying(Reply::with(503, "", b"loading"));
    let gateway = Gateway::before(&worker).await;
    let (status, said) = readiness(&gateway).await;
    assert_eq!(status, 503, "{said}");
    assert!(said["checks"]["pool models"].as_str().is_some_and(|why| why.contains("503")), "{said}");
    assert_eq!(worker.only().line(), "GET /readyz HTTP/1.1");
}

#[tokio::test]
async fn one_ready_worker_makes_a_pool_ready() {
    let (away, worker) = (Recorder::refusing(), Recorder::start());
    let gateway = Gateway::builder().worker(&away).worker(&worker).start().await;
    assert_eq!(readiness(&gateway).await.0, 200);
}

#[tokio::test]
async fn a_store_that_is_down_is_named() {
    let worker = Recorder::start();
    let mut redis = Redis::start().await;
    let gateway = Gateway::builder().worker(&worker).redis(&redis).start().await;
    assert_eq!(readiness(&gateway).await.0, 200);
    redis.kill();
    let (status, said) = readiness(&gateway).await;
    assert_eq!((status, &said["checks"]["pool models"]), (503, &json!("ready")), "{said}");
    assert_ne!(said["checks"]["store"], "ready", "{said}");
    redis.revive().await;
    assert_eq!(readiness(&gateway).await.0, 200, "and back");
}

#[tokio::test]
async fn an_issuer_whose_keys_are_not_there_is_named_and_holds_up_nobody_else() {
    let worker = Recorder::start();
    let away = Recorder::refusing();
    let overlay = format!(
        "[issuers.corp]\nissuer = \"https://idp.example.com\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\njwks_url = \"https://{}/keys\"\n",
        away.address()
    );
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let (status, said) = readiness(&gateway).await;
    assert_eq!(status, 200, "{said}");
    assert!(said["checks"]["issuer corp"].is_string(), "{said}");
}

#[tokio::test]
async fn requests_and_refusals_are_counted_by_route_and_reason() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let client = gateway.client();
    for request in [
        client.predict("predictor"),
        client.predict("predictor"),
        client.predict("unknown"),
        client.predict("predictor").body("{"),
        client.get("/open"),
        client.get("/nowhere"),
        client.get("/elsewhere?secret"),
    ] {
        let answer = request.send().await;
        // The record is written when the request is over, and counted just before.
        gateway.log().access(&answer.request_id()).await;
    }
    for (series, value) in [
        ("modelgate_requests_total{route=\"predict\",class=\"2xx\"}", "2"),
        ("modelgate_requests_total{route=\"predict\",class=\"4xx\"}", "2"),
        ("modelgate_requests_total{route=\"open\",class=\"2xx\"}", "1"),
        ("modelgate_requests_total{route=\"(none)\",class=\"4xx\"}", "2"),
        ("modelgate_refusals_total{reason=\"api-key-unknown\"}", "1"),
        ("modelgate_refusals_total{reason=\"body-malformed\"}", "1"),
        ("modelgate_refusals_total{reason=\"not-found\"}", "2"),
        ("modelgate_refusals_total{reason=\"worker-slow\"}", "0"),
        ("modelgate_request_duration_seconds_count", "7"),
        ("modelgate_request_duration_seconds_bucket{le=\"+Inf\"}", "7"),
        ("modelgate_connections_accepted_total", "7"),
        ("modelgate_log_records_dropped_total", "0"),
    ] {
        assert_eq!(number(&gateway, series).await.as_deref(), Some(value), "{series}");
    }
    let text = plain(gateway.admin(), "GET", "/metrics").await;
    assert_eq!(text.header("content-type"), "text/plain; version=0.0.4");
    assert!(!text.text().contains("elsewhere") && !text.text().contains("secret"), "clients make no series");
}

#[tokio::test]
async fn connections_to_workers_are_counted() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nthreads = 1\n").start().await;
    let mut connection = gateway.client().connect().await;
    for _ in 0..3 {
        let answer = connection.send(gateway.client().get("/open")).await;
        gateway.log().access(&answer.request_id()).await;
    }
    assert_eq!(number(&gateway, "modelgate_upstream_connects_total").await.as_deref(), Some("1"));
    assert_eq!(number(&gateway, "modelgate_connections").await.as_deref(), Some("1"), "the one that is open");
}

#[tokio::test]
async fn what_is_exposed_is_in_prometheus_text_format() {
    let gateway = Gateway::builder().start().await;
    let text = plain(gateway.admin(), "GET", "/metrics").await.text();
    let mut described = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().expect("a name");
            assert!(described.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(described.contains(name) || described.contains(family), "{line} comes before its type");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(described.len() > 5, "{text}");
}

#[tokio::test]
async fn operators_answers_are_not_for_clients() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        for path in ["/livez", "/readyz", "/metrics"] {
            client.get(path).send().await.assert_problem(404, "not-found");
            client.get(path).key("admin").send().await.assert_problem(404, "not-found");
        }
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn the_operators_port_forwards_and_changes_nothing() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for path in ["/", "/models", "/open", "/livez/"] {
        assert_eq!(plain(gateway.admin(), "GET", path).await.status, 404, "{path}");
    }
    for (method, path) in [("POST", "/predict"), ("POST", "/livez"), ("DELETE", "/metrics"), ("OPTIONS", "/readyz")] {
        assert_eq!(plain(gateway.admin(), method, path).await.status, 403, "{method} {path}");
        let answer = gateway.operate(method, path).await;
        assert_eq!((answer.status, answer.header("allow").as_str()), (405, "GET, HEAD"), "{method} {path}");
    }
    worker.assert_untouched();
    let stream = tokio::net::TcpStream::connect(gateway.admin()).await.expect("the port is open");
    let mut wire = Wire::over(stream);
    wire.send("GARBAGE\r\n\r\n").await;
    assert_eq!(wire.head().await.expect("an answer").status, 400);
}

#[tokio::test]
async fn the_health_command_asks_for_readiness() {
    let mut worker = Worker::start().await;
    let gateway = Gateway::before(&worker).await;
    let health = || {
        let admin = gateway.admin().to_string();
        Command::new(binary("gateway")).args(["health", "--admin", &admin]).env_clear().output().expect("it runs")
    };
    let good = health();
    assert_eq!((good.status.code(), String::from_utf8_lossy(&good.stderr).as_ref()), (Some(0), ""));
    worker.kill();
    let bad = health();
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: not ready: ") && said.contains("pool models"), "{said}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_plainly() {
    let gateway = Gateway::builder().start().await;
    for (table, address) in [("admin", gateway.admin()), ("listener", gateway.address())] {
        let output = Gateway::builder().policy(format!("[{table}]\naddress = \"{address}\"\n")).output("run");
        let expected = format!(
            "error: the {table} port {address} is in use by another program\n  \
             help: stop it, or choose another port (`{table}.address`, or GATEWAY_{}__ADDRESS)\n",
            table.to_uppercase()
        );
        assert_eq!((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code()), (expected, Some(69)));
    }
}
