//! The scopes that a policy's routes and rights ask for.
//!
//! A scope is one word of a credential (RFC 6749 §3.3). Which words count is known when the policy is compiled, so a
//! credential's scopes become one small set when it is verified, and asking for some is one comparison.

use serde_json::Value;

use crate::settings::Section;
use crate::types::{Scope, ScopeSet};

/// The scopes by their place in a [`ScopeSet`].
#[derive(Debug, Default)]
pub struct Scopes(Vec<Box<str>>);

impl Scopes {
    /// Collects what `scopes` says under every `[routes.NAME]` and `[rights.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let mut names: Vec<Box<str>> = Vec::new();
        for group in ["routes", "rights"] {
            for section in root.sections(group) {
                let table = section.json();
                let listed = table.get("scopes").and_then(Value::as_array).into_iter().flatten();
                names.extend(listed.filter_map(Value::as_str).map(Box::from));
            }
        }
        names.sort_unstable();
        names.dedup();
        if names.len() > Scope::MOST {
            let reason =
                format!("and [rights] ask for {} different scopes; one policy can have {}", names.len(), Scope::MOST);
            root.mistake("routes", reason, "merge scopes that grant the same");
        }
        Self(names)
    }

    /// The scope of a name, if anything asks for it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Scope> {
        self.0.binary_search_by(|known| (**known).cmp(name)).ok().and_then(Scope::new)
    }

    /// The set of words; what nothing asks for is left out.
    pub fn set<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> ScopeSet {
        words.into_iter().filter_map(|word| self.find(word)).fold(ScopeSet::default(), ScopeSet::with)
    }

    /// Reads a list of scopes.
    pub fn references(&self, section: &Section<'_>, key: &str) -> ScopeSet {
        let mut words = Vec::new();
        for (index, word) in section.list::<String>(key) {
            if is_scope(&word) {
                words.push(word);
            } else {
                section.mistake_at(
                    key,
                    index,
                    format!("is {word:?}, which is no scope"),
                    "write one word such as \"predict\"",
                );
            }
        }
        self.set(words.iter().map(String::as_str))
    }

    /// The names of a set's scopes, separated by spaces.
    #[must_use]
    pub fn list(&self, set: ScopeSet) -> String {
        set.iter().filter_map(|scope| self.0.get(scope.index())).map(|name| &**name).collect::<Vec<_>>().join(" ")
    }
}

/// Whether it is a `scope-token` (RFC 6749 §3.3).
#[must_use]
pub(super) fn is_scope(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
}
