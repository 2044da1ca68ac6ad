//! The port speaks TLS 1.2 and 1.3 with strong parameters, and says so to whoever speaks something else.

use harness::client::{exchange, handshake, tls_config};
use harness::{Gateway, PATIENCE, Recorder, Worker};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, NamedGroup};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"GET /open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_prediction_passes_through_over_both_versions_of_http() {
    let worker = Worker::start().await;
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        let answer = client.predict("predictor").send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["label"], "setosa", "{}", answer.text());
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for version in [&TLS12, &TLS13] {
        let shaken = handshake(gateway.address(), tls_config(&["http/1.1"], &[version])).await;
        let mut stream = shaken.expect("a version that is offered");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        assert!(exchange(&mut stream, REQUEST).await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn tls_1_3_is_preferred() {
    let gateway = Gateway::builder().start().await;
    let stream = handshake(gateway.address(), tls_config(&[], &[])).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.protocol_version(), Some(TLS13.version));
}

#[tokio::test]
async fn key_exchange_withstands_quantum_computers() {
    let gateway = Gateway::builder().start().await;
    let stream = handshake(gateway.address(), tls_config(&[], &[&TLS13])).await.expect("a handshake");
    let group = stream.get_ref().1.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn alpn_chooses_the_version_of_http() {
    let gateway = Gateway::builder().start().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&["spdy/3", "http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = handshake(gateway.address(), tls_config(offered, &[])).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
    }
}

#[tokio::test]
async fn who_offers_no_protocol_gets_http_1_1() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut stream = handshake(gateway.address(), tls_config(&[], &[])).await.expect("a handshake");
    assert!(exchange(&mut stream, REQUEST).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_offers_only_unknown_protocols_is_refused() {
    let gateway = Gateway::builder().start().await;
    let refused = handshake(gateway.address(), tls_config(&["spdy/3"], &[])).await.expect_err("no protocol in common");
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[tokio::test]
async fn plain_http_is_answered_with_what_to_do() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut stream = TcpStream::connect(gateway.address()).await.expect("the port is open");
    let answer = exchange(&mut stream, REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let body = answer.split_once("\r\n\r\n").expect("a head").1;
    assert_eq!(body, "This port speaks HTTPS. Use https:// instead of http://\n");
    assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())), "{answer}");
    worker.assert_untouched();
}

#[tokio::test]
async fn noise_is_not_answered() {
    let gateway = Gateway::builder().start().await;
    let mut stream = TcpStream::connect(gateway.address()).await.expect("the port is open");
    // A TLS record of a handshake that is none.
    let answer = exchange(&mut stream, b"\x16\x03\x01\x00\x04\xff\xff\xff\xff").await;
    assert!(!answer.contains("HTTP"), "{answer}");
    assert_eq!(gateway.client().get("/open").send().await.status, 503, "it serves on, without a worker");
}

#[tokio::test]
async fn the_certificate_is_the_configured_one() {
    let gateway = Gateway::builder().start().await;
    // `localhost` and the test's CA were checked in the handshake; another CA does not fit.
    let stranger = std::sync::Arc::new(rustls::RootCertStore::empty());
    let mut config = tls_config(&[], &[]);
    assert!(handshake(gateway.address(), config.clone()).await.is_ok());
    config = rustls::ClientConfig::builder_with_provider(std::sync::Arc::clone(config.crypto_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(stranger)
        .with_no_client_auth();
    assert!(handshake(gateway.address(), config).await.is_err());
}

#[tokio::test]
async fn a_worker_that_takes_no_connections_is_a_fault_of_ours() {
    let worker = Recorder::refusing();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().predict("predictor").send().await;
    answer.assert_problem(503, "worker-unreachable");
    assert_eq!(answer.header("retry-after"), "1");
}

/// A `ClientHello` that offers TLS 1.1 and nothing later: no library here would write it.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    // No session; two suites of that time; no compression.
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    let length = u8::try_from(body.len()).expect("short");
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[tokio::test]
async fn tls_1_1_is_refused() {
    let gateway = Gateway::builder().start().await;
    let mut stream = TcpStream::connect(gateway.address()).await.expect("the port is open");
    let mut answer = Vec::new();
    stream.write_all(&hello_of_tls_1_1()).await.expect("it can be sent");
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, reading).await.expect("the gateway closes").expect("it closes in order");
    // One alert (21), fatal (2).
    assert_eq!((answer.len(), answer[0], answer[5]), (7, 21, 2), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_and_sends_nothing_early() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for version in [&TLS12, &TLS13] {
        let mut config = tls_config(&["http/1.1"], &[version]);
        config.enable_early_data = true;
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = handshake(gateway.address(), config.clone()).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
            // What is sent early can be sent again by others (RFC 8446 §8).
            assert!(!stream.get_ref().1.is_early_data_accepted());
            assert!(exchange(&mut stream, REQUEST).await.starts_with("HTTP/1.1 200"));
        }
    }
}

#[tokio::test]
async fn who_connects_and_says_nothing_is_let_go() {
    let gateway = Gateway::builder().policy("[listener]\nhandshake_timeout = \"300ms\"\n").start().await;
    let mut silent = TcpStream::connect(gateway.address()).await.expect("the port is open");
    assert_eq!(exchange(&mut silent, b"").await, "");
    // Nor does half a handshake hold a connection.
    let mut half = TcpStream::connect(gateway.address()).await.expect("the port is open");
    assert_eq!(exchange(&mut half, &hello_of_tls_1_1()[..20]).await, "");
}
