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
    models: TempDir,
}

impl Worker {
    /// Starts one on a free port. The iris model is trained once in each test run.
    pub async fn start() -> Self {
        static IRIS: OnceLock<Vec<u8>> = OnceLock::new();
        Self::serving("iris", IRIS.get_or_init(|| trained(&["iris"]))).await
    }

    /// Starts one with this model as version 1.
    pub async fn serving(name: &str, model: &[u8]) -> Self {
        let models = tempfile::tempdir().expect("a directory");
        put(&models, name, "1", model);
        let mut command = Command::new(binary("model-worker"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--models"]).arg(models.path()).env_clear();
        let process = Process::start(&mut command);
        let listening = process.log().event("listening").await;
        let address = listening["address"].as_str().expect("an address").to_owned();
        Self { process, address, models }
    }

    /// A model of a table in CSV, whose classes are in the column `target`.
    #[must_use]
    pub fn train(table: &str, target: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("table.csv");
        std::fs::write(&file, table).expect("it can be written to");
        trained(&["csv", "--target", target, "--folds", "2", &file.to_string_lossy()])
    }

    /// Puts another version into its directory. It is taken up at SIGHUP, or soon.
    pub fn put(&self, name: &str, version: &str, model: &[u8]) {
        put(&self.models, name, version, model);
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

/// In one step, so that nobody reads half of it.
fn put(models: &TempDir, name: &str, version: &str, model: &[u8]) {
    let (half, directory) = (models.path().join("half"), models.path().join(name));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(&half, model).expect("it can be written to");
    std::fs::rename(half, directory.join(format!("{version}.model"))).expect("it can be moved");
}

fn trained(how: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("1.model");
    let mut command = Command::new(binary("model-worker"));
    command.arg("train").args(how).args(["--trees", "9", "--out"]).arg(&file).env_clear();
    let trained = command.output().expect("the worker runs");
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    std::fs::read(file).expect("a model was written")
}

impl Upstream for Worker {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
