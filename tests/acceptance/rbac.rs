//! Roles: what they open, what they include, and that nothing opens by default.

use harness::{Gateway, Recorder};
use serde_json::json;

#[tokio::test]
async fn each_role_opens_its_routes_and_those_of_the_roles_it_includes() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut let_through = 0;
    for (id, models, predict, admin) in
        [("reader", 200, 403, 403), ("predictor", 200, 200, 403), ("admin", 200, 200, 200), ("nobody", 403, 403, 403)]
    {
        let client = gateway.client();
        for (request, status) in [
            (client.get("/models").key(id), models),
            (client.predict(id), predict),
            (client.get("/admin").key(id), admin),
        ] {
            let answer = request.send().await;
            assert_eq!(answer.status, status, "{id}: {}", answer.text());
            if status == 403 {
                answer.assert_problem(403, "role-missing");
            } else {
                let_through += 1;
            }
            assert_eq!(worker.seen().len(), let_through, "the worker sees what is allowed and nothing else");
        }
    }
}

#[tokio::test]
async fn a_refusal_names_no_role_and_asks_for_no_other_credential() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().get("/admin").key("predictor").send().await;
    answer.assert_problem(403, "role-missing");
    assert_eq!(answer.header("www-authenticate"), "", "the credential was good");
    assert!(!answer.text().contains("admin"), "{}", answer.text());
    let record =
        gateway.log().wait_for(|line| line["log"] == "security" && line["request_id"] == answer.request_id()).await;
    assert_eq!((&record["principal"], &record["reason"]), (&json!("key:predictor"), &json!("role-missing")));
    worker.assert_untouched();
}

#[tokio::test]
async fn the_record_names_the_role_that_opened_the_route() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().predict("admin").send().await;
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!((&record["role"], &record["route"]), (&json!("predictor"), &json!("predict")));
}

#[tokio::test]
async fn authenticated_means_every_proven_principal_and_nobody_else() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    gateway.client().get("/known").send().await.assert_problem(401, "credential-missing");
    gateway.client().get("/known").key("unknown").send().await.assert_problem(401, "api-key-unknown");
    worker.assert_untouched();
    assert_eq!(gateway.client().get("/known").key("nobody").send().await.status, 200);
    let token = gateway.signer().token(&json!({ "roles": [] }));
    assert_eq!(gateway.client().get("/known").bearer(&token).send().await.status, 200);
}

#[tokio::test]
async fn anonymous_routes_ask_nobody_and_prove_nothing() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    // A credential there is neither checked nor believed nor passed on.
    let token = gateway.signer().token(&json!({ "roles": ["admin"] }));
    assert_eq!(gateway.client().get("/open").key("unknown").send().await.status, 200);
    assert_eq!(gateway.client().get("/open").bearer(&token).send().await.status, 200);
    assert_eq!(worker.seen().len(), 3);
    for seen in worker.seen() {
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("anonymous"));
        assert_eq!(seen.header("x-modelgate-roles").as_deref(), Some(""));
        assert_eq!((seen.headers("authorization"), seen.headers("x-api-key")), (vec![], vec![]));
    }
}

#[tokio::test]
async fn nobody_gives_themselves_a_role_by_a_header() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for header in ["x-modelgate-roles", "x-modelgate-principal", "x_modelgate_roles", "x-role", "x-user"] {
        let answer = gateway.client().get("/admin").key("reader").header(header, "admin").send().await;
        answer.assert_problem(403, "role-missing");
    }
    worker.assert_untouched();
    gateway
        .client()
        .get("/known")
        .key("reader")
        .header("X-ModelGate-Roles", "admin")
        .header("x_modelgate_roles", "admin")
        .send()
        .await;
    let seen = worker.only();
    assert_eq!(seen.header("x-modelgate-roles").as_deref(), Some("reader"));
    assert_eq!(seen.headers("x_modelgate_roles"), Vec::<String>::new());
}

#[tokio::test]
async fn a_role_that_a_token_claims_counts_only_if_the_policy_defines_it() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for roles in [
        json!(["root", "superuser"]),
        json!(["Predictor"]),
        json!([]),
        json!([["predictor"]]),
        json!({"predictor": true}),
        json!(7),
    ] {
        let token = gateway.signer().token(&json!({ "roles": roles }));
        let answer = gateway.client().post("/predict").bearer(&token).json(&harness::client::flower()).send().await;
        assert!([401, 403].contains(&answer.status), "{roles}: {}", answer.text());
    }
    worker.assert_untouched();
    let token = gateway.signer().token(&json!({ "roles": ["root", "admin"] }));
    assert_eq!(gateway.client().get("/admin").bearer(&token).send().await.status, 200);
}

#[tokio::test]
async fn what_no_route_names_does_not_exist_for_anybody() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for path in ["/", "/models/iris/predict", "/predict/", "/healthz", "/readyz", "/metrics", "/Predict"] {
        let answer = gateway.client().get(path).key("admin").send().await;
        answer.assert_problem(404, "not-found");
    }
    let answer = gateway.client().get("/predict").key("admin").send().await;
    answer.assert_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), "POST");
    worker.assert_untouched();
}

#[tokio::test]
async fn roles_may_include_each_other_in_a_circle() {
    let worker = Recorder::start();
    let overlay = "[roles.reader]\nincludes = [\"admin\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    assert_eq!(gateway.client().get("/admin").key("reader").send().await.status, 200);
    gateway.client().get("/admin").key("nobody").send().await.assert_problem(403, "role-missing");
}
