//! Issuers that can't be trusted as they are written are named before anything starts.

use harness::{Gateway, Signer};

use super::corp;

/// What `gateway check` says to a policy.
fn said(policy: &str) -> String {
    let builder = Gateway::builder().file("corp.pem", Signer::es256().public()).variable("IDP_SECRET", "s");
    let output = builder.policy(policy).output("check");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const KEY: &str = "algorithms = [\"ES256\"]\npublic_key = \"corp.pem\"\n";
const ASKED: &str = "[issuers.corp.introspection]\nurl = \"https://idp.example/introspect\"\nclient_id = \"modelgate\"\n\
                     client_secret = { env = \"IDP_SECRET\" }\n";

#[test]
fn good_ones_are_taken() {
    for policy in [
        corp(KEY),
        corp("algorithms = [\"RS256\", \"EdDSA\"]\ndiscovery = true\nkeys_kept = \"7d\""),
        corp(&format!("{KEY}{ASKED}")),
        corp(&format!("{KEY}{ASKED}tokens = \"all\"\ncache_for = \"5m\"\nrate = 5\ndanger_any_audience = true")),
        corp(ASKED),
        corp(&format!("{KEY}[issuers.corp.roles_map]\nboss = \"admin\"\nstaff = []")),
    ] {
        assert_eq!(said(&policy), "", "{policy}");
    }
}

#[test]
fn each_mistake_is_named_with_its_place() {
    let asked = |more: &str| corp(&format!("{KEY}{ASKED}{more}"));
    for (policy, place, reason) in [
        (corp(""), "issuers.corp.algorithms", "is missing"),
        (corp("algorithms = [\"ES256\"]"), "issuers.corp.jwks_url", "is missing"),
        (corp(&format!("{KEY}jwks_url = \"https://x.example\"")), "issuers.corp.jwks_url", "stands beside other keys"),
        (corp(&format!("{KEY}discovery = true")), "issuers.corp.discovery", "stands beside other keys"),
        (corp("algorithms = [\"ES256\"]\ndiscovery = false"), "issuers.corp.discovery", "is false"),
        (
            corp("algorithms = [\"ES256\"]\ndiscovery = true").replace("https:", "http:"),
            "issuers.corp.issuer",
            "does not begin with https://",
        ),
        (
            corp("algorithms = [\"HS256\"]\ndiscovery = true"),
            "issuers.corp.algorithms",
            "what is published is no secret",
        ),
        (
            corp("algorithms = [\"ES256\"]\ndiscovery = true\nkeys_kept = \"8d\""),
            "issuers.corp.keys_kept",
            "is more than a week",
        ),
        (
            corp("algorithms = [\"ES256\"]\ndiscovery = true\nkeys_kept = \"1s\""),
            "issuers.corp.keys_kept",
            "can't be tried again",
        ),
        (corp(&format!("{KEY}keys_kept = \"1h\"")), "issuers.corp.keys_kept", "is not a key that is known here"),
        (corp(&format!("{KEY}ca = \"corp.pem\"")), "issuers.corp.ca", "stands beside keys that nobody fetches"),
        (
            corp(&format!("{KEY}[issuers.corp.roles_map]\nboss = \"amdin\"")),
            "issuers.corp.roles_map.boss",
            "names the role \"amdin\", which is not defined",
        ),
        (
            corp(&format!("{KEY}[issuers.corp.roles_map]\nboss = [\"reader\", \"amdin\"]")),
            "issuers.corp.roles_map.boss.1",
            "names the role \"amdin\", which is not defined",
        ),
        (asked("").replace("https://idp.example/i", "http://idp.example/i"), "issuers.corp.introspection.url", "https"),
        (asked("cache_for = \"6m\""), "issuers.corp.introspection.cache_for", "is more than five minutes"),
        (asked("rate = 0"), "issuers.corp.introspection.rate", "is 0"),
        (asked("tokens = \"some\""), "issuers.corp.introspection.tokens", "is not one of its choices"),
        (corp("[issuers.corp.introspection]"), "issuers.corp.introspection.url", "is missing"),
        (corp("[issuers.corp.introspection]"), "issuers.corp.introspection.client_secret", "is missing"),
        (
            asked("").replace("{ env = \"IDP_SECRET\" }", "\"hunter2\""),
            "issuers.corp.introspection.client_secret",
            "is written out",
        ),
        (
            asked("") + &asked("").replace("corp", "other").replace("other.pem", "corp.pem").replace("idp.", "idp2."),
            "issuers",
            "an opaque token does not say which of them to ask",
        ),
    ] {
        let said = said(&policy);
        assert!(said.contains(place) && said.contains(reason), "{policy}\n{place}: {reason}\n{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
