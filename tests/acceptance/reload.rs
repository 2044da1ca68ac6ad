//! A policy that is replaced while the gateway serves: wholly or not at all, and nobody feels it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Gateway, GatewayBuilder, Recorder, Reply, binary, eventually};
use serde_json::json;

use crate::admin::number;

/// The file that tests overwrite: the one behind the harness's own.
const FILE: &str = "2.toml";

/// A policy with a name in it that the client and the worker see.
fn policy(name: &str) -> String {
    format!(
        "[limits.{name}]\nquota = 1000000\nform = \"buckets\"\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n\
         [routes.known]\nlimits = [\"{name}\"]\nworker_path = \"/{name}\"\n"
    )
}

fn builder(worker: &Recorder) -> GatewayBuilder {
    // Nobody looks at the files but where a test asks for it.
    Gateway::builder().worker(worker).policy("[reload]\nwatch = false\n".to_owned() + &policy("first"))
}

fn overwrite(gateway: &Gateway, policy: &str, reload: &str) {
    let text = format!("[reload]\n{reload}\n{policy}");
    std::fs::write(gateway.directory().join(FILE), text).expect("the directory can be written to");
}

/// The name of the policy that a request was served by, by the client's word and by the worker's.
async fn served_by(gateway: &Gateway) -> (String, String) {
    let answer = gateway.client().get("/known").key("reader").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.header("ratelimit-policy");
    (said.split('"').nth(1).unwrap_or_default().to_owned(), answer.text())
}

/// A worker that answers with the path that it was asked for.
fn echo() -> Recorder {
    Recorder::scripted(|_, seen| {
        let path = seen.line().split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        Reply::with(200, "Content-Type: text/plain\r\n", path.as_bytes())
    })
}

fn both(name: &str) -> (String, String) {
    (name.to_owned(), name.to_owned())
}

#[tokio::test]
async fn whoever_asks_gets_the_new_policy_and_an_answer() {
    let worker = echo();
    let gateway = builder(&worker).start().await;
    assert_eq!(served_by(&gateway).await, both("first"));
    overwrite(&gateway, &policy("second"), "watch = false");
    assert_eq!(served_by(&gateway).await, both("first"), "nobody has asked");
    let answer = gateway.operate("PUT", "/reload").await;
    assert_eq!((answer.status, answer.json()), (200, json!({ "generation": 2, "needs_restart": [], "swapped": [] })));
    // At once, on every thread.
    for _ in 0..8 {
        assert_eq!(served_by(&gateway).await, both("second"));
    }
    assert_eq!(gateway.log().event("policy-replaced").await["generation"], "2");
    assert_eq!(number(&gateway, "modelgate_policies_replaced_total").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    let worker = echo();
    let gateway = builder(&worker).start().await;
    for wrong in ["[routes.known\n", "[routes.known]\nlimits = [\"nowhere\"]\n", "[limits.first]\nquota = 0\n"] {
        overwrite(&gateway, wrong, "watch = false");
        let answer = gateway.operate("PUT", "/reload").await;
        assert_eq!(answer.status, 422, "{wrong}");
        let mistakes = answer.json()["mistakes"].as_array().expect("mistakes").clone();
        assert!(mistakes.iter().all(|mistake| mistake["place"].as_str().is_some_and(|place| place.starts_with(FILE))));
        assert_eq!(served_by(&gateway).await, both("first"), "{wrong}");
    }
    std::fs::remove_file(gateway.directory().join(FILE)).expect("it is there");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 422);
    assert_eq!(served_by(&gateway).await, both("first"), "a file that is gone is no empty policy");
    let told = eventually("each is told", async || {
        let told = gateway.log().matching(|line| line["event"] == "policy-kept").len();
        (told >= 4).then_some(told)
    });
    assert_eq!(told.await, 4);
    let mistake = gateway.log().event("policy-mistake").await;
    assert!(mistake["cause"].is_string() && mistake["remedy"].is_string(), "{mistake}");
    assert_eq!(number(&gateway, "modelgate_policies_kept_total").await.as_deref(), Some("4"));
}

#[tokio::test]
async fn the_command_says_what_became_of_it() {
    let worker = echo();
    let gateway = builder(&worker).start().await;
    let reload = || {
        let admin = gateway.operator();
        let output = Command::new(binary("gateway")).args(["reload", "--admin", &admin]).output().expect("it runs");
        let text = |octets: Vec<u8>| String::from_utf8(octets).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    overwrite(&gateway, &(policy("second") + "[log]\nformat = \"human\"\n"), "watch = false");
    let (code, said, _) = reload();
    let restart = "What was changed in [log] waits for a restart.\n";
    assert_eq!((code, said), (Some(0), format!("The new policy serves; it is number 2 since the start.\n{restart}")));
    overwrite(&gateway, "[limits.other]\nquota = 0\n", "watch = false");
    let (code, _, complaint) = reload();
    assert_eq!(code, Some(78));
    for part in ["4 mistakes in the configuration", "2.toml:4:1  limits.other.quota", "The old policy goes on."] {
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[tokio::test]
async fn a_changed_file_and_sighup_are_enough() {
    let worker = echo();
    let gateway = Gateway::builder()
        .worker(&worker)
        .policy("[reload]\ncheck = \"100ms\"\n".to_owned() + &policy("first"))
        .start()
        .await;
    overwrite(&gateway, &policy("second"), "check = \"100ms\"");
    let found = eventually("the file is looked at", async || {
        Some(served_by(&gateway).await).filter(|served| *served == both("second"))
    });
    found.await;
    gateway.log().event("policy-replaced").await;
    let gateway = builder(&worker).start().await;
    overwrite(&gateway, &policy("third"), "watch = false");
    gateway.signal("HUP");
    let found = eventually("the signal is heard", async || {
        Some(served_by(&gateway).await).filter(|served| *served == both("third"))
    });
    found.await;
}

/// What was counted, which connections are open and what is in flight outlive the policy.
#[tokio::test]
async fn windows_connections_and_requests_outlive_a_policy() {
    let gate = harness::Gate::default();
    let held = gate.clone();
    let worker = Recorder::scripted(move |count, _| match count {
        1 => Reply::json(&json!(1)).wait(&held),
        _ => Reply::json(&json!(0)),
    });
    let limit = "[limits.few]\nquota = 3\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n";
    let known = format!("{limit}[routes.known]\nlimits = [\"few\"]\n");
    let gateway =
        Gateway::builder().worker(&worker).policy("[reload]\nwatch = false\n".to_owned() + &known).start().await;
    let mut kept = gateway.client().connect().await;
    assert_eq!(kept.send(gateway.client().get("/known").key("reader")).await.status, 200);
    let client = gateway.client();
    let waiting = tokio::spawn(async move { client.get("/known").key("reader").send().await });
    worker.wait_for_requests(2).await;
    // The route is gone in the new policy, and what is in flight ends all the same.
    overwrite(
        &gateway,
        &format!("{known}[routes.known]\nauthorize = [\"admin\"]\n").replacen(
            "[routes.known]\nlimits = [\"few\"]\n",
            "",
            1,
        ),
        "watch = false",
    );
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    kept.send(gateway.client().get("/known").key("reader")).await.assert_problem(403, "role-missing");
    gate.open();
    assert_eq!(waiting.await.expect("a request").status, 200);
    overwrite(&gateway, &known, "watch = false");
    assert_eq!(gateway.operate("PUT", "/reload").await.status, 200);
    assert_eq!(kept.send(gateway.client().get("/known").key("reader")).await.status, 200, "the third");
    kept.send(gateway.client().get("/known").key("reader")).await.assert_problem(429, "limit-exceeded");
}

#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request_and_mix_no_policies() {
    let worker = echo();
    let gateway = Arc::new(builder(&worker).start().await);
    let (served, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (gateway, served, ended) = (Arc::clone(&gateway), Arc::clone(&served), Arc::clone(&ended));
            tokio::spawn(async move {
                let client = if number % 2 == 0 { gateway.client() } else { gateway.http2() };
                let mut connection = client.connect().await;
                while !ended.load(Ordering::Relaxed) {
                    let answer = connection.send(client.get("/known").key("reader")).await;
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    let said = answer.header("ratelimit-policy");
                    assert_eq!(said.split('"').nth(1), Some(answer.text().as_str()), "one policy for one request");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for turn in 1..=100 {
        let is_bad = turn % 5 == 0;
        overwrite(
            &gateway,
            &if is_bad { "[routes.known]\nlimits = [".to_owned() } else { policy(&format!("p{turn}")) },
            "watch = false",
        );
        let answer = gateway.operate("PUT", "/reload").await;
        assert_eq!(answer.status, if is_bad { 422 } else { 200 });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ended.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client met a fault");
    }
    assert!(served.load(Ordering::Relaxed) > 100, "{served:?}");
    assert_eq!(served_by(&gateway).await, both("p99"));
}
