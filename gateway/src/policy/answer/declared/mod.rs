//! Is a worker's answer what its route declares? Type, length, form, and whether it answers what was asked.
//!
//! Judges answers that succeeded (2xx); what a worker says of a client's fault passes as it is. Never changes an answer, and
//! never shows any of it: what is told of one that differs are places that the policy or the protocol names, and numbers.

mod oip;
mod predict;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use jsonschema::Validator;
use serde_json::{Map, Value};

use super::MOST_WHOLE;
use crate::policy::body::{Schemas, media_types};
use crate::policy::json;
use crate::settings::{ByteSize, Named, Section};

/// How far the sum of a row's probabilities may be from 1: they may have been rounded to two decimals.
const MOST_ROUNDED: f64 = 0.01;

/// How an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Whole, as JSON.
    Json,
    /// Whole, as predictions for people.
    Predict,
    /// Whole, as an answer of the Open Inference Protocol.
    Oip,
    /// Not at all: its type is looked at, and it is counted as it passes.
    Opaque,
}

impl Named for Format {
    const SHAPE: &'static str = "\"json\", \"predict\", \"oip-v2\" or \"opaque\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("json", Self::Json), ("predict", Self::Predict), ("oip-v2", Self::Oip), ("opaque", Self::Opaque)];
}

/// A route's `[answer]`, compiled.
#[derive(Debug)]
pub struct Declared {
    format: Format,
    content_types: Box<[Box<str>]>,
    max: Option<usize>,
    depth: usize,
    schema: Option<Arc<Validator>>,
    one_per_row: bool,
    predictions_at: Option<Box<str>>,
    probabilities: Box<[Box<str>]>,
    distribution: bool,
}

/// What a request asks for, as far as its answer is held to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    rows: u64,
    /// Outputs by name, where it names any.
    outputs: Option<Box<[Box<str>]>>,
    id: Option<Box<str>>,
}

/// In what an answer differs from what is declared; for the log alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs(pub Cow<'static, str>);

impl From<&'static str> for Differs {
    fn from(what: &'static str) -> Self {
        Self(what.into())
    }
}

impl From<String> for Differs {
    fn from(what: String) -> Self {
        Self(what.into())
    }
}

impl Declared {
    /// Reads `[routes.NAME.answer]`. `reads_rows` says whether the request's body is read, so that its rows are known.
    #[must_use]
    pub fn compile(section: &Section<'_>, schemas: &Schemas, reads_rows: bool) -> Option<Self> {
        let format: Option<Format> =
            section.required("format", "write \"json\", \"predict\", \"oip-v2\", or \"opaque\" for what passes unread");
        let mut content_types = media_types(section);
        if content_types.is_empty() {
            match format {
                Some(Format::Opaque) => {
                    section.missing("content_types", "list the media types that the worker answers");
                }
                Some(Format::Oip) => {
                    content_types.extend(["application/json".into(), "application/octet-stream".into()]);
                }
                Some(Format::Json | Format::Predict) => content_types.push("application/json".into()),
                None => {}
            }
        }
        let is_read = format != Some(Format::Opaque);
        let max = section.optional::<ByteSize>("max").map(|ByteSize(max)| max);
        if max.is_some_and(|max| max == 0 || is_read && max > MOST_WHOLE) {
            section.mistake("max", "is 0, or more than is held in memory", "write at most \"16MiB\"");
        }
        let depth = section.or("depth", 16_usize);
        if !(1..=64).contains(&depth) {
            section.mistake("depth", format!("is {depth}"), "write a number from 1 to 64");
        }
        let schema = schemas.reference(section);
        let one_per_row = section.optional::<bool>("one_per_row");
        let predictions_at = section.optional::<String>("predictions_at");
        if predictions_at.as_ref().is_some_and(|at| !at.is_empty() && !at.starts_with('/')) {
            section.mistake("predictions_at", "is not a JSON pointer", "write one such as \"/results\" (RFC 6901)");
        }
        let probabilities: Vec<Box<str>> = section.all::<String>("probabilities").into_iter().map(Into::into).collect();
        let distribution = section.or("distribution", false);
        if let Some(format) = format {
            let known: &[&str] = match format {
                Format::Json => &["depth", "schema", "one_per_row", "predictions_at"],
                Format::Predict => &["depth", "schema", "one_per_row", "probabilities", "distribution"],
                Format::Oip => &["depth", "one_per_row", "probabilities", "distribution"],
                Format::Opaque => &[],
            };
            let name = Format::NAMES.iter().find(|(_, it)| *it == format).map_or("", |(name, _)| name);
            for key in ["depth", "schema", "one_per_row", "predictions_at", "probabilities", "distribution"] {
                if section.has(key) && !known.contains(&key) {
                    let reason = format!("stands beside format = {name:?}, where it says nothing");
                    section.mistake(key, reason, "remove it, or write another format");
                }
            }
        }
        // What predicts gives one prediction for each row, unless the policy says otherwise.
        let predicts = matches!(format, Some(Format::Predict | Format::Oip));
        let wants_rows = one_per_row.unwrap_or(predicts) || predictions_at.is_some();
        if wants_rows && is_read && !reads_rows {
            let reason = "asks for a prediction per row, and this route reads no JSON, so the rows are not known";
            let key = if predictions_at.is_some() { "predictions_at" } else { "one_per_row" };
            section.mistake(key, reason, "write one_per_row = false, or a [body] that is read");
        }
        if one_per_row == Some(true) && format == Some(Format::Json) && predictions_at.is_none() {
            section.missing("predictions_at", "write where the list of predictions stands: \"/results\"");
        }
        Some(Self {
            format: format?,
            content_types: content_types.into(),
            max: max.or(is_read.then_some(1 << 20)),
            depth,
            schema,
            one_per_row: wants_rows && one_per_row != Some(false),
            predictions_at: predictions_at.map(Into::into),
            probabilities: if probabilities.is_empty() {
                ["probabilities", "predict_proba"].map(Box::from).into()
            } else {
                probabilities.into()
            },
            distribution,
        })
    }

    /// What it declares, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let name = Format::NAMES.iter().find(|(_, it)| *it == self.format).map_or("", |(name, _)| name);
        let mut words = match self.format {
            Format::Opaque => self.content_types.join(" or "),
            _ => name.to_owned(),
        };
        if let Some(max) = self.max {
            let _ = write!(words, ", at most {max} octets");
        }
        if self.schema.is_some() {
            words.push_str(", by its schema");
        }
        if self.one_per_row {
            words.push_str(", one prediction a row");
        }
        words
    }

    /// Whether an answer must be there whole before it can be judged.
    #[must_use]
    pub fn needs_whole(&self) -> bool {
        self.format != Format::Opaque
    }

    /// The longest answer, in octets, where there is a bound.
    #[must_use]
    pub fn max(&self) -> Option<usize> {
        self.max
    }

    /// Whether answers are held to the request's rows.
    #[must_use]
    pub fn wants_rows(&self) -> bool {
        self.one_per_row
    }

    /// What is kept of a request for its answer.
    #[must_use]
    pub fn wanted(&self, request: &Value, rows: u64) -> Wanted {
        if self.format != Format::Oip {
            return Wanted { rows, ..Wanted::default() };
        }
        let names = |outputs: &Vec<Value>| {
            outputs.iter().filter_map(|output| output.get("name")?.as_str().map(Box::from)).collect()
        };
        let outputs = request.get("outputs").and_then(Value::as_array).filter(|outputs| !outputs.is_empty());
        Wanted { rows, outputs: outputs.map(names), id: request.get("id").and_then(Value::as_str).map(Box::from) }
    }

    /// Judges what the head says: status, type, and the length where it is known.
    ///
    /// # Errors
    /// [`Differs`].
    pub fn decide_head(&self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> Result<(), Differs> {
        let has_none = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT);
        if self.needs_whole() {
            if has_none || status == StatusCode::PARTIAL_CONTENT {
                return Err("it is a part, or has no content".into());
            }
            if headers.contains_key(header::CONTENT_ENCODING) {
                return Err("it has a coding that was not asked for".into());
            }
        }
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let sent = types.next().and_then(|value| value.to_str().ok());
        let essence = sent.and_then(|value| value.split(';').next()).unwrap_or_default().trim_matches([' ', '\t']);
        let is_declared = self.content_types.iter().any(|declared| declared.eq_ignore_ascii_case(essence));
        if !has_none && (!is_declared || types.next().is_some()) {
            return Err(format!("its media type is not {}", self.content_types.join(" or ")).into());
        }
        match (length, self.max) {
            (Some(length), Some(max)) if usize::try_from(length).map_or(true, |length| length > max) => {
                Err(too_long(max))
            }
            _ => Ok(()),
        }
    }

    /// Judges a whole answer. `wanted` is absent where the request was not read.
    ///
    /// # Errors
    /// [`Differs`].
    pub fn decide(&self, wanted: Option<&Wanted>, headers: &HeaderMap, body: &[u8]) -> Result<(), Differs> {
        let rows = wanted.filter(|_| self.one_per_row).map(|wanted| wanted.rows);
        match self.format {
            Format::Opaque => Ok(()),
            Format::Oip => oip::decide(self, wanted, rows, headers, body),
            Format::Json | Format::Predict => {
                let value = self.parse(body)?;
                if let Some(schema) = &self.schema {
                    held(schema, &value)?;
                }
                if self.format == Format::Predict {
                    return predict::decide(self, rows, &value);
                }
                let (Some(at), Some(rows)) = (&self.predictions_at, rows) else { return Ok(()) };
                let found = value.pointer(at).and_then(Value::as_array);
                let found = found.ok_or_else(|| Differs::from(format!("it has no list of predictions at {at:?}")))?;
                counted(found.len(), rows)
            }
        }
    }

    fn parse(&self, text: &[u8]) -> Result<Value, Differs> {
        // Its pointer names members of the answer, so only what is wrong is told.
        json::parse(text, self.depth)
            .map_err(|wrong| format!("it is not JSON that can be taken: {}", wrong.code).into())
    }

    fn object(&self, text: &[u8]) -> Result<Map<String, Value>, Differs> {
        match self.parse(text)? {
            Value::Object(object) => Ok(object),
            _ => Err("it is not one JSON object".into()),
        }
    }

    /// Judges the probabilities of one row.
    fn row(&self, values: &[f64]) -> Result<(), Differs> {
        if !super::probabilities::are_sound(values) {
            return Err("it has probabilities that are not from 0 to 1".into());
        }
        if self.distribution && (values.iter().sum::<f64>() - 1.0).abs() > MOST_ROUNDED {
            return Err("it has a row of probabilities whose sum is not 1".into());
        }
        Ok(())
    }
}

/// An answer is longer than is declared.
#[must_use]
pub fn too_long(max: usize) -> Differs {
    format!("it is longer than {max} octets").into()
}

fn counted(found: usize, rows: u64) -> Result<(), Differs> {
    if found as u64 == rows { Ok(()) } else { Err(format!("it has {found} predictions for {rows} rows").into()) }
}

/// Holds an answer to a schema. The place in the schema is told, because places in the answer may be named by it.
fn held(schema: &Validator, value: &Value) -> Result<(), Differs> {
    let Some(first) = schema.iter_errors(value).next() else { return Ok(()) };
    Err(format!("it breaks the schema's rule at {:?}", first.schema_path().as_str()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;
    use http::HeaderValue;

    pub(super) fn declared(toml: &str) -> Declared {
        let (declared, mistakes) = with_section(toml, |root| {
            let schemas = Schemas::compile(root);
            root.section("answer").and_then(|section| {
                let declared = Declared::compile(&section, &schemas, true);
                section.finish();
                declared
            })
        });
        assert_eq!(mistakes, []);
        declared.expect("a rule")
    }

    pub(super) fn json_headers() -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))])
    }

    #[test]
    fn the_head_says_type_and_length() {
        let read = declared("[answer]\nformat = \"json\"\nmax = \"1KiB\"");
        let decide = |rule: &Declared, status: u16, fields: &[(&'static str, &'static str)], length| {
            let fields = fields.iter().map(|(name, value)| {
                (name.parse::<http::HeaderName>().expect("a name"), HeaderValue::from_static(value))
            });
            let mut headers = HeaderMap::new();
            headers.extend(fields);
            rule.decide_head(StatusCode::from_u16(status).expect("a status"), &headers, length).is_ok()
        };
        let (json, gzip) = (("content-type", "Application/JSON;charset=utf-8"), ("content-encoding", "gzip"));
        assert!(decide(&read, 200, &[json], Some(1024)) && decide(&read, 201, &[json], None));
        assert!(!decide(&read, 200, &[json], Some(1025)), "too long");
        assert!(!decide(&read, 200, &[json, gzip], Some(9)), "a coding");
        assert!(!decide(&read, 204, &[], Some(0)) && !decide(&read, 206, &[json], Some(9)));
        for other in [&[][..], &[("content-type", "text/html")], &[("content-type", "application/jsonx")]] {
            assert!(!decide(&read, 200, other, Some(9)), "{other:?}");
        }
        let passed = declared("[answer]\nformat = \"opaque\"\ncontent_types = [\"text/event-stream\"]");
        assert!(decide(&passed, 200, &[("content-type", "text/event-stream"), gzip], Some(1 << 40)));
        assert!(decide(&passed, 204, &[], Some(0)) && !decide(&passed, 200, &[json], None));
    }

    #[test]
    fn json_is_held_to_a_schema_and_to_the_rows() {
        let rule = declared(
            "[schemas.out]\ntype = \"object\"\nadditionalProperties = false\nproperties.results = { items = { maximum = 9 } }\n\
             [answer]\nformat = \"json\"\nschema = \"out\"\npredictions_at = \"/results\"",
        );
        let decide = |body: &str, rows| {
            let wanted = Wanted { rows, ..Wanted::default() };
            rule.decide(Some(&wanted), &json_headers(), body.as_bytes()).map_err(|differs| differs.0.into_owned())
        };
        assert_eq!(decide("{\"results\":[1,2]}", 2), Ok(()));
        for (body, what) in [
            ("{\"results\":[1,2,3]}", "it has 3 predictions for 2 rows"),
            ("{\"results\":7}", "it has no list of predictions at \"/results\""),
            ("{\"results\":[1,77]}", "it breaks the schema's rule at \"/properties/results/items/maximum\""),
            ("{\"secret\":1}", "it breaks the schema's rule at \"/additionalProperties\""),
            ("{\"results\":[1,2],\"results\":[]}", "it is not JSON that can be taken: duplicate_member"),
            ("{\"results\":[1,NaN]}", "it is not JSON that can be taken: syntax"),
        ] {
            assert_eq!(decide(body, 2), Err(what.to_owned()));
        }
        assert!(rule.decide(None, &json_headers(), b"{\"results\":[]}").is_ok(), "nobody knows the rows");
        let free = declared("[answer]\nformat = \"json\"");
        assert!(!free.wants_rows() && free.decide(None, &json_headers(), b"[3]").is_ok());
    }
}
