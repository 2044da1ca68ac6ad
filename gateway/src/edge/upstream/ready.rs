//! Whether a worker is ready, asked on a connection of its own.

use std::time::Duration;

use http::Method;

use super::link::{Link, Upload};
use super::over_http2::bare_request;
use super::session::Sessions;
use super::settings::{PoolSettings, WorkerSettings};
use super::stream::{self, Sending};
use super::{Outgoing, converse, write_request_line};
use crate::deadline::within;

impl PoolSettings {
    /// Asks whether one worker at least is ready.
    ///
    /// # Errors
    /// Why none is.
    pub async fn probe(&self) -> Result<(), String> {
        let mut failure = "the pool has no worker".to_owned();
        for worker in &self.workers {
            match ask_ready(self, worker, &self.ready_path, self.dial.timeout * 2).await {
                Ok(()) => return Ok(()),
                Err(reason) => failure = reason,
            }
        }
        Err(failure)
    }
}

/// Asks whether a worker is ready, on a connection of its own.
pub(super) async fn ask_ready(
    pool: &PoolSettings,
    worker: &WorkerSettings,
    path: &str,
    patience: Duration,
) -> Result<(), String> {
    let ask = async {
        let method = Method::GET;
        let status = if pool.is_http2() {
            let sessions = Sessions::default();
            let slot = sessions.slot(pool, &worker.address, &|| {}).await.map_err(|fault| format!("{fault:?}"))?;
            let request = bare_request(&method, path, None, &worker.address).map_err(|fault| format!("{fault:?}"))?;
            let mut sending = Sending::new(Outgoing::Empty);
            let answer = stream::converse(&slot, request, &mut sending, pool).await;
            answer.map_err(|unanswered| format!("{:?}", unanswered.fault))?.status()
        } else {
            let socket = pool.dial.connect(&worker.address).await.map_err(|fault| format!("{fault:?}"))?;
            let mut upload = Upload::new(Outgoing::Empty);
            upload.head(&method, |out| write_request_line(out, &method, path, None, worker.address.host()));
            let answer = converse(&mut Link::new(socket), &mut upload, &method, pool).await;
            answer.map_err(|fault| format!("{fault:?}"))?.status
        };
        if status.is_success() { Ok(()) } else { Err(format!("{} answered {status}", worker.label)) }
    };
    let in_time = within(patience, ask).await;
    in_time.unwrap_or_else(|| Err(format!("{} did not answer in time", worker.label)))
}
