//! A policy that can be asked: what would become of a request, whether cases hold, who may call what.

use std::path::Path;
use std::process::{Command, Output};

use harness::{Gateway, Recorder, binary, eventually};
use serde_json::Value;

const POLICY: &str = r#"
[defaults]
authenticate = ["api_key"]
limits = ["few"]
[roles.reader]
[limits.few]
quota = 5
window = "60s"
by = ["principal"]
store_lost = "deny"
[limits.rows]
quota = 2
cost = "rows"
window = "60s"
by = ["principal"]
store_lost = "deny"
[api_keys.team-a]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
owner = "Team A"
roles = ["reader"]
expires = "2030-01-01T00:00:00Z"
[routes.known]
path = "/known"
methods = ["GET"]
pool = "models"
authorize = ["reader"]
[routes.rows]
path = "/rows"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
limits = ["rows"]
body = {}
"#;

const MECHANISM: &str = r#"
[listener]
certificate = "not-made-yet.pem"
[pools.models]
workers = ["http://127.0.0.1:9"]
"#;

/// A directory with a configuration and cases.
fn world(cases: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("it can be written");
    write("gateway.toml", MECHANISM);
    write("policy.toml", POLICY);
    write("cases.toml", cases);
    directory
}

fn gateway(directory: &Path, words: &[&str]) -> Output {
    let files = ["--config", "gateway.toml", "--config", "policy.toml"];
    let mut command = Command::new(binary("gateway"));
    command.current_dir(directory).args(words).args(files).output().expect("it runs")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stdout.clone()).expect("text"))
}

#[test]
fn a_request_is_explained_stage_by_stage_with_the_line_that_says_so() {
    let directory = world("");
    let (code, text) = said(&gateway(directory.path(), &["explain", "GET", "/known", "--as", "team-a"]));
    assert_eq!(code, Some(0), "{text}");
    let expected = "GET /known as team-a\n\n  \
                    path          /known at localhost\n  \
                    route         known                                      policy.toml:23:1\n  \
                    authenticate  key:team-a by api_key                      policy.toml:3:1\n  \
                    authorize     the role reader opens it                   policy.toml:26:1\n  \
                    limit         few: costs 1 of 5 requests in 60 s         policy.toml:6:9\n  \
                    forward       to the pool models, as GET /known          policy.toml:25:1\n\nallowed\n";
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), expected.split_whitespace().collect::<Vec<_>>(), "{text}");
}

#[test]
fn a_refusal_is_explained_too() {
    let directory = world("");
    std::fs::write(directory.path().join("body.json"), "[1, 2, 3]").expect("it can be written");
    for (words, slug) in [
        (&["GET", "/known"][..], "401 credential-missing"),
        (&["GET", "/known", "--as", "team-b"], "401 api-key-unknown"),
        (&["GET", "/known", "--as", "user:alice"], "401 credential-missing"),
        (&["GET", "/known", "--as", "role:nobody"], "403 role-missing"),
        (&["DELETE", "/known", "--as", "team-a"], "405 method-not-allowed"),
        (&["GET", "/nowhere", "--as", "team-a"], "404 not-found"),
        (&["GET", "/a/../b", "--as", "team-a"], "400 path-ambiguous"),
        (&["POST", "/rows", "--as", "team-a", "--body", "body.json"], "413 limit-too-small"),
    ] {
        let words = [&["explain"], words].concat();
        let (code, text) = said(&gateway(directory.path(), &words));
        assert_eq!(code, Some(1), "{words:?}: {text}");
        assert!(text.contains(&format!("refused: {slug}")), "{words:?}: {text}");
        let json = said(&gateway(directory.path(), &[&words[..], &["--json"]].concat())).1;
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&json["allowed"], json["refused"]["reason"].as_str()),
            (&Value::Bool(false), slug.split(' ').nth(1))
        );
    }
}

#[test]
fn cases_hold_or_it_is_said_where_and_why_not() {
    let good = "[case.readers-know]\nrequest = \"GET /known\"\nas = \"team-a\"\nexpect = \"allowed\"\n\
                [case.keys-end]\nrequest = \"GET /known\"\nas = \"team-a\"\nat = \"2031-01-01T00:00:00Z\"\n\
                expect = \"refused\"\nreason = \"api-key-expired\"\n";
    let directory = world(good);
    let (code, text) = said(&gateway(directory.path(), &["test", "cases.toml"]));
    assert_eq!(code, Some(0), "{text}");
    for line in [
        "not exercised: routes.rows: no request that is allowed",
        "not exercised: limits.rows: no request that meets it",
        "2 cases, all hold; 3 rules that no case exercised",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let bad = "[case.strangers-know]\nrequest = \"GET /known\"\nexpect = \"allowed\"\nroute = \"known\"\n";
    let directory = world(bad);
    let (code, text) = said(&gateway(directory.path(), &["test", "cases.toml"]));
    assert_eq!(code, Some(1), "{text}");
    for line in ["fails: strangers-know", "cases.toml:3:1", "it must be allowed, and is refused: credential-missing"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn rights_are_explained_tested_and_shown() {
    let rights = "[rights.iris]\nroles = [\"reader\"]\nmodels = [\"iris\"]\nscopes = [\"predict\"]\nclaims = { mfa = true }\n\
                  networks = [\"10.0.0.0/8\"]\nhours = \"08:00-18:00\"\n[routes.infer]\npath = \"/v2/models/{model}\"\n\
                  methods = [\"GET\"]\npool = \"models\"\nrights = [\"iris\"]\nauthenticate = [\"jwt\"]\n\
                  [issuers.corp]\nissuer = \"https://corp.example.com\"\naudience = \"modelgate\"\nalgorithms = [\"HS256\"]\n\
                  secret = { env = \"PATH\" }\n[routes.tried]\npath = \"/tried\"\nmethods = [\"GET\"]\npool = \"models\"\n\
                  authorize = [\"reader\"]\ndanger_shadow = [\"authenticate\", \"authorize\"]\n";
    let case = |name: &str, more: &str| {
        format!("[case.{name}]\nrequest = \"GET /v2/models/iris\"\nas = \"role:reader\"\n{more}\n")
    };
    let whole = "scopes = [\"predict\"]\nclaims = { mfa = true }\nfrom = \"10.1.2.3\"\nat = \"2026-11-02T08:00:00Z\"\n";
    let cases = case("all-of-it", &format!("{whole}expect = \"allowed\""))
        + &case(
            "no-scope",
            &format!("{}expect = \"refused\"\nreason = \"scope-missing\"", whole.replace("predict", "x")),
        )
        + &case(
            "no-claim",
            &format!("{}expect = \"refused\"\nreason = \"condition-unmet\"", whole.replace("mfa", "x")),
        )
        + &case(
            "at-night",
            &format!("{}expect = \"refused\"\nreason = \"condition-unmet\"", whole.replace("T08", "T07")),
        )
        + &case(
            "abroad",
            &format!("{}expect = \"refused\"\nreason = \"condition-unmet\"", whole.replace("10.1", "11.1")),
        );
    let directory = world(&cases);
    std::fs::write(directory.path().join("policy.toml"), format!("{POLICY}{rights}")).expect("it can be written");
    let (code, text) = said(&gateway(directory.path(), &["test", "cases.toml"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("5 cases, all hold") && !text.contains("rights.iris"), "{text}");

    let (code, text) = said(&gateway(directory.path(), &["routes"]));
    assert_eq!(code, Some(0));
    let who = "reader (for iris, scope predict, its claims, from 10.0.0.0/8, 08:00-18:00 UTC)";
    assert!(text.contains(who), "{text}");

    let asked = ["explain", "GET", "/v2/models/iris", "--as", "role:reader", "--scope", "predict", "--claims"];
    let rest = ["{\"mfa\": true}", "--from", "10.1.2.3", "--at", "2026-11-02T09:00:00Z"];
    let (code, text) = said(&gateway(directory.path(), &[&asked[..], &rest].concat()));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("the role reader opens it, by the right iris"), "{text}");
    let (code, text) = said(&gateway(directory.path(), &["explain", "GET", "/tried"]));
    assert_eq!(code, Some(0), "{text}");
    for line in ["would refuse: credential-missing", "would refuse: role-missing", "only tried out"] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn mistakes_in_cases_are_told_as_mistakes_in_a_policy_are() {
    let directory = world("[case.a]\nrequest = \"GET\"\nexpect = \"allowd\"\nraeson = \"x\"\n");
    let output = gateway(directory.path(), &["test", "cases.toml"]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).expect("text");
    for line in
        ["3 mistakes", "cases.toml:2:1  case.a.request", "cases.toml:3:1  case.a.expect", "did you mean `reason`?"]
    {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn routes_are_a_table() {
    let directory = world("");
    let (code, text) = said(&gateway(directory.path(), &["routes"]));
    assert_eq!(code, Some(0));
    let row = |name: &str| {
        text.lines().find(|line| line.contains(name)).unwrap_or_default().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("/known"), ["GET", "/known", "known", "api_key", "reader", "few", "models"]);
    assert_eq!(row("/rows"), ["POST", "/rows", "rows", "api_key", "reader", "rows", "models"]);
}

/// The shipped policy and its cases.
#[test]
fn the_shipped_cases_hold_and_leave_nothing_out() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let mechanism = world("");
    // The files name development certificates, which a test does not make.
    let text = std::fs::read_to_string(root.join("config/policy.toml")).expect("it is there");
    let text = text.replace("certs/dev/token.key", "token.key");
    std::fs::write(mechanism.path().join("policy.toml"), text).expect("it can be written");
    std::fs::write(mechanism.path().join("token.key"), harness::Signing::Es256.signer().private()).expect("a key");
    let cases = root.join("config/policy.tests.toml");
    let (code, text) = said(&gateway(mechanism.path(), &["test", &cases.to_string_lossy()]));
    assert_eq!((code, text.as_str()), (Some(0), "17 cases, all hold; 0 rules that no case exercised\n"));

    // The example that is laid over it has cases of its own.
    let overlay = root.join("config/oip-v2.toml").to_string_lossy().into_owned();
    let cases = root.join("config/oip-v2.tests.toml").to_string_lossy().into_owned();
    let (code, text) = said(&gateway(mechanism.path(), &["test", &cases, "--config", &overlay]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("37 cases, all hold"), "{text}");
    for own in ["routes.v2", "routes.grpc", "limits.v2"] {
        assert!(!text.contains(&format!("not exercised: {own}")), "{text}");
    }
}

#[tokio::test]
async fn a_request_is_found_in_the_log() {
    let worker = Recorder::start();
    let running = Gateway::before(&worker).await;
    let refused = running.client().get("/known").send().await;
    let id = refused.json()["request_id"].as_str().expect("an id").to_owned();
    let lines = eventually("both records are written", async || {
        let lines = running.log().matching(|line| line["request_id"] == id.as_str());
        (lines.len() == 2).then_some(lines)
    })
    .await;
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    std::fs::write(&log, format!("no JSON\n{}\n", text.join("\n"))).expect("it can be written");
    let why =
        |id: &str| Command::new(binary("gateway")).args(["why", id, "--log"]).arg(&log).output().expect("it runs");
    let (code, text) = said(&why(&id));
    assert_eq!(code, Some(0));
    assert!(text.contains("credential-missing") && text.contains("access") && text.contains("security"), "{text}");
    assert_eq!(said(&why("0")).0, Some(1));
}

#[tokio::test]
async fn a_live_explanation_knows_what_is_used() {
    let worker = Recorder::start();
    let policy = "[reload]\nwatch = false\n[limits.few]\nquota = 2\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
                  [routes.known]\nlimits = [\"few\"]\n";
    let running = Gateway::builder().worker(&worker).policy(policy).start().await;
    let explain = || {
        let admin = running.operator();
        let files = (0..3).flat_map(|index| ["--config".to_owned(), format!("{index}.toml")]);
        let output = Command::new(binary("gateway"))
            .current_dir(running.directory())
            .env("TOKEN_SECRET", harness::identity::SECRET)
            .args(["explain", "GET", "/known", "--as", "reader", "--live", "--admin", &admin])
            .args(files)
            .output();
        said(&output.expect("it runs"))
    };
    assert_eq!(running.client().get("/known").key("reader").send().await.status, 200);
    let (code, text) = explain();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 used (principal=key:reader)"), "{text}");
    assert_eq!(running.client().get("/known").key("reader").send().await.status, 200);
    let (code, text) = explain();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("refused: 429 limit-exceeded"), "{text}");
}

#[tokio::test]
async fn what_a_caller_has_used_is_shown_and_forgotten() {
    for redis in [None, Some(harness::Redis::start().await)] {
        let worker = Recorder::start();
        let policy = "[limits.few]\nquota = 2\nwindow = \"60s\"\nby = [\"principal\", \"route\"]\nstore_lost = \"deny\"\n\
                      [routes.known]\nlimits = [\"few\"]\n";
        let mut builder = Gateway::builder().worker(&worker).policy(policy);
        if let Some(redis) = &redis {
            builder = builder.redis(redis);
        }
        let running = builder.start().await;
        for status in [200, 200, 429] {
            assert_eq!(running.client().get("/known").key("reader").send().await.status, status);
        }
        assert_eq!(running.client().get("/known").key("second").send().await.status, 200);
        let limits = |words: &[&str]| {
            let admin = running.operator();
            let output = Command::new(binary("gateway")).arg("limits").args(words).args(["--admin", &admin]).output();
            said(&output.expect("it runs"))
        };
        let (code, text) = limits(&["show", "--principal", "key:reader"]);
        assert_eq!(code, Some(0), "{text}");
        let row = text.lines().nth(1).unwrap_or_default().split_whitespace().take(4).collect::<Vec<_>>();
        assert_eq!(row, ["few", "principal=key:reader:route=known", "2", "2"], "{text}");
        assert_eq!(limits(&["show"]).1.lines().count(), 3, "everybody's");
        let (code, text) = limits(&["reset", "--principal", "key:reader"]);
        assert!(code == Some(0) && text.starts_with("1 window is empty now."), "{text}");
        assert_eq!(running.client().get("/known").key("reader").send().await.status, 200, "at once here");
        assert_eq!(running.log().event("limits-reset").await["principal"], "key:reader");
    }
}
