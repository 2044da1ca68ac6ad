//! API keys: `mgk_<id>_<secret><check>`.
//!
//! The id is public and names the entry in the policy or in Redis; the secret is 160 random bits in hexadecimal,
//! so a plain SHA-256 of the whole key is enough to store (there is nothing to guess); the check is the
//! start of a digest, so that a mistyped key is told from a wrong one. Only the digest is kept, the
//! lookup is by id, and the comparison takes the same time however much of the secret is right.
//!
//! Where the policy says so, keys are in Redis too. What a gateway knows of those comes through [`StoredKeys`]; an id
//! that the policy has is never looked for there. A mistyped key is not looked for at all.

mod record;
mod terms;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Undecided, Wanted};
use crate::policy::authorize::Vocabulary;
use crate::policy::limit::Limits;
use crate::policy::unknown::Unknown;
use crate::settings::{Named, Section};
use crate::types::{ClaimSet, Network, Principal, Quotas, Scheme, Sha256, Timestamp};

pub use record::{MOST_BYTES, Malformed, Record, Shown, StoredKey};
use terms::{Matched, Old, Terms};

/// What every key begins with, so that people and scanners recognise a leaked one.
pub const PREFIX: &str = "mgk_";
const SECRET_DIGITS: usize = 40;
const CHECK_DIGITS: usize = 8;

/// Builds a key from an id and 20 random bytes.
#[must_use]
pub fn compose(id: &str, secret: [u8; 20]) -> String {
    let body = secret.iter().fold(format!("{PREFIX}{id}_"), |key, byte| key + &format!("{byte:02x}"));
    let check = check(&body);
    body + &String::from_utf8_lossy(&check)
}

/// Whether an id can stand in a key.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn check(body: &str) -> [u8; CHECK_DIGITS] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let number = u32::from_be_bytes(Sha256::of(body.as_bytes()).prefix());
    std::array::from_fn(|place| DIGITS.get((number >> (28 - 4 * place)) as usize % 16).copied().unwrap_or_default())
}

fn principal_id(id: &str) -> String {
    format!("key:{id}")
}

/// Keys that are kept outside the policy, as far as this process knows them.
pub trait StoredKeys {
    /// What is known of an id.
    fn find(&self, id: &str) -> Found;
    /// For how long nobody has known what was changed.
    fn unknown_for(&self) -> Duration;
    /// Notes that a key was used in a minute since 1970; told once a minute for each key, wherever it is kept.
    fn used(&self, id: &str, minute: u64);
}

/// What is known of an id.
#[derive(Debug)]
pub enum Found {
    /// This.
    Key(Arc<StoredKey>),
    /// That there is no such key.
    Absent,
    /// Nothing: it has to be fetched.
    Unfetched,
}

/// Where keys are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Store {
    Policy,
    Redis,
}

impl Named for Store {
    const SHAPE: &'static str = "\"policy\" or \"redis\"";
    const NAMES: &'static [(&'static str, Self)] = &[("policy", Self::Policy), ("redis", Self::Redis)];
}

/// How keys in Redis are used.
#[derive(Clone, Copy, Debug)]
pub struct InRedis {
    /// How many of them this process remembers.
    pub cache: usize,
    /// After which time without word from Redis they are refused; never where absent.
    refuse_after: Option<Duration>,
}

/// A key of the policy.
#[derive(Debug)]
struct PolicyKey {
    terms: Terms,
    shown: Shown,
}

/// All keys by id.
#[derive(Debug)]
pub struct ApiKeys {
    keys: HashMap<Box<str>, PolicyKey>,
    in_redis: Option<InRedis>,
    /// What quotas of keys in Redis are quotas of.
    limits: Limits,
    /// What tells this policy from others.
    mark: Arc<()>,
}

impl ApiKeys {
    /// Reads every `[api_keys.ID]`, and from `[api_key]` where others are kept.
    #[must_use]
    pub fn compile(root: &Section<'_>, settings: &Section<'_>, words: &Vocabulary, limits: &Limits) -> Self {
        let sections = root.sections("api_keys");
        let keys = sections.into_iter().filter_map(|section| {
            let key = PolicyKey::compile(&section, words, limits);
            let id = section.name();
            section.finish();
            Some((Box::from(&*id), key?))
        });
        let (keys, in_redis) = (keys.collect(), in_redis(root, settings));
        Self { keys, in_redis, limits: limits.clone(), mark: Arc::default() }
    }

    /// Whether keys in Redis are taken too, and how.
    #[must_use]
    pub fn in_redis(&self) -> Option<InRedis> {
        self.in_redis
    }

    /// The limits that a key can have quotas of its own for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The policy's key of this id, for operators.
    #[must_use]
    pub fn shown(&self, id: &str) -> Option<&Shown> {
        self.keys.get(id).map(|key| &key.shown)
    }

    /// The first ids of the policy's behind `after`, in their order.
    #[must_use]
    pub fn ids_after(&self, after: &str, count: usize) -> Vec<&str> {
        let mut ids: Vec<&str> = self.keys.keys().map(|id| &**id).filter(|id| *id > after).collect();
        ids.sort_unstable();
        ids.truncate(count);
        ids
    }

    /// Whom the policy's key with this id stands for, as if it had been shown.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn holder(&self, id: &str, address: IpAddr, now: Timestamp) -> Result<Arc<Principal>, Refusal> {
        self.keys.get(id).ok_or(Refusal::Unknown)?.terms.holder(address, now)
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Undecided`].
    pub fn decide(
        &self,
        shown: &[u8],
        (address, now): (IpAddr, Timestamp),
        words: &Vocabulary,
        stored: &dyn StoredKeys,
    ) -> Result<Arc<Principal>, Undecided> {
        let refuse = |refusal| Undecided::Refused(super::Refusal::ApiKey(refusal));
        let (id, body, check_part) = parse(shown).ok_or(refuse(Refusal::Mistyped))?;
        let is_mistyped = || check(body) != *check_part.as_bytes();
        let digest = Sha256::of(shown);
        let judge = |terms: Option<&Terms>| {
            // Compared in every case, and the result looked at after, so that time tells nothing of ids.
            let matched = Matched::new(&digest, terms);
            let Some(terms) = terms.filter(|_| matched.any()) else {
                return Err(refuse(if is_mistyped() { Refusal::Mistyped } else { Refusal::Unknown }));
            };
            let principal = terms.admit(matched, address, now).map_err(refuse)?;
            if let Some(minute) = terms.first_use(now) {
                stored.used(id, minute);
            }
            Ok(principal)
        };
        let key = self.keys.get(id);
        let Some(rule) = self.in_redis.filter(|_| key.is_none()) else {
            return judge(key.map(|key| &key.terms));
        };
        match stored.find(id) {
            Found::Key(_) if rule.refuse_after.is_some_and(|after| stored.unknown_for() > after) => {
                Err(super::Refusal::ApiKeysUnavailable.into())
            }
            Found::Key(key) => {
                let compiled = key.terms(id, &self.mark, words, &self.limits);
                judge(compiled.as_deref().map(|compiled| &compiled.terms))
            }
            Found::Absent => judge(None),
            Found::Unfetched if is_mistyped() => Err(refuse(Refusal::Mistyped)),
            Found::Unfetched => Err(Undecided::Wanting(Wanted::ApiKey(id.into()))),
        }
    }
}

/// Reads what `[api_key]` says of keys in Redis.
fn in_redis(root: &Section<'_>, settings: &Section<'_>) -> Option<InRedis> {
    let store = settings.or("store", Store::Policy);
    let unknown = settings.or("revocation_unknown", Unknown::Refuse);
    let after = settings.or("revocation_unknown_after", Duration::from_secs(10));
    let cache = settings.or("cache", 65_536_usize);
    if store == Store::Policy {
        for key in ["revocation_unknown", "revocation_unknown_after", "cache"] {
            if settings.has(key) {
                let reason = "is about keys in Redis, and none are taken from there";
                settings.mistake(key, reason, "write store = \"redis\" beside it, or remove it");
            }
        }
        return None;
    }
    if root.section("store").is_none_or(|store| store.word("kind") != Some("redis")) {
        let remedy = "write kind = \"redis\" and where it is under [store]";
        settings.mistake("store", "is \"redis\", and [store] names no Redis", remedy);
    }
    if after < Duration::from_secs(1) {
        let reason = "is less than a second, in which no gateway can know";
        settings.mistake("revocation_unknown_after", reason, "write one such as \"10s\"");
    }
    if !(128..=1 << 20).contains(&cache) {
        settings.mistake("cache", format!("is {cache}"), "write a number from 128 to 1048576");
    }
    Some(InRedis { cache, refuse_after: (unknown == Unknown::Refuse).then_some(after) })
}

impl PolicyKey {
    fn compile(section: &Section<'_>, words: &Vocabulary, limits: &Limits) -> Option<Self> {
        let id = section.name();
        if !is_id(&id) {
            section.mistake_here("has an id that can't stand in a key", "use 1 to 64 lower-case letters, digits and -");
        }
        let digest = section.required("digest", "paste the line that `gateway key new` printed");
        let owner: Option<String> = section.required("owner", "write who holds the key, to know whom to ask");
        let held = words.roles.references(section, "roles");
        let scopes = words.scopes.references(section, "scopes");
        let (not_before, expires) = (instant(section, "not_before"), instant(section, "expires"));
        if let (Some(from), Some(to)) = (not_before, expires)
            && to <= from
        {
            section.mistake("expires", "is not after `not_before`, so the key is never good", "write a later one");
        }
        let networks: Vec<Network> = section.all("networks");
        if section.has("networks") && section.all::<String>("networks").is_empty() {
            section.mistake("networks", "names none, so the key could be used from nowhere", "name one, or remove it");
        }
        let old = section.section("old").and_then(|old| {
            let digest = old.required("digest", "paste the digest that the key had before");
            if !old.has("expires") {
                old.missing("expires", "write when it ends, such as \"2027-01-31T00:00:00Z\"");
            }
            let ends = instant(&old, "expires");
            old.finish();
            Some(Old { digest: digest?, ends: ends? })
        });
        let quotas = own_quotas(section, limits);
        let (digest, owner) = (digest?, owner?);
        let named = super::principal_of(section, principal_id(&id));
        let mut principal = words.principal(Scheme::ApiKey, &named, held, scopes, ClaimSet::default())?;
        let rates = quotas.iter().filter_map(|(name, quota)| {
            let limit = limits.get(name.as_str())?;
            Some((limit.index, limit.own_rate(*quota)))
        });
        principal.quotas = Quotas::new(rates.collect());
        let secs = |at: Option<Timestamp>| at.map(Timestamp::secs);
        let shown = Shown {
            owner,
            roles: section.all("roles"),
            scopes: section.all("scopes"),
            created: None,
            not_before: secs(not_before),
            expires: secs(expires),
            old_ends: secs(old.map(|old| old.ends)),
            networks: section.all("networks"),
            limits: quotas,
        };
        let (networks, principal) = (networks.into(), Arc::new(principal));
        Some(Self { terms: Terms { digest, old, not_before, expires, networks, principal, used: 0.into() }, shown })
    }
}

/// Reads `limits = { NAME = QUOTA }`.
fn own_quotas(section: &Section<'_>, limits: &Limits) -> BTreeMap<String, u64> {
    let Some(table) = section.section("limits") else { return BTreeMap::new() };
    let mut quotas = BTreeMap::new();
    for name in table.keys() {
        let quota: Option<u64> = table.optional(name);
        match (limits.get(name), quota) {
            (None, _) => {
                let defined: Vec<&str> = limits.keys().map(|name| &**name).collect();
                section.undefined("limits", None, ("limit", "limits"), name, &defined);
            }
            (Some(limit), Some(quota)) if !limit.own_quotas().contains(&quota) => {
                let (least, most) = limit.own_quotas().into_inner();
                let remedy = format!("write a number from {least} to {most}, or form = \"buckets\" for the limit");
                table.mistake(name, format!("is {quota}, which the limit can't count"), remedy);
            }
            (Some(_), quota) => quotas.extend(quota.map(|quota| (name.to_owned(), quota))),
        }
    }
    table.finish();
    quotas
}

fn instant(section: &Section<'_>, key: &str) -> Option<Timestamp> {
    let text = section.optional::<String>(key)?;
    let parsed = Timestamp::parse(&text);
    if parsed.is_none() {
        let reason = format!("is {text:?}, which is not an instant");
        section.mistake(key, reason, "write one such as \"2027-01-31T00:00:00Z\"");
    }
    parsed
}

/// A key's id, all of it but the check, and the check.
fn parse(presented: &[u8]) -> Option<(&str, &str, &str)> {
    let text = std::str::from_utf8(presented).ok()?;
    let (id, tail) = text.strip_prefix(PREFIX)?.rsplit_once('_')?;
    let (body, check) = text.split_at_checked(text.len().checked_sub(CHECK_DIGITS)?)?;
    (is_id(id) && tail.len() == SECRET_DIGITS + CHECK_DIGITS).then_some((id, body, check))
}

/// Why a key is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not have a key's form, or its check part is wrong.
    Mistyped,
    /// It has the form and is not one of ours.
    Unknown,
    /// It was good once.
    Expired,
    /// It will be good.
    NotYet,
    /// It is good, and not for where it was sent from.
    Network,
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::policy::limit;
    use crate::settings::Mistake;
    use crate::settings::tests::with_section;

    const HERE: &str = "192.0.2.7";

    /// Keys that somebody keeps.
    #[derive(Default)]
    struct Kept {
        key: Option<Arc<StoredKey>>,
        unknown_for: Duration,
        used: RefCell<Vec<(String, u64)>>,
    }

    impl StoredKeys for Kept {
        fn find(&self, id: &str) -> Found {
            match &self.key {
                Some(key) if id == "kept" => Found::Key(Arc::clone(key)),
                Some(_) => Found::Absent,
                None => Found::Unfetched,
            }
        }

        fn unknown_for(&self) -> Duration {
            self.unknown_for
        }

        fn used(&self, id: &str, minute: u64) {
            self.used.borrow_mut().push((id.into(), minute));
        }
    }

    fn compile(toml: &str) -> (ApiKeys, Vec<Mistake>) {
        let limits = "[limits.few]\nquota = 5\nwindow = \"60s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n";
        with_section(&format!("{limits}{toml}"), |root| {
            let (words, settings) = (Vocabulary::compile(root), root.section_or_empty("api_key"));
            let limits = limit::compile_all(root, words.roles.names(), false);
            let keys = ApiKeys::compile(root, &settings, &words, &limits);
            settings.finish();
            keys
        })
    }

    fn decide(keys: &ApiKeys, key: &str, from: &str, now: Timestamp, kept: &Kept) -> Result<String, Undecided> {
        let address = from.parse().expect("a literal address");
        let decided = keys.decide(key.as_bytes(), (address, now), &Vocabulary::default(), kept);
        decided.map(|principal| principal.id.to_string())
    }

    fn refused(refusal: Refusal) -> Result<String, Undecided> {
        Err(Undecided::Refused(super::super::Refusal::ApiKey(refusal)))
    }

    #[test]
    fn keys_are_told_apart() {
        let key = compose("team-a", [7; 20]);
        let toml = format!(
            "[roles.predictor]\n[api_keys.team-a]\ndigest = \"{}\"\nowner = \"Team A\"\nroles = [\"predictor\"]\nexpires = \"2030-01-01T00:00:00Z\"",
            Sha256::of(key.as_bytes())
        );
        let (keys, mistakes) = compile(&toml);
        assert_eq!(mistakes, []);
        let now = Timestamp::from_secs(1_800_000_000);
        let decide = |key: &str, now| decide(&keys, key, HERE, now, &Kept::default());
        assert_eq!(decide(&key, now), Ok("key:team-a".into()));
        assert_eq!(decide(&key, Timestamp::from_secs(1_893_456_000)), refused(Refusal::Expired));
        for (wrong, refusal) in [
            (compose("team-a", [8; 20]), Refusal::Unknown),
            (compose("team-b", [7; 20]), Refusal::Unknown),
            (key.replace("07", "08"), Refusal::Mistyped),
            (key.to_uppercase(), Refusal::Mistyped),
            (format!("{key} "), Refusal::Mistyped),
            (String::new(), Refusal::Mistyped),
            ("mgk_team-a_".into(), Refusal::Mistyped),
            ("mgk__".into(), Refusal::Mistyped),
        ] {
            assert_eq!(decide(&wrong, now), refused(refusal), "{wrong}");
        }
    }

    #[test]
    fn a_key_has_times_networks_quotas_and_two_digests_for_a_while() {
        let (new, old) = (compose("a", [7; 20]), compose("a", [8; 20]));
        let toml = format!(
            "[api_keys.a]\nowner = \"A\"\ndigest = \"{}\"\nnetworks = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
             not_before = \"2027-01-01T00:00:00Z\"\nexpires = \"2029-01-01T00:00:00Z\"\nlimits = {{ few = 50 }}\n\
             old = {{ digest = \"{}\", expires = \"2028-01-01T00:00:00Z\" }}",
            Sha256::of(new.as_bytes()),
            Sha256::of(old.as_bytes())
        );
        let (keys, mistakes) = compile(&toml);
        assert_eq!(mistakes, []);
        let good = || Ok("key:a".to_owned());
        for (at, from, of_new, of_old) in [
            ("2026-12-31T23:59:59Z", HERE, refused(Refusal::NotYet), refused(Refusal::NotYet)),
            ("2027-01-01T00:00:00Z", HERE, good(), good()),
            ("2027-06-01T00:00:00Z", "2001:db8::9", good(), good()),
            ("2027-06-01T00:00:00Z", "::ffff:192.0.2.9", good(), good()),
            ("2027-06-01T00:00:00Z", "198.51.100.1", refused(Refusal::Network), refused(Refusal::Network)),
            ("2027-12-31T23:59:59Z", HERE, good(), good()),
            ("2028-01-01T00:00:00Z", HERE, good(), refused(Refusal::Expired)),
            ("2029-01-01T00:00:00Z", HERE, refused(Refusal::Expired), refused(Refusal::Expired)),
        ] {
            let now = Timestamp::parse(at).expect("an instant");
            let decide = |key: &str| decide(&keys, key, from, now, &Kept::default());
            assert_eq!((decide(&new), decide(&old)), (of_new, of_old), "{at} {from}");
        }
        let principal = keys.holder("a", HERE.parse().expect("an address"), Timestamp::from_secs(1_800_000_000));
        assert_eq!(principal.expect("it is good").quotas.of(0).map(|rate| rate.quota), Some(50));
    }

    #[test]
    fn what_a_key_can_not_be_is_a_mistake() {
        for (line, count) in [
            ("not_before = \"soon\"", 1),
            ("not_before = \"2029-01-01T00:00:00Z\"\nexpires = \"2029-01-01T00:00:00Z\"", 1),
            ("networks = []", 1),
            ("networks = [\"everywhere\"]", 1),
            ("limits = { fwe = 5 }", 1),
            ("limits = { few = 0 }", 1),
            ("limits = { few = 100000 }", 1),
            ("old = {}", 2),
            ("old = { digest = \"sha256:x\", expires = \"2029-01-01T00:00:00Z\" }", 1),
            ("[api_key]\nstore = \"redis\"", 1),
            ("[api_key]\ncache = 100", 1),
            ("[api_key]\nrevocation_unknown = \"allow\"", 1),
            (
                "[api_key]\nstore = \"redis\"\ncache = 1\nrevocation_unknown_after = \"1ms\"\n[store]\nkind = \"redis\"",
                2,
            ),
        ] {
            let digest = Sha256::of(b"x");
            let (_, mistakes) = compile(&format!("[api_keys.a]\nowner = \"A\"\ndigest = \"{digest}\"\n{line}"));
            let mistakes: Vec<_> = mistakes.into_iter().filter(|mistake| mistake.key != "store").collect();
            assert_eq!(mistakes.len(), count, "{line}: {mistakes:?}");
        }
    }

    #[test]
    fn keys_in_redis_are_looked_for_where_the_policy_has_none() {
        let (own, kept, other) = (compose("own", [7; 20]), compose("kept", [8; 20]), compose("other", [9; 20]));
        let toml = format!(
            "[store]\nkind = \"redis\"\n[api_key]\nstore = \"redis\"\n[api_keys.own]\nowner = \"A\"\ndigest = \"{}\"",
            Sha256::of(own.as_bytes())
        );
        let (keys, _) = compile(&toml);
        let now = Timestamp::from_secs(1_800_000_000);
        let nothing = Kept::default();
        let ask = |key: &str, stored: &Kept| decide(&keys, key, HERE, now, stored);
        assert_eq!(ask(&own, &nothing), Ok("key:own".into()));
        assert_eq!(ask(&compose("own", [1; 20]), &nothing), refused(Refusal::Unknown), "never looked for elsewhere");
        assert_eq!(ask(&kept, &nothing), Err(Undecided::Wanting(Wanted::ApiKey("kept".into()))));
        let mistyped = kept.replace("08", "09");
        assert_eq!(ask(&mistyped, &nothing), refused(Refusal::Mistyped), "nobody asks Redis for a typo");
        let asked =
            format!("{{\"digest\":\"{}\",\"owner\":\"B\",\"limits\":{{\"few\":7}}}}", Sha256::of(kept.as_bytes()));
        let record = Record::new(asked.as_bytes(), now).expect("a record");
        let key = Some(Arc::new(StoredKey::new(record)));
        let mut stored = Kept { key, ..Kept::default() };
        for _ in 0..2 {
            assert_eq!(ask(&kept, &stored), Ok("key:kept".into()));
        }
        assert_eq!(*stored.used.borrow(), [("kept".to_owned(), 30_000_000)], "told once a minute");
        assert_eq!(ask(&mistyped, &stored), refused(Refusal::Mistyped));
        assert_eq!(ask(&compose("kept", [1; 20]), &stored), refused(Refusal::Unknown));
        assert_eq!(ask(&other, &stored), refused(Refusal::Unknown));
        stored.unknown_for = Duration::from_secs(11);
        assert_eq!(ask(&kept, &stored), Err(super::super::Refusal::ApiKeysUnavailable.into()));
        assert_eq!(ask(&own, &stored), Ok("key:own".into()), "the policy is always known");
    }
}
