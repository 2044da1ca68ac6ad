//! Counting: the windows of `policy::limit`, held in this process or in Redis.
//!
//! Both stores decide all limits of one request at once and count it in all or in none. Redis decides by one script
//! and its own clock, so any number of gateways share a limit exactly. A Redis that does not answer in time is lost:
//! each limit says what that means, and no request waits longer than the store's time limit. What happens to a
//! request, in order: its places in flight, refusals that are remembered, the store, its turn where it is held.

mod beside;
mod heard;
mod held;
mod in_flight;
mod keys;
mod link;
mod memory;
mod numbers;
mod queue;
mod refused;
mod settings;
mod shown;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::limit::cost::{AnswerCost, Cost, Size};
use crate::policy::limit::headers::RateHeaders;
use crate::policy::limit::scope::Subject;
use crate::policy::limit::window::Standing;
use crate::policy::limit::{Admission, Counts, Decision, Demand, Limit, Refusal, StoreLost, WhenFull};
use crate::types::Principal;

pub(in crate::edge) use beside::{Caller, PAGE, StreamReader, octets};
pub(in crate::edge) use heard::Heard;
use held::Held;
pub use in_flight::{InFlight, Places};
pub use keys::Keys;
pub use memory::{Change, MemoryStore};
use numbers::{Event, Numbers, Tally};
use queue::Queue;
pub use queue::{SCRIPT, StoreChange};
use refused::RefusedTable;
pub use settings::StoreSettings;
pub use shown::Shown;

/// What all threads share.
pub struct SharedStore {
    settings: StoreSettings,
    memory: MemoryStore,
    in_flight: Arc<InFlight>,
    refused: RefusedTable,
    held: Held,
    numbers: Numbers,
    began: Instant,
}

impl std::fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedStore").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl SharedStore {
    /// The store that the settings ask for, for so many threads.
    #[must_use]
    pub fn new(settings: StoreSettings, threads: usize) -> Self {
        let memory = MemoryStore::new(settings.max_windows);
        Self {
            memory,
            settings,
            in_flight: Arc::default(),
            refused: RefusedTable::default(),
            held: Held::default(),
            numbers: Numbers::new(threads),
            began: Instant::now(),
        }
    }

    /// Microseconds of a clock that never steps back.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Forgets what has expired in this process.
    pub fn sweep(&self) {
        self.memory.sweep(|| self.now());
        self.refused.sweep();
    }

    /// Forgets refusals, which another policy might not make.
    pub fn forget_refusals(&self) {
        self.refused.forget(|_| true);
    }

    /// Adds the numbers in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        self.numbers.render(out);
    }
}

/// The store as one thread uses it: its own connection to Redis, so that threads share nothing on the way there.
pub struct Counter {
    shared: Arc<SharedStore>,
    queue: Option<Rc<Queue>>,
    tally: Tally,
}

impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counter").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum Denied {
    /// Limits are full.
    Full(Box<Refusal>),
    /// The store is lost, and a limit says that this means no.
    StoreLost,
}

/// A request that was admitted.
#[derive(Debug)]
pub struct Admitted {
    /// The evidence.
    pub admission: Admission,
    /// What is settled when the request has ended, if anything is.
    pub charge: Option<Box<Charge>>,
    /// The limits that are only tried out and would have refused.
    pub would_refuse: Option<String>,
}

/// A request's places among those in flight.
#[derive(Debug)]
pub struct Taken {
    /// The places.
    pub places: Places,
    /// What the answer says about them.
    pub headers: Option<RateHeaders>,
    /// The limits that are only tried out and would have refused.
    pub would_refuse: Option<String>,
}

/// What was counted for a request before all was known.
#[derive(Debug)]
pub struct Charge {
    rows: Vec<(Arc<Limit>, Box<[u8]>, u64)>,
    at: u64,
    in_memory: bool,
}

/// How a request ended, as far as limits care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The worker served it.
    Served,
    /// The worker failed to.
    WorkerFailed,
    /// It failed for the client's doing.
    ClientFailed,
}

impl Charge {
    /// The numbers that the answer is to name, if it is.
    pub fn answer_costs(&self) -> impl Iterator<Item = &AnswerCost> {
        self.rows.iter().filter_map(|(limit, _, _)| match &limit.cost {
            Cost::Answer(answer) => Some(answer),
            Cost::Requests | Cost::Rows(_) | Cost::Bytes => None,
        })
    }
}

/// Where a decision comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Redis,
    Memory,
    /// This process, because Redis is lost.
    Fallback,
}

impl Counter {
    /// A thread's way to the store, for these limits. `tell` hears when Redis is lost or back. Needs a runtime that
    /// takes local tasks, where the store is Redis.
    #[must_use]
    pub fn new(
        shared: Arc<SharedStore>,
        thread: usize,
        limits: &[Arc<Limit>],
        tell: impl Fn(StoreChange) + 'static,
    ) -> Self {
        let queue = shared.settings.redis.is_some().then(|| Queue::new(Arc::clone(&shared), Box::new(tell)));
        Self { tally: shared.numbers.tally(thread, limits.iter().map(|limit| &*limit.name)), queue, shared }
    }

    /// The same way, for the limits of another policy.
    #[must_use]
    pub fn for_policy(&self, thread: usize, limits: &[Arc<Limit>]) -> Self {
        let shared = Arc::clone(&self.shared);
        let tally = shared.numbers.tally(thread, limits.iter().map(|limit| &*limit.name));
        Self { tally, queue: self.queue.clone(), shared }
    }

    /// Takes a place of each limit on requests in flight.
    ///
    /// # Errors
    /// [`Refusal`], where there is none.
    pub fn take_places(
        &self,
        limits: &[Arc<Limit>],
        principal: Option<&Principal>,
        subject: &Subject<'_>,
    ) -> Result<Option<Taken>, Box<Refusal>> {
        if limits.is_empty() {
            return Ok(None);
        }
        let demands: Vec<Demand<'_>> = limits.iter().map(|it| Demand::new(it, principal, Size::default())).collect();
        let keys = Keys::new(&demands, subject);
        let (places, used) = match self.shared.in_flight.take(&demands, keys.iter().map(Into::into)) {
            Ok((places, used)) => (Some(places), used),
            Err(used) => (None, used),
        };
        let mut decision = Decision::new(places.is_some(), 0);
        for (demand, used) in demands.iter().zip(used) {
            let full = places.is_none() && used >= demand.rate.quota || used > demand.rate.quota;
            // Nobody knows when one ends; a second is soon enough to ask again.
            decision.push(Standing { full, used, reset: 0, retry: 1_000_000 });
        }
        self.tell(&demands, &decision, false);
        let headers = Admission::from_decision(&demands, &decision)?.into_headers();
        let full = demands.iter().zip(decision.standings()).filter(|(_, standing)| standing.full);
        let names: Vec<&str> = full.map(|(demand, _)| &*demand.limit.name).collect();
        let would_refuse = (!names.is_empty()).then(|| names.join(", "));
        Ok(places.map(|places| Taken { places, headers, would_refuse }))
    }

    /// Whether it is known without the store that a limit is full, whatever else the request costs.
    ///
    /// # Errors
    /// [`Denied::Full`], where it is.
    pub fn recall(&self, demands: &[Demand<'_>], subject: &Subject<'_>) -> Result<(), Denied> {
        if self.queue.is_none() || demands.iter().any(Demand::holds) {
            return Ok(());
        }
        let keys = Keys::new(demands, subject);
        match self.remembered(demands, &keys) {
            Some(decision) => self.conclude(demands, &keys, &decision, Source::Redis).map(|_| ()),
            None => Ok(()),
        }
    }

    fn remembered(&self, demands: &[Demand<'_>], keys: &Keys) -> Option<Decision> {
        let known = self.shared.refused.find(demands, keys)?;
        let mut decision = Decision::new(false, 0);
        known.iter().take(demands.len()).for_each(|standing| decision.push(standing.unwrap_or(Standing::UNKNOWN)));
        Some(decision)
    }

    /// Decides all limits at once.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admit(&self, demands: &[Demand<'_>], subject: &Subject<'_>) -> Result<Admitted, Denied> {
        if demands.is_empty() {
            return Ok(Admitted { admission: Admission::uncounted(), charge: None, would_refuse: None });
        }
        let keys = Keys::new(demands, subject);
        if demands.iter().any(Demand::holds) {
            return Box::pin(self.admit_or_hold(demands, &keys)).await;
        }
        let (decision, source) = self.decide(demands, &keys).await?;
        self.conclude(demands, &keys, &decision, source)
    }

    /// Decides as [`Counter::admit`], where being admitted is no evidence of anything and nobody is told of it.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn count(&self, demands: &[Demand<'_>], subject: &Subject<'_>) -> Result<(), Denied> {
        if demands.is_empty() {
            return Ok(());
        }
        let keys = Keys::new(demands, subject);
        if demands.iter().any(Demand::holds) {
            return Box::pin(self.admit_or_hold(demands, &keys)).await.map(drop);
        }
        let (decision, source) = self.decide(demands, &keys).await?;
        if decision.admitted {
            self.tell(demands, &decision, source == Source::Fallback);
            return Ok(());
        }
        self.conclude(demands, &keys, &decision, source).map(drop)
    }

    /// Asks what is remembered, then the store.
    async fn decide(&self, demands: &[Demand<'_>], keys: &Keys) -> Result<(Decision, Source), Denied> {
        let Some(queue) = &self.queue else {
            let clock = || self.shared.now();
            let decision = self.shared.memory.admit(demands, keys, clock, |demand| Some(demand.rate.quota));
            return decision.map(|decision| (decision, Source::Memory)).ok_or(Denied::StoreLost);
        };
        if let Some(decision) = self.remembered(demands, keys) {
            return Ok((decision, Source::Redis));
        }
        // What Redis says of the time left holds from when it was said, which is not before this.
        let asked = Instant::now();
        if let Some(decision) = queue.ask(demands, keys).await {
            if decision.admitted {
                self.shared.refused.outdate(keys);
            } else {
                self.shared.refused.remember(demands, keys, &decision, asked);
            }
            return Ok((decision, Source::Redis));
        }
        if demands.iter().any(|demand| demand.limit.store_lost == StoreLost::Deny && demand.is_enforced()) {
            return Err(Denied::StoreLost);
        }
        let quota = |demand: &Demand<'_>| match demand.limit.store_lost {
            StoreLost::Local => Some(demand.limit.local_quota(demand.rate.quota)),
            StoreLost::Allow | StoreLost::Deny => None,
        };
        let decision = self.shared.memory.admit(demands, keys, || self.shared.now(), quota);
        decision.map(|decision| (decision, Source::Fallback)).ok_or(Denied::StoreLost)
    }

    /// Counts what became of a request, and makes evidence or a refusal of it.
    fn conclude(
        &self,
        demands: &[Demand<'_>],
        keys: &Keys,
        decision: &Decision,
        source: Source,
    ) -> Result<Admitted, Denied> {
        self.tell(demands, decision, source == Source::Fallback);
        let admission = Admission::from_decision(demands, decision);
        let admission = admission.map_err(Denied::Full)?;
        let mut would_refuse: Option<String> = None;
        let mut charge: Option<Box<Charge>> = None;
        for (index, (demand, standing)) in demands.iter().zip(decision.standings()).enumerate() {
            if standing.full {
                let names = would_refuse.get_or_insert_default();
                if !names.is_empty() {
                    names.push_str(", ");
                }
                names.push_str(&demand.limit.name);
            } else if standing.is_known() && demand.limit.may_return() {
                let charge = charge.get_or_insert_with(|| {
                    Box::new(Charge { rows: Vec::new(), at: decision.at, in_memory: source != Source::Redis })
                });
                charge.rows.push((Arc::clone(demand.limit), keys.at(index).into(), demand.cost));
            }
        }
        Ok(Admitted { admission, charge, would_refuse })
    }

    fn tell(&self, demands: &[Demand<'_>], decision: &Decision, is_fallback: bool) {
        for (demand, standing) in demands.iter().zip(decision.standings()) {
            if is_fallback {
                self.tally.count(demand.limit.index, Event::Fallback);
            }
            let event = match (decision.admitted, standing.full) {
                (true, false) => Event::Admitted,
                (true, true) => Event::Shadowed,
                (false, true) if demand.is_enforced() => Event::Refused,
                // Another limit refused.
                (false, _) => continue,
            };
            self.tally.count(demand.limit.index, event);
        }
    }

    /// As [`Counter::admit`], but whoever finds a limit full that holds requests waits for its turn.
    async fn admit_or_hold(&self, demands: &[Demand<'_>], keys: &Keys) -> Result<Admitted, Denied> {
        let arrived = Instant::now();
        let waited_for = |index: &usize| self.shared.held.is_waited_for(keys.at(*index));
        let throttles = || {
            demands.iter().enumerate().filter_map(|(index, demand)| match demand.limit.when_full {
                WhenFull::Throttle { max_delay, max_held } => Some((index, max_delay, max_held)),
                WhenFull::Refuse | WhenFull::Shadow => None,
            })
        };
        // Whoever comes later does not overtake those who wait.
        let mut at = throttles().find(|(index, _, _)| waited_for(index));
        let mut full = None;
        if at.is_none() {
            let (decision, source) = self.decide(demands, keys).await?;
            at = Self::held_by(demands, &decision, source);
            if at.is_none_or(|(_, max_delay, _)| Self::wait(&decision, demands) > max_delay) {
                return self.conclude(demands, keys, &decision, source);
            }
            full = at.and_then(|(index, _, _)| decision.standings().get(index).copied());
        }
        let Some((index, max_delay, max_held)) = at else { return Err(Denied::StoreLost) };
        let until = arrived + max_delay;
        let waiting = match self.shared.held.join(keys.at(index), max_held) {
            Ok(waiting) => waiting,
            Err(standing) => return self.turn_away(demands, keys, index, standing),
        };
        if let Some(standing) = full {
            waiting.gate.note(standing);
        }
        let Ok(Ok(_turn)) = tokio::time::timeout_at(until.into(), waiting.gate.turn.acquire()).await else {
            return self.turn_away(demands, keys, index, waiting.gate.standing());
        };
        loop {
            let (decision, source) = self.decide(demands, keys).await?;
            if let Some(standing) = decision.standings().get(index).filter(|standing| standing.full) {
                waiting.gate.note(*standing);
            }
            let wait = Self::held_by(demands, &decision, source).map(|_| Self::wait(&decision, demands));
            if let Some(wait) = wait.filter(|wait| Instant::now() + *wait <= until) {
                tokio::time::sleep(wait).await;
                continue;
            }
            if decision.admitted {
                self.tally.count(demands.get(index).map_or(0, |it| it.limit.index), Event::Throttled);
            }
            return self.conclude(demands, keys, &decision, source);
        }
    }

    /// Refuses for the limit at `index`, by what those who wait for it know.
    fn turn_away(
        &self,
        demands: &[Demand<'_>],
        keys: &Keys,
        index: usize,
        standing: Standing,
    ) -> Result<Admitted, Denied> {
        let mut decision = Decision::new(false, 0);
        (0..demands.len()).for_each(|at| decision.push(if at == index { standing } else { Standing::UNKNOWN }));
        self.conclude(demands, keys, &decision, Source::Memory)
    }

    /// The full limit that a refused request may wait for; `None` where it was admitted, or where another that is
    /// full refuses at once.
    fn held_by(demands: &[Demand<'_>], decision: &Decision, source: Source) -> Option<(usize, Duration, usize)> {
        let quota = |demand: &Demand<'_>| match source {
            Source::Redis | Source::Memory => demand.rate.quota,
            Source::Fallback => demand.limit.local_quota(demand.rate.quota),
        };
        let mut found = None;
        for (index, (demand, standing)) in demands.iter().zip(decision.standings()).enumerate() {
            if decision.admitted || !standing.full {
                continue;
            }
            match demand.limit.when_full {
                WhenFull::Throttle { max_delay, max_held } if demand.cost <= quota(demand) => {
                    found = found.or(Some((index, max_delay, max_held)));
                }
                WhenFull::Throttle { .. } | WhenFull::Refuse => return None,
                WhenFull::Shadow => {}
            }
        }
        found
    }

    /// How long the store says that the request has to wait.
    fn wait(decision: &Decision, demands: &[Demand<'_>]) -> Duration {
        let full = demands.iter().zip(decision.standings()).filter(|(it, standing)| standing.full && it.is_enforced());
        Duration::from_micros(full.map(|(_, standing)| standing.retry).max().unwrap_or(0))
    }

    /// Settles what was counted before all was known. `answer_cost` is the number that the answer named at a
    /// pointer. Nobody waits for it.
    pub fn settle(&self, charge: &Charge, outcome: Outcome, answer_cost: impl Fn(&AnswerCost) -> Option<u64>) {
        for (limit, key, cost) in &charge.rows {
            let back = |units: u64| Change::GiveBack { units, at: charge.at };
            let is_returned = limit.gives_back && outcome == Outcome::WorkerFailed
                || limit.counts == Counts::Failures && outcome != Outcome::ClientFailed;
            let actual = match &limit.cost {
                _ if is_returned => Some(0),
                Cost::Answer(answer) => answer_cost(answer),
                Cost::Requests | Cost::Rows(_) | Cost::Bytes => None,
            };
            let settled = match actual {
                Some(actual) if actual > *cost => Change::Charge { units: actual - cost },
                Some(actual) if actual < *cost => back(cost - actual),
                Some(_) | None => continue,
            };
            match &self.queue {
                Some(queue) if !charge.in_memory => queue.settle(key, &limit.rule, settled),
                _ => self.shared.memory.settle(key, &limit.rule, settled, || self.shared.now()),
            }
        }
    }
}
