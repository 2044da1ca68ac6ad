//! `gateway explain`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use gateway::config::{Config, ConfigFile, Places};
use gateway::explain::{Asked, Caller, Explained, explain};
use gateway::types::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use serde_json::{Map, Value, json};

use super::Failure;
use super::admin::Admin;

#[derive(Args)]
pub(crate) struct Options {
    /// The method, such as POST.
    method: String,
    /// The path and query, such as /predict.
    path: String,
    /// Who asks: an API key's id (`team-a`), `cert:ci` for a client certificate, `signer:batch` for a
    /// signing key, `user:alice`, `role:reader,admin`, or `anonymous`.
    #[arg(long = "as", value_name = "WHO", default_value = "anonymous")]
    caller: String,
    /// A scope that a user or a role comes with; repeat it for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The claims that a user or a role comes with, as a JSON object.
    #[arg(long, value_name = "JSON")]
    claims: Option<String>,
    /// The address that it comes from.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    from: IpAddr,
    /// When, such as 2027-01-31T12:00:00Z; now where absent.
    #[arg(long, value_name = "INSTANT")]
    at: Option<At>,
    /// A header, such as `Origin: https://app.example.com`; repeat it for more.
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// A file with the body.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The host that is called.
    #[arg(long, default_value = "localhost")]
    host: String,
    /// Ask the running gateway how much of the limits is used.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    admin: Admin,
    /// For machines: a JSON object.
    #[arg(long)]
    json: bool,
}

/// An instant, as it is written on a command line.
#[derive(Clone, Copy)]
struct At(Timestamp);

impl std::str::FromStr for At {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Timestamp::parse(text).map(Self).ok_or("is not an instant; write one such as 2027-01-31T12:00:00Z")
    }
}

/// Says what would become of a request; whether it would pass.
pub(crate) fn run(options: &Options, files: &[ConfigFile]) -> Result<bool, Failure> {
    let (policy, places) = Config::load_policy(files)?;
    let body = options.body.as_ref().map(std::fs::read).transpose();
    let body = body.map_err(|error| Failure::usage(format!("the body can't be read: {error}")))?;
    let headers = headers(&options.host, &options.headers).map_err(Failure::usage)?;
    let asked = Asked {
        method: options.method.parse().map_err(|_| Failure::usage("the method is no method"))?,
        target: options.path.parse().map_err(|_| Failure::usage("the path is no path"))?,
        headers,
        body,
        address: options.from,
        caller: Caller::parse(&options.caller),
        scopes: options.scopes.clone(),
        claims: options.claims.as_deref().map_or_else(|| Ok(Map::new()), claims)?,
        now: options.at.map_or_else(now, |at| at.0),
    };
    let mut explained = explain(&policy, &asked);
    let full = if options.live { live(&mut explained, &options.admin)? } else { None };
    let passes = explained.refused.is_none() && full.is_none();
    if options.json {
        println!("{}", as_json(&explained, full.as_deref(), &places));
    } else {
        show(&asked, &explained, full.as_deref(), &places, &options.caller);
    }
    Ok(passes)
}

/// The time of the wall clock.
pub(super) fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

fn claims(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::usage(format!("the claims are no JSON object: {error}")))
}

/// Headers as they are written: `Name: value`.
pub(super) fn headers(host: &str, lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_| format!("{host:?} is no host"))?);
    for line in lines {
        let wrong = || format!("{line:?} is no header; write it as \"Name: value\"");
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.append(name, HeaderValue::try_from(value.trim()).map_err(|_| wrong())?);
    }
    Ok(headers)
}

/// A request line: `POST /predict`.
pub(super) fn request(line: &str) -> Option<(Method, Uri)> {
    let (method, target) = line.split_once(' ')?;
    Some((method.parse().ok()?, target.trim().parse().ok()?))
}

/// Adds how much of each limit is used; gives back one that has no room.
fn live(explained: &mut Explained, admin: &Admin) -> Result<Option<String>, Failure> {
    let principal = explained.principal.clone().unwrap_or_default();
    let (good, answer) = admin.ask("GET", "/limits", None)?;
    if !good {
        return Err(Failure::unavailable(format!("the gateway at {admin} does not tell: {answer}")));
    }
    let windows = answer.get("windows").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut full = None;
    for (limit, quota) in &explained.limits {
        for window in windows.iter().filter(|window| window.get("limit").and_then(Value::as_str) == Some(limit)) {
            let text = |key: &str| window.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let used = window.get("used").and_then(Value::as_u64).unwrap_or(0);
            let of = text("of");
            // Windows of others are others' business.
            if of.contains("principal=") && !of.contains(&format!("principal={principal}")) {
                continue;
            }
            let step = explained
                .steps
                .iter_mut()
                .find(|step| step.stage == "limit" && step.said.starts_with(&format!("{limit}:")));
            if let Some(step) = step {
                // Writing to a string never fails.
                let _ = write!(step.said, "; {used} used ({of})");
            }
            if used >= *quota {
                full = Some(format!("{limit} is used up ({of})"));
            }
        }
    }
    Ok(full)
}

fn show(asked: &Asked, explained: &Explained, full: Option<&str>, places: &Places, caller: &str) {
    println!("{} {} as {caller}\n", asked.method, asked.target);
    let mut rows = Vec::new();
    for step in &explained.steps {
        let place = step.key.as_ref().map(|key| places.of(key)).unwrap_or_default();
        rows.push([format!("  {}", step.stage), step.said.clone(), place]);
    }
    println!("{}\n", super::table(&rows));
    match (&explained.refused, full) {
        (Some((reason, detail)), _) => {
            println!("refused: {} {}\n  {detail}", reason.status().as_u16(), reason.slug());
        }
        (None, Some(full)) => println!("refused: 429 limit-exceeded\n  {full}"),
        (None, None) => println!("allowed"),
    }
}

fn as_json(explained: &Explained, full: Option<&str>, places: &Places) -> Value {
    let steps: Vec<Value> = explained
        .steps
        .iter()
        .map(|step| json!({ "stage": step.stage, "said": step.said, "place": step.key.as_ref().map(|key| places.of(key)) }))
        .collect();
    let refused = explained.refused.as_ref().map(
        |(reason, detail)| json!({ "status": reason.status().as_u16(), "reason": reason.slug(), "detail": detail }),
    );
    let refused =
        refused.or_else(|| full.map(|full| json!({ "status": 429, "reason": "limit-exceeded", "detail": full })));
    json!({
        "allowed": refused.is_none(), "route": explained.route, "principal": explained.principal,
        "steps": steps, "refused": refused,
    })
}
