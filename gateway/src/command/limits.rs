//! `gateway limits`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::Failure;

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

#[derive(Args)]
struct Admin {
    /// Where the admin listener is.
    #[arg(long, default_value = "127.0.0.1:9443")]
    admin: SocketAddr,
}

impl Admin {
    fn ask(&self, method: &str, principal: Option<&str>) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::unavailable(error.to_string()))?;
        let query = principal.map_or_else(String::new, |principal| {
            form_urlencoded::Serializer::new("?".to_owned()).append_pair("principal", principal).finish()
        });
        let url = format!("http://{}/limits{}", self.admin, query.replacen("?&", "?", 1));
        let asked = runtime.block_on(async {
            let client = gateway::edge::keys::plain_client(Duration::from_secs(30))?;
            let method = method.parse().map_err(|_| "no such method".to_owned())?;
            let answer = client.request(method, &url).send().await.map_err(|error| error.to_string())?;
            let good = answer.status().is_success();
            let body = answer.bytes().await.map_err(|error| error.to_string())?;
            let value: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
            if good {
                Ok(value)
            } else {
                Err(value.get("error").and_then(Value::as_str).unwrap_or("refused").to_owned())
            }
        });
        asked.map_err(|reason: String| Failure::unavailable(format!("the gateway at {} says: {reason}", self.admin)))
    }
}

/// `gateway limits show`.
pub(crate) fn show(options: &ShowOptions) -> Result<(), Failure> {
    let answer = options.admin.ask("GET", options.principal.as_deref())?;
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
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths = std::array::from_fn::<usize, 5, _>(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Names to the left, numbers to the right.
            if column < 2 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    Ok(())
}

/// `gateway limits reset`.
pub(crate) fn reset(options: &ResetOptions) -> Result<(), Failure> {
    let answer = options.admin.ask("DELETE", Some(&options.principal))?;
    let gone = answer.get("reset").and_then(Value::as_u64).unwrap_or(0);
    let unit = if gone == 1 { "window is" } else { "windows are" };
    println!("{gone} {unit} empty now. Other gateways may go on refusing for up to a minute.");
    Ok(())
}
