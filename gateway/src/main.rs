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
    /// Say what would become of a request, stage by stage, and which line says so; exit code 0 allowed, 1 refused.
    Explain {
        #[command(flatten)]
        options: command::explain::Options,
        #[command(flatten)]
        files: Files,
    },
    /// Hold the policy against cases that say what must become of requests; exit code 1 where one does not hold.
    Test {
        /// The cases.
        #[arg(default_value = "config/policy.tests.toml")]
        cases: PathBuf,
        #[command(flatten)]
        files: Files,
        /// For machines: a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Show who may call what.
    Routes {
        #[command(flatten)]
        files: Files,
        /// For machines: a JSON list.
        #[arg(long)]
        json: bool,
    },
    /// Find what the log says of a request; exit code 1 if it says nothing.
    Why(command::why::Options),
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
    /// Pools of workers.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Let a running gateway read its configuration anew; exit code 78 if it is not good and the old one goes on.
    Reload(command::reload::Options),
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
    /// Issue a key in Redis, good at once on every gateway that shares it: the key goes to its holder.
    Issue(command::keys::IssueOptions),
    /// Show the keys of the policy and of Redis, and when they were used.
    List(command::keys::ListOptions),
    /// Give a key in Redis another secret; the old one goes on for a while.
    Rotate(command::keys::RotateOptions),
    /// End a key in Redis, or only what a rotation left of it. Every gateway refuses it within a second.
    Revoke(command::keys::RevokeOptions),
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
enum PoolCommand {
    /// Show how the pool that gets copies of another's requests compares with it.
    Compare(command::pool::CompareOptions),
    /// Put other workers in, which are tested first and watched afterwards; exit code 1 if they are not good.
    Swap(command::pool::SwapOptions),
    /// Put the workers of a pool's canary or shadow in the place of its own, after the same tests.
    Promote(command::pool::PromoteOptions),
}

#[derive(Subcommand)]
enum PasswordCommand {
    /// Make the digest of a password, read from the terminal or standard input.
    Hash,
}

fn main() -> ExitCode {
    let verdict = |holds: bool| Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    let outcome: Result<ExitCode, command::Failure> = match Arguments::parse().command {
        Command::Explain { options, files } => command::explain::run(&options, &files.into_config()).and_then(verdict),
        Command::Test { cases, files, json } => {
            command::policy_test::run(&cases, &files.into_config(), json).and_then(verdict)
        }
        Command::Why(options) => command::why::run(&options).and_then(verdict),
        other => run(other).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            command::complain(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Runs what has no verdict.
fn run(command: Command) -> Result<(), command::Failure> {
    match command {
        Command::Quickstart(options) => command::quickstart::run(&options),
        Command::Run(files) => command::run::run(&files.into_config(), std::io::stdout().is_terminal()),
        Command::Check { files, json } => command::check(&files.into_config(), json),
        Command::Key(KeyCommand::New(options)) => command::key::new(&options),
        Command::Key(KeyCommand::Issue(options)) => command::keys::issue(&options),
        Command::Key(KeyCommand::List(options)) => command::keys::list(&options),
        Command::Key(KeyCommand::Rotate(options)) => command::keys::rotate(&options),
        Command::Key(KeyCommand::Revoke(options)) => command::keys::revoke(&options),
        Command::Client(ClientCommand::New(options)) => command::client::new(&options),
        Command::Password(PasswordCommand::Hash) => command::password(),
        Command::Limits(LimitsCommand::Show(options)) => command::limits::show(&options),
        Command::Limits(LimitsCommand::Reset(options)) => command::limits::reset(&options),
        Command::Pool(PoolCommand::Compare(options)) => command::pool::compare(&options),
        Command::Pool(PoolCommand::Swap(options)) => command::pool::swap(&options),
        Command::Pool(PoolCommand::Promote(options)) => command::pool::promote(&options),
        Command::Reload(options) => command::reload::run(&options),
        Command::Health(options) => command::health::run(&options),
        Command::Routes { files, json } => command::routes::run(&files.into_config(), json),
        // Asked before.
        Command::Explain { .. } | Command::Test { .. } | Command::Why(_) => Ok(()),
    }
}

impl Files {
    fn into_config(self) -> Vec<gateway::config::ConfigFile> {
        self.files.into_iter().map(gateway::config::ConfigFile::Path).collect()
    }
}
