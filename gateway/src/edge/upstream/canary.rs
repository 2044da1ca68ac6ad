//! `[pools.NAME.canary]`: which of a pool's requests another pool answers.
//!
//! Pure. By choice: of the client, with a header, or of the operator, by name. Else by the hash of who asks, so that
//! everybody meets the same model again and again, on every gateway, and a weight that grows moves nobody back.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::balance::{key, mix, seed};
use super::settings::PoolSettings;
use crate::settings::Section;
use crate::types::{Name, Principal};

/// Who is answered by another pool.
#[derive(Clone, Debug)]
pub(super) struct Canary {
    /// The other pool's position.
    pub(super) to: usize,
    /// In a hundred of those who ask.
    weight: u64,
    /// So that other pools' canaries are other people.
    seed: u64,
    header: Option<(HeaderName, HeaderValue)>,
    principals: Box<[Box<str>]>,
}

impl Canary {
    /// Reads `[pools.NAME.canary]` of the pool's section.
    pub(super) fn compile(pool: &Section<'_>, own: usize, pools: &[PoolSettings]) -> Option<Self> {
        let section = pool.section("canary")?;
        let to = other(&section, own, pools);
        let weight = section.or("weight", 0);
        if weight > 100 {
            section.mistake("weight", format!("is {weight}, of a hundred"), "write a number from 0 to 100");
        }
        let header = section.optional::<String>("header").and_then(|text| {
            let parsed = text.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            if parsed.is_none() {
                section.mistake("header", "is not a header", "write name and value, such as \"X-Canary: yes\"");
            }
            parsed
        });
        let principals: Vec<String> = section.all("principals");
        if weight == 0 && header.is_none() && principals.is_empty() && !section.has("weight") && !section.has("header")
        {
            section.mistake_here(
                "says nobody who is to be answered there",
                "write `weight`, `header` or `principals`, or remove the table",
            );
        }
        section.finish();
        let to = to?;
        Some(Self {
            to,
            weight,
            seed: seed(&format!("{} {}", pools.get(own)?.name(), pools.get(to)?.name())),
            header,
            principals: principals.into_iter().map(String::into_boxed_str).collect(),
        })
    }

    /// Whether the other pool answers this request. `caller` is who asks, as [`caller`] says.
    fn takes(&self, headers: &HeaderMap, caller: &str, is_proven: bool) -> bool {
        if let Some((name, value)) = &self.header
            && headers.get_all(name).iter().any(|given| given == value)
        {
            return true;
        }
        if is_proven && self.principals.iter().any(|principal| **principal == *caller) {
            return true;
        }
        self.weight > 0 && mix(key(caller) ^ self.seed) % 100 < self.weight
    }

    /// The same for a request's parts.
    pub(super) fn decide(&self, headers: &HeaderMap, principal: &Principal, address: &str) -> bool {
        self.takes(headers, caller(principal, address), principal.is_proven())
    }
}

/// Whose requests belong together: the principal's, or of those who prove nothing the address's.
pub(super) fn caller<'a>(principal: &'a Principal, address: &'a str) -> &'a str {
    if principal.is_proven() { &principal.id } else { address }
}

/// The position of the pool that `to` names: one that speaks the same protocol.
pub(super) fn other(section: &Section<'_>, own: usize, pools: &[PoolSettings]) -> Option<usize> {
    let name: String = section.required("to", "write the name of the other pool: to = \"candidate\"")?;
    let Some(position) = pools.iter().position(|pool| **pool.name() == *name) else {
        let names: Vec<&str> = pools.iter().map(|pool| -> &str { pool.name() }).collect();
        section.undefined("to", None, ("pool", "pools"), &name, &names);
        return None;
    };
    let named: (&Name, bool) = pools.get(position).map(|pool| (pool.name(), pool.is_http2()))?;
    if position == own {
        section.mistake("to", "is the pool itself", "name another one");
        return None;
    }
    if pools.get(own).is_some_and(|pool| pool.is_http2() != named.1) {
        let reason = format!("names the pool {:?}, which speaks another protocol to its workers", &**named.0);
        section.mistake("to", reason, "give both pools the same `protocol`");
        return None;
    }
    Some(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canary(weight: u64) -> Canary {
        Canary { to: 1, weight, seed: seed("live candidate"), header: None, principals: Box::default() }
    }

    #[test]
    fn a_weight_is_a_share_of_those_who_ask() {
        let canary = canary(5);
        let taken = (0..40_000).filter(|id| canary.takes(&HeaderMap::new(), &format!("user-{id}"), true)).count();
        assert!((1_800..2_200).contains(&taken), "{taken}");
    }

    #[test]
    fn a_header_and_a_name_choose() {
        let mut canary = canary(0);
        canary.header = Some((HeaderName::from_static("x-canary"), HeaderValue::from_static("yes")));
        canary.principals = Box::new(["key:tester".into()]);
        let asked = |value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static("x-canary"), HeaderValue::from_static(value))])
        };
        assert!(canary.takes(&asked("yes"), "key:other", true));
        assert!(!canary.takes(&asked("no"), "key:other", true));
        assert!(canary.takes(&HeaderMap::new(), "key:tester", true));
        assert!(!canary.takes(&HeaderMap::new(), "key:tester", false), "nobody is named by an address");
    }

    proptest! {
        #[test]
        fn who_is_in_stays_in_while_the_weight_grows(caller in ".*", low in 0_u64..=100, more in 0_u64..=100) {
            let high = (low + more).min(100);
            let is_in = |weight| canary(weight).takes(&HeaderMap::new(), &caller, true);
            prop_assert!(!is_in(low) || is_in(high));
            prop_assert!(is_in(100) && !is_in(0));
        }
    }
}
