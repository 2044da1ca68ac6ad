//! Answers of the Open Inference Protocol, version 2: JSON, and with tensors as octets behind it.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Number, Value};

use super::probabilities::{are_sound, level_rest};
use super::{AnswerRule, Show, Undeclared, is_json};
use crate::policy::json;

/// How deep the JSON may be nested.
const DEPTH: usize = 16;
/// How many octets of an answer are JSON, where tensors follow it.
static JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What an output is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Label,
    Probabilities,
    Score,
}

pub(super) fn shape(rule: &AnswerRule, headers: &mut HeaderMap, body: &[u8]) -> Result<Vec<u8>, Undeclared> {
    let length = match headers.get(&JSON_LENGTH) {
        None if is_json(headers) => body.len(),
        None => return Err(Undeclared("it is not JSON by its media type")),
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.parse().ok());
            length
                .filter(|length| *length <= body.len())
                .ok_or(Undeclared("its Inference-Header-Content-Length is none"))?
        }
    };
    let (text, mut octets) = body.split_at(length);
    let Ok(Value::Object(mut answer)) = json::parse(text, DEPTH) else {
        return Err(Undeclared("it is not one JSON object"));
    };
    let Some(Value::Array(outputs)) = answer.remove("outputs") else { return Err(Undeclared("it has no outputs")) };
    let mut shaped = Map::new();
    for name in ["model_name", "model_version", "id"] {
        if let Some(value) = answer.remove(name) {
            shaped.insert(name.into(), value.is_string().then_some(value).ok_or(Undeclared("its names are no texts"))?);
        }
    }
    if let Some(Value::Object(mut parameters)) = answer.remove("parameters") {
        let known = ["out_of_training_range", "out_of_training_range_rows"];
        let kept = known
            .iter()
            .filter_map(|name| parameters.remove_entry(*name))
            .filter(|(_, value)| !value.is_object() && !value.is_array());
        let kept: Map<String, Value> = kept.collect();
        if !kept.is_empty() {
            shaped.insert("parameters".into(), kept.into());
        }
    }
    let (mut kept, mut tail) = (Vec::new(), Vec::new());
    for output in outputs {
        let Value::Object(output) = output else { return Err(Undeclared("an output is no object")) };
        kept.extend(self::output(rule, output, &mut octets, &mut tail)?);
    }
    if !octets.is_empty() {
        return Err(Undeclared("it has octets that belong to no output"));
    }
    shaped.insert("outputs".into(), kept.into());
    let mut whole = serde_json::to_vec(&Value::Object(shaped)).map_err(|_| Undeclared("it can't be written"))?;
    if tail.is_empty() {
        headers.remove(&JSON_LENGTH);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    } else {
        headers.insert(&JSON_LENGTH, whole.len().into());
        whole.append(&mut tail);
    }
    Ok(whole)
}

/// One output; nothing where it is not shown. Takes its octets off those of the answer.
fn output(
    rule: &AnswerRule,
    mut output: Map<String, Value>,
    octets: &mut &[u8],
    tail: &mut Vec<u8>,
) -> Result<Option<Value>, Undeclared> {
    let text = |name: &str| output.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, datatype) = (text("name"), text("datatype"));
    let shape: Option<Vec<u64>> =
        output.get("shape").and_then(Value::as_array).and_then(|it| it.iter().map(Value::as_u64).collect());
    let shape = shape.ok_or(Undeclared("an output has no shape"))?;
    let count = shape
        .iter()
        .try_fold(1_u64, |product, side| product.checked_mul(*side))
        .ok_or(Undeclared("an output has a shape beyond all bounds"))?;
    let size = output.get("parameters").and_then(|parameters| parameters.get("binary_data_size"));
    let raw = match size.map(Value::as_u64) {
        None => None,
        Some(size) => {
            let size = size.and_then(|size| usize::try_from(size).ok());
            let (own, rest) = size
                .and_then(|size| octets.split_at_checked(size))
                .ok_or(Undeclared("an output has less octets than it says"))?;
            *octets = rest;
            Some(own)
        }
    };
    let is_one_of = |names: &[Box<str>]| names.iter().any(|known| **known == *name);
    let kind = if is_one_of(&rule.outputs.labels) {
        Kind::Label
    } else if is_one_of(&rule.outputs.probabilities) {
        Kind::Probabilities
    } else if is_one_of(&rule.outputs.scores) {
        Kind::Score
    } else {
        return Ok(None);
    };
    let mut shaped = Map::new();
    for (key, value) in [
        ("name", Value::from(name)),
        ("datatype", Value::from(datatype.as_str())),
        ("shape", Value::from(shape.clone())),
    ] {
        shaped.insert(key.into(), value);
    }
    match (kind, rule.show) {
        (Kind::Probabilities, Show::Label) | (Kind::Score, Show::Label | Show::Top(_)) => return Ok(None),
        (Kind::Label, _) => {
            // Numbers with fractions are no labels, in JSON or as octets: they would be what is not shown.
            if datatype.starts_with("FP") {
                return Err(Undeclared("it has a label that is no text and no whole number"));
            }
            if let Some(raw) = raw {
                if datatype != "BYTES" && raw.len() as u64 > count.saturating_mul(8) {
                    return Err(Undeclared("an output has more octets than its shape says"));
                }
                tail.extend_from_slice(raw);
                shaped.insert("parameters".into(), serde_json::json!({ "binary_data_size": raw.len() }));
            } else {
                let data = output.remove("data").filter(Value::is_array).ok_or(Undeclared("an output has no data"))?;
                shaped.insert("data".into(), labels(data)?);
            }
        }
        (Kind::Probabilities | Kind::Score, _) => {
            let mut values = match raw {
                Some(raw) => read(raw, &datatype)?,
                None => flat(output.get("data").ok_or(Undeclared("an output has no data"))?)?,
            };
            if values.len() as u64 != count {
                return Err(Undeclared("an output has another number of values than its shape"));
            }
            if kind == Kind::Probabilities {
                let width = shape.last().and_then(|width| usize::try_from(*width).ok()).filter(|width| *width > 0);
                values.chunks_mut(width.unwrap_or(1)).try_for_each(|row| distribution(rule, row))?;
            } else if let Some(grid) = rule.grid {
                for value in &mut values {
                    *value = grid.nearest(*value);
                }
            }
            if raw.is_some() {
                let before = tail.len();
                write(&values, &datatype, tail);
                shaped.insert("parameters".into(), serde_json::json!({ "binary_data_size": tail.len() - before }));
            } else {
                let numbers = values
                    .into_iter()
                    .map(|value| Number::from_f64(value).map(Value::Number))
                    .collect::<Option<Vec<_>>>();
                shaped.insert("data".into(), numbers.ok_or(Undeclared("an output has a number that is none"))?.into());
            }
        }
    }
    Ok(Some(shaped.into()))
}

fn distribution(rule: &AnswerRule, row: &mut [f64]) -> Result<(), Undeclared> {
    if !are_sound(row) {
        return Err(Undeclared("its probabilities are none"));
    }
    if let Show::Top(most) = rule.show {
        level_rest(row, most);
    }
    if let Some(grid) = rule.grid {
        grid.round(row);
    }
    Ok(())
}

/// Labels are texts, whole numbers and truth values, in lists.
fn labels(value: Value) -> Result<Value, Undeclared> {
    match value {
        Value::Array(values) => values.into_iter().map(labels).collect::<Result<Vec<_>, _>>().map(Value::Array),
        Value::Number(number) if number.is_f64() => {
            Err(Undeclared("it has a label that is no text and no whole number"))
        }
        Value::Object(_) => Err(Undeclared("it has a label that is no text and no whole number")),
        plain => Ok(plain),
    }
}

/// Numbers in row-major order, however they are nested.
pub(super) fn flat(value: &Value) -> Result<Vec<f64>, Undeclared> {
    fn collect(value: &Value, into: &mut Vec<f64>) -> Option<()> {
        match value {
            Value::Array(values) => values.iter().try_for_each(|value| collect(value, into)),
            value => value.as_f64().map(|number| into.push(number)),
        }
    }
    let mut numbers = Vec::new();
    collect(value, &mut numbers).map(|()| numbers).ok_or(Undeclared("an output has a number that is none"))
}

fn read(raw: &[u8], datatype: &str) -> Result<Vec<f64>, Undeclared> {
    let whole =
        |width: usize| raw.len().is_multiple_of(width).then_some(()).ok_or(Undeclared("an output ends inside a value"));
    match datatype {
        "FP32" => {
            whole(4)?;
            Ok(raw.as_chunks().0.iter().map(|octets| f64::from(f32::from_le_bytes(*octets))).collect())
        }
        "FP64" => {
            whole(8)?;
            Ok(raw.as_chunks().0.iter().map(|octets| f64::from_le_bytes(*octets)).collect())
        }
        _ => Err(Undeclared("its probabilities have a type that holds none")),
    }
}

fn write(values: &[f64], datatype: &str, out: &mut Vec<u8>) {
    for value in values {
        if datatype == "FP32" {
            #[expect(clippy::cast_possible_truncation, reason = "that is what the type holds")]
            out.extend_from_slice(&(*value as f32).to_le_bytes());
        } else {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rule;
    use super::*;
    use http::header;
    use serde_json::json;

    fn answer() -> Value {
        json!({
            "model_name": "iris", "model_version": "1", "id": "7", "parameters": { "out_of_training_range": "petal_width", "path": "/models" },
            "outputs": [
                { "name": "class_name", "datatype": "BYTES", "shape": [2, 1], "data": ["b", "c"] },
                { "name": "probabilities", "datatype": "FP32", "shape": [2, 3], "data": [[0.123_4, 0.654_3, 0.222_3], [0.0, 0.4, 0.6]] },
                { "name": "leaf", "datatype": "INT64", "shape": [2, 1], "data": [3, 4] },
                { "name": "score", "datatype": "FP64", "shape": [2, 1], "data": [0.512_34, 0.1] },
            ],
        })
    }

    fn shaped(toml: &str, answer: &Value) -> Result<Value, Undeclared> {
        let mut headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let body = rule(&format!("form = \"oip-v2\"\n{toml}")).apply(
            http::StatusCode::OK,
            &mut headers,
            answer.to_string().as_bytes(),
        )?;
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn tensors_in_json() {
        let names = |answer: &Value| -> Vec<String> {
            let outputs = answer["outputs"].as_array().expect("a list");
            outputs.iter().map(|output| output["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let label = shaped("show = \"label\"", &answer()).expect("it is of the form");
        assert_eq!(
            (names(&label), &label["parameters"]),
            (vec!["class_name".into()], &json!({ "out_of_training_range": "petal_width" }))
        );
        let top = shaped("show = \"top\"\ntop = 1\nsteps = 100", &answer()).expect("it is of the form");
        assert_eq!(names(&top), ["class_name", "probabilities"]);
        assert_eq!(top["outputs"][1]["data"], json!([0.17, 0.66, 0.17, 0.2, 0.2, 0.6]));
        let all = shaped("show = \"all\"\nsteps = 10\nprobabilities = [\"probabilities\"]", &answer())
            .expect("it is of the form");
        assert_eq!(
            (&all["outputs"][1]["data"], &all["outputs"][2]["data"]),
            (&json!([0.1, 0.7, 0.2, 0.0, 0.4, 0.6]), &json!([0.5, 0.1]))
        );
    }

    #[test]
    fn tensors_as_octets() {
        let octets = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let head = json!({
            "model_name": "iris", "outputs": [
                { "name": "leaf", "datatype": "INT64", "shape": [1], "parameters": { "binary_data_size": 8 } },
                { "name": "label", "datatype": "INT64", "shape": [1], "parameters": { "binary_data_size": 8, "node": 3 } },
                { "name": "probabilities", "datatype": "FP32", "shape": [1, 3], "parameters": { "binary_data_size": 12 } },
            ],
        })
        .to_string();
        let body = [head.as_bytes(), &9_u64.to_le_bytes(), &1_u64.to_le_bytes(), &octets(&[0.1, 0.6, 0.3])].concat();
        let shape = |toml: &str, length: usize, body: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(&JSON_LENGTH, length.into());
            let shaped = rule(&format!("form = \"oip-v2\"\n{toml}")).apply(http::StatusCode::OK, &mut headers, body)?;
            let length: usize = headers
                .get(&JSON_LENGTH)
                .map_or(shaped.len(), |it| it.to_str().expect("text").parse().expect("a number"));
            let (text, tail) = shaped.split_at(length);
            Ok::<_, Undeclared>((serde_json::from_slice::<Value>(text).expect("JSON"), tail.to_vec()))
        };
        let (text, tail) = shape("show = \"top\"\ntop = 1", head.len(), &body).expect("it is of the form");
        assert_eq!(text["outputs"][0]["parameters"], json!({ "binary_data_size": 8 }));
        assert_eq!(tail, [&1_u64.to_le_bytes()[..], &octets(&[0.2, 0.6, 0.2])].concat());
        let (text, tail) = shape("show = \"label\"", head.len(), &body).expect("it is of the form");
        assert_eq!((text["outputs"].as_array().map(Vec::len), tail), (Some(1), 1_u64.to_le_bytes().to_vec()));
        for (length, body) in [
            (head.len(), &body[..body.len() - 1]),
            (head.len(), &[&body[..], b"x"].concat()[..]),
            (head.len() - 1, &body[..]),
            (body.len() + 1, &body[..]),
        ] {
            assert!(shape("show = \"all\"", length, body).is_err());
        }
    }

    #[test]
    fn what_is_not_of_the_form_is_not_passed_on() {
        for (pointer, wrong) in [
            ("/outputs", json!({})),
            ("/outputs/1/shape", json!([2, 2])),
            ("/outputs/1/shape", json!([u64::MAX, 3])),
            ("/outputs/1/shape", json!("2")),
            ("/outputs/1/data", json!(["0.1"])),
            ("/outputs/1/data", json!([0.1, 0.2, 0.7, 2.0, 0.1, 0.1])),
            ("/outputs/1/data", Value::Null),
            ("/outputs/0/data", json!([{ "b": 1 }])),
            ("/outputs/0/data", json!([0.25])),
            ("/id", json!([1])),
        ] {
            let mut answer = answer();
            *answer.pointer_mut(pointer).expect("it is there") = wrong.clone();
            assert!(shaped("show = \"all\"", &answer).is_err(), "{pointer} {wrong}");
        }
    }
}
