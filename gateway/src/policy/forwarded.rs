//! Whose request is it, when a proxy stands before us? The client's address, walked from the right.
//!
//! Source: RFC 7239 §5.2 and §8.1. The list of trusted proxies is empty by default; nothing that a
//! peer outside it says about addresses is read, and all of it is removed before the worker.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

use crate::settings::Section;
use crate::types::Network;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Peers whose `X-Forwarded-For` is believed.
#[derive(Debug, Default)]
pub struct TrustedProxies(Box<[Network]>);

impl TrustedProxies {
    /// Reads `trusted_proxies`.
    #[must_use]
    pub fn compile(section: &Section<'_>) -> Self {
        let mut networks = Vec::new();
        for (index, network) in section.list::<Network>("trusted_proxies") {
            if network.is_too_large() {
                section.mistake_at(
                    "trusted_proxies",
                    index,
                    "trusts more addresses than one network has, so that any client there could choose its own",
                    "list the addresses of your proxies",
                );
            }
            networks.push(network);
        }
        Self(networks.into())
    }

    /// Whether an address is that of a proxy, and so of many clients.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The client's address: the peer's, or where that is a trusted proxy, the first address from the
    /// right that is not one. An entry that can't be read ends the walk at the last one that could.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        let mut client = peer;
        if self.0.is_empty() {
            return client;
        }
        let lines: Vec<&str> = headers.get_all(&X_FORWARDED_FOR).iter().map(|v| v.to_str().unwrap_or("?")).collect();
        for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            if !self.trusts(client) {
                break;
            }
            match hop.trim().parse::<IpAddr>() {
                Ok(address) => client = address.to_canonical(),
                Err(_) => break,
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::TrustedProxies;
    use crate::settings::tests::with_section;
    use http::{HeaderMap, HeaderValue};
    use std::net::IpAddr;

    #[test]
    fn the_walk_goes_from_the_right() {
        let (trusted, _) = with_section("trusted_proxies = [\"10.0.0.0/8\"]", TrustedProxies::compile);
        for (peer, header, client) in [
            ("203.0.113.9", "1.1.1.1", "203.0.113.9"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.7, 10.0.0.2", "198.51.100.7"),
            ("10.0.0.1", "198.51.100.7, garbage", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(header));
            let peer: IpAddr = peer.parse().expect("a literal address");
            assert_eq!(trusted.client(peer, &headers).to_string(), client, "{header}");
        }
    }

    #[test]
    fn nobody_is_trusted_by_default_and_never_everybody() {
        let (trusted, mistakes) = with_section("", TrustedProxies::compile);
        assert!(mistakes.is_empty() && trusted.0.is_empty());
        let (_, mistakes) = with_section("trusted_proxies = [\"0.0.0.0/0\"]", TrustedProxies::compile);
        assert_eq!(mistakes.len(), 1);
    }
}
