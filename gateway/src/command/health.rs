//! `gateway health`.
#![expect(clippy::print_stdout, reason = "printing is what commands are for")]

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Where the admin listener is.
    #[arg(long, default_value = "127.0.0.1:9443")]
    admin: SocketAddr,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::unavailable(error.to_string()))?;
    let url = format!("http://{}/readyz", options.admin);
    let asked = runtime.block_on(async {
        let answer = gateway::edge::fetch::plain_client(Duration::from_secs(3), None)?
            .get(&url)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        let ready = answer.status().is_success();
        let body = answer.text().await.map_err(|error| error.to_string())?;
        if ready { Ok(body) } else { Err(format!("not ready: {body}")) }
    });
    println!("{}", asked.map_err(|reason: String| Failure { message: reason, code: 1 })?);
    Ok(())
}
