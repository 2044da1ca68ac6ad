//! A master, its replica, and three Sentinels that watch both.

use std::process::Command;

use redis::Value;
use tempfile::TempDir;

use super::{Redis, ask, ask_text, free_port};
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
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    process: Process,
    port: u16,
    _directory: TempDir,
}

impl Sentinels {
    /// Starts all of them, and waits until they know each other.
    pub async fn start() -> Self {
        let secured = || {
            let builder = Redis::builder().setting("requirepass", PASSWORD).setting("masterauth", PASSWORD);
            builder.setting("repl-diskless-sync-delay", "0")
        };
        let master = secured().start().await;
        let replica = secured().setting("replicaof", &master.address().replace(':', " ")).start().await;
        eventually("the replica follows", async || {
            let text = ask_text(&replica.address(), Some(PASSWORD), "INFO replication")?;
            text.contains("master_link_status:up").then_some(())
        })
        .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Sentinel::start(&master).await);
        }
        for sentinel in &sentinels {
            let address = format!("127.0.0.1:{}", sentinel.port);
            eventually("the Sentinels know each other", async || {
                let answer = ask(&address, Some(SENTINEL_PASSWORD), &format!("SENTINEL MASTER {MASTER}")).ok()?;
                let known = |key, count: &str| field(&answer, key).is_some_and(|value| value == count);
                (known("num-other-sentinels", "2") && known("num-slaves", "1")).then_some(())
            })
            .await;
        }
        Self { master, replica, sentinels }
    }

    /// Where the Sentinels listen, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect()
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
        self.sentinels[index].process.kill();
    }
}

impl Sentinel {
    async fn start(master: &Redis) -> Self {
        for _ in 0..20 {
            let (port, directory) = (free_port(), tempfile::tempdir().expect("a directory"));
            let watched = master.address().replace(':', " ");
            let text = format!(
                "port {port}\nbind 127.0.0.1\ndir /tmp\nrequirepass {SENTINEL_PASSWORD}\n\
                 sentinel monitor {MASTER} {watched} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n\
                 sentinel sentinel-pass {SENTINEL_PASSWORD}\nsentinel down-after-milliseconds {MASTER} 500\n\
                 sentinel failover-timeout {MASTER} 3000\n"
            );
            let file = directory.path().join("sentinel.conf");
            std::fs::write(&file, text).expect("a temporary directory can be written to");
            let process = Process::start(Command::new("redis-server").arg(file).arg("--sentinel"));
            let ready = |line: &serde_json::Value| line.as_str().is_some_and(|line| line.contains("+monitor master"));
            if process.log().find(ready).await.is_some() {
                return Self { process, port, _directory: directory };
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
