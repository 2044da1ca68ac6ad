//! Workers that speak HTTP/2: few connections for many requests, and the same checks as over HTTP/1.

use std::sync::Arc;

use h2::Reason;
use harness::ca::TestCa;
use harness::{Answer, Deed, Gateway, StreamWorker};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ONE_THREAD;

async fn before(workers: &[&StreamWorker], pool: &str) -> Gateway {
    let builder = workers.iter().fold(Gateway::builder(), |builder, worker| builder.worker(*worker));
    builder.policy(ONE_THREAD).policy(format!("[pools.models]\nprotocol = \"http2\"\n{pool}")).start().await
}

/// So many requests at once, and their answers.
async fn at_once(gateway: &Gateway, count: usize) -> JoinSet<Answer> {
    let connection = gateway.http2().connect().await;
    let mut asked = JoinSet::new();
    for _ in 0..count {
        let (mut connection, request) = (connection.beside(), gateway.http2().get("/open"));
        asked.spawn(async move { connection.send(request).await });
    }
    asked
}

async fn upload(gateway: &Gateway, body: &[u8]) -> Answer {
    let request = gateway.client().post("/upload").key("predictor").header("content-type", "application/octet-stream");
    request.body(body.to_vec()).send().await
}

#[tokio::test]
async fn many_requests_share_one_connection_and_say_what_they_would_over_http_1() {
    let turn = Arc::new(Semaphore::new(0));
    let worker = StreamWorker::scripted({
        let turn = Arc::clone(&turn);
        move |_, _| [vec![Deed::Wait(Arc::clone(&turn))], StreamWorker::json()].concat()
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "").await;
    let mut asked = at_once(&gateway, 20).await;
    worker.wait_until(|seen| seen.len() == 20).await;
    turn.add_permits(20);
    while let Some(answer) = asked.join_next().await {
        let answer = answer.expect("no panic");
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    }
    assert_eq!(worker.connections(), 1);
    let seen = worker.seen();
    let head = &seen[0].head;
    assert_eq!(head.uri, format!("http://{}/models", worker.address()).as_str());
    let header = |name: &str| head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
    assert_eq!(header("x-modelgate-principal").as_deref(), Some("anonymous"));
    assert_eq!(header("via").as_deref(), Some("2 modelgate"));
    assert_eq!([header("te"), header("connection"), header("host"), header("content-length")], [const { None }; 4]);
    assert_eq!(head.headers.keys_len(), head.headers.len(), "each is said once");
}

#[tokio::test]
async fn bodies_pass_whole_both_ways() {
    let worker = StreamWorker::scripted(|_, _| {
        let data = bytes::Bytes::from(vec![b'y'; 3 << 20]);
        vec![Deed::ReadBody, Deed::Head(200, vec![("x-a", "1".into())], false), Deed::Data(data), Deed::End]
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "").await;
    let sent: Vec<u8> = (0..900_000_u32).map(|number| u8::try_from(number % 251).expect("small")).collect();
    let answer = upload(&gateway, &sent).await;
    assert_eq!((answer.status, answer.body.len(), answer.header("x-a")), (200, 3 << 20, "1".into()));
    let seen = worker.seen();
    assert!(seen[0].whole && seen[0].body == sent);
    assert_eq!(seen[0].head.headers["content-length"], "900000");
    let predicted = gateway.client().predict("predictor").send().await;
    assert_eq!(predicted.status, 200);
    assert_eq!(worker.seen()[1].body, harness::client::flower().to_string().as_bytes());
}

fn tls(alpn: &str, client_ca: bool) -> ServerConfig {
    let ca = TestCa::shared();
    let certificate = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(ca.private_key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&ca.roots), provider).build().expect("roots");
    let builder = if client_ca { builder.with_client_cert_verifier(verifier) } else { builder.with_no_client_auth() };
    let mut config = builder.with_single_cert(vec![certificate], key).expect("they belong together");
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

#[tokio::test]
async fn over_tls_http_2_is_agreed_on_and_the_worker_is_shown_our_certificate() {
    let ca = TestCa::shared();
    let ours = ca.issue(&["gateway"], |_| {});
    let worker = StreamWorker::with(Some(tls("h2", true)), 100, |_, _| StreamWorker::json()).await;
    let pool = "[pools.models]\nprotocol = \"http2\"\nca = \"ca.pem\"\n";
    let builder = || {
        Gateway::builder()
            .worker(&worker)
            .file("ca.pem", &ca.authority)
            .file("ours.pem", &ours.certificate)
            .file("ours.key", &ours.private_key)
            .policy(ONE_THREAD)
            .policy(pool)
    };
    let shown = "[pools.models]\ncertificate = \"ours.pem\"\nprivate_key = { file = \"ours.key\" }\n";
    let gateway = builder().policy(shown).start().await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    let uri = worker.seen()[0].head.uri.to_string();
    assert!(uri.starts_with("https://localhost:"), "{uri}");
    // Without a certificate of ours the worker wants nothing to do with us.
    let gateway = builder().start().await;
    let answer = gateway.client().get("/open").send().await;
    assert!([502, 503].contains(&answer.status), "{}", answer.text());
    assert_eq!(worker.seen().len(), 1);
    // A key of another certificate is found out at the start.
    let output = builder().policy(shown).file("ours.key", ca.issue(&["x"], |_| {}).private_key).output("check");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("pools.models.certificate"), "{text}");
}

#[tokio::test]
async fn a_worker_that_does_not_speak_http_2_is_not_asked() {
    let worker = StreamWorker::with(Some(tls("http/1.1", false)), 100, |_, _| StreamWorker::json()).await;
    let pool = "[pools.models]\nprotocol = \"http2\"\nca = \"ca.pem\"\n";
    let gateway = Gateway::builder().worker(&worker).file("ca.pem", &TestCa::shared().authority).policy(pool);
    let gateway = gateway.start().await;
    gateway.client().get("/open").send().await.assert_problem(503, "worker-unreachable");
    assert!(worker.seen().is_empty());
}

#[tokio::test]
async fn the_workers_bound_on_streams_is_obeyed() {
    let turn = Arc::new(Semaphore::new(0));
    let worker = StreamWorker::with(None, 3, {
        let turn = Arc::clone(&turn);
        move |number, _| {
            // The first is answered at once, so that the bound is known when the others come.
            let wait = vec![Deed::Wait(Arc::clone(&turn))];
            [if number == 0 { Vec::new() } else { wait }, StreamWorker::json()].concat()
        }
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "").await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    let mut asked = at_once(&gateway, 10).await;
    worker.wait_until(|seen| seen.len() == 11).await;
    turn.add_permits(10);
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert!(worker.most_streams() <= 3, "{}", worker.most_streams());
    assert_eq!(worker.connections(), 4, "as few as will do");
}

#[tokio::test]
async fn a_connection_that_says_goodbye_is_left_and_nothing_fails() {
    let worker = StreamWorker::scripted(|number, _| {
        let goodbye = if number % 5 == 4 { vec![Deed::Goodbye] } else { Vec::new() };
        [goodbye, StreamWorker::json()].concat()
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "").await;
    assert_eq!(super::ask(&gateway, 50).await, [200; 50]);
    assert_eq!(worker.seen().len(), 50, "each was served once");
    assert!(worker.connections() > 1, "{}", worker.connections());
    let mut asked = at_once(&gateway, 60).await;
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert_eq!(worker.seen().len(), 110);
}

#[tokio::test]
async fn what_a_worker_refuses_to_begin_goes_to_another_one_and_whole() {
    let refusing = StreamWorker::scripted(|_, _| vec![Deed::Reset(Reason::REFUSED_STREAM)]).await;
    let serving = StreamWorker::start().await;
    let health = "max_retry_share = 100\n[pools.models.health]\nactive = false\npassive = false\n";
    let gateway = before(&[&refusing, &serving], health).await;
    let mut asked = 0;
    while refusing.seen().len() < 3 {
        let answer = gateway.client().predict("predictor").send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        asked += 1;
    }
    let served = serving.seen();
    assert_eq!(served.len(), asked, "each was served once");
    assert!(served.iter().all(|stream| stream.body == harness::client::flower().to_string().as_bytes()));
    // What was reset for another reason may have been processed.
    let failing = StreamWorker::scripted(|_, _| vec![Deed::ReadBody, Deed::Reset(Reason::INTERNAL_ERROR)]).await;
    let gateway = before(&[&failing, &serving], health).await;
    let (mut asked, served) = (0, serving.seen().len());
    while failing.seen().len() < 3 {
        let answer = gateway.client().predict("predictor").send().await;
        assert!([200, 502].contains(&answer.status), "{}", answer.text());
        asked += 1;
    }
    assert_eq!(serving.seen().len() - served + failing.seen().len(), asked);
}

#[tokio::test]
async fn answers_that_lie_are_502() {
    let head = |status, fields: &[(&'static str, &str)], end| {
        Deed::Head(status, fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(), end)
    };
    let answers = vec![
        vec![head(999, &[], true)],
        vec![head(200, &[("content-length", "5")], false), Deed::Data("hi".into()), Deed::End],
        vec![head(200, &[("content-length", "1")], false), Deed::Data("hi".into()), Deed::End],
        vec![head(200, &[("content-length", "2"), ("content-length", "2")], false), Deed::Data("hi".into()), Deed::End],
        vec![head(200, &[("content-length", "+2")], false), Deed::Data("hi".into()), Deed::End],
        vec![Deed::Head(200, vec![("x-a", "1".to_owned()); 101], true)],
        vec![head(200, &[("x-long", &"x".repeat(40 << 10))], true)],
        vec![
            head(200, &[("content-length", "5")], false),
            Deed::Data("hi".into()),
            Deed::Reset(Reason::INTERNAL_ERROR),
        ],
        vec![head(500, &[], false), Deed::Data("hunter2".into()), Deed::End],
        vec![head(200, &[("content-length", "99999999")], false)],
    ];
    let count = answers.len();
    let worker = StreamWorker::scripted(move |number, _| answers[number].clone()).await;
    let gateway = before(&[&worker], "[pools.models.health]\npassive = false\nactive = false\n").await;
    for number in 0..count {
        let answer = gateway.client().get("/open").send().await;
        assert_eq!(answer.status, 502, "{number}: {}", answer.text());
        assert!(!answer.text().contains("hunter2"));
        assert_eq!(worker.seen().len(), number + 1, "it was asked once");
    }
}

#[tokio::test]
async fn what_is_between_the_worker_and_us_and_trailers_stay_there() {
    let fields = [("server", "secret/1"), ("access-control-allow-origin", "*"), ("x-kept", "1")];
    let worker = StreamWorker::scripted(move |_, _| {
        let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        vec![Deed::Head(200, fields, false), Deed::Data("hi".into()), Deed::Trailers(vec![("x-trailer", "1")])]
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "").await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.get("/open").send().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
        let shown = format!("{:?}", answer.headers);
        assert!(shown.contains("x-kept") && !shown.contains("secret") && !shown.contains("allow-origin"), "{shown}");
        assert!(!shown.contains("x-trailer"), "{shown}");
    }
}

#[tokio::test]
async fn slow_workers_and_busy_ones_are_told_apart_and_left() {
    let worker = StreamWorker::scripted(|number, _| match number {
        0 => vec![Deed::ReadBody, Deed::Stall],
        1 => vec![Deed::Head(200, Vec::new(), false), Deed::Data("hi".into()), Deed::Stall],
        2 => vec![Deed::Head(503, vec![("retry-after", "7".into())], true)],
        _ => StreamWorker::json(),
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "answer_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n").await;
    let answer = gateway.client().get("/open").send().await;
    answer.assert_problem(504, "worker-slow");
    let broken = gateway.http2().get("/open").try_send().await.expect_err("the stream is reset");
    assert!(broken.to_lowercase().contains("reset"), "{broken}");
    let busy = gateway.client().get("/open").send().await;
    busy.assert_problem(503, "worker-busy");
    assert_eq!(busy.header("retry-after"), "7");
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    assert_eq!(worker.connections(), 3, "nothing new went where something stalled");
}

#[tokio::test]
async fn probes_speak_http_2_too() {
    let worker = StreamWorker::scripted(|_, stream| {
        let ready = stream.head.uri.path() == "/healthz";
        vec![Deed::Head(if ready { 200 } else { 404 }, Vec::new(), true)]
    });
    let worker = worker.await;
    let gateway = before(&[&worker], "[pools.models.health]\npath = \"/healthz\"\n").await;
    harness::eventually("it is ready", async || {
        (harness::wire::plain(gateway.admin(), "GET", "/readyz").await.status == 200).then_some(())
    })
    .await;
    // Nothing else is answered well.
    assert!(worker.seen().iter().any(|seen| seen.head.uri.path() == "/healthz"));
}
