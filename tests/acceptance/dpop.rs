//! Tokens that are bound to a key or to a certificate, and the proofs that they are shown with.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use gateway::types::Sha256;
use harness::identity::{ISSUER, base64url, change, clients, now, part};
use harness::{Answer, Client, Gateway, GatewayBuilder, Recorder, Redis, Request, Signer, TestCa};
use serde_json::{Value, json};

const POLICY: &str =
    "[cors.browser]\ncredentials = false\n[routes.known]\nmethods = [\"GET\", \"DELETE\"]\ncors = \"browser\"\n";

fn key() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(Signer::es256)
}

/// The public key as proofs carry it.
fn jwk(signer: &Signer) -> Value {
    let all = signer.jwk("");
    json!({ "kty": "EC", "crv": "P-256", "x": all["x"], "y": all["y"] })
}

/// RFC 7638.
fn thumbprint(signer: &Signer) -> String {
    let jwk = jwk(signer);
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    base64url(Sha256::of(text.as_bytes()).as_bytes())
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A proof for `GET /known` with this token, with changes to its header and its claims.
fn proof_with(signer: &Signer, url: &str, token: &str, header: &Value, claims: &Value) -> String {
    let mut good_header = json!({ "typ": "dpop+jwt", "alg": signer.alg() });
    if signer.alg() == "ES256" {
        change(&mut good_header, &json!({ "jwk": jwk(signer) }));
    }
    let mut good = json!({ "jti": unique(), "htm": "GET", "htu": url, "iat": now() });
    if !token.is_empty() {
        change(&mut good, &json!({ "ath": base64url(Sha256::of(token.as_bytes()).as_bytes()) }));
    }
    change(&mut good_header, header);
    change(&mut good, claims);
    signer.token_of(&good_header.to_string(), &good.to_string())
}

/// A gateway, and a token of its own that is bound to [`key`].
struct World {
    worker: Recorder,
    gateway: Gateway,
    token: String,
}

impl World {
    async fn new() -> Self {
        Self::of(|builder| builder).await
    }

    async fn of(adjust: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let worker = Recorder::start();
        let gateway = adjust(Gateway::builder().worker(&worker).policy(POLICY)).start().await;
        let token = gateway.signer().token(&json!({ "cnf": { "jkt": thumbprint(key()) } }));
        Self { worker, gateway, token }
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.gateway.address().port())
    }

    fn proof(&self, header: &Value, claims: &Value) -> String {
        proof_with(key(), &self.url("/known"), &self.token, header, claims)
    }

    fn good(&self) -> String {
        self.proof(&json!({}), &json!({}))
    }

    async fn show(&self, proof: &str) -> Answer {
        shown(&self.gateway.client(), &self.token, proof).send().await
    }

    async fn assert_refused(&self, what: &str, proof: &str) {
        let answer = self.show(proof).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "proof-invalid"), "{what}: {}", answer.text());
        let said = answer.header("www-authenticate");
        assert!(said.contains("DPoP ") && said.contains("error=\"invalid_dpop_proof\""), "{what}: {said}");
        assert!(said.contains("algs=\"") && said.contains("ES256"), "{said}");
        self.worker.assert_untouched();
    }
}

fn shown(client: &Client, token: &str, proof: &str) -> Request {
    client.get("/known").header("authorization", &format!("DPoP {token}")).header("dpop", proof)
}

#[tokio::test]
async fn a_bound_token_is_good_with_a_proof_and_the_worker_sees_neither() {
    let world = World::new().await;
    for client in [world.gateway.client(), world.gateway.http2()] {
        let answer = shown(&client, &world.token, &world.good()).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // The token was seen before; its proof is looked at all the same.
    world.show(&world.proof(&json!({}), &json!({ "htm": "POST" }))).await.assert_problem(401, "proof-invalid");
    for seen in world.worker.seen() {
        assert_eq!((seen.header("authorization"), seen.header("dpop")), (None, None));
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("user:alice"));
    }
}

#[tokio::test]
async fn a_bound_token_is_never_a_bearer_token_nor_a_plain_one_a_bound_one() {
    let world = World::new().await;
    let (client, good) = (world.gateway.client(), world.good());
    let plain = world.gateway.signer().token(&json!({}));
    for (what, request) in [
        ("as Bearer", client.get("/known").bearer(&world.token)),
        ("as Bearer with a proof", client.get("/known").bearer(&world.token).header("dpop", &good)),
        (
            "a plain one as DPoP",
            shown(&client, &plain, &proof_with(key(), &world.url("/known"), &plain, &json!({}), &json!({}))),
        ),
    ] {
        let answer = request.send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, "token-binding"), "{what}");
        let said = answer.header("www-authenticate");
        assert!(said.contains("DPoP ") && said.contains("error=\"invalid_token\""), "{what}: {said}");
    }
    // Confirmations that nobody can check here are not passed over.
    for cnf in [json!({}), json!(null), json!("x"), json!({ "jwk": jwk(key()) }), json!({ "jkt": 1 })] {
        // `change` takes `null` for nothing, so it is written by hand.
        let mut claims = harness::identity::claims();
        claims["cnf"] = cnf;
        let token = world.gateway.signer().token_with(&json!({}), &claims);
        client.get("/known").bearer(&token).send().await.assert_problem(401, "token-invalid");
    }
    world.worker.assert_untouched();
}

#[tokio::test]
async fn a_proof_that_breaks_one_rule_is_refused() {
    let world = World::new().await;
    let (url, token) = (world.url("/known"), &world.token);
    let at = |seconds: i64| json!({ "iat": i64::try_from(now()).expect("a time") + seconds });
    let header = |changes: Value| world.proof(&changes, &json!({}));
    let claims = |changes: Value| world.proof(&json!({}), &changes);
    let private = {
        let mut jwk = jwk(key());
        jwk["d"] = json!("AAAA");
        jwk
    };
    let symmetric = Signer::hs256("a secret that is long enough to be one of 256 bits");
    let oct = json!({ "jwk": { "kty": "oct", "k": base64url("a secret that is long enough") } });
    let other = Signer::es256();
    let mut swapped = jwk(key());
    swapped["x"] = jwk(&other)["x"].clone();
    let good = world.good();
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let mut padded = jwk(key());
    padded["x"] = json!(format!("{}=", padded["x"].as_str().expect("text")));
    for (what, proof) in [
        ("no proof", String::new()),
        ("no JWT", "x.y.z".into()),
        ("another type", header(json!({ "typ": "JWT" }))),
        ("the token's type", header(json!({ "typ": "at+jwt" }))),
        ("no type", header(json!({ "typ": null }))),
        ("no algorithm", header(json!({ "alg": null }))),
        ("none", header(json!({ "alg": "none" }))),
        ("an HMAC", proof_with(&symmetric, &url, token, &oct, &json!({}))),
        ("an HMAC named over a public key", header(json!({ "alg": "HS256" }))),
        ("another key's algorithm", header(json!({ "alg": "RS256" }))),
        ("an extension that must be understood", header(json!({ "crit": ["b64"], "b64": true }))),
        ("no key", header(json!({ "jwk": null }))),
        ("a key by URL", header(json!({ "jwk": null, "jku": "https://evil.example.com/keys" }))),
        ("a private key", header(json!({ "jwk": private }))),
        ("half of another key", header(json!({ "jwk": swapped }))),
        ("a padded key", header(json!({ "jwk": padded }))),
        ("another key", proof_with(&other, &url, token, &json!({}), &json!({}))),
        ("signed with another key", proof_with(&other, &url, token, &json!({ "jwk": jwk(key()) }), &json!({}))),
        ("no signature", format!("{signed}.")),
        ("a signature cut short", format!("{signed}.{}", &signature[..40])),
        ("another method", claims(json!({ "htm": "POST" }))),
        ("a method in lower case", claims(json!({ "htm": "get" }))),
        ("no method", claims(json!({ "htm": null }))),
        ("another path", claims(json!({ "htu": world.url("/knowns") }))),
        ("a longer path", claims(json!({ "htu": world.url("/known/") }))),
        ("another host", claims(json!({ "htu": "https://evil.example.com/known" }))),
        ("another port", claims(json!({ "htu": "https://localhost/known" }))),
        ("plain HTTP", claims(json!({ "htu": url.replace("https", "http") }))),
        ("a user in the URL", claims(json!({ "htu": url.replace("localhost", "localhost@localhost") }))),
        ("a path alone", claims(json!({ "htu": "/known" }))),
        ("no URL", claims(json!({ "htu": null }))),
        ("no name", claims(json!({ "jti": null }))),
        ("an empty name", claims(json!({ "jti": "" }))),
        ("a name that is a number", claims(json!({ "jti": 7 }))),
        ("a huge name", claims(json!({ "jti": "x".repeat(257) }))),
        ("no time", claims(json!({ "iat": null }))),
        ("a time in text", claims(json!({ "iat": now().to_string() }))),
        ("a time before all time", claims(json!({ "iat": -1 }))),
        ("too old", claims(at(-70))),
        ("from the future", claims(at(70))),
        ("another token's", claims(json!({ "ath": base64url(Sha256::of(b"another").as_bytes()) }))),
        ("no token's", claims(json!({ "ath": null }))),
        ("huge", claims(json!({ "more": "x".repeat(8000) }))),
    ] {
        world.assert_refused(what, &proof).await;
    }
    // Members that stand there twice can be read in two ways.
    let twice = format!(r#"{{"typ":"dpop+jwt","alg":"ES256","alg":"ES256","jwk":{}}}"#, jwk(key()));
    let claims = json!({ "jti": unique(), "htm": "GET", "htu": url, "iat": now() }).to_string();
    world.assert_refused("a member twice", &key().token_of(&twice, &claims)).await;
    let client = world.gateway.client();
    let several = shown(&client, token, &world.good()).header("dpop", &world.good()).send().await;
    several.assert_problem(401, "proof-invalid");
    let none = client.get("/known").header("authorization", &format!("DPoP {token}")).send().await;
    none.assert_problem(401, "proof-invalid");
    world.worker.assert_untouched();
    assert_eq!(world.show(&world.good()).await.status, 200);
}

#[tokio::test]
async fn the_url_is_compared_without_its_query_and_in_its_normal_form() {
    let world = World::new().await;
    for url in [
        format!("{}?a=b#c", world.url("/known")),
        world.url("/k%6eown"),
        world.url("/known").replace("https://localhost", "HTTPS://LOCALHOST"),
    ] {
        let answer = world.show(&world.proof(&json!({}), &json!({ "htu": url }))).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    }
    let origin = World::of(|builder| builder.policy("[proofs]\norigin = \"https://API.example.com:443\"\n")).await;
    for (url, status) in [
        ("https://api.example.com/known".to_owned(), 200),
        ("https://api.example.com:443/known".to_owned(), 200),
        (origin.url("/known"), 401),
    ] {
        assert_eq!(origin.show(&origin.proof(&json!({}), &json!({ "htu": url }))).await.status, status, "{url}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_the_window_and_no_more() {
    let world = World::of(|builder| builder.policy("[proofs]\nwindow = \"5m\"\n")).await;
    let at = |seconds: i64| world.proof(&json!({}), &json!({ "iat": i64::try_from(now()).expect("a time") + seconds }));
    for (seconds, status) in [(-310, 401), (-290, 200), (290, 200), (310, 401)] {
        assert_eq!(world.show(&at(seconds)).await.status, status, "{seconds}");
    }
}

#[tokio::test]
async fn a_proof_is_good_once_whatever_it_is_shown_with() {
    let world = World::new().await;
    let proof = world.good();
    assert_eq!(world.show(&proof).await.status, 200);
    let again = world.show(&proof).await;
    again.assert_problem(401, "proof-replayed");
    assert!(again.header("www-authenticate").contains("error=\"invalid_dpop_proof\""));
    // The same name in another proof of the same key.
    let name = part(&proof, 1)["jti"].clone();
    world.show(&world.proof(&json!({}), &json!({ "jti": name }))).await.assert_problem(401, "proof-replayed");
    assert_eq!(world.worker.seen().len(), 1);
    // Of many at the same time, one goes on.
    let proof = world.good();
    let asking: Vec<_> =
        (0..8).map(|_| tokio::spawn(shown(&world.gateway.client(), &world.token, &proof).send())).collect();
    let mut served = 0;
    for answer in asking {
        served += usize::from(answer.await.expect("it was asked").status == 200);
    }
    assert_eq!((served, world.worker.seen().len()), (1, 2));
}

#[tokio::test]
async fn a_proof_that_one_gateway_has_seen_is_refused_by_the_other() {
    let redis = Redis::start().await;
    let worker = Recorder::start();
    let start = async || Gateway::builder().worker(&worker).policy(POLICY).redis(&redis).start().await;
    let (one, two) = (start().await, start().await);
    let token = one.signer().token(&json!({ "cnf": { "jkt": thumbprint(key()) } }));
    // Both are called by the same name, as behind one balancer.
    let proof = proof_with(key(), "https://api.example.com/known", &token, &json!({}), &json!({}));
    let ask = |gateway: &Gateway| shown(&gateway.client(), &token, &proof).header("host", "api.example.com");
    assert_eq!(ask(&one).send().await.status, 200);
    ask(&two).send().await.assert_problem(401, "proof-replayed");
    ask(&one).send().await.assert_problem(401, "proof-replayed");
    assert_eq!(worker.seen().len(), 1);
    // What is remembered ends.
    assert!(redis.keys().iter().all(|(name, life)| !name.contains(":once:") || (1..=130_000).contains(life)));
    assert!(redis.keys().iter().any(|(name, _)| name.contains(":once:")), "{:?}", redis.keys());
}

#[tokio::test]
async fn while_the_store_is_lost_proofs_are_refused_unless_the_policy_says_otherwise() {
    for (policy, status) in [("", 503), ("[proofs]\nreplay_unknown = \"allow\"\n", 200)] {
        let mut redis = Redis::start().await;
        let worker = Recorder::start();
        let overlay = format!("{POLICY}{policy}[token]\nrevocation_unknown = \"allow\"\n");
        let gateway = Gateway::builder().worker(&worker).policy(overlay).redis(&redis).start().await;
        let token = gateway.signer().token(&json!({ "cnf": { "jkt": thumbprint(key()) } }));
        let url = format!("https://localhost:{}/known", gateway.address().port());
        let proof = proof_with(key(), &url, &token, &json!({}), &json!({}));
        redis.kill();
        let answer = shown(&gateway.client(), &token, &proof).send().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 503 {
            answer.assert_problem(503, "replay-unknown");
            assert_eq!(answer.header("retry-after"), "1");
            worker.assert_untouched();
        } else {
            // What this process remembers holds all the same.
            shown(&gateway.client(), &token, &proof).send().await.assert_problem(401, "proof-replayed");
            assert_eq!(worker.seen().len(), 1);
        }
    }
}

#[tokio::test]
async fn a_page_may_send_proofs_and_read_what_is_asked_of_it() {
    let world = World::new().await;
    let preflight = world.gateway.client().request("OPTIONS", "/known").header("origin", "https://app.example.com");
    let answer = preflight
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization,dpop")
        .send()
        .await;
    let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
    assert!(allowed.split(", ").any(|name| name == "dpop"), "{allowed}");
    let refused = world.gateway.client().get("/known").header("origin", "https://app.example.com").bearer(&world.token);
    let exposed = refused.send().await.header("access-control-expose-headers").to_ascii_lowercase();
    assert!(exposed.split(", ").any(|name| name == "www-authenticate"), "{exposed}");
}

#[tokio::test]
async fn a_proof_at_the_token_endpoint_binds_the_token_to_its_key() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(clients()).policy(POLICY).start().await;
    let url = |path: &str| format!("https://localhost:{}{path}", gateway.address().port());
    let proof = |path: &str, token: &str, method: &str| {
        proof_with(key(), &url(path), token, &json!({}), &json!({ "htm": method }))
    };
    let client = gateway.client();
    let form = "grant_type=client_credentials";
    let answer = client.token(form).as_client("ci").header("dpop", &proof("/token", "", "POST")).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(said["token_type"], "DPoP");
    let token = said["access_token"].as_str().expect("a token");
    assert_eq!(part(token, 1)["cnf"], json!({ "jkt": thumbprint(key()) }));
    client.get("/known").bearer(token).send().await.assert_problem(401, "token-binding");
    assert_eq!(shown(&client, token, &proof("/known", token, "GET")).send().await.status, 200);

    // The refresh grant gives bound tokens too, and each to the key of its own proof.
    let log_in = "grant_type=password&username=alice&password=correct+horse+battery+staple";
    let plain = client.token(log_in).as_client("app").send().await.json();
    assert_eq!(plain["token_type"], "Bearer");
    let refresh = format!("grant_type=refresh_token&refresh_token={}", plain["refresh_token"].as_str().expect("one"));
    let bound = client.token(&refresh).as_client("app").header("dpop", &proof("/token", "", "POST")).send().await;
    assert_eq!(bound.json()["token_type"], "DPoP", "{}", bound.text());

    // Introspection says what it is bound to.
    let asked = client.post("/introspect").form(&format!("token={token}")).as_client("watch").send().await.json();
    assert_eq!((&asked["token_type"], &asked["cnf"]), (&json!("DPoP"), &json!({ "jkt": thumbprint(key()) })));

    let used = proof("/token", "", "POST");
    assert_eq!(client.token(form).as_client("ci").header("dpop", &used).send().await.status, 200);
    for (what, wrong) in [
        ("used before", used),
        ("another method", proof("/token", "", "GET")),
        ("another path", proof("/known", "", "POST")),
        ("nothing", "x".into()),
    ] {
        let answer = client.token(form).as_client("ci").header("dpop", &wrong).send().await;
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_dpop_proof")), "{what}");
    }
    let metadata = client.get("/.well-known/oauth-authorization-server").send().await.json();
    assert_eq!(
        metadata["dpop_signing_alg_values_supported"],
        json!(["RS256", "PS256", "ES256", "ES384", "EdDSA"]),
        "{metadata}"
    );
}

#[tokio::test]
async fn a_client_that_must_bind_its_tokens_gets_no_other() {
    let ca = TestCa::shared();
    let overlay = "[listener]\nclient_certificates = \"optional\"\nclient_ca = \"clients.pem\"\n\
                   [clients.ci]\nbound = \"dpop\"\n[clients.batch]\nbound = \"certificate\"\n";
    let worker = Recorder::start();
    let builder = Gateway::builder().worker(&worker).policy(clients()).policy(overlay);
    let gateway = builder.file("clients.pem", &ca.authority).start().await;
    let (client, form) = (gateway.client(), "grant_type=client_credentials");
    for name in ["ci", "batch"] {
        let answer = client.token(form).as_client(name).send().await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
    }
    let issued = ca.issue(&["batch.example.com"], |_| {});
    let bound = client.presenting(&issued);
    let said = bound.token(form).as_client("batch").send().await.json();
    let token = said["access_token"].as_str().expect("a token");
    let print = base64url(Sha256::of(&issued.der()).as_bytes());
    assert_eq!((&part(token, 1)["cnf"], &said["token_type"]), (&json!({ "x5t#S256": print }), &json!("Bearer")));
    assert_eq!(bound.get("/known").bearer(token).send().await.status, 200);
    client.get("/known").bearer(token).send().await.assert_problem(401, "token-binding");

    // Nor does a user who leaves the client out that binds what users get.
    let gateway = Gateway::builder().worker(&worker).policy(clients()).policy("[clients.app]\nbound = \"dpop\"\n");
    let gateway = gateway.start().await;
    let log_in = "grant_type=password&username=alice&password=correct+horse+battery+staple";
    let answer = gateway.client().token(log_in).send().await;
    assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("invalid_client")));
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_is_good_over_its_connections_alone() {
    let ca = TestCa::shared();
    let issuer = Signer::es256();
    let policy = "[listener]\nclient_certificates = \"optional\"\nclient_ca = \"clients.pem\"\n\
                  [issuers.corp]\nissuer = \"https://corp.example.com\"\naudience = \"modelgate\"\n\
                  algorithms = [\"ES256\"]\npublic_key = \"corp.pem\"\nbound = \"certificate\"\n";
    let worker = Recorder::start();
    let builder = Gateway::builder().worker(&worker).policy(policy).file("corp.pem", issuer.public());
    let gateway = builder.file("clients.pem", &ca.authority).start().await;
    let (mine, other) = (ca.issue(&["mine.example.com"], |_| {}), ca.issue(&["mine.example.com"], |_| {}));
    let print = |issued: &harness::Issued| base64url(Sha256::of(&issued.der()).as_bytes());
    let corp = json!({ "iss": "https://corp.example.com" });
    let token = |signer: &Signer, cnf: Value, base: &Value| {
        let mut claims = base.clone();
        change(&mut claims, &json!({ "cnf": cnf }));
        signer.token(&claims)
    };
    let own = json!({ "iss": ISSUER });
    let bound = [
        token(&issuer, json!({ "x5t#S256": print(&mine) }), &corp),
        token(gateway.signer(), json!({ "x5t#S256": print(&mine) }), &own),
    ];
    let (mine, other) = (gateway.client().presenting(&mine), gateway.client().presenting(&other));
    for token in &bound {
        // Seen before or not, the connection is looked at.
        for _ in 0..2 {
            let before = worker.seen().len();
            gateway.client().get("/known").bearer(token).send().await.assert_problem(401, "token-binding");
            other.get("/known").bearer(token).send().await.assert_problem(401, "token-binding");
            assert_eq!(worker.seen().len(), before);
            assert_eq!(mine.get("/known").bearer(token).send().await.status, 200);
        }
    }
    let served = worker.seen().len();
    // An issuer whose tokens must be bound has no others.
    for cnf in [Value::Null, json!({ "jkt": thumbprint(key()) })] {
        mine.get("/known").bearer(&token(&issuer, cnf, &corp)).send().await.assert_problem(401, "token-invalid");
    }
    // Base64url without its last bits cut has one spelling.
    let mut spelled = BASE64_URL_SAFE_NO_PAD.encode([0; 32]);
    spelled.replace_range(42.., "B");
    let odd = token(gateway.signer(), json!({ "x5t#S256": spelled }), &own);
    mine.get("/known").bearer(&odd).send().await.assert_problem(401, "token-invalid");
    assert_eq!(worker.seen().len(), served);
}
