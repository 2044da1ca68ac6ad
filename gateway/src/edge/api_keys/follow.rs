//! Following what other gateways change, and telling Redis when keys were used.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ApiKeys, CHANGED, SharedApiKeys, USED};
use crate::edge::counter::{PAGE, StreamReader};
use crate::policy::authenticate::api_key::is_id;

/// How often Redis is asked what was changed.
const EVERY: Duration = Duration::from_millis(250);
/// How often Redis is told which keys were used.
const TELL_EVERY: Duration = Duration::from_mins(1);
/// How many keys one call tells of.
const TOLD_AT_ONCE: usize = 500;
/// For how many minutes a last use is kept.
const KEPT_MINUTES: u64 = 400 * 24 * 60;

/// Reads what other gateways change. One in each gateway, on one runtime.
pub struct Follower {
    shared: Arc<SharedApiKeys>,
    keys: ApiKeys,
    stream: StreamReader,
    /// The last entry that was read; none where it is empty.
    last: String,
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
    pub fn new(shared: Arc<SharedApiKeys>) -> Self {
        let stream = StreamReader::new(Arc::clone(&shared.store), CHANGED);
        Self { keys: ApiKeys::new(Arc::clone(&shared), None), stream, shared, last: String::new(), known: None }
    }

    /// Reads what was changed since the last time, and forgets what was known of it.
    ///
    /// # Errors
    /// Why it can't be known.
    pub async fn look(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let read = self.read().await;
        if read.is_ok() {
            self.known = Some(began);
        } else {
            self.stream.disconnect();
        }
        self.shared.heard.at(self.known);
        read
    }

    async fn read(&mut self) -> Result<(), String> {
        let is_new = !self.stream.is_connected();
        // The entry that was the last is read again: if it is not there, more than that may be gone.
        let begin = if self.last.is_empty() { "-" } else { &self.last };
        let mut entries = self.stream.page(begin).await?;
        let goes_on = !self.last.is_empty() && entries.first().is_some_and(|(place, _)| *place == self.last);
        if !goes_on && (is_new || !self.last.is_empty()) {
            self.shared.outdate_all();
            if !self.last.is_empty() {
                self.last.clear();
                entries = self.stream.page("-").await?;
            }
        }
        loop {
            for (place, values) in &entries {
                if *place == self.last {
                    continue;
                }
                // What is no id of ours is nothing that is known.
                if let Some(id) = values.first().and_then(|id| std::str::from_utf8(id).ok()).filter(|id| is_id(id)) {
                    self.shared.outdate(id);
                }
            }
            if let Some((place, _)) = entries.last() {
                self.last.clone_from(place);
            }
            if entries.len() < PAGE {
                return Ok(());
            }
            entries = self.stream.page(&format!("({}", self.last)).await?;
        }
    }

    /// Reads on for ever, while the policy `takes` keys from Redis. `changed` is told when it is no longer known what
    /// was changed, and why, and when it is again.
    pub async fn follow(mut self, takes: impl Fn() -> bool, changed: impl Fn(Result<(), &str>)) {
        let mut clock = tokio::time::interval(EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_known = true;
        let mut told = Instant::now();
        loop {
            clock.tick().await;
            if !takes() {
                (self.known, was_known) = (None, true);
                self.last.clear();
                self.shared.heard.at(None);
                self.shared.outdate_all();
                continue;
            }
            let looked = self.look().await;
            if looked.is_ok() != was_known {
                was_known = looked.is_ok();
                changed(looked.as_ref().map_err(String::as_str).copied());
            }
            if was_known && told.elapsed() > TELL_EVERY {
                told = Instant::now();
                self.keys.tell_uses().await;
            }
        }
    }
}

impl ApiKeys {
    /// Tells Redis which keys were used since the last time; what it does not take is told the next time.
    pub async fn tell_uses(&self) {
        let uses: Vec<(Box<str>, u64)> = self.shared.last_uses().drain().collect();
        let Some(newest) = uses.iter().map(|(_, minute)| *minute).max() else { return };
        let key = self.shared.store.key(USED);
        for part in uses.chunks(TOLD_AT_ONCE) {
            // Gateways tell in any order, and the latest counts.
            let mut command = redis::cmd("ZADD");
            command.arg(&key).arg("GT");
            for (id, minute) in part {
                command.arg(*minute).arg(&**id);
            }
            if self.caller.call(&command).await.is_err() {
                self.shared.note_used(part.iter().cloned());
            }
        }
        let mut command = redis::cmd("ZREMRANGEBYSCORE");
        let _ = self.caller.call(command.arg(&key).arg("-inf").arg(newest.saturating_sub(KEPT_MINUTES))).await;
    }
}
