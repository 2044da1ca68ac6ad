//! Signed requests (RFC 9421): what must be covered, what is refused, and that a copy is worth nothing.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use gateway::types::Sha256;
use harness::client::flower;
use harness::identity::now;
use harness::{Answer, Gateway, GatewayBuilder, Recorder, Redis, Request};

const SECRET: &str = "f3b1c85e0d7a4296b8c4e1d05a9f7236";
const POLICY: &str = r#"
[signing_keys.batch]
secret = { env = "BATCH_SECRET" }
owner = "tests"
roles = ["predictor"]
[signing_keys.old]
secret = { env = "BATCH_SECRET" }
owner = "tests"
expires = "2020-01-01T00:00:00Z"
[signing_keys.next]
secret = { env = "BATCH_SECRET" }
owner = "tests"
not_before = "2099-01-01T00:00:00Z"
[routes.predict]
authenticate = ["signature", "api_key"]
[routes.known]
authenticate = ["signature", "jwt"]
[routes.upload]
authenticate = ["signature"]
"#;

/// A request that is signed as these parts say.
#[derive(Clone)]
struct Signing {
    method: &'static str,
    path: String,
    body: String,
    /// The names of what is covered, with their values where those are not the request's own.
    covered: Vec<&'static str>,
    parameters: String,
    secret: &'static str,
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn parameters(key: &str, created: i64) -> String {
    let created = i64::try_from(now()).expect("a time") + created;
    format!(";created={created};keyid=\"{key}\";nonce=\"{}\"", unique())
}

impl Signing {
    fn get() -> Self {
        let covered = vec!["@method", "@authority", "@path"];
        let (path, body) = ("/known".to_owned(), String::new());
        Self { method: "GET", path, body, covered, parameters: parameters("batch", 0), secret: SECRET }
    }

    fn predict() -> Self {
        let covered = vec!["@method", "@authority", "@path", "content-digest", "content-type"];
        Self { method: "POST", path: "/predict".into(), body: flower().to_string(), covered, ..Self::get() }
    }

    fn digest(&self) -> String {
        format!("sha-256=:{}:", BASE64_STANDARD.encode(Sha256::of(self.body.as_bytes()).as_bytes()))
    }

    /// The list and the signature over it.
    fn sign(&self, gateway: &Gateway) -> (String, String) {
        let names = self.covered.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" ");
        let list = format!("({names}){}", self.parameters);
        let (path, query) = self.path.split_once('?').map_or((&*self.path, None), |(path, query)| (path, Some(query)));
        let authority = format!("localhost:{}", gateway.address().port());
        let mut base = String::new();
        for name in &self.covered {
            let value = match *name {
                "@method" => self.method.to_owned(),
                "@authority" => authority.clone(),
                "@path" => path.to_owned(),
                "@query" => format!("?{}", query.unwrap_or_default()),
                "@target-uri" => format!("https://{authority}{}", self.path),
                "content-digest" => self.digest(),
                "content-type" => "application/json".into(),
                _ => "a value".into(),
            };
            base.extend(["\"", name, "\": ", &value, "\n"]);
        }
        base.extend(["\"@signature-params\": ", &list]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        (list, BASE64_STANDARD.encode(hmac::sign(&key, base.as_bytes())))
    }

    fn plain(&self, gateway: &Gateway) -> Request {
        let request = gateway.client().request(self.method, &self.path);
        if self.body.is_empty() {
            return request;
        }
        request
            .header("content-type", "application/json")
            .body(self.body.clone())
            .header("content-digest", &self.digest())
    }

    fn request(&self, gateway: &Gateway) -> Request {
        let (list, signature) = self.sign(gateway);
        let request = self.plain(gateway).header("signature-input", &format!("sig={list}"));
        request.header("signature", &format!("sig=:{signature}:"))
    }

    async fn send(&self, gateway: &Gateway) -> Answer {
        self.request(gateway).send().await
    }
}

fn builder(worker: &Recorder) -> GatewayBuilder {
    Gateway::builder().worker(worker).policy(POLICY).variable("BATCH_SECRET", SECRET)
}

#[tokio::test]
async fn a_signed_request_stands_for_its_signer_and_the_worker_sees_no_signature() {
    let worker = Recorder::start();
    let gateway = builder(&worker).start().await;
    let with_query = Signing {
        path: "/known?a=b&c=%20d".into(),
        covered: vec!["@method", "@authority", "@path", "@query"],
        ..Signing::get()
    };
    let by_uri =
        Signing { covered: vec!["@method", "@target-uri"], parameters: parameters("batch", 0), ..with_query.clone() };
    let escaped = Signing { path: "/k%6eown".into(), ..Signing::get() };
    let named = Signing { parameters: parameters("batch", 0) + ";alg=\"hmac-sha256\"", ..Signing::get() };
    for signing in [Signing::get(), Signing::predict(), with_query, by_uri, escaped, named] {
        let before = worker.seen().len();
        let answer = signing.send(&gateway).await;
        assert_eq!(answer.status, 200, "{}: {}", signing.path, answer.text());
        let seen = &worker.seen()[before];
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("signer:batch"));
        assert_eq!(seen.header("x-modelgate-scheme").as_deref(), Some("signature"));
        assert_eq!((seen.header("signature"), seen.header("signature-input")), (None, None));
    }
}

#[tokio::test]
async fn what_is_not_covered_or_not_known_is_refused() {
    let worker = Recorder::start();
    let gateway = builder(&worker).start().await;
    let get = |covered: &[&'static str]| Signing { covered: covered.to_vec(), ..Signing::get() };
    let post = |covered: &[&'static str]| Signing { covered: covered.to_vec(), ..Signing::predict() };
    let with = |parameters: String| Signing { parameters, ..Signing::get() };
    let (created, nonce) = (now(), unique());
    for (what, signing) in [
        ("nothing", get(&[])),
        ("no method", get(&["@authority", "@path"])),
        ("no authority", get(&["@method", "@path"])),
        ("no path", get(&["@method", "@authority"])),
        ("no query", Signing { path: "/known?admin=1".into(), ..Signing::get() }),
        ("no digest", post(&["@method", "@authority", "@path", "content-type"])),
        ("no type", post(&["@method", "@authority", "@path", "content-digest"])),
        ("a component twice", get(&["@method", "@method", "@authority", "@path"])),
        ("an unknown component", get(&["@method", "@authority", "@path", "@status"])),
        ("a field that is not there", get(&["@method", "@authority", "@path", "x-more"])),
        ("an unknown parameter", with(parameters("batch", 0) + ";tag=\"app\"")),
        ("no key", with(format!(";created={created};nonce=\"{nonce}\""))),
        ("no time", with(format!(";keyid=\"batch\";nonce=\"{nonce}\""))),
        ("no nonce", with(format!(";created={created};keyid=\"batch\""))),
        ("an empty nonce", with(format!(";created={created};keyid=\"batch\";nonce=\"\""))),
        ("a huge nonce", with(format!(";created={created};keyid=\"batch\";nonce=\"{}\"", "x".repeat(257)))),
        ("a time in text", with(format!(";created=\"{created}\";keyid=\"batch\";nonce=\"{nonce}\""))),
        ("a time with a fraction", with(format!(";created={created}.5;keyid=\"batch\";nonce=\"{nonce}\""))),
        ("a time before all time", with(format!(";created=-1;keyid=\"batch\";nonce=\"{nonce}\""))),
    ] {
        let answer = signing.send(&gateway).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "signature-malformed"),
            "{what}: {}",
            answer.text()
        );
    }
    let (list, mac) = Signing::get().sign(&gateway);
    for (what, input, signature) in [
        ("two labels", format!("a={list}, b={list}"), format!("a=:{mac}:, b=:{mac}:")),
        ("another label", format!("a={list}"), format!("b=:{mac}:")),
        ("no list", "a=1".into(), format!("a=:{mac}:")),
        ("no octets", format!("a={list}"), format!("a=\"{mac}\"")),
        ("parameters at the signature", format!("a={list}"), format!("a=:{mac}:;x")),
        ("no dictionary", "(".into(), format!("a=:{mac}:")),
        (
            "a parameter of a component",
            format!("a={}", list.replace("\"@path\"", "\"@path\";req")),
            format!("a=:{mac}:"),
        ),
        ("huge", format!("a={list};x=\"{}\"", "x".repeat(5000)), format!("a=:{mac}:")),
        ("nothing", String::new(), String::new()),
    ] {
        let request = gateway.client().get("/known").header("signature-input", &input).header("signature", &signature);
        let answer = request.send().await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (400, "signature-malformed"),
            "{what}: {}",
            answer.text()
        );
    }
    let half = gateway.client().get("/known").header("signature", &format!("a=:{mac}:")).send().await;
    half.assert_problem(400, "signature-malformed");
    let twice = Signing::get().request(&gateway).header("signature-input", &format!("b={list}")).send().await;
    twice.assert_problem(400, "signature-malformed");
    worker.assert_untouched();
}

#[tokio::test]
async fn what_nobody_known_has_signed_now_is_refused() {
    let worker = Recorder::start();
    let gateway = builder(&worker).start().await;
    let with = |parameters: String| Signing { parameters, ..Signing::get() };
    for (what, signing) in [
        ("another secret", Signing { secret: "another secret of the same length", ..Signing::get() }),
        ("an unknown key", with(parameters("nobody", 0))),
        ("too old", with(parameters("batch", -70))),
        ("from the future", with(parameters("batch", 70))),
        ("ended", with(format!("{};expires={}", parameters("batch", 0), now() - 1))),
        ("another algorithm", with(parameters("batch", 0) + ";alg=\"ed25519\"")),
    ] {
        let answer = signing.send(&gateway).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "signature-invalid"), "{what}: {}", answer.text());
        assert!(answer.header("www-authenticate").contains("Signature realm="), "{what}");
    }
    for key in ["old", "next"] {
        with(parameters(key, 0)).send(&gateway).await.assert_problem(401, "signer-ended");
    }
    // A good signature over another request.
    let signing = Signing::get();
    let (list, mac) = signing.sign(&gateway);
    let moved = |method: &str, path: &str| {
        let request = gateway.client().request(method, path).header("signature-input", &format!("sig={list}"));
        request.header("signature", &format!("sig=:{mac}:"))
    };
    moved("GET", "/%6bnown").send().await.assert_problem(401, "signature-invalid");
    let elsewhere = moved("GET", "/known").header("host", "evil.example.com").send().await;
    elsewhere.assert_problem(401, "signature-invalid");
    // Beside another credential nobody knows which is meant.
    let token = gateway.signer().token(&serde_json::json!({}));
    Signing::get().request(&gateway).bearer(&token).send().await.assert_problem(400, "credentials-several");
    worker.assert_untouched();
    assert_eq!(moved("GET", "/known").send().await.status, 200);
}

#[tokio::test]
async fn the_body_is_the_one_that_was_signed() {
    let worker = Recorder::start();
    let gateway = builder(&worker).start().await;
    let signing = Signing::predict();
    let other = signing.body.replace("5.1", "5.2");
    signing.request(&gateway).body(other.clone()).send().await.assert_problem(400, "body-digest");
    // One that is passed on as it comes is held until it is known.
    let upload = |parameters: String| Signing { path: "/upload".into(), parameters, ..Signing::predict() };
    let upload_policy = "[routes.upload.body]\ncontent_types = [\"application/json\"]\n";
    let gateway = builder(&worker).policy(upload_policy).start().await;
    let wrong = upload(parameters("batch", 0)).request(&gateway).body(other).send().await;
    wrong.assert_problem(400, "body-digest");
    // Nothing at all is another body too.
    let none = upload(parameters("batch", 0)).request(&gateway).body("").send().await;
    none.assert_problem(400, "body-digest");
    worker.assert_untouched();
    let signed = upload(parameters("batch", 0));
    assert_eq!(signed.send(&gateway).await.status, 200);
    assert_eq!(worker.only().body, signed.body.as_bytes());
}

#[tokio::test]
async fn a_signature_is_good_once_on_all_gateways() {
    let redis = Redis::start().await;
    let worker = Recorder::start();
    let (one, two) = (builder(&worker).redis(&redis).start().await, builder(&worker).redis(&redis).start().await);
    let signing = Signing::get();
    assert_eq!(signing.send(&one).await.status, 200);
    signing.send(&one).await.assert_problem(401, "proof-replayed");
    // The nonce is the key's, whatever is signed with it, and wherever.
    Signing { method: "GET", path: "/known?x".into(), covered: vec!["@method", "@target-uri"], ..signing.clone() }
        .send(&two)
        .await
        .assert_problem(401, "proof-replayed");
    assert_eq!(worker.seen().len(), 1);
    assert_eq!(Signing::get().send(&two).await.status, 200);
}

#[tokio::test]
async fn the_policy_can_be_asked_about_a_signer_and_its_mistakes_are_told() {
    let worker = Recorder::start();
    let builder = builder(&worker);
    let output = builder.command("explain").args(["--as", "signer:batch", "GET", "/known"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("signer:batch by signature"), "{said}");
    let check = |overlay: &str| {
        let builder = Gateway::builder().policy(overlay).variable("SHORT", "short").variable("BATCH_SECRET", SECRET);
        let output = builder.output("check");
        assert_eq!(output.status.code(), Some(78), "{overlay}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = check("[signing_keys.a]\nsecret = { env = \"SHORT\" }\nowner = \"x\"\n");
    assert!(said.contains("signing_keys.a.secret") && !said.contains("short,"), "{said}");
    let said = check("[signing_keys.a]\nowner = \"x\"\n");
    assert!(said.contains("write exactly one of secret"), "{said}");
    let said = check("[routes.known]\nauthenticate = [\"signature\"]\n");
    assert!(said.contains("no key is known"), "{said}");
    let large = format!("{POLICY}[routes.upload.body]\nmax = \"20MiB\"\n");
    let said = check(&large);
    assert!(said.contains("routes.upload") && said.contains("held in memory whole"), "{said}");
}
