//! One world per test: a directory with a small model, and a worker on a free port that dies with it.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};

use serde_json::Value;

/// A directory of models with `iris/1.model` in it.
pub(crate) struct World {
    pub(crate) root: tempfile::TempDir,
}

/// The worker, with the given arguments and none of the caller's settings.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-worker"));
    command.args(arguments).env_clear();
    command
}

/// Runs the worker to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the worker runs")
}

/// Runs the worker to its end with `input` on its standard input.
pub(crate) fn fed(arguments: &[&str], input: &str) -> Output {
    let mut child = command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the worker starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("sent");
    child.wait_with_output().expect("the worker runs")
}

/// The exit code and what was printed as an error.
pub(crate) fn failure(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self { root: tempfile::tempdir().expect("a directory") };
        std::fs::create_dir(world.root.path().join("iris")).expect("a directory");
        let output = run(&["train", "iris", "--trees", "9", "--out", text(&world.iris())]);
        assert!(output.status.success(), "{:?}", failure(&output));
        world
    }

    pub(crate) fn iris(&self) -> PathBuf {
        self.root.path().join("iris/1.model")
    }

    /// A worker on this world's models, on a free port.
    pub(crate) fn serve(&self, settings: &str) -> Worker {
        self.serve_on("127.0.0.1:0", settings)
    }

    pub(crate) fn serve_on(&self, listen: &str, settings: &str) -> Worker {
        self.start(command(&[]), listen, settings)
    }

    /// A worker that may not read every file, as root may.
    pub(crate) fn serve_as_nobody(&self, settings: &str) -> Worker {
        let own = std::fs::metadata("/proc/self").expect("Linux's /proc").uid();
        if own != 0 {
            return self.serve(settings);
        }
        // The program too may lie where nobody else may look.
        let program = self.root.path().join("program");
        std::fs::copy(env!("CARGO_BIN_EXE_model-worker"), &program).expect("copied");
        let all = Permissions::from_mode(0o755);
        std::fs::set_permissions(self.root.path(), all).expect("permitted");
        let mut command = Command::new(program);
        command.env_clear().uid(65_534);
        self.start(command, "127.0.0.1:0", settings)
    }

    fn start(&self, mut command: Command, listen: &str, settings: &str) -> Worker {
        let config = self.root.path().join("settings.toml");
        std::fs::write(&config, settings).expect("written");
        let models = text(self.root.path());
        let mut child = command
            .args(["serve", "--models", models, "--listen", listen, "--config", text(&config)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the worker starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let event: Value = serde_json::from_str(&line).expect("the worker says where it listens");
        let events = BufReader::new(child.stderr.take().expect("piped")).lines();
        Worker { child, event, events }
    }
}

/// A running worker.
pub(crate) struct Worker {
    child: Child,
    /// The line that it printed when it listened.
    pub(crate) event: Value,
    events: Lines<BufReader<ChildStderr>>,
}

impl Worker {
    pub(crate) fn address(&self) -> &str {
        self.event["address"].as_str().expect("an address")
    }

    /// The most memory that it has had so far, in KiB.
    pub(crate) fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux's /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).expect("a connection")
    }

    /// Sends one request on a connection of its own.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let mut stream = self.connect();
        exchange(&mut stream, method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, "Content-Type: application/json\r\n", body)
    }

    /// The next event line.
    pub(crate) fn event(&mut self) -> Value {
        let line = self.events.next().expect("another event").expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Asks for a graceful stop.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs").success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the worker ends")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request that asks for the connection's end, and reads the answer.
pub(crate) fn exchange<S: Read + Write>(stream: &mut S, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n{headers}");
    write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").expect("sent");
    Reply::read(stream)
}

/// The same with bodies that are no text.
pub(crate) fn exchange_bytes<S: Read + Write>(
    stream: &mut S,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Octets {
    let length = body.len();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n{headers}").expect("sent");
    write!(stream, "Content-Length: {length}\r\n\r\n").expect("sent");
    stream.write_all(body).expect("sent");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text").to_lowercase();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Octets { status, head, body: bytes[end + 4..].to_vec() }
}

/// An answer that may not be text.
#[derive(Debug)]
pub(crate) struct Octets {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Octets {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// Reads until the connection's end.
    pub(crate) fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let answer = String::from_utf8(bytes).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The last part of a problem's type; also checks what every problem has.
    pub(crate) fn problem(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status);
        assert!(json["title"].is_string() && json["detail"].is_string(), "{self:?}");
        let slug = json["type"].as_str().and_then(|kind| kind.strip_prefix("urn:modelgate:problem:"));
        slug.expect("a known type").to_owned()
    }
}
