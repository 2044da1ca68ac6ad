//! Rows: checked against the model's card, predicted, and put into words. Names every mistake up to a bound, by its
//! place in the body and never by its value.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::score::{Scored, Terms, score};
use crate::body::Json;
use crate::catalog::Served;
use crate::model::Rows;
use crate::model::card::{Bounds, Card, Feature, FeatureType};
use crate::problem::{MOST_MISTAKES, Mistake, Refusal};

/// The answer to one row.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<usize>,
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(serialize_with = "by_class")]
    probabilities: (&'a [String], &'a [f64]),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out_of_training_range: Vec<&'a str>,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    rows: Many<'a>,
    model: &'a str,
    version: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Many<'a> {
    One(Row<'a>),
    Many { predictions: Vec<Row<'a>> },
}

fn by_class<S: Serializer>((classes, numbers): &(&[String], &[f64]), serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(classes.len()))?;
    for (class, number) in classes.iter().zip(*numbers) {
        map.serialize_entry(class, number)?;
    }
    map.end()
}

#[derive(Default)]
struct Mistakes {
    invalid: Vec<Mistake>,
    out_of_bounds: Vec<Mistake>,
}

impl Mistakes {
    fn invalid(&mut self, pointer: String, code: &'static str, detail: impl Into<String>) {
        self.invalid.push(Mistake { pointer, code, detail: detail.into() });
    }

    fn are_enough(&self) -> bool {
        self.invalid.len() >= MOST_MISTAKES || self.out_of_bounds.len() >= MOST_MISTAKES
    }

    /// A body of the wrong shape is refused as such, whatever its values are.
    fn into_result(self) -> Result<(), Refusal> {
        if !self.invalid.is_empty() {
            Err(Refusal::Invalid(self.invalid))
        } else if !self.out_of_bounds.is_empty() {
            Err(Refusal::OutOfBounds(self.out_of_bounds))
        } else {
            Ok(())
        }
    }
}

/// A JSON pointer's last step (RFC 6901 §3), cut short: the caller chose the name.
fn step(at: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Whether a number lies within a feature's hard bounds; a text is asked by its length.
#[must_use]
pub(super) fn fits(bounds: Bounds, number: f64) -> bool {
    number > bounds.above && number <= bounds.at_most
}

/// What to say of a value that does not.
#[must_use]
pub(super) fn beyond(feature: &Feature, pointer: String) -> Mistake {
    let length = if feature.kind == FeatureType::Text { "a length " } else { "" };
    let (Bounds { above, at_most }, unit) = (feature.bounds, &feature.unit);
    let detail = format!("expected {length}above {above} and at most {at_most} {unit}");
    Mistake { pointer, code: "out-of-bounds", detail: detail.trim_end().to_owned() }
}

/// Whether a text may be scored, and what to say when it may not.
///
/// # Errors
///
/// It is blank, or its length out of bounds.
pub(super) fn check_text(feature: &Feature, text: &str, pointer: impl FnOnce() -> String) -> Result<(), Mistake> {
    if text.trim().is_empty() {
        let detail = "expected a text that is not blank".to_owned();
        Err(Mistake { pointer: pointer(), code: "blank", detail })
    } else if fits(feature.bounds, u32::try_from(text.len()).map_or(f64::INFINITY, f64::from)) {
        Ok(())
    } else {
        Err(beyond(feature, pointer()))
    }
}

/// One value, once it has been checked.
#[derive(Debug, Clone, PartialEq)]
enum Value<'a> {
    Number(f64),
    Text(Cow<'a, str>),
}

fn check_value<'a>(
    feature: &Feature,
    value: &'a Json<'_>,
    pointer: String,
    mistakes: &mut Mistakes,
) -> Option<Value<'a>> {
    match (feature.kind, value) {
        (FeatureType::Number, Json::Number(number)) if fits(feature.bounds, *number) => Some(Value::Number(*number)),
        (FeatureType::Number, Json::Number(_)) => {
            mistakes.out_of_bounds.push(beyond(feature, pointer));
            None
        }
        (FeatureType::Text, Json::Text(text)) => match check_text(feature, text, || pointer) {
            Ok(()) => Some(Value::Text(Cow::Borrowed(text.as_ref()))),
            Err(mistake) => {
                mistakes.out_of_bounds.push(mistake);
                None
            }
        },
        (kind, other) => {
            let wanted = if kind == FeatureType::Number { "a number" } else { "a string" };
            mistakes.invalid(pointer, "wrong-type", format!("expected {wanted}, not {}", other.kind()));
            None
        }
    }
}

/// The row's values in the order of the features, if there is no mistake in it: by name, or by place.
fn check_row<'a>(card: &Card, row: &'a Json<'_>, at: &str, mistakes: &mut Mistakes) -> Option<Vec<Value<'a>>> {
    match row {
        Json::Object(members) => check_members(card, members, at, mistakes),
        Json::Array(items) if items.len() == card.features.len() => {
            let values = card.features.iter().zip(items).enumerate();
            let checked: Vec<_> = values
                .map(|(i, (feature, value))| check_value(feature, value, format!("{at}/{i}"), mistakes))
                .collect();
            checked.into_iter().collect()
        }
        Json::Array(items) => {
            let detail = format!("expected {} values, not {}", card.features.len(), items.len());
            mistakes.invalid(at.to_owned(), "wrong-count", detail);
            None
        }
        other => {
            let detail = format!("expected an object or an array, not {}", other.kind());
            mistakes.invalid(at.to_owned(), "wrong-type", detail);
            None
        }
    }
}

fn check_members<'a>(
    card: &Card,
    members: &'a [(Cow<'_, str>, Json<'_>)],
    at: &str,
    mistakes: &mut Mistakes,
) -> Option<Vec<Value<'a>>> {
    let mut seen = vec![false; card.features.len()];
    let mut values = vec![None; card.features.len()];
    for (name, value) in members {
        if mistakes.are_enough() {
            return None;
        }
        let index = card.features.iter().position(|feature| feature.name == *name);
        let slot =
            index.and_then(|index| Some((card.features.get(index)?, seen.get_mut(index)?, values.get_mut(index)?)));
        match slot {
            None => mistakes.invalid(step(at, name), "unknown-member", "the model does not take this member"),
            Some((_, seen, _)) if *seen => {
                mistakes.invalid(step(at, name), "duplicate-member", "the member is there more than once");
            }
            Some((feature, seen, slot)) => {
                *seen = true;
                *slot = check_value(feature, value, step(at, name), mistakes);
            }
        }
    }
    for (feature, seen) in card.features.iter().zip(seen) {
        if !seen && !mistakes.are_enough() {
            mistakes.invalid(step(at, &feature.name), "missing-member", "the model needs this member");
        }
    }
    values.into_iter().collect()
}

/// The rows of a body, and where they are in it.
struct Found<'a, 'b> {
    rows: &'a [Json<'b>],
    many: bool,
    at: &'static str,
}

impl Found<'_, '_> {
    fn pointer(&self, row: usize) -> String {
        if self.many { format!("{}/{row}", self.at) } else { self.at.to_owned() }
    }
}

/// A row; rows in an array; or either in a member called `features` or `instances`, as other model servers have it.
fn find<'a, 'b>(json: &'a Json<'b>) -> Found<'a, 'b> {
    match json {
        Json::Object(members) => match members.as_slice() {
            [(name, row @ Json::Array(_))] if name == "features" => {
                Found { rows: std::slice::from_ref(row), many: false, at: "/features" }
            }
            [(name, Json::Array(rows))] if name == "instances" => Found { rows, many: true, at: "/instances" },
            _ => Found { rows: std::slice::from_ref(json), many: false, at: "" },
        },
        Json::Array(rows) => Found { rows, many: true, at: "" },
        _ => Found { rows: std::slice::from_ref(json), many: false, at: "" },
    }
}

/// The first row of a body, if it has any.
#[must_use]
pub(super) fn first<'a, 'b>(json: &'a Json<'b>) -> Option<&'a Json<'b>> {
    find(json).rows.first()
}

fn check<'a>(card: &Card, found: &Found<'a, '_>, max_rows: u32) -> Result<Rows<'a>, Refusal> {
    let mut mistakes = Mistakes::default();
    if found.rows.is_empty() {
        mistakes.invalid(found.at.to_owned(), "no-rows", "expected at least one row");
    }
    if u32::try_from(found.rows.len()).is_ok_and(|rows| rows > max_rows) {
        return Err(Refusal::TooManyRows(max_rows));
    }
    let (mut numbers, mut texts) = (Vec::new(), Vec::new());
    for (index, row) in found.rows.iter().enumerate() {
        if mistakes.are_enough() {
            break;
        }
        for value in check_row(card, row, &found.pointer(index), &mut mistakes).into_iter().flatten() {
            match value {
                Value::Number(number) => numbers.push(number),
                Value::Text(text) => texts.push(text),
            }
        }
    }
    mistakes.into_result()?;
    Ok(if texts.is_empty() { Rows::Numbers(numbers) } else { Rows::Texts(texts) })
}

fn answer(scored: &Scored<'_>, many: bool) -> Vec<u8> {
    let served = scored.served;
    let card = served.model.card();
    let numeric = card.features.iter().all(|feature| feature.kind == FeatureType::Number);
    let mut unusual = scored.unusual.iter().peekable();
    let mut rows = Vec::new();
    for (number, (probabilities, class)) in scored.rows().zip(scored.classes()).enumerate() {
        let mut names = Vec::new();
        while let Some((_, feature)) = unusual.next_if(|(row, _)| *row == number) {
            names.extend(card.features.get(*feature).map(|feature| feature.name.as_str()));
        }
        rows.push(Row {
            prediction: numeric.then_some(class),
            label: card.classes.get(class).map_or("", String::as_str),
            score: served.model.score(probabilities),
            probabilities: (&card.classes, probabilities),
            out_of_training_range: names,
        });
    }
    let rows = match rows.pop() {
        Some(only) if !many => Many::One(only),
        last => {
            rows.extend(last);
            Many::Many { predictions: rows }
        }
    };
    let answer = Answer { rows, model: &served.name, version: &served.version };
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// Checks and predicts the rows in `json`; returns the answer's JSON.
///
/// # Errors
///
/// Names the mistakes in the rows.
pub async fn predict(served: &Served, json: &Json<'_>, terms: Terms) -> Result<Vec<u8>, Refusal> {
    let card = served.model.card();
    let found = find(json);
    let rows = check(card, &found, terms.max_rows)?;
    let place = |row: usize, feature: usize| match found.rows.get(row) {
        Some(Json::Object(_)) => {
            step(&found.pointer(row), card.features.get(feature).map_or("", |feature| feature.name.as_str()))
        }
        _ => format!("{}/{feature}", found.pointer(row)),
    };
    Ok(answer(&score(served, &rows, terms, place).await?, found.many))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;
    use crate::model::card::Range;

    fn features() -> Card {
        let (mut card, _) = crate::train::iris::train(1, 1, &mut |_| {}).expect("trained");
        card.features.truncate(2);
        for feature in &mut card.features {
            feature.bounds = Bounds { above: 0.0, at_most: 30.0 };
            feature.training_range = Some(Range { minimum: 4.0, maximum: 8.0 });
        }
        card
    }

    fn codes(row: &str) -> (Vec<&'static str>, Vec<&'static str>) {
        let json = body::parse(row.as_bytes()).expect("JSON");
        let mut mistakes = Mistakes::default();
        let values = check_row(&features(), &json, "", &mut mistakes);
        let any = !mistakes.invalid.is_empty() || !mistakes.out_of_bounds.is_empty();
        assert!(values.is_some() || any);
        let codes = |mistakes: Vec<Mistake>| mistakes.into_iter().map(|mistake| mistake.code).collect();
        (codes(mistakes.invalid), codes(mistakes.out_of_bounds))
    }

    #[test]
    fn mistakes_are_named() {
        for (row, invalid, out_of_bounds) in [
            (r#"{"sepal_length":5,"sepal_width":3.5}"#, vec![], vec![]),
            (r#"{"sepal_length":30,"sepal_width":5e-324}"#, vec![], vec![]),
            (r#"{"sepal_length":5}"#, vec!["missing-member"], vec![]),
            (r#"{"sepal_length":5,"sepal_width":3,"x":1}"#, vec!["unknown-member"], vec![]),
            (r#"{"sepal_length":5,"sepal_width":3,"sepal_width":3}"#, vec!["duplicate-member"], vec![]),
            (r#"{"sepal_length":"5","sepal_width":null}"#, vec!["wrong-type", "wrong-type"], vec![]),
            (r#"{"sepal_length":[5],"sepal_width":true}"#, vec!["wrong-type", "wrong-type"], vec![]),
            (r#"{"sepal_length":0,"sepal_width":30.000001}"#, vec![], vec!["out-of-bounds", "out-of-bounds"]),
            (r#"{"sepal_length":-1,"sepal_width":"x"}"#, vec!["wrong-type"], vec!["out-of-bounds"]),
            ("[5,3.5]", vec![], vec![]),
            ("[5,31]", vec![], vec!["out-of-bounds"]),
            ("[5]", vec!["wrong-count"], vec![]),
            ("\"5\"", vec!["wrong-type"], vec![]),
            ("null", vec!["wrong-type"], vec![]),
        ] {
            assert_eq!(codes(row), (invalid, out_of_bounds), "{row}");
        }
    }

    #[test]
    fn mistakes_are_bounded_and_pointers_escaped() {
        let row = format!("{{{}}}", (0..1000).map(|n| format!("\"a{n}\":1")).collect::<Vec<_>>().join(","));
        assert_eq!(codes(&row).0.len(), MOST_MISTAKES);
        assert_eq!(step("/3", "a/b~c"), "/3/a~1b~0c");
        assert_eq!(step("", &"x".repeat(5000)).len(), 65);
    }
}
