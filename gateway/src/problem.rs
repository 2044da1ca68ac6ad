//! Every refusal and every fault as an answer: RFC 9457, and the one place that knows their status codes.
//!
//! A client reads what it can act on; the log gets the cause. Neither reads a credential, a worker's
//! words or an address inside. The token endpoint keeps OAuth2's own form (RFC 6749 §5.2).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::edge::counter::Denied;
use crate::edge::upstream::{ClientFault, Fault};
use crate::policy::authenticate::{self, api_key, binding, certificate, jwt, signature};
use crate::policy::path::Ambiguous;
use crate::policy::profile::{Closed, Disguise, Profile};
use crate::policy::{authorize, body, cors, limit, route, token};
use crate::types::RequestId;
use crate::types::octets::is_plain_json;
use crate::wire;

macro_rules! reasons {
    ($($name:ident $status:literal $slug:literal $title:literal;)*) => {
        /// Why a request did not get what it asked for: a stable word each, in answers, logs and metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $(#[doc = $title] $name,)*
        }

        impl Reason {
            /// Every reason, in order.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];
            /// Their slugs, in the same order.
            pub const SLUGS: &'static [&'static str] = &[$($slug,)*];

            /// The stable word.
            #[must_use]
            pub fn slug(self) -> &'static str {
                match self { $(Reason::$name => $slug,)* }
            }

            /// What is said first.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Reason::$name => $title,)* }
            }

            /// The status of the answer.
            #[must_use]
            pub fn status(self) -> StatusCode {
                match self { $(Reason::$name => const { match StatusCode::from_u16($status) { Ok(code) => code, Err(_) => StatusCode::INTERNAL_SERVER_ERROR } },)* }
            }
        }
    };
}

reasons! {
    HeadMalformed 400 "head-malformed" "The request's head can't be read in one way only";
    ExpectationUnknown 417 "expectation-unknown" "What the request expects is not known";
    PathAmbiguous 400 "path-ambiguous" "The path can't be read in one way only";
    FramingUnsupported 501 "framing-unsupported" "The transfer coding is not known";
    NotFound 404 "not-found" "There is nothing here";
    PathClosed 404 "path-closed" "This path of the worker is not open here";
    MethodNotAllowed 405 "method-not-allowed" "The method is not allowed here";
    OriginRefused 403 "origin-refused" "Pages of this origin may not call this";
    CredentialMissing 401 "credential-missing" "A credential is needed";
    CredentialMalformed 400 "credential-malformed" "The credential can't be read";
    CredentialsDisagree 400 "credentials-disagree" "The credentials name different principals";
    CredentialsSeveral 400 "credentials-several" "More than one credential was sent";
    ApiKeyMistyped 401 "api-key-mistyped" "This is not an API key of this service";
    ApiKeyUnknown 401 "api-key-unknown" "The API key is not known";
    ApiKeyExpired 401 "api-key-expired" "The API key has expired";
    ApiKeyNotYet 401 "api-key-not-yet" "The API key is not good yet";
    ApiKeyNetwork 403 "api-key-network" "The API key may not be used from here";
    ApiKeysUnavailable 503 "api-keys-unavailable" "API keys can't be looked up just now";
    CertificateUnknown 401 "certificate-unknown" "The client certificate is not known here";
    CertificateExpired 401 "certificate-expired" "The client certificate has expired";
    CertificateRevoked 401 "certificate-revoked" "The client certificate is not vouched for any more";
    SignatureMalformed 400 "signature-malformed" "The signature can't be read, or leaves too much open";
    SignatureInvalid 401 "signature-invalid" "The signature is not good here";
    SignerEnded 401 "signer-ended" "The signing key is not good at this time";
    BodyDigest 400 "body-digest" "The body is not the one that was signed";
    TokenInvalid 401 "token-invalid" "The token is not good here";
    TokenBinding 401 "token-binding" "The token is bound to something that was not shown";
    ProofInvalid 401 "proof-invalid" "The proof is not good";
    ProofReplayed 401 "proof-replayed" "The proof was used before";
    ReplayUnknown 503 "replay-unknown" "Whether the proof was used before can't be known just now";
    TokenExpired 401 "token-expired" "The token has expired";
    TokenRevoked 401 "token-revoked" "The token was taken back";
    RevocationUnknown 503 "revocation-unknown" "Whether the token was taken back can't be known just now";
    IssuerUnavailable 503 "issuer-unavailable" "Tokens of this issuer can't be checked just now";
    RoleMissing 403 "role-missing" "You may not call this";
    ScopeMissing 403 "scope-missing" "The credential's scopes don't allow this";
    RightMissing 403 "right-missing" "You may not do this, or not with this model";
    ConditionUnmet 403 "condition-unmet" "You may not call this now, or from there";
    LimitExceeded 429 "limit-exceeded" "Too many requests";
    TooDear 413 "limit-too-small" "The request costs more than is ever admitted";
    StoreLost 503 "limit-store-lost" "Requests can't be counted just now";
    BodyNotTaken 413 "body-not-taken" "No body is taken here";
    BodyTooLarge 413 "body-too-large" "The body is too large";
    BodyType 415 "body-type" "The body has a type that is not taken here";
    BodyEncoding 415 "body-encoding" "The body has a coding that is not taken here";
    BodyMalformed 400 "body-malformed" "The body can't be read in one way only";
    BodyInvalid 422 "body-invalid" "The body is not what is taken here";
    CardUnknown 503 "card-unknown" "What the model takes is not known just now";
    TargetTooLong 414 "target-too-long" "The request target is too long";
    HeadTooLarge 431 "head-too-large" "The request's head is too large";
    BodyFraming 400 "body-framing" "The body's framing is broken";
    BodySlow 408 "body-slow" "The body came too slowly";
    ClientGone 499 "client-gone" "The client left";
    WorkerUnreachable 503 "worker-unreachable" "The model can't be reached just now";
    WorkerBusy 503 "worker-busy" "The model has too much to do just now";
    WorkerBroken 502 "worker-broken" "The model's answer could not be used";
    InputRefused 422 "input-refused" "The model can't use this input";
    WorkerFailed 502 "worker-failed" "The model failed";
    AnswerUndeclared 502 "answer-undeclared" "The model's answer is not as declared";
    WorkerSlow 504 "worker-slow" "The model did not answer in time";
    TokenRequest 400 "token-request" "The token request is not good";
    TokenGrant 400 "token-grant" "The user name or password is wrong";
    TokenClient 401 "token-client" "The client is not known, or its secret is wrong";
    TokenRefresh 400 "token-refresh" "The refresh token is not good";
    TokenReused 400 "token-reused" "The refresh token was used before";
    TokenBusy 503 "token-busy" "Too many passwords are being checked just now";
    TokenStoreLost 503 "token-store-lost" "The store that keeps grants does not answer just now";
    Http2Needed 505 "http2-needed" "This is asked over HTTP/2 alone";
    Internal 500 "internal" "Something is wrong here";
}

impl Reason {
    /// The position in [`Reason::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The status that gRPC has for it, by the HTTP status ("HTTP to gRPC Status Code Mapping", closer where ours say
    /// more).
    #[must_use]
    pub fn grpc_status(self) -> u8 {
        match self.status().as_u16() {
            499 => 1,
            400 | 413 | 414 | 415 | 417 | 422 | 431 => 3,
            408 | 504 => 4,
            403 => 7,
            429 => 8,
            404 | 405 | 501 | 505 => 12,
            503 => 14,
            401 => 16,
            _ => 13,
        }
    }

    /// Whether the worker failed to serve what it was asked.
    #[must_use]
    pub fn is_workers(self) -> bool {
        matches!(
            self,
            Self::WorkerUnreachable
                | Self::WorkerBusy
                | Self::WorkerBroken
                | Self::WorkerFailed
                | Self::WorkerSlow
                | Self::AnswerUndeclared
                | Self::CardUnknown
        )
    }

    /// Whether it belongs in the security record: every refusal, also of what a worker would have told, and no fault of
    /// workers or ours.
    #[must_use]
    pub fn is_security(self) -> bool {
        self.status().is_client_error() && self != Self::ClientGone || self == Self::AnswerUndeclared
    }
}

/// Why a request's head is refused before anything is asked of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// `Host` is missing, repeated or malformed, or disagrees with the target.
    Host(&'static str),
    /// The target is not a path.
    Target,
    /// HTTP/1 octets that can't be read in one way only.
    Wire(wire::Fault),
    /// The connection's client certificate was revoked, or its authority is not trusted any more.
    Certificate,
    /// `Connection` names a header that we rely on, or what is no header.
    Connection,
    /// `Expect` says more than `100-continue`.
    Expectation,
}

/// Everything that ends a request early.
#[derive(Debug)]
pub enum Stop {
    /// The head can't be used.
    Head(HeadFault),
    /// The path is ambiguous.
    Path(Ambiguous),
    /// No route.
    Route(route::Refusal),
    /// A path of the worker that its route does not open.
    Closed(Closed),
    /// A preflight for a page that may not call.
    Origin,
    /// No principal; with the challenges for `WWW-Authenticate`.
    Authenticate(authenticate::Refusal, Vec<HeaderValue>),
    /// No right.
    Authorize(authorize::Denied),
    /// Too often, or not countable.
    Limit(Denied),
    /// A body that is not taken.
    Body(body::Refusal),
    /// A body that broke while it was read.
    BodyRead(ClientFault, Option<usize>),
    /// A call of gRPC over HTTP/1.
    NotHttp2,
    /// No usable answer from a worker.
    Upstream(Fault),
    /// An answer that is not as declared: in what, for the log alone.
    Undeclared(Cow<'static, str>),
    /// No token.
    Token(token::Refusal),
    /// More passwords are being checked than may be at once.
    TokenBusy,
    /// The store that keeps grants is lost.
    TokenStoreLost,
    /// Ours.
    Internal(&'static str),
}

impl Stop {
    /// The same, as the token endpoint says it: a body that is no form is `invalid_request` there.
    #[must_use]
    pub fn into_oauth(self) -> Self {
        match self {
            Self::Body(body::Refusal::Type { .. } | body::Refusal::Encoding) => {
                Self::Token(token::Refusal::Request("send the parameters as application/x-www-form-urlencoded"))
            }
            other => other,
        }
    }
}

/// A stop, ready to be sent and recorded.
#[derive(Debug)]
pub struct Problem {
    /// Its reason.
    pub reason: Reason,
    /// Why, for the operator alone.
    pub cause: Option<String>,
    detail: Cow<'static, str>,
    members: Vec<(&'static str, Value)>,
    headers: HeaderMap,
    /// `error` of RFC 6749 §5.2, where the token endpoint answers.
    oauth: Option<&'static str>,
    /// Whether the connection can't go on.
    pub close: bool,
}

impl Problem {
    fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            cause: None,
            detail: detail.into(),
            members: Vec::new(),
            // Room for what every answer carries, so that the table does not grow.
            headers: HeaderMap::with_capacity(16),
            oauth: None,
            close: false,
        }
    }

    fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    fn member(mut self, name: &'static str, value: Value) -> Self {
        self.members.push((name, value));
        self
    }

    fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn oauth(mut self, error: &'static str) -> Self {
        self.oauth = Some(error);
        self
    }

    /// What the client reads of it.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Says the same once more in the member that clients of a protocol read, where they do.
    #[must_use]
    pub fn with_error(self, profile: Profile) -> Self {
        match profile.error(&self.detail, self.reason.status().as_u16(), self.reason.slug()) {
            Some(error) => self.member("error", error),
            None => self,
        }
    }

    /// The body, written in one go: who floods is answered with these.
    fn body(&self, id: RequestId) -> Vec<u8> {
        let mut body = Vec::with_capacity(512);
        body.extend_from_slice(b"{\"type\":\"urn:modelgate:problem:");
        body.extend_from_slice(self.reason.slug().as_bytes());
        body.extend_from_slice(b"\",\"title\":");
        write_text(&mut body, self.reason.title());
        body.extend_from_slice(b",\"status\":");
        body.extend_from_slice(self.reason.status().as_str().as_bytes());
        body.extend_from_slice(b",\"detail\":");
        write_text(&mut body, &self.detail);
        for (name, value) in &self.members {
            body.push(b',');
            write_text(&mut body, name);
            body.push(b':');
            match value {
                Value::String(text) => write_text(&mut body, text),
                // Writing to memory never fails.
                value => drop(serde_json::to_writer(&mut body, value)),
            }
        }
        body.extend_from_slice(b",\"request_id\":\"");
        body.extend_from_slice(id.as_str().as_bytes());
        body.extend_from_slice(b"\"}");
        body
    }

    /// What a call of gRPC is told: the reason's slug, and what happened ("gRPC over HTTP2", Status-Message).
    fn grpc_message(&self) -> HeaderValue {
        const MOST: usize = 512;
        let mut text = format!("{}: ", self.reason.slug()).into_bytes();
        for octet in self.detail.bytes().take(MOST) {
            match octet {
                b' '..=b'~' if octet != b'%' => text.push(octet),
                _ => text.extend_from_slice(format!("%{octet:02X}").as_bytes()),
            }
        }
        HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(self.reason.slug()))
    }

    /// The answer to a call of gRPC: trailers alone ("gRPC over HTTP2", Responses).
    #[must_use]
    pub fn into_grpc(self) -> Response<Bytes> {
        let message = self.grpc_message();
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", u16::from(self.reason.grpc_status()).into());
        headers.insert("grpc-message", message);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// The answer. `id` lets the client and the operator speak of the same request.
    #[must_use]
    pub fn into_response(self, id: RequestId) -> Response<Bytes> {
        let (media_type, body) = if let Some(error) = self.oauth {
            let body = json!({ "error": error, "error_description": self.detail });
            ("application/json", body.to_string().into_bytes())
        } else {
            ("application/problem+json", self.body(id))
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.reason.status();
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.oauth.is_some() {
            headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Writes a JSON string.
fn write_text(out: &mut Vec<u8>, text: &str) {
    if is_plain_json(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory never fails.
        let _ = serde_json::to_writer(out, text);
    }
}

impl From<Stop> for Problem {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Head(fault) => head(fault),
            Stop::Path(Ambiguous(why)) => Self::new(Reason::PathAmbiguous, format!("The path is refused because {why}. Send it in its plain form.")),
            Stop::Route(route::Refusal::NotFound) => {
                Self::new(Reason::NotFound, "No route has this host and path. Check the URL against the service's documentation.")
            }
            Stop::Route(route::Refusal::Method { allow }) => {
                Self::new(Reason::MethodNotAllowed, format!("This path takes: {allow}.")).header(header::ALLOW, &allow)
            }
            Stop::Closed(Closed) => Self::new(
                Reason::PathClosed,
                "The route leads to a worker whose protocol has no such path, or not with this method, for predictions, metadata or health. \
                 The operator opens others with `opens`.",
            ),
            Stop::Origin => Self::new(
                Reason::OriginRefused,
                "Browsers may not call this from the page's origin. The operator allows origins in the route's CORS rule.",
            )
            .header(header::VARY, cors::PREFLIGHT_VARY),
            Stop::Authenticate(refusal, challenges) => {
                let mut problem = credential(&refusal);
                for challenge in challenges {
                    problem.headers.append(header::WWW_AUTHENTICATE, challenge);
                }
                problem
            }
            Stop::Authorize(denied) => {
                let mut problem = right(denied.refusal);
                problem.headers.extend(denied.challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
                problem
            }
            Stop::Limit(Denied::Full(refusal)) => limited(*refusal),
            Stop::Limit(Denied::StoreLost) => {
                Self::new(Reason::StoreLost, "The store that counts requests does not answer, and uncounted requests are not taken. Try again shortly.")
                    .header(header::RETRY_AFTER, "1")
            }
            Stop::Body(refusal) => refused_body(refusal),
            Stop::BodyRead(fault, max) => read_body(fault, max),
            Stop::NotHttp2 => {
                Self::new(Reason::Http2Needed, "gRPC needs HTTP/2, which is agreed on in the TLS handshake (ALPN).")
            }
            Stop::Upstream(fault) => upstream(fault),
            Stop::Undeclared(why) => Self::new(
                Reason::AnswerUndeclared,
                "The worker answered in a form that is not passed on here. The operator finds the cause in the log.",
            )
            .cause(why),
            Stop::Token(refusal) => refused_token(refusal),
            Stop::TokenBusy => Self::new(Reason::TokenBusy, "Too many passwords are being checked. Try again shortly.")
                .header(header::RETRY_AFTER, "1")
                .oauth("temporarily_unavailable"),
            Stop::TokenStoreLost => Self::new(Reason::TokenStoreLost, "What was granted can't be looked up. Try again shortly.")
                .header(header::RETRY_AFTER, "1")
                .oauth("temporarily_unavailable"),
            Stop::Internal(what) => Self::new(Reason::Internal, "The gateway could not finish this request. The operator finds it in the log by its request_id.").cause(what),
        }
    }
}

fn head(fault: HeadFault) -> Problem {
    match fault {
        HeadFault::Host(why) => {
            Problem::new(Reason::HeadMalformed, format!("The request is refused because {why} (RFC 9112 §3.2)."))
                .closing()
        }
        HeadFault::Target => {
            Problem::new(Reason::HeadMalformed, "The request target must be a path such as /predict, with what must be escaped in it escaped (RFC 9112 §3.2).")
                .closing()
        }
        HeadFault::Wire(wire::Fault::Malformed(why)) => {
            Problem::new(Reason::HeadMalformed, format!("The request is refused because {why} (RFC 9112).")).closing()
        }
        HeadFault::Wire(wire::Fault::Coding) => {
            let detail = "The only transfer coding that is known is `chunked` (RFC 9112 §6.1).";
            Problem::new(Reason::FramingUnsupported, detail).closing()
        }
        HeadFault::Wire(wire::Fault::TargetTooLong) => {
            Problem::new(Reason::TargetTooLong, "No target here is that long.").closing()
        }
        HeadFault::Wire(wire::Fault::HeadTooLarge) => {
            Problem::new(Reason::HeadTooLarge, "Send fewer or shorter headers.").closing()
        }
        HeadFault::Certificate => Problem::new(
            Reason::CertificateRevoked,
            "It was revoked, or its authority is not trusted any more. Connect anew with another.",
        )
        .header(header::WWW_AUTHENTICATE, "Certificate realm=\"modelgate\"")
        .closing(),
        HeadFault::Connection => Problem::new(
            Reason::HeadMalformed,
            "`Connection` names a header that must not be removed, or what is no header (RFC 9110 §7.6.1).",
        )
        .closing(),
        HeadFault::Expectation => {
            Problem::new(Reason::ExpectationUnknown, "Expect nothing, or 100-continue, once (RFC 9110 §10.1.1).").closing()
        }
    }
}

fn right(refusal: authorize::Refusal) -> Problem {
    use authorize::{Refusal as R, Unmet};
    let (reason, detail) = match refusal {
        R::Role => (
            Reason::RoleMissing,
            "Your credential is good, but none of its roles may call this. Ask the operator for a role that may.",
        ),
        R::Reach => (
            Reason::RightMissing,
            "Your roles may call this, but not with this method, or not for this model and version. Ask the operator for the right.",
        ),
        R::Scope(_) => (
            Reason::ScopeMissing,
            "Your roles may call this, but your credential was not given the scope for it. Ask for one with that scope.",
        ),
        R::Condition(Unmet::Network) => (
            Reason::ConditionUnmet,
            "You may call this, but not from your address. Call from a network that the operator allows.",
        ),
        R::Condition(Unmet::Time) => {
            (Reason::ConditionUnmet, "You may call this, but not at this time. Ask the operator when it is open.")
        }
        R::Condition(Unmet::Certificate) => (
            Reason::ConditionUnmet,
            "You may call this, but only over a connection with a client certificate. Connect with yours.",
        ),
        R::Condition(Unmet::Claims) => (
            Reason::ConditionUnmet,
            "Your roles may call this, but not with your token's claims. Ask the operator which it needs.",
        ),
    };
    Problem::new(reason, detail)
}

fn credential(refusal: &authenticate::Refusal) -> Problem {
    use authenticate::Refusal as R;
    let invalid = |cause: &str| {
        Problem::new(
            Reason::TokenInvalid,
            "The token is not an access token of an issuer that is trusted here, or not meant for this service. Get a new one.",
        )
        .cause(cause)
    };
    match refusal {
        R::Missing => Problem::new(
            Reason::CredentialMissing,
            "Send a credential of one of the kinds that WWW-Authenticate names.",
        ),
        R::Disagree => Problem::new(
            Reason::CredentialsDisagree,
            "Each credential is good, and they name different principals. Send those of one principal.",
        ),
        R::Several => Problem::new(Reason::CredentialsSeveral, "Send exactly one credential, in one header."),
        R::Malformed => {
            Problem::new(Reason::CredentialMalformed, "Send `Authorization: Bearer` and one token (RFC 6750 §2.1).")
        }
        R::ApiKey(api_key::Refusal::Mistyped) => Problem::new(
            Reason::ApiKeyMistyped,
            "It does not have the form of a key, or a character is wrong. Copy it again, whole and without spaces.",
        ),
        R::ApiKey(api_key::Refusal::Unknown) => Problem::new(
            Reason::ApiKeyUnknown,
            "It has the form of a key and is not one of this service's. It may have been withdrawn.",
        ),
        R::ApiKey(api_key::Refusal::Expired) => Problem::new(Reason::ApiKeyExpired, "Ask the operator for a new one."),
        R::Certificate(refusal) => bad_certificate(refusal),
        R::Signature(refusal) => bad_signature(refusal),
        R::Binding(refusal) => Problem::new(Reason::TokenBinding, unbound(*refusal)),
        R::Proof(refusal) => Problem::new(Reason::ProofInvalid, refusal.detail()),
        R::Replayed => Problem::new(Reason::ProofReplayed, "Make a new one for each request."),
        R::ReplayUnknown => {
            let detail = "Which proofs were used can't be looked up. Try again shortly, with a new one.";
            Problem::new(Reason::ReplayUnknown, detail).header(header::RETRY_AFTER, "1")
        }
        R::ApiKey(api_key::Refusal::NotYet) => {
            Problem::new(Reason::ApiKeyNotYet, "It was issued for a later time. Wait for it, or ask the operator.")
        }
        // RFC 9110 §15.5.4: the credential is good, and to send it again, or another one, changes nothing from here.
        R::ApiKey(api_key::Refusal::Network) => Problem::new(
            Reason::ApiKeyNetwork,
            "The key is good, but not for the network that the request came from. Call from where it was issued for, or \
             ask the operator.",
        ),
        R::ApiKeysUnavailable => {
            Problem::new(Reason::ApiKeysUnavailable, "The store that keeps keys can't be asked. Try again shortly.")
                .header(header::RETRY_AFTER, "1")
        }
        R::IssuerUnavailable => {
            Problem::new(Reason::IssuerUnavailable, "The token's issuer can't be asked. Try again shortly.")
                .header(header::RETRY_AFTER, "10")
        }
        R::RevocationUnknown => {
            let detail = "Which tokens were taken back can't be looked up. Try again shortly.";
            Problem::new(Reason::RevocationUnknown, detail).header(header::RETRY_AFTER, "1")
        }
        R::Token(refusal) => match refusal {
            jwt::Refusal::Revoked => Problem::new(Reason::TokenRevoked, "Get a new one."),
            jwt::Refusal::RevocationUnknown => invalid("whether it was taken back is not known"),
            jwt::Refusal::Expired => Problem::new(Reason::TokenExpired, "Get a new one."),
            jwt::Refusal::Malformed => invalid("it is malformed"),
            jwt::Refusal::Type => invalid("its typ is not taken"),
            jwt::Refusal::Algorithm => invalid("its alg is not taken"),
            jwt::Refusal::Issuer => invalid("its issuer is not trusted"),
            jwt::Refusal::NoKeys => invalid("its issuer's keys are not known"),
            jwt::Refusal::Signature => invalid("its signature does not hold"),
            jwt::Refusal::UnknownKey => invalid("its issuer publishes no key with its kid"),
            jwt::Refusal::Inactive => invalid("its issuer says that it is not active"),
            jwt::Refusal::NoEnd => invalid("it has no exp"),
            jwt::Refusal::NotYet => invalid("it is not valid yet"),
            jwt::Refusal::Audience => invalid("its audience is not us"),
            jwt::Refusal::Binding => {
                invalid("it is bound to what can't be checked, or not bound as its issuer's must be")
            }
            jwt::Refusal::Subject => invalid("its subject can't be used"),
        },
    }
}

fn bad_certificate(refusal: &certificate::Refusal) -> Problem {
    use certificate::Refusal as R;
    match refusal {
        R::Unknown => Problem::new(
            Reason::CertificateUnknown,
            "The authority that issued it is trusted, but it stands for nobody here. Ask the operator to enter it.",
        ),
        R::Ambiguous(one, other) => Problem::new(
            Reason::CertificateUnknown,
            "It could stand for more than one principal, so it stands for none. Ask the operator to tell them apart.",
        )
        .cause(format!("it is for certificates.{one} and certificates.{other}")),
        R::Expired => Problem::new(Reason::CertificateExpired, "Renew it and connect again."),
    }
}

fn bad_signature(refusal: &signature::Refusal) -> Problem {
    use signature::Refusal as R;
    match refusal {
        R::Malformed(why) => {
            Problem::new(Reason::SignatureMalformed, format!("The signature is refused because: {why} (RFC 9421)."))
        }
        R::Invalid(cause) => Problem::new(
            Reason::SignatureInvalid,
            "It is not by a known key over this very request, or not from now. Check key, clock and what was signed.",
        )
        .cause(*cause),
        R::Ended => Problem::new(
            Reason::SignerEnded,
            "The key has expired, or is not in use yet. Ask the operator for another.",
        ),
        R::Digest => Problem::new(
            Reason::BodyDigest,
            "Send Content-Digest with sha-256 of the body as it is sent (RFC 9530), and sign it.",
        ),
    }
}

fn unbound(refusal: binding::Refusal) -> &'static str {
    use binding::Refusal as R;
    match refusal {
        R::NoCertificate => "It is bound to a client certificate. Connect with that certificate (RFC 8705 §3).",
        R::OtherCertificate => {
            "It is bound to another client certificate than this connection's. Get one for this certificate."
        }
        R::NoProof => {
            "It is bound to a key. Send it as `Authorization: DPoP`, with a proof of that key (RFC 9449 §7.1)."
        }
        R::Unbound => "It is bound to no key. Send it as `Authorization: Bearer`, or get one that is bound.",
    }
}

fn limited(refusal: limit::Refusal) -> Problem {
    let names = refusal.violated.join(", ");
    let violated: Value = refusal.violated.iter().map(|name| Value::from(&**name)).collect();
    let mut problem = match (refusal.retry_after, refusal.too_dear) {
        (Some(seconds), _) => {
            let unit = if seconds == 1 { "second" } else { "seconds" };
            let detail =
                format!("The limit {names} is used up. Try again in {seconds} {unit}; this request was not counted.");
            Problem::new(Reason::LimitExceeded, detail)
                .member("violated_policies", violated)
                .member("retry_after", seconds.into())
                .header(header::RETRY_AFTER, &seconds.to_string())
        }
        (None, dear) => {
            let limit::TooDear { cost, quota, noun } = dear.unwrap_or_default();
            let detail =
                format!("It costs {cost} {noun}, and {names} never admits more than {quota}. Send it in parts.");
            Problem::new(Reason::TooDear, detail)
                .member("violated_policies", violated)
                .member("cost", cost.into())
                .member("quota", quota.into())
        }
    };
    problem.cause = Some(names);
    refusal.headers.apply(&mut problem.headers);
    problem
}

fn refused_body(refusal: body::Refusal) -> Problem {
    use body::Refusal as R;
    match refusal {
        R::NotTaken => Problem::new(Reason::BodyNotTaken, "Send the request without a body."),
        R::Type { taken } => {
            Problem::new(Reason::BodyType, format!("Send Content-Type: {taken}.")).header(header::ACCEPT, &taken)
        }
        R::Encoding => Problem::new(Reason::BodyEncoding, "Send the body without Content-Encoding.")
            .header(header::ACCEPT_ENCODING, "identity"),
        R::TooLarge { max } => too_large(max),
        R::Malformed(malformed) => Problem::new(
            Reason::BodyMalformed,
            format!("The body is not JSON that can be taken: {}.", malformed.detail),
        )
        .member(
            "errors",
            json!([{ "pointer": malformed.pointer, "code": malformed.code, "detail": malformed.detail }]),
        ),
        R::CardUnknown(cause) => Problem::new(
            Reason::CardUnknown,
            "The model has not said which values it takes, and values that can't be checked are not taken. Try again shortly.",
        )
        .header(header::RETRY_AFTER, "1")
        .cause(cause),
        R::Invalid { faults } => {
            let count = faults.len();
            let unit = if count == 1 { "fault" } else { "faults" };
            let places: Vec<&str> = faults.iter().map(|fault| fault.code).take(4).collect();
            let cause = places.join(" ");
            Problem::new(Reason::BodyInvalid, format!("The body has {count} {unit}, listed in `errors`."))
                .member("errors", serde_json::to_value(faults).unwrap_or_default())
                .cause(cause)
        }
    }
}

fn too_large(max: usize) -> Problem {
    Problem::new(Reason::BodyTooLarge, format!("At most {max} bytes are taken here.")).member("max_bytes", max.into())
}

fn read_body(fault: ClientFault, max: Option<usize>) -> Problem {
    match fault {
        ClientFault::TooLarge => too_large(max.unwrap_or_default()).closing(),
        ClientFault::Slow => {
            Problem::new(Reason::BodySlow, "No part of the body came for too long. Send it again, faster.").closing()
        }
        ClientFault::Malformed => {
            Problem::new(Reason::BodyFraming, "The body's chunks can't be read (RFC 9112 §7.1).").closing()
        }
        ClientFault::Gone => Problem::new(Reason::ClientGone, "The connection ended before the body did.").closing(),
    }
}

fn upstream(fault: Fault) -> Problem {
    match fault {
        Fault::Unreachable(cause) => {
            Problem::new(Reason::WorkerUnreachable, "No worker takes connections. Try again shortly.")
                .header(header::RETRY_AFTER, "1")
                .cause(cause)
        }
        Fault::NotPrivate => Problem::new(Reason::WorkerUnreachable, "No worker takes connections. Try again shortly.")
            .cause("its name leads to a public address, where plain text is not sent"),
        Fault::Slow => {
            Problem::new(Reason::WorkerSlow, "The request may have been served. Repeat it only if that does no harm.")
        }
        Fault::Broken(cause) => {
            Problem::new(Reason::WorkerBroken, "What the worker sent is not a whole HTTP answer.").cause(cause)
        }
        Fault::TooLarge => Problem::new(Reason::WorkerBroken, "The worker's answer is larger than is passed on.")
            .cause("answer too large"),
        Fault::Failed(status) => Problem::new(Reason::WorkerFailed, "The worker could not serve this request.")
            .cause(format!("it answered {status}")),
        Fault::Refused(Disguise::Told) => Problem::new(
            Reason::InputRefused,
            "The worker could not read this input. Check names, types, shapes and counts against the model's metadata.",
        )
        .cause("it answered 500 as to input that it can't read"),
        Fault::Refused(Disguise::Bare) => Problem::new(
            Reason::InputRefused,
            "The worker serves other requests and failed on this one, and does not say why. Check the number of columns, types and \
             shapes against the model's metadata.",
        )
        .cause("it answered 500 and does not say whose fault it is, and answered others well before"),
        Fault::Busy { retry_after } => {
            Problem::new(Reason::WorkerBusy, "The worker has no room for another request. Try again shortly.")
                .header(header::RETRY_AFTER, &retry_after.unwrap_or(1).to_string())
        }
        Fault::Full => Problem::new(Reason::WorkerBusy, "No worker has room for another request. Try again shortly.")
            .header(header::RETRY_AFTER, "1")
            .cause("max_connections requests are at each worker, and max_waiting wait"),
        Fault::Client(fault) => read_body(fault, None),
    }
}

fn refused_token(refusal: token::Refusal) -> Problem {
    use token::Refusal as R;
    match refusal {
        R::Request(why) => Problem::new(Reason::TokenRequest, why).oauth("invalid_request"),
        R::Proof(why) => Problem::new(Reason::TokenRequest, why).oauth("invalid_dpop_proof"),
        R::GrantType => {
            Problem::new(Reason::TokenRequest, "this grant_type is not offered; the metadata lists those that are")
                .oauth("unsupported_grant_type")
        }
        R::Scope => {
            Problem::new(Reason::TokenRequest, "a scope is asked for that can't be had here").oauth("invalid_scope")
        }
        R::Unauthorized => {
            Problem::new(Reason::TokenRequest, "this client may not use this grant_type").oauth("unauthorized_client")
        }
        R::NotYours => {
            Problem::new(Reason::TokenRequest, "the token was given to another client").oauth("invalid_grant")
        }
        R::Refresh => {
            Problem::new(Reason::TokenRefresh, "the refresh token is not good; log in again").oauth("invalid_grant")
        }
        R::Reused => {
            Problem::new(Reason::TokenReused, "the refresh token is not good; log in again").oauth("invalid_grant")
        }
        // RFC 6749 §5.2, and RFC 9110 §15.5.2 for those who did not use the header.
        R::Client => Problem::new(Reason::TokenClient, "the client is not known, or its secret is wrong")
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"modelgate\", charset=\"UTF-8\"")
            .oauth("invalid_client"),
        R::Grant => Problem::new(Reason::TokenGrant, "the user name or password is wrong").oauth("invalid_grant"),
        R::Signing => Problem::new(Reason::Internal, "the token could not be signed")
            .oauth("server_error")
            .cause("the signing key failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::HashSet;

    #[test]
    fn slugs_are_distinct_and_positions_agree() {
        let distinct: HashSet<&str> = Reason::SLUGS.iter().copied().collect();
        assert_eq!(distinct.len(), Reason::ALL.len());
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!((reason.index(), Reason::SLUGS.get(index).copied()), (index, Some(reason.slug())));
        }
    }
}
