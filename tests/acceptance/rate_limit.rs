//! Limits: exact sliding windows, all or nothing, the same in memory and in Redis.

use std::time::{Duration, Instant};

use harness::{Answer, Recorder};
use serde_json::json;

use crate::stores::{Store, on_both_stores};

on_both_stores! {
    the_quota_is_exact
    a_refused_request_uses_up_none_of_any_limit
    headers_say_where_limits_stand
    addresses_principals_and_routes_count_apart
    one_subscriber_of_ipv6_is_one_address
    parallel_clients_get_exactly_the_quota
    the_window_slides
    no_history_breaks_the_bounds
    failed_credentials_are_charged_to_the_address_alone
    a_right_guess_behind_the_limit_looks_like_a_wrong_one
    failed_log_ins_are_limited_and_told_no_standing
    refused_bodies_count_and_preflights_do_not
    a_route_without_limits_says_nothing_of_them
}

/// One limit on `/known`.
fn limit(quota: u32, window: &str, by: &str) -> String {
    format!(
        "[limits.only]\nquota = {quota}\nwindow = \"{window}\"\nby = {by}\nstore_lost = \"deny\"\n[routes.known]\nlimits = [\"only\"]\n"
    )
}

fn assert_limited(answer: &Answer, limits: &[&str]) {
    answer.assert_problem(429, "limit-exceeded");
    let body = answer.json();
    assert_eq!(body["violated_policies"], json!(limits), "{body}");
    assert_eq!(answer.header("retry-after"), body["retry_after"].to_string());
}

fn retry_after(answer: &Answer) -> Duration {
    Duration::from_secs(answer.header("retry-after").parse().expect("whole seconds"))
}

async fn the_quota_is_exact(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &limit(5, "60s", "[\"principal\"]")).await;
    for count in 1..=5 {
        assert_eq!(gateway.client().get("/known").key("reader").send().await.status, 200, "request {count}");
    }
    for client in [gateway.client(), gateway.http2(), gateway.client()] {
        assert_limited(&client.get("/known").key("reader").send().await, &["only"]);
    }
    assert_eq!(worker.seen().len(), 5, "what is refused never reaches the worker");
}

async fn a_refused_request_uses_up_none_of_any_limit(store: Store) {
    let worker = Recorder::start();
    let overlay = "[limits.small]\nquota = 1\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
                   [limits.large]\nquota = 4\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
                   [routes.known]\nlimits = [\"large\", \"small\"]\n";
    let gateway = store.start(&worker, overlay).await;
    let ask = |id: &'static str| gateway.client().get("/known").key(id).send();
    assert_eq!(ask("reader").await.status, 200);
    for _ in 0..20 {
        let refused = ask("reader").await;
        assert_limited(&refused, &["small"]);
        assert!(refused.header("ratelimit").contains("\"large\";r=3;"), "{}", refused.header("ratelimit"));
    }
    for id in ["predictor", "admin", "nobody"] {
        assert_eq!(ask(id).await.status, 200, "{id} is one of the four that `large` admits");
    }
    assert_limited(&ask("second").await, &["large"]);
    assert_limited(&ask("reader").await, &["large", "small"]);
    // Nor did the refusal by `large` use up the one of `small`: seen once `second` comes from elsewhere.
    let elsewhere = gateway.client().get("/known").key("second").header("x-forwarded-for", "192.0.2.1").send().await;
    assert_eq!(elsewhere.status, 200);
    assert_eq!(worker.seen().len(), 5);
}

async fn headers_say_where_limits_stand(store: Store) {
    let worker = Recorder::start();
    let overlay = "[limits.hour]\nquota = 100\nwindow = \"1h\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
                   [limits.minute]\nquota = 2\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
                   [routes.known]\nlimits = [\"hour\", \"minute\"]\n";
    let gateway = store.start(&worker, overlay).await;
    let ask = || gateway.client().get("/known").key("reader").send();
    // The tightest first; a policy's `w` and a standing's `t` in whole seconds, rounded up.
    let first = ask().await;
    assert_eq!(first.header("ratelimit-policy"), "\"minute\";q=2;w=60, \"hour\";q=100;w=3600");
    assert_eq!(first.header("ratelimit"), "\"minute\";r=1;t=60, \"hour\";r=99;t=3600");
    assert_eq!(first.header("retry-after"), "");
    assert!(ask().await.header("ratelimit").starts_with("\"minute\";r=0;t="));
    let refused = ask().await;
    assert_limited(&refused, &["minute"]);
    assert_eq!(refused.header("ratelimit-policy"), "\"minute\";q=2;w=60, \"hour\";q=100;w=3600");
    let wait = retry_after(&refused).as_secs();
    assert!((1..=60).contains(&wait));
    assert!(
        refused.header("ratelimit").starts_with(&format!("\"minute\";r=0;t={wait}, \"hour\";r=98;t=")),
        "{}",
        refused.header("ratelimit")
    );
}

async fn addresses_principals_and_routes_count_apart(store: Store) {
    let worker = Recorder::start();
    let limit = |name: &str, by: &str| {
        format!("[limits.{name}]\nquota = 1\nwindow = \"60s\"\nby = [{by}]\nstore_lost = \"deny\"\n")
    };
    let routes = "[routes.known]\nlimits = [\"a\"]\n[routes.models]\nlimits = [\"p\"]\n[routes.admin]\nlimits = [\"p\"]\n\
                  [routes.model]\nlimits = [\"pr\"]\n[routes.open]\nlimits = [\"r\"]\n";
    let limits = limit("a", "\"address\"")
        + &limit("p", "\"principal\"")
        + &limit("pr", "\"principal\", \"route\"")
        + &limit("r", "\"route\"");
    let gateway = store.start(&worker, &(limits + routes)).await;
    let ask = |path: &'static str, id: &'static str, address: &'static str| {
        let request = gateway.client().get(path).header("x-forwarded-for", address);
        async move { if id.is_empty() { request.send().await.status } else { request.key(id).send().await.status } }
    };
    // By address: whoever asks.
    assert_eq!(ask("/known", "reader", "192.0.2.1").await, 200);
    assert_eq!(ask("/known", "admin", "192.0.2.1").await, 429);
    assert_eq!(ask("/known", "reader", "192.0.2.2").await, 200);
    // By principal: from wherever, on every route with that limit.
    assert_eq!(ask("/models", "admin", "192.0.2.1").await, 200);
    assert_eq!(ask("/models", "admin", "192.0.2.9").await, 429);
    assert_eq!(ask("/admin", "admin", "192.0.2.1").await, 429);
    assert_eq!(ask("/models", "reader", "192.0.2.1").await, 200);
    // By principal and route: `/models/{name}` is one route whatever the name.
    assert_eq!(ask("/models/iris", "admin", "192.0.2.1").await, 200);
    assert_eq!(ask("/models/sentiment", "admin", "192.0.2.1").await, 429);
    assert_eq!(ask("/models/sentiment", "reader", "192.0.2.1").await, 200);
    // By route: all together.
    assert_eq!(ask("/open", "", "192.0.2.1").await, 200);
    assert_eq!(ask("/open", "", "192.0.2.2").await, 429);
}

async fn one_subscriber_of_ipv6_is_one_address(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &limit(1, "60s", "[\"address\"]")).await;
    let mut statuses = Vec::new();
    for address in
        ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::1", "2001:db8:0:1::1", "::ffff:192.0.2.7", "192.0.2.7"]
    {
        let answer = gateway.client().get("/known").key("reader").header("x-forwarded-for", address).send().await;
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [200, 429, 429, 200, 200, 429]);
}

async fn parallel_clients_get_exactly_the_quota(store: Store) {
    let worker = Recorder::start();
    let overlay = limit(25, "60s", "[\"principal\"]")
        + "[limits.wide_too]\nquota = 1000\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n";
    let overlay = overlay.replace("limits = [\"only\"]", "limits = [\"wide_too\", \"only\"]");
    // With Redis, two gateways share the window.
    let mut gateways = vec![store.start(&worker, &overlay).await];
    if matches!(store, Store::Redis(_)) {
        gateways.push(store.start(&worker, &overlay).await);
    }
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..60 {
        let gateway = &gateways[number % gateways.len()];
        let client = if number % 3 == 0 { gateway.http2() } else { gateway.client() };
        clients.spawn(client.get("/known").key("reader").send());
    }
    let answers = clients.join_all().await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    let refused = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((admitted, refused), (25, 35));
    assert_eq!(worker.seen().len(), 25);
}

async fn the_window_slides(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &limit(3, "2s", "[\"principal\"]")).await;
    let ask = || gateway.client().get("/known").key("reader").send();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(ask().await.status, 200);
    }
    let filled = Instant::now();
    let refused = ask().await;
    assert_limited(&refused, &["only"]);
    // Whoever comes when the answer says is admitted, and nobody before a whole window went by.
    tokio::time::sleep(retry_after(&refused)).await;
    assert_eq!(ask().await.status, 200);
    assert!(began.elapsed() >= Duration::from_secs(2));
    // Three windows' worth of time would admit nine; the first window's end is not a new beginning.
    let mut admitted = 4;
    let mut asked = 0;
    while filled.elapsed() < Duration::from_secs(2) {
        admitted += u32::from(ask().await.status == 200);
        asked += 1;
    }
    assert!(admitted <= 6, "{admitted} of {asked} in two windows");
}

/// One request of a history: when it was sent, when its answer was there, and whether it was admitted.
struct Event {
    sent: Instant,
    answered: Instant,
    admitted: bool,
}

async fn no_history_breaks_the_bounds(store: Store) {
    const QUOTA: usize = 4;
    const WINDOW: Duration = Duration::from_secs(1);
    let worker = Recorder::start();
    let gateway = store.start(&worker, &limit(4, "1s", "[\"principal\"]")).await;
    let mut connection = gateway.client().connect().await;
    let began = Instant::now();
    let mut history: Vec<Event> = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(37));
    while began.elapsed() < Duration::from_millis(3500) {
        // Bursts and pauses: seven ticks in a row, then none for five.
        clock.tick().await;
        if history.len() % 7 == 6 {
            for _ in 0..5 {
                clock.tick().await;
            }
        }
        let sent = Instant::now();
        let status = connection.send(gateway.client().get("/known").key("reader")).await.status;
        assert!([200, 429].contains(&status));
        history.push(Event { sent, answered: Instant::now(), admitted: status == 200 });
    }
    let admitted: Vec<&Event> = history.iter().filter(|event| event.admitted).collect();
    assert!(admitted.len() > 2 * QUOTA && admitted.len() < history.len(), "the history shows nothing");
    // The decision fell somewhere between sending and answer; only what holds wherever is held against it.
    for (first, beyond) in admitted.iter().zip(admitted.iter().skip(QUOTA)) {
        assert!(beyond.answered - first.sent >= WINDOW, "one window admitted more than its quota");
    }
    for refused in history.iter().filter(|event| !event.admitted) {
        let counted =
            admitted.iter().filter(|event| event.sent < refused.answered && event.answered + WINDOW > refused.sent);
        assert!(counted.count() >= QUOTA, "refused while fewer than the quota were admitted in the last window");
    }
}

async fn failed_credentials_are_charged_to_the_address_alone(store: Store) {
    let worker = Recorder::start();
    let overlay = "[limits.guess]\nquota = 3\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n\
                   [limits.each]\nquota = 1\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
                   [routes.known]\nlimits = [\"guess\", \"each\"]\n[routes.admin]\nlimits = [\"guess\", \"each\"]\n";
    let gateway = store.start(&worker, overlay).await;
    let from = |address: &'static str| gateway.client().get("/known").header("x-forwarded-for", address);
    let token = gateway.signer().token(&json!({ "exp": 1 }));
    for answer in [
        from("192.0.2.1").key("unknown").send().await,
        from("192.0.2.1").send().await,
        from("192.0.2.1").bearer(&token).send().await,
    ] {
        assert_eq!(answer.status, 401, "{}", answer.text());
        // Where a guesser stands is not their business (draft-ietf-httpapi-ratelimit-headers, security).
        assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (String::new(), String::new()));
    }
    assert_limited(&from("192.0.2.1").key("unknown").send().await, &["guess"]);
    worker.assert_untouched();
    // Others are not touched by it, and nothing was charged to a principal.
    assert_eq!(from("192.0.2.2").key("reader").send().await.status, 200);
    // A refusal for want of a role is charged in the same way.
    let admin = || gateway.client().get("/admin").key("second").header("x-forwarded-for", "192.0.2.3").send();
    for _ in 0..3 {
        admin().await.assert_problem(403, "role-missing");
    }
    assert_limited(&admin().await, &["guess"]);
    assert_eq!(worker.seen().len(), 1);
    assert_eq!(from("192.0.2.4").key("second").send().await.status, 200, "the principal's own limit is whole");
}

async fn a_right_guess_behind_the_limit_looks_like_a_wrong_one(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, &limit(2, "60s", "[\"address\"]")).await;
    for _ in 0..2 {
        assert_eq!(gateway.client().get("/known").key("unknown").send().await.status, 401);
    }
    let wrong = gateway.client().get("/known").key("unknown").send().await;
    let right = gateway.client().get("/known").key("reader").send().await;
    assert_limited(&wrong, &["only"]);
    assert_limited(&right, &["only"]);
    let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&wrong), names(&right));
    let mut bodies = [wrong.json(), right.json()];
    for body in &mut bodies {
        harness::identity::change(body, &json!({ "request_id": null, "retry_after": null, "detail": null }));
    }
    assert_eq!(bodies[0], bodies[1]);
    worker.assert_untouched();
}

async fn failed_log_ins_are_limited_and_told_no_standing(store: Store) {
    let worker = Recorder::start();
    let overlay = "[limits.login]\nquota = 2\nwindow = \"60s\"\nby = [\"address\", \"route\"]\nstore_lost = \"deny\"\n\
                   [routes.token]\nlimits = [\"login\"]\n";
    let gateway = store.start(&worker, overlay).await;
    let wrong = gateway.client().token("grant_type=password&username=alice&password=x").send().await;
    assert_eq!((wrong.status, wrong.header("ratelimit")), (400, String::new()));
    let right =
        gateway.client().token("grant_type=password&username=alice&password=correct+horse+battery+staple").send().await;
    assert_eq!(right.status, 200, "{}", right.text());
    assert!(right.header("ratelimit").starts_with("\"login\";r=0;"));
    let refused =
        gateway.client().token("grant_type=password&username=alice&password=correct+horse+battery+staple").send().await;
    assert_eq!(refused.status, 429);
    assert!(!refused.header("retry-after").is_empty());
    // Another route has a window of its own.
    assert_eq!(gateway.client().get("/known").key("reader").send().await.status, 200);
}

async fn refused_bodies_count_and_preflights_do_not(store: Store) {
    let worker = Recorder::start();
    let overlay = "[limits.two]\nquota = 2\nwindow = \"60s\"\nby = [\"address\"]\nstore_lost = \"deny\"\n[routes.predict]\nlimits = [\"two\"]\n";
    let gateway = store.start(&worker, overlay).await;
    let preflight = || {
        let request = gateway.client().request("OPTIONS", "/predict").header("origin", "https://app.example.com");
        request.header("access-control-request-method", "POST").send()
    };
    for _ in 0..5 {
        let answer = preflight().await;
        assert_eq!((answer.status, answer.header("ratelimit")), (204, String::new()));
    }
    for left in [1, 0] {
        let answer = gateway.client().post("/predict").key("predictor").json(&json!({})).send().await;
        answer.assert_problem(422, "body-invalid");
        assert!(
            answer.header("ratelimit").starts_with(&format!("\"two\";r={left};")),
            "{}",
            answer.header("ratelimit")
        );
    }
    assert_limited(&gateway.client().predict("predictor").send().await, &["two"]);
    assert_eq!(preflight().await.status, 204);
    worker.assert_untouched();
}

async fn a_route_without_limits_says_nothing_of_them(store: Store) {
    let worker = Recorder::start();
    let gateway = store.start(&worker, "[routes.known]\nlimits = []\n").await;
    let answer = gateway.client().get("/known").key("reader").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!((answer.header("ratelimit"), answer.header("ratelimit-policy")), (String::new(), String::new()));
}

#[tokio::test]
async fn a_full_memory_forgets_nobody_and_takes_nobody_new() {
    let worker = Recorder::start();
    let overlay = limit(3, "60s", "[\"address\"]") + "[store]\nmax_windows = 64\n";
    let gateway = Store::Memory.start(&worker, &overlay).await;
    let mut connection = gateway.client().connect().await;
    let from = |number: u32| {
        gateway.client().get("/known").key("reader").header("x-forwarded-for", &format!("192.0.2.{number}"))
    };
    for number in 0..64 {
        assert_eq!(connection.send(from(number)).await.status, 200);
    }
    connection.send(from(64)).await.assert_problem(503, "limit-store-lost");
    for status in [200, 200, 429] {
        assert_eq!(connection.send(from(0)).await.status, status, "who is known is counted on");
    }
    assert_eq!(worker.seen().len(), 66);
}
