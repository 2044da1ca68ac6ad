//! The programs under test, built once in each test run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The program `gateway` or `model-worker`, as the workspace's source says it now.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).join(name)
}

/// Builds with the profile, and into the directory, of the test that is running.
fn build() -> PathBuf {
    let ours = std::env::current_exe().expect("a test has a program");
    // target/<profile>/deps/<test>, or target/<profile>/<program>
    let beside = ours.parent().expect("a program lies in a directory");
    let directory = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let directory = directory.map(Path::to_owned).expect("tests lie two levels deep");
    let target = directory.parent().expect("a target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "gateway", "--package", "model-worker", "--target-dir"]).arg(target);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(built.success(), "the programs under test do not build");
    directory
}
