//! The programs that are compared: their configurations, and how they are started and stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cpu::Tree;
use crate::jobs::Job;
use crate::world::World;

/// One program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Floor,
    /// hyper without any policy.
    Bare,
    /// As `gateway/pgo/run` builds it.
    Gateway,
    /// The same, as `cargo build --release` does.
    Plain,
    Haproxy,
    Nginx,
    Envoy,
}

impl Peer {
    pub(crate) const ALL: [Self; 7] =
        [Self::Floor, Self::Bare, Self::Gateway, Self::Plain, Self::Haproxy, Self::Nginx, Self::Envoy];

    /// Whether it only carries requests or refuses them unread, for others to be held against.
    pub(crate) fn is_yardstick(self) -> bool {
        matches!(self, Self::Floor | Self::Bare)
    }

    /// Whether it is the gateway, however it was built.
    pub(crate) fn is_gateway(self) -> bool {
        matches!(self, Self::Gateway | Self::Plain)
    }

    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Bare => "bare",
            Self::Gateway => "gateway",
            Self::Plain => "plain",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Bare => "bare hyper",
            Self::Gateway => "gateway",
            Self::Plain => "plain build",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }

    /// The field in which the worker reads who calls.
    pub(crate) fn identity_field(self) -> &'static str {
        if self.is_gateway() { "x-modelgate-principal" } else { "x-consumer" }
    }

    /// Why it cannot do a job, if so.
    pub(crate) fn lacks(self, job: &Job, world: &World) -> Option<&'static str> {
        let needs = |feature| job.features.contains(&feature);
        match self {
            Self::Floor if !matches!(job.id, "forward" | "bad-key" | "over-limit" | "all") => Some("it reads no HTTP"),
            Self::Bare if !matches!(job.id, "forward" | "bad-key" | "over-limit" | "many" | "upload") => {
                Some("it decides nothing")
            }
            // The gateway does everything with what these do nothing with.
            Self::Floor | Self::Bare | Self::Gateway | Self::Plain => None,
            _ if needs("schema") => Some("it has no JSON Schema"),
            Self::Haproxy | Self::Nginx if job.post_quantum => Some("its OpenSSL 3.0 has no X25519MLKEM768"),
            Self::Haproxy if needs("eddsa") => Some("it verifies no EdDSA"),
            Self::Nginx if needs("eddsa") => Some("its OpenSSL is asked for digests that EdDSA has none of"),
            Self::Haproxy if needs("redis") => Some("it speaks no Redis"),
            Self::Envoy if needs("redis") => Some("it needs another service for that"),
            Self::Nginx if needs("jwt") && world.nginx_modules.is_none() => Some("its Lua module is not installed"),
            _ => None,
        }
    }

    /// Its version, as it says itself.
    pub(crate) fn version(self, world: &World) -> String {
        let mut command = Command::new(world.program(self));
        match self {
            Self::Floor | Self::Bare => return "rustls".to_owned(),
            Self::Gateway | Self::Plain | Self::Envoy => command.arg("--version"),
            Self::Haproxy | Self::Nginx => command.arg("-v"),
        };
        let Ok(output) = command.output() else { return "not installed".to_owned() };
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let version = |text: &str| {
            let numbers = text.split(|char: char| !char.is_ascii_digit() && char != '.');
            numbers.filter(|word| word.matches('.').count() == 2).map(|word| word.trim_matches('.').to_owned()).next()
        };
        version(&text).unwrap_or_default()
    }

    /// The files of its configuration, and what to run.
    fn configure(self, values: &Values, dir: &Path, world: &World) -> Command {
        let write = |name: &str, content: &str| fs::write(dir.join(name), content).expect("a file can be written");
        let program = world.program(self);
        let mut command = pinned(PROXY_CORE, program);
        match self {
            Self::Floor | Self::Bare => {
                let values = ["port", "worker", "shared", "job"].map(|name| values.get(name));
                command.arg(self.id()).args(values);
            }
            Self::Gateway | Self::Plain => {
                write("gateway.toml", &values.render(include_str!("peers/gateway.toml")));
                command.args(["run", "--config"]).arg(dir.join("gateway.toml"));
            }
            Self::Haproxy => {
                write("keys.map", &world.key_map("", " ", ""));
                write("haproxy.cfg", &values.render(include_str!("peers/haproxy.cfg")));
                command.args(["-db", "-f"]).arg(dir.join("haproxy.cfg"));
            }
            Self::Nginx => {
                write("keys.map", &world.key_map("\"", "\" ", ";"));
                write("guard.lua", include_str!("peers/guard.lua"));
                write("nginx.conf", &values.render(include_str!("peers/nginx.conf")));
                command.args(["-e", "error.log", "-p"]).arg(dir).arg("-c").arg(dir.join("nginx.conf"));
            }
            Self::Envoy => {
                write("envoy.yaml", &values.render(include_str!("peers/envoy.yaml")));
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]);
                command.arg(dir.join("envoy.yaml"));
            }
        }
        command
    }

    /// Starts it for a job and waits until it takes connections.
    pub(crate) fn start(self, job: &Job, quota: u32, world: &World) -> Result<Running, String> {
        let dir = world.dir.join(format!("{}-{}", self.id(), job.id));
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let log = dir.join("access.log");
        let port = free_port();
        let mut values = world.values();
        for (name, value) in [
            ("port", port.to_string()),
            ("admin", free_port().to_string()),
            ("dir", dir.display().to_string()),
            ("log", log.display().to_string()),
            ("quota", quota.to_string()),
            ("job", job.id.to_owned()),
            // What one counts in Redis is not another's.
            ("peer", self.id().to_owned()),
            ("jwks", world.jwks(job.features)),
        ] {
            values.texts.insert(name, value);
        }
        values.features.extend(job.features);
        let mut command = self.configure(&values, &dir, world);
        let out = OpenOptions::new().create(true).append(true).open(&log).map_err(|error| error.to_string())?;
        let errors = File::create(dir.join("stderr")).map_err(|error| error.to_string())?;
        command.stdout(out).stderr(errors);
        let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let mut running = Running { child, address: ([127, 0, 0, 1], port).into(), log, dir };
        let begin = Instant::now();
        while TcpStream::connect(running.address).is_err() {
            if begin.elapsed() > Duration::from_secs(15) || running.child.try_wait().is_ok_and(|ended| ended.is_some())
            {
                return Err(format!("it does not start: {}", running.complaint()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

/// A program that was started; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) log: PathBuf,
    dir: PathBuf,
}

impl Running {
    pub(crate) fn tree(&self) -> Tree {
        Tree::of(self.child.id())
    }

    /// The last that it said on standard error.
    fn complaint(&self) -> String {
        let said = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let text = said("stderr") + &said("error.log") + &said("access.log");
        text.lines().filter(|line| !line.trim().is_empty()).take(12).collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        // By its own signal first, because nginx ends its workers itself.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        for _ in 0..150 {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The core of what is measured, and of everything else.
const PROXY_CORE: &str = "0";
pub(crate) const LOAD_CORE: &str = "1";

/// A program on one core, which ends with this one, however that ends.
pub(crate) fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "-c", core]).arg(program).stdin(Stdio::null());
    command
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// What a template's `{{name}}` and `{{#feature}}`…`{{/feature}}` stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) texts: BTreeMap<&'static str, String>,
    pub(crate) features: Vec<&'static str>,
}

impl Values {
    fn get(&self, name: &str) -> &str {
        self.texts.get(name).unwrap_or_else(|| panic!("a value for {name}"))
    }

    /// Keeps the sections of the features there are (`{{^feature}}`: are not), and fills in the texts.
    fn render(&self, template: &str) -> String {
        let mut kept = String::new();
        let mut open: Vec<bool> = Vec::new();
        for line in template.lines() {
            let tag = line.trim().strip_prefix("{{").and_then(|tag| tag.strip_suffix("}}"));
            let has = |feature: &str| self.features.contains(&feature);
            match tag.and_then(|tag| tag.split_at_checked(1)) {
                Some(("#", feature)) => open.push(has(feature)),
                Some(("^", feature)) => open.push(!has(feature)),
                Some(("/", _)) => _ = open.pop(),
                _ if open.iter().all(|open| *open) => _ = writeln!(kept, "{line}"),
                _ => {}
            }
        }
        for (name, value) in &self.texts {
            kept = kept.replace(&format!("{{{{{name}}}}}"), value);
        }
        kept
    }
}
