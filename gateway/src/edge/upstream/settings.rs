//! `[pools.NAME]`: where workers are, and how long each part of their work may take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;

use super::address::{Address, is_private};
use super::balance::{Balance, Tried};
use super::canary::Canary;
use super::connect::Dial;
use super::health::HealthRule;
use super::shadow::Shadowing;
use super::standing::{Known, Standing, Tell};
use super::swap::SwapRule;
use crate::edge::tls;
use crate::settings::{ByteSize, Named, Row, Section};
use crate::types::{Name, Sha256};

/// `[pools.NAME]`, compiled.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    pub(super) name: Name,
    pub(super) workers: Vec<WorkerSettings>,
    pub(super) balance: Balance,
    pub(super) protocol: Protocol,
    pub(super) health: HealthRule,
    pub(super) standing: Arc<Standing>,
    pub(super) canary: Option<Arc<Canary>>,
    pub(super) shadow: Option<Shadowing>,
    pub(super) swap: Option<SwapRule>,
    /// What the files say.
    pub(super) written: Written,
    /// The candidate whose workers were promoted, since when it has neither canary nor shadow.
    pub(super) promoted: Option<Name>,
    pub(super) dial: Dial,
    /// A digest of what TLS with the workers hangs on.
    pub(super) trust: Option<Sha256>,
    pub(super) answer_timeout: Duration,
    /// The same in milliseconds, where workers are told.
    pub(super) deadline: Option<HeaderValue>,
    pub(super) body_timeout: Duration,
    pub(super) total_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) tunnel_idle: Duration,
    pub(super) tunnel_age: Duration,
    pub(super) max_connection_age: Duration,
    pub(super) max_idle: usize,
    pub(super) max_connections: usize,
    pub(super) max_waiting: usize,
    /// How many in a hundred requests may be brought to another worker, and how many each second beside.
    pub(super) retries: (u32, u32),
    pub(super) max_head: usize,
    pub(super) max_answer: u64,
    pub(super) ready_path: Box<str>,
}

/// What the files say of a pool.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// All of it.
    pub(super) digest: Sha256,
    /// Its workers, as the log names them.
    pub(super) workers: Arc<[Name]>,
}

/// What workers are spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: agreed on in TLS (ALPN), else with prior knowledge (RFC 9113 §3.3).
    Http2,
}

impl Named for Protocol {
    const SHAPE: &'static str = "\"http1\" or \"http2\"";
    const NAMES: &'static [(&'static str, Self)] = &[("http1", Self::Http1), ("http2", Self::Http2)];
}

/// One worker of a pool.
#[derive(Clone, Debug)]
pub(super) struct WorkerSettings {
    pub(super) address: Address,
    /// What it is called in the log and in metrics.
    pub(super) label: Name,
    pub(super) weight: u32,
    pub(super) known: Arc<Known>,
}

impl WorkerSettings {
    /// One more worker beside others.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence, and what to do.
    pub(super) fn read(
        url: &str,
        weight: u32,
        others: &[Self],
        danger_plaintext: bool,
    ) -> Result<Self, (String, &'static str)> {
        let address = Address::parse(url).map_err(|reason| {
            let remedy = "write one such as \"http://127.0.0.1:9001\" or \"unix:/run/worker.sock\"";
            (format!("is {url:?}, which {reason}"), remedy)
        })?;
        if let Address::Tcp { host, tls_name: None, .. } = &address
            && !danger_plaintext
            && host.parse::<IpAddr>().is_ok_and(|address| !is_private(address))
        {
            return Err((
                format!("is {url:?}: plain text to a public address, where others can read and change it"),
                "use a private address, or say that you know with danger_plaintext_to_public_addresses = true",
            ));
        }
        let label: Name = address.to_string().into();
        if others.iter().any(|other| other.label == label) {
            return Err((format!("is {url:?}, which stands here already"), "give it more `weight` instead"));
        }
        if others.len() == Tried::MOST {
            return Err((format!("is one more than {}", Tried::MOST), "make a second pool"));
        }
        let known = Arc::new(Known::new(Name::clone(&label), 0));
        Ok(Self { address, label, weight, known })
    }
}

impl PoolSettings {
    /// Reads every `[pools.NAME]`.
    #[must_use]
    pub fn compile_all(root: &Section<'_>) -> Vec<Self> {
        let sections = root.sections("pools");
        if !root.has("pools") {
            root.missing("pools", "define where workers are: [pools.NAME] with workers = [\"http://127.0.0.1:9001\"]");
        }
        let mut pools: Vec<Self> = sections.into_iter().map(|section| Self::compile(section)).collect();
        // What names other pools is read when all are known.
        for (position, section) in root.sections("pools").into_iter().enumerate() {
            let canary = Canary::compile(&section, position, &pools).map(Arc::new);
            let shadow = Shadowing::compile(&section, position, &pools);
            if let Some(pool) = pools.get_mut(position) {
                (pool.canary, pool.shadow) = (canary, shadow);
            }
        }
        pools
    }

    fn compile(section: Section<'_>) -> Self {
        let danger_plaintext = section.or("danger_plaintext_to_public_addresses", false);
        let workers = compile_workers(&section, danger_plaintext);
        let seconds = Duration::from_secs;
        let ready_path = section.or("ready_path", "/readyz".to_owned());
        if ready_path.parse::<http::uri::PathAndQuery>().is_err() || !ready_path.starts_with('/') {
            section.mistake(
                "ready_path",
                "is not a path",
                "write the path that says whether a worker is ready, such as \"/readyz\"",
            );
        }
        for other in ["canary", "shadow"] {
            // Read when all pools are known.
            let _ = section.has(other);
        }
        let name = section.name();
        let protocol = section.or("protocol", Protocol::Http1);
        let answer_timeout = section.or("answer_timeout", seconds(10));
        let deadline = section.or("tell_timeout", true).then(|| HeaderValue::from(millis(answer_timeout)));
        let (tls, trust) = compile_tls(&section, &workers, protocol).unzip();
        let named = workers.iter().map(|worker| Name::clone(&worker.label));
        let written = Written { digest: section.digest(), workers: named.collect() };
        let settings = Self {
            dial: Dial {
                // Longer than a second, after which a lost SYN is sent again (RFC 6298 §2.1).
                timeout: section.or("connect_timeout", seconds(3)),
                tls,
                danger_plaintext,
            },
            workers,
            balance: section.or("balance", Balance::LeastRequests),
            protocol,
            health: HealthRule::compile(&section, &ready_path),
            // Nobody counts before the policy is put in place.
            standing: Arc::new(Standing::new(Name::clone(&name), 0)),
            canary: None,
            shadow: None,
            swap: SwapRule::compile(&section),
            written,
            promoted: None,
            name,
            trust,
            answer_timeout,
            deadline,
            body_timeout: section.or("body_timeout", seconds(10)),
            total_timeout: section.or("total_timeout", seconds(120)),
            idle_timeout: section.or("idle_timeout", seconds(30)),
            tunnel_idle: section.or("websocket_idle_timeout", seconds(60)),
            tunnel_age: section.or("max_websocket_age", seconds(3600)),
            max_connection_age: section.or("max_connection_age", seconds(300)),
            max_idle: section.or("max_idle", 64),
            max_connections: section.or("max_connections", 128),
            max_waiting: section.or("max_waiting", 128),
            retries: (section.or("max_retry_share", 20), section.or("min_retries", 10)),
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
        if settings.retries.0 > 100 {
            section.mistake("max_retry_share", "is more than all", "write a number from 0 to 100");
        }
        if settings.retries.1 > 1000 {
            section.mistake("min_retries", "is too many for one second", "write a number from 0 to 1000");
        }
        section.finish();
        settings
    }

    /// Joins pools that were just read with what is known of those that served before, for so many threads. Changes
    /// in a worker's standing are told from now on.
    pub fn adopt(pools: &mut [Self], before: &[Self], threads: usize, tell: &Tell) {
        Self::keep_reports(pools, before);
        for pool in pools {
            let old = before.iter().find(|old| old.name == pool.name);
            pool.standing = match old {
                Some(old) => Arc::clone(&old.standing),
                None => Arc::new(Standing::new(Name::clone(&pool.name), threads)),
            };
            let labels: Vec<Name> = pool.workers.iter().map(|worker| Name::clone(&worker.label)).collect();
            let known = pool.standing.take_on(pool.health.clone(), &labels, threads, tell);
            for (worker, known) in pool.workers.iter_mut().zip(known) {
                worker.known = known;
            }
        }
    }

    /// Whether connections that were made by another policy may serve under this one.
    pub(super) fn reaches_workers_as(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.protocol, it.dial.danger_plaintext);
        let same_tls = match (&self.trust, &other.trust) {
            (None, None) => true,
            (Some(one), Some(other)) => one.matches(other),
            _ => false,
        };
        of(self) == of(other) && same_tls
    }

    /// Whether its workers speak HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// Reads `workers`: URLs, or tables with `url` and `weight`.
fn compile_workers(section: &Section<'_>, danger_plaintext: bool) -> Vec<WorkerSettings> {
    let mut workers: Vec<WorkerSettings> = Vec::new();
    for (index, row) in section.rows::<String>("workers") {
        // Short, a mistake is one of the element; else of the table's key.
        let (text, weight, table) = match row {
            Row::Value(text) => (text, 1, None),
            Row::Table(table) => {
                let text = table.required::<String>("url", "write where it is, such as \"http://127.0.0.1:9001\"");
                let weight = table.or("weight", 1);
                if !(1..=1000).contains(&weight) {
                    table.mistake("weight", format!("is {weight}"), "write a number from 1 to 1000");
                }
                let Some(text) = text else {
                    table.finish();
                    continue;
                };
                (text, weight, Some(table))
            }
        };
        let mistake = |reason: String, remedy: &str| match &table {
            None => section.mistake_at("workers", index, reason, remedy),
            Some(table) => table.mistake("url", reason, remedy),
        };
        match WorkerSettings::read(&text, weight, &workers, danger_plaintext) {
            Ok(worker) => workers.push(worker),
            Err((reason, remedy)) => mistake(reason, remedy),
        }
        if let Some(table) = table {
            table.finish();
        }
    }
    if workers.is_empty() {
        section.missing("workers", "list where they are: workers = [\"http://127.0.0.1:9001\"]");
    }
    workers
}

/// Reads `ca`, which workers with TLS are checked against, and the certificate that they are shown. Sessions are
/// resumed, by all threads together.
fn compile_tls(
    section: &Section<'_>,
    workers: &[WorkerSettings],
    protocol: Protocol,
) -> Option<(Arc<ClientConfig>, Sha256)> {
    const KEYS: [&str; 3] = ["ca", "certificate", "private_key"];
    let wanted = workers.iter().any(|worker| matches!(worker.address, Address::Tcp { tls_name: Some(_), .. }));
    let written: Vec<&str> = KEYS.into_iter().filter(|key| section.has(key)).collect();
    if !wanted && written.is_empty() {
        return None;
    }
    let remedy = "name the PEM file of the authority that vouches for the workers: ca = \"workers-ca.pem\"";
    let config = tls::towards(section, remedy);
    if !wanted {
        for key in written {
            section.mistake(
                key,
                "is not used, because no worker's URL begins with https://",
                "remove it, or write https://",
            );
        }
    }
    let (mut config, trust) = config?;
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::Http2 => b"h2".to_vec(),
    }];
    Some((Arc::new(config), trust))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
