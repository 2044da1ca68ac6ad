//! How often, and how much? True sliding windows, and what an answer says about them.
//!
//! Source: draft-ietf-httpapi-ratelimit-headers-11, RFC 6585 §4. In every interval of one window's length at most
//! `quota` units are admitted, and a request is refused only where the last window holds too many for it. All
//! limits of a request are decided at once; a refusal leaves no trace. What a caller shares a window with is in
//! [`scope`], what a request costs in [`cost`], the arithmetic in [`window`], the words of the answer in
//! [`headers`]. Never reads a clock and never keeps a window: `edge::counter` does.

pub mod cost;
mod decision;
pub mod headers;
pub mod scope;
pub mod window;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::settings::{Named, Section};
use crate::types::{Name, Principal, Rate, Role};

use cost::Cost;
pub use decision::{Admission, Decision, Demand, Refusal, TooDear};
use scope::{By, Scope, Subject};
use window::Rule;

/// The largest quota.
pub const MOST_QUOTA: u64 = 1 << 40;
/// The largest quota of an exact window: its sums take two octets each, and its key half a MiB at most.
pub const MOST_EXACT: u64 = 65_535;
/// Up to here a window is exact where nobody says otherwise: its key takes 80 KiB at most.
pub const EXACT_BY_DEFAULT: u64 = 10_000;
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

/// How a window remembers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    Buckets,
}

impl Named for Form {
    const SHAPE: &'static str = "\"exact\" or \"buckets\"";
    const NAMES: &'static [(&'static str, Self)] = &[("exact", Self::Exact), ("buckets", Self::Buckets)];
}

/// Which requests stay counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Every one that was admitted.
    All,
    /// Those that failed for the client's doing: log-ins with a wrong password.
    Failures,
}

impl Named for Counts {
    const SHAPE: &'static str = "\"all\" or \"failures\"";
    const NAMES: &'static [(&'static str, Self)] = &[("all", Self::All), ("failures", Self::Failures)];
}

/// What becomes of a request for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    Refuse,
    /// It waits its turn for so long at most, one of so many, and is refused then.
    Throttle {
        /// The longest wait.
        max_delay: Duration,
        /// The most that wait for one window.
        max_held: usize,
    },
    /// It passes, and it is said that it would not have.
    Shadow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFullWord {
    Refuse,
    Throttle,
    Shadow,
}

impl Named for WhenFullWord {
    const SHAPE: &'static str = "\"refuse\", \"throttle\" or \"shadow\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("throttle", Self::Throttle), ("shadow", Self::Shadow)];
}

/// One `[limits.NAME]`, compiled.
#[derive(Debug)]
pub struct Limit {
    /// Its name in TOML, in headers, logs and metrics.
    pub name: Name,
    /// Its position among all limits by name.
    pub index: usize,
    /// How its windows count; without meaning for limits on requests in flight.
    pub rule: Rule,
    /// Whether it bounds requests in flight in place of those of a window.
    pub in_flight: bool,
    /// Who shares a window.
    pub scope: Scope,
    /// What is counted.
    pub cost: Cost,
    /// Which requests stay counted.
    pub counts: Counts,
    /// Whether what the worker failed to serve is given back.
    pub gives_back: bool,
    /// What happens where there is no room.
    pub when_full: WhenFull,
    /// What a lost store means.
    pub store_lost: StoreLost,
    /// Whether answers say `X-RateLimit-*` too.
    legacy: bool,
    /// How much of the quota this process admits while the store is lost, in hundredths.
    local_percent: u64,
    everybody: Rate,
    by_role: Box<[(Role, Rate)]>,
    by_principal: HashMap<Name, Rate>,
}

/// The limits of a policy by name.
pub type Limits = HashMap<Name, Arc<Limit>>;

/// Reads every `[limits.NAME]`. `roles` are the policy's, in their order; `legacy` asks for the older headers too.
#[must_use]
pub fn compile_all(root: &Section<'_>, roles: &[Name], legacy: bool) -> Limits {
    let mut limits = HashMap::new();
    for (index, section) in root.sections("limits").into_iter().enumerate() {
        if let Some(limit) = Limit::compile(&section, index, roles, legacy) {
            limits.insert(section.name(), Arc::new(limit));
        }
        section.finish();
    }
    limits
}

/// The headers beside `RateLimit` and its policy that these limits speak in, as CORS lists them.
#[must_use]
pub fn exposed(limits: &Limits) -> String {
    let any = |is_so: fn(&Limit) -> bool| limits.values().any(|limit| is_so(limit));
    let names = [
        (any(|it| matches!(it.cost, Cost::Rows(_))), "X-Row-Budget"),
        (any(|it| matches!(it.cost, Cost::Answer(_))), "X-Answer-Budget"),
        (any(|it| it.legacy), "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset"),
    ];
    names.iter().filter(|(is_so, _)| *is_so).map(|(_, names)| *names).collect::<Vec<_>>().join(", ")
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
    fn compile(section: &Section<'_>, index: usize, roles: &[Name], legacy: bool) -> Option<Self> {
        let name = section.name();
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            section.mistake_here("has a name that can't stand in a header", "use letters, digits, - and _, and .");
        }
        let in_flight = section.has("in_flight");
        let quota = if in_flight { Self::in_flight(section) } else { quota(section, "quota") };
        let window = if in_flight { Some(Duration::ZERO) } else { window(section) };
        let scope = Scope::compile(section);
        let cost = if in_flight { Cost::Requests } else { Cost::compile(section) };
        let seconds = (!in_flight).then(|| window.unwrap_or_default().as_secs());
        let item = |quota: u64| rate(&name, seconds, &cost, quota);
        let by_role: Vec<(Role, Rate)> = overrides(section, "roles")
            .into_iter()
            .filter_map(|(role, quota)| {
                let position = roles.iter().position(|name| **name == *role);
                if position.is_none() {
                    let defined: Vec<&str> = roles.iter().map(|name| &**name).collect();
                    section.undefined("roles", None, ("role", "roles"), &role, &defined);
                }
                Some((position.and_then(Role::new)?, item(quota)))
            })
            .collect();
        let by_principal: HashMap<Name, Rate> = overrides(section, "principals")
            .into_iter()
            .map(|(principal, quota)| (Name::from(principal), item(quota)))
            .collect();
        let quotas = by_role.iter().map(|(_, rate)| rate.quota).chain(by_principal.values().map(|rate| rate.quota));
        let most = quotas.clone().max().unwrap_or(0).max(quota.unwrap_or(0));
        if let (Cost::Answer(answer), Some(least)) = (&cost, quotas.chain(quota).min())
            && !(1..=least).contains(&answer.reserve)
            && section.has("reserve")
        {
            let (reason, remedy) = if answer.reserve == 0 {
                ("is 0, so that any number could be asked at once", "write what an answer costs as a rule".to_owned())
            } else {
                ("is more than the quota, so that nothing would be admitted", format!("write at most {least}"))
            };
            section.mistake("reserve", reason, remedy);
        }
        let micros = window.map_or(0, |window| u64::try_from(window.as_micros()).unwrap_or(u64::MAX));
        let rule =
            if in_flight { Rule { window: 0, grain: 1, wide: false } } else { form(section, most, micros, &cost) };
        let counts = section.or("count", Counts::All);
        let gives_back = section.or("give_back", false);
        if in_flight && scope.has(&By::User) {
            let reason = "counts requests in flight by user, who is not known yet when a place is taken";
            section.mistake("by", reason, "write by = [\"address\"]");
        }
        if in_flight && (section.has("count") || section.has("give_back")) {
            let reason = "stands beside `in_flight`, whose places are given back anyway";
            section.mistake(if section.has("count") { "count" } else { "give_back" }, reason, "remove it");
        }
        if scope.has(&By::User) && !scope.has(&By::Address) {
            section.mistake(
                "by",
                "counts log-ins by user and not by address, so that anybody could lock a user out",
                "write by = [\"address\", \"user\"]",
            );
        }
        let when_full = when_full(section, in_flight);
        let (store_lost, local_percent) = store_lost(section, in_flight);
        let everybody = item(quota.unwrap_or(1));
        (quota.is_some() && window.is_some()).then_some(())?;
        Some(Self {
            name,
            index,
            rule,
            in_flight,
            scope,
            cost,
            counts,
            gives_back,
            when_full,
            store_lost,
            legacy,
            local_percent,
            everybody,
            by_role: by_role.into(),
            by_principal,
        })
    }

    fn in_flight(section: &Section<'_>) -> Option<u64> {
        for key in ["quota", "window", "cost", "form", "buckets", "store_lost"] {
            if section.has(key) {
                section.mistake(
                    key,
                    "stands beside `in_flight`, which counts requests in flight in this process alone",
                    "remove one of the two",
                );
            }
        }
        quota(section, "in_flight")
    }

    /// How much a caller may: what its credential says, else what stands for the principal, else the most of what
    /// stands for its roles, else what everybody may.
    #[must_use]
    pub fn rate<'a>(&'a self, principal: Option<&'a Principal>) -> &'a Rate {
        let Some(principal) = principal else { return &self.everybody };
        if let Some(rate) = principal.quotas.of(self.index) {
            return rate;
        }
        if !self.by_principal.is_empty()
            && let Some(rate) = self.by_principal.get(&principal.id)
        {
            return rate;
        }
        let held = self.by_role.iter().filter(|(role, _)| principal.roles.contains(*role));
        held.map(|(_, rate)| rate).max_by_key(|rate| rate.quota).unwrap_or(&self.everybody)
    }

    /// The quotas that a credential can have of its own, as the window counts now.
    #[must_use]
    pub fn own_quotas(&self) -> RangeInclusive<u64> {
        let most = if self.in_flight || self.rule.wide && self.rule.grain > 1 { MOST_QUOTA } else { MOST_EXACT };
        let least = if let Cost::Answer(answer) = &self.cost { answer.reserve } else { 1 };
        least..=most.max(least)
    }

    /// What a credential may that has a quota of its own: the nearest that the window can count.
    #[must_use]
    pub fn own_rate(&self, quota: u64) -> Rate {
        let (least, most) = self.own_quotas().into_inner();
        let seconds = (!self.in_flight).then_some(self.rule.window / 1_000_000);
        rate(&self.name, seconds, &self.cost, quota.clamp(least, most))
    }

    /// How much a principal of this id may, where that does not hang on its roles.
    #[must_use]
    pub fn quota_of(&self, principal: Option<&str>) -> Option<u64> {
        let own = principal.and_then(|id| self.by_principal.get(id));
        own.map(|rate| rate.quota).or(self.by_role.is_empty().then_some(self.everybody.quota))
    }

    /// How much of a quota this process admits by itself: at least one unit.
    #[must_use]
    pub fn local_quota(&self, quota: u64) -> u64 {
        (quota * self.local_percent / 100).max(1)
    }

    /// Whether a request may get back what it was charged.
    #[must_use]
    pub fn may_return(&self) -> bool {
        self.gives_back || self.counts == Counts::Failures || matches!(self.cost, Cost::Answer(_))
    }

    /// Writes the name of a subject's window: `x60:predict:principal=key%3Ateam-a`. The letter says how it remembers,
    /// the number for how many seconds: one that remembers otherwise is another window.
    pub fn write_key(&self, subject: &Subject<'_>, key: &mut Vec<u8>) {
        key.push(if self.rule.wide { b'w' } else { b'x' });
        key.extend_from_slice(itoa::Buffer::new().format(self.rule.window / 1_000_000).as_bytes());
        key.push(b':');
        key.extend_from_slice(self.name.as_bytes());
        self.scope.write(subject, key);
    }
}

/// A quota, with its item in `RateLimit-Policy`: for a window of so many seconds, or for requests in flight.
fn rate(name: &str, seconds: Option<u64>, cost: &Cost, quota: u64) -> Rate {
    let item = match seconds {
        None => format!("\"{name}\";q={quota};qu=\"concurrent-requests\""),
        Some(seconds) => format!("\"{name}\";q={quota};w={seconds}{}", cost.registered_unit().unwrap_or_default()),
    };
    Rate { quota, policy_item: item.into() }
}

fn quota(section: &Section<'_>, key: &str) -> Option<u64> {
    let quota: Option<u64> = section.required(key, "write how many requests one window admits");
    if let Some(quota) = quota.filter(|quota| !(1..=MOST_QUOTA).contains(quota)) {
        section.mistake(key, format!("is {quota}"), format!("write a number from 1 to {MOST_QUOTA}"));
    }
    quota
}

fn window(section: &Section<'_>) -> Option<Duration> {
    let window: Option<Duration> = section.required("window", "write the window's length, such as \"60s\"");
    match window {
        Some(window) if window.subsec_millis() != 0 || window.is_zero() => {
            let reason = format!("is {window:?}, and headers give windows in whole seconds");
            section.mistake("window", reason, "write whole seconds, one at least");
        }
        Some(window) if window.as_secs() > 31 * 86_400 => {
            section.mistake("window", "is longer than 31 days", "write at most \"31d\"");
        }
        Some(_) | None => {}
    }
    window
}

/// Quotas that are written for some: `[limits.NAME.roles]`.
fn overrides(section: &Section<'_>, key: &str) -> Vec<(String, u64)> {
    let Some(table) = section.section(key) else { return Vec::new() };
    let mut found = Vec::new();
    for name in table.keys() {
        found.extend(quota(&table, name).map(|quota| (name.to_owned(), quota)));
    }
    table.finish();
    found
}

/// Chooses how a window remembers.
fn form(section: &Section<'_>, most: u64, window: u64, cost: &Cost) -> Rule {
    let form = section.or("form", if most <= EXACT_BY_DEFAULT { Form::Exact } else { Form::Buckets });
    let buckets = section.or("buckets", 100_u64);
    if !(10..=10_000).contains(&buckets) {
        section.mistake("buckets", format!("is {buckets}"), "write a number from 10 to 10000");
    }
    if form == Form::Exact && section.has("buckets") {
        section.mistake("buckets", "stands at a window that is exact", "write form = \"buckets\", or remove it");
    }
    if form == Form::Exact && most > MOST_EXACT {
        section.mistake(
            "form",
            format!("is \"exact\", and the quota is more than {MOST_EXACT}"),
            "write form = \"buckets\", which never admits too much and refuses early by one bucket's share at most",
        );
    }
    let grain = if form == Form::Exact { 1 } else { window.div_ceil(buckets.max(1)).max(1) };
    // An answer may turn out to cost more than there was room for.
    Rule { window, grain, wide: most > MOST_EXACT || matches!(cost, Cost::Answer(_)) }
}

fn when_full(section: &Section<'_>, in_flight: bool) -> WhenFull {
    let word = section.or("when_full", WhenFullWord::Refuse);
    for key in ["max_delay", "max_held"] {
        if word != WhenFullWord::Throttle && section.has(key) {
            section.mistake(
                key,
                "says how to hold requests that are not held",
                "write when_full = \"throttle\", or remove it",
            );
        }
    }
    match word {
        WhenFullWord::Refuse => WhenFull::Refuse,
        WhenFullWord::Shadow => WhenFull::Shadow,
        WhenFullWord::Throttle => {
            if in_flight {
                section.mistake(
                    "when_full",
                    "is \"throttle\", and nobody knows when a request in flight ends",
                    "write \"refuse\" or \"shadow\"",
                );
            }
            let max_delay = section.or("max_delay", Duration::from_secs(1));
            if max_delay > Duration::from_mins(1) {
                section.mistake("max_delay", "is more than a minute", "write at most \"60s\"");
            }
            let max_held = section.or("max_held", 100_usize);
            if !(1..=10_000).contains(&max_held) {
                section.mistake("max_held", format!("is {max_held}"), "write a number from 1 to 10000");
            }
            WhenFull::Throttle { max_delay, max_held }
        }
    }
}

fn store_lost(section: &Section<'_>, in_flight: bool) -> (StoreLost, u64) {
    if in_flight {
        return (StoreLost::Local, 100);
    }
    let store_lost = section.optional::<StoreLost>("store_lost");
    if !section.has("store_lost") {
        section.missing(
            "store_lost",
            "write what a lost store means: \"deny\", \"allow\" or \"local\" (counted in this process alone)",
        );
    }
    let percent = section.or("local_percent", 100_u64);
    if !(1..=100).contains(&percent) {
        section.mistake(
            "local_percent",
            format!("is {percent}"),
            "write how much of the quota this gateway admits by itself, from 1 to 100: 25 for one of four",
        );
    }
    if section.has("local_percent") && store_lost.is_some_and(|lost| lost != StoreLost::Local) {
        section.mistake("local_percent", "stands beside a `store_lost` that is not \"local\"", "remove it");
    }
    (store_lost.unwrap_or(StoreLost::Deny), percent)
}

/// A route's limits, sorted by when they are asked.
#[derive(Debug, Default)]
pub struct RouteLimits {
    /// Those with windows.
    pub windows: Box<[Arc<Limit>]>,
    /// Those on requests in flight.
    pub in_flight: Box<[Arc<Limit>]>,
    /// What a refused credential is charged to.
    pub guesses: Box<[Arc<Limit>]>,
    /// Whether the body must be there before the limits can be asked.
    pub needs_body: bool,
    /// Where rows are counted that are not where bodies for models have them.
    pub rows_at: Option<Box<str>>,
}

impl RouteLimits {
    /// Sorts a route's limits; `waits` says that something else of them is known with the body alone.
    #[must_use]
    pub fn new(limits: Vec<Arc<Limit>>, waits: bool) -> Self {
        let needs_body = waits || limits.iter().any(|limit| !limit.cost.is_known_early() || limit.scope.has(&By::User));
        let rows_at = limits.iter().find_map(|limit| match &limit.cost {
            Cost::Rows(at) => at.clone(),
            Cost::Requests | Cost::Bytes | Cost::Answer(_) => None,
        });
        let guesses = limits.iter().filter(|limit| {
            let counts_all = limit.counts == Counts::All && limit.cost == Cost::Requests && !limit.in_flight;
            counts_all && limit.scope.holds_guessers()
        });
        let guesses = guesses.cloned().collect();
        let (in_flight, windows): (Vec<_>, Vec<_>) = limits.into_iter().partition(|limit| limit.in_flight);
        Self { windows: windows.into(), in_flight: in_flight.into(), guesses, needs_body, rows_at }
    }

    /// Every one.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Limit>> {
        self.windows.iter().chain(&self.in_flight)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::cost::Size;
    use super::window::Standing;
    use super::*;
    use crate::settings::tests::with_section;
    use crate::types::{Quotas, RoleSet};

    pub(crate) fn limit(toml: &str) -> Arc<Limit> {
        let roles = ["reader".into(), "admin".into()];
        let (limits, mistakes) =
            with_section(&format!("[limits.test]\n{toml}"), |root| compile_all(root, &roles, true));
        assert_eq!(mistakes, []);
        limits.into_values().next().expect("one limit")
    }

    const BASE: &str = "by = [\"principal\"]\nwindow = \"60s\"\nstore_lost = \"deny\"\n";

    #[test]
    fn what_can_not_be_kept_is_a_mistake() {
        for (toml, count) in [
            ("quota = 0\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 2000000000000\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 100000\nform = \"exact\"\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 10\nbuckets = 20\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"1500ms\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"0s\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"32d\"\nby = [\"route\"]\nstore_lost = \"deny\"", 1),
            ("quota = 1\nwindow = \"1s\"\nby = [\"adress\"]\nstore_lost = \"denied\"", 2),
            ("quota = 1\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"\nlocal_percent = 50", 1),
            ("quota = 1\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"local\"\nlocal_percent = 200", 1),
            ("quota = 1\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"\nmax_held = 2", 1),
            ("quota = 1\nwindow = \"1s\"\nby = [\"route\"]\nstore_lost = \"deny\"\nroles = { raeder = 2 }", 1),
            ("in_flight = 4\nby = [\"principal\"]\nwindow = \"1s\"\nstore_lost = \"deny\"", 2),
            ("in_flight = 4\nby = [\"principal\"]\nwhen_full = \"throttle\"", 1),
            ("", 4),
        ] {
            let roles = ["reader".into()];
            let (_, mistakes) = with_section(&format!("[limits.test]\n{toml}"), |root| compile_all(root, &roles, true));
            assert_eq!(mistakes.len(), count, "{toml}: {mistakes:?}");
        }
    }

    #[test]
    fn the_form_follows_the_largest_quota() {
        for (toml, grain, wide) in [
            ("quota = 10000", 1, false),
            ("quota = 10001", 600_000, false),
            ("quota = 65536", 600_000, true),
            ("quota = 65535\nform = \"exact\"", 1, false),
            ("quota = 10\nform = \"buckets\"\nbuckets = 10", 6_000_000, false),
            ("quota = 10\nprincipals = { \"key:a\" = 70000 }", 600_000, true),
            ("quota = 10\ncost = \"answer\"\nanswer_at = \"/n\"\nreserve = 5", 1, true),
        ] {
            let rule = limit(&format!("{BASE}{toml}")).rule;
            assert_eq!((rule.grain, rule.wide), (grain, wide), "{toml}");
        }
    }

    #[test]
    fn a_principal_goes_before_its_roles_and_they_before_everybody() {
        let limit = limit(&format!(
            "{BASE}quota = 10\nroles = {{ reader = 20, admin = 100 }}\nprincipals = {{ \"key:a\" = 5 }}"
        ));
        let principal = |id: &str, roles: &[usize]| Principal {
            id: id.into(),
            roles: roles.iter().filter_map(|&role| Role::new(role)).fold(RoleSet::default(), RoleSet::with),
            ..Principal::nobody()
        };
        for (id, roles, quota) in
            [("key:a", &[1][..], 5), ("key:b", &[0, 1], 100), ("key:b", &[0], 20), ("key:b", &[], 10)]
        {
            assert_eq!(limit.rate(Some(&principal(id, roles))).quota, quota, "{id} {roles:?}");
        }
        assert_eq!(limit.rate(None).quota, 10);
        let quotas = Quotas::new(vec![(limit.index, limit.own_rate(7))]);
        let own = Principal { quotas, ..principal("key:a", &[1]) };
        assert_eq!(limit.rate(Some(&own)).quota, 7, "the credential's own goes before all");
        assert_eq!((limit.own_rate(0).quota, limit.own_rate(1 << 50).quota), (1, MOST_EXACT));
    }

    #[test]
    fn a_request_that_never_has_room_is_told_so() {
        let limit = limit(&format!("{BASE}quota = 10\ncost = \"rows\""));
        let demand = Demand::new(&limit, None, Size { rows: 11, bytes: 0 });
        let mut decision = Decision::new(false, 0);
        decision.push(Standing { full: true, used: 0, reset: 0, retry: 0 });
        let refusal = Admission::from_decision(&[demand], &decision).expect_err("it costs too much");
        assert_eq!(
            (refusal.retry_after, refusal.too_dear),
            (None, Some(TooDear { cost: 11, quota: 10, noun: "rows" }))
        );
    }

    #[test]
    fn a_share_is_never_nothing() {
        let limit = limit("by = [\"route\"]\nwindow = \"1s\"\nquota = 10\nstore_lost = \"local\"\nlocal_percent = 25");
        assert_eq!([1, 3, 10, 100].map(|quota| limit.local_quota(quota)), [1, 1, 2, 25]);
    }
}
