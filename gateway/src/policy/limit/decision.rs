//! What is asked of limits for one request, what a store answers, and what becomes of it: evidence, or a refusal.

use std::sync::Arc;

use super::cost::Size;
use super::headers::{self, RateHeaders};
use super::window::Standing;
use super::{Limit, MOST_LIMITS, WhenFull};
use crate::types::{Name, Principal, Rate};

/// What one limit is asked for one request.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The limit.
    pub limit: &'a Arc<Limit>,
    /// How much this caller may.
    pub rate: &'a Rate,
    /// What the request costs.
    pub cost: u64,
}

impl<'a> Demand<'a> {
    /// What a limit is asked for a request.
    #[must_use]
    pub fn new(limit: &'a Arc<Limit>, principal: Option<&'a Principal>, size: Size) -> Self {
        Self { limit, rate: limit.rate(principal), cost: limit.cost.units(size) }
    }

    /// Whether the limit holds what it does not admit at once.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self.limit.when_full, WhenFull::Throttle { .. })
    }

    /// Whether the limit is asked in earnest.
    #[must_use]
    pub fn is_enforced(&self) -> bool {
        self.limit.when_full != WhenFull::Shadow
    }
}

/// What a store answers for all limits of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request was admitted, and so counted by every limit that had room.
    pub admitted: bool,
    /// The store's time in microseconds.
    pub at: u64,
    /// One for each limit, in their order, after the request was counted if it was.
    standings: [Standing; MOST_LIMITS],
    count: usize,
}

impl Decision {
    /// A decision without any standing.
    #[must_use]
    pub fn new(admitted: bool, at: u64) -> Self {
        Self { admitted, at, ..Self::default() }
    }

    /// Adds the next limit's standing.
    pub fn push(&mut self, standing: Standing) {
        if let Some(place) = self.standings.get_mut(self.count) {
            *place = standing;
            self.count += 1;
        }
    }

    /// The limits' standings, in their order.
    #[must_use]
    pub fn standings(&self) -> &[Standing] {
        self.standings.get(..self.count).unwrap_or_default()
    }

    /// The same, to be changed.
    pub fn standings_mut(&mut self) -> &mut [Standing] {
        self.standings.get_mut(..self.count).unwrap_or_default()
    }
}

/// Evidence that every limit admitted the request, or that the policy lets it pass uncounted. Made here and in
/// [`Admission::uncounted`] alone.
#[derive(Debug)]
pub struct Admission {
    headers: Option<RateHeaders>,
}

/// Why limits refuse, and when to come again.
#[derive(Debug)]
pub struct Refusal {
    /// The limits that are full.
    pub violated: Vec<Name>,
    /// Whole seconds, rounded up, until the same request would be admitted; `None` where it never would, because
    /// it costs more than a whole window admits.
    pub retry_after: Option<u64>,
    /// What a request may cost at most, and what this one does, where it never would be admitted.
    pub too_dear: Option<TooDear>,
    /// What the answer says about all limits.
    pub headers: RateHeaders,
}

/// A request that costs more than a whole window admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TooDear {
    /// What it costs.
    pub cost: u64,
    /// What one window admits.
    pub quota: u64,
    /// Of what.
    pub noun: &'static str,
}

impl Admission {
    /// Turns a store's decision into evidence or a refusal.
    ///
    /// # Errors
    /// [`Refusal`], where the store did not admit.
    pub fn from_decision(demands: &[Demand<'_>], decision: &Decision) -> Result<Self, Box<Refusal>> {
        if decision.admitted {
            let headers = (!demands.is_empty()).then(|| RateHeaders::new(demands, decision.standings()));
            return Ok(Self { headers });
        }
        let full = || {
            let all = demands.iter().zip(decision.standings());
            all.filter(|(demand, standing)| standing.full && demand.is_enforced())
        };
        let too_dear = full().find(|(demand, _)| demand.cost > demand.rate.quota).map(|(demand, _)| TooDear {
            cost: demand.cost,
            quota: demand.rate.quota,
            noun: demand.limit.cost.noun(),
        });
        let retry = full().map(|(_, standing)| standing.retry).max().unwrap_or(0);
        Err(Box::new(Refusal {
            violated: full().map(|(demand, _)| Name::clone(&demand.limit.name)).collect(),
            retry_after: too_dear.is_none().then(|| headers::seconds(retry).max(1)),
            too_dear,
            headers: RateHeaders::new(demands, decision.standings()),
        }))
    }

    /// Admitted without being counted, because the policy says so for a lost store.
    #[must_use]
    pub fn uncounted() -> Self {
        Self { headers: None }
    }

    /// The evidence, and apart from it what the answer says about the limits.
    #[must_use]
    pub fn split(self) -> (Self, Option<RateHeaders>) {
        (Self { headers: None }, self.headers)
    }

    /// What the answer says about the limits.
    #[must_use]
    pub fn into_headers(self) -> Option<RateHeaders> {
        self.headers
    }
}
