//! Gateways as processes of their own, whose access records nobody keeps.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use harness::Gateway;
use harness::gateway::GatewayBuilder;
use serde_json::Value;

/// A running gateway.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    events: Arc<Mutex<Vec<String>>>,
    _builder: GatewayBuilder,
}

impl Running {
    /// Starts one with these files, on a core if one is named.
    pub(crate) fn start(overlays: &[String], core: Option<&str>) -> Self {
        let builder = Gateway::builder().without_base();
        Self::launch(overlays.iter().fold(builder, GatewayBuilder::policy), core)
    }

    /// Starts one that is described already.
    pub(crate) fn launch(builder: GatewayBuilder, core: Option<&str>) -> Self {
        let plain = builder.command("run");
        let mut command = match core {
            None => plain,
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(plain.get_program()).args(plain.get_args());
                command.current_dir(plain.get_current_dir().unwrap_or_else(|| std::path::Path::new(".")));
                command
            }
        };
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("the gateway starts");
        let mut log = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut first = String::new();
        let listening = loop {
            first.clear();
            if log.read_line(&mut first).expect("it is read") == 0 {
                let mut why = String::new();
                let _ = std::io::Read::read_to_string(&mut errors, &mut why);
                panic!("the gateway ended at its start: {why}");
            }
            let value: Value = serde_json::from_str(&first).unwrap_or_default();
            if value.get("event").is_some_and(|event| event == "listening") {
                break value;
            }
        };
        let address = |name: &str| {
            let text = listening.get(name).and_then(Value::as_str);
            text.and_then(|text| text.parse().ok()).expect("an address")
        };
        let events = Arc::<Mutex<Vec<String>>>::default();
        keep(log, Arc::clone(&events));
        keep(errors, Arc::clone(&events));
        let address = address("address");
        Self { child, address, events, _builder: builder }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed beside access records.
    pub(crate) fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Memory that it holds now, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, and that was seen.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn keep(lines: impl BufRead + Send + 'static, events: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok).filter(|line| !line.contains("\"log\":\"access\"")) {
            events.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
