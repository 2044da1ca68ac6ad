//! Workers that speak TLS: checked against the pool's own authority, with sessions that are used again.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use harness::ca::TestCa;
use harness::{Gateway, Upstream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::admin::number;

/// The certificate of an authority that vouches for nobody here.
fn stranger() -> String {
    let mut stranger = rcgen::CertificateParams::default();
    stranger.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    stranger.self_signed(&key).expect("a certificate").pem()
}

const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// One connection to the worker.
struct Shaken {
    kind: Option<HandshakeKind>,
    host: Option<String>,
    alpn: Option<Vec<u8>>,
}

/// A worker with a certificate for `localhost`, which closes after each answer.
struct TlsWorker {
    port: u16,
    shaken: Arc<Mutex<Vec<Shaken>>>,
}

impl TlsWorker {
    fn start() -> Self {
        Self::serving(serve)
    }

    fn serving(serve: fn(TcpStream, &Arc<ServerConfig>) -> Option<Shaken>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let port = listener.local_addr().expect("an address").port();
        let shaken = Arc::<Mutex<Vec<Shaken>>>::default();
        let config = config();
        std::thread::spawn({
            let shaken = Arc::clone(&shaken);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    // Who does not trust the certificate leaves in the middle.
                    if let Some(one) = serve(stream, &config) {
                        shaken.lock().expect("nobody panics with it").push(one);
                    }
                }
            }
        });
        Self { port, shaken }
    }
}

impl Upstream for TlsWorker {
    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
}

fn config() -> Arc<ServerConfig> {
    let ca = TestCa::shared();
    let certificate = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(ca.private_key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config =
        config.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they belong together");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn serve(stream: TcpStream, config: &Arc<ServerConfig>) -> Option<Shaken> {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).ok()?, stream);
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    // The body of a prediction ends with its object.
    while !request.ends_with(b"}") {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&piece[..count]);
    }
    stream.write_all(ANSWER.as_bytes()).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()?;
    let text = String::from_utf8_lossy(&request);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned);
    Some(Shaken { kind: stream.conn.handshake_kind(), host, alpn: stream.conn.alpn_protocol().map(<[u8]>::to_vec) })
}

/// Answers on one connection for as long as requests come.
fn serve_on(stream: TcpStream, config: &Arc<ServerConfig>) -> Option<Shaken> {
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).ok()?, stream);
    let (mut request, mut piece) = (Vec::new(), [0; 4096]);
    while let Some(count) = stream.read(&mut piece).ok().filter(|count| *count > 0) {
        request.extend_from_slice(&piece[..count]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            stream.write_all(ANSWER.replace("Connection: close\r\n", "").as_bytes()).ok()?;
        }
    }
    None
}

const POOL: &str = "[listener]\nthreads = 1\n[pools.models]\nca = \"workers-ca.pem\"\n";

#[tokio::test]
async fn a_worker_is_reached_over_tls_and_its_sessions_are_used_again() {
    let worker = TlsWorker::start();
    let authority = &TestCa::shared().authority;
    let gateway = Gateway::builder().worker(&worker).file("workers-ca.pem", authority).policy(POOL).start().await;
    for _ in 0..3 {
        let answer = gateway.client().predict("predictor").send().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    }
    let shaken = worker.shaken.lock().expect("nobody panics with it");
    let host = format!("localhost:{}", worker.port);
    assert!(shaken.iter().all(|one| one.host.as_deref() == Some(&*host) && one.alpn.as_deref() == Some(b"http/1.1")));
    let kinds: Vec<_> = shaken.iter().filter_map(|one| one.kind).collect();
    assert!(
        !matches!(kinds[0], HandshakeKind::Resumed) && kinds[1..].iter().all(|k| matches!(k, HandshakeKind::Resumed)),
        "{kinds:?}"
    );
}

#[tokio::test]
async fn a_kept_connection_serves_on_while_a_reload_trusts_the_same_authority_and_no_longer() {
    let worker = TlsWorker::serving(serve_on);
    let authority = &TestCa::shared().authority;
    let gateway = Gateway::builder().worker(&worker).file("workers-ca.pem", authority).policy(POOL).start().await;
    let connects = async || number(&gateway, "modelgate_upstream_connects_total").await.expect("it is counted");
    for _ in 0..2 {
        assert_eq!(gateway.client().get("/open").send().await.status, 200);
        assert_eq!(connects().await, "1");
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    }
    std::fs::write(gateway.directory().join("workers-ca.pem"), stranger()).expect("it can be written");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    gateway.client().get("/open").send().await.assert_problem(503, "worker-unreachable");
}

#[tokio::test]
async fn a_worker_that_the_authority_does_not_vouch_for_is_not_spoken_to() {
    let worker = TlsWorker::start();
    let gateway = Gateway::builder().worker(&worker).file("workers-ca.pem", stranger()).policy(POOL).start().await;
    let answer = gateway.client().predict("predictor").send().await;
    answer.assert_problem(503, "worker-unreachable");
    let record = gateway.log().access(&answer.request_id()).await;
    assert!(record["cause"].as_str().is_some_and(|cause| cause.contains("certificate")), "{record}");
    assert!(worker.shaken.lock().expect("nobody panics with it").is_empty(), "nothing was said to it");
}
