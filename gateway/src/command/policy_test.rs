//! `gateway test`: cases that say what must become of requests, held against the policy.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use gateway::config::{Config, ConfigFile, Places, read_file};
use gateway::explain::{Asked, Caller, Explained, explain};
use gateway::policy::{Destination, Policy};
use gateway::problem::Reason;
use gateway::settings::{Named, Section};
use gateway::types::Timestamp;

use super::Failure;
use super::explain::{headers, now, request};

/// What must become of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Allowed,
    Refused,
}

impl Named for Expected {
    const SHAPE: &'static str = "\"allowed\" or \"refused\"";
    const NAMES: &'static [(&'static str, Self)] = &[("allowed", Self::Allowed), ("refused", Self::Refused)];
}

/// One `[case.NAME]`.
struct Case {
    name: String,
    asked: Asked,
    expected: Expected,
    reason: Option<String>,
    route: Option<String>,
}

/// Runs the cases; whether all of them hold.
pub(crate) fn run(cases: &Path, files: &[ConfigFile], as_json: bool) -> Result<bool, Failure> {
    let (policy, _) = Config::load_policy(files)?;
    let directory = cases.parent().map(Path::to_owned).unwrap_or_default();
    let (all, places) = read_file(cases, |root| compile(root, &directory))?;
    let mut failures = Vec::new();
    let mut seen = Coverage::default();
    for case in &all {
        let explained = explain(&policy, &case.asked);
        seen.add(&explained);
        if let Some(why) = case.wrong(&explained) {
            failures.push((case, explained, why));
        }
    }
    let unseen = seen.missing(&policy);
    if as_json {
        let failed: Vec<_> = failures
            .iter()
            .map(|(case, _, why)| serde_json::json!({ "case": case.name, "place": case.place(&places), "why": why }))
            .collect();
        println!("{}", serde_json::json!({ "cases": all.len(), "failed": failed, "not_exercised": unseen }));
        return Ok(failures.is_empty());
    }
    for (case, explained, why) in &failures {
        complain(case, explained, why, &places);
    }
    for rule in &unseen {
        println!("not exercised: {rule}");
    }
    let unit = if all.len() == 1 { "case" } else { "cases" };
    let verdict = if failures.is_empty() { "all hold".into() } else { format!("{} do not hold", failures.len()) };
    println!(
        "{}{} {unit}, {verdict}; {} rules that no case exercised",
        if unseen.is_empty() { "" } else { "\n" },
        all.len(),
        unseen.len()
    );
    Ok(failures.is_empty())
}

fn compile(root: &Section<'_>, directory: &Path) -> Vec<Case> {
    let cases = root.sections("case");
    if cases.is_empty() {
        root.missing("case", "write at least one: [case.NAME] with `request`, `as` and `expect`");
    }
    cases.into_iter().filter_map(|section| Case::compile(section, directory)).collect()
}

impl Case {
    fn compile(section: Section<'_>, directory: &Path) -> Option<Self> {
        let line: Option<String> = section.required("request", "write its line: request = \"POST /predict\"");
        let line = line.and_then(|line| {
            let read = request(&line);
            if read.is_none() {
                section.mistake("request", format!("is {line:?}"), "write a method and a path: \"POST /predict\"");
            }
            read
        });
        let caller = Caller::parse(&section.or("as", "anonymous".to_owned()));
        let expected: Option<Expected> = section.required("expect", "write \"allowed\" or \"refused\"");
        let reason = section.optional::<String>("reason");
        if let Some(reason) = reason.as_deref().filter(|reason| !Reason::SLUGS.contains(reason)) {
            section.mistake(
                "reason",
                format!("is {reason:?}, which is no reason"),
                format!("write one of: {}", Reason::SLUGS.join(", ")),
            );
        }
        if reason.is_some() && expected == Some(Expected::Allowed) {
            section.mistake(
                "reason",
                "stands at a request that is allowed",
                "remove it, or write expect = \"refused\"",
            );
        }
        let scopes = section.all::<String>("scopes");
        let claims =
            section.section("claims").and_then(|claims| claims.json().as_object().cloned()).unwrap_or_default();
        let address = section.or("from", IpAddr::from(Ipv4Addr::LOCALHOST));
        let at = section.optional::<String>("at").and_then(|text| {
            let instant = Timestamp::parse(&text);
            if instant.is_none() {
                section.mistake(
                    "at",
                    format!("is {text:?}, which is not an instant"),
                    "write one such as \"2027-01-31T00:00:00Z\"",
                );
            }
            instant
        });
        let body = match (section.optional::<String>("body"), section.optional::<String>("body_file")) {
            (Some(body), _) => Some(body.into_bytes()),
            (None, Some(name)) => {
                let path: PathBuf = directory.join(&name);
                let read = std::fs::read(&path);
                if let Err(error) = &read {
                    section.mistake(
                        "body_file",
                        format!("names {name:?}, which can't be read: {error}"),
                        "name a file beside this one",
                    );
                }
                read.ok()
            }
            (None, None) => None,
        };
        let host = section.or("host", "localhost".to_owned());
        let headers = headers(&host, &section.all::<String>("headers"));
        if let Err(wrong) = &headers {
            section.mistake("headers", wrong.clone(), "write each as \"Name: value\"");
        }
        let route = section.optional::<String>("route");
        let name = section.name().to_string();
        section.finish();
        let (method, target) = line?;
        let headers = headers.ok()?;
        let now = at.unwrap_or_else(now);
        let asked = Asked { method, target, headers, body, address, caller, scopes, claims, now };
        Some(Self { name, asked, expected: expected?, reason, route })
    }

    fn place(&self, places: &Places) -> String {
        places.of(&["case".into(), self.name.clone(), "expect".into()])
    }

    /// Why it does not hold, if it does not.
    fn wrong(&self, explained: &Explained) -> Option<String> {
        let came = explained.refused.as_ref().map(|(reason, _)| reason.slug());
        let said = match (self.expected, came) {
            (Expected::Allowed, Some(reason)) => Some(format!("it must be allowed, and is refused: {reason}")),
            (Expected::Refused, None) => Some("it must be refused, and is allowed".into()),
            (Expected::Refused, Some(reason)) => self
                .reason
                .as_deref()
                .filter(|expected| *expected != reason)
                .map(|expected| format!("it must be refused as {expected}, and is as {reason}")),
            (Expected::Allowed, None) => None,
        };
        said.or_else(|| {
            let route = self.route.as_deref().filter(|route| explained.route.as_deref() != Some(*route))?;
            Some(format!(
                "it must come to the route {route}, and comes to {}",
                explained.route.as_deref().unwrap_or("none")
            ))
        })
    }
}

/// Tells of a case that does not hold, as a compiler would.
fn complain(case: &Case, explained: &Explained, why: &str, places: &Places) {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let word = if colour { "\x1b[1;31mfails\x1b[0m" } else { "fails" };
    println!("{word}: {}\n  {}\n  {} {}: {why}", case.name, case.place(places), case.asked.method, case.asked.target);
    for step in &explained.steps {
        println!("    {:12}  {}", step.stage, step.said);
    }
    if let Some((reason, detail)) = &explained.refused {
        println!("    {:12}  {} {}: {detail}", "refused", reason.status().as_u16(), reason.slug());
    }
    println!();
}

/// Which rules the cases came to.
#[derive(Default)]
struct Coverage {
    allowed: BTreeSet<String>,
    refused: BTreeSet<String>,
    rights: BTreeSet<String>,
    limits: BTreeSet<String>,
}

impl Coverage {
    fn add(&mut self, explained: &Explained) {
        let Some(route) = explained.route.clone() else { return };
        match &explained.refused {
            None => self.allowed.insert(route),
            Some(_) => self.refused.insert(route),
        };
        self.rights.extend(explained.right.clone());
        self.limits.extend(explained.limits.iter().map(|(name, _)| name.clone()));
    }

    fn missing(&self, policy: &Policy) -> Vec<String> {
        let mut missing = Vec::new();
        for route in &policy.routes {
            let name = &*route.name;
            if !self.allowed.contains(name) {
                missing.push(format!("routes.{name}: no request that is allowed"));
            }
            let is_guarded =
                !route.authorize.is_open() || matches!(route.destination, Destination::Pool(_)) && route.body.is_some();
            if is_guarded && !self.refused.contains(name) {
                missing.push(format!("routes.{name}: no request that is refused"));
            }
        }
        let rights = policy.routes.iter().flat_map(|route| route.authorize.rights());
        let rights: BTreeSet<&str> = rights.filter_map(|right| right.name.as_deref()).collect();
        for right in rights.into_iter().filter(|right| !self.rights.contains(*right)) {
            missing.push(format!("rights.{right}: no request that it allows"));
        }
        for limit in policy.limits.iter().filter(|limit| !limit.in_flight && !self.limits.contains(&*limit.name)) {
            missing.push(format!("limits.{}: no request that meets it", limit.name));
        }
        missing
    }
}
