//! Every refusal and fault as a client reads it on the wire, and as the operator finds it in the log.

use std::collections::BTreeSet;

use gateway::policy::authenticate::api_key::compose;
use gateway::problem::Reason;
use gateway::types::Sha256;
use harness::client::flower;
use harness::identity::{ALICE, client_secret, clients, key};
use harness::wire::only_answer;
use harness::{Answer, Gate, Gateway, Recorder, Reply, Signer, Wire};
use http::Version;
use serde_json::{Value, json};

/// One request on one connection, in octets.
fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}{length}\r\n{body}")
}

/// A prediction with a header for who asks.
fn predict(who: &str, body: &str) -> String {
    request("POST", "/predict", &format!("{who}Content-Type: application/json\r\n"), body)
}

fn api_key(id: &str) -> String {
    shown(&key(id))
}

fn shown(key: &str) -> String {
    format!("X-API-Key: {key}\r\n")
}

/// Keys that are not good yet, and not from here.
fn wrong_keys() -> String {
    let digest = |key: String| Sha256::of(key.as_bytes());
    format!(
        "[api_key]\nstore = \"redis\"\n\
         [api_keys.early]\nowner = \"tests\"\ndigest = \"{}\"\nnot_before = \"2090-01-01T00:00:00Z\"\n\
         [api_keys.elsewhere]\nowner = \"tests\"\ndigest = \"{}\"\nnetworks = [\"10.0.0.0/8\"]\n",
        digest(compose("early", [1; 20])),
        digest(compose("elsewhere", [2; 20])),
    )
}

/// Holds an answer, and what was logged of it, to what every problem must be.
async fn assert_problem(gateway: &Gateway, answer: &Answer, status: u16, slug: &str) {
    if slug.starts_with("token-") && !answer.header("content-type").contains("problem") {
        // `POST /token` answers in the form of RFC 6749 §5.2.
        assert_eq!((answer.status, answer.header("content-type").as_str()), (status, "application/json"));
        assert!(
            answer.json()["error"].is_string() && answer.json()["error_description"].is_string(),
            "{}",
            answer.text()
        );
    } else {
        answer.assert_problem(status, slug);
        let reason = Reason::ALL.iter().find(|reason| reason.slug() == slug).expect("a slug that is known");
        assert_eq!((reason.status().as_u16(), json!(reason.title())), (status, answer.json()["title"].clone()));
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("strict-transport-security", "max-age=31536000"),
    ] {
        assert_eq!(answer.header(name), value, "{slug}");
    }
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!((&record["reason"], &record["status"]), (&json!(slug), &json!(status)), "{slug}");
    let security = gateway.log().matching(|line| {
        line["log"] == "security" && line["request_id"] == answer.request_id() && line["reason"] == slug
    });
    assert_eq!(
        security.len(),
        usize::from((400..500).contains(&status)),
        "{slug}: refusals, and no faults, are security's"
    );
}

/// Each reason that one request provokes, its status, and that request.
fn provocations(gateway: &Gateway) -> Vec<(&'static str, u16, String)> {
    let reader = api_key("reader");
    let get = |path: &str| request("GET", path, &reader, "");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let expired = gateway.signer().token(&json!({ "iat": 1, "exp": 2 }));
    let away = Signer::es256().token(&json!({ "iss": "https://away.example.com" }));
    let form = |body: &str| request("POST", "/token", "Content-Type: application/x-www-form-urlencoded\r\n", body);
    let body = flower().to_string();
    let by = api_key("predictor");
    let typed = |extra: &str| format!("{by}{extra}");
    let app = format!("client_id=app&client_secret={}", client_secret("app"));

    vec![
        ("head-malformed", 400, get("/known").replace("Host: localhost\r\n", "")),
        ("expectation-unknown", 417, request("GET", "/known", &format!("{reader}Expect: x\r\n"), "")),
        ("path-ambiguous", 400, get("/known/../models")),
        ("framing-unsupported", 501, request("POST", "/predict", &typed("Transfer-Encoding: gzip, chunked\r\n"), "")),
        ("head-too-large", 431, request("GET", "/known", &format!("{reader}X-Long: {}\r\n", "x".repeat(20_000)), "")),
        ("target-too-long", 414, get(&format!("/{}", "x".repeat(9_000)))),
        ("not-found", 404, get("/nowhere")),
        ("method-not-allowed", 405, request("DELETE", "/predict", &by, "")),
        (
            "origin-refused",
            403,
            request(
                "OPTIONS",
                "/predict",
                "Origin: https://evil.example.com\r\nAccess-Control-Request-Method: POST\r\n",
                "",
            ),
        ),
        ("card-unknown", 503, request("POST", "/untold", &format!("{reader}Content-Type: application/json\r\n"), "{}")),
        (
            "limit-too-small",
            413,
            request("POST", "/dear", &format!("{reader}Content-Type: application/json\r\n"), "[1, 2, 3]"),
        ),
        ("credential-missing", 401, predict("", &body)),
        ("credential-malformed", 400, predict("Authorization: Bearer\r\n", &body)),
        ("credentials-several", 400, predict(&typed(&bearer(&expired)), &body)),
        ("api-key-mistyped", 401, predict("X-API-Key: hunter2\r\n", &body)),
        ("api-key-unknown", 401, predict(&shown(&compose("predictor", [7; 20])), &body)),
        ("api-key-expired", 401, predict(&api_key("expired"), &body)),
        ("api-key-not-yet", 401, predict(&shown(&compose("early", [1; 20])), &body)),
        ("api-key-network", 403, predict(&shown(&compose("elsewhere", [2; 20])), &body)),
        // Redis, where it might be, is lost.
        ("api-keys-unavailable", 503, predict(&api_key("unknown"), &body)),
        ("token-invalid", 401, predict(&bearer("x.y.z"), &body)),
        ("token-expired", 401, predict(&bearer(&expired), &body)),
        ("issuer-unavailable", 503, predict(&bearer(&away), &body)),
        ("role-missing", 403, predict(&reader, &body)),
        ("right-missing", 403, get("/other-model")),
        ("scope-missing", 403, get("/scoped")),
        ("condition-unmet", 403, get("/elsewhere")),
        ("limit-exceeded", 429, get("/limited")),
        ("limit-store-lost", 503, get("/uncountable")),
        ("body-not-taken", 413, request("GET", "/known", &reader, "x")),
        ("body-too-large", 413, predict(&by, &"x".repeat(20_000))),
        ("body-type", 415, request("POST", "/predict", &typed("Content-Type: text/plain\r\n"), &body)),
        ("body-encoding", 415, predict(&typed("Content-Encoding: gzip\r\n"), &body)),
        ("body-malformed", 400, predict(&by, "{")),
        ("body-invalid", 422, predict(&by, "{}")),
        (
            "body-framing",
            400,
            request("POST", "/predict", &typed("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"), "")
                + "zz\r\n",
        ),
        ("body-slow", 408, predict(&by, &body).replace(&body, "{")),
        ("worker-unreachable", 503, get("/unreachable")),
        ("worker-busy", 503, get("/busy")),
        ("worker-broken", 502, get("/broken")),
        ("worker-failed", 502, get("/failing")),
        ("worker-slow", 504, get("/silent")),
        ("http2-needed", 505, request("POST", "/grpc", &typed("Content-Type: application/grpc\r\n"), "")),
        // Redis is lost, and whether this one was revoked nobody knows.
        ("revocation-unknown", 503, request("GET", "/known", &bearer(&gateway.signer().token(&json!({}))), "")),
        ("token-request", 400, form("grant_type=authorization_code")),
        ("token-client", 401, form("grant_type=client_credentials&client_id=ci&client_secret=wrong")),
        ("token-refresh", 400, form(&format!("grant_type=refresh_token&refresh_token=x&{app}"))),
        (
            "token-store-lost",
            503,
            form(&format!("grant_type=refresh_token&refresh_token=mgr_{}_{}&{app}", "0".repeat(32), "0".repeat(40))),
        ),
        ("token-grant", 400, form("grant_type=password&username=alice&password=wrong")),
    ]
}

/// Provokes `token-busy`: one thread checks one password at a time, and some more may wait.
async fn too_many_passwords(gateway: &Gateway) {
    let form = format!("grant_type=password&username=alice&password={}", ALICE.replace(' ', "+"));
    let connection = gateway.http2().connect().await;
    let asking: Vec<_> = (0..60)
        .map(|_| {
            let (mut connection, request) = (connection.beside(), gateway.http2().token(&form));
            tokio::spawn(async move { connection.send(request).await })
        })
        .collect();
    let mut busy = None;
    for answer in asking {
        let answer = answer.await.expect("it was asked");
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
        busy = busy.or((answer.status == 503).then_some(answer));
    }
    let busy = busy.expect("not all of sixty at once");
    assert_eq!(
        (busy.json()["error"].as_str(), busy.header("retry-after").as_str()),
        (Some("temporarily_unavailable"), "1")
    );
    assert_problem(gateway, &busy, 503, "token-busy").await;
}

/// Provokes `token-reused` and `token-revoked`, with a store that answers.
async fn a_token_used_twice() {
    let gateway = Gateway::builder().policy(clients()).start().await;
    let client = gateway.client();
    let form = format!("grant_type=password&username=alice&password={}", ALICE.replace(' ', "+"));
    let tokens = client.token(&form).as_client("app").send().await.json();
    let refresh =
        format!("grant_type=refresh_token&refresh_token={}", tokens["refresh_token"].as_str().expect("a token"));
    assert_eq!(client.token(&refresh).as_client("app").send().await.status, 200);
    let again = client.token(&refresh).as_client("app").send().await;
    assert_problem(&gateway, &again, 400, "token-reused").await;
    let revoked = client.get("/known").bearer(tokens["access_token"].as_str().expect("a token")).send().await;
    assert_problem(&gateway, &revoked, 401, "token-revoked").await;
}

/// A route for each kind of worker and limit that goes wrong.
fn wrong_routes(routes: &[(&str, std::net::SocketAddr, &str)]) -> String {
    let route = |(name, address, limit): &(&str, std::net::SocketAddr, &str)| {
        format!(
            "[pools.{name}]\nworkers = [\"http://{address}\"]\nanswer_timeout = \"300ms\"\n\
             [routes.{name}]\npath = \"/{name}\"\nmethods = [\"GET\"]\npool = \"{name}\"\nlimits = [\"{limit}\"]\nauthorize = [\"reader\"]\n"
        )
    };
    routes.iter().map(route).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn every_reason_has_its_answer_and_its_record() {
    let (worker, silent, broken, failing, busy) = (
        Recorder::start(),
        Recorder::replying(Reply::never()),
        Recorder::replying(Reply::raw("garbage\r\n\r\n").close()),
        Recorder::replying(Reply::with(500, "", b"")),
        Recorder::replying(Reply::with(503, "", b"")),
    );
    let lost = Recorder::refusing();
    let policy = format!(
        "[listener]\nthreads = 1\nbody_timeout = \"300ms\"\n\
         [store]\nkind = \"redis\"\nurl = \"redis://{}\"\n\
         [limits.once]\nquota = 1\nwindow = \"1h\"\nby = [\"principal\"]\nstore_lost = \"local\"\n\
         [limits.strict]\nquota = 1\nwindow = \"1h\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
         [limits.rows]\nquota = 2\ncost = \"rows\"\nwindow = \"1h\"\nby = [\"address\"]\nstore_lost = \"local\"\n\
         [routes.dear]\npath = \"/dear\"\nmethods = [\"POST\"]\npool = \"models\"\nlimits = [\"rows\"]\n\
         authorize = [\"reader\"]\n[routes.dear.body]\n\
         [guards.untold]\ncard_path = \"/v2/models/iris\"\n\
         [routes.untold]\npath = \"/untold\"\nmethods = [\"POST\"]\npool = \"streams\"\nlimits = [\"wide\"]\n\
         authorize = [\"reader\"]\nbody = {{ guard = \"untold\" }}\n\
         [pools.streams]\nworkers = [\"http://127.0.0.1:9\"]\nprotocol = \"http2\"\n\
         [routes.grpc]\npath = \"/grpc\"\nmethods = [\"POST\"]\npool = \"streams\"\nlimits = [\"wide\"]\n\
         authorize = [\"reader\"]\ngrpc = true\n\
         [rights.other]\nroles = [\"reader\"]\nmodels = [\"mood\"]\n\
         [rights.elsewhere]\nroles = [\"reader\"]\nnetworks = [\"10.0.0.0/8\"]\n\
         [routes.other-model]\npath = \"/other-model\"\nmethods = [\"GET\"]\npool = \"models\"\nmodel = \"iris\"\n\
         rights = [\"other\"]\n\
         [routes.elsewhere]\npath = \"/elsewhere\"\nmethods = [\"GET\"]\npool = \"models\"\nrights = [\"elsewhere\"]\n\
         [routes.scoped]\npath = \"/scoped\"\nmethods = [\"GET\"]\npool = \"models\"\nauthorize = [\"reader\"]\n\
         scopes = [\"read\"]\n\
         [issuers.away]\nissuer = \"https://away.example.com\"\naudience = \"modelgate\"\nalgorithms = [\"ES256\"]\n\
         jwks_url = \"https://127.0.0.1:{}/jwks\"\n",
        lost.address(),
        lost.address().port(),
    );
    let routes = wrong_routes(&[
        ("unreachable", lost.address(), "wide"),
        ("silent", silent.address(), "wide"),
        ("broken", broken.address(), "wide"),
        ("failing", failing.address(), "wide"),
        ("busy", busy.address(), "wide"),
        ("limited", worker.address(), "once"),
        ("uncountable", worker.address(), "strict"),
    ]);
    let builder = Gateway::builder().worker(&worker).policy(policy).policy(routes).policy(clients());
    let gateway = builder.policy(wrong_keys()).start().await;
    let limited = request("GET", "/limited", &api_key("reader"), "");
    assert!(gateway.client().raw(limited).await.starts_with("HTTP/1.1 200"), "the one that is admitted");
    let served = worker.seen().len();
    let mut provoked: BTreeSet<&str> = BTreeSet::new();
    for (slug, status, octets) in provocations(&gateway) {
        let answer = only_answer(&gateway.client().raw(octets).await);
        assert_problem(&gateway, &answer, status, slug).await;
        provoked.insert(slug);
    }
    assert_eq!(worker.seen().len(), served, "none of them reached a worker that serves");

    too_many_passwords(&gateway).await;
    a_token_used_twice().await;
    // Nobody is there to read the one, and the other is what the tests are here to never see; those of schemes,
    // answers and keys in other stores are provoked beside what they are for.
    provoked.extend([
        "credentials-disagree",
        "answer-undeclared",
        "input-refused",
        "path-closed",
        "token-busy",
        "token-reused",
        "token-revoked",
        "client-gone",
        "internal",
    ]);
    provoked.extend([
        "certificate-unknown",
        "certificate-expired",
        "certificate-revoked",
        "token-binding",
        "proof-invalid",
        "proof-replayed",
    ]);
    provoked.extend(["replay-unknown", "signature-malformed", "signature-invalid", "signer-ended", "body-digest"]);
    let all: BTreeSet<&str> = Reason::SLUGS.iter().copied().collect();
    assert_eq!(provoked, all, "a reason without a test");
}

#[tokio::test]
async fn a_problem_over_http_2_is_the_same_problem() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let client = gateway.http2();
    for (request, status, slug) in [
        (client.get("/nowhere"), 404, "not-found"),
        (client.get("/predict"), 405, "method-not-allowed"),
        (client.get("/a//b"), 400, "path-ambiguous"),
        (client.predict("unknown"), 401, "api-key-unknown"),
        (client.predict("predictor").body("{}"), 422, "body-invalid"),
        (client.get("/known").header("host", "elsewhere"), 400, "head-malformed"),
    ] {
        let answer = request.send().await;
        assert_problem(&gateway, &answer, status, slug).await;
        assert_eq!(answer.header("connection"), "", "HTTP/2 has no such header");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_path_without_a_route_is_404_for_everybody_and_every_method() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PURGE", "PROPFIND"] {
        for path in ["/", "/nowhere", "/predict/", "/predict/x", "/PREDICT", "/models/iris/predict", "/.env"] {
            let answer = gateway.client().request(method, path).key("admin").send().await;
            assert_eq!(answer.status, 404, "{method} {path}");
            assert_eq!(answer.header("allow"), "", "{method} {path}");
        }
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_method_that_no_route_takes_is_405_with_those_it_takes() {
    let worker = Recorder::start();
    let overlay = "[routes.both]\npath = \"/models\"\nmethods = [\"PUT\", \"DELETE\"]\npool = \"models\"\nauthorize = [\"admin\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for (method, path, allow) in [
        ("GET", "/predict", "POST"),
        ("HEAD", "/predict", "POST"),
        ("post", "/predict", "POST"),
        ("OPTIONS", "/predict", "POST"),
        ("TRACE", "/predict", "POST"),
        ("PATCH", "/models", "DELETE, GET, PUT"),
        ("HEAD", "/models", "DELETE, GET, PUT"),
        ("POST", "/models/iris", "GET"),
        ("GET", "/token", "POST"),
    ] {
        let answer = gateway.client().request(method, path).key("admin").send().await;
        assert_eq!((answer.status, answer.header("allow").as_str()), (405, allow), "{method} {path}");
        if method != "HEAD" {
            assert_eq!(answer.problem(), "method-not-allowed");
        }
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_path_that_two_readers_could_read_differently_is_refused() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut otherwise = Vec::new();
    for path in [
        "//known",
        "/models//iris",
        "/./known",
        "/x/../known",
        "/models/..",
        "/models/.",
        "/models/%2e%2e/known",
        "/models/%2E",
        "/models/a%2fb",
        "/models/a%2Fb",
        "/models/a%5cb",
        "/models/a\\b",
        "/models/a;b=1",
        "/models/a%3bb",
        "/models/%252e%252e",
        "/models/a%00",
        "/models/a%0d%0aX:1",
        "/models/a%7f",
        "/models/%",
        "/models/%2",
        "/models/%zz",
        "/models/%ff",
        "/models/%c0%af",
        "/models/a|b",
        "/models/a^b",
        "/models/{name}",
        "/models/a\"b",
    ] {
        let answer = only_answer(&gateway.client().raw(request("GET", path, &api_key("admin"), "")).await);
        if answer.status != 400 || answer.body.is_empty() || answer.problem() != "path-ambiguous" {
            otherwise.push(format!("{} for {path}: {}", answer.status, answer.text()));
            continue;
        }
        let record = gateway.log().access(&answer.request_id()).await;
        assert_eq!((&record["reason"], &record["route"]), (&json!("path-ambiguous"), &Value::Null), "{path}");
    }
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
    worker.assert_untouched();
}

/// The statuses of all answers in what a connection gave before it was closed.
fn statuses(text: &str) -> Vec<u16> {
    text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect()
}

/// Sends heads that must be refused, each with a second request behind it, which must not be answered, much
/// less served: one problem, with one of these statuses, a closed connection and a record. Fails with all
/// that are taken otherwise.
async fn assert_refused_for_good(gateway: &Gateway, heads: &[String], allowed: &[u16]) {
    let smuggled = format!("GET /known HTTP/1.1\r\nHost: localhost\r\n{}Connection: close\r\n\r\n", api_key("admin"));
    let mut taken = Vec::new();
    for octets in heads {
        let text = gateway.client().raw(octets.to_owned() + &smuggled).await;
        let statuses = statuses(&text);
        if statuses.len() != 1 || !allowed.contains(&statuses[0]) {
            taken.push(format!("{statuses:?} for {octets:?}"));
            continue;
        }
        let answer = only_answer(&text);
        if answer.body.is_empty() {
            taken.push(format!("{statuses:?} without a word for {octets:?}"));
            continue;
        }
        let slug = answer.problem();
        assert!(answer.header("connection") == "close" || answer.version == Version::HTTP_10, "{octets:?}: {text}");
        assert_problem(gateway, &answer, statuses[0], &slug).await;
    }
    assert!(taken.is_empty(), "each must be refused once, with one of {allowed:?}:\n{}", taken.join("\n"));
}

#[tokio::test]
async fn trace_echoes_nothing() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let key = api_key("reader");
    for path in ["/known", "/nowhere"] {
        let head =
            format!("TRACE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nMax-Forwards: 0\r\n{key}\r\n");
        let text = gateway.client().raw(head).await;
        assert!(matches!(statuses(&text)[..], [404 | 405]), "{text}");
        assert!(!text.contains(&key), "nothing is echoed");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let key = api_key("reader");
    let many = "X-A: 1\r\n".repeat(100);
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let heads = [long, many].map(|extra| format!("GET /known HTTP/1.1\r\nHost: localhost\r\n{key}{extra}\r\n"));
    assert_refused_for_good(&gateway, &heads, &[431]).await;
    let target = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(20_000));
    assert_refused_for_good(&gateway, &[target], &[414]).await;
    worker.assert_untouched();
    let answer = gateway.http2().get("/known").key("reader").header("x-long", &"x".repeat(20_000)).try_send().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 431));
    worker.assert_untouched();
}

/// A prediction in chunks, with an extension, trailers, and another line end than usual before it.
fn in_pieces() -> String {
    let (body, key) = (flower().to_string(), api_key("predictor"));
    let (first, second) = body.split_at(20);
    format!(
        "\r\nPOST /predict?x=1 HTTP/1.1\r\nHost: localhost\r\n{key}Content-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nX-Empty:\r\n\r\n14;a=b\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\nX-Late: 1\r\n\r\n",
        second.len()
    )
}

#[tokio::test]
async fn a_request_may_come_in_any_pieces() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let request = in_pieces();
    let mut wire = Wire::open(&gateway.client()).await;
    for at in 1..request.len() {
        let (first, second) = request.split_at(at);
        wire.send(first).await;
        wire.send(second).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200, "in two pieces, the second {second:?}: {}", answer.text());
    }
    for octet in request.as_bytes() {
        wire.send([*octet]).await;
    }
    assert_eq!(wire.answer().await.status, 200, "octet by octet");
    assert_eq!(worker.seen().len(), request.len());
    for seen in worker.seen() {
        assert_eq!((seen.json(), seen.header("x-late")), (flower(), None));
    }
}

#[tokio::test]
async fn what_is_wrong_behind_a_request_leaves_it_its_answer() {
    for (wrong, status, slug) in [
        ("GARBAGE\r\n\r\n", 400, "head-malformed"),
        ("GET /known HTTP/1.1\nHost: localhost\r\n\r\n", 400, "head-malformed"),
        (
            "GET /known HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "head-malformed",
        ),
        ("GET /known HTTP/1.1\r\n\r\n", 400, "head-malformed"),
        ("POST /known HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "framing-unsupported"),
    ] {
        let gate = Gate::default();
        let reply = Reply::early().read_body().wait(&gate).write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        let worker = Recorder::replying(reply);
        let gateway = Gateway::before(&worker).await;
        for request in [in_pieces(), format!("GET /known HTTP/1.1\r\nHost: localhost\r\n{}\r\n", api_key("reader"))] {
            let mut wire = Wire::open(&gateway.client()).await;
            let before = worker.seen().len();
            wire.send(request + wrong).await;
            worker.wait_for_requests(before + 1).await;
            gate.open();
            let answer = wire.answer().await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{wrong:?}");
            wire.answer().await.assert_problem(status, slug);
            wire.closed().await.expect("nothing more");
            assert_eq!(worker.seen().len(), before + 1);
        }
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_given_up() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nhead_timeout = \"200ms\"\n").start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("GET /known HTTP/1.1\r\nHost: localhost\r\nX-A: ").await;
    let rest = wire.rest().await;
    assert!(rest.is_empty() || statuses(&rest) == [408], "{rest}");
    worker.assert_untouched();
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_their_order() {
    let worker = Recorder::scripted(|_, seen| Reply::with(200, "", seen.line().as_bytes()));
    let gateway = Gateway::before(&worker).await;
    let line =
        |path: &str, extra: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{}{extra}\r\n", api_key("reader"));
    let text = gateway
        .client()
        .raw(line("/models/a", "") + &line("/nowhere", "") + &line("/models/b", "Connection: close\r\n"))
        .await;
    assert_eq!(statuses(&text), [200, 404, 200]);
    let (first, second) =
        (text.find("GET /models/a ").expect("the first"), text.find("GET /models/b ").expect("the last"));
    assert!(first < second, "{text}");
}

#[tokio::test]
async fn a_route_may_belong_to_hosts() {
    let worker = Recorder::start();
    let overlay = "[routes.open]\nhosts = [\"api.example.com\", \"[::1]\"]\n\
                   [routes.elsewhere]\npath = \"/open\"\nmethods = [\"GET\"]\nhosts = [\"other.example.com\"]\npool = \"models\"\nauthorize = [\"reader\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for (host, status) in [
        ("api.example.com", 200),
        ("API.example.COM:8443", 200),
        ("[::1]:8443", 200),
        ("localhost", 404),
        ("api.example.com.evil.net", 404),
        ("xapi.example.com", 404),
        ("api.example.com.", 404),
        // The other host's route has rules of its own.
        ("other.example.com", 401),
    ] {
        let answer = gateway.client().get("/open").header("host", host).send().await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
    assert_eq!(worker.seen().len(), 3);
    assert_eq!(worker.seen()[1].header("x-forwarded-host").as_deref(), Some("API.example.COM:8443"));
}

#[tokio::test]
async fn over_http_2_a_length_that_is_not_the_bodys_is_never_forwarded() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for length in ["10", "76", "1000", "0"] {
        let ended = gateway.http2().predict("predictor").header("content-length", length).try_send().await;
        // RFC 9113 §8.1.1: malformed, so a stream error, or a refusal before the body was looked at.
        assert!(ended.as_ref().map_or(true, |answer| answer.status == 400), "{length}: {ended:?}");
    }
    worker.assert_untouched();
    assert_eq!(gateway.http2().predict("predictor").header("content-length", "75").send().await.status, 200);
}
