//! One thread's decisions on their way to Redis.
//!
//! At most one call is on its way. What is asked meanwhile goes with the next, all together, so that a thread asks
//! once a round trip however many requests wait, and a request that comes alone is sent at once. No request waits
//! longer than the store's time limit, which runs from when the first of its batch was asked. A call that fails
//! loses the store for this thread: everything that waits is told so, and what comes later is told at once, until a
//! task of the queue has found a Redis that takes writes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use redis::{Cmd, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use super::SharedStore;
use super::keys::Keys;
use super::link::{self, How, Link};
use super::memory::Change;
use crate::policy::limit::window::{Rule, Standing};
use crate::policy::limit::{Decision, Demand};

/// What runs in Redis.
pub const SCRIPT: &str = include_str!("windows.lua");

/// How many operations go in one call, so that Redis is free for others in between.
const MOST_IN_CALL: usize = 128;
/// How long a lost store is left alone before it is looked for the first time, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long a connection may take where no request waits for it.
const LONGEST_OPENING: Duration = Duration::from_millis(250);
/// Octets before the answers to what was asked: the time.
const ANSWER_HEAD: usize = 6;
/// Octets of one limit's answer.
const STANDING: usize = 19;

/// What came of a call.
#[derive(Default)]
enum Answer {
    #[default]
    Awaited,
    /// The script's.
    There(Vec<u8>),
    /// The store was lost.
    Lost,
}

/// Operations that go in one call.
#[derive(Default)]
struct Batch {
    building: RefCell<Building>,
    answer: RefCell<Answer>,
    waiting: RefCell<Vec<Option<Waker>>>,
}

struct Building {
    keys: Vec<u8>,
    ends: Vec<usize>,
    operations: Vec<u8>,
    count: usize,
    /// Octets of the answer so far.
    answer: usize,
    since: Instant,
}

impl Default for Building {
    fn default() -> Self {
        Self {
            // Room for a request that comes alone.
            keys: Vec::with_capacity(128),
            ends: Vec::with_capacity(4),
            operations: Vec::with_capacity(128),
            count: 0,
            answer: ANSWER_HEAD,
            since: Instant::now(),
        }
    }
}

impl Building {
    fn begin(&mut self, kind: u8, limits: usize) {
        if self.count == 0 {
            self.since = Instant::now();
        }
        self.count += 1;
        self.operations.extend_from_slice(&[kind, u8::try_from(limits).unwrap_or(0)]);
    }

    fn limit(&mut self, prefix: &str, key: &[u8], flags: u8, rule: &Rule, [quota, cost, at]: [u64; 3]) {
        self.keys.push(b'{');
        self.keys.extend_from_slice(prefix.as_bytes());
        self.keys.extend_from_slice(b"}:");
        self.keys.extend_from_slice(key);
        self.ends.push(self.keys.len());
        self.operations.push(flags | u8::from(rule.wide));
        for number in [quota, rule.window, rule.grain, cost, at] {
            self.operations.extend_from_slice(number.to_be_bytes().get(2..).unwrap_or_default());
        }
    }

    /// The call, by the script's digest or with the script itself.
    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.ends.len());
        let mut begin = 0;
        for &end in &self.ends {
            command.arg(self.keys.get(begin..end).unwrap_or_default());
            begin = end;
        }
        command.arg(self.operations.as_slice());
        command
    }
}

impl Batch {
    fn finish(&self, answer: Option<Vec<u8>>) {
        *self.answer.borrow_mut() = answer.map_or(Answer::Lost, Answer::There);
        for waker in self.waiting.take().into_iter().flatten() {
            waker.wake();
        }
    }
}

/// A thread's way to Redis.
pub(super) struct Queue {
    shared: Arc<SharedStore>,
    batches: RefCell<VecDeque<Rc<Batch>>>,
    wake: Rc<Notify>,
    lost: Cell<bool>,
    digest: String,
    /// Who hears of the store's state.
    tell: Box<dyn Fn(StoreChange)>,
}

/// A change of the store's state, to be recorded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    /// It stopped answering, and why.
    Lost(String),
    /// It answers again.
    Back,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Queue {
    /// A thread's queue. Needs a runtime that takes local tasks.
    pub(super) fn new(shared: Arc<SharedStore>, tell: Box<dyn Fn(StoreChange)>) -> Rc<Self> {
        let queue = Rc::new(Self {
            shared,
            batches: RefCell::default(),
            wake: Rc::default(),
            lost: Cell::new(false),
            digest: redis::Script::new(SCRIPT).get_hash().to_owned(),
            tell,
        });
        tokio::task::spawn_local(drive(Rc::downgrade(&queue), Rc::clone(&queue.wake)));
        queue
    }

    fn push(self: &Rc<Self>, add: impl FnOnce(&mut Building)) -> Rc<Batch> {
        let mut batches = self.batches.borrow_mut();
        let is_open = batches.back().is_some_and(|batch| batch.building.borrow().count < MOST_IN_CALL);
        if !is_open {
            batches.push_back(Rc::default());
        }
        let batch = batches.back().map(Rc::clone).unwrap_or_default();
        add(&mut batch.building.borrow_mut());
        drop(batches);
        self.wake.notify_one();
        batch
    }

    /// Decides; `None` where the store is lost.
    pub(super) async fn ask(self: &Rc<Self>, demands: &[Demand<'_>], keys: &Keys) -> Option<Decision> {
        if self.lost.get() {
            return None;
        }
        let mut offset = 0;
        let batch = self.push(|building| {
            building.begin(0, demands.len());
            offset = building.answer;
            building.answer += 1 + STANDING * demands.len();
            for (demand, key) in demands.iter().zip(keys.iter()) {
                let flags = if demand.is_enforced() { 0 } else { 2 };
                let prefix = &self.shared.settings.prefix;
                building.limit(prefix, key, flags, &demand.limit.rule, [demand.rate.quota, demand.cost, 0]);
            }
        });
        let mut place = None;
        poll_fn(|cx| {
            match &*batch.answer.borrow() {
                Answer::There(answer) => return Poll::Ready(read(answer, offset, demands.len())),
                Answer::Lost => return Poll::Ready(None),
                Answer::Awaited => {}
            }
            let mut waiting = batch.waiting.borrow_mut();
            let place = *place.get_or_insert_with(|| {
                waiting.push(None);
                waiting.len() - 1
            });
            if let Some(waker) = waiting.get_mut(place) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Gives back, or charges beyond all quotas. Nobody waits for it; where the store is lost it is forgotten.
    pub(super) fn settle(self: &Rc<Self>, key: &[u8], rule: &Rule, change: Change) {
        if self.lost.get() {
            return;
        }
        let (kind, numbers) = match change {
            Change::GiveBack { units, at } => (1, [0, units, at]),
            Change::Charge { units } => (2, [0, units, 0]),
        };
        self.push(|building| {
            building.begin(kind, 1);
            building.limit(&self.shared.settings.prefix, key, 0, rule, numbers);
        });
    }

    fn next(&self) -> Option<Rc<Batch>> {
        self.batches.borrow_mut().pop_front()
    }

    /// Tells everybody who waits that the store is lost.
    fn lose(&self, cause: String) {
        self.lost.set(true);
        if self.shared.numbers.lose() {
            (self.tell)(StoreChange::Lost(cause));
        }
        while let Some(batch) = self.next() {
            batch.finish(None);
        }
    }

    fn find(&self) {
        self.lost.set(false);
        if self.shared.numbers.find() {
            (self.tell)(StoreChange::Back);
        }
    }

    /// Sends one batch, over a new connection where there is none.
    async fn call(&self, link: &mut Option<Link>, batch: &Batch) -> RedisResult<Vec<u8>> {
        let command = batch.building.borrow().command("EVALSHA", &self.digest);
        let timeout = self.shared.settings.timeout;
        if let Some(held) = link {
            match self.send(held, &command, batch).await {
                // Redis ends connections that are idle (`timeout`) and all of them when it restarts, and a master may
                // have become a replica. If it had counted before it went, the second call counts once more: early
                // by one, never late.
                Err(error) if link::is_fatal(&error) => {}
                done => return done,
            }
        }
        let Some(settings) = &self.shared.settings.redis else { return Ok(Vec::new()) };
        let fresh = link.insert(Link::open(settings, How { timeout, alone: true }).await?);
        self.send(fresh, &command, batch).await
    }

    async fn send(&self, link: &Link, command: &Cmd, batch: &Batch) -> RedisResult<Vec<u8>> {
        let answer = match link.call(command).await {
            Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::NoScript) => {
                let command = batch.building.borrow().command("EVAL", SCRIPT);
                link.call(&command).await?
            }
            answer => answer?,
        };
        let expected = batch.building.borrow().answer;
        match answer {
            Value::BulkString(octets) if octets.len() == expected => Ok(octets),
            _ => Err((redis::ErrorKind::UnexpectedReturnType, "the script's answer has another form").into()),
        }
    }

    /// Looks for a Redis that takes writes.
    async fn look(&self) -> RedisResult<Link> {
        let settings = self.shared.settings.redis.as_ref();
        let settings = settings.ok_or((redis::ErrorKind::InvalidClientConfig, "there is no Redis"))?;
        let how = How { timeout: self.shared.settings.timeout, alone: true };
        let link = Link::open(settings, how).await?;
        let key = format!("{{{}}}:probe", self.shared.settings.prefix);
        link.call(redis::cmd("SET").arg(key).arg(1).arg("PX").arg(1)).await?;
        Ok(link)
    }
}

/// Sends what waits, batch by batch, and looks for the store where it is lost. Ends with its queue.
async fn drive(queue: Weak<Queue>, wake: Rc<Notify>) {
    // Before the first request, so that it does not wait for a connection.
    let mut link = match queue.upgrade() {
        Some(queue) => tokio::time::timeout(LONGEST_OPENING, queue.look()).await.ok().and_then(Result::ok),
        None => return,
    };
    let mut clock = pin!(sleep(LONGEST_OPENING));
    loop {
        let Some(queue) = queue.upgrade() else { return };
        let Some(batch) = queue.next() else {
            drop(queue);
            wake.notified().await;
            continue;
        };
        let (since, asked) = {
            let building = batch.building.borrow();
            (building.since, building.count)
        };
        let sent = Instant::now();
        let limit = queue.shared.settings.timeout;
        let cause = match until(clock.as_mut(), since + limit, queue.call(&mut link, &batch)).await {
            Some(Ok(answer)) => {
                queue.shared.numbers.round_trip(asked, sent.elapsed());
                batch.finish(Some(answer));
                continue;
            }
            Some(Err(error)) => link::describe(&error),
            None => format!("no answer within {limit:?}"),
        };
        // The connection's state is in doubt; the next call begins with a new one.
        link = None;
        queue.lose(cause);
        batch.finish(None);
        let mut pause = FIRST_PAUSE;
        while link.is_none() {
            // Gateways that lost it together do not look for it together.
            let mut chance = [0];
            let _ = aws_lc_rs::rand::fill(&mut chance);
            sleep(pause.mul_f64(0.75 + f64::from(chance[0]) / 512.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            link = tokio::time::timeout(LONGEST_OPENING.max(limit), queue.look()).await.ok().and_then(Result::ok);
        }
        queue.find();
    }
}

/// What `future` gives, or `None` where it takes longer than until `end`. The timer is used again, because to set one that
/// is running to a later time costs next to nothing.
async fn until<F: Future>(mut clock: Pin<&mut Sleep>, end: Instant, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    clock.as_mut().reset(end.into());
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => clock.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// Reads the answer to one question.
fn read(answer: &[u8], offset: usize, limits: usize) -> Option<Decision> {
    let number = |octets: &[u8]| octets.iter().fold(0_u64, |sum, octet| sum << 8 | u64::from(*octet));
    let at = number(answer.get(..ANSWER_HEAD)?);
    let (&admitted, rows) = answer.get(offset..offset + 1 + limits * STANDING)?.split_first()?;
    let mut decision = Decision::new(admitted == 1, at);
    for row in rows.chunks_exact(STANDING) {
        decision.push(Standing {
            full: row.first() == Some(&1),
            used: number(row.get(1..7)?),
            reset: number(row.get(7..13)?),
            retry: number(row.get(13..19)?),
        });
    }
    Some(decision)
}

/// Where one window stands, by its key in Redis. Counts nothing.
pub(super) async fn peek(link: &Link, key: &[u8], rule: &Rule) -> RedisResult<Option<Standing>> {
    let mut building = Building::default();
    building.begin(0, 1);
    building.limit("", b"", 2, rule, [u64::MAX >> 16, 0, 0]);
    let mut command = redis::cmd("EVAL");
    command.arg(SCRIPT).arg(1).arg(key).arg(building.operations.as_slice());
    let Value::BulkString(answer) = link.call(&command).await? else { return Ok(None) };
    Ok(read(&answer, ANSWER_HEAD, 1).and_then(|decision| decision.standings().first().copied()))
}
