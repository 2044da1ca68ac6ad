//! Rows: checked against the model's card, predicted, and put into words. Names every mistake up to a bound, by its
//! place in the body and never by its value.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use tokio::task::yield_now;

use crate::body::Json;
use crate::catalog::Served;
use crate::model::Value;
use crate::model::card::{Card, Feature, FeatureType};
use crate::problem::{Mistake, Refusal};

/// Most mistakes that are collected.
const MOST_MISTAKES: usize = 20;

/// Bytes of text that are scored before other connections get their turn.
const TURN: usize = 16 * 1024;

/// The answer to one row.
#[derive(Debug, Serialize)]
pub struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<usize>,
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(serialize_with = "by_class")]
    probabilities: (&'a [String], Vec<f64>),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    out_of_training_range: Vec<&'a str>,
}

/// The answer to a request.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    #[serde(flatten)]
    rows: Rows<'a>,
    model: &'a str,
    version: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Rows<'a> {
    One(Row<'a>),
    Many { predictions: Vec<Row<'a>> },
}

fn by_class<S: Serializer>((classes, numbers): &(&[String], Vec<f64>), serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(classes.len()))?;
    for (class, number) in classes.iter().zip(numbers) {
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

/// A number as people write it: `30`, not `30.0`.
fn plain(number: f64) -> String {
    number.to_string()
}

fn check_value<'a>(
    feature: &Feature,
    value: &'a Json<'_>,
    pointer: String,
    mistakes: &mut Mistakes,
) -> Option<Value<'a>> {
    let bounds = feature.bounds;
    let within = |number: f64| number > bounds.above && number <= bounds.at_most;
    let (value, fits, code) = match (feature.kind, value) {
        (FeatureType::Number, Json::Number(number)) => (Value::Number(*number), within(*number), "out-of-bounds"),
        (FeatureType::Text, Json::Text(text)) => {
            let length = u32::try_from(text.len()).map_or(f64::INFINITY, f64::from);
            let blank = text.trim().is_empty();
            let code = if blank { "blank" } else { "out-of-bounds" };
            (Value::Text(Cow::Borrowed(text.as_ref())), !blank && within(length), code)
        }
        (kind, other) => {
            let wanted = if kind == FeatureType::Number { "a number" } else { "a string" };
            mistakes.invalid(pointer, "wrong-type", format!("expected {wanted}, not {}", other.kind()));
            return None;
        }
    };
    if !fits {
        let length = if feature.kind == FeatureType::Text { "a length " } else { "" };
        let (above, at_most, unit) = (plain(bounds.above), plain(bounds.at_most), &feature.unit);
        let detail = match code {
            "blank" => "expected a text that is not blank".to_owned(),
            _ => format!("expected {length}above {above} and at most {at_most} {unit}"),
        };
        mistakes.out_of_bounds.push(Mistake { pointer, code, detail });
        return None;
    }
    Some(value)
}

/// The row's values in the order of the features, if there is no mistake in it.
fn check_row<'a>(card: &Card, row: &'a Json<'_>, at: &str, mistakes: &mut Mistakes) -> Option<Vec<Value<'a>>> {
    let Json::Object(members) = row else {
        mistakes.invalid(at.to_owned(), "wrong-type", format!("expected an object, not {}", row.kind()));
        return None;
    };
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

/// Names of the features whose value lies outside what training saw.
fn out_of_training_range<'a>(card: &'a Card, values: &[Value<'_>]) -> Vec<&'a str> {
    let unusual = |feature: &Feature, value: &Value<'_>| match (feature.training_range, value) {
        (Some(range), Value::Number(number)) => !(range.minimum..=range.maximum).contains(number),
        _ => false,
    };
    let features = card.features.iter().zip(values);
    features.filter(|(feature, value)| unusual(feature, value)).map(|(feature, _)| feature.name.as_str()).collect()
}

async fn predict_rows<'a>(served: &'a Served, rows: Vec<Vec<Value<'_>>>) -> Vec<Row<'a>> {
    let card = served.model.card();
    let numeric = card.features.iter().all(|feature| feature.kind == FeatureType::Number);
    let mut scored = 0;
    let mut answers = Vec::with_capacity(rows.len());
    for values in rows {
        let prediction = served.model.predict(&values);
        answers.push(Row {
            prediction: numeric.then_some(prediction.class),
            label: card.classes.get(prediction.class).map_or("", String::as_str),
            score: prediction.score,
            probabilities: (&card.classes, prediction.probabilities),
            out_of_training_range: out_of_training_range(card, &values),
        });
        scored += values.iter().map(|value| if let Value::Text(text) = value { text.len() } else { 0 }).sum::<usize>();
        if scored > TURN {
            scored = 0;
            yield_now().await;
        }
    }
    answers
}

/// Checks and predicts the rows in `json`.
///
/// # Errors
///
/// Names the mistakes in the rows.
pub async fn predict<'a>(served: &'a Served, json: &Json<'_>, max_rows: u32) -> Result<Answer<'a>, Refusal> {
    let card = served.model.card();
    let mut mistakes = Mistakes::default();
    let mut checked = Vec::new();
    let many = if let Json::Array(rows) = json {
        if rows.is_empty() {
            mistakes.invalid(String::new(), "no-rows", "expected at least one row");
        }
        if u32::try_from(rows.len()).is_ok_and(|rows| rows > max_rows) {
            return Err(Refusal::TooManyRows(max_rows));
        }
        for (index, row) in rows.iter().enumerate() {
            if mistakes.are_enough() {
                break;
            }
            checked.extend(check_row(card, row, &format!("/{index}"), &mut mistakes));
        }
        true
    } else {
        checked.extend(check_row(card, json, "", &mut mistakes));
        false
    };
    mistakes.into_result()?;
    let mut answers = predict_rows(served, checked).await;
    let rows = match answers.pop() {
        Some(only) if !many => Rows::One(only),
        last => {
            answers.extend(last);
            Rows::Many { predictions: answers }
        }
    };
    Ok(Answer { rows, model: &served.name, version: &served.version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;
    use crate::model::card::{Bounds, Range};

    fn features() -> Card {
        let (mut card, _) = crate::train::iris::train(1, 1).expect("trained");
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
            ("[1,2]", vec!["wrong-type"], vec![]),
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

    #[test]
    fn values_outside_training_are_named() {
        let card = features();
        let values = [Value::Number(4.0), Value::Number(8.1)];
        assert_eq!(out_of_training_range(&card, &values), ["sepal_width"]);
    }
}
