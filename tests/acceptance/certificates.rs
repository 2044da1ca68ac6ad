//! Which certificate is shown to whom, what happens when its files change, and whose certificates are asked for.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use harness::client::{exchange, handshake, handshake_over, tls_config};
use harness::{Gateway, GatewayBuilder, Issued, PATIENCE, Recorder, Signing, TestCa, Wire, eventually};
use rcgen::{CertificateParams, CertificateRevocationListParams, CustomExtension, KeyPair, RevokedCertParams};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::TcpStream;

use crate::admin::number;

const REQUEST: &str = "GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// Files are looked at all the time, so that tests need not wait.
const EAGER: &str = "[listener]\ncertificate_check = \"50ms\"\n";

fn ca() -> &'static TestCa {
    TestCa::shared()
}

/// Trusts whatever it is shown, and keeps it.
#[derive(Debug)]
struct Witness {
    algorithms: WebPkiSupportedAlgorithms,
    schemes: Vec<SignatureScheme>,
    shown: Mutex<Option<Shown>>,
}

/// What a server has shown.
#[derive(Clone, Debug)]
struct Shown {
    certificate: CertificateDer<'static>,
    staple: Vec<u8>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        staple: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Shown { certificate: certificate.clone().into_owned(), staple: staple.to_vec() };
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What is shown to a client that asks for this host, or (`""`) for none, and knows these kinds of signatures.
async fn shown_with(gateway: &Gateway, host: &str, schemes: Vec<SignatureScheme>) -> std::io::Result<Shown> {
    let algorithms = provider().signature_verification_algorithms;
    let witness = Arc::new(Witness { algorithms, schemes, shown: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.enable_sni = !host.is_empty();
    let stream = TcpStream::connect(gateway.address()).await?;
    handshake_over(stream, if host.is_empty() { "nameless.test" } else { host }, config).await?;
    let shown = witness.shown.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(shown.expect("a certificate was shown"))
}

async fn shown(gateway: &Gateway, host: &str) -> std::io::Result<Shown> {
    shown_with(gateway, host, provider().signature_verification_algorithms.supported_schemes()).await
}

/// Which of these certificates is shown for a host.
async fn which(gateway: &Gateway, host: &str, all: &[(&'static str, &Issued)]) -> &'static str {
    let Ok(shown) = shown(gateway, host).await else { return "refused" };
    all.iter().find(|(_, issued)| issued.der() == shown.certificate).map_or("default", |(name, _)| name)
}

fn with_certificate(builder: GatewayBuilder, name: &str, issued: &Issued) -> GatewayBuilder {
    builder.file(&format!("{name}.pem"), &issued.certificate).file(&format!("{name}.key"), &issued.private_key).policy(
        format!(
            "[listener.certificates.{name}]\ncertificate = \"{name}.pem\"\nprivate_key = {{ file = \"{name}.key\" }}\n"
        ),
    )
}

fn replace(gateway: &Gateway, name: &str, content: impl AsRef<[u8]>) {
    // As tools do it that replace certificates: the new file takes the old one's place at once.
    let (new, old) = (gateway.directory().join("new"), gateway.directory().join(name));
    std::fs::write(&new, content).expect("the directory can be written to");
    std::fs::rename(new, old).expect("a file can be replaced");
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_host_that_the_client_asks_for() {
    let (exact, wild) = (ca().issue(&["shop.test", "www.shop.test"], |_| {}), ca().issue(&["*.shop.test"], |_| {}));
    let gateway = with_certificate(with_certificate(Gateway::builder(), "exact", &exact), "wild", &wild).start().await;
    let all = [("exact", &exact), ("wild", &wild)];
    for (host, expected) in [
        ("shop.test", "exact"),
        ("www.shop.test", "exact"),
        ("WWW.Shop.Test", "exact"),
        ("api.shop.test", "wild"),
        ("a.b.shop.test", "default"),
        ("localhost", "default"),
        ("other.test", "default"),
        ("test", "default"),
        ("", "default"),
    ] {
        assert_eq!(which(&gateway, host, &all).await, expected, "{host}");
    }
}

#[tokio::test]
async fn with_strict_sni_who_asks_for_no_host_of_ours_is_refused() {
    let shop = ca().issue(&["shop.test"], |_| {});
    let strict = "[listener]\nstrict_sni = true\n";
    let gateway = with_certificate(Gateway::builder().policy(strict), "shop", &shop).start().await;
    for (host, expected) in
        [("shop.test", "shop"), ("localhost", "default"), ("other.test", "refused"), ("", "refused")]
    {
        assert_eq!(which(&gateway, host, &[("shop", &shop)]).await, expected, "{host:?}");
    }
}

#[tokio::test]
async fn one_host_can_have_two_kinds_of_keys() {
    let rsa_key = KeyPair::from_pem(&Signing::Rs256.signer().private()).expect("an RSA key");
    let rsa = ca().issue_with(&rsa_key, &["shop.test"], |_| {});
    let ecdsa = ca().issue(&["shop.test"], |_| {});
    let gateway = with_certificate(with_certificate(Gateway::builder(), "ecdsa", &ecdsa), "rsa", &rsa).start().await;
    for (scheme, expected) in
        [(SignatureScheme::RSA_PSS_SHA256, &rsa), (SignatureScheme::ECDSA_NISTP256_SHA256, &ecdsa)]
    {
        let shown = shown_with(&gateway, "shop.test", vec![scheme]).await.expect("a handshake");
        assert_eq!(shown.certificate, expected.der(), "{scheme:?}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_on_a_signal_and_connections_stay() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(REQUEST).await;
    assert_eq!(wire.answer().await.status, 200);
    let new = ca().issue(&["localhost"], |_| {});
    replace(&gateway, "server.pem", &new.certificate);
    replace(&gateway, "server.key", &new.private_key);
    assert_eq!(which(&gateway, "localhost", &[("new", &new)]).await, "default", "nobody has looked yet");
    gateway.signal("HUP");
    let loaded = gateway.log().event("certificate-loaded").await;
    assert_eq!((&loaded["name"], &loaded["hosts"]), (&"default".into(), &"localhost".into()));
    assert_eq!(gateway.log().event("reloaded").await["changed"], "1");
    assert_eq!(which(&gateway, "localhost", &[("new", &new)]).await, "new");
    wire.send(REQUEST).await;
    assert_eq!(wire.answer().await.status, 200, "what was open is served on");
}

#[tokio::test]
async fn a_signal_without_anything_new_is_answered_too() {
    let gateway = Gateway::builder().start().await;
    gateway.signal("HUP");
    assert_eq!(gateway.log().event("reloaded").await["changed"], "0");
    assert_eq!(gateway.log().matching(|line| line["event"] == "certificate-loaded").len(), 0);
}

#[tokio::test]
async fn a_bad_pair_keeps_the_last_good_one_and_is_told() {
    let gateway = Gateway::builder().policy(EAGER).start().await;
    let new = ca().issue(&["localhost"], |_| {});
    let all = [("new", &new)];
    let kept = async |cause: &str| {
        gateway
            .log()
            .wait_for(|line| {
                line["event"] == "certificate-kept" && line["cause"].as_str().is_some_and(|said| said.contains(cause))
            })
            .await
    };
    replace(&gateway, "server.pem", &new.certificate);
    let event = kept("can't be used with this private key").await;
    assert_eq!((&event["name"], &event["file"]), (&"default".into(), &"server.pem".into()));
    assert_eq!(which(&gateway, "localhost", &all).await, "default");
    replace(&gateway, "server.key", "-----BEGIN PRIVATE KEY-----\n");
    assert_eq!(kept("not a private key").await["file"], "server.key");
    replace(&gateway, "server.pem", "nothing");
    assert_eq!(kept("without a certificate").await["file"], "server.pem");
    std::fs::remove_file(gateway.directory().join("server.pem")).expect("it is there");
    assert_eq!(kept("can't be read").await["file"], "server.pem");
    let old = ca().issue(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    replace(&gateway, "server.key", &old.private_key);
    replace(&gateway, "server.pem", &old.certificate);
    assert_eq!(kept("has expired on 2020-01-01T00:00:00Z").await["file"], "server.pem");
    assert_eq!(which(&gateway, "localhost", &all).await, "default", "the last good one is shown all the while");

    replace(&gateway, "server.key", &new.private_key);
    replace(&gateway, "server.pem", &new.certificate);
    gateway.log().event("certificate-loaded").await;
    assert_eq!(which(&gateway, "localhost", &all).await, "new");
    // Told once, though it was looked at again and again.
    let told = gateway.log().matching(|line| line["event"] == "certificate-kept");
    let causes: Vec<_> = told.iter().map(|line| line["cause"].as_str().unwrap_or_default()).collect();
    assert!(causes.windows(2).all(|pair| pair[0] != pair[1]), "{causes:?}");
}

#[tokio::test]
async fn a_key_that_everybody_can_read_is_told_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let gateway = Gateway::builder().policy(EAGER).start().await;
    let key = gateway.directory().join("server.key");
    let set = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    set(0o600);
    let check = async || {
        let count = gateway.log().matching(|line| line["event"] == "reloaded").len();
        gateway.signal("HUP");
        eventually("a check", async || {
            (gateway.log().matching(|line| line["event"] == "reloaded").len() > count).then_some(())
        })
        .await;
        gateway.log().matching(|line| line["event"] == "private-key-readable").len()
    };
    check().await;
    let before = check().await;
    set(0o644);
    assert_eq!(check().await, before + 1);
    assert_eq!(check().await, before + 1, "once");
    let told = gateway.log().event("private-key-readable").await;
    assert_eq!((&told["name"], &told["file"]), (&"default".into(), &"server.key".into()));
}

#[tokio::test]
async fn operators_see_when_certificates_expire() {
    let shop = ca().issue(&["shop.test"], |params| params.not_after = rcgen::date_time_ymd(2099, 1, 1));
    let gateway = with_certificate(Gateway::builder().policy(EAGER), "shop", &shop).start().await;
    let series = "modelgate_certificate_expiry_seconds{name=\"shop\"}";
    assert_eq!(number(&gateway, series).await.as_deref(), Some("4070908800"));
    assert!(number(&gateway, "modelgate_certificate_expiry_seconds{name=\"default\"}").await.is_some());
    let renewed = ca().issue(&["shop.test"], |params| params.not_after = rcgen::date_time_ymd(2098, 1, 1));
    replace(&gateway, "shop.key", &renewed.private_key);
    replace(&gateway, "shop.pem", &renewed.certificate);
    gateway.log().event("certificate-loaded").await;
    assert_eq!(number(&gateway, series).await.as_deref(), Some("4039372800"));
}

const SERIAL: &[u8] = &[0x4d, 0x47, 0x01];

fn with_serial(params: &mut CertificateParams) {
    params.serial_number = Some(SERIAL.to_vec().into());
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut element = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < 128 => element.push(length),
        _ => {
            element.push(0x82);
            element.extend(u16::try_from(content.len()).expect("short").to_be_bytes());
        }
    }
    element.extend(content);
    element
}

/// A time so many seconds from now.
fn from_now(seconds: i64) -> Vec<u8> {
    let time = OffsetDateTime::from(SystemTime::now()) + time::Duration::seconds(seconds);
    let form = format_description!("[year][month][day][hour][minute][second]Z");
    der(0x18, &[time.format(&form).expect("a time").as_bytes()])
}

/// An OCSP response (RFC 6960 §4.2.1) whose signature nobody here looks at.
fn response(serial: &[u8], status: &[u8], until: i64) -> Vec<u8> {
    let sha1 = der(0x30, &[&[6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0]]);
    let id = der(0x30, &[&sha1, &der(4, &[&[1; 20]]), &der(4, &[&[2; 20]]), &der(2, &[serial])]);
    let single = der(0x30, &[&id, status, &from_now(-3600), &der(0xa0, &[&from_now(until)])]);
    let by = der(0xa2, &[&der(4, &[&[3; 20]])]);
    let data = der(0x30, &[&by, &from_now(-3600), &der(0x30, &[&single])]);
    let ecdsa = der(0x30, &[&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]]);
    let basic = der(0x30, &[&data, &ecdsa, &der(3, &[&[0, 1, 2, 3]])]);
    let kind = [6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let bytes = der(0x30, &[&kind, &der(4, &[&basic])]);
    der(0x30, &[&[0x0a, 1, 0], &der(0xa0, &[&bytes])])
}

const GOOD: &[u8] = &[0x80, 0];

fn stapling(issued: &Issued, response: &[u8]) -> GatewayBuilder {
    with_certificate(Gateway::builder().policy(EAGER), "shop", issued)
        .file("shop.ocsp", response)
        .policy("[listener.certificates.shop]\nocsp = \"shop.ocsp\"\n")
}

async fn staple(gateway: &Gateway) -> Vec<u8> {
    shown(gateway, "shop.test").await.expect("a handshake").staple
}

#[tokio::test]
async fn a_response_of_the_issuer_is_stapled_and_replaced() {
    let shop = ca().issue(&["shop.test"], with_serial);
    let (first, second) = (response(SERIAL, GOOD, 3600), response(SERIAL, GOOD, 7200));
    let gateway = stapling(&shop, &first).start().await;
    assert_eq!(staple(&gateway).await, first);
    assert_eq!(shown(&gateway, "localhost").await.expect("a handshake").staple, b"", "of its certificate alone");
    replace(&gateway, "shop.ocsp", &second);
    gateway.log().event("certificate-loaded").await;
    assert_eq!(staple(&gateway).await, second);
    replace(&gateway, "shop.ocsp", "nonsense");
    assert_eq!(gateway.log().event("certificate-kept").await["file"], "shop.ocsp");
    assert_eq!(staple(&gateway).await, second);
}

#[tokio::test]
async fn a_response_that_is_too_old_is_not_sent() {
    let shop = ca().issue(&["shop.test"], with_serial);
    let gateway = stapling(&shop, &response(SERIAL, GOOD, -60)).start().await;
    let told = gateway.log().event("certificate-unstapled").await;
    assert_eq!((&told["name"], &told["file"]), (&"shop".into(), &"shop.ocsp".into()));
    assert_eq!(staple(&gateway).await, b"");
}

#[tokio::test]
async fn a_response_that_grows_too_old_is_sent_no_more() {
    let shop = ca().issue(&["shop.test"], with_serial);
    let gateway = stapling(&shop, &response(SERIAL, GOOD, 4)).start().await;
    gateway.log().event("certificate-unstapled").await;
    assert_eq!(staple(&gateway).await, b"");
}

/// What `check` says when it refuses.
fn refusal(builder: &GatewayBuilder) -> String {
    let output = builder.output("check");
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_response_that_does_not_vouch_is_a_mistake() {
    let shop = ca().issue(&["shop.test"], with_serial);
    let truncated = &response(SERIAL, GOOD, 3600)[..40];
    for (response, said) in [
        (&response(b"\x01", GOOD, 3600)[..], "is a response about another certificate"),
        (&response(SERIAL, &der(0xa1, &[&from_now(-60)]), 3600), "says that the certificate is revoked"),
        (&response(SERIAL, &[0x82, 0], 3600), "says that the certificate is not known"),
        (&der(0x30, &[&[0x0a, 1, 3]]), "is a response that says the responder could not answer"),
        (truncated, "is not an OCSP response in DER"),
        (b"", "is not an OCSP response in DER"),
    ] {
        let text = refusal(&stapling(&shop, response));
        assert!(text.contains("listener.certificates.shop.ocsp") && text.contains(said), "{said}: {text}");
    }
}

#[tokio::test]
async fn a_certificate_that_must_be_stapled_is_not_shown_without() {
    let shop = ca().issue(&["shop.test"], |params| {
        with_serial(params);
        let feature = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![0x30, 3, 2, 1, 5]);
        params.custom_extensions.push(feature);
    });
    let text = refusal(&with_certificate(Gateway::builder(), "shop", &shop));
    assert!(text.contains("may only be shown with an OCSP response"), "{text}");
    let text = refusal(&stapling(&shop, &response(SERIAL, GOOD, -60)));
    assert!(text.contains("the certificate may not be shown without"), "{text}");
    let good = response(SERIAL, GOOD, 3600);
    let gateway = stapling(&shop, &good).start().await;
    assert_eq!(staple(&gateway).await, good);
}

/// Runs OpenSSL's program in a directory and gives back what it printed.
fn openssl(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    use std::io::Write as _;
    let mut child = Command::new("openssl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/run installs openssl");
    // It may have ended without reading.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_openssl_signs_openssl_accepts_as_a_staple() {
    let shop = ca().issue(&["shop.test"], |params| {
        with_serial(params);
        // By default a certificate has its issuer's name, which OpenSSL takes for its own signature.
        params.distinguished_name.push(rcgen::DnType::CommonName, "shop.test");
    });
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("it is ours");
    write("ca.pem", &ca().authority);
    write("ca.key", &ca().authority_key());
    write("shop.pem", &shop.certificate);
    write("index", "V\t40990101000000Z\t\t4D4701\tunknown\t/CN=shop\n");
    let arguments = "ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -issuer ca.pem -cert shop.pem -ndays 1 \
                     -no_nonce -respout shop.ocsp";
    let said = openssl(directory.path(), &arguments.split_ascii_whitespace().collect::<Vec<_>>(), b"");
    let signed = std::fs::read(directory.path().join("shop.ocsp")).unwrap_or_else(|_| panic!("no response: {said}"));
    let gateway = stapling(&shop, &signed).start().await;
    assert_eq!(staple(&gateway).await, signed);
    let connect = gateway.address().to_string();
    let arguments = ["s_client", "-connect", &connect, "-servername", "shop.test", "-status", "-CAfile", "ca.pem"];
    let said = openssl(directory.path(), &arguments, b"");
    assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_renegotiates() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let connect = gateway.address().to_string();
    // `R` at the beginning of a line asks for it.
    let said = openssl(&gateway.directory(), &["s_client", "-connect", &connect, "-tls1_2", "-msg"], b"R\n");
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert_eq!(said.matches("ServerHelloDone").count(), 1, "{said}");
    worker.assert_untouched();
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused_by_its_name() {
    let gateway = Gateway::builder().start().await;
    for offered in [&["http/1.0"][..], &["h3", "h2c"], &["HTTP/1.1"]] {
        for version in [&TLS12, &TLS13] {
            let refused = handshake(gateway.address(), tls_config(offered, &[version])).await;
            let refused = refused.expect_err("no protocol in common").to_string();
            assert!(refused.contains("NoApplicationProtocol"), "{offered:?}: {refused}");
        }
    }
}

/// A client with a certificate, or without one.
fn client(version: &'static rustls::SupportedProtocolVersion, identity: Option<&Issued>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(Arc::clone(&ca().roots));
    let mut config = match identity {
        Some(issued) => builder.with_client_auth_cert(vec![issued.der()], issued.key_der()).expect("a pair"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Whether a client is served.
async fn is_served(gateway: &Gateway, config: ClientConfig) -> Option<HandshakeKind> {
    let mut stream = handshake(gateway.address(), config).await.ok()?;
    let asked = REQUEST.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answer = tokio::time::timeout(PATIENCE, exchange(&mut stream, asked.as_bytes())).await.expect("an end");
    answer.starts_with("HTTP/1.1 200").then(|| stream.get_ref().1.handshake_kind()).flatten()
}

fn asking(mode: &str) -> GatewayBuilder {
    Gateway::builder()
        .policy(format!("{EAGER}client_ca = \"clients.pem\"\nclient_certificates = \"{mode}\"\n"))
        .file("clients.pem", &ca().authority)
}

/// Another CA's certificate.
fn stranger() -> Issued {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(["client".to_owned()]).expect("a name").self_signed(&key);
    Issued { certificate: certificate.expect("a certificate").pem(), private_key: key.serialize_pem() }
}

#[tokio::test]
async fn clients_show_certificates_where_they_are_asked() {
    let worker = Recorder::start();
    let (known, stranger) = (ca().issue(&["client"], |_| {}), stranger());
    let expired = ca().issue(&["client"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    for (mode, none, strange) in [("optional", true, false), ("required", false, false)] {
        let gateway = asking(mode).worker(&worker).start().await;
        for version in [&TLS12, &TLS13] {
            for (what, identity, served) in [
                ("nobody", None, none),
                ("a known client", Some(&known), true),
                ("a stranger", Some(&stranger), strange),
                ("an expired one", Some(&expired), false),
            ] {
                let is_served = is_served(&gateway, client(version, identity)).await.is_some();
                assert_eq!(is_served, served, "{mode} {what} {version:?}");
            }
        }
    }
}

fn revoking(serials: &[&[u8]]) -> String {
    let revoked = serials.iter().map(|serial| RevokedCertParams {
        serial_number: serial.to_vec().into(),
        revocation_time: rcgen::date_time_ymd(2024, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    ca().revocation_list(&CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2099, 1, 1),
        crl_number: vec![1].into(),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    })
}

#[tokio::test]
async fn who_is_revoked_is_refused_on_a_connection_that_is_open() {
    let worker = Recorder::start();
    let [one, two] =
        [0x21, 0x22].map(|serial| ca().issue(&["one"], move |params| params.serial_number = Some(vec![serial].into())));
    for mode in ["required", "optional"] {
        let gateway = asking(mode)
            .worker(&worker)
            .policy("[listener]\nclient_crl = \"clients.crl\"\n")
            .file("clients.crl", revoking(&[]))
            .start()
            .await;
        let clients = [gateway.client(), gateway.http2()];
        let mut revoked = Vec::new();
        let mut others = Vec::new();
        for client in &clients {
            revoked.push((client, client.presenting(&one).connect().await));
            others.push((client, client.presenting(&two).connect().await));
            if mode == "optional" {
                others.push((client, client.connect().await));
            }
        }
        for (client, connection) in revoked.iter_mut().chain(&mut others) {
            assert_eq!(connection.send(client.get("/open")).await.status, 200);
        }
        replace(&gateway, "clients.crl", revoking(&[&[0x21]]));
        gateway.log().event("client-ca-loaded").await;
        for (client, connection) in &mut others {
            assert_eq!(connection.send(client.get("/open")).await.status, 200);
        }
        let before = worker.seen().len();
        for (client, mut connection) in revoked {
            let answer = connection.send(client.get("/open")).await;
            answer.assert_problem(401, "certificate-revoked");
            assert!(!answer.header("www-authenticate").is_empty());
            // And its connection ends.
            harness::eventually("it is closed", async || {
                connection.try_send(client.get("/open")).await.is_err().then_some(())
            })
            .await;
        }
        assert_eq!(worker.seen().len(), before);
    }
}

#[tokio::test]
async fn who_is_revoked_is_not_let_in_and_does_not_come_back_by_a_ticket() {
    let worker = Recorder::start();
    let one = ca().issue(&["one"], |params| params.serial_number = Some(vec![0x21].into()));
    let two = ca().issue(&["two"], |params| params.serial_number = Some(vec![0x22].into()));
    let gateway = asking("required")
        .worker(&worker)
        .policy("[listener]\nclient_crl = \"clients.crl\"\n")
        .file("clients.crl", revoking(&[&[0x22]]))
        .start()
        .await;
    for version in [&TLS12, &TLS13] {
        assert!(is_served(&gateway, client(version, Some(&two))).await.is_none(), "revoked from the start");
    }
    // Each keeps its tickets from one connection to the next.
    let configs = [client(&TLS12, Some(&one)), client(&TLS13, Some(&one))];
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        for config in &configs {
            assert_eq!(is_served(&gateway, config.clone()).await, Some(kind));
        }
    }
    replace(&gateway, "clients.crl", revoking(&[&[0x21], &[0x22]]));
    gateway.log().event("client-ca-loaded").await;
    for config in configs {
        assert_eq!(is_served(&gateway, config).await, None);
    }
    replace(&gateway, "clients.crl", "nonsense");
    assert_eq!(gateway.log().event("certificate-kept").await["file"], "clients.crl");
    assert!(is_served(&gateway, client(&TLS13, Some(&one))).await.is_none(), "the last good list holds");
}
