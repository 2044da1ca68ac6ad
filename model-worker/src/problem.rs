//! Every refusal, its status code and its body (RFC 9457). The one place that knows them.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::model::card::Card;

/// One mistake in a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where (RFC 6901).
    pub pointer: String,
    /// Which kind: a stable word.
    pub code: &'static str,
    /// What is expected; never the value that came.
    pub detail: String,
}

/// Why a request is not answered with what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The path is none of ours.
    NoSuchPath,
    /// No such model, or no such version of it.
    NoSuchModel,
    /// The path takes other methods: these.
    WrongMethod(&'static str),
    /// The body is not called JSON.
    NotCalledJson,
    /// The body is compressed.
    Encoded,
    /// The body has more bytes than this.
    BodyTooLarge(usize),
    /// The body has more rows than this.
    TooManyRows(u32),
    /// The body did not come in time.
    BodyTooSlow,
    /// The body ended early.
    BodyBroken,
    /// The body is not JSON: where and why.
    Malformed(String),
    /// The body is JSON of another shape.
    Invalid(Vec<Mistake>),
    /// The rows fit no model, or several: which models take what.
    WhichModel(String),
    /// The rows hold values that cannot be.
    OutOfBounds(Vec<Mistake>),
    /// The rows hold values that training did not see, and the worker is strict about that.
    Unusual(Vec<Mistake>),
    /// Every place is taken.
    Busy,
    /// The caller has stopped waiting.
    TooLate,
    /// The gateway did not vouch for the request: why.
    NotVouched(&'static str),
    /// Something that this worker does not do, or not here.
    NotOffered(&'static str),
}

/// Most mistakes that are collected.
pub const MOST_MISTAKES: usize = 20;

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    #[serde(skip_serializing_if = "<[Mistake]>::is_empty")]
    errors: &'a [Mistake],
}

impl Refusal {
    /// Status, slug and title.
    fn shape(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path", "There is nothing at this path"),
            Self::NoSuchModel => (StatusCode::NOT_FOUND, "no-such-model", "There is no such model or version"),
            Self::WrongMethod(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "The path takes other methods")
            }
            Self::NotCalledJson => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body is not JSON")
            }
            Self::Encoded => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-encoding", "The body is encoded"),
            Self::BodyTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large"),
            Self::TooManyRows(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too-many-rows", "The body has too many rows"),
            Self::BodyTooSlow => (StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The body did not come in time"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "body-broken", "The body ended early"),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not well-formed JSON"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid-row", "The body is not what the model takes"),
            Self::WhichModel(_) => {
                (StatusCode::BAD_REQUEST, "which-model", "The body does not say which model is meant")
            }
            Self::OutOfBounds(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "out-of-bounds", "A value is outside its bounds")
            }
            Self::Unusual(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "out-of-training-range",
                "A value is outside what the model was trained on",
            ),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests are in flight"),
            Self::TooLate => (StatusCode::GATEWAY_TIMEOUT, "too-late", "The time to answer is over"),
            Self::NotVouched(_) => {
                (StatusCode::UNAUTHORIZED, "not-vouched", "The gateway does not vouch for the request")
            }
            Self::NotOffered(_) => (StatusCode::FORBIDDEN, "not-offered", "This worker does not do that"),
        }
    }

    /// The last part of the problem's `type`.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        self.shape().1
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.shape().0
    }

    /// One mistake in a body.
    #[must_use]
    pub fn invalid(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![Mistake { pointer: pointer.into(), code, detail: detail.into() }])
    }

    /// Values outside the training range, the first of them by their place.
    pub fn out_of_training_range(
        card: &Card,
        unusual: &[(usize, usize)],
        place: impl Fn(usize, usize) -> String,
    ) -> Self {
        let mistake = |(row, feature): &(usize, usize)| {
            let range = card.features.get(*feature).and_then(|feature| feature.training_range);
            let (low, high) = range.map_or((f64::NAN, f64::NAN), |range| (range.minimum, range.maximum));
            let detail = format!("expected {low} to {high}, as in training");
            Mistake { pointer: place(*row, *feature), code: "out-of-training-range", detail }
        };
        Self::Unusual(unusual.iter().take(MOST_MISTAKES).map(mistake).collect())
    }

    /// What happened, in one line, where a protocol has room for no more.
    #[must_use]
    pub fn line(&self) -> String {
        let detail = match self {
            Self::Invalid(mistakes) | Self::OutOfBounds(mistakes) | Self::Unusual(mistakes) if mistakes.len() > 1 => {
                let first = |mistake: &Mistake| format!("{}: {}", mistake.pointer, mistake.detail);
                let shown: Vec<String> = mistakes.iter().take(3).map(first).collect();
                format!("{}; {} in all.", shown.join("; "), mistakes.len())
            }
            _ => self.detail(),
        };
        format!("{}: {detail}", self.shape().2)
    }

    /// What to say to the client.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::NoSuchPath => "Rows are sent to /predict or /models/{name}/predict; /models lists the models.".into(),
            Self::NoSuchModel => "/models lists the models and their versions.".into(),
            Self::WrongMethod(allow) => format!("Use {allow}."),
            Self::NotCalledJson => "Send JSON with Content-Type: application/json.".into(),
            Self::Encoded => "Send the body without Content-Encoding.".into(),
            Self::BodyTooLarge(limit) => format!("At most {limit} bytes are taken."),
            Self::TooManyRows(limit) => format!("At most {limit} rows are taken at once."),
            Self::BodyTooSlow => "Send the whole body without long pauses.".into(),
            Self::BodyBroken => "The connection ended, or its framing broke, before the body was complete.".into(),
            Self::Malformed(why) => format!("{why}."),
            Self::Invalid(mistakes) | Self::OutOfBounds(mistakes) | Self::Unusual(mistakes) => {
                match mistakes.as_slice() {
                    [only] if only.pointer.is_empty() => format!("{}.", only.detail),
                    [only] => format!("{}: {}.", only.pointer, only.detail),
                    several => format!("`errors` names {} mistakes; there may be more.", several.len()),
                }
            }
            Self::WhichModel(models) => models.clone(),
            Self::Busy => "Try again in a moment.".into(),
            Self::TooLate => "The deadline that came with the request has passed.".into(),
            Self::NotVouched(why) | Self::NotOffered(why) => format!("{why}."),
        }
    }

    /// The answer to send.
    #[must_use]
    pub fn response(&self) -> Response<Vec<u8>> {
        let (status, slug, title) = self.shape();
        let errors = match self {
            Self::Invalid(mistakes) | Self::OutOfBounds(mistakes) | Self::Unusual(mistakes) => mistakes.as_slice(),
            _ => &[],
        };
        let body = Body {
            r#type: format!("urn:modelgate:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            errors,
        };
        self.respond("application/problem+json", serde_json::to_vec(&body).unwrap_or_default())
    }

    /// The answer to send where the Open Inference Protocol is spoken.
    #[must_use]
    pub fn v2_response(&self) -> Response<Vec<u8>> {
        let body = serde_json::json!({"error": self.line()});
        self.respond("application/json", serde_json::to_vec(&body).unwrap_or_default())
    }

    fn respond(&self, content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Self::WrongMethod(allow) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if *self == Self::Busy {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_slug_and_a_client_or_capacity_status() {
        let all = [
            Refusal::NoSuchPath,
            Refusal::NoSuchModel,
            Refusal::WrongMethod("POST"),
            Refusal::NotCalledJson,
            Refusal::Encoded,
            Refusal::BodyTooLarge(1),
            Refusal::TooManyRows(1),
            Refusal::BodyTooSlow,
            Refusal::BodyBroken,
            Refusal::Malformed(String::new()),
            Refusal::Invalid(Vec::new()),
            Refusal::WhichModel(String::new()),
            Refusal::OutOfBounds(Vec::new()),
            Refusal::Unusual(Vec::new()),
            Refusal::Busy,
            Refusal::TooLate,
            Refusal::NotVouched(""),
            Refusal::NotOffered(""),
        ];
        let slugs: std::collections::BTreeSet<&str> = all.iter().map(Refusal::slug).collect();
        assert_eq!(slugs.len(), all.len());
        for refusal in all {
            let response = refusal.response();
            assert!(response.status().is_client_error() || matches!(refusal, Refusal::Busy | Refusal::TooLate));
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), refusal == Refusal::Busy);
        }
    }
}
