//! Which card is active: what the workers of a pool have in common, for each guard that goes by what they tell.
//!
//! A worker may serve another version from one moment to the next, and the workers of a pool need not serve the same. So each
//! is asked by itself. A body is held against the card that all workers of the pool and of its canary have in common, and goes
//! to those alone. A worker that has told none, or whose model has other features than the others', gets no such body. Who was
//! out is asked again before it gets one.

use std::fmt::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::card::{Shown, ToldCard, version};
use super::has;
use super::settings::{PoolSettings, WorkerSettings};
use super::standing::Tell;
use crate::policy::body::{Asked, Card};
use crate::policy::{CardOf, Model, Route};
use crate::types::Name;

/// The card that bodies are held against, and the workers that it is the card of.
#[derive(Debug, PartialEq)]
pub struct ActiveCard {
    /// What all of them have in common.
    pub card: Card,
    /// By the position of their pool, a bit for each.
    workers: Vec<(usize, u64)>,
}

impl ActiveCard {
    /// The workers of a pool that it is the card of.
    #[must_use]
    pub fn workers(&self, pool: usize) -> u64 {
        self.workers.iter().find(|(position, _)| *position == pool).map_or(0, |(_, workers)| *workers)
    }
}

/// One guard's card, for one pool.
#[derive(Debug)]
struct Place {
    of: CardOf,
    /// Whose workers may get what it guards: the pool and its canary's, by position.
    pools: Vec<usize>,
    active: ArcSwapOption<ActiveCard>,
}

/// The cards of all guards that workers tell, as one policy needs them.
#[derive(Debug, Default)]
pub struct Cards {
    places: Vec<Place>,
    pools: Vec<PoolSettings>,
}

impl Cards {
    /// What is known of the cards that a policy wants of these pools, in its order. `before` is what served until now.
    #[must_use]
    pub fn new(wanted: &[CardOf], pools: &[PoolSettings], before: Option<&Self>) -> Self {
        let place = |of: &CardOf| Place {
            of: of.clone(),
            pools: std::iter::once(of.pool).chain(canary(pools, of.pool)).collect(),
            active: ArcSwapOption::empty(),
        };
        let cards = Self { places: wanted.iter().map(place).collect(), pools: pools.to_vec() };
        for place in &cards.places {
            // Where versions differ, those go on that did.
            place.active.store(before.and_then(|before| before.same(&cards, place)?.active.load_full()));
        }
        cards.settle(None);
        cards
    }

    /// The place for the same card that another policy has.
    fn same(&self, others: &Self, other: &Place) -> Option<&Place> {
        let name = others.pools.get(other.of.pool)?.name();
        self.places.iter().find(|place| {
            place.of.asked == other.of.asked && self.pools.get(place.of.pool).is_some_and(|pool| pool.name() == name)
        })
    }

    /// The active card at a position, for a request of a route with this path.
    ///
    /// # Errors
    /// Why there is none.
    pub fn of(&self, at: usize, route: &Route, path: &str) -> Result<Arc<ActiveCard>, &'static str> {
        let place = self.places.get(at).ok_or("nobody asks for it")?;
        let active = place.active.load_full().ok_or("no worker has told it")?;
        // What the policy names itself, or rewrites, need not be what the worker calls it.
        let is_workers = |model: &Model| matches!(model, Model::Segment(_)) && route.worker_path.is_none();
        let name = if is_workers(&route.model) { route.model.of(path) } else { "" };
        let version = if is_workers(&route.version) { route.version.of(path) } else { "" };
        if !active.card.is_of(name, version) {
            return Err("it is of another model or version than the path names");
        }
        Ok(active)
    }

    /// The guards that let nothing pass, each with the pool whose workers have told no card.
    #[must_use]
    pub fn closed(&self) -> Vec<(Name, Name, Box<str>)> {
        let closed = self.places.iter().filter(|place| place.active.load().is_none());
        closed.filter_map(|place| self.named(place)).collect()
    }

    fn named(&self, place: &Place) -> Option<(Name, Name, Box<str>)> {
        let Asked { guard, path, .. } = &place.of.asked;
        Some((Name::clone(guard), Name::clone(self.pools.get(place.of.pool)?.name()), path.clone()))
    }

    /// Which questions are put to the workers of the pool at a position.
    #[must_use]
    pub fn wanted(wanted: &[CardOf], pools: &[PoolSettings], position: usize) -> Vec<Asked> {
        let mut found: Vec<Asked> = Vec::new();
        for of in wanted {
            if of.pool != position && canary(pools, of.pool) != Some(position) {
                continue;
            }
            match found.iter_mut().find(|asked| asked.path == of.asked.path) {
                Some(asked) => asked.interval = asked.interval.min(of.asked.interval),
                None => found.push(of.asked.clone()),
            }
        }
        found
    }

    /// Asks each worker for ever. Changes are told.
    pub async fn follow(&self, shown: Shown<'_>, tell: &Tell) {
        let of: Vec<CardOf> = self.places.iter().map(|place| place.of.clone()).collect();
        let mut all = Vec::new();
        for (position, pool) in self.pools.iter().enumerate() {
            let wanted = Self::wanted(&of, &self.pools, position);
            for worker in &pool.workers {
                worker.cards.retain(&wanted);
                let asked = wanted.iter().cloned();
                all.extend(asked.map(|asked| self.follow_one((position, pool, worker), asked, shown, tell)));
            }
        }
        futures_util::future::join_all(all).await;
    }

    async fn follow_one(
        &self,
        (position, pool, worker): (usize, &PoolSettings, &WorkerSettings),
        asked: Asked,
        shown: Shown<'_>,
        tell: &Tell,
    ) {
        let alone = pool.alone(worker);
        let mut trouble = worker.known.trouble();
        // What was told before it served.
        tell_news((pool, worker, &asked.path), tell);
        loop {
            let due =
                worker.cards.of(&asked.path).due.unwrap_or_else(Instant::now).min(Instant::now() + asked.interval);
            tokio::select! {
                () = sleep_until(due) => {}
                // It was put out, or is back and may be another one.
                Ok(()) = trouble.changed() => {
                    if worker.known.is_out() {
                        worker.cards.doubt(&asked.path);
                        self.settle(Some(tell));
                        continue;
                    }
                }
            }
            worker.ask(&alone, &asked, shown(position)).await;
            tell_news((pool, worker, &asked.path), tell);
            self.settle(Some(tell));
        }
    }

    /// Puts the cards in place that go with what workers told last.
    pub fn settle(&self, tell: Option<&Tell>) {
        for place in &self.places {
            let before = place.active.load_full();
            let now = self.common(place, before.as_deref());
            if before.as_deref() == now.as_ref() {
                continue;
            }
            let workers = now.as_ref().map_or_else(String::new, |now| self.names(now).join(", "));
            let version = now.as_ref().map_or_else(String::new, |now| version(&now.card));
            let is_open = now.is_some();
            place.active.store(now.map(Arc::new));
            let Some(tell) = tell else { continue };
            let pool = self.pools.get(place.of.pool).map_or("", |pool| &**pool.name());
            let mut fields = vec![("guard", &*place.of.asked.guard), ("pool", pool)];
            fields.extend([("version", &*version), ("workers", &*workers)].into_iter().filter(|_| is_open));
            tell(if is_open { "guard-open" } else { "guard-closed" }, &fields);
        }
    }

    /// The card that a place's workers have in common. Of those with different features, the workers count that are more in
    /// its own pool, or that counted before.
    fn common(&self, place: &Place, before: Option<&ActiveCard>) -> Option<ActiveCard> {
        let workers =
            |position: usize| self.pools.get(position).into_iter().flat_map(|pool| pool.workers.iter().enumerate());
        let told: Vec<(usize, usize, Arc<Card>)> = place
            .pools
            .iter()
            .flat_map(|position| workers(*position).map(move |(at, worker)| (*position, at, worker)))
            .filter_map(|(position, at, worker)| Some((position, at, worker.cards.sure(&place.of.asked.path)?)))
            .collect();
        let own = || told.iter().filter(|(position, ..)| *position == place.of.pool).map(|(_, _, card)| card);
        let weight = |card: &Card| {
            let same = own().filter(|other| other.has_features_of(card)).count();
            (same, before.is_some_and(|before| before.card.has_features_of(card)))
        };
        // The first of those that weigh the same.
        let chosen = own().rev().max_by_key(|card| weight(card))?;
        let mut among: Vec<(usize, u64)> = place.pools.iter().map(|position| (*position, 0)).collect();
        let same = told.iter().filter(|(_, _, card)| card.has_features_of(chosen));
        for (position, at, _) in same.clone() {
            if let Some((_, workers)) = among.iter_mut().find(|(pool, _)| pool == position) {
                *workers |= 1 << at;
            }
        }
        let card = Card::common(same.map(|(_, _, card)| &**card))?;
        Some(ActiveCard { card, workers: among })
    }

    fn names(&self, active: &ActiveCard) -> Vec<String> {
        let pools =
            active.workers.iter().filter_map(|(position, workers)| Some((self.pools.get(*position)?, *workers)));
        let each = pools.flat_map(|(pool, workers)| {
            let of = pool.workers.iter().enumerate().filter(move |(at, _)| has(workers, *at));
            of.map(|(_, worker)| worker.label.to_string())
        });
        each.collect()
    }

    /// What operators are shown of the guards in front of the pool at a position.
    #[must_use]
    pub fn show(&self, position: usize) -> Vec<Value> {
        let places = self.places.iter().filter(|place| place.of.pool == position);
        let each = places.map(|place| {
            let active = place.active.load_full();
            let models = active.iter().flat_map(|active| active.card.models());
            let models = models.map(|model| json!({ "name": model.name, "version": model.version }));
            json!({
                "guard": &*place.of.asked.guard,
                "card_path": place.of.asked.path,
                "open": active.is_some(),
                "models": models.collect::<Vec<_>>(),
                "workers": active.as_ref().map_or_else(Vec::new, |active| self.names(active)),
            })
        });
        each.collect()
    }

    /// What stands against a guard: that it is closed, or else that it goes by what was told before.
    #[must_use]
    pub fn complaints(&self) -> Vec<Complaint> {
        let each = self.places.iter().filter_map(|place| {
            let (guard, pool, path) = self.named(place)?;
            let is_closed = place.active.load().is_none();
            let told = place.pools.iter().filter_map(|at| self.pools.get(*at)).flat_map(|pool| &pool.workers);
            let failures = told.filter_map(|worker| {
                worker.cards.of(&path).failure.map(|failure| format!("{}: {failure}", worker.label))
            });
            let why = failures.collect::<Vec<_>>().join("; ");
            (is_closed || !why.is_empty()).then_some(Complaint { guard, pool, is_closed, why })
        });
        each.collect()
    }

    /// Writes the numbers for Prometheus.
    pub fn render(&self, out: &mut String) {
        if self.places.is_empty() {
            return;
        }
        // Writing to a string never fails.
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "modelgate_guard_open";
        head(out, name, "gauge", "Whether a guard knows the card that its workers tell, without which nothing passes.");
        for place in &self.places {
            let Some((guard, pool, _)) = self.named(place) else { continue };
            let is_open = u8::from(place.active.load().is_some());
            let _ = writeln!(out, "{name}{{guard={:?},pool={:?}}} {is_open}", &*guard, &*pool);
        }
        let told = || self.pools.iter().flat_map(|pool| pool.workers.iter().map(move |worker| (pool, worker)));
        let each = |out: &mut String, write: &dyn Fn(&str, &ToldCard) -> String| {
            for (pool, worker) in told() {
                for (path, told) in worker.cards.show() {
                    let labels = format!("pool={:?},worker={:?},path={path:?}", &*pool.name, &*worker.label);
                    out.push_str(&write(&labels, &told));
                }
            }
        };
        let name = "modelgate_card_age_seconds";
        head(out, name, "gauge", "How long ago a worker told the card that guards go by.");
        each(out, &|labels, told| {
            let age = told.at.map(|at| at.elapsed().as_secs_f64());
            age.map_or_else(String::new, |age| format!("{name}{{{labels}}} {age:.3}\n"))
        });
        let name = "modelgate_card_fetches_total";
        head(out, name, "counter", "Answers of workers that were asked for their card, by whether they could be used.");
        each(out, &|labels, told| {
            let [good, bad] = told.counts;
            format!("{name}{{{labels},good=\"true\"}} {good}\n{name}{{{labels},good=\"false\"}} {bad}\n")
        });
    }
}

/// The pool that answers some of the requests to the one at a position.
fn canary(pools: &[PoolSettings], position: usize) -> Option<usize> {
    let pool = pools.get(position).filter(|pool| pool.promoted.is_none())?;
    pool.canary.as_ref().map(|canary| canary.to)
}

/// Tells of another card than before, or of another failure.
fn tell_news((pool, worker, path): (&PoolSettings, &WorkerSettings, &str), tell: &Tell) {
    let told = worker.cards.news(path);
    let mut fields = vec![("pool", &*pool.name), ("worker", &*worker.label), ("path", path)];
    if let (Some(cause), true) = (&told.failure, told.news[1]) {
        let kept = if told.card.is_some() { "the last good one" } else { "none" };
        fields.extend([("cause", &**cause), ("kept", kept)]);
        tell("guard-card-failed", &fields);
    } else if let (Some((card, digest)), true) = (&told.card, told.news[0]) {
        let (version, digest) = (version(card), digest.to_string());
        fields.extend([("version", &*version), ("digest", &digest)]);
        tell("guard-card", &fields);
    }
}

/// What stands against a guard.
#[derive(Debug)]
pub struct Complaint {
    /// The guard.
    pub guard: Name,
    /// The pool whose workers are asked.
    pub pool: Name,
    /// Whether nothing passes.
    pub is_closed: bool,
    /// What became of the last questions.
    pub why: String,
}

impl WorkerSettings {
    /// What it told of its models, for operators.
    pub(super) fn show_cards(&self) -> Vec<Value> {
        let all = self.cards.show();
        let each = all.iter().map(|(path, told)| {
            let (card, digest) = told.card.as_ref().map(|(card, digest)| (card, digest.to_string())).unzip();
            json!({
                "path": path,
                "version": card.map(|card| version(card)),
                "features": card.map(|card| card.width()),
                "digest": digest,
                "age_seconds": told.at.map(|at| at.elapsed().as_secs_f64()),
                "doubtful": told.is_doubtful,
                "cause": told.failure,
            })
        });
        each.collect()
    }
}
