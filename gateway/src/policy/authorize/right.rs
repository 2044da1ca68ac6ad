//! One right: who, with which scopes, for which methods and models, and when.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::condition::Condition;
use super::{Asked, Refusal, Roles, Unmet, Vocabulary};
use crate::settings::Section;
use crate::types::{ClaimRule, Name, Principal, Role, RoleSet, ScopeSet};

/// For whom a right is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever passes authentication, which asks nobody for anything.
    Anonymous,
    /// Every proven principal.
    Authenticated,
    /// Principals that have one of these roles.
    AnyOf(RoleSet),
}

impl Who {
    /// Reads "anonymous", "authenticated" or a list of roles.
    pub(super) fn compile(section: &Section<'_>, key: &str, roles: &Roles, remedy: &str) -> Option<Self> {
        match section.word(key) {
            Some("anonymous") => Some(Self::Anonymous),
            Some("authenticated") => Some(Self::Authenticated),
            Some(word) => {
                section.mistake(key, format!("is {word:?}, which is not one of its words"), remedy);
                None
            }
            None => {
                let required = roles.references(section, key);
                if section.all::<String>(key).is_empty() {
                    section.mistake(key, "names no role, so nobody could call it", remedy);
                }
                Some(Self::AnyOf(required))
            }
        }
    }
}

/// A model that a right is for: `iris` in every version, `iris@2` in one, `mood-*` whatever begins so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ModelPattern {
    name: Box<str>,
    is_prefix: bool,
    version: Option<Box<str>>,
}

impl ModelPattern {
    fn parse(text: &str) -> Option<Self> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let (name, is_prefix) = name.strip_suffix('*').map_or((name, false), |prefix| (prefix, true));
        let is_name = |word: &str| !word.contains(['*', '@', '/']);
        let good =
            is_name(name) && (is_prefix || !name.is_empty()) && version.is_none_or(|it| is_name(it) && !it.is_empty());
        good.then(|| Self { name: name.into(), is_prefix, version: version.map(Into::into) })
    }

    fn takes(&self, model: &str, version: &str) -> bool {
        let named = if self.is_prefix { model.starts_with(&*self.name) } else { *self.name == *model };
        named && !model.is_empty() && self.version.as_ref().is_none_or(|asked| **asked == *version)
    }
}

/// One right.
#[derive(Clone, Debug)]
pub struct Right {
    /// Its name, where it stands under `[rights]`.
    pub name: Option<Name>,
    /// For whom it is.
    pub who: Who,
    /// The scopes that the credential must carry, all of them.
    scopes: ScopeSet,
    methods: Option<Box<[Method]>>,
    models: Option<Box<[ModelPattern]>>,
    claims: Option<ClaimRule>,
    condition: Condition,
}

impl Right {
    /// Without any condition.
    pub(super) fn of(who: Who, scopes: ScopeSet) -> Self {
        Self { name: None, who, scopes, methods: None, models: None, claims: None, condition: Condition::default() }
    }

    fn compile(section: &Section<'_>, words: &Vocabulary) -> Option<Self> {
        let remedy = "list the roles that have it: roles = [\"predictor\"]; \"authenticated\" means every proven principal, \
                      \"anonymous\" everybody";
        if !section.has("roles") {
            section.missing("roles", remedy);
        }
        let who = section.has("roles").then(|| Who::compile(section, "roles", &words.roles, remedy)).flatten();
        let methods = section.has("methods").then(|| {
            let mut methods = Vec::new();
            for (index, word) in section.list::<String>("methods") {
                match word.parse::<Method>() {
                    Ok(method) if word.bytes().all(|b| b.is_ascii_uppercase()) => methods.push(method),
                    _ => {
                        section.mistake_at("methods", index, format!("is {word:?}"), "write a method such as \"POST\"");
                    }
                }
            }
            methods.into()
        });
        let models = section.has("models").then(|| {
            let mut models = Vec::new();
            for (index, word) in section.list::<String>("models") {
                match ModelPattern::parse(&word) {
                    Some(model) => models.push(model),
                    None => section.mistake_at(
                        "models",
                        index,
                        format!("is {word:?}, which names no model"),
                        "write a model such as \"iris\", one version of it such as \"iris@2\", or \"mood-*\"",
                    ),
                }
            }
            models.into()
        });
        for key in ["methods", "models"].into_iter().filter(|key| section.has(key)) {
            if section.all::<String>(key).is_empty() {
                section.mistake(key, "is empty, so the right is for nothing", "remove it, or name some");
            }
        }
        // What it says was read with the vocabulary.
        let claims = section.has("claims").then(|| words.claims.find(&section.name())).flatten();
        Some(Self {
            name: Some(section.name()),
            scopes: words.scopes.references(section, "scopes"),
            methods,
            models,
            claims,
            condition: Condition::compile(section),
            who: who?,
        })
    }

    /// Whether it is for everybody and always.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.who == Who::Anonymous && self.methods.is_none() && self.models.is_none() && self.condition.is_empty()
    }

    /// Whether it asks for what only a credential has.
    pub(super) fn needs_credential(&self) -> bool {
        !self.scopes.is_empty() || self.claims.is_some()
    }

    /// Whether it is for some models.
    pub(super) fn needs_model(&self) -> bool {
        self.models.is_some()
    }

    /// Gives back the role that has it, where it is for roles.
    pub(super) fn decide(&self, principal: &Principal, asked: &Asked<'_>) -> Result<Option<Role>, Refusal> {
        let role = match self.who {
            Who::Anonymous | Who::Authenticated => None,
            Who::AnyOf(required) => Some(required.first_common(principal.roles).ok_or(Refusal::Role)?),
        };
        if self.methods.as_ref().is_some_and(|methods| !methods.contains(asked.facts.method)) {
            return Err(Refusal::Reach);
        }
        let is_for = |models: &[ModelPattern]| models.iter().any(|it| it.takes(asked.model, asked.version));
        if self.models.as_ref().is_some_and(|models| !asked.unread && !is_for(models)) {
            return Err(Refusal::Reach);
        }
        if !principal.scopes.includes(self.scopes) {
            return Err(Refusal::Scope(self.scopes));
        }
        if self.claims.is_some_and(|rule| !principal.claims.contains(rule)) {
            return Err(Refusal::Condition(Unmet::Claims));
        }
        self.condition.decide(asked.facts).map_err(Refusal::Condition)?;
        Ok(role)
    }

    /// What it asks beside roles, for people.
    #[must_use]
    pub fn conditions(&self, words: &Vocabulary) -> String {
        let mut said = Vec::new();
        if let Some(methods) = &self.methods {
            said.push(methods.iter().map(Method::as_str).collect::<Vec<_>>().join(" "));
        }
        if let Some(models) = &self.models {
            let name = |model: &ModelPattern| {
                let version = model.version.as_ref().map_or_else(String::new, |version| format!("@{version}"));
                format!("{}{}{version}", model.name, if model.is_prefix { "*" } else { "" })
            };
            said.push(format!("for {}", models.iter().map(name).collect::<Vec<_>>().join(" ")));
        }
        if !self.scopes.is_empty() {
            said.push(format!("scope {}", words.scopes.list(self.scopes)));
        }
        if self.claims.is_some() {
            said.push("its claims".into());
        }
        self.condition.describe(&mut said);
        said.join(", ")
    }
}

/// The rights that have names.
#[derive(Debug, Default)]
pub struct Rights(HashMap<Name, Arc<Right>>);

impl Rights {
    /// Reads every `[rights.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, words: &Vocabulary) -> Self {
        let mut rights = HashMap::new();
        for section in root.sections("rights") {
            let right = Right::compile(&section, words);
            rights.extend(right.map(|right| (section.name(), Arc::new(right))));
            section.finish();
        }
        Self(rights)
    }

    /// The right of a name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<Right>> {
        self.0.get(name)
    }

    /// Reads a route's `rights`.
    pub(super) fn references(&self, section: &Section<'_>) -> Vec<Arc<Right>> {
        let mut rights = Vec::new();
        for (index, name) in section.list::<String>("rights") {
            if let Some(right) = self.find(&name) {
                rights.push(Arc::clone(right));
            } else {
                let defined: Vec<&str> = self.0.keys().map(|name| &**name).collect();
                section.undefined("rights", Some(index), ("right", "rights"), &name, &defined);
            }
        }
        rights
    }
}
