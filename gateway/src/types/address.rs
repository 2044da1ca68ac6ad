//! Client addresses as limits and trust see them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

/// The part of an address that one party controls: a whole IPv4 address, or an IPv6 /64, because a
/// single subscriber holds at least that and could otherwise take a fresh address per request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressBucket(IpAddr);

impl AddressBucket {
    /// The bucket of an address. IPv4 written as IPv6 (`::ffff:1.2.3.4`) counts as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            v4 @ IpAddr::V4(_) => v4,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !(u128::MAX >> 64))),
        })
    }
}

impl fmt::Display for AddressBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => v4.fmt(f),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// A client's address and its text, which is made once.
#[derive(Clone, Debug)]
pub struct ClientAddress {
    /// The address; one of IPv4 that is written as IPv6 is the former.
    pub ip: IpAddr,
    /// Its text.
    pub text: Rc<str>,
}

impl ClientAddress {
    /// Writes the text.
    #[must_use]
    pub fn new(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self { ip, text: ip.to_string().into() }
    }
}

/// A block of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Network {
    /// Parses `address/prefix` or a single address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = address.parse().ok()?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.unwrap_or(longest);
        match base.to_canonical() {
            // `::ffff:10.0.0.0/104` is 10.0.0.0/8; addresses are compared in that form.
            v4 @ IpAddr::V4(_) if base.is_ipv6() => {
                prefix.checked_sub(96).filter(|prefix| *prefix <= 32).map(|prefix| Self { base: v4, prefix })
            }
            _ => (prefix <= longest).then_some(Self { base, prefix }),
        }
    }

    /// Whether the block is larger than anybody's own network: more than a /8, or a /16 of IPv6.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.prefix < if self.base.is_ipv4() { 8 } else { 16 }
    }

    /// Whether `address` lies in the block.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                let keep = u32::MAX.checked_shl(shift).unwrap_or(0);
                (base.to_bits() ^ address.to_bits()) & keep == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                let keep = u128::MAX.checked_shl(shift).unwrap_or(0);
                (base.to_bits() ^ address.to_bits()) & keep == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressBucket, Network};

    #[test]
    fn buckets() {
        for (address, bucket) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ] {
            let address = address.parse().expect("a literal address");
            assert_eq!(AddressBucket::of(address).to_string(), bucket);
        }
    }

    #[test]
    fn networks() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("0.0.0.0/0", "203.0.113.1", true),
        ] {
            let parsed = Network::parse(network).expect("a literal network");
            let address = address.parse().expect("a literal address");
            assert_eq!(parsed.contains(address), inside, "{network} {address}");
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(Network::parse(wrong).is_none(), "{wrong}");
        }
    }
}
