//! Forwarding: to one worker of a pool, over a kept connection, and the answer back.
//!
//! Source: RFC 9110 §7.6, RFC 9112 §6. Takes a [`Permit`] and an [`Admission`], so a request that skipped
//! a check can't be written down. What goes out is framed by us alone; what comes back loses everything
//! that is between the worker and us. Plain text goes to loopback and private addresses only, looked at
//! when the connection is made. Never sends a request twice unless no octet of it can have been read.

mod address;
mod balance;
mod budget;
mod canary;
mod card;
mod cards;
mod chunks;
mod connect;
mod disguise;
mod headers;
mod health;
mod incoming;
mod link;
mod outgoing;
mod over_http2;
mod promote;
mod ready;
mod report;
mod session;
mod settings;
mod shadow;
mod shown;
mod standing;
mod stream;
mod swap;
mod tunnel;
mod worker;

use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

pub use card::Shown;
pub use cards::{ActiveCard, Cards, Complaint};
pub use disguise::in_form;
pub use headers::{Forwarded, Told};
pub use health::Probing;
pub use incoming::WorkerBody;
pub use outgoing::{ClientFault, ClientStream, Outgoing};
pub use promote::Which;
pub use report::Thresholds;
pub use settings::PoolSettings;
pub use shadow::Copied;
pub use shown::render;
pub use standing::Tell;
pub use swap::Tally;
pub use tunnel::{Tunnel, websocket_key};

use crate::deadline::Deadline;
use crate::policy::authorize::Permit;
use crate::policy::limit::Admission;
use crate::policy::profile::Disguise;
use crate::types::{Name, Principal};
use balance::{Balance, Draw, Tried};
use budget::Budget;
use incoming::Lease;
use link::{Framing, Head, Link, Unsent, Upload};
use settings::Protocol;
use standing::Noted;
use worker::{NoRoom, Place, Worker};

/// An answer of known length up to this is read whole before it is passed on, so that a worker that
/// breaks off in the middle becomes a clear 502.
const HELD_WHOLE: u64 = 64 << 10;

/// Why a worker gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No worker of the pool took a connection: 503.
    Unreachable(String),
    /// Its name leads to a public address, which plain text must not go to: 503.
    NotPrivate,
    /// It did not answer in time: 504.
    Slow,
    /// It closed the connection, or what it sent is not HTTP, or broke off: 502.
    Broken(String),
    /// Its answer is larger than the pool allows: 502.
    TooLarge,
    /// It answered 5xx, which is not passed on: 502.
    Failed(StatusCode),
    /// It answered 500 to what is held to be a client's fault: 422.
    Refused(Disguise),
    /// It says that it has too much to do: 503.
    Busy {
        /// Its `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// Every worker has all the requests that it may have, and as many wait as may: 503.
    Full,
    /// The client's body broke; nothing is wrong with the worker.
    Client(ClientFault),
}

/// One pool as one thread uses it.
pub struct Pool {
    settings: PoolSettings,
    workers: Vec<Rc<Worker>>,
    draw: Draw,
    budget: Budget,
    thread: usize,
    /// What copies of its requests hold.
    room: Rc<shadow::Room>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.settings.name).finish_non_exhaustive()
    }
}

/// A request as it is to reach a worker.
#[derive(Debug)]
pub struct Call<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The path, in normal form.
    pub path: &'a str,
    /// What stands behind the question mark.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: Forwarded<'a>,
    /// Whether the answer's trailers are passed on (gRPC).
    pub trailers: bool,
    /// The key of a client that asks for a WebSocket.
    pub websocket: Option<&'a HeaderValue>,
    /// The workers that may get it: a bit for each, by position.
    pub workers: u64,
}

impl Call<'_> {
    /// Writes the head up to its framing (RFC 9112 §3).
    fn write(&self, host: &[u8], out: &mut Vec<u8>) {
        write_request_line(out, self.method, self.path, self.query, host);
        self.headers.write(out);
        if self.websocket.is_some() {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
    }
}

fn write_request_line(out: &mut Vec<u8>, method: &Method, path: &str, query: Option<&str>, host: &[u8]) {
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(path.as_bytes());
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
}

/// A worker's answer.
#[derive(Debug)]
pub struct Answer {
    /// Head and body; the head has lost what is not for the client.
    pub response: Response<WorkerBody>,
    /// The worker's address, for the log.
    pub worker: Name,
    /// Whether it came before all of the client's body was read. What is left of that may never be.
    pub early: bool,
    /// The rest of the connection, where it has switched to WebSocket.
    pub tunnel: Option<Box<Tunnel>>,
}

impl Pool {
    /// The way to a pool of the thread at this position. What is unchanged since the policy before goes on: a worker's
    /// connections and its places, and what copies hold.
    #[must_use]
    pub fn new(settings: &PoolSettings, thread: usize, before: &[Rc<Self>]) -> Self {
        let before = before.iter().find(|pool| pool.settings.name == settings.name && pool.thread == thread);
        let known = before.filter(|pool| settings.reaches_workers_as(&pool.settings));
        let workers = settings.workers.iter().map(|worker| {
            let next = Worker::new(settings, worker, thread);
            let same = known.and_then(|pool| pool.workers.iter().find(|old| old.is_same(&next)));
            same.map_or_else(|| Rc::new(next), Rc::clone)
        });
        Self {
            workers: workers.collect(),
            draw: Draw::new(settings.workers.iter().map(|worker| worker.weight)),
            budget: Budget::new(settings.retries.0, settings.retries.1),
            settings: settings.clone(),
            thread,
            room: before.map_or_else(Rc::default, |pool| Rc::clone(&pool.room)),
        }
    }

    /// How long an answer's head is waited for, as workers are told it (`X-Modelgate-Timeout`).
    #[must_use]
    pub fn deadline(&self) -> Option<&HeaderValue> {
        self.settings.deadline.as_ref()
    }

    /// Which pool answers a request to the one at this position: itself, or its canary's while that has a worker. `open` says
    /// which workers of a pool may get it.
    #[must_use]
    pub fn answering(
        pools: &[Rc<Self>],
        position: usize,
        (headers, principal, address): (&HeaderMap, &Principal, &str),
        open: impl Fn(usize) -> u64,
    ) -> usize {
        let Some(pool) = pools.get(position) else { return position };
        let Some(canary) = &pool.settings.canary else { return position };
        let open = open(canary.to);
        // The last workers of a pool are never out, but there is another pool here.
        let has_worker = |other: &Rc<Self>| {
            other.workers.iter().enumerate().any(|(at, worker)| !worker.is_failing() && has(open, at))
        };
        if pool.settings.promoted.is_some()
            || !canary.decide(headers, principal, address)
            || !pools.get(canary.to).is_some_and(has_worker)
        {
            return position;
        }
        pool.settings.standing.note(pool.thread, Noted::Canary);
        canary.to
    }

    /// Sends an allowed and admitted request, and brings the answer's head back. `connected` is called
    /// for each new connection.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn forward(
        &self,
        call: &Call<'_>,
        body: Outgoing,
        _permit: Permit,
        _admission: Admission,
        connected: impl Fn(),
    ) -> impl Future<Output = Result<Answer, Fault>> {
        self.send(call, body, connected)
    }

    /// The same for what needs no evidence: a copy of a request that had it, or a request of our own.
    async fn send(&self, call: &Call<'_>, body: Outgoing, connected: impl Fn()) -> Result<Answer, Fault> {
        if self.settings.protocol == Protocol::Http2 {
            return Box::pin(self.forward_over_http2(call, body, &connected)).await;
        }
        let mut upload = Upload::new(body);
        let (head, lease) = self.exchange(call, &mut upload, &connected).await?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switched(call, head, lease);
        }
        let worker = Rc::clone(lease.worker());
        if self.settings.profile.has_disguises() {
            if head.status == StatusCode::INTERNAL_SERVER_ERROR {
                return Err(Box::pin(self.unmask(call, head, &upload, lease)).await);
            }
            self.note_prediction(call, head.status, &worker);
        }
        let mut response = Response::new(WorkerBody::Whole(None));
        *response.status_mut() = passes(head.status, &head.headers, &worker)?;
        *response.headers_mut() = head.headers;
        let early = !upload.is_gathered();
        let is_sent = upload.is_sent();
        let (max, pause, total) = (self.settings.max_answer, self.settings.body_timeout, self.settings.total_timeout);
        *response.body_mut() = match head.framing {
            Framing::Length(length) if length > max => return Err(Fault::TooLarge),
            Framing::Length(length @ 1..=HELD_WHOLE) if is_sent => {
                WorkerBody::hold(lease, usize::try_from(length).unwrap_or(usize::MAX), head.keeps, pause, total).await?
            }
            framing => {
                let upload = (!is_sent).then_some(upload);
                let mut body = WorkerBody::new(lease, framing, head.keeps, upload, max, (pause, total));
                body.begin().await?;
                body
            }
        };
        Ok(Answer { response, worker: Name::clone(&worker.label), early, tunnel: None })
    }

    /// Takes the rest of a connection that has switched protocols.
    #[cold]
    fn switched(&self, call: &Call<'_>, head: Head, lease: Lease) -> Result<Answer, Fault> {
        let worker = Rc::clone(lease.worker());
        if !call.websocket.is_some_and(|key| tunnel::is_accepted(key, &head.headers)) {
            let fault = Fault::Broken("it switched protocols without the client's key".into());
            worker.failed(&fault);
            return Err(fault);
        }
        worker.answered();
        let mut response = Response::new(WorkerBody::Whole(None));
        (*response.status_mut(), *response.headers_mut()) = (head.status, head.headers);
        let tunnel = Tunnel::new(lease, self.settings.tunnel_idle, self.settings.tunnel_age);
        Ok(Answer { response, worker: Name::clone(&worker.label), early: false, tunnel: Some(Box::new(tunnel)) })
    }

    /// The worker for a request, among those that are in and were not tried.
    fn pick(&self, call: &Call<'_>, tried: Tried) -> Option<usize> {
        if let [only] = &*self.workers {
            return (!tried.has(0) && !only.is_out() && has(call.workers, 0)).then_some(0);
        }
        let is_open = |at: usize| {
            !tried.has(at) && has(call.workers, at) && self.workers.get(at).is_some_and(|worker| !worker.is_out())
        };
        let load = |at: usize| self.workers.get(at).map_or((0, 1), |worker| (worker.load(), worker.weight as usize));
        match self.settings.balance {
            Balance::Hash => {
                let workers = self.workers.iter().map(|worker| (worker.seed, worker.weight));
                balance::first(balance::key(call.headers.caller()), workers, is_open)
            }
            Balance::LeastRequests => {
                let drawn = self.draw.two(is_open, |first, second| {
                    let ((first, first_weight), (second, second_weight)) = (load(first), load(second));
                    first * second_weight > second * first_weight
                })?;
                let has_room = |at: &usize| self.workers.get(*at).is_some_and(|worker| worker.has_room());
                let room = || (0..self.workers.len()).find(|at| is_open(*at) && has_room(at));
                if has_room(&drawn) { Some(drawn) } else { room().or(Some(drawn)) }
            }
        }
    }

    /// A place at the first worker for a request, where there is room: nearly always.
    fn place_at_once(&self, call: &Call<'_>, tries: &mut Tries) -> Option<Place> {
        if tries.is_retry {
            return None;
        }
        let position = self.pick(call, tries.tried)?;
        let place = Worker::place_at_once(self.workers.get(position)?)?;
        tries.tried.add(position);
        Some(place)
    }

    /// A place at the next worker to be tried: at another one only within the budget.
    async fn place(&self, call: &Call<'_>, tries: &mut Tries) -> Option<Place> {
        while let Some(position) = self.pick(call, tries.tried) {
            let worker = self.workers.get(position)?;
            if std::mem::take(&mut tries.is_retry) {
                let affordable = self.budget.spend(Instant::now());
                worker.note(if affordable { Noted::Retried } else { Noted::Unaffordable });
                if !affordable {
                    return None;
                }
            }
            tries.tried.add(position);
            // A burst waits here a little rather than opening more connections than the worker would take.
            match Worker::place(worker, self.settings.dial.timeout).await {
                Ok(place) => return Some(place),
                // Nobody was asked, so this costs nothing.
                Err(NoRoom::Full) => drop(tries.failure.get_or_insert(Fault::Full)),
                Err(NoRoom::Waited) => {
                    tries.failure = Some(Fault::Busy { retry_after: None });
                    return None;
                }
            }
        }
        None
    }

    /// What is said where no worker is left.
    fn give_up(&self, tries: Tries) -> Fault {
        if let (Some(Fault::Full), Some(worker)) = (&tries.failure, self.workers.first()) {
            worker.note(Noted::Full);
        }
        tries.failure.unwrap_or_else(|| Fault::Unreachable("every worker of the pool is out".into()))
    }

    /// Brings a request to a worker; to another one only while no octet of it was sent.
    async fn exchange(
        &self,
        call: &Call<'_>,
        upload: &mut Upload,
        connected: &impl Fn(),
    ) -> Result<(Head, Lease), Fault> {
        self.budget.earn();
        let settings = &self.settings;
        let mut tries = Tries::default();
        loop {
            let mut place = match self.place_at_once(call, &mut tries) {
                Some(place) => place,
                // On the heap, because most requests do without.
                None => match Box::pin(self.place(call, &mut tries)).await {
                    Some(place) => place,
                    None => return Err(self.give_up(tries)),
                },
            };
            let worker = Rc::clone(&place.0);
            upload.head(call.method, |out| call.write(worker.address.host(), out));
            let fault = loop {
                let (link, kept) = match worker.take(settings.idle_timeout) {
                    Some(link) => (link, true),
                    // On the heap, because most requests do without.
                    None => match Box::pin(settings.dial.connect(&worker.address)).await {
                        Ok(socket) => {
                            connected();
                            (Box::new(Link::new(socket)), false)
                        }
                        Err(fault) => break fault,
                    },
                };
                let mut lease = Lease::new(link, place);
                if call.websocket.is_some() {
                    lease.link().may_switch();
                }
                match converse(lease.link(), upload, call.method, settings).await {
                    Ok(head) => return Ok((head, lease)),
                    Err(fault @ Fault::Client(_)) => return Err(fault),
                    Err(fault) if upload.is_begun() => {
                        worker.failed(&fault);
                        return Err(fault);
                    }
                    // A kept connection had ended, and a fresh one may work.
                    Err(_) if kept => place = lease.into_place(),
                    Err(fault) => break fault,
                }
            };
            worker.failed(&fault);
            (tries.failure, tries.is_retry) = (Some(fault), true);
        }
    }

    /// Closes what has been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        for worker in &self.workers {
            worker.sweep(self.settings.idle_timeout);
        }
    }
}

/// What became of a request so far.
#[derive(Default)]
struct Tries {
    tried: Tried,
    failure: Option<Fault>,
    /// Whether a worker was asked already.
    is_retry: bool,
}

/// Whether a worker is among some.
fn has(workers: u64, at: usize) -> bool {
    workers >> at & 1 == 1
}

/// The status of an answer that reaches the client.
fn passes(status: StatusCode, headers: &HeaderMap, worker: &Worker) -> Result<StatusCode, Fault> {
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            worker.was_busy();
            let retry_after =
                headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
            Err(Fault::Busy { retry_after })
        }
        status if status.is_server_error() => {
            worker.failed(&Fault::Failed(status));
            Err(Fault::Failed(status))
        }
        status => Ok(status),
    }
}

/// Sends the request and waits for the answer's head, as long as the pool allows, counted from when the
/// request is out: while the client's body is on its way the worker can't be blamed, and the body keeps
/// bounds of its own.
async fn converse(
    link: &mut Link,
    upload: &mut Upload,
    method: &Method,
    settings: &PoolSettings,
) -> Result<Head, Fault> {
    let mut patience = Deadline::new(settings.answer_timeout);
    poll_fn(|cx| {
        let sent = match link.poll_send(upload, cx) {
            Poll::Ready(Err(Unsent::Client(fault))) => return Poll::Ready(Err(Fault::Client(fault))),
            Poll::Ready(Err(Unsent::Worker(error))) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        };
        // Asked even where it takes no more: a worker may say why it stopped reading.
        match (link.poll_head(cx, method, settings.max_head), sent) {
            (Poll::Ready(Ok(head)), _) => return Poll::Ready(Ok(head)),
            (_, Err(error)) => return Poll::Ready(Err(Fault::Broken(error.to_string()))),
            (Poll::Ready(Err(fault)), Ok(())) => return Poll::Ready(Err(fault)),
            (Poll::Pending, Ok(())) => {}
        }
        if upload.has_moved() || upload.awaits_client() {
            patience.reset();
        }
        if upload.awaits_client() { Poll::Pending } else { patience.poll_reached(cx).map(|()| Err(Fault::Slow)) }
    })
    .await
}
