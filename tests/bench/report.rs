//! What was measured, for people: as it happens, as a table, and as a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::chart;
use crate::jobs::{Job, Measure, Target};
use crate::measure::Sample;
use crate::peers::Peer;

/// What one program gave for a job.
#[derive(Debug)]
pub(crate) enum Cell {
    Measured(Vec<Sample>),
    /// Why it was not counted.
    Dropped(String),
}

impl Cell {
    fn median(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let Self::Measured(samples) = self else { return None };
        let mut values: Vec<f64> = samples.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => None,
            count if count % 2 == 1 => values.get(count / 2).copied(),
            count => Some(f64::midpoint(values[count / 2 - 1], values[count / 2])),
        }
    }
}

/// What all programs gave for a job.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) job: &'static Job,
    pub(crate) cells: BTreeMap<Peer, Cell>,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
}

/// One line for one round.
pub(crate) fn progress(peer: Peer, round: usize, job: &Job, sample: &Sample) {
    let mut line = format!("  {:8} {round}  {:8} {}", peer.id(), number(sample.value), job.measure.unit());
    if sample.busy > 0.0 {
        let _ = write!(line, "  {:6.0}/s  core {:3.0} %", sample.requests_per_second, sample.busy * 100.0);
    }
    if let (Some(p50), Some(p99)) = (sample.p50, sample.p99) {
        let _ = write!(line, "  p50 {p50:.0} µs  p99 {p99:.0} µs");
    }
    println!("{line}");
}

impl Results {
    fn cell(&self, job: &str, peer: Peer) -> Option<&Cell> {
        self.rows.iter().find(|row| row.job.id == job)?.cells.get(&peer)
    }

    fn value(&self, job: &str, peer: Peer) -> Option<f64> {
        self.cell(job, peer)?.median(|sample| Some(sample.value))
    }

    /// How the gateway stands to its target: what it is and whether that is good enough.
    fn verdict(&self, job: &Job) -> Option<(String, bool)> {
        let own = self.value(job.id, Peer::Gateway)?;
        Some(match job.target? {
            Target::Ratio(most, peers, other) => {
                let others = peers.iter().filter_map(|peer| Some((self.value(other, *peer)?, *peer)));
                let (best, peer) = others.min_by(|(a, _), (b, _)| a.total_cmp(b))?;
                let ratio = own / best;
                let name = if other == job.id { String::new() } else { format!(" at {other}") };
                (format!("{ratio:.2} × {}{name}, aim {most}", peer.title()), ratio <= most)
            }
            Target::AtMost(most) => (format!("{}, aim {most}", number(own)), own <= most),
            Target::Adds(most, other) => {
                let added = own - self.value(other, Peer::Gateway)?;
                (format!("{added:+.1} to {other}, aim {most}"), added <= most)
            }
        })
    }

    /// The table of all jobs, what was left out and why, and rates.
    pub(crate) fn markdown(&self) -> String {
        let peers: Vec<Peer> = self.versions.keys().copied().collect();
        let mut text = String::from("| job | unit |");
        for peer in &peers {
            let version = self.versions.get(peer).map_or("", String::as_str);
            let version = if peer.is_yardstick() || peer.is_gateway() { "" } else { version };
            let _ = write!(text, " {} |", format!("{} {version}", peer.title()).trim());
        }
        text.push_str(" gateway to its aim |\n| --- | --- |");
        text.push_str(&" ---: |".repeat(peers.len()));
        text.push_str(" --- |\n");
        for Row { job, .. } in &self.rows {
            let _ = write!(text, "| {} | {} |", job.title, job.measure.unit());
            for peer in &peers {
                let value = self.value(job.id, *peer).map_or_else(|| "–".to_owned(), number);
                let _ = write!(text, " {value} |");
            }
            let verdict = self
                .verdict(job)
                .map_or_else(String::new, |(text, met)| if met { text } else { format!("{text}: **missed**") });
            let _ = writeln!(text, " {verdict} |");
        }
        text
    }

    /// Throughput, latencies, and what was not counted.
    fn details(&self) -> String {
        let mut text = String::from(
            "\n## Rates\n\nRequests a second that one core could carry (a second divided by the processor time of a \
             request), and those that were sent in a closed loop, with how busy that kept the core. The load shares \
             its core with the worker's stand-in and can be what holds up the faster ones.\n\n\
             | job | program | one core | sent | core |\n| --- | --- | ---: | ---: | ---: |\n",
        );
        let rows = self.rows.iter().filter(|row| row.job.measure == Measure::Request);
        for (row, (peer, cell)) in rows.flat_map(|row| row.cells.iter().map(move |cell| (row, cell))) {
            let median = |of: fn(&Sample) -> f64| cell.median(|sample| Some(of(sample)));
            let all = (median(|s| 1e6 / s.value), median(|s| s.requests_per_second), median(|s| s.busy * 100.0));
            if let (Some(could), Some(sent), Some(busy)) = all {
                let _ = writeln!(text, "| {} | {} | {could:.0} | {sent:.0} | {busy:.0} % |", row.job.id, peer.title());
            }
        }
        let rows = self.rows.iter().filter(|row| row.job.measure == Measure::Latency);
        for (number, (peer, cell)) in rows.flat_map(|row| &row.cells).enumerate() {
            if number == 0 {
                text.push_str(
                    "\n## Latencies\n\nAt a fixed rate, from when a request was due (not from when it could be sent), in \
                     µs.\n\n| program | p50 | p99 | answered a second |\n| --- | ---: | ---: | ---: |\n",
                );
            }
            let rate = cell.median(|sample| Some(sample.requests_per_second));
            if let (Some(p50), Some(p99), Some(rate)) = (cell.median(|s| s.p50), cell.median(|s| s.p99), rate) {
                let _ = writeln!(text, "| {} | {p50:.0} | {p99:.0} | {rate:.0} |", peer.title());
            }
        }
        text.push_str("\n## Not counted\n\n");
        for row in &self.rows {
            for (peer, cell) in &row.cells {
                if let Cell::Dropped(reason) = cell {
                    let _ = writeln!(text, "- {}, {}: {reason}", row.job.id, peer.title());
                }
            }
        }
        text
    }

    fn method(&self) -> String {
        format!(
            "Processor time of the program itself, all its threads and children, for each request: the median of {} \
             rounds of {} s, taken in turn. One core and one thread for the program, another core for the load, the \
             worker's stand-in and Redis. A POST of 80 octets over TLS 1.3 (AES-128-GCM, X25519, ECDSA P-256) on 8 kept \
             connections, kept connections to the worker, and where a job has a log, all write one of JSON to a file. \
             Every program is asked first whether it really does the job. \
             Limits are exact sliding windows in the gateway and coarser elsewhere: a rate over two windows in HAProxy, \
             fixed windows in nginx, a token bucket in Envoy, whose checked tokens are cached.",
            self.rounds, self.seconds
        )
    }

    fn json(&self) -> Value {
        let cell = |cell: &Cell| match cell {
            Cell::Dropped(reason) => json!({ "dropped": reason }),
            Cell::Measured(samples) => samples
                .iter()
                .map(|sample| {
                    json!({
                        "value": sample.value, "requests_per_second": sample.requests_per_second,
                        "busy": sample.busy, "p50": sample.p50, "p99": sample.p99,
                    })
                })
                .collect(),
        };
        let rows = self.rows.iter().map(|row| {
            let cells: serde_json::Map<_, _> =
                row.cells.iter().map(|(peer, found)| (peer.id().to_owned(), cell(found))).collect();
            let verdict = self.verdict(row.job);
            json!({
                "job": row.job.id, "title": row.job.title, "unit": row.job.measure.unit(), "rounds": cells,
                "target": verdict.as_ref().map(|(text, _)| text), "met": verdict.as_ref().map(|(_, met)| met),
            })
        });
        let versions: serde_json::Map<_, _> =
            self.versions.iter().map(|(peer, version)| (peer.id().to_owned(), json!(version))).collect();
        json!({ "versions": versions, "seconds": self.seconds, "jobs": rows.collect::<Vec<_>>() })
    }

    /// Everything, into the benchmark's own directory.
    pub(crate) fn write(&self, out: &Path) -> std::io::Result<()> {
        let page = format!("# Benchmark\n\n{}\n\n{}{}", self.method(), self.markdown(), self.details());
        fs::write(out.join("results.md"), page)?;
        fs::write(out.join("results.json"), serde_json::to_string_pretty(&self.json())? + "\n")?;
        fs::write(out.join("results.svg"), chart::draw(&self.bars()))
    }

    /// Into the repository, and the table into the README between its marks.
    pub(crate) fn save(&self, out: &Path) -> std::io::Result<()> {
        const BEGIN: &str = "<!-- bench:begin -->\n";
        const END: &str = "<!-- bench:end -->";
        for name in ["results.md", "results.svg"] {
            fs::copy(out.join(name), Path::new("tests/bench").join(name))?;
        }
        let readme = fs::read_to_string("README.md")?;
        let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let (before, after) =
            parts.ok_or_else(|| std::io::Error::other("README.md lacks the marks of the benchmark"))?;
        let block = format!(
            "{}\n\n![Processor time of a request](tests/bench/results.svg)\n\n{}\nRates, latencies and what was not \
             counted: [tests/bench/results.md](tests/bench/results.md).\n",
            self.method(),
            self.markdown(),
        );
        fs::write("README.md", format!("{before}{BEGIN}{block}{END}{after}"))
    }

    /// What the chart shows: the jobs that are counted in time for a request.
    fn bars(&self) -> Vec<chart::Group> {
        let rows = self.rows.iter().filter(|row| row.job.measure == Measure::Request);
        let groups = rows.map(|row| {
            let bar = |peer: &Peer| Some((*peer, self.value(row.job.id, *peer)?));
            chart::Group { title: row.job.title, bars: self.versions.keys().filter_map(bar).collect() }
        });
        groups.filter(|group| group.bars.len() > 1).collect()
    }
}

/// Three digits, as far as they mean something.
pub(crate) fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
