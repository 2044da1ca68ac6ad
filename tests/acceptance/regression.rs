//! What a review found to be wrong once: one test for each of those bugs, so that none comes back.

use harness::{Gateway, GatewayBuilder, Recorder, Reply};
use serde_json::json;

/// A route for everybody and everything that no other route takes.
const BROAD: &str = "[routes.broad]\npath = \"/*\"\nmethods = [\"GET\", \"POST\"]\npool = \"models\"\n\
                     authenticate = \"anonymous\"\nauthorize = \"anonymous\"\n";

/// Bug: an escape that need not be one (`%3A` for `:`) stayed in the path, so that this spelling missed the
/// strict route, reached a broader one, and led the worker to the same place.
#[tokio::test]
async fn no_spelling_of_a_path_leads_past_its_strict_route() {
    let worker = Recorder::start();
    // All of RFC 3986's `pchar` but `;`, which is refused, and `*`, which routes have another use for.
    let marks = [':', '@', '!', '$', '&', '\'', '(', ')', '+', ',', '=', '-', '.', '_', '~'];
    let strict = marks.iter().enumerate().map(|(index, mark)| {
        format!(
            "[routes.strict{index}]\npath = \"/v1/models/iris{mark}predict\"\nmethods = [\"GET\"]\npool = \"models\"\n\
             authorize = [\"admin\"]\n"
        )
    });
    let overlay = strict.collect::<String>() + BROAD;
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for mark in marks {
        let (upper, lower) = (format!("%{:02X}", u32::from(mark)), format!("%{:02x}", u32::from(mark)));
        for spelled in [mark.to_string(), upper, lower] {
            let path = format!("/v1/models/iris{spelled}predict");
            for client in [gateway.client(), gateway.http2()] {
                let before = worker.seen().len();
                client.get(&path).send().await.assert_problem(401, "credential-missing");
                client.get(&path).key("reader").send().await.assert_problem(403, "role-missing");
                assert_eq!(worker.seen().len(), before, "{path}");
                assert_eq!(client.get(&path).key("admin").send().await.status, 200, "{path}");
                let seen = worker.seen().pop().expect("it was called");
                assert_eq!(seen.line(), format!("GET /v1/models/iris{mark}predict HTTP/1.1"), "{path}");
            }
        }
    }
    assert_eq!(gateway.client().get("/v1/other").send().await.status, 200, "the broad route is there");
}

/// Bug: a method that the route of a path does not list was looked for in broader routes, whose rules are
/// for other paths.
#[tokio::test]
async fn a_method_that_the_owner_of_a_path_does_not_take_reaches_no_broader_route() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy(BROAD).start().await;
    for client in [gateway.client(), gateway.http2()] {
        for (method, path, allow) in
            [("GET", "/predict", "POST"), ("POST", "/admin", "GET"), ("POST", "/models/iris", "GET")]
        {
            for request in [client.request(method, path), client.request(method, path).key("admin")] {
                let answer = request.send().await;
                answer.assert_problem(405, "method-not-allowed");
                assert_eq!(answer.header("allow"), allow, "{method} {path}");
            }
        }
    }
    worker.assert_untouched();
    assert_eq!(gateway.client().get("/other").send().await.status, 200, "the broad route is there");
}

/// Bug: an exact path of a route for every host went before `/*` of a route that names the host, so that what
/// was meant for other hosts opened paths of this one.
#[tokio::test]
async fn a_route_that_names_its_hosts_goes_before_an_exact_path_for_every_host() {
    let worker = Recorder::start();
    let inside = "[routes.inside]\nhosts = [\"inside.example\"]\npath = \"/*\"\nmethods = [\"GET\"]\npool = \"models\"\n\
                  authorize = [\"admin\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(inside).start().await;
    let client = gateway.client();
    for host in ["inside.example", "inside.example:8443", "INSIDE.example"] {
        for path in ["/open", "/models", "/models/iris", "/anything"] {
            let request = client.get(path).header("host", host);
            request.clone().send().await.assert_problem(401, "credential-missing");
            request.key("reader").send().await.assert_problem(403, "role-missing");
        }
        // What it does not take is not taken by the others either.
        client.predict("predictor").header("host", host).send().await.assert_problem(405, "method-not-allowed");
    }
    worker.assert_untouched();
    assert_eq!(client.get("/open").header("host", "inside.example").key("admin").send().await.status, 200);
    assert_eq!(worker.only().header("x-modelgate-route").as_deref(), Some("inside"));
    assert_eq!(client.get("/open").send().await.status, 200, "other hosts have the other route");
}

/// Bug: HTTP/2 has no grammar for targets, and octets that HTTP/1 can't write in one went to the worker.
#[tokio::test]
async fn a_query_that_http_1_could_not_write_is_refused_over_http_2() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for query in ["a=é", "\u{80}", "a=b\u{2028}"] {
        let answer = gateway.http2().get(&format!("/open?{query}")).send().await;
        answer.assert_problem(400, "head-malformed");
    }
    worker.assert_untouched();
    assert_eq!(gateway.http2().get("/open?a=%C3%A9").send().await.status, 200);
    assert_eq!(worker.only().line(), "GET /models?a=%C3%A9 HTTP/1.1");
}

/// Bug: `decide_head` asked for a `Content-Type` where the method has no body.
#[tokio::test]
async fn a_get_without_a_body_passes_a_route_that_takes_bodies_too() {
    let worker = Recorder::start();
    let both = "[routes.both]\npath = \"/both\"\nmethods = [\"GET\", \"HEAD\", \"POST\"]\npool = \"models\"\n\
                authorize = [\"reader\"]\n[routes.both.body]\nmax = \"1KiB\"\ndepth = 2\n";
    let gateway = Gateway::builder().worker(&worker).policy(both).start().await;
    for client in [gateway.client(), gateway.http2()] {
        for method in ["GET", "HEAD"] {
            assert_eq!(client.request(method, "/both").key("reader").send().await.status, 200, "{method}");
            let seen = worker.seen().pop().expect("it was called");
            assert_eq!((seen.line(), seen.body.len()), (format!("{method} /both HTTP/1.1"), 0));
            assert_eq!(seen.headers("transfer-encoding"), Vec::<String>::new(), "{method}");
        }
        assert_eq!(client.post("/both").key("reader").json(&json!({ "a": 1 })).send().await.status, 200);
        let untyped = client.post("/both").key("reader").send().await;
        untyped.assert_problem(415, "body-type");
    }
    assert_eq!(worker.seen().len(), 6, "what must have a body and has none is not passed on");
}

/// Bugs: a worker's absolute `Location` told its address inside, and its `Cache-Control` let caches keep what
/// belongs to one key's owner.
#[tokio::test]
async fn a_workers_own_address_and_its_leave_to_cache_stay_inside() {
    let locations = [
        ("http://internal:9001/x", ""),
        ("HTTPS://internal/x", ""),
        ("//internal:9001/x", ""),
        ("/models/iris", "/models/iris"),
        ("/models?at=http://elsewhere/", "/models?at=http://elsewhere/"),
    ];
    let worker = Recorder::scripted(move |number, _| {
        let location = locations[number / 4].0;
        Reply::with(302, &format!("Location: {location}\r\nCache-Control: public, max-age=60\r\n"), b"{}")
    });
    let gateway = Gateway::before(&worker).await;
    for (sent, passed) in locations {
        for client in [gateway.client(), gateway.http2()] {
            let kept = client.get("/known").key("reader").send().await;
            assert_eq!((kept.status, kept.header("location").as_str()), (302, passed), "{sent}");
            assert_eq!(kept.header("cache-control"), "no-store", "an answer to a key is its owner's alone");
            let open = client.get("/open").send().await;
            assert_eq!((open.status, open.header("location").as_str()), (302, passed), "{sent}");
            assert_eq!(open.header("cache-control"), "public, max-age=60", "everybody may have it");
        }
    }
}

/// What is said on standard error, and the exit code.
fn said(builder: &GatewayBuilder) -> (String, Option<i32>) {
    let output = builder.output("check");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

/// Bug: Kubernetes sets variables for each service, and those of one that is called `gateway` were taken for
/// settings that nobody knows.
#[tokio::test]
async fn variables_that_kubernetes_sets_do_not_stop_the_start() {
    let worker = Recorder::start();
    let kubernetes = [
        ("GATEWAY_SERVICE_HOST", "10.0.0.11"),
        ("GATEWAY_SERVICE_PORT", "8443"),
        ("GATEWAY_SERVICE_PORT_HTTPS", "8443"),
        ("GATEWAY_PORT", "tcp://10.0.0.11:8443"),
        ("GATEWAY_PORT_8443_TCP", "tcp://10.0.0.11:8443"),
        ("GATEWAY_PORT_8443_TCP_PROTO", "tcp"),
        ("GATEWAY_PORT_8443_TCP_PORT", "8443"),
        ("GATEWAY_PORT_8443_TCP_ADDR", "10.0.0.11"),
    ];
    let world = || {
        let builder = Gateway::builder().worker(&worker);
        kubernetes.iter().fold(builder, |builder, (name, value)| builder.variable(name, value))
    };
    let gateway = world().start().await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200);
    // Others with the prefix are still held to be settings.
    for name in ["GATEWAY_NONSENSE", "GATEWAY_PORTS", "GATEWAY_SERVICE"] {
        let (text, code) = said(&world().variable(name, "1"));
        assert!(code == Some(78) && text.starts_with("error: 1 mistake ") && text.contains(name), "{code:?} {text}");
    }
}

/// Bug: `worker_path` beside `builtin = "token"` was read and had no meaning.
#[test]
fn a_builtin_route_has_no_path_at_a_worker() {
    let (text, code) = said(&Gateway::builder().policy("[routes.token]\nworker_path = \"/token\"\n"));
    let expected = r#"error: 1 mistake in the configuration

  2.toml:2:1  routes.token.worker_path
    stands beside builtin = "token", which has its own
    help: remove it
"#;
    assert_eq!((text.as_str(), code), (expected, Some(78)));
}
