//! Workers of different versions beside each other.

use harness::{Reply, Upstream as _, eventually};
use serde_json::json;

use super::{GUARD, Model, ask, builder, card, features, guards, run, until};
use harness::Gateway;

#[tokio::test]
async fn a_value_must_satisfy_the_card_of_every_version_that_may_answer() {
    let (narrow, wide) = (Model::new("1", 5.0), Model::new("2", 10.0));
    let gateway = builder(&[&narrow, &wide]).start().await;
    for _ in 0..20 {
        ask(&gateway, 8.0).await.assert_problem(422, "body-invalid");
        assert_eq!(ask(&gateway, 4.0).await.status, 200);
    }
    assert_eq!(narrow.guarded() + wide.guarded(), 20);
    assert!(narrow.guarded() > 0 && wide.guarded() > 0);
    let models = guards(&gateway).await["guards"][0]["models"].clone();
    assert_eq!(models.as_array().map(Vec::len), Some(2), "{models}");
}

#[tokio::test]
async fn a_worker_that_tells_no_card_gets_nothing_that_is_guarded() {
    let (good, mute) = (Model::new("1", 10.0), Model::telling(Reply::with(404, "", b"")));
    let gateway = builder(&[&mute, &good]).start().await;
    for _ in 0..20 {
        assert_eq!(ask(&gateway, 8.0).await.status, 200);
        assert_eq!(gateway.client().get("/open").send().await.status, 200);
    }
    assert_eq!((good.guarded(), mute.guarded()), (20, 0));
    let open = |model: &Model| model.worker.seen().iter().filter(|seen| seen.header("via").is_some()).count();
    assert!(open(&mute) > 0, "what is not guarded goes there too");
    mute.tell(card("1", 9.0));
    until(&gateway, 9.5, 422).await;
    let shared = async || {
        assert_eq!(ask(&gateway, 8.0).await.status, 200);
        Some(()).filter(|()| mute.guarded() > 0)
    };
    eventually("it gets some now", shared).await;
}

#[tokio::test]
async fn workers_whose_model_has_other_features_get_nothing_until_they_are_the_most() {
    let other = || features("2", &json!([{ "name": "b", "bounds": { "above": 0, "at_most": 1 } }]));
    let (one, two, three) = (Model::new("1", 10.0), Model::new("1", 10.0), Model::telling(other()));
    let gateway = builder(&[&one, &two, &three]).start().await;
    for _ in 0..20 {
        assert_eq!(ask(&gateway, 8.0).await.status, 200);
    }
    assert_eq!((three.guarded(), one.guarded() + two.guarded()), (0, 20));
    assert_eq!(guards(&gateway).await["guards"][0]["workers"].as_array().map(Vec::len), Some(2));
    one.tell(other());
    let ask_other = async || {
        let answer = gateway.client().post("/guarded").key("predictor").json(&json!({ "b": 0.5 })).send().await;
        Some(()).filter(|()| answer.status == 200)
    };
    eventually("the new version is that of the most", ask_other).await;
    ask(&gateway, 8.0).await.assert_problem(422, "body-invalid");
}

#[tokio::test]
async fn a_canarys_card_counts_and_one_without_a_card_gets_nothing_that_is_guarded() {
    let (live, canary) = (Model::new("1", 10.0), Model::new("2", 5.0));
    let pools = format!(
        "[pools.next]\nworkers = [{:?}]\n[pools.models.canary]\nto = \"next\"\nheader = \"X-Canary: yes\"\n",
        canary.worker.url()
    );
    let gateway = Gateway::builder().worker(&live.worker).policy(GUARD).policy(pools).start().await;
    let ask_canary = async |a: f64| {
        let request = gateway.client().post("/guarded").key("predictor").header("x-canary", "yes");
        request.json(&json!({ "a": a })).send().await
    };
    ask(&gateway, 8.0).await.assert_problem(422, "body-invalid");
    ask_canary(8.0).await.assert_problem(422, "body-invalid");
    assert_eq!((ask(&gateway, 4.0).await.status, ask_canary(4.0).await.status), (200, 200));
    assert_eq!((live.guarded(), canary.guarded()), (1, 1));
    canary.tell(features("3", &json!([{ "name": "b", "bounds": { "above": 0, "at_most": 1 } }])));
    until(&gateway, 8.0, 200).await;
    let before = canary.guarded();
    assert_eq!(ask_canary(8.0).await.status, 200, "the live one answers");
    assert_eq!(canary.guarded(), before);
}

#[tokio::test]
async fn a_candidates_card_counts_from_when_it_is_promoted() {
    let (live, candidate) = (Model::new("1", 10.0), Model::new("2", 5.0));
    let golden = json!([{ "path": "/models", "expect": { "label": "x" } }]).to_string();
    let pools = format!(
        "[pools.next]\nworkers = [{:?}]\n[pools.models.shadow]\nto = \"next\"\nshare = 1\n\
         [pools.models.swap]\ngolden = \"golden.json\"\n",
        candidate.worker.url()
    );
    let gateway = builder(&[&live]).policy(pools).file("golden.json", golden).start().await;
    assert_eq!(ask(&gateway, 8.0).await.status, 200);
    assert_eq!(run(&gateway.operator(), &["pool", "promote", "models"]), (Some(0), String::new()));
    ask(&gateway, 8.0).await.assert_problem(422, "body-invalid");
    assert_eq!(ask(&gateway, 4.0).await.status, 200);
    assert_eq!(live.guarded(), 1);
    // Who serves goes on being asked, and a reload of what is there changes nothing.
    candidate.tell(card("3", 3.0));
    until(&gateway, 4.0, 422).await;
    assert_eq!(run(&gateway.operator(), &["reload"]), (Some(0), String::new()));
    ask(&gateway, 4.0).await.assert_problem(422, "body-invalid");
}
