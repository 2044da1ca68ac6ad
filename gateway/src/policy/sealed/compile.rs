//! What is written of sealed fields, and what is wrong with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Sealed, Sealings, Values};
use crate::policy::authorize::Roles;
use crate::policy::body::{BodyRule, MOST_WHOLE};
use crate::policy::fernet::Fernet;
use crate::policy::json::{self, Place};
use crate::settings::{ByteSize, Section};
use crate::types::Name;

/// The most places of one list.
const MOST_PLACES: usize = 32;
/// The most values that a rule may seal or open in one body.
const MOST_FIELDS: usize = 10_000;

impl Sealings {
    /// Reads every `[sealed.NAME]`. `fernet` are the keys of `[fernet]`.
    #[must_use]
    pub fn compile(root: &Section<'_>, fernet: Option<&Arc<Fernet>>, roles: &Roles) -> Self {
        let mut defined = HashMap::new();
        for section in root.sections("sealed") {
            let rule = Sealed::compile(&section, root.has("fernet"), fernet, roles);
            section.finish();
            defined.extend(rule.map(|rule| (Name::clone(&rule.name), Arc::new(rule))));
        }
        Self(defined)
    }

    /// Reads a route's `sealed`, and finds what does not go with it.
    #[must_use]
    pub fn reference(&self, section: &Section<'_>, body: Option<&BodyRule>) -> Option<Arc<Sealed>> {
        let name = section.optional::<String>("sealed")?;
        let Some(rule) = self.0.get(name.as_str()) else {
            let names: Vec<&str> = self.0.keys().map(|name| &**name).collect();
            section.undefined("sealed", None, ("rule for sealed fields", "sealed"), &name, &names);
            return None;
        };
        let beside = [
            (section.has("builtin"), "`builtin`, whose bodies are the gateway's own"),
            (section.or("grpc", false), "`grpc`, whose messages are not read"),
            (section.has("upgrade"), "`upgrade`, and nothing is read of a WebSocket"),
        ];
        if let Some((_, what)) = beside.into_iter().find(|(is_there, _)| *is_there) {
            section.mistake("sealed", format!("stands beside {what}"), "remove one of them");
            return None;
        }
        if rule.changes_requests() {
            if !body.is_some_and(|body| body.is_json() && !body.is_oip()) {
                let reason = "names fields of requests, and this route's body is not read as JSON";
                section.mistake("sealed", reason, "write [routes.NAME.body] with format = \"json\"");
            }
            if section.all::<String>("danger_shadow").iter().any(|stage| stage == "body") {
                let reason = "names fields of requests, and a body that is not what it should be goes on as it is here";
                section.mistake("sealed", reason, "take \"body\" out of `danger_shadow`");
            }
        }
        Some(Arc::clone(rule))
    }
}

impl Sealed {
    fn compile(section: &Section<'_>, has_keys: bool, fernet: Option<&Arc<Fernet>>, roles: &Roles) -> Option<Self> {
        let remedy =
            "write \"text\" where they are strings, as /encrypt seals them, or \"json\" for any value as its JSON text";
        let values: Option<Values> = section.required("values", remedy);
        let own = section.has("key").then(|| Fernet::compile_keys(section).map(Arc::new));
        if own.is_none() && !has_keys {
            let remedy = "define [fernet], or write key = { file = \"fields.key\" } here";
            section.mistake_here("has no key, and no [fernet] is defined", remedy);
        }
        if own.is_none() && section.has("keys") {
            section.mistake("keys", "stands here without `key`, which seals", "write `key` too, or remove it");
        }
        let fernet = own.unwrap_or_else(|| fernet.cloned());
        let lists = ["open_request", "seal_request", "open_answer", "seal_answer"];
        let places = lists.map(|key| read_places(section, key));
        for (one, other) in [(0, 1), (2, 3)] {
            let (Some(before), Some(places)) = (places.get(one), places.get(other)) else { continue };
            for (index, place) in places {
                if before.iter().any(|(_, before)| overlap(before, place))
                    && let (Some(one), Some(other)) = (lists.get(one), lists.get(other))
                {
                    let reason = format!("names a place that `{one}` names too, or one inside it, or around it");
                    section.mistake_at(other, *index, reason, "keep it in one of them");
                }
            }
        }
        let [open_request, seal_request, open_answer, seal_answer] =
            places.map(|places| places.into_iter().map(|(_, place)| place).collect::<Box<[Place]>>());
        if lists.iter().all(|key| !section.has(key)) {
            section.missing("seal_request", "name fields: seal_request, open_request, seal_answer or open_answer");
        }
        let readers = roles.references(section, "readers");
        if section.has("open_answer") && !section.has("readers") {
            section.missing("readers", "name the roles whose holders get the values: readers = [\"doctor\"]");
        }
        if section.has("readers") && open_answer.is_empty() && seal_answer.is_empty() {
            section.mistake(
                "readers",
                "says who reads answers, and no field of one is named",
                "remove it, or write `seal_answer`",
            );
        }
        let max_fields = section.or("max_fields", 1000_usize);
        if !(1..=MOST_FIELDS).contains(&max_fields) {
            section.mistake(
                "max_fields",
                format!("is {max_fields}"),
                format!("write a number from 1 to {MOST_FIELDS}"),
            );
        }
        let ByteSize(max) = section.or("max", ByteSize(1 << 20));
        if !(1..=MOST_WHOLE).contains(&max) {
            section.mistake("max", "is 0, or more than is held in memory", "write at most \"16MiB\"");
        }
        let max_age = section.optional::<Duration>("max_age").map(|age| age.as_secs());
        let fernet = fernet?;
        Some(Self {
            name: section.name(),
            max_age: max_age.or(fernet.max_age()),
            fernet,
            values: values?,
            open_request,
            seal_request,
            open_answer,
            seal_answer,
            readers,
            max_fields,
            max,
        })
    }
}

/// Reads a list of places, none of which may be another's, or inside it.
fn read_places(section: &Section<'_>, key: &str) -> Vec<(usize, Place)> {
    let mut places: Vec<(usize, Place)> = Vec::new();
    for (index, text) in section.list::<String>(key) {
        let remedy = "write one such as \"/patient/id\"; `*` stands for every element of a list";
        match json::place(&text).filter(|place| !place.is_empty()) {
            None => {
                section.mistake_at(key, index, format!("is {text:?}, which is no JSON pointer to a member"), remedy);
            }
            Some(place) if places.iter().any(|(_, before)| overlap(before, &place)) => {
                section.mistake_at(key, index, "is named before, or inside or around what is", "keep one of them");
            }
            Some(place) => places.push((index, place)),
        }
    }
    if section.has(key) && places.is_empty() {
        section.missing(key, "name the places: [\"/patient/id\"]");
    }
    if places.len() > MOST_PLACES {
        section.mistake(key, format!("has more than {MOST_PLACES} places"), "seal a member that holds several");
    }
    places
}

/// Whether one value can be at both places, or inside the other's.
fn overlap(one: &Place, other: &Place) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other || **one == *"*" || **other == *"*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_overlap_where_one_value_can_be_at_both() {
        for (one, other, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/*/b", "/a", true),
            ("/a/*", "/a/b", true),
            ("/a/b", "/a/c", false),
        ] {
            let (one, other) = (json::place(one).expect("a place"), json::place(other).expect("a place"));
            assert_eq!((overlap(&one, &other), overlap(&other, &one)), (expected, expected));
        }
    }
}
