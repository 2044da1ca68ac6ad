//! Where a Redis listens: as it is written, and as others tell of it.

use std::fmt;
use std::path::Path;

use http::Uri;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: Box<str>, port: u16 },
    Unix(Box<Path>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    /// The node of a Cluster that another one names as `host:port`.
    pub(super) fn beside(other: &Self, address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Self::named_beside(other, host.trim_matches(['[', ']']), port.parse().ok()?)
    }

    /// The node of a Cluster that another one names. Without a host it is on that one's, and `?` is a node
    /// whose name is not known.
    pub(super) fn named_beside(other: &Self, host: &str, port: u16) -> Option<Self> {
        let host = match (host, other) {
            ("", Self::Tcp { host, .. }) => host.clone(),
            ("?", _) | ("", Self::Unix(_)) => return None,
            (host, _) => host.into(),
        };
        Some(Self::Tcp { host, port })
    }
}

/// An address as it is written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) tls: bool,
    pub(super) database: Option<i64>,
}

/// Why something is no address. It is never shown: people put passwords into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Form,
    Password,
    Username,
    Database,
}

impl Written {
    pub(super) fn parse(text: &str, default_port: u16) -> Result<Self, Wrong> {
        if let Some(path) = text.strip_prefix("unix:").or_else(|| text.strip_prefix("redis+unix:")) {
            let path = path.strip_prefix("//").unwrap_or(path);
            let (path, database) = match path.split_once('?') {
                None => (path, None),
                Some((path, query)) => (path, Some(number(query.strip_prefix("db=").ok_or(Wrong::Form)?)?)),
            };
            if !path.starts_with('/') {
                return Err(Wrong::Form);
            }
            return Ok(Self { place: Place::Unix(Path::new(path).into()), tls: false, database });
        }
        let uri: Uri = text.parse().map_err(|_| Wrong::Form)?;
        let tls = match uri.scheme_str() {
            None | Some("redis" | "valkey") => false,
            Some("rediss" | "valkeys") => true,
            Some(_) => return Err(Wrong::Form),
        };
        let authority = uri.authority().ok_or(Wrong::Form)?;
        if let Some((user, _)) = authority.as_str().split_once('@') {
            return Err(if user.contains(':') { Wrong::Password } else { Wrong::Username });
        }
        let host = authority.host().trim_matches(['[', ']']);
        // By hand: the crate takes a port that is too large for none.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            Some(rest) => {
                let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
                port.filter(|port| *port != 0).ok_or(Wrong::Form)?
            }
            None => return Err(Wrong::Form),
        };
        if host.is_empty() || uri.query().is_some() {
            return Err(Wrong::Form);
        }
        let database = match uri.path().trim_start_matches('/') {
            "" => None,
            path => Some(number(path)?),
        };
        Ok(Self { place: Place::Tcp { host: host.into(), port }, tls, database })
    }
}

fn number(text: &str) -> Result<i64, Wrong> {
    text.parse::<u16>().map(i64::from).map_err(|_| Wrong::Database)
}

impl Wrong {
    pub(super) fn say(self, no_address: &'static str, example: &'static str) -> (&'static str, &'static str) {
        match self {
            Self::Form => (no_address, example),
            Self::Password => (
                "has a password in it, and a secret must only be referred to",
                "remove it and write password = { env = \"NAME\" } or { file = \"path\" }",
            ),
            Self::Username => ("has a user's name in it", "remove it and write username = \"NAME\""),
            Self::Database => {
                ("ends in something other than the number of a database", "write a number such as /1, or nothing")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form() {
        for (text, expected) in [
            ("redis://redis", Ok(("redis:6379", false, None))),
            ("redis://redis:7000/", Ok(("redis:7000", false, None))),
            ("valkey://redis/2", Ok(("redis:6379", false, Some(2)))),
            ("rediss://[fd00::1]:1/15", Ok(("[fd00::1]:1", true, Some(15)))),
            ("valkeys://redis", Ok(("redis:6379", true, None))),
            ("10.0.0.1:26379", Ok(("10.0.0.1:26379", false, None))),
            ("10.0.0.1", Ok(("10.0.0.1:6379", false, None))),
            ("unix:/run/redis.sock", Ok(("unix:/run/redis.sock", false, None))),
            ("unix:///run/redis.sock?db=1", Ok(("unix:/run/redis.sock", false, Some(1)))),
            ("redis+unix:///run/redis.sock", Ok(("unix:/run/redis.sock", false, None))),
            ("", Err(Wrong::Form)),
            ("/redis", Err(Wrong::Form)),
            ("http://redis", Err(Wrong::Form)),
            ("redis:// redis", Err(Wrong::Form)),
            ("redis://redis:0", Err(Wrong::Form)),
            ("redis://redis:", Err(Wrong::Form)),
            ("redis://redis:65536", Err(Wrong::Form)),
            ("redis://redis?protocol=resp3", Err(Wrong::Form)),
            ("unix:redis.sock", Err(Wrong::Form)),
            ("unix:/redis.sock?pass=hunter2", Err(Wrong::Form)),
            ("redis://:hunter2@redis", Err(Wrong::Password)),
            ("rediss://bob:hunter2@redis:1/2", Err(Wrong::Password)),
            ("redis://bob@redis", Err(Wrong::Username)),
            ("redis://redis/one", Err(Wrong::Database)),
            ("redis://redis/-1", Err(Wrong::Database)),
            ("redis://redis/1/2", Err(Wrong::Database)),
            ("unix:/redis.sock?db=", Err(Wrong::Database)),
        ] {
            let written = Written::parse(text, 6379);
            let read = written.map(|written| (written.place.to_string(), written.tls, written.database));
            assert_eq!(read, expected.map(|(place, tls, database)| (place.to_owned(), tls, database)), "{text}");
        }
    }

    #[test]
    fn a_node_is_named_by_another() {
        let other = Place::Tcp { host: "10.0.0.1".into(), port: 7000 };
        for (address, expected) in [
            ("10.0.0.2:7001", Some("10.0.0.2:7001")),
            ("fd00::2:7001", Some("[fd00::2]:7001")),
            ("[fd00::2]:7001", Some("[fd00::2]:7001")),
            (":7001", Some("10.0.0.1:7001")),
            ("?:7001", None),
            ("10.0.0.2", None),
            ("10.0.0.2:x", None),
        ] {
            assert_eq!(Place::beside(&other, address).map(|place| place.to_string()).as_deref(), expected, "{address}");
        }
    }
}
