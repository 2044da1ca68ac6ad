//! Four libraries that we did not write make tokens that are read alike here, and read ours. `tests/run` gets them from
//! PyPI.

use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::identity::{SECRET, part};
use harness::{Gateway, Recorder};
use serde_json::{Value, json};

use super::predict;
use crate::oauth::credentials;
use crate::oauth::library::{ALGORITHMS, signing};

/// What the script prints. `None` where the libraries are not installed.
fn script(job: &str, input: &str) -> Option<String> {
    let packages = std::env::var_os("AUTHLIB")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/jose_libraries.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(job).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().expect("Python runs");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{job}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn tokens_of_four_libraries_are_read_alike() {
    let Some(made) = script("mint", "") else { return };
    let made: Vec<Value> = serde_json::from_str(&made).expect("JSON");
    let worker = Recorder::start();
    let mut builder = Gateway::builder().worker(&worker);
    for made in &made {
        let (alg, issuer) = (made["alg"].as_str().expect("a name"), made["issuer"].as_str().expect("a name"));
        let name = alg.to_lowercase();
        let keys = if let Some(secret) = made["secret"].as_str() {
            builder = builder.variable("SHARED", secret);
            "secret = { env = \"SHARED\" }".to_owned()
        } else {
            builder = builder.file(&format!("{name}.json"), json!({ "keys": made["keys"] }).to_string());
            format!("jwks = \"{name}.json\"")
        };
        builder = builder.policy(format!(
            "[issuers.{name}]\nissuer = \"{issuer}\"\naudience = \"modelgate\"\nalgorithms = [\"{alg}\"]\n{keys}\n"
        ));
    }
    let gateway = builder.start().await;
    let mut count = 0;
    for made in &made {
        let name = made["alg"].as_str().expect("a name").to_lowercase();
        for (library, token) in made["tokens"].as_object().expect("tokens by library") {
            let token = token.as_str().expect("a token");
            let answer = predict(&gateway, token).await;
            assert_eq!(answer.status, 200, "{name} {library}: {}\n{}", answer.text(), part(token, 0));
            let seen = worker.seen();
            let principal = seen[count].header("x-modelgate-principal");
            assert_eq!(principal, Some(format!("{name}:{library}")));
            count += 1;
            // One octet of the claims changed.
            let broken = token.replacen("eyJ", "eyK", 2).replacen("eyK", "eyJ", 1);
            assert_eq!(predict(&gateway, &broken).await.status, 401, "{name} {library}");
        }
    }
    assert_eq!((count, worker.seen().len()), (24, 24));
}

#[tokio::test]
async fn four_libraries_read_our_tokens() {
    if std::env::var_os("AUTHLIB").is_none() {
        return;
    }
    let worker = Recorder::start();
    let mut ours = Vec::new();
    for algorithm in ALGORITHMS {
        let gateway = signing(algorithm, &worker).await;
        let token = credentials(&gateway.client(), "ci").await;
        let keys = gateway.client().get("/.well-known/jwks.json").send().await.json();
        ours.push(json!({ "alg": algorithm, "token": token, "keys": keys["keys"] }));
    }
    let gateway = Gateway::before(&worker).await;
    let token = gateway.client().log_in("alice", harness::identity::ALICE).await;
    ours.push(json!({ "alg": "HS256", "token": token, "secret": SECRET }));
    let said = script("verify", &Value::from(ours).to_string()).unwrap_or_default();
    assert_eq!(said.lines().count(), 24, "{said}");
}
