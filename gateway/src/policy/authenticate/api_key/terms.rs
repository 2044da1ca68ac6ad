//! What one key is held against: its digests, when and from where it may be used, and whom it stands for.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Refusal;
use crate::types::{Network, Principal, Sha256, Timestamp};

/// What an unknown id, and a second digest that is not there, are compared with, so that they cost the same.
fn nobody() -> Sha256 {
    Sha256::from_bytes([0; 32])
}

/// A key's last digest, while the next one is already live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    pub(super) digest: Sha256,
    /// When it ends.
    pub(super) ends: Timestamp,
}

/// One key, compiled for one policy.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) digest: Sha256,
    pub(super) old: Option<Old>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires: Option<Timestamp>,
    /// Where it may be used from; anywhere where empty.
    pub(super) networks: Box<[Network]>,
    pub(super) principal: Arc<Principal>,
    /// The minute of its last use that was told on.
    pub(super) used: AtomicU64,
}

/// Which of a key's two digests was shown.
#[derive(Clone, Copy)]
pub(super) struct Matched {
    new: bool,
    old: bool,
}

impl Matched {
    /// Compares with both digests, whether there is a key or not, and looks at neither result before the other.
    pub(super) fn new(shown: &Sha256, terms: Option<&Terms>) -> Self {
        let nobody = nobody();
        let new = shown.matches(terms.map_or(&nobody, |terms| &terms.digest));
        let old = shown.matches(terms.and_then(|terms| terms.old.as_ref()).map_or(&nobody, |old| &old.digest));
        Self { new: new & terms.is_some(), old: old & terms.is_some_and(|terms| terms.old.is_some()) }
    }

    /// Whether it was one of them.
    pub(super) fn any(self) -> bool {
        self.new | self.old
    }
}

impl Terms {
    /// Whether a key that was shown rightly is good now and here.
    pub(super) fn admit(&self, matched: Matched, address: IpAddr, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        if !matched.new && self.old.is_none_or(|old| old.ends <= now) {
            return Err(Refusal::Expired);
        }
        self.holder(address, now)
    }

    /// Whom the key stands for, as if it had been shown.
    pub(super) fn holder(&self, address: IpAddr, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        if self.not_before.is_some_and(|from| now < from) {
            return Err(Refusal::NotYet);
        }
        if !self.networks.is_empty() && !self.networks.iter().any(|network| network.contains(address)) {
            return Err(Refusal::Network);
        }
        Ok(Arc::clone(&self.principal))
    }

    /// The minute, where the key was not yet used in it.
    pub(super) fn first_use(&self, now: Timestamp) -> Option<u64> {
        let minute = now.secs() / 60;
        (self.used.load(Ordering::Relaxed) != minute && self.used.swap(minute, Ordering::Relaxed) != minute)
            .then_some(minute)
    }
}
