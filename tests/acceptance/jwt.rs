//! Tokens: what RFC 7519, RFC 8725 and RFC 9068 refuse is refused, and the worker never hears of it.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use harness::client::flower;
use harness::identity::{self, base64url, claims, now};
use harness::{Answer, Gateway, Recorder, Signer, Signing};
use serde_json::{Value, json};

/// A gateway before a worker that must not be called.
struct World {
    worker: Recorder,
    gateway: Gateway,
}

impl World {
    async fn new() -> Self {
        Self::signing(Signing::Hs256).await
    }

    async fn signing(signing: Signing) -> Self {
        let worker = Recorder::start();
        let gateway = Gateway::builder().worker(&worker).signing(signing).start().await;
        Self { worker, gateway }
    }

    fn signer(&self) -> &'static Signer {
        self.gateway.signer()
    }

    async fn ask(&self, token: &str) -> Answer {
        self.gateway.client().post("/predict").bearer(token).json(&flower()).send().await
    }

    async fn assert_taken(&self, what: &str, token: &str) {
        let answer = self.ask(token).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }

    /// The token is refused with 401, the worker is not called, and the security record has the reason and no token.
    async fn assert_refused(&self, what: &str, token: &str, slug: &str) {
        let before = self.worker.seen().len();
        let answer = self.ask(token).await;
        assert_eq!((answer.status, answer.problem().as_str()), (401, slug), "{what}: {}", answer.text());
        let challenge = answer.header("www-authenticate");
        assert!(challenge.starts_with("Bearer realm=\"modelgate\", error=\"invalid_token\""), "{what}: {challenge}");
        assert_eq!(self.worker.seen().len(), before, "{what}: the worker was called");
        let id = answer.request_id();
        let record = self.gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == id).await;
        assert_eq!(record["reason"], slug, "{what}");
        assert!(!record.to_string().contains(token), "{what}: the token is in the log");
    }
}

#[tokio::test]
async fn a_good_token_is_taken_by_every_algorithm() {
    for signing in [Signing::Hs256, Signing::Es256, Signing::Rs256] {
        let world = World::signing(signing).await;
        world.assert_taken("good", &world.signer().token(&json!({}))).await;
        assert_eq!(world.worker.only().header("x-modelgate-principal").as_deref(), Some("user:alice"));
    }
}

#[tokio::test]
async fn time_claims_are_kept() {
    let world = World::new().await;
    let signer = world.signer();
    for (what, changes, slug) in [
        ("expired", json!({ "exp": now() - 60 }), "token-expired"),
        ("expired just now", json!({ "exp": now() }), "token-expired"),
        ("expired long ago", json!({ "exp": 0 }), "token-expired"),
        ("without end", json!({ "exp": null }), "token-invalid"),
        ("an end in words", json!({ "exp": (now() + 300).to_string() }), "token-invalid"),
        ("a negative end", json!({ "exp": -1 }), "token-invalid"),
        ("an end after all days", json!({ "exp": 1e300 }), "token-invalid"),
        ("an end as a list", json!({ "exp": [now() + 300] }), "token-invalid"),
        ("not yet", json!({ "nbf": now() + 300 }), "token-invalid"),
        ("issued in the future", json!({ "iat": now() + 300 }), "token-invalid"),
        ("a beginning in words", json!({ "nbf": "yesterday" }), "token-invalid"),
    ] {
        world.assert_refused(what, &signer.token(&changes), slug).await;
    }
    let fraction =
        json!({ "exp": f64::from(u32::try_from(now() + 300).expect("before 2106")) + 0.5, "nbf": now() - 5 });
    world.assert_taken("a fraction of a second", &signer.token(&fraction)).await;
}

#[tokio::test]
async fn a_token_must_be_meant_for_us_by_an_issuer_of_ours() {
    let world = World::new().await;
    let signer = world.signer();
    for (what, changes) in [
        ("another audience", json!({ "aud": "another" })),
        ("no audience", json!({ "aud": null })),
        ("an audience that begins like ours", json!({ "aud": "modelgate2" })),
        ("an audience in another case", json!({ "aud": "Modelgate" })),
        ("a list without us", json!({ "aud": ["a", "b"] })),
        ("an empty list", json!({ "aud": [] })),
        ("a list in a list", json!({ "aud": [["modelgate"]] })),
        ("an object", json!({ "aud": { "modelgate": true } })),
        ("another issuer", json!({ "iss": "https://evil.example" })),
        ("an issuer with a slash more", json!({ "iss": format!("{}/", identity::ISSUER) })),
        ("an issuer in another case", json!({ "iss": identity::ISSUER.to_uppercase() })),
        ("no issuer", json!({ "iss": null })),
        ("a list of issuers", json!({ "iss": [identity::ISSUER] })),
        ("no subject", json!({ "sub": null })),
        ("an empty subject", json!({ "sub": "" })),
        ("a subject that is a number", json!({ "sub": 7 })),
        ("a subject with a line end", json!({ "sub": "alice\r\nX-Admin: 1" })),
        ("a subject that is too long", json!({ "sub": "a".repeat(256) })),
    ] {
        world.assert_refused(what, &signer.token(&changes), "token-invalid").await;
    }
    world.assert_taken("a list with us", &signer.token(&json!({ "aud": ["other", "modelgate"] }))).await;
}

#[tokio::test]
async fn none_is_no_algorithm_however_it_is_spelt() {
    let world = World::new().await;
    for alg in ["none", "None", "NONE", "nOnE", "", " none", "none ", "HS256 ", "hs256"] {
        let header = json!({ "typ": "at+jwt", "alg": alg }).to_string();
        let signed = format!("{}.{}", base64url(&header), base64url(claims().to_string()));
        world.assert_refused(alg, &format!("{signed}."), "token-invalid").await;
        // With a signature that would hold.
        world.assert_refused(alg, &world.signer().token_of(&header, &claims().to_string()), "token-invalid").await;
    }
    for alg in [Value::Null, json!(["HS256"]), json!(256), json!({}), json!(true)] {
        let token = world.signer().token_with(&json!({ "alg": alg }), &claims());
        world.assert_refused(&alg.to_string(), &token, "token-invalid").await;
    }
}

#[tokio::test]
async fn a_public_key_is_never_a_secret() {
    for signing in [Signing::Es256, Signing::Rs256] {
        let world = World::signing(signing).await;
        let public = world.signer().public();
        for secret in [public.clone(), public.trim().to_owned(), public.replace('\n', "")] {
            let confused = Signer::hs256(secret).token(&json!({}));
            world.assert_refused("HS256 with the public key", &confused, "token-invalid").await;
            // The header says what the gateway expects, over an HMAC.
            let header = json!({ "alg": world.signer().alg() });
            let confused = Signer::hs256(public.clone()).token_with(&header, &claims());
            world.assert_refused("the right alg over an HMAC", &confused, "token-invalid").await;
        }
    }
}

#[tokio::test]
async fn an_algorithm_of_the_same_family_is_not_the_configured_one() {
    let world = World::signing(Signing::Rs256).await;
    for alg in ["RS384", "RS512", "PS256", "ES256", "HS256", "EdDSA"] {
        let token = world.signer().token_with(&json!({ "alg": alg }), &claims());
        world.assert_refused(alg, &token, "token-invalid").await;
    }
}

#[tokio::test]
async fn every_part_is_under_the_signature() {
    for signing in [Signing::Hs256, Signing::Es256, Signing::Rs256] {
        let world = World::signing(signing).await;
        let good = world.signer().token(&json!({}));
        let parts: Vec<&str> = good.split('.').collect();
        let admin = base64url(claims().to_string().replace("predictor", "admin"));
        let header = base64url(json!({ "alg": world.signer().alg(), "typ": "at+jwt", "x": 1 }).to_string());
        let stranger = match signing {
            Signing::Hs256 => Signer::hs256("another secret of more than thirty-two octets"),
            Signing::Es256 => Signer::es256(),
            Signing::Rs256 => Signer::rs256(),
        };
        let mut flipped = world.signer().signature(format!("{}.{}", parts[0], parts[1]).as_bytes());
        flipped[0] ^= 1;
        for (what, token) in [
            ("other claims", format!("{}.{admin}.{}", parts[0], parts[2])),
            ("another header", format!("{header}.{}.{}", parts[1], parts[2])),
            ("no signature", format!("{}.{}.", parts[0], parts[1])),
            ("half a signature", format!("{}.{}.{}", parts[0], parts[1], &parts[2][..20])),
            ("a flipped bit", format!("{}.{}.{}", parts[0], parts[1], base64url(flipped))),
            ("zeros", format!("{}.{}.{}", parts[0], parts[1], base64url(vec![0; 64]))),
            ("nothing", format!("{}.{}.{}", parts[0], parts[1], base64url(b""))),
            ("another key", stranger.token(&json!({}))),
        ] {
            world.assert_refused(what, &token, "token-invalid").await;
        }
        world.assert_taken("the good one", &good).await;
    }
}

#[tokio::test]
async fn only_access_tokens_are_taken() {
    let world = World::new().await;
    // RFC 9068 §4: an ID token or another kind of JWT is no access token, though the signature holds.
    for typ in [
        json!("JWT"),
        json!("jwt"),
        json!("id+jwt"),
        json!("logout+jwt"),
        json!(""),
        Value::Null,
        json!(["at+jwt"]),
        json!(7),
    ] {
        let token = world.signer().token_with(&json!({ "typ": typ }), &claims());
        world.assert_refused(&format!("typ {typ}"), &token, "token-invalid").await;
    }
    for typ in ["at+jwt", "application/at+jwt", "AT+JWT"] {
        world.assert_taken(typ, &world.signer().token_with(&json!({ "typ": typ }), &claims())).await;
    }
}

#[tokio::test]
async fn header_members_that_change_the_reading_are_refused() {
    let world = World::new().await;
    for header in [
        json!({ "crit": ["exp"] }),
        json!({ "crit": [] }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "zip": "DEF" }),
        json!({ "enc": "A256GCM" }),
        json!({ "kid": "k".repeat(129) }),
        json!({ "kid": 7 }),
        json!({ "kid": ["a"] }),
    ] {
        let token = world.signer().token_with(&header, &claims());
        world.assert_refused(&header.to_string(), &token, "token-invalid").await;
    }
}

#[tokio::test]
async fn keys_that_a_token_brings_along_are_never_used() {
    let world = World::signing(Signing::Es256).await;
    let stranger = Signer::es256();
    let trap = Recorder::start();
    let url = format!("http://{}/jwks.json", trap.address());
    let hmac = json!({ "kty": "oct", "k": base64url("0123456789abcdef0123456789abcdef") });
    for header in [
        json!({ "jwk": { "kty": "EC", "crv": "P-256", "x": base64url([1; 32]), "y": base64url([2; 32]) } }),
        json!({ "jku": url }),
        json!({ "x5u": url }),
        json!({ "x5c": [base64url(stranger.public())] }),
        json!({ "kid": "../../dev/null" }),
        json!({ "kid": url }),
    ] {
        let token = stranger.token_with(&header, &claims());
        world.assert_refused(&header.to_string(), &token, "token-invalid").await;
        // Beside a good signature they do no harm, but for a `kid` that is not ours.
        if header.get("kid").is_none() {
            world.assert_taken(&header.to_string(), &world.signer().token_with(&header, &claims())).await;
        } else {
            world
                .assert_refused("a strange kid", &world.signer().token_with(&header, &claims()), "token-invalid")
                .await;
        }
    }
    let own = Signer::hs256("0123456789abcdef0123456789abcdef");
    let token = own.token_with(&json!({ "jwk": hmac }), &claims());
    world.assert_refused("an embedded secret", &token, "token-invalid").await;
    assert_eq!(trap.connections(), 0, "the gateway followed a URL of a token");
}

#[tokio::test]
async fn json_that_can_be_read_in_two_ways_is_refused() {
    let world = World::new().await;
    let signer = world.signer();
    let (header, good) = (r#"{"alg":"HS256","typ":"at+jwt"}"#, claims().to_string());
    let inner = good.trim_matches(['{', '}']);
    for (what, header, claims) in [
        ("two sub", header, format!("{{{inner},\"sub\":\"root\"}}")),
        ("two roles", header, format!("{{{inner},\"roles\":[\"admin\"]}}")),
        ("two spellings of sub", header, format!("{{{inner},\"\\u0073ub\":\"root\"}}")),
        ("two aud", header, format!("{{\"aud\":\"other\",{inner}}}")),
        ("a member twice inside", header, format!("{{{inner},\"x\":{{\"y\":1,\"y\":2}}}}")),
        ("two alg", r#"{"alg":"none","alg":"HS256","typ":"at+jwt"}"#, good.clone()),
        ("two typ", r#"{"alg":"HS256","typ":"JWT","typ":"at+jwt"}"#, good.clone()),
        ("something behind the claims", header, format!("{good}{{}}")),
        ("something behind the header", r#"{"alg":"HS256","typ":"at+jwt"} x"#, good.clone()),
        ("a list", header, format!("[{good}]")),
        ("a string", header, "\"alice\"".into()),
        ("nothing", header, String::new()),
        ("null", header, "null".into()),
        ("an open object", header, good.trim_end_matches('}').to_owned()),
        ("a header that is a list", "[]", good.clone()),
        ("a deep claim", header, format!("{{{inner},\"x\":{}1{}}}", "[".repeat(200), "]".repeat(200))),
    ] {
        world.assert_refused(what, &signer.token_of(header, &claims), "token-invalid").await;
    }
}

#[tokio::test]
async fn each_part_has_one_spelling() {
    let world = World::new().await;
    let signer = world.signer();
    // Claims whose length leaves unused bits at the end of the last character.
    let claims =
        (0..3).map(|count| identity::claims().to_string() + &" ".repeat(count)).find(|text| text.len() % 3 == 1);
    let claims = claims.expect("one of three lengths");
    let header = json!({ "alg": "HS256", "typ": "at+jwt" }).to_string();
    let good = signer.token_of(&header, &claims);
    world.assert_taken("the canonical form", &good).await;
    let parts: Vec<&str> = good.split('.').collect();
    let sign = |signed: String| format!("{signed}.{}", base64url(signer.signature(signed.as_bytes())));
    // The last character's lowest bits say nothing: "Q" and "R" mean the same octet.
    let mut sloppy = parts[1].to_owned();
    let last = sloppy.pop().expect("a character");
    sloppy.push(char::from(u8::try_from(last).expect("ASCII") + 1));
    let signature = signer.signature(format!("{}.{}", parts[0], parts[1]).as_bytes());
    for (what, token) in [
        ("padded claims", sign(format!("{}.{}", parts[0], BASE64_URL_SAFE.encode(&claims)))),
        ("unused bits in the claims", sign(format!("{}.{sloppy}", parts[0]))),
        ("a padded signature", format!("{}.{}.{}", parts[0], parts[1], BASE64_URL_SAFE.encode(&signature))),
        (
            "the other alphabet",
            format!("{}.{}.{}", parts[0], parts[1], BASE64_STANDARD.encode([0xff; 32]).replace('=', "")),
        ),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("an empty part", format!(".{good}")),
        ("five parts", format!("{good}.{}.{}", parts[1], parts[2])),
        ("a dot at the end", format!("{good}.")),
        ("no dot", good.replace('.', "")),
        ("one character", "x".into()),
        ("a quoted token", format!("\"{good}\"")),
        ("a comma", format!("{good},{good}")),
    ] {
        world.assert_refused(what, &token, "token-invalid").await;
    }
}

#[tokio::test]
async fn an_overlong_token_is_refused() {
    let worker = Recorder::start();
    // Room for the head, so that the token itself is what is refused.
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nmax_head = \"64KiB\"\n").start().await;
    let long = gateway.signer().token(&json!({ "x": "x".repeat(20_000) }));
    gateway.client().get("/known").bearer(&long).send().await.assert_problem(401, "token-invalid");
    worker.assert_untouched();
}

#[tokio::test]
async fn malformed_authorization_is_400_and_other_schemes_are_no_credential() {
    let world = World::new().await;
    let good = world.signer().token(&json!({}));
    let ask = |value: String| world.gateway.client().get("/known").header("authorization", &value).send();
    for value in ["Bearer".to_owned(), "Bearer ".into(), format!("Bearer {good} {good}"), format!("Bearer {good} x")] {
        let answer = ask(value.clone()).await;
        answer.assert_problem(400, "credential-malformed");
    }
    for value in ["Basic YWxpY2U6eA==".to_owned(), format!("Token {good}"), good.clone(), format!("Bearer:{good}")] {
        ask(value).await.assert_problem(401, "credential-missing");
    }
    world.worker.assert_untouched();
    // The scheme's name has no case (RFC 9110 §11.1).
    assert_eq!(ask(format!("bearer {good}")).await.status, 200);
}

#[tokio::test]
async fn two_credentials_are_refused_even_if_both_are_good() {
    let world = World::new().await;
    let good = world.signer().token(&json!({}));
    for client in [world.gateway.client(), world.gateway.http2()] {
        let answer = client.predict("predictor").bearer(&good).send().await;
        answer.assert_problem(400, "credentials-several");
        let answer = client.get("/known").bearer(&good).bearer(&good).send().await;
        answer.assert_problem(400, "credentials-several");
        let answer = client.get("/known").bearer(&good).header("authorization", "Basic YWxpY2U6eA==").send().await;
        answer.assert_problem(400, "credentials-several");
    }
    world.worker.assert_untouched();
}

#[tokio::test]
async fn a_token_in_the_url_the_body_or_a_cookie_is_no_credential() {
    let world = World::new().await;
    let good = world.signer().token(&json!({}));
    let client = world.gateway.client();
    for request in [
        client.get(&format!("/known?access_token={good}")),
        client.get("/known").header("cookie", &format!("access_token={good}")),
        client.get("/known").header("x-api-key-token", &good),
        client.post("/predict").form(&format!("access_token={good}")),
    ] {
        request.send().await.assert_problem(401, "credential-missing");
    }
    world.worker.assert_untouched();
    let answer = client.get(&format!("/known?access_token={good}")).send().await;
    let record = world.gateway.log().access(&answer.request_id()).await;
    assert!(!record.to_string().contains(&good), "{record}");
}

#[tokio::test]
async fn a_foreign_issuer_is_held_to_its_own_keys_audience_and_names() {
    let worker = Recorder::start();
    let corp = Signer::es256();
    let overlay = "[issuers.corp]\nissuer = \"https://idp.example\"\naudience = [\"models\", \"modelgate\"]\n\
                   algorithms = [\"ES256\"]\npublic_key = \"corp.pem\"\nroles_claim = \"realm_access.roles\"\n\
                   token_types = [\"at+jwt\", \"JWT\"]\n";
    let gateway = Gateway::builder().worker(&worker).file("corp.pem", corp.public()).policy(overlay).start().await;
    let ask = |token: String| gateway.client().post("/predict").bearer(&token).json(&flower()).send();
    let foreign = |changes: Value| {
        let mut all = json!({ "iss": "https://idp.example", "aud": "models", "roles": null, "realm_access": { "roles": ["predictor"] } });
        identity::change(&mut all, &changes);
        all
    };
    // Signed with our key under their name, and the other way round.
    ask(gateway.signer().token(&foreign(json!({})))).await.assert_problem(401, "token-invalid");
    ask(corp.token(&json!({}))).await.assert_problem(401, "token-invalid");
    ask(corp.token(&foreign(json!({ "aud": "other" })))).await.assert_problem(401, "token-invalid");
    // Roles are read from where this issuer has them, and from nowhere else.
    let elsewhere = json!({ "realm_access": { "roles": [] }, "roles": ["predictor"] });
    ask(corp.token(&foreign(elsewhere))).await.assert_problem(403, "role-missing");
    worker.assert_untouched();
    let answer = ask(corp.token(&foreign(json!({})))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let header = json!({ "typ": "JWT" });
    let mut jwt = claims();
    identity::change(&mut jwt, &foreign(json!({})));
    assert_eq!(ask(corp.token_with(&header, &jwt)).await.status, 200, "the operator allows this type for this issuer");
    for seen in worker.seen() {
        // RFC 7519 §4.1.2: the same subject of another issuer is somebody else.
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("corp:alice"));
    }
}

#[tokio::test]
async fn roles_are_read_from_a_scope_or_a_claim_with_a_long_name() {
    for (claim, changes) in [
        ("scope", json!({ "scope": "openid reader predictor" })),
        ("https://idp.example/claims.roles", json!({ "https://idp.example/claims.roles": ["predictor"] })),
        ("a.b.c", json!({ "a": { "b": { "c": ["predictor"] } } })),
    ] {
        let worker = Recorder::start();
        let corp = Signer::rs256();
        let overlay = format!(
            "[issuers.corp]\nissuer = \"https://idp.example\"\naudience = \"modelgate\"\nalgorithms = [\"RS256\"]\n\
             public_key = \"corp.pem\"\nroles_claim = \"{claim}\"\n"
        );
        let gateway = Gateway::builder().worker(&worker).file("corp.pem", corp.public()).policy(overlay).start().await;
        let mut all = json!({ "iss": "https://idp.example" });
        let without = corp.token(&all);
        identity::change(&mut all, &changes);
        let with = corp.token(&all);
        let ask = |token: String| gateway.client().post("/predict").bearer(&token).json(&flower()).send();
        // `roles` is there too and is not the claim that counts.
        ask(without).await.assert_problem(403, "role-missing");
        worker.assert_untouched();
        assert_eq!(ask(with).await.status, 200, "{claim}");
    }
}

#[tokio::test]
async fn the_leeway_of_a_foreign_issuer_is_bounded() {
    let worker = Recorder::start();
    let corp = Signer::es256();
    let overlay = "[issuers.corp]\nissuer = \"https://idp.example\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\n\
                   public_key = \"corp.pem\"\nleeway = \"20s\"\n";
    let gateway = Gateway::builder().worker(&worker).file("corp.pem", corp.public()).policy(overlay).start().await;
    let ask = |exp: u64| {
        let token = corp.token(&json!({ "iss": "https://idp.example", "exp": exp }));
        gateway.client().get("/known").bearer(&token).send()
    };
    ask(now() - 21).await.assert_problem(401, "token-expired");
    worker.assert_untouched();
    assert_eq!(ask(now() - 10).await.status, 200);
}

/// `corp` with the subject `a:b` and `corp:a` with the subject `b` would be one principal, with one window
/// and one name to the worker. Issuers' names must not be able to say so.
#[tokio::test]
async fn two_issuers_can_not_name_the_same_principal() {
    let corp = Signer::es256();
    let overlay = "[issuers.\"corp:a\"]\nissuer = \"https://idp.example\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\n\
                   public_key = \"corp.pem\"\n";
    let refused = Gateway::builder().file("corp.pem", corp.public()).policy(overlay).output("check");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "an issuer's name with a colon is taken: {said}");
    assert!(said.contains("corp:a"), "{said}");
}

/// An RSA key of 1024 bits: too short since long ago (RFC 7518 §3.3 asks for 2048).
const SHORT_RSA_KEY: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdSfEXgOOZ1mIusrk0SlkcVlj3
KAaKY6lab+T2b2viUy7ddS9e00y4mwMMLo1k5PWcxMOfpxVOVPxkzL75GalPMCNW
7xnOiMFQrziK1zlreD3JyV0eWzJMxiwoP+3LxatRj7a2qSWbLRddu5gaAEkoYF4M
N8xYot6QxJQPCKtwiQIDAQAB
-----END PUBLIC KEY-----
";

#[tokio::test]
async fn a_key_that_can_never_verify_is_a_mistake_of_the_configuration() {
    let p384 =
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key can be made").public_key_pem();
    for (what, algorithm, key) in [
        ("an RSA key that is too short", "RS256", SHORT_RSA_KEY.to_owned()),
        ("a key on another curve", "ES256", p384),
        ("a key of another kind", "RS256", Signer::es256().public()),
        ("a private key", "ES256", Signer::es256().private()),
        ("a public key as a secret", "HS256", Signer::es256().public()),
        ("nothing", "ES256", String::new()),
    ] {
        let overlay = format!(
            "[issuers.corp]\nissuer = \"https://idp.example\"\naudience = \"modelgate\"\nalgorithms = [\"{algorithm}\"]\n\
             public_key = \"corp.pem\"\n"
        );
        let checked = Gateway::builder().file("corp.pem", key).policy(overlay).output("check");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(78), "{what} is taken: {said}");
        assert!(said.contains("issuers.corp.public_key"), "{what}: {said}");
        assert!(!said.contains("PRIVATE") && !said.contains("MI"), "{what} is shown: {said}");
    }
}
