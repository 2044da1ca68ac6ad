//! Exactly what the worker gets, and exactly what of its answer the client gets.

use std::process::Command;

use harness::client::flower;
use harness::identity::key;
use harness::wire::in_chunks;
use harness::{Client, Gateway, Process, Recorder, Reply, Seen, Wire, binary};

/// The lines of a head, the first one first and the others sorted, with what changes from run to run masked.
fn lines(text: &str, masks: &[(&str, &str)]) -> Vec<String> {
    let masked = masks.iter().fold(text.to_owned(), |text, (what, mask)| text.replace(what, mask));
    let mut lines: Vec<String> = masked.trim_end().split("\r\n").map(str::to_owned).collect();
    lines[1..].sort();
    lines
}

fn none(seen: &Seen, names: &[&str]) {
    for name in names {
        assert_eq!(seen.headers(name), Vec::<String>::new(), "{name} in\n{}", seen.text());
    }
}

#[tokio::test]
async fn the_worker_gets_exactly_this_head_from_http_1_1() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let body = flower().to_string();
    let request = format!(
        "POST /predict?verbose=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: a-test\r\nX-API-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nCookie: a=1\r\nTraceparent: 00-1-2-03\r\n\
         Accept: */*\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nVia: 1.0 elder\r\n\r\n{body}",
        key("predictor"),
        body.len()
    );
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(request).await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = worker.only();
    let masks = [(answer.request_id(), "ID"), (worker.address().to_string(), "WORKER")];
    let masks: Vec<(&str, &str)> = masks.iter().map(|(what, mask)| (what.as_str(), *mask)).collect();
    assert_eq!(
        lines(&seen.text(), &masks),
        [
            "POST /models/iris/predict?verbose=1 HTTP/1.1",
            "accept: */*",
            "content-length: 75",
            "content-type: application/json",
            "cookie: a=1",
            "host: WORKER",
            "traceparent: 00-1-2-03",
            "user-agent: a-test",
            "via: 1.0 elder",
            "via: 1.1 modelgate",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: localhost",
            "x-forwarded-proto: https",
            "x-modelgate-principal: key:predictor",
            "x-modelgate-roles: predictor,reader",
            "x-modelgate-route: predict",
            "x-modelgate-scheme: api_key",
            "x-modelgate-timeout: 10000",
            "x-request-id: ID",
        ]
    );
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
}

#[tokio::test]
async fn the_worker_gets_http_1_1_from_http_2() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let token = gateway.signer().token(&serde_json::json!({}));
    let request = gateway.http2().post("/predict").bearer(&token).json(&flower());
    // RFC 9113 §8.2.3: crumbs of one cookie.
    let answer = request.header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = worker.only();
    let port = gateway.address().port().to_string();
    let masks = [(answer.request_id(), "ID"), (worker.address().to_string(), "WORKER"), (port, "PORT")];
    let masks: Vec<(&str, &str)> = masks.iter().map(|(what, mask)| (what.as_str(), *mask)).collect();
    assert_eq!(
        lines(&seen.text(), &masks),
        [
            "POST /models/iris/predict HTTP/1.1",
            "content-length: 75",
            "content-type: application/json",
            "cookie: a=1; b=2",
            "host: WORKER",
            "via: 2 modelgate",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: localhost:PORT",
            "x-forwarded-proto: https",
            "x-modelgate-principal: user:alice",
            "x-modelgate-roles: predictor,reader",
            "x-modelgate-route: predict",
            "x-modelgate-scheme: jwt",
            "x-modelgate-timeout: 10000",
            "x-request-id: ID",
        ]
    );
    assert_eq!(seen.json(), flower());
}

#[tokio::test]
async fn what_belongs_to_one_connection_stays_there() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let request = format!(
        "GET /known HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nConnection: X-One , x-two,,close\r\n\
         Connection: X-Three\r\nX-One: 1\r\nX-TWO: 2\r\nX-Three: 3\r\nX-Four: 4\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nProxy-Authenticate: Basic\r\n\
         TE: trailers, deflate\r\nTrailer: X-Four\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABkAARAAAAA\r\n\r\n",
        key("reader")
    );
    let answer = gateway.client().raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = worker.only();
    none(&seen, &["x-one", "x-two", "x-three", "connection", "keep-alive", "proxy-connection", "proxy-authorization"]);
    none(&seen, &["proxy-authenticate", "te", "trailer", "upgrade", "http2-settings", "x-api-key"]);
    assert_eq!(seen.header("x-four").as_deref(), Some("4"));
}

#[tokio::test]
async fn connection_can_not_take_away_what_is_relied_on() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for name in [
        "Authorization",
        "X-API-Key",
        "x-api-key",
        "Host",
        "Content-Type",
        "Cookie",
        "X-Modelgate-Principal",
        "X-Forwarded-For",
        "X-Request-Id",
    ] {
        let answer = gateway.client().predict("predictor").header("connection", &format!("close, {name}")).send().await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "head-malformed"), "{name}");
    }
    worker.assert_untouched();
}

#[tokio::test]
async fn nobody_spoofs_identity_or_origin_by_any_spelling() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let spoofed = [
        "X-Modelgate-Principal",
        "x-modelgate-roles",
        "X-MODELGATE-SCHEME",
        "X-Modelgate-Route",
        "X-Modelgate-Anything",
        "X_Modelgate_Principal",
        "X-Modelgate_Principal",
        "x_modelgate-roles",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-User",
        "X-Forwarded",
        "Forwarded",
        "X-Real-IP",
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Original-URL",
        "X-Original-Host",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Request-Id",
        "X_Request_Id",
        "Remote-User",
        "REMOTE_USER",
        "X-Remote-User",
        "X-User",
        "Max-Forwards",
    ];
    for client in [gateway.client(), gateway.http2()] {
        let request = client.get("/known").key("reader");
        let request = spoofed.iter().fold(request, |request, name| request.header(name, "spoofed-value"));
        let answer = request.header("x-kept", "kept").send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = worker.seen().pop().expect("it was called");
        assert!(!seen.text().contains("spoofed-value"), "{}", seen.text());
        let names = seen.text().lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect::<String>();
        assert!(!names.contains('_'), "some servers read it as a hyphen: {names}");
        assert_eq!(seen.header("x-modelgate-principal").as_deref(), Some("key:reader"));
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(seen.header("x-request-id"), Some(answer.request_id()));
        assert_eq!(seen.header("x-kept").as_deref(), Some("kept"));
    }
    assert_eq!(worker.seen().len(), 2);
}

#[tokio::test]
async fn no_credential_reaches_the_worker() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let token = gateway.signer().token(&serde_json::json!({}));
    let client = gateway.client();
    for request in [
        client.get("/known").key("reader"),
        client.get("/known").bearer(&token),
        client.get("/known").key("reader").header("authorization", "Basic dXNlcjpwYXNzd29yZA=="),
        client.get("/open").key("reader").header("authorization", "Digest username=x"),
        client.get("/known").key("reader").header("proxy-authorization", "Basic dXNlcjpwYXNzd29yZA=="),
    ] {
        assert_eq!(request.send().await.status, 200);
    }
    assert_eq!(worker.seen().len(), 5);
    for seen in worker.seen() {
        none(&seen, &["authorization", "proxy-authorization", "x-api-key"]);
        assert!(!seen.text().contains("mgk_") && !seen.text().contains(&token), "{}", seen.text());
    }
}

#[tokio::test]
async fn the_target_is_the_normal_form_with_the_query_as_it_came() {
    let worker = Recorder::start();
    let overlay = "[routes.rest]\npath = \"/v2/*\"\nmethods = [\"GET\"]\npool = \"models\"\nauthorize = [\"reader\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for (sent, seen) in [
        ("/models/iris", "/models/iris"),
        ("/models/%69ris", "/models/iris"),
        ("/models/caf%c3%a9", "/models/caf%C3%A9"),
        ("/models/a%20b", "/models/a%20b"),
        ("/models?a=1&b=%20x&b=%2e%2E/&c", "/models?a=1&b=%20x&b=%2e%2E/&c"),
        ("/models?", "/models?"),
        ("/v2/x/y/z?q", "/v2/x/y/z?q"),
        ("/known?x=1", "/models?x=1"),
    ] {
        let answer = gateway.client().get(sent).key("reader").send().await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.text());
        let line = worker.seen().pop().expect("it was called").line();
        assert_eq!(line, format!("GET {seen} HTTP/1.1"), "{sent}");
    }
}

fn upload(extra: &str) -> String {
    let key = key("predictor");
    format!(
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/octet-stream\r\n{extra}"
    )
}

#[tokio::test]
async fn a_body_has_one_framing_and_it_is_ours() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let key = key("predictor");
    let body = flower().to_string();
    let json = "Content-Type: application/json\r\n";
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x};ext=1\r\n{body}\r\n0\r\n\r\n", body.len());
    for (request, length, coding) in [
        (format!("POST /predict HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n{json}{chunked}"), Some("75"), None),
        (upload(&chunked), None, Some("chunked")),
        (upload("Content-Length: 3\r\n\r\nabc"), Some("3"), None),
        (format!("GET /known HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n"), None, None),
    ] {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(&request).await;
        assert_eq!(wire.answer().await.status, 200);
        let seen = worker.seen().pop().expect("it was called");
        assert_eq!(seen.header("content-length").as_deref(), length, "{request}");
        assert_eq!(seen.header("transfer-encoding").as_deref(), coding, "{request}");
        let framed = String::from_utf8_lossy(&seen.framed).into_owned();
        assert!(!framed.contains("ext=1"), "extensions of chunks are between neighbours: {framed}");
        assert!(seen.whole, "{request}");
    }
}

/// Found by fuzzing: hyper took GET to have no body, and left out one in chunks.
#[tokio::test]
async fn a_body_of_get_is_forwarded_like_any_other() {
    let worker = Recorder::start();
    let overlay = "[routes.search]\npath = \"/search\"\nmethods = [\"GET\"]\npool = \"models\"\nauthorize = [\"reader\"]\n\
                   body = { format = \"opaque\", content_types = [\"application/octet-stream\"] }\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for framed in ["Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "Content-Length: 3\r\n\r\nabc"] {
        let mut wire = Wire::open(&gateway.client()).await;
        wire.send(upload(framed).replace("POST /upload", "GET /search")).await;
        assert_eq!(wire.answer().await.status, 200, "{framed}");
        let seen = worker.seen().pop().expect("it was called");
        assert_eq!((String::from_utf8_lossy(&seen.body), seen.whole), ("abc".into(), true), "{framed}");
    }
}

#[tokio::test]
async fn an_opaque_body_streams_while_it_comes() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(upload("Transfer-Encoding: chunked\r\n\r\n6\r\nfirst \r\n")).await;
    worker.wait_until(|seen| seen.iter().any(|seen| seen.body == b"first ")).await;
    assert!(!worker.only().whole, "the rest was not sent yet");
    wire.send("6\r\nsecond\r\n0\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(String::from_utf8_lossy(&worker.only().body), "first second");
}

#[tokio::test]
async fn an_opaque_body_is_counted_while_it_streams() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(upload("Content-Length: 1048577\r\n\r\n")).await;
    wire.answer().await.assert_problem(413, "body-too-large");
    worker.assert_untouched();
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(upload("Transfer-Encoding: chunked\r\n\r\n")).await;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    for _ in 0..17 {
        // The gateway may have refused and closed before the last of them.
        let _ = wire.try_send(&chunk).await;
    }
    wire.answer().await.assert_problem(413, "body-too-large");
    worker.wait_for_hang_ups(1).await;
    let seen = worker.only();
    assert!(!seen.whole && seen.body.len() <= 1 << 20, "{} octets", seen.body.len());
}

#[tokio::test]
async fn trailers_are_dropped_in_both_directions() {
    let reply = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n\
                 5;ext=2\r\nhello\r\n0\r\nX-Late: late\r\n\r\n";
    let worker = Recorder::replying(Reply::raw(reply));
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    let trailers = "Trailer: X-Late\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Late: late\r\nX-Modelgate-Principal: root\r\n\r\n";
    wire.send(upload(trailers).replace("Host:", "Connection: close\r\nTE: trailers\r\nHost:")).await;
    let answer = wire.rest().await;
    assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n") && !answer.to_lowercase().contains("late"), "{answer}");
    let seen = worker.only();
    none(&seen, &["trailer", "te"]);
    let framed = String::from_utf8_lossy(&seen.framed).into_owned();
    assert!(framed.ends_with("0\r\n\r\n") && !framed.contains("late") && !framed.contains("root"), "{framed}");
}

#[tokio::test]
async fn the_client_gets_exactly_this_head() {
    let headers = "Server: inner/1.0\r\nX-Powered-By: magic\r\nVia: 1.1 inner\r\nAlt-Svc: h3=\":443\"\r\n\
                   Strict-Transport-Security: max-age=0\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                   Upgrade: h2c\r\nProxy-Authenticate: Basic\r\nX-Modelgate-Principal: root\r\nRateLimit: \"x\";r=0;t=9\r\n\
                   RateLimit-Policy: \"x\";q=1;w=1\r\nX-Request-Id: the-workers\r\nContent-Security-Policy: default-src *\r\n\
                   X-Content-Type-Options: sniff\r\nReferrer-Policy: unsafe-url\r\nX-Model: iris-1\r\n\
                   Content-Type: application/json\r\n";
    let worker = Recorder::replying(Reply::with(200, headers, b"{\"label\":\"setosa\"}"));
    let gateway = Gateway::before(&worker).await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send(format!("GET /known HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\n\r\n", key("reader"))).await;
    let answer = wire.answer().await;
    let mut found: Vec<String> =
        answer.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
    found.retain(|line| !line.starts_with("date: "));
    found.sort();
    let reset = answer.header("ratelimit").rsplit_once("t=").expect("seconds").1.to_owned();
    assert_eq!(
        found,
        [
            "cache-control: no-store".to_owned(),
            "content-length: 18".to_owned(),
            "content-security-policy: default-src 'none'; frame-ancestors 'none'".to_owned(),
            "content-type: application/json".to_owned(),
            "ratelimit-policy: \"wide\";q=100000;w=60".to_owned(),
            format!("ratelimit: \"wide\";r=99999;t={reset}"),
            "referrer-policy: no-referrer".to_owned(),
            "strict-transport-security: max-age=31536000".to_owned(),
            "x-content-type-options: nosniff".to_owned(),
            "x-model: iris-1".to_owned(),
            format!("x-request-id: {}", answer.request_id()),
        ]
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "{\"label\":\"setosa\"}"));
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!(worker.only().header("x-request-id"), Some(answer.request_id()), "one id everywhere");
    assert_eq!((record["status"].as_u64(), record["bytes_out"].as_u64()), (Some(200), Some(18)));
    assert_eq!(record["worker"], worker.address().to_string());
}

#[tokio::test]
async fn the_workers_word_about_caching_and_its_redirects_are_kept() {
    let worker = Recorder::replying(Reply::with(304, "Cache-Control: private, max-age=5\r\nETag: \"1\"\r\n", b""));
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().get("/open").header("if-none-match", "\"1\"").send().await;
    assert_eq!((answer.status, answer.header("cache-control").as_str()), (304, "private, max-age=5"));
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(worker.only().header("if-none-match").as_deref(), Some("\"1\""));
}

#[tokio::test]
async fn a_404_of_the_worker_is_the_workers_own() {
    let worker = Recorder::replying(Reply::with(
        404,
        "Content-Type: application/problem+json\r\n",
        b"{\"type\":\"no-such-model\"}",
    ));
    let gateway = Gateway::before(&worker).await;
    let answer = gateway.client().get("/models/rose").key("reader").send().await;
    assert_eq!((answer.status, answer.text().as_str()), (404, "{\"type\":\"no-such-model\"}"));
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!((record["worker"].as_str(), record["reason"].as_str()), (Some(&*worker.address().to_string()), None));
}

#[tokio::test]
async fn a_head_request_gets_no_body_and_the_connection_goes_on() {
    let worker = Recorder::scripted(|number, _| {
        let body = if number == 0 { "" } else { "hello" };
        Reply::raw(format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n{body}"))
    });
    let overlay = "[listener]\nthreads = 1\n[routes.open]\nmethods = [\"GET\", \"HEAD\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let mut wire = Wire::open(&gateway.client()).await;
    wire.send("HEAD /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = wire.head().await.expect("an answer");
    assert_eq!((head.status, head.header("content-type").as_str()), (200, "text/plain"));
    assert_ne!(head.header("content-length"), "0", "RFC 9110 §8.6: what GET would have, or nothing");
    wire.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(worker.connections(), 1);
}

#[tokio::test]
async fn a_connection_to_the_worker_is_used_again() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nthreads = 1\n").start().await;
    let mut connection = gateway.client().connect().await;
    for _ in 0..3 {
        assert_eq!(connection.send(gateway.client().predict("predictor")).await.status, 200);
    }
    // Another client, another protocol, the same connection behind.
    assert_eq!(gateway.http2().predict("second").send().await.status, 200);
    assert_eq!((worker.seen().len(), worker.connections()), (4, 1));
}

#[tokio::test]
async fn a_large_answer_streams_whole() {
    let body = "0123456789abcdef".repeat(40_000);
    let chunks = in_chunks(&body, 9999);
    let length = body.len();
    let replies = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"),
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}"),
    ];
    let worker = Recorder::scripted(move |number, _| {
        let reply = Reply::raw(replies[number % 3].clone());
        if number % 3 == 2 { reply.close() } else { reply }
    });
    let gateway = Gateway::before(&worker).await;
    for client in [gateway.client(), gateway.http2()] {
        for _ in 0..3 {
            let answer = client.get("/open").send().await;
            assert_eq!(answer.status, 200);
            assert!(answer.text() == body, "{} octets of {length}", answer.body.len());
        }
    }
}

async fn client_address(gateway: &Gateway, worker: &Recorder, client: &Client, lines: &[&str]) -> (String, String) {
    let request =
        lines.iter().fold(client.get("/known").key("reader"), |request, line| request.header("x-forwarded-for", line));
    let answer = request.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = worker.seen().pop().expect("it was called").header("x-forwarded-for").expect("an address");
    let logged = gateway.log().access(&answer.request_id()).await["client"].as_str().expect("an address").to_owned();
    (seen, logged)
}

#[tokio::test]
async fn a_stranger_does_not_choose_their_address() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    for lines in [&["203.0.113.9"][..], &["203.0.113.9, 10.0.0.1"], &["203.0.113.9", "::1"], &["garbage"]] {
        let found = client_address(&gateway, &worker, &gateway.client(), lines).await;
        assert_eq!(found, ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()), "{lines:?}");
    }
}

#[tokio::test]
async fn behind_trusted_proxies_the_client_is_the_first_stranger_from_the_right() {
    let worker = Recorder::start();
    let overlay = "[client_address]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"2001:db8:1::/48\"]\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    for (lines, client) in [
        (&["198.51.100.7"][..], "198.51.100.7"),
        (&["203.0.113.9, 198.51.100.7, 10.0.0.3"], "198.51.100.7"),
        (&["203.0.113.9, 198.51.100.7", "10.0.0.3,10.9.9.9"], "198.51.100.7"),
        (&["203.0.113.9, 2001:db8::7, 2001:db8:1::3"], "2001:db8::7"),
        (&["10.0.0.1, 10.0.0.2"], "10.0.0.1"),
        (&["203.0.113.9, garbage, 10.0.0.3"], "10.0.0.3"),
        (&["203.0.113.9, , 10.0.0.3"], "10.0.0.3"),
        (&["garbage"], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ] {
        let found = client_address(&gateway, &worker, &gateway.client(), lines).await;
        assert_eq!(found, (client.to_owned(), client.to_owned()), "{lines:?}");
    }
}

#[tokio::test]
async fn a_worker_may_listen_on_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = format!("unix:{}", directory.path().join("worker.sock").display());
    let mut command = Command::new(binary("model-worker"));
    command.args(["serve", "--listen", &socket, "--models"]).arg(directory.path()).env_clear();
    let worker = Process::start(&mut command);
    worker.log().event("listening").await;
    let overlay = format!("[pools.models]\nworkers = [\"{socket}\"]\n");
    let gateway = Gateway::builder().policy(overlay).start().await;
    let text = serde_json::json!({ "text": "What a lovely day" });
    let answer = gateway.client().post("/sentiment").key("predictor").json(&text).send().await;
    assert_eq!((answer.status, answer.json()["label"].as_str()), (200, Some("positive")), "{}", answer.text());
    assert_eq!(gateway.log().access(&answer.request_id()).await["worker"], socket);
}

#[tokio::test]
async fn strict_transport_security_can_be_switched_off() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nhsts = false\n").start().await;
    let answer = gateway.client().get("/open").send().await;
    assert_eq!((answer.status, answer.header("strict-transport-security").as_str()), (200, ""));
}
