//! From settings to a server that answers: connected, logged in, and asked for what it is.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult, Value};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::address::Place;
use super::alone::Alone;
use super::bounded::Bounded;
use super::lock;
use super::settings::{Dial, Login};

/// Nodes of a Cluster that are remembered.
const MAX_NODES: usize = 1_000;
/// What a server may answer to that which is said first.
const MAX_GREETING: usize = 4 << 10;

/// How a server is reached.
#[derive(Clone, Copy, Debug)]
pub(in crate::edge::counter) struct How {
    /// What each step may take.
    pub(in crate::edge::counter) timeout: Duration,
    /// Whether there is one call at a time.
    pub(in crate::edge::counter) alone: bool,
}

/// A connection to one server.
pub(super) struct Node {
    pub(super) place: Place,
    calls: Calls,
}

/// How calls share a connection.
enum Calls {
    /// Any number of them at once.
    Shared(MultiplexedConnection, #[expect(dead_code, reason = "it is held")] Driver),
    /// One at a time.
    Alone(Alone),
}

/// What moves a connection's octets, ended with it: a server that is held up would keep it for ever.
struct Driver(tokio::task::AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    pub(super) async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        match &self.calls {
            Calls::Shared(connection, _) => connection.clone().send_packed_command(command).await?.extract_error(),
            Calls::Alone(connection) => connection.call(&[command]).await,
        }
    }

    /// Sends a command for a slot that is on its way to this node.
    pub(super) async fn send_asking(&self, command: &Cmd) -> RedisResult<Value> {
        match &self.calls {
            Calls::Shared(connection, _) => {
                let mut both = Pipeline::new();
                both.cmd("ASKING").add_command(command.clone());
                let answers = connection.clone().send_packed_commands(&both, 1, 1).await?;
                answers.into_iter().next().unwrap_or(Value::Nil).extract_error()
            }
            Calls::Alone(connection) => connection.call(&[&redis::cmd("ASKING"), command]).await,
        }
    }
}

/// What is known of a Cluster beyond its seeds.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Where our slot was found last.
    pub(super) owner: Option<Place>,
    /// Every node, as one of them told last.
    nodes: Vec<Place>,
}

impl Dial {
    pub(super) fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    /// Connects and logs in.
    pub(super) async fn node(&self, place: &Place, login: &Login, how: How) -> RedisResult<Node> {
        let connecting = async {
            match place {
                Place::Unix(path) => self.log_in(place, login, how, UnixStream::connect(path).await?).await,
                Place::Tcp { host, port } => {
                    let stream = connect(host, *port).await?;
                    // Small messages both ways: waiting to fill a segment only adds delay.
                    stream.set_nodelay(true)?;
                    let Some(tls) = &self.tls else { return self.log_in(place, login, how, stream).await };
                    let name = match &tls.server_name {
                        Some(name) => name.clone(),
                        None => ServerName::try_from(host.to_string())
                            .map_err(|_| io::Error::other("no certificate can have this name"))?,
                    };
                    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream).await?;
                    self.log_in(place, login, how, stream).await
                }
            }
        };
        let failed = |error: io::Error| RedisError::from(io::Error::new(error.kind(), format!("{place}: {error}")));
        match tokio::time::timeout(how.timeout, connecting).await {
            Ok(Ok(node)) => Ok(node),
            Ok(Err(Failure::Io(error))) => Err(failed(error)),
            Ok(Err(Failure::Redis(error))) if error.is_io_error() => Err(failed(io::Error::other(error.to_string()))),
            Ok(Err(Failure::Redis(error))) => Err(unusable(format!("{place}: {error}"))),
            Err(_) => Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))),
        }
    }

    async fn log_in(
        &self,
        place: &Place,
        login: &Login,
        how: How,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Node, Failure> {
        // The crate's own log-in tells neither what was answered nor why TLS ended.
        greet(&mut stream, &login.commands()).await?;
        if how.alone {
            return Ok(Node { place: place.clone(), calls: Calls::Alone(Alone::new(stream)) });
        }
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        // Whoever waits for an answer bounds that.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&nobody, Bounded::new(stream), config).await?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        Ok(Node { place: place.clone(), calls: Calls::Shared(connection, driver) })
    }

    /// Asks a Sentinel where the master is, and the master whether it is one.
    pub(super) async fn master(&self, sentinel: &Place, login: &Login, name: &str, how: How) -> RedisResult<Node> {
        let asked = self.node(sentinel, login, how).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let answer = within(how.timeout, sentinel, asked.send(&question)).await?;
        let Some((host, port)) = redis::from_redis_value::<Option<(String, u16)>>(answer)? else {
            return Err(unusable(format!("{sentinel} watches no master by the name {name:?}")));
        };
        let place = Place::Tcp { host: host.into(), port };
        let node = self.node(&place, &self.login, how).await?;
        // A Sentinel that was cut off, or has not seen the fail-over yet, names the old one.
        let role = within(how.timeout, &place, node.send(&redis::cmd("ROLE"))).await?;
        if !matches!(&role, Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master"))
        {
            return Err(unusable(format!("{place}, which {sentinel} calls the master, is a replica (read-only)")));
        }
        Ok(node)
    }

    /// Any node of the Cluster, preferably the one that held our slot last; others send calls on.
    pub(super) async fn member(&self, seeds: &[Place], how: How) -> RedisResult<Node> {
        let ask = async |place: &Place| {
            let node = self.node(place, &self.login, how).await?;
            let mut question = redis::cmd("CLUSTER");
            let nodes = nodes(&within(how.timeout, place, node.send(question.arg("SLOTS"))).await?, place);
            if nodes.is_empty() {
                return Err(unusable(format!("{place} is in no Cluster that has slots")));
            }
            self.members().nodes = nodes;
            Ok(node)
        };
        // Forgotten before it is asked, so that whoever stops waiting for it does not wait for it again.
        let owner = self.members().owner.take();
        if let Some(owner) = owner
            && let Ok(node) = ask(&owner).await
        {
            self.members().owner = Some(owner);
            return Ok(node);
        }
        let mut places = seeds.to_vec();
        places.extend(self.members().nodes.iter().filter(|place| !seeds.contains(place)).cloned());
        in_turn(&places, &self.next, ask).await
    }
}

/// Asks one place after the other until one answers, beginning where the last one answered, or behind the
/// last one that did not: whoever stops waiting for one begins with the next.
pub(super) async fn in_turn<T>(
    places: &[Place],
    next: &AtomicUsize,
    ask: impl AsyncFn(&Place) -> RedisResult<T>,
) -> RedisResult<T> {
    let first = next.load(Ordering::Relaxed);
    let mut failures = Vec::new();
    for (index, place) in places.iter().enumerate().cycle().skip(first % places.len().max(1)).take(places.len()) {
        next.store(index + 1, Ordering::Relaxed);
        match ask(place).await {
            Ok(found) => {
                next.store(index, Ordering::Relaxed);
                return Ok(found);
            }
            Err(error) => failures.push(error),
        }
    }
    // A wrong password says more than a server that is not there.
    let telling = failures.iter().position(|error| !error.is_io_error()).unwrap_or(0);
    let nobody = || unusable("there is nobody to ask".into());
    Err(failures.into_iter().nth(telling).unwrap_or_else(nobody))
}

async fn within<T>(timeout: Duration, place: &Place, answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("{place}: no answer in time"));
    tokio::time::timeout(timeout, answer).await.map_err(|_| late())?
}

/// Says what is said first, and reads the answers, which are a line each.
async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), commands: &Pipeline) -> Result<(), Failure> {
    let octets = commands.get_packed_pipeline();
    let said = async { stream.write_all(&octets).await.and(stream.flush().await) }.await;
    // Where that failed, the reason may have come before: in TLS 1.3 a certificate is refused after the handshake.
    let mut heard = Vec::new();
    while heard.split(|octet| *octet == b'\n').count() <= commands.len() {
        if stream.read_buf(&mut heard).await? == 0 || heard.len() > MAX_GREETING {
            said?;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up instead of an answer").into());
        }
    }
    for line in heard.split_inclusive(|octet| *octet == b'\n') {
        redis::parse_redis_value(line)?.extract_error()?;
    }
    Ok(())
}

/// Tries all addresses of a name at once and takes the first that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = tokio::net::lookup_host((host, port)).await?;
    let mut trying: Vec<_> = addresses.map(|address| Box::pin(TcpStream::connect(address))).collect();
    if trying.len() == 1
        && let Some(only) = trying.pop()
    {
        return only.await;
    }
    if trying.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its name leads nowhere"));
    }
    futures_util::future::select_ok(trying).await.map(|(stream, _)| stream)
}

/// The nodes that `CLUSTER SLOTS` tells of: ranges, each with its first and last slot and then its nodes.
fn nodes(slots: &Value, told_by: &Place) -> Vec<Place> {
    let Value::Array(ranges) = slots else { return Vec::new() };
    let mut nodes = Vec::new();
    for range in ranges {
        let Value::Array(range) = range else { continue };
        for node in range.iter().skip(2) {
            let Value::Array(node) = node else { continue };
            let [host, Value::Int(port), ..] = node.as_slice() else { continue };
            let host = match host {
                Value::BulkString(host) => String::from_utf8_lossy(host).into_owned(),
                // Whoever tells does not know its own address; it is the one that it was asked at.
                _ => String::new(),
            };
            let place = u16::try_from(*port).ok().and_then(|port| Place::named_beside(told_by, &host, port));
            if let Some(place) = place.filter(|place| nodes.len() < MAX_NODES && !nodes.contains(place)) {
                nodes.push(place);
            }
        }
    }
    nodes
}

/// A server that is there and can't be used, and why.
fn unusable(reason: String) -> RedisError {
    (ErrorKind::Client, "it can't be used", reason).into()
}

enum Failure {
    Io(io::Error),
    Redis(RedisError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn nodes_of_a_cluster_are_read_from_its_slots() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        let range = |nodes: Vec<Value>| Value::Array([vec![Value::Int(0), Value::Int(99)], nodes].concat());
        let slots = Value::Array(vec![
            range(vec![node(text("10.0.0.2"), 7000), node(text(""), 7001)]),
            range(vec![node(Value::Nil, 7002), node(text("?"), 7003), node(text("10.0.0.2"), 7000)]),
            range(vec![node(text("fd00::1"), 7004), node(text("10.0.0.3"), 70_000), Value::Nil]),
            Value::Nil,
        ]);
        let told_by = Place::Tcp { host: "10.0.0.1".into(), port: 7009 };
        let found: Vec<String> = nodes(&slots, &told_by).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.2:7000", "10.0.0.1:7001", "10.0.0.1:7002", "[fd00::1]:7004"]);
        assert!(nodes(&Value::Nil, &told_by).is_empty());
    }

    #[tokio::test]
    async fn whoever_does_not_answer_is_asked_last_the_next_time() {
        let places = ["a", "b", "c"].map(|host| Place::Tcp { host: host.into(), port: 1 });
        let next = AtomicUsize::new(0);
        let asked = Mutex::new(String::new());
        let ask = async |place: &Place, good: &str| {
            let Place::Tcp { host, .. } = place else { return Err((ErrorKind::Client, "not here").into()) };
            lock(&asked).push_str(host);
            if good == "hang" {
                std::future::pending::<()>().await;
            }
            let failed = || RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
            if good.contains(&**host) { Ok(host.clone()) } else { Err(failed()) }
        };
        for (good, expected) in [("a", "a"), ("c", "abc"), ("c", "c"), ("b", "cab"), ("", "bca"), ("abc", "b")] {
            let _ = in_turn(&places, &next, async |place| ask(place, good).await).await;
            assert_eq!(std::mem::take(&mut *lock(&asked)), expected, "{good:?} answers");
        }
        // Whoever stops waiting for one goes on with the next.
        for expected in ["b", "c", "a"] {
            let hanging = in_turn(&places, &next, async |place| ask(place, "hang").await);
            let _ = tokio::time::timeout(Duration::from_millis(1), hanging).await;
            assert_eq!(std::mem::take(&mut *lock(&asked)), expected);
        }
    }
}
