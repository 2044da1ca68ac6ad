//! Where to listen. The worker asks nobody who they are, so an address that strangers may reach is refused unless the
//! operator says the dangerous word.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, lookup_host};

use crate::failure::{Exit, Failure};

/// A connection, over TCP or a Unix socket.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A bound address.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener, SocketAddr),
    /// A Unix socket; its file is removed when the listener is dropped.
    Unix(UnixListener, PathBuf),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(_, path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether only this machine or a private network can reach the address: loopback, RFC 1918 and unique local
/// addresses (RFC 4193). The unspecified address is every interface, so it is not private.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

impl Listener {
    /// Binds `host:port` or `unix:/path`.
    ///
    /// # Errors
    ///
    /// Exit code 78 when the address cannot be understood or is public without `danger_public_bind`, 69 when the
    /// system refuses it.
    pub async fn bind(address: &str, danger_public_bind: bool) -> Result<Self, Failure> {
        let unavailable = |error: io::Error| {
            let hint = "stop what uses it, or choose another with --listen";
            Failure::new(Exit::Unavailable, format!("cannot listen on {address}"), error.to_string(), hint)
        };
        if let Some(path) = address.strip_prefix("unix:") {
            let path = Path::new(path);
            if !path.is_absolute() {
                return Err(config(address, "a Unix socket needs an absolute path", "write unix:/path/to.sock"));
            }
            remove_stale(path).map_err(unavailable)?;
            let listener = UnixListener::bind(path).map_err(unavailable)?;
            return Ok(Self::Unix(listener, path.to_owned()));
        }
        let resolved: Vec<SocketAddr> = lookup_host(address)
            .await
            .map_err(|error| config(address, &error.to_string(), "write it as 127.0.0.1:9001 or unix:/path/to.sock"))?
            .collect();
        if let Some(public) = resolved.iter().find(|resolved| !is_private(resolved.ip()))
            && !danger_public_bind
        {
            let why =
                format!("{} is neither loopback nor private, and the worker asks nobody who they are", public.ip());
            let hint = "listen on a private address behind the gateway; --danger-public-bind allows it all the same";
            return Err(config(address, &why, hint));
        }
        let listener = TcpListener::bind(resolved.as_slice()).await.map_err(unavailable)?;
        let local = listener.local_addr().map_err(unavailable)?;
        Ok(Self::Tcp(listener, local))
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// What the system says, often that this process or the system has too many files open.
    pub async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // An answer is one small write: waiting to fill a packet only adds delay.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

fn config(address: &str, why: &str, hint: &str) -> Failure {
    Failure::new(Exit::Config, format!("will not listen on {address}"), why, hint)
}

/// Removes a socket that a killed worker left behind: one that nobody accepts on. Any other file stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let refused = || {
        std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    if is_socket && refused() { std::fs::remove_file(path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_are_private() {
        for (address, private) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("10.1.2.3", true),
            ("172.16.0.1", true),
            ("172.32.0.1", false),
            ("192.168.1.1", true),
            ("192.169.1.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("::", false),
            ("fd00::1", true),
            ("fe80::1", false),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:8.8.8.8", false),
        ] {
            assert_eq!(is_private(address.parse().expect(address)), private, "{address}");
        }
    }
}
