//! A child process that dies with its owner, and the lines that it printed.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tokio::sync::watch;

use crate::PATIENCE;

/// How a process ended.
pub type Exit = ExitStatus;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Log,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a program and reads what it prints.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        let (sender, receiver) = watch::channel(Printed::default());
        let sender = Arc::new(sender);
        let out = read_lines(child.stdout.take().expect("it is piped"), Arc::clone(&sender), false);
        let err = read_lines(child.stderr.take().expect("it is piped"), sender, true);
        Self { child, log: Log { receiver }, readers: vec![out, err] }
    }

    /// What it printed so far, on both streams.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory that it holds now, in KiB.
    #[must_use]
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Sends a signal by its name, such as `TERM` or `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status();
        assert!(sent.expect("`kill` runs").success(), "SIG{name} could not be sent");
    }

    /// Waits for its end, and for the last of its lines.
    pub async fn ended(&mut self) -> Exit {
        let ended = self.log.receiver.clone();
        let mut ended = ended;
        let waiting = ended.wait_for(|printed| printed.ended == 2);
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "the process did not end; it printed:\n{}", self.log.text());
        self.child.wait().expect("a child can be waited for")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Debug, Default)]
struct Printed {
    /// Each line as JSON, or as a string where it is none.
    lines: Vec<Arc<Value>>,
    errors: String,
    /// How many of the two streams are at their end.
    ended: usize,
}

fn read_lines(stream: impl Read + Send + 'static, sender: Arc<watch::Sender<Printed>>, error: bool) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let value = serde_json::from_str(&line).unwrap_or_else(|_| Value::String(line.clone()));
            sender.send_modify(|printed| {
                printed.lines.push(Arc::new(value));
                if error {
                    printed.errors.push_str(&line);
                    printed.errors.push('\n');
                }
            });
        }
        sender.send_modify(|printed| printed.ended += 1);
    })
}

/// The lines that a process printed on both streams: each as JSON, or as a string where it is none.
#[derive(Clone, Debug)]
pub struct Log {
    receiver: watch::Receiver<Printed>,
}

impl Log {
    /// Every line so far.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Value>> {
        self.receiver.borrow().lines.clone()
    }

    /// The lines so far that are wanted.
    #[must_use]
    pub fn matching(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Arc<Value>> {
        self.all().into_iter().filter(|line| wanted(line)).collect()
    }

    /// What stands on standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        self.receiver.borrow().errors.clone()
    }

    /// Every line so far as one text, to search for what must not be there.
    #[must_use]
    pub fn text(&self) -> String {
        self.all().iter().map(|line| line.as_str().map_or_else(|| line.to_string(), str::to_owned) + "\n").collect()
    }

    /// Waits for a line that is wanted, and gives back the first.
    pub async fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Arc<Value> {
        self.find(wanted).await.unwrap_or_else(|| panic!("no such line was printed, only:\n{}", self.text()))
    }

    /// Waits for a line that is wanted; `None` if the process ends or all patience goes without one.
    pub async fn find(&self, wanted: impl Fn(&Value) -> bool) -> Option<Arc<Value>> {
        let mut receiver = self.receiver.clone();
        let found = |printed: &Printed| printed.lines.iter().find(|line| wanted(line)).cloned();
        let waiting = receiver.wait_for(|printed| printed.ended == 2 || found(printed).is_some());
        let printed = tokio::time::timeout(PATIENCE, waiting).await.ok()?.ok()?;
        found(&printed)
    }

    /// Waits for the event of that name.
    pub async fn event(&self, name: &str) -> Arc<Value> {
        self.wait_for(|line| line["event"] == name).await
    }

    /// Waits for the access record of the request with that id.
    pub async fn access(&self, request_id: &str) -> Arc<Value> {
        self.wait_for(|line| line["log"] == "access" && line["request_id"] == request_id).await
    }
}
