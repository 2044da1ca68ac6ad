//! The real binary's commands: what they write, what they print, and the exit code of each mistake.

use std::fmt::Write;
use std::path::Path;

use super::support::{World, command, failure, fed, run, text};
use serde_json::{Value, json};

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

/// Two lines of dots that overlap a little, and a column that says nothing.
fn dots(directory: &Path, classes: usize) -> std::path::PathBuf {
    let mut text = String::from("x,colour,y,noise\n");
    for dot in 0..120_usize {
        let class = dot % classes;
        let (x, y) = (class * 10 + dot * 7 % 13, dot * 5 % 11);
        let _ = writeln!(text, "{x},colour {class},{y}.5,{}", dot * 31 % 17);
    }
    let file = directory.join("dots.csv");
    std::fs::write(&file, text).expect("written");
    file
}

#[test]
fn a_table_gives_the_same_bytes_in_five_processes() {
    let directory = tempfile::tempdir().expect("a directory");
    for classes in [2, 4] {
        let data = dots(directory.path(), classes);
        let train = |name: &str, seed: &str| {
            let file = directory.path().join(name);
            let output = run(&[
                "train",
                "csv",
                text(&data),
                "--target",
                "colour",
                "--trees",
                "11",
                "--seed",
                seed,
                "--out",
                text(&file),
            ]);
            assert!(output.status.success(), "{:?}", failure(&output));
            std::fs::read(file).expect("an artifact")
        };
        let first = train("1.model", "7");
        for name in ["2.model", "3.model", "4.model", "5.model"] {
            assert!(first == train(name, "7"), "{classes} classes");
        }
        assert!(first != train("6.model", "8"));
    }
}

#[test]
fn a_table_is_learned_measured_and_predicted() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = dots(directory.path(), 3);
    let model = directory.path().join("dots.model");
    let output = run(&[
        "train",
        "csv",
        text(&data),
        "--target",
        "colour",
        "--trees",
        "15",
        "--bounds",
        "x=-1..40",
        "--unit",
        "x=mm",
        "--folds",
        "4",
        "--out",
        text(&model),
        "--json",
    ]);
    let (exit, progress) = failure(&output);
    assert!(exit == Some(0) && progress.contains("part 4 of 4"), "{progress}");
    let card = serde_json::from_slice::<Value>(&output.stdout).expect("JSON")["card"].clone();
    assert_eq!((&card["name"], &card["classes"][2]), (&json!("dots"), &json!("colour 2")));
    assert_eq!(card["features"][0]["bounds"], json!({"above": -1.0, "at_most": 40.0}));
    assert_eq!((&card["features"][0]["unit"], &card["features"][1]["name"]), (&json!("mm"), &json!("y")));
    assert!(card["features"][1]["quantiles"]["p50"].is_number(), "{card}");
    assert_eq!(card["metrics"]["folds"].as_array().map(Vec::len), Some(4));
    assert_eq!(card["data"]["class_rows"], json!([40, 40, 40]));
    let held_out = &card["metrics"]["held_out"];
    assert!(held_out["rows"] == 120 && held_out["accuracy"].as_f64() > Some(0.7), "{held_out}");
    let output = run(&["evaluate", text(&model), text(&data), "--target", "colour", "--json"]);
    let evaluation: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(evaluation["accuracy"].as_f64() > Some(0.85), "{evaluation}");
    let people = run(&["evaluate", text(&model), text(&data), "--target", "colour"]);
    assert!(String::from_utf8_lossy(&people.stdout).contains("calibration"));
    let csv = "noise,x,y,extra\n3,1,2,a\n3,30,2,b\n";
    let json = "{\"x\":1,\"y\":2,\"noise\":3}\n[[30,2,3]]\n";
    for (input, last) in [(csv, "/predictions/0/label"), (json, "/predictions/0/label")] {
        let output = fed(&["predict", text(&model)], input);
        let lines: Vec<Value> =
            output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!((lines.len(), lines[1].pointer(last)), (2, Some(&json!("colour 2"))), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("colour 0"));
    }
    let timing = run(&["bench", text(&model), "--rows", "10", "--json"]);
    assert!(serde_json::from_slice::<Value>(&timing.stdout).expect("JSON")["ns_per_row"]["least"].is_u64());
}

#[test]
fn rows_that_cannot_be_predicted_are_named_by_their_line() {
    let world = World::new();
    for (input, why) in [
        ("{\"sepal_length\":1}\n", "line 1: `errors` names 3 mistakes"),
        ("[5,3,1,0.2]\n", "line 1"),
        ("\n[[5,3,1,0.2]]\n[[5,3,1,99]]\n", "line 3: /0/3: expected above 0 and at most 30 cm"),
        ("[[5,3,1,0.2]]\n{\n", "line 2: EOF"),
        ("sepal_length\n5\n", "no column \"sepal_width\""),
        ("petal_width,petal_length,sepal_width,sepal_length\n1,2,3,x\n", "line 2, column \"sepal_length\""),
    ] {
        let (exit, stderr) = failure(&fed(&["predict", text(&world.iris())], input));
        assert!(exit == Some(65) && stderr.contains(why), "{input}: {stderr}");
    }
}

#[test]
fn data_that_cannot_be_learned_is_refused_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("data.csv");
    let out = directory.path().join("out.model");
    for (data, options, code, why) in [
        ("a,y\n1,p\n?,q\n", vec![], 65, "line 3, column \"a\""),
        ("a,b\n1,p\n", vec![], 65, "no column \"y\""),
        ("a,y\n1,p\n2,q\n", vec!["--bounds", "b=0..1"], 64, "no column \"b\""),
        ("a,y\n1,p\n2,q\n", vec!["--bounds", "a=1"], 64, "ABOVE..AT_MOST"),
        ("a,y\n1,p\n2,q\n", vec!["--bounds", "a=2..1"], 64, "above the first"),
        ("a,y\n1,p\n2,q\n", vec![], 65, "fewer than two rows"),
    ] {
        std::fs::write(&file, data).expect("written");
        let arguments = ["train", "csv", text(&file), "--target", "y", "--out", text(&out)];
        let (exit, stderr) = failure(&run(&[arguments.as_slice(), &options].concat()));
        assert!(exit == Some(code) && stderr.contains(why), "{data}: {exit:?} {stderr}");
    }
    assert!(!out.exists());
}

/// What `export_sklearn.py` writes, for a forest of one tree: `x <= 0.1` in `f32` is class "low".
fn exported(probability: f64) -> Value {
    json!({
        "format": "modelgate-sklearn-forest-1", "scikit_learn": "1.9.0", "description": "d",
        "features": ["x"], "classes": ["low", "high"], "minimum": [0.0], "maximum": [1.0], "training_rows": 9,
        "trees": [{
            "feature": [0, -2, -2], "threshold": [f64::from(0.1_f32), -2.0, -2.0], "left": [1, -1, -1], "right": [2, -1, -1],
            "value": [[5.0, 4.0], [4.0, 1.0], [1.0, 3.0]],
        }],
        "test": {
            "rows": [[0.1], [0.2]], "labels": [0, 1], "probabilities": [[0.8, 0.2], [1.0 - probability, probability]],
        },
    })
}

#[test]
fn a_forest_of_scikit_learn_answers_as_it_did_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let (file, out) = (directory.path().join("forest.json"), directory.path().join("x.model"));
    let import = || run(&["import", text(&file), "--name", "x", "--out", text(&out), "--json"]);
    std::fs::write(&file, exported(0.75).to_string()).expect("written");
    let output = import();
    assert!(output.status.success(), "{:?}", failure(&output));
    // 0.1 is below the f32 nearest to it, and a comparison in f64 with `<` would still go left; 0.100000001 would not.
    let answers = fed(&["predict", text(&out)], "[[0.1]]\n[[0.100000001]]\n[[0.2]]\n");
    let answers = String::from_utf8(answers.stdout).expect("text");
    assert_eq!(answers.matches("\"low\":0.8").count(), 2, "{answers}");
    assert_eq!(answers.matches("\"high\":0.75").count(), 1, "{answers}");
    std::fs::write(&file, exported(0.5).to_string()).expect("written");
    let (exit, stderr) = failure(&import());
    assert!(exit == Some(65) && stderr.contains("test row 1 is not predicted as scikit-learn does"), "{stderr}");
    let mut cycle = exported(0.75);
    cycle["trees"][0]["left"][0] = json!(0);
    std::fs::write(&file, cycle.to_string()).expect("written");
    assert_eq!(failure(&import()).0, Some(65));
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
