//! What is measured: each job says what the proxies are configured for, how they are loaded and what is aimed at.

use crate::load::Shape;
use crate::peers::Peer;

/// What clients show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    Nothing,
    /// One of the 1,000 keys, another with each request.
    Key,
    /// A key that nobody has.
    UnknownKey,
    /// One of 100 tokens, another with each request.
    Token,
    /// One of so many tokens that hardly any was seen a short while ago.
    ManyTokens,
    /// One of so many tokens as are not remembered together, where signing one takes long.
    FreshTokens,
    /// Always the same token.
    OneToken,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Processor time, in µs.
    Request,
    /// Processor time, in seconds.
    Gigabyte,
    /// Resident memory, in KiB.
    IdleConnection,
    /// The 99th percentile at a fixed rate, in µs.
    Latency,
}

impl Measure {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Request => "µs",
            Self::Gigabyte => "s/GB",
            Self::IdleConnection => "KiB",
            Self::Latency => "µs p99",
        }
    }
}

/// What the gateway aims at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// At most so much of the best of these peers at a job.
    Ratio(f64, &'static [Peer], &'static str),
    AtMost(f64),
    /// At most so much more than the gateway at another job.
    Adds(f64, &'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// The sections that the configurations keep.
    pub(crate) features: &'static [&'static str],
    pub(crate) credential: Credential,
    pub(crate) shape: Shape,
    pub(crate) body: usize,
    pub(crate) refused: bool,
    /// What each principal may send in ten seconds.
    pub(crate) quota: u32,
    /// Whether clients offer a post-quantum key exchange.
    pub(crate) post_quantum: bool,
    pub(crate) measure: Measure,
    pub(crate) target: Option<Target>,
}

const KEPT: Shape = Shape { connections: 8, streams: 1, reconnect: false, rate: None };
const KEY: &[&str] = &["key", "cors", "log"];
const HS256: &[&str] = &["jwt", "hs256", "cors", "log"];
const LIMIT: &[&str] = &["jwt", "hs256", "cors", "log", "limit"];
const PROXIES: &[Peer] = &[Peer::Haproxy, Peer::Nginx, Peer::Envoy];
/// The body that is sent, one flower.
pub(crate) const FLOWER: &str = r#"{"sepal_length":5.1,"sepal_width":3.5,"petal_length":1.4,"petal_width":0.2}     "#;
/// More than any client sends in ten seconds.
const PLENTY: u32 = 100_000;

const FORWARD: Job = Job {
    id: "forward",
    title: "forward only",
    features: &[],
    credential: Credential::Nothing,
    shape: KEPT,
    body: FLOWER.len(),
    refused: false,
    quota: PLENTY,
    post_quantum: false,
    measure: Measure::Request,
    target: Some(Target::Ratio(0.92, &[Peer::Haproxy], "forward")),
};
const API_KEY: Job = Job { features: KEY, credential: Credential::Key, target: None, ..FORWARD };
const JWT: Job = Job {
    features: HS256,
    credential: Credential::Token,
    target: Some(Target::Ratio(0.65, &[Peer::Haproxy], "jwt-hs256")),
    ..FORWARD
};

/// All of them, in the order of the table.
pub(crate) const JOBS: &[Job] = &[
    FORWARD,
    Job {
        id: "key",
        title: "API key (1,000 keys), CORS, identity header, JSON access log",
        target: Some(Target::Ratio(0.85, &[Peer::Haproxy, Peer::Nginx], "key")),
        ..API_KEY
    },
    Job { id: "jwt-hs256", title: "JWT HS256 (exp, iss, aud, role), CORS, log", ..JWT },
    Job { id: "jwt-rs256", title: "the same, RS256", features: &["jwt", "rs256", "cors", "log"], ..JWT },
    Job { id: "jwt-es256", title: "the same, ES256", features: &["jwt", "es256", "cors", "log"], ..JWT },
    Job {
        id: "jwt-eddsa",
        title: "the same, EdDSA",
        features: &["jwt", "eddsa", "cors", "log"],
        target: Some(Target::Adds(2.0, "key")),
        ..JWT
    },
    Job {
        id: "jwt-unseen",
        title: "JWT HS256, 40,000 tokens in turn, CORS, log",
        credential: Credential::ManyTokens,
        target: None,
        ..JWT
    },
    Job {
        id: "jwt-rs256-unseen",
        title: "the same, RS256, 6,000 tokens",
        features: &["jwt", "rs256", "cors", "log"],
        credential: Credential::FreshTokens,
        target: None,
        ..JWT
    },
    Job {
        id: "jwt-es256-unseen",
        title: "the same, ES256",
        features: &["jwt", "es256", "cors", "log"],
        credential: Credential::FreshTokens,
        target: None,
        ..JWT
    },
    Job {
        id: "jwt-eddsa-unseen",
        title: "the same, EdDSA",
        features: &["jwt", "eddsa", "cors", "log"],
        credential: Credential::FreshTokens,
        target: None,
        ..JWT
    },
    Job {
        id: "limit",
        title: "JWT HS256 and a local rate limit",
        features: LIMIT,
        target: Some(Target::Ratio(0.67, &[Peer::Haproxy], "limit")),
        ..JWT
    },
    Job {
        id: "redis",
        title: "the same limit held in Redis",
        features: &["jwt", "hs256", "cors", "log", "limit", "redis"],
        target: Some(Target::Ratio(0.6, PROXIES, "redis")),
        ..JWT
    },
    Job {
        id: "connect",
        title: "new TLS connection each request, API key",
        shape: Shape { reconnect: true, ..KEPT },
        target: Some(Target::Ratio(0.75, &[Peer::Envoy], "connect")),
        ..API_KEY
    },
    Job {
        id: "connect-pq",
        title: "the same, X25519MLKEM768",
        shape: Shape { reconnect: true, ..KEPT },
        post_quantum: true,
        ..API_KEY
    },
    Job {
        id: "bad-key",
        title: "flood of bad keys, refused",
        credential: Credential::UnknownKey,
        refused: true,
        target: Some(Target::Ratio(0.8, &[Peer::Nginx], "bad-key")),
        ..API_KEY
    },
    Job {
        id: "over-limit",
        title: "flood over the limit, refused",
        features: LIMIT,
        credential: Credential::OneToken,
        refused: true,
        quota: 5,
        target: Some(Target::Ratio(0.5, &[Peer::Haproxy], "over-limit")),
        ..JWT
    },
    Job {
        id: "many",
        title: "100 connections at once, API key",
        shape: Shape { connections: 100, ..KEPT },
        target: Some(Target::Ratio(1.0, PROXIES, "many")),
        ..API_KEY
    },
    Job {
        id: "http2",
        title: "HTTP/2, 10 × 10 streams, API key",
        shape: Shape { connections: 10, streams: 10, ..KEPT },
        target: Some(Target::Ratio(1.0, PROXIES, "http2")),
        ..API_KEY
    },
    Job {
        id: "idle",
        title: "an idle TLS connection",
        shape: Shape { connections: 0, rate: Some(0.0), ..KEPT },
        measure: Measure::IdleConnection,
        target: Some(Target::AtMost(14.0)),
        ..API_KEY
    },
    Job {
        id: "upload",
        title: "1 MiB request bodies",
        body: 1 << 20,
        shape: Shape { connections: 4, ..KEPT },
        measure: Measure::Gigabyte,
        target: Some(Target::Ratio(0.75, &[Peer::Envoy], "upload")),
        ..FORWARD
    },
    Job {
        id: "latency",
        title: "p99 at 4,000 requests a second, API key",
        shape: Shape { connections: 64, rate: Some(4000.0), ..KEPT },
        measure: Measure::Latency,
        target: Some(Target::Ratio(1.0, &[Peer::Haproxy], "latency")),
        ..API_KEY
    },
    Job {
        id: "schema",
        title: "API key, and the body against a JSON Schema",
        features: &["key", "cors", "log", "schema"],
        target: Some(Target::Adds(2.0, "key")),
        ..API_KEY
    },
    Job {
        id: "all",
        title: "JWT, limit, JSON Schema, CORS and log together",
        features: &["jwt", "hs256", "cors", "log", "limit", "schema"],
        target: Some(Target::Ratio(1.5, &[Peer::Floor], "all")),
        ..JWT
    },
];
