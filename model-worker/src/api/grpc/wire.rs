//! gRPC over HTTP/2, of which the protocol needs single requests with single answers only: one message in a frame of a
//! flag and a length, a status in the trailers (grpc/grpc, `doc/PROTOCOL-HTTP2.md`). That is little enough to go without
//! tonic and what it brings; prost alone adds four crates to the build.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{HeaderMap as Trailers, Response};
use prost::Message;

use super::super::reply::{Body, Reply, inflate};
use crate::problem::Refusal;

/// The largest body of a call that carries no rows.
pub const MOST_ASKED: usize = 4 << 10;
const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");

/// Codes of `google.rpc.Code`.
fn code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::TooLate => "4",
        Refusal::NoSuchModel => "5",
        Refusal::NotOffered(_) => "7",
        Refusal::BodyTooLarge(_) | Refusal::TooManyRows(_) => "8",
        Refusal::OutOfBounds(_) | Refusal::Unusual(_) => "11",
        Refusal::NoSuchPath | Refusal::WrongMethod(_) | Refusal::Encoded | Refusal::NotCalledJson => "12",
        Refusal::Busy => "14",
        Refusal::NotVouched(_) => "16",
        Refusal::BodyTooSlow
        | Refusal::BodyBroken
        | Refusal::Malformed(_)
        | Refusal::Invalid(_)
        | Refusal::WhichModel(_) => "3",
    }
}

/// Whether the head is that of a gRPC call.
#[must_use]
pub fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let rest = value.as_bytes().strip_prefix(CONTENT.as_bytes());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";"))
    })
}

/// How long the caller waits: `grpc-timeout`.
#[must_use]
pub fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = (number.len() <= 8).then(|| number.parse().ok()).flatten()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The octets of the message in a request's body, as they were before they were compressed.
///
/// # Errors
///
/// When the body is not one frame with one message.
pub fn unframe(headers: &HeaderMap, body: &Bytes, limit: usize) -> Result<Bytes, Refusal> {
    let malformed = |why: &str| Refusal::Malformed(why.to_owned());
    let (head, _) = body.split_first_chunk::<5>().ok_or_else(|| malformed("there is no message"))?;
    let [flag, length @ ..] = *head;
    let message = body.slice(5..);
    if u32::try_from(message.len()) != Ok(u32::from_be_bytes(length)) {
        return Err(malformed("the message is not as long as its frame says"));
    }
    match flag {
        0 => Ok(message),
        1 => {
            let coding = headers.get("grpc-encoding").and_then(|coding| coding.to_str().ok()).unwrap_or_default();
            inflate(coding, &message, limit)
        }
        _ => Err(malformed("the frame's flag is neither 0 nor 1")),
    }
}

/// The message that the octets are.
///
/// # Errors
///
/// When they are none.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Refusal> {
    // prost's words name fields, never values.
    M::decode(message).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// The answer that holds `message`.
#[must_use]
pub fn encode(message: &impl Message) -> Reply {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(length + 5);
    bytes.push(0);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    let encoded = message.encode(&mut bytes);
    debug_assert!(encoded.is_ok(), "a vector grows");
    let mut trailers = Trailers::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut reply = Response::new(Body::with_trailers(Bytes::from(bytes), trailers));
    reply.headers_mut().insert(CONTENT_TYPE, CONTENT);
    reply
}

/// The answer that refuses: headers alone.
#[must_use]
pub fn refuse(refusal: &Refusal) -> Reply {
    let line = match refusal {
        Refusal::Malformed(why) => format!("The message cannot be read: {why}."),
        other => other.line(),
    };
    let mut text = String::new();
    for byte in line.bytes() {
        let _ = match byte {
            b' '..=b'$' | b'&'..=b'~' => write!(text, "{}", char::from(byte)),
            _ => write!(text, "%{byte:02X}"),
        };
    }
    let mut reply = Response::new(Body::default());
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, CONTENT);
    headers.insert("grpc-status", HeaderValue::from_static(code(refusal)));
    if let Ok(text) = HeaderValue::try_from(text) {
        headers.insert("grpc-message", text);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::super::message::ModelRequest;
    use super::*;

    #[test]
    fn frames_are_read_and_others_refused() {
        let message = ModelRequest { name: "iris".to_owned(), version: String::new() };
        let mut bytes = vec![0, 0, 0, 0, 6];
        bytes.extend(message.encode_to_vec());
        let headers = HeaderMap::new();
        let decode =
            |bytes: &[u8]| unframe(&headers, &Bytes::copy_from_slice(bytes), 1000).and_then(decode::<ModelRequest>);
        assert_eq!(decode(&bytes), Ok(message));
        for (at, byte) in [(0, 2), (0, 1), (4, 5), (4, 7), (6, 200)] {
            let mut other = bytes.clone();
            other[at] = byte;
            assert!(decode(&other).is_err(), "{at} {byte}");
        }
        assert!(decode(&bytes[..4]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn timeouts() {
        let of = |text: &'static str| {
            patience(&HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), HeaderValue::from_static(text))]))
        };
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_hours(99_999_999)));
        for text in ["", "m", "1", "1x", "-1m", "123456789m"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
