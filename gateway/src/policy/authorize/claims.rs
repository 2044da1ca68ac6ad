//! What rights ask of the claims of a token.
//!
//! A token's claims don't change, so what they meet is found once, when the token is verified, and kept with its
//! principal as a set: one place for each right that asks for claims.

use serde_json::{Map, Value};

use crate::settings::Section;
use crate::types::{ClaimRule, ClaimSet, Name};

/// The claims that one right asks for: all of them.
#[derive(Debug)]
struct Asked {
    right: Name,
    claims: Vec<(Box<str>, Vec<Value>)>,
}

/// What every right asks of claims.
#[derive(Debug, Default)]
pub struct ClaimRules(Vec<Asked>);

impl ClaimRules {
    /// Reads `claims` of every `[rights.NAME]`: a path to each claim, and the value or values that it may have.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let mut rules = Vec::new();
        for right in root.sections("rights") {
            let Some(section) = right.section("claims") else { continue };
            let mut claims = Vec::new();
            for (path, value) in section.json().as_object().into_iter().flatten() {
                let values = match value {
                    Value::Array(values) => values.clone(),
                    one => vec![one.clone()],
                };
                if values.is_empty() || values.iter().any(|value| value.is_object() || value.is_array()) {
                    let remedy = "write a text, a number, true or false, or a list of those that will do";
                    section.mistake(path, "is not what a claim can be held against", remedy);
                }
                claims.push((path.as_str().into(), values));
            }
            if ClaimRule::new(rules.len()).is_none() {
                let reason =
                    format!("is more than the {} rights with claims that one policy can have", ClaimRule::MOST);
                right.mistake("claims", reason, "give roles by the issuer's `roles_claim` instead");
            }
            rules.push(Asked { right: right.name(), claims });
        }
        Self(rules)
    }

    /// The place of a right's claims, where it asks for any.
    #[must_use]
    pub fn find(&self, right: &str) -> Option<ClaimRule> {
        self.0.iter().position(|asked| *asked.right == *right).and_then(ClaimRule::new)
    }

    /// What these claims meet.
    #[must_use]
    pub fn met(&self, claims: &Map<String, Value>) -> ClaimSet {
        let met = |asked: &Asked| asked.claims.iter().all(|(path, values)| holds(claims, path, values));
        let places = self.0.iter().enumerate().filter(|(_, asked)| met(asked));
        places.filter_map(|(place, _)| ClaimRule::new(place)).fold(ClaimSet::default(), ClaimSet::with)
    }
}

/// Whether the claim at the path has, or as a list holds, one of the values.
fn holds(claims: &Map<String, Value>, path: &str, values: &[Value]) -> bool {
    match descend(claims, path) {
        Some(Value::Array(held)) => held.iter().any(|value| values.contains(value)),
        Some(value) => values.contains(value),
        None => false,
    }
}

/// The claim of this name, or at a path such as `realm_access.roles`.
#[must_use]
pub fn descend<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(whole) = claims.get(path) {
        return Some(whole);
    }
    let (first, rest) = path.split_once('.')?;
    descend(claims.get(first)?.as_object()?, rest)
}
