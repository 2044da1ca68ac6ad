//! Room for requests at a worker, and what is tried again.

use harness::{Recorder, Reply};

use super::{ask, before, count};
use crate::admin::number;

#[tokio::test]
async fn where_all_places_are_taken_and_as_many_wait_as_may_the_next_is_refused_at_once() {
    let workers = [(); 2].map(|()| Recorder::replying(Reply::never()));
    let pool = "max_connections = 1\nmax_waiting = 1\nconnect_timeout = \"1h\"\nanswer_timeout = \"1h\"\n";
    let gateway = before(&workers.each_ref(), pool).await;
    let connection = gateway.http2().connect().await;
    let mut asked = tokio::task::JoinSet::new();
    let mut begin = || {
        let (mut connection, request) = (connection.beside(), gateway.http2().get("/open"));
        asked.spawn(async move { connection.send(request).await });
    };
    begin();
    begin();
    for worker in &workers {
        worker.wait_for_requests(1).await;
    }
    // Of three more, two wait, and one has its answer at once.
    begin();
    begin();
    begin();
    let answer = asked.join_next().await.expect("they were sent").expect("no panic");
    answer.assert_problem(503, "worker-busy");
    assert_eq!(answer.header("retry-after"), "1");
    let record = gateway.log().access(&answer.request_id()).await;
    assert!(record["cause"].as_str().is_some_and(|cause| cause.contains("max_waiting")), "{record}");
    assert_eq!(number(&gateway, "modelgate_pool_full_total{pool=\"models\"}").await.as_deref(), Some("1"));
    assert_eq!([count(&workers[0]), count(&workers[1])], [1, 1]);
    asked.abort_all();
}

#[tokio::test]
async fn what_a_worker_may_have_processed_is_never_sent_to_another() {
    let (bad, good) = (Recorder::replying(Reply::early().read_body().close()), Recorder::start());
    let gateway = before(&[&bad, &good], "[pools.models.health]\npassive = false\nactive = false\n").await;
    let statuses = ask(&gateway, 60).await;
    assert_eq!(count(&bad) + count(&good), 60, "each was sent once");
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), count(&bad));
    assert!(count(&bad) > 0);
}

#[tokio::test]
async fn requests_are_tried_again_within_a_budget_alone() {
    let (dead, good) = (Recorder::refusing(), Recorder::start());
    let never = "max_retry_share = 0\nmin_retries = 0\n[pools.models.health]\npassive = false\nactive = false\n";
    let gateway = before(&[&dead, &good], never).await;
    let statuses = ask(&gateway, 60).await;
    let failed = statuses.iter().filter(|status| **status == 503).count();
    assert_eq!(failed + count(&good), 60);
    let refused = number(&gateway, "modelgate_pool_retries_refused_total{pool=\"models\"}").await;
    assert_eq!(refused, Some(failed.to_string()));
    assert!(failed > 0);

    let good = Recorder::start();
    let always = "max_retry_share = 100\n[pools.models.health]\npassive = false\nactive = false\n";
    let gateway = before(&[&dead, &good], always).await;
    assert_eq!(ask(&gateway, 60).await, [200; 60]);
    assert_eq!(count(&good), 60);
    let retried = number(&gateway, "modelgate_pool_retries_total{pool=\"models\"}").await.expect("it is counted");
    assert_ne!(retried, "0");
}
