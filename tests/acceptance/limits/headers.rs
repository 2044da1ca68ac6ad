//! What answers say of limits beside `RateLimit`: the older headers, and what pages may read.

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    the_older_headers_are_said_where_they_are_asked_for
}

const OLDER: [&str; 3] = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

fn older(answer: &Answer) -> [String; 3] {
    OLDER.map(|name| answer.header(name))
}

async fn the_older_headers_are_said_where_they_are_asked_for(store: Store) {
    let worker = Recorder::start();
    let policy = limit("each", "quota = 2")
        + &limit("wide2", "quota = 100\nwindow = \"1h\"\nby = [\"address\"]")
        + "[routes.known]\nlimits = [\"wide2\", \"each\"]\n";
    let gateway = store.start(&worker, &(policy.clone() + "[defaults]\nx_ratelimit = true\n")).await;
    let ask = || gateway.client().get("/known").key("reader").send();
    assert_eq!(older(&ask().await), ["2", "1", "60"]);
    let second = older(&ask().await);
    assert_eq!(second[..2], ["2", "0"]);
    assert!((55..=60).contains(&second[2].parse::<u32>().expect("seconds")), "{second:?}");
    let refused = ask().await;
    assert_limited(&refused, &["each"]);
    assert_eq!(older(&refused)[..2], ["2", "0"]);
    if let Store::Redis(redis) = &store {
        redis.tell("FLUSHALL");
    }
    let gateway = store.start(&worker, &policy).await;
    assert_eq!(older(&gateway.client().get("/known").key("reader").send().await), [const { String::new() }; 3]);
}

#[tokio::test]
async fn pages_may_read_the_headers_in_use_and_no_others() {
    let worker = Recorder::start();
    let exposed = async |policy: &str| {
        let gateway = Gateway::builder().worker(&worker).policy(policy).start().await;
        let answer =
            gateway.client().get("/models").key("reader").header("origin", "https://app.example.com").send().await;
        assert_eq!(answer.status, 200);
        let list = answer.header("access-control-expose-headers").to_lowercase();
        [
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
            "x-row-budget",
            "x-answer-budget",
        ]
        .map(|name| list.split(", ").any(|listed| listed == name))
    };
    assert_eq!(exposed("").await, [true, true, true, false, false, false, false, false]);
    assert_eq!(exposed("[defaults]\nx_ratelimit = true\n").await, [true, true, true, true, true, true, false, false]);
    let rows = limit("rows", "quota = 5\ncost = \"rows\"") + &any_json("[\"rows\"]");
    assert_eq!(exposed(&rows).await, [true, true, true, false, false, false, true, false]);
    let tokens = limit("tokens", "quota = 5\ncost = \"answer\"\nanswer_at = \"/n\"\nreserve = 1")
        + "[routes.models]\nlimits = [\"tokens\"]\n";
    assert_eq!(exposed(&tokens).await, [true, true, true, false, false, false, false, true]);
}
