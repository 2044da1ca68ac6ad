//! `[store]`, compiled.

use std::time::Duration;

use super::link::{self, RedisSettings};
use super::memory::SHARDS;
use crate::settings::{Named, Section};

/// Where windows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Redis,
}

impl Named for Kind {
    const SHAPE: &'static str = "\"memory\" or \"redis\"";
    const NAMES: &'static [(&'static str, Self)] = &[("memory", Self::Memory), ("redis", Self::Redis)];
}

/// `[store]`, compiled.
#[derive(Debug)]
pub struct StoreSettings {
    pub(super) redis: Option<RedisSettings>,
    pub(super) timeout: Duration,
    pub(super) prefix: Box<str>,
    pub(super) max_windows: usize,
}

impl StoreSettings {
    /// Reads `[store]`.
    #[must_use]
    pub fn compile(section: Section<'_>) -> Option<Self> {
        let kind = section.or("kind", Kind::Memory);
        let timeout = section.or("timeout", Duration::from_millis(50));
        let prefix = section.or("prefix", "modelgate".to_owned());
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            section.mistake(
                "prefix",
                "can't be the hash tag that keeps all keys in one slot of a Cluster",
                "write a name of letters, digits, -, _ and ., such as \"modelgate\"",
            );
        }
        let max_windows = section.or("max_windows", 262_144_usize);
        if max_windows < SHARDS {
            section.mistake("max_windows", "is too small", format!("write at least {SHARDS}"));
        }
        let redis = match kind {
            Kind::Memory => {
                link::forbid(&section);
                Some(None)
            }
            Kind::Redis => RedisSettings::compile(&section).map(Some),
        };
        section.finish();
        Some(Self { redis: redis?, timeout, prefix: prefix.into(), max_windows })
    }

    /// The name of the kind of store.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        if self.redis.is_some() { "redis" } else { "memory" }
    }
}
