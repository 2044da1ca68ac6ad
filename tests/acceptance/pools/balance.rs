//! Who gets a request.

use harness::{Gate, Gateway, Recorder, Reply, Upstream as _};

use super::{ask, asked, before, count, weighted};

#[tokio::test]
async fn each_worker_gets_its_weight_of_the_requests() {
    let workers = [Recorder::start(), Recorder::start()];
    let gateway = before(&[], &weighted(&[(&workers[0], 1), (&workers[1], 3)])).await;
    assert_eq!(ask(&gateway, 400).await, [200; 400]);
    // 300 are expected; further away than seven standard deviations is no chance.
    let heavy = count(&workers[1]);
    assert!((240..=360).contains(&heavy), "{heavy} of 400");
    assert_eq!(count(&workers[0]) + heavy, 400);
}

#[tokio::test]
async fn who_has_less_to_do_gets_the_next_request() {
    let gate = Gate::default();
    let slow = {
        let gate = gate.clone();
        Recorder::scripted(move |_, _| Reply::early().read_body().wait(&gate).write("HTTP/1.1 204 No\r\n\r\n"))
    };
    let quick = Recorder::start();
    let gateway = before(&[&slow, &quick], "").await;
    let connection = gateway.http2().connect().await;
    let mut requests = tokio::task::JoinSet::new();
    // One of them comes to the slow worker in the end, and stays there.
    while count(&slow) == 0 {
        let before = count(&quick);
        let (mut connection, request) = (connection.beside(), gateway.http2().get("/open"));
        requests.spawn(async move { connection.send(request).await.status });
        harness::eventually("a worker is asked", async || (count(&slow) + count(&quick) > before).then_some(())).await;
    }
    // All that follow go to the other, because that has nothing to do by then.
    while requests.len() > 1 {
        assert_eq!(requests.join_next().await.expect("some are left").expect("no panic"), 200);
    }
    assert_eq!(ask(&gateway, 40).await, [200; 40]);
    assert_eq!(count(&slow), 1);
    gate.open();
    assert_eq!(requests.join_next().await.expect("it is left").expect("no panic"), 204);
}

#[tokio::test]
async fn a_principal_stays_with_its_worker_while_that_is_in() {
    let mut workers = [(); 4].map(|()| Recorder::start());
    let gateway = before(&workers.each_ref(), "balance = \"hash\"\n").await;
    let mut home = None;
    for client in [gateway.client(), gateway.http2(), gateway.client()] {
        for _ in 0..5 {
            assert_eq!(client.get("/known").key("reader").send().await.status, 200);
        }
        let found = asked(&workers);
        assert_eq!(found.len(), 1, "one worker has all of its requests");
        assert_eq!(*home.get_or_insert(found.clone()), found);
    }
    let home = home.and_then(|home| home.first().copied()).expect("it has one");
    workers[home].stop();
    for _ in 0..5 {
        assert_eq!(gateway.client().get("/known").key("reader").send().await.status, 200);
    }
    assert_eq!(asked(&workers).len(), 2, "another one takes them all");
}

#[tokio::test]
async fn principals_are_spread_over_the_workers() {
    let workers = [(); 4].map(|()| Recorder::start());
    let gateway = before(&workers.each_ref(), "balance = \"hash\"\n").await;
    let signer = gateway.signer();
    for number in 0..40 {
        let token = signer.token(&serde_json::json!({ "sub": format!("user-{number}") }));
        assert_eq!(gateway.client().get("/known").bearer(&token).send().await.status, 200);
    }
    assert_eq!(asked(&workers).len(), 4);
}

#[test]
fn what_is_wrong_with_a_pool_is_said_at_the_start() {
    let overlay = r#"[pools.models]
workers = ["http://127.0.0.1:9001", { url = "http://127.0.0.1:9001", weight = 0 }, { weight = 2 }, { url = "http://127.0.0.1:9002", wait = 1 }]
balance = "round_robin"
max_retry_share = 101
[pools.models.health]
max_ejected = 101
interval = "1ms"
ejected_for = "10m"
"#;
    let output = Gateway::builder().policy(overlay).output("check");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in [
        "pools.models.workers.1.url",
        "pools.models.workers.1.weight",
        "pools.models.workers.2.url",
        "pools.models.workers.3.wait",
        "pools.models.balance",
        "pools.models.max_retry_share",
        "pools.models.health.max_ejected",
        "pools.models.health.interval",
        "pools.models.health.max_ejected_for",
    ] {
        assert!(text.lines().any(|line| line.ends_with(&format!("  {key}"))), "{key} is not in\n{text}");
    }
    assert!(text.starts_with("error: 9 mistakes"), "{text}");
    assert_eq!(output.status.code(), Some(78));
    let good = Recorder::start();
    let table = format!("[[pools.models.workers]]\nurl = {:?}\nweight = 5\n", good.url());
    assert!(Gateway::builder().policy(table).output("check").status.success());
}
