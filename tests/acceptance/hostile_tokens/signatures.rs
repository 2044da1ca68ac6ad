//! Signatures that broken verifiers take: zeros, DER, points of small order, other spellings: RFC 7518 §3.4, RFC 8037, RFC
//! 8032 §5.1.7; CVE-2022-21449.

use harness::identity::{base64url, part};
use harness::{Gateway, Recorder, Signer, Signing};
use serde_json::{Value, json};

use super::{Hostile, Signers, World, claims_of, hostile, iss};

/// The order of P-256's group (FIPS 186-5), big-endian.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
    0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of Ed25519's base point (RFC 8032 §5.1), little-endian.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// `P256_ORDER - s`, big-endian.
fn negated(s: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut out: Vec<u8> = P256_ORDER
        .iter()
        .zip(s)
        .rev()
        .map(|(order, s)| {
            let difference = i16::from(*order) - i16::from(*s) - borrow;
            borrow = i16::from(difference < 0);
            u8::try_from(difference + 256 * borrow).expect("an octet")
        })
        .collect();
    out.reverse();
    out
}

/// `s + ED25519_ORDER`, little-endian.
fn plus_order(s: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let sum = s.iter().zip(ED25519_ORDER).map(|(s, order)| {
        let sum = u16::from(*s) + u16::from(order) + carry;
        carry = sum >> 8;
        u8::try_from(sum & 0xff).expect("an octet")
    });
    sum.collect()
}

/// A number in DER (X.690 §8.3).
fn der_integer(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap_or(number.len() - 1);
    let pad: &[u8] = if number[start] & 0x80 == 0 { &[] } else { &[0] };
    let body = [pad, &number[start..]].concat();
    [&[2, u8::try_from(body.len()).expect("a short number")][..], &body].concat()
}

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    let mut all = Vec::new();
    let header = json!({ "typ": "at+jwt", "alg": "ES256" }).to_string();
    let signed = format!("{}.{}", base64url(header), base64url(claims_of("es", &json!({})).to_string()));
    let good = signers.es.signature(signed.as_bytes());
    let (r, s) = good.split_at(32);
    let one = [&[0; 31][..], &[1]].concat();
    let zero = vec![0; 32];
    let der = [der_integer(r), der_integer(s)].concat();
    let der = [&[0x30, u8::try_from(der.len()).expect("a short signature")][..], &der].concat();
    let other = signers.es.signature(b"another text");
    for (what, signature) in [
        ("nothing", Vec::new()),
        ("r and s zero", vec![0; 64]),
        ("r zero", [&zero, s].concat()),
        ("s zero", [r, &zero].concat()),
        ("r and s one", [&one[..], &one].concat()),
        ("r the order", [&P256_ORDER, s].concat()),
        ("s the order", [r, &P256_ORDER].concat()),
        ("both the order", [P256_ORDER, P256_ORDER].concat()),
        ("all ones", vec![0xff; 64]),
        ("DER", der.clone()),
        ("DER, padded to its length", {
            let mut der = der;
            der.resize(72, 0);
            der
        }),
        ("s and r", [s, r].concat()),
        ("r alone", r.to_vec()),
        ("r twice", [r, r].concat()),
        ("an octet less", good[..63].to_vec()),
        ("an octet more", [&good[..], &[0]].concat()),
        ("as for P-384", [&[0; 16][..], r, &[0; 16], s].concat()),
        ("as for P-521", [&[0; 34][..], r, &[0; 34], s].concat()),
        ("negative r", [&negated(r)[..], s].concat()),
        ("of another text", other),
        ("of another key", Signer::es256().signature(signed.as_bytes())),
    ] {
        all.push(hostile(format!("ES256: {what}"), format!("{signed}.{}", base64url(signature))));
    }

    let identity = [&[1][..], &[0; 31]].concat();
    for (what, make) in [
        ("nothing", Box::new(|_: &[u8]| Vec::new()) as Box<dyn Fn(&[u8]) -> Vec<u8>>),
        ("zeros", Box::new(|_| vec![0; 64])),
        ("R the identity, S zero", Box::new(|_| [&identity[..], &[0; 32]].concat())),
        ("S plus the order", Box::new(|good| [&good[..32], &plus_order(&good[32..])].concat())),
        ("S the order", Box::new(|good| [&good[..32], &ED25519_ORDER].concat())),
        (
            "R with another sign",
            Box::new(|good| {
                let mut good = good.to_vec();
                good[31] ^= 0x80;
                good
            }),
        ),
        ("S and R", Box::new(|good| [&good[32..], &good[..32]].concat())),
        ("an octet less", Box::new(|good| good[..63].to_vec())),
        ("an octet more", Box::new(|good| [good, &[0]].concat())),
        ("all ones", Box::new(|_| vec![0xff; 64])),
    ] {
        let token = signers.ed(&json!({}), |key, signed| make(key.sign(signed).as_ref()));
        all.push(hostile(format!("EdDSA: {what}"), token));
    }
    let named = signers.ed(&json!({ "alg": "Ed448" }), |key, signed| key.sign(signed).as_ref().to_vec());
    all.push(hostile("EdDSA as Ed448", named));

    let header = json!({ "typ": "at+jwt", "alg": "RS256" }).to_string();
    let signed = format!("{}.{}", base64url(header), base64url(claims_of("rs", &json!({})).to_string()));
    let good = signers.rs.signature(signed.as_bytes());
    for (what, signature) in [
        ("nothing", Vec::new()),
        ("zeros", vec![0; 256]),
        ("one", [&[0; 255][..], &[1]].concat()),
        ("all ones", vec![0xff; 256]),
        ("without its first octet", good[1..].to_vec()),
        ("with a zero before", [&[0], &good[..]].concat()),
        ("with a zero behind", [&good[..], &[0]].concat()),
        ("of another key", Signer::rs256().signature(signed.as_bytes())),
    ] {
        all.push(hostile(format!("RS256: {what}"), format!("{signed}.{}", base64url(signature))));
    }
    all
}

#[tokio::test]
async fn no_signature_but_the_right_one_holds() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}

/// ECDSA takes (r, -s) wherever it takes (r, s), and JWS does not say which to make (RFC 7518 §3.4). Both are the same
/// token here: they prove the same, and whoever takes one back takes the other.
#[tokio::test]
async fn a_signature_in_its_other_form_makes_no_other_token() {
    let worker = Recorder::start();
    let overlay = harness::identity::clients();
    let gateway = Gateway::builder().worker(&worker).signing(Signing::Es256).policy(overlay).start().await;
    let token = crate::oauth::credentials(&gateway.client(), "ci").await;
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let signature = raw(&token);
    let mirrored = format!("{signed}.{}", base64url([&signature[..32], &negated(&signature[32..])].concat()));
    let ask = |token: &str| gateway.client().get("/known").bearer(token).send();
    assert_eq!((ask(&token).await.status, ask(&mirrored).await.status), (200, 200));
    let principals: Vec<_> = worker.seen().iter().map(|seen| seen.header("x-modelgate-principal")).collect();
    assert_eq!(principals[0], principals[1]);
    let revoke = gateway.client().post("/revoke").as_client("ci").form(&format!("token={mirrored}"));
    assert_eq!(revoke.send().await.status, 200, "{}", part(&token, 1));
    for token in [&token, &mirrored] {
        ask(token).await.assert_problem(401, "token-revoked");
    }
}

fn raw(token: &str) -> Vec<u8> {
    use base64::Engine as _;
    let signature = token.rsplit('.').next().expect("a signature");
    base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64url")
}

/// Whoever chooses a key of small order signs everything with one signature (RFC 8032 §8.6 leaves it to the verifier).
#[test]
fn a_key_of_small_order_is_no_key() {
    let edge = |first: u8, last: u8| [&[first][..], &[0xff; 30], &[last]].concat();
    let low = |first: u8, last: u8| [&[first][..], &[0; 30], &[last]].concat();
    let order8 = |hex: &str| -> Vec<u8> {
        (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("base16")).collect()
    };
    for x in [
        low(0, 0),
        low(0, 0x80),
        low(1, 0),
        low(1, 0x80),
        edge(0xec, 0x7f),
        edge(0xec, 0xff),
        edge(0xed, 0x7f),
        edge(0xee, 0x7f),
        edge(0xee, 0xff),
        order8("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        order8("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85"),
        order8("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        order8("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"),
    ] {
        let jwk: Value = json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(&x) });
        let overlay = format!(
            "[issuers.ed]\nissuer = \"{}\"\naudience = \"modelgate\"\nalgorithms = [\"EdDSA\"]\npublic_key = \"ed.json\"\n",
            iss("ed")
        );
        let output = Gateway::builder().file("ed.json", jwk.to_string()).policy(overlay).output("check");
        assert_eq!(output.status.code(), Some(78), "{x:02x?} is taken");
    }
}
