//! What an answer's body is, and what a request's body was before it was compressed.

use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
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
/// When the coding is neither gzip nor deflate, the body is not coded so, or it would have more than `limit` bytes.
pub fn inflate(coding: &str, body: &Bytes, limit: usize) -> Result<Bytes, Refusal> {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let read = match coding {
        "gzip" => MultiGzDecoder::new(body.as_ref()).take(most).read_to_end(&mut bytes),
        "deflate" => ZlibDecoder::new(body.as_ref()).take(most).read_to_end(&mut bytes),
        _ => return Err(Refusal::Encoded),
    };
    read.map_err(|_| Refusal::Malformed(format!("the body is not {coding}")))?;
    if bytes.len() > limit { Err(Refusal::BodyTooLarge(limit)) } else { Ok(bytes.into()) }
}
