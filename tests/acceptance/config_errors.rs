//! Wrong configurations: every mistake at once, each with its place and what to do, and nothing starts.

use std::path::Path;
use std::process::{Command, Output};

use harness::gateway::GatewayBuilder;
use harness::{Gateway, Signer, TestCa, binary};

/// What is printed to standard error, and the exit code.
fn refused(output: &Output) -> (String, Option<i32>) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is said to be good");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

/// Holds `gateway check` and `gateway run` to the same words and exit code 78 (`EX_CONFIG`).
fn assert_mistakes(what: &str, builder: &GatewayBuilder, expected: &str) {
    let (text, code) = refused(&builder.output("check"));
    assert!(text == expected && code == Some(78), "{what}: exit code {code:?}, and it said\n{text}\ninstead of\n{expected}");
    // It ends, so it does not serve; and it never said that it listens.
    assert_eq!(refused(&builder.output("run")), (text, code), "{what}: `run` says the same");
}

#[test]
fn probe() {
    let cases = std::fs::read_dir("/tmp/cfgprobe/in").expect("cases");
    for case in cases {
        let path = case.expect("a case").path();
        let overlay = std::fs::read_to_string(&path).expect("text");
        let builder = Gateway::builder().variable("WEAK", "hunter2hunter2").file("rsa.key", Signer::rs256().private()).file("bad.json", "{\"type\":}").policy(overlay);
        let output = builder.output("check");
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        std::fs::write(format!("/tmp/cfgprobe/out/{name}"), format!("{:?} {}\n{}", output.status.code(), String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))).expect("w");
    }
}
