//! Puts other workers into a pool without reading any file: what `gateway pool swap` asks for.
//!
//! They are tested first, then take every request that begins; what has begun ends on the old ones. For a while they
//! are watched, and the old ones come back by themselves when too much fails. Reloads leave them where they are while
//! the files say of the pool what they said then; where they say something new of it, and at a start, the files rule.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::edge::upstream::{PoolSettings, Tally, Thresholds, Which};
use crate::exchange::Snapshot;
use crate::types::Name;

use super::Reloader;

/// How often new workers are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What operators are told of every swap.
pub const NOTE: &str = "reloads leave these workers in until the files say something new of the pool; a restart takes those that the files name";

/// Where a swap stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The new workers serve and are watched.
    Watched,
    /// They were watched for long enough.
    Kept,
    /// The old ones serve again.
    RolledBack,
    /// Too much failed, and no old worker is ready.
    Stuck,
    /// A reload or another swap came between.
    Overtaken,
}

impl Stage {
    /// Its name for operators.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Watched => "watched",
            Self::Kept => "kept",
            Self::RolledBack => "rolled_back",
            Self::Stuck => "stuck",
            Self::Overtaken => "overtaken",
        }
    }
}

/// The last swap of a pool.
#[derive(Clone, Debug)]
pub struct Swap {
    /// Where it stands.
    pub stage: Stage,
    /// Why, where something failed.
    pub cause: Option<String>,
    /// The workers that it put in.
    pub workers: Vec<Name>,
    /// Those that served before.
    pub before: Vec<Name>,
    /// The pool whose workers they are, where they were promoted.
    pub promoted: Option<Name>,
    /// How long the new ones are watched.
    pub watch: Duration,
}

/// Why nothing was swapped.
#[derive(Debug)]
pub enum Unswapped {
    /// There is no such pool.
    Unknown,
    /// It has no `[pools.NAME.swap]`.
    Closed,
    /// What is wrong with the new workers' URLs.
    Malformed(Vec<String>),
    /// What the new workers failed at.
    Failed(Vec<String>),
    /// The pool was changed while they were tested.
    Overtaken,
    /// Nobody is there to be promoted, and what to do.
    NoCandidate(String),
    /// The candidate has not shown what it must.
    Unmet(Vec<String>),
}

fn pool<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s PoolSettings> {
    snapshot.pools.iter().find(|pool| **pool.name() == *name)
}

fn list(workers: &[Name]) -> String {
    workers.iter().map(|worker| &**worker).collect::<Vec<_>>().join(", ")
}

impl Reloader {
    /// Puts other workers into a pool.
    ///
    /// # Errors
    /// [`Unswapped`]: nothing has changed.
    pub async fn swap(self: &Rc<Self>, name: &str, urls: &[String]) -> Result<Swap, Unswapped> {
        let before = pool(&self.now(), name).ok_or(Unswapped::Unknown)?.clone();
        let next = before.with_workers(urls).map_err(Unswapped::Malformed);
        self.put_in_place(before, next, None).await
    }

    /// Puts the workers of a pool's candidate into it, where its copies have shown what is wanted.
    ///
    /// # Errors
    /// [`Unswapped`]: nothing has changed.
    pub async fn promote(
        self: &Rc<Self>,
        name: &str,
        which: Option<Which>,
        wanted: Option<&Thresholds>,
    ) -> Result<Swap, Unswapped> {
        let now = self.now();
        let before = pool(&now, name).ok_or(Unswapped::Unknown)?.clone();
        let candidate = before.candidate(&now.pools, which).map_err(Unswapped::NoCandidate)?;
        let unmet = wanted.map(|wanted| before.unmet(wanted)).unwrap_or_default();
        if !unmet.is_empty() {
            return Err(Unswapped::Unmet(unmet));
        }
        let next = before.promoting(candidate).map_err(Unswapped::Malformed);
        self.put_in_place(before, next, Some(Name::clone(candidate.name()))).await
    }

    /// Tests new workers of a pool, puts them in, and has them watched.
    async fn put_in_place(
        self: &Rc<Self>,
        before: PoolSettings,
        next: Result<PoolSettings, Unswapped>,
        promoted: Option<Name>,
    ) -> Result<Swap, Unswapped> {
        let name = &**before.name();
        if !before.is_swappable() {
            return Err(Unswapped::Closed);
        }
        let next = next?;
        // Its card is known before it serves, and comes into place with it.
        let shown = {
            let Snapshot { policy, pools, .. } = &*self.now();
            let position = pools.iter().position(|pool| pool.name() == next.name());
            position.and_then(super::cards::assertion(policy))
        };
        let tested = match next.test(&[], shown.as_ref()).await {
            Ok(_) => self.learn(&next).await,
            Err(failures) => Err(failures),
        };
        if let Err(failures) = tested {
            for failure in &failures {
                self.log.security("pool-swap-refused", &[("pool", name), ("cause", failure)]);
            }
            return Err(Unswapped::Failed(failures));
        }
        let _turn = self.turn.lock().await;
        let is_same = |now: &PoolSettings| now.workers() == before.workers() && now.is_swappable();
        if !pool(&self.now(), name).is_some_and(is_same) {
            return Err(Unswapped::Overtaken);
        }
        let swap = Swap {
            stage: Stage::Watched,
            cause: None,
            workers: next.workers(),
            before: before.workers(),
            promoted,
            watch: next.watch(),
        };
        // Workers that stay have a past.
        let tally = before.tally(&swap.workers);
        self.swaps.borrow_mut().insert(name.into(), swap.clone());
        self.put_workers(&next).await;
        let (workers, old) = (list(&swap.workers), list(&swap.before));
        let mut fields = vec![("pool", name), ("workers", &workers), ("before", &old), ("note", NOTE)];
        fields.extend(swap.promoted.as_ref().map(|candidate| ("promoted", &**candidate)));
        self.log.security("pool-swapped", &fields);
        let (this, workers) = (Rc::clone(self), swap.workers.clone());
        tokio::task::spawn_local(async move { this.look_after(before, workers, tally).await });
        Ok(swap)
    }

    /// The last swap of a pool.
    #[must_use]
    pub fn last_swap(&self, name: &str) -> Option<Swap> {
        self.swaps.borrow().get(name).cloned()
    }

    /// Puts a pool's workers into the one with its name, which a reload may have changed otherwise since.
    async fn put_workers(&self, next: &PoolSettings) {
        let now = self.now();
        let mut pools = now.pools.clone();
        if let Some(pool) = pools.iter_mut().find(|pool| pool.name() == next.name()) {
            *pool = pool.with_workers_of(next);
        }
        self.put(super::snapshot(
            (std::sync::Arc::clone(&now.policy), pools, now.hsts, now.body_pace),
            &self.metrics,
            Some(&now),
            (self.threads, &self.tell),
        ))
        .await;
    }

    /// Watches the workers that took the place of others.
    async fn look_after(&self, before: PoolSettings, workers: Vec<Name>, tally: Tally) {
        let name = Name::clone(before.name());
        let Some(new) = pool(&self.now(), &name).cloned() else { return };
        let was_there = before.workers();
        let fresh: Vec<Name> = workers.iter().filter(|worker| !was_there.contains(worker)).cloned().collect();
        let begun = Instant::now();
        let is_ours = |reloader: &Self| pool(&reloader.now(), &name).is_some_and(|now| now.workers() == workers);
        loop {
            tokio::time::sleep(LOOK).await;
            if !is_ours(self) {
                return self.end(&name, &workers, Stage::Overtaken, None);
            }
            let failed = new.fails_since(tally);
            let failed = failed.map(|found| format!("{} of {} requests failed", found.faults, found.requests));
            if let Some(cause) = failed.or_else(|| new.failing_among(&fresh)) {
                // Those may have been stopped by now, and an answer from a bad worker is better than none.
                if before.probe().await.is_err() {
                    return self.end(&name, &workers, Stage::Stuck, Some(cause));
                }
                self.learn_again(&before).await;
                let _turn = self.turn.lock().await;
                if !is_ours(self) {
                    return self.end(&name, &workers, Stage::Overtaken, None);
                }
                self.put_workers(&before).await;
                return self.end(&name, &workers, Stage::RolledBack, Some(cause));
            }
            if begun.elapsed() >= new.watch() {
                return self.end(&name, &workers, Stage::Kept, None);
            }
        }
    }

    /// Tells of pools whose workers stay although the files name others.
    pub(super) fn tell_kept(&self, swapped: &[Name]) {
        let now = self.now();
        for pool in swapped.iter().filter_map(|name| pool(&now, name)) {
            let (workers, named) = (list(&pool.workers()), list(pool.named_workers()));
            let fields = [("pool", &**pool.name()), ("workers", &workers), ("named", &named), ("note", NOTE)];
            self.log.event("pool-stays-swapped", &fields);
        }
    }

    /// Tells of swaps that were settled, and whose workers a reload has replaced.
    pub(super) fn tell_overtaken(&self) {
        let now = self.now();
        let is_over = |name: &str, swap: &Swap| {
            swap.stage == Stage::Kept && pool(&now, name).is_none_or(|pool| pool.workers() != swap.workers)
        };
        let over: Vec<(Name, Vec<Name>)> = {
            let swaps = self.swaps.borrow();
            let over = swaps.iter().filter(|(name, swap)| is_over(name, swap));
            over.map(|(name, swap)| (Name::from(&**name), swap.workers.clone())).collect()
        };
        for (name, workers) in over {
            self.end(
                &name,
                &workers,
                Stage::Overtaken,
                Some("the files say something new of the pool, and name other workers".into()),
            );
        }
    }

    fn end(&self, name: &Name, workers: &[Name], stage: Stage, cause: Option<String>) {
        let event = match stage {
            Stage::Watched | Stage::Kept => "pool-swap-kept",
            Stage::RolledBack => "pool-swap-rolled-back",
            Stage::Stuck => "pool-swap-stuck",
            Stage::Overtaken => "pool-swap-overtaken",
        };
        let mut fields = vec![("pool", &**name)];
        fields.extend(cause.as_deref().map(|cause| ("cause", cause)));
        self.log.event(event, &fields);
        let mut swaps = self.swaps.borrow_mut();
        if let Some(swap) = swaps.get_mut(&**name).filter(|swap| swap.workers == workers) {
            (swap.stage, swap.cause) = (stage, cause);
        }
    }
}
