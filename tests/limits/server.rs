//! A Redis of its own on a core of its own, and what it did.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::Tree;

/// Redis's core, and everybody else's.
pub(crate) const REDIS_CORE: &str = "0";
pub(crate) const OTHER_CORE: &str = "1";

/// A program that is bound to a core, ready to be started.
pub(crate) fn pinned(core: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    tree: Tree,
}

/// What Redis did so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) cpu: Duration,
    /// Scripts that clients called, each a round trip.
    pub(crate) calls: u64,
    /// Everything that clients and scripts asked.
    pub(crate) commands: u64,
}

impl Done {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            calls: self.calls - before.calls,
            // The questions about this.
            commands: self.commands.saturating_sub(before.commands + 2),
        }
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut command = pinned(REDIS_CORE, "redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Redis starts");
        let until = Instant::now() + harness::PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "Redis does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let tree = Tree::of(child.id());
        Self { child, port, tree }
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).expect("a good URL");
        client.get_connection().expect("Redis takes connections")
    }

    pub(crate) fn empty(&self) {
        redis::cmd("FLUSHALL").exec(&mut self.connect()).expect("an empty Redis");
    }

    pub(crate) fn done(&self, connection: &mut redis::Connection) -> Done {
        let mut info = |section: &str| -> String {
            redis::cmd("INFO").arg(section).query(connection).expect("Redis tells about itself")
        };
        let number = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let digits = line.map(|line| line.split(',').next().unwrap_or(line));
            digits.and_then(|digits| digits.trim().parse().ok()).unwrap_or(0)
        };
        let commands = info("commandstats");
        let calls = ["evalsha", "eval"].map(|name| number(&commands, &format!("cmdstat_{name}:calls="))).iter().sum();
        let stats = info("stats");
        Done { cpu: self.tree.cpu(), calls, commands: number(&stats, "total_commands_processed:") }
    }

    /// The octets that the largest key takes, with its name.
    pub(crate) fn largest(&self) -> u64 {
        let mut connection = self.connect();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
        let size = |key: &Vec<u8>| {
            let mut ask = redis::cmd("MEMORY");
            ask.arg("USAGE").arg(key).arg("SAMPLES").arg(0).query::<u64>(&mut connection).expect("a size")
        };
        keys.iter().map(size).max().unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
