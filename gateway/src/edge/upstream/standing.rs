//! What is known of a pool's workers: which are in, which are out, and why. All threads share it, and it stays when
//! the policy is replaced: a worker is the same while its URL and its pool's name are.
//!
//! Two witnesses speak: probes, and requests that failed. Who is out gets no requests. A pool keeps a part of its
//! workers whatever the witnesses say (`max_ejected`): where all seem to fail, the cause is seldom the workers, and
//! an answer from a bad one is better than none. Where there is a better one, in the pool that a canary is of, a
//! worker that is kept so counts as failing. On a request's way only a flag is read; all else is behind a lock that
//! is taken when something goes wrong.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::health::HealthRule;
use crate::series::Series;
use crate::types::Name;

/// Where changes are told: a name and what it is about.
pub type Tell = Arc<dyn Fn(&str, &[(&str, &str)]) + Send + Sync>;

/// What is counted of a worker.
#[derive(Clone, Copy)]
pub(super) enum Counted {
    Answered,
    Failed,
    Ejected,
    /// Answers with 5xx that are not counted as failures.
    Errors,
    /// Answers with 503.
    Busy,
}

/// What is counted of a pool.
#[derive(Clone, Copy)]
pub(super) enum Noted {
    Retried,
    Unaffordable,
    Full,
    /// Another pool answered.
    Canary,
}

/// One worker, as all threads know it.
pub(super) struct Known {
    label: Name,
    out: AtomicBool,
    /// Whether it is out, or is to be and stays in because of `max_ejected`.
    failing: AtomicBool,
    /// Requests that failed, one after the other.
    row: AtomicU32,
    pub(super) counts: Series<5>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Known {
    pub(super) fn new(label: Name, threads: usize) -> Self {
        let (out, failing) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { label, out, failing, row: AtomicU32::new(0), counts: Series::new(threads) }
    }

    /// Whether it gets no requests.
    pub(super) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed)
    }

    /// Whether the witnesses speak against it, in or out.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// A request got its answer.
    pub(super) fn answered(&self, thread: usize) {
        if self.row.load(Ordering::Relaxed) != 0 {
            self.row.store(0, Ordering::Relaxed);
        }
        self.counts.count(thread, Counted::Answered as usize);
    }
}

/// One worker and what the witnesses say.
struct Member {
    known: Arc<Known>,
    /// Whether a probe was ever answered or failed.
    probed: bool,
    /// Probes that contradict what is held true, one after the other.
    contrary: u32,
    /// Why probes say that it is not to be used.
    failing: Option<String>,
    ejection: Option<Ejection>,
    /// How often it was ejected without a good time between.
    times: u32,
    /// Since when it is back, and how long it was out before.
    back: Option<(Instant, Duration)>,
    /// In which order members are to be out; 0 where it is not to be.
    turn: u64,
    /// Whether it was told that it stays in although it is to be out.
    told_kept: bool,
    window: Window,
}

struct Ejection {
    until: Instant,
    length: Duration,
    cause: String,
}

/// What was counted when a window began.
struct Window {
    since: Instant,
    answered: u64,
    failed: u64,
}

impl Member {
    fn new(known: Arc<Known>) -> Self {
        let mut member = Self {
            known,
            probed: false,
            contrary: 0,
            failing: None,
            ejection: None,
            times: 0,
            back: None,
            turn: 0,
            told_kept: false,
            window: Window { since: Instant::now(), answered: 0, failed: 0 },
        };
        member.begin_window(Instant::now());
        member
    }

    fn count(&self, event: Counted) -> u64 {
        self.known.counts.sum(event as usize)
    }

    fn begin_window(&mut self, now: Instant) {
        self.window =
            Window { since: now, answered: self.count(Counted::Answered), failed: self.count(Counted::Failed) };
    }

    fn cause(&self) -> Option<&str> {
        self.failing.as_deref().or(self.ejection.as_ref().map(|ejection| &*ejection.cause))
    }
}

#[derive(Default)]
struct Inner {
    rule: HealthRule,
    members: Vec<Member>,
    tell: Option<Tell>,
    turns: u64,
}

/// What is known of a pool's workers.
pub(super) struct Standing {
    pool: Name,
    pub(super) counts: Series<4>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// A worker's state, to be shown.
pub(super) struct Shown {
    pub(super) out: bool,
    /// Why it is out, or is to be.
    pub(super) cause: Option<String>,
    /// What probes say, where any was made.
    pub(super) probes_pass: Option<bool>,
    /// How long it stays out because of requests that failed.
    pub(super) ejected_for: Option<Duration>,
    /// Requests that were answered, that failed, and how often it was ejected.
    pub(super) counts: [u64; 3],
}

impl Standing {
    pub(super) fn new(pool: Name, threads: usize) -> Self {
        Self { pool, counts: Series::new(threads), inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes on the workers of another policy; those with known labels are kept with all that is known of them.
    pub(super) fn take_on(&self, rule: HealthRule, labels: &[Name], threads: usize, tell: &Tell) -> Vec<Arc<Known>> {
        let mut inner = self.lock();
        let mut before: HashMap<Name, Member> =
            inner.members.drain(..).map(|member| (Name::clone(&member.known.label), member)).collect();
        for label in labels {
            let member = before.remove(label);
            let member = member.unwrap_or_else(|| Member::new(Arc::new(Known::new(Name::clone(label), threads))));
            inner.members.push(member);
        }
        for gone in before.values() {
            gone.known.out.store(false, Ordering::Relaxed);
            gone.known.failing.store(false, Ordering::Relaxed);
        }
        for member in &mut inner.members {
            // A witness that is not asked any more says nothing.
            if rule.probes.is_none() {
                (member.failing, member.probed, member.contrary) = (None, false, 0);
            }
            if rule.passive.is_none() {
                member.ejection = None;
            }
        }
        inner.rule = rule;
        inner.tell = Some(Arc::clone(tell));
        let known = inner.members.iter().map(|member| Arc::clone(&member.known)).collect();
        self.settle(&mut inner);
        known
    }

    /// Counts something that happened on a thread.
    pub(super) fn note(&self, thread: usize, what: Noted) {
        self.counts.count(thread, what as usize);
    }

    /// A request failed at a worker. Needs a runtime that takes local tasks.
    pub(super) fn failed(self: &Arc<Self>, known: &Arc<Known>, thread: usize, cause: &str) {
        known.counts.count(thread, Counted::Failed as usize);
        let row = known.row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut inner = self.lock();
        let Some(rule) = inner.rule.passive else { return };
        let Some(member) = inner.members.iter_mut().find(|member| Arc::ptr_eq(&member.known, known)) else { return };
        if member.ejection.is_some() {
            return;
        }
        let now = Instant::now();
        let answered = member.count(Counted::Answered) - member.window.answered;
        let failed = member.count(Counted::Failed) - member.window.failed;
        let all = answered + failed;
        let is_over = now.duration_since(member.window.since) > rule.window;
        let share =
            !is_over && rule.share > 0 && all >= rule.min_requests && failed * 100 >= u64::from(rule.share) * all;
        let cause = if rule.row > 0 && row >= rule.row {
            format!("{row} requests failed in a row, the last because {cause}")
        } else if share {
            format!("{failed} of {all} requests failed, the last because {cause}")
        } else {
            if is_over {
                member.begin_window(now);
                // This one belongs to the new window.
                member.window.failed -= 1;
            }
            return;
        };
        // Who was in for as long as it was out before begins anew.
        if member.back.is_none_or(|(since, out)| now.duration_since(since) > out) {
            member.times = 0;
        }
        let length = rule.ejection(member.times);
        member.times += 1;
        member.ejection = Some(Ejection { until: now + length, length, cause });
        known.row.store(0, Ordering::Relaxed);
        known.counts.count(thread, Counted::Ejected as usize);
        self.settle(&mut inner);
        drop(inner);
        let this = Arc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(length).await;
            this.let_back();
        });
    }

    /// Lets those back whose time is over.
    fn let_back(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        for member in &mut inner.members {
            if let Some(over) = member.ejection.take_if(|ejection| ejection.until <= now) {
                member.back = Some((now, over.length));
                member.begin_window(now);
                member.known.row.store(0, Ordering::Relaxed);
            }
        }
        self.settle(&mut inner);
    }

    /// Whether a worker was never probed.
    pub(super) fn is_new(&self, position: usize) -> bool {
        self.lock().members.get(position).is_some_and(|member| !member.probed)
    }

    /// What a probe found.
    pub(super) fn probed(&self, known: &Arc<Known>, found: Result<(), String>) {
        let mut inner = self.lock();
        let Some(rule) = inner.rule.probes.as_ref().map(|probes| (probes.out_after, probes.in_after)) else { return };
        let Some(member) = inner.members.iter_mut().find(|member| Arc::ptr_eq(&member.known, known)) else { return };
        let is_first = !std::mem::replace(&mut member.probed, true);
        match (found, &mut member.failing) {
            (Ok(()), None) => member.contrary = 0,
            (Err(cause), Some(why)) => {
                member.contrary = 0;
                *why = cause;
            }
            (Ok(()), failing @ Some(_)) => {
                member.contrary += 1;
                if member.contrary >= rule.1 {
                    (*failing, member.contrary) = (None, 0);
                }
            }
            (Err(cause), failing @ None) => {
                member.contrary += 1;
                // Who was never ready is not waited for.
                if is_first || member.contrary >= rule.0 {
                    (*failing, member.contrary) = (Some(cause), 0);
                }
            }
        }
        self.settle(&mut inner);
    }

    /// Puts the workers out that are to be, as many as may, those first that were to be first; and tells of changes.
    fn settle(&self, inner: &mut Inner) {
        let Inner { rule, members, tell, turns } = inner;
        for member in members.iter_mut() {
            match (member.cause().is_some(), member.turn) {
                (false, _) => member.turn = 0,
                (true, 0) => {
                    *turns += 1;
                    member.turn = *turns;
                }
                (true, _) => {}
            }
        }
        let most = rule.most_out(members.len());
        let mut order: Vec<u64> = members.iter().map(|member| member.turn).filter(|turn| *turn > 0).collect();
        order.sort_unstable();
        let last = order.get(..most.min(order.len())).and_then(<[u64]>::last).copied().unwrap_or(0);
        for member in members.iter_mut() {
            let is_out = (1..=last).contains(&member.turn);
            let was_out = member.known.out.swap(is_out, Ordering::Relaxed);
            member.known.failing.store(member.turn > 0, Ordering::Relaxed);
            let is_kept = member.turn > 0 && !is_out;
            let event = match (was_out, is_out) {
                (false, true) => Some("worker-out"),
                (true, false) => Some("worker-in"),
                _ if is_kept && !member.told_kept => Some("worker-kept"),
                _ => None,
            };
            member.told_kept = is_kept;
            let (Some(event), Some(tell)) = (event, &*tell) else { continue };
            let seconds = member.ejection.as_ref().map(|ejection| ejection.length.as_secs_f64().to_string());
            let mut fields = vec![("pool", &*self.pool), ("worker", &*member.known.label)];
            fields.extend(member.cause().map(|cause| ("cause", cause)));
            fields.extend(seconds.as_deref().map(|seconds| ("seconds", seconds)));
            tell(event, &fields);
        }
    }

    /// What is known of each worker, in their order.
    pub(super) fn show(&self) -> Vec<Shown> {
        let inner = self.lock();
        let now = Instant::now();
        let shown = inner.members.iter().map(|member| Shown {
            out: member.known.is_out(),
            cause: member.cause().map(str::to_owned),
            probes_pass: member.probed.then_some(member.failing.is_none()),
            ejected_for: member.ejection.as_ref().map(|ejection| ejection.until.saturating_duration_since(now)),
            counts: [Counted::Answered, Counted::Failed, Counted::Ejected].map(|event| member.count(event)),
        });
        shown.collect()
    }
}
