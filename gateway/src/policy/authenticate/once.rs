//! What may be used once: proofs and signatures, whose copies are worth nothing.
//!
//! Here is decided how long a proof may be shown and what it is remembered by; `edge::grants` remembers it, for all
//! gateways that share a store.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::facts::Facts;
use crate::policy::unknown::Unknown;
use crate::settings::Section;
use crate::types::{Principal, Sha256, Timestamp};

/// Something that may be used once.
#[derive(Clone, Copy, Debug)]
pub struct Once {
    /// What it is remembered by.
    pub name: Sha256,
    /// Until when: after that it is too old on every gateway.
    pub until: Timestamp,
}

/// Somebody whose proof holds, if nobody has used these before.
#[derive(Clone, Debug)]
pub struct Unspent {
    /// Who.
    pub principal: Arc<Principal>,
    /// What may be used once.
    pub once: Vec<Once>,
}

impl PartialEq for Unspent {
    fn eq(&self, other: &Self) -> bool {
        let names = |it: &Self| it.once.iter().map(|once| *once.name.as_bytes()).collect::<Vec<_>>();
        Arc::ptr_eq(&self.principal, &other.principal) && names(self) == names(other)
    }
}

impl Eq for Unspent {}

/// `[proofs]`: what proofs and signatures are held to.
#[derive(Debug)]
pub struct Proofs {
    window: u64,
    /// The authority that clients call, in its normal form, where a proxy before us changes it.
    authority: Option<Box<str>>,
    unknown: Unknown,
}

impl Proofs {
    /// Reads `[proofs]`.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let section = root.section_or_empty("proofs");
        let window = section.or("window", Duration::from_mins(1));
        if !(Duration::from_secs(1)..=Duration::from_mins(5)).contains(&window) {
            let reason = "is not between a second and five minutes, so that no clock would do or copies live long";
            section.mistake("window", reason, "write one such as \"60s\"");
        }
        let authority = section.optional::<String>("origin").and_then(|origin| {
            let authority =
                origin.strip_prefix("https://").filter(|it| !it.is_empty() && !it.contains(['/', '?', '#', '@']));
            if authority.is_none() {
                let remedy = "write scheme and host, and a port where it is not 443: \"https://api.example.com\"";
                section.mistake("origin", format!("is {origin:?}, which is no origin of https"), remedy);
            }
            authority.map(|authority| normal(authority).into())
        });
        let unknown = section.or("replay_unknown", Unknown::Refuse);
        section.finish();
        Self { window: window.as_secs(), authority, unknown }
    }

    /// Whether what was made at a time, in seconds since 1970, may be shown now.
    #[must_use]
    pub fn is_recent(&self, made: u64, now: Timestamp) -> bool {
        made.abs_diff(now.secs()) <= self.window
    }

    /// Whether an authority is the one that this request called, as its client sees it.
    #[must_use]
    pub fn is_authority(&self, authority: &str, facts: &Facts<'_>) -> bool {
        normal(authority) == self.authority(facts)
    }

    /// The authority that this request called, as its client sees it, in its normal form.
    #[must_use]
    pub fn authority(&self, facts: &Facts<'_>) -> String {
        self.authority.as_deref().map_or_else(|| normal(facts.host), ToOwned::to_owned)
    }

    /// What something with these names, made at a time, is remembered by and for how long: gateways' clocks may differ
    /// by as much as a client's.
    #[must_use]
    pub fn once(&self, names: &[&str], made: u64) -> Once {
        let mut all = Vec::new();
        for name in names {
            all.extend_from_slice(&(name.len() as u64).to_le_bytes());
            all.extend_from_slice(name.as_bytes());
        }
        let until = made.saturating_add(self.window.saturating_mul(2)).saturating_add(1);
        Once { name: Sha256::of(&all), until: Timestamp::from_secs(until) }
    }

    /// Whether what this process remembers will do while the store does not answer.
    #[must_use]
    pub fn allows_unknown(&self) -> bool {
        self.unknown == Unknown::Allow
    }
}

/// An authority in its normal form (RFC 3986 §6.2.2.1, §6.2.3).
fn normal(authority: &str) -> String {
    let lower = authority.to_ascii_lowercase();
    lower.strip_suffix(":443").map(ToOwned::to_owned).unwrap_or(lower)
}
