//! What a review found to be wrong once: one test for each of those bugs, so that none comes back.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::client::{handshake, tls_config};
use harness::identity::{ALICE, SECRET, key};
use harness::wire::{only_answer, plain};
use harness::{Client, Gate, Gateway, GatewayBuilder, PATIENCE, Recorder, Reply, Wire, binary, eventually};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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

/// The value of one series.
async fn number(gateway: &Gateway, series: &str) -> Option<String> {
    let text = plain(gateway.admin(), "GET", "/metrics").await.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned))
}

/// Until no client's connection is open.
async fn every_place_is_free(gateway: &Gateway) {
    eventually("every connection to end", async || {
        number(gateway, "modelgate_connections").await.filter(|open| open == "0")
    })
    .await;
}

/// Bug: while every place was taken, accepting waited for a free one and heard nothing else, so that a hanging
/// worker could keep the process alive for ever.
#[tokio::test]
async fn a_gateway_whose_places_are_all_taken_stops_in_its_time() {
    let worker = Recorder::replying(Reply::never());
    let overlay = "[listener]\nthreads = 1\nmax_connections = 2\ndrain = \"300ms\"\n\
                   [pools.models]\nanswer_timeout = \"1h\"\n";
    let mut gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let asking: Vec<_> = (0..2).map(|_| tokio::spawn(gateway.client().get("/open").try_send())).collect();
    worker.wait_for_requests(2).await;
    // One that the kernel holds for later.
    let _waiting = TcpStream::connect(gateway.address()).await.expect("the kernel takes it");
    assert_eq!(gateway.stop().await.code(), Some(0));
    for asking in asking {
        assert!(asking.await.expect("it was asked").is_err(), "there was no answer to give");
    }
}

/// Bug: what was cut off at the end of `drain` ended after the last batch of records had been sent.
#[tokio::test]
async fn a_request_that_is_cut_off_at_the_end_has_its_record() {
    let worker = Recorder::replying(Reply::never());
    let overlay = "[listener]\ndrain = \"300ms\"\n[pools.models]\nanswer_timeout = \"1h\"\n";
    let mut gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let asking: Vec<_> = [gateway.client(), gateway.http2()]
        .map(|client| tokio::spawn(client.predict("predictor").try_send()))
        .into_iter()
        .collect();
    worker.wait_for_requests(2).await;
    assert_eq!(gateway.stop().await.code(), Some(0));
    for asking in asking {
        assert!(asking.await.expect("it was asked").is_err(), "there was no answer to give");
    }
    let log = gateway.log();
    for protocol in ["HTTP/1.1", "HTTP/2"] {
        let records = log.matching(|line| line["log"] == "access" && line["protocol"] == protocol);
        assert_eq!(records.len(), 1, "{protocol}:\n{}", log.text());
        assert_eq!((&records[0]["route"], &records[0]["status"]), (&json!("predict"), &json!(499)), "{protocol}");
    }
    assert_eq!(log.all().last().expect("lines")["event"], "stopped");
}

/// A program that is ended with its test.
struct Unread(Child);

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bug: at its end the gateway waited for the writer of records, and that for a pipe that nobody empties.
#[tokio::test]
async fn a_gateway_whose_records_nobody_reads_still_stops() {
    // What a pipe holds unless somebody asks for more (pipe(7)).
    const PIPE: usize = 64 << 10;
    let worker = Recorder::start();
    // Another one, for its files.
    let files = Gateway::before(&worker).await;
    let mut command = Command::new(binary("gateway"));
    command.args(["run", "--config", "0.toml", "--config", "1.toml"]).current_dir(files.directory());
    command.env_clear().env("TOKEN_SECRET", SECRET).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env("GATEWAY_ADMIN__SOCKET", "off");
    let mut gateway = Unread(command.spawn().expect("it starts"));
    let mut printed = gateway.0.stdout.take().expect("it is piped");
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut octet = [0];
        printed.read_exact(&mut octet).expect("it says where it listens");
        line.push(octet[0]);
    }
    let line: Value = serde_json::from_slice(&line).expect("a record");
    let address: SocketAddr = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let client = Client::http1(address);
    let mut connection = client.connect().await;
    let path = format!("/{}", "x".repeat(255));
    for _ in 0..2 * PIPE / path.len() {
        connection.send(client.get(&path)).await.assert_problem(404, "not-found");
    }
    let signalled = Command::new("kill").arg(gateway.0.id().to_string()).status().expect("`kill` runs");
    assert!(signalled.success());
    let ended = eventually("the end of the gateway", async || gateway.0.try_wait().expect("a child can be waited for"));
    assert_eq!(ended.await.code(), Some(0));
    let mut rest = Vec::new();
    printed.read_to_end(&mut rest).expect("a pipe can be read");
    // It keeps pages, and a piece that does not fit behind the last begins a new one.
    assert!(rest.len() > PIPE / 2, "the pipe was full: {}", rest.len());
}

/// Bug: a log-in that found another one's password being checked was sent away.
#[tokio::test]
async fn good_log_ins_wait_for_each_other() {
    let gateway = Gateway::builder().policy("[listener]\nthreads = 1\n").start().await;
    for count in 2..=8 {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..count {
            let client = gateway.client();
            clients.spawn(async move { client.log_in("alice", ALICE).await });
        }
        assert_eq!(clients.join_all().await.len(), count);
    }
}

/// Bug: a burst opened a connection to the worker for each of its requests, more than the worker's kernel took,
/// and some of them got 503.
#[tokio::test]
async fn a_burst_waits_for_the_places_that_a_worker_has() {
    let worker = Recorder::start();
    let overlay = "[listener]\nthreads = 1\n[pools.models]\nmax_connections = 3\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let connection = gateway.http2().connect().await;
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (mut connection, request) = (connection.beside(), gateway.http2().get("/open"));
        burst.spawn(async move { connection.send(request).await.status });
    }
    assert_eq!(burst.join_all().await, [200; 60]);
    assert_eq!(worker.seen().len(), 60);
    assert!(worker.connections() <= 3, "{} connections", worker.connections());
}

/// Bug: as above; who waits in vain is told that the worker is busy, by 503.
#[tokio::test]
async fn who_waits_in_vain_for_a_place_is_told_that_the_worker_is_busy() {
    let worker = Recorder::replying(Reply::never());
    let overlay = "[listener]\nthreads = 1\n[pools.models]\nmax_connections = 1\nconnect_timeout = \"300ms\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let connection = gateway.http2().connect().await;
    let (mut first, request) = (connection.beside(), gateway.http2().get("/open"));
    let first = tokio::spawn(async move { first.send(request).await });
    worker.wait_for_requests(1).await;
    let answer = gateway.client().get("/open").send().await;
    answer.assert_problem(503, "worker-busy");
    assert_eq!(worker.seen().len(), 1);
    first.abort();
}

/// The words that the client of an HTTP/2 connection begins with (RFC 9113 §3.4), with these settings.
fn preface(settings: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat()
}

/// One frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short payload");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `GET /open`, whole, on the first stream: two names and values from the static table, and two literal
/// values (RFC 7541 §6).
fn get_open() -> Vec<u8> {
    frame(HEADERS, 0x5, 1, b"\x82\x87\x01\x09localhost\x04\x05/open")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Everything that comes until the gateway closes, in frames: type, stream and payload.
async fn frames(stream: &mut TlsStream<TcpStream>) -> Vec<(u8, u8, Vec<u8>)> {
    let mut octets = Vec::new();
    // However it ends, what came before it counts.
    let ended = timeout(PATIENCE, stream.read_to_end(&mut octets)).await;
    assert!(ended.is_ok(), "the connection stays open after {octets:?}");
    let mut frames = Vec::new();
    let mut rest = &octets[..];
    while let [a, b, c, kind, _flags, _, _, _, id, tail @ ..] = rest {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames.push((*kind, *id, tail[..length].to_vec()));
        rest = &tail[length..];
    }
    frames
}

/// Bug: over HTTP/2 the socket takes everything while one stream's window takes nothing, so that a client with
/// a window of nothing held its worker's connection for as long as it liked.
#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off_and_nobody_else() {
    let gate = Gate::default();
    let open = gate.clone();
    let worker = Recorder::scripted(move |number, _| match number {
        0 => {
            let chunk = format!("186a0\r\n{}\r\n", "x".repeat(100_000));
            Reply::raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}")).stall()
        }
        1 => Reply::early().read_body().wait(&open).write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        _ => Reply::json(&json!({})),
    });
    let overlay = "[listener]\nthreads = 1\nbody_timeout = \"1s\"\n\
                   [pools.models]\nanswer_timeout = \"1h\"\nbody_timeout = \"1h\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let mut stuck = gateway.http2().tls().await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    stuck.write_all(&[preface(&[0, 4, 0, 0, 0, 0]), get_open()].concat()).await.expect("it takes them");
    worker.wait_for_requests(1).await;
    // One that waits for its worker, for longer than the other is borne with.
    let honest = gateway.http2().connect().await;
    let (mut stream, request) = (honest.beside(), gateway.http2().predict("predictor"));
    let waiting = tokio::spawn(async move { stream.send(request).await });
    worker.wait_for_requests(2).await;
    assert_eq!(gateway.client().get("/open").send().await.status, 200, "others are served meanwhile");

    worker.wait_for_hang_ups(1).await;
    let frames = frames(&mut stuck).await;
    let kinds: Vec<u8> = frames.iter().filter(|(_, stream, _)| *stream == 1).map(|(kind, ..)| *kind).collect();
    assert!(kinds.contains(&HEADERS) && !kinds.contains(&DATA), "it has the head alone: {kinds:?}");
    let record = gateway.log().wait_for(|line| line["log"] == "access" && line["reason"] == "client-gone").await;
    assert_eq!((&record["route"], &record["status"]), (&json!("open"), &json!(200)));
    assert!(!waiting.is_finished(), "it still waits");
    gate.open();
    assert_eq!(waiting.await.expect("it was asked").status, 200);
}

/// Bug: of an answer that an HTTP/1 client left where it was, hyper alone held 400 KiB.
#[tokio::test]
async fn an_http_1_client_that_takes_nothing_makes_us_hold_little() {
    const CLIENTS: usize = 40;
    /// KiB for each, and beside.
    const EACH: usize = 256;
    const BESIDE: usize = 4 << 10;
    let chunk = format!("40000\r\n{}\r\n", "x".repeat(256 << 10));
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let worker = Recorder::replying(Reply::early().read_body().write(head).drip(chunk));
    let overlay = "[listener]\nthreads = 1\nbody_timeout = \"3s\"\n\
                   [pools.models]\nanswer_timeout = \"1h\"\nbody_timeout = \"1h\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    assert_eq!(gateway.client().get("/nowhere").send().await.status, 404);
    let before = gateway.resident();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = gateway.client().tls().await;
        client.write_all(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it takes it");
        clients.push(client);
    }
    // Until all were cut off, so that everything had come by then that may.
    let mut most = 0;
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    let cut_off = worker.wait_for_hang_ups(CLIENTS);
    tokio::pin!(cut_off);
    loop {
        tokio::select! {
            () = &mut cut_off => break,
            _ = clock.tick() => most = most.max(gateway.resident()),
        }
    }
    let grown = most.saturating_sub(before + BESIDE) / CLIENTS;
    assert!(grown <= EACH, "{grown} KiB for each of {CLIENTS} answers");
}

/// Bug: an idle HTTP/2 connection was closed without a word, so that its client could not tell whether a
/// request on its way had been looked at.
#[tokio::test]
async fn an_idle_http_2_connection_is_told_goodbye() {
    let worker = Recorder::start();
    let gateway = Gateway::builder().worker(&worker).policy("[listener]\nidle_timeout = \"1s\"\n").start().await;
    for (begin, requests) in [(preface(&[]), 0), ([preface(&[]), get_open()].concat(), 1)] {
        let mut idle = gateway.http2().tls().await;
        idle.write_all(&begin).await.expect("it takes them");
        let frames = frames(&mut idle).await;
        let kinds: Vec<u8> = frames.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(frames.iter().filter(|(kind, ..)| *kind == HEADERS).count(), requests, "{kinds:?}");
        let farewell = frames.iter().find(|(kind, ..)| *kind == GOAWAY);
        let (_, _, payload) = farewell.expect("GOAWAY before the end");
        assert_eq!(payload[4..8], [0; 4], "without an error (RFC 9113 §7)");
    }
}

/// Bug: where the client's body was what moved last, a worker that had stopped reading was waited for without
/// an end.
#[tokio::test]
async fn a_worker_that_stops_reading_a_body_is_504() {
    let gate = Gate::default();
    // It reads what comes with the head and no more.
    let worker = Recorder::replying(Reply::early().wait(&gate));
    // More than all buffers on the way can hold.
    let overlay = "[listener]\nthreads = 1\nidle_timeout = \"1s\"\n[pools.models]\nanswer_timeout = \"300ms\"\n[routes.upload.body]\nmax = \"64MiB\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let body = vec![b'x'; 48 << 20];
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {}\r\n\r\n",
        key("predictor"),
        body.len()
    );
    let (mut reader, mut writer) = tokio::io::split(gateway.client().tls().await);
    let uploading = tokio::spawn({
        let body = body.clone();
        async move {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(&body).await
        }
    });
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, reader.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open after {:?}", String::from_utf8_lossy(&answer));
    let answer = only_answer(&String::from_utf8_lossy(&answer));
    answer.assert_problem(504, "worker-slow");
    assert!(uploading.await.expect("it was sent").is_err(), "the rest is not taken");
    every_place_is_free(&gateway).await;

    let request = gateway.http2().post("/upload").key("predictor").header("content-type", "application/octet-stream");
    request.body(body).send().await.assert_problem(504, "worker-slow");
    every_place_is_free(&gateway).await;
    assert_eq!(worker.seen().len(), 2, "each was sent once");
    gate.open();
    worker.wait_for_hang_ups(2).await;
}

/// Bug: the end of the client's stream was taken for the end of the client, though TLS 1.3 lets each side end
/// its own (RFC 8446 §6.1).
#[tokio::test]
async fn a_client_that_only_stops_sending_gets_its_answer() {
    let gate = Gate::default();
    let open = gate.clone();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    let worker = Recorder::scripted(move |number, _| match number {
        0 => Reply::early().read_body().wait(&open).write(answer),
        _ => Reply::never(),
    });
    let overlay = "[listener]\nthreads = 1\n[pools.models]\nanswer_timeout = \"1h\"\n";
    let gateway = Gateway::builder().worker(&worker).policy(overlay).start().await;
    let config = tls_config(&["http/1.1"], &[&rustls::version::TLS13]);
    let mut half = handshake(gateway.address(), config).await.expect("it shakes hands");
    half.write_all(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it takes it");
    worker.wait_for_requests(1).await;
    half.shutdown().await.expect("it takes the end");
    // One that is gone is known to be gone only after it was asked; by then the other was asked too.
    let mut gone = Wire::open(&gateway.client()).await;
    gone.send("GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    worker.wait_for_requests(2).await;
    drop(gone);
    worker.wait_for_hang_ups(1).await;
    gate.open();
    let mut octets = Vec::new();
    let read = timeout(PATIENCE, half.read_to_end(&mut octets)).await;
    assert!(read.is_ok(), "it stays open");
    let answer = only_answer(&String::from_utf8_lossy(&octets));
    assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
    let record = gateway.log().access(&answer.request_id()).await;
    assert_eq!((&record["status"], &record["reason"]), (&json!(200), &Value::Null));
}

/// As much as the slow readers are sent at most: more than the kernel holds for both sides.
const LARGE: usize = 8 << 20;
/// As much as they read at a time.
const SIP: usize = 256 << 10;

async fn one_thread_before(worker: &Recorder, overlay: &str) -> Gateway {
    Gateway::builder().worker(worker).policy("[listener]\nthreads = 1\n").policy(overlay).start().await
}

/// Whether the gateway has nothing more to get from the worker for one `/open` at least, and has done by now for
/// its clients what it could: the one thread has served somebody else since.
async fn is_ended(gateway: &Gateway) -> bool {
    let other = gateway.client().get("/nowhere").send().await;
    gateway.log().access(&other.request_id()).await;
    !gateway.log().matching(|line| line["log"] == "access" && line["path"] == "/open").is_empty()
}

/// Waits until the gateway has closed a connection because nothing has come on it for `idle_timeout`, twice.
async fn idle_connections_end(gateway: &Gateway) {
    for _ in 0..2 {
        let mut idle = Wire::open(&gateway.client()).await;
        idle.closed().await.expect("closed without a word");
    }
}

/// A client of HTTP/1.1 that reads a large answer slowly; with how much is left to read.
struct Slow {
    stream: TlsStream<TcpStream>,
    left: usize,
}

impl Slow {
    async fn ask(gateway: &Gateway) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(64 << 10).expect("a size that is legal");
        let stream = socket.connect(gateway.address()).await.expect("the port is open");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(Arc::new(tls_config(&["http/1.1"], &[])));
        let mut stream = connector.connect(name, stream).await.expect("it shakes hands");
        stream.write_all(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it takes it");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the head comes"));
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let left = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        Self { stream, left: left.expect("a length") }
    }

    /// Several, whose answers end at different distances from what the kernel holds for them: for one at least,
    /// the gateway has the end of the answer and could not send it yet.
    async fn several(gateway: &Gateway) -> Vec<Self> {
        let mut several = Vec::new();
        for _ in 0..LARGE / SIP {
            several.push(Self::ask(gateway).await);
        }
        assert!(is_ended(gateway).await, "some are read from the worker to their ends");
        several
    }

    /// Reads on a little.
    async fn sip(&mut self) {
        let mut part = vec![0; SIP.min(self.left)];
        let reading = timeout(PATIENCE, self.stream.read_exact(&mut part)).await.expect("it comes");
        assert!(reading.is_ok(), "cut off with less than {} octets to come: {reading:?}", self.left);
        self.left -= part.len();
    }

    /// Reads the rest.
    async fn finish(mut self) {
        while self.left > 0 {
            self.sip().await;
        }
    }
}

/// A worker whose answers grow, from one sip to what is large.
fn growing() -> Recorder {
    Recorder::scripted(|number, _| Reply::with(200, "", &vec![b'x'; (number + 1) * SIP]))
}

/// Bug: a request counted as over when the worker's last octet was there, and what its client had still to take
/// was cut off with the idle connections.
#[tokio::test]
async fn slow_readers_lose_nothing_to_the_bound_on_idle_connections() {
    let worker = growing();
    let gateway = one_thread_before(&worker, "[listener]\nidle_timeout = \"1s\"\n").await;
    let slow = Slow::several(&gateway).await;
    idle_connections_end(&gateway).await;
    for slow in slow {
        slow.finish().await;
    }
}

/// Bug: the same, with the connections that have no request when the gateway is to stop.
#[tokio::test]
async fn slow_readers_lose_nothing_to_a_stop() {
    let worker = growing();
    let mut gateway = one_thread_before(&worker, "[listener]\ndrain = \"1h\"\n").await;
    let slow = Slow::several(&gateway).await;
    let mut idle = Wire::open(&gateway.client()).await;
    idle.send("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 404);
    gateway.signal("TERM");
    gateway.log().event("stopping").await;
    idle.closed().await.expect("closed without a word");
    for slow in slow {
        slow.finish().await;
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// Bug: the same over HTTP/2, where what the client's window has no room for waits in the gateway.
#[tokio::test]
async fn a_slow_reader_loses_nothing_over_http_2() {
    let worker = Recorder::replying(Reply::with(200, "", &vec![b'x'; LARGE]));
    let gateway = one_thread_before(&worker, "[listener]\nidle_timeout = \"1s\"\n").await;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10);
    let shaken = builder.handshake(TokioIo::new(gateway.http2().tls().await)).await;
    let (mut sender, connection) = shaken.expect("it speaks HTTP/2");
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/open").body(Empty::<Bytes>::new()).expect("a request");
    let mut body = sender.send_request(request).await.expect("an answer").into_body();
    let (mut read, mut paused) = (0, false);
    while let Some(part) = timeout(PATIENCE, body.frame()).await.expect("it comes") {
        assert!(part.is_ok(), "cut off after {read} of {LARGE} octets: {part:?}");
        read += part.ok().and_then(|part| part.into_data().ok()).map_or(0, |data| data.len());
        if !paused && read > LARGE - 4 * SIP && is_ended(&gateway).await {
            paused = true;
            assert!(read < LARGE, "nothing is left to lose");
            idle_connections_end(&gateway).await;
        }
    }
    assert_eq!((read, paused), (LARGE, true));
    driver.abort();
}

/// Bug: behind an answer that ended the connection came another one, for the head that could not be read behind it.
#[tokio::test]
async fn nothing_follows_an_answer_that_ends_the_connection() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let hostless = "GET /open HTTP/1.1\r\n\r\n";
    let good = "GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = only_answer(&gateway.client().raw(format!("{hostless}{good}\n")).await);
    answer.assert_problem(400, "head-malformed");
    worker.assert_untouched();
}
