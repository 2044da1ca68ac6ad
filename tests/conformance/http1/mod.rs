//! Requests over HTTP/1 that lie, and what must come of each.
//!
//! Behind each case's octets comes one more request at once (`GET /№/next`): it is answered where the connection
//! may go on, and neither answered nor forwarded where it must not.

mod chunks;
mod flow;
mod framing;
mod headers;
mod heads;
mod observe;
mod targets;

pub use observe::{Observed, Proxy, Said, observe, recorder};

use super::Failure;
use super::notation;

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it tries.
    pub name: &'static str,
    /// What the client sends; see [`notation`].
    pub sent: &'static str,
    /// What must come of it.
    pub then: Then,
    /// Whether it comes from an address that is trusted to name the client's.
    pub trusted: bool,
}

/// What must come of a case.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// This status and reason, and the connection is closed; the worker gets nothing.
    Refused(u16, &'static str),
    /// This status and reason, and the connection goes on; the worker gets the next request alone.
    Declined(u16, &'static str),
    /// As `Refused`, in the middle of a body that is passed on as it comes: what the worker may have got is an
    /// unfinished message, so that it can't take it for a whole one.
    Cut(u16, &'static str),
    /// The worker gets exactly this message (or these, with `⏭` between), the client 200, and the connection goes on.
    /// Headers are sorted, and those that every forwarded request has are left out.
    Forwarded(&'static str),
    /// The same, and the connection is closed.
    Last(&'static str),
    /// The same, and what comes behind it is refused with this status and reason, and the connection is closed.
    Until(&'static str, u16, &'static str),
    /// As `Forwarded`, after an interim answer that says to go on.
    Continued(&'static str),
    /// The connection is closed without a word; the worker gets nothing.
    Dropped,
}

const fn case(name: &'static str, sent: &'static str, then: Then) -> Case {
    Case { name, sent, then, trusted: false }
}

const fn trusted(name: &'static str, sent: &'static str, then: Then) -> Case {
    Case { name, sent, then, trusted: true }
}

/// The head is refused as malformed.
const MALFORMED: Then = Then::Refused(400, "head-malformed");
/// The path is refused as ambiguous; how the message is framed is not in doubt.
const AMBIGUOUS: Then = Then::Declined(400, "path-ambiguous");
/// The framing of a body is broken, on a route that passes bodies on as they come.
const BROKEN: Then = Then::Cut(400, "body-framing");

/// Every row, by what it is about.
pub const TABLES: &[(&str, &[Case])] = &[
    ("framing", framing::CASES),
    ("chunks", chunks::CASES),
    ("heads", heads::CASES),
    ("targets", targets::CASES),
    ("headers", headers::CASES),
    ("flow", flow::CASES),
];

/// Every row.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    TABLES.iter().flat_map(|(_, cases)| *cases)
}

/// What the gateway that the rows speak of is configured with, beside its worker.
pub const POLICY: &str = r#"
[listener]
threads = 1
[client_address]
trusted_proxies = ["127.0.0.2", "10.0.0.0/8"]
[defaults]
authenticate = "anonymous"
limits = ["wide"]
[limits.wide]
quota = 100000
window = "60s"
by = ["address"]
store_lost = "allow"
[routes.any]
path = "/*"
methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
pool = "models"
authorize = "anonymous"
[routes.any.body]
format = "opaque"
content_types = ["text/plain"]
max = "64KiB"
[routes.whole]
path = "/whole/*"
methods = ["POST"]
pool = "models"
authorize = "anonymous"
[routes.whole.body]
max = "1KiB"
"#;

/// Holds what the gateway did against the rows.
#[must_use]
pub fn judge(observed: &[(&'static Case, Observed)]) -> Vec<Failure> {
    let differing = observed.iter().filter_map(|(case, observed)| {
        let wanted = expected(case, observed);
        let found = observed.written();
        (!wanted.contains(&found)).then(|| Failure {
            name: case.name,
            sent: case.sent,
            wanted: wanted.join("\n         or "),
            found,
        })
    });
    differing.collect()
}

/// What [`Observed::written`] says where the row came out as it should; one of these.
fn expected(case: &Case, observed: &Observed) -> Vec<String> {
    let trusted = if case.trusted { "x-forwarded-for: 127.0.0.2⏎" } else { "" };
    let next = format!("GET /№/next HTTP/1.1⏎{trusted}⏎");
    let whole = |messages: &str| {
        let messages = messages.split('⏭').map(|message| {
            let mut message = message.to_owned();
            if !message.contains("⏎⏎") {
                message.push_str("⏎⏎");
            }
            let (head, body) = message.split_once("⏎⏎").unwrap_or_default();
            let mut lines: Vec<&str> = head.split('⏎').collect();
            lines[1..].sort_unstable();
            // Repetitions and hexadecimal octets are written as the recording is.
            notation::written(&notation::octets(&format!("{}⏎⏎{body}", lines.join("⏎")), "c000"), "c000")
        });
        messages.collect::<Vec<_>>()
    };
    let answered = |count: usize| "200, ".repeat(count) + "closed";
    let text = |answers: &str, messages: &[String]| format!("{answers}; {}", messages.join(" ⏭ "));
    let one = match case.then {
        Then::Refused(status, slug) => text(&format!("{status} {slug} close, closed"), &[]),
        Then::Declined(status, slug) => text(&format!("{status} {slug}, 200, closed"), &[next]),
        Then::Cut(status, slug) => {
            let refused = text(&format!("{status} {slug} close, closed"), &[]);
            let started = observed.messages.first().filter(|message| message.starts_with("unfinished "));
            let started = started.map(|message| refused.clone() + message);
            return std::iter::once(refused).chain(started).collect();
        }
        Then::Forwarded(messages) | Then::Continued(messages) => {
            let mut messages = whole(messages);
            messages.push(next);
            let interim = if matches!(case.then, Then::Continued(_)) { "100, " } else { "" };
            text(&format!("{interim}{}", answered(messages.len())), &messages)
        }
        Then::Last(messages) => {
            let messages = whole(messages);
            text(&answered(messages.len()), &messages)
        }
        Then::Until(messages, status, slug) => {
            let messages = whole(messages);
            text(&format!("{}{status} {slug} close, closed", "200, ".repeat(messages.len())), &messages)
        }
        Then::Dropped => text("closed", &[]),
    };
    vec![one]
}
