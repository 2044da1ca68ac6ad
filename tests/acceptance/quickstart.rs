//! `gateway quickstart`: what it prints is what works, twice in the same place, and it leaves nobody behind.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use harness::{Process, binary};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Starts it in an empty place; what it makes lies in `made`.
fn start(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(binary("gateway"));
    command.args(["quickstart", "--dir", "made", "--port", "0", "--admin-port", "0"]).args(arguments);
    Process::start(command.current_dir(directory).env_clear())
}

/// Waits for the end of what it says to try; gives back every line so far.
async fn guide(process: &Process) -> Vec<String> {
    process.log().wait_for(|line| line.as_str().is_some_and(|line| line.contains("Ctrl-C stops all of it"))).await;
    process.log().all().iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
}

/// Stops it as Ctrl-C does, and proves that the worker is gone too.
async fn stop(mut process: Process, lines: &[String]) {
    let started = lines.iter().find_map(|line| line.strip_prefix("  started  model worker on "));
    let worker: SocketAddr = started.and_then(|address| address.parse().ok()).expect("the worker's address");
    assert!(TcpStream::connect(worker).is_ok(), "the worker serves");
    process.signal("INT");
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log().text());
    assert!(TcpStream::connect(worker).is_err(), "the worker is gone");
}

/// What a printed command answers, run as a person would.
fn try_out(directory: &Path, command: &str) -> Value {
    let output =
        Command::new("sh").args(["-c", command]).current_dir(directory).output().expect("sh and curl are there");
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&output.stdout).as_ref()))
}

#[tokio::test]
async fn every_printed_command_works_and_a_second_run_keeps_what_the_first_made() {
    let directory = TempDir::new().expect("a directory");
    let first = start(directory.path(), &[]);
    let lines = guide(&first).await;
    let steps: Vec<&String> = lines.iter().filter(|line| line.starts_with("  made ")).collect();
    assert_eq!(steps.len(), 4, "{lines:#?}");
    let curls: Vec<&String> = lines.iter().filter(|line| line.starts_with("curl ")).collect();
    let [by_key, log_in, by_token, sentiment, no_key, bad_body] = curls[..] else {
        panic!("six commands in {lines:#?}")
    };
    for (command, label) in [(by_key, "setosa"), (by_token, "setosa"), (sentiment, "positive")] {
        let answer = try_out(directory.path(), command);
        assert_eq!(answer["label"], label, "{command}\n{answer}");
    }
    let answer = try_out(directory.path(), log_in);
    assert_eq!((&answer["token_type"], answer["access_token"].is_string()), (&json!("Bearer"), true), "{answer}");
    let answer = try_out(directory.path(), no_key);
    assert_eq!((&answer["status"], &answer["type"]), (&json!(401), &json!("urn:modelgate:problem:credential-missing")));
    let answer = try_out(directory.path(), bad_body);
    assert_eq!((&answer["status"], &answer["type"]), (&json!(422), &json!("urn:modelgate:problem:body-invalid")));
    stop(first, &lines).await;

    let read = |name: &str| std::fs::read(directory.path().join("made").join(name)).expect("it was made");
    let names = [
        "ca.pem",
        "server.pem",
        "server.key",
        "token.key",
        "api-key",
        "password",
        "identities.toml",
        "models/iris/1.model",
    ];
    let before = names.map(read);
    let second = start(directory.path(), &[]);
    let lines = guide(&second).await;
    assert_eq!(lines.iter().filter(|line| line.starts_with("  kept ")).count(), 4, "{lines:#?}");
    assert!(!lines.iter().any(|line| line.starts_with("  made ")), "{lines:#?}");
    assert!(names.map(read) == before, "nothing was made anew");
    let curl = lines.iter().find(|line| line.starts_with("curl ")).expect("a command");
    assert_eq!(try_out(directory.path(), curl)["label"], "setosa");
    stop(second, &lines).await;
}

#[tokio::test]
async fn what_it_makes_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = TempDir::new().expect("a directory");
    let mut process = start(directory.path(), &["--once"]);
    assert_eq!(process.ended().await.code(), Some(0), "{}", process.log().text());
    let made = directory.path().join("made");
    let rights = |path: &Path| std::fs::metadata(path).expect("it was made").permissions().mode() & 0o777;
    assert_eq!(rights(&made), 0o700);
    for name in ["server.key", "token.key", "api-key", "password", "identities.toml", "redis-password"] {
        assert_eq!(rights(&made.join(name)), 0o600, "{name}");
    }
    let identities = std::fs::read_to_string(made.join("identities.toml")).expect("it was made");
    for name in ["api-key", "password"] {
        let secret = std::fs::read_to_string(made.join(name)).expect("it was made");
        assert!(!identities.contains(secret.trim()), "the policy holds digests alone");
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").collect();
    assert_eq!(left.len(), 1, "it writes nowhere else");
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_plainly_and_leaves_no_worker() {
    let directory = TempDir::new().expect("a directory");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = taken.local_addr().expect("an address");
    for (table, flag) in [("listener", "--port"), ("admin", "--admin-port")] {
        let mut command = Command::new(binary("gateway"));
        let (port, free) = (address.port().to_string(), if flag == "--port" { "--admin-port" } else { "--port" });
        command.args(["quickstart", "--dir", "made", flag, &port, free, "0"]);
        let mut process = Process::start(command.current_dir(directory.path()).env_clear());
        assert_eq!(process.ended().await.code(), Some(69), "{}", process.log().text());
        let expected = format!(
            "error: the {table} port {address} is in use by another program\n  \
             help: stop it, or choose another port (`{table}.address`, or GATEWAY_{}__ADDRESS)\n  \
             help: `gateway quickstart --port N --admin-port N` uses other ports\n",
            table.to_uppercase()
        );
        assert_eq!(process.log().errors(), expected);
        let text = process.log().text();
        let started =
            text.lines().find_map(|line| line.strip_prefix("  started  model worker on ")).expect("its address");
        let worker: SocketAddr = started.parse().expect("an address");
        assert!(TcpStream::connect(worker).is_err(), "the worker is gone");
    }
}
