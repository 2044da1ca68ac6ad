//! Whether two answers say the same: of two models about one request, or of a worker and what is expected of it.
//!
//! Reads what [`super::answer`] shapes: `{"label": …, "probabilities": {…}}`, a list of those in `predictions`, and
//! the outputs of the Open Inference Protocol in JSON. Never judges which of two is right.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::json;

/// How deep an answer may be nested.
const DEPTH: usize = 16;
/// Where a prediction says its label: the first that is there.
const LABELS: [&str; 5] = ["label", "class_name", "class", "prediction", "outcome"];

/// How far two answers agree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    /// Labels that were compared.
    pub labels: u64,
    /// Those that are the same.
    pub same: u64,
    /// The largest difference between two probabilities or scores, where there are any.
    pub distance: Option<f64>,
}

/// One prediction: what it says, and how sure it is.
#[derive(Debug, Default)]
struct Row {
    label: Option<String>,
    values: Values,
}

/// Probabilities or scores.
#[derive(Debug)]
enum Values {
    /// By the name of a class.
    Named(BTreeMap<String, f64>),
    /// By its position.
    Listed(Vec<f64>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

impl Values {
    fn is_empty(&self) -> bool {
        match self {
            Self::Named(values) => values.is_empty(),
            Self::Listed(values) => values.is_empty(),
        }
    }

    /// The class with the largest; the first of those that are equal.
    fn largest(&self) -> Option<String> {
        match self {
            Self::Named(values) => {
                values.iter().rev().max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(name, _)| name.clone())
            }
            Self::Listed(values) => {
                let numbered = values.iter().enumerate().rev();
                numbered.max_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(position, _)| position.to_string())
            }
        }
    }

    fn named(&self) -> Cow<'_, BTreeMap<String, f64>> {
        match self {
            Self::Named(values) => Cow::Borrowed(values),
            Self::Listed(values) => {
                Cow::Owned(values.iter().enumerate().map(|(position, value)| (position.to_string(), *value)).collect())
            }
        }
    }

    /// The largest difference; what one of them lacks is 0 there. `None` where both are empty.
    fn distance(&self, other: &Self) -> Option<f64> {
        if let (Self::Listed(one), Self::Listed(other)) = (self, other) {
            let of = |values: &[f64], at: usize| values.get(at).copied().unwrap_or(0.0);
            return (0..one.len().max(other.len())).map(|at| (of(one, at) - of(other, at)).abs()).reduce(f64::max);
        }
        let (one, other) = (self.named(), other.named());
        let apart = one.iter().map(|(name, value)| (value - other.get(name).copied().unwrap_or(0.0)).abs());
        let lacking = other.iter().filter(|(name, _)| !one.contains_key(*name)).map(|(_, value)| value.abs());
        apart.chain(lacking).reduce(f64::max)
    }
}

/// Compares two answers; `None` where one is of no form that is known.
#[must_use]
pub fn compare(live: &[u8], other: &[u8]) -> Option<Agreement> {
    let read = |octets: &[u8]| match json::parse(octets, DEPTH) {
        Ok(Value::Object(answer)) => rows(&answer),
        _ => None,
    };
    let (live, other) = (read(live)?, read(other)?);
    let mut agreement = Agreement::default();
    for position in 0..live.len().max(other.len()) {
        let (one, two) = (live.get(position), other.get(position));
        let labels = [one, two].map(|row| row.and_then(|row| row.label.as_deref()));
        agreement.labels += u64::from(labels != [None, None]);
        agreement.same += u64::from(labels[0].is_some() && labels[0] == labels[1]);
        let (Some(one), Some(two)) = (one, two) else { continue };
        agreement.distance =
            [agreement.distance, one.values.distance(&two.values)].into_iter().flatten().reduce(f64::max);
    }
    Some(agreement)
}

fn rows(answer: &Map<String, Value>) -> Option<Vec<Row>> {
    if let Some(Value::Array(outputs)) = answer.get("outputs") {
        let mut outputs: Vec<_> = outputs.iter().map(output).collect::<Option<_>>()?;
        // Workers name them in any order.
        outputs.sort_by(|(one, _), (other, _)| one.cmp(other));
        return Some(outputs.into_iter().flat_map(|(_, rows)| rows).collect());
    }
    let rows: Vec<Row> = match answer.get("predictions") {
        Some(Value::Array(rows)) => rows.iter().map(row).collect(),
        _ => vec![prediction(answer)],
    };
    let says_something = |row: &Row| row.label.is_some() || !row.values.is_empty();
    rows.iter().all(says_something).then_some(rows)
}

fn row(value: &Value) -> Row {
    match value {
        Value::Object(row) => prediction(row),
        plain => Row { label: text(plain), ..Row::default() },
    }
}

fn prediction(row: &Map<String, Value>) -> Row {
    let values = match row.get("probabilities").or_else(|| row.get("predict_proba")) {
        Some(Value::Object(named)) => {
            Values::Named(named.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect())
        }
        Some(Value::Array(listed)) => Values::Listed(listed.iter().filter_map(Value::as_f64).collect()),
        _ => Values::default(),
    };
    let label = LABELS.iter().find_map(|name| text(row.get(*name)?));
    Row { label: label.or_else(|| values.largest()), values }
}

/// One output of the Open Inference Protocol: its name, and a row for each label or vector in it.
fn output(output: &Value) -> Option<(String, Vec<Row>)> {
    let name = output.get("name")?.as_str()?;
    let mut flat = Vec::new();
    flatten(output.get("data")?, &mut flat);
    let is_number = output.get("datatype")?.as_str()?.starts_with("FP");
    let rows = if is_number {
        let shape = output.get("shape")?.as_array()?;
        let width = match shape.as_slice() {
            [_, .., last] => usize::try_from(last.as_u64()?).ok()?.max(1),
            _ => 1,
        };
        let vector = |chunk: &[&Value]| {
            let values = Values::Listed(chunk.iter().filter_map(|value| value.as_f64()).collect());
            Row { label: if width > 1 { values.largest() } else { None }, values }
        };
        flat.chunks(width).map(vector).collect()
    } else {
        flat.into_iter().map(|value| Row { label: text(value), ..Row::default() }).collect()
    };
    Some((name.to_owned(), rows))
}

fn flatten<'v>(value: &'v Value, flat: &mut Vec<&'v Value>) {
    match value {
        Value::Array(inner) => inner.iter().for_each(|value| flatten(value, flat)),
        plain => flat.push(plain),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether an answer has all that is expected of it: every member, every element, numbers within `tolerance`. What it
/// says beside that is its own.
///
/// # Errors
/// What is not as expected, with its JSON pointer (RFC 6901).
pub fn has(answer: &Value, expected: &Value, tolerance: f64) -> Result<(), String> {
    differs(answer, expected, tolerance, &mut String::new())
}

fn differs(answer: &Value, expected: &Value, tolerance: f64, pointer: &mut String) -> Result<(), String> {
    let length = pointer.len();
    match (answer, expected) {
        (Value::Object(answer), Value::Object(expected)) => {
            for (name, expected) in expected {
                pointer.push('/');
                pointer.push_str(&json::escape(name));
                let answer = answer.get(name).ok_or_else(|| format!("{pointer} is not there"))?;
                differs(answer, expected, tolerance, pointer)?;
                pointer.truncate(length);
            }
            Ok(())
        }
        (Value::Array(answer), Value::Array(expected)) if answer.len() == expected.len() => {
            for (position, (answer, expected)) in answer.iter().zip(expected).enumerate() {
                let _ = write!(pointer, "/{position}");
                differs(answer, expected, tolerance, pointer)?;
                pointer.truncate(length);
            }
            Ok(())
        }
        (Value::Number(answer), Value::Number(expected)) => {
            let apart = match (answer.as_f64(), expected.as_f64()) {
                (Some(answer), Some(expected)) => (answer - expected).abs(),
                _ => f64::INFINITY,
            };
            // A whole number that no double holds is the same only to the digit.
            if answer == expected || apart <= tolerance && (tolerance > 0.0 || answer.is_f64() || expected.is_f64()) {
                Ok(())
            } else {
                Err(format!("{} is {answer}, not {expected}", place(pointer)))
            }
        }
        (answer, expected) if answer == expected => Ok(()),
        (answer, expected) => Err(format!("{} is {}, not {}", place(pointer), short(answer), short(expected))),
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the answer" } else { pointer }
}

/// A value for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agreement(live: &Value, other: &Value) -> Option<Agreement> {
        compare(live.to_string().as_bytes(), other.to_string().as_bytes())
    }

    #[test]
    fn answers_are_compared_row_by_row() {
        let tensors = |labels: &Value, scores: &Value| {
            json!({ "model_name": "iris", "outputs": [
                { "name": "scores", "datatype": "FP64", "shape": [2, 2], "data": scores },
                { "name": "label", "datatype": "BYTES", "shape": [2], "data": labels },
            ] })
        };
        let mut swapped = tensors(&json!(["a", "b"]), &json!([0.9, 0.1, 0.2, 0.8]));
        swapped["outputs"].as_array_mut().expect("a list").reverse();
        for (name, live, other, labels, same, distance) in [
            (
                "the same label",
                json!({ "label": "a", "probabilities": { "a": 0.75, "b": 0.25 } }),
                json!({ "label": "a", "probabilities": { "a": 0.5, "b": 0.5 } }),
                1,
                1,
                Some(0.25),
            ),
            ("another label", json!({ "label": "a" }), json!({ "label": "b" }), 1, 0, None),
            (
                "a class that one lacks",
                json!({ "probabilities": { "a": 1.0 } }),
                json!({ "probabilities": { "b": 1.0 } }),
                1,
                0,
                Some(1.0),
            ),
            (
                "positions and names",
                json!({ "probabilities": [0.5, 0.25, 0.25] }),
                json!({ "probabilities": { "0": 0.5, "1": 0.5 } }),
                1,
                1,
                Some(0.25),
            ),
            (
                "rows",
                json!({ "predictions": [{ "label": "a" }, { "label": "b" }] }),
                json!({ "predictions": [{ "label": "a" }, { "label": "a" }] }),
                2,
                1,
                None,
            ),
            ("a row too few", json!({ "predictions": [1, 2] }), json!({ "predictions": [1] }), 2, 1, None),
            (
                "tensors",
                tensors(&json!(["a", "b"]), &json!([0.9, 0.1, 0.2, 0.8])),
                tensors(&json!(["a", "a"]), &json!([[0.9, 0.1], [0.7, 0.3]])),
                4,
                2,
                Some(0.5),
            ),
            (
                "tensors in another order",
                tensors(&json!(["a", "b"]), &json!([0.9, 0.1, 0.2, 0.8])),
                swapped,
                4,
                4,
                Some(0.0),
            ),
        ] {
            let found = agreement(&live, &other).expect(name);
            assert_eq!((found.labels, found.same), (labels, same), "{name}");
            assert_eq!(
                found.distance.map(|far| (far * 1e9).round()),
                distance.map(|far: f64| (far * 1e9).round()),
                "{name}"
            );
        }
        for unknown in [json!({}), json!([1]), json!({ "detail": "no" }), json!({ "outputs": [{}] }), json!("a")] {
            assert_eq!(agreement(&unknown, &json!({ "label": "a" })), None, "{unknown}");
        }
    }

    #[test]
    fn an_answer_has_what_is_expected_and_may_say_more() {
        let answer =
            json!({ "label": "a", "model": "x", "p": { "a": 0.751, "b": 0.249 }, "rows": [1, 2], "big": u64::MAX });
        for (expected, tolerance, found) in [
            (json!({ "label": "a" }), 0.0, Ok(())),
            (json!({ "p": { "a": 0.75 } }), 0.01, Ok(())),
            (json!({ "p": { "a": 0.75 } }), 0.0, Err("/p/a is 0.751, not 0.75")),
            (json!({ "p": { "a/b": 1 } }), 0.0, Err("/p/a~1b is not there")),
            (json!({ "rows": [1, 2] }), 0.0, Ok(())),
            (json!({ "rows": [1] }), 0.0, Err("/rows is [1,2], not [1]")),
            (json!({ "big": u64::MAX - 1 }), 0.0, Err("/big is 18446744073709551615, not 18446744073709551614")),
            (json!([]), 0.0, Err("the answer is {")),
        ] {
            match (has(&answer, &expected, tolerance), found) {
                (Ok(()), Ok(())) => {}
                (Err(why), Err(start)) => assert!(why.starts_with(start), "{why}"),
                (got, found) => panic!("{expected}: {got:?}, not {found:?}"),
            }
        }
    }
}
