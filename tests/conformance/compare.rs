//! Points the cases of `http1` at other proxies too, and prints what each made of them, as Markdown.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a command that prints, and a world that can't be made ends it"
)]

mod peers;

use std::process::ExitCode;

use harness::Gateway;
use harness::conformance::http1::{self, Case, Observed, Proxy};

use peers::Peer;

type Run = Vec<(&'static Case, Observed)>;

const USAGE: &str = "usage: conformance [--against haproxy,envoy,nginx]";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "haproxy,envoy,nginx".to_owned(),
        ["--against", names] => names.to_owned(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    let mut columns = vec![("gateway".to_owned(), gateway().await)];
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let Some(peer) = Peer::named(name) else {
            eprintln!("conformance: {name:?} is not a proxy that is known here\n{USAGE}");
            return ExitCode::from(64);
        };
        columns.push((peer.name().to_owned(), against(peer).await));
    }
    print(&columns);
    ExitCode::SUCCESS
}

/// The rows that need nothing but a proxy: nobody is trusted by a plain one.
fn cases() -> Vec<&'static Case> {
    http1::cases().filter(|case| !case.trusted).collect()
}

async fn gateway() -> Run {
    let worker = http1::recorder();
    let mut gateway = Gateway::builder().without_base().worker(&worker).policy(http1::POLICY).start().await;
    let proxy = Proxy::gateway(gateway.address());
    http1::observe(proxy, &worker, &cases(), async || assert!(gateway.stop().await.success(), "the gateway stops"))
        .await
        .0
}

async fn against(peer: Peer) -> Run {
    let worker = http1::recorder();
    let mut running = peer.start(worker.address()).await;
    let proxy = Proxy { address: running.address(), patience: peers::PATIENCE, ours: &[] };
    http1::observe(proxy, &worker, &cases(), async || running.stop()).await.0
}

fn print(columns: &[(String, Run)]) {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let rule = "|---".repeat(names.len() + 1);
    let Some((ours, peers)) = columns.split_first() else { return };
    let mut at = 0;
    let mut sums = Vec::new();
    for (table, cases) in http1::TABLES {
        let count = cases.iter().filter(|case| !case.trusted).count();
        println!("## {table}\n\n| case | {} |\n{rule}|", names.join(" | "));
        let mut tallies = vec![Tally::default(); peers.len()];
        for row in at..at + count {
            let Some((case, our)) = ours.1.get(row) else { break };
            let mut cells = vec![outcome(our, our)];
            for ((_, run), tally) in peers.iter().zip(&mut tallies) {
                let Some((_, their)) = run.get(row) else { continue };
                tally.add(our, their);
                cells.push(outcome(their, our));
            }
            println!("| {} | {} |", case.name, cells.join(" | "));
        }
        at += count;
        println!();
        sums.push((*table, count, tallies));
    }
    println!(
        "## In all\n\n| table | cases | {} |\n|---|--{}|",
        names.iter().skip(1).copied().collect::<Vec<_>>().join(" | "),
        "|---".repeat(peers.len())
    );
    let mut total = vec![Tally::default(); peers.len()];
    let mut rows = 0;
    for (table, count, tallies) in sums {
        println!("| {table} | {count} | {} |", cells(&tallies));
        rows += count;
        total.iter_mut().zip(tallies).for_each(|(total, tally)| total.merge(tally));
    }
    println!("| **all** | {rows} | {} |", cells(&total));
    println!(
        "\nEach: as the gateway · forwarded where it refuses · refused where it forwards · forwarded otherwise. Bounds on\n\
         bodies, and headers that say who calls, are the gateway's own: a plain proxy has no opinion on them."
    );
}

fn cells(tallies: &[Tally]) -> String {
    let cells = tallies.iter().map(|t| format!("{} · {} · {} · {}", t.same, t.laxer, t.stricter, t.otherwise));
    cells.collect::<Vec<_>>().join(" | ")
}

/// How often a proxy did as the gateway did, and how it differed.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    same: usize,
    laxer: usize,
    stricter: usize,
    otherwise: usize,
}

impl Tally {
    fn add(&mut self, our: &Observed, their: &Observed) {
        match (whole(our).is_empty(), whole(their).is_empty()) {
            (true, true) => self.same += 1,
            (true, false) => self.laxer += 1,
            (false, true) => self.stricter += 1,
            (false, false) if our.meanings == their.meanings => self.same += 1,
            (false, false) => self.otherwise += 1,
        }
    }

    fn merge(&mut self, other: Self) {
        self.same += other.same;
        self.laxer += other.laxer;
        self.stricter += other.stricter;
        self.otherwise += other.otherwise;
    }
}

/// The messages of a case that the worker could take for whole ones.
fn whole(observed: &Observed) -> Vec<&String> {
    observed.meanings.iter().filter(|meaning| !meaning.starts_with("unfinished ")).collect()
}

/// One cell: what a proxy did, and where it is not what the gateway did, which message it forwarded.
fn outcome(observed: &Observed, ours: &Observed) -> String {
    let statuses: Vec<String> = observed.answers.iter().map(|said| said.status.to_string()).collect();
    let end = if observed.closed { "" } else { ", left open" };
    let whole = whole(observed);
    if whole.is_empty() {
        let verdict = match observed.answers.iter().find(|said| said.status >= 200) {
            Some(said) => format!("refused {}", said.status),
            None => "no answer".to_owned(),
        };
        return format!("{verdict}{end}");
    }
    let text = if observed.meanings == ours.meanings {
        "forwarded".to_owned()
    } else {
        let messages = whole.iter().map(|message| message.as_str()).collect::<Vec<_>>().join(" ⏭ ");
        let shown: String = messages.chars().take(70).collect();
        let more = if shown.len() < messages.len() { "…" } else { "" };
        // `|` would end the cell.
        format!("forwarded as `{}{more}`", shown.replace('`', "'").replace('|', "¦"))
    };
    let all_well = observed.answers.iter().all(|said| said.status <= 200);
    let said = if all_well { String::new() } else { format!(", answered {}", statuses.join(" ")) };
    format!("{text}{said}{end}")
}
