//! Who is out: by probes, by requests that fail; for how long, and how many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::wire::plain;
use harness::{Gateway, Recorder, Reply, eventually};
use serde_json::json;

use super::{ask, before, count, events, shown};
use crate::admin::number;

/// A worker that is well until it is told otherwise.
struct Moody {
    worker: Recorder,
    well: Arc<AtomicBool>,
}

impl Moody {
    /// Asked while it is not well, it replies with this.
    fn start(ill: Reply) -> Self {
        let well = Arc::new(AtomicBool::new(true));
        let worker = Recorder::scripted({
            let well = Arc::clone(&well);
            move |_, _| {
                if well.load(Ordering::Relaxed) { Reply::json(&json!({ "label": "setosa" })) } else { ill.clone() }
            }
        });
        Self { worker, well }
    }

    fn be_well(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }
}

fn breaking() -> Reply {
    Reply::early().read_body().close()
}

async fn until_event(gateway: &Gateway, name: &str, worker: &Recorder) -> serde_json::Value {
    let label = worker.address().to_string();
    (*gateway.log().wait_for(|line| line["event"] == name && line["worker"] == label).await).clone()
}

const PROBES: &str = "[pools.models.health]\ninterval = \"100ms\"\n";

#[tokio::test]
async fn a_worker_that_is_not_ready_gets_no_requests_until_it_is() {
    let moody = Moody::start(Reply::with(503, "", b"loading"));
    let other = Recorder::start();
    moody.be_well(false);
    let gateway = before(&[&moody.worker, &other], PROBES).await;
    let out = until_event(&gateway, "worker-out", &moody.worker).await;
    assert!(out["cause"].as_str().is_some_and(|cause| cause.contains("503")), "{out}");
    assert_eq!((&out["pool"], &out["log"]), (&json!("models"), &json!("event")), "{out}");
    assert_eq!(ask(&gateway, 40).await, [200; 40]);
    assert_eq!((count(&moody.worker), count(&other)), (0, 40));
    let seen = shown(&gateway, &moody.worker).await;
    assert_eq!((&seen["state"], &seen["probes"]), (&json!("out"), &json!("fail")), "{seen}");
    let series = format!("modelgate_worker_in{{pool=\"models\",worker=\"{}\"}}", moody.worker.address());
    assert_eq!(number(&gateway, &series).await.as_deref(), Some("0"));

    moody.be_well(true);
    until_event(&gateway, "worker-in", &moody.worker).await;
    assert_eq!(ask(&gateway, 40).await, [200; 40]);
    assert!(count(&moody.worker) > 0);
    assert_eq!(number(&gateway, &series).await.as_deref(), Some("1"));
    assert_eq!(events(&gateway, "worker-out", &moody.worker), 1, "each change is told once");
}

#[tokio::test]
async fn readiness_is_what_probes_know() {
    let moody = Moody::start(Reply::with(503, "", b"loading"));
    let gateway = before(&[&moody.worker], PROBES).await;
    eventually("it is ready", async || (plain(gateway.admin(), "GET", "/readyz").await.status == 200).then_some(()))
        .await;
    moody.be_well(false);
    let answer = eventually("it is not ready", async || {
        Some(plain(gateway.admin(), "GET", "/readyz").await).filter(|answer| answer.status == 503)
    });
    let said = answer.await.json();
    assert!(said["checks"]["pool models"].as_str().is_some_and(|why| why.contains("503")), "{said}");
    // The only worker of a pool is never put out: it may answer all the same.
    until_event(&gateway, "worker-kept", &moody.worker).await;
    ask(&gateway, 1).await;
    assert_eq!(count(&moody.worker), 1);
}

#[tokio::test]
async fn a_worker_whose_requests_fail_is_out_again_and_again_and_comes_back() {
    let (moody, other) = (Moody::start(breaking()), Recorder::start());
    moody.be_well(false);
    let health = "[pools.models.health]\nactive = false\nmax_failures_in_a_row = 3\nejected_for = \"200ms\"\nmax_ejected_for = \"400ms\"\n";
    let gateway = before(&[&moody.worker, &other], health).await;
    for times in 1..=3 {
        eventually("it is put out", async || {
            assert!(ask(&gateway, 1).await.iter().all(|status| [200, 502].contains(status)));
            (events(&gateway, "worker-out", &moody.worker) >= times).then_some(())
        })
        .await;
    }
    // How long depends on how soon it fails again, which a busy machine decides.
    let outs = gateway.log().matching(|line| line["event"] == "worker-out");
    assert_eq!(outs[0]["seconds"], "0.2");
    assert!(outs.iter().all(|out| ["0.2", "0.4"].contains(&out["seconds"].as_str().unwrap_or_default())), "{outs:?}");
    moody.be_well(true);
    eventually("it is asked again", async || {
        ask(&gateway, 1).await;
        (shown(&gateway, &moody.worker).await["answered"] != 0).then_some(())
    })
    .await;
    assert_eq!(shown(&gateway, &moody.worker).await["state"], "in");
}

#[tokio::test]
async fn a_worker_that_takes_no_connections_is_out_and_no_client_notices() {
    let (dead, other) = (Recorder::refusing(), Recorder::start());
    let gateway = before(&[&dead, &other], "[pools.models.health]\nactive = false\n").await;
    let mut asked = 0;
    while shown(&gateway, &dead).await["state"] != "out" {
        assert_eq!(ask(&gateway, 1).await, [200]);
        asked += 1;
    }
    assert_eq!(ask(&gateway, 20).await, [200; 20]);
    assert_eq!(count(&other), asked + 20, "each was served once");
    assert_eq!(shown(&gateway, &dead).await["failed"], 5);
}

#[tokio::test]
async fn part_of_a_window_that_fails_is_enough() {
    // Every second request fails, so never two in a row.
    let worker =
        Recorder::scripted(
            |number, _| {
                if number % 2 == 0 { breaking() } else { Reply::json(&json!({ "label": "setosa" })) }
            },
        );
    let other = Recorder::start();
    let health = "[pools.models.health]\nactive = false\nmin_requests = 10\nmax_failure_share = 40\nwindow = \"10m\"\n";
    let gateway = before(&[&worker, &other], health).await;
    let out = eventually("it is put out", async || {
        ask(&gateway, 1).await;
        gateway.log().matching(|line| line["event"] == "worker-out").pop()
    });
    let out = out.await;
    assert!(out["cause"].as_str().is_some_and(|cause| cause.contains("of 1")), "{out}");
    assert!(count(&worker) >= 10, "{}", count(&worker));
}

#[tokio::test]
async fn a_part_of_a_pool_stays_in_whatever_happens() {
    let bad = [(); 4].map(|()| Recorder::replying(breaking()));
    let health = "[pools.models.health]\nactive = false\nmax_failures_in_a_row = 2\nejected_for = \"1h\"\nmax_ejected_for = \"1h\"\nmax_ejected = 50\n";
    let gateway = before(&bad.each_ref(), health).await;
    eventually("two are kept", async || {
        ask(&gateway, 1).await;
        (gateway.log().matching(|line| line["event"] == "worker-kept").len() == 2).then_some(())
    })
    .await;
    let before: usize = bad.iter().map(count).sum();
    assert_eq!(ask(&gateway, 10).await, [502; 10]);
    assert_eq!(bad.iter().map(count).sum::<usize>(), before + 10, "they are asked still");
    assert_eq!(gateway.log().matching(|line| line["event"] == "worker-out").len(), 2);
}

#[tokio::test]
async fn clients_can_not_put_a_worker_out_by_what_it_answers_with_500() {
    let poor = Recorder::replying(Reply::with(500, "", b"your input is strange"));
    let other = Recorder::start();
    let health = "[pools.models.health]\nactive = false\nmax_failures_in_a_row = 1\n";
    let gateway = before(&[&poor, &other], health).await;
    while count(&poor) < 10 {
        ask(&gateway, 1).await;
    }
    assert_eq!(shown(&gateway, &poor).await["state"], "in");
    // Unless the operator says that they count.
    let gateway = before(&[&poor, &other], &format!("{health}count_errors = true\n")).await;
    while shown(&gateway, &poor).await["state"] == "in" {
        ask(&gateway, 1).await;
    }
    until_event(&gateway, "worker-out", &poor).await;
}

#[tokio::test]
async fn who_is_out_stays_out_when_the_policy_is_replaced() {
    let (bad, other) = (Recorder::replying(breaking()), Recorder::start());
    let health = "[pools.models.health]\nactive = false\nmax_failures_in_a_row = 1\nejected_for = \"1h\"\nmax_ejected_for = \"1h\"\n";
    let gateway = before(&[&bad, &other], health).await;
    while shown(&gateway, &bad).await["state"] == "in" {
        ask(&gateway, 1).await;
    }
    until_event(&gateway, "worker-out", &bad).await;
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    let asked = count(&bad);
    assert_eq!(ask(&gateway, 20).await, [200; 20]);
    assert_eq!(count(&bad), asked);
    let seen = shown(&gateway, &bad).await;
    assert_eq!((&seen["state"], &seen["ejected"]), (&json!("out"), &json!(1)), "{seen}");
    assert_eq!(events(&gateway, "worker-out", &bad), 1);
}
