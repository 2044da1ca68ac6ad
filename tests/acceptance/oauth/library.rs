//! An independent client library (Authlib) completes every grant. `tests/run` gets it from PyPI.

use std::process::Command;

use harness::identity::{ALICE, client_secret};
use harness::{Gateway, Recorder, Signer, TestCa};
use rcgen::KeyPair;
use serde_json::json;

use super::{builder, credentials, status};

/// A gateway that signs with a new key of this algorithm.
pub(crate) async fn signing(algorithm: &str, worker: &Recorder) -> Gateway {
    let key = match algorithm {
        "ES384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map(|key| key.serialize_pem()),
        "EdDSA" => KeyPair::generate_for(&rcgen::PKCS_ED25519).map(|key| key.serialize_pem()),
        "ES256" => Ok(Signer::es256().private()),
        _ => Ok(Signer::rs256().private()),
    };
    let issued = TestCa::shared().issue_named();
    let overlay = format!(
        "[token]\nalgorithm = \"{algorithm}\"\nsigning_key = {{ file = \"own.key\" }}\n\
         [listener]\ncertificate = \"own.pem\"\nprivate_key = {{ file = \"tls.key\" }}\n"
    );
    builder()
        .file("own.pem", &issued.certificate)
        .file("tls.key", &issued.private_key)
        .worker(worker)
        .policy(overlay)
        .file("own.key", key.expect("a key can be made"))
        .start()
        .await
}

pub(crate) const ALGORITHMS: [&str; 5] = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];

#[tokio::test]
async fn every_algorithm_signs_tokens_that_work() {
    let worker = Recorder::start();
    for algorithm in ALGORITHMS {
        let gateway = signing(algorithm, &worker).await;
        let token = credentials(&gateway.client(), "ci").await;
        assert_eq!(harness::identity::part(&token, 0)["alg"], algorithm);
        assert_eq!(status(&gateway.client(), &token).await, 200, "{algorithm}");
    }
}

#[tokio::test]
async fn authlib_completes_every_grant_with_every_algorithm() {
    let Some(packages) = std::env::var_os("AUTHLIB") else { return };
    let worker = Recorder::start();
    let secrets = json!({ "ci": client_secret("ci"), "app": client_secret("app") }).to_string();
    for algorithm in ALGORITHMS {
        let gateway = signing(algorithm, &worker).await;
        let ca = gateway.directory().join("ca.pem");
        std::fs::write(&ca, &TestCa::shared().authority).expect("a temporary directory can be written to");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/authlib_client.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(gateway.address().to_string()).arg(&ca).args([algorithm, &secrets, ALICE]);
        python.env("PYTHONPATH", &packages).env("PYTHONDONTWRITEBYTECODE", "1");
        let output = tokio::task::spawn_blocking(move || python.output()).await;
        let output = output.expect("it ends").expect("Python runs");
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{algorithm}:\n{said}\n{wrong}");
        assert_eq!(said.lines().count(), 14, "{algorithm}: {said}");
    }
}
