//! What does a request cost? One, its rows, its octets, or a number that the worker's answer names.

use serde_json::Value;

use crate::settings::{Named, Section};

/// The largest cost that is told apart from larger ones: stores count with 48 bits, and no quota is as large.
const MOST_COST: u64 = (1 << 48) - 1;

/// What a limit counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Requests: each costs one.
    Requests,
    /// Rows: the instances in the body, one at least. Where it is given, the JSON pointer of their list.
    Rows(Option<Box<str>>),
    /// The body's octets.
    Bytes,
    /// A number in the worker's answer.
    Answer(AnswerCost),
}

/// A cost that is known once the answer is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerCost {
    /// The JSON pointer of the number.
    pub at: Box<str>,
    /// What is counted until then.
    pub reserve: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Requests,
    Rows,
    Bytes,
    Answer,
}

impl Named for Word {
    const SHAPE: &'static str = "\"requests\", \"rows\", \"bytes\" or \"answer\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("requests", Self::Requests), ("rows", Self::Rows), ("bytes", Self::Bytes), ("answer", Self::Answer)];
}

/// What is known of a request that may cost more than others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The body's octets.
    pub bytes: u64,
    /// Instances in the body.
    pub rows: u64,
}

impl Cost {
    /// Reads `cost` and what belongs to it.
    pub(super) fn compile(section: &Section<'_>) -> Self {
        let word = section.or("cost", Word::Requests);
        let pointer = |key: &str| {
            let pointer = section.optional::<String>(key)?;
            if !pointer.starts_with('/') {
                section.mistake(key, "is not a JSON pointer", "write one such as \"/usage/total_tokens\" (RFC 6901)");
            }
            Some(pointer.into_boxed_str())
        };
        for (key, of) in [("rows_at", Word::Rows), ("answer_at", Word::Answer), ("reserve", Word::Answer)] {
            if word != of && section.has(key) {
                let name = Word::NAMES.iter().find(|(_, word)| *word == of).map_or("", |(name, _)| name);
                section.mistake(
                    key,
                    "says how to count what this limit does not count",
                    format!("write cost = {name:?}, or remove it"),
                );
            }
        }
        match word {
            Word::Requests => Self::Requests,
            Word::Rows => Self::Rows(pointer("rows_at")),
            Word::Bytes => Self::Bytes,
            Word::Answer => {
                if !section.has("answer_at") {
                    section.missing(
                        "answer_at",
                        "write where the answer has its cost, such as \"/usage/total_tokens\" (RFC 6901)",
                    );
                }
                let reserve = section.required("reserve", "write what is counted until the answer is there");
                Self::Answer(AnswerCost { at: pointer("answer_at").unwrap_or_default(), reserve: reserve.unwrap_or(1) })
            }
        }
    }

    /// Whether it is known before the body is read.
    #[must_use]
    pub fn is_known_early(&self) -> bool {
        matches!(self, Self::Requests | Self::Answer(_))
    }

    /// The units that a request of this size costs. Nothing is free.
    #[must_use]
    pub fn units(&self, size: Size) -> u64 {
        let units = match self {
            Self::Requests => 1,
            Self::Rows(_) => size.rows.max(1),
            Self::Bytes => size.bytes.max(1),
            Self::Answer(answer) => answer.reserve,
        };
        units.min(MOST_COST)
    }

    /// The unit in headers, where draft-ietf-httpapi-ratelimit-headers registers it; `None` where it does not.
    #[must_use]
    pub fn registered_unit(&self) -> Option<&'static str> {
        match self {
            Self::Requests => Some(""),
            Self::Bytes => Some(";qu=\"content-bytes\""),
            Self::Rows(_) | Self::Answer(_) => None,
        }
    }

    /// What is counted, for people.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Rows(_) => "rows",
            Self::Bytes => "bytes",
            Self::Answer(_) => "units",
        }
    }
}

/// How many instances a body has: those of the list at `pointer`, or without one those where bodies for models
/// have them. That is a list as the whole body, `instances` (V1 of `KServe`), `inputs` (the first dimension of Open
/// Inference Protocol V2's largest tensor), the more of the two where both are there, and one for everything else.
#[must_use]
pub fn rows(body: &Value, pointer: Option<&str>) -> u64 {
    if let Some(pointer) = pointer {
        return count(body.pointer(pointer));
    }
    match body {
        Value::Array(_) => count(Some(body)),
        // A worker reads one of the two, and nobody here knows which.
        Value::Object(members) => count(members.get("instances")).max(inputs(members.get("inputs"))),
        _ => 1,
    }
}

fn inputs(inputs: Option<&Value>) -> u64 {
    let Some(Value::Array(tensors)) = inputs else { return 1 };
    let first = |tensor: &Value| tensor.pointer("/shape/0").and_then(Value::as_u64);
    // What has no shape is no tensor: the list is one of instances.
    let all_are_tensors = tensors.iter().all(|tensor| first(tensor).is_some());
    let listed = if all_are_tensors { 1 } else { count(inputs) };
    tensors.iter().filter_map(first).fold(listed, u64::max)
}

/// The number that an answer names at `pointer`: in JSON, or in the last event that has it (`data: {...}`, as
/// language models stream).
#[must_use]
pub fn answer_units(answer: &[u8], pointer: &str) -> Option<u64> {
    let read = |octets: &[u8]| {
        let value: Value = serde_json::from_slice(octets).ok()?;
        let number = value.pointer(pointer)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is bounded just before")]
        let rounded = || number.as_f64().filter(|n| (0.0..1e15).contains(n)).map(|n| n.ceil() as u64);
        number.as_u64().or_else(rounded)
    };
    let events = answer.rsplit(|octet| *octet == b'\n').filter_map(|line| line.strip_prefix(b"data:"));
    // More than any quota is as much as the largest.
    read(answer).or_else(|| events.into_iter().find_map(read)).map(|units| units.min(super::MOST_QUOTA))
}

fn count(list: Option<&Value>) -> u64 {
    list.and_then(Value::as_array).map_or(1, |list| u64::try_from(list.len()).unwrap_or(u64::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::{Cost, Size, answer_units, rows};
    use crate::settings::tests::with_section;
    use serde_json::json;

    #[test]
    fn rows_are_instances() {
        for (body, pointer, expected) in [
            (json!({ "sepal_length": 1 }), None, 1),
            (json!([1, 2, 3]), None, 3),
            (json!([]), None, 1),
            (json!({ "instances": [[1, 2], [3, 4]] }), None, 2),
            (json!({ "inputs": [{ "name": "x", "shape": [1000, 4], "datatype": "FP32", "data": [] }] }), None, 1000),
            (json!({ "inputs": [{ "shape": [2, 4] }, { "shape": [7] }] }), None, 7),
            (json!({ "inputs": [[1, 2], [3, 4], [5, 6]] }), None, 3),
            (json!({ "inputs": "text" }), None, 1),
            (json!({ "inputs": [{ "shape": [9] }, { "name": "x" }] }), None, 9),
            (json!({ "instances": [1], "inputs": [{ "shape": [9] }] }), None, 9),
            (json!({ "instances": [1, 2], "inputs": [{ "shape": [1] }] }), None, 2),
            (json!({ "rows": [1, 2], "instances": [1] }), Some("/rows"), 2),
            (json!({ "rows": 7 }), Some("/rows"), 1),
        ] {
            assert_eq!(rows(&body, pointer), expected, "{body}");
        }
    }

    #[test]
    fn answers_name_what_they_cost() {
        let events = b"data: {\"x\":1}\n\ndata: {\"usage\":{\"total_tokens\":9}}\r\n\ndata: [DONE]\n\n";
        for (answer, expected) in [
            (&b"{\"usage\":{\"total_tokens\":7}}"[..], Some(7)),
            (b"{\"usage\":{\"total_tokens\":7.5}}", Some(8)),
            (b"{\"usage\":{\"total_tokens\":-7}}", None),
            (b"{\"usage\":{\"total_tokens\":18446744073709551615}}", Some(crate::policy::limit::MOST_QUOTA)),
            (b"{\"usage\":{}}", None),
            (b"no JSON", None),
            (events, Some(9)),
        ] {
            assert_eq!(answer_units(answer, "/usage/total_tokens"), expected);
        }
    }

    #[test]
    fn nothing_is_free() {
        let of = |toml| with_section(toml, Cost::compile).0;
        let size = Size { bytes: 80, rows: 5 };
        for (toml, units, least) in [
            ("", 1, 1),
            ("cost = \"rows\"", 5, 1),
            ("cost = \"bytes\"", 80, 1),
            ("cost = \"answer\"\nanswer_at = \"/usage/total_tokens\"\nreserve = 500", 500, 500),
        ] {
            assert_eq!((of(toml).units(size), of(toml).units(Size::default())), (units, least), "{toml}");
        }
    }

    #[test]
    fn what_does_not_belong_together_is_a_mistake() {
        for (toml, count) in [
            ("cost = \"row\"", 1),
            ("rows_at = \"/x\"", 1),
            ("cost = \"rows\"\nrows_at = \"x\"", 1),
            ("cost = \"answer\"", 2),
            ("cost = \"bytes\"\nreserve = 5\nanswer_at = \"/x\"", 2),
        ] {
            let (_, mistakes) = with_section(toml, Cost::compile);
            assert_eq!(mistakes.len(), count, "{toml}: {mistakes:?}");
        }
    }
}
