//! Which pages may read answers (Fetch, "CORS protocol"), seen by raw clients and by a real browser.

use harness::client::flower;
use harness::identity::key;
use harness::{Answer, Gateway, Page, Recorder, Reply};
use serde_json::json;

const LISTED: &str = "https://app.example.com";
const EXPOSED: &str =
    "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, X-Normalized, X-Out-Of-Range";

/// Every CORS header of an answer, sorted.
fn granted(answer: &Answer) -> Vec<String> {
    let names = answer.headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("access-control-"));
    let mut granted: Vec<String> = names.map(|name| format!("{name}: {}", answer.header(name))).collect();
    granted.sort();
    granted
}

fn varies_by_origin(answer: &Answer) -> bool {
    answer.header("vary").split(',').any(|name| name.trim().eq_ignore_ascii_case("origin"))
}

#[tokio::test]
async fn a_listed_origin_is_echoed_exactly_and_no_other_is() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let origins = [
        LISTED,
        "https://app.example.com.evil.net",
        "https://evilapp.example.com",
        "https://example.com",
        "http://app.example.com",
        "https://app.example.com:443",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "HTTPS://APP.EXAMPLE.COM",
        "https://app.example.com, https://app.example.com",
        "null",
        "*",
        "",
    ];
    for client in [gateway.client(), gateway.http2()] {
        for origin in origins {
            let answer = client.predict("predictor").header("origin", origin).send().await;
            // CORS is no authorization: the request is served, and only a listed page may read the answer.
            assert_eq!(answer.status, 200, "{origin}: {}", answer.text());
            let expected = if origin == LISTED {
                vec![
                    format!("access-control-allow-origin: {LISTED}"),
                    format!("access-control-expose-headers: {EXPOSED}"),
                ]
            } else {
                vec![]
            };
            assert_eq!(granted(&answer), expected, "{origin:?}");
            assert!(varies_by_origin(&answer), "{origin:?}: {:?}", answer.headers);
        }
    }
    assert_eq!(worker.seen().len(), 2 * origins.len());
}

#[tokio::test]
async fn without_an_origin_nothing_is_granted_and_caches_are_told() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().predict("predictor").send().await;
    assert_eq!((answer.status, granted(&answer)), (200, vec![]));
    assert_eq!(answer.header("vary"), "Origin");
    // Two origins are no origin.
    let twice = gateway.client().predict("predictor").header("origin", LISTED).header("origin", LISTED).send().await;
    assert_eq!((twice.status, granted(&twice)), (200, vec![]));
}

#[tokio::test]
async fn a_route_without_a_rule_grants_nothing() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().get("/open").header("origin", LISTED).send().await;
    assert_eq!((answer.status, granted(&answer), answer.header("vary").as_str()), (200, vec![], ""));
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_credential_a_worker_or_a_limit() {
    let worker = Recorder::start();
    let overlay = "[limits.once]\nquota = 1\nwindow = \"1h\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
                   [routes.predict]\nlimits = [\"once\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for client in [gateway.client(), gateway.http2(), gateway.client()] {
        let preflight = client
            .request("OPTIONS", "/predict")
            .header("origin", LISTED)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-api-key");
        let answer = preflight.send().await;
        assert_eq!((answer.status, answer.text().as_str()), (204, ""));
        assert_eq!(
            granted(&answer),
            [
                "access-control-allow-headers: Content-Type, Authorization, DPoP, x-api-key".to_owned(),
                "access-control-allow-methods: POST".to_owned(),
                format!("access-control-allow-origin: {LISTED}"),
                "access-control-max-age: 600".to_owned(),
            ]
        );
        assert_eq!(answer.header("vary"), "Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
        assert_eq!(answer.header("ratelimit"), "", "it was not counted");
    }
    worker.assert_untouched();
    assert_eq!(gateway.client().predict("predictor").send().await.status, 200, "the one admission is still there");
    gateway.client().predict("predictor").send().await.assert_problem(429, "limit-exceeded");
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn a_preflight_is_refused_where_the_page_may_not_call() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for (path, origin, method, status, slug) in [
        ("/predict", "https://evil.example.com", "POST", 403, "origin-refused"),
        ("/predict", "null", "POST", 403, "origin-refused"),
        // No rule for CORS, no page.
        ("/known", LISTED, "GET", 403, "origin-refused"),
        ("/predict", LISTED, "DELETE", 405, "method-not-allowed"),
        ("/nowhere", LISTED, "POST", 404, "not-found"),
    ] {
        let preflight = gateway.client().request("OPTIONS", path).header("origin", origin);
        // A credential, which no browser would send, changes nothing.
        let answer = preflight.header("access-control-request-method", method).key("admin").send().await;
        answer.assert_problem(status, slug);
        assert_eq!(granted(&answer), Vec::<String>::new(), "{path} {origin}");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_refused_preflight_tells_caches_that_it_depends_on_the_origin() {
    let gateway = Gateway::builder().start().await;
    let preflight = gateway.client().request("OPTIONS", "/predict").header("origin", "https://evil.example.com");
    let answer = preflight.header("access-control-request-method", "POST").send().await;
    answer.assert_problem(403, "origin-refused");
    assert!(varies_by_origin(&answer), "{:?}", answer.headers);
}

#[tokio::test]
async fn options_without_a_method_to_ask_for_is_no_preflight() {
    let worker = Recorder::start();
    let overlay = "[routes.options]\npath = \"/options\"\nmethods = [\"OPTIONS\"]\npool = \"models\"\n\
                   authorize = [\"predictor\"]\ncors = \"browser\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let answer = gateway.client().request("OPTIONS", "/predict").header("origin", LISTED).key("predictor").send().await;
    answer.assert_problem(405, "method-not-allowed");
    assert_eq!(answer.header("allow"), "POST");
    let plain = || gateway.client().request("OPTIONS", "/options").header("origin", LISTED);
    plain().send().await.assert_problem(401, "credential-missing");
    worker.assert_untouched();
    assert_eq!(plain().key("predictor").send().await.status, 200);
    assert_eq!(worker.only().line(), "OPTIONS /options HTTP/1.1");
}

#[tokio::test]
async fn a_page_can_read_why_it_was_refused() {
    let (worker, failing) = (Recorder::start(), Recorder::replying(Reply::with(500, "", b"")));
    let overlay = format!(
        "[limits.once]\nquota = 1\nwindow = \"1h\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
         [routes.models]\nlimits = [\"once\"]\n\
         [pools.failing]\nworkers = [\"http://{}\"]\n\
         [routes.failing]\npath = \"/failing\"\nmethods = [\"GET\"]\npool = \"failing\"\nauthorize = [\"reader\"]\ncors = \"browser\"\n",
        failing.address()
    );
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    assert_eq!(gateway.client().get("/models").key("reader").send().await.status, 200);
    let client = gateway.client();
    for (request, status, slug) in [
        (client.post("/predict").json(&flower()), 401, "credential-missing"),
        (client.predict("unknown"), 401, "api-key-unknown"),
        (client.predict("predictor").bearer("x.y.z"), 400, "credentials-several"),
        (client.predict("reader"), 403, "role-missing"),
        (client.post("/predict").key("predictor").body("{}"), 415, "body-type"),
        (client.post("/predict").key("predictor").json(&json!({})), 422, "body-invalid"),
        (client.post("/predict").key("predictor").json(&json!("x".repeat(20_000))), 413, "body-too-large"),
        (client.get("/models").key("reader"), 429, "limit-exceeded"),
        (client.get("/failing").key("reader"), 502, "worker-failed"),
    ] {
        let listed = request.clone().header("origin", LISTED).send().await;
        listed.assert_problem(status, slug);
        assert_eq!(listed.header("access-control-allow-origin"), LISTED, "{slug}");
        assert_eq!(listed.header("access-control-expose-headers"), EXPOSED, "{slug}");
        assert!(varies_by_origin(&listed), "{slug}");
        let foreign = request.header("origin", "https://evil.example.com").send().await;
        foreign.assert_problem(status, slug);
        assert_eq!(granted(&foreign), Vec::<String>::new(), "{slug}");
        assert!(varies_by_origin(&foreign), "{slug}");
    }
    assert_eq!(worker.seen().len(), 1);
}

#[tokio::test]
async fn what_the_worker_says_about_cors_is_not_passed_on() {
    let headers = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
                   Access-Control-Expose-Headers: X-Inner\r\nAccess-Control-Allow-Private-Network: true\r\n\
                   Vary: Accept-Language\r\nContent-Type: application/json\r\n";
    let worker = Recorder::replying(Reply::with(200, headers, b"{}"));
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().predict("predictor").header("origin", "https://evil.example.com").send().await;
    assert_eq!((answer.status, granted(&answer)), (200, vec![]));
    assert_eq!(answer.header("vary"), "Accept-Language, Origin", "the worker's own reasons to vary stay");
    let answer = gateway.client().predict("predictor").header("origin", LISTED).send().await;
    assert_eq!(answer.header("access-control-allow-origin"), LISTED);
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    let answer = gateway.client().get("/open").header("origin", LISTED).send().await;
    assert_eq!((answer.status, granted(&answer)), (200, vec![]), "nor on a route without a rule");
}

#[tokio::test]
async fn credentials_go_with_listed_origins_alone() {
    let worker = Recorder::start();
    let overlay =
        "[cors.browser]\ncredentials = true\nexpose = [\"X-Model\"]\nheaders = [\"X-API-Key\"]\nmax_age = \"1h\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let answer = gateway.client().predict("predictor").header("origin", LISTED).send().await;
    assert_eq!(
        granted(&answer),
        [
            "access-control-allow-credentials: true".to_owned(),
            format!("access-control-allow-origin: {LISTED}"),
            format!("access-control-expose-headers: {EXPOSED}, X-Model"),
        ]
    );
    let answer = gateway.client().predict("predictor").header("origin", "https://evil.example.com").send().await;
    assert_eq!(granted(&answer), Vec::<String>::new());
    let preflight = gateway.client().request("OPTIONS", "/predict").header("origin", LISTED);
    let answer = preflight.header("access-control-request-method", "POST").send().await;
    assert_eq!(
        granted(&answer),
        [
            "access-control-allow-credentials: true".to_owned(),
            "access-control-allow-headers: X-API-Key".to_owned(),
            "access-control-allow-methods: POST".to_owned(),
            format!("access-control-allow-origin: {LISTED}"),
            "access-control-max-age: 3600".to_owned(),
        ]
    );
}

#[tokio::test]
async fn any_origin_is_a_star_and_never_with_credentials() {
    let worker = Recorder::start();
    let overlay = "[cors.browser]\norigins = [\"*\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for origin in ["https://anybody.example.com", "null"] {
        let answer = gateway.client().predict("predictor").header("origin", origin).send().await;
        let expected =
            ["access-control-allow-origin: *".to_owned(), format!("access-control-expose-headers: {EXPOSED}")];
        assert_eq!(granted(&answer), expected);
    }
}

#[tokio::test]
async fn a_browser_gives_answers_and_refusals_to_listed_pages_alone() {
    let worker = Recorder::start();
    let (mut ours, mut theirs) = (Page::bind().await, Page::bind().await);
    let overlay = format!(
        "[cors.browser]\norigins = [{:?}]\n[limits.once]\nquota = 1\nwindow = \"1h\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
         [routes.predict]\nlimits = [\"once\"]\n",
        ours.origin()
    );
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let script = format!(
        "const report = [];\n\
         for (let i = 0; i < 2; i += 1) {{\n\
           try {{\n\
             const answer = await fetch('https://localhost:{port}/predict', {{\n\
               method: 'POST', body: JSON.stringify({flower}),\n\
               headers: {{ 'Content-Type': 'application/json', 'X-API-Key': '{key}' }},\n\
             }});\n\
             const header = (name) => answer.headers.get(name);\n\
             report.push({{\n\
               status: answer.status, body: await answer.json(), id: header('X-Request-Id'),\n\
               retry: header('Retry-After'), policy: header('RateLimit-Policy'), limit: header('RateLimit'),\n\
             }});\n\
           }} catch (error) {{ report.push(error.name); }}\n\
         }}",
        port = gateway.address().port(),
        flower = flower(),
        key = key("predictor"),
    );
    theirs.show(&script);
    assert_eq!(theirs.report().await, json!(["TypeError", "TypeError"]));
    worker.assert_untouched();

    ours.show(&script);
    let report = ours.report().await;
    let (first, second) = (&report[0], &report[1]);
    assert_eq!((&first["status"], &first["body"]), (&json!(200), &json!({ "label": "setosa" })), "{report}");
    assert_eq!(first["policy"], "\"once\";q=1;w=3600");
    assert_eq!(first["retry"], json!(null));
    assert_eq!(first["id"].as_str().map(str::len), Some(32), "{report}");
    assert_eq!((&second["status"], &second["body"]["status"]), (&json!(429), &json!(429)), "{report}");
    assert_eq!(second["body"]["type"], "urn:modelgate:problem:limit-exceeded");
    assert_eq!(second["body"]["request_id"], second["id"]);
    assert_eq!(second["body"]["retry_after"].to_string(), second["retry"].as_str().expect("a page can read it"));
    assert!(second["limit"].as_str().expect("a page can read it").starts_with("\"once\";r=0;t="), "{report}");
    assert_eq!(worker.only().json(), flower());
}
