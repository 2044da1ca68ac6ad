//! `gateway key issue`, `list`, `rotate` and `revoke`: keys in Redis, through a running gateway.
//!
//! A key is made here and shown here; the gateway gets its digest alone.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what commands are for")]

use std::time::Duration;

use clap::Args;
use gateway::policy::authenticate::api_key;
use gateway::settings::Setting as _;
use gateway::types::{Sha256, Timestamp};
use serde_json::{Map, Value, json};

use super::admin::Admin;
use super::{Failure, random};

#[derive(Args)]
pub(crate) struct IssueOptions {
    /// Its public id, which names it in the log: lower-case letters, digits and -.
    id: String,
    /// Who holds it.
    #[arg(long)]
    owner: String,
    /// A role that it has; repeat it for more.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope that it has; repeat it for more.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// When it ends, such as 2027-12-31T00:00:00Z.
    #[arg(long)]
    expires: Option<String>,
    /// From when it is good, such as 2027-01-31T00:00:00Z.
    #[arg(long)]
    not_before: Option<String>,
    /// Where it may be used from, such as 10.0.0.0/8; repeat it for more. Anywhere where absent.
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Its own quota of a limit, such as predict=100; repeat it for more.
    #[arg(long = "limit", value_name = "NAME=QUOTA")]
    limits: Vec<String>,
    #[command(flatten)]
    admin: Admin,
    /// For machines: a JSON object with the key.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    admin: Admin,
    /// For machines: a JSON list; times are seconds since 1970.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RotateOptions {
    /// Its id.
    id: String,
    /// For how long the old secret goes on; 0s ends it at once.
    #[arg(long, default_value = "24h")]
    overlap: String,
    #[command(flatten)]
    admin: Admin,
    /// For machines: a JSON object with the key.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RevokeOptions {
    /// Its id.
    id: String,
    /// Only the old secret that a rotation left.
    #[arg(long)]
    old: bool,
    #[command(flatten)]
    admin: Admin,
}

/// An id that can stand in a path.
fn id(id: &str) -> Result<&str, Failure> {
    if api_key::is_id(id) {
        return Ok(id);
    }
    Err(Failure::usage(format!("{id:?} can't be an id: use 1 to 64 lower-case letters, digits and -")))
}

fn instant(text: Option<&str>) -> Result<Option<u64>, Failure> {
    let parse = |text: &str| {
        let at = Timestamp::parse(text)
            .ok_or_else(|| Failure::usage(format!("{text:?} is no instant; write one such as 2027-12-31T00:00:00Z")));
        at.map(Timestamp::secs)
    };
    text.map(parse).transpose()
}

/// Shows a new key.
fn tell(id: &str, key: &str, mut more: Value, as_json: bool) {
    if as_json {
        if let Some(members) = more.as_object_mut() {
            members.insert("id".into(), id.into());
            members.insert("key".into(), key.into());
        }
        println!("{more}");
        return;
    }
    eprintln!("The key, shown once; give it to its holder over a safe way:\n");
    println!("{key}");
}

/// `gateway key issue`.
pub(crate) fn issue(options: &IssueOptions) -> Result<(), Failure> {
    let id = id(&options.id)?;
    let mut limits = Map::new();
    for text in &options.limits {
        let parsed = text.split_once('=').and_then(|(name, quota)| Some((name, quota.parse::<u64>().ok()?)));
        let (name, quota) =
            parsed.ok_or_else(|| Failure::usage(format!("{text:?} is no NAME=QUOTA, such as predict=100")))?;
        limits.insert(name.to_owned(), quota.into());
    }
    let key = api_key::compose(id, random()?);
    let asked = json!({
        "digest": Sha256::of(key.as_bytes()).to_string(),
        "owner": options.owner,
        "roles": options.roles,
        "scopes": options.scopes,
        "expires": instant(options.expires.as_deref())?,
        "not_before": instant(options.not_before.as_deref())?,
        "networks": options.networks,
        "limits": limits,
    });
    options.admin.ask_for("PUT", &format!("/keys/{id}"), Some(&asked))?;
    tell(id, &key, json!({}), options.json);
    Ok(())
}

/// `gateway key rotate`.
pub(crate) fn rotate(options: &RotateOptions) -> Result<(), Failure> {
    let id = id(&options.id)?;
    let overlap = match options.overlap.as_str() {
        "0" | "0s" => Duration::ZERO,
        text => Duration::read(&text.into()).map_err(|reason| Failure::usage(format!("--overlap {reason}")))?,
    };
    let key = api_key::compose(id, random()?);
    let asked = json!({ "digest": Sha256::of(key.as_bytes()).to_string(), "overlap": overlap.as_secs() });
    let answer = options.admin.ask_for("PUT", &format!("/keys/{id}/rotate"), Some(&asked))?;
    let ends = answer.get("old_ends").and_then(Value::as_u64);
    tell(id, &key, json!({ "old_ends": ends }), options.json);
    if !options.json {
        let until = ends.map_or_else(|| "has ended".to_owned(), |ends| format!("goes on until {}", day(Some(ends))));
        eprintln!("\nThe old one {until}.");
    }
    Ok(())
}

/// `gateway key revoke`.
pub(crate) fn revoke(options: &RevokeOptions) -> Result<(), Failure> {
    let id = id(&options.id)?;
    let part = if options.old { "/old" } else { "" };
    options.admin.ask_for("DELETE", &format!("/keys/{id}{part}"), None)?;
    let what = if options.old { "The old secret of" } else { "The key" };
    println!("{what} {id} has ended; every gateway refuses it within a second.");
    Ok(())
}

/// `gateway key list`.
pub(crate) fn list(options: &ListOptions) -> Result<(), Failure> {
    let mut keys: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let mut page = options.admin.ask_for("GET", &format!("/keys?limit=1000&after={after}"), None)?;
        if let Some(Value::Array(more)) = page.get_mut("keys").map(Value::take) {
            keys.extend(more);
        }
        match page.get("next").and_then(Value::as_str) {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    if options.json {
        println!("{}", Value::Array(keys));
        return Ok(());
    }
    if keys.is_empty() {
        println!("There is no key.");
        return Ok(());
    }
    let mut rows =
        vec![["id", "store", "state", "owner", "roles", "created", "expires", "last used"].map(str::to_owned)];
    for key in &keys {
        let text = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let time = |name: &str| day(key.get(name).and_then(Value::as_u64));
        let roles = key.get("roles").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let roles = roles.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
        let [created, expires, used] = ["created", "expires", "last_used"].map(time);
        rows.push([text("id"), text("store"), text("state"), text("owner"), roles, created, expires, used]);
    }
    println!("{}", super::table(&rows));
    Ok(())
}

/// An instant to the minute.
fn day(secs: Option<u64>) -> String {
    let at = secs.and_then(|secs| time::OffsetDateTime::from_unix_timestamp(i64::try_from(secs).ok()?).ok());
    at.map_or_else(
        || "-".into(),
        |at| {
            let (date, time) = (at.date(), at.time());
            format!("{date} {:02}:{:02}Z", time.hour(), time.minute())
        },
    )
}
