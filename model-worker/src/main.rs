//! `model-worker`: trains, inspects and serves models. The only code that reads arguments, prints or exits.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use model_worker::api::{Api, Limits};
use model_worker::catalog::Catalog;
use model_worker::config::{Overrides, Settings};
use model_worker::events::{Event, Events};
use model_worker::failure::{Exit, Failure};
use model_worker::listen::Listener;
use model_worker::model;
use model_worker::model::artifact::{self, sha256_hex};
use model_worker::model::card::Card;
use model_worker::report::{self, Style};
use model_worker::server::{self, Bounds};
use model_worker::train::{self, TrainError};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Trains small models and serves their predictions on a private network.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fits a model and writes it as one artifact.
    #[command(subcommand)]
    Train(Train),
    /// Checks an artifact and prints its card.
    Inspect {
        /// The artifact.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Answers predictions over HTTP until SIGTERM or SIGINT.
    Serve(Serve),
}

#[derive(Debug, Subcommand)]
enum Train {
    /// A random forest on Fisher's iris data.
    Iris {
        #[command(flatten)]
        output: Output,
        /// Members of the forest, each of one tree per class.
        #[arg(long, default_value_t = train::iris::TREES, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        trees: u32,
    },
    /// A sentiment model on the rated texts of vaderSentiment's source distribution.
    Sentiment {
        /// vaderSentiment-3.3.2.tar.gz, the archive of texts in it, or a directory with its four files.
        #[arg(long)]
        data: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Output {
    /// Where to write the artifact.
    #[arg(long)]
    out: PathBuf,
    /// Decides every random choice.
    #[arg(long, default_value_t = train::SEED)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Serve {
    /// Directory with NAME/VERSION.model.
    #[arg(long)]
    models: Option<PathBuf>,
    /// `host:port` (port 0 takes any free one) or `unix:/path/to.sock`.
    #[arg(long)]
    listen: Option<String>,
    /// Settings; see config/model-worker.toml.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Allow an address that strangers may reach.
    #[arg(long)]
    danger_public_bind: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(arguments) => run(arguments.command),
        Err(error) => {
            // Help and version are answers, not mistakes.
            let exit = if error.use_stderr() { Exit::Usage as u8 } else { 0 };
            let _ = error.print();
            return ExitCode::from(exit);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "model-worker: {failure}");
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Train(Train::Iris { output, trees }) => {
            let trained = train::iris::train(trees, output.seed);
            write(trained.map_err(|error| untrained(&error, Exit::Software))?, &output)
        }
        Command::Train(Train::Sentiment { data, output }) => {
            let trained = train::sentiment::train(&data, train::sentiment::Recipe::default(), output.seed);
            let failure = |error: TrainError| match error {
                TrainError::Read(error) => Failure::reading(format!("cannot read {}", data.display()), &error),
                error => untrained(&error, Exit::BadData),
            };
            write(trained.map_err(failure)?, &output)
        }
        Command::Inspect { file, json } => {
            let bytes = artifact::read(&file)?;
            let model = model::load(&bytes).map_err(|error| artifact::unusable(&file, &error))?;
            show(model.card(), &bytes, &file, json)
        }
        Command::Serve(serve) => self::serve(serve),
    }
}

fn untrained(error: &TrainError, exit: Exit) -> Failure {
    Failure::new(exit, "cannot train the model", error.to_string(), "check the data and the options")
}

fn write((card, bytes): (Card, Vec<u8>), output: &Output) -> Result<(), Failure> {
    artifact::write(&output.out, &bytes)?;
    show(&card, &bytes, &output.out, output.json)
}

fn show(card: &Card, bytes: &[u8], file: &std::path::Path, json: bool) -> Result<(), Failure> {
    let sha256 = sha256_hex(bytes);
    if json {
        return print(
            &json!({
                "file": file.to_string_lossy(),
                "format": artifact::FORMAT,
                "bytes": bytes.len(),
                "sha256": sha256,
                "card": card,
            })
            .to_string(),
        );
    }
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let card = report::card(card, Style::new(colour));
    print(&format!("{card}{}  {} bytes, sha256 {sha256}", file.display(), bytes.len()))
}

/// Prints a line; a reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, "cannot print", error.to_string(), "check where the output goes"))
        }
        _ => Ok(()),
    }
}

fn serve(serve: Serve) -> Result<(), Failure> {
    let overrides = Overrides {
        listen: serve.listen,
        models: serve.models,
        danger_public_bind: serve.danger_public_bind.then_some(true),
    };
    let settings = Settings::load(serve.config.as_deref(), &overrides)?;
    let directory = settings.models.as_ref().ok_or_else(|| {
        let hint = "give --models DIR, with DIR/NAME/VERSION.model";
        Failure::new(Exit::Config, "cannot serve", "no directory with models is named", hint)
    })?;
    let events = Arc::new(Events::new(Box::new(io::stderr())));
    let catalog = Catalog::load(directory)?;
    if catalog.own() == 0 {
        events.emit(&Event::OnlyBuiltIn { directory: directory.to_string_lossy().into_owned() });
    }
    let limits = Limits { max_body: settings.max_body.0, max_rows: settings.max_rows, body: settings.body.0 };
    let bounds = Bounds {
        max_connections: usize::try_from(settings.max_connections).unwrap_or(usize::MAX),
        idle: settings.idle.0,
        drain: settings.drain.0,
    };
    let api = Arc::new(Api::new(catalog, settings.max_in_flight, limits, Arc::clone(&events)));
    let no_runtime = |error: io::Error| {
        Failure::new(Exit::Io, "cannot start", error.to_string(), "check the limits of this process")
    };
    // One thread: a prediction costs microseconds, less than handing it to another thread would.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    runtime.block_on(async {
        let listener = Listener::bind(&settings.listen, settings.danger_public_bind).await?;
        // Before the address is told, so that whoever reads it can already ask for a stop.
        let mut terminate = signal(SignalKind::terminate()).map_err(no_runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_runtime)?;
        announce(&listener, &api.snapshot())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server::run(listener, api, bounds, events, stop).await;
        Ok(())
    })
}

fn announce(listener: &Listener, catalog: &Catalog) -> Result<(), Failure> {
    let address = listener.to_string();
    if io::stdout().is_terminal() {
        let models: Vec<String> =
            catalog.current().map(|served| format!("{} {}", served.name, served.version)).collect();
        return print(&format!("listening on {address}, serving {}", models.join(", ")));
    }
    let models: Vec<_> =
        catalog.current().map(|served| json!({"name": served.name, "version": served.version})).collect();
    print(&json!({"event": "listening", "address": address, "models": models}).to_string())
}
