//! What is kept of a key that was issued while gateways run: JSON, read as if anybody had written it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::terms::{Old, Terms};
use crate::policy::authorize::Vocabulary;
use crate::policy::json;
use crate::policy::limit::Limits;
use crate::types::{ClaimSet, Network, Quotas, RoleSet, Scheme, Sha256, Timestamp};

/// The form that is written, and the only one that is read.
const VERSION: u8 = 1;
/// How long a record may be.
pub const MOST_BYTES: usize = 16 * 1024;
/// How many roles, scopes, networks or limits it may name.
const MOST_NAMED: usize = 128;
/// How long a name in it may be.
const MOST_CHARS: usize = 256;
/// No time lies behind the year 9999.
const MOST_SECS: u64 = 253_402_300_799;

/// Everything that is kept of one key, under its id. It holds no secret: digests of 160 random bits are none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    v: u8,
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    digest: Sha256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    old: Option<OldDigest>,
    owner: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<String, u64>,
    created: u64,
}

/// The digest that a rotation put aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OldDigest {
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    digest: Sha256,
    ends: u64,
}

fn write_digest<S: Serializer>(digest: &Sha256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sha256, D::Error> {
    let text = String::deserialize(deserializer)?;
    Sha256::parse(&text).ok_or_else(|| serde::de::Error::custom("no digest"))
}

/// Why a record is not taken. Never shows what stands in it.
pub type Malformed = &'static str;

impl Record {
    /// Reads what was kept.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MOST_BYTES {
            return Err("it is too long");
        }
        let value = json::parse(bytes, 3).map_err(|_| "it is no JSON that can be read in one way only")?;
        if value.get("v").and_then(serde_json::Value::as_u64) != Some(VERSION.into()) {
            return Err("it has a version that is not known here");
        }
        let record: Self = serde_json::from_value(value).map_err(|_| "it does not have the members of a key")?;
        record.check()?;
        Ok(record)
    }

    /// Reads what an operator asks for: a record without `v`, `created` and `old`, which are not the asker's to say.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn new(asked: &[u8], now: Timestamp) -> Result<Self, Malformed> {
        let mut value = json::parse(asked, 3).map_err(|_| "it is no JSON that can be read in one way only")?;
        let members = value.as_object_mut().ok_or("it is no JSON object")?;
        for (name, own) in [("v", VERSION.into()), ("created", now.secs().into()), ("old", serde_json::Value::Null)] {
            if members.insert(name.to_owned(), own).is_some() {
                return Err("it says v, created or old, which are not yours to say");
            }
        }
        let record: Self = serde_json::from_value(value).map_err(
            |_| "it needs digest and owner, and takes roles, scopes, not_before, expires, networks and limits",
        )?;
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> Result<(), Malformed> {
        let is_plain = |text: &String| !text.is_empty() && text.len() <= MOST_CHARS && !text.contains(char::is_control);
        let lists = [&self.roles, &self.scopes, &self.networks];
        let ends = self.old.as_ref().map(|old| old.ends);
        let times = [self.not_before, self.expires, ends, Some(self.created)];
        if !is_plain(&self.owner) {
            return Err("its owner is empty, too long, or has control characters");
        }
        if lists.iter().any(|list| list.len() > MOST_NAMED) || self.limits.len() > MOST_NAMED {
            return Err("it names too many roles, scopes, networks or limits");
        }
        if !lists.into_iter().flatten().chain(self.limits.keys()).all(is_plain) {
            return Err("it has a name that is empty, too long, or has control characters");
        }
        if self.networks.iter().any(|text| Network::parse(text).is_none()) {
            return Err("it has a network that is none; write one such as 10.0.0.0/8");
        }
        if times.into_iter().flatten().any(|secs| secs > MOST_SECS) {
            return Err("it has a time behind the year 9999; times are seconds since 1970");
        }
        if let (Some(from), Some(to)) = (self.not_before, self.expires)
            && to <= from
        {
            return Err("it expires before it begins");
        }
        Ok(())
    }

    /// As it is kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What it names and this policy does not have, or can't count; one sentence each.
    #[must_use]
    pub fn undefined(&self, words: &Vocabulary, limits: &Limits) -> Vec<String> {
        let among = |mut names: Vec<&str>| {
            names.sort_unstable();
            if names.is_empty() { "none is defined".to_owned() } else { format!("there are: {}", names.join(", ")) }
        };
        let roles = || among(words.roles.names().iter().map(|name| &**name).collect());
        let unknown = self.roles.iter().filter(|name| words.roles.find(name).is_none());
        let mut found: Vec<String> =
            unknown.map(|name| format!("the role {name:?} is not defined; {}", roles())).collect();
        let unknown = self.scopes.iter().filter(|name| words.scopes.find(name).is_none());
        found.extend(unknown.map(|name| format!("no route or right asks for the scope {name:?}")));
        for (name, quota) in &self.limits {
            match limits.get(name.as_str()) {
                None => {
                    let names = among(limits.keys().map(|name| &**name).collect());
                    found.push(format!("the limit {name:?} is not defined; {names}"));
                }
                Some(limit) if !limit.own_quotas().contains(quota) => {
                    let (least, most) = limit.own_quotas().into_inner();
                    found.push(format!("the limit {name:?} can't count {quota}, only from {least} to {most}"));
                }
                Some(_) => {}
            }
        }
        found
    }

    /// What it means under this policy. A role or limit that the policy does not have grants nothing.
    pub(super) fn compile(&self, id: &str, words: &Vocabulary, limits: &Limits) -> Option<Terms> {
        let roles = self.roles.iter().filter_map(|name| words.roles.find(name)).fold(RoleSet::default(), RoleSet::with);
        let scopes = words.scopes.set(self.scopes.iter().map(String::as_str));
        let mut principal =
            words.principal(Scheme::ApiKey, &super::principal_id(id), roles, scopes, ClaimSet::default())?;
        let quotas = self.limits.iter().filter_map(|(name, quota)| {
            let limit = limits.get(name.as_str())?;
            Some((limit.index, limit.own_rate(*quota)))
        });
        principal.quotas = Quotas::new(quotas.collect());
        Some(Terms {
            digest: self.digest,
            old: self.old.as_ref().map(|old| Old { digest: old.digest, ends: Timestamp::from_secs(old.ends) }),
            not_before: self.not_before.map(Timestamp::from_secs),
            expires: self.expires.map(Timestamp::from_secs),
            networks: self.networks.iter().filter_map(|text| Network::parse(text)).collect(),
            principal: Arc::new(principal),
            used: 0.into(),
        })
    }

    /// With another digest in place of its own, which goes on for `overlap` seconds; `None` where two are live.
    #[must_use]
    pub fn rotated(&self, digest: Sha256, overlap: u64, now: Timestamp) -> Option<Self> {
        if self.old.as_ref().is_some_and(|old| old.ends > now.secs()) {
            return None;
        }
        let ends = now.secs().saturating_add(overlap).min(MOST_SECS);
        let old = (overlap > 0).then_some(OldDigest { digest: self.digest, ends });
        Some(Self { digest, old, ..self.clone() })
    }

    /// Without the digest that a rotation put aside; `None` where there is none.
    #[must_use]
    pub fn without_old(&self) -> Option<Self> {
        self.old.as_ref().map(|_| Self { old: None, ..self.clone() })
    }

    /// For operators: everything but digests.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown {
            owner: self.owner.clone(),
            roles: self.roles.clone(),
            scopes: self.scopes.clone(),
            created: Some(self.created),
            not_before: self.not_before,
            expires: self.expires,
            old_ends: self.old.as_ref().map(|old| old.ends),
            networks: self.networks.clone(),
            limits: self.limits.clone(),
        }
    }
}

/// A key as operators see it: no digest, and times in seconds since 1970.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Who holds it.
    pub owner: String,
    /// The roles that it has.
    pub roles: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was issued, where that is known.
    pub created: Option<u64>,
    /// From when it is good.
    pub not_before: Option<u64>,
    /// When it ends.
    pub expires: Option<u64>,
    /// When its old digest ends, after a rotation.
    pub old_ends: Option<u64>,
    /// Where it may be used from.
    pub networks: Vec<String>,
    /// Its own quotas.
    pub limits: BTreeMap<String, u64>,
}

/// A record as every request looks at it: compiled once for each policy.
#[derive(Debug)]
pub struct StoredKey {
    record: Record,
    compiled: ArcSwapOption<Compiled>,
}

/// What a record means to one policy, which is told by its mark.
#[derive(Debug)]
pub(super) struct Compiled {
    mark: Arc<()>,
    pub(super) terms: Terms,
}

impl StoredKey {
    /// One that no policy has looked at.
    #[must_use]
    pub fn new(record: Record) -> Self {
        Self { record, compiled: ArcSwapOption::empty() }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What it means to the policy with this mark.
    pub(super) fn terms(&self, id: &str, mark: &Arc<()>, words: &Vocabulary, limits: &Limits) -> Option<Arc<Compiled>> {
        let known = self.compiled.load();
        if let Some(compiled) = known.as_ref().filter(|compiled| Arc::ptr_eq(&compiled.mark, mark)) {
            return Some(Arc::clone(compiled));
        }
        let compiled = Arc::new(Compiled { mark: Arc::clone(mark), terms: self.record.compile(id, words, limits)? });
        self.compiled.store(Some(Arc::clone(&compiled)));
        Some(compiled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn good() -> String {
        format!("{{\"v\":1,\"digest\":\"{DIGEST}\",\"owner\":\"Team A\",\"created\":1}}")
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let asked = format!(
            "{{\"digest\":\"{DIGEST}\",\"owner\":\"Team A\",\"roles\":[\"a\"],\"networks\":[\"10.0.0.0/8\"],\"limits\":{{\"x\":3}},\"expires\":99}}"
        );
        let record = Record::new(asked.as_bytes(), Timestamp::from_secs(5)).expect("all that may be asked");
        let next = record.rotated(Sha256::of(b"next"), 60, Timestamp::from_secs(10)).expect("one was live");
        let read = Record::read(&next.to_bytes()).expect("our own form");
        assert_eq!(read.to_bytes(), next.to_bytes());
        assert_eq!((read.shown().old_ends, read.shown().created), (Some(70), Some(5)));
        assert!(read.rotated(Sha256::of(b"third"), 60, Timestamp::from_secs(69)).is_none(), "two are live");
        assert!(read.rotated(Sha256::of(b"third"), 60, Timestamp::from_secs(70)).is_some());
        assert!(read.without_old().expect("it had one").without_old().is_none());
        let shown = serde_json::to_string(&read.shown()).expect("JSON");
        assert!(!shown.contains("sha256") && !format!("{read:?}").contains("ba7816"), "{shown}");
    }

    #[test]
    fn a_record_of_another_form_is_not_taken() {
        assert!(Record::read(good().as_bytes()).is_ok());
        let long = format!("\"owner\":\"{}\"", "x".repeat(MOST_BYTES));
        let many = format!("\"created\":1,\"roles\":[{}\"a\"]", "\"a\",".repeat(MOST_NAMED));
        for (from, to) in [
            ("\"v\":1", "\"v\":2"),
            ("\"v\":1", "\"v\":\"1\""),
            ("\"v\":1,", ""),
            ("sha256:", "sha1:"),
            ("\"owner\":\"Team A\"", "\"owner\":\"\""),
            ("\"owner\":\"Team A\"", "\"owner\":\"a\\nb\""),
            ("\"owner\":\"Team A\"", "\"owner\":7"),
            ("\"owner\":\"Team A\"", "\"owner\":\"a\",\"owner\":\"b\""),
            ("\"owner\":\"Team A\"", &long),
            ("\"created\":1", "\"created\":-1"),
            ("\"created\":1", "\"created\":1,\"expires\":99999999999999"),
            ("\"created\":1", "\"created\":1,\"expires\":5,\"not_before\":5"),
            ("\"created\":1", "\"created\":1,\"admin\":true"),
            ("\"created\":1", "\"created\":1,\"networks\":[\"everywhere\"]"),
            ("\"created\":1", "\"created\":1,\"old\":{\"digest\":\"x\",\"ends\":1}"),
            ("\"created\":1", &many),
            ("}", ""),
            ("}", "}}"),
            ("{", "["),
        ] {
            let text = good().replace(from, to);
            assert!(text != good() && Record::read(text.as_bytes()).is_err(), "{text}");
        }
        for own in ["v", "created", "old"] {
            let asked = format!("{{\"digest\":\"{DIGEST}\",\"owner\":\"a\",\"{own}\":1}}");
            assert!(Record::new(asked.as_bytes(), Timestamp::from_secs(1)).is_err(), "{own}");
        }
    }
}
