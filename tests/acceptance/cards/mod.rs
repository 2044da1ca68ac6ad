//! Cards that workers tell: what is guarded follows the version that serves, and passes nowhere else.

mod hostile;
mod mixed;
mod real;

use std::process::Command;
use std::sync::{Arc, Mutex};

use harness::identity::part;
use harness::wire::plain;
use harness::{Answer, Gateway, GatewayBuilder, Recorder, Reply, Seen, Signer, Upstream as _, binary, eventually};
use serde_json::{Value, json};

/// A worker that tells a card, which can be changed, and answers everything else with its name.
struct Model {
    worker: Recorder,
    card: Arc<Mutex<Reply>>,
    ready: Arc<Mutex<bool>>,
}

impl Model {
    fn telling(card: Reply) -> Self {
        let (card, ready) = (Arc::new(Mutex::new(card)), Arc::new(Mutex::new(true)));
        let worker = Recorder::scripted({
            let (card, ready) = (Arc::clone(&card), Arc::clone(&ready));
            move |_, seen| match seen.line() {
                line if line.starts_with("GET /v2/models/m") => card.lock().expect("nobody panicked").clone(),
                line if line.contains("/readyz") && !*ready.lock().expect("nobody panicked") => {
                    Reply::with(503, "", b"loading")
                }
                _ => Reply::json(&json!({ "label": "x" })),
            }
        });
        Self { worker, card, ready }
    }

    fn new(version: &str, at_most: f64) -> Self {
        Self::telling(card(version, at_most))
    }

    fn tell(&self, card: Reply) {
        *self.card.lock().expect("nobody panicked") = card;
    }

    fn be_ready(&self, ready: bool) {
        *self.ready.lock().expect("nobody panicked") = ready;
    }

    /// How many guarded requests it got.
    fn guarded(&self) -> usize {
        self.worker.seen().iter().filter(|seen| is_guarded(seen)).count()
    }
}

fn is_guarded(seen: &Seen) -> bool {
    seen.line().starts_with("POST /guarded")
}

/// Metadata of a model with one feature, `a`, that is above 0 and at most so much.
fn card(version: &str, at_most: f64) -> Reply {
    features(version, &json!([{ "name": "a", "type": "number", "bounds": { "above": 0.0, "at_most": at_most } }]))
}

fn features(version: &str, features: &Value) -> Reply {
    Reply::json(&json!({ "name": "m", "versions": [version], "card": { "version": version, "features": features } }))
}

const GUARD: &str = r#"
[reload]
watch = false
[guards.told]
card_path = "/v2/models/m"
interval = "100ms"
[routes.guarded]
path = "/guarded"
methods = ["POST"]
pool = "models"
authorize = ["predictor"]
body = { guard = "told" }
"#;

fn builder(models: &[&Model]) -> GatewayBuilder {
    models.iter().fold(Gateway::builder().policy(GUARD), |builder, model| builder.worker(&model.worker))
}

async fn ask(gateway: &Gateway, a: f64) -> Answer {
    gateway.client().post("/guarded").key("predictor").json(&json!({ "a": a })).send().await
}

/// Asks until the answer has this status.
async fn until(gateway: &Gateway, a: f64, status: u16) {
    let ask = async || Some(ask(gateway, a).await.status).filter(|got| *got == status);
    eventually(&format!("{status} for {a}"), ask).await;
}

async fn guards(gateway: &Gateway) -> Value {
    plain(gateway.admin(), "GET", "/pools").await.json()["models"].clone()
}

async fn readiness(gateway: &Gateway) -> Answer {
    plain(gateway.admin(), "GET", "/readyz").await
}

/// Exit code, and what was complained of.
fn run(admin: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary("gateway")).args(words).args(["--admin", admin]).output();
    let output = output.expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn until_a_worker_has_told_its_card_nothing_that_is_guarded_passes() {
    let model = Model::telling(Reply::with(404, "", b""));
    let gateway = builder(&[&model]).start().await;
    let answer = ask(&gateway, 1.0).await;
    answer.assert_problem(503, "card-unknown");
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(gateway.client().get("/open").send().await.status, 200, "what is not guarded is served");
    let failed = gateway.log().event("guard-card-failed").await;
    assert!(failed["cause"].as_str().is_some_and(|cause| cause.contains("404")), "{failed}");
    assert_eq!(failed["kept"], "none");
    let ready = readiness(&gateway).await;
    assert_eq!(ready.status, 503);
    let said = &ready.json()["checks"]["guard told of pool models"];
    assert!(said.as_str().is_some_and(|said| said.contains("it answered 404")), "{said}");
    let metrics = plain(gateway.admin(), "GET", "/metrics").await.text();
    assert!(metrics.contains("modelgate_guard_open{guard=\"told\",pool=\"models\"} 0\n"), "{metrics}");
    assert_eq!(model.guarded(), 0);

    model.tell(card("1", 10.0));
    until(&gateway, 1.0, 200).await;
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
    gateway.log().event("guard-open").await;
    assert_eq!(readiness(&gateway).await.status, 200);
    let metrics = plain(gateway.admin(), "GET", "/metrics").await.text();
    assert!(metrics.contains("modelgate_guard_open{guard=\"told\",pool=\"models\"} 1\n"), "{metrics}");
    assert!(metrics.contains("modelgate_card_age_seconds{pool=\"models\",worker="), "{metrics}");
}

#[tokio::test]
async fn a_gateway_knows_the_card_before_its_first_request() {
    let model = Model::new("1", 10.0);
    let gateway = builder(&[&model]).start().await;
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
    assert_eq!(ask(&gateway, 10.0).await.status, 200);
    assert_eq!(model.guarded(), 1);
    let shown = guards(&gateway).await;
    assert_eq!(shown["guards"][0]["open"], true, "{shown}");
    assert_eq!(shown["guards"][0]["models"], json!([{ "name": "m", "version": "1" }]), "{shown}");
    let told = &shown["workers"][0]["cards"][0];
    assert_eq!((&told["path"], &told["version"]), (&json!("/v2/models/m"), &json!("1")), "{shown}");
    assert!(told["digest"].as_str().is_some_and(|digest| digest.len() > 60) && told["age_seconds"].is_number());
}

#[tokio::test]
async fn a_version_that_the_worker_takes_up_by_itself_is_followed() {
    let model = Model::new("1", 10.0);
    let gateway = builder(&[&model]).start().await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    model.tell(card("2", 5.0));
    until(&gateway, 8.0, 422).await;
    gateway.log().wait_for(|line| line["event"] == "guard-card" && line["version"] == "2").await;
    model.tell(card("3", 20.0));
    until(&gateway, 15.0, 200).await;
}

#[tokio::test]
async fn the_last_good_card_goes_on_and_that_is_said() {
    let model = Model::new("1", 10.0);
    let gateway = builder(&[&model]).start().await;
    model.tell(Reply::with(500, "", b""));
    let failed = gateway.log().event("guard-card-failed").await;
    assert_eq!(failed["kept"], "the last good one", "{failed}");
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
    let ready = readiness(&gateway).await;
    assert_eq!(ready.status, 200);
    let said = ready.json()["checks"]["guard told of pool models"].clone();
    assert!(said.as_str().is_some_and(|said| said.starts_with("goes by what was told before")), "{said}");
    let told = guards(&gateway).await["workers"][0]["cards"][0].clone();
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains("500")), "{told}");
}

#[tokio::test]
async fn a_swap_brings_the_new_workers_card_with_it_and_a_roll_back_the_old_one() {
    let old = Model::new("1", 10.0);
    let fails = Arc::new(Mutex::new(false));
    let new = Recorder::scripted({
        let fails = Arc::clone(&fails);
        move |_, seen| match seen.line() {
            line if line.starts_with("GET /v2/models/m") => card("2", 5.0),
            line if line.contains("/readyz") || !*fails.lock().expect("nobody panicked") => {
                Reply::json(&json!({ "label": "x" }))
            }
            _ => Reply::with(500, "", b""),
        }
    });
    let rule = "[pools.models.swap]\ngolden = \"golden.json\"\nwatch = \"1h\"\n[guards.told]\ninterval = \"1h\"\n";
    let golden = json!([{ "path": "/models", "expect": { "label": "x" } }]).to_string();
    let gateway = builder(&[&old]).policy(rule).file("golden.json", golden).start().await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    assert_eq!(run(&gateway.operator(), &["pool", "swap", "models", "--to", &new.url()]), (Some(0), String::new()));
    ask(&gateway, 8.0).await.assert_problem(422, "body-invalid");
    let lines: Vec<String> = new.seen().iter().map(Seen::line).collect();
    assert!(!lines.iter().any(|line| line.starts_with("POST")), "it is known before the first request: {lines:?}");
    assert_eq!(ask(&gateway, 4.0).await.status, 200);
    *fails.lock().expect("nobody panicked") = true;
    until(&gateway, 4.0, 502).await;
    let rolled_back = async || {
        ask(&gateway, 4.0).await;
        gateway.log().matching(|line| line["event"] == "pool-swap-rolled-back").pop()
    };
    eventually("a roll-back", rolled_back).await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200, "the old card is back with the old worker");
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
}

#[tokio::test]
async fn no_worker_without_a_card_takes_anothers_place() {
    let (old, mute) = (Model::new("1", 10.0), Model::telling(Reply::json(&json!({ "name": "m" }))));
    let golden = json!([{ "path": "/models", "expect": { "label": "x" } }]).to_string();
    let rule = "[pools.models.swap]\ngolden = \"golden.json\"\n";
    let gateway = builder(&[&old]).policy(rule).file("golden.json", golden).policy("").start().await;
    let (code, said) = run(&gateway.operator(), &["pool", "swap", "models", "--to", &mute.worker.url()]);
    assert_eq!(code, Some(1));
    assert!(said.contains("does not tell its card at /v2/models/m: its answer has no `features`"), "{said}");

    let write = |text: String| {
        let last = (0..9).rev().map(|number| gateway.directory().join(format!("{number}.toml")));
        let last = last.into_iter().find(|file| file.exists()).expect("there are files");
        std::fs::write(last, text).expect("it can be written");
        run(&gateway.operator(), &["reload"])
    };
    // The golden predictions are good, so the card alone stands against it.
    let (code, said) = write(format!("[pools.models]\nworkers = [{:?}]\n", mute.worker.url()));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("guards.told.card_path") && said.contains("has no `features`"), "{said}");
    let (code, said) = write("[guards.told]\ncard_path = \"/elsewhere\"\n".into());
    assert_eq!(code, Some(78), "{said}");
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
    assert_eq!(mute.guarded(), 0);
    // What was closed before stays reloadable.
    old.tell(card("2", 5.0));
    assert_eq!(write(String::new()), (Some(0), String::new()));
    until(&gateway, 8.0, 422).await;
}

#[tokio::test]
async fn a_reload_keeps_what_workers_told() {
    let model = Model::new("1", 10.0);
    let gateway = builder(&[&model]).start().await;
    model.tell(Reply::with(500, "", b""));
    gateway.log().event("guard-card-failed").await;
    assert_eq!(run(&gateway.operator(), &["reload"]), (Some(0), String::new()));
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    ask(&gateway, 11.0).await.assert_problem(422, "body-invalid");
}

#[tokio::test]
async fn a_gateway_whose_guard_is_closed_can_be_reloaded() {
    let model = Model::telling(Reply::with(404, "", b""));
    let gateway = builder(&[&model]).start().await;
    assert_eq!(run(&gateway.operator(), &["reload"]), (Some(0), String::new()));
    ask(&gateway, 8.0).await.assert_problem(503, "card-unknown");
    assert_eq!(model.guarded(), 0);
}

#[tokio::test]
async fn another_version_or_model_than_the_cards_is_not_asked() {
    let model = Model::new("2", 10.0);
    let route = |name: &str, path: &str| {
        format!(
            "[routes.{name}]\npath = \"{path}\"\nmethods = [\"POST\"]\npool = \"models\"\nauthorize = [\"predictor\"]\n\
             body = {{ guard = \"told\" }}\n"
        )
    };
    let routes = route("one", "/guarded/{model}/{version}/infer") + &route("two", "/guarded/{model}/infer");
    let gateway = builder(&[&model]).policy(routes).start().await;
    let ask = async |path: &str| gateway.client().post(path).key("predictor").json(&json!({ "a": 1 })).send().await;
    for path in ["/guarded/m/1/infer", "/guarded/other/2/infer", "/guarded/other/infer"] {
        ask(path).await.assert_problem(503, "card-unknown");
    }
    assert_eq!(model.guarded(), 0);
    for path in ["/guarded/m/2/infer", "/guarded/m/infer"] {
        assert_eq!(ask(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn who_was_not_ready_is_asked_again_before_it_gets_what_is_guarded() {
    let (steady, moody) = (Model::new("1", 10.0), Model::new("1", 10.0));
    let probes = "[pools.models.health]\ninterval = \"100ms\"\n[guards.told]\ninterval = \"1h\"\n";
    let gateway = builder(&[&steady, &moody]).policy(probes).start().await;
    moody.be_ready(false);
    gateway.log().event("worker-out").await;
    moody.tell(card("2", 5.0));
    moody.be_ready(true);
    gateway.log().event("worker-in").await;
    until(&gateway, 8.0, 422).await;
    let until_shared = async || {
        ask(&gateway, 4.0).await;
        Some(()).filter(|()| moody.guarded() > 0)
    };
    eventually("the second one gets requests again", until_shared).await;
    let guarded = moody.worker.seen().into_iter().filter(is_guarded);
    let values: Vec<Value> = guarded.map(|seen| seen.json()["a"].clone()).collect();
    assert!(values.iter().all(|value| *value == 4.0), "it got none that its card refuses: {values:?}");
}

#[tokio::test]
async fn a_worker_can_check_who_asks_for_its_card() {
    let model = Model::new("1", 10.0);
    let assertion = "[assertion]\nissuer = \"https://gateway.internal\"\nalgorithm = \"ES256\"\n\
                     signing_key = { file = \"assertion.key\" }\npools = { models = \"model-worker\" }\n";
    let signer = Signer::es256();
    let builder = builder(&[&model]).file("assertion.key", signer.private()).policy(assertion);
    let gateway = builder.start().await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    let seen = model.worker.seen();
    let asked = seen.iter().find(|seen| seen.line().starts_with("GET /v2/models/m")).expect("it was asked");
    let shown = asked.header("x-modelgate-assertion").expect("it is shown who asks");
    assert!(signer.made(&shown));
    assert_eq!((&part(&shown, 1)["aud"], &part(&shown, 1)["sub"]), (&json!("model-worker"), &json!("anonymous")));
}

#[test]
fn a_policy_says_that_workers_alone_know_the_card() {
    let builder = Gateway::builder().policy(GUARD).file("body.json", "{\"a\": 99}");
    let mut command = builder.command("explain");
    command.args(["POST", "/guarded", "--as", "role:predictor", "--body", "body.json"]);
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("guard told: not looked at; its card is what the workers answer at /v2/models/m"), "{said}");
    assert!(said.contains("GET /pools"), "{said}");
}
