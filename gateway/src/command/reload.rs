//! `gateway reload`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::admin::{Admin, reason};
use gateway::config::ConfigError;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    admin: Admin,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let (good, mut answer) = options.admin.ask("PUT", "/reload", None)?;
    if !good {
        let Some(mistakes) = answer.get_mut("mistakes").map(Value::take) else {
            let why = reason(&answer);
            return Err(Failure::unavailable(format!("the gateway at {} says: {why}", options.admin)));
        };
        let mistakes = ConfigError(serde_json::from_value(mistakes).unwrap_or_default());
        // EX_CONFIG
        return Err(Failure { message: format!("{mistakes}\n\n  The old policy goes on."), code: 78 });
    }
    let number = answer.get("generation").and_then(Value::as_u64).unwrap_or(0);
    println!("The new policy serves; it is number {number} since the start.");
    let waiting = answer.get("needs_restart").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !waiting.is_empty() {
        let names: Vec<&str> = waiting.iter().filter_map(Value::as_str).collect();
        println!("What was changed in [{}] waits for a restart.", names.join("], ["));
    }
    for pool in answer.get("swapped").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) {
        let pool = pool.as_str().unwrap_or_default();
        println!(
            "The pool {pool} keeps the workers that were swapped in: the files say of it what they said then.\n  \
             A restart takes those that [pools.{pool}] names."
        );
    }
    Ok(())
}
