//! What requests cost the worker, beside a bare hyper server that parses the same JSON, in one run: `tests/worker/run
//! bench`. Every figure is the median of several rounds in which both are asked in turn, over one connection each.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a command that prints, counts small numbers, and cannot go on without its world"
)]

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;

const ROUNDS: usize = 9;

#[derive(Deserialize)]
struct Plain {
    inputs: Vec<PlainInput>,
}

#[derive(Deserialize)]
struct PlainInput {
    data: Vec<f64>,
}

/// The floor: reads the body, parses the JSON, answers something of an answer's size.
async fn floor() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{{\"address\":\"{}\"}}", listener.local_addr().expect("an address"));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let service = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            let sum: f64 = serde_json::from_slice::<Plain>(&body)
                .map_or(0.0, |plain| plain.inputs.iter().flat_map(|input| &input.data).sum());
            let answer = format!("{{\"sum\":{sum},\"more\":\"{}\"}}", "x".repeat(230));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer))))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// A server in a process of its own, and a connection to it.
struct Server {
    child: Child,
    stream: TcpStream,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let stream = TcpStream::connect(event["address"].as_str().expect("an address")).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self { child, stream }
    }

    /// Nanoseconds on a core so far, of all its threads.
    fn cpu(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("Linux's /proc");
        let of = |path: &Path| -> Option<u64> {
            std::fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        tasks.filter_map(|task| of(&task.ok()?.path())).sum()
    }

    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux's /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a request and reads its answer to the end.
    fn ask(&mut self, request: &[u8], buffer: &mut Vec<u8>) {
        self.stream.write_all(request).expect("sent");
        buffer.clear();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = self.stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "the server hung up");
            buffer.extend_from_slice(&chunk[..read]);
            let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(buffer));
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if buffer.len() == end + 4 + length.parse::<usize>().expect("a number") {
                return;
            }
        }
    }

    /// Microseconds of CPU for one request.
    fn cost(&mut self, request: &[u8], count: u32) -> f64 {
        let mut buffer = Vec::new();
        let before = self.cpu();
        for _ in 0..count {
            self.ask(request, &mut buffer);
        }
        (self.cpu() - before) as f64 / f64::from(count) / 1000.0
    }
}

fn request(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut head = String::from("POST /v2/models/iris/infer HTTP/1.1\r\nHost: worker\r\n");
    let _ = write!(head, "{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn rows(count: usize) -> Vec<f64> {
    let row = |number: usize| [4.3 + (number % 36) as f64 / 10.0, 3.0, 1.0 + (number % 59) as f64 / 10.0, 1.3];
    (0..count).flat_map(row).collect()
}

fn json(count: usize) -> Vec<u8> {
    let input = serde_json::json!({"name": "features", "shape": [count, 4], "datatype": "FP64", "data": rows(count)});
    request("Content-Type: application/json\r\n", serde_json::json!({"inputs": [input]}).to_string().as_bytes())
}

fn octets(count: usize) -> Vec<u8> {
    let data: Vec<u8> = rows(count).iter().flat_map(|number| number.to_le_bytes()).collect();
    let size = serde_json::json!({"binary_data_size": data.len()});
    let input = serde_json::json!({"name": "features", "shape": [count, 4], "datatype": "FP64", "parameters": size});
    let head = serde_json::json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    request(&headers, &[head.as_bytes(), &data].concat())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn main() {
    if std::env::args().any(|argument| argument == "--floor") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(floor());
        return;
    }
    let worker = env!("CARGO_BIN_EXE_model-worker");
    let models = tempfile::tempdir().expect("a directory");
    let artifact = models.path().join("iris/1.model");
    std::fs::create_dir(models.path().join("iris")).expect("a directory");
    let trained =
        Command::new(worker).args(["train", "iris", "--out"]).arg(&artifact).output().expect("the worker runs");
    assert!(trained.status.success(), "{trained:?}");
    let serve = || {
        let mut command = Command::new(worker);
        command.args(["serve", "--listen", "127.0.0.1:0", "--models"]).arg(models.path());
        Server::start(&mut command)
    };
    let ready = |_| {
        let begun = Instant::now();
        serve().ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: worker\r\n\r\n", &mut Vec::new());
        begun.elapsed().as_secs_f64() * 1000.0
    };
    let ready = median((0..ROUNDS).map(ready).collect());
    let mut worker = serve();
    let mut floor = Server::start(Command::new(std::env::current_exe().expect("this program")).arg("--floor"));
    println!("CPU of the server for one request, over one connection, median of {ROUNDS} rounds (µs):");
    for (name, request, count, aim) in [
        ("1 row, JSON", json(1), 5000, "1.5"),
        ("1000 rows, JSON", json(1000), 200, ""),
        ("1000 rows, octets", octets(1000), 500, ""),
    ] {
        let mut costs = [Vec::new(), Vec::new()];
        worker.cost(&request, count / 5);
        floor.cost(&request, count / 5);
        for _ in 0..ROUNDS {
            costs[0].push(worker.cost(&request, count));
            costs[1].push(floor.cost(&request, count));
        }
        let [worker, floor] = costs.map(median);
        let aim = if aim.is_empty() { String::new() } else { format!(", aim {aim}") };
        println!("  {name:18} worker {worker:8.1}   bare hyper {floor:8.1}   {:.2} times{aim}", worker / floor);
    }
    println!(
        "resident {:.1} MiB after that (aim 15); ready in {ready:.1} ms (aim 50)",
        worker.resident() as f64 / 1024.0
    );
}
