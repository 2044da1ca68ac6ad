//! `[pools.NAME.shadow]`: copies of a pool's requests for another pool, whose answers nobody is shown.
//!
//! A copy is sent when the live answer is out, with bounds of its own on how many there are and on what they hold in
//! memory; what does not fit is dropped and counted. What the other pool answers is compared and thrown away. Copied
//! is what the gateway read whole and what a worker answered, never a stream and never a failure.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::balance::mix;
use super::canary::other;
use super::headers::{ASSERTION, Forwarded};
use super::report::{Compared, Report};
use super::settings::PoolSettings;
use super::{Call, Outgoing, Pool};
use crate::policy::agreement;
use crate::settings::{ByteSize, Section};
use crate::types::Name;

/// Says to a worker that nobody waits for its answer.
static X_SHADOW: HeaderName = HeaderName::from_static("x-modelgate-shadow");
/// The longest answer that is compared; of a longer one the status is.
const MOST_ANSWER: usize = 256 << 10;
/// Two answers that are longer together are compared on a thread that serves nobody; shorter ones take 20 µs.
const LONG: usize = 1 << 10;

/// Whose requests are copied, and how many.
#[derive(Clone, Debug)]
pub(super) struct Shadowing {
    pub(super) to: usize,
    /// The other pool's name.
    pub(super) name: Name,
    /// In a hundred requests.
    share: u64,
    compares: bool,
    max_in_flight: usize,
    max_memory: usize,
    pub(super) report: Arc<Report>,
}

impl Shadowing {
    /// Reads `[pools.NAME.shadow]` of the pool's section.
    pub(super) fn compile(pool: &Section<'_>, own: usize, pools: &[PoolSettings]) -> Option<Self> {
        let section = pool.section("shadow")?;
        let to = other(&section, own, pools);
        let share = section.required("share", "write how many of a hundred requests are copied: share = 10");
        if share.is_some_and(|share| !(1..=100).contains(&share)) {
            section.mistake("share", "is no part of a hundred", "write a number from 1 to 100, or remove the table");
        }
        let (compares, max_in_flight) = (section.or("compare", true), section.or("max_in_flight", 16));
        let max_memory = section.or("max_memory", ByteSize(16 << 20)).0;
        if max_in_flight == 0 {
            section.mistake("max_in_flight", "is 0, so nothing would be copied", "write a number, or remove the table");
        }
        if max_memory < 2 * MOST_ANSWER {
            section.mistake("max_memory", "is less than one copy may need", "write \"1MiB\" or more");
        }
        section.finish();
        let (to, share, report) = (to?, share?, Arc::default());
        let name = Name::clone(pools.get(to)?.name());
        Some(Self { to, name, share, compares, max_in_flight, max_memory, report })
    }
}

/// What the copies of one pool and thread hold.
#[derive(Debug, Default)]
pub(super) struct Room {
    in_flight: Cell<usize>,
    memory: Cell<usize>,
    state: Cell<u64>,
}

/// A part of the room, given back when the copy ends.
struct Held {
    room: Rc<Room>,
    memory: usize,
}

impl Room {
    /// Whether the lot falls on this request.
    fn draws(&self, share: u64) -> bool {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        mix(state) % 100 < share
    }

    fn take(self: &Rc<Self>, rule: &Shadowing, memory: usize) -> Option<Held> {
        let (in_flight, held) = (self.in_flight.get() + 1, self.memory.get() + memory);
        if in_flight > rule.max_in_flight || held > rule.max_memory {
            return None;
        }
        self.in_flight.set(in_flight);
        self.memory.set(held);
        Some(Held { room: Rc::clone(self), memory })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.in_flight.set(self.room.in_flight.get() - 1);
        self.room.memory.set(self.room.memory.get() - self.memory);
    }
}

/// A request that is to be sent to another pool when its live answer is out.
pub struct Copied {
    to: Rc<Pool>,
    report: Arc<Report>,
    compares: bool,
    method: Method,
    path: Box<str>,
    query: Option<Box<str>>,
    headers: HeaderMap,
    caller: Box<str>,
    body: Bytes,
    live: Live,
    _held: Held,
}

/// What the live worker answered.
#[derive(Default)]
struct Live {
    status: StatusCode,
    took: Duration,
    parts: Vec<Bytes>,
    length: usize,
}

impl std::fmt::Debug for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copied").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Pool {
    /// A copy of a request that is about to go to the pool at this position, if the pool is shadowed, the lot falls on
    /// it and there is room. `assertion` makes what the other pool is told of the caller.
    #[must_use]
    pub fn copy(
        pools: &[Rc<Self>],
        position: usize,
        call: &Call<'_>,
        body: &Outgoing,
        assertion: impl FnOnce(usize) -> Option<HeaderValue>,
    ) -> Option<Box<Copied>> {
        let pool = pools.get(position)?;
        let rule = pool.settings.shadow.as_ref().filter(|_| pool.settings.promoted.is_none())?;
        let Outgoing::Whole(Some(body)) = body else { return None };
        if !call.headers.is_json() || !pool.room.draws(rule.share) {
            return None;
        }
        let to = Rc::clone(pools.get(rule.to)?);
        let Some(held) = pool.room.take(rule, body.len() + 2 * MOST_ANSWER) else {
            rule.report.dropped();
            return None;
        };
        let mut headers = HeaderMap::with_capacity(24);
        call.headers.add_to(&mut headers);
        // What is compared is read here.
        headers.remove(header::ACCEPT_ENCODING);
        match assertion(rule.to) {
            Some(assertion) => drop(headers.insert(&ASSERTION, assertion)),
            None => drop(headers.remove(&ASSERTION)),
        }
        headers.insert(&X_SHADOW, HeaderValue::from_static("yes"));
        Some(Box::new(Copied {
            to,
            report: Arc::clone(&rule.report),
            compares: rule.compares,
            method: call.method.clone(),
            path: call.path.into(),
            query: call.query.map(Into::into),
            headers,
            caller: call.headers.caller().into(),
            body: body.clone(),
            live: Live::default(),
            _held: held,
        }))
    }
}

impl Copied {
    /// The live worker's answer has begun.
    #[must_use]
    pub fn answered(mut self: Box<Self>, status: StatusCode, took: Duration) -> Box<Self> {
        (self.live.status, self.live.took) = (status, took);
        self
    }

    /// A part of the live worker's answer.
    pub fn keep(&mut self, part: &Bytes) {
        self.live.length = self.live.length.saturating_add(part.len());
        if !self.compares || self.live.length > MOST_ANSWER {
            self.live.parts.clear();
        } else {
            self.live.parts.push(part.clone());
        }
    }

    /// Sends the copy. Needs a runtime that takes local tasks.
    pub fn launch(self: Box<Self>) {
        tokio::task::spawn_local(self.run());
    }

    async fn run(self: Box<Self>) {
        let call = Call {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            headers: Forwarded::ready(&self.headers, &self.caller),
            trailers: false,
            websocket: None,
            workers: u64::MAX,
        };
        let began = Instant::now();
        let Ok(answer) = self.to.send(&call, Outgoing::Whole(Some(self.body.clone())), &|| {}).await else {
            return self.report.failed();
        };
        let took = began.elapsed();
        let status = answer.response.status();
        let mut agreement = None;
        if self.compares && self.live.length <= MOST_ANSWER {
            match answer.response.into_body().whole(MOST_ANSWER).await {
                Ok(whole) if self.live.length + whole.len() > LONG => {
                    let parts = self.live.parts;
                    let compare = move || agreement::compare(&parts.concat(), &whole);
                    agreement = tokio::task::spawn_blocking(compare).await.ok().flatten();
                }
                Ok(whole) => agreement = agreement::compare(&self.live.parts.concat(), &whole),
                Err(super::Fault::TooLarge) => {}
                Err(_) => return self.report.failed(),
            }
        }
        let is_same_status = status == self.live.status;
        self.report.compared(&Compared { is_same_status, agreement, live: self.live.took, other: took });
    }
}
