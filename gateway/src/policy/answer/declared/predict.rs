//! Answers for people: one prediction, or a list of them in `predictions`. Unlike where answers are shaped, members that
//! are not known may stand in them.

use serde_json::{Map, Value};

use super::super::predict::{SHOWN, is_plain};
use super::{Declared, Differs, counted};

pub(super) fn decide(rule: &Declared, rows: Option<u64>, answer: &Value) -> Result<(), Differs> {
    let answer = answer.as_object().ok_or(Differs::from("it is not one JSON object"))?;
    let found = match answer.get("predictions") {
        Some(Value::Array(list)) if !SHOWN.iter().any(|name| answer.contains_key(*name)) => {
            for each in list {
                match each {
                    Value::Object(row) => prediction(rule, row)?,
                    plain if is_plain(plain) => {}
                    _ => return Err("it has a label that is no text and no whole number".into()),
                }
            }
            list.len()
        }
        None => {
            prediction(rule, answer)?;
            1
        }
        Some(_) => return Err("its `predictions` are no list, or not alone".into()),
    };
    rows.map_or(Ok(()), |rows| counted(found, rows))
}

fn prediction(rule: &Declared, row: &Map<String, Value>) -> Result<(), Differs> {
    let mut labels = SHOWN.iter().filter_map(|name| row.get(*name)).peekable();
    if labels.peek().is_none() {
        return Err("it has no label".into());
    }
    if !labels.all(is_plain) {
        return Err("it has a label that is no text and no whole number".into());
    }
    if row.get("score").is_some_and(|score| !score.is_number()) {
        return Err("its score is no number".into());
    }
    for value in rule.probabilities.iter().filter_map(|name| row.get(&**name)) {
        let values: Option<Vec<f64>> = match value {
            Value::Object(named) => named.values().map(Value::as_f64).collect(),
            Value::Array(listed) => listed.iter().map(Value::as_f64).collect(),
            _ => None,
        };
        rule.row(&values.ok_or(Differs::from("its probabilities are none"))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{declared, json_headers};
    use super::super::{Declared, Wanted};
    use serde_json::{Value, json};

    fn decide(rule: &Declared, rows: u64, answer: &Value) -> Result<(), String> {
        let wanted = Wanted { rows, ..Wanted::default() };
        let text = answer.to_string();
        rule.decide(Some(&wanted), &json_headers(), text.as_bytes()).map_err(|differs| differs.0.into_owned())
    }

    #[test]
    fn predictions_are_one_for_each_row_with_labels_and_probabilities() {
        let rule = declared("[answer]\nformat = \"predict\"\ndistribution = true");
        let row = json!({ "label": "b", "probabilities": { "a": 0.3, "b": 0.7 }, "score": 0.7, "nodes": [1] });
        for (rows, good) in [
            (1, row.clone()),
            (1, json!({ "predictions": [row] })),
            (2, json!({ "predictions": [row, { "class": 1, "predict_proba": [0.333, 0.333, 0.333] }], "model": "x" })),
            (2, json!({ "predictions": ["a", 3] })),
            (0, json!({ "predictions": [] })),
        ] {
            assert_eq!(decide(&rule, rows, &good), Ok(()), "{good}");
        }
        for (rows, wrong) in [
            (2, row.clone()),
            (1, json!({ "predictions": [row, row] })),
            (1, json!([row])),
            (1, json!({ "predictions": row })),
            (1, json!({ "predictions": [row], "label": "a" })),
            (1, json!({ "predictions": [0.5] })),
            (1, json!({ "probabilities": { "a": 1 } })),
            (1, json!({ "label": ["a"] })),
            (1, json!({ "label": "a", "score": "0.5" })),
            (1, json!({ "label": "a", "probabilities": { "a": 0.4, "b": 0.7 } })),
            (1, json!({ "label": "a", "probabilities": { "a": -0.1, "b": 1.1 } })),
            (1, json!({ "label": "a", "probabilities": [] })),
            (1, json!({ "label": "a", "probabilities": "0.5" })),
        ] {
            assert!(decide(&rule, rows, &wrong).is_err(), "{wrong}");
        }
        let free = declared("[answer]\nformat = \"predict\"\none_per_row = false");
        assert_eq!(decide(&free, 7, &row), Ok(()));
        assert_eq!(decide(&free, 7, &json!({ "label": "a", "probabilities": [0.9, 0.9] })), Ok(()), "of many labels");
    }
}
