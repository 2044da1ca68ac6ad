//! What happens to each request, stage by stage, from its head to the end of its answer.
//!
//! ```text
//! accept → handshake → read_head → identify                        (server.rs brings it here)
//!   → route → cors → authenticate → authorize → limit → body → forward → answer
//!   → finish, whatever happened: earned headers, the answer, the record
//! ```
//!
//! Where a limit counts what is in the body, all limits of the route come after it instead.
//!
//! Each stage's decision is pure and lives in `policy`; this file alone knows their order. A stage gives
//! back evidence that the next one takes, or a [`Stop`] that ends the journey.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::activity::Busy;
use crate::answering::{Answer, Answering};
use crate::client_body::ClientBody;
use crate::credentials;
use crate::edge::counter::Places;
use crate::edge::upstream::{self, Call, ClientStream, Forwarded, Outgoing, Pool, Told, Tunnel, websocket_key};
use crate::exchange::{AnswerBody, Content, Core, Exchange};
use crate::fernet_endpoint;
use crate::head;
use crate::limiting::{Asking, charge_guess};
use crate::policy::authenticate::{self, Accepted, signature};
use crate::policy::authorize::{self, Asked, Permit};
use crate::policy::body::{self, Active, BodyRule};
use crate::policy::cors::{self, Earned};
use crate::policy::facts::Facts;
use crate::policy::limit::Admission;
use crate::policy::limit::cost::Size;
use crate::policy::profile::Profile;
use crate::policy::token::{self, Endpoint};
use crate::policy::{Destination, Model, Route, path};
use crate::problem::{HeadFault, Problem, Reason, Stop};
use crate::token_endpoint;
use crate::types::{ClientAddress, ClientCertificate, Principal, RequestId, Scheme, Timestamp};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static X_OUT_OF_RANGE: HeaderName = HeaderName::from_static("x-out-of-range");
static X_NORMALIZED: HeaderName = HeaderName::from_static("x-normalized");

/// One request on one connection, which `is_last` says ends with it. Always gives an answer.
///
/// # Errors
/// None; the type is what hyper's service takes.
pub async fn serve(
    core: Rc<Core>,
    peer: ClientAddress,
    busy: Busy,
    certificate: Option<Rc<ClientCertificate>>,
    is_last: bool,
    request: Request<Incoming>,
    switch: Option<&Switch>,
) -> Result<Response<AnswerBody>, Infallible> {
    let (parts, incoming) = request.into_parts();
    let mut exchange = Exchange::begin(core, peer, busy, &parts);
    exchange.is_last = is_last;
    exchange.certificate = certificate;
    let mut body = ClientBody::new(incoming, Rc::clone(&exchange.bytes_in), parts.headers.contains_key(header::EXPECT));
    let outcome = travel(&mut exchange, &parts, &mut body, switch).await;
    let outcome = match outcome {
        Ok(answer) => Ok(answer),
        Err(stop) => {
            let mut problem = Problem::from(stop);
            problem.close |= !Box::pin(body.drain(exchange.http1)).await;
            exchange.is_grpc = speaks_grpc(&exchange, &parts.headers);
            Err(problem)
        }
    };
    Ok(finish(exchange, outcome))
}

/// Whether a refusal is for a client of gRPC: by its route, or by what it says of its body where it has found none.
fn speaks_grpc(exchange: &Exchange, headers: &HeaderMap) -> bool {
    let is_grpc = match exchange.route.and_then(|id| exchange.core.snapshot.policy.route(id)) {
        Some(route) => route.grpc,
        None => headers.get(header::CONTENT_TYPE).is_some_and(|media_type| {
            let rest = media_type.as_bytes().strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';', ..]))
        }),
    };
    is_grpc && !exchange.http1
}

/// Answers a head that never became a request.
#[must_use]
pub fn refuse(core: Rc<Core>, peer: ClientAddress, busy: Busy, fault: HeadFault) -> Response<AnswerBody> {
    let nameless = Request::new(()).into_parts().0;
    let mut exchange = Exchange::begin(core, peer, busy, &nameless);
    exchange.line = None;
    finish(exchange, Err(Problem::from(Stop::Head(fault))))
}

async fn travel(
    exchange: &mut Exchange,
    arrived: &Parts,
    body: &mut ClientBody,
    switch: Option<&Switch>,
) -> Result<Answer, Stop> {
    let core = Rc::clone(&exchange.core);
    let policy = &core.snapshot.policy;
    let headers = &arrived.headers;
    let asked = cors::preflight(&arrived.method, headers);

    // Head first: what can be read in two ways must not reach a decision.
    let host = head::read(arrived.version, &arrived.method, &arrived.uri, headers).map_err(Stop::Head)?;
    let path = path::normalize(arrived.uri.path()).map_err(Stop::Path)?;
    let from_proxy = policy.trusted_proxies.trusts(exchange.client.ip);
    let client = policy.trusted_proxies.client(exchange.client.ip, headers);
    if client != exchange.client.ip {
        exchange.client = ClientAddress::new(client);
    }

    // The route next: all other rules hang on it. A preflight goes where its real request would.
    let id = policy.table.find(host, &path, asked.as_ref().unwrap_or(&arrived.method)).map_err(Stop::Route)?;
    let route = policy.route(id).ok_or(Stop::Internal("a route without a row"))?;
    exchange.route = Some(id);
    if route.grpc && exchange.http1 {
        return Err(Stop::NotHttp2);
    }
    route.reach.decide(asked.as_ref().unwrap_or(&arrived.method), &path).map_err(Stop::Closed)?;

    // CORS before credentials: a preflight carries none, and a page must be able to read a refusal.
    let mut earned = route.cors.as_ref().map(|cors| cors.decide(headers));
    if route.shadow.cors && headers.contains_key(header::ORIGIN) && !earned.as_ref().is_some_and(Earned::is_allowed) {
        exchange.would_refuse(Reason::OriginRefused.slug());
        earned = earned.map(|earned| earned.tried(route.shadow, headers));
    }
    if let Some(asked) = asked {
        return preflight(earned, &asked);
    }
    exchange.earned = earned;

    // Who, then whether: a refusal here is charged to the client's address, so that credentials can't be
    // guessed faster than the limit, and a right guess behind the limit looks like a wrong one.
    let now = timestamp(exchange.began);
    let told = from_proxy.then_some(headers);
    // A trusted proxy's certificate proves the proxy, not the client behind it.
    let certificate = exchange.certificate.clone().filter(|_| !from_proxy);
    let facts = Facts {
        method: &arrived.method,
        host,
        path: &path,
        sent_path: arrived.uri.path(),
        query: arrived.uri.query(),
        headers,
        certificate: certificate.as_deref(),
        address: client,
        now,
    };
    let principal = match credentials::prove(&core, route, &facts).await {
        Ok(principal) => principal,
        Err(refusal) => Box::pin(unproven(exchange, route, refusal, &path, told)).await?,
    };
    exchange.principal = Some(Arc::clone(&principal));
    let unread = route.authorize.needs_model() && route.model.is_in_body(&path);
    let wanted = Asked { model: route.model.of(&path), unread, version: route.version.of(&path), facts: &facts };
    let mut permit = match route.authorize.decide(&principal, &wanted) {
        Ok(permit) => permit,
        Err(refusal) => Box::pin(unentitled(exchange, route, refusal, &principal, &path, told)).await?,
    };
    exchange.role = permit.role();

    // Limits after identity, because most count by it; all in one step, so that a refusal uses up none. Where one
    // counts what is in the body, all wait for it.
    let asking = Asking { route, principal: &principal, path: &path, headers: told, user: "", model: wanted.model };
    let early = asking.begin(exchange).await?;

    // The body last: it is the dearest to look at, and only now has the caller a right to our attention.
    match &route.destination {
        Destination::Own(endpoint) if endpoint.takes_form() => {
            let form = Box::pin(own_form(exchange, &asking, early, *endpoint, &facts, body));
            form.await.map(Answer::Own)
        }
        Destination::Own(endpoint) => {
            read_body(exchange, (route, &path), arrived, body).await?;
            Ok(Answer::Own(token_endpoint::document(&policy.documents, *endpoint)))
        }
        Destination::Fernet(direction) => {
            let (outgoing, _) = match read_body(exchange, (route, &path), arrived, body).await {
                Ok(read) => read,
                Err(stop) => return Err(asking.refused(exchange, early.as_ref(), stop).await),
            };
            fernet_endpoint::answer(policy, *direction, outgoing, now).map(Answer::Own)
        }
        Destination::Pool(position) => {
            exchange.card = route.card.map(|at| core.snapshot.cards.of(at, route, &path));
            let (outgoing, size) = match read_body(exchange, (route, &path), arrived, body).await {
                Ok(read) => read,
                Err(stop) => return Err(asking.refused(exchange, early.as_ref(), stop).await),
            };
            let named = exchange.model.clone();
            let model = named.as_deref().unwrap_or(wanted.model);
            if unread {
                // Now it is known for which model the right must be.
                permit = match route.authorize.decide(&principal, &Asked { model, unread: false, ..wanted }) {
                    Ok(permit) => permit,
                    Err(refusal) => Box::pin(unentitled(exchange, route, refusal, &principal, &path, told)).await?,
                };
                exchange.role = permit.role();
            }
            let admission = match early {
                Some(admission) => admission,
                None => Box::pin(Asking { model, ..asking }.admit_and_say(exchange, size)).await?,
            };
            let cleared = Cleared { route, principal: &principal, path: &path, permit, admission, switch };
            forward(exchange, arrived, *position, cleared, outgoing).await
        }
    }
}

/// Where a connection finds the tunnel that it is to become when its last answer is out.
pub type Switch = Cell<Option<Box<Tunnelling>>>;

/// A tunnel, with what its request holds until it ends.
#[derive(Debug)]
pub struct Tunnelling {
    /// The worker's side.
    pub tunnel: Box<Tunnel>,
    /// The request's name, for the record of the end.
    pub id: RequestId,
    /// Its places among the requests in flight.
    pub places: Option<Places>,
}

/// Brings a request for a WebSocket to a worker.
async fn ask_to_switch(
    exchange: &Exchange,
    pool: &Pool,
    call: &Call<'_>,
    (permit, admission): (Permit, Admission),
) -> Result<upstream::Answer, Stop> {
    // Browsers ask nobody before they open a WebSocket, so a page's origin is judged here.
    if call.headers.has(&header::ORIGIN) && !exchange.earned.as_ref().is_some_and(Earned::is_allowed) {
        return Err(Stop::Origin);
    }
    let tally = exchange.core.metrics.tally(exchange.core.thread);
    let answered = pool.forward(call, Outgoing::Empty, permit, admission, || tally.upstream_connected()).await;
    answered.map_err(Stop::Upstream)
}

/// Answers a request for a WebSocket as its worker did.
fn switch_protocols(exchange: &mut Exchange, answer: upstream::Answer, switch: &Switch) -> Answer {
    exchange.worker = Some(answer.worker);
    let Some(tunnel) = answer.tunnel else { return Answer::Worker(answer.response) };
    let mut response = answer.response.map(|_| Bytes::new());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let places = exchange.places.take();
    switch.set(Some(Box::new(Tunnelling { tunnel, id: exchange.id, places })));
    Answer::Own(response)
}

/// A request that nothing stands against.
struct Cleared<'a> {
    route: &'a Route,
    principal: &'a Principal,
    path: &'a str,
    permit: Permit,
    admission: Admission,
    /// Where the connection finds what it becomes, where it can become something else.
    switch: Option<&'a Switch>,
}

/// Brings the request to a worker of the pool at the position, and the answer back.
async fn forward(
    exchange: &mut Exchange,
    arrived: &Parts,
    position: usize,
    cleared: Cleared<'_>,
    outgoing: Outgoing,
) -> Result<Answer, Stop> {
    let core = Rc::clone(&exchange.core);
    let policy = &core.snapshot.policy;
    let Cleared { route, principal, path, permit, admission, switch } = cleared;
    // What was held against cards goes to workers of those cards alone.
    let held = exchange.card.take().and_then(Result::ok);
    let open = |pool| held.as_ref().map_or(u64::MAX, |card| card.workers(pool));
    let asked = (&arrived.headers, principal, &*exchange.client.text);
    let position = Pool::answering(&core.pools, position, asked, open);
    exchange.pool = Some(position);
    let pool = core.pools.get(position).ok_or(Stop::Internal("a route without a pool"))?;
    let now = timestamp(exchange.began);
    let assertion = core.assertions.of(policy.assertion.as_ref(), position, principal, &policy.vocabulary, now);
    let assertion = assertion.map_err(|_| Stop::Internal("an assertion that can't be signed"))?;
    let answering = Answering::of(route, principal, &arrived.method, now);
    let told = Told {
        credential: policy.api_key_header(),
        client: &exchange.client.text,
        authority: arrived.uri.authority(),
        http2: arrived.version == Version::HTTP_2,
        id: exchange.id,
        principal,
        assertion: assertion.as_ref(),
        route: &route.name,
        is_read_here: exchange.counts_answer() || answering.reads(),
        is_rewritten: exchange.normalized.is_some() || exchange.is_resealed,
        // Of a body that comes bit by bit nobody knows when it ends, and the worker's time begins with the head.
        deadline: pool.deadline().filter(|_| outgoing.is_whole()),
        json: exchange.json,
    };
    let call = Call {
        method: &arrived.method,
        path: route.worker_path.as_deref().unwrap_or(path),
        query: arrived.uri.query(),
        headers: Forwarded::new(&arrived.headers, told).ok_or(Stop::Head(HeadFault::Connection))?,
        trailers: route.grpc,
        websocket: None,
        workers: open(position),
    };
    if let Some(switch) = switch.filter(|_| route.websocket)
        && let Some(key) = websocket_key(&arrived.headers)
    {
        let call = Call { websocket: Some(key), ..call };
        let sent = Instant::now();
        let answer = Box::pin(ask_to_switch(exchange, pool, &call, (permit, admission))).await?;
        exchange.worker_took = Some(sent.elapsed());
        return Ok(switch_protocols(exchange, answer, switch));
    }
    let copied = Pool::copy(&core.pools, position, &call, &outgoing, |to| {
        core.assertions.of(policy.assertion.as_ref(), to, principal, &policy.vocabulary, now).ok().flatten()
    });
    let tally = core.metrics.tally(core.thread);
    let sent = Instant::now();
    let answer = pool.forward(&call, outgoing, permit, admission, || tally.upstream_connected()).await;
    let answer = answer.map_err(Stop::Upstream)?;
    let took = sent.elapsed();
    exchange.worker_took = Some(took);
    exchange.copied = copied.map(|copied| copied.answered(answer.response.status(), took));
    exchange.worker = Some(answer.worker);
    exchange.is_last |= answer.early;
    exchange.answer = exchange.counts_answer().then(Vec::new);
    answering.answer(exchange, answer.response).await
}

/// Answers a form at one of the gateway's own endpoints.
async fn own_form(
    exchange: &mut Exchange,
    asking: &Asking<'_>,
    early: Option<Admission>,
    endpoint: Endpoint,
    facts: &Facts<'_>,
    body: &mut ClientBody,
) -> Result<Response<Bytes>, Stop> {
    let core = Rc::clone(&exchange.core);
    let form = match body.form(facts.headers, core.snapshot.body_pace).await {
        Ok(form) => form,
        Err(stop) => return Err(asking.refused(exchange, early.as_ref(), stop.into_oauth()).await),
    };
    let user = token::user(&form);
    let asking = Asking { user: user.as_deref().unwrap_or_default(), ..*asking };
    let admission = match early {
        Some(admission) => admission,
        None => asking.admit(exchange, Size { bytes: form.len() as u64, rows: 1 }).await?,
    };
    let asked = token_endpoint::Asked { core: &core, facts, form: &form, id: exchange.id };
    let answer = token_endpoint::answer(endpoint, asked).await?;
    exchange.say(admission);
    Ok(answer)
}

/// Answers a preflight: 204 with what the page may do, or a refusal that says why not.
fn preflight(earned: Option<Earned>, asked: &Method) -> Result<Answer, Stop> {
    let earned = earned.filter(Earned::is_allowed).ok_or(Stop::Origin)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    earned.apply_preflight(asked, response.headers_mut());
    Ok(Answer::Own(response))
}

/// What becomes of a request that proves nobody: its refusal, or whom it goes on as where that is only tried out.
async fn unproven(
    exchange: &mut Exchange,
    route: &Route,
    refusal: authenticate::Refusal,
    path: &str,
    headers: Option<&HeaderMap>,
) -> Result<Arc<Principal>, Stop> {
    if route.shadow.authenticate {
        exchange.would_refuse(Problem::from(Stop::Authenticate(refusal, Vec::new())).reason.slug());
        return Ok(Principal::anonymous());
    }
    // Nobody guesses by sending what can't be checked for our own reasons.
    if !refusal.is_ours() {
        charge_guess(exchange, route, path, headers).await?;
    }
    let challenges = exchange.core.snapshot.policy.authenticator.challenges(&route.authenticate, &refusal).collect();
    Err(Stop::Authenticate(refusal, challenges))
}

/// What becomes of a request whose sender lacks the right: its refusal, or a permit where that is only tried out.
async fn unentitled(
    exchange: &mut Exchange,
    route: &Route,
    refusal: authorize::Refusal,
    principal: &Principal,
    path: &str,
    headers: Option<&HeaderMap>,
) -> Result<Permit, Stop> {
    let denied = authorize::Denied::of(refusal, principal, &exchange.core.snapshot.policy.vocabulary);
    let stop = Stop::Authorize(denied);
    let Some(permit) = Permit::tried(route.shadow) else {
        charge_guess(exchange, route, path, headers).await?;
        return Err(stop);
    };
    exchange.would_refuse(Problem::from(stop).reason.slug());
    Ok(permit)
}

/// Judges the body, whole where a rule or a limit needs it whole, else on its way.
async fn read_body(
    exchange: &mut Exchange,
    (route, path): (&Route, &str),
    arrived: &Parts,
    body: &mut ClientBody,
) -> Result<(Outgoing, Size), Stop> {
    let pace = exchange.core.snapshot.body_pace;
    // Who signed has signed the body's digest, which only the whole body can be held to.
    let signed = route.authenticate.takes(Accepted::Signature) && signature::is_shown(&arrived.headers);
    if signed && body.is_empty() {
        held(arrived, b"")?;
    }
    let nothing = Ok((Outgoing::Empty, Size::default()));
    let Some(rule) = &route.body else {
        let empty = body.is_empty() || !exchange.http1 && Box::pin(body.ends_empty(pace)).await;
        return if empty { nothing } else { Err(Stop::Body(body::Refusal::NotTaken)) };
    };
    // A route may list methods without a body beside those with one (RFC 9110 §9.3.1).
    if body.is_empty() && matches!(arrived.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS) {
        return nothing;
    }
    if let Err(refusal) = rule.decide_head(&arrived.headers) {
        if !route.shadow.body || matches!(refusal, body::Refusal::TooLarge { .. }) {
            return Err(Stop::Body(refusal));
        }
        exchange.would_refuse(Problem::from(Stop::Body(refusal)).reason.slug());
        let whole = body.whole(rule.max(), pace).await?;
        if signed {
            held(arrived, &whole)?;
        }
        let size = Size { bytes: whole.len() as u64, rows: 1 };
        return Ok((Outgoing::Whole(Some(whole)), size));
    }
    if !rule.needs_whole() && !route.limits.needs_body && !signed {
        let Some(incoming) = body.take() else { return nothing };
        let stream = ClientStream::new(incoming, rule.max(), pace, Rc::clone(&exchange.bytes_in));
        return Ok((Outgoing::Stream(stream), Size::default()));
    }
    let whole = body.whole(rule.max(), pace).await?;
    if signed {
        held(arrived, &whole)?;
    }
    judge(exchange, rule, (route, path), &arrived.headers, whole)
}

/// Holds a body to the digest that was signed with its request.
fn held(arrived: &Parts, body: &[u8]) -> Result<(), Stop> {
    // Also where credentials are only tried out: nobody has signed this body, and it would go on in somebody's name.
    let refused = |refusal| Stop::Authenticate(authenticate::Refusal::Signature(refusal), Vec::new());
    signature::check_body(&arrived.headers, body).map_err(refused)
}

fn judge(
    exchange: &mut Exchange,
    rule: &BodyRule,
    (route, path): (&Route, &str),
    headers: &HeaderMap,
    whole: Bytes,
) -> Result<(Outgoing, Size), Stop> {
    let mut size = Size { bytes: whole.len() as u64, rows: 1 };
    // What is sealed is opened before anybody judges it, and sealed when all have: rules are about values.
    let (sealed, now) = (route.sealed.as_deref(), timestamp(exchange.began));
    let opened = sealed.map(|sealed| sealed.open_request(&whole, rule.depth(), now)).transpose();
    let mut opened = opened.map_err(Stop::Body)?.unwrap_or_default();
    exchange.is_resealed = opened.body.is_some();
    let whole = opened.body.take().map_or(whole, Bytes::from);
    let (mut named, mut wanted) = (None, None);
    let declared = route.declared.as_ref().filter(|declared| declared.needs_whole());
    let look = |body: &serde_json::Value| {
        if route.limits.needs_body || declared.is_some() || matches!(route.model, Model::InBody(_)) {
            let (rows, model) = route.read(path, body);
            size.rows = rows;
            named = (!model.is_empty()).then(|| Box::from(model));
        }
        wanted = declared.map(|declared| Box::new(declared.wanted(body, size.rows)));
    };
    let card = exchange.card.clone();
    let active = match &card {
        Some(Ok(active)) => Active::Card(&active.card),
        Some(Err(why)) => Active::Unknown(why),
        None => Active::Unknown("nobody asks for it"),
    };
    let rewritten = match rule.decide_and_look(headers, &whole, active, look) {
        Ok(checked) => {
            exchange.model = named;
            exchange.flagged = checked.flagged().map(str::to_owned);
            checked.into_rewritten()
        }
        Err(refusal) if route.shadow.body => {
            exchange.would_refuse(Problem::from(Stop::Body(refusal)).reason.slug());
            None
        }
        Err(refusal) => return Err(Stop::Body(opened.redact(refusal))),
    };
    exchange.wanted = wanted;
    let body = match rewritten {
        Some(rewritten) => {
            exchange.normalized = Some(rewritten.note);
            exchange.json = Some(rewritten.json);
            rewritten.body.into()
        }
        None => whole,
    };
    let sealed = sealed.map(|sealed| sealed.seal_request(&body, &fernet_endpoint::iv, now)).transpose();
    let sealed = sealed.map_err(Stop::Body)?.flatten();
    exchange.is_resealed |= sealed.is_some();
    Ok((Outgoing::Whole(Some(sealed.map_or(body, Bytes::from))), size))
}

fn timestamp(at: SystemTime) -> Timestamp {
    let micros = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    Timestamp::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Every answer passes here: what it must carry is put in place, and its record goes with its body.
fn finish(mut exchange: Box<Exchange>, outcome: Result<Answer, Problem>) -> Response<AnswerBody> {
    let (mut head, mut content) = match outcome {
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
            exchange.status = problem.reason.status().as_u16();
            let route = exchange.route.and_then(|id| exchange.core.snapshot.policy.route(id));
            let is_oip = route.and_then(|route| route.body.as_ref()).is_some_and(BodyRule::is_oip);
            let profile = if is_oip { Profile::Oip } else { route.map_or(Profile::Plain, Route::profile) };
            problem = problem.with_error(profile);
            let response = if exchange.is_grpc { problem.into_grpc() } else { problem.into_response(exchange.id) };
            let (head, body) = response.into_parts();
            (head, Content::Whole(Some(body)))
        }
    };
    // What is said in the record of a refused call of gRPC is the reason's status.
    if exchange.reason.is_none() {
        exchange.status = head.status.as_u16();
    }
    let headers = &mut head.headers;
    headers.insert(&X_REQUEST_ID, exchange.id.header());
    if let Some(rate) = exchange.rate.take() {
        rate.apply(headers);
    }
    if let Some(note) = exchange.normalized.as_deref().and_then(|note| HeaderValue::from_str(note).ok()) {
        headers.insert(&X_NORMALIZED, note);
    }
    if let Some(flagged) = exchange.flagged.as_deref().and_then(|names| HeaderValue::from_str(names).ok()) {
        headers.insert(&X_OUT_OF_RANGE, flagged);
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
    // An answer to a proven caller is that caller's alone; caches know that of Authorization, not of API keys.
    let public = exchange.principal.as_ref().is_some_and(|principal| principal.scheme == Scheme::Anonymous);
    if !(public && headers.contains_key(header::CACHE_CONTROL)) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if !exchange.http1 && matches!(exchange.line, Some((Method::HEAD, _))) {
        // hyper keeps such a body back on HTTP/1 alone (RFC 9110 §9.3.2).
        content = Content::Whole(None);
    }
    let switches = exchange.status == StatusCode::SWITCHING_PROTOCOLS.as_u16();
    if exchange.http1 && !switches && (exchange.is_last || *exchange.core.stopping.borrow()) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if exchange.core.snapshot.hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    Response::from_parts(head, AnswerBody::new(content, exchange))
}
