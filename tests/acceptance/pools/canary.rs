//! Which requests of a pool another one answers.

use harness::{Gateway, Recorder, Reply, Upstream as _, eventually};
use serde_json::{Value, json};

use super::{ONE_THREAD, ask, count};
use crate::admin::number;

/// A gateway with the pools `models` and `candidate`, and a canary as this says.
async fn before(live: &Recorder, candidate: &Recorder, canary: &str) -> Gateway {
    let pool = format!(
        "[pools.candidate]\nworkers = [{:?}]\n[pools.models.canary]\nto = \"candidate\"\n{canary}",
        candidate.url()
    );
    Gateway::builder().worker(live).policy(ONE_THREAD).policy(pool).start().await
}

async fn pool_of(gateway: &Gateway, answer: &harness::Answer) -> Value {
    gateway.log().access(&answer.request_id()).await["pool"].clone()
}

#[tokio::test]
async fn a_share_of_the_principals_meets_the_candidate_and_each_of_them_always() {
    let (live, candidate) = (Recorder::start(), Recorder::start());
    let gateway = before(&live, &candidate, "weight = 30\n").await;
    let signer = gateway.signer();
    let mut met = 0;
    for user in 0..40 {
        let token = signer.token(&json!({ "sub": format!("user-{user}") }));
        let mut pools = Vec::new();
        for client in [gateway.client(), gateway.http2(), gateway.client()] {
            let answer = client.get("/known").bearer(&token).send().await;
            assert_eq!(answer.status, 200);
            pools.push(pool_of(&gateway, &answer).await);
        }
        assert!(pools.iter().all(|pool| *pool == pools[0]), "user {user} met {pools:?}");
        met += usize::from(pools[0] == "candidate");
    }
    assert!((1..=30).contains(&met), "{met} of 40");
    assert_eq!((count(&candidate), count(&live)), (3 * met, 3 * (40 - met)));
    let counted = number(&gateway, "modelgate_pool_canary_total{pool=\"models\"}").await;
    assert_eq!(counted, Some((3 * met).to_string()));
}

#[tokio::test]
async fn who_asks_by_header_or_is_named_meets_the_candidate() {
    let (live, candidate) = (Recorder::start(), Recorder::start());
    let gateway = before(&live, &candidate, "header = \"X-Canary: yes\"\nprincipals = [\"key:reader\"]\n").await;
    for (asked, pool) in [
        (gateway.client().get("/open").header("x-canary", "yes"), "candidate"),
        (gateway.client().get("/open").header("x-canary", "no"), "models"),
        (gateway.client().get("/open"), "models"),
        (gateway.client().get("/known").key("reader"), "candidate"),
        (gateway.client().get("/known").key("predictor"), "models"),
    ] {
        let answer = asked.send().await;
        assert_eq!((answer.status, pool_of(&gateway, &answer).await), (200, json!(pool)));
    }
}

#[tokio::test]
async fn strangers_are_told_apart_by_their_address() {
    let (live, candidate) = (Recorder::start(), Recorder::start());
    let proxied = "weight = 50\n[client_address]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let gateway = before(&live, &candidate, proxied).await;
    for address in 1..=40 {
        for _ in 0..2 {
            let asked = gateway.client().get("/open").header("x-forwarded-for", &format!("192.0.2.{address}"));
            assert_eq!(asked.send().await.status, 200);
        }
    }
    assert!(count(&candidate) > 0 && count(&live) > 0);
    assert_eq!(count(&candidate) % 2, 0, "each address stays where it is");
}

#[tokio::test]
async fn a_candidate_without_a_worker_gets_nobody() {
    let (live, mut candidate) = (Recorder::start(), Recorder::start());
    let eager = "weight = 100\n[pools.candidate.health]\nmax_ejected = 100\nmax_failures_in_a_row = 1\n";
    let gateway = before(&live, &candidate, eager).await;
    assert_eq!(ask(&gateway, 3).await, [200; 3]);
    assert_eq!((count(&candidate), count(&live)), (3, 0));
    candidate.stop();
    // Whether it is found gone before a request is written or afterwards is chance.
    let status = gateway.client().get("/open").send().await.status;
    assert!(matches!(status, 502 | 503), "{status}");
    assert_eq!(ask(&gateway, 3).await, [200; 3]);
    assert_eq!(count(&live), 3);
}

#[tokio::test]
async fn a_candidate_that_may_not_be_out_is_left_alone_while_it_fails_and_is_met_again() {
    let live = Recorder::start();
    let candidate =
        Recorder::scripted(
            |number, _| {
                if number == 0 { Reply::early().read_body().close() } else { Reply::json(&json!({})) }
            },
        );
    let one =
        "weight = 100\n[pools.candidate.health]\nactive = false\nmax_failures_in_a_row = 1\nejected_for = \"1s\"\n";
    let gateway = before(&live, &candidate, one).await;
    assert_eq!(gateway.client().get("/open").send().await.status, 502);
    gateway.log().event("worker-kept").await;
    assert_eq!(ask(&gateway, 1).await, [200]);
    assert_eq!((count(&candidate), count(&live)), (1, 1), "there is another pool, so one that fails is not asked");
    eventually("its time is over", async || {
        assert_eq!(ask(&gateway, 1).await, [200]);
        (count(&candidate) > 1).then_some(())
    })
    .await;
}

#[test]
fn what_is_wrong_with_a_canary_is_said_at_the_start() {
    for (table, key, said) in [
        ("to = \"candidat\"\nweight = 1", "pools.models.canary.to", "did you mean \"candidate\"?"),
        ("to = \"models\"\nweight = 1", "pools.models.canary.to", "is the pool itself"),
        ("to = \"second\"\nweight = 1", "pools.models.canary.to", "speaks another protocol"),
        ("to = \"candidate\"\nweight = 101", "pools.models.canary.weight", "from 0 to 100"),
        ("to = \"candidate\"\nheader = \"X-Canary\"", "pools.models.canary.header", "is not a header"),
        ("to = \"candidate\"", "pools.models.canary", "says nobody"),
        ("weight = 1", "pools.models.canary.to", "is missing"),
        ("to = \"candidate\"\nwieght = 1", "pools.models.canary.wieght", "weight"),
    ] {
        let pools = "[pools.candidate]\nworkers = [\"http://127.0.0.1:9\"]\n\
                     [pools.second]\nworkers = [\"http://127.0.0.1:9\"]\nprotocol = \"http2\"\n";
        let output = Gateway::builder().policy(format!("{pools}[pools.models.canary]\n{table}\n")).output("check");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.lines().any(|line| line.ends_with(&format!("  {key}"))) && text.contains(said), "{table}: {text}");
        assert_eq!(output.status.code(), Some(78));
    }
}
