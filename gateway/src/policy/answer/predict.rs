//! Answers for people: one prediction, or a list of them in `predictions`.

use http::HeaderMap;
use serde_json::{Map, Number, Value};

use super::probabilities::{are_sound, level_rest, top};
use super::{AnswerRule, Show, Undeclared, is_json};
use crate::policy::json;

/// How deep an answer may be nested.
const DEPTH: usize = 8;
/// What an answer may say beside its predictions.
const ABOUT: [&str; 4] = ["model", "version", "model_name", "model_version"];
/// What a prediction may say beside its numbers.
pub(super) const SHOWN: [&str; 5] = ["prediction", "label", "class", "class_name", "id"];

pub(super) fn shape(rule: &AnswerRule, headers: &HeaderMap, body: &[u8]) -> Result<Vec<u8>, Undeclared> {
    if !is_json(headers) {
        return Err(Undeclared("it is not JSON by its media type"));
    }
    let Ok(Value::Object(mut answer)) = json::parse(body, DEPTH) else {
        return Err(Undeclared("it is not one JSON object"));
    };
    let mut shaped = Map::new();
    for name in ABOUT {
        if let Some(value) = answer.remove(name) {
            shaped.insert(name.into(), plain(value)?);
        }
    }
    match answer.remove("predictions") {
        Some(Value::Array(rows)) if !SHOWN.iter().any(|name| answer.contains_key(*name)) => {
            let rows = rows.into_iter().map(|each| row(rule, each)).collect::<Result<Vec<_>, _>>()?;
            shaped.insert("predictions".into(), rows.into());
        }
        None => {
            let Value::Object(only) = row(rule, Value::Object(answer))? else {
                return Err(Undeclared("it has no prediction"));
            };
            shaped.extend(only);
        }
        Some(_) => return Err(Undeclared("its `predictions` are no list, or not alone")),
    }
    serde_json::to_vec(&Value::Object(shaped)).map_err(|_| Undeclared("it can't be written"))
}

/// A text, a whole number or a truth value.
pub(super) fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) | Value::Null => true,
        Value::Number(number) => !number.is_f64(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn plain(value: Value) -> Result<Value, Undeclared> {
    if is_plain(&value) { Ok(value) } else { Err(Undeclared("it has a label that is no text and no whole number")) }
}

fn row(rule: &AnswerRule, row: Value) -> Result<Value, Undeclared> {
    let Value::Object(mut row) = row else { return plain(row) };
    let mut shaped = Map::new();
    for name in SHOWN {
        if let Some(value) = row.remove(name) {
            shaped.insert(name.into(), plain(value)?);
        }
    }
    if shaped.is_empty() {
        return Err(Undeclared("it has no label"));
    }
    if let Some(Value::Array(names)) = row.remove("out_of_training_range") {
        if !names.iter().all(Value::is_string) {
            return Err(Undeclared("its `out_of_training_range` is no list of names"));
        }
        shaped.insert("out_of_training_range".into(), names.into());
    }
    let score = row.remove("score");
    if let (Show::All, Some(score)) = (rule.show, score) {
        let score = score.as_f64().ok_or(Undeclared("its score is no number"))?;
        shaped.insert("score".into(), number(rule.grid.map_or(score, |grid| grid.nearest(score)))?);
    }
    if let (Show::Top(_) | Show::All, Some(value)) = (rule.show, row.remove("probabilities")) {
        shaped.insert("probabilities".into(), probabilities(rule, value)?);
    }
    Ok(Value::Object(shaped))
}

fn number(value: f64) -> Result<Value, Undeclared> {
    Number::from_f64(value).map(Value::Number).ok_or(Undeclared("it has a number that is none"))
}

fn probabilities(rule: &AnswerRule, value: Value) -> Result<Value, Undeclared> {
    const WRONG: Undeclared = Undeclared("its probabilities are none");
    let (names, values): (Option<Vec<String>>, Vec<Value>) = match value {
        Value::Object(map) => {
            let (names, values) = map.into_iter().unzip();
            (Some(names), values)
        }
        Value::Array(values) => (None, values),
        _ => return Err(WRONG),
    };
    let mut values = values.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>().ok_or(WRONG)?;
    if !are_sound(&values) {
        return Err(WRONG);
    }
    let shown = match rule.show {
        Show::Top(most) => {
            let shown = top(&values, most);
            level_rest(&mut values, most);
            Some(shown)
        }
        Show::Label | Show::All => None,
    };
    if let Some(grid) = rule.grid {
        grid.round(&mut values);
    }
    let Some(names) = names else {
        return values.into_iter().map(number).collect::<Result<Vec<_>, _>>().map(Value::Array);
    };
    let mut shaped = Map::new();
    for (index, (name, value)) in names.into_iter().zip(values).enumerate() {
        // Under names the others need no place.
        if shown.as_ref().is_none_or(|shown| shown.contains(&index)) {
            shaped.insert(name, number(value)?);
        }
    }
    Ok(Value::Object(shaped))
}
