//! A real Redis server, to be held up, killed and brought back.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::process::Process;

/// A Redis that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        for _ in 0..20 {
            // Redis does not tell which port it got for 0. These lie below those that the kernel gives away,
            // so that nobody takes one while its Redis is dead.
            let number = std::process::id().wrapping_mul(31).wrapping_add(STARTED.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(20_000 + number % 12_000).expect("a port");
            if let Some(process) = run(port).await {
                return Self { process, port };
            }
        }
        panic!("Redis found no free port");
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection to it.
    #[must_use]
    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a good URL");
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
        self.process = run(self.port).await.expect("its port is still free");
    }
}

async fn run(port: u16) -> Option<Process> {
    let mut command = Command::new("redis-server");
    command.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        "/tmp",
    ]);
    // Nothing is written, so where it stands does not matter, as long as the directory is there.
    command.current_dir("/");
    let process = Process::start(&mut command);
    let ready =
        |line: &serde_json::Value| line.as_str().is_some_and(|line| line.contains("Ready to accept connections"));
    process.log().find(ready).await.is_some().then_some(process)
}
