//! A real Redis server, to be held up, killed and brought back; with TLS, as a replica, as Valkey.

mod cluster;
pub mod sentinels;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::ca::{Issued, TestCa};
use crate::process::Process;

pub use cluster::Cluster;
pub use sentinels::Sentinels;

/// A Redis that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    start: RedisBuilder,
    port: u16,
    /// Beside the other, which the tests' own connections use.
    tls_port: Option<u16>,
}

/// What a Redis is started with.
#[derive(Debug)]
#[must_use]
pub struct RedisBuilder {
    program: PathBuf,
    arguments: Vec<String>,
    tls: bool,
    directory: TempDir,
}

impl RedisBuilder {
    /// One more line of its configuration.
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{key}"), value.to_owned()]);
        self
    }

    /// Speaks TLS with this certificate, on a port of its own. Clients show one of the test CA's, or none.
    pub fn tls(mut self, certificate: &Issued, clients: bool) -> Self {
        self.tls = true;
        let settings = tls_settings(self.directory.path(), certificate, clients);
        settings.iter().fold(self, |builder, (key, value)| builder.setting(key, value))
    }

    /// Valkey in its place.
    pub fn valkey(mut self, program: &Path) -> Self {
        program.clone_into(&mut self.program);
        self
    }

    /// Starts it on a free port.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(self) -> Redis {
        for _ in 0..20 {
            let (port, tls_port) = (free_port(), self.tls.then(free_port));
            if let Some(process) = run(&self, port, tls_port).await {
                return Redis { process, start: self, port, tls_port };
            }
        }
        panic!("Redis found no free port");
    }
}

/// What a server's configuration says of TLS, with files in its directory.
fn tls_settings(directory: &Path, certificate: &Issued, clients: bool) -> [(&'static str, String); 4] {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        std::fs::write(&path, content).expect("a temporary directory can be written to");
        path.to_string_lossy().into_owned()
    };
    [
        ("tls-cert-file", file("redis.pem", &certificate.certificate)),
        ("tls-key-file", file("redis.key", &certificate.private_key)),
        ("tls-ca-cert-file", file("ca.pem", &TestCa::shared().authority)),
        ("tls-auth-clients", if clients { "yes" } else { "no" }.to_owned()),
    ]
}

/// A certificate for a server that others know by name and by address, to show as a client too.
fn node_certificate() -> Issued {
    // With a name of its own: OpenSSL takes whoever is called as its issuer for its own issuer.
    let own_name = |params: &mut rcgen::CertificateParams| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "redis.internal");
    };
    TestCa::shared().issue(&["localhost", "127.0.0.1"], own_name)
}

/// A port for a server that does not tell which one it got for 0. These lie below those that the kernel gives
/// away, so that nobody takes one while its server is dead.
fn free_port() -> u16 {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(31).wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
    u16::try_from(20_000 + number % 12_000).expect("a port")
}

/// Where Valkey is, if this machine has it: `VALKEY_SERVER`, or on the path. `tests/run` gets it.
#[must_use]
pub fn valkey() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let named = std::env::var_os("VALKEY_SERVER").map_or_else(|| "valkey-server".into(), PathBuf::from);
        Command::new(&named).arg("--version").output().is_ok().then_some(named)
    };
    FOUND.get_or_init(find).as_deref()
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// What to start one with.
    pub fn builder() -> RedisBuilder {
        let directory = tempfile::tempdir().expect("a directory");
        RedisBuilder { program: "redis-server".into(), arguments: Vec::new(), tls: false, directory }
    }

    /// Its URL, for TLS by name.
    #[must_use]
    pub fn url(&self) -> String {
        match self.tls_port {
            Some(port) => format!("rediss://localhost:{port}"),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    /// Where it listens with TLS, or without where it has none, as `host:port`.
    #[must_use]
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port.unwrap_or(self.port))
    }

    /// Where it listens without TLS, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.start.directory.path()
    }

    /// What it answers to a command, written as one line.
    #[must_use]
    pub fn ask(&self, command: &str) -> redis::Value {
        ask(&self.address(), None, command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Tells it a command, written as one line.
    pub fn tell(&self, command: &str) {
        let _ = self.ask(command);
    }

    /// A connection to it.
    #[must_use]
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://{}", self.address())).expect("a good URL");
        client.get_connection().expect("Redis takes connections")
    }

    /// Every key, with the milliseconds until it is gone (-1: never).
    #[must_use]
    pub fn keys(&self) -> Vec<(String, i64)> {
        let mut connection = self.connect();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
        let lives = keys.into_iter().map(|key| {
            let life = redis::cmd("PTTL").arg(&key).query(&mut connection).expect("a time to live");
            (key, life)
        });
        lives.collect()
    }

    /// Makes it forget every script, as a restart or a failover does.
    pub fn flush_scripts(&self) {
        redis::cmd("SCRIPT").arg("FLUSH").exec(&mut self.connect()).expect("scripts can be flushed");
    }

    /// Closes every connection, as it does with those that are idle for its `timeout`.
    pub fn hang_up(&self) {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").exec(&mut self.connect()).expect("connections can be closed");
    }

    /// Holds it up: connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, empty, on its old port.
    pub async fn revive(&mut self) {
        self.process.kill();
        self.process = run(&self.start, self.port, self.tls_port).await.expect("its port is still free");
    }
}

async fn run(start: &RedisBuilder, port: u16, tls_port: Option<u16>) -> Option<Process> {
    let mut command = Command::new(&start.program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(start.directory.path()).args(&start.arguments);
    if let Some(port) = tls_port {
        command.args(["--tls-port", &port.to_string()]);
    }
    let process = Process::start(&mut command);
    let ready =
        |line: &serde_json::Value| line.as_str().is_some_and(|line| line.contains("Ready to accept connections"));
    process.log().find(ready).await.is_some().then_some(process)
}

/// What a server answers to a command.
fn ask(address: &str, password: Option<&str>, command: &str) -> redis::RedisResult<redis::Value> {
    let mut connection = redis::Client::open(format!("redis://{address}"))?.get_connection()?;
    if let Some(password) = password {
        redis::cmd("AUTH").arg(password).exec(&mut connection)?;
    }
    let mut words = command.split_ascii_whitespace();
    let mut asked = redis::cmd(words.next().unwrap_or_default());
    words.fold(&mut asked, redis::Cmd::arg).query(&mut connection)
}

/// What a server answers to a command with text.
fn ask_text(address: &str, password: Option<&str>, command: &str) -> Option<String> {
    ask(address, password, command).ok().and_then(|answer| redis::from_redis_value(answer).ok())
}
