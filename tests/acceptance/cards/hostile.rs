//! Workers that tell what is no card.

use harness::wire::plain;
use harness::{Reply, eventually};
use serde_json::{Value, json};

use super::{Model, ask, builder, card, features, guards, until};

fn answering(body: impl Into<Vec<u8>>) -> Reply {
    Reply::with(200, "Content-Type: application/json\r\n", &body.into())
}

#[tokio::test]
async fn what_is_no_card_closes_the_guard_and_nothing_else() {
    let feature = |name: &str| json!({ "name": name, "bounds": { "above": 0, "at_most": 1 } });
    let many: Vec<Value> = (0..5000).map(|number| feature(&number.to_string())).collect();
    let endless = Reply::early().read_body().write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let huge = format!("10000\r\n{}\r\n", "[".repeat(0x1_0000));
    let model = Model::telling(answering("no card"));
    let gateway = builder(&[&model]).start().await;
    for (hostile, said) in [
        (answering("{"), "is not JSON"),
        (answering("[".repeat(900_000)), "is not JSON"),
        (answering(format!("{{\"card\":{}", "{\"card\":".repeat(100))), "is not JSON"),
        (answering("\u{0}"), "is not JSON"),
        (answering(vec![0xFF; 9]), "is not JSON"),
        (answering(r#"{"card":{"features":[]},"card":{"features":[]}}"#), "is not JSON"),
        (answering("x".repeat(2 << 20)), "is larger than"),
        (endless.clone().drip(huge), "is larger than"),
        (features("1", &json!(many)), "more than 4096"),
        (features("1", &json!([feature("a"), feature("a")])), "a name that another has"),
        (features("1", &json!([feature("a\r\nSet-Cookie: x")])), "not plain text"),
        (features("1", &json!([feature(&"a".repeat(4000))])), "too long"),
        (features("1\u{1b}[2J", &json!([feature("a")])), "not plain text"),
        (features("1", &json!([{ "name": "a", "bounds": { "above": 1, "at_most": 1 } }])), "no bounds"),
        (answering(r#"{"features":[{"name":"a","bounds":{"above":0,"at_most":1e999}}]}"#), "is not JSON"),
        (Reply::with(302, "Location: /v2/models/other\r\n", b""), "it answered 302"),
        (Reply::with(204, "", b""), "it answered 204"),
        (Reply::raw("garbage\r\n\r\n").close(), "Broken"),
        (Reply::early().read_body().close(), "Broken"),
        (Reply::early().read_body().write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{").close(), "Broken"),
    ] {
        model.tell(hostile);
        let told = async || {
            let told = guards(&gateway).await["workers"][0]["cards"][0]["cause"].clone();
            Some(()).filter(|()| told.as_str().is_some_and(|cause| cause.contains(said)))
        };
        eventually(said, told).await;
        ask(&gateway, 0.5).await.assert_problem(503, "card-unknown");
    }
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    assert_eq!(model.guarded(), 0);
    assert!(!gateway.log().text().contains('\u{1b}') && !gateway.log().text().contains("Set-Cookie"));
    model.tell(card("1", 1.0));
    until(&gateway, 0.5, 200).await;
}

#[tokio::test]
async fn a_worker_that_never_tells_holds_nobody() {
    let (silent, good) = (Model::telling(Reply::never()), Model::new("1", 10.0));
    let gateway = builder(&[&silent, &good]).start().await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
    assert_eq!(plain(gateway.admin(), "GET", "/livez").await.status, 200);
    assert_eq!(silent.guarded(), 0);
}

#[tokio::test]
async fn headers_about_features_are_bounded_whatever_their_names() {
    let named = |number: usize| format!("größe, \"{number}\" {}", "x".repeat(90));
    let all: Vec<Value> = (0..300)
        .map(|number| {
            json!({ "name": named(number), "bounds": { "above": 0, "at_most": 10 },
                    "training_range": { "minimum": 1, "maximum": 2 } })
        })
        .collect();
    let model = Model::telling(features("1", &json!(all)));
    let policy = "[routes.guarded.body]\nmax = \"1MiB\"\n[guards.clips]\ncard_path = \"/v2/models/m\"\n\
                  outside_training = \"clip\"\n[routes.clipped]\npath = \"/guarded/clipped\"\nmethods = [\"POST\"]\npool = \"models\"\n\
                  authorize = [\"predictor\"]\nbody = { guard = \"clips\", max = \"1MiB\" }\n";
    let gateway = builder(&[&model]).policy(policy).start().await;
    let row: serde_json::Map<String, Value> = (0..300).map(|number| (named(number), json!(5))).collect();
    for (path, header) in [("/guarded", "x-out-of-range"), ("/guarded/clipped", "x-normalized")] {
        let rows = json!([row]);
        let answer = gateway.client().post(path).key("predictor").json(&rows).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.header(header);
        assert!(said.len() < 2100 && said.is_ascii(), "{} octets: {said}", said.len());
        assert!(said.starts_with("%\"") && said.contains("*;more="), "{said}");
    }
}
