//! Why the process ends: what failed, why, what to do about it, and the exit code that says so to a script.

use std::fmt;
use std::io;

/// Exit codes of `sysexits.h`, so that a supervisor can tell a mistake in the settings from a broken file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// `EX_USAGE`: the command line is wrong.
    Usage = 64,
    /// `EX_DATAERR`: a file is there, but its content is not acceptable.
    BadData = 65,
    /// `EX_NOINPUT`: a file is missing or may not be read.
    NoInput = 66,
    /// `EX_UNAVAILABLE`: an address cannot be listened on.
    Unavailable = 69,
    /// `EX_SOFTWARE`: a mistake of this program.
    Software = 70,
    /// `EX_CANTCREAT`: an output file cannot be written.
    CannotCreate = 73,
    /// `EX_IOERR`: reading or writing failed midway.
    Io = 74,
    /// `EX_CONFIG`: a setting is wrong.
    Config = 78,
}

/// The reason why a command could not be carried out.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    why: String,
    hint: String,
}

impl Failure {
    /// A failure to do `what`, because of `why`; `hint` tells what to do about it.
    pub fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), hint: hint.into() }
    }

    /// A failure to read a file, its exit code chosen by what the system said.
    #[must_use]
    pub fn reading(what: impl Into<String>, error: &io::Error) -> Self {
        let (exit, hint) = match error.kind() {
            io::ErrorKind::NotFound => (Exit::NoInput, "check the path; `model-worker train` writes a new artifact"),
            io::ErrorKind::PermissionDenied => (Exit::NoInput, "give this user the right to read it"),
            _ => (Exit::Io, "check the file system"),
        };
        Self::new(exit, what, error.to_string(), hint)
    }

    /// The reason alone.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The code to exit with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  because: {}\n  try: {}", self.what, self.why, self.hint)
    }
}

impl std::error::Error for Failure {}
