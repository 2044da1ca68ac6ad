//! What was granted and what was taken back: families of refresh tokens, and revoked tokens, in this process or in
//! Redis.
//!
//! A request with an access token asks nobody: which tokens are revoked stands in this process's memory, and where
//! Redis is the store each gateway reads there four times a second what has been added ([`Follower`]). What can't be
//! read is not taken for nothing: for how long nobody has known is told to the policy, which says what that means.
//! Only the token endpoints wait for Redis. It holds no token, only digests, and all of it expires.

mod moment;
mod revoked;
mod spent;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, Value};

use super::counter::{Caller, Heard, PAGE, SharedStore, StreamReader};
use crate::policy::authenticate::jwt::Revocations;
use crate::policy::authenticate::once::Once;
use crate::policy::token::{Kept, MOST_LIFETIME};
use crate::types::{RequestId, Sha256, Timestamp, TokenId};

use moment::Moment;
use revoked::Revoked;
use spent::Spent;

/// How often Redis is asked what was added.
const EVERY: Duration = Duration::from_millis(250);
/// How often all of it is read again, whatever became of Redis's memory in between.
const AFRESH: Duration = Duration::from_mins(1);
/// How long an entry stays: no token lives longer.
const KEPT_FOR: Duration = MOST_LIFETIME.saturating_add(Duration::from_mins(5));
/// The most families in this process.
const MOST_FAMILIES: usize = 262_144;

/// Adds a revoked token, forgets those that have ended, and lets the list end with its last token.
const REVOKE: &str = "local now = redis.call('TIME')
redis.call('XADD', KEYS[1], 'MINID', '~', string.format('%.0f', now[1] * 1000 - ARGV[3]), '*', 'i', ARGV[1], 'e', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])";

/// Puts one digest in the place of another, if that is there. Asked twice, it says the same twice.
const REPLACE: &str = "local kept = redis.call('GET', KEYS[1])
if not kept then return 0 end
local newest = string.sub(kept, 1, 32)
if newest == ARGV[2] then return 1 end
if newest ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. string.sub(kept, 33), 'KEEPTTL')
return 1";

/// Takes what may be used once, and says whether it was free. Asked twice by one request, it says the same twice.
const SPEND: &str = "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0";

/// The store did not answer, or has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLost;

/// What all threads share.
pub struct SharedGrants {
    store: Arc<SharedStore>,
    revoked: Revoked,
    spent: Spent,
    /// Milliseconds for which nobody has known what was revoked.
    heard: Heard,
    families: Mutex<HashMap<[u8; 32], Kept>>,
}

impl std::fmt::Debug for SharedGrants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedGrants").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Revocations for SharedGrants {
    fn is_revoked(&self, id: TokenId) -> bool {
        self.revoked.has(id)
    }

    fn unknown_for(&self) -> Duration {
        if self.store.is_redis() { self.heard.silence() } else { Duration::ZERO }
    }
}

impl SharedGrants {
    /// Nothing granted, nothing revoked; in Redis, where windows are there.
    #[must_use]
    pub fn new(store: Arc<SharedStore>) -> Self {
        Self {
            store,
            revoked: Revoked::default(),
            spent: Spent::default(),
            // What Redis holds is not known before it was read.
            heard: Heard::never(),
            families: Mutex::default(),
        }
    }

    /// Forgets what has ended in this process.
    pub fn sweep(&self, now: Timestamp) {
        self.revoked.sweep(Moment::now(now));
        self.families().retain(|_, kept| kept.family.exp > now.secs());
    }

    fn families(&self) -> MutexGuard<'_, HashMap<[u8; 32], Kept>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list_key(&self) -> String {
        self.store.key("revoked")
    }

    fn family_key(&self, family: &Sha256) -> Vec<u8> {
        self.digest_key("refresh:", family)
    }

    fn digest_key(&self, kind: &str, digest: &Sha256) -> Vec<u8> {
        let mut key = self.store.key(kind).into_bytes();
        key.extend(digest.to_string().into_bytes().split_off("sha256:".len()));
        key
    }
}

/// What was granted, as one thread uses it: its own connection to Redis.
#[derive(Debug)]
pub struct Grants {
    shared: Arc<SharedGrants>,
    caller: Caller,
}

impl Grants {
    /// A thread's way to what was granted.
    #[must_use]
    pub fn new(shared: Arc<SharedGrants>) -> Self {
        Self { caller: Caller::new(Arc::clone(&shared.store)), shared }
    }

    /// What was taken back, for decisions.
    #[must_use]
    pub fn revocations(&self) -> &dyn Revocations {
        &*self.shared
    }

    /// Takes a token, or everything that stems from a grant, back until it ends.
    ///
    /// # Errors
    /// [`StoreLost`]; this gateway refuses it all the same.
    pub async fn revoke(&self, id: TokenId, until: Timestamp, now: Timestamp) -> Result<(), StoreLost> {
        self.shared.revoked.add([(id, until)], Moment::now(now));
        if !self.shared.store.is_redis() {
            return Ok(());
        }
        let mut command = redis::cmd("EVAL");
        command.arg(REVOKE).arg(1).arg(self.shared.list_key()).arg(id.to_bytes().as_slice()).arg(until.secs());
        self.call(command.arg(millis(KEPT_FOR))).await.map(|_| ())
    }

    /// Takes what may be used once, for a request; says whether nobody has before. Where `local`, what this process
    /// remembers decides while Redis does not answer.
    ///
    /// # Errors
    /// [`StoreLost`], also where there is no room.
    pub async fn spend(&self, once: &Once, by: RequestId, local: bool, now: Timestamp) -> Result<bool, StoreLost> {
        let life = once.until.micros().saturating_sub(now.micros()) / 1000;
        if self.shared.store.is_redis() {
            let key = self.shared.digest_key("once:", &once.name);
            let mut command = redis::cmd("EVAL");
            command.arg(SPEND).arg(1).arg(key).arg(by.as_str()).arg(life.max(1));
            match self.call(&command).await {
                Ok(answer) if !local => return Ok(answer == Value::Int(1)),
                // What Redis does not know because it was away is known here.
                Ok(answer) => return Ok(self.shared.spent.take(once, Moment::now(now))? && answer == Value::Int(1)),
                Err(lost) if !local => return Err(lost),
                Err(_) => {}
            }
        }
        self.shared.spent.take(once, Moment::now(now))
    }

    /// Keeps a new family.
    ///
    /// # Errors
    /// [`StoreLost`], also where there is no room.
    pub async fn begin(&self, family: &Sha256, kept: Kept, now: Timestamp) -> Result<(), StoreLost> {
        if self.shared.store.is_redis() {
            let life = kept.family.exp.saturating_sub(now.secs()).max(1);
            let mut command = redis::cmd("SET");
            command.arg(self.shared.family_key(family)).arg(kept.to_bytes()).arg("EX").arg(life);
            return self.call(&command).await.map(|_| ());
        }
        let mut families = self.shared.families();
        if families.len() >= MOST_FAMILIES {
            return Err(StoreLost);
        }
        families.insert(*family.as_bytes(), kept);
        Ok(())
    }

    /// The family, if it has not ended.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn find(&self, family: &Sha256, now: Timestamp) -> Result<Option<Kept>, StoreLost> {
        let kept = if self.shared.store.is_redis() {
            match self.call(redis::cmd("GET").arg(self.shared.family_key(family))).await? {
                Value::BulkString(bytes) => Kept::from_bytes(&bytes),
                _ => None,
            }
        } else {
            self.shared.families().get(family.as_bytes()).cloned()
        };
        Ok(kept.filter(|kept| kept.family.exp > now.secs()))
    }

    /// Puts a family's next token in the place of the one that was shown; says whether that was its newest.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn replace(
        &self,
        family: &Sha256,
        shown: &Sha256,
        next: &Sha256,
        now: Timestamp,
    ) -> Result<bool, StoreLost> {
        if self.shared.store.is_redis() {
            let mut command = redis::cmd("EVAL");
            command.arg(REPLACE).arg(1).arg(self.shared.family_key(family));
            command.arg(shown.as_bytes().as_slice()).arg(next.as_bytes().as_slice());
            return Ok(self.call(&command).await? == Value::Int(1));
        }
        let mut families = self.shared.families();
        let kept = families.get_mut(family.as_bytes()).filter(|kept| kept.family.exp > now.secs());
        let Some(kept) = kept.filter(|kept| kept.newest.matches(shown)) else { return Ok(false) };
        kept.newest = *next;
        Ok(true)
    }

    /// Ends a family.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn end(&self, family: &Sha256) -> Result<(), StoreLost> {
        if self.shared.store.is_redis() {
            return self.call(redis::cmd("DEL").arg(self.shared.family_key(family))).await.map(|_| ());
        }
        self.shared.families().remove(family.as_bytes());
        Ok(())
    }

    async fn call(&self, command: &Cmd) -> Result<Value, StoreLost> {
        self.caller.call(command).await.map_err(|_| StoreLost)
    }
}

/// Reads what other gateways revoke. One in each gateway, on one runtime.
pub struct Follower {
    shared: Arc<SharedGrants>,
    stream: StreamReader,
    /// The last entry that was read; all are read again where it is empty.
    last: String,
    read_all: Option<Instant>,
    known: Option<Instant>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Follower {
    /// One that has read nothing yet.
    #[must_use]
    pub fn new(shared: Arc<SharedGrants>) -> Self {
        let stream = StreamReader::new(Arc::clone(&shared.store), "revoked");
        Self { shared, stream, last: String::new(), read_all: None, known: None }
    }

    /// Reads what was added since the last time.
    ///
    /// # Errors
    /// Why it can't be known.
    pub async fn look(&mut self, now: Timestamp) -> Result<(), String> {
        if !self.shared.store.is_redis() {
            return Ok(());
        }
        let began = Instant::now();
        match self.read(now).await {
            Ok(()) => {
                self.known = Some(began);
                self.shared.heard.at(self.known);
                Ok(())
            }
            Err(why) => {
                // A new connection may lead to a server that knows less.
                self.stream.disconnect();
                self.read_all = None;
                self.shared.heard.at(self.known);
                Err(why)
            }
        }
    }

    async fn read(&mut self, now: Timestamp) -> Result<(), String> {
        let afresh = self.read_all.is_none_or(|last| last.elapsed() > AFRESH);
        if afresh {
            self.last.clear();
        }
        loop {
            let begin = if self.last.is_empty() { "-".to_owned() } else { format!("({}", self.last) };
            let entries = entries(self.stream.page(&begin).await?).ok_or("the list has another form")?;
            self.shared.revoked.add(entries.iter().map(|(_, id, until)| (*id, *until)), Moment::now(now));
            if let Some((last, _, _)) = entries.last() {
                self.last.clone_from(last);
            }
            if entries.len() < PAGE {
                break;
            }
        }
        if afresh {
            self.read_all = Some(Instant::now());
        }
        Ok(())
    }

    /// Reads on for ever, while the policy `issues` tokens. `now` gives the wall clock; `changed` is told when it is no
    /// longer known what was revoked, and why, and when it is again.
    pub async fn follow(
        mut self,
        now: impl Fn() -> Timestamp,
        issues: impl Fn() -> bool,
        changed: impl Fn(Result<(), &str>),
    ) {
        let mut clock = tokio::time::interval(EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_known = true;
        let mut swept = Instant::now();
        loop {
            clock.tick().await;
            if !issues() {
                // Whoever issues none has none to refuse, and Redis is not asked for nothing.
                (self.known, self.read_all, was_known) = (None, None, true);
                if self.shared.store.is_redis() {
                    self.shared.heard.at(None);
                }
                continue;
            }
            let looked = self.look(now()).await;
            if looked.is_ok() != was_known {
                was_known = looked.is_ok();
                changed(looked.as_ref().map_err(String::as_str).copied());
            }
            if swept.elapsed() > AFRESH {
                swept = Instant::now();
                self.shared.sweep(now());
            }
        }
    }
}

/// The entries of the list: their places, what was revoked, and until when that matters.
fn entries(listed: Vec<(String, Vec<Vec<u8>>)>) -> Option<Vec<(String, TokenId, Timestamp)>> {
    let entry = |(place, values): (String, Vec<Vec<u8>>)| {
        let [id, until] = <[Vec<u8>; 2]>::try_from(values).ok()?;
        let until = String::from_utf8(until).ok()?.parse().ok()?;
        Some((place, TokenId::from_bytes(id.try_into().ok()?), Timestamp::from_secs(until)))
    };
    listed.into_iter().map(entry).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_another_form_are_not_taken() {
        let entry = |values: &[&[u8]]| vec![("1-0".to_owned(), values.iter().map(|value| value.to_vec()).collect())];
        let read = entries(entry(&[&[7; 16], b"12"])).expect("our own form");
        assert_eq!(read, [("1-0".to_owned(), TokenId::from_bytes([7; 16]), Timestamp::from_secs(12))]);
        for wrong in [&[&[7; 15][..], b"12"][..], &[&[7; 16], b"soon"], &[&[7; 16]], &[], &[&[7; 16], b"12", b"x"]] {
            assert!(entries(entry(wrong)).is_none());
        }
    }
}
