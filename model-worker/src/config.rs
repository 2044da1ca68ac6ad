//! Settings: a TOML file, then `MODEL_WORKER_` variables, then the command line. Unknown keys are refused, because a
//! mistyped limit that is silently ignored is no limit.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::failure::{Exit, Failure};

/// Everything that `serve` can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where to listen: `host:port` (port 0: any free one) or `unix:/path.sock`. Default `127.0.0.1:9001`.
    pub listen: String,
    /// Directory with `NAME/VERSION.model`. No default: serving the wrong models is worse than not starting.
    pub models: Option<PathBuf>,
    /// Allows an address that strangers may reach. Default `false`, because the worker asks nobody who they are.
    pub danger_public_bind: bool,
    /// Largest request body. Default `1MiB`; bounds the memory that one request can take.
    pub max_body: Bytes,
    /// Most rows in one request. Default 1000; bounds the time that one request can keep others waiting.
    pub max_rows: u32,
    /// Whether values outside the training range are refused instead of being predicted and named. Default `false`.
    pub strict_range: bool,
    /// How often the directory is looked through for what has changed. Default `2s`; `0s` leaves it to SIGHUP.
    pub watch: Span,
    /// Whether `POST /v2/repository/models/M/load` has the directory looked through. Default `false`: a swap of models is
    /// an operator's act, and whoever reaches the port could cause work.
    pub repository_control: bool,
    /// PEM file with the worker's certificate chain; with it, only TLS is spoken. No default.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with its private key.
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authority of the gateway's certificate: callers must bring one that it signed.
    pub tls_client_ca: Option<PathBuf>,
    /// PEM file with the gateway's public key: each request must then bring `X-Modelgate-Assertion`. No default.
    pub assertion_key: Option<PathBuf>,
    /// Whom assertions must be for. Default `model-worker`.
    pub assertion_audience: String,
    /// Whom assertions must be from: `issuer` of the gateway's `[assertion]`. No default.
    pub assertion_issuer: Option<String>,
    /// Longest life of an assertion. Default `60s`, as the gateway's; what was stolen works no longer.
    pub assertion_lifetime: Span,
    /// Most requests in flight; one more is answered 503 at once. Default 256.
    pub max_in_flight: u32,
    /// Most open connections; further ones wait in the system's backlog. Default 1024; keeps file descriptors free.
    pub max_connections: u32,
    /// Longest wait for a request's head, counted from the previous answer, so idle connections end too, and for a peer
    /// to take more of an answer. Default `75s`: longer than common pools keep theirs, so that the pool's side closes first and no request meets a
    /// connection that is just going away.
    pub idle: Span,
    /// Longest wait for a request's whole body. Default `10s`; a caller that trickles bytes loses its place.
    pub body: Span,
    /// Longest wait for requests in flight after SIGTERM or SIGINT. Default `10s`.
    pub drain: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9001".to_owned(),
            models: None,
            danger_public_bind: false,
            max_body: Bytes(1 << 20),
            max_rows: 1000,
            strict_range: false,
            watch: Span(Duration::from_secs(2)),
            repository_control: false,
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            assertion_key: None,
            assertion_audience: "model-worker".to_owned(),
            assertion_issuer: None,
            assertion_lifetime: Span(Duration::from_mins(1)),
            max_in_flight: 256,
            max_connections: 1024,
            idle: Span(Duration::from_secs(75)),
            body: Span(Duration::from_secs(10)),
            drain: Span(Duration::from_secs(10)),
        }
    }
}

/// What the command line said; it wins over file and variables.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Overrides {
    /// `--listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// `--models`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<PathBuf>,
    /// `--danger-public-bind`; absent means "not said", not "no".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub danger_public_bind: Option<bool>,
}

impl Settings {
    /// Gathers the settings from all sources.
    ///
    /// # Errors
    ///
    /// Exit code 66 when the file is missing, 78 when any source has an unknown key or an unusable value; all
    /// mistakes that were found are named.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, Failure> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::reading(format!("cannot read the settings in {}", file.display()), &error))?;
            figment = figment.merge(Toml::string(&text));
        }
        let settings: Self = figment
            .merge(Env::prefixed("MODEL_WORKER_"))
            .merge(Serialized::defaults(overrides))
            .extract()
            .map_err(|errors| {
                let why = errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("\n           ");
                Failure::new(
                    Exit::Config,
                    "the settings are not usable",
                    why,
                    "see config/model-worker.toml for every key",
                )
            })?;
        let zero = [
            ("max_body", settings.max_body.0 == 0),
            ("max_rows", settings.max_rows == 0),
            ("max_in_flight", settings.max_in_flight == 0),
            ("max_connections", settings.max_connections == 0),
            ("idle", settings.idle.0.is_zero()),
            ("body", settings.body.0.is_zero()),
        ];
        let half = settings.tls_certificate.is_some() != settings.tls_key.is_some();
        if half || (settings.tls_client_ca.is_some() && settings.tls_key.is_none()) {
            return Err(Failure::new(
                Exit::Config,
                "the settings are not usable",
                "TLS needs both `tls_certificate` and `tls_key`; `tls_client_ca` needs them too",
                "give all of them, or none",
            ));
        }
        if settings.assertion_key.is_some() != settings.assertion_issuer.is_some() {
            return Err(Failure::new(
                Exit::Config,
                "the settings are not usable",
                "assertions need both `assertion_key` and `assertion_issuer`",
                "give the gateway's public key, and the `issuer` of its `[assertion]`",
            ));
        }
        let zero: Vec<&str> = zero.into_iter().filter_map(|(key, is_zero)| is_zero.then_some(key)).collect();
        if zero.is_empty() {
            Ok(settings)
        } else {
            Err(Failure::new(
                Exit::Config,
                "the settings are not usable",
                format!("zero would refuse every request: {}", zero.join(", ")),
                "give a value above zero, or leave the key out for its default",
            ))
        }
    }
}

/// A number of bytes, written as `512`, `64KiB` or `1MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub usize);

/// A length of time, written as `250ms`, `10s` or `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

fn split_unit(text: &str) -> Option<(u32, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit))
}

impl Bytes {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let number = usize::try_from(number).ok()?;
        let factor = match unit {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split_unit(text)?;
        let number = u64::from(number);
        match unit {
            "ms" => Some(Self(Duration::from_millis(number))),
            "s" => Some(Self(Duration::from_secs(number))),
            "m" => Some(Self(Duration::from_secs(number * 60))),
            _ => None,
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A bare number in TOML or a variable arrives as a number; everything else as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(u32),
    Text(String),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Written::deserialize(deserializer)?.to_string();
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no size; write it as `64KiB` or `1MiB`")))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Written::deserialize(deserializer)?.to_string();
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no duration; write it as `250ms` or `10s`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(Bytes::parse("512"), Some(Bytes(512)));
        assert_eq!(Bytes::parse("64KiB"), Some(Bytes(65536)));
        assert_eq!(Bytes::parse("1MB"), None);
        assert_eq!(Bytes::parse("-1"), None);
        assert_eq!(Span::parse("250ms"), Some(Span(Duration::from_millis(250))));
        assert_eq!(Span::parse("2m"), Some(Span(Duration::from_mins(2))));
        assert_eq!(Span::parse("10"), None);
        assert_eq!(Span::parse("s"), None);
    }

    #[test]
    fn the_shipped_file_holds_the_defaults() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/model-worker.toml");
        let settings = Settings::load(Some(&file), &Overrides::default()).expect("usable");
        assert_eq!(settings, Settings { models: Some("models".into()), ..Settings::default() });
    }

    #[test]
    fn mistakes_are_refused_with_the_key() {
        for (text, expected) in [
            ("max_rowz = 5", "max_rowz"),
            ("drain = \"10\"", "no duration"),
            ("max_body = \"1MB\"", "no size"),
            ("max_rows = 0", "max_rows"),
            ("max_rows = -1", "max_rows"),
            ("tls_key = \"key.pem\"", "tls_certificate"),
            ("tls_client_ca = \"ca.pem\"", "tls_certificate"),
            ("assertion_key = \"key.pem\"", "assertion_issuer"),
        ] {
            let mut file = tempfile::NamedTempFile::new().expect("file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            let failure = Settings::load(Some(file.path()), &Overrides::default()).expect_err(text);
            assert_eq!(failure.exit(), Exit::Config, "{text}");
            assert!(failure.to_string().contains(expected), "{text}: {failure}");
        }
    }

    #[test]
    fn the_command_line_wins() {
        let overrides = Overrides { listen: Some("127.0.0.1:0".to_owned()), ..Overrides::default() };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/model-worker.toml");
        let settings = Settings::load(Some(&file), &overrides).expect("usable");
        assert_eq!(settings.listen, "127.0.0.1:0");
    }
}
