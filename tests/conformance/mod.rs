//! What is done with messages that lie: tables of cases, and what runs them.
//!
//! | module | its table |
//! | --- | --- |
//! | [`http1`] | requests over HTTP/1, octet by octet |
//! | [`worker`] | what a worker answers |
//!
//! A row is one case: its name, the octets that are sent ([`notation`]), and what must come of it, for the client
//! and at the worker, whose recording is looked at octet by octet. The rows of [`http1`] can be pointed at other
//! proxies too (`tests/conformance/compare`).

pub mod http1;
pub mod notation;
pub mod worker;

use std::fmt::Write as _;

/// A row that did not come out as it says.
#[derive(Debug)]
pub struct Failure {
    /// The row's name.
    pub name: &'static str,
    /// What it sends, as the table writes it.
    pub sent: &'static str,
    /// What it says.
    pub wanted: String,
    /// What came of it.
    pub found: String,
}

/// Fails with a list of the rows that did not come out as they say.
///
/// # Panics
/// If there are any.
pub fn assert_none(failures: &[Failure], rows: usize) {
    let list = failures.iter().fold(String::new(), |mut list, failure| {
        let Failure { name, sent, .. } = failure;
        let (wanted, found) = (shortened(&failure.wanted), shortened(&failure.found));
        let _ = write!(list, "\n- {name}\n    sent    {sent}\n    wanted  {wanted}\n    found   {found}\n");
        list
    });
    assert!(failures.is_empty(), "{} of {rows} cases:\n{list}", failures.len());
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(800) {
        Some((at, _)) => format!("{}… ({} octets)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}
