//! How commands reach the admin listener of a running gateway, and where its socket is made.
//!
//! Both sides know the same places by the port, so a command of the gateway's own user needs no word of where it is.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use gateway::admin::{AdminSettings, SocketPlace};
use gateway::edge::fetch::plain_client;
use gateway::edge::log::Log;
use gateway::types::Secret;
use serde_json::Value;

use super::Failure;

/// Where systemd's `RuntimeDirectory=modelgate` is.
const SERVICE_DIRECTORY: &str = "/run/modelgate";

#[derive(Args)]
pub(crate) struct Admin {
    /// Where the admin listener is: its address, whose socket is found by its port, or the socket's path.
    #[arg(long, default_value = "127.0.0.1:9443")]
    admin: Place,
    /// A file with the secret of [admin], where there is one and the socket is not for you.
    #[arg(long, value_name = "FILE")]
    admin_secret: Option<PathBuf>,
}

/// Where a listener is.
#[derive(Clone, Debug)]
enum Place {
    Address(SocketAddr),
    Socket(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let path = text.strip_prefix("unix:");
        match path.or_else(|| text.contains('/').then_some(text)) {
            Some(path) => Ok(Self::Socket(path.into())),
            None => Err("write an address such as 127.0.0.1:9443, or a socket's path".into()),
        }
    }
}

impl Admin {
    /// Asks; gives back whether it did what was asked, and what it says.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(bool, Value), Failure> {
        let secret = self.admin_secret.as_ref().map(|file| {
            let unreadable = |error| Failure::usage(format!("the secret {} can't be read: {error}", file.display()));
            std::fs::read(file).map(|bytes| Secret::from_text(&bytes)).map_err(unreadable)
        });
        let secret = secret.transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::unavailable(error.to_string()))?;
        let asked = runtime.block_on(async {
            let timeout = Duration::from_secs(30);
            let socket = match &self.admin {
                Place::Socket(path) => Some(path.clone()),
                Place::Address(address) if secret.is_none() && address.ip().is_loopback() => usual(address.port()),
                Place::Address(_) => None,
            };
            let host = match &self.admin {
                Place::Address(address) if socket.is_none() => address.to_string(),
                _ => "localhost".into(),
            };
            let client = plain_client(timeout, socket.as_deref())?;
            let method = method.parse().map_err(|_| "no such method".to_owned())?;
            let mut request = client.request(method, format!("http://{host}{path}"));
            if let Some(secret) = &secret {
                let secret = str::from_utf8(secret.expose()).map_err(|_| "the secret is no text".to_owned())?;
                request = request.bearer_auth(secret);
            }
            let request = match body {
                Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
                None => request,
            };
            let answer = request.send().await;
            let answer = answer.map_err(|error| error.without_url().to_string())?;
            let good = answer.status().is_success();
            let body = answer.bytes().await.map_err(|error| error.without_url().to_string())?;
            let value = serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}"))?;
            Ok((good, value))
        });
        asked.map_err(|reason: String| {
            Failure::unavailable(format!(
                "the admin listener at {self} can't be asked: {reason}\n  help: name another with --admin"
            ))
        })
    }

    /// Asks for what can only be done or refused.
    pub(crate) fn ask_for(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let (good, answer) = self.ask(method, path, body)?;
        if good {
            return Ok(answer);
        }
        Err(Failure::unavailable(format!("the gateway at {self} says: {}", reason(&answer))))
    }
}

impl std::fmt::Display for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.admin {
            Place::Address(address) => address.fmt(f),
            Place::Socket(path) => path.display().fmt(f),
        }
    }
}

/// Why it refuses.
pub(crate) fn reason(answer: &Value) -> &str {
    answer.get("error").and_then(Value::as_str).unwrap_or("it refuses")
}

/// Makes the socket. One that must be at a place is, or the start fails; of the usual one it is told where it can't be.
/// Needs a runtime around it.
///
/// # Errors
/// Why it can't be at its place.
pub(crate) fn make_socket(
    settings: &AdminSettings,
    port: u16,
    log: &Log,
) -> Result<Option<(PathBuf, UnixListener)>, Failure> {
    let path = match settings.socket() {
        SocketPlace::Off => return Ok(None),
        SocketPlace::At(path) => {
            let listener = bind_socket(path).map_err(|error| {
                let path = path.display();
                Failure::unavailable(match error.kind() {
                    io::ErrorKind::AddrInUse => format!(
                        "the admin socket {path} is in use by another program\n  help: stop it, or choose another path (`admin.socket`, or GATEWAY_ADMIN__SOCKET)"
                    ),
                    _ => format!(
                        "the admin socket {path} can't be made: {error}\n  help: make its directory, or choose another path (`admin.socket`, or GATEWAY_ADMIN__SOCKET)"
                    ),
                })
            })?;
            return Ok(Some((path.clone(), listener)));
        }
        SocketPlace::Usual => usual_directory(),
    };
    let made = path.and_then(|directory| {
        let path = directory.join(file_name(port));
        bind_socket(&path)
            .map(|listener| Some((path.clone(), listener)))
            .map_err(|error| format!("{}: {error}", path.display()))
    });
    Ok(made.unwrap_or_else(|why| {
        let help = "set `socket` under [admin] to a path in a directory of this user's own";
        log.event("admin-socket-missing", &[("cause", &why), ("help", help)]);
        None
    }))
}

/// Makes a socket for its own user alone. One that a process left that has ended makes way.
///
/// # Errors
/// Why it can't be made; `AddrInUse` where somebody listens there.
fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is in its place")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects before is asked for its user all the same.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The file of a socket that was made, gone with its gateway.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl SocketFile {
    pub(crate) fn of(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

fn file_name(port: u16) -> String {
    format!("admin-{port}.sock")
}

/// The user that this process is.
fn user() -> io::Result<u32> {
    Ok(tokio::net::UnixStream::pair()?.0.peer_cred()?.uid())
}

/// The directories where the socket may be, and whether they are made for it.
fn directories(user: u32) -> impl Iterator<Item = (PathBuf, bool)> {
    let session = env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let session = session.map(|path| (PathBuf::from(path).join("modelgate"), true));
    let temporary = (env::temp_dir().join(format!("modelgate-{user}")), true);
    session.into_iter().chain([(SERVICE_DIRECTORY.into(), false), temporary])
}

/// The directory where the socket is made: the first that is this user's, and that nobody else can write to.
fn usual_directory() -> Result<PathBuf, String> {
    let user = user().map_err(|error| error.to_string())?;
    let mut why = Vec::new();
    for (path, is_made) in directories(user) {
        if is_made {
            // Where it is there already, it is looked at below.
            let _ = std::fs::DirBuilder::new().mode(0o700).create(&path);
        }
        match owned(&path, user) {
            Ok(()) => return Ok(path),
            Err(reason) => why.push(format!("{}: {reason}", path.display())),
        }
    }
    Err(why.join("; "))
}

fn owned(path: &Path, user: u32) -> Result<(), String> {
    let it = std::fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !it.is_dir() || it.uid() != user || it.mode() & 0o022 != 0 {
        return Err("is no directory of this user's own".into());
    }
    Ok(())
}

/// The socket of the gateway whose admin listener has this port, if this user may trust one that is there.
fn usual(port: u16) -> Option<PathBuf> {
    let user = user().ok()?;
    // Root alone makes what is in /run.
    let trusted = |path: &Path| path == Path::new(SERVICE_DIRECTORY) || owned(path, user).is_ok();
    let found = directories(user).filter(|(path, _)| trusted(path)).map(|(path, _)| path.join(file_name(port)));
    let mut found = found.filter(|path| UnixStream::connect(path).is_ok());
    found.next()
}
