//! How often? True sliding windows, and what an answer says about them.
//!
//! Source: draft-ietf-httpapi-ratelimit-headers-11, RFC 6585 §4. In every interval of one window's
//! length at most `quota` requests are admitted, and none is refused while fewer were admitted in the
//! last window: times of admission are kept, not counts per calendar minute. A refused request leaves
//! no trace. [`Window`] is the arithmetic; the in-process store uses it as it is, and the Redis script
//! is tested against it.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, header::HeaderName};

use crate::settings::{Named, Section};
use crate::types::{AddressBucket, Name};

/// The largest quota of one limit: each admitted request is one remembered time.
pub const MOST_QUOTA: u32 = 100_000;
/// How many limits one route can have.
pub const MOST_LIMITS: usize = 8;

/// What happens to a limit's requests while the store can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreLost {
    /// They are refused with 503.
    Deny,
    /// They are admitted uncounted.
    Allow,
    /// They are counted in this process alone.
    Local,
}

impl Named for StoreLost {
    const SHAPE: &'static str = "\"deny\", \"allow\" or \"local\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("deny", Self::Deny), ("allow", Self::Allow), ("local", Self::Local)];
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    Principal,
    Route,
}

impl Named for By {
    const SHAPE: &'static str = "\"address\", \"principal\" or \"route\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("address", Self::Address), ("principal", Self::Principal), ("route", Self::Route)];
}

/// Who shares one window: everybody with the same address, principal and route, as far as each counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Apart by client address.
    pub address: bool,
    /// Apart by principal.
    pub principal: bool,
    /// Apart by route.
    pub route: bool,
}

impl Scope {
    /// Whether a request without a proven principal can be counted.
    #[must_use]
    pub fn only_address(self) -> bool {
        self.address && !self.principal
    }
}

/// One `[limits.NAME]`, compiled.
#[derive(Debug)]
pub struct Limit {
    /// Its name in TOML, in headers, logs and metrics.
    pub name: Name,
    /// How many requests one window admits.
    pub quota: u32,
    /// The window's length in microseconds.
    pub window: u64,
    /// Who shares a window.
    pub scope: Scope,
    /// What a lost store means.
    pub store_lost: StoreLost,
    /// `"name";q=10;w=60`.
    policy_item: Box<str>,
}

/// The limits of a policy by name.
pub type Limits = HashMap<Name, Arc<Limit>>;

/// Reads every `[limits.NAME]`.
#[must_use]
pub fn compile_all(root: &Section<'_>) -> Limits {
    let mut limits = HashMap::new();
    for section in root.sections("limits") {
        if let Some(limit) = Limit::compile(&section) {
            limits.insert(section.name(), Arc::new(limit));
        }
        section.finish();
    }
    limits
}

/// Reads a list of limits by name; `None` where the key is absent.
#[must_use]
pub fn references(section: &Section<'_>, limits: &Limits) -> Option<Vec<Arc<Limit>>> {
    if !section.has("limits") {
        return None;
    }
    let mut found: Vec<Arc<Limit>> = Vec::new();
    for (index, name) in section.list::<String>("limits") {
        match limits.get(name.as_str()) {
            Some(limit) if found.iter().any(|other| Arc::ptr_eq(other, limit)) => {
                section.mistake_at("limits", index, "is named twice", "name it once");
            }
            Some(limit) => found.push(Arc::clone(limit)),
            None => {
                let defined: Vec<&str> = limits.keys().map(|name| &**name).collect();
                section.undefined("limits", Some(index), ("limit", "limits"), &name, &defined);
            }
        }
    }
    if found.len() > MOST_LIMITS {
        section.mistake("limits", format!("names more than {MOST_LIMITS} limits"), "name fewer");
    }
    Some(found)
}

impl Limit {
    fn compile(section: &Section<'_>) -> Option<Self> {
        let name = section.name();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            section.mistake_here("has a name that can't stand in a header", "use letters, digits, -, _ and .");
        }
        let quota: Option<u32> = section.required("quota", "write how many requests one window admits");
        if let Some(quota) = quota.filter(|quota| !(1..=MOST_QUOTA).contains(quota)) {
            section.mistake("quota", format!("is {quota}"), format!("write a number from 1 to {MOST_QUOTA}"));
        }
        let window: Option<Duration> = section.required("window", "write the window's length, such as \"60s\"");
        match window {
            Some(window) if window.subsec_millis() != 0 => {
                let reason = format!("is {window:?}, and headers give windows in whole seconds");
                section.mistake("window", reason, "write whole seconds");
            }
            Some(window) if window.as_secs() > 31 * 86_400 => {
                section.mistake("window", "is longer than 31 days", "write at most \"31d\"");
            }
            Some(_) | None => {}
        }
        let mut scope = Scope::default();
        for by in section.all::<By>("by") {
            match by {
                By::Address => scope.address = true,
                By::Principal => scope.principal = true,
                By::Route => scope.route = true,
            }
        }
        if scope == Scope::default() {
            section.missing(
                "by",
                "write what is counted apart: by = [\"address\"], [\"principal\"] or [\"route\"], or several of them",
            );
        }
        let store_lost = section.optional::<StoreLost>("store_lost");
        if !section.has("store_lost") {
            section.missing(
                "store_lost",
                "write what a lost store means: \"deny\", \"allow\" or \"local\" (counted in this process alone)",
            );
        }
        let (quota, window) = (quota?, window?);
        Some(Self {
            policy_item: format!("\"{name}\";q={quota};w={}", window.as_secs()).into(),
            name,
            quota,
            window: u64::try_from(window.as_micros()).unwrap_or(u64::MAX),
            scope,
            store_lost: store_lost.unwrap_or(StoreLost::Deny),
        })
    }
}

/// Whose request is counted.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's address.
    pub address: AddressBucket,
    /// The principal's id; empty where none is proven.
    pub principal: &'a Name,
    /// The route's name.
    pub route: &'a Name,
}

/// Where one limit stands after a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many more requests would be admitted now.
    pub remaining: u32,
    /// Microseconds until one more than that would be; 0 where nothing was admitted in the last window.
    pub reset: u64,
}

impl Standing {
    /// Whether this limit would refuse.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.remaining == 0
    }
}

/// What a store answers for all limits of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request was admitted, and so counted by every limit.
    pub admitted: bool,
    /// One for each limit, in their order, after the request was counted if it was.
    pub standings: Vec<Standing>,
}

impl Decision {
    /// Reads the script's answer: admitted, then what remains and the reset of each limit.
    #[must_use]
    pub fn read(answer: &[u64], limits: usize) -> Option<Self> {
        let (&admitted, rows) = answer.split_first()?;
        if rows.len() != 2 * limits {
            return None;
        }
        let standings = rows.chunks_exact(2).map(|row| {
            let &[remaining, reset] = row else { return Standing::default() };
            Standing { remaining: u32::try_from(remaining).unwrap_or(u32::MAX), reset }
        });
        Some(Self { admitted: admitted == 1, standings: standings.collect() })
    }

    /// Microseconds until the same request would be admitted if nothing else came.
    #[must_use]
    pub fn retry(&self) -> u64 {
        self.standings.iter().filter(|s| s.is_full()).map(|s| s.reset).max().unwrap_or(0)
    }
}

/// The times at which one window admitted, oldest first. Never more than the quota.
#[derive(Debug, Default)]
pub struct Window {
    admitted: VecDeque<u64>,
}

impl Window {
    /// Forgets what is older than one window: an admission at `t` counts until just before `t + window`.
    pub fn expire(&mut self, now: u64, window: u64) {
        while self.admitted.front().is_some_and(|&t| t.saturating_add(window) <= now) {
            self.admitted.pop_front();
        }
    }

    /// Where a limit stands. Call [`Window::expire`] first.
    #[must_use]
    pub fn standing(&self, limit: &Limit, now: u64) -> Standing {
        let used = u32::try_from(self.admitted.len()).unwrap_or(u32::MAX);
        let reset = self.admitted.front().map_or(0, |&t| t.saturating_add(limit.window).saturating_sub(now));
        Standing { remaining: limit.quota.saturating_sub(used), reset }
    }

    /// Counts an admission.
    pub fn record(&mut self, now: u64) {
        // Times must not fall: a clock that stepped back is read as standing still.
        let now = self.admitted.back().map_or(now, |&last| last.max(now));
        self.admitted.push_back(now);
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.admitted.is_empty()
    }
}

/// Evidence that every limit admitted the request. Made by [`Admission::from_decision`] alone.
#[derive(Debug)]
pub struct Admission {
    headers: Option<RateHeaders>,
}

/// Why limits refuse, and when to come again.
#[derive(Debug)]
pub struct Refusal {
    /// The limits that are full.
    pub violated: Vec<Name>,
    /// Whole seconds, rounded up, until the same request would be admitted.
    pub retry_after: u64,
    /// What the answer says about all limits.
    pub headers: RateHeaders,
}

impl Admission {
    /// Turns a store's decision into evidence or a refusal.
    ///
    /// # Errors
    /// [`Refusal`], where the store did not admit.
    pub fn from_decision(limits: &[Arc<Limit>], decision: &Decision) -> Result<Self, Refusal> {
        if decision.admitted {
            let headers = (!limits.is_empty()).then(|| RateHeaders::new(limits, decision));
            return Ok(Self { headers });
        }
        let full = limits.iter().zip(&decision.standings).filter(|(_, standing)| standing.is_full());
        Err(Refusal {
            violated: full.map(|(limit, _)| Name::clone(&limit.name)).collect(),
            retry_after: seconds(decision.retry()).max(1),
            headers: RateHeaders::new(limits, decision),
        })
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

fn seconds(micros: u64) -> u64 {
    micros.div_ceil(1_000_000)
}

/// `RateLimit-Policy` and `RateLimit`, the tightest limit first.
#[derive(Debug)]
pub struct RateHeaders {
    policy: HeaderValue,
    state: HeaderValue,
}

/// `RateLimit-Policy`.
pub static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// `RateLimit`.
pub static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

impl RateHeaders {
    fn new(limits: &[Arc<Limit>], decision: &Decision) -> Self {
        let mut rows: Vec<(&Arc<Limit>, &Standing)> = limits.iter().zip(&decision.standings).collect();
        rows.sort_by_key(|(_, standing)| standing.remaining);
        let (mut policy, mut state) = (String::new(), String::new());
        for (limit, standing) in rows {
            if !policy.is_empty() {
                policy.push_str(", ");
                state.push_str(", ");
            }
            policy.push_str(&limit.policy_item);
            // Writing to a string never fails.
            let _ = write!(state, "\"{}\";r={};t={}", limit.name, standing.remaining, seconds(standing.reset));
        }
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        Self { policy: value(policy), state: value(state) }
    }

    /// Puts both headers in place.
    pub fn apply(self, headers: &mut http::HeaderMap) {
        headers.insert(&RATE_LIMIT_POLICY, self.policy);
        headers.insert(&RATE_LIMIT, self.state);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::tests::with_section;
    use proptest::prelude::*;

    pub(crate) fn limit(quota: u32, window: &str) -> Limit {
        let toml =
            format!("[limits.test]\nquota = {quota}\nwindow = {window:?}\nby = [\"address\"]\nstore_lost = \"deny\"");
        let (limits, mistakes) = with_section(&toml, compile_all);
        assert_eq!(mistakes, []);
        limits.into_values().next().and_then(Arc::into_inner).expect("one limit")
    }

    #[test]
    fn the_window_slides() {
        let limit = limit(2, "10s");
        let mut window = Window::default();
        let mut ask = |at: u64| {
            window.expire(at, limit.window);
            let free = !window.standing(&limit, at).is_full();
            if free {
                window.record(at);
            }
            (free, window.standing(&limit, at))
        };
        let s = 1_000_000;
        assert_eq!(ask(0), (true, Standing { remaining: 1, reset: 10 * s }));
        assert_eq!(ask(9 * s), (true, Standing { remaining: 0, reset: s }));
        assert_eq!(ask(10 * s - 1), (false, Standing { remaining: 0, reset: 1 }));
        // At 10 s only the first left the window: a fixed window would admit two more here.
        assert_eq!(ask(10 * s), (true, Standing { remaining: 0, reset: 9 * s }));
        assert_eq!(ask(10 * s), (false, Standing { remaining: 0, reset: 9 * s }));
        assert_eq!(ask(19 * s), (true, Standing { remaining: 0, reset: s }));
    }

    #[test]
    fn headers_name_the_tightest_first() {
        let limits: Vec<Arc<Limit>> = [limit(60, "60s"), limit(10, "60s")].into_iter().map(Arc::new).collect();
        let standings = vec![Standing { remaining: 59, reset: 59_000_001 }, Standing { remaining: 9, reset: 1 }];
        let headers = RateHeaders::new(&limits, &Decision { admitted: true, standings });
        assert_eq!(headers.policy, "\"test\";q=10;w=60, \"test\";q=60;w=60");
        assert_eq!(headers.state, "\"test\";r=9;t=1, \"test\";r=59;t=60");
    }

    #[test]
    fn what_can_not_be_kept_is_a_mistake() {
        for (toml, count) in [
            ("quota = 0\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 100001\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"1500ms\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"32d\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"1s\"\nby = [\"adress\"]\nstore_lost = \"denied\"", 2),
            ("", 4),
        ] {
            let (_, mistakes) = with_section(&format!("[limits.test]\n{toml}"), compile_all);
            assert_eq!(mistakes.len(), count, "{toml}: {mistakes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_window_admits_more_and_none_refuses_early(quota in 1u32..6, steps in prop::collection::vec(0u64..4_000_000, 1..200)) {
            let limit = limit(quota, "5s");
            let mut window = Window::default();
            let mut admitted: Vec<u64> = Vec::new();
            let mut now = 0;
            for step in steps {
                now += step;
                window.expire(now, limit.window);
                let recent = admitted.iter().filter(|&&t| t + limit.window > now).count();
                let free = !window.standing(&limit, now).is_full();
                prop_assert_eq!(free, recent < quota as usize);
                if free {
                    window.record(now);
                    admitted.push(now);
                }
            }
        }
    }
}
