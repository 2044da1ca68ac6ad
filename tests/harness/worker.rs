//! The real model worker.

use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::binary;
use crate::gateway::Upstream;
use crate::process::{Log, Process};

/// A model worker with a small iris model and the sentiment model that is built in.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    address: String,
    _models: TempDir,
}

impl Worker {
    /// Starts one on a free port. The iris model is trained once in each test run.
    pub async fn start() -> Self {
        static IRIS: OnceLock<Vec<u8>> = OnceLock::new();
        let models = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(models.path().join("iris")).expect("a directory");
        std::fs::write(models.path().join("iris/1.model"), IRIS.get_or_init(train)).expect("it can be written to");
        let mut command = Command::new(binary("model-worker"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--models"]).arg(models.path()).env_clear();
        let process = Process::start(&mut command);
        let listening = process.log().event("listening").await;
        let address = listening["address"].as_str().expect("an address").to_owned();
        Self { process, address, _models: models }
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn train() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("1.model");
    let mut command = Command::new(binary("model-worker"));
    command.args(["train", "iris", "--trees", "9", "--out"]).arg(&file).env_clear();
    let trained = command.output().expect("the worker runs");
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    std::fs::read(file).expect("a model was written")
}

impl Upstream for Worker {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
