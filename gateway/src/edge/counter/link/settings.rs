//! What `[store]` says about Redis: where it is, who we are there, and whom we believe to be it.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use redis::Pipeline;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::address::{Place, Written};
use super::dial::Members;
use crate::edge::tls;
use crate::settings::Section;
use crate::types::Secret;

/// The ways to say where Redis is, of which one is written.
const WAYS: [&str; 3] = ["url", "sentinels", "cluster"];
/// What is said of Sentinels alone.
const OF_SENTINELS: [&str; 3] = ["master", "sentinel_username", "sentinel_password"];
/// What is said of TLS alone.
const OF_TLS: [&str; 4] = ["ca", "certificate", "private_key", "server_name"];

/// Notes each key about Redis as a mistake, for a store that is none.
pub(in crate::edge::counter) fn forbid(section: &Section<'_>) {
    let all = [&WAYS[..], &["username", "password"], &OF_SENTINELS, &OF_TLS].concat();
    for key in all.into_iter().filter(|key| section.has(key)) {
        let remedy = format!("write kind = \"redis\", or remove `{key}`");
        section.mistake(key, "is written while the store is in memory", remedy);
    }
}

/// Takes note that these keys are known, whatever they say.
fn pass_over(section: &Section<'_>, keys: &[&str]) {
    for key in keys {
        let _ = section.has(key);
    }
}

/// Redis, as `[store]` says it.
#[derive(Debug)]
pub(in crate::edge::counter) struct RedisSettings {
    pub(super) way: Way,
    pub(super) dial: Arc<Dial>,
}

/// How the node that counts is found.
#[derive(Debug)]
pub(super) enum Way {
    Server(Place),
    Sentinels { places: Vec<Place>, login: Login, master: Box<str> },
    Cluster { seeds: Vec<Place> },
}

/// What every connection to a server is made with.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) login: Login,
    pub(super) tls: Option<Tls>,
    /// Which of several places is asked first.
    pub(super) next: AtomicUsize,
    pub(super) members: Mutex<Members>,
}

/// Who we are there.
#[derive(Debug, Default)]
pub(super) struct Login {
    username: Option<Box<str>>,
    password: Option<Secret>,
    pub(super) database: i64,
}

impl Login {
    fn compile(section: &Section<'_>, username_key: &str, password_key: &str) -> Self {
        let username = section.optional::<String>(username_key);
        if username.is_some() && !section.has(password_key) {
            section.missing(
                password_key,
                "write { env = \"NAME\" } or { file = \"path\" }: Redis takes a name with a password only",
            );
        }
        let password = section.has(password_key).then(|| section.secret(password_key)).flatten();
        Self { username: username.map(Into::into), password, database: 0 }
    }

    /// What is said first on a connection. The PING is there to be answered: some servers say only then that
    /// they want a password, or a certificate.
    pub(super) fn commands(&self) -> Pipeline {
        let mut commands = Pipeline::new();
        if let Some(password) = &self.password {
            let auth = commands.cmd("AUTH");
            if let Some(username) = &self.username {
                auth.arg(&**username);
            }
            auth.arg(password.expose());
        }
        if self.database != 0 {
            commands.cmd("SELECT").arg(self.database);
        }
        commands.cmd("PING");
        commands
    }
}

/// Whom we believe to be Redis, and how we show who we are.
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// The name in every certificate, in place of each address.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Tls {
    fn compile(section: &Section<'_>) -> Option<Self> {
        let server_name = section.optional::<String>("server_name").and_then(|name| {
            let parsed = ServerName::try_from(name).ok();
            if parsed.is_none() {
                section.mistake(
                    "server_name",
                    "is no name that a certificate could have",
                    "write the one in the certificates of Redis, such as \"redis.internal\"",
                );
            }
            parsed
        });
        let remedy = "name the PEM file of the authority that vouches for Redis: ca = \"redis-ca.pem\"";
        let (config, _) = tls::towards(section, remedy)?;
        Some(Self { config: Arc::new(config), server_name })
    }
}

impl RedisSettings {
    /// Reads what `[store]` says about Redis.
    #[must_use]
    pub(in crate::edge::counter) fn compile(section: &Section<'_>) -> Option<Self> {
        let written: Vec<&str> = WAYS.into_iter().filter(|key| section.has(key)).collect();
        let mut login = Login::compile(section, "username", "password");
        let Some(&way) = written.first() else {
            section.missing("url", "write where Redis is, such as \"redis://redis:6379\"");
            // What is written beside it may be meant for what is missing.
            pass_over(section, &OF_SENTINELS);
            pass_over(section, &OF_TLS);
            return None;
        };
        for other in written.iter().skip(1) {
            section.mistake(
                other,
                format!("is written beside `{way}`, and there is one way to Redis only"),
                "write one of `url` (a server), `sentinels` and `cluster`",
            );
        }
        if !written.contains(&"sentinels") {
            for key in OF_SENTINELS.into_iter().filter(|key| section.has(key)) {
                section.mistake(key, "is about Sentinels, and none are written", "remove it, or write `sentinels`");
            }
        }
        let addresses = if way == "url" { Self::url(section) } else { Self::list(section, way) };
        let tls = addresses.as_ref().is_none_or(|addresses| addresses.iter().any(|address| address.tls));
        let sentinel = (way == "sentinels").then(|| {
            let master = section
                .required::<String>("master", "write the name that the Sentinels know it by, such as \"mymaster\"");
            if master.as_ref().is_some_and(String::is_empty) {
                section.missing("master", "write the name that the Sentinels know it by, such as \"mymaster\"");
            }
            (master.filter(|name| !name.is_empty()), Login::compile(section, "sentinel_username", "sentinel_password"))
        });
        let tls = if addresses.is_none() {
            // Whether it would be used is not known.
            pass_over(section, &OF_TLS);
            None
        } else if tls {
            Some(Tls::compile(section)?)
        } else {
            for key in OF_TLS.into_iter().filter(|key| section.has(key)) {
                section.mistake(
                    key,
                    "is not used, because no address of Redis begins with rediss://",
                    "remove it, or write rediss://",
                );
            }
            None
        };
        let addresses = addresses?;
        login.database = addresses.first().and_then(|address| address.database).unwrap_or(0);
        let mut places = addresses.into_iter().map(|address| address.place);
        let way = match (way, sentinel) {
            ("url", _) => Way::Server(places.next()?),
            (_, Some((master, login))) => Way::Sentinels { places: places.collect(), login, master: master?.into() },
            (_, None) => Way::Cluster { seeds: places.collect() },
        };
        Some(Self { way, dial: Arc::new(Dial { login, tls, next: AtomicUsize::new(0), members: Mutex::default() }) })
    }

    fn url(section: &Section<'_>) -> Option<Vec<Written>> {
        let (reason, remedy) = match Written::parse(&section.optional::<String>("url")?, 6379) {
            Ok(written) => return Some(vec![written]),
            Err(wrong) => wrong.say("is not the URL of a Redis", "write one such as \"redis://redis:6379\""),
        };
        section.mistake("url", reason, remedy);
        None
    }

    fn list(section: &Section<'_>, key: &str) -> Option<Vec<Written>> {
        let (default_port, example) = if key == "sentinels" {
            (26379, "write each as host and port, such as [\"10.0.0.1:26379\"]")
        } else {
            (6379, "write some of its nodes, such as [\"redis://10.0.0.1:7000\"]")
        };
        let texts = section.list::<String>(key);
        if texts.is_empty() {
            section.missing(key, example);
            return None;
        }
        let mut written: Vec<Written> = Vec::with_capacity(texts.len());
        let mut whole = true;
        for (index, text) in texts {
            let mut wrong = |reason: &str, remedy: &str| {
                section.mistake_at(key, index, reason, remedy);
                whole = false;
            };
            match Written::parse(&text, default_port) {
                Ok(Written { database: Some(_), .. }) => {
                    wrong(
                        "has the number of a database, which is for `url` alone",
                        "remove what stands behind the port",
                    );
                }
                Ok(Written { place: Place::Unix(_), .. }) => {
                    wrong(
                        "is a socket of this machine, and others are told of by host and port",
                        "write host and port",
                    );
                }
                Ok(one) if written.first().is_some_and(|first| first.tls != one.tls) => wrong(
                    "differs from the first in whether TLS is spoken",
                    "write rediss:// before each of them, or before none",
                ),
                Ok(one) => written.push(one),
                Err(error) => {
                    let (reason, remedy) = error.say("is not an address of a Redis", example);
                    wrong(reason, remedy);
                }
            }
        }
        whole.then_some(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_first_has_only_what_is_needed_and_no_secret_is_shown() {
        let secret = || Some(Secret::new(*b"hunter2"));
        for (username, password, database, expected) in [
            (None, None, 0, "PING"),
            (None, secret(), 0, "AUTH hunter2 PING"),
            (Some("bob".into()), secret(), 3, "AUTH bob hunter2 SELECT 3 PING"),
        ] {
            let login = Login { username, password, database };
            let octets = login.commands().get_packed_pipeline();
            let text = String::from_utf8(octets).expect("text");
            let words: Vec<_> = text.split("\r\n").filter(|word| !word.starts_with(['*', '$'])).collect();
            assert_eq!(words.join(" ").trim_end(), expected);
            assert!(!format!("{login:?}").contains("hunter2"));
        }
    }
}
