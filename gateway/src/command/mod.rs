//! What each command does, and how it says so.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what commands are for; the library never does"
)]

mod admin;
pub(crate) mod client;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod key;
pub(crate) mod keys;
pub(crate) mod limits;
pub(crate) mod policy_test;
pub(crate) mod pool;
pub(crate) mod quickstart;
pub(crate) mod reload;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod why;

use std::io::{BufRead as _, IsTerminal as _};

use gateway::config::{Config, ConfigError, ConfigFile};
use gateway::policy::token::hash_password;

/// Why a command failed.
pub(crate) struct Failure {
    /// What to tell.
    pub(crate) message: String,
    /// The exit code, from `sysexits.h` where it has one.
    pub(crate) code: u8,
}

impl Failure {
    /// The command was used wrongly (`EX_USAGE`).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 64 }
    }

    /// Something that is needed can't be had (`EX_UNAVAILABLE`).
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 69 }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        // EX_CONFIG
        Self { message: error.to_string(), code: 78 }
    }
}

/// Tells of a failure.
pub(crate) fn complain(message: &str) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let word = if colour { "\x1b[1;31merror\x1b[0m" } else { "error" };
    eprintln!("{word}: {message}");
}

/// Rows of cells, each column as wide as its widest cell.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::unavailable("the system gives no random bytes"))?;
    Ok(bytes)
}

/// `gateway check`.
pub(crate) fn check(files: &[ConfigFile], json: bool) -> Result<(), Failure> {
    let loaded = Config::load(files, false);
    if json {
        let mistakes = loaded.as_ref().err().map_or(&[][..], |error| error.0.as_slice());
        println!("{}", serde_json::json!({ "good": mistakes.is_empty(), "mistakes": mistakes }));
    }
    let config = loaded?;
    if json {
        return Ok(());
    }
    println!(
        "The configuration is good: {} routes, {} pools, limits counted in {}.",
        config.policy.routes.len(),
        config.pools.len(),
        config.store.kind()
    );
    Ok(())
}

/// `gateway password hash`.
pub(crate) fn password() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("Type the password and press Enter. It is shown on the screen; to avoid that, pipe it in.");
    }
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::usage(format!("the password can't be read: {error}")))?;
    let digest = hash_password(line.trim_end_matches(['\r', '\n']).as_bytes(), random()?).map_err(Failure::usage)?;
    println!("digest = \"{digest}\"");
    Ok(())
}
