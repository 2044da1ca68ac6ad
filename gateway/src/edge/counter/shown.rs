//! What a principal has used, for operators.

use redis::Value;
use serde::Serialize;

use super::link::{How, Link, describe};
use super::memory::holds;
use super::{SharedStore, Standing};
use crate::policy::limit::scope::Scope;
use crate::policy::limit::window::Rule;

/// How many keys one look at Redis asks for at once, and how many windows it shows.
const SCANNED_AT_ONCE: usize = 1000;
const MOST_SHOWN: usize = 10_000;

/// One window.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The limit's name.
    pub limit: String,
    /// Whose window it is: `principal=key:team-a`.
    pub of: String,
    /// Units that count now.
    pub used: u64,
    /// How many one window admits, where that does not hang on the role.
    pub quota: Option<u64>,
    /// Seconds until some of them leave.
    pub next_in: f64,
}

impl Shown {
    /// Reads a window's name: form, limit, and what tells it apart.
    fn new(key: &[u8], standing: Standing) -> Self {
        let text = String::from_utf8_lossy(key);
        let mut parts = text.splitn(3, ':');
        let (_, limit, of) = (parts.next(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        #[expect(clippy::cast_precision_loss, reason = "31 days of microseconds need 42 bits")]
        let next_in = standing.reset as f64 / 1e6;
        Self { limit: limit.into(), of: of.replace("%3A", ":"), used: standing.used, quota: None, next_in }
    }
}

impl SharedStore {
    /// The windows of a principal, or all of them. `rule` says how a limit's windows count.
    ///
    /// # Errors
    /// Why Redis can't be asked.
    pub async fn show(
        &self,
        principal: Option<&str>,
        rule: impl Fn(&str) -> Option<Rule>,
    ) -> Result<Vec<Shown>, String> {
        let part = principal.map(Scope::principal_part).unwrap_or_default();
        let Some(link) = self.link().await? else {
            let found = self.memory.show(&part, || self.now());
            return Ok(found.into_iter().take(MOST_SHOWN).map(|(key, standing)| Shown::new(&key, standing)).collect());
        };
        let mut shown = Vec::new();
        for key in self.scan(&link, &part).await? {
            let name = key.get(self.key_prefix().len()..).unwrap_or_default();
            let limit =
                String::from_utf8_lossy(name.split(|octet| *octet == b':').nth(1).unwrap_or_default()).into_owned();
            let Some(rule) = rule(&limit) else { continue };
            let standing = super::queue::peek(&link, &key, &rule).await.map_err(|error| describe(&error))?;
            shown.extend(standing.filter(|standing| standing.used > 0).map(|standing| Shown::new(name, standing)));
        }
        Ok(shown)
    }

    /// Forgets the windows of a principal; gives back how many there were. Refusals that other gateways remember
    /// last for up to a minute.
    ///
    /// # Errors
    /// Why Redis can't be asked.
    pub async fn reset(&self, principal: &str) -> Result<usize, String> {
        let part = Scope::principal_part(principal);
        let mut gone = self.memory.reset(&part);
        if let Some(link) = self.link().await? {
            for key in self.scan(&link, &part).await? {
                link.call(redis::cmd("DEL").arg(key)).await.map_err(|error| describe(&error))?;
                gone += 1;
            }
        }
        self.refused.forget(|key| holds(key, &part));
        Ok(gone)
    }

    /// Whether the store answers; asks it.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), String> {
        let Some(link) = self.link().await? else { return Ok(()) };
        let asked = tokio::time::timeout(self.patience(), async { link.call(&redis::cmd("PING")).await }).await;
        asked.map_err(|_| "no answer in time".to_owned())?.map(|_| ()).map_err(|error| describe(&error))
    }

    /// Whether it is Redis.
    pub(in crate::edge) fn is_redis(&self) -> bool {
        self.settings.redis.is_some()
    }

    /// The name of something that is kept beside the windows.
    pub(in crate::edge) fn key(&self, name: &str) -> String {
        self.key_prefix() + name
    }

    /// How long what no request waits for may take.
    pub(in crate::edge) fn patience(&self) -> std::time::Duration {
        self.settings.timeout.max(std::time::Duration::from_millis(250))
    }

    /// A connection of one's own; `None` where windows are in this process.
    pub(in crate::edge) async fn link(&self) -> Result<Option<Link>, String> {
        let Some(settings) = &self.settings.redis else { return Ok(None) };
        let how = How { timeout: self.patience(), alone: false };
        let opened = tokio::time::timeout(how.timeout, Link::open(settings, how)).await;
        opened.map_err(|_| "no answer in time".to_owned())?.map(Some).map_err(|error| describe(&error))
    }

    fn key_prefix(&self) -> String {
        format!("{{{}}}:", self.settings.prefix)
    }

    /// The names of the windows that have `part` in them.
    async fn scan(&self, link: &Link, part: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let prefix = self.key_prefix();
        let mut pattern = prefix.clone().into_bytes();
        pattern.extend_from_slice(b"[wx]*:*");
        if !part.is_empty() {
            pattern.extend_from_slice(part);
            pattern.push(b'*');
        }
        let mut cursor = b"0".to_vec();
        let mut found = Vec::new();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED_AT_ONCE);
            let answer = link.call(&command).await.map_err(|error| describe(&error))?;
            let Value::Array(parts) = answer else { return Err("SCAN's answer has another form".into()) };
            let [Value::BulkString(next), Value::Array(keys)] = parts.as_slice() else {
                return Err("SCAN's answer has another form".into());
            };
            found.extend(keys.iter().filter_map(|key| match key {
                Value::BulkString(key) if holds(key, part) => Some(key.clone()),
                _ => None,
            }));
            if next == b"0" || found.len() >= MOST_SHOWN {
                found.truncate(MOST_SHOWN);
                return Ok(found);
            }
            cursor.clone_from(next);
        }
    }
}
