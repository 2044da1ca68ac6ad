//! Claims of wrong types, for others, of others, and at the edges of time: RFC 7519 §4.1, RFC 8725 §3.8, §3.9.

use harness::identity::{ISSUER, now};
use serde_json::{Value, json};

use super::{Hostile, Signers, World, hostile, iss};

pub(super) fn tokens(signers: &Signers) -> Vec<Hostile> {
    let tables = [dates(), audiences(), names()];
    let refused = tables.into_iter().flatten().map(|(name, changes, slug)| {
        let what: String = format!("{name} {changes}").chars().take(90).collect();
        Hostile { slug, ..hostile(what, signers.token(name, &json!({}), &changes)) }
    });
    refused.collect()
}

/// An issuer, what is changed in its good claims, and why that is refused.
type Case = (&'static str, Value, &'static str);

fn dates() -> Vec<Case> {
    let mut all = Vec::new();
    let mut refuse = |name, changes, slug| all.push((name, changes, slug));
    let in_an_hour = now() + 3600;
    for exp in [
        json!(in_an_hour.to_string()),
        json!(""),
        json!([in_an_hour]),
        json!({ "seconds": in_an_hour }),
        json!(true),
        json!(-1),
        json!(-1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(253_402_300_800_u64),
        json!(in_an_hour * 1000),
        json!("2099-01-01T00:00:00Z"),
    ] {
        refuse("own", json!({ "exp": exp }), "token-invalid");
    }
    refuse("own", json!({ "exp": null }), "token-invalid");
    for exp in
        [json!(0), json!(1), json!(0.5), json!(now()), json!(now() - 1), json!(now() - 86400), json!(now() - 1).clone()]
    {
        refuse("own", json!({ "exp": exp }), "token-expired");
    }
    // Others' clocks may go wrong by thirty seconds, and no more.
    for exp in [now() - 31, now() - 60, now() - 3600] {
        refuse("es", json!({ "exp": exp }), "token-expired");
    }
    for name in ["nbf", "iat"] {
        for date in [
            json!(now() + 3600),
            json!(in_an_hour * 1000),
            json!(-1),
            json!("now"),
            json!([now()]),
            json!({}),
            json!(true),
            json!(1e300),
        ] {
            refuse("own", json!({ name: date }), "token-invalid");
        }
    }
    refuse("own", json!({ "nbf": now() + 120 }), "token-invalid");
    refuse("es", json!({ "nbf": now() + 120 }), "token-invalid");
    refuse("own", json!({ "nbf": now() + 120, "iat": now() - 60 }), "token-invalid");
    all
}

fn audiences() -> Vec<Case> {
    let mut all = Vec::new();
    let mut refuse = |name, changes, slug| all.push((name, changes, slug));
    for aud in [
        json!("another"),
        json!(""),
        json!("modelgate "),
        json!(" modelgate"),
        json!("Modelgate"),
        json!("modelgate2"),
        json!("model"),
        json!("*"),
        json!("modelgate\0"),
        json!("other modelgate"),
        json!("other,modelgate"),
        json!([]),
        json!(["a", "b"]),
        json!([["modelgate"]]),
        json!([null]),
        json!([{ "modelgate": 1 }]),
        json!({ "modelgate": true }),
        json!({ "0": "modelgate" }),
        json!(true),
        json!(1),
    ] {
        refuse("own", json!({ "aud": aud }), "token-invalid");
    }
    refuse("own", json!({ "aud": null }), "token-invalid");
    all
}

fn names() -> Vec<Case> {
    let mut all = Vec::new();
    let mut refuse = |name, changes, slug| all.push((name, changes, slug));
    for other in [
        json!("https://evil.example"),
        json!(format!("{ISSUER}/")),
        json!(format!("{ISSUER} ")),
        json!(ISSUER.to_uppercase()),
        json!(ISSUER.replace("https", "http")),
        json!(format!("{ISSUER}.evil.example")),
        json!(format!("{ISSUER}@evil.example")),
        json!(""),
        json!([ISSUER]),
        json!({ "iss": ISSUER }),
        json!(1),
        json!(true),
        json!(iss("es")),
        json!(iss("set")),
        json!("own"),
        json!("user"),
    ] {
        refuse("own", json!({ "iss": other }), "token-invalid");
    }
    refuse("own", json!({ "iss": null }), "token-invalid");

    for sub in [
        json!(""),
        json!(" "),
        json!("a b"),
        json!("alice\r\nX-Modelgate-Principal: root"),
        json!("alice\n"),
        json!("al\0ice"),
        json!("alice\t"),
        json!("\u{7f}"),
        json!("\u{1b}[31malice"),
        json!("\u{202e}ecila"),
        json!("al\u{200b}ice"),
        json!("\u{430}lice"),
        json!("ali\u{301}ce"),
        json!("\u{1f600}"),
        json!("a".repeat(256)),
        json!("a".repeat(5000)),
        json!(7),
        json!(true),
        json!(["alice"]),
        json!({ "sub": "alice" }),
    ] {
        refuse("own", json!({ "sub": sub }), "token-invalid");
    }
    refuse("own", json!({ "sub": null }), "token-invalid");
    all
}

#[tokio::test]
async fn no_claim_of_a_wrong_type_or_time_or_for_others_counts() {
    let world = World::new().await;
    world.assert_refused(tokens(&world.signers)).await;
}

#[tokio::test]
async fn a_token_at_the_edge_of_its_time_is_good() {
    let world = World::new().await;
    let signers = &world.signers;
    for (name, changes) in [
        ("own", json!({ "exp": now() + 20 })),
        ("own", json!({ "exp": 253_402_300_799_u64 })),
        ("es", json!({ "exp": now() - 10 })),
        ("own", json!({ "nbf": now() + 20, "iat": now() + 20 })),
        ("own", json!({ "nbf": 0, "iat": 0 })),
        ("own", json!({ "sub": "a".repeat(255) })),
        ("own", json!({ "aud": ["", "modelgate"] })),
    ] {
        let answer = world.ask(&signers.token(name, &json!({}), &changes)).await;
        assert_eq!(answer.status, 200, "{changes}: {}", answer.text());
    }
}

#[tokio::test]
async fn roles_of_a_wrong_type_are_no_roles() {
    let world = World::new().await;
    for roles in [
        json!({ "predictor": true }),
        json!(7),
        json!(true),
        json!([["predictor"]]),
        json!([{ "name": "predictor" }]),
        json!("predictor,admin"),
        json!(["Predictor"]),
        json!(["predictor "]),
        json!([null]),
        json!(""),
        json!([]),
        json!("*"),
    ] {
        let token = world.signers.token("own", &json!({}), &json!({ "roles": roles }));
        let answer = world.ask(&token).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "role-missing"), "{roles}");
    }
    world.worker.assert_untouched();
}
