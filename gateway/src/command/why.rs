//! `gateway why`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The `request_id` of an answer.
    request_id: String,
    /// The log in JSON; standard input where absent.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// For machines: the records as they are.
    #[arg(long)]
    json: bool,
}

/// Shows what the log says of one request; whether it says anything.
pub(crate) fn run(options: &Options) -> Result<bool, Failure> {
    let reader: Box<dyn BufRead> = match &options.log {
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::usage(format!("the log can't be read: {error}")))?;
            Box::new(BufReader::new(file))
        }
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::usage("name the log with --log FILE, or pipe it in"));
        }
        None => Box::new(BufReader::new(std::io::stdin())),
    };
    let mut found = false;
    for line in reader.split(b'\n') {
        let line = line.map_err(|error| Failure::usage(format!("the log can't be read: {error}")))?;
        if memchr::memmem::find(&line, options.request_id.as_bytes()).is_none() {
            continue;
        }
        let Ok(Value::Object(record)) = serde_json::from_slice::<Value>(&line) else { continue };
        if record.get("request_id").and_then(Value::as_str) != Some(options.request_id.as_str()) {
            continue;
        }
        found = true;
        if options.json {
            println!("{}", Value::Object(record));
            continue;
        }
        let rows: Vec<[String; 2]> = record
            .iter()
            .map(|(key, value)| [format!("  {key}"), value.as_str().map_or_else(|| value.to_string(), str::to_owned)])
            .collect();
        println!("{}\n{}\n", record.get("log").and_then(Value::as_str).unwrap_or("record"), super::table(&rows));
    }
    if !found {
        println!("The log says nothing of {}.", options.request_id);
    }
    Ok(found)
}
