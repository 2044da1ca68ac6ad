//! Client certificates as credentials: who they stand for, with what else, and for how long.

use std::time::Duration;

use harness::client::exchange;
use harness::{Gateway, GatewayBuilder, Issued, Recorder, TestCa};
use rcgen::{CertificateParams, DnType, SanType};
use rustls::HandshakeKind;
use serde_json::json;
use time::OffsetDateTime;

/// Routes that take certificates, alone and with others.
const POLICY: &str = r#"
[reload]
watch = false
[listener]
client_certificates = "optional"
client_ca = "clients.pem"
[certificates.ci]
san_dns = "ci.example.com"
roles = ["predictor"]
scopes = ["predict"]
[certificates.batch]
san_uri = "spiffe://example.com/batch"
[certificates.ops]
subject = "CN=ops\\, night,O=Example"
[certificates.mail]
san_email = "mail@example.com"
[certificates.alice]
san_dns = "alice.example.com"
principal = "user:alice"
roles = ["reader"]
[rights.secured]
roles = "authenticated"
mtls = true
[routes.machines]
path = "/machines"
methods = ["GET"]
pool = "models"
authenticate = ["mtls"]
authorize = "authenticated"
[routes.scoped]
path = "/scoped"
methods = ["GET"]
pool = "models"
authenticate = ["mtls"]
authorize = ["predictor"]
scopes = ["predict"]
[routes.either]
path = "/either"
methods = ["GET"]
pool = "models"
authenticate = ["mtls", "api_key", "jwt"]
authorize = "authenticated"
[routes.both]
path = "/both"
methods = ["GET"]
pool = "models"
authenticate = { all_of = ["mtls", "jwt"] }
authorize = "authenticated"
[routes.secured]
path = "/secured"
methods = ["GET"]
pool = "models"
rights = ["secured"]
"#;

fn ca() -> &'static TestCa {
    TestCa::shared()
}

fn gateway(worker: &Recorder) -> GatewayBuilder {
    Gateway::builder().worker(worker).policy(POLICY).file("clients.pem", &ca().authority)
}

fn named(name: SanType) -> Issued {
    ca().issue(&[], |params| params.subject_alt_names = vec![name])
}

fn text(name: &str) -> rcgen::string::Ia5String {
    name.to_owned().try_into().expect("a name")
}

#[tokio::test]
async fn a_certificate_stands_for_its_entry_by_every_kind_of_name() {
    let worker = Recorder::start();
    let ops = |params: &mut CertificateParams| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, "ops, night");
    };
    let printed = ca().issue(&["printed.example.com"], |_| {});
    let digest = gateway::types::Sha256::of(&printed.der());
    let gateway =
        gateway(&worker).policy(format!("[certificates.printed]\nfingerprint = \"{digest}\"\n")).start().await;
    for (issued, principal) in [
        (ca().issue(&["CI.example.com"], |_| {}), "cert:ci"),
        (named(SanType::URI(text("spiffe://example.com/batch"))), "cert:batch"),
        (named(SanType::Rfc822Name(text("mail@example.com"))), "cert:mail"),
        (ca().issue(&[], ops), "cert:ops"),
        (printed, "cert:printed"),
        (ca().issue(&["alice.example.com"], |_| {}), "user:alice"),
    ] {
        for client in [gateway.client(), gateway.http2()] {
            let before = worker.seen().len();
            let answer = client.presenting(&issued).get("/machines").send().await;
            assert_eq!(answer.status, 200, "{principal}: {}", answer.text());
            let seen = &worker.seen()[before];
            assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some(principal));
            assert_eq!(seen.header("x-modelgate-scheme").as_deref(), Some("mtls"));
        }
    }
    let ci = gateway.client().presenting(&ca().issue(&["ci.example.com"], |_| {}));
    assert_eq!(ci.get("/scoped").send().await.status, 200, "it has the role and the scope");
    let ops = gateway.client().presenting(&ca().issue(&["alice.example.com"], |_| {}));
    ops.get("/scoped").send().await.assert_problem(403, "role-missing");
}

#[tokio::test]
async fn who_shows_no_certificate_or_one_that_stands_for_nobody_is_refused() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    let answer = gateway.client().get("/machines").send().await;
    answer.assert_problem(401, "credential-missing");
    assert_eq!(answer.header("www-authenticate"), "Certificate realm=\"modelgate\"");
    // No header is a certificate.
    for header in ["x-forwarded-client-cert", "x-client-cert", "client-cert", "ssl-client-cert"] {
        let pem = ca().issue(&["ci.example.com"], |_| {}).certificate.replace('\n', " ");
        let spoofed = gateway.client().get("/machines").header(header, &pem);
        spoofed.send().await.assert_problem(401, "credential-missing");
    }
    for (what, issued) in [
        ("another name", ca().issue(&["ci.example.com.evil.net"], |_| {})),
        ("a name below", ca().issue(&["a.ci.example.com"], |_| {})),
        ("a wildcard", ca().issue(&["*.example.com"], |_| {})),
        ("a name of another kind", named(SanType::URI(text("ci.example.com")))),
        (
            "a common name",
            ca().issue(&[], |params| params.distinguished_name.push(DnType::CommonName, "ci.example.com")),
        ),
        (
            "a part of a subject",
            ca().issue(&[], |params| params.distinguished_name.push(DnType::CommonName, "ops, night")),
        ),
        (
            "sixty-five names",
            ca().issue(&["ci.example.com"], |params| {
                let more = (0..64).map(|number| SanType::DnsName(text(&format!("n{number}.example.com"))));
                params.subject_alt_names.extend(more);
            }),
        ),
    ] {
        let answer = gateway.client().presenting(&issued).get("/machines").send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "certificate-unknown"), "{what}");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_certificate_that_could_stand_for_two_stands_for_none() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    let both = ca().issue(&["ci.example.com", "alice.example.com"], |_| {});
    let answer = gateway.client().presenting(&both).get("/machines").send().await;
    answer.assert_problem(401, "certificate-unknown");
    let record = gateway.log().access(&answer.request_id()).await;
    let cause = record["cause"].as_str().unwrap_or_default();
    assert!(cause.contains("certificates.ci") && cause.contains("certificates.alice"), "{record}");
    worker.assert_untouched();
}

#[tokio::test]
async fn beside_another_credential_both_are_judged_and_name_one_principal() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    let client = |host: &str| gateway.client().presenting(&ca().issue(&[host], |_| {}));
    let (alice, ci, stranger) = (client("alice.example.com"), client("ci.example.com"), client("other.example.com"));
    let token = gateway.signer().token(&json!({}));
    for path in ["/either", "/both"] {
        ci.get(path).bearer(&token).send().await.assert_problem(400, "credentials-disagree");
        alice.get(path).bearer("x.y.z").send().await.assert_problem(401, "token-invalid");
        // One that is there and bad never falls through to the other.
        stranger.get(path).bearer(&token).send().await.assert_problem(401, "certificate-unknown");
    }
    ci.get("/either").key("reader").send().await.assert_problem(400, "credentials-disagree");
    ci.get("/either").key("reader").bearer(&token).send().await.assert_problem(400, "credentials-several");
    alice.get("/both").send().await.assert_problem(401, "credential-missing");
    gateway.client().get("/both").bearer(&token).send().await.assert_problem(401, "credential-missing");
    worker.assert_untouched();
    for (path, request) in [
        ("/either", alice.get("/either").bearer(&token)),
        ("/both", alice.get("/both").bearer(&token)),
        ("/either", ci.get("/either")),
        ("/either", gateway.client().get("/either").bearer(&token)),
        ("/either", gateway.client().get("/either").key("reader")),
        // A route that takes no certificates does not look at one.
        ("/known", stranger.get("/known").bearer(&token)),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    }
    assert_eq!(worker.seen()[0].header("x-modelgate-principal").as_deref(), Some("user:alice"));
    assert_eq!(worker.seen()[0].header("x-modelgate-scheme").as_deref(), Some("mtls"), "the first says what it may do");
}

#[tokio::test]
async fn a_right_can_ask_for_a_connection_with_a_certificate() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    gateway.client().get("/secured").key("reader").send().await.assert_problem(403, "condition-unmet");
    worker.assert_untouched();
    // Any that was verified, also one that stands for nobody.
    let client = gateway.client().presenting(&ca().issue(&["other.example.com"], |_| {}));
    assert_eq!(client.get("/secured").key("reader").send().await.status, 200);
}

#[tokio::test]
async fn an_entry_that_is_removed_refuses_on_connections_that_are_open() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).policy("[certificates.late]\nsan_dns = \"late.example.com\"\n").start().await;
    let issued = ca().issue(&["late.example.com"], |_| {});
    for client in [gateway.client().presenting(&issued), gateway.http2().presenting(&issued)] {
        let path = gateway.directory().join("3.toml");
        std::fs::write(&path, "[certificates.late]\nsan_dns = \"late.example.com\"\n").expect("it is there");
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
        let mut connection = client.connect().await;
        assert_eq!(connection.send(client.get("/machines")).await.status, 200);
        let before = worker.seen().len();
        std::fs::write(&path, "").expect("it is there");
        assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
        connection.send(client.get("/machines")).await.assert_problem(401, "certificate-unknown");
        assert_eq!(worker.seen().len(), before);
    }
}

#[tokio::test]
async fn a_resumed_connection_has_the_certificate_that_it_began_with() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    let client = gateway.client().presenting(&ca().issue(&["ci.example.com"], |_| {}));
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut stream = client.tls().await;
        let asked = b"GET /machines HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = exchange(&mut stream, asked).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
    }
    assert_eq!(worker.seen()[1].header("x-modelgate-principal").as_deref(), Some("cert:ci"));
}

#[tokio::test]
async fn a_certificate_that_ends_refuses_on_its_connection_and_by_its_ticket() {
    let worker = Recorder::start();
    let gateway = gateway(&worker).start().await;
    let ends = OffsetDateTime::now_utc() + Duration::from_secs(4);
    let client = gateway.client().presenting(&ca().issue(&["ci.example.com"], |params| params.not_after = ends));
    let mut connection = client.connect().await;
    assert_eq!(connection.send(client.get("/machines")).await.status, 200);
    let refused = harness::eventually("it ends", async || {
        let answer = connection.send(client.get("/machines")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    refused.assert_problem(401, "certificate-expired");
    assert!(OffsetDateTime::now_utc() >= ends);
    let served = worker.seen().len();
    client.get("/machines").send().await.assert_problem(401, "certificate-expired");
    assert_eq!(worker.seen().len(), served);
}

#[tokio::test]
async fn guesses_by_certificate_are_charged_like_other_guesses() {
    let worker = Recorder::start();
    let strict = "[limits.wide]\nquota = 3\nwindow = \"1h\"\n";
    let gateway = gateway(&worker).policy(strict).start().await;
    let client = gateway.client().presenting(&ca().issue(&["other.example.com"], |_| {}));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(client.get("/machines").send().await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    worker.assert_untouched();
}

#[tokio::test]
async fn what_could_never_work_is_a_mistake() {
    let check = |overlay: &str| {
        let output = Gateway::builder().policy(overlay).output("check");
        assert_eq!(output.status.code(), Some(78), "{overlay}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let route = "[routes.machines]\npath = \"/machines\"\nmethods = [\"GET\"]\npool = \"models\"\n\
                 authenticate = [\"mtls\"]\nauthorize = \"authenticated\"\n";
    let said = check(route);
    assert!(
        said.contains("routes.machines.authenticate") && said.contains("[listener] does not ask for any"),
        "{said}"
    );
    let said = check("[rights.x]\nroles = \"authenticated\"\nmtls = false\n");
    assert!(said.contains("rights.x.mtls"), "{said}");
    let said = check("[certificates.x]\nsan_dns = \"*.example.com\"\n");
    assert!(said.contains("certificates.x.san_dns") && said.contains("names are compared whole"), "{said}");
    let said = check("[routes.known]\nauthenticate = [\"jwt\", \"jwt\"]\n");
    assert!(said.contains("routes.known.authenticate") && said.contains("twice"), "{said}");
}

#[tokio::test]
async fn the_policy_can_be_asked_about_a_certificate() {
    let worker = Recorder::start();
    let builder = gateway(&worker);
    let explain = |caller: &str, path: &str| {
        let output = builder.command("explain").args(["--as", caller, "GET", path]).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = explain("cert:ci", "/machines");
    assert!(code == Some(0) && said.contains("cert:ci by mtls"), "{said}");
    let (code, said) = explain("cert:alice", "/either");
    assert!(code == Some(0) && said.contains("user:alice by mtls"), "{said}");
    let (code, said) = explain("cert:nobody", "/machines");
    assert!(code == Some(1) && said.contains("certificate-unknown"), "{said}");
    let (code, said) = explain("cert:ci", "/known");
    assert!(code == Some(1) && said.contains("credential-missing"), "{said}");
    let output = builder.output("routes");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("mtls and jwt") && said.contains("with a client certificate"), "{said}");
}

#[tokio::test]
async fn the_certificate_of_a_trusted_proxy_proves_nobody_behind_it() {
    let worker = Recorder::start();
    let trusted = "[client_address]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let gateway = gateway(&worker).policy(trusted).start().await;
    let proxy = gateway.client().presenting(&ca().issue(&["ci.example.com"], |_| {}));
    proxy
        .get("/machines")
        .header("x-forwarded-for", "192.0.2.1")
        .send()
        .await
        .assert_problem(401, "credential-missing");
    let secured = proxy.get("/secured").key("reader").header("x-forwarded-for", "192.0.2.1");
    secured.send().await.assert_problem(403, "condition-unmet");
    worker.assert_untouched();
}
