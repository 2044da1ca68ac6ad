//! What limits can count, for whom, and what they do where there is no room. How exactly they count is in
//! `rate_limit`, what a lost store means in `store_lost`.

mod answers;
mod costs;
mod full;
mod given_back;
mod headers;
mod in_flight;
mod lost;
mod mistakes;
mod remembered;
mod scopes;
mod shared_calls;
mod tokens;

use std::time::Duration;

use harness::{Answer, Gateway, Recorder, Redis};
use serde_json::json;

use crate::stores::Store;

/// A limit by principal and of a minute, which a lost store denies; `rest` says the rest, and may say otherwise.
fn limit(name: &str, rest: &str) -> String {
    let own = rest.split("\n[").next().unwrap_or_default();
    let defaults = ["by = [\"principal\"]", "window = \"60s\"", "store_lost = \"deny\""];
    let is_said =
        |line: &&&str| line.split_once('=').is_some_and(|(key, _)| own.lines().any(|own| own.starts_with(key)));
    let unsaid: Vec<&str> = defaults.iter().filter(|line| !is_said(line)).copied().collect();
    format!("[limits.{name}]\n{}\n{rest}\n", unsaid.join("\n"))
}

/// A route that takes any JSON, with these limits.
fn any_json(limits: &str) -> String {
    format!(
        "[routes.any]\npath = \"/any\"\nmethods = [\"POST\"]\npool = \"models\"\nauthorize = [\"predictor\"]\n\
         limits = {limits}\n[routes.any.body]\nmax = \"1MiB\"\n"
    )
}

fn assert_limited(answer: &Answer, limits: &[&str]) {
    answer.assert_problem(429, "limit-exceeded");
    let body = answer.json();
    assert_eq!(body["violated_policies"], json!(limits), "{body}");
    assert_eq!(answer.header("retry-after"), body["retry_after"].to_string());
}

fn retry_after(answer: &Answer) -> Duration {
    Duration::from_secs(answer.header("retry-after").parse().expect("whole seconds"))
}

/// What is left of a limit, as a header says: `ratelimit`, `x-row-budget` or `x-answer-budget`.
fn left(answer: &Answer, header: &str, limit: &str) -> Option<u64> {
    let text = answer.header(header);
    let item = text.split(", ").find(|item| item.starts_with(&format!("\"{limit}\";")))?;
    item.split(';').find_map(|part| part.strip_prefix("r=")?.parse().ok())
}

/// How often a Redis was asked to decide.
fn calls(redis: &Redis) -> u64 {
    let text: String = ::redis::from_redis_value(redis.ask("INFO commandstats")).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
}

/// How many requests a limit has counted with this outcome.
async fn counted(gateway: &Gateway, limit: &str, outcome: &str) -> u64 {
    let series = format!("modelgate_limit_requests_total{{limit=\"{limit}\",outcome=\"{outcome}\"}}");
    total(gateway, &series).await
}

/// The value of a series.
async fn total(gateway: &Gateway, series: &str) -> u64 {
    crate::admin::number(gateway, series).await.and_then(|value| value.parse().ok()).expect("a series")
}
