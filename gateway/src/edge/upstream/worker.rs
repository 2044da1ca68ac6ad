//! One worker as one thread uses it: room for requests, and the connections that are kept.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::link::Link;
use super::session::Sessions;
use super::settings::{PoolSettings, WorkerSettings};
use super::standing::{Counted, Known, Noted, Standing};
use super::{Fault, balance};
use crate::deadline::within;
use crate::types::Name;

/// How long a connection may lie idle before it is looked at itself and not only for what it reported.
const RESTED: Duration = Duration::from_millis(100);

/// Room for one request on a worker, given back when it is over.
pub(super) struct Place(pub(super) Rc<Worker>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.free.set(self.0.free.get() + 1);
        self.0.freed.notify_one();
    }
}

/// Why there is no room.
pub(super) enum NoRoom {
    /// As many wait as may.
    Full,
    /// It was waited for in vain.
    Waited,
}

/// One worker and the idle connections to it, of one thread.
pub(super) struct Worker {
    pub(super) address: super::address::Address,
    pub(super) label: Name,
    pub(super) weight: u32,
    /// Where it stands for `hash`.
    pub(super) seed: u64,
    known: Arc<Known>,
    standing: Arc<Standing>,
    thread: usize,
    /// Whether answers with 5xx speak against it.
    counts_errors: bool,
    /// Its HTTP/2 connections.
    pub(super) sessions: Sessions,
    /// Those used last are at the end.
    idle: RefCell<VecDeque<(Box<Link>, Instant)>>,
    max_idle: usize,
    max_age: Duration,
    /// Room for requests at once; each has a connection of its own.
    free: Cell<usize>,
    most: usize,
    waiting: Cell<usize>,
    max_waiting: usize,
    freed: Notify,
}

impl Worker {
    pub(super) fn new(pool: &PoolSettings, worker: &WorkerSettings, thread: usize) -> Self {
        Self {
            label: Name::clone(&worker.label),
            address: worker.address.clone(),
            weight: worker.weight,
            seed: balance::seed(&worker.label),
            known: Arc::clone(&worker.known),
            standing: Arc::clone(&pool.standing),
            thread,
            counts_errors: pool.health.passive.is_some_and(|rule| rule.errors),
            sessions: Sessions::default(),
            idle: RefCell::default(),
            max_idle: pool.max_idle,
            max_age: pool.max_connection_age,
            free: Cell::new(pool.max_connections),
            most: pool.max_connections,
            waiting: Cell::new(0),
            max_waiting: pool.max_waiting,
            freed: Notify::new(),
        }
    }

    /// Whether one that is made for another policy would do the same, so that it needs no other in its place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let of = |it: &Self| {
            let age = (it.max_idle, it.max_age);
            (it.weight, it.counts_errors, age, it.most, it.max_waiting)
        };
        self.label == other.label
            && Arc::ptr_eq(&self.known, &other.known)
            && Arc::ptr_eq(&self.standing, &other.standing)
            && of(self) == of(other)
    }

    /// Whether it gets no requests.
    pub(super) fn is_out(&self) -> bool {
        self.known.is_out()
    }

    /// Whether it is to get no requests, and gets them only where its pool has no better one.
    pub(super) fn is_failing(&self) -> bool {
        self.known.is_failing()
    }

    /// Requests that it has, and that wait for it.
    pub(super) fn load(&self) -> usize {
        self.most - self.free.get() + self.waiting.get()
    }

    /// Whether a request would not wait.
    pub(super) fn has_room(&self) -> bool {
        self.free.get() > 0 && self.waiting.get() == 0
    }

    /// A request got its answer.
    pub(super) fn answered(&self) {
        self.known.answered(self.thread);
    }

    /// A request did not get an answer that could be used. What is the client's doing, or says only that there is too
    /// much to do, does not speak against the worker.
    pub(super) fn failed(&self, fault: &Fault) {
        let cause = match fault {
            Fault::Unreachable(cause) | Fault::Broken(cause) => cause,
            Fault::NotPrivate => "its name leads to a public address",
            Fault::Slow => "it did not answer in time",
            Fault::Failed(status) if self.counts_errors => &format!("it answered {status}"),
            // A client may have made it do so.
            Fault::Failed(_) => {
                self.known.counts.count(self.thread, Counted::Errors as usize);
                return self.answered();
            }
            Fault::TooLarge | Fault::Refused(_) => return self.answered(),
            Fault::Busy { .. } | Fault::Full | Fault::Client(_) => return,
        };
        self.standing.failed(&self.known, self.thread, cause);
    }

    /// A request was answered with 503.
    pub(super) fn was_busy(&self) {
        self.known.counts.count(self.thread, Counted::Busy as usize);
    }

    /// Whether a good prediction would change what is thought of it.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.known.is_in_doubt()
    }

    /// It gave a prediction.
    pub(super) fn predicted(&self) {
        self.known.predicted();
    }

    /// Whether a failure without a word is held to be a client's doing.
    pub(super) fn is_believed(&self) -> bool {
        self.known.believes()
    }

    pub(super) fn note(&self, what: Noted) {
        self.standing.note(self.thread, what);
    }

    /// Room that is there.
    pub(super) fn place_at_once(worker: &Rc<Self>) -> Option<Place> {
        worker.has_room().then(|| {
            worker.free.set(worker.free.get() - 1);
            Place(Rc::clone(worker))
        })
    }

    /// Waits for room, behind those who wait already.
    pub(super) async fn place(worker: &Rc<Self>, longest: Duration) -> Result<Place, NoRoom> {
        if !worker.has_room() {
            if worker.waiting.get() >= worker.max_waiting {
                return Err(NoRoom::Full);
            }
            let _waiting = Waiting::begin(worker);
            let freed = async {
                loop {
                    worker.freed.notified().await;
                    if worker.free.get() > 0 {
                        break;
                    }
                }
            };
            Box::pin(within(longest, freed)).await.ok_or(NoRoom::Waited)?;
        }
        worker.free.set(worker.free.get() - 1);
        Ok(Place(Rc::clone(worker)))
    }

    /// A kept connection that is as it was left. From the end: the connection used last is the warmest, and
    /// the others can grow old.
    pub(super) fn take(&self, idle_timeout: Duration) -> Option<Box<Link>> {
        loop {
            let (mut link, since) = self.idle.borrow_mut().pop_back()?;
            let idle = since.elapsed();
            if idle < idle_timeout && !link.is_stirred(idle > RESTED) {
                return Some(link);
            }
        }
    }

    pub(super) fn keep(&self, mut link: Box<Link>) {
        let now = Instant::now();
        // The next one goes where the worker's name leads by then.
        if now.duration_since(link.born()) >= self.max_age {
            return;
        }
        link.settle();
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= self.max_idle {
            idle.pop_front();
        }
        idle.push_back((link, now));
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, idle_timeout: Duration) {
        self.sessions.sweep(idle_timeout);
        let mut idle = self.idle.borrow_mut();
        idle.retain_mut(|(link, since)| since.elapsed() < idle_timeout && !link.is_stirred(false));
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
