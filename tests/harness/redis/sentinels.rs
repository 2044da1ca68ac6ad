//! A master, its replica, and three Sentinels that watch both, all of them with TLS.

use std::fmt::Write as _;
use std::process::Command;

use redis::Value;
use tempfile::TempDir;

use super::{Redis, ask, ask_text, free_port, node_certificate, tls_settings};
use crate::ca::Issued;
use crate::eventually;
use crate::process::Process;

/// What the Sentinels call the master.
pub const MASTER: &str = "mymaster";
/// The password of master and replica.
pub const PASSWORD: &str = "canary-of-the-master";
/// The password of the Sentinels.
pub const SENTINEL_PASSWORD: &str = "canary-of-the-sentinels";

/// A master and a replica, and Sentinels of which two must agree that the master is down.
#[derive(Debug)]
pub struct Sentinels {
    /// The master, as it was at the start.
    pub master: Redis,
    /// The replica, as it was at the start.
    pub replica: Redis,
    watchers: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    process: Process,
    port: u16,
    tls_port: u16,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts all of them, and waits until they know each other.
    pub async fn start() -> Self {
        let certificate = node_certificate();
        let secured = || {
            let builder = Redis::builder().setting("requirepass", PASSWORD).setting("masterauth", PASSWORD);
            builder.setting("repl-diskless-sync-delay", "0").tls(&certificate, true).setting("tls-replication", "yes")
        };
        let master = secured().start().await;
        let replica = secured().setting("replicaof", &master.tls_address().replace(':', " ")).start().await;
        eventually("the replica follows", async || {
            let text = ask_text(&replica.address(), Some(PASSWORD), "INFO replication")?;
            text.contains("master_link_status:up").then_some(())
        })
        .await;
        let mut watchers = Vec::new();
        for _ in 0..3 {
            watchers.push(Sentinel::start(&master, &certificate).await);
        }
        for sentinel in &watchers {
            let address = format!("127.0.0.1:{}", sentinel.port);
            eventually("the Sentinels know each other", async || {
                let answer = ask(&address, Some(SENTINEL_PASSWORD), &format!("SENTINEL MASTER {MASTER}")).ok()?;
                let known = |key, count: &str| field(&answer, key).is_some_and(|value| value == count);
                (known("num-other-sentinels", "2") && known("num-slaves", "1")).then_some(())
            })
            .await;
        }
        Self { master, replica, watchers }
    }

    /// The URLs of the Sentinels, for TLS.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.watchers.iter().map(|sentinel| format!("rediss://127.0.0.1:{}", sentinel.tls_port)).collect()
    }

    /// Tells master and replica a command, written as one line.
    ///
    /// # Panics
    /// If one of them does not take it.
    pub fn tell(&self, command: &str) {
        for redis in [&self.master, &self.replica] {
            let told = ask(&redis.address(), Some(PASSWORD), command);
            told.unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }

    /// Ends one of the Sentinels at once.
    pub fn kill_sentinel(&mut self, index: usize) {
        self.watchers[index].process.kill();
    }
}

impl Sentinel {
    async fn start(master: &Redis, certificate: &Issued) -> Self {
        for _ in 0..20 {
            let (port, tls_port) = (free_port(), free_port());
            let directory = tempfile::tempdir().expect("a directory");
            let watched = master.tls_address().replace(':', " ");
            let mut text = format!(
                "port {port}\ntls-port {tls_port}\ntls-replication yes\nbind 127.0.0.1\ndir /tmp\nrequirepass {SENTINEL_PASSWORD}\n\
                 sentinel monitor {MASTER} {watched} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n\
                 sentinel sentinel-pass {SENTINEL_PASSWORD}\nsentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n"
            );
            for (key, value) in tls_settings(directory.path(), certificate, true) {
                let _ = writeln!(text, "{key} {value}");
            }
            let file = directory.path().join("sentinel.conf");
            std::fs::write(&file, text).expect("a temporary directory can be written to");
            let process = Process::start(Command::new("redis-server").arg(file).arg("--sentinel"));
            let ready = |line: &serde_json::Value| line.as_str().is_some_and(|line| line.contains("+monitor master"));
            if process.log().find(ready).await.is_some() {
                return Self { process, port, tls_port, _directory: directory };
            }
        }
        panic!("a Sentinel found no free port");
    }
}

/// A value in a list of names and values.
fn field(answer: &Value, name: &str) -> Option<String> {
    let words: Vec<String> = redis::from_redis_value(answer.clone()).ok()?;
    words.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone())
}
