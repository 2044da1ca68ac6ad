//! gRPC end to end: HTTP/2 on both sides, trailers, and refusals that its clients understand.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use harness::identity::key;
use harness::{Deed, Gateway, StreamWorker};
use http::{HeaderMap, Request, Response};
use tokio::sync::Semaphore;

use super::ONE_THREAD;

const POLICY: &str = r#"[pools.models]
protocol = "http2"
[routes.infer]
path = "/inference.GRPCInferenceService/*"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
grpc = true
[routes.infer.body]
format = "opaque"
content_types = ["application/grpc"]
max = "64KiB"
"#;

async fn before(worker: &StreamWorker) -> Gateway {
    Gateway::builder().worker(worker).policy(ONE_THREAD).policy(POLICY).start().await
}

async fn connect(gateway: &Gateway) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(gateway.http2().tls().await).await.expect("HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    send
}

async fn call(
    gateway: &Gateway,
    credential: Option<&str>,
    end: bool,
) -> (impl Future<Output = Response<RecvStream>> + use<>, SendStream<Bytes>) {
    let mut send = connect(gateway).await.ready().await.expect("room");
    let mut request = Request::post("https://localhost/inference.GRPCInferenceService/ModelInfer")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(id) = credential {
        request = request.header("x-api-key", key(id));
    }
    let (answer, stream) = send.send_request(request.body(()).expect("a request"), end).expect("it is sent");
    // The connection lives as long as somebody may send on it.
    let answer = async move {
        let answer = tokio::time::timeout(harness::PATIENCE, answer).await.expect("in time").expect("an answer");
        drop(send);
        answer
    };
    (answer, stream)
}

/// The answer's messages and trailers.
async fn whole(answer: Response<RecvStream>) -> (Vec<u8>, Option<HeaderMap>) {
    let (mut body, mut octets) = (answer.into_body(), Vec::new());
    while let Some(part) = body.data().await {
        let part = part.expect("no reset");
        body.flow_control().release_capacity(part.len()).expect("it was taken");
        octets.extend_from_slice(&part);
    }
    (octets, poll_fn(|cx| body.poll_trailers(cx)).await.expect("no reset"))
}

#[tokio::test]
async fn messages_pass_as_they_come_both_ways_and_trailers_end_the_call() {
    let turn = Arc::new(Semaphore::new(0));
    let worker = StreamWorker::scripted({
        let turn = Arc::clone(&turn);
        move |_, _| {
            vec![
                Deed::ReadPart,
                Deed::Head(200, vec![("content-type", "application/grpc".into())], false),
                Deed::Data("first".into()),
                Deed::Wait(Arc::clone(&turn)),
                Deed::ReadBody,
                Deed::Data("last".into()),
                Deed::Trailers(vec![("grpc-status", "0"), ("grpc-message", "fine"), ("server", "secret")]),
            ]
        }
    });
    let worker = worker.await;
    let gateway = before(&worker).await;
    let (answer, mut stream) = call(&gateway, Some("predictor"), false).await;
    stream.send_data("one".into(), false).expect("it is sent");
    // The worker answers before the client has ended, and the client has it before the worker goes on.
    let mut answer = answer.await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/grpc".parse().expect("a value"))
    );
    assert_eq!(answer.body_mut().data().await.expect("a part").expect("no reset"), "first");
    turn.add_permits(1);
    stream.send_data("two".into(), true).expect("it is sent");
    let (rest, trailers) = whole(answer).await;
    let trailers = trailers.expect("trailers");
    assert_eq!(
        (&rest[..], &trailers["grpc-status"], &trailers["grpc-message"]),
        (&b"last"[..], &"0".parse().expect("a value"), &"fine".parse().expect("a value"))
    );
    assert!(!trailers.contains_key("server"));
    let seen = worker.seen();
    assert_eq!(
        (&seen[0].body[..], &seen[0].head.headers["te"]),
        (&b"onetwo"[..], &"trailers".parse().expect("a value"))
    );
    assert_eq!(seen[0].head.uri.path(), "/inference.GRPCInferenceService/ModelInfer");
}

#[tokio::test]
async fn a_status_without_a_message_passes_too() {
    let worker = StreamWorker::scripted(|_, _| {
        vec![Deed::ReadBody, Deed::Head(200, vec![("grpc-status", "5".into()), ("grpc-message", "none".into())], true)]
    });
    let worker = worker.await;
    let gateway = before(&worker).await;
    let answer = call(&gateway, Some("predictor"), true).await.0.await;
    assert_eq!(
        (&answer.headers()["grpc-status"], answer.body().is_end_stream()),
        (&"5".parse().expect("a value"), true)
    );
}

#[tokio::test]
async fn refusals_are_statuses_of_grpc_with_the_reason_for_a_message() {
    let worker = StreamWorker::scripted(|number, _| match number {
        0 => vec![Deed::Head(503, Vec::new(), true)],
        1 => vec![Deed::Head(500, Vec::new(), true)],
        _ => vec![Deed::ReadBody, Deed::Stall],
    });
    let worker = worker.await;
    let slow = "[pools.models]\nanswer_timeout = \"300ms\"\n[limits.few]\nquota = 5\nwindow = \"1h\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n[routes.infer]\nlimits = [\"few\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(ONE_THREAD).policy(POLICY).policy(slow).start().await;
    let large = Bytes::from(vec![0; 80 << 10]);
    for (credential, body, status, slug, http) in [
        (None, None, "16", "credential-missing", 401),
        (Some("reader"), None, "7", "role-missing", 403),
        (Some("predictor"), None, "14", "worker-busy", 503),
        (Some("predictor"), None, "13", "worker-failed", 502),
        (Some("predictor"), None, "4", "worker-slow", 504),
        (Some("predictor"), Some(large), "3", "body-too-large", 413),
        (Some("predictor"), None, "13", "", 0),
        (Some("predictor"), None, "8", "limit-exceeded", 429),
    ] {
        if slug.is_empty() {
            // Uses the limit up; what comes of it was seen above.
            drop(call(&gateway, credential, true).await.0.await);
            continue;
        }
        let (answer, mut stream) = call(&gateway, credential, body.is_none()).await;
        if let Some(body) = body {
            stream.send_data(body, true).expect("it is sent");
        }
        let answer = answer.await;
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(answer.status().as_u16(), 200, "{slug}");
        assert_eq!(header("grpc-status").as_deref(), Some(status), "{slug}");
        let message = header("grpc-message").expect("a message");
        let (reason, detail) = message.split_once(": ").expect("two parts");
        assert!(reason == slug && detail.len() > 20, "{message}");
        assert_eq!(header("content-type").as_deref(), Some("application/grpc"), "{slug}");
        assert!(answer.body().is_end_stream(), "{slug}: trailers alone");
        let record = gateway.log().access(&header("x-request-id").expect("a name")).await;
        assert_eq!((&record["reason"], &record["status"]), (&slug.into(), &http.into()), "{record}");
    }
}

#[tokio::test]
async fn a_call_that_no_route_is_for_is_unimplemented() {
    let worker = StreamWorker::start().await;
    let gateway = before(&worker).await;
    for (path, media_type, status) in [
        ("/grpc.health.v1.Health/Check", "application/grpc", Some("12")),
        ("/grpc.health.v1.Health/Check", "application/grpc+proto", Some("12")),
        // A route is there, and takes no POST.
        ("/open", "application/grpc", Some("12")),
        ("/grpc.health.v1.Health/Check", "application/grpc-web", None),
        ("/grpc.health.v1.Health/Check", "application/json", None),
    ] {
        let mut send = connect(&gateway).await.ready().await.expect("room");
        let request = Request::post(format!("https://localhost{path}")).header("content-type", media_type);
        let (answer, _) = send.send_request(request.body(()).expect("a request"), true).expect("it is sent");
        let answer = answer.await.expect("an answer");
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text"));
        assert_eq!(header("grpc-status"), status, "{path} {media_type}");
        assert_eq!(answer.status().as_u16(), if status.is_some() { 200 } else { 404 });
        assert_eq!(answer.body().is_end_stream(), status.is_some(), "trailers alone");
    }
    // HTTP/1 is no gRPC.
    let request = gateway.client().post("/grpc.health.v1.Health/Check").header("content-type", "application/grpc");
    request.send().await.assert_problem(404, "not-found");
    assert!(worker.seen().is_empty());
}

#[tokio::test]
async fn over_http_1_there_is_no_grpc() {
    let worker = StreamWorker::start().await;
    let gateway = before(&worker).await;
    let request = gateway.client().post("/inference.GRPCInferenceService/ModelInfer").key("predictor");
    request.header("content-type", "application/grpc").send().await.assert_problem(505, "http2-needed");
    assert!(worker.seen().is_empty());
}

#[test]
fn what_grpc_needs_is_said_at_the_start() {
    let overlay = POLICY.replace("protocol = \"http2\"", "").replace("[\"POST\"]", "[\"POST\", \"GET\"]");
    let output = Gateway::builder().policy(overlay).output("check");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in ["routes.infer.grpc", "routes.infer.methods"] {
        assert!(text.lines().any(|line| line.ends_with(&format!("  {key}"))), "{key} is not in\n{text}");
    }
}
