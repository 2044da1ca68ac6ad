//! What each command does, beside serving.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use model_worker::catalog::Served;
use model_worker::failure::{Exit, Failure};
use model_worker::metrics::Counts;
use model_worker::model::artifact::{self, sha256_hex};
use model_worker::model::card::{Bounds, Card};
use model_worker::model::{self, Model};
use model_worker::offline::{self, PredictError};
use model_worker::report::{self, Style};
use model_worker::train::forest::Recipe;
use model_worker::train::table::Table;
use model_worker::train::{self, TrainError};
use serde_json::json;

use super::{Csv, Output};

/// Says on standard error how far a long work has come.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

pub(crate) fn load(file: &Path) -> Result<(Model, Vec<u8>), Failure> {
    let bytes = artifact::read(file)?;
    let model = model::load(&bytes).map_err(|error| artifact::unusable(file, &error))?;
    Ok((model, bytes))
}

pub(crate) fn unreadable(path: &Path, error: TrainError) -> Failure {
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

pub(crate) fn train_csv(csv: &Csv) -> Result<(), Failure> {
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

pub(crate) fn evaluate(file: &Path, data: &Path, target: &str, json: bool) -> Result<(), Failure> {
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

pub(crate) fn predict(file: &Path) -> Result<(), Failure> {
    let (model, _) = load(file)?;
    let name = model.card().name.clone();
    let served = Served { counts: Counts::new(model.card()), name, version: "0".to_owned(), model };
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| no_runtime(&error))?;
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

pub(crate) fn bench(file: &Path, rows: u32, json: bool) -> Result<(), Failure> {
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

pub(crate) fn no_runtime(error: &io::Error) -> Failure {
    Failure::new(Exit::Io, "cannot start", error.to_string(), "check the limits of this process")
}

pub(crate) fn style() -> Style {
    Style::new(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
}

pub(crate) fn untrained(error: &TrainError, exit: Exit) -> Failure {
    Failure::new(exit, "cannot train the model", error.to_string(), "check the data and the options")
}

pub(crate) fn write((card, bytes): (Card, Vec<u8>), output: &Output) -> Result<(), Failure> {
    artifact::write(&output.out, &bytes)?;
    show(&card, &bytes, &output.out, output.json)
}

pub(crate) fn show(card: &Card, bytes: &[u8], file: &Path, json: bool) -> Result<(), Failure> {
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
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Io, "cannot print", error.to_string(), "check where the output goes"))
        }
        _ => Ok(()),
    }
}
