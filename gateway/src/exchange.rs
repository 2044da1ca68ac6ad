//! One request from its head to the end of its answer: what is known of it, its answer's body, its record.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{Semaphore, watch};

use crate::activity::Busy;
use crate::deadline::Pace;
use crate::edge::api_keys::ApiKeys;
use crate::edge::counter::{Charge, Counter, Outcome, Places};
use crate::edge::grants::Grants;
use crate::edge::introspection::Introspector;
use crate::edge::keys::KeyRing;
use crate::edge::log::{BatchLog, Record};
use crate::edge::metrics::{Metrics, RouteSeries};
use crate::edge::upstream::{ActiveCard, Cards, Copied, Pool, PoolSettings, WorkerBody};
use crate::policy::Policy;
use crate::policy::answer::declared::{Wanted, too_long};
use crate::policy::assertion::Assertions;
use crate::policy::authenticate::seen::SeenTokens;
use crate::policy::cors::Earned;
use crate::policy::limit::headers::RateHeaders;
use crate::policy::limit::{Admission, cost};
use crate::policy::route::RouteId;
use crate::problem::{Problem, Reason, Stop};
use crate::types::{ClientAddress, ClientCertificate, Name, Principal, RequestId, RequestIds, Role};

/// What all threads share and nobody changes.
#[derive(Debug)]
pub struct Snapshot {
    /// The compiled policy.
    pub policy: Arc<Policy>,
    /// Keys of issuers that publish them.
    pub keys: KeyRing,
    /// What issuers said of tokens.
    pub introspector: Introspector,
    /// Whether answers say `Strict-Transport-Security`.
    pub hsts: bool,
    /// How slowly a client's body may come.
    pub body_pace: Pace,
    /// The ways to the workers, in the policy's order.
    pub pools: Vec<PoolSettings>,
    /// What workers tell of their models, for guards.
    pub cards: Cards,
    /// Where its routes' requests are counted.
    pub routes: RouteSeries,
    /// Which policy it is since the start.
    pub generation: u64,
    /// How many threads serve by it.
    pub adopted: AtomicUsize,
}

/// How many passwords are checked at once, and how many wait for it. Each check takes megabytes of memory
/// and a core for tens of milliseconds.
#[derive(Debug)]
pub struct PasswordRoom {
    /// Checks that run.
    pub running: Arc<Semaphore>,
    /// Checks that run or wait.
    pub admitted: Arc<Semaphore>,
}

impl PasswordRoom {
    /// The most checks at once, however many cores there are: their memory is what is bounded.
    const MOST: usize = 4;
    /// How many may wait.
    const WAITING: usize = 32;

    /// Room for a gateway with so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let running = threads.min(Self::MOST);
        Self { running: Arc::new(Semaphore::new(running)), admitted: Arc::new(Semaphore::new(running + Self::WAITING)) }
    }
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
    pub pools: Vec<Rc<Pool>>,
    /// Where records go.
    pub log: BatchLog,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// This thread's position.
    pub thread: usize,
    /// Tokens that were verified on this thread.
    pub seen_tokens: SeenTokens,
    /// What this thread's workers were told of callers.
    pub assertions: Assertions,
    /// What was granted and taken back.
    pub grants: Grants,
    /// API keys in Redis.
    pub api_keys: ApiKeys,
    /// Names for requests.
    pub ids: Rc<RequestIds>,
    /// Room for checking passwords, in all threads.
    pub passwords: Arc<PasswordRoom>,
    /// Whether the gateway is stopping, so that each connection's next answer is its last.
    pub stopping: watch::Receiver<bool>,
}

/// The core that a thread's requests begin with; it is another one when the policy is replaced.
#[derive(Debug)]
pub struct Cores(RefCell<Rc<Core>>);

impl Cores {
    /// A thread's first core.
    #[must_use]
    pub fn new(core: Core) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Rc::new(core))))
    }

    /// The core for what begins now.
    #[must_use]
    pub fn now(&self) -> Rc<Core> {
        Rc::clone(&self.0.borrow())
    }

    /// Puts another in its place. What has begun ends with the old one.
    pub fn replace(&self, core: Core) {
        let old = self.0.replace(Rc::new(core));
        drop(old);
    }
}

/// What is known about one request; written down when it ends, however it ends.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the request")]
pub struct Exchange {
    pub(crate) core: Rc<Core>,
    busy: Busy,
    pub(crate) id: RequestId,
    pub(crate) began: SystemTime,
    pub(crate) clock: Instant,
    pub(crate) client: ClientAddress,
    /// What its connection's client certificate says, where it has one.
    pub(crate) certificate: Option<Rc<ClientCertificate>>,
    /// Method and target, where there were any.
    pub(crate) line: Option<(Method, Uri)>,
    pub(crate) http1: bool,
    /// Whether its refusal is one of gRPC.
    pub(crate) is_grpc: bool,
    /// Whether the connection ends with this request.
    pub(crate) is_last: bool,
    pub(crate) route: Option<RouteId>,
    pub(crate) principal: Option<Arc<Principal>>,
    pub(crate) role: Option<Role>,
    pub(crate) earned: Option<Earned>,
    pub(crate) rate: Option<RateHeaders>,
    /// Its places among the requests in flight.
    pub(crate) places: Option<Places>,
    /// What is settled with the limits at its end.
    pub(crate) charge: Option<Box<Charge>>,
    /// The end of the answer, where a limit counts what it names.
    pub(crate) answer: Option<Vec<u8>>,
    /// What its answer is held to.
    pub(crate) wanted: Option<Box<Wanted>>,
    /// The most octets that may pass of an answer that is not read.
    pub(crate) most_out: Option<usize>,
    /// The limits that are only tried out and would have refused.
    pub(crate) would_refuse: Option<String>,
    /// The card that the body is held against, where workers tell it, or why there is none.
    pub(crate) card: Option<Result<Arc<ActiveCard>, &'static str>>,
    /// Features with values that the model does not know.
    pub(crate) flagged: Option<String>,
    pub(crate) normalized: Option<String>,
    /// Whether fields of the body were opened or sealed.
    pub(crate) is_resealed: bool,
    /// The model that its body names.
    pub(crate) model: Option<Box<str>>,
    /// How much of a body that was changed is JSON.
    pub(crate) json: Option<usize>,
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    pub(crate) cause: Option<String>,
    pub(crate) bytes_in: Rc<Cell<u64>>,
    pub(crate) bytes_out: u64,
    /// The pool that answers, by position.
    pub(crate) pool: Option<usize>,
    /// The same request for another pool, which nobody waits for.
    pub(crate) copied: Option<Box<Copied>>,
    pub(crate) worker: Option<Name>,
    pub(crate) worker_took: Option<Duration>,
}

impl Exchange {
    /// Notes what a rule that is only tried out would have done.
    pub(crate) fn would_refuse(&mut self, what: &str) {
        let said = self.would_refuse.get_or_insert_default();
        if !said.is_empty() {
            said.push_str(", ");
        }
        said.push_str(what);
    }

    pub(crate) fn begin(core: Rc<Core>, peer: ClientAddress, busy: Busy, parts: &http::request::Parts) -> Box<Self> {
        Box::new(Self {
            id: core.ids.next(),
            core,
            began: SystemTime::now(),
            clock: busy.began(),
            busy,
            client: peer,
            certificate: None,
            is_grpc: false,
            line: Some((parts.method.clone(), parts.uri.clone())),
            is_last: false,
            http1: parts.version != Version::HTTP_2,
            route: None,
            principal: None,
            role: None,
            earned: None,
            rate: None,
            places: None,
            charge: None,
            answer: None,
            wanted: None,
            most_out: None,
            would_refuse: None,
            card: None,
            flagged: None,
            normalized: None,
            is_resealed: false,
            model: None,
            json: None,
            // What stands in the record if the client leaves before there is an answer (nginx's number).
            status: 499,
            reason: None,
            cause: None,
            bytes_in: Rc::default(),
            bytes_out: 0,
            pool: None,
            copied: None,
            worker: None,
            worker_took: None,
        })
    }
}

/// How much of an answer's end is kept for the number in it.
const MOST_KEPT: usize = 1 << 20;

impl Exchange {
    /// Notes what the answer says about limits; gives back the evidence.
    pub(crate) fn say(&mut self, admission: Admission) -> Admission {
        let (admission, rate) = admission.split();
        // Windows before places in flight, which say nothing of when to come again.
        self.rate = match (self.rate.take(), rate) {
            (Some(said), Some(mut rate)) => {
                rate.join(said);
                Some(rate)
            }
            (said, rate) => rate.or(said),
        };
        admission
    }

    /// Settles with the limits what was counted before all was known.
    fn settle(&self, charge: &Charge) {
        let outcome = match self.reason {
            Some(reason) if reason.is_workers() => Outcome::WorkerFailed,
            Some(Reason::TokenGrant | Reason::TokenClient | Reason::TokenRefresh | Reason::TokenReused) => {
                Outcome::ClientFailed
            }
            _ => Outcome::Served,
        };
        let kept = self.answer.as_deref();
        self.core.counter.settle(charge, outcome, |answer| cost::answer_units(kept?, &answer.at));
    }

    /// Whether a limit counts what the answer names.
    pub(crate) fn counts_answer(&self) -> bool {
        self.charge.as_ref().is_some_and(|charge| charge.answer_costs().next().is_some())
    }

    /// The bound that an answer is beyond with so many octets more.
    fn exceeds(&self, more: usize) -> Option<usize> {
        self.most_out.filter(|most| self.bytes_out + more as u64 > *most as u64)
    }

    /// Keeps the end of an answer.
    fn keep(&mut self, part: &[u8]) {
        if let Some(kept) = &mut self.answer {
            kept.extend_from_slice(part);
            if kept.len() > 2 * MOST_KEPT {
                kept.drain(..kept.len() - MOST_KEPT);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(charge) = self.charge.take() {
            self.settle(&charge);
        }
        let policy = &self.core.snapshot.policy;
        let reason = self.reason.or((self.status == 499).then_some(Reason::ClientGone));
        let took = self.busy.ended().saturating_duration_since(self.clock);
        let tally = self.core.metrics.tally(self.core.thread);
        let routes = &self.core.snapshot.routes;
        tally.request(routes, self.route.map(RouteId::index), self.status, reason.map(Reason::index), took);
        let (method, path) = self.line.as_ref().map_or(("-", "-"), |(method, uri)| (method.as_str(), uri.path()));
        self.core.log.request(&Record {
            id: self.id,
            began: self.began,
            took,
            client: &self.client.text,
            method,
            path,
            protocol: if self.http1 { "HTTP/1.1" } else { "HTTP/2" },
            status: self.status,
            route: self.route.and_then(|id| policy.route(id)).map(|route| &*route.name),
            principal: self.principal.as_ref().map(|principal| &*principal.id),
            role: self.role.map(|role| policy.vocabulary.roles.name(role)),
            reason: reason.map(Reason::slug),
            cause: self.cause.as_deref(),
            security: reason.is_some_and(Reason::is_security),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out,
            pool: self.pool.and_then(|position| policy.pools.get(position)).map(|name| &**name),
            worker: self.worker.as_deref(),
            worker_took: self.worker_took,
            normalized: self.normalized.as_deref(),
            would_refuse: self.would_refuse.as_deref(),
            flagged: self.flagged.as_deref(),
            model: self.model.as_deref(),
        });
    }
}

pub(crate) enum Content {
    Whole(Option<Bytes>),
    Worker(WorkerBody),
    /// The worker broke off; what came before is on its way to the client.
    Broken,
}

/// An answer's body. The request's record is written when it is dropped.
pub struct AnswerBody {
    content: Content,
    exchange: Box<Exchange>,
}

impl AnswerBody {
    pub(crate) fn new(content: Content, exchange: Box<Exchange>) -> Self {
        exchange.busy.offer(true);
        let mut body = Self { content, exchange };
        body.launch_if_whole();
        body
    }

    /// Ends an answer whose head is gone: all that is left to say is to break the connection off, once what the client is
    /// to have of the answer was written: hyper throws away what is not.
    fn break_off<T>(&mut self, stop: Stop, cx: &mut Context<'_>) -> Poll<T> {
        let problem = Problem::from(stop);
        self.exchange.reason = Some(problem.reason);
        self.exchange.cause = problem.cause;
        self.content = Content::Broken;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends the request's copy off when the answer is out.
    fn launch_if_whole(&mut self) {
        if self.exchange.copied.is_some()
            && self.is_end_stream()
            && let Some(copied) = self.exchange.copied.take()
        {
            copied.launch();
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // Dropped before its end, and not because the worker broke off: nobody is there to take it.
        let is_head = matches!(self.exchange.line, Some((Method::HEAD, _)));
        if self.exchange.reason.is_none() && !self.is_end_stream() && !is_head {
            self.exchange.reason = Some(Reason::ClientGone);
        }
    }
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
            Content::Broken => return Poll::Ready(Some(Err(BrokenOff))),
        };
        // While the worker's next part is awaited, the client has nothing to take.
        this.exchange.busy.offer(data.is_ready());
        match data {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                this.launch_if_whole();
                let trailers = match &mut this.content {
                    Content::Worker(body) => body.take_trailers(),
                    Content::Whole(_) | Content::Broken => None,
                };
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Some(Ok(bytes))) => {
                if let Some(most) = this.exchange.exceeds(bytes.len()) {
                    return this.break_off(Stop::Undeclared(too_long(most).0), cx);
                }
                this.exchange.bytes_out += bytes.len() as u64;
                this.exchange.keep(&bytes);
                if let (Some(copied), Content::Worker(_)) = (&mut this.exchange.copied, &this.content) {
                    copied.keep(&bytes);
                }
                this.launch_if_whole();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Err(fault))) => this.break_off(Stop::Upstream(fault), cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Content::Worker(body) => body.is_end(),
            Content::Broken => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Worker(body) => body.size_hint(),
            Content::Broken => SizeHint::new(),
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
