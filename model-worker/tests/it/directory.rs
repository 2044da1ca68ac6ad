//! What lies in the directory of models: taken up, refused, and looked at again.

use std::fs::{OpenOptions, Permissions, copy, read, rename, set_permissions, write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::json;

use super::support::{World, failure, run, text};

#[test]
fn a_file_that_could_not_be_read_is_tried_again() {
    let world = World::new();
    let second = world.root.path().join("iris/2.model");
    copy(world.iris(), &second).expect("copied");
    let kept = world.root.path().join(".kept");
    rename(&second, &kept).expect("moved");
    let mut worker = world.serve_as_nobody("watch = \"0s\"");
    set_permissions(&kept, Permissions::from_mode(0o000)).expect("forbidden");
    rename(&kept, &second).expect("moved");
    worker.signal("HUP");
    assert_eq!(worker.event()["why"], "Permission denied (os error 13)");
    set_permissions(&second, Permissions::from_mode(0o644)).expect("permitted");
    worker.signal("HUP");
    assert_eq!(worker.event(), json!({"event": "serving", "model": "iris", "version": "2"}));
}

#[test]
fn a_refusal_that_lasts_is_told_once() {
    let world = World::new();
    let mut worker = world.serve_as_nobody("repository_control = true\nwatch = \"0s\"");
    let second = world.root.path().join("iris/2.model");
    std::fs::create_dir(&second).expect("a directory");
    for _ in 0..3 {
        assert_eq!(worker.post("/v2/repository/models/iris/load", "{}").status, 200);
    }
    assert_eq!(worker.event()["event"], "model-refused");
    let text = worker.get("/metrics").body;
    assert!(text.contains("reloads_total 1\n"), "{text}");
    std::fs::remove_dir(&second).expect("removed");
    copy(world.iris(), &second).expect("copied");
    worker.signal("HUP");
    assert_eq!(worker.event(), json!({"event": "serving", "model": "iris", "version": "2"}));
}

#[test]
fn a_file_changed_in_its_place_is_taken_up_whatever_its_date_says() {
    let world = World::new();
    let mut worker = world.serve("watch = \"0s\"");
    let before = std::fs::metadata(world.iris()).expect("there");
    let other = world.root.path().join("other");
    let output = run(&["train", "iris", "--trees", "9", "--seed", "2", "--out", text(&other)]);
    assert!(output.status.success(), "{:?}", failure(&output));
    let mut octets = read(&other).expect("octets");
    // Of the same length, however long it is: a file that is no model.
    octets.resize(usize::try_from(before.len()).expect("small"), 0);
    write(world.iris(), &octets).expect("written");
    OpenOptions::new()
        .write(true)
        .open(world.iris())
        .expect("opened")
        .set_modified(before.modified().expect("a date"))
        .expect("set");
    worker.signal("HUP");
    assert_ne!(worker.event()["event"], "refused");
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let world = World::new();
    let mut worker = world.serve("watch = \"0s\"");
    let second = world.root.path().join("iris/2.model");
    assert!(Command::new("mkfifo").arg(&second).status().expect("mkfifo runs").success());
    worker.signal("HUP");
    assert_eq!(worker.event()["why"], "it is no regular file");
    symlink("/dev/zero", world.root.path().join("iris/3.model")).expect("linked");
    worker.signal("HUP");
    assert_eq!(worker.event()["why"], "it is no regular file");
    std::fs::remove_file(&second).expect("removed");
    let half = read(world.iris()).expect("octets");
    write(&second, &half[..half.len() / 2]).expect("written");
    worker.signal("HUP");
    assert!(worker.event()["why"].as_str().expect("a reason").contains("checksum"));
    write(&second, &half).expect("written");
    worker.signal("HUP");
    assert_eq!(worker.event(), json!({"event": "serving", "model": "iris", "version": "2"}));
    assert_eq!(worker.get("/v2/models/iris/versions/2/ready").status, 200);
}

#[test]
fn a_model_is_not_written_over_what_is_no_file() {
    let world = World::new();
    let path = world.root.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    let output = run(&["train", "iris", "--trees", "1", "--out", text(&path)]);
    let (code, said) = failure(&output);
    assert!(code == Some(73) && said.contains("it is no regular file"), "{said}");
    assert!(!path.is_file());
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let world = World::new();
    let before = read(world.iris()).expect("octets");
    // No file above 512 octets, and no signal for whoever tries.
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" train iris --trees 9 --seed 2 --out \"$1\"";
    let program = env!("CARGO_BIN_EXE_model-worker");
    let output = Command::new("sh").args(["-c", script, program, text(&world.iris())]).output().expect("sh runs");
    let (code, said) = failure(&output);
    assert!(code == Some(73) && said.contains("cannot write"), "{said}");
    assert_eq!(read(world.iris()).expect("octets"), before);
    let left = std::fs::read_dir(world.root.path().join("iris")).expect("listed").count();
    assert_eq!(left, 1, "no unfinished file is left");
}
