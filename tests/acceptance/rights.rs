//! Rights: by method, model, version, scope, claim, place and time; schemes together; rules that are only tried out.

use harness::client::flower;
use harness::identity::now;
use harness::{Gateway, Recorder};
use serde_json::{Value, json};

const RIGHTS: &str = r#"
[rights.iris]
roles = ["predictor"]
methods = ["POST"]
models = ["iris@2", "mood-*"]
[rights.ops]
roles = ["admin"]
[routes.infer]
path = "/v2/models/{model}/versions/{version}/infer"
methods = ["POST", "GET"]
pool = "models"
rights = ["iris", "ops"]
body = {}
[routes.newest]
path = "/v2/models/{model}/infer"
methods = ["POST"]
pool = "models"
rights = ["iris", "ops"]
body = {}
[routes.scoped]
path = "/scoped"
methods = ["GET"]
pool = "models"
authorize = "authenticated"
scopes = ["models:read", "predict"]
[rights.research]
roles = "authenticated"
claims = { "org.unit" = ["research", "lab"], mfa = true }
[routes.research]
path = "/research"
methods = ["GET"]
pool = "models"
rights = ["research"]
"#;

#[tokio::test]
async fn a_right_reaches_as_far_as_its_methods_models_and_versions() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(RIGHTS).start().await;
    let client = gateway.client();
    for (id, method, path, refused) in [
        ("predictor", "POST", "/v2/models/iris/versions/2/infer", None),
        ("predictor", "POST", "/v2/models/mood-en/versions/7/infer", None),
        ("predictor", "POST", "/v2/models/mood-en/infer", None),
        ("predictor", "POST", "/v2/models/iris/versions/1/infer", Some("right-missing")),
        ("predictor", "POST", "/v2/models/iris/infer", Some("right-missing")),
        ("predictor", "POST", "/v2/models/iris2/versions/2/infer", Some("right-missing")),
        ("predictor", "POST", "/v2/models/Iris/versions/2/infer", Some("right-missing")),
        ("predictor", "POST", "/v2/models/%69ris/versions/%32/infer", None),
        ("predictor", "GET", "/v2/models/iris/versions/2/infer", Some("right-missing")),
        ("reader", "POST", "/v2/models/iris/versions/2/infer", Some("role-missing")),
        ("admin", "POST", "/v2/models/any/versions/1/infer", None),
    ] {
        let before = worker.seen().len();
        let request = client.request(method, path).key(id);
        let answer = if method == "POST" { request.json(&flower()) } else { request }.send().await;
        match refused {
            Some(slug) => answer.assert_problem(403, slug),
            None => assert_eq!(answer.status, 200, "{id} {method} {path}: {}", answer.text()),
        }
        assert_eq!(worker.seen().len() - before, usize::from(refused.is_none()), "{id} {method} {path}");
    }
}

#[tokio::test]
async fn a_token_without_the_scope_is_told_which_it_needs() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(RIGHTS).start().await;
    let token = |scope: Value| gateway.signer().token(&json!({ "scope": scope }));
    let ask = async |scope: Value| gateway.client().get("/scoped").bearer(&token(scope)).send().await;
    for scope in [json!("predict"), json!("models:read predicted"), json!(""), json!(null), json!(["predict"])] {
        let answer = ask(scope.clone()).await;
        answer.assert_problem(403, "scope-missing");
        let said = answer.header("www-authenticate");
        // RFC 6750 §3.1.
        assert!(said.starts_with("Bearer ") && said.contains("error=\"insufficient_scope\""), "{said}");
        assert!(said.contains("scope=\"models:read predict\""), "{said}");
    }
    // A key has no scopes but those that it was given, and Bearer is not what it would need.
    let answer = gateway.client().get("/scoped").key("admin").send().await;
    answer.assert_problem(403, "scope-missing");
    assert_eq!(answer.header("www-authenticate"), "");
    worker.assert_untouched();
    assert_eq!(ask(json!("other predict models:read")).await.status, 200);
    assert_eq!(ask(json!(["models:read", "predict"])).await.status, 200);
}

#[tokio::test]
async fn claims_open_a_right_when_all_of_them_have_a_value_that_will_do() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(RIGHTS).start().await;
    let ask =
        async |claims: Value| gateway.client().get("/research").bearer(&gateway.signer().token(&claims)).send().await;
    for wrong in [
        json!({}),
        json!({ "mfa": true }),
        json!({ "org": { "unit": "research" } }),
        json!({ "org": { "unit": "Research" }, "mfa": true }),
        json!({ "org": { "unit": { "research": true } }, "mfa": true }),
        json!({ "org": { "unit": "research" }, "mfa": "true" }),
        json!({ "org": "research", "mfa": true }),
    ] {
        ask(wrong.clone()).await.assert_problem(403, "condition-unmet");
    }
    gateway.client().get("/research").key("admin").send().await.assert_problem(403, "condition-unmet");
    worker.assert_untouched();
    for good in [
        json!({ "org": { "unit": "research" }, "mfa": true }),
        json!({ "org": { "unit": ["sales", "lab"] }, "mfa": true }),
        json!({ "org.unit": "lab", "mfa": true }),
    ] {
        assert_eq!(ask(good).await.status, 200);
    }
}

#[tokio::test]
async fn places_and_times_are_conditions() {
    // The day before yesterday is another day, also around midnight.
    let names = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let day = |days_ago: u64| names[usize::try_from((now() / 86_400 + 7 - days_ago) % 7).expect("small")];
    let policy = format!(
        r#"
[rights.here]
roles = "authenticated"
networks = ["127.0.0.0/8"]
[rights.elsewhere]
roles = "authenticated"
networks = ["10.0.0.0/8", "2001:db8::/32"]
[rights.past]
roles = "authenticated"
days = ["{}"]
[rights.always]
roles = ["reader"]
hours = "00:00-24:00"
[routes.here]
path = "/here"
methods = ["GET"]
pool = "models"
rights = ["here"]
[routes.elsewhere]
path = "/elsewhere"
methods = ["GET"]
pool = "models"
rights = ["elsewhere"]
[routes.past]
path = "/past"
methods = ["GET"]
pool = "models"
rights = ["past"]
[routes.either]
path = "/either"
methods = ["GET"]
pool = "models"
rights = ["past", "always"]
"#,
        day(2)
    );
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    for path in ["/elsewhere", "/past"] {
        gateway.client().get(path).key("admin").send().await.assert_problem(403, "condition-unmet");
        // Nobody's word about the address is taken.
        let spoofed = gateway.client().get(path).key("admin").header("x-forwarded-for", "10.0.0.1");
        spoofed.send().await.assert_problem(403, "condition-unmet");
    }
    worker.assert_untouched();
    for path in ["/here", "/either"] {
        assert_eq!(gateway.client().get(path).key("reader").send().await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn all_of_several_schemes_must_name_one_principal() {
    let policy = r#"
[routes.both]
path = "/both"
methods = ["GET"]
pool = "models"
authenticate = { all_of = ["api_key", "jwt"] }
authorize = "authenticated"
"#;
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let get = || gateway.client().get("/both");
    let (good, bad) = (gateway.signer().token(&json!({})), "x.y.z");
    get().send().await.assert_problem(401, "credential-missing");
    get().key("reader").send().await.assert_problem(401, "credential-missing");
    get().bearer(&good).send().await.assert_problem(401, "credential-missing");
    get().key("reader").bearer(bad).send().await.assert_problem(401, "token-invalid");
    get().key("unknown").bearer(&good).send().await.assert_problem(401, "api-key-unknown");
    get().key("reader").bearer(&good).send().await.assert_problem(400, "credentials-disagree");
    worker.assert_untouched();

    // A key can stand for whom a token names; what it may do, the first of the list says.
    let alike = "[api_keys.reader]\nprincipal = \"user:alice\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(policy).policy(alike).start().await;
    let get = || gateway.client().get("/both");
    assert_eq!(get().key("reader").bearer(&gateway.signer().token(&json!({}))).send().await.status, 200);
    let seen = worker.only();
    assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("user:alice"));
    assert_eq!(seen.header("x-modelgate-roles").as_deref(), Some("reader"));
    let bob = gateway.signer().token(&json!({ "sub": "bob" }));
    get().key("reader").bearer(&bob).send().await.assert_problem(400, "credentials-disagree");
    get().key("admin").bearer(&good).send().await.assert_problem(400, "credentials-disagree");
}

#[tokio::test]
async fn a_credentials_own_quota_holds_wherever_it_stands_in_the_list() {
    let policy = r#"
[limits.few]
quota = 5
window = "60s"
by = ["principal"]
store_lost = "deny"
[api_keys.reader]
principal = "user:alice"
limits = { few = 1 }
[routes.both]
path = "/both"
methods = ["GET"]
pool = "models"
authenticate = { all_of = ["jwt", "api_key"] }
authorize = "authenticated"
limits = ["few"]
"#;
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let token = gateway.signer().token(&json!({}));
    let get = || gateway.client().get("/both").key("reader").bearer(&token).send();
    assert_eq!(get().await.status, 200);
    get().await.assert_problem(429, "limit-exceeded");
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn rules_that_are_only_tried_out_refuse_nobody_and_say_what_they_would_have_done() {
    let policy = r#"
[routes.tried]
path = "/tried"
methods = ["POST"]
pool = "models"
authorize = ["admin"]
cors = "browser"
danger_shadow = ["cors", "authenticate", "authorize", "body"]
[routes.tried.body]
max = "1KiB"
schema = "iris"
[routes.roles]
path = "/roles"
methods = ["GET"]
pool = "models"
authorize = ["admin"]
danger_shadow = ["authorize"]
"#;
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
    let post = || gateway.client().post("/tried");
    for (request, said, principal) in [
        (post().key("admin").json(&flower()), None, "key:admin"),
        (post().json(&flower()), Some("credential-missing, role-missing"), "anonymous"),
        (post().key("reader").json(&flower()), Some("role-missing"), "key:reader"),
        (post().key("unknown").json(&flower()), Some("api-key-unknown, role-missing"), "anonymous"),
        (post().key("admin").json(&json!({ "petals": 5 })), Some("body-invalid"), "key:admin"),
        (post().key("admin").header("content-type", "text/plain").body("no JSON"), Some("body-type"), "key:admin"),
        (
            post().key("reader").header("origin", "https://evil.example.com").json(&json!([])),
            Some("origin-refused, role-missing, body-invalid"),
            "key:reader",
        ),
        (gateway.client().get("/roles").key("reader"), Some("role-missing"), "key:reader"),
    ] {
        let before = worker.seen().len();
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{said:?}: {}", answer.text());
        assert_eq!(worker.seen().len(), before + 1);
        let seen = worker.seen().pop().expect("it came");
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some(principal));
        let record = gateway.log().access(&answer.request_id()).await;
        assert_eq!(record["would_refuse"], said.map_or(Value::Null, Value::from));
    }
    // Bounds are no rules of a route, and the rest of the rules of a route that tries one out hold.
    post().key("admin").json(&json!({ "petals": "x".repeat(2000) })).send().await.assert_problem(413, "body-too-large");
    gateway.client().get("/roles").send().await.assert_problem(401, "credential-missing");
}
