//! `[pools.NAME]`: where workers are, and how long each part of their work may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::address::{Address, is_private};
use super::connect::Dial;
use crate::edge::tls;
use crate::settings::{ByteSize, Section};
use crate::types::Name;

/// `[pools.NAME]`, compiled.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    pub(super) name: Name,
    pub(super) workers: Vec<Address>,
    pub(super) dial: Dial,
    pub(super) answer_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) total_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_idle: usize,
    pub(super) max_connections: usize,
    pub(super) max_head: usize,
    pub(super) max_answer: u64,
    pub(super) ready_path: Box<str>,
}

impl PoolSettings {
    /// Reads every `[pools.NAME]`.
    #[must_use]
    pub fn compile_all(root: &Section<'_>) -> Vec<Self> {
        let sections = root.sections("pools");
        if !root.has("pools") {
            root.missing("pools", "define where workers are: [pools.NAME] with workers = [\"http://127.0.0.1:9001\"]");
        }
        sections.into_iter().map(|section| Self::compile(section)).collect()
    }

    fn compile(section: Section<'_>) -> Self {
        let mut workers = Vec::new();
        let danger_plaintext = section.or("danger_plaintext_to_public_addresses", false);
        for (index, text) in section.list::<String>("workers") {
            match Address::parse(&text) {
                Ok(Address::Tcp { host, tls_name: None, .. })
                    if !danger_plaintext && host.parse::<IpAddr>().is_ok_and(|address| !is_private(address)) =>
                {
                    section.mistake_at(
                        "workers",
                        index,
                        format!("is {text:?}: plain text to a public address, where others can read and change it"),
                        "use a private address, or say that you know with danger_plaintext_to_public_addresses = true",
                    );
                }
                Ok(address) => workers.push(address),
                Err(reason) => section.mistake_at(
                    "workers",
                    index,
                    format!("is {text:?}, which {reason}"),
                    "write one such as \"http://127.0.0.1:9001\" or \"unix:/run/worker.sock\"",
                ),
            }
        }
        if workers.is_empty() {
            section.missing("workers", "list where they are: workers = [\"http://127.0.0.1:9001\"]");
        }
        let seconds = Duration::from_secs;
        let ready_path = section.or("ready_path", "/readyz".to_owned());
        if ready_path.parse::<http::uri::PathAndQuery>().is_err() || !ready_path.starts_with('/') {
            section.mistake(
                "ready_path",
                "is not a path",
                "write the path that says whether a worker is ready, such as \"/readyz\"",
            );
        }
        let settings = Self {
            name: section.name(),
            dial: Dial {
                // Longer than a second, after which a lost SYN is sent again (RFC 6298 §2.1).
                timeout: section.or("connect_timeout", seconds(3)),
                tls: compile_tls(&section, &workers),
                danger_plaintext,
            },
            workers,
            answer_timeout: section.or("answer_timeout", seconds(10)),
            body_timeout: section.or("body_timeout", seconds(10)),
            total_timeout: section.or("total_timeout", seconds(120)),
            idle_timeout: section.or("idle_timeout", seconds(30)),
            max_idle: section.or("max_idle", 64),
            max_connections: section.or("max_connections", 128),
            max_head: section.or("max_answer_head", ByteSize(32 << 10)).0,
            max_answer: section.or("max_answer", ByteSize(16 << 20)).0 as u64,
            ready_path: ready_path.into(),
        };
        if !(8 << 10..=1 << 20).contains(&settings.max_head) {
            section.mistake("max_answer_head", "is out of bounds", "write a size from \"8KiB\" to \"1MiB\"");
        }
        if settings.max_connections == 0 {
            section.mistake("max_connections", "is 0, so no request could pass", "write how many there may be at once");
        }
        section.finish();
        settings
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Reads `ca`, which workers with TLS are checked against. Sessions are resumed, by all threads together.
fn compile_tls(section: &Section<'_>, workers: &[Address]) -> Option<Arc<ClientConfig>> {
    let wanted = workers.iter().any(|worker| matches!(worker, Address::Tcp { tls_name: Some(_), .. }));
    if !section.has("ca") {
        if wanted {
            section.missing(
                "ca",
                "name the PEM file of the authority that vouches for the workers: ca = \"workers-ca.pem\"",
            );
        }
        return None;
    }
    let builder = tls::towards(section)?;
    if !wanted {
        section.mistake(
            "ca",
            "is not used, because no worker's URL begins with https://",
            "remove it, or write https://",
        );
    }
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}
