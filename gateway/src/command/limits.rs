//! `gateway limits`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use clap::Args;
use serde_json::Value;

use super::Failure;
use super::admin::Admin;

#[derive(Args)]
pub(crate) struct ShowOptions {
    /// Whose windows, as the log names them: `key:team-a`. Everybody's where absent.
    #[arg(long)]
    principal: Option<String>,
    #[command(flatten)]
    admin: Admin,
    /// For machines: the JSON that the gateway gave.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct ResetOptions {
    /// Whose windows, as the log names them: `key:team-a`.
    #[arg(long)]
    principal: String,
    #[command(flatten)]
    admin: Admin,
}

fn ask(admin: &Admin, method: &str, principal: Option<&str>) -> Result<Value, Failure> {
    let mut path = "/limits".to_owned();
    if let Some(principal) = principal {
        path.push('?');
        path.push_str(&form_urlencoded::Serializer::new(String::new()).append_pair("principal", principal).finish());
    }
    admin.ask_for(method, &path, None)
}

/// `gateway limits show`.
pub(crate) fn show(options: &ShowOptions) -> Result<(), Failure> {
    let answer = ask(&options.admin, "GET", options.principal.as_deref())?;
    if options.json {
        println!("{answer}");
        return Ok(());
    }
    let windows = answer.get("windows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if windows.is_empty() {
        println!("Nothing is used.");
        return Ok(());
    }
    let mut rows = vec![["limit", "whose", "used", "of", "frees in"].map(str::to_owned)];
    for window in windows {
        let text = |key: &str| match window.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "by role".into(),
        };
        let seconds = window.get("next_in").and_then(Value::as_f64).unwrap_or_default();
        rows.push([text("limit"), text("of"), text("used"), text("quota"), format!("{seconds:.1} s")]);
    }
    println!("{}", super::table(&rows));
    Ok(())
}

/// `gateway limits reset`.
pub(crate) fn reset(options: &ResetOptions) -> Result<(), Failure> {
    let answer = ask(&options.admin, "DELETE", Some(&options.principal))?;
    let gone = answer.get("reset").and_then(Value::as_u64).unwrap_or(0);
    let unit = if gone == 1 { "window is" } else { "windows are" };
    println!("{gone} {unit} empty now. Other gateways may go on refusing for up to a minute.");
    Ok(())
}
