//! Is the body what the route takes? Type, size, JSON without ambiguity, a JSON Schema, clean text.
//!
//! Source: RFC 9110 §15.5 (413, 415), RFC 9457 for the answer, JSON Schema draft 2020-12. Every fault
//! is listed with its JSON pointer. Never changes a body except where the route asks for clean text,
//! and then says what was changed.

mod card;
mod clean;
mod fault;
mod guard;
mod note;
pub(super) mod oip;

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, header};
use jsonschema::Validator;
use serde_json::Value;

use super::json;
use crate::settings::{ByteSize, Named, Section};
use crate::types::Name;

pub use card::Card;
use clean::CleanText;
pub use fault::Fault;
use fault::faults;
pub use guard::{Active, Asked, Guards};
use guard::{Found, Guard, Held};
use note::Note;
pub use oip::JSON_LENGTH;

/// The schemas of `[schemas.NAME]`, compiled once and shared.
#[derive(Debug, Default)]
pub struct Schemas(HashMap<Name, Arc<Validator>>);

impl Schemas {
    /// Reads every `[schemas.NAME]`: a JSON Schema written in TOML, or `file = "..."` with one in JSON.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let mut schemas = HashMap::new();
        for section in root.sections("schemas") {
            let schema = if section.keys() == ["file"] {
                section.file("file", "name a file with a JSON Schema").and_then(|bytes| {
                    json::parse(&bytes, 64)
                        .map_err(|wrong| {
                            section.mistake("file", format!("is not JSON: {}", wrong.detail), "correct the file");
                        })
                        .ok()
                })
            } else {
                Some(section.json())
            };
            if let Some(schema) = schema {
                match jsonschema::draft202012::meta::validate(&schema)
                    .map_err(|error| error.to_string())
                    .and_then(|()| jsonschema::draft202012::new(&schema).map_err(|error| error.to_string()))
                {
                    Ok(validator) => {
                        schemas.insert(section.name(), Arc::new(validator));
                    }
                    Err(error) => {
                        section
                            .mistake_here(format!("is not a JSON Schema: {error}"), "see JSON Schema, draft 2020-12");
                    }
                }
            }
            section.finish();
        }
        Self(schemas)
    }

    /// The schema that a table's `schema` names; one that is not defined is a mistake.
    pub(super) fn reference(&self, section: &Section<'_>) -> Option<Arc<Validator>> {
        let name = section.optional::<String>("schema")?;
        let found = self.0.get(name.as_str()).cloned();
        if found.is_none() {
            let defined: Vec<&str> = self.0.keys().map(|name| &**name).collect();
            section.undefined("schema", None, ("schema", "schemas"), &name, &defined);
        }
        found
    }
}

/// The largest body that is held in memory whole.
pub(super) const MOST_WHOLE: usize = 16 << 20;

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Whole, as JSON.
    Json,
    /// Whole, as an inference request of the Open Inference Protocol.
    Oip,
    /// Not at all: counted and passed on as it comes.
    Opaque,
}

impl Named for Format {
    const SHAPE: &'static str = "\"json\", \"oip-v2\" or \"opaque\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("oip-v2", Self::Oip), ("opaque", Self::Opaque)];
}

/// Reads `content_types`.
pub(super) fn media_types(section: &Section<'_>) -> Vec<Box<str>> {
    let mut content_types = Vec::new();
    for (index, text) in section.list::<String>("content_types") {
        let plain = text.split('/').count() == 2
            && text.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b';');
        if !plain {
            let reason = format!("is {text:?}, which is not a media type in lower case without parameters");
            section.mistake_at("content_types", index, reason, "write one such as \"application/json\"");
        }
        content_types.push(text.into_boxed_str());
    }
    content_types
}

/// A route's `[body]`, compiled.
#[derive(Debug)]
pub struct BodyRule {
    content_types: Box<[Box<str>]>,
    max: usize,
    format: Format,
    depth: usize,
    schema: Option<Arc<Validator>>,
    clean: Box<[CleanText]>,
    guard: Option<Arc<Guard>>,
}

impl BodyRule {
    /// Reads `[routes.NAME.body]`. Where the pool speaks the Open Inference Protocol, so does a body of which nobody says
    /// otherwise.
    #[must_use]
    pub fn compile(section: Section<'_>, schemas: &Schemas, guards: &Guards, is_oip: bool) -> Option<Self> {
        let format = section.or("format", if is_oip { Format::Oip } else { Format::Json });
        let mut content_types = media_types(&section);
        if content_types.is_empty() {
            match format {
                Format::Json => content_types.push("application/json".into()),
                Format::Oip => content_types.extend(["application/json".into(), "application/octet-stream".into()]),
                Format::Opaque => section.missing("content_types", "list the media types that the route takes"),
            }
        }
        let ByteSize(max) = section.or("max", ByteSize(64 << 10));
        let depth = section.or("depth", 16_usize);
        if !(1..=64).contains(&depth) {
            section.mistake("depth", format!("is {depth}"), "write a number from 1 to 64");
        }
        let schema = schemas.reference(&section);
        let clean: Vec<CleanText> = section.sections("clean_text").into_iter().filter_map(CleanText::compile).collect();
        if format == Format::Opaque && (section.has("schema") || section.has("clean_text") || section.has("depth")) {
            section.mistake(
                "format",
                "is \"opaque\", so no rule about the content could be kept",
                "write format = \"json\", or remove `schema`, `depth` and `clean_text`",
            );
        }
        if format == Format::Oip {
            for key in ["content_types", "schema", "clean_text"].into_iter().filter(|key| section.has(key)) {
                section.mistake(key, "stands beside format = \"oip-v2\", whose form is known", "remove it");
            }
        }
        if format != Format::Opaque && max > MOST_WHOLE {
            section.mistake(
                "max",
                "is more than 16 MiB, and a JSON body is held in memory whole",
                "lower it, or write format = \"opaque\"",
            );
        }
        let guard = guards.reference(&section);
        if format == Format::Opaque && section.has("guard") {
            section.mistake("guard", "stands beside format = \"opaque\", which nobody reads", "write another format");
        }
        section.finish();
        Some(Self { content_types: content_types.into(), max, format, depth, schema, clean: clean.into(), guard })
    }

    /// The rule for a form, as OAuth2 has it.
    #[must_use]
    pub fn form() -> Self {
        Self {
            content_types: [Box::from("application/x-www-form-urlencoded")].into(),
            max: super::token::MOST_FORM,
            format: Format::Opaque,
            depth: 0,
            schema: None,
            clean: Box::default(),
            guard: None,
        }
    }

    /// The rule for one small JSON object.
    #[must_use]
    pub fn small() -> Self {
        Self {
            content_types: [Box::from("application/json")].into(),
            max: 64 << 10,
            format: Format::Json,
            depth: 2,
            schema: None,
            clean: Box::default(),
            guard: None,
        }
    }

    /// The largest body in bytes.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How deep a body may be nested.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether the body is read as JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format != Format::Opaque
    }

    /// Whether the body is a request of the Open Inference Protocol.
    #[must_use]
    pub fn is_oip(&self) -> bool {
        self.format == Format::Oip
    }

    /// Where its guard's card is asked for, if workers tell it.
    #[must_use]
    pub fn asked(&self) -> Option<&Asked> {
        self.guard.as_deref()?.asked()
    }

    /// Whether the body must be there whole before it can be judged.
    #[must_use]
    pub fn needs_whole(&self) -> bool {
        self.format != Format::Opaque
    }

    /// Judges what the head says: type and announced length.
    ///
    /// # Errors
    /// [`Refusal::Type`], [`Refusal::Encoding`] or [`Refusal::TooLarge`].
    pub fn decide_head(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Refusal::Encoding);
        }
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let sent = types.next().and_then(|value| value.to_str().ok());
        let essence = sent.and_then(|value| value.split(';').next()).unwrap_or_default().trim_matches([' ', '\t']);
        let taken = match self.format {
            Format::Oip => oip::takes(headers),
            // A worker that goes by that header would read another body than we do.
            Format::Json if headers.contains_key(&oip::JSON_LENGTH) => false,
            Format::Json | Format::Opaque => {
                types.next().is_none() && self.content_types.iter().any(|taken| taken.eq_ignore_ascii_case(essence))
            }
        };
        if !taken {
            return Err(Refusal::Type { taken: self.content_types.join(", ") });
        }
        let announced =
            headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > self.max)) {
            return Err(Refusal::TooLarge { max: self.max });
        }
        Ok(())
    }

    /// Judges a whole body. `active` is the card that workers tell, for a guard that goes by it.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::Invalid`] or [`Refusal::CardUnknown`].
    pub fn decide(&self, headers: &HeaderMap, bytes: &[u8], active: Active<'_>) -> Result<Checked, Refusal> {
        self.decide_and_look(headers, bytes, active, |_| ())
    }

    /// Judges a whole body, and lets somebody look at what is good JSON.
    ///
    /// # Errors
    /// As [`BodyRule::decide`].
    pub fn decide_and_look(
        &self,
        headers: &HeaderMap,
        bytes: &[u8],
        active: Active<'_>,
        look: impl FnOnce(&Value),
    ) -> Result<Checked, Refusal> {
        if self.format == Format::Opaque {
            return Ok(Checked::default());
        }
        let guard = self.guard.as_deref().map(|guard| guard.with(active)).transpose().map_err(Refusal::CardUnknown)?;
        let guard = guard.flatten();
        if self.format == Format::Oip {
            return self.decide_oip(headers, bytes, guard, look);
        }
        let mut value = json::parse(bytes, self.depth).map_err(Refusal::Malformed)?;
        let mut changes = Vec::new();
        for rule in &self.clean {
            rule.apply(&mut value, &mut changes);
        }
        if let Some(schema) = &self.schema
            && !schema.is_valid(&value)
        {
            return Err(Refusal::Invalid { faults: faults(schema, &value) });
        }
        let mut found = Found::default();
        for change in changes {
            found.changed.add(|| change.to_string());
        }
        if let Some(guard) = guard {
            guard.rows(&mut value, &mut found);
        }
        look(&value);
        Checked::of(found, || {
            let body = serde_json::to_vec(&value).unwrap_or_default();
            (body.len(), body)
        })
    }

    /// Judges a request of the Open Inference Protocol.
    fn decide_oip(
        &self,
        headers: &HeaderMap,
        bytes: &[u8],
        guard: Option<Held<'_>>,
        look: impl FnOnce(&Value),
    ) -> Result<Checked, Refusal> {
        let length =
            oip::json_length(headers, bytes.len()).map_err(|fault| Refusal::Invalid { faults: vec![*fault] })?;
        let (text, tail) = bytes.split_at(length);
        let mut value = json::parse(text, self.depth).map_err(Refusal::Malformed)?;
        let tensors = oip::read(&value, tail).map_err(|faults| Refusal::Invalid { faults })?;
        look(&value);
        let Some(guard) = guard else { return Ok(Checked::default()) };
        let (mut tail, mut found) = (tail.to_vec(), Found::default());
        guard.tensors(&mut value, &mut tail, &tensors, &mut found);
        let is_rewritten = found.is_rewritten;
        Checked::of(found, || {
            let mut body = if is_rewritten { serde_json::to_vec(&value).unwrap_or_default() } else { text.to_vec() };
            let length = body.len();
            body.append(&mut tail);
            (length, body)
        })
    }
}

/// Evidence that a body was judged and found good.
#[derive(Debug, Default)]
pub struct Checked {
    rewritten: Option<Rewritten>,
    flagged: Option<String>,
}

/// A body that was cleaned, and what was done to it.
#[derive(Debug)]
pub struct Rewritten {
    /// The new body.
    pub body: Vec<u8>,
    /// How much of it is JSON, for the header that says so.
    pub json: usize,
    /// What was changed, for the client and the log: `"/text";nfc;controls=2;cut=15` (RFC 9651 list).
    pub note: String,
}

impl Checked {
    /// What was found, where that is no reason to refuse; `body` writes what was changed, and how much of it is JSON.
    fn of(found: Found, body: impl FnOnce() -> (usize, Vec<u8>)) -> Result<Self, Refusal> {
        if !found.faults.is_empty() {
            return Err(Refusal::Invalid { faults: found.faults });
        }
        let flagged = (!found.flagged.is_empty()).then(|| {
            let mut names = Note::default();
            for name in &found.flagged {
                names.add(|| note::token(name));
            }
            names.finish()
        });
        if found.changed.is_empty() {
            return Ok(Self { rewritten: None, flagged });
        }
        let (json, body) = body();
        Ok(Self { rewritten: Some(Rewritten { body, json, note: found.changed.finish() }), flagged })
    }

    /// The features with values outside what the model knows (RFC 9651 list).
    #[must_use]
    pub fn flagged(&self) -> Option<&str> {
        self.flagged.as_deref()
    }

    /// The body that goes to the worker in place of the client's, where it was changed.
    #[must_use]
    pub fn into_rewritten(self) -> Option<Rewritten> {
        self.rewritten
    }
}

/// Why a body is refused.
#[derive(Debug)]
pub enum Refusal {
    /// The route takes no body.
    NotTaken,
    /// Not one of the media types.
    Type {
        /// Those that are taken, for `Accept`.
        taken: String,
    },
    /// A coding was applied (`Content-Encoding`), and none is taken.
    Encoding,
    /// Longer than the route's bound.
    TooLarge {
        /// The bound in bytes.
        max: usize,
    },
    /// Not JSON that can be read in one way only.
    Malformed(json::Malformed),
    /// The model's card is not known, so nothing can be held against it. Why, for the log.
    CardUnknown(&'static str),
    /// Not what the schema describes.
    Invalid {
        /// Each fault, up to a bound.
        faults: Vec<Fault>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;

    const POLICY: &str = r#"
        [schemas.iris]
        type = "object"
        additionalProperties = false
        required = ["sepal_length", "petal_width"]
        [schemas.iris.properties.sepal_length]
        type = "number"
        exclusiveMinimum = 0
        maximum = 30
        [schemas.iris.properties.petal_width]
        type = "number"
        [schemas.text]
        type = "object"
        properties.text = { type = "string", minLength = 1 }
        [body]
        schema = "iris"
        [clean]
        schema = "text"
        clean_text.text = { at = "/text", max_chars = 5 }
        clean_text.rows = { at = "/rows/*/text", max_chars = 5 }
    "#;

    fn rule(key: &str) -> BodyRule {
        let (rule, mistakes) = with_section(POLICY, |root| {
            let schemas = Schemas::compile(root);
            let both = ["body", "clean"]
                .map(|key| root.section(key).and_then(|s| BodyRule::compile(s, &schemas, &Guards::default(), false)));
            let [body, clean] = both;
            if key == "body" { body } else { clean }
        });
        assert_eq!(mistakes, []);
        rule.expect("the rule is right")
    }

    #[test]
    fn every_fault_is_listed_with_its_place() {
        let refusal = rule("body")
            .decide(&HeaderMap::new(), br#"{"sepal_length":31,"petal_width":"x","extra":1}"#, Active::Unasked)
            .expect_err("three faults");
        let Refusal::Invalid { mut faults } = refusal else { unreachable!("{refusal:?}") };
        faults.sort_by(|a, b| a.pointer.cmp(&b.pointer));
        let found: Vec<_> = faults.iter().map(|f| (f.pointer.as_str(), f.code)).collect();
        assert_eq!(found, [("/extra", "unknown_member"), ("/petal_width", "type"), ("/sepal_length", "maximum")]);
        assert_eq!(faults.last().and_then(|f| f.limit.clone()), Some(Value::from(30)));
        assert_eq!(faults.last().and_then(|f| f.sent.clone()), Some(Value::from(31)));
    }

    #[test]
    fn a_good_body_is_not_touched() {
        let checked = rule("body")
            .decide(&HeaderMap::new(), br#"{ "sepal_length": 5.1, "petal_width": 0.2 }"#, Active::Unasked)
            .expect("it is right");
        assert!(checked.into_rewritten().is_none());
    }

    #[test]
    fn text_is_cleaned_where_asked_and_it_is_said() {
        let body = "{\"text\":\"e\\u0301\\u0000abcdefg\",\"rows\":[{\"text\":\"ok\"},{\"text\":\"a\\u0007\"}]}";
        let rewritten = rule("clean")
            .decide(&HeaderMap::new(), body.as_bytes(), Active::Unasked)
            .expect("it is right")
            .into_rewritten()
            .expect("it was changed");
        assert_eq!(String::from_utf8_lossy(&rewritten.body), r#"{"rows":[{"text":"ok"},{"text":"a"}],"text":"éabcd"}"#);
        assert_eq!(rewritten.note, r#""/rows/1/text";controls=1, "/text";nfc;controls=1;cut=3"#);
    }

    #[test]
    fn heads() {
        let rule = rule("body");
        let head = |pairs: &[(header::HeaderName, &str)]| -> HeaderMap {
            pairs.iter().map(|(n, v)| (n.clone(), v.parse().expect("a legal value"))).collect()
        };
        let json = (header::CONTENT_TYPE, "application/json");
        assert!(rule.decide_head(&head(std::slice::from_ref(&json))).is_ok());
        assert!(rule.decide_head(&head(&[(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")])).is_ok());
        for wrong in ["text/plain", "application/jsonx", "", "application/json, text/plain"] {
            assert!(
                matches!(rule.decide_head(&head(&[(header::CONTENT_TYPE, wrong)])), Err(Refusal::Type { .. })),
                "{wrong}"
            );
        }
        assert!(matches!(rule.decide_head(&HeaderMap::new()), Err(Refusal::Type { .. })));
        for length in ["65537", "18446744073709551615"] {
            let refused = rule.decide_head(&head(&[json.clone(), (header::CONTENT_LENGTH, length)]));
            assert!(matches!(refused, Err(Refusal::TooLarge { max: 65_536 })));
        }
        let refused = rule.decide_head(&head(&[json, (header::CONTENT_ENCODING, "gzip")]));
        assert!(matches!(refused, Err(Refusal::Encoding)));
    }
}
