//! An OpenID provider that we did not write: found by its metadata, its keys followed, its opaque tokens introspected.
//! `tests/run` gets it from npm.

use std::net::SocketAddr;
use std::process::Command;

use harness::identity::part;
use harness::{Client, Gateway, GatewayBuilder, Process, Recorder, TestCa};
use serde_json::json;
use tempfile::TempDir;

use super::predict;

struct Provider {
    process: Process,
    issuer: String,
    client: Client,
    _files: TempDir,
}

impl Provider {
    /// `None` where it is not installed.
    async fn start() -> Option<Self> {
        let packages = std::env::var_os("OIDC_PROVIDER")?;
        let files = tempfile::tempdir().expect("a directory");
        let (ca, certificate, key) = (TestCa::shared(), files.path().join("tls.pem"), files.path().join("tls.key"));
        std::fs::write(&certificate, &ca.certificate).expect("it can be written");
        std::fs::write(&key, &ca.private_key).expect("it can be written");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/openid_provider.mjs");
        let process = Process::start(Command::new("node").arg(script).arg(packages).args([certificate, key]));
        let said = process.log().event("listening").await;
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let issuer = said["issuer"].as_str().expect("an issuer").to_owned();
        Some(Self { process, issuer, client: Client::http1(SocketAddr::from(([127, 0, 0, 1], port))), _files: files })
    }

    async fn token(&self, resource: &str, scope: &str) -> String {
        let form = format!("grant_type=client_credentials&resource={resource}&scope={scope}");
        // batch:batch-secret
        let request = self.client.post("/token").header("authorization", "Basic YmF0Y2g6YmF0Y2gtc2VjcmV0");
        let answer = request.form(&form).send().await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.process.log().errors());
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    fn gateway(&self, worker: &Recorder, more: &str) -> GatewayBuilder {
        let overlay = format!(
            "[issuers.idp]\nissuer = \"{}\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\ndiscovery = true\n\
             ca = \"ca.pem\"\nroles_claim = \"scope\"\nprincipal_claim = \"client_id\"\n{more}\n\
             [issuers.idp.roles_map]\n\"models:predict\" = \"predictor\"\n",
            self.issuer
        );
        let builder = Gateway::builder().worker(worker).policy(overlay).file("ca.pem", &TestCa::shared().authority);
        builder.variable("SSL_CERT_FILE", "/dev/null")
    }
}

#[tokio::test]
async fn a_real_providers_tokens_are_taken_and_its_new_keys_too() {
    let Some(provider) = Provider::start().await else { return };
    let worker = Recorder::start();
    let gateway = provider.gateway(&worker, "").start().await;
    gateway.log().event("issuer-keys").await;
    let first = provider.token("urn:jwt", "models:predict").await;
    let answer = predict(&gateway, &first).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), part(&first, 1));
    assert_eq!(worker.only().header("x-modelgate-principal").as_deref(), Some("idp:batch"));
    let weak = provider.token("urn:jwt", "models:admin").await;
    predict(&gateway, &weak).await.assert_problem(403, "role-missing");
    assert_eq!(provider.client.post("/rotate").send().await.status, 200);
    let second = provider.token("urn:jwt", "models:predict").await;
    assert_ne!(part(&first, 0)["kid"], part(&second, 0)["kid"]);
    assert_eq!(predict(&gateway, &second).await.status, 200, "the new key is fetched when it is needed");
    assert_eq!(predict(&gateway, &first).await.status, 200, "the old one is still published");
    let before = worker.seen().len();
    // Opaque tokens are for whoever introspects.
    let opaque = provider.token("urn:opaque", "models:predict").await;
    predict(&gateway, &opaque).await.assert_problem(401, "token-invalid");
    assert_eq!(worker.seen().len(), before);
}

#[tokio::test]
async fn a_real_providers_opaque_tokens_are_introspected_and_end_when_they_are_revoked() {
    let Some(provider) = Provider::start().await else { return };
    let worker = Recorder::start();
    let introspection = format!(
        "[issuers.idp.introspection]\nurl = \"{}/token/introspection\"\nclient_id = \"gateway\"\n\
         client_secret = {{ env = \"IDP_SECRET\" }}\ncache_for = \"1s\"\n",
        provider.issuer
    );
    let gateway = provider.gateway(&worker, &introspection).variable("IDP_SECRET", "gateway-secret").start().await;
    let opaque = provider.token("urn:opaque", "models:predict").await;
    assert!(!opaque.contains('.'), "{opaque}");
    let answer = predict(&gateway, &opaque).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), gateway.log().text());
    assert_eq!(worker.only().header("x-modelgate-principal").as_deref(), Some("idp:batch"));
    predict(&gateway, &provider.token("urn:opaque", "models:admin").await).await.assert_problem(403, "role-missing");
    predict(&gateway, "made-up").await.assert_problem(401, "token-invalid");
    let revoked = provider.client.post("/token/revocation").header("authorization", "Basic YmF0Y2g6YmF0Y2gtc2VjcmV0");
    assert_eq!(revoked.form(&format!("token={opaque}")).send().await.status, 200);
    let refused = harness::eventually("it is refused", async || {
        let answer = predict(&gateway, &opaque).await;
        (answer.status != 200).then_some(answer)
    });
    refused.await.assert_problem(401, "token-invalid");
    // Its JWTs are read beside them.
    gateway.log().event("issuer-keys").await;
    let jwt = provider.token("urn:jwt", "models:predict").await;
    assert_eq!(predict(&gateway, &jwt).await.status, 200, "{}", json!(part(&jwt, 1)));
}
