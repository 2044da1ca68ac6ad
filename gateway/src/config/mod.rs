//! Loads the configuration: TOML files, then `GATEWAY_` variables, then every part reads its table.
//!
//! The one place that reads files and variables. Figment merges the sources; each document is also kept
//! with its positions, so that a mistake can say file, line and column. Gives back a whole configuration
//! or every mistake there is, never a part of one.

mod document;

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use figment::value::{Dict, Value};

use crate::admin::AdminSettings;
use crate::edge::counter::StoreSettings;
use crate::edge::log::Format;
use crate::edge::upstream::PoolSettings;
use crate::listener::ListenerSettings;
use crate::policy::Policy;
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

impl Config {
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
            Some(config) if mistakes.is_empty() => Ok(config),
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
        root.finish_ref();
        Some(Self { listener: listener?, admin, log, store: store?, pools, policy: policy? })
    }
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
struct Sources {
    documents: Vec<Document>,
}

impl Sources {
    fn read(files: &[ConfigFile]) -> Result<Self, ConfigError> {
        let mut documents = Vec::new();
        let mut mistakes = Vec::new();
        for file in files {
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
        if mistakes.is_empty() { Ok(Self { documents }) } else { Err(ConfigError(mistakes)) }
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
        Disk.read(name)
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}
