//! How many connections one address may hold over all threads, how much each may do, and how refused ones
//! are told.
//!
//! Touched once when a connection begins and once when it ends. Knows only addresses that hold a
//! connection now, so that it never has more entries than there may be connections.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::types::AddressBucket;

/// Parts of the map, so that threads seldom wait for each other.
const SHARDS: usize = 64;
/// How often a reason is logged at most.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a connection is closed before its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its address holds as many as it may.
    AddressFull,
    /// The listener asks for PROXY protocol, and the peer is none of the proxies.
    ProxyPeer,
    /// The header of the proxy is absent or wrong.
    ProxyHeader,
}

impl Refused {
    const ALL: [Self; 3] = [Self::AddressFull, Self::ProxyPeer, Self::ProxyHeader];
    /// What the numbers call each.
    pub const SLUGS: &'static [&'static str] =
        &[Self::AddressFull.slug(), Self::ProxyPeer.slug(), Self::ProxyHeader.slug()];

    /// Its stable name.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::AddressFull => "address-full",
            Self::ProxyPeer => "proxy-protocol-peer",
            Self::ProxyHeader => "proxy-protocol-header",
        }
    }

    /// Its position among all.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// One number of connections for each address.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: u32,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<AddressBucket, u32>>]>,
    told: [Told; Refused::ALL.len()],
    full: Told,
}

impl ConnectionLimit {
    /// So many for each address.
    #[must_use]
    pub fn new(most: u32) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { most, hasher: RandomState::new(), shards, told: Default::default(), full: Told::default() }
    }

    /// A place for one more connection of an address; `None` where it has them all.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let bucket = AddressBucket::of(address);
        let mut shard = self.shard(bucket)?;
        let held = shard.entry(bucket).or_insert(0);
        if *held >= self.most {
            return None;
        }
        *held += 1;
        drop(shard);
        Some(AddressPlace { limit: Arc::clone(self), bucket })
    }

    fn shard(&self, bucket: AddressBucket) -> Option<MutexGuard<'_, HashMap<AddressBucket, u32>>> {
        let hash = self.hasher.hash_one(bucket);
        let index = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        // A thread that ended early left a number that is whole.
        self.shards.get(index).map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a refusal is to be logged now, and how many it stands for: each reason once in a while, so that
    /// a flood of connections is no flood of lines.
    pub fn tell(&self, refused: Refused) -> Option<u64> {
        self.told.get(refused.index()).and_then(Told::again)
    }

    /// The same for a thread that takes no more connections.
    pub fn tell_full(&self) -> Option<u64> {
        self.full.again()
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct AddressPlace {
    limit: Arc<ConnectionLimit>,
    bucket: AddressBucket,
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let Some(mut shard) = self.limit.shard(self.bucket) else { return };
        if let Entry::Occupied(mut held) = shard.entry(self.bucket) {
            *held.get_mut() = held.get().saturating_sub(1);
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

/// When something was last told, and how often it happened since.
#[derive(Debug, Default)]
struct Told {
    last: Mutex<Option<Instant>>,
    since: AtomicU64,
}

impl Told {
    fn again(&self) -> Option<u64> {
        self.since.fetch_add(1, Ordering::Relaxed);
        // Who finds it taken happened in the same moment, and is counted.
        let mut last = self.last.try_lock().ok()?;
        let now = Instant::now();
        if last.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return None;
        }
        *last = Some(now);
        Some(self.since.swap(0, Ordering::Relaxed))
    }
}

/// What one connection may still do. HTTP/1 says with its last answer that it is the last; HTTP/2 tells the
/// client to ask elsewhere (GOAWAY, RFC 9113 §6.8), and what is on its way is still served.
#[derive(Debug)]
pub struct Quota {
    requests: Cell<i64>,
    began: Instant,
    most_age: Duration,
}

impl Quota {
    /// How many requests may be on their way while the client hears that no more are wanted.
    const ON_THEIR_WAY: i64 = 1000;

    /// For a connection that begins now.
    #[must_use]
    pub fn new(requests: u32, most_age: Duration) -> Self {
        Self { requests: Cell::new(requests.into()), began: Instant::now(), most_age }
    }

    /// Takes one request. Whether it is the last.
    pub fn spend(&self) -> bool {
        self.requests.set(self.requests.get() - 1);
        self.is_spent()
    }

    /// Lets no more requests come than are on their way.
    pub fn end(&self) {
        self.requests.set(self.requests.get().min(0));
    }

    /// Whether no more requests are wanted.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.requests.get() <= 0
    }

    /// Whether the client does not listen to being told. Looks at the connection's age too.
    #[must_use]
    pub fn is_overdrawn(&self) -> bool {
        if !self.is_spent() && self.began.elapsed() >= self.most_age {
            self.requests.set(0);
        }
        self.requests.get() < -Self::ON_THEIR_WAY
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnectionLimit, Quota, Refused};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal address")
    }

    fn entries(limit: &ConnectionLimit) -> usize {
        limit.shards.iter().map(|shard| shard.lock().expect("nobody panicked").len()).sum()
    }

    #[test]
    fn each_address_has_its_own_places_and_leaves_nothing_behind() {
        let limit = Arc::new(ConnectionLimit::new(2));
        let first = limit.take(ip("192.0.2.1"));
        let second = limit.take(ip("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(limit.take(ip("192.0.2.1")).is_none());
        let other = limit.take(ip("192.0.2.2"));
        assert!(other.is_some());
        drop(first);
        assert!(limit.take(ip("192.0.2.1")).is_some());
        drop((second, other));
        assert_eq!(entries(&limit), 0);
    }

    #[test]
    fn a_refusal_leaves_nothing_behind() {
        let limit = Arc::new(ConnectionLimit::new(1));
        let held = limit.take(ip("2001:db8::1"));
        for host in 0..1000 {
            assert!(limit.take(ip(&format!("2001:db8::{host:x}"))).is_none(), "one /64 is one party");
        }
        assert_eq!(entries(&limit), 1);
        drop(held);
        assert_eq!(entries(&limit), 0);
    }

    #[test]
    fn places_are_counted_over_threads() {
        let limit = Arc::new(ConnectionLimit::new(100));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let limit = Arc::clone(&limit);
                std::thread::spawn(move || (0..50).filter_map(|_| limit.take(ip("192.0.2.1"))).collect::<Vec<_>>())
            })
            .collect();
        let places: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("it ends")).collect();
        assert_eq!(places.len(), 100);
    }

    #[test]
    fn a_flood_is_told_once() {
        let limit = ConnectionLimit::new(1);
        let told: Vec<_> = (0..1000).filter_map(|_| limit.tell(Refused::AddressFull)).collect();
        assert_eq!(told.first(), Some(&1));
        assert!(told.len() < 100, "{told:?}");
        assert_eq!(limit.tell(Refused::ProxyHeader), Some(1), "each reason for itself");
    }

    #[test]
    fn a_connection_is_told_before_it_is_cut() {
        let hour = Duration::from_hours(1);
        let quota = Quota::new(2, hour);
        assert!(!quota.spend() && !quota.is_spent());
        assert!(quota.spend() && quota.is_spent() && !quota.is_overdrawn());
        (0..1000).for_each(|_| assert!(quota.spend()));
        assert!(!quota.is_overdrawn(), "what was on its way is served");
        quota.spend();
        assert!(quota.is_overdrawn());
        let old = Quota::new(2, Duration::ZERO);
        assert!(!old.is_spent() && !old.is_overdrawn() && old.is_spent());
    }

    #[test]
    fn slugs_stand_at_their_positions() {
        for refused in Refused::ALL {
            assert_eq!(Refused::SLUGS.get(refused.index()), Some(&refused.slug()));
        }
    }
}
