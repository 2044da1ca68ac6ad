//! Other spellings of the three parts, parts too many and too few, parts cut off and too long: RFC 7515 §2, §7.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use harness::identity::base64url;
use serde_json::json;

use super::{Hostile, Signers, World, claims_of, hostile};

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    [parts(signers), spellings(signers), changes(signers)].into_iter().flatten().collect()
}

/// Signs what stands before the last dot, as it stands.
fn sign(signers: &Signers, signed: &str) -> String {
    format!("{signed}.{}", base64url(signers.own.signature(signed.as_bytes())))
}

fn parts(signers: &Signers) -> Vec<Hostile> {
    let [header, claims, signature] = signers.good();
    let mut all = Vec::new();
    let sign = |signed: String| sign(signers, &signed);
    for (what, token) in [
        ("one part", header.clone()),
        ("one part and a dot", format!("{header}.")),
        ("two parts", format!("{header}.{claims}")),
        ("an empty signature", format!("{header}.{claims}.")),
        ("no header", format!(".{claims}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("no claims and signed so", sign(format!("{header}."))),
        ("no header and signed so", sign(format!(".{claims}"))),
        ("dots alone", "..".to_owned()),
        ("four parts", format!("{header}.{claims}.{signature}.{signature}")),
        ("a dot at the end", format!("{header}.{claims}.{signature}.")),
        ("a dot at the beginning", format!(".{header}.{claims}.{signature}")),
        ("five parts, as JWE", format!("{header}.{claims}.{signature}.{claims}.{signature}")),
        ("two tokens", format!("{header}.{claims}.{signature},{header}.{claims}.{signature}")),
        ("a token twice", format!("{header}.{claims}.{signature}{header}.{claims}.{signature}")),
        ("quotes", format!("\"{header}.{claims}.{signature}\"")),
        ("brackets", format!("<{header}.{claims}.{signature}>")),
        ("parts in another order", format!("{claims}.{header}.{signature}")),
        ("the header as claims", sign(format!("{header}.{header}"))),
        ("other dots", format!("{header}\u{2024}{claims}\u{2024}{signature}")),
        ("the word", "Bearer".to_owned()),
        ("null", "null".to_owned()),
        ("undefined", "undefined".to_owned()),
        ("JSON serialisation, flattened", {
            json!({ "protected": header, "payload": claims, "signature": signature }).to_string().replace(' ', "")
        }),
        ("JSON serialisation, general", {
            json!({ "payload": claims, "signatures": [{ "protected": header, "signature": signature }] }).to_string()
        }),
    ] {
        all.push(hostile(what, token));
    }

    all
}

fn spellings(signers: &Signers) -> Vec<Hostile> {
    let [header, claims, signature] = signers.good();
    let sign = |signed: String| sign(signers, &signed);
    let mut all = Vec::new();
    // The same octets in other spellings, signed as they stand.
    let octets = claims_of("own", &json!({ "x": "????>>>>" })).to_string();
    let odd = (0..3).map(|count| octets.clone() + &" ".repeat(count)).find(|text| text.len() % 3 == 1);
    let odd = odd.expect("one of three lengths");
    let mut sloppy = base64url(&odd);
    let last = sloppy.pop().expect("a character");
    sloppy.push(char::from(u8::try_from(last).expect("ASCII") + 1));
    for (what, spelt) in [
        ("padded", BASE64_URL_SAFE.encode(&odd)),
        ("padded too much", format!("{claims}====")),
        ("the other alphabet", BASE64_STANDARD_NO_PAD.encode(&odd)),
        ("the other alphabet, padded", BASE64_STANDARD.encode(&odd)),
        ("unused bits", sloppy),
        ("a character too few", base64url(&odd)[..base64url(&odd).len() - 1].to_owned()),
        ("a single character more", format!("{}A", base64url(&odd))),
        ("a character that is none", format!("{}*", &claims[..claims.len() - 1])),
        ("a percent sign", format!("{}%3D", base64url(&odd))),
        ("in base16", base16(odd.as_bytes())),
        ("encoded twice", base64url(base64url(&odd))),
        ("not encoded", odd.replace(' ', "")),
    ] {
        all.push(hostile(format!("claims {what}"), sign(format!("{header}.{spelt}"))));
    }
    for (what, spelt) in [
        ("padded", BASE64_URL_SAFE.encode(r#"{"alg":"HS256","typ":"at+jwt"}  "#)),
        ("encoded twice", base64url(&header)),
        ("not encoded", r#"{"alg":"HS256","typ":"at+jwt"}"#.to_owned()),
    ] {
        all.push(hostile(format!("a header {what}"), sign(format!("{spelt}.{claims}"))));
    }
    let raw = signers.own.signature(format!("{header}.{claims}").as_bytes());
    let signed = |signature: String| format!("{header}.{claims}.{signature}");
    for (what, spelt) in [
        ("padded", BASE64_URL_SAFE.encode(&raw)),
        ("cut by an octet", base64url(&raw[..31])),
        ("cut to half", base64url(&raw[..16])),
        ("cut to one", base64url(&raw[..1])),
        ("with an octet more", base64url([&raw[..], &[0]].concat())),
        ("with an octet before", base64url([&[0], &raw[..]].concat())),
        ("twice", base64url([&raw[..], &raw[..]].concat())),
        ("of zeros", base64url([0; 32])),
        ("in base16", base16(&raw)),
        ("of something else", base64url(signers.own.signature(claims.as_bytes()))),
        ("a character too few", signature[..signature.len() - 1].to_owned()),
        ("huge", base64url([7; 5000])),
    ] {
        all.push(hostile(format!("a signature {what}"), signed(spelt)));
    }
    all
}

fn changes(signers: &Signers) -> Vec<Hostile> {
    let [header, claims, signature] = signers.good();
    let mut all = Vec::new();
    // Octet by octet, whatever is changed.
    for place in (0..header.len()).step_by(7) {
        all.push(hostile(
            format!("another header at {place}"),
            format!("{}.{claims}.{signature}", other(&header, place)),
        ));
    }
    for place in (0..claims.len()).step_by(23) {
        all.push(hostile(
            format!("other claims at {place}"),
            format!("{header}.{}.{signature}", other(&claims, place)),
        ));
    }
    for place in (0..signature.len()).step_by(5) {
        all.push(hostile(
            format!("another signature at {place}"),
            format!("{header}.{claims}.{}", other(&signature, place)),
        ));
    }

    let filled = |count: usize| json!({ "x": "x".repeat(count) });
    all.push(hostile("huge claims", signers.token("own", &json!({}), &filled(20_000))));
    all.push(hostile("a huge header", signers.token("own", &filled(20_000), &json!({}))));
    all.push(hostile("a token of 8193 octets", "a.b.".to_owned() + &"c".repeat(8189)));
    all.push(hostile("dots", ".".repeat(4000)));
    all.push(hostile("braces", base64url("{".repeat(3000)) + ".e30.AA"));
    all
}

fn base16(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |text, octet| text + &format!("{octet:02x}"))
}

/// The text with another character at a place.
fn other(text: &str, place: usize) -> String {
    let with = if text.as_bytes()[place] == b'A' { "B" } else { "A" };
    format!("{}{with}{}", &text[..place], &text[place + 1..])
}

#[tokio::test]
async fn each_part_has_one_spelling_and_there_are_three() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}
