//! What came of every request, as a table, and which of them failed without a reason.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::Outcome;
use crate::world::{Counts, World};

/// Something that was done while clients asked.
pub(crate) struct Done {
    pub(crate) what: &'static str,
    /// The worker that it killed.
    pub(crate) killed: Option<char>,
    /// The versions that answer when it is done.
    pub(crate) versions: &'static [&'static str],
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// What was counted before.
    pub(crate) counts: Counts,
}

pub(crate) struct Report {
    rows: Vec<[String; 9]>,
    summary: String,
    pub(crate) complaints: Vec<String>,
}

/// What the gateway's record says of a request.
struct Recorded {
    worker: Option<char>,
    reason: String,
}

/// What became of a request.
enum Fate {
    Good,
    /// It was with a worker when that was killed.
    Lost,
    Wrong(String),
}

/// Judges requests that were due while one thing was done, and until the next.
struct Judge<'a> {
    step: &'a Done,
    next: Option<&'a Done>,
    done: &'a [Done],
    records: &'a HashMap<String, Recorded>,
}

impl Judge<'_> {
    fn judge(&self, outcome: &Outcome) -> Fate {
        let answer = match &outcome.answer {
            Ok(answer) => answer,
            Err(reason) => return Fate::Wrong(format!("no answer: {reason}")),
        };
        let end = outcome.due + outcome.took;
        if answer.status == 200 {
            let version = answer.version.as_deref().unwrap_or("none");
            let is_between = outcome.due > self.step.ended && self.next.is_none_or(|next| end < next.began);
            let is_expected = !is_between || self.step.versions.contains(&version);
            return if is_expected { Fate::Good } else { Fate::Wrong(format!("version {version} answered it")) };
        }
        let reason = self.records.get(&answer.id).map_or("no record", |record| &record.reason);
        // A worker that was sent octets may have done what they ask for, so nobody is asked again. That no other worker
        // failed is held against what the gateway counted.
        let is_killing = |step: &Done| step.killed.is_some() && outcome.due <= step.ended && end >= step.began;
        if reason == "worker-broken" && self.done.iter().any(is_killing) {
            Fate::Lost
        } else {
            Fate::Wrong(format!("{}, {reason}", answer.status))
        }
    }
}

const BEGIN: &str = "<!-- swap-load:begin -->\n";
const END: &str = "<!-- swap-load:end -->";
const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
const HEAD: [&str; 9] =
    ["s", "what happens", "requests", "answers", "version", "worker", "lost", "retried", "p50 / p99 ms"];

fn records(world: &World) -> HashMap<String, Recorded> {
    let lines = world.gateway.log().matching(|line| line["log"] == "access");
    let read = |line: &serde_json::Value| {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (text("request_id"), Recorded { worker: world.name(&text("worker")), reason: text("reason") })
    };
    lines.iter().map(|line| read(line)).collect()
}

/// `200: 1500, 502: 1`
fn counted<T: Ord + fmt::Display>(all: impl Iterator<Item = T>) -> String {
    let mut counts = BTreeMap::<T, usize>::new();
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    counts.iter().map(|(one, count)| format!("{one}: {count}")).collect::<Vec<_>>().join(", ")
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
}

impl Report {
    pub(crate) fn of(world: &World, begin: Instant, done: &[Done], outcomes: &[Outcome], counts: &Counts) -> Self {
        let records = records(world);
        let mut complaints = Vec::new();
        let mut rows = Vec::new();
        let mut all_lost = 0;
        for (number, step) in done.iter().enumerate() {
            let next = done.get(number + 1);
            let is_here = |outcome: &&Outcome| {
                (number == 0 || outcome.due >= step.began) && next.is_none_or(|next| outcome.due < next.began)
            };
            let here: Vec<&Outcome> = outcomes.iter().filter(is_here).collect();
            let answered = || here.iter().filter_map(|outcome| outcome.answer.as_ref().ok());
            let recorded = |id: &str| records.get(id);
            let after = next.map_or(counts, |next| &next.counts);
            let judge = Judge { step, next, done, records: &records };
            let mut lost = 0;
            for outcome in &here {
                let wrong = match judge.judge(outcome) {
                    Fate::Good => continue,
                    Fate::Lost => {
                        lost += 1;
                        continue;
                    }
                    Fate::Wrong(wrong) => wrong,
                };
                let at = outcome.due.duration_since(begin).as_secs_f64();
                complaints.push(format!("{}: a request of {at:.3} s: {wrong}", step.what));
            }
            let is_innocent = |worker: &&char| !done.iter().any(|step| step.killed == Some(**worker));
            for worker in after.failed.iter().filter(is_innocent) {
                complaints.push(format!("{}: {worker} failed a request, and nobody killed it", step.what));
            }
            all_lost += lost;
            let mut took: Vec<Duration> = here.iter().map(|outcome| outcome.took).collect();
            took.sort_unstable();
            let workers = answered().filter_map(|answer| recorded(&answer.id)?.worker);
            rows.push([
                format!("{:.1}", step.began.duration_since(begin).as_secs_f64()),
                step.what.to_owned(),
                here.len().to_string(),
                counted(answered().map(|answer| answer.status)),
                counted(answered().filter_map(|answer| answer.version.as_deref())),
                counted(workers),
                lost.to_string(),
                (after.retries - step.counts.retries).to_string(),
                format!("{:.1} / {:.1}", percentile(&took, 50), percentile(&took, 99)),
            ]);
        }
        let mut late: Vec<Duration> = outcomes.iter().map(|outcome| outcome.late).collect();
        late.sort_unstable();
        let last = outcomes.last().map_or(begin, |outcome| outcome.due);
        let seconds = last.duration_since(begin).as_secs_f64();
        let summary = format!(
            "{} requests in {seconds:.1} s, 99 of 100 sent at most {:.1} ms late; {all_lost} lost with a worker that was \
             killed, {} failed otherwise.",
            outcomes.len(),
            percentile(&late, 99),
            outcomes.iter().filter(|outcome| !outcome.answer.as_ref().is_ok_and(|answer| answer.status == 200)).count()
                - all_lost,
        );
        Self { rows, summary, complaints }
    }
}

impl Report {
    /// Puts the table into the README.
    pub(crate) fn save(&self) {
        let text = std::fs::read_to_string(README).expect("it is there");
        let (before, rest) = text.split_once(BEGIN).expect("the table has a place");
        let (_, after) = rest.split_once(END).expect("and an end");
        std::fs::write(README, format!("{before}{BEGIN}{self}\n{END}{after}")).expect("it can be written");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |row: &[String]| format!("| {} |", row.join(" | "));
        writeln!(f, "{}", line(&HEAD.map(str::to_owned)))?;
        writeln!(f, "{}", line(&HEAD.map(|_| "---".to_owned())))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))?;
        write!(f, "\n{}", self.summary)
    }
}
