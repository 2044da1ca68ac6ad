//! A candidate's workers in the place of a pool's own, and what of a swap outlives a reload.
//!
//! The candidate is the pool that a canary or a shadow names. Once its workers serve there is nothing left to try, so
//! the canary and the shadow rest until the files say something new of the pool. Pure: nobody is asked here.

use std::sync::Arc;

use serde::Deserialize;

use super::report::Thresholds;
use super::settings::{PoolSettings, WorkerSettings};
use super::standing::Known;
use crate::types::Name;

/// Which candidate is meant, where a pool has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// The one that answers some callers.
    Canary,
    /// The one that gets copies.
    Shadow,
}

impl PoolSettings {
    /// The pool that is tried in this one.
    ///
    /// # Errors
    /// What to write or to ask for, where there is none or two.
    pub fn candidate<'p>(&self, pools: &'p [Self], which: Option<Which>) -> Result<&'p Self, String> {
        let name = &self.name;
        let canary = self.canary.as_ref().map(|canary| canary.to).filter(|_| which != Some(Which::Shadow));
        let shadow = self.shadow.as_ref().map(|shadow| shadow.to).filter(|_| which != Some(Which::Canary));
        let to = match (canary, shadow) {
            (Some(canary), Some(shadow)) if canary != shadow => {
                return Err("its canary and its shadow are two pools: say which with --canary or --shadow".into());
            }
            (Some(to), _) | (None, Some(to)) => to,
            (None, None) => {
                let table = match which {
                    Some(Which::Canary) => format!("[pools.{name}.canary]"),
                    Some(Which::Shadow) => format!("[pools.{name}.shadow]"),
                    None => format!("[pools.{name}.canary] or [pools.{name}.shadow]"),
                };
                return Err(format!("nothing is tried there: write {table} into the configuration"));
            }
        };
        pools.get(to).ok_or_else(|| "its candidate is gone".into())
    }

    /// The pool with its candidate's workers, which nobody knows yet here: its own settings hold for them.
    ///
    /// # Errors
    /// What stands against it.
    pub fn promoting(&self, candidate: &Self) -> Result<Self, Vec<String>> {
        let wrong: Vec<String> = candidate.workers.iter().filter_map(|worker| self.can_reach(worker).err()).collect();
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let workers = candidate.workers.iter().map(|worker| {
            let known = Arc::new(Known::new(Name::clone(&worker.label), 0));
            WorkerSettings { known, ..worker.clone() }
        });
        Ok(Self { workers: workers.collect(), promoted: Some(Name::clone(&candidate.name)), ..self.clone() })
    }

    /// What the copies of its requests have not shown yet, of what is asked of them.
    #[must_use]
    pub fn unmet(&self, thresholds: &Thresholds) -> Vec<String> {
        let Some(shadow) = &self.shadow else {
            return vec![format!("nothing is copied: write [pools.{}.shadow] into the configuration", self.name)];
        };
        shadow.report.unmet(thresholds)
    }

    /// Whether it has other workers than the files name.
    #[must_use]
    pub fn is_swapped(&self) -> bool {
        self.promoted.is_some() || *self.workers() != *self.written.workers
    }

    /// The candidate whose workers were promoted, since when it has neither canary nor shadow.
    #[must_use]
    pub fn promoted(&self) -> Option<&Name> {
        self.promoted.as_ref()
    }

    /// The workers that the files name.
    #[must_use]
    pub fn named_workers(&self) -> &[Name] {
        &self.written.workers
    }

    /// Leaves in pools that were just read the workers that were swapped in, where the files say of the pool what they
    /// said then. Gives back which those pools are.
    pub fn keep_swapped(pools: &mut [Self], now: &[Self]) -> Vec<Name> {
        let mut kept = Vec::new();
        for pool in pools {
            let old = now.iter().find(|old| old.name == pool.name && old.is_swapped());
            if let Some(old) = old.filter(|old| old.written.digest.matches(&pool.written.digest)) {
                *pool = pool.with_workers_of(old);
                kept.push(Name::clone(&pool.name));
            }
        }
        kept
    }

    /// Goes on with the reports of those that served before, where the same workers are compared. What was found of
    /// others says nothing of these.
    pub(super) fn keep_reports(pools: &mut [Self], before: &[Self]) {
        let workers: Vec<Vec<Name>> = pools.iter().map(Self::workers).collect();
        for (pool, own) in pools.iter_mut().zip(&workers) {
            let Some(old) = before.iter().find(|old| old.name == pool.name) else { continue };
            let (Some(shadow), Some(old_shadow)) = (&mut pool.shadow, &old.shadow) else { continue };
            let old_candidate = before.get(old_shadow.to).map(Self::workers);
            // After a promotion the report stays, to be read.
            let is_same_live = pool.promoted.is_some() || *own == old.workers();
            if shadow.name == old_shadow.name && is_same_live && workers.get(shadow.to) == old_candidate.as_ref() {
                shadow.report = Arc::clone(&old_shadow.report);
            }
        }
    }
}
