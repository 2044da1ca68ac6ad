//! The real gateway, on free ports, in a directory of its own.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::binary;
use crate::ca::TestCa;
use crate::client::{Answer, Client};
use crate::identity::{self, Signer};
use crate::process::{Exit, Log, Process};
use crate::redis::Redis;
use crate::wire::Wire;

/// Something that a pool can send requests to.
pub trait Upstream {
    /// Where it is, as the policy writes it.
    fn url(&self) -> String;
}

/// What the gateway signs its own tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// A secret, in an environment variable.
    Hs256,
    /// A key, in a file.
    Es256,
    /// A key, in a file.
    Rs256,
}

impl Signing {
    /// The signer that holds the same key; one for each kind in a test run, because RSA keys take long to make.
    #[must_use]
    pub fn signer(self) -> &'static Signer {
        static ES256: OnceLock<Signer> = OnceLock::new();
        static RS256: OnceLock<Signer> = OnceLock::new();
        static HS256: OnceLock<Signer> = OnceLock::new();
        match self {
            Self::Hs256 => HS256.get_or_init(|| Signer::hs256(identity::SECRET)),
            Self::Es256 => ES256.get_or_init(Signer::es256),
            Self::Rs256 => RS256.get_or_init(Signer::rs256),
        }
    }

    fn toml(self) -> String {
        let alg = self.signer().alg();
        let key = if self == Self::Hs256 { "env = \"TOKEN_SECRET\"" } else { "file = \"token.key\"" };
        format!(
            "[token]\nissuer = \"{}\"\naudience = \"{}\"\nlifetime = \"15m\"\nalgorithm = \"{alg}\"\n\
             signing_key = {{ {key} }}\ndanger_password_grant = true\n",
            identity::ISSUER,
            identity::AUDIENCE,
        )
    }
}

/// What a gateway is started with.
#[derive(Debug)]
#[must_use]
pub struct GatewayBuilder {
    directory: TempDir,
    workers: Vec<String>,
    store: Option<String>,
    signing: Signing,
    overlays: Vec<String>,
    base: bool,
    variables: Vec<(String, String)>,
    program: Vec<OsString>,
}

impl GatewayBuilder {
    /// Adds a worker to the pool `models`. Without one, nobody is there.
    pub fn worker(mut self, worker: &impl Upstream) -> Self {
        self.workers.push(worker.url());
        self
    }

    /// Counts in Redis. Otherwise in memory.
    pub fn redis(mut self, redis: &Redis) -> Self {
        self.store = Some(redis.url());
        self
    }

    /// What it signs its tokens with; HS256 if nothing is said.
    pub fn signing(mut self, signing: Signing) -> Self {
        self.signing = signing;
        self
    }

    /// Lays one more TOML file over what is there: tables are merged, lists and values replaced.
    pub fn policy(mut self, overlay: impl Into<String>) -> Self {
        self.overlays.push(overlay.into());
        self
    }

    /// Leaves the base policy away: only the listener, the pool and what is laid over them.
    pub fn without_base(mut self) -> Self {
        self.base = false;
        self
    }

    /// Puts a file into its working directory.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        write(self.directory.path(), name, content);
        self
    }

    /// Sets a variable of its environment, which is empty otherwise.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs this in place of the gateway that the tests build: a program, and what stands before the gateway's own
    /// arguments.
    pub fn program(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.program = words.into_iter().map(Into::into).collect();
        self
    }

    /// The program with a command such as `run` or `check`, all files, and nothing else around it.
    /// A command of the gateway on the configuration, ready to run.
    pub fn command(&self, command: &str) -> Command {
        let directory = self.directory.path();
        let ca = TestCa::shared();
        write(directory, "server.pem", &ca.certificate);
        write(directory, "server.key", &ca.private_key);
        write(directory, "token.key", self.signing.signer().private());
        let workers =
            if self.workers.is_empty() { vec!["http://127.0.0.1:9".to_owned()] } else { self.workers.clone() };
        let store = self.store.as_ref().map_or_else(String::new, |url| {
            // Long enough for a busy machine, short enough for a test that loses it.
            format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\ntimeout = \"500ms\"\n")
        });
        let mechanism = format!(
            "[listener]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nprivate_key = {{ file = \"server.key\" }}\n\
             threads = 2\n[admin]\naddress = \"127.0.0.1:0\"\nsocket = \"./admin.sock\"\n[pools.models]\nworkers = {workers:?}\n{store}"
        );
        let base = include_str!("base.toml").to_owned() + &self.signing.toml() + &identity::toml();
        let mut texts = vec![mechanism];
        texts.extend(self.base.then_some(base));
        texts.extend(self.overlays.iter().cloned());
        let mut program = match self.program.split_first() {
            None => Command::new(binary("gateway")),
            Some((first, rest)) => {
                let mut program = Command::new(first);
                program.args(rest);
                program
            }
        };
        program.arg(command).current_dir(directory).env_clear().env("TOKEN_SECRET", identity::SECRET);
        program.envs(self.variables.iter().map(|(name, value)| (name, value)));
        for (index, text) in texts.iter().enumerate() {
            let name = format!("{index}.toml");
            write(directory, &name, text);
            program.args(["--config", &name]);
        }
        program
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not; with what it printed.
    pub async fn start(self) -> Gateway {
        let process = Process::start(&mut self.command("run"));
        let people_read = |line: &Value| line.as_str().is_some_and(|line| line.contains(" listening address="));
        let listening = process.log().wait_for(|line| line["event"] == "listening" || people_read(line)).await;
        let address = |name: &str| {
            let words =
                listening.as_str().map(|line| line.split(' ').find_map(|word| word.strip_prefix(&format!("{name}="))));
            let text = words.unwrap_or_else(|| listening[name].as_str());
            text.and_then(|text| text.parse().ok()).expect("an address")
        };
        Gateway {
            address: address("address"),
            admin: address("admin"),
            process,
            signing: self.signing,
            directory: self.directory,
        }
    }

    /// Runs a command such as `check`, or `run` where it must refuse to start, to its end.
    #[must_use]
    pub fn output(&self, command: &str) -> Output {
        self.command(command).output().expect("the gateway runs")
    }
}

fn write(directory: &Path, name: &str, content: impl AsRef<[u8]>) {
    std::fs::write(directory.join(name), content).expect("a temporary directory can be written to");
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    admin: SocketAddr,
    process: Process,
    signing: Signing,
    directory: TempDir,
}

impl Gateway {
    /// What to start one with.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder {
            directory: tempfile::tempdir().expect("a directory"),
            workers: Vec::new(),
            store: None,
            signing: Signing::Hs256,
            overlays: Vec::new(),
            base: true,
            variables: Vec::new(),
            program: Vec::new(),
        }
    }

    /// One with the base policy, in front of a worker.
    pub async fn before(worker: &impl Upstream) -> Self {
        Self::builder().worker(worker).start().await
    }

    /// Where clients reach it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where anybody on the machine asks how it is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where operators reach it, as commands take it.
    #[must_use]
    pub fn operator(&self) -> String {
        format!("unix:{}", self.directory.path().join("admin.sock").display())
    }

    /// Asks it as operators do.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn operate(&self, method: &str, path: &str) -> Answer {
        let mut wire = Wire::over(self.operator_stream().await);
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await;
        wire.answer().await
    }

    /// A connection to where operators ask.
    ///
    /// # Panics
    /// If nobody takes it.
    pub async fn operator_stream(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join("admin.sock")).await.expect("the socket is there")
    }

    /// Its working directory, with its files.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// A client that speaks HTTP/1.1.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::http1(self.address)
    }

    /// A client that speaks HTTP/2.
    #[must_use]
    pub fn http2(&self) -> Client {
        Client::http2(self.address)
    }

    /// Signs as the gateway does.
    #[must_use]
    pub fn signer(&self) -> &'static Signer {
        self.signing.signer()
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.process.log()
    }

    /// Its process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Memory that it holds now, in KiB.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.process.resident()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Exit {
        self.process.ended().await
    }

    /// Asks it to stop and waits for its end.
    pub async fn stop(&mut self) -> Exit {
        self.signal("TERM");
        self.ended().await
    }
}
