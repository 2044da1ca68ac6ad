//! `gateway key new`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what commands are for")]

use clap::Args;

use super::{Failure, random};
use gateway::policy::authenticate::api_key;
use gateway::types::Sha256;

#[derive(Args)]
pub(crate) struct Options {
    /// Its public id, which names it in the policy and the log: lower-case letters, digits and -.
    id: String,
    /// Who holds it.
    #[arg(long)]
    owner: String,
    /// A role that it has; repeat it for more.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// When it ends, such as 2027-12-31T00:00:00Z.
    #[arg(long)]
    expires: Option<String>,
}

/// A new key and what the policy keeps of it.
pub(crate) struct NewKey {
    pub(crate) key: String,
    pub(crate) toml: String,
}

/// Makes a key.
pub(crate) fn make(id: &str, owner: &str, roles: &[String], expires: Option<&str>) -> Result<NewKey, Failure> {
    if !api_key::is_id(id) {
        return Err(Failure::usage(format!("{id:?} can't be an id: use 1 to 64 lower-case letters, digits and -")));
    }
    let key = api_key::compose(id, random()?);
    let digest = Sha256::of(key.as_bytes());
    let expires = expires.map_or_else(String::new, |expires| format!("expires = {expires:?}\n"));
    let toml = format!("[api_keys.{id}]\ndigest = \"{digest}\"\nowner = {owner:?}\nroles = {roles:?}\n{expires}");
    Ok(NewKey { key, toml })
}

pub(crate) fn new(options: &Options) -> Result<(), Failure> {
    let made = make(&options.id, &options.owner, &options.roles, options.expires.as_deref())?;
    eprintln!("The key, shown once; give it to its holder over a safe way:\n");
    println!("{}", made.key);
    eprintln!("\nInto the policy (it holds only the digest):\n");
    println!("\n{}", made.toml.trim_end());
    Ok(())
}
