//! Tokens that somebody made to be let in: every one is refused with the right status and reason, says so as RFC 6750
//! §3 asks, and the worker never hears of it. Tables, one file for each way to attack.

mod algorithms;
mod carriage;
mod claims;
mod encoding;
mod headers;
mod json_forms;
mod replays;
mod signatures;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use harness::client::flower;
use harness::identity::{base64url, change, claims as own_claims};
use harness::{Answer, Gateway, Recorder, Signer};
use serde_json::{Value, json};

/// One token, and the reason that it is refused for.
struct Hostile {
    what: String,
    token: String,
    slug: &'static str,
}

fn hostile(what: impl Into<String>, token: impl Into<String>) -> Hostile {
    Hostile { what: what.into(), token: token.into(), slug: "token-invalid" }
}

/// Who signs for the issuers of the world: the gateway itself with HS256, `es` with ES256, `rs` with RS256, `ed` with
/// `EdDSA`, and `set` with ES256 and the kid `1`.
struct Signers {
    own: &'static Signer,
    es: Signer,
    rs: Signer,
    ed: Ed25519KeyPair,
    set: Signer,
}

/// The `iss` of an issuer.
fn iss(name: &str) -> String {
    format!("https://{name}.example")
}

/// Good claims of one of these issuers, with changes; `null` takes a claim away.
fn claims_of(name: &str, changes: &Value) -> Value {
    let mut all = own_claims();
    if name != "own" {
        all["iss"] = json!(iss(name));
    }
    change(&mut all, changes);
    all
}

impl Signers {
    fn new() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key can be made");
        Self {
            own: harness::Signing::Hs256.signer(),
            es: Signer::es256(),
            rs: Signer::rs256(),
            ed: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key of ours"),
            set: Signer::es256(),
        }
    }

    fn of(&self, name: &str) -> &Signer {
        match name {
            "own" => self.own,
            "es" => &self.es,
            "rs" => &self.rs,
            _ => &self.set,
        }
    }

    /// A token that is good but for the changes to its header and claims.
    fn token(&self, name: &str, header: &Value, changes: &Value) -> String {
        self.of(name).token_with(header, &claims_of(name, changes))
    }

    /// A good token of the gateway itself in three parts.
    fn good(&self) -> [String; 3] {
        let token = self.token("own", &json!({}), &json!({}));
        let parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        parts.try_into().expect("three parts")
    }

    /// A token of `ed` with whatever makes its signature.
    fn ed(&self, header: &Value, sign: impl Fn(&Ed25519KeyPair, &[u8]) -> Vec<u8>) -> String {
        let mut all = json!({ "typ": "at+jwt", "alg": "EdDSA" });
        change(&mut all, header);
        let signed = format!("{}.{}", base64url(all.to_string()), base64url(claims_of("ed", &json!({})).to_string()));
        let signature = base64url(sign(&self.ed, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn ed_jwk(&self) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(self.ed.public_key().as_ref()) })
    }
}

/// A gateway with all these issuers before a worker that must not be called.
struct World {
    worker: Recorder,
    gateway: Gateway,
    signers: Signers,
}

impl World {
    async fn new() -> Self {
        let (worker, signers) = (Recorder::start(), Signers::new());
        let issuer = |name: &str, algorithm: &str, key: &str| {
            format!(
                "[issuers.{name}]\nissuer = \"{}\"\naudience = \"modelgate\"\nalgorithms = [\"{algorithm}\"]\n{key}\n",
                iss(name)
            )
        };
        let overlay = [
            "[listener]\nmax_head = \"64KiB\"\n".to_owned(),
            issuer("es", "ES256", "public_key = \"es.pem\""),
            issuer("rs", "RS256", "public_key = \"rs.pem\""),
            issuer("ed", "EdDSA", "public_key = \"ed.json\""),
            issuer("set", "ES256", "jwks = \"set.json\""),
        ];
        let gateway = Gateway::builder()
            .worker(&worker)
            .file("es.pem", signers.es.public())
            .file("rs.pem", signers.rs.public())
            .file("ed.json", signers.ed_jwk().to_string())
            .file("set.json", json!({ "keys": [signers.set.jwk("1")] }).to_string())
            .policy(overlay.concat())
            .start()
            .await;
        Self { worker, gateway, signers }
    }

    async fn ask(&self, token: &str) -> Answer {
        self.gateway.client().post("/predict").bearer(token).json(&flower()).send().await
    }

    /// Each issuer's good token is taken, so that what is refused is refused for what is wrong with it.
    async fn assert_good_ones_are_taken(&self) {
        let signers = &self.signers;
        let mut good: Vec<String> = ["own", "es", "rs"].map(|name| signers.token(name, &json!({}), &json!({}))).into();
        good.push(signers.token("set", &json!({ "kid": "1" }), &json!({})));
        good.push(signers.ed(&json!({}), |key, signed| key.sign(signed).as_ref().to_vec()));
        for token in good {
            let answer = self.ask(&token).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }

    async fn assert_refused(&self, tokens: Vec<Hostile>) {
        self.assert_good_ones_are_taken().await;
        let before = self.worker.seen().len();
        for Hostile { what, token, slug } in tokens {
            let answer = self.ask(&token).await;
            assert_eq!((answer.status, answer.problem().as_str()), (401, slug), "{what}: {}", answer.text());
            let challenge = answer.header("www-authenticate");
            assert!(
                challenge.starts_with("Bearer realm=\"modelgate\", error=\"invalid_token\""),
                "{what}: {challenge}"
            );
            assert_eq!(answer.header("cache-control"), "no-store", "{what}");
            assert_eq!(self.worker.seen().len(), before, "{what}: the worker was called");
            let id = answer.request_id();
            let record =
                self.gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == id).await;
            assert_eq!(record["reason"], slug, "{what}");
            let said = format!("{record}{}", answer.text());
            assert!(token.len() < 20 || !said.contains(&token), "{what}: the token is shown: {said}");
        }
        self.assert_good_ones_are_taken().await;
    }
}

#[test]
fn there_are_at_least_150() {
    let signers = Signers::new();
    let tables = [
        algorithms::tokens(&signers),
        claims::tokens(&signers),
        encoding::tokens(&signers),
        headers::tokens(&signers),
        json_forms::tokens(&signers),
        signatures::tokens(&signers),
    ];
    let count: usize = tables.iter().map(Vec::len).sum();
    println!("{count} hostile tokens");
    assert!(count >= 150, "there are {count}");
}
