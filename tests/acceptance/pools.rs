//! Pools of several workers: who gets a request, who is out, what is tried again and what never is.

mod balance;
mod canary;
mod grpc;
mod health;
mod http2;
mod promote;
mod room;
mod shadow;
mod streams;
mod swap;

use std::collections::BTreeSet;
use std::process::Command;

use harness::wire::plain;
use harness::{Gateway, Recorder, Upstream as _, binary};
use serde_json::Value;

/// One serving thread, so that all requests are seen by the same pool.
const ONE_THREAD: &str = "[listener]\nthreads = 1\n[reload]\nwatch = false\n";

/// A gateway before these workers, with a pool as this says.
async fn before(workers: &[&Recorder], pool: &str) -> Gateway {
    let builder = workers.iter().fold(Gateway::builder(), |builder, worker| builder.worker(*worker));
    builder.policy(ONE_THREAD).policy(format!("[pools.models]\n{pool}")).start().await
}

/// Requests one after the other on one connection; their statuses.
async fn ask(gateway: &Gateway, count: usize) -> Vec<u16> {
    let mut connection = gateway.client().connect().await;
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(connection.send(gateway.client().get("/open")).await.status);
    }
    statuses
}

/// A command of the gateway's program that asks a running one: its exit code, what it said, what it complained of.
fn run_at(admin: &str, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary("gateway"));
    let output = command.args(words).args(["--admin", admin]).output().expect("it runs");
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn run(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String, String) {
    run_at(&gateway.operator(), words)
}

/// How many requests a worker got, besides probes.
fn count(worker: &Recorder) -> usize {
    worker.seen().iter().filter(|seen| !seen.line().contains("/readyz")).count()
}

/// What the admin listener shows of a worker.
async fn shown(gateway: &Gateway, worker: &Recorder) -> Value {
    let pools = plain(gateway.admin(), "GET", "/pools").await.json();
    let workers = pools["models"]["workers"].as_array().expect("a list").clone();
    let label = worker.address().to_string();
    workers.into_iter().find(|shown| shown["worker"] == label).expect("the worker is shown")
}

/// The events of one kind about a worker.
fn events(gateway: &Gateway, name: &str, worker: &Recorder) -> usize {
    let label = worker.address().to_string();
    gateway.log().matching(|line| line["event"] == name && line["worker"] == label).len()
}

/// A list of workers with weights, as the policy writes it.
fn weighted(workers: &[(&Recorder, u32)]) -> String {
    let tables = workers.iter().map(|(worker, weight)| format!("{{ url = {:?}, weight = {weight} }}", worker.url()));
    format!("workers = [{}]\n", tables.collect::<Vec<_>>().join(", "))
}

/// Which of these workers got requests.
fn asked(workers: &[Recorder]) -> BTreeSet<usize> {
    workers.iter().enumerate().filter(|(_, worker)| count(worker) > 0).map(|(index, _)| index).collect()
}
