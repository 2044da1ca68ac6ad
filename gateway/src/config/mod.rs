//! Loads the configuration: TOML files, then `GATEWAY_` variables, then every part reads its table.
//!
//! The one place that reads files and variables. Figment merges the sources; each document is also kept
//! with its positions, so that a mistake can say file, line and column. Gives back a whole configuration
//! or every mistake there is, never a part of one.

mod document;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use figment::value::{Dict, Value};

use crate::admin::AdminSettings;
use crate::edge::counter::StoreSettings;
use crate::edge::log::Format;
use crate::edge::upstream::PoolSettings;
use crate::listener::ListenerSettings;
use crate::policy::Policy;
use crate::reload::Stamp;
use crate::settings::{Files, Mistake, Mistakes, Section, Source};
use crate::types::Name;

use document::Document;

/// What begins the variables that are read: `GATEWAY_LISTENER__ADDRESS` is `listener.address`.
const PREFIX: &str = "GATEWAY_";

/// A file of the configuration, or a text that stands for one.
#[derive(Clone, Debug)]
pub enum ConfigFile {
    /// A file at this path.
    Path(PathBuf),
    /// A text with a name for messages.
    Text {
        /// Its name.
        name: String,
        /// What it says.
        text: String,
    },
}

/// The whole configuration, compiled.
#[derive(Debug)]
pub struct Config {
    /// `[listener]`.
    pub listener: ListenerSettings,
    /// `[admin]`.
    pub admin: AdminSettings,
    /// `[log]`.
    pub log: Format,
    /// `[store]`.
    pub store: StoreSettings,
    /// `[pools]`.
    pub pools: Vec<PoolSettings>,
    /// Everything that decides about requests.
    pub policy: Policy,
    /// `[reload]`: how often the files are looked at, if they are.
    pub watch: Option<Duration>,
    /// What the tables say that only a restart changes.
    pub fixed: BTreeMap<&'static str, String>,
    /// The files that were read, as they were then.
    pub files: Vec<(PathBuf, Stamp)>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigError(pub Vec<Mistake>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let unit = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{count} {unit} in the configuration")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n\n{mistake}"))
    }
}

impl std::error::Error for ConfigError {}

/// Where each key of a configuration stands.
#[derive(Debug)]
pub struct Places(Sources);

impl Places {
    /// `file:line:column` of a key, or of the nearest table around it; of a route's key that is not written there,
    /// its place among the defaults.
    #[must_use]
    pub fn of(&self, key: &[String]) -> String {
        if let [first, _, last] = key
            && first == "routes"
            && self.0.rank(key).is_none()
        {
            let default = ["defaults".to_owned(), last.clone()];
            if self.0.rank(&default).is_some() {
                return self.0.locate(&default);
            }
        }
        self.0.locate(key)
    }
}

/// Reads one file that is no configuration in the same way: no variables, every mistake at once.
///
/// # Errors
/// [`ConfigError`], with every mistake.
pub fn read_file<T>(path: &Path, read: impl FnOnce(&Section<'_>) -> T) -> Result<(T, Places), ConfigError> {
    let sources = Sources::read(&[ConfigFile::Path(path.to_owned())])?;
    let figment = sources.documents.iter().fold(Figment::new(), |all, it| all.merge(Toml::string(it.text())));
    let dict: Dict = figment.extract().unwrap_or_default();
    let mistakes = Mistakes::default();
    let root = Section::root(&sources, &mistakes, &dict);
    let value = read(&root);
    root.finish();
    let mistakes = mistakes.into_vec();
    if mistakes.is_empty() { Ok((value, Places(sources))) } else { Err(ConfigError(mistakes)) }
}

impl Config {
    /// Loads the policy alone, with the places of its keys: what is asked about it needs no certificate and no port.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake in it.
    pub fn load_policy(files: &[ConfigFile]) -> Result<(Policy, Places), ConfigError> {
        let sources = Sources::read(files)?;
        let dict = sources.merge()?;
        let mistakes = Mistakes::default();
        let root = Section::root(&sources, &mistakes, &dict);
        for other in ["listener", "admin", "log", "store", "reload"] {
            // Looked at by `check` and `run`.
            let _ = root.has(other);
        }
        let names: Vec<Name> = PoolSettings::compile_all(&root).iter().map(|pool| Name::clone(pool.name())).collect();
        let policy = Policy::compile(&root, &names);
        root.finish_ref();
        match (policy, mistakes.into_vec()) {
            (Some(policy), mistakes) if mistakes.is_empty() => Ok((policy, Places(sources))),
            (_, mistakes) => Err(ConfigError(mistakes)),
        }
    }

    /// Loads files in order, each over the ones before, then variables over all of them. `terminal` says
    /// whether people read the log.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake.
    pub fn load(files: &[ConfigFile], terminal: bool) -> Result<Self, ConfigError> {
        let sources = Sources::read(files)?;
        let dict = sources.merge()?;
        let mistakes = Mistakes::default();
        let config = Self::compile(&Section::root(&sources, &mistakes, &dict), terminal);
        let mistakes = mistakes.into_vec();
        match config {
            Some(config) if mistakes.is_empty() => {
                Ok(Self { fixed: fixed(&dict), files: sources.read.into_inner(), ..config })
            }
            _ => Err(ConfigError(mistakes)),
        }
    }

    fn compile(root: &Section<'_>, terminal: bool) -> Option<Self> {
        let listener = ListenerSettings::compile(root.section_or_empty("listener"));
        let admin = AdminSettings::compile(root.section_or_empty("admin"));
        let log_section = root.section_or_empty("log");
        let log = Format::compile(&log_section, terminal);
        log_section.finish();
        let store = StoreSettings::compile(root.section_or_empty("store"));
        let pools = PoolSettings::compile_all(root);
        let names: Vec<Name> = pools.iter().map(|pool| Name::clone(pool.name())).collect();
        let policy = Policy::compile(root, &names);
        let reload = root.section_or_empty("reload");
        let every = reload.or("check", Duration::from_secs(2));
        if every < Duration::from_millis(100) {
            reload.mistake("check", format!("is {every:?}"), "write at least \"100ms\"");
        }
        let watch = reload.or("watch", true).then_some(every);
        reload.finish();
        root.finish_ref();
        let (fixed, files) = (BTreeMap::new(), Vec::new());
        Some(Self { listener: listener?, admin, log, store: store?, pools, policy: policy?, watch, fixed, files })
    }
}

/// What the tables say that only a restart changes.
fn fixed(dict: &Dict) -> BTreeMap<&'static str, String> {
    /// Keys of `[listener]` that are obeyed anew.
    const FLUID: [&str; 3] = ["hsts", "body_timeout", "min_body_rate"];
    let told = |name: &'static str| {
        let mut table = match dict.get(name) {
            Some(Value::Dict(_, table)) => table.clone(),
            _ => Dict::new(),
        };
        if name == "listener" {
            table.retain(|key, _| !FLUID.contains(&key.as_str()));
        }
        (name, serde_json::to_string(&table).unwrap_or_default())
    };
    ["admin", "listener", "log", "reload", "store"].into_iter().map(told).collect()
}

/// What tells whether a file is another one.
#[must_use]
pub fn stamp(path: &Path) -> Stamp {
    let it = std::fs::metadata(path).ok()?;
    Some([it.dev(), it.ino(), it.len(), it.ctime().unsigned_abs(), it.ctime_nsec().unsigned_abs()])
}

/// The machine's files.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        std::fs::read(name).map_err(|error| error.to_string())
    }

    fn is_public(&self, name: &str) -> bool {
        std::fs::metadata(name).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }
}

/// Where settings come from.
#[derive(Debug)]
struct Sources {
    documents: Vec<Document>,
    /// Every file that was read.
    read: RefCell<Vec<(PathBuf, Stamp)>>,
}

impl Sources {
    fn read(files: &[ConfigFile]) -> Result<Self, ConfigError> {
        let mut documents = Vec::new();
        let mut mistakes = Vec::new();
        let mut read = Vec::new();
        for file in files {
            if let ConfigFile::Path(path) = file {
                read.push((path.clone(), stamp(path)));
            }
            let (name, text) = match file {
                ConfigFile::Text { name, text } => (name.clone(), Ok(text.clone())),
                ConfigFile::Path(path) => (path.display().to_string(), std::fs::read_to_string(path)),
            };
            let parsed = text
                .map_err(|error| Mistake {
                    place: name.clone(),
                    key: String::new(),
                    reason: format!("can't be read: {error}"),
                    remedy: "check the path and its permissions, or name other files with --config".into(),
                })
                .and_then(|text| Document::parse(&name, &text));
            match parsed {
                Ok(document) => documents.push(document),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if mistakes.is_empty() { Ok(Self { documents, read: RefCell::new(read) }) } else { Err(ConfigError(mistakes)) }
    }

    fn merge(&self) -> Result<Dict, ConfigError> {
        let mut figment = Figment::new();
        for document in &self.documents {
            figment = figment.merge(Toml::string(document.text()));
        }
        // A variable that a secret refers to may begin with the prefix too; it is no setting.
        let mut secrets = Vec::new();
        if let Ok(dict) = figment.extract::<Dict>() {
            referred_variables(&dict, &mut secrets);
        }
        // Kubernetes sets GATEWAY_PORT and the like for a service that is called `gateway`.
        let foreign = |key: &str| {
            let key = key.to_ascii_lowercase();
            key.starts_with("service_") || key == "port" || key.starts_with("port_")
        };
        let env = Env::prefixed(PREFIX)
            .filter(move |key| !secrets.iter().any(|name| *key == name.as_str()) && !foreign(key.as_str()))
            .split("__");
        figment.merge(env).extract().map_err(|error| {
            let mistakes = error.into_iter().map(|error| Mistake {
                place: error.metadata.as_ref().map_or_else(String::new, |metadata| metadata.name.to_string()),
                key: error.path.join("."),
                reason: format!("can't be merged: {}", error.kind),
                remedy: "check its form".into(),
            });
            ConfigError(mistakes.collect())
        })
    }
}

/// The variables that secrets refer to, without the prefix and in lower case as figment compares them.
fn referred_variables(dict: &Dict, found: &mut Vec<String>) {
    for (key, value) in dict {
        match value {
            Value::String(_, name) if key == "env" && dict.len() == 1 => {
                found.extend(name.strip_prefix(PREFIX).map(str::to_ascii_lowercase));
            }
            Value::Dict(_, inner) => referred_variables(inner, found),
            _ => {}
        }
    }
}

/// The variable that sets a key.
fn variable_name(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_uppercase())
}

impl Source for Sources {
    fn locate(&self, path: &[String]) -> String {
        let name = variable_name(path);
        if std::env::var_os(&name).is_some() {
            return format!("{name} (environment)");
        }
        // The last document that says something about the path is the one that counts. For what is
        // missing, that is said of the table around it.
        for length in (0..=path.len()).rev() {
            let part = path.get(..length).unwrap_or_default();
            if let Some(place) = self.documents.iter().rev().find_map(|document| document.locate(part)) {
                return place;
            }
        }
        self.documents.last().map_or_else(|| "(no file)".into(), |document| document.name().to_owned())
    }

    fn rank(&self, path: &[String]) -> Option<usize> {
        if std::env::var_os(variable_name(path)).is_some() {
            return Some(self.documents.len());
        }
        self.documents.iter().rposition(|document| document.locate(path).is_some())
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        self.read.borrow_mut().push((name.into(), stamp(Path::new(name))));
        Disk.read(name)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
