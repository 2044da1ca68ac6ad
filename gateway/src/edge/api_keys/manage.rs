//! Issuing, changing and ending keys, for operators. Every change is one script, so that two at once never mix.

use redis::{Cmd, Value};

use super::{ALL, ApiKeys, CHANGED, StoreLost, USED};
use crate::edge::counter::octets;
use crate::policy::authenticate::api_key::{Malformed, Record};

/// How many changes the stream keeps. Whoever missed more begins anew.
const MOST_CHANGES: usize = 10_000;
/// How often a change is tried that another one overtook.
const MOST_ATTEMPTS: usize = 5;

/// Puts a record in the place of what was read, if that is still there, and says which id it was. Asked twice, it says
/// the same twice.
const PUT: &str = "local kept = redis.call('GET', KEYS[1]) or ''
if kept == ARGV[3] then return 1 end
if kept ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[4], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', 'i', ARGV[1])
return 1";

/// What is to become of a key.
#[derive(Debug)]
pub enum Change {
    /// This is kept.
    Keep(Box<Record>),
    /// It is no more.
    End,
}

/// A key in Redis, for operators.
#[derive(Debug)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its record.
    pub record: Result<Record, Malformed>,
}

impl ApiKeys {
    async fn ask(&self, command: &Cmd) -> Result<Value, StoreLost> {
        self.caller.call(command).await.map_err(|_| StoreLost)
    }

    async fn kept(&self, id: &str) -> Result<Option<Vec<u8>>, StoreLost> {
        Ok(octets(&self.ask(redis::cmd("GET").arg(self.shared.record_key(id))).await?))
    }

    async fn put(&self, id: &str, expected: &[u8], next: &[u8]) -> Result<bool, StoreLost> {
        let store = &self.shared.store;
        let mut command = redis::cmd("EVAL");
        command.arg(PUT).arg(4).arg(self.shared.record_key(id));
        command.arg(store.key(ALL)).arg(store.key(CHANGED)).arg(store.key(USED));
        command.arg(id).arg(expected).arg(next).arg(MOST_CHANGES);
        let done = self.ask(&command).await;
        // At once here, and everywhere else when the stream is read.
        self.shared.outdate(id);
        Ok(done? == Value::Int(1))
    }

    /// Keeps a key's record; `false` where there is one of that id.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn issue(&self, id: &str, record: &Record) -> Result<bool, StoreLost> {
        self.put(id, b"", &record.to_bytes()).await
    }

    /// Changes a key as `change` says of its record, which is given as it is; the record as it was read, or nothing
    /// where there is none.
    ///
    /// # Errors
    /// [`StoreLost`], or why it is not changed.
    pub async fn change<E>(
        &self,
        id: &str,
        change: impl Fn(Result<Record, Malformed>) -> Result<Change, E>,
    ) -> Result<Option<Result<(), E>>, StoreLost> {
        for _ in 0..MOST_ATTEMPTS {
            let Some(kept) = self.kept(id).await? else { return Ok(None) };
            let next = match change(Record::read(&kept)) {
                Ok(Change::Keep(record)) => record.to_bytes(),
                Ok(Change::End) => Vec::new(),
                Err(why) => return Ok(Some(Err(why))),
            };
            if self.put(id, &kept, &next).await? {
                return Ok(Some(Ok(())));
            }
        }
        Err(StoreLost)
    }

    /// The first keys behind an id, in the order of ids.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn list(&self, after: &str, count: usize) -> Result<Vec<Listed>, StoreLost> {
        let mut command = redis::cmd("ZRANGEBYLEX");
        let begin = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        command.arg(self.shared.store.key(ALL)).arg(begin).arg("+").arg("LIMIT").arg(0).arg(count);
        let ids = texts(&self.ask(&command).await?);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = redis::cmd("MGET");
        command.arg(ids.iter().map(|id| self.shared.record_key(id)).collect::<Vec<_>>());
        let Value::Array(records) = self.ask(&command).await? else { return Err(StoreLost) };
        let listed = ids.into_iter().zip(records).filter_map(|(id, record)| {
            let record = Record::read(&octets(&record)?);
            Some(Listed { id, record })
        });
        Ok(listed.collect())
    }

    /// The minute of the last use of each of these ids, as far as it is known here or in Redis.
    ///
    /// # Errors
    /// [`StoreLost`].
    pub async fn last_used(&self, ids: &[&str], in_redis: bool) -> Result<Vec<Option<u64>>, StoreLost> {
        let here: Vec<Option<u64>> = {
            let used = self.shared.last_uses();
            ids.iter().map(|id| used.get(*id).copied()).collect()
        };
        if ids.is_empty() || !in_redis {
            return Ok(here);
        }
        let mut command = redis::cmd("ZMSCORE");
        let Value::Array(there) = self.ask(command.arg(self.shared.store.key(USED)).arg(ids)).await? else {
            return Err(StoreLost);
        };
        Ok(here.into_iter().zip(there).map(|(here, there)| here.max(minute(&there))).collect())
    }
}

fn texts(value: &Value) -> Vec<String> {
    let Value::Array(values) = value else { return Vec::new() };
    values.iter().filter_map(|value| String::from_utf8(octets(value)?).ok()).collect()
}

/// A score, as either form of the protocol writes it.
fn minute(value: &Value) -> Option<u64> {
    let text = match value {
        Value::Double(score) => format!("{score}"),
        other => String::from_utf8(octets(other)?).ok()?,
    };
    text.parse().ok()
}
