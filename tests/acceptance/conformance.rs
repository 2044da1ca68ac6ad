//! The tables of `tests/conformance`, row by row, on one gateway each.

use harness::Gateway;
use harness::conformance::{assert_none, http1, worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_http_1_come_out_as_the_tables_say() {
    let worker = http1::recorder();
    let mut gateway = Gateway::builder().without_base().worker(&worker).policy(http1::POLICY).start().await;
    let cases: Vec<_> = http1::cases().collect();
    let proxy = http1::Proxy::gateway(gateway.address());
    let ended = async || assert!(gateway.stop().await.success(), "the gateway stops when it is asked to");
    let (observed, nobodys) = http1::observe(proxy, &worker, &cases, ended).await;
    assert_none(&http1::judge(&observed), cases.len());
    assert_eq!(nobodys, Vec::<String>::new(), "what the worker got and no row sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_workers_come_out_as_the_table_says() {
    let failures = worker::World::start().await.run().await;
    assert_none(&failures, worker::CASES.len());
}
