//! What the header says is not what the signature is: RFC 8725 §3.1, §3.2.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use harness::Signer;
use harness::identity::base64url;
use serde_json::{Value, json};

use super::{Hostile, Signers, World, claims_of, hostile};

/// Every way in which a public key can be written down, as the secret of an HMAC.
fn spellings(signer: &Signer) -> Vec<(&'static str, Vec<u8>)> {
    let pem = signer.public();
    let inner = pem.lines().filter(|line| !line.starts_with("--")).collect::<String>();
    let der = BASE64_STANDARD.decode(&inner).expect("PEM is Base64");
    vec![
        ("PEM", pem.clone().into_bytes()),
        ("PEM without its last line end", pem.trim_end().into()),
        ("PEM with CRLF", pem.replace('\n', "\r\n").into()),
        ("PEM in one line", pem.replace('\n', "").into()),
        ("PEM's inside", inner.clone().into()),
        ("PEM's inside, unpadded", inner.trim_end_matches('=').into()),
        ("DER", der.clone()),
        ("DER in base64url", base64url(&der).into()),
        ("the last 65 octets of DER", der[der.len() - 65..].to_vec()),
    ]
}

/// A token of an issuer's claims over an HMAC with this secret.
fn confused(name: &str, alg: &str, secret: &[u8]) -> String {
    Signer::hs256(secret).token_with(&json!({ "alg": alg }), &claims_of(name, &json!({})))
}

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    let mut all = Vec::new();
    for (name, alg) in [("es", "ES256"), ("rs", "RS256"), ("set", "ES256")] {
        for (spelling, secret) in spellings(signers.of(name)) {
            all.push(hostile(format!("HS256 with {name}'s key as {spelling}"), confused(name, "HS256", &secret)));
        }
        let pem = signers.of(name).public();
        all.push(hostile(format!("{alg} in name, HMAC in truth"), confused(name, alg, pem.as_bytes())));
    }
    for (spelling, jwk) in
        [("as JWK", signers.set.jwk("1")), ("as a JWK Set", json!({ "keys": [signers.set.jwk("1")] }))]
    {
        all.push(hostile(
            format!("HS256 with the key {spelling}"),
            confused("set", "HS256", jwk.to_string().as_bytes()),
        ));
    }
    let point = signers.ed_jwk();
    all.push(hostile("HS256 with Ed25519's JWK", confused("ed", "HS256", point.to_string().as_bytes())));
    all.push(hostile("HS256 with Ed25519's x", confused("ed", "HS256", point["x"].to_string().as_bytes())));
    for secret in [&b""[..], b"\0", b"secret", b"modelgate", &[0; 32]] {
        all.push(hostile(format!("a secret to be guessed: {secret:?}"), confused("own", "HS256", secret)));
    }

    let good = claims_of("own", &json!({})).to_string();
    for alg in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "n\u{f6}ne",
        "\u{ff4e}one",
        "none\0",
        " none",
        "none ",
        "\tnone",
        "null",
        "",
        "0",
        "false",
        "undefined",
        "hs256",
        "HS256 ",
        "HS-256",
        "HS256\0",
        "RS256,HS256",
        "HMAC",
        "SHA256",
        "A128KW",
        "dir",
    ] {
        let header = json!({ "typ": "at+jwt", "alg": alg }).to_string();
        let signed = format!("{}.{}", base64url(&header), base64url(&good));
        all.push(hostile(format!("alg {alg:?} unsigned"), format!("{signed}.")));
        all.push(hostile(
            format!("alg {alg:?} with a signature that would hold"),
            signers.own.token_of(&header, &good),
        ));
    }
    for alg in [Value::Null, json!(["HS256"]), json!({ "alg": "HS256" }), json!(256), json!(true), json!([]), json!({})]
    {
        all.push(hostile(format!("alg {alg}"), signers.token("own", &json!({ "alg": alg }), &json!({}))));
    }
    for (name, algs) in [
        ("own", &["HS384", "HS512", "RS256", "ES256", "EdDSA"][..]),
        ("rs", &["RS384", "RS512", "PS256", "PS384", "ES256", "HS256", "RS1", "EdDSA"]),
        ("es", &["ES384", "ES512", "ES256K", "RS256", "EdDSA", "Ed25519"]),
    ] {
        for alg in algs {
            all.push(hostile(format!("{name} as {alg}"), signers.token(name, &json!({ "alg": alg }), &json!({}))));
        }
    }
    // Everybody's good signature under everybody else's name.
    for signs in ["own", "es", "rs", "set"] {
        for claims in ["own", "es", "rs", "ed", "set"].into_iter().filter(|claims| *claims != signs) {
            let token = signers.of(signs).token_with(&json!({}), &claims_of(claims, &json!({})));
            all.push(hostile(format!("{signs} signs for {claims}"), token));
        }
    }
    all
}

#[tokio::test]
async fn no_algorithm_is_taken_for_another() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}
