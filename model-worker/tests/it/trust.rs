//! Where reaching the port is not enough: the gateway's signature, and its certificate.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

use super::support::{World, failure, run, text};

const ROW: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;

const ISSUER: &str = "assertion_issuer = \"https://gateway.internal\"\n";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({"iss": "https://gateway.internal", "aud": "model-worker", "sub": "alice", "roles": ["reader"],
           "iat": now(), "exp": now() + 30})
}

#[test]
fn only_what_the_gateway_vouches_for_is_answered() {
    for (kind, algorithm) in [(&PKCS_ECDSA_P256_SHA256, Algorithm::ES256), (&PKCS_ED25519, Algorithm::EdDSA)] {
        let world = World::new();
        let public = world.root.path().join("gateway.pub.pem");
        let pair = KeyPair::generate_for(kind).expect("a key");
        std::fs::write(&public, pair.public_key_pem()).expect("written");
        let worker = world.serve(&format!("{ISSUER}assertion_key = {:?}", text(&public)));
        let key = |pair: &KeyPair| match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()),
            _ => EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()),
        };
        let sign = |claims: &Value, pair: &KeyPair| {
            encode(&Header::new(algorithm), claims, &key(pair).expect("a key")).expect("signed")
        };
        let send =
            |assertion: &str| worker.send("POST", "/predict", &format!("X-Modelgate-Assertion: {assertion}\r\n"), ROW);
        let good = sign(&claims(), &pair);
        assert_eq!(send(&good).status, 200);
        assert_eq!(send(&good).status, 200, "the gateway sends it until half its life is over");
        let with = |member: &str, value: Value| {
            let mut claims = claims();
            claims[member] = value;
            sign(&claims, &pair)
        };
        let stranger = KeyPair::generate_for(kind).expect("a key");
        let mut altered = good.clone();
        altered.replace_range(altered.len() - 5..altered.len() - 4, if good.ends_with('A') { "B" } else { "A" });
        for (name, assertion) in [
            ("another audience", with("aud", json!("other"))),
            ("another issuer", with("iss", json!("other"))),
            ("expired", with("exp", json!(now() - 10))),
            ("too long a life", with("exp", json!(now() + 120))),
            ("from the future", with("iat", json!(now() + 20))),
            ("nobody", with("sub", json!(""))),
            ("no principal", with("sub", Value::Null)),
            ("a stranger's", sign(&claims(), &stranger)),
            ("altered", altered),
            ("unsigned", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.".to_owned()),
            ("twice", format!("{good}\r\nX-Modelgate-Assertion: {good}")),
            ("empty", String::new()),
        ] {
            let reply = send(&assertion);
            assert_eq!((reply.status, reply.problem().as_str()), (401, "not-vouched"), "{name}");
        }
        for path in ["/models", "/v2", "/v2/models/iris"] {
            assert_eq!(worker.get(path).status, 401, "{path}");
        }
        for path in ["/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"] {
            assert_eq!(worker.get(path).status, 200, "{path}");
        }
        assert!(worker.get("/metrics").body.contains("model_worker_rows_total{model=\"iris\",version=\"1\"} 2"));
    }
}

#[test]
fn a_key_that_is_none_is_refused_at_the_start() {
    let world = World::new();
    let config = world.root.path().join("settings.toml");
    let key = world.root.path().join("key.pem");
    std::fs::write(&config, format!("{ISSUER}assertion_key = {:?}", text(&key))).expect("written");
    let serve =
        || run(&["serve", "--models", text(world.root.path()), "--listen", "127.0.0.1:0", "--config", text(&config)]);
    assert_eq!(failure(&serve()).0, Some(66));
    std::fs::write(&key, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").expect("written");
    let (exit, stderr) = failure(&serve());
    assert!(exit == Some(65) && stderr.contains("P-256 or Ed25519"), "{stderr}");
}

/// An authority and one certificate that it signed: paths of authority, chain and key.
fn certificate(directory: &Path, name: &str) -> [String; 3] {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("authority of the {name}"));
    let authority = params.self_signed(&key).expect("signed");
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    let leaf = params.signed_by(&own, &issuer).expect("signed");
    let put = |kind: &str, content: String| {
        let path = directory.join(format!("{name}.{kind}.pem"));
        std::fs::write(&path, content).expect("written");
        text(&path).to_owned()
    };
    [put("ca", authority.pem()), put("cert", leaf.pem()), put("key", own.serialize_pem())]
}

/// What `openssl s_client` gets for one request.
fn ask(address: &str, ca: &str, own: Option<[&str; 2]>) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-no_ign_eof", "-verify_return_error", "-connect", address, "-CAfile", ca]);
    if let Some([certificate, key]) = own {
        command.args(["-cert", certificate, "-key", key]);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl runs");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = write!(stdin, "GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut answer).expect("an answer");
    drop(stdin);
    child.wait().expect("it ends");
    answer
}

#[test]
fn only_the_gateways_certificate_is_let_in() {
    let world = World::new();
    let certificates = tempfile::tempdir().expect("a directory");
    let [worker_ca, chain, key] = certificate(certificates.path(), "worker");
    let [gateway_ca, gateway_chain, gateway_key] = certificate(certificates.path(), "gateway");
    let [_, stranger_chain, stranger_key] = certificate(certificates.path(), "stranger");
    let worker =
        world.serve(&format!("tls_certificate = {chain:?}\ntls_key = {key:?}\ntls_client_ca = {gateway_ca:?}"));
    let answer = ask(worker.address(), &worker_ca, Some([&gateway_chain, &gateway_key]));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("iris"), "{answer}");
    assert_eq!(ask(worker.address(), &worker_ca, Some([&stranger_chain, &stranger_key])), "");
    assert_eq!(ask(worker.address(), &worker_ca, None), "");
    let mut plain = worker.connect();
    let _ = write!(plain, "GET /models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}
