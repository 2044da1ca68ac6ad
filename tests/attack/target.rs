//! The gateway that is attacked: a process of its own for each attack, and what can be seen of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use harness::Gateway;
use harness::gateway::GatewayBuilder;
use harness::wire::plain;
use serde_json::Value;

/// A running gateway.
pub(crate) struct Target {
    child: Child,
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    /// Its log, where nobody reads it.
    _unread: Option<BufReader<ChildStdout>>,
    _builder: GatewayBuilder,
}

impl Target {
    /// Starts one. Its log is read and thrown away, or (`unread`) never read.
    pub(crate) fn start(overlays: &[&str], unread: bool) -> Self {
        let builder = overlays.iter().fold(Gateway::builder(), |builder, overlay| builder.policy(*overlay));
        let mut command: Command = builder.command("run");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the gateway starts");
        let mut log = BufReader::new(child.stdout.take().expect("it is piped"));
        let listening = loop {
            let mut line = String::new();
            let length = log.read_line(&mut line).expect("it is read");
            assert!(length > 0, "the gateway ended at its start");
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            if value.get("event").is_some_and(|event| event == "listening") {
                break value;
            }
        };
        let address = |name: &str| {
            let text = listening.get(name).and_then(Value::as_str);
            text.and_then(|text| text.parse().ok()).expect("an address")
        };
        let (address, admin) = (address("address"), address("admin"));
        let unread = if unread {
            Some(log)
        } else {
            std::thread::spawn(move || {
                let mut sink = vec![0; 64 << 10];
                while log.read(&mut sink).is_ok_and(|length| length > 0) {}
            });
            None
        };
        Self { child, address, admin, _unread: unread, _builder: builder }
    }

    /// Memory that it holds now, and the most that it held, in KiB.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs, on Linux");
        let read = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("it has memory")
        };
        (read("VmRSS:"), read("VmHWM:"))
    }

    /// Its numbers.
    pub(crate) async fn numbers(&self) -> Numbers {
        Numbers(plain(self.admin, "GET", "/metrics").await.text())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It may have ended by itself, and that was seen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `/metrics` at one moment.
pub(crate) struct Numbers(String);

impl Numbers {
    fn lines(&self) -> impl Iterator<Item = (&str, i64)> {
        let lines = self.0.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit_once(' ')).filter_map(|(name, value)| Some((name, value.parse().ok()?)))
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> i64 {
        self.lines().find(|(name, _)| *name == "modelgate_connections").map_or(0, |(_, value)| value)
    }

    /// What was refused, cut off or lost, by its name, and how often.
    pub(crate) fn refused(&self) -> Vec<(String, i64)> {
        let mut refused = Vec::new();
        for (name, count) in self.lines().filter(|(_, count)| *count > 0) {
            let label = name.split('"').nth(1).unwrap_or_default();
            let told = match name.split('{').next().unwrap_or_default() {
                "modelgate_refusals_total" | "modelgate_connections_refused_total" => label.to_owned(),
                "modelgate_http2_floods_total" => format!("flood of {label}"),
                "modelgate_handshakes_failed_total" => "handshake failed".to_owned(),
                "modelgate_connections_full_total" => "thread full".to_owned(),
                "modelgate_log_records_dropped_total" => "log record dropped".to_owned(),
                _ => continue,
            };
            refused.push((told, count));
        }
        refused.sort_by_key(|(_, count)| -count);
        refused
    }
}
