//! What an answer's body is, and what a request's body was before it was compressed.

use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::bufread::{GzDecoder, ZlibDecoder};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::problem::Refusal;

/// A whole body, and for gRPC the trailers after it.
#[derive(Debug, Default)]
pub struct Body {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

/// An answer.
pub type Reply = Response<Body>;

impl From<Vec<u8>> for Body {
    fn from(data: Vec<u8>) -> Self {
        Self { data: Some(data.into()).filter(|data: &Bytes| !data.is_empty()), trailers: None }
    }
}

impl Body {
    /// A body with trailers.
    #[must_use]
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self { data: Some(data), trailers: Some(trailers) }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))
    }
}

/// An answer of some type.
#[must_use]
pub fn typed(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Body::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// An answer in JSON.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    typed(status, "application/json", serde_json::to_vec(body).unwrap_or_default())
}

/// A body as it was before it was compressed.
///
/// # Errors
///
/// When the coding is neither gzip nor deflate, the body is not coded so, or it would have more than `limit` bytes. A
/// gzip of several members (RFC 1952 §2.2) is refused: empty ones cost much more than their 20 octets, and no client sends
/// any.
pub fn inflate(coding: &str, body: &Bytes, limit: usize) -> Result<Bytes, Refusal> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let mut rest = body.as_ref();
    let read = match coding.to_ascii_lowercase().as_str() {
        "gzip" => GzDecoder::new(&mut rest).take(most).read_to_end(&mut bytes),
        "deflate" => ZlibDecoder::new(&mut rest).take(most).read_to_end(&mut bytes),
        _ => return Err(Refusal::Encoded),
    };
    let malformed = |why: &str| Refusal::Malformed(format!("the body {why} {coding}"));
    read.map_err(|_| malformed("is not"))?;
    if bytes.len() <= limit && !rest.is_empty() {
        return Err(malformed("goes on after its"));
    }
    if bytes.len() > limit { Err(Refusal::BodyTooLarge(limit)) } else { Ok(bytes.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn one_member_is_inflated_and_more_are_refused() {
        let gzip = |text: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).and_then(|()| encoder.finish()).expect("compressed")
        };
        let of = |coding: &str, body: Vec<u8>| inflate(coding, &Bytes::from(body), 10);
        assert_eq!(of("gzip", gzip(b"a")), Ok(Bytes::from_static(b"a")));
        assert_eq!(of("GZIP", gzip(&[b'a'; 10])).map(|bytes| bytes.len()), Ok(10));
        assert_eq!(of("gzip", gzip(&[b'a'; 11])), Err(Refusal::BodyTooLarge(10)));
        for body in [gzip(b"").repeat(2), [gzip(b"a"), vec![0]].concat(), gzip(b"a")[..15].to_vec(), vec![]] {
            assert!(matches!(of("gzip", body), Err(Refusal::Malformed(_))));
        }
        assert_eq!(of("br", vec![]), Err(Refusal::Encoded));
    }
}
