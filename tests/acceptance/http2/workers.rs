//! What a worker's answer becomes on HTTP/2, and how a connection ends when the gateway does.

use harness::frames::{Code, Ended, Frames, flag, frame, kind};
use harness::{Gate, Gateway, Recorder, Reply};

use super::{data, get, post};

/// A route that takes HEAD, too.
const EITHER: &str = "[routes.either]\npath = \"/either\"\nmethods = [\"GET\", \"HEAD\"]\npool = \"models\"\n\
                      authenticate = \"anonymous\"\nauthorize = \"anonymous\"\n";

/// A name, a method, the worker's octets, and what comes of them: status and body or slug, or a reset.
type Row = (&'static str, &'static str, &'static str, Result<(u16, &'static str), Code>);

const ANSWERS: [Row; 17] = [
    ("a good one", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok((200, "ok"))),
    (
        "in chunks",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        Ok((200, "ok")),
    ),
    (
        "trailers are dropped",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: a\r\n\r\n",
        Ok((200, "ok")),
    ),
    (
        "what belongs to one connection is dropped",
        "GET",
        "HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: b\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
        Ok((200, "ok")),
    ),
    ("names in upper case", "GET", "HTTP/1.1 200 OK\r\nX-UPPER: A\r\nContent-Length: 2\r\n\r\nok", Ok((200, "ok"))),
    ("octets beyond ASCII", "GET", "HTTP/1.1 200 OK\r\nX-Name: \u{e9}\r\nContent-Length: 2\r\n\r\nok", Ok((200, "ok"))),
    (
        "100 first",
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Ok((200, "ok")),
    ),
    (
        "103 first, twice",
        "GET",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Ok((200, "ok")),
    ),
    (
        "101 that nobody asked for",
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        Ok((502, "worker-broken")),
    ),
    ("204 with a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", Ok((204, ""))),
    ("304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", Ok((304, ""))),
    ("HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", Ok((200, ""))),
    ("HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok((200, ""))),
    ("HEAD that the worker fails", "HEAD", "HTTP/1.1 500 Error\r\nContent-Length: 2\r\n\r\nno", Ok((502, ""))),
    ("shorter than it says", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Ok((502, "worker-broken"))),
    (
        "broken chunks",
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nZ\r\n",
        Err(Code::InternalError),
    ),
    ("no HTTP", "GET", "220 mail.example ESMTP\r\n", Ok((502, "worker-broken"))),
];

#[tokio::test]
async fn answers() {
    let worker = Recorder::scripted(|_, seen| {
        let number = seen.header("x-number").and_then(|number| number.parse().ok());
        match number.and_then(|number: usize| ANSWERS.get(number)) {
            Some((_, _, octets, _)) => Reply::raw(*octets).close(),
            None => Reply::json(&serde_json::json!({})),
        }
    });
    let gateway = Gateway::builder().worker(&worker).policy(EITHER).start().await;
    let mut wrong = Vec::new();
    for (number, (name, method, _, wanted)) in ANSWERS.iter().enumerate() {
        let mut frames = Frames::begin(&gateway.http2()).await;
        let head = get().set(":path", "/either").set(":method", method).and("x-number", number.to_string());
        frames.send(head.whole()).await.expect("it takes it");
        let got = match frames.ended(1).await {
            Ended::Answered(answer) if answer.status >= 400 => Ok((answer.status, answer.slug())),
            Ended::Answered(answer) => Ok((answer.status, String::from_utf8_lossy(&answer.body).into_owned())),
            Ended::Reset(code) => Err(code),
            ended => panic!("{name}: {ended:?}"),
        };
        if got != wanted.map(|(status, text)| (status, text.to_owned())) {
            wrong.push(format!("{name}: {got:?}; wanted is {wanted:?}"));
        }
        // Whatever the worker does, the client's connection goes on. A worker that closes without a word can do so
        // under the next request.
        frames.send(get().on(3)).await.expect("it takes it");
        assert!(matches!(frames.ended(3).await, Ended::Answered(_)), "{name}");
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), ANSWERS.len(), wrong.join("\n"));
}

/// A client that waits with its body for a word (RFC 9110 §10.1.1) is refused without it where it has no right.
#[tokio::test]
async fn expectations() {
    let worker = Recorder::start();
    let gateway = Gateway::before(&worker).await;
    let mut frames = Frames::begin(&gateway.http2()).await;
    let expecting = || post().and("expect", "100-continue").and("content-length", "5");
    frames.send(expecting().without("x-api-key").open()).await.expect("it takes it");
    let Ended::Answered(answer) = frames.ended(1).await else { panic!("it is answered") };
    assert_eq!((answer.status, answer.slug().as_str()), (401, "credential-missing"));
    worker.assert_untouched();
    let mut frames = Frames::begin(&gateway.http2()).await;
    frames.send([expecting().open(), data(flag::END_STREAM, "hello")].concat()).await.expect("it takes them");
    assert!(matches!(frames.ended(1).await, Ended::Answered(answer) if answer.status == 200));
    assert_eq!((worker.only().body.as_slice(), worker.only().header("expect")), (&b"hello"[..], None));
}

/// RFC 9113 §6.8: first a GOAWAY that takes every stream on its way, then one that names the last.
#[tokio::test]
async fn the_end_loses_no_request() {
    let gate = Gate::default();
    let open = gate.clone();
    let worker = Recorder::scripted(move |_, _| {
        Reply::early().read_body().wait(&open).write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let mut gateway = Gateway::before(&worker).await;
    let mut frames = Frames::begin(&gateway.http2()).await;
    frames.send(get().on(1)).await.expect("it takes it");
    worker.wait_for_requests(1).await;
    gateway.signal("TERM");
    let ping = loop {
        let came = frames.next().await.expect("a word comes first");
        match came.kind {
            kind::GOAWAY => assert_eq!(came.payload[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "no stream is refused"),
            kind::PING => break came.payload,
            _ => {}
        }
    };
    // On its way while the word was.
    frames.send(get().on(3)).await.expect("it takes it");
    worker.wait_for_requests(2).await;
    frames.send(frame(kind::PING, flag::ACK, 0, ping)).await.expect("it takes it");
    let last = loop {
        let came = frames.next().await.expect("a second word comes");
        if came.kind == kind::GOAWAY {
            break came.payload;
        }
    };
    assert_eq!(last[..8], [0, 0, 0, 3, 0, 0, 0, 0], "nothing behind stream 3");
    let _ = frames.send(get().on(5)).await;
    gate.open();
    let mut ended = Vec::new();
    while let Some(came) = frames.next().await {
        if came.flags & flag::END_STREAM != 0 && came.kind == kind::DATA {
            ended.push(came.stream);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 3]);
    assert_eq!(worker.seen().len(), 2);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// A client that says goodbye itself gets the answers that it waits for.
#[tokio::test]
async fn a_client_that_goes_away_gets_its_answers() {
    let gate = Gate::default();
    let open = gate.clone();
    let worker = Recorder::scripted(move |_, _| {
        Reply::early().read_body().wait(&open).write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    });
    let gateway = Gateway::before(&worker).await;
    let mut frames = Frames::begin(&gateway.http2()).await;
    frames.send([get().on(1), frame(kind::GOAWAY, 0, 0, [0; 8])].concat()).await.expect("it takes them");
    worker.wait_for_requests(1).await;
    gate.open();
    assert!(matches!(frames.ended(1).await, Ended::Answered(answer) if answer.body == b"ok"));
    assert_eq!(frames.goodbye().await, Some(Code::NoError));
}
