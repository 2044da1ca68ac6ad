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
//! slot needs no map of slots, nothing here tries again in the background, who asks one question at a time needs no
//! task for it (`alone`), TLS is ours (one provider
//! of cryptography, the authority of `ca` alone), and no crate is added. Never decides whether a call is
//! made again: [`is_fatal`] tells the caller, who also bounds how long it waits for [`Link::call`].

mod address;
mod alone;
mod bounded;
mod dial;
mod settings;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use address::Place;
pub(super) use dial::How;
use dial::{Node, in_turn};
use settings::{Dial, Way};
pub(super) use settings::{RedisSettings, forbid};

/// How often one call is sent on to another node of a Cluster.
const MAX_HOPS: usize = 3;

/// One thread's connection to the node that counts. Clones share it.
#[derive(Clone)]
pub(in crate::edge) struct Link(Arc<Shared>);

struct Shared {
    dial: Arc<Dial>,
    how: How,
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
    /// A connection to the node that counts now. Each step of finding it takes `how.timeout` at most, and whoever
    /// stops waiting may simply call again: the next attempt begins where this one did not get to.
    ///
    /// # Errors
    /// Why there is none, with the place that the reason is about.
    pub(super) async fn open(settings: &RedisSettings, how: How) -> RedisResult<Self> {
        let dial = &settings.dial;
        let (node, cluster) = match &settings.way {
            Way::Server(place) => (dial.node(place, &dial.login, how).await?, false),
            Way::Sentinels { places, login, master } => {
                let ask = async |place: &Place| dial.master(place, login, master, how).await;
                (in_turn(places, &dial.next, ask).await?, false)
            }
            Way::Cluster { seeds } => (dial.member(seeds, how).await?, true),
        };
        let (here, ahead) = (Mutex::new(Arc::new(node)), Mutex::default());
        Ok(Self(Arc::new(Shared { dial: Arc::clone(dial), how, here, ahead, cluster })))
    }

    /// Sends one command, to other nodes of a Cluster too where ours says so, and gives back its answer. The
    /// caller bounds how long that may take.
    ///
    /// # Errors
    /// What Redis answered, or what became of the connection; see [`is_fatal`].
    pub(in crate::edge) async fn call(&self, command: &Cmd) -> RedisResult<Value> {
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
            None => Arc::new(self.dial.node(&place, &self.dial.login, self.how).await?),
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
        let node = Arc::new(self.dial.node(place, &self.dial.login, self.how).await?);
        *lock(&self.ahead) = Some(Arc::clone(&node));
        Ok(node)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What went wrong, for the log.
#[must_use]
pub(in crate::edge) fn describe(error: &RedisError) -> String {
    let ours = error.detail().filter(|_| error.kind() == ErrorKind::Client);
    ours.map_or_else(|| error.to_string(), str::to_owned).chars().take(200).collect()
}

/// Whether the connection is in doubt or leads to a node that can't count, so that the next call needs a new
/// [`Link`]; one more attempt at once may then succeed. Otherwise the connection is good, and Redis said no
/// for a reason that a new connection would not change.
#[must_use]
pub(in crate::edge) fn is_fatal(error: &RedisError) -> bool {
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
    use std::io;

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
}
