//! What is shown: a table for people, JSON for machines, Markdown for the README.

use std::time::Duration;

use serde_json::{Value, json};

use crate::attacks::Attack;
use crate::honest::Felt;

const BEGIN: &str = "<!-- attack:begin -->\n";
const END: &str = "<!-- attack:end -->";
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

/// What came of one attack.
pub(crate) struct Row {
    name: &'static str,
    done: String,
    connections: i64,
    /// KiB before, at most and after; and the bound on growth.
    memory: [u64; 3],
    bound: u64,
    refused: Vec<(String, i64)>,
    answers: usize,
    /// Of requests on kept connections: half, 99 %, all.
    kept: [Duration; 3],
    /// The same with a new connection for each.
    fresh: [Duration; 3],
    errors: Vec<String>,
}

fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

fn mib(kib: u64) -> String {
    format!("{}.{}", kib >> 10, ((kib & 1023) * 10) >> 10)
}

impl Row {
    pub(crate) fn new(
        attack: &Attack,
        count: u64,
        connections: i64,
        memory: [u64; 3],
        refused: Vec<(String, i64)>,
        mut felt: Felt,
    ) -> Self {
        let quantiles = |of: &mut [Duration]| [500, 990, 1000].map(|thousandths| Felt::quantile(of, thousandths));
        Self {
            name: attack.name,
            done: if count == 0 { String::new() } else { format!("{count} {}", attack.unit) },
            connections,
            memory,
            bound: attack.bound(),
            refused,
            answers: felt.kept.len() + felt.fresh.len(),
            kept: quantiles(&mut felt.kept),
            fresh: quantiles(&mut felt.fresh),
            errors: felt.errors,
        }
    }

    fn is_bounded(&self) -> bool {
        let [before, peak, _] = self.memory;
        peak <= before + self.bound
    }

    pub(crate) fn is_good(&self) -> bool {
        self.answers > 0 && self.errors.is_empty() && self.is_bounded()
    }

    fn cells(&self) -> [String; 10] {
        let [before, peak, after] = self.memory;
        let refused: Vec<String> = self.refused.iter().map(|(name, count)| format!("{count} {name}")).collect();
        [
            self.name.to_owned(),
            self.done.clone(),
            self.connections.to_string(),
            millis(self.kept[0]),
            millis(self.kept[1]),
            millis(self.fresh[2]),
            self.errors.len().to_string(),
            format!("{} → {} → {}", mib(before), mib(peak), mib(after)),
            mib(before + self.bound),
            refused.join(", "),
        ]
    }

    pub(crate) fn line(&self) -> String {
        let mut line = aligned(&self.cells());
        if let Some(error) = self.errors.first() {
            line.extend(["\n    the honest client's first error: ", error]);
        }
        if !self.is_bounded() {
            line += "\n    memory went beyond its bound";
        }
        line
    }
}

/// The columns, and how wide they are for people.
const COLUMNS: [(&str, usize); 10] = [
    ("attack", 38),
    ("done", 20),
    ("open", 5),
    ("p50 ms", 7),
    ("p99 ms", 8),
    ("new max", 7),
    ("errors", 6),
    ("MiB before → most → after", 26),
    ("bound", 6),
    ("refused", 0),
];

pub(crate) fn head() -> String {
    aligned(&COLUMNS.map(|(name, _)| name.to_owned()))
}

fn aligned(cells: &[String; 10]) -> String {
    let mut line = String::new();
    for (index, (cell, (_, width))) in cells.iter().zip(COLUMNS).enumerate() {
        let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
        // Words to the left, numbers to the right.
        let words = index < 2 || width == 0;
        line.extend(if words { [cell, padding.as_str(), "  "] } else { [padding.as_str(), cell, "  "] });
    }
    line.trim_end().to_owned()
}

pub(crate) fn json(rows: &[Row]) -> Value {
    let micros = |of: [Duration; 3]| of.map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    rows.iter()
        .map(|row| {
            let ([p50, p99, most], [new_p50, new_p99, new_most]) = (micros(row.kept), micros(row.fresh));
            json!({
                "attack": row.name,
                "done": row.done,
                "connections": row.connections,
                "answers": row.answers,
                "micros": { "p50": p50, "p99": p99, "most": most },
                "new_connection_micros": { "p50": new_p50, "p99": new_p99, "most": new_most },
                "errors": row.errors,
                "kib": { "before": row.memory[0], "peak": row.memory[1], "after": row.memory[2] },
                "growth_bound_kib": row.bound,
                "refused": row.refused.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "good": row.is_good(),
            })
        })
        .collect()
}

/// Puts the table between the marks in the README.
pub(crate) fn save(rows: &[Row], seconds: u64) {
    let readme = std::fs::read_to_string(README).expect("the README is there");
    let (before, rest) = readme.split_once(BEGIN).expect("it has a mark for the beginning");
    let (_, after) = rest.split_once(END).expect("it has a mark for the end");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut table = format!("Each attack for {seconds} s, on {cores} cores for everybody:\n\n");
    table.extend(["| ", &COLUMNS.map(|(name, _)| name).join(" | "), " |\n|---|---|"]);
    table.extend(["--:|".repeat(COLUMNS.len() - 3).as_str(), "---|\n"]);
    for row in rows {
        table.extend(["| ", row.cells().join(" | ").as_str(), " |\n"]);
    }
    std::fs::write(README, format!("{before}{BEGIN}{table}{END}{after}")).expect("it can be written");
}
