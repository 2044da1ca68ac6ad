//! `gateway`: arguments, configuration, threads, exit code. The only code that prints or exits.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod command;

/// Millions of small, short-lived allocations, freed on the thread that made them: what mimalloc is for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A security gateway that stands in front of a machine-learning model.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set up everything for development, start it, and show what to try. Needs nothing beforehand.
    Quickstart(command::quickstart::Options),
    /// Run the gateway.
    Run(Files),
    /// Say what is wrong with the configuration, all of it, and start nothing.
    Check {
        #[command(flatten)]
        files: Files,
        /// For machines: a JSON object with every mistake.
        #[arg(long)]
        json: bool,
    },
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Clients that ask for tokens by themselves.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Passwords of users.
    #[command(subcommand)]
    Password(PasswordCommand),
    /// What callers have used of their limits.
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Ask a running gateway whether it is ready; exit code 0 if so. For container health checks.
    Health(command::health::Options),
}

/// Which files make up the configuration.
#[derive(Args)]
struct Files {
    /// A TOML file; repeat it, and later files win over earlier ones.
    #[arg(long = "config", value_name = "FILE", default_values = ["config/gateway.toml", "config/policy.toml"])]
    files: Vec<PathBuf>,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key: the key goes to its holder, the printed TOML into the policy.
    New(command::key::Options),
}

#[derive(Subcommand)]
enum ClientCommand {
    /// Make a client's secret: the secret goes to its holder, the printed TOML into the policy.
    New(command::client::Options),
}

#[derive(Subcommand)]
enum LimitsCommand {
    /// Show what a principal has used, or everybody, and when it frees. Exit code 0 also where there is nothing.
    Show(command::limits::ShowOptions),
    /// Forget what a principal has used. Refusals that other gateways remember last for up to a minute.
    Reset(command::limits::ResetOptions),
}

#[derive(Subcommand)]
enum PasswordCommand {
    /// Make the digest of a password, read from the terminal or standard input.
    Hash,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Quickstart(options) => command::quickstart::run(&options),
        Command::Run(files) => command::run::run(&files.into_config(), std::io::stdout().is_terminal()),
        Command::Check { files, json } => command::check(&files.into_config(), json),
        Command::Key(KeyCommand::New(options)) => command::key::new(&options),
        Command::Client(ClientCommand::New(options)) => command::client::new(&options),
        Command::Password(PasswordCommand::Hash) => command::password(),
        Command::Limits(LimitsCommand::Show(options)) => command::limits::show(&options),
        Command::Limits(LimitsCommand::Reset(options)) => command::limits::reset(&options),
        Command::Health(options) => command::health::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            command::complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

impl Files {
    fn into_config(self) -> Vec<gateway::config::ConfigFile> {
        self.files.into_iter().map(gateway::config::ConfigFile::Path).collect()
    }
}
