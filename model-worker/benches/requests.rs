//! What requests cost the worker, beside a bare hyper server that parses the same JSON and other servers of the same forest,
//! in one run: `tests/worker/run bench` starts them. Each is asked first whether it answers as scikit-learn does. Every
//! figure is the median of several rounds in which all are asked in turn, over one connection each.
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
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};

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

/// A server in processes of its own, and a connection to it.
struct Server {
    name: String,
    /// Ended with the measurement, where it was begun by it.
    child: Option<Child>,
    processes: Vec<u32>,
    stream: TcpStream,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A process and all that descend from it.
fn tree(root: u32) -> Vec<u32> {
    let parent = |process: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name stands in parentheses and may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").expect("Linux's /proc");
    let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = all.filter_map(|process| Some((process, parent(process)?))).collect();
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(&ancestor) = tree.get(at) {
        tree.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(process, _)| *process));
        at += 1;
    }
    tree
}

impl Server {
    fn new(name: &str, address: &str, process: u32, child: Option<Child>) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self { name: name.to_owned(), child, processes: tree(process), stream }
    }

    fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        Self::new(name, event["address"].as_str().expect("an address"), child.id(), Some(child))
    }

    /// Nanoseconds on a core so far, of all threads of all processes.
    fn cpu(&self) -> u64 {
        let of = |path: &Path| -> Option<u64> {
            std::fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        let tasks = |process: &u32| std::fs::read_dir(format!("/proc/{process}/task")).expect("the server lives");
        self.processes.iter().flat_map(tasks).filter_map(|task| of(&task.ok()?.path())).sum()
    }

    /// MiB.
    fn resident(&self) -> f64 {
        let of = |process: &u32| -> f64 {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the server lives");
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        self.processes.iter().map(of).sum::<f64>() / 1024.0
    }

    /// Sends a request and reads its answer to the end; returns where its body begins.
    fn ask(&mut self, request: &[u8], buffer: &mut Vec<u8>) -> usize {
        self.stream.write_all(request).expect("sent");
        buffer.clear();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = self.stream.read(&mut chunk).expect("an answer");
            assert!(read > 0, "{} hung up", self.name);
            buffer.extend_from_slice(&chunk[..read]);
            let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{}: {}", self.name, String::from_utf8_lossy(buffer));
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if buffer.len() == end + 4 + length.parse::<usize>().expect("a number") {
                return end + 4;
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

    /// Asks for all rows, as JSON and as octets, and holds the answers to what scikit-learn says.
    fn check(&mut self, cases: &Cases) {
        let mut buffer = Vec::new();
        let begin = self.ask(&cases.json(cases.rows.len()), &mut buffer);
        let answer: Value = serde_json::from_slice(&buffer[begin..]).expect("JSON");
        let outputs = answer["outputs"].as_array().expect("outputs");
        let labels: Vec<i64> = serde_json::from_value(outputs[0]["data"].clone()).expect("labels");
        assert_eq!(labels, cases.labels, "{} labels otherwise than scikit-learn", self.name);
        let given: Vec<f64> = serde_json::from_value(outputs[1]["data"].clone()).expect("probabilities");
        let expected = cases.probabilities.concat();
        let near = given.len() == expected.len() && given.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{} gives other probabilities than scikit-learn", self.name);
        self.ask(&cases.octets(cases.rows.len()), &mut buffer);
        let octets: Vec<u8> = cases.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let there = buffer.windows(octets.len()).any(|window| window == octets);
        assert!(there, "{} gives other octets than scikit-learn's labels", self.name);
    }
}

/// What is asked, and what scikit-learn says of it.
#[derive(Deserialize)]
struct Cases {
    rows: Vec<Vec<f32>>,
    labels: Vec<i64>,
    probabilities: Vec<Vec<f64>>,
}

impl Cases {
    fn request(&self, count: usize, headers: &str, body: &[u8]) -> Vec<u8> {
        assert!(count <= self.rows.len());
        let mut head = String::from("POST /v2/models/iris/infer HTTP/1.1\r\nHost: worker\r\n");
        let _ = write!(head, "{headers}Content-Length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    fn input(&self, count: usize, member: &str, value: &Value) -> Value {
        json!({"name": "features", "shape": [count, self.rows[0].len()], "datatype": "FP32", member: value})
    }

    fn json(&self, count: usize) -> Vec<u8> {
        // As they are written by people: 5.1, not the nearest FP32.
        let text = self.rows.iter().take(count).flatten().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let data: Value = serde_json::from_str(&format!("[{text}]")).expect("JSON");
        let body = json!({"inputs": [self.input(count, "data", &data)], "outputs": outputs(false)});
        self.request(count, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    fn octets(&self, count: usize) -> Vec<u8> {
        let data: Vec<u8> = self.rows.iter().take(count).flatten().flat_map(|number| number.to_le_bytes()).collect();
        let input = self.input(count, "parameters", &json!({"binary_data_size": data.len()}));
        let head = json!({"inputs": [input], "outputs": outputs(true)}).to_string();
        let headers = format!("Inference-Header-Content-Length: {}\r\n", head.len());
        self.request(count, &headers, &[head.as_bytes(), &data].concat())
    }
}

fn outputs(octets: bool) -> Value {
    let output =
        |name| if octets { json!({"name": name, "parameters": {"binary_data": true}}) } else { json!({"name": name}) };
    json!([output("label"), output("probabilities")])
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// What the command line says: where the forest is, and which servers run already.
fn arguments() -> Option<(PathBuf, Vec<Server>)> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let forest = arguments.next()?.into();
    let mut peers = Vec::new();
    while arguments.next().as_deref() == Some("--peer") {
        let (name, address) = (arguments.next()?, arguments.next()?);
        peers.push(Server::new(&name, &address, arguments.next()?.parse().ok()?, None));
    }
    Some((forest, peers))
}

/// Nanoseconds a row of a model, on one thread: the median, and the least.
fn engine(worker: &str, artifact: &Path) -> [f64; 2] {
    let output = Command::new(worker).arg("bench").arg(artifact).arg("--json").output().expect("the worker runs");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    ["median", "least"].map(|which| told["ns_per_row"][which].as_f64().expect("a number"))
}

fn main() {
    if std::env::args().any(|argument| argument == "--floor") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(floor());
        return;
    }
    let Some((forest, peers)) = arguments() else {
        println!("measured with what tests/worker/run bench starts");
        return;
    };
    let cases = std::fs::read(forest.join("cases.json")).expect("peers/forest.py has written it");
    let cases: Cases = serde_json::from_slice(&cases).expect("cases");
    let worker = env!("CARGO_BIN_EXE_model-worker");
    let models = tempfile::tempdir().expect("a directory");
    let artifact = models.path().join("iris/1.model");
    let own = models.path().join("own.model");
    std::fs::create_dir(models.path().join("iris")).expect("a directory");
    let import =
        [Path::new("import"), &forest.join("forest.json"), Path::new("--name=iris"), Path::new("--out"), &artifact];
    let train = [Path::new("train"), Path::new("iris"), Path::new("--out"), &own];
    for arguments in [&import[..], &train] {
        let made = Command::new(worker).args(arguments).output().expect("the worker runs");
        assert!(made.status.success(), "{made:?}");
    }
    let serve = || {
        let mut command = Command::new(worker);
        command.args(["serve", "--listen", "127.0.0.1:0", "--models"]).arg(models.path());
        Server::start("model-worker", &mut command)
    };
    let ready = |_| {
        let begun = Instant::now();
        serve().ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: worker\r\n\r\n", &mut Vec::new());
        begun.elapsed().as_secs_f64() * 1000.0
    };
    let ready: Vec<f64> = (0..ROUNDS).map(ready).collect();
    let floor =
        Server::start("bare hyper", Command::new(std::env::current_exe().expect("this program")).arg("--floor"));
    let mut servers = vec![serve(), floor];
    servers.extend(peers);
    for server in servers.iter_mut().filter(|server| server.name != "bare hyper") {
        server.check(&cases);
    }
    println!(
        "CPU of the whole server in µs for one request, and how many times the worker's; median of {ROUNDS} rounds.\n"
    );
    let names: Vec<&str> = servers.iter().map(|server| server.name.as_str()).collect();
    println!(
        "| the same forest of 100 trees | {} | aims |\n| --- |{} --- |",
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    for (name, request, count, floor, aims) in [
        ("1 row, JSON", cases.json(1), 3000, true, [Some(1.0 / 1.5), Some(6.0), Some(6.0)]),
        ("1,000 rows, JSON", cases.json(1000), 100, true, [None, Some(8.0), None]),
        ("1,000 rows, octets", cases.octets(1000), 200, false, [None, None, None]),
    ] {
        let mut costs = vec![Vec::new(); servers.len()];
        for round in 0..=ROUNDS {
            for (server, costs) in servers.iter_mut().zip(&mut costs) {
                if floor || server.name != "bare hyper" {
                    // The first round only warms up.
                    let cost = server.cost(&request, if round == 0 { count / 5 } else { count });
                    costs.extend((round > 0).then_some(cost));
                }
            }
        }
        let costs: Vec<Option<f64>> = costs.into_iter().map(|of| (!of.is_empty()).then(|| median(of))).collect();
        let worker = costs[0].expect("measured");
        let shown = costs.iter().enumerate().map(|(place, cost)| match cost {
            Some(cost) if place > 0 => format!("{cost:.1} ({:.2})", cost / worker),
            Some(cost) => format!("{cost:.1}"),
            None => "–".to_owned(),
        });
        let shown: Vec<String> = shown.collect();
        let aims = aims.iter().zip(&costs[1..]).filter_map(|(aim, cost)| Some((*aim)? <= (*cost)? / worker));
        let aims: Vec<&str> = aims.map(verdict).collect();
        println!("| {name} | {} | {} |", shown.join(" | "), aims.join(", "));
    }
    let resident: Vec<f64> = servers.iter().map(Server::resident).collect();
    let shown: Vec<String> = resident.iter().map(|size| format!("{size:.1}")).collect();
    println!("| resident after that, MiB | {} | 15: {} |", shown.join(" | "), verdict(resident[0] <= 15.0));
    println!(
        "\nAims of CPU: 1 row at most 1.5 times bare hyper (so its column at least 0.67), and 1/6 of the others; 1,000 rows JSON 1/8 of Triton."
    );
    // These are times on the clock, in which other programs run too: the least of them is the worker's own.
    let least = ready.iter().copied().fold(f64::INFINITY, f64::min);
    println!("ready within {:.1} ms, at best {least:.1} (aim 50): {}", median(ready), verdict(least <= 50.0));
    for (name, artifact) in [("scikit-learn's 100 trees", &artifact), ("100 members of linfa's trees", &own)] {
        let [each, least] = engine(worker, artifact);
        println!("engine, {name}: {each:.0} ns a row, at best {least:.0} (aim 120): {}", verdict(least <= 120.0));
    }
}
