//! `model-worker`: trains, inspects and serves models. The only code that reads arguments, prints or exits.

mod commands;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use model_worker::api::{Api, Limits};
use model_worker::catalog::Catalog;
use model_worker::config::{Overrides, Settings};
use model_worker::events::{Event, Events};
use model_worker::failure::{Exit, Failure};
use model_worker::guard::Guard;
use model_worker::listen::Listener;
use model_worker::server::{self, Door};
use model_worker::tls;
use model_worker::train::{self, TrainError};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::commands::{
    bench, evaluate, load, no_runtime, predict, print, show, tell, train_csv, unreadable, untrained, write,
};

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
    /// Makes an artifact of a scikit-learn forest that `export_sklearn.py` wrote.
    Import {
        /// What the script wrote.
        file: PathBuf,
        /// What the model is called.
        #[arg(long)]
        name: String,
        /// Where to write the artifact.
        #[arg(long)]
        out: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measures a model on a CSV file whose classes are known.
    Evaluate {
        /// The artifact.
        file: PathBuf,
        /// The rows: CSV with a line of names.
        data: PathBuf,
        /// The column that holds the classes.
        #[arg(long)]
        target: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Predicts rows from standard input: JSON line by line, or CSV with a line of names.
    Predict {
        /// The artifact.
        file: PathBuf,
    },
    /// Times predictions in one thread.
    Bench {
        /// The artifact.
        file: PathBuf,
        /// Rows at once.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rows: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
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
        #[arg(long, default_value_t = train::forest::TREES, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        trees: u32,
    },
    /// A random forest on a CSV file: one column of classes, all others numbers.
    Csv(Csv),
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
struct Csv {
    /// CSV with a line of names.
    file: PathBuf,
    /// The column that holds the classes.
    #[arg(long)]
    target: String,
    /// What the model is called; by default as the file is.
    #[arg(long)]
    name: Option<String>,
    /// Members of the forest, each of one tree per class (for two classes: one tree).
    #[arg(long, default_value_t = train::forest::TREES, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    trees: u32,
    /// Features that a member sees; by default three of four of a few, two of five of many.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    features_per_tree: Option<u32>,
    /// Parts of the cross-validation.
    #[arg(long, default_value_t = train::forest::FOLDS, value_parser = clap::value_parser!(u32).range(2..=50))]
    folds: u32,
    /// `COLUMN=ABOVE..AT_MOST`: values outside are refused. By default, those very far from all that were seen.
    #[arg(long = "bounds", value_name = "BOUNDS")]
    bounds: Vec<String>,
    /// `COLUMN=UNIT`.
    #[arg(long = "unit", value_name = "UNIT")]
    units: Vec<String>,
    #[command(flatten)]
    output: Output,
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
            let trained = train::iris::train(trees, output.seed, &mut tell);
            write(trained.map_err(|error| untrained(&error, Exit::Software))?, &output)
        }
        Command::Train(Train::Csv(csv)) => train_csv(&csv),
        Command::Train(Train::Sentiment { data, output }) => {
            let trained = train::sentiment::train(&data, train::sentiment::Recipe::default(), output.seed, &mut tell);
            write(trained.map_err(|error| unreadable(&data, error))?, &output)
        }
        Command::Import { file, name, out, json } => {
            let bytes = std::fs::read(&file).map_err(|error| unreadable(&file, TrainError::Read(error)))?;
            let imported = train::sklearn::import(&bytes, &name);
            write(imported.map_err(|error| unreadable(&file, error))?, &Output { out, seed: 0, json })
        }
        Command::Evaluate { file, data, target, json } => evaluate(&file, &data, &target, json),
        Command::Predict { file } => predict(&file),
        Command::Bench { file, rows, json } => bench(&file, rows, json),
        Command::Inspect { file, json } => {
            let (model, bytes) = load(&file)?;
            show(model.card(), &bytes, &file, json)
        }
        Command::Serve(serve) => self::serve(serve),
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
    let limits = Limits {
        max_body: settings.max_body.0,
        max_rows: settings.max_rows,
        body: settings.body.0,
        max_in_flight: settings.max_in_flight,
        strict_range: settings.strict_range,
        repository_control: settings.repository_control,
    };
    let guard = settings.assertion_key.as_deref().zip(settings.assertion_issuer.as_deref());
    let guard = guard
        .map(|(key, issuer)| Guard::load(key, &settings.assertion_audience, issuer, settings.assertion_lifetime.0))
        .transpose()?;
    let tls = settings.tls_certificate.as_deref().zip(settings.tls_key.as_deref());
    let tls = tls
        .map(|(certificate, key)| tls::Files { certificate, key, client_ca: settings.tls_client_ca.as_deref() })
        .map(tls::acceptor)
        .transpose()?;
    let bounds = server::Bounds {
        max_connections: usize::try_from(settings.max_connections).unwrap_or(usize::MAX),
        drain: settings.drain.0,
    };
    let api = Arc::new(Api::new(catalog, directory.clone(), limits, guard, Arc::clone(&events)));
    // One thread: a prediction costs microseconds, less than handing it to another thread would.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| no_runtime(&error))?;
    runtime.block_on(async {
        let listener = Listener::bind(&settings.listen, settings.danger_public_bind).await?;
        // Before the address is told, so that whoever reads it can already ask for a stop.
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| no_runtime(&error))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| no_runtime(&error))?;
        let hang_up = signal(SignalKind::hangup()).map_err(|error| no_runtime(&error))?;
        announce(&listener, &api.snapshot())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let watching = tokio::spawn(watch(Arc::clone(&api), settings.watch.0, hang_up));
        let door = Door { api, tls, idle: settings.idle.0 };
        server::run(listener, door, bounds, events, stop).await;
        watching.abort();
        Ok(())
    })
}

/// Takes up changes of the directory, at each SIGHUP and as often as is set.
async fn watch(api: Arc<Api>, every: Duration, mut hang_up: Signal) {
    loop {
        if every.is_zero() {
            hang_up.recv().await;
        } else {
            let _ = tokio::time::timeout(every, hang_up.recv()).await;
        }
        api.reload().await;
    }
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
