//! One JSON line for each thing that an operator may want to know. Never holds a body, a text or an address of a
//! caller: the gateway in front keeps the access record, and the request id ties the two together.

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Where event lines go.
pub struct Events {
    sink: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

/// What may be reported.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    /// A request was refused.
    Refused {
        /// `X-Request-Id` as it came, if it is short and printable.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// The route's pattern, never the path itself.
        route: &'static str,
        /// HTTP status.
        status: u16,
        /// Slug of the problem.
        reason: &'static str,
    },
    /// A version of a model is served that was not before.
    Serving {
        /// Its name.
        model: &'a str,
        /// Its version.
        version: &'a str,
    },
    /// A version of a model is no longer served, because its file is gone.
    Removed {
        /// Its name.
        model: &'a str,
        /// Its version.
        version: &'a str,
    },
    /// A file of the directory cannot be used; what was served in its place goes on.
    ModelRefused {
        /// The file.
        file: &'a str,
        /// Why.
        why: &'a str,
    },
    /// The directory could not be looked through; what was served goes on.
    ReloadFailed {
        /// What went wrong.
        cause: String,
    },
    /// Connections could not be accepted for a moment.
    AcceptFailed {
        /// What the system said.
        cause: String,
    },
    /// The directory holds no model of its own.
    OnlyBuiltIn {
        /// The directory.
        directory: String,
    },
    /// A stop was asked for.
    Draining {
        /// Connections still open.
        connections: usize,
    },
    /// The worker has stopped.
    Stopped {
        /// Connections cut off because the drain deadline had passed.
        cut_off: usize,
    },
}

impl Events {
    /// Events written to `sink`, one line each.
    #[must_use]
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        Self { sink: Mutex::new(sink) }
    }

    /// Writes one line. A full disk or a closed pipe must not stop predictions, so a failed write is dropped.
    pub fn emit(&self, event: &Event<'_>) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = sink.write_all(&line).and_then(|()| sink.flush());
        }
    }
}
