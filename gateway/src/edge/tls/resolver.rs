//! Which certificate is shown to whom: by the host's name that the client asks for (SNI, RFC 6066 §3).

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// All certificates by the names of their hosts.
#[derive(Debug)]
pub(super) struct Resolver {
    /// For clients that name no host of ours; `None` where they are refused.
    fallback: Option<Arc<CertifiedKey>>,
    hosts: HashMap<Box<str>, Keys>,
    /// `*.example.com`, without its asterisk and dot.
    wildcards: HashMap<Box<str>, Keys>,
}

/// The certificates of one name: one of each kind of key.
type Keys = Vec<Arc<CertifiedKey>>;

impl Resolver {
    /// The first certificate is shown to clients that name no host of ours, or with `strict` to none of them.
    pub(super) fn new<'c>(certificates: impl Iterator<Item = &'c Certificate>, strict: bool) -> Self {
        let mut resolver = Self { fallback: None, hosts: HashMap::new(), wildcards: HashMap::new() };
        for certificate in certificates {
            if !strict && resolver.fallback.is_none() {
                resolver.fallback = Some(Arc::clone(&certificate.key));
            }
            for host in &certificate.hosts {
                let (map, host) = match host.strip_prefix("*.") {
                    Some(parent) => (&mut resolver.wildcards, parent),
                    None => (&mut resolver.hosts, host.as_str()),
                };
                map.entry(host.into()).or_default().push(Arc::clone(&certificate.key));
            }
        }
        resolver
    }

    fn choose(&self, host: Option<&str>, offered: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // A wildcard stands for one label (RFC 9525 §6.3), and an exact name is closer than it.
        let exact = host.and_then(|host| self.hosts.get(host));
        let wild = || host.and_then(|host| self.wildcards.get(host.split_once('.')?.1));
        let Some(keys) = exact.or_else(wild) else { return self.fallback.clone() };
        let fits = keys.iter().find(|key| key.key.choose_scheme(offered).is_some());
        fits.or(keys.first()).cloned()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls gives the name in lower case.
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

/// A host that two certificates with the same kind of key are for: its name and their positions.
pub(super) fn shared<'c>(certificates: impl Iterator<Item = &'c Certificate>) -> Option<(&'c str, usize, usize)> {
    let mut seen: HashMap<(&str, u8), usize> = HashMap::new();
    for (index, certificate) in certificates.enumerate() {
        let kind = certificate.key.key.algorithm().into();
        for host in &certificate.hosts {
            let first = *seen.entry((host, kind)).or_insert(index);
            if first != index {
                return Some((host, first, index));
            }
        }
    }
    None
}
