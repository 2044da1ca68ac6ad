//! How much one window admits for some callers.

use std::sync::Arc;

/// How much one window admits, for some callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units.
    pub quota: u64,
    /// What answers call it: `"name";q=10;w=60`.
    pub policy_item: Box<str>,
}

/// What one credential may in place of what others may: rates, by the position of their limit.
#[derive(Clone, Debug, Default)]
pub struct Quotas(Option<Arc<[(usize, Rate)]>>);

impl Quotas {
    /// Those of a credential; as good as nothing where there are none.
    #[must_use]
    pub fn new(rates: Vec<(usize, Rate)>) -> Self {
        Self((!rates.is_empty()).then(|| rates.into()))
    }

    /// These and those of another credential; of two for one limit, the smaller.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let (Some(mine), Some(theirs)) = (&self.0, &other.0) else {
            return if self.0.is_some() { self.clone() } else { other.clone() };
        };
        let mut rates: Vec<(usize, Rate)> = mine.to_vec();
        for (limit, rate) in theirs.iter() {
            match rates.iter_mut().find(|(index, _)| index == limit) {
                Some((_, mine)) if mine.quota <= rate.quota => {}
                Some((_, mine)) => *mine = rate.clone(),
                None => rates.push((*limit, rate.clone())),
            }
        }
        Self::new(rates)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The rate of the limit at a position.
    #[must_use]
    pub fn of(&self, limit: usize) -> Option<&Rate> {
        let (_, rate) = self.0.as_deref()?.iter().find(|(index, _)| *index == limit)?;
        Some(rate)
    }
}
