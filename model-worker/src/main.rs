//! `model-worker`: trains, inspects and serves models. The only code that reads arguments, prints or exits.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use model_worker::api::{Api, Limits};
use model_worker::catalog::{Catalog, Served};
use model_worker::config::{Overrides, Settings};
use model_worker::events::{Event, Events};
use model_worker::failure::{Exit, Failure};
use model_worker::guard::Guard;
use model_worker::listen::Listener;
use model_worker::metrics::Counts;
use model_worker::model::artifact::{self, sha256_hex};
use model_worker::model::card::{Bounds, Card};
use model_worker::model::{self, Model};
use model_worker::offline::{self, PredictError};
use model_worker::report::{self, Style};
use model_worker::server::{self, Door};
use model_worker::tls;
use model_worker::train::forest::Recipe;
use model_worker::train::table::Table;
use model_worker::train::{self, TrainError};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    /// Features that a member sees; by default three of four.
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

/// Says on standard error how far a long work has come.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn load(file: &Path) -> Result<(Model, Vec<u8>), Failure> {
    let bytes = artifact::read(file)?;
    let model = model::load(&bytes).map_err(|error| artifact::unusable(file, &error))?;
    Ok((model, bytes))
}

fn unreadable(path: &Path, error: TrainError) -> Failure {
    match error {
        TrainError::Read(error) => Failure::reading(format!("cannot read {}", path.display()), &error),
        error => untrained(&error, Exit::BadData),
    }
}

/// `NAME=VALUE`, with the place of the column that it names.
fn assignment<'a>(text: &'a str, table: &Table) -> Result<(usize, &'a str), String> {
    let (name, value) = text.rsplit_once('=').ok_or_else(|| format!("{text:?} is not COLUMN=VALUE"))?;
    let place = table.columns.iter().position(|column| column.name == name);
    Ok((place.ok_or_else(|| format!("there is no column {name:?}"))?, value))
}

fn describe(table: &mut Table, csv: &Csv) -> Result<(), String> {
    for text in &csv.bounds {
        let (place, value) = assignment(text, table)?;
        let bounds = value
            .split_once("..")
            .and_then(|(above, at_most)| Some(Bounds { above: above.parse().ok()?, at_most: at_most.parse().ok()? }));
        let bounds = bounds.filter(|bounds| bounds.above < bounds.at_most);
        let bounds =
            bounds.ok_or_else(|| format!("{text:?} is not COLUMN=ABOVE..AT_MOST, the second above the first"))?;
        if let Some(column) = table.columns.get_mut(place) {
            column.bounds = Some(bounds);
        }
    }
    for text in &csv.units {
        let (place, unit) = assignment(text, table)?;
        if let Some(column) = table.columns.get_mut(place) {
            unit.clone_into(&mut column.unit);
        }
    }
    Ok(())
}

fn train_csv(csv: &Csv) -> Result<(), Failure> {
    let mut table = train::table::read(&csv.file, &csv.target).map_err(|error| unreadable(&csv.file, error))?;
    describe(&mut table, csv).map_err(|why| {
        Failure::new(Exit::Usage, "cannot train the model", why, "names are those of the first line of the file")
    })?;
    let stem = csv.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = csv.name.clone().unwrap_or(stem);
    let recipe =
        Recipe { members: csv.trees, features: csv.features_per_tree, folds: csv.folds, seed: csv.output.seed };
    let description = format!("{} from {} numbers, by a random forest", csv.target, table.columns.len());
    let trained = train::forest::train(&table, &name, &description, recipe, &mut tell);
    write(trained.map_err(|error| unreadable(&csv.file, error))?, &csv.output)
}

fn evaluate(file: &Path, data: &Path, target: &str, json: bool) -> Result<(), Failure> {
    let (model, _) = load(file)?;
    let rows = std::fs::File::open(data).map_err(|error| unreadable(data, TrainError::Read(error)))?;
    let evaluation = offline::evaluate(&model, rows, target).map_err(|error| {
        let hint = "columns are called as the features are; `model-worker inspect` names them";
        Failure::new(Exit::BadData, format!("cannot evaluate on {}", data.display()), error.to_string(), hint)
    })?;
    if json {
        return print(&json!(evaluation).to_string());
    }
    let (rows, share, loss) = (evaluation.rows, evaluation.accuracy * 100.0, evaluation.log_loss);
    let rest = report::evaluation(&evaluation, &model.card().classes, style());
    print(format!("accuracy {share:.1} % of {rows} rows, log loss {loss:.3}\n{rest}").trim_end())
}

fn predict(file: &Path) -> Result<(), Failure> {
    let (model, _) = load(file)?;
    let name = model.card().name.clone();
    let served = Served { counts: Counts::new(model.card()), name, version: "0".to_owned(), model };
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(no_runtime)?;
    let mut output = io::BufWriter::new(io::stdout().lock());
    match runtime.block_on(offline::predict(&served, io::stdin().lock(), &mut output)) {
        Err(PredictError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            let _ = output.flush();
            let hint = "give JSON rows line by line, or CSV with the features' names in its first line";
            Err(Failure::new(Exit::BadData, "cannot predict the input", error.to_string(), hint))
        }
        Ok(()) => Ok(()),
    }
}

fn bench(file: &Path, rows: u32, json: bool) -> Result<(), Failure> {
    let (model, _) = load(file)?;
    let many = offline::time(&model, usize::try_from(rows).unwrap_or(usize::MAX), 300);
    let (least, median) = (many.least.as_nanos(), many.median.as_nanos());
    let (grids, masks, walks) = match &model {
        Model::Forest(forest) => forest.engine().forms(),
        Model::Sentiment(_) => (0, 0, 0),
    };
    if json {
        let forms = json!({"grids": grids, "trees_as_masks": masks, "trees_walked": walks});
        return print(
            &json!({"rows": rows, "ns_per_row": {"least": least, "median": median}, "forms": forms}).to_string(),
        );
    }
    print(&format!(
        "{rows} rows at once: least {least} ns, median {median} ns a row\n\
         {grids} grids, {masks} trees as masks, {walks} trees walked"
    ))
}

fn no_runtime(error: io::Error) -> Failure {
    Failure::new(Exit::Io, "cannot start", error.to_string(), "check the limits of this process")
}

fn style() -> Style {
    Style::new(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
}

fn untrained(error: &TrainError, exit: Exit) -> Failure {
    Failure::new(exit, "cannot train the model", error.to_string(), "check the data and the options")
}

fn write((card, bytes): (Card, Vec<u8>), output: &Output) -> Result<(), Failure> {
    artifact::write(&output.out, &bytes)?;
    show(&card, &bytes, &output.out, output.json)
}

fn show(card: &Card, bytes: &[u8], file: &Path, json: bool) -> Result<(), Failure> {
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
    let card = report::card(card, style());
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
    let limits = Limits {
        max_body: settings.max_body.0,
        max_rows: settings.max_rows,
        body: settings.body.0,
        max_in_flight: settings.max_in_flight,
        strict_range: settings.strict_range,
        repository_control: settings.repository_control,
    };
    let guard = settings.assertion_key.as_deref();
    let guard =
        guard.map(|key| Guard::load(key, &settings.assertion_audience, &settings.assertion_issuer)).transpose()?;
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_runtime)?;
    runtime.block_on(async {
        let listener = Listener::bind(&settings.listen, settings.danger_public_bind).await?;
        // Before the address is told, so that whoever reads it can already ask for a stop.
        let mut terminate = signal(SignalKind::terminate()).map_err(no_runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_runtime)?;
        let hang_up = signal(SignalKind::hangup()).map_err(no_runtime)?;
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
