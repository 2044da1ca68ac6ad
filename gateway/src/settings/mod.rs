//! Reading settings: a table of the merged configuration, one key at a time, every mistake kept.
//!
//! This is the lowest layer that knows about configuration. Each part of the gateway reads its own
//! table with [`Section`] beside the code that obeys it; `config` only loads and gathers. Keys that
//! nobody asked for are mistakes too, so a typo can never switch something off (serde's
//! `deny_unknown_fields` would stop at the first; this reports all).
//!
//! Never reads files or variables itself: [`Source`] does, so that tests need neither.

mod mistake;
mod value;

use std::cell::RefCell;
use std::cmp::Ordering;
use std::sync::Arc;

use figment::value::{Dict, Value};

pub use mistake::{Mistake, Mistakes};
pub use value::{ByteSize, Named, Setting};

use crate::types::{Secret, Sha256};

/// Where settings and what they refer to come from.
pub trait Source {
    /// Where `path` was written, as `file:line:column` or a variable's name.
    fn locate(&self, path: &[String]) -> String;
    /// How late the source is that says something about `path`: what is later wins. `None` where none does.
    fn rank(&self, path: &[String]) -> Option<usize>;
    /// The content of a file that a setting names. `Err` says why not.
    ///
    /// # Errors
    /// A reason that does not show the content.
    fn file(&self, name: &str) -> Result<Vec<u8>, String>;
    /// The value of an environment variable that a setting names.
    fn variable(&self, name: &str) -> Option<String>;
}

/// Files that settings name, for what is read again while the gateway runs.
pub trait Files: Send + Sync {
    /// The content of a file.
    ///
    /// # Errors
    /// A reason that does not show the content.
    fn read(&self, name: &str) -> Result<Vec<u8>, String>;
    /// Whether every user of this machine may read it.
    fn is_public(&self, name: &str) -> bool;
}

/// An element of a list that is written short or as a table.
pub enum Row<'a, T> {
    /// Short.
    Value(T),
    /// As a table.
    Table(Section<'a>),
}

/// One table of the configuration.
pub struct Section<'a> {
    source: &'a dyn Source,
    mistakes: &'a Mistakes,
    path: Vec<String>,
    dict: &'a Dict,
    asked: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    #[must_use]
    pub fn root(source: &'a dyn Source, mistakes: &'a Mistakes, dict: &'a Dict) -> Self {
        Self { source, mistakes, path: Vec::new(), dict, asked: RefCell::default() }
    }

    /// The last part of this table's path: for `[routes.predict]`, `predict`.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        self.path.last().map_or_else(|| "".into(), |name| name.as_str().into())
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().push(key.to_owned());
        self.dict.get(key)
    }

    /// Whether the key is written.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// The key's value; `None` if it is absent or, after noting a mistake, wrong.
    pub fn optional<T: Setting>(&self, key: &str) -> Option<T> {
        let value = self.value(key)?;
        match T::read(value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.mistake(key, reason, format!("write {}", T::SHAPE));
                None
            }
        }
    }

    /// The key's value where it is a word rather than a list or a table.
    #[must_use]
    pub fn word(&self, key: &str) -> Option<&'a str> {
        self.value(key)?.as_str()
    }

    /// Whether the key's value is a table.
    #[must_use]
    pub fn is_table(&self, key: &str) -> bool {
        self.value(key).is_some_and(|value| value.as_dict().is_some())
    }

    /// The key's value, or `default` where it is absent.
    pub fn or<T: Setting>(&self, key: &str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// The key's value; its absence is a mistake, for which `remedy` says what to write.
    pub fn required<T: Setting>(&self, key: &str, remedy: &str) -> Option<T> {
        if !self.has(key) {
            self.missing(key, remedy);
        }
        self.optional(key)
    }

    /// Notes that a key must be there and is not, or is there and empty. What is there and wrong was noted.
    pub fn missing(&self, key: &str, remedy: &str) {
        let reason = if self.dict.contains_key(key) { "is empty" } else { "is missing" };
        if !self.mistakes.is_any_below(&self.key_path(key).join(".")) {
            self.mistake(key, reason, remedy);
        }
    }

    /// A list, each element with its position; empty where the key is absent.
    pub fn list<T: Setting>(&self, key: &str) -> Vec<(usize, T)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Value::Array(_, elements) = value else {
            let reason = format!("is {}, not a list", value::kind(value));
            self.mistake(key, reason, format!("write a list of {}", T::SHAPE));
            return Vec::new();
        };
        let mut list = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            match T::read(element) {
                Ok(element) => list.push((index, element)),
                Err(reason) => {
                    self.mistake_at(key, index, reason, format!("write {}", T::SHAPE));
                }
            }
        }
        list
    }

    /// A list whose elements are values or tables, each with its position; empty where the key is absent.
    pub fn rows<T: Setting>(&self, key: &str) -> Vec<(usize, Row<'a, T>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Value::Array(_, elements) = value else {
            let reason = format!("is {}, not a list", value::kind(value));
            self.mistake(key, reason, format!("write a list of {}", T::SHAPE));
            return Vec::new();
        };
        let mut rows = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            match element {
                Value::Dict(_, dict) => {
                    let mut path = self.key_path(key);
                    path.push(index.to_string());
                    rows.push((index, Row::Table(self.at(path, dict))));
                }
                element => match T::read(element) {
                    Ok(element) => rows.push((index, Row::Value(element))),
                    Err(reason) => self.mistake_at(key, index, reason, format!("write {} or a table", T::SHAPE)),
                },
            }
        }
        rows
    }

    /// The elements of a list without their positions.
    pub fn all<T: Setting>(&self, key: &str) -> Vec<T> {
        self.list(key).into_iter().map(|(_, element)| element).collect()
    }

    /// A table below this one; `None` if it is absent.
    #[must_use]
    pub fn section(&self, key: &str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let Value::Dict(_, dict) = value else {
            let reason = format!("is {}, not a table", value::kind(value));
            self.mistake(key, reason, format!("write a table: [{}]", self.key_path(key).join(".")));
            return None;
        };
        Some(self.child(key, dict))
    }

    /// A table below this one, empty if it is absent, so that its defaults and requirements apply.
    #[must_use]
    pub fn section_or_empty(&self, key: &str) -> Section<'a> {
        static EMPTY: Dict = Dict::new();
        self.section(key).unwrap_or_else(|| self.child(key, &EMPTY))
    }

    /// Every table below `key`: for `routes`, `[routes.a]` and `[routes.b]`, in the order of names.
    #[must_use]
    pub fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let Some(group) = self.section(key) else { return Vec::new() };
        group.dict.keys().filter_map(|name| group.section(name)).collect()
    }

    /// A digest of all that the table says: the same for two tables that say the same.
    #[must_use]
    pub fn digest(&self) -> Sha256 {
        Sha256::of(serde_json::to_string(self.dict).unwrap_or_default().as_bytes())
    }

    /// The keys of this table.
    #[must_use]
    pub fn keys(&self) -> Vec<&'a str> {
        self.dict.keys().map(String::as_str).collect()
    }

    fn child(&self, key: &str, dict: &'a Dict) -> Section<'a> {
        self.at(self.key_path(key), dict)
    }

    fn at(&self, path: Vec<String>, dict: &'a Dict) -> Section<'a> {
        Section { source: self.source, mistakes: self.mistakes, path, dict, asked: RefCell::default() }
    }

    fn key_path(&self, key: &str) -> Vec<String> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        path
    }

    /// A secret, which may only be referred to: `{ env = "NAME" }` or `{ file = "path" }`. Line ends at
    /// the end are cut, as editors and `echo` add them.
    pub fn secret(&self, key: &str) -> Option<Secret> {
        self.secret_and_file(key).map(|(secret, _)| secret)
    }

    /// A secret, and the name of the file that it is in, if it is in one.
    pub fn secret_and_file(&self, key: &str) -> Option<(Secret, Option<String>)> {
        let remedy = "write { env = \"NAME\" } or { file = \"path\" }; a secret itself never stands here";
        match self.value(key) {
            None => {
                self.missing(key, remedy);
                return None;
            }
            Some(Value::Dict(..)) => {}
            Some(_) => {
                self.mistake(key, "is written out, and a secret must only be referred to", remedy);
                return None;
            }
        }
        let reference = self.section(key)?;
        let (mut variable, mut file) = (reference.optional::<String>("env"), reference.optional::<String>("file"));
        // Tables of several sources merge; of two references the later one is meant.
        let rank = |name: &str| self.source.rank(&reference.key_path(name));
        match rank("env").cmp(&rank("file")) {
            Ordering::Less => variable = None,
            Ordering::Greater => file = None,
            Ordering::Equal => {}
        }
        reference.finish();
        let bytes = match (variable, file.take()) {
            (Some(name), None) => {
                if let Some(value) = self.source.variable(&name) {
                    value.into_bytes()
                } else {
                    let reason = format!("refers to the environment variable {name}, which is not set");
                    self.mistake(key, reason, format!("set {name} before the start, or refer to a file"));
                    return None;
                }
            }
            (None, Some(name)) => {
                let bytes = self.read(key, &name)?;
                file = Some(name);
                bytes
            }
            _ => {
                self.mistake(key, "must have exactly one of `env` and `file`", remedy);
                return None;
            }
        };
        let secret = Secret::from_text(&bytes);
        if secret.expose().is_empty() {
            self.mistake(key, "refers to a secret that is empty", "put the secret there");
            return None;
        }
        Some((secret, file))
    }

    /// The content of the file that the key names.
    pub fn file(&self, key: &str, remedy: &str) -> Option<Vec<u8>> {
        self.named_file(key, remedy).map(|(_, content)| content)
    }

    /// The file that the key names: its name and content.
    pub fn named_file(&self, key: &str, remedy: &str) -> Option<(String, Vec<u8>)> {
        let name: String = self.required(key, remedy)?;
        self.read(key, &name).map(|content| (name, content))
    }

    fn read(&self, key: &str, name: &str) -> Option<Vec<u8>> {
        self.source
            .file(name)
            .map_err(|reason| {
                let reason = format!("names the file {name:?}, which can't be read: {reason}");
                self.mistake(
                    key,
                    reason,
                    "check the path (it is relative to the working directory) and its permissions",
                );
            })
            .ok()
    }

    /// This table as JSON, for what is JSON by nature and only written in TOML (a JSON Schema).
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        for key in self.dict.keys() {
            self.asked.borrow_mut().push(key.clone());
        }
        serde_json::to_value(self.dict).unwrap_or(serde_json::Value::Null)
    }

    /// Notes a mistake at `key`.
    pub fn mistake(&self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.note(&self.key_path(key), reason.into(), remedy.into());
    }

    /// Notes a mistake at one element of the list at `key`.
    pub fn mistake_at(&self, key: &str, index: usize, reason: impl Into<String>, remedy: impl Into<String>) {
        let mut path = self.key_path(key);
        path.push(index.to_string());
        self.note(&path, reason.into(), remedy.into());
    }

    /// Notes a mistake of this table as a whole.
    pub fn mistake_here(&self, reason: impl Into<String>, remedy: impl Into<String>) {
        self.note(&self.path, reason.into(), remedy.into());
    }

    fn note(&self, path: &[String], reason: String, remedy: String) {
        let place = self.source.locate(path);
        self.mistakes.add(Mistake { place, key: path.join("."), reason, remedy });
    }

    /// Says which name was meant: the mistake for a reference to something undefined. What is written under
    /// `[group.NAME]` and wrong is no such mistake; it has one of its own.
    pub fn undefined(
        &self,
        key: &str,
        index: Option<usize>,
        (what, group): (&str, &str),
        name: &str,
        defined: &[&str],
    ) {
        if self.source.rank(&[group.to_owned(), name.to_owned()]).is_some() {
            return;
        }
        let mut defined = defined.to_vec();
        defined.sort_unstable();
        let defined = defined.as_slice();
        let reason = format!("names the {what} {name:?}, which is not defined");
        let remedy = match nearest(name, defined) {
            Some(near) => format!("did you mean {near:?}?"),
            None if defined.is_empty() => format!("define it; no {what} is defined yet"),
            None => format!("define it, or use one of: {}", defined.join(", ")),
        };
        match index {
            Some(index) => self.mistake_at(key, index, reason, remedy),
            None => self.mistake(key, reason, remedy),
        }
    }

    /// Ends the reading: every key that nobody asked for is a mistake.
    pub fn finish(self) {
        self.finish_ref();
    }

    /// As [`Section::finish`], for the whole configuration, which is lent to its readers.
    pub fn finish_ref(&self) {
        let asked = self.asked.borrow();
        let known: Vec<&str> = asked.iter().map(String::as_str).collect();
        for key in self.dict.keys().filter(|key| !known.contains(&key.as_str())) {
            let remedy = if let Some(near) = nearest(key, &known) {
                format!("did you mean `{near}`?")
            } else {
                let mut known = known.clone();
                known.sort_unstable();
                known.dedup();
                format!("remove it; known here: {}", known.join(", "))
            };
            self.mistake(key, "is not a key that is known here", remedy);
        }
    }
}

fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(name.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Mistake, Mistakes, Section, Source};
    use figment::Figment;
    use figment::providers::{Format, Toml};
    use figment::value::Dict;

    /// A source with nothing behind it.
    struct Nowhere;

    impl Source for Nowhere {
        fn locate(&self, _: &[String]) -> String {
            "test".into()
        }
        fn rank(&self, _: &[String]) -> Option<usize> {
            None
        }
        fn file(&self, _: &str) -> Result<Vec<u8>, String> {
            Err("there are no files here".into())
        }
        fn variable(&self, name: &str) -> Option<String> {
            (name == "SET").then(|| "0123456789abcdef0123456789abcdef\n".into())
        }
    }

    /// Reads a piece of TOML with `read`, and gives back what it made and the mistakes that it noted.
    pub(crate) fn with_section<T>(toml: &str, read: impl FnOnce(&Section<'_>) -> T) -> (T, Vec<Mistake>) {
        let dict: Dict = Figment::from(Toml::string(toml)).extract().expect("test TOML is well-formed");
        let mistakes = Mistakes::default();
        let section = Section::root(&Nowhere, &mistakes, &dict);
        let value = read(&section);
        section.finish();
        (value, mistakes.into_vec())
    }

    #[test]
    fn unknown_keys_are_named_with_what_was_meant() {
        let ((), mistakes) = with_section("quota = 1\nwindwo = \"1s\"\nzzz = 1", |section| {
            section.optional::<u64>("quota");
            section.optional::<String>("window");
        });
        let remedies: Vec<&str> = mistakes.iter().map(|m| m.remedy.as_str()).collect();
        assert_eq!(remedies, ["did you mean `window`?", "remove it; known here: quota, window"]);
    }

    #[test]
    fn secrets_are_only_referred_to() {
        let (secret, mistakes) = with_section("key = { env = \"SET\" }", |section| section.secret("key"));
        assert_eq!(secret.expect("it is set").expose().len(), 32);
        assert!(mistakes.is_empty());
        for wrong in
            ["key = \"hunter2\"", "key = { env = \"UNSET\" }", "key = {}", "", "key = { env = \"SET\", file = \"x\" }"]
        {
            let (secret, mistakes) = with_section(wrong, |section| section.secret("key"));
            assert!(secret.is_none() && mistakes.len() == 1, "{wrong}");
            assert!(!mistakes.iter().any(|m| m.to_string().contains("hunter2")));
        }
    }
}
