//! Requests and files made to cost more than they should: each is refused or cut off, and what it took is bounded.

use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Request;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::encoding::encode_varint;

use super::grpc::{call_with, framed};
use super::support::{World, exchange_bytes};

/// Just below the largest body.
const ROOM: usize = (1 << 20) - 64;
/// What the worst of them may take beside what a worker has: KiB.
const MOST: u64 = 32 << 10;

/// A field that holds octets.
fn field(tag: u64, octets: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(tag << 3 | 2, &mut bytes);
    encode_varint(u64::try_from(octets.len()).expect("small"), &mut bytes);
    bytes.extend(octets);
    bytes
}

fn times(part: &[u8]) -> Vec<u8> {
    part.repeat(ROOM / part.len())
}

#[test]
fn a_message_of_many_small_things_is_refused_before_it_is_read() {
    let world = World::new();
    let entry = |number: u32| field(4, &field(1, format!("{number:x}").as_bytes()));
    let named: Vec<u8> = (0..100_000).flat_map(entry).collect();
    let contents = |inside: &[u8]| field(5, &field(5, inside));
    for (what, inside, status) in [
        ("tensors", times(&field(5, &[])), "3"),
        ("outputs", times(&field(6, &[])), "3"),
        ("raw contents", times(&field(7, &[])), "3"),
        ("parameters", field(5, &named), "3"),
        ("an output's parameters", field(6, &named), "3"),
        ("sizes", field(5, &field(3, &vec![0; ROOM])), "3"),
        ("texts", contents(&times(&field(8, &[]))), "8"),
        ("numbers together", contents(&field(5, &vec![0; ROOM])), "8"),
        ("numbers one by one", contents(&times(&[5 << 3, 0])), "8"),
        ("truths", contents(&field(1, &vec![0; ROOM])), "8"),
        ("contents, again and again", field(5, &times(&field(5, &field(1, &[0])))), "8"),
    ] {
        let worker = world.serve("");
        let before = worker.peak();
        let (answered, text, _) = call_with(&worker, "ModelInfer", None, framed(&[field(1, b"iris"), inside].concat()));
        assert_eq!(answered, status, "{what}: {text}");
        let took = worker.peak() - before;
        assert!(took < 6 << 10, "{what}: {took} KiB");
    }
}

#[test]
fn calls_that_carry_no_rows_are_small() {
    let worker = World::new().serve("");
    for call in ["ServerLive", "ServerMetadata", "ModelMetadata", "RepositoryIndex", "Nothing"] {
        assert_eq!(call_with(&worker, call, None, framed(&field(1, &[b'x'; 5000]))).0, "8", "{call}");
    }
    assert_eq!(call_with(&worker, "ServerMetadata", None, framed(&field(9, &[b'x'; 4000]))).0, "0");
}

#[test]
fn json_of_many_small_things_takes_memory_in_proportion() {
    let world = World::new();
    let infer = "/v2/models/iris/infer";
    let list = |part: &str| part.repeat(ROOM / part.len() - 60);
    let input =
        |data: &str| format!(r#"{{"inputs":[{{"name":"x","shape":[1,4],"datatype":"FP64","data":[{data}0]}}]}}"#);
    for (path, body) in [
        (infer, input(&list("0,"))),
        (infer, input(&list("\"\","))),
        (infer, input(&list("[],"))),
        (infer, input(&list("{},"))),
        (infer, format!(r#"{{"inputs":[{}{{}}]}}"#, list(r#"{"name":"","shape":[],"datatype":""},"#))),
        (infer, format!(r#"{{"inputs":[],"outputs":[{}{{}}]}}"#, list(r#"{"name":""},"#))),
        (infer, format!(r#"{{"inputs":{}{}}}"#, "[".repeat(9000), "]".repeat(9000))),
        (infer, format!("[{}0]", list("[],"))),
        ("/predict", format!("[{}0]", list("[],"))),
        ("/predict", format!("[{}0]", list("{},"))),
        ("/predict", format!("[{}0]", list("0,"))),
        ("/models/iris/predict", format!("{{{}\"x\":0}}", list("\"\":0,"))),
        ("/models/sentiment/predict", format!("[{}0]", list(r#"{"text":"a"},"#))),
    ] {
        let worker = world.serve("");
        let before = worker.peak();
        let reply = exchange_bytes(&mut worker.connect(), "POST", path, "", body.as_bytes());
        let took = worker.peak() - before;
        assert!(reply.status == 400 || reply.status == 413, "{}: {}", reply.status, &body[..40]);
        assert!(took < MOST, "{took} KiB: {}", &body[..40]);
    }
}

#[test]
fn a_compressed_message_is_held_to_the_same_bounds() {
    let worker = World::new().serve("");
    let send = |coding: &str, octets: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(octets).expect("written");
        let mut framed = framed(&encoder.finish().expect("compressed"));
        framed[0] = 1;
        let header = Some(("grpc-encoding", coding));
        [call_with(&worker, "ModelReady", header, framed.clone()).0, call_with(&worker, "ModelInfer", header, framed).0]
    };
    assert_eq!(send("gzip", &field(1, b"iris")), ["0", "3"]);
    assert_eq!(send("gzip", &field(1, &vec![0; 5000])), ["8", "5"]);
    assert_eq!(send("gzip", &field(1, &vec![0; 2 * ROOM])), ["8", "8"]);
    assert_eq!(send("gzip", &field(5, &field(5, &field(5, &vec![0; ROOM]))))[1], "8");
    assert_eq!(send("zstd", b""), ["12", "12"]);
    assert_eq!(send("", b""), ["12", "12"]);
}

/// What is sent into it, as a body.
struct Coming(tokio::sync::mpsc::Receiver<Bytes>);

impl hyper::body::Body for Coming {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// How HTTP/2 begins: the preface, and settings.
fn begin(settings: &[u8]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, settings).as_slice()].concat()
}

fn frame(kind: u8, flags: u8, stream: u8, inside: &[u8]) -> Vec<u8> {
    let length = u8::try_from(inside.len()).expect("small");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], inside].concat()
}

#[test]
fn a_connection_whose_requests_were_all_cancelled_is_closed() {
    let worker = World::new().serve("idle = \"20ms\"\nmax_in_flight = 3");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(worker.address()).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        // Bodies that do not end: the worker waits for each until its stream is cancelled.
        let mut begun = Vec::new();
        for _ in 0..3 {
            let (more, body) = tokio::sync::mpsc::channel(1);
            let request = Request::post("http://worker/predict").body(Coming(body)).expect("a request");
            more.send(Bytes::from_static(b"{")).await.expect("sent");
            begun.push((more, tokio::spawn(sender.send_request(request))));
        }
        // Once it has no place left, it has begun them all.
        while worker.post("/predict", "{}").status != 503 {
            tokio::task::yield_now().await;
        }
        for (_, answer) in &begun {
            answer.abort();
        }
        connection.await.expect("no panic").expect("the worker says farewell");
    });
}

#[test]
fn a_peer_that_says_nothing_more_is_not_waited_for() {
    let worker = World::new().serve("idle = \"20ms\"");
    // GET / of a stream whose answer has no room: a window of nothing.
    let asked = frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'w']);
    for sent in [begin(&[]), [begin(&[0, 4, 0, 0, 0, 0]), asked].concat()] {
        let mut stream = worker.connect();
        stream.write_all(&sent).expect("sent");
        // Neither the worker's settings nor its farewell are answered.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(worker.get("/healthz").status, 200);
}

#[test]
fn a_peer_that_takes_no_answers_is_cut_off() {
    let worker = World::new().serve("idle = \"20ms\"");
    let mut stream = worker.connect();
    let asked = b"GET /models/iris HTTP/1.1\r\nHost: w\r\n\r\n".repeat(1000);
    while stream.write_all(&asked).is_ok() {}
    assert_eq!(worker.get("/healthz").status, 200);
}
