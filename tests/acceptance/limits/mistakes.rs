//! Limits that can't be kept as they are written are named before anything starts.

use super::*;

/// What `gateway check` says to a policy, without the count and the places.
fn said(policy: &str) -> String {
    let output = Gateway::builder().policy(policy).output("check");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let failures = "count = \"failures\"\nquota = 5";
    for (policy, place, reason) in [
        (
            limit("x", &format!("{failures}\nby = [\"user\"]")) + "[routes.token]\nlimits = [\"x\"]\n",
            "limits.x.by",
            "counts log-ins by user and not by address, so that anybody could lock a user out",
        ),
        (
            limit("x", &format!("{failures}\nby = [\"address\"]")) + "[routes.known]\nlimits = [\"x\"]\n",
            "routes.known.limits",
            "names \"x\", which counts failed log-ins, and this route has none",
        ),
        (limit("x", "quota = 5\nwindow = \"32d\""), "limits.x.window", "is longer than 31 days"),
        (
            limit("x", "quota = 5\ncost = \"rows\"") + "[routes.upload]\nlimits = [\"x\"]\n",
            "routes.upload.limits",
            "names \"x\", which counts rows, and this route reads no JSON",
        ),
        (
            limit("x", "quota = 5\ncost = \"bytes\"") + "[routes.known]\nlimits = [\"x\"]\n",
            "routes.known.limits",
            "names \"x\", which counts the body's bytes, and this route takes none",
        ),
        (
            limit("x", "quota = 5\nby = [\"model\"]") + "[routes.known]\nlimits = [\"x\"]\n",
            "routes.known.limits",
            "names \"x\", which counts by model, and this route names none",
        ),
        (
            limit("x", "quota = 5\nby = [\"address\", \"user\"]") + "[routes.known]\nlimits = [\"x\"]\n",
            "routes.known.limits",
            "names \"x\", which counts by user, and only a token request names one",
        ),
        (limit("x", "quota = 5\n[limits.x.roles]\nraeder = 7"), "limits.x.roles", "raeder"),
        (
            limit("x", "quota = 5\nmax_delay = \"2s\""),
            "limits.x.max_delay",
            "says how to hold requests that are not held",
        ),
        (
            "[limits.x]\nin_flight = 5\nby = [\"principal\"]\nwhen_full = \"throttle\"\n".into(),
            "limits.x.when_full",
            "is \"throttle\", and nobody knows when a request in flight ends",
        ),
        // Without a principal there is no key and no role either.
        (
            limit("x", "quota = 5\nby = [\"role\"]") + "[routes.open]\nlimits = [\"x\"]\n",
            "routes.open.limits",
            "this route proves none",
        ),
        (
            limit("x", "quota = 5\nby = [\"api_key\"]") + "[routes.token]\nlimits = [\"x\"]\n",
            "routes.token.limits",
            "this route proves none",
        ),
        // A reserve that never has room, and one that is none.
        (
            limit("x", "quota = 5\ncost = \"answer\"\nanswer_at = \"/n\"\nreserve = 6"),
            "limits.x.reserve",
            "is more than the quota",
        ),
        (limit("x", "quota = 5\ncost = \"answer\"\nanswer_at = \"/n\"\nreserve = 0"), "limits.x.reserve", "is 0"),
        // Two limits that look for rows in two places.
        (
            limit("x", "quota = 5\ncost = \"rows\"\nrows_at = \"/a\"")
                + &limit("y", "quota = 5\ncost = \"rows\"")
                + &any_json("[\"x\", \"y\"]"),
            "routes.any.limits",
            "rows in different places",
        ),
        // A body that is passed on as it comes would be held in memory for its bytes to be counted.
        (
            limit("x", "quota = 5000000000\ncost = \"bytes\"")
                + "[routes.upload]\nlimits = [\"x\"]\n[routes.upload.body]\nmax = \"1GiB\"\n",
            "routes.upload.limits",
            "can't be held in memory whole",
        ),
        // Who has no place may not be told by a name that is not there yet.
        (
            "[limits.x]\nin_flight = 5\nby = [\"address\", \"user\"]\n[routes.token]\nlimits = [\"x\"]\n".into(),
            "limits.x.by",
            "in flight",
        ),
    ] {
        let said = said(&policy);
        let line = said.lines().find(|line| line.trim_end().ends_with(&format!("  {place}")));
        assert!(said.starts_with("error: 1 mistake") && line.is_some() && said.contains(reason), "{policy}\n{said}");
        assert!(said.contains("\n    help: "), "{said}");
    }
}

#[test]
fn what_can_be_kept_is_no_mistake() {
    for policy in [
        limit("x", "quota = 1099511627776\nwindow = \"31d\""),
        limit("x", "quota = 65535\nform = \"exact\""),
        limit("x", "quota = 5\nform = \"buckets\"\nbuckets = 10000"),
        limit("x", "quota = 5\nby = [\"address\"]\nipv6_prefix = 128"),
        limit("x", "quota = 5\nby = [\"address\", \"user\"]\ncount = \"failures\"")
            + "[routes.token]\nlimits = [\"x\"]\n",
        limit("x", "quota = 5\nstore_lost = \"local\"\nlocal_percent = 1"),
        limit("x", "quota = 5\nwhen_full = \"throttle\"\nmax_delay = \"60s\"\nmax_held = 10000"),
    ] {
        assert_eq!(said(&policy), "", "{policy}");
    }
}
