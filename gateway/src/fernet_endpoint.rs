//! The gateway's own sealing and opening of texts: chance for `policy::fernet` and `policy::sealed`, which decide.

use aws_lc_rs::rand;
use bytes::Bytes;
use http::{HeaderValue, Response, header};

use crate::edge::upstream::Outgoing;
use crate::policy::fernet::Direction;
use crate::policy::{Policy, body, json};
use crate::problem::Stop;
use crate::types::Timestamp;

/// A new IV; nothing where the system gives no random bytes.
#[must_use]
pub fn iv() -> Option<[u8; 16]> {
    let mut iv = [0; 16];
    rand::fill(&mut iv).ok().map(|()| iv)
}

/// Answers a request whose body was judged.
///
/// # Errors
/// [`Stop::Body`].
pub fn answer(policy: &Policy, direction: Direction, sent: Outgoing, now: Timestamp) -> Result<Response<Bytes>, Stop> {
    let fernet = policy.fernet.as_ref().ok_or(Stop::Internal("a route that seals without a key"))?;
    let Outgoing::Whole(Some(sent)) = sent else { return Err(Stop::Internal("a body that was not read")) };
    let sent = json::parse(&sent, 2).map_err(|wrong| Stop::Body(body::Refusal::Malformed(wrong)))?;
    let iv = iv().ok_or(Stop::Internal("the system gives no random bytes"))?;
    let answer = fernet.answer(direction, &sent, iv, now);
    let answer = answer.map_err(|fault| Stop::Body(body::Refusal::Invalid { faults: vec![*fault] }))?;
    let mut response = Response::new(answer.to_string().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
