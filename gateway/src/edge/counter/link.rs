//! The way to Redis: `[store]`, and one thread's connection to the node that counts.
//!
//! One node decides, whichever way leads to it: the server of `url`, the master that Sentinels name, or the
//! master of a Cluster that holds our slot. All keys of ours share the hash tag `{prefix}` and so one slot,
//! and a script runs on one node without anything between its steps: a decision over any number of limits,
//! and any number of decisions in one call, are atomic in each of the three. A Cluster therefore adds
//! fail-over and not speed, and nothing is atomic across a fail-over: replication is asynchronous, so
//! admissions that the lost master had not passed on are forgotten by the new one. While a slot is moved
//! key by key, a call whose keys lie on both sides is refused by Redis with TRYAGAIN until they have moved.
//!
//! Written on the redis crate's single connection rather than on its clients for Sentinel and Cluster: one
//! slot needs no map of slots, nothing here runs or tries again in the background, TLS is ours (one provider
//! of cryptography, the authority of `ca` alone), and no crate is added. Never decides whether a call is
//! made again: [`is_fatal`] tells the caller, who also bounds how long it waits for [`Link::call`].

mod settings;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, Value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use settings::{Dial, Login, Place, Way};
pub(super) use settings::{RedisSettings, forbid};

/// How often one call is sent on to another node of a Cluster.
const MAX_HOPS: usize = 3;
/// Nodes of a Cluster that are remembered.
const MAX_NODES: usize = 1_000;
/// What a server may answer to that which is said first.
const MAX_GREETING: usize = 4 << 10;

/// One thread's connection to the node that counts. Clones share it.
#[derive(Clone)]
pub(super) struct Link(Arc<Shared>);

struct Shared {
    dial: Arc<Dial>,
    timeout: Duration,
    /// Where calls go.
    here: Mutex<Arc<Node>>,
    /// The node that our slot is being moved to.
    ahead: Mutex<Option<Arc<Node>>>,
    /// Whether nodes send calls on to each other.
    cluster: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("place", &lock(&self.0.here).place).finish_non_exhaustive()
    }
}

impl Link {
    /// A connection to the node that counts now. Each step of finding it takes `timeout` at most, and whoever
    /// stops waiting may simply call again: the next attempt begins where this one did not get to.
    ///
    /// # Errors
    /// Why there is none, with the place that the reason is about.
    pub(super) async fn open(settings: &RedisSettings, timeout: Duration) -> RedisResult<Self> {
        let dial = &settings.dial;
        let (node, cluster) = match &settings.way {
            Way::Server(place) => (dial.node(place, &dial.login, timeout).await?, false),
            Way::Sentinels { places, login, master } => {
                let ask = async |place: &Place| dial.master(place, login, master, timeout).await;
                (in_turn(places, &dial.next, ask).await?, false)
            }
            Way::Cluster { seeds } => (dial.member(seeds, timeout).await?, true),
        };
        let (here, ahead) = (Mutex::new(Arc::new(node)), Mutex::default());
        Ok(Self(Arc::new(Shared { dial: Arc::clone(dial), timeout, here, ahead, cluster })))
    }

    /// Sends one command, to other nodes of a Cluster too where ours says so, and gives back its answer. The
    /// caller bounds how long that may take.
    ///
    /// # Errors
    /// What Redis answered, or what became of the connection; see [`is_fatal`].
    pub(super) async fn call(&self, command: &Cmd) -> RedisResult<Value> {
        let node = self.0.here();
        let answer = node.send(command).await;
        if !self.0.cluster {
            return answer;
        }
        let answer = self.0.follow(command, node, answer).await;
        if answer.as_ref().is_err_and(is_fatal) {
            // Whoever led here has an old view of the Cluster; the next link begins with somebody else.
            self.0.dial.members().owner = None;
            self.0.dial.next.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.call(command))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let mut connection = self.0.here().connection.clone();
        Box::pin(async move { connection.send_packed_commands(pipeline, offset, count).await })
    }

    fn get_db(&self) -> i64 {
        self.0.dial.login.database
    }
}

impl Shared {
    fn here(&self) -> Arc<Node> {
        Arc::clone(&lock(&self.here))
    }

    /// Sends a command on for as long as it is answered with another node's address.
    async fn follow(&self, command: &Cmd, mut node: Arc<Node>, mut answer: RedisResult<Value>) -> RedisResult<Value> {
        for _ in 0..MAX_HOPS {
            let Err(error) = &answer else { break };
            let Some(place) = error.redirect_node().and_then(|(address, _)| Place::beside(&node.place, address)) else {
                break;
            };
            if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
                node = self.ahead(&place).await?;
                answer = node.send_asking(command).await;
            } else {
                node = self.move_to(place).await?;
                answer = node.send(command).await;
            }
        }
        // The script is wanted wherever the next call may be sent.
        if command.args_iter().next().is_some_and(|first| matches!(first, redis::Arg::Simple(b"SCRIPT"))) {
            let ahead = lock(&self.ahead).clone();
            if let Some(node) = ahead {
                node.send(command).await?;
            }
        }
        answer
    }

    /// The node that holds our slot now, for this call and the next ones.
    async fn move_to(&self, place: Place) -> RedisResult<Arc<Node>> {
        // Another call may have moved already, and a slot moves to where it was asked for.
        let found = Some(self.here()).filter(|node| node.place == place);
        let found = found.or_else(|| lock(&self.ahead).take().filter(|node| node.place == place));
        let node = match found {
            Some(node) => node,
            None => Arc::new(self.dial.node(&place, &self.dial.login, self.timeout).await?),
        };
        *lock(&self.here) = Arc::clone(&node);
        self.dial.members().owner = Some(place);
        Ok(node)
    }

    /// The node that our slot is being moved to.
    async fn ahead(&self, place: &Place) -> RedisResult<Arc<Node>> {
        if let Some(node) = lock(&self.ahead).clone().filter(|node| node.place == *place) {
            return Ok(node);
        }
        let node = Arc::new(self.dial.node(place, &self.dial.login, self.timeout).await?);
        *lock(&self.ahead) = Some(Arc::clone(&node));
        Ok(node)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to one server.
struct Node {
    place: Place,
    connection: MultiplexedConnection,
    _driver: Driver,
}

/// What moves a connection's octets, ended with it: a server that is held up would keep it for ever.
struct Driver(tokio::task::AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Node {
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        self.connection.clone().send_packed_command(command).await?.extract_error()
    }

    /// Sends a command for a slot that is on its way to this node.
    async fn send_asking(&self, command: &Cmd) -> RedisResult<Value> {
        let mut both = Pipeline::new();
        both.cmd("ASKING").add_command(command.clone());
        let answers = self.connection.clone().send_packed_commands(&both, 1, 1).await?;
        answers.into_iter().next().unwrap_or(Value::Nil).extract_error()
    }
}

/// What is known of a Cluster beyond its seeds.
#[derive(Debug, Default)]
struct Members {
    /// Where our slot was found last.
    owner: Option<Place>,
    /// Every node, as one of them told last.
    nodes: Vec<Place>,
}

impl Dial {
    fn members(&self) -> MutexGuard<'_, Members> {
        lock(&self.members)
    }

    /// Connects and logs in.
    async fn node(&self, place: &Place, login: &Login, timeout: Duration) -> RedisResult<Node> {
        let connecting = async {
            match place {
                Place::Unix(path) => self.log_in(place, login, UnixStream::connect(path).await?).await,
                Place::Tcp { host, port } => {
                    let stream = connect(host, *port).await?;
                    // Small messages both ways: waiting to fill a segment only adds delay.
                    stream.set_nodelay(true)?;
                    let Some(tls) = &self.tls else { return self.log_in(place, login, stream).await };
                    let name = match &tls.server_name {
                        Some(name) => name.clone(),
                        None => ServerName::try_from(host.to_string())
                            .map_err(|_| io::Error::other("no certificate can have this name"))?,
                    };
                    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream).await?;
                    self.log_in(place, login, stream).await
                }
            }
        };
        let failed = |error: io::Error| RedisError::from(io::Error::new(error.kind(), format!("{place}: {error}")));
        match tokio::time::timeout(timeout, connecting).await {
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
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Node, Failure> {
        // The crate's own log-in tells neither what was answered nor why TLS ended.
        greet(&mut stream, &login.commands()).await?;
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        // Whoever waits for an answer bounds that.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&nobody, stream, config).await?;
        let driver = Driver(tokio::spawn(driver).abort_handle());
        Ok(Node { place: place.clone(), connection, _driver: driver })
    }

    /// Asks a Sentinel where the master is, and the master whether it is one.
    async fn master(&self, sentinel: &Place, login: &Login, name: &str, timeout: Duration) -> RedisResult<Node> {
        let asked = self.node(sentinel, login, timeout).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let answer = within(timeout, sentinel, asked.send(&question)).await?;
        let Some((host, port)) = redis::from_redis_value::<Option<(String, u16)>>(answer)? else {
            return Err(unusable(format!("{sentinel} watches no master by the name {name:?}")));
        };
        let place = Place::Tcp { host: host.into(), port };
        let node = self.node(&place, &self.login, timeout).await?;
        // A Sentinel that was cut off, or has not seen the fail-over yet, names the old one.
        let role = within(timeout, &place, node.send(&redis::cmd("ROLE"))).await?;
        if !matches!(&role, Value::Array(parts) if matches!(parts.first(), Some(Value::BulkString(role)) if role == b"master"))
        {
            return Err(unusable(format!("{place}, which {sentinel} calls the master, is a replica (read-only)")));
        }
        Ok(node)
    }

    /// Any node of the Cluster, preferably the one that held our slot last; others send calls on.
    async fn member(&self, seeds: &[Place], timeout: Duration) -> RedisResult<Node> {
        let ask = async |place: &Place| {
            let node = self.node(place, &self.login, timeout).await?;
            let mut question = redis::cmd("CLUSTER");
            let nodes = nodes(&within(timeout, place, node.send(question.arg("SLOTS"))).await?, place);
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
async fn in_turn<T>(
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

/// What went wrong, for the log.
#[must_use]
pub(super) fn describe(error: &RedisError) -> String {
    let ours = error.detail().filter(|_| error.kind() == ErrorKind::Client);
    ours.map_or_else(|| error.to_string(), str::to_owned).chars().take(200).collect()
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

/// Whether the connection is in doubt or leads to a node that can't count, so that the next call needs a new
/// [`Link`]; one more attempt at once may then succeed. Otherwise the connection is good, and Redis said no
/// for a reason that a new connection would not change.
#[must_use]
pub(super) fn is_fatal(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Server(kind) => match kind {
            // A replica, or a master that has become one; a node without a majority or without our slot; nodes
            // that disagree about where it is.
            ServerErrorKind::ReadOnly
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask => true,
            // LOADING and TRYAGAIN end by themselves; rights change under a connection; the rest is the script.
            _ => false,
        },
        ErrorKind::Extension => matches!(error.code(), Some("NOAUTH" | "WRONGPASS")),
        ErrorKind::UnexpectedReturnType => false,
        // Whatever is no answer of Redis: the socket, its octets, the handshake, the search for a node.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the redis crate makes of an answer.
    fn answered(text: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("an answer");
        value.extract_error().expect_err("it is an error")
    }

    #[test]
    fn errors_say_whether_the_connection_is_still_good() {
        for (answer, fatal) in [
            ("READONLY You can't write against a read only replica. script: 1, on @user_script:1.", true),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true),
            ("CLUSTERDOWN The cluster is down", true),
            ("CLUSTERDOWN Hash slot not served", true),
            ("MOVED 3999 127.0.0.1:6381", true),
            ("ASK 3999 127.0.0.1:6381", true),
            ("NOAUTH Authentication required.", true),
            ("WRONGPASS invalid username-password pair or user is disabled.", true),
            ("LOADING Redis is loading the dataset in memory", false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", false),
            ("OOM command not allowed when used memory > 'maxmemory'.", false),
            ("NOSCRIPT No matching script. Please use EVAL.", false),
            ("NOPERM this user has no permissions to run the 'evalsha' command", false),
            ("BUSY Redis is busy running a script.", false),
            ("MISCONF Redis is configured to save RDB snapshots", false),
            ("NOREPLICAS Not enough good replicas to write.", false),
            ("CROSSSLOT Keys in request don't hash to the same slot", false),
            ("ERR user_script:1: attempt to index a nil value", false),
        ] {
            assert_eq!(is_fatal(&answered(answer)), fatal, "{answer}");
        }
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::TimedOut, io::ErrorKind::Other] {
            assert!(is_fatal(&io::Error::from(kind).into()), "{kind:?}");
        }
        for (kind, fatal) in [
            (ErrorKind::Io, true),
            (ErrorKind::Parse, true),
            (ErrorKind::AuthenticationFailed, true),
            (ErrorKind::MasterNameNotFoundBySentinel, true),
            (ErrorKind::Client, true),
            (ErrorKind::UnexpectedReturnType, false),
        ] {
            assert_eq!(is_fatal(&(kind, "as the redis crate says").into()), fatal, "{kind:?}");
        }
    }

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
