//! Headers that want to choose a key, a reading or another token: RFC 8725 §3.10 to §3.12, RFC 7515 §4.1.

use harness::identity::base64url;
use harness::{Recorder, Signer};
use serde_json::{Value, json};

use super::{Hostile, Signers, World, claims_of, hostile};

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    [kids(signers), keys(), readings(signers)].into_iter().flatten().collect()
}

fn kids(signers: &Signers) -> Vec<Hostile> {
    let mut all = Vec::new();
    for kid in [
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "set.json",
        "./set.json",
        "keys/1",
        "1\0",
        "\0",
        "1 ",
        " 1",
        "01",
        "1.0",
        "\u{661}",
        "' OR '1'='1",
        "1'; DROP TABLE keys;--",
        "1 UNION SELECT 'x'",
        "$(id)",
        "`id`",
        "|id",
        "%31",
        "${jndi:ldap://127.0.0.1/x}",
        "{{7*7}}",
        "*",
        "",
        "null",
        "__proto__",
        "1\r\nX-Admin: 1",
        "https://evil.example/jwks.json",
        "http://169.254.169.254/latest/meta-data/",
    ] {
        // With the right key and without: the name is compared, and nothing else is done with it.
        all.push(hostile(format!("kid {kid:?}"), signers.token("set", &json!({ "kid": kid }), &json!({}))));
    }
    for kid in [json!(1), json!(["1"]), json!({ "1": 1 }), json!(true), json!("1".repeat(129)), json!("1".repeat(4000))]
    {
        let what: String = format!("kid {kid}").chars().take(40).collect();
        all.push(hostile(what, signers.token("set", &json!({ "kid": kid }), &json!({}))));
    }
    all
}

/// Keys that a token brings along.
fn keys() -> Vec<Hostile> {
    let mut all = Vec::new();
    let stranger = Signer::es256();
    let claims = claims_of("set", &json!({}));
    let (jwk, certificate) = (stranger.jwk("1"), base64url(stranger.public()));
    for header in [
        json!({ "jwk": jwk }),
        json!({ "kid": "1", "jwk": jwk }),
        json!({ "jwk": [jwk] }),
        json!({ "jwks": { "keys": [jwk] } }),
        json!({ "jku": "https://evil.example/jwks.json" }),
        json!({ "kid": "1", "jku": "https://set.example@evil.example/" }),
        json!({ "jku": "file:///proc/self/environ" }),
        json!({ "x5u": "https://evil.example/x.pem" }),
        json!({ "x5c": [certificate] }),
        json!({ "kid": "1", "x5c": [certificate], "x5t": base64url([1; 20]), "x5t#S256": base64url([1; 32]) }),
        json!({ "pem": stranger.public() }),
        json!({ "iss": super::iss("es") }),
    ] {
        all.push(hostile(format!("a key of their own: {header}"), stranger.token_with(&header, &claims)));
    }
    let embedded = json!({ "jwk": { "kty": "oct", "k": base64url([7; 32]) } });
    all.push(hostile(
        "an embedded secret",
        Signer::hs256([7; 32]).token_with(&embedded, &claims_of("own", &json!({}))),
    ));
    all
}

fn readings(signers: &Signers) -> Vec<Hostile> {
    let mut all = Vec::new();
    // What must be understood and is not; what would be read in another way.
    for header in [
        json!({ "crit": ["exp"] }),
        json!({ "crit": ["exp"], "exp": 9 }),
        json!({ "crit": [] }),
        json!({ "crit": "b64" }),
        json!({ "crit": {} }),
        json!({ "crit": ["alg"] }),
        json!({ "crit": ["b64"], "b64": false }),
        json!({ "crit": ["b64"], "b64": true }),
        json!({ "crit": ["http://example.com/UNDEFINED"], "http://example.com/UNDEFINED": true }),
        json!({ "zip": "DEF" }),
        json!({ "enc": "A256GCM" }),
        json!({ "enc": "A128CBC-HS256", "alg": "dir" }),
    ] {
        all.push(hostile(format!("header {header}"), signers.token("own", &header, &json!({}))));
    }
    for typ in [
        Value::Null,
        json!(""),
        json!("JWT"),
        json!("jwt"),
        json!("id_token+jwt"),
        json!("dpop+jwt"),
        json!("logout+jwt"),
        json!("secevent+jwt"),
        json!("at+jwt "),
        json!("at+jwt;x"),
        json!("at+jwt\0"),
        json!("application/application/at+jwt"),
        json!("text/at+jwt"),
        json!(["at+jwt"]),
        json!({ "at+jwt": 1 }),
        json!(1),
        json!(true),
    ] {
        all.push(hostile(format!("typ {typ}"), signers.token("own", &json!({ "typ": typ }), &json!({}))));
    }
    // A token in a token (RFC 7519 §5.2).
    let inner = signers.token("own", &json!({}), &json!({}));
    let header = json!({ "typ": "at+jwt", "cty": "JWT", "alg": "HS256" }).to_string();
    all.push(hostile("a token in a token", signers.own.token_of(&header, &inner)));
    all.push(hostile("a token as JSON in a token", signers.own.token_of(&header, &json!(inner).to_string())));
    all
}

#[tokio::test]
async fn no_header_chooses_a_key_or_a_reading() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}

#[tokio::test]
async fn no_url_of_a_token_is_asked() {
    let (world, trap) = (World::new().await, Recorder::start());
    let url = format!("http://{}/jwks.json", trap.address());
    let claims = claims_of("set", &json!({}));
    let headers = ["jku", "x5u", "kid", "iss", "jwk"].map(|name| json!({ name: url }));
    let tokens = headers.map(|header| hostile(header.to_string(), Signer::es256().token_with(&header, &claims)));
    world.assert_refused(tokens.into()).await;
    assert_eq!(trap.connections(), 0);
}
