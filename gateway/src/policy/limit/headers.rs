//! What an answer says about the limits that its request met.
//!
//! Source: draft-ietf-httpapi-ratelimit-headers-11. Limits on requests, octets and requests in flight stand in
//! `RateLimit-Policy` and `RateLimit`, the tightest first. Rows and what an answer names have no unit that is
//! registered there; they stand in `X-Row-Budget` and `X-Answer-Budget`, written alike.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Demand;
use super::cost::Cost;
use super::window::Standing;

/// `RateLimit-Policy`.
pub static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit`.
pub static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
static X_ROW_BUDGET: HeaderName = HeaderName::from_static("x-row-budget");
static X_ANSWER_BUDGET: HeaderName = HeaderName::from_static("x-answer-budget");
static X_RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Whole seconds, rounded up.
#[must_use]
pub fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000)
}

/// The headers, ready to be put in place.
#[derive(Debug)]
pub struct RateHeaders {
    policy: String,
    state: String,
    rows: String,
    answers: String,
    /// Quota, what remains and seconds, of the tightest limit that says so in the older way.
    tightest: Option<[u64; 3]>,
}

impl RateHeaders {
    /// What the standings of these limits say.
    #[must_use]
    pub fn new(demands: &[Demand<'_>], standings: &[Standing]) -> Self {
        let mut order: [usize; super::MOST_LIMITS] = std::array::from_fn(|index| index);
        let count = demands.len().min(standings.len()).min(order.len());
        let order = order.get_mut(..count).unwrap_or_default();
        let row = |index: usize| Some((demands.get(index)?, standings.get(index)?));
        // The tightest is the one that would refuse first if more of the same came.
        order.sort_by_key(|&index| {
            row(index).map(|(demand, standing)| demand.rate.quota.saturating_sub(standing.used) / demand.cost.max(1))
        });
        let room = 48 * count;
        let mut headers = Self {
            policy: String::with_capacity(room),
            state: String::with_capacity(room),
            rows: String::new(),
            answers: String::new(),
            tightest: None,
        };
        for (demand, standing) in order.iter().filter_map(|&index| row(index)) {
            // What is only tried out is not said.
            if demand.is_enforced() && standing.is_known() {
                headers.add(demand, standing);
            }
        }
        headers
    }

    /// Adds what others say.
    pub fn join(&mut self, other: Self) {
        for (ours, theirs) in [
            (&mut self.policy, other.policy),
            (&mut self.state, other.state),
            (&mut self.rows, other.rows),
            (&mut self.answers, other.answers),
        ] {
            if ours.is_empty() {
                *ours = theirs;
            } else if !theirs.is_empty() {
                ours.push_str(", ");
                ours.push_str(&theirs);
            }
        }
        self.tightest = self.tightest.or(other.tightest);
    }

    fn add(&mut self, demand: &Demand<'_>, standing: &Standing) {
        let (name, item) = (&demand.limit.name, &demand.rate.policy_item);
        let remaining = demand.rate.quota.saturating_sub(standing.used);
        let separate = |text: &mut String| {
            if !text.is_empty() {
                text.push_str(", ");
            }
        };
        let own = match &demand.limit.cost {
            Cost::Rows(_) => &mut self.rows,
            Cost::Answer(_) => &mut self.answers,
            Cost::Requests | Cost::Bytes => {
                separate(&mut self.policy);
                self.policy.push_str(item);
                separate(&mut self.state);
                // Written in pieces, because every answer passes here.
                let mut number = itoa::Buffer::new();
                for piece in ["\"", name, "\";r=", number.format(remaining)] {
                    self.state.push_str(piece);
                }
                if !demand.limit.in_flight {
                    self.state.push_str(";t=");
                    self.state.push_str(number.format(seconds(standing.reset)));
                }
                if demand.limit.legacy {
                    self.tightest.get_or_insert([demand.rate.quota, remaining, seconds(standing.reset)]);
                }
                return;
            }
        };
        separate(own);
        // Writing to a string never fails.
        let _ = write!(own, "{item};r={remaining};t={}", seconds(standing.reset));
    }

    /// Puts the headers in place.
    pub fn apply(self, headers: &mut HeaderMap) {
        // What changes with each answer is kept out of HPACK's table (RFC 7541 §6.2.3).
        let mut put = |name, mut value: HeaderValue, changes| {
            value.set_sensitive(changes);
            headers.insert(name, value);
        };
        let texts = [
            (&RATE_LIMIT_POLICY, self.policy, false),
            (&RATE_LIMIT, self.state, true),
            (&X_ROW_BUDGET, self.rows, true),
            (&X_ANSWER_BUDGET, self.answers, true),
        ];
        for (name, text, changes) in texts {
            if !text.is_empty()
                && let Ok(value) = HeaderValue::try_from(text)
            {
                put(name, value, changes);
            }
        }
        if let Some([quota, remaining, reset]) = self.tightest {
            put(&X_RATE_LIMIT_LIMIT, quota.into(), false);
            put(&X_RATE_LIMIT_REMAINING, remaining.into(), true);
            put(&X_RATE_LIMIT_RESET, reset.into(), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cost::Size;
    use super::super::tests::limit;
    use super::*;

    fn demand_of(limits: &[std::sync::Arc<super::super::Limit>], size: Size) -> Vec<Demand<'_>> {
        limits.iter().map(|limit| Demand::new(limit, None, size)).collect()
    }

    #[test]
    fn headers_name_the_tightest_first() {
        let base = "by = [\"address\"]\nstore_lost = \"deny\"\nwindow = \"60s\"\n";
        let limits = [
            "quota = 60",
            "quota = 10",
            "quota = 1000\ncost = \"bytes\"",
            "quota = 500\ncost = \"rows\"",
            "quota = 1\nwhen_full = \"shadow\"",
        ]
        .map(|toml| limit(&format!("{base}{toml}")));
        let demands = demand_of(&limits, Size { bytes: 100, rows: 3 });
        let standing = |used, reset| Standing { full: false, used, reset, retry: 0 };
        let standings = [
            standing(1, 59_000_001),
            standing(1, 1),
            standing(800, 30_000_000),
            standing(3, 60_000_000),
            standing(1, 5),
        ];
        let headers = RateHeaders::new(&demands, &standings);
        let mut map = HeaderMap::new();
        headers.apply(&mut map);
        for (name, value) in [
            ("ratelimit-policy", "\"test\";q=1000;w=60;qu=\"content-bytes\", \"test\";q=10;w=60, \"test\";q=60;w=60"),
            ("ratelimit", "\"test\";r=200;t=30, \"test\";r=9;t=1, \"test\";r=59;t=60"),
            ("x-row-budget", "\"test\";q=500;w=60;r=497;t=60"),
            ("x-ratelimit-limit", "1000"),
            ("x-ratelimit-remaining", "200"),
            ("x-ratelimit-reset", "30"),
        ] {
            assert_eq!(map[name], value);
        }
        assert_eq!(map.len(), 6);
    }
}
