//! `gateway pool`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{Admin, reason};

#[derive(Args)]
pub(crate) struct CompareOptions {
    /// The pool whose requests are copied.
    pool: String,
    #[command(flatten)]
    admin: Admin,
    /// For machines: the JSON that the gateway gave.
    #[arg(long)]
    json: bool,
    /// Put the workers of the other pool in the place of this one's if its copies have shown what is asked for below.
    #[arg(long, conflicts_with = "json")]
    promote: bool,
    #[command(flatten)]
    wanted: Wanted,
    /// After a promotion, wait until the new workers have been watched for long enough, or were rolled back.
    #[arg(long, requires = "promote")]
    wait: bool,
}

#[derive(Args)]
struct Wanted {
    /// Answers that were compared, at least.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "promote")]
    min_compared: u64,
    /// How many in a hundred labels are the same, and statuses, at least.
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, requires = "promote")]
    min_agreement: f64,
    /// How many in a hundred copies failed, at most.
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, requires = "promote")]
    max_failed: f64,
    /// The largest difference of a probability, at most; any, if nothing is said.
    #[arg(long, value_name = "DIFFERENCE", requires = "promote")]
    max_distance: Option<f64>,
    /// The time within which 95 of 100 answers begin, at most so many times the live workers'; any, if nothing is said.
    #[arg(long, value_name = "TIMES", requires = "promote")]
    max_slowdown: Option<f64>,
}

#[derive(Args)]
pub(crate) struct PromoteOptions {
    /// The pool whose workers make room.
    pool: String,
    /// The pool that its canary names, where its shadow names another.
    #[arg(long, conflicts_with = "shadow")]
    canary: bool,
    /// The pool that its shadow names.
    #[arg(long)]
    shadow: bool,
    /// Wait until they have been watched for long enough, or were rolled back.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Args)]
pub(crate) struct SwapOptions {
    /// The pool.
    pool: String,
    /// Where the new workers are: URLs, separated by commas.
    #[arg(long, value_name = "URL", value_delimiter = ',', required = true)]
    to: Vec<String>,
    /// Wait until they have been watched for long enough, or were rolled back.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    admin: Admin,
}

fn ask(admin: &Admin, method: &str, pool: &str, what: &str, body: Option<&Value>) -> Result<(bool, Value), Failure> {
    if pool.is_empty() || !pool.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(Failure::usage(format!("{pool:?} can't be the name of a pool")));
    }
    admin.ask(method, &format!("/pools/{pool}/{what}"), body)
}

/// `gateway pool compare`.
pub(crate) fn compare(options: &CompareOptions) -> Result<(), Failure> {
    let (good, answer) = ask(&options.admin, "GET", &options.pool, "compare", None)?;
    if !good {
        return Err(Failure::unavailable(format!("the gateway says: {}", reason(&answer))));
    }
    if options.json {
        println!("{answer}");
        return Ok(());
    }
    let at = |path: &str| answer.pointer(path).filter(|value| !value.is_null());
    let text = |path: &str| {
        at(path).map_or_else(|| "-".to_owned(), |value| value.as_str().map_or(value.to_string(), str::to_owned))
    };
    let number = |path: &str, unit: &str| match at(path).and_then(Value::as_f64) {
        Some(number) => format!("{number:.3}{unit}"),
        None => "-".into(),
    };
    let share = match at("/labels/share").and_then(Value::as_f64) {
        Some(share) => format!("{} of {} ({:.2} %)", text("/labels/same"), text("/labels/compared"), share * 100.0),
        None => "-".into(),
    };
    let latency = |step: &str| {
        let of = |whose: &str| number(&format!("/latency/{whose}/{step}_ms"), " ms");
        [format!("answer begins, {step}"), of("live"), of("candidate")]
    };
    let only = |what: &str, said: String| [what.to_owned(), String::new(), said];
    let rows = [
        [String::new(), text("/pool"), text("/candidate")],
        only("copies answered", text("/copies/answered")),
        only("copies failed", text("/copies/failed")),
        only("copies dropped", text("/copies/dropped")),
        only("same status", text("/same_status")),
        only("same label", share),
        only("largest difference of a probability", number("/probabilities/largest_difference", "")),
        only("mean of each answer's largest", number("/probabilities/mean_difference", "")),
        latency("mean"),
        latency("p50"),
        latency("p95"),
        latency("p99"),
    ];
    println!("{}", super::table(&rows));
    if !options.promote {
        return Ok(());
    }
    let Wanted { min_compared, min_agreement, max_failed, max_distance, max_slowdown } = &options.wanted;
    let require = json!({
        "compared": min_compared,
        "agreement": min_agreement,
        "failed": max_failed,
        "distance": max_distance,
        "slowdown": max_slowdown,
    });
    println!();
    let body = json!({ "from": "shadow", "require": require });
    change(&options.admin, &options.pool, ("promotion", &body), options.wait)
}

/// `gateway pool promote`.
pub(crate) fn promote(options: &PromoteOptions) -> Result<(), Failure> {
    let from = match (options.canary, options.shadow) {
        (true, _) => Some("canary"),
        (_, true) => Some("shadow"),
        _ => None,
    };
    change(&options.admin, &options.pool, ("promotion", &json!({ "from": from })), options.wait)
}

/// `gateway pool swap`.
pub(crate) fn swap(options: &SwapOptions) -> Result<(), Failure> {
    change(&options.admin, &options.pool, ("workers", &json!({ "workers": options.to })), options.wait)
}

/// Asks for other workers in a pool, and says what came of it.
fn change(admin: &Admin, pool: &str, (what, body): (&str, &Value), wait: bool) -> Result<(), Failure> {
    let (good, mut answer) = ask(admin, "PUT", pool, what, Some(body))?;
    if !good {
        let done = if what == "promotion" { "promoted" } else { "swapped" };
        let mut message = format!("nothing was {done}: {}", reason(&answer));
        if let Some(failures) = answer.get("failures").and_then(Value::as_array) {
            message = format!("nothing was {done}, and the old workers go on");
            for failure in failures.iter().filter_map(Value::as_str) {
                message.push_str("\n  ");
                message.push_str(failure);
            }
        }
        return Err(Failure { message, code: 1 });
    }
    let names = |answer: &Value, key: &str| {
        let listed = answer.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        listed.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    let seconds = answer.get("watch_seconds").and_then(Value::as_f64).unwrap_or_default();
    println!("{} of the pool {pool} now has every new request.", names(&answer, "workers"));
    println!("{} comes back by itself if too much fails in the next {seconds} s.", names(&answer, "before"));
    if answer.get("promoted").is_some_and(Value::is_string) {
        println!("Its canary and its shadow rest until the configuration on disk says something new of the pool.");
    }
    println!(
        "Write the new workers into [pools.{pool}]: reloads leave them in while it stays as it is, a restart does not."
    );
    while wait && answer.get("stage").and_then(Value::as_str) == Some("watched") {
        std::thread::sleep(Duration::from_millis(200));
        answer = ask(admin, "GET", pool, "swap", None)?.1;
    }
    if !wait {
        return Ok(());
    }
    let stage = answer.get("stage").and_then(Value::as_str).unwrap_or("unknown").replace('_', " ");
    let cause = answer.get("cause").and_then(Value::as_str).map(|cause| format!(": {cause}")).unwrap_or_default();
    if stage != "kept" {
        return Err(Failure { message: format!("the swap was {stage}{cause}"), code: 1 });
    }
    println!("They were watched for {seconds} s and stay.");
    Ok(())
}
