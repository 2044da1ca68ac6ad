//! The gateway and the workers behind it, all of them real and over TLS, and what is done to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::wire::plain;
use harness::{Gateway, Process, TestCa, binary, eventually};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A worker and the version of the model that it has; 0 where it has none.
const WORKERS: [(char, u32); 7] = [('A', 1), ('B', 1), ('C', 2), ('D', 2), ('E', 0), ('F', 3), ('G', 3)];
/// How long new workers are watched.
const WATCH: Duration = Duration::from_secs(2);

struct Worker {
    process: Process,
    /// As the log names it: what was asked for on the way to it.
    label: String,
    version: u32,
}

/// What the gateway has counted.
pub(crate) struct Counts {
    /// Requests that were brought to another worker.
    pub(crate) retries: u64,
    /// Workers of which a request failed.
    pub(crate) failed: Vec<char>,
}

pub(crate) struct World {
    pub(crate) gateway: Gateway,
    workers: BTreeMap<char, Worker>,
    files: TempDir,
}

/// Trains a forest of its own size for each version.
fn train(files: &Path, version: u32) {
    let directory = files.join(version.to_string());
    if version == 0 {
        return std::fs::create_dir(directory).expect("a directory");
    }
    std::fs::create_dir_all(directory.join("iris")).expect("a directory");
    let mut command = Command::new(binary("model-worker"));
    command.args(["train", "iris", "--trees", &(10 * version).to_string(), "--out"]);
    let trained = command.arg(directory.join(format!("iris/{version}.model"))).env_clear().output();
    assert!(trained.expect("the worker runs").status.success(), "it can't be trained");
}

async fn serve(files: &Path, version: u32, listen: &str) -> Worker {
    let mut command = Command::new(binary("model-worker"));
    command.args(["serve", "--listen", listen, "--models"]).arg(files.join(version.to_string())).env_clear();
    command.env("MODEL_WORKER_TLS_CERTIFICATE", files.join("worker.pem"));
    command.env("MODEL_WORKER_TLS_KEY", files.join("worker.key"));
    let process = Process::start(&mut command);
    let listening = process.log().event("listening").await;
    let port = listening["address"].as_str().and_then(|address| address.rsplit_once(':')).expect("an address").1;
    Worker { label: format!("localhost:{port}"), process, version }
}

impl World {
    pub(crate) async fn start() -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let issued = TestCa::shared().issue(&["localhost"], |_| {});
        for (name, text) in [("worker.pem", &issued.certificate), ("worker.key", &issued.private_key)] {
            std::fs::write(files.path().join(name), text).expect("it can be written");
        }
        (0..=3).for_each(|version| train(files.path(), version));
        let mut workers = BTreeMap::new();
        for (name, version) in WORKERS {
            workers.insert(name, serve(files.path(), version, "127.0.0.1:0").await);
        }
        let flower = json!({ "sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2 });
        let golden =
            json!([{ "path": "/models/iris/predict", "body": flower, "expect": { "label": "setosa" } }]).to_string();
        // One fault is enough to go back to what was good.
        let pools = format!(
            "[reload]\nwatch = false\n[listener]\nmax_requests_per_connection = 1000000\n\
             [pools.models]\nca = \"workers-ca.pem\"\n[pools.models.health]\ninterval = \"250ms\"\nout_after = 1\n\
             ejected_for = \"1s\"\n             [pools.models.swap]\ngolden = \"golden.json\"\nwatch = \"{}ms\"\nmax_faults = 0\nmin_requests = 1\n\
             [pools.candidate]\nca = \"workers-ca.pem\"\nworkers = {:?}\n",
            WATCH.as_millis(),
            urls(&workers, "CD"),
        );
        let gateway = Gateway::builder()
            .file("golden.json", golden)
            .file("workers-ca.pem", &TestCa::shared().authority)
            .policy(pools)
            .policy(format!("[pools.models]\nworkers = {:?}\n", urls(&workers, "AB")))
            .start()
            .await;
        Self { gateway, workers, files }
    }

    /// The worker with this label.
    pub(crate) fn name(&self, label: &str) -> Option<char> {
        self.workers.iter().find(|(_, worker)| worker.label == label).map(|(name, _)| *name)
    }

    /// What the gateway has counted so far.
    pub(crate) async fn counts(&self) -> Counts {
        let metrics = plain(self.gateway.admin(), "GET", "/metrics").await.text();
        let of = |name: &str| {
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
            lines
                .filter_map(|(labels, number)| Some((labels.to_owned(), number.parse().ok()?)))
                .collect::<Vec<(_, u64)>>()
        };
        let worker = |labels: &str| {
            let label = labels.split("worker=\"").nth(1)?.split('"').next()?;
            self.name(label)
        };
        let failed = of("modelgate_worker_failed_total{").into_iter().filter(|(_, count)| *count > 0);
        Counts {
            retries: of("modelgate_pool_retries_total{").iter().map(|(_, count)| count).sum(),
            failed: failed.filter_map(|(labels, _)| worker(&labels)).collect(),
        }
    }

    /// A command of the gateway's program: whether it succeeded, and all that it said.
    async fn run(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(binary("gateway"));
        command.args(words).args(["--admin", &self.gateway.operator()]);
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = running.await.expect("no panic").expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// The same where it must succeed and say something.
    async fn must(&self, words: &[&str], part: &str) -> Result<(), String> {
        match self.run(words).await {
            (true, said) if said.contains(part) => Ok(()),
            (_, said) => Err(format!("`gateway {}` says:\n{said}", words.join(" "))),
        }
    }

    /// Writes what the files say of the pool beside what never changes, and reloads.
    async fn write(&self, workers: &str, more: &str) -> Result<(), String> {
        let text = format!("[pools.models]\nworkers = {:?}\n{more}", urls(&self.workers, workers));
        std::fs::write(self.gateway.directory().join("3.toml"), text).expect("it can be written");
        self.must(&["reload"], "The new policy serves").await
    }

    /// What the admin listener says of the pool.
    async fn asked(&self, what: &str) -> Value {
        plain(self.gateway.admin(), "GET", &format!("/pools{what}")).await.json()
    }

    async fn wait_for_state(&self, worker: char, state: &str) {
        let label = &self.workers[&worker].label;
        eventually("the worker's state is known", async || {
            let pools = self.asked("").await;
            let workers = pools["models"]["workers"].as_array()?;
            workers.iter().any(|shown| shown["worker"] == **label && shown["state"] == *state).then_some(())
        })
        .await;
    }

    pub(crate) async fn shadow(&self) -> Result<(), String> {
        self.write("AB", "[pools.models.shadow]\nto = \"candidate\"\nshare = 50\n").await
    }

    pub(crate) async fn canary(&self) -> Result<(), String> {
        let shadow = "[pools.models.shadow]\nto = \"candidate\"\nshare = 50\n";
        self.write("AB", &format!("{shadow}[pools.models.canary]\nto = \"candidate\"\nweight = 30\n")).await
    }

    pub(crate) async fn promote(&self) -> Result<(), String> {
        const LEAST: u64 = 20;
        eventually("copies are compared", async || {
            let report = self.asked("/models/compare").await;
            report["compared"].as_u64().filter(|compared| *compared >= LEAST)
        })
        .await;
        let words = ["pool", "compare", "models", "--promote", "--min-compared", &LEAST.to_string(), "--wait"];
        self.must(&words, "and stay").await
    }

    pub(crate) async fn crash(&mut self, worker: char) -> Result<(), String> {
        self.workers.get_mut(&worker).expect("it was started").process.kill();
        self.wait_for_state(worker, "out").await;
        Ok(())
    }

    pub(crate) async fn restart(&mut self, worker: char) -> Result<(), String> {
        let Worker { label, version, .. } = &self.workers[&worker];
        let listen = label.replace("localhost", "127.0.0.1");
        let again = serve(self.files.path(), *version, &listen).await;
        self.workers.insert(worker, again);
        self.wait_for_state(worker, "in").await;
        Ok(())
    }

    pub(crate) async fn refused(&self) -> Result<(), String> {
        match self.run(&["pool", "swap", "models", "--to", &urls(&self.workers, "E")[0]]).await {
            (false, said) if said.contains("golden prediction 0") => Ok(()),
            (_, said) => Err(format!("the swap was not refused: {said}")),
        }
    }

    pub(crate) async fn rolled_back(&mut self) -> Result<(), String> {
        let to = urls(&self.workers, "FG").join(",");
        self.must(&["pool", "swap", "models", "--to", &to], "every new request").await?;
        self.workers.get_mut(&'F').expect("it was started").process.kill();
        let stage = eventually("the swap is settled", async || {
            let stage = self.asked("/models/swap").await["stage"].as_str()?.to_owned();
            (stage != "watched").then_some(stage)
        });
        match stage.await.as_str() {
            "rolled_back" => Ok(()),
            stage => Err(format!("the swap is {stage}, and not rolled back")),
        }
    }

    pub(crate) async fn swapped(&self) -> Result<(), String> {
        self.must(&["pool", "swap", "models", "--to", &urls(&self.workers, "G")[0], "--wait"], "and stay").await
    }

    pub(crate) async fn reloaded(&self) -> Result<(), String> {
        self.must(&["reload"], "The pool models keeps the workers that were swapped in").await
    }

    pub(crate) async fn edited(&self) -> Result<(), String> {
        self.write("AB", "").await
    }
}

fn urls(workers: &BTreeMap<char, Worker>, names: &str) -> Vec<String> {
    names.chars().map(|name| format!("https://{}", workers[&name].label)).collect()
}
