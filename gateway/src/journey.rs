//! What happens to each request, stage by stage, from its head to the end of its answer.
//!
//! ```text
//! accept → handshake → read_head → identify                        (server.rs brings it here)
//!   → route → cors → authenticate → authorize → limit → body → forward
//!   → finish, whatever happened: earned headers, the answer, the record
//! ```
//!
//! Each stage's decision is pure and lives in `policy`; this file alone knows their order. A stage gives
//! back evidence that the next one takes, or a [`Stop`] that ends the journey.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::activity::Busy;
use crate::edge::counter::{Counter, StoreChange};
use crate::edge::keys::KeyRing;
use crate::edge::log::{BatchLog, Record};
use crate::edge::metrics::Metrics;
use crate::edge::upstream::{
    ClientFault, ClientStream, Outgoing, Pool, SLOWEST, Upload, WorkerBody, remove_hop_by_hop,
};
use crate::head;
use crate::policy::body::{self, BodyRule};
use crate::policy::cors::{self, Earned};
use crate::policy::limit::{Admission, Limit, RateHeaders, Subject};
use crate::policy::route::RouteId;
use crate::policy::{Destination, Policy, Route, path};
use crate::problem::{HeadFault, Problem, Reason, Stop};
use crate::token_endpoint;
use crate::types::{AddressBucket, Name, Principal, RequestId, RequestIds, Timestamp};

/// How much of an unwanted body is read so that the client sees the answer instead of a reset.
const DRAINED: usize = 64 << 10;
/// For how long.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// What all threads share and nobody changes.
#[derive(Debug)]
pub struct Snapshot {
    /// The compiled policy.
    pub policy: Policy,
    /// Keys of issuers that publish them.
    pub keys: Arc<KeyRing>,
    /// Whether answers say `Strict-Transport-Security`.
    pub hsts: bool,
    /// The longest pause inside a client's body.
    pub body_timeout: Duration,
}

/// What one thread needs for its requests. Threads share nothing that is written on a request's way
/// but the windows of the in-process store.
#[derive(Debug)]
pub struct Core {
    /// Policy and settings.
    pub snapshot: Arc<Snapshot>,
    /// The way to the windows.
    pub counter: Counter,
    /// The ways to the workers, in the policy's order.
    pub pools: Vec<Pool>,
    /// Where records go.
    pub log: BatchLog,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// This thread's position.
    pub thread: usize,
    /// Names for requests.
    pub ids: RequestIds,
    /// How many passwords may be checked at once, in all threads.
    pub passwords: Arc<Semaphore>,
}

/// One request on one connection. Always gives an answer.
///
/// # Errors
/// None; the type is what hyper's service takes.
pub async fn serve(
    core: Rc<Core>,
    peer: IpAddr,
    busy: Busy,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (parts, incoming) = request.into_parts();
    let mut exchange = Exchange::begin(core, peer, busy, &parts);
    let mut body = ClientBody { incoming: Some(incoming), read: Rc::clone(&exchange.bytes_in) };
    let arrived = Arrived { method: parts.method, uri: parts.uri, version: parts.version };
    let outcome = travel(&mut exchange, arrived, parts.headers, &mut body).await;
    let outcome = match outcome {
        Ok(answer) => Ok(answer),
        Err(stop) => {
            let mut problem = Problem::from(stop);
            problem.close |= !body.drain(exchange.http1).await;
            Err(problem)
        }
    };
    Ok(finish(exchange, outcome))
}

/// Answers a head that never became a request.
#[must_use]
pub fn refuse(core: Rc<Core>, peer: IpAddr, busy: Busy, fault: HeadFault) -> Response<AnswerBody> {
    let nameless = Request::new(()).into_parts().0;
    let mut exchange = Exchange::begin(core, peer, busy, &nameless);
    "-".clone_into(&mut exchange.method);
    exchange.path = "-".into();
    finish(exchange, Err(Problem::from(Stop::Head(fault))))
}

/// The request line, as it arrived.
struct Arrived {
    method: Method,
    uri: http::Uri,
    version: Version,
}

/// An answer before it is finished.
enum Answer {
    /// From a worker.
    Worker(Response<WorkerBody>),
    /// Ours.
    Own(Response<Bytes>),
}

async fn travel(
    exchange: &mut Exchange,
    arrived: Arrived,
    headers: HeaderMap,
    body: &mut ClientBody,
) -> Result<Answer, Stop> {
    let core = Rc::clone(&exchange.core);
    let policy = &core.snapshot.policy;
    let asked = cors::preflight(&arrived.method, &headers);

    // Head first: what can be read in two ways must not reach a decision.
    let host = head::read(&arrived.method, &arrived.uri, &headers).map_err(Stop::Head)?;
    let path = path::normalize(arrived.uri.path()).map_err(Stop::Path)?;
    exchange.client = policy.trusted_proxies.client(exchange.peer, &headers);

    // The route next: all other rules hang on it. A preflight goes where its real request would.
    let id = policy.table.find(host, &path, asked.as_ref().unwrap_or(&arrived.method)).map_err(Stop::Route)?;
    let route = policy.route(id).ok_or(Stop::Internal("a route without a row"))?;
    exchange.route = Some(id);

    // CORS before credentials: a preflight carries none, and a page must be able to read a refusal.
    let earned = route.cors.as_ref().map(|cors| cors.decide(&headers));
    if let Some(asked) = asked {
        return preflight(earned, &asked);
    }
    exchange.earned = earned;

    // Who, then whether: a refusal here is charged to the client's address, so that credentials can't be
    // guessed faster than the limit, and a right guess behind the limit looks like a wrong one.
    let now = timestamp(exchange.began);
    let decided = policy.authenticator.decide(&route.authenticate, &headers, &policy.roles, &*core.snapshot.keys, now);
    let principal = match decided {
        Ok(principal) => principal,
        Err(refusal) => {
            charge_guess(exchange, route).await?;
            let challenges = policy.authenticator.challenges(&route.authenticate, &refusal).collect();
            return Err(Stop::Authenticate(refusal, challenges));
        }
    };
    exchange.principal = Some(Arc::clone(&principal));
    let permit = match route.authorize.decide(&principal) {
        Ok(permit) => permit,
        Err(refusal) => {
            charge_guess(exchange, route).await?;
            return Err(Stop::Authorize(refusal));
        }
    };
    exchange.role = permit.role();

    // Limits after identity, because most count by it; all in one step, so that a refusal uses up none.
    let admission = admit(exchange, route, &route.limits, &principal.id).await?;

    // The body last: it is the dearest to look at, and only now has the caller a right to our attention.
    match &route.destination {
        Destination::Token => {
            let issuer = policy.issuer.as_ref().ok_or(Stop::Internal("a token route without an issuer"))?;
            let form = body.form(&headers, core.snapshot.body_timeout).await?;
            let minted = token_endpoint::answer(&core, issuer, &form, exchange.id, now).await?;
            exchange.rate = admission.into_headers();
            Ok(Answer::Own(minted))
        }
        Destination::Pool(position) => {
            let pool = core.pools.get(*position).ok_or(Stop::Internal("a route without a pool"))?;
            // The client learns where its limits stand, whatever becomes of the rest.
            let (admission, rate) = admission.split();
            exchange.rate = rate;
            let upload = Rc::<Upload>::default();
            let outgoing = read_body(exchange, route, &headers, body, &upload).await?;
            let target = route.worker_path.as_deref().unwrap_or(&path);
            let request = worker_request(exchange, route, &arrived, target, headers, &principal, outgoing)?;
            let tally = core.metrics.tally(core.thread);
            let sent = Instant::now();
            let answer = pool.forward(request, permit, admission, &upload, || tally.upstream_connected()).await;
            let answer = answer.map_err(Stop::Upstream)?;
            exchange.worker_took = Some(sent.elapsed());
            exchange.worker = Some(answer.worker);
            Ok(Answer::Worker(answer.response))
        }
    }
}

/// Answers a preflight: 204 with what the page may do, or a refusal that says why not.
fn preflight(earned: Option<Earned>, asked: &Method) -> Result<Answer, Stop> {
    let earned = earned.filter(Earned::is_allowed).ok_or(Stop::Origin)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    earned.apply_preflight(asked, response.headers_mut());
    Ok(Answer::Own(response))
}

async fn charge_guess(exchange: &mut Exchange, route: &Route) -> Result<(), Stop> {
    let nobody = Name::from("");
    admit(exchange, route, &route.guess_limits, &nobody).await.map(|_| ())
}

async fn admit(exchange: &Exchange, route: &Route, limits: &[Arc<Limit>], principal: &Name) -> Result<Admission, Stop> {
    let subject = Subject { address: AddressBucket::of(exchange.client), principal, route: &route.name };
    let log = exchange.core.log.log();
    let changed = |change| match change {
        StoreChange::Lost(why) => log.event("store-lost", &[("cause", &why)]),
        StoreChange::Back => log.event("store-back", &[]),
    };
    exchange.core.counter.admit(limits, &subject, changed).await.map_err(Stop::Limit)
}

/// Judges the body, whole where a rule needs it whole, else on its way.
async fn read_body(
    exchange: &mut Exchange,
    route: &Route,
    headers: &HeaderMap,
    body: &mut ClientBody,
    upload: &Rc<Upload>,
) -> Result<Outgoing, Stop> {
    let Some(rule) = &route.body else {
        return if body.is_empty() { Ok(Outgoing::Empty) } else { Err(Stop::Body(body::Refusal::NotTaken)) };
    };
    rule.decide_head(headers).map_err(Stop::Body)?;
    let idle = exchange.core.snapshot.body_timeout;
    if !rule.needs_whole() {
        return Ok(match body.incoming.take() {
            Some(incoming) if !incoming.is_end_stream() => Outgoing::Stream(ClientStream::new(
                incoming,
                rule.max(),
                idle,
                Rc::clone(upload),
                Rc::clone(&exchange.bytes_in),
            )),
            _ => Outgoing::Empty,
        });
    }
    let whole = body.whole(rule.max(), idle).await?;
    judge(exchange, rule, whole)
}

fn judge(exchange: &mut Exchange, rule: &BodyRule, whole: Bytes) -> Result<Outgoing, Stop> {
    let checked = rule.decide(&whole).map_err(Stop::Body)?;
    Ok(Outgoing::Whole(Some(match checked.into_rewritten() {
        Some(rewritten) => {
            exchange.normalized = Some(rewritten.note);
            rewritten.body.into()
        }
        None => whole,
    })))
}

/// The request as the worker gets it: the client's headers without what is hop-by-hop, spoofed or
/// secret, and ours.
fn worker_request(
    exchange: &Exchange,
    route: &Route,
    arrived: &Arrived,
    path: &str,
    mut headers: HeaderMap,
    principal: &Principal,
    body: Outgoing,
) -> Result<Request<Outgoing>, Stop> {
    let credential = exchange.core.snapshot.policy.api_key_header();
    let relied_on = |name: &HeaderName| {
        name == credential
            || matches!(*name, header::AUTHORIZATION | header::HOST | header::CONTENT_TYPE | header::COOKIE)
            || is_ours(name.as_str())
    };
    if !remove_hop_by_hop(&mut headers, relied_on) {
        return Err(Stop::Head(HeadFault::Connection));
    }
    join_cookies(&mut headers);
    let authority = || arrived.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let host = headers.remove(header::HOST).or_else(authority).unwrap_or(HeaderValue::from_static("unknown"));
    let doomed: Vec<HeaderName> =
        headers.keys().filter(|name| *name == credential || is_ours(name.as_str())).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
    let via = if arrived.version == Version::HTTP_2 { "2 modelgate" } else { "1.1 modelgate" };
    headers.append(header::VIA, HeaderValue::from_static(via));
    let client = exchange.client.to_string();
    headers.insert("x-forwarded-for", HeaderValue::try_from(client).unwrap_or(HeaderValue::from_static("unknown")));
    headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
    headers.insert("x-forwarded-host", host);
    headers.insert("x-request-id", exchange.id.header());
    headers.insert("x-modelgate-principal", principal.header.clone());
    headers.insert("x-modelgate-roles", principal.roles_header.clone());
    headers.insert("x-modelgate-scheme", HeaderValue::from_static(principal.scheme.as_str()));
    headers.insert("x-modelgate-route", HeaderValue::from_str(&route.name).unwrap_or(HeaderValue::from_static("-")));

    let target = match arrived.uri.query() {
        Some(query) => format!("{path}?{query}").parse(),
        None => path.parse(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = arrived.method.clone();
    *request.uri_mut() = target.map_err(|_| Stop::Head(HeadFault::Target))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Whether only we may say it to a worker, by any spelling that a worker could read as the same: with
/// `_` for `-` (CGI and WSGI fold them), or as a well-known relative of a forwarding or identity header.
fn is_ours(name: &str) -> bool {
    name.contains('_')
        || ["x-modelgate-", "x-forwarded-", "x-original-", "x-rewrite-", "x-real-", "x-client-", "x-http-method"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        || matches!(
            name,
            "authorization"
                | "host"
                | "forwarded"
                | "x-request-id"
                | "x-forwarded"
                | "x-method-override"
                | "expect"
                | "max-forwards"
                | "true-client-ip"
                | "cf-connecting-ip"
                | "remote-user"
                | "x-remote-user"
                | "x-user"
        )
}

/// HTTP/2 may send one cookie in several fields; HTTP/1 readers expect one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let micros = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Every answer passes here: what it must carry is put in place, and its record goes with its body.
fn finish(mut exchange: Box<Exchange>, outcome: Result<Answer, Problem>) -> Response<AnswerBody> {
    let (mut head, content) = match outcome {
        Ok(Answer::Worker(response)) => {
            let (head, body) = response.into_parts();
            (head, Content::Worker(body))
        }
        Ok(Answer::Own(response)) => {
            let (head, body) = response.into_parts();
            (head, Content::Whole(Some(body)))
        }
        Err(mut problem) => {
            exchange.reason = Some(problem.reason);
            exchange.cause = problem.cause.take();
            problem.close &= exchange.http1;
            let (head, body) = problem.into_response(exchange.id).into_parts();
            (head, Content::Whole(Some(body)))
        }
    };
    exchange.status = head.status.as_u16();
    let headers = &mut head.headers;
    headers.insert("x-request-id", exchange.id.header());
    if let Some(rate) = exchange.rate.take() {
        rate.apply(headers);
    }
    if let Some(note) = exchange.normalized.as_deref().and_then(|note| HeaderValue::from_str(note).ok()) {
        headers.insert("x-normalized", note);
    }
    if let Some(earned) = exchange.earned.take() {
        earned.apply(headers);
    }
    // Answers are data for programs: nothing to sniff, frame, run, cache or refer from.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if exchange.http1 && exchange.busy.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if exchange.core.snapshot.hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    Response::from_parts(head, AnswerBody { content, exchange })
}

/// The client's body, while nobody has taken it.
pub struct ClientBody {
    incoming: Option<Incoming>,
    read: Rc<Cell<u64>>,
}

impl ClientBody {
    fn is_empty(&self) -> bool {
        self.incoming.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    /// Reads it to its end. `idle` bounds each pause; the whole may take as long as its size in pauses of
    /// at least 1 KiB a second would.
    async fn whole(&mut self, max: usize, idle: Duration) -> Result<Bytes, Stop> {
        let stop = |fault| Stop::BodyRead(fault, Some(max));
        let Some(incoming) = self.incoming.as_mut() else { return Ok(Bytes::new()) };
        let longest = idle + Duration::from_secs(max as u64 / SLOWEST);
        let read = &self.read;
        let reading = async {
            let mut first = Bytes::new();
            let mut gathered = BytesMut::new();
            let mut length = 0;
            loop {
                let frame = tokio::time::timeout(idle, incoming.frame()).await.map_err(|_| ClientFault::Slow)?;
                let Some(frame) = frame else { break };
                let Ok(data) = frame.map_err(|error| ClientFault::of(&error))?.into_data() else { continue };
                length += data.len();
                read.set(length as u64);
                if length > max {
                    return Err(ClientFault::TooLarge);
                }
                // One part is the rule, and needs no copy.
                if first.is_empty() {
                    first = data;
                } else {
                    if gathered.is_empty() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
            }
            Ok(if gathered.is_empty() { first } else { gathered.freeze() })
        };
        let whole = tokio::time::timeout(longest, reading).await.unwrap_or(Err(ClientFault::Slow)).map_err(stop)?;
        self.incoming = None;
        Ok(whole)
    }

    /// Reads a form for the token endpoint (RFC 6749 §3.2: form encoding alone).
    async fn form(&mut self, headers: &HeaderMap, idle: Duration) -> Result<Bytes, Stop> {
        let rule = BodyRule::form();
        rule.decide_head(headers).map_err(Stop::Body)?;
        self.whole(rule.max(), idle).await
    }

    /// Reads on a little after a refusal, so that a client in the middle of sending sees the answer and
    /// not a reset. Gives back whether the connection can be used again.
    async fn drain(&mut self, http1: bool) -> bool {
        let Some(incoming) = self.incoming.as_mut() else { return true };
        if incoming.is_end_stream() {
            return true;
        }
        // HTTP/2 could end the stream alone (RFC 9113 §8.1), which clients of some years take for an error.
        if incoming.size_hint().exact().is_some_and(|length| length > DRAINED as u64) {
            return !http1;
        }
        let reading = async {
            let mut left = DRAINED;
            while let Some(Ok(frame)) = incoming.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
            incoming.is_end_stream()
        };
        tokio::time::timeout(DRAIN_TIME, reading).await.unwrap_or(false) || !http1
    }
}

/// What is known about one request; written down when it ends, however it ends.
#[derive(Debug)]
pub struct Exchange {
    core: Rc<Core>,
    busy: Busy,
    id: RequestId,
    began: SystemTime,
    clock: Instant,
    peer: IpAddr,
    client: IpAddr,
    method: String,
    path: Box<str>,
    http1: bool,
    route: Option<RouteId>,
    principal: Option<Arc<Principal>>,
    role: Option<crate::types::Role>,
    earned: Option<Earned>,
    rate: Option<RateHeaders>,
    normalized: Option<String>,
    status: u16,
    reason: Option<Reason>,
    cause: Option<String>,
    bytes_in: Rc<Cell<u64>>,
    bytes_out: u64,
    worker: Option<Name>,
    worker_took: Option<Duration>,
}

impl Exchange {
    fn begin(core: Rc<Core>, peer: IpAddr, busy: Busy, parts: &http::request::Parts) -> Box<Self> {
        let peer = peer.to_canonical();
        Box::new(Self {
            id: core.ids.next(),
            core,
            busy,
            began: SystemTime::now(),
            clock: Instant::now(),
            peer,
            client: peer,
            method: parts.method.as_str().to_owned(),
            path: parts.uri.path().into(),
            http1: parts.version != Version::HTTP_2,
            route: None,
            principal: None,
            role: None,
            earned: None,
            rate: None,
            normalized: None,
            // What stands in the record if the client leaves before there is an answer (nginx's number).
            status: 499,
            reason: None,
            cause: None,
            bytes_in: Rc::default(),
            bytes_out: 0,
            worker: None,
            worker_took: None,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let policy = &self.core.snapshot.policy;
        let reason = self.reason.or((self.status == 499).then_some(Reason::ClientGone));
        let took = self.clock.elapsed();
        let tally = self.core.metrics.tally(self.core.thread);
        tally.request(self.route.map(RouteId::index), self.status, reason.map(Reason::index), took);
        let client = self.client.to_string();
        self.core.log.request(&Record {
            id: self.id,
            began: self.began,
            took,
            client: &client,
            method: &self.method,
            path: &self.path,
            protocol: if self.http1 { "HTTP/1.1" } else { "HTTP/2" },
            status: self.status,
            route: self.route.and_then(|id| policy.route(id)).map(|route| &*route.name),
            principal: self.principal.as_ref().map(|principal| &*principal.id),
            role: self.role.map(|role| policy.roles.name(role)),
            reason: reason.map(Reason::slug),
            cause: self.cause.as_deref(),
            security: reason.is_some_and(Reason::is_security),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out,
            worker: self.worker.as_deref(),
            worker_took: self.worker_took,
            normalized: self.normalized.as_deref(),
        });
    }
}

enum Content {
    Whole(Option<Bytes>),
    Worker(WorkerBody),
}

/// An answer's body. The request's record is written when it is dropped.
pub struct AnswerBody {
    content: Content,
    exchange: Box<Exchange>,
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerBody")
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        let data = match &mut this.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(Ok)),
            Content::Worker(body) => body.poll_data(cx),
        };
        data.map(|part| {
            part.map(|part| match part {
                Ok(bytes) => {
                    this.exchange.bytes_out += bytes.len() as u64;
                    Ok(Frame::data(bytes))
                }
                Err(fault) => {
                    // The head is gone; all that is left to say is to break the connection off.
                    let problem = Problem::from(Stop::Upstream(fault));
                    this.exchange.reason = Some(problem.reason);
                    this.exchange.cause = problem.cause;
                    Err(BrokenOff)
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Worker(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Worker(body) => body.size_hint(),
        }
    }
}

/// The worker's answer ended before its time.
#[derive(Clone, Copy, Debug)]
pub struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the worker's answer broke off")
    }
}

impl std::error::Error for BrokenOff {}

#[cfg(test)]
mod tests {
    use super::{is_ours, join_cookies};
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn no_alias_of_our_headers_passes() {
        for name in [
            "x-modelgate-principal",
            "x_modelgate_principal",
            "x-modelgate_roles",
            "x-forwarded-for",
            "x-forwarded_proto",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "authorization",
            "x-http-method-override",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["content-type", "accept", "traceparent", "inference-header-content-length", "user-agent"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn crumbs_become_one_cookie() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
