//! `gateway quickstart`: from nothing to a guarded prediction, for development.
//!
//! What it makes lies in one directory (`certs/dev`), readable by its owner alone, and is used again the
//! next time. The same files under `config/` run as in production; only addresses, identities and the
//! log's form are laid over them.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::key;
use super::run::Gateway;
use super::{Failure, random};
use gateway::config::{Config, ConfigFile};
use gateway::edge::fetch::https_client;
use gateway::edge::log::LogWriter;
use gateway::policy::token::hash_password;

/// How long a development certificate is used before a new one is made.
const CERTIFICATE_AGE: Duration = Duration::from_hours(1440);
const FLOWER: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}"#;

#[derive(Args)]
pub(crate) struct Options {
    /// Where everything that is made is kept.
    #[arg(long, default_value = "certs/dev")]
    dir: PathBuf,
    /// The port that clients use; 0 takes any that is free.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// The port of the admin listener; 0 takes any that is free.
    #[arg(long, default_value_t = 9443)]
    admin_port: u16,
    /// Stop after the first prediction has passed through.
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let terminal = io::stdout().is_terminal();
    let dir = Directory::open(&options.dir)?;
    let worker_program = worker_program()?;

    step("development CA and certificate", dir.make_certificate()?);
    step(
        "key for signing tokens",
        dir.make("token.key", || Ok(KeyPair::generate().map_err(|error| made(&error))?.serialize_pem()))?,
    );
    // For compose.yaml; quickstart itself counts in memory.
    dir.make("redis-password", random_word)?;
    let identities = dir.make_identities()?;
    step("API key of `demo` and password of `alice`", identities.fresh);
    step("iris model (random forest, 100 trees)", dir.make_model(&worker_program)?);

    let worker = Worker::start(&worker_program, &dir.path.join("models"))?;
    println!("  started  model worker on {}", worker.address);
    let files = configuration(options, &dir, &worker.address);
    let config = Config::load(&files, terminal)?;
    let writer = LogWriter::start(config.log, io::stdout()).map_err(|error| Failure::unavailable(error.to_string()))?;
    let gateway = match Gateway::start(config, &files, &writer.log()) {
        Ok(gateway) => gateway,
        Err(mut failure) => {
            writer.finish();
            failure.message.push_str("\n  help: `gateway quickstart --port N --admin-port N` uses other ports");
            return Err(failure);
        }
    };
    let port = gateway.address.port();
    let stop = gateway.stopper();
    let ca = dir.path.join("ca.pem");
    let once = options.once;
    let guide = Guide { port, ca: ca.display().to_string(), key: identities.key, password: identities.password };
    let probe = std::thread::spawn(move || {
        let outcome = first_prediction(port, &ca, &guide.key);
        match &outcome {
            Ok(answer) => println!("{}", guide.text(answer, terminal)),
            Err(_) => drop(stop.send(true)),
        }
        if once {
            let _ = stop.send(true);
        }
        outcome
    });
    let served = gateway.wait();
    writer.finish();
    drop(worker);
    let predicted = probe.join().unwrap_or_else(|_| Err("the check ended early".into()));
    predicted.map_err(|reason| Failure::unavailable(format!("no prediction came through: {reason}")))?;
    served
}

fn step(what: &str, fresh: bool) {
    println!("  {}  {what}", if fresh { "made   " } else { "kept   " });
}

fn made(error: &rcgen::Error) -> Failure {
    Failure::unavailable(format!("it could not be made: {error}"))
}

/// The worker's program: beside ours, or on the path.
fn worker_program() -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe().ok().map(|ours| ours.with_file_name("model-worker"));
    if let Some(beside) = beside.filter(|path| path.is_file()) {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("model-worker")).find(|program| program.is_file());
    found.ok_or_else(|| {
        Failure::unavailable("the program `model-worker` is neither beside this one nor on the path\n  help: `cargo build --release` builds both")
    })
}

/// The directory of everything that is made.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn open(path: &Path) -> Result<Self, Failure> {
        let wrong =
            |error: io::Error| Failure::unavailable(format!("the directory {} can't be used: {error}", path.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(wrong)?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(wrong)?;
        Ok(Self { path: path.to_owned() })
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok().filter(|text| !text.trim().is_empty())
    }

    /// Writes a file for its owner alone, whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let (path, half) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()?;
                fs::rename(&half, &path)
            });
        written.map_err(|error| Failure::unavailable(format!("{} can't be written: {error}", path.display())))
    }

    /// Makes a file unless it is there. Gives back whether it was made.
    fn make(&self, name: &str, text: impl FnOnce() -> Result<String, Failure>) -> Result<bool, Failure> {
        if self.read(name).is_some() {
            return Ok(false);
        }
        self.write(name, &text()?)?;
        Ok(true)
    }

    /// Makes a CA that exists for one certificate: its key is forgotten at once, so nobody who trusts it
    /// can be shown another.
    fn make_certificate(&self) -> Result<bool, Failure> {
        let young = |name: &str| {
            let age = fs::metadata(self.path.join(name))
                .and_then(|data| data.modified())
                .ok()
                .and_then(|at| at.elapsed().ok());
            self.read(name).is_some() && age.is_some_and(|age| age < CERTIFICATE_AGE)
        };
        if ["ca.pem", "server.pem", "server.key"].into_iter().all(young) {
            return Ok(false);
        }
        let now = time::OffsetDateTime::now_utc();
        let validity = |params: &mut CertificateParams| {
            params.not_before = now - time::Duration::days(1);
            params.not_after = now + time::Duration::days(90);
        };
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "Modelgate development CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut ca);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().map_err(|error| made(&error))?)
            .map_err(|error| made(&error))?;
        let names = ["localhost", "127.0.0.1", "::1", "gateway"].map(str::to_owned);
        let mut server = CertificateParams::new(names).map_err(|error| made(&error))?;
        server.distinguished_name.push(DnType::CommonName, "Modelgate development");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.use_authority_key_identifier_extension = true;
        validity(&mut server);
        let key = KeyPair::generate().map_err(|error| made(&error))?;
        let certificate = server.signed_by(&key, &ca).map_err(|error| made(&error))?;
        self.write("server.key", &key.serialize_pem())?;
        self.write("server.pem", &certificate.pem())?;
        self.write("ca.pem", &ca.pem())?;
        Ok(true)
    }

    fn make_identities(&self) -> Result<Identities, Failure> {
        if let (Some(key), Some(password), Some(_)) =
            (self.read("api-key"), self.read("password"), self.read("identities.toml"))
        {
            return Ok(Identities { key: key.trim().into(), password: password.trim().into(), fresh: false });
        }
        let made = key::make("demo", "quickstart", &["predictor".into()], None)?;
        let password = random_word()?;
        let digest = hash_password(password.as_bytes(), random()?).map_err(Failure::unavailable)?;
        let identities = format!(
            "# Made by `gateway quickstart`.\n{}\n[users.alice]\ndigest = \"{digest}\"\nroles = [\"predictor\"]\n",
            made.toml
        );
        self.write("api-key", &made.key)?;
        self.write("password", &password)?;
        self.write("identities.toml", &identities)?;
        Ok(Identities { key: made.key, password, fresh: true })
    }

    fn make_model(&self, program: &Path) -> Result<bool, Failure> {
        let model = self.path.join("models/iris/1.model");
        if model.is_file() {
            return Ok(false);
        }
        fs::create_dir_all(self.path.join("models/iris"))
            .map_err(|error| Failure::unavailable(format!("{} can't be made: {error}", model.display())))?;
        let trained = Command::new(program).args(["train", "iris", "--out"]).arg(&model).output();
        let trained =
            trained.map_err(|error| Failure::unavailable(format!("{} can't be run: {error}", program.display())))?;
        if !trained.status.success() {
            let reason = String::from_utf8_lossy(&trained.stderr);
            return Err(Failure::unavailable(format!("the model could not be trained: {}", reason.trim())));
        }
        Ok(true)
    }
}

/// 24 hexadecimal digits that nobody can guess.
fn random_word() -> Result<String, Failure> {
    Ok(random::<12>()?.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// Who may call, for development.
struct Identities {
    key: String,
    password: String,
    fresh: bool,
}

/// The worker's process; ended with its owner.
struct Worker {
    process: Child,
    address: String,
}

impl Worker {
    fn start(program: &Path, models: &Path) -> Result<Self, Failure> {
        let process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--models"])
            .arg(models)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Ctrl-C is for the gateway, which ends the worker when its own requests have finished.
            .process_group(0)
            .spawn();
        let process =
            process.map_err(|error| Failure::unavailable(format!("{} can't be run: {error}", program.display())))?;
        let mut worker = Self { process, address: String::new() };
        let mut line = String::new();
        if let Some(output) = worker.process.stdout.take() {
            let mut output = BufReader::new(output);
            let _ = output.read_line(&mut line);
            // What else it says is not for us, yet somebody must take it.
            std::thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        match said.get("address").and_then(serde_json::Value::as_str) {
            Some(address) => address.clone_into(&mut worker.address),
            None => return Err(Failure::unavailable("the model worker did not start; its own words are above")),
        }
        Ok(worker)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The files under `config/` where they are, else the copies built in, and what quickstart lays over them.
fn configuration(options: &Options, dir: &Directory, worker: &str) -> Vec<ConfigFile> {
    let file = |path: &str, built_in: &str| {
        if Path::new(path).is_file() {
            ConfigFile::Path(path.into())
        } else {
            ConfigFile::Text { name: format!("{path} (built in)"), text: built_in.to_owned() }
        }
    };
    let here = |name: &str| format!("{:?}", dir.path.join(name).display().to_string());
    let overlay = format!(
        "[listener]\naddress = \"127.0.0.1:{port}\"\ncertificate = {certificate}\nprivate_key = {{ file = {key} }}\nhsts = false\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n[log]\nformat = \"human\"\n[store]\nkind = \"memory\"\n\
         [pools.models]\nworkers = [\"http://{worker}\"]\n\
         [token]\nissuer = \"https://localhost:{port}\"\nsigning_key = {{ file = {token} }}\n",
        port = options.port,
        admin = options.admin_port,
        certificate = here("server.pem"),
        key = here("server.key"),
        token = here("token.key"),
    );
    vec![
        file("config/gateway.toml", include_str!("../../../config/gateway.toml")),
        file("config/policy.toml", include_str!("../../../config/policy.toml")),
        ConfigFile::Path(dir.path.join("identities.toml")),
        ConfigFile::Text { name: "quickstart".into(), text: overlay },
    ]
}

/// A prediction through TLS, as a client would ask for it.
fn first_prediction(port: u16, ca: &Path, key: &str) -> Result<String, String> {
    let ca = fs::read(ca).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = https_client(Duration::from_secs(10), Some(&ca))?;
        let request = client
            .post(format!("https://localhost:{port}/predict"))
            .header("x-api-key", key)
            .header("content-type", "application/json");
        let answer = request.body(FLOWER).send().await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(body) } else { Err(format!("{status}: {body}")) }
    })
}

/// What to try.
struct Guide {
    port: u16,
    ca: String,
    key: String,
    password: String,
}

impl Guide {
    fn text(&self, answer: &str, colour: bool) -> String {
        let Self { port, ca, key, password } = self;
        let title = |text: &str| if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() };
        let curl = format!("curl --cacert {ca} https://localhost:{port}");
        let json = "-H 'Content-Type: application/json'";
        let extract = r#"sed -n 's/.*"access_token":"\([^"]*\)".*/\1/p'"#;
        format!(
            "\n{ready}\n\n  A prediction has passed through TLS, key, role, limits and validation:\n  {answer}\n\n\
             {with_key}\n{curl}/predict -H 'X-API-Key: {key}' {json} -d '{FLOWER}'\n\n\
             {get_token}\n{curl}/token -d grant_type=password -d username=alice -d password={password}\n\n\
             {with_token}\n{curl}/predict -H \"Authorization: Bearer $(curl -s --cacert {ca} https://localhost:{port}/token -d grant_type=password -d username=alice -d password={password} | {extract})\" {json} -d '{FLOWER}'\n\n\
             {text}\n{curl}/sentiment -H 'X-API-Key: {key}' {json} -d '{{\"text\":\"What a lovely day\"}}'\n\n\
             {refused}\n{curl}/predict {json} -d '{FLOWER}'\n{curl}/predict -H 'X-API-Key: {key}' {json} -d '{{\"sepal_length\":-1,\"petal_size\":2}}'\n\n\
             {next}\n  config/policy.toml says who may do what; README.md explains it. Each request is a line below. Ctrl-C stops all of it.\n",
            ready = title(&format!("Ready: https://localhost:{port}")),
            with_key = title("With the API key:"),
            get_token = title("A token for a user:"),
            with_token = title("With a token:"),
            text = title("Another model:"),
            refused = title("Refused, and told why (no key; a body that is wrong):"),
            next = title("Where to look next:"),
        )
    }
}
