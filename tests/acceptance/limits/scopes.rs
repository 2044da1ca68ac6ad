//! Who shares a window, and for whom it is wider.

use harness::Reply;

use super::*;
use crate::stores::on_both_stores;

on_both_stores! {
    each_scope_counts_what_it_names
    models_are_counted_by_name_and_by_path
    a_header_counts_where_a_trusted_proxy_sent_it
    prefixes_of_ipv6_are_as_wide_as_they_say
    combinations_count_each_combination
    roles_and_principals_can_have_more
}

/// What each of a list of requests is answered.
async fn statuses(requests: impl IntoIterator<Item = harness::Request>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.send().await.status);
    }
    statuses
}

async fn each_scope_counts_what_it_names(store: Store) {
    let worker = Recorder::start();
    let one = |name: &str, by: &str| limit(name, &format!("quota = 1\nby = [{by}]"));
    let policy = one("a", "\"address\"")
        + &one("key", "\"api_key\"")
        + &one("role", "\"role\"")
        + &one("route", "\"route\"")
        + &one("pool", "\"pool\"")
        + "[routes.known]\nlimits = [\"a\"]\n[routes.models]\nlimits = [\"key\"]\n[routes.model]\nlimits = [\"role\"]\n\
           [routes.admin]\nlimits = [\"route\"]\n[routes.open]\nlimits = [\"pool\"]\n[routes.sentiment]\nlimits = [\"pool\"]\n";
    let gateway = store.start(&worker, &policy).await;
    let get = |path: &str, id: &str, from: &str| gateway.client().get(path).key(id).header("x-forwarded-for", from);
    let here = "192.0.2.1";
    assert_eq!(
        statuses([get("/known", "reader", here), get("/known", "admin", here), get("/known", "reader", "192.0.2.2")])
            .await,
        [200, 429, 200]
    );
    let asked = [get("/models", "admin", here), get("/models", "second", here), get("/models", "admin", "192.0.2.2")];
    assert_eq!(statuses(asked).await, [200, 200, 429]);
    // A token is no key; it counts for whom it was given to.
    let tokens = ["alice", "bob"].map(|sub| gateway.signer().token(&json!({ "sub": sub, "roles": ["reader"] })));
    let bearers = [&tokens[0], &tokens[1], &tokens[0]].map(|token| gateway.client().get("/models").bearer(token));
    assert_eq!(statuses(bearers).await, [200, 200, 429]);
    // By the role that opened the route: one that all of them have.
    assert_eq!(statuses(["reader", "second", "admin"].map(|id| get("/models/iris", id, here))).await, [200, 429, 429]);
    assert_eq!(statuses(["admin", "admin"].map(|id| get("/admin", id, here))).await, [200, 429]);
    // The pool's window is one for all of its routes.
    let text = gateway.client().post("/sentiment").key("predictor").json(&json!({ "text": "good" }));
    assert_eq!(statuses([gateway.client().get("/open"), gateway.client().get("/open"), text]).await, [200, 429, 429]);
}

async fn models_are_counted_by_name_and_by_path(store: Store) {
    let worker = Recorder::start();
    let policy = limit("model", "quota = 2\nby = [\"model\"]")
        + "[routes.known]\nlimits = [\"model\"]\nmodel = \"iris\"\n[routes.models]\nlimits = [\"model\"]\nmodel = \"sentiment\"\n\
           [routes.each]\npath = \"/v2/models/{model}/infer\"\nmethods = [\"GET\"]\npool = \"models\"\nauthorize = \"authenticated\"\nlimits = [\"model\"]\n";
    let gateway = store.start(&worker, &policy).await;
    let get = |path: &str| gateway.client().get(path).key("reader");
    let paths = [
        "/known",
        "/v2/models/iris/infer",
        "/v2/models/iris/infer",
        "/known",
        "/models",
        "/v2/models/other/infer",
        "/v2/models/Iris/infer",
    ];
    assert_eq!(statuses(paths.map(get)).await, [200, 200, 429, 429, 200, 200, 200]);
    // Escaped or not, a path has one form.
    let paths = ["/v2/models/%6fther/infer", "/v2/models/other/infer"];
    assert_eq!(statuses(paths.map(get)).await.last(), Some(&429));
}

async fn a_header_counts_where_a_trusted_proxy_sent_it(store: Store) {
    let worker = Recorder::start();
    let policy = limit("tenant", "quota = 1\nby = [\"header:X-Tenant\"]") + "[routes.known]\nlimits = [\"tenant\"]\n";
    let gateway = store.start(&worker, &policy).await;
    let tenant = |name: &str| gateway.client().get("/known").key("reader").header("x-tenant", name);
    assert_eq!(statuses(["a", "a", "b", "A"].map(tenant)).await, [200, 429, 200, 200]);
    let nobody = || gateway.client().get("/known").key("reader");
    assert_eq!(statuses([nobody(), nobody()]).await, [200, 429], "those without one share one window");
    let twice = || tenant("a").header("x-tenant", "b");
    assert_eq!(statuses([twice(), twice(), tenant("a, b")]).await, [200, 429, 200]);

    // Nobody else chooses their window: all of theirs are one.
    let other = policy.replace("tenant\"", "tenant2\"").replace("limits.tenant", "limits.tenant2");
    let gateway =
        store.gateway(&worker, &other).policy("[client_address]\ntrusted_proxies = [\"192.0.2.0/24\"]\n").start().await;
    let tenant = |name: &str| gateway.client().get("/known").key("reader").header("x-tenant", name);
    assert_eq!(statuses(["a", "b", "c"].map(tenant)).await, [200, 429, 429]);
}

async fn prefixes_of_ipv6_are_as_wide_as_they_say(store: Store) {
    let worker = Recorder::start();
    for (prefix, expected) in [
        ("", [200, 429, 200, 200]),
        ("ipv6_prefix = 48", [200, 429, 429, 200]),
        ("ipv6_prefix = 128", [200, 200, 200, 200]),
    ] {
        let policy = limit("address", &format!("quota = 1\nby = [\"address\"]\n{prefix}"))
            + "[routes.known]\nlimits = [\"address\"]\n";
        let gateway = store.start(&worker, &policy).await;
        let from = |address: &str| gateway.client().get("/known").key("reader").header("x-forwarded-for", address);
        let addresses = ["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:3::1", "2001:db8:2::1"];
        assert_eq!(statuses(addresses.map(from)).await, expected, "{prefix}");
        if let Store::Redis(redis) = &store {
            redis.tell("FLUSHALL");
        }
    }
}

async fn combinations_count_each_combination(store: Store) {
    let worker = Recorder::start();
    let policy = limit("all", "quota = 1\nby = [\"principal\", \"address\", \"route\", \"header:X-Tenant\"]")
        + "[routes.known]\nlimits = [\"all\"]\n[routes.models]\nlimits = [\"all\"]\n";
    let gateway = store.start(&worker, &policy).await;
    let ask = |(path, id, from, tenant): (&str, &str, &str, &str)| {
        gateway.client().get(path).key(id).header("x-forwarded-for", from).header("x-tenant", tenant)
    };
    let asked = [
        ("/known", "reader", "192.0.2.1", "a"),
        ("/known", "reader", "192.0.2.1", "a"),
        ("/models", "reader", "192.0.2.1", "a"),
        ("/known", "admin", "192.0.2.1", "a"),
        ("/known", "reader", "192.0.2.2", "a"),
        ("/known", "reader", "192.0.2.1", "b"),
        // What divides the parts of a key is no way into another's window.
        ("/known", "reader", "192.0.2.1", "a:principal=key%3Aadmin"),
        ("/known", "reader", "192.0.2.2", "a"),
    ];
    assert_eq!(statuses(asked.map(ask)).await, [200, 429, 200, 200, 200, 200, 200, 429]);
}

async fn roles_and_principals_can_have_more(store: Store) {
    let worker = Recorder::replying(Reply::json(&json!({})));
    let policy = limit(
        "each",
        "quota = 1\n[limits.each.roles]\nreader = 2\npredictor = 4\n[limits.each.principals]\n\"key:second\" = 3\n\"user:alice\" = 100000",
    ) + "[routes.known]\nlimits = [\"each\"]\n";
    let gateway = store.start(&worker, &policy).await;
    // `admin` includes `predictor`, which includes `reader`: the most of what its roles have.
    for (id, quota) in [("nobody", 1), ("reader", 2), ("predictor", 4), ("admin", 4), ("second", 3)] {
        for rest in (0..quota).rev() {
            let answer = gateway.client().get("/known").key(id).send().await;
            assert_eq!((answer.status, left(&answer, "ratelimit", "each")), (200, Some(rest)), "{id}");
            assert_eq!(answer.header("ratelimit-policy"), format!("\"each\";q={quota};w=60"), "{id}");
        }
        let refused = gateway.client().get("/known").key(id).send().await;
        assert_limited(&refused, &["each"]);
        assert_eq!(refused.header("ratelimit-policy"), format!("\"each\";q={quota};w=60"), "{id}");
    }
    let token = gateway.signer().token(&json!({ "sub": "alice", "roles": [] }));
    let alice = gateway.client().get("/known").bearer(&token).send().await;
    assert_eq!((alice.status, left(&alice, "ratelimit", "each")), (200, Some(99_999)));
}
