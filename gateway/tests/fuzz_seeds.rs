//! The properties that the fuzz targets hold, over the seeds that are kept.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a property that does not hold fails the test"
)]
#![allow(
    clippy::pedantic,
    clippy::await_holding_refcell_ref,
    clippy::len_zero,
    clippy::type_complexity,
    clippy::unnecessary_to_owned,
    clippy::async_yields_async,
    reason = "the properties are the fuzz crate's, a workspace of its own"
)]

#[path = "../fuzz/properties/answer.rs"]
mod answer;
#[path = "../fuzz/properties/chunked.rs"]
mod chunked;
#[path = "../fuzz/properties/head.rs"]
mod head;
#[path = "../fuzz/properties/http1.rs"]
mod http1;
#[path = "../fuzz/properties/path.rs"]
mod path;
#[path = "../fuzz/properties/policy.rs"]
mod policy;
#[path = "../fuzz/properties/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "../fuzz/properties/world.rs"]
mod world;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Holds `check` to every seed of a target; the ones that fail are named.
fn hold(target: &str, check: impl Fn(&[u8])) {
    let directory = format!("{}/fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    let mut failed = Vec::new();
    for entry in fs::read_dir(&directory).expect("there are seeds") {
        let seed = entry.expect("a readable entry").path();
        let octets = fs::read(&seed).expect("a readable seed");
        count += 1;
        if catch_unwind(AssertUnwindSafe(|| check(&octets))).is_err() {
            failed.push(seed);
        }
    }
    assert!(count > 10, "{directory} has lost its seeds");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn paths() {
    hold("path", path::check);
}

#[test]
fn streams_and_their_chunks() {
    hold("chunked", chunked::check);
}

#[test]
fn heads_to_forwarded_octets() {
    hold("head", head::check);
}

#[test]
fn workers_answers() {
    hold("answer", answer::check);
}

#[test]
fn proxy_protocol_headers() {
    hold("proxy_protocol", proxy_protocol::check);
}
