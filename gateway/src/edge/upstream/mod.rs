//! Forwarding: to one worker of a pool, over a kept connection, and the answer back.
//!
//! Source: RFC 9110 §7.6, RFC 9112 §6. Takes a [`Permit`] and an [`Admission`], so a request that skipped
//! a check can't be written down. What goes out is framed by us alone; what comes back loses everything
//! that is between the worker and us. Plain text goes to loopback and private addresses only, looked at
//! when the connection is made. Never sends a request twice unless no octet of it can have been read.

mod address;
mod chunks;
mod connect;
mod headers;
mod incoming;
mod link;
mod outgoing;
mod settings;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header;
use http::{Method, Response, StatusCode};
use tokio::sync::Notify;

pub use headers::{Forwarded, Told};
pub use incoming::WorkerBody;
pub use outgoing::{ClientFault, ClientStream, Outgoing};
pub use settings::PoolSettings;

use crate::deadline::{Deadline, within};
use crate::policy::authorize::Permit;
use crate::policy::limit::Admission;
use crate::types::Name;
use address::Address;
use incoming::Lease;
use link::{Framing, Head, Link, Unsent, Upload};

/// An answer of known length up to this is read whole before it is passed on, so that a worker that
/// breaks off in the middle becomes a clear 502.
const HELD_WHOLE: u64 = 64 << 10;
/// How long a connection may lie idle before it is looked at itself and not only for what it reported.
const RESTED: Duration = Duration::from_millis(100);

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
    /// It says that it has too much to do: 503.
    Busy {
        /// Its `Retry-After` in seconds.
        retry_after: Option<u64>,
    },
    /// The client's body broke; nothing is wrong with the worker.
    Client(ClientFault),
}

/// Room for one request on a worker, given back when it is over.
struct Place(Rc<Worker>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.freed.notify_one();
    }
}

/// One worker and the idle connections to it, of one thread.
struct Worker {
    address: Address,
    label: Name,
    /// Those used last are at the end.
    idle: RefCell<VecDeque<(Link, Instant)>>,
    max_idle: usize,
    /// Room for requests at once; each has a connection of its own.
    free: Cell<usize>,
    waiting: Cell<usize>,
    freed: Notify,
}

/// One pool as one thread uses it.
pub struct Pool {
    settings: PoolSettings,
    workers: Vec<Rc<Worker>>,
    next: Cell<usize>,
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
}

impl Call<'_> {
    /// Writes the head up to its framing (RFC 9112 §3).
    fn write(&self, host: &[u8], out: &mut Vec<u8>) {
        write_request_line(out, self.method, self.path, self.query, host);
        self.headers.write(out);
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
}

impl Pool {
    /// A thread's way to a pool.
    #[must_use]
    pub fn new(settings: &PoolSettings) -> Self {
        let workers = settings.workers.iter().map(|address| {
            Rc::new(Worker {
                label: address.to_string().into(),
                address: address.clone(),
                idle: RefCell::default(),
                max_idle: settings.max_idle,
                free: Cell::new(settings.max_connections),
                waiting: Cell::new(0),
                freed: Notify::new(),
            })
        });
        Self { workers: workers.collect(), settings: settings.clone(), next: Cell::new(0) }
    }

    /// Sends an allowed and admitted request, and brings the answer's head back. `connected` is called
    /// for each new connection.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn forward(
        &self,
        call: &Call<'_>,
        body: Outgoing,
        _permit: Permit,
        _admission: Admission,
        connected: impl Fn(),
    ) -> Result<Answer, Fault> {
        let (head, upload, lease) = self.exchange(call, body, &connected).await?;
        let worker = Name::clone(lease.label());
        let mut response = Response::new(WorkerBody::Whole(None));
        match head.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                let retry_after =
                    head.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
                return Err(Fault::Busy { retry_after });
            }
            status if status.is_server_error() => return Err(Fault::Failed(status)),
            status => *response.status_mut() = status,
        }
        *response.headers_mut() = head.headers;
        let early = !upload.is_gathered();
        let upload = Some(upload).filter(|upload| !upload.is_sent());
        let (max, pause, total) = (self.settings.max_answer, self.settings.body_timeout, self.settings.total_timeout);
        *response.body_mut() = match head.framing {
            Framing::Length(length) if length > max => return Err(Fault::TooLarge),
            Framing::Length(length @ 1..=HELD_WHOLE) if upload.is_none() => {
                WorkerBody::hold(lease, usize::try_from(length).unwrap_or(usize::MAX), head.keeps, pause, total).await?
            }
            framing => {
                let mut body = WorkerBody::new(lease, framing, head.keeps, upload, max, (pause, total));
                body.begin().await?;
                body
            }
        };
        Ok(Answer { response, worker, early })
    }

    /// Tries the workers in turn. A request moves on only while no octet of it was sent.
    async fn exchange(
        &self,
        call: &Call<'_>,
        body: Outgoing,
        connected: &impl Fn(),
    ) -> Result<(Head, Upload, Lease), Fault> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        let count = self.workers.len().max(1);
        let mut upload = Upload::new(body);
        let mut failure = Fault::Unreachable("the pool has no worker".into());
        for turn in 0..count {
            let Some(worker) = self.workers.get((first.wrapping_add(turn)) % count) else { break };
            // A burst waits here a little rather than opening more connections than the worker would take.
            let Some(mut place) = Worker::place(worker, self.settings.dial.timeout).await else {
                failure = Fault::Busy { retry_after: None };
                continue;
            };
            upload.head(call.method, |out| call.write(worker.address.host(), out));
            loop {
                let (link, kept) = match worker.take(self.settings.idle_timeout) {
                    Some(link) => (link, true),
                    // On the heap, because most requests do without.
                    None => match Box::pin(self.settings.dial.connect(&worker.address)).await {
                        Ok(socket) => {
                            connected();
                            (Link::new(socket), false)
                        }
                        Err(fault) => {
                            failure = fault;
                            break;
                        }
                    },
                };
                let mut lease = Lease::new(link, place);
                match self.converse(lease.link(), &mut upload, call.method).await {
                    Ok(head) => return Ok((head, upload, lease)),
                    Err(fault @ Fault::Client(_)) => return Err(fault),
                    Err(fault) if upload.is_begun() => return Err(fault),
                    // A kept connection had ended, and a fresh one may work.
                    Err(_) if kept => place = lease.into_place(),
                    Err(fault) => {
                        failure = fault;
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Sends the request and waits for the answer's head, as long as the pool allows, counted from when the
    /// request is out: while the client's body is on its way the worker can't be blamed, and the body keeps
    /// bounds of its own.
    async fn converse(&self, link: &mut Link, upload: &mut Upload, method: &Method) -> Result<Head, Fault> {
        let mut patience = Deadline::new(self.settings.answer_timeout);
        poll_fn(|cx| {
            let sent = match link.poll_send(upload, cx) {
                Poll::Ready(Err(Unsent::Client(fault))) => return Poll::Ready(Err(Fault::Client(fault))),
                Poll::Ready(Err(Unsent::Worker(error))) => Err(error),
                Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            };
            // Asked even where it takes no more: a worker may say why it stopped reading.
            match (link.poll_head(cx, method, self.settings.max_head), sent) {
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

    /// Closes what has been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        for worker in &self.workers {
            worker
                .idle
                .borrow_mut()
                .retain_mut(|(link, since)| since.elapsed() < self.settings.idle_timeout && !link.is_stirred(false));
        }
    }

    /// Where readiness is asked for: each worker's address and path.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.settings.name
    }

    /// Asks whether one worker at least is ready.
    ///
    /// # Errors
    /// Why none is.
    pub async fn probe(&self) -> Result<(), String> {
        let mut failure = "the pool has no worker".to_owned();
        for worker in &self.workers {
            let ask = async {
                let socket = self.settings.dial.connect(&worker.address).await.map_err(|fault| format!("{fault:?}"))?;
                let method = Method::GET;
                let mut upload = Upload::new(Outgoing::Empty);
                upload.head(&method, |out| {
                    write_request_line(out, &method, &self.settings.ready_path, None, worker.address.host());
                });
                let answer = self.converse(&mut Link::new(socket), &mut upload, &method).await;
                let status = answer.map_err(|fault| format!("{fault:?}"))?.status;
                if status.is_success() { Ok(()) } else { Err(format!("{} answered {status}", worker.label)) }
            };
            match within(self.settings.dial.timeout * 2, ask).await {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => failure = reason,
                None => failure = format!("{} did not answer in time", worker.label),
            }
        }
        Err(failure)
    }
}

impl Worker {
    /// Waits for room, behind those who wait already.
    async fn place(worker: &Rc<Self>, longest: Duration) -> Option<Place> {
        if worker.free.get() == 0 || worker.waiting.get() > 0 {
            let _waiting = Waiting::begin(worker);
            let freed = async {
                loop {
                    worker.freed.notified().await;
                    if worker.free.get() > 0 {
                        break;
                    }
                }
            };
            Box::pin(within(longest, freed)).await?;
        }
        worker.free.set(worker.free.get() - 1);
        Some(Place(Rc::clone(worker)))
    }

    /// A kept connection that is as it was left. From the end: the connection used last is the warmest, and
    /// the others can grow old.
    fn take(&self, idle_timeout: Duration) -> Option<Link> {
        loop {
            let (mut link, since) = self.idle.borrow_mut().pop_back()?;
            let idle = since.elapsed();
            if idle < idle_timeout && !link.is_stirred(idle > RESTED) {
                return Some(link);
            }
        }
    }

    fn keep(&self, mut link: Link) {
        link.settle();
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.max_idle {
            idle.pop_front();
        }
        idle.push_back((link, Instant::now()));
    }
}

/// Somebody who waits for room.
struct Waiting<'w>(&'w Worker);

impl<'w> Waiting<'w> {
    fn begin(worker: &'w Worker) -> Self {
        worker.waiting.set(worker.waiting.get() + 1);
        Self(worker)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
