//! The world that black-box tests run in: real programs, sockets, TLS and Redis, and nothing shared.
//!
//! | room | gives |
//! | --- | --- |
//! | [`binary`] | the programs under test, built once |
//! | [`process`] | a child that dies with its owner, and the [`Log`] of what it printed |
//! | [`ca`] | a certificate authority and the gateway's certificate |
//! | [`gateway`] | [`Gateway`]: the real gateway on a free port, with a base policy and what is laid over it |
//! | [`worker`] | [`Worker`]: the real model worker |
//! | [`recorder`] | [`Recorder`]: a stand-in for the worker, which keeps what it was sent and follows a script |
//! | [`streams`] | [`StreamWorker`]: the same over HTTP/2 |
//! | [`redis`] | [`Redis`]: the real server, to be stopped and killed; with TLS, [`Sentinels`], a [`Cluster`] |
//! | [`admissions`] | [`Admissions`]: when a limit admitted, by Redis's own record |
//! | [`histories`] | random histories of limits over several gateways, each held against a model |
//! | [`client`] | [`Client`]: HTTP/1.1 and HTTP/2 over TLS, and raw octets |
//! | [`wire`] | one connection octet by octet: requests in parts, answers one at a time |
//! | [`frames`] | HTTP/2 frame by frame: what no library sends, and what really comes back |
//! | [`floods`] | ways to make an HTTP/2 server work for nothing |
//! | [`browser`] | a real Chromium, and pages for it |
//! | [`keys`] | [`KeyServer`]: where an issuer publishes its keys |
//! | [`conformance`] | tables of messages that lie, and what must come of each |
//! | [`identity`] | the keys, users and tokens of the base policy, and a [`Signer`] for tokens of any kind |
//!
//! Nothing here sleeps: whatever is waited for is told by a line, an answer or the end of a process (or
//! asked for, [`eventually`]), and every wait ends after [`PATIENCE`].
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a world that can't be made fails the test that asked for it"
)]

pub mod admissions;
pub mod binary;
pub mod browser;
pub mod ca;
pub mod client;
#[path = "../conformance/mod.rs"]
pub mod conformance;
pub mod floods;
pub mod frames;
pub mod gateway;
pub mod histories;
pub mod identity;
pub mod keys;
pub mod process;
pub mod recorder;
pub mod redis;
pub mod streams;
pub mod wire;
pub mod worker;

use std::time::Duration;

pub use admissions::Admissions;
pub use binary::binary;
pub use browser::Page;
pub use ca::{Issued, TestCa};
pub use client::{Answer, Client, Connection, Request};
pub use gateway::{Gateway, GatewayBuilder, Signing, Upstream};
pub use identity::Signer;
pub use keys::KeyServer;
pub use process::{Exit, Log, Process};
pub use recorder::{Gate, Recorder, Reply, Seen};
pub use redis::{Cluster, Redis, Sentinels};
pub use streams::{Deed, StreamWorker};
pub use wire::Wire;
pub use worker::Worker;

/// How long anything may take before a test calls it lost. Generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer, for what tells nobody when it changes.
///
/// # Panics
/// If all patience goes without one.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        loop {
            clock.tick().await;
            if let Some(found) = ask().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}
