//! The real binary's commands: what they write, what they print, and the exit code of each mistake.

use std::path::Path;

use super::support::{World, command, failure, run, text};
use serde_json::Value;

fn trained(directory: &Path, name: &str, seed: &str) -> Vec<u8> {
    let file = directory.join(name);
    let output = run(&["train", "iris", "--trees", "9", "--seed", seed, "--out", text(&file)]);
    assert!(output.status.success(), "{:?}", failure(&output));
    std::fs::read(file).expect("an artifact")
}

#[test]
fn the_same_seed_gives_the_same_bytes_in_every_process() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = trained(directory.path(), "first", "7");
    for name in ["second", "third"] {
        assert!(first == trained(directory.path(), name, "7"));
    }
    assert!(first != trained(directory.path(), "other", "8"));
}

#[test]
fn training_reports_how_good_the_model_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("iris.model");
    let output = run(&["train", "iris", "--trees", "9", "--out", text(&file)]);
    let people = String::from_utf8(output.stdout).expect("text");
    assert!(people.contains("accuracy") && people.contains("virginica"), "{people}");
    assert!(!people.contains('\u{1b}'), "colour is for terminals only");
    let output = run(&["train", "iris", "--trees", "9", "--out", text(&file), "--json"]);
    let machines: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let held_out = &machines["card"]["metrics"]["held_out"];
    assert!(held_out["accuracy"].as_f64() > Some(0.85), "{machines}");
    let rows = held_out["confusion"].as_array().expect("a matrix");
    let counted: u64 = rows.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_u64).sum();
    assert_eq!(counted, 150);
    let output = run(&["inspect", text(&file), "--json"]);
    let inspected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(inspected, machines);
    assert!(std::fs::read_dir(directory.path()).expect("a directory").count() == 1, "no temporary file is left");
}

#[test]
fn an_artifact_that_is_missing_or_damaged_is_said_to_be_so() {
    let world = World::new();
    let good = std::fs::read(world.iris()).expect("an artifact");
    let mut altered = good.clone();
    altered[good.len() / 2] ^= 1;
    let later = [&good[..4], &[9, 0], &good[6..]].concat();
    let cases: [(&str, Option<&[u8]>, i32, &str); 6] = [
        ("altered", Some(&altered), 65, "checksum"),
        ("truncated", Some(&good[..good.len() - 5]), 65, "checksum"),
        ("cut to its first bytes", Some(&good[..7]), 65, "truncated"),
        ("of another kind", Some(b"PK\x03\x04"), 65, "does not begin"),
        ("of a later format", Some(&later), 65, "version is 9"),
        ("missing", None, 66, "No such file"),
    ];
    for (name, bytes, code, why) in cases {
        match bytes {
            Some(bytes) => std::fs::write(world.iris(), bytes).expect("written"),
            None => std::fs::remove_file(world.iris()).expect("removed"),
        }
        let (exit, stderr) = failure(&run(&["inspect", text(&world.iris())]));
        assert!(exit == Some(code) && stderr.contains(why) && stderr.contains("try:"), "{name}: {exit:?} {stderr}");
        let (exit, stderr) = failure(&run(&["serve", "--models", text(world.root.path()), "--listen", "127.0.0.1:0"]));
        assert!(exit == Some(code) && stderr.contains("try:"), "{name}: {exit:?} {stderr}");
    }
    let nowhere = world.root.path().join("nowhere");
    assert_eq!(run(&["serve", "--models", text(&nowhere)]).status.code(), Some(66));
}

#[test]
fn a_public_address_is_refused_unless_the_word_is_said() {
    let world = World::new();
    let models = text(world.root.path());
    for address in ["0.0.0.0:0", "[::]:0", "203.0.113.7:9001"] {
        let (exit, stderr) = failure(&run(&["serve", "--models", models, "--listen", address]));
        assert!(exit == Some(78) && stderr.contains("--danger-public-bind"), "{address}: {exit:?} {stderr}");
    }
    let mut worker = world.serve_on("0.0.0.0:0", "danger_public_bind = true");
    worker.terminate();
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn each_mistake_has_its_exit_code() {
    let world = World::new();
    let models = text(world.root.path());
    let config = world.root.path().join("bad.toml");
    std::fs::write(&config, "max_rowz = 5").expect("written");
    let worker = world.serve("");
    for (arguments, code) in [
        (vec!["--help"], 0),
        (vec!["serve", "--nonsense"], 64),
        (vec!["train", "iris", "--trees", "0", "--out", "x"], 64),
        (vec!["train", "iris", "--trees", "1", "--out", "/nowhere/x.model"], 73),
        (vec!["train", "sentiment", "--data", "/nowhere", "--out", "x"], 66),
        (vec!["train", "sentiment", "--data", models, "--out", "x"], 66),
        (vec!["train", "sentiment", "--data", text(&config), "--out", "x"], 74),
        (vec!["serve"], 78),
        (vec!["serve", "--models", models, "--config", text(&config)], 78),
        (vec!["serve", "--models", models, "--config", "/nowhere.toml"], 66),
        (vec!["serve", "--models", models, "--listen", "nonsense"], 78),
        (vec!["serve", "--models", models, "--listen", "unix:relative"], 78),
        (vec!["serve", "--models", models, "--listen", worker.address()], 69),
    ] {
        let (exit, stderr) = failure(&run(&arguments));
        assert_eq!(exit, Some(code), "{arguments:?}: {stderr}");
    }
    let output = command(&["serve", "--models", models]).env("MODEL_WORKER_NONSENSE", "1").output().expect("runs");
    let (exit, stderr) = failure(&output);
    assert!(exit == Some(78) && stderr.to_lowercase().contains("nonsense"), "{stderr}");
}
