//! Where a worker listens, and which addresses plain text may go to.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use http::Uri;
use rustls::pki_types::ServerName;

/// Where a worker listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Tcp {
        host: Box<str>,
        port: u16,
        /// What the worker is called in `Host`.
        authority: Box<str>,
        /// The name in its certificate, where it has one.
        tls_name: Option<ServerName<'static>>,
    },
    Unix {
        path: Box<Path>,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// What stands in `Host`.
    pub(super) fn host(&self) -> &[u8] {
        match self {
            Self::Tcp { authority, .. } => authority.as_bytes(),
            Self::Unix { .. } => b"localhost",
        }
    }

    /// Whether TLS is spoken there.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls_name: Some(_), .. })
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix { path: Path::new(path).into() })
            } else {
                Err("has a socket path that is not absolute".into())
            };
        }
        let uri: Uri = text.parse().map_err(|_| "is not a URL".to_owned())?;
        match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
            (Some(scheme @ ("http" | "https")), Some(authority), "" | "/", None)
                if !authority.as_str().contains('@') =>
            {
                let host = authority.host().trim_matches(['[', ']']);
                let tls = scheme == "https";
                // By hand: the crate takes a port that is too large for none, and 80 for it.
                let port = match authority.as_str().strip_prefix(authority.host()).map(|rest| rest.strip_prefix(':')) {
                    Some(None) => {
                        if tls {
                            443
                        } else {
                            80
                        }
                    }
                    Some(Some(port)) => {
                        port.parse().ok().filter(|port| *port != 0).ok_or("has no port from 1 to 65535")?
                    }
                    None => return Err("is not the URL of a worker".into()),
                };
                let tls_name = tls.then(|| ServerName::try_from(host.to_owned())).transpose();
                Ok(Self::Tcp {
                    host: host.into(),
                    port,
                    authority: authority.as_str().into(),
                    tls_name: tls_name.map_err(|_| "has no name that a certificate could have".to_owned())?,
                })
            }
            _ => Err("is not the URL of a worker".into()),
        }
    }
}

/// Whether an address is on a network that only we and our neighbours see (RFC 1918, RFC 4193).
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_addresses() {
        for good in
            ["http://127.0.0.1:9001", "https://worker", "http://worker:9001/", "http://[::1]:80", "unix:/run/w.sock"]
        {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "127.0.0.1:9001",
            "https://worker/path",
            "http://worker/path",
            "http://u:p@worker",
            "unix:w.sock",
            "ftp://x",
            "http://worker:99999",
            "http://worker:0",
            "http://worker:",
        ] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn private_addresses() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("192.168.1.1", true),
            ("8.8.8.8", false),
            ("::1", true),
            ("fd00::1", true),
            ("2001:db8::1", false),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().expect("a literal address")), private, "{address}");
        }
    }
}
