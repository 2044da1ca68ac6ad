//! `gateway client new`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what commands are for")]

use clap::Args;

use super::{Failure, random};
use gateway::policy::token::{compose_secret, is_client_name};
use gateway::types::Sha256;

#[derive(Args)]
pub(crate) struct Options {
    /// Its `client_id`, which names it in the policy and the log: letters, digits, -, _ and .
    name: String,
    /// A role that it has; repeat it for more.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope that it may ask for; repeat it for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
}

pub(crate) fn new(options: &Options) -> Result<(), Failure> {
    let Options { name, roles, scopes } = options;
    if !is_client_name(name) {
        return Err(Failure::usage(format!("{name:?} can't be a name: use 1 to 64 letters, digits, -, _ and .")));
    }
    let secret = compose_secret(random()?);
    let digest = Sha256::of(secret.as_bytes());
    let scopes = if scopes.is_empty() { String::new() } else { format!("scopes = {scopes:?}\n") };
    eprintln!("The client's secret, shown once; give it to its holder over a safe way:\n");
    println!("{secret}");
    eprintln!("\nInto the policy (it holds only the digest):\n");
    // A dot in a bare key would begin a table.
    println!(
        "\n[clients.{name:?}]\ndigest = \"{digest}\"\ngrants = [\"client_credentials\"]\nroles = {roles:?}\n{}",
        scopes.trim_end()
    );
    Ok(())
}
