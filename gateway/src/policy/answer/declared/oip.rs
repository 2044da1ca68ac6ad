//! Answers of the Open Inference Protocol, version 2: JSON, and with tensors as octets behind it.

use http::HeaderMap;
use serde_json::Value;

use super::super::is_json;
use super::super::oip::flat;
use super::{Declared, Differs, Wanted};
use crate::policy::body::oip::{self, Datatype, Tensor};

pub(super) fn decide(
    rule: &Declared,
    wanted: Option<&Wanted>,
    rows: Option<u64>,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Differs> {
    if !headers.contains_key(&oip::JSON_LENGTH) && !is_json(headers) {
        return Err("it is not JSON by its media type".into());
    }
    let length = oip::json_length(headers, body.len());
    let length = length.map_err(|_| Differs::from("its Inference-Header-Content-Length is none"))?;
    let (text, tail) = body.split_at(length);
    let answer = rule.object(text)?;
    for name in ["model_name", "model_version", "id"] {
        if answer.get(name).is_some_and(|value| !value.is_string()) {
            return Err("its names are no texts".into());
        }
    }
    let outputs = oip::read_outputs(&answer, tail).map_err(|faults| match faults.first() {
        Some(fault) => Differs::from(format!("{:?} {}", fault.pointer, fault.detail)),
        None => "its outputs are none".into(),
    })?;
    let listed = answer.get("outputs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if let Some(wanted) = wanted {
        asked(wanted, &outputs, answer.get("id").and_then(Value::as_str))?;
    }
    for (index, output) in outputs.iter().enumerate() {
        if let Some(rows) = rows
            && output.shape.first() != Some(&rows)
        {
            return Err(format!("\"/outputs/{index}/shape\" does not begin with {rows}, the number of rows").into());
        }
        if rule.probabilities.iter().any(|name| **name == *output.name) {
            let data = listed.get(index).and_then(|output| output.get("data"));
            let values = numbers(output, data, tail)?;
            let width = output.shape.last().and_then(|width| usize::try_from(*width).ok()).filter(|width| *width > 0);
            values.chunks(width.unwrap_or(1)).try_for_each(|row| rule.row(row))?;
        }
    }
    Ok(())
}

/// Holds an answer to the names that its request says.
fn asked(wanted: &Wanted, outputs: &[Tensor], id: Option<&str>) -> Result<(), Differs> {
    if let (Some(asked), Some(answered)) = (wanted.id.as_deref(), id)
        && asked != answered
    {
        return Err("its id is another request's".into());
    }
    for (index, output) in outputs.iter().enumerate() {
        if outputs.iter().take(index).any(|other| other.name == output.name) {
            return Err(format!("\"/outputs/{index}\" has a name that stands there already").into());
        }
    }
    let Some(names) = &wanted.outputs else { return Ok(()) };
    if let Some(index) = outputs.iter().position(|output| !names.iter().any(|name| **name == *output.name)) {
        return Err(format!("\"/outputs/{index}\" was not asked for").into());
    }
    // All that are there were asked for and differ, so one is missing where there are less of them.
    if names.iter().any(|name| !outputs.iter().any(|output| **name == *output.name)) {
        return Err("an output that was asked for is not there".into());
    }
    Ok(())
}

/// The numbers of an output.
fn numbers(output: &Tensor, data: Option<&Value>, tail: &[u8]) -> Result<Vec<f64>, Differs> {
    let Some((begin, size)) = output.octets else {
        return flat(data.unwrap_or(&Value::Null)).map_err(|undeclared| undeclared.0.into());
    };
    let Datatype::Float(width @ (4 | 8)) = output.datatype else {
        return Err("its probabilities have a type that holds none".into());
    };
    let raw = tail.get(begin..begin + size).unwrap_or_default();
    Ok(raw.chunks_exact(width).map(|octets| output.datatype.read(octets)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{declared, json_headers};
    use super::*;
    use serde_json::json;

    fn answer() -> Value {
        json!({
            "model_name": "iris", "id": "7",
            "outputs": [
                { "name": "class_name", "datatype": "BYTES", "shape": [2, 1], "data": ["b", "c"] },
                { "name": "probabilities", "datatype": "FP32", "shape": [2, 3], "data": [[0.1, 0.6, 0.3], [0.0, 0.4, 0.6]] },
            ],
        })
    }

    fn decide(rule: &Declared, request: &Value, rows: u64, answer: &Value) -> Result<(), String> {
        let wanted = rule.wanted(request, rows);
        let text = answer.to_string();
        rule.decide(Some(&wanted), &json_headers(), text.as_bytes()).map_err(|differs| differs.0.into_owned())
    }

    #[test]
    fn an_answer_is_held_to_its_request() {
        let rule = declared("[answer]\nformat = \"oip-v2\"\ndistribution = true");
        let named = |names: &[&str]| {
            let outputs: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
            json!({ "id": "7", "inputs": [], "outputs": outputs })
        };
        let both = ["probabilities", "class_name"];
        for (request, rows, wrong) in [
            (json!({}), 2, ""),
            (named(&both), 2, ""),
            (named(&both), 3, "\"/outputs/0/shape\" does not begin with 3, the number of rows"),
            (named(&both[1..]), 2, "\"/outputs/1\" was not asked for"),
            (named(&["class_name", "probabilities", "leaf"]), 2, "an output that was asked for is not there"),
            (json!({ "id": "8" }), 2, "its id is another request's"),
        ] {
            let expected = if wrong.is_empty() { Ok(()) } else { Err(wrong.to_owned()) };
            assert_eq!(decide(&rule, &request, rows, &answer()), expected, "{request}");
        }
        let mut twice = answer();
        twice["outputs"][1] = twice["outputs"][0].clone();
        assert!(decide(&rule, &json!({}), 2, &twice).is_err());
    }

    #[test]
    fn tensors_hold_as_many_values_as_their_shapes_say() {
        let rule = declared("[answer]\nformat = \"oip-v2\"\ndistribution = true\none_per_row = false");
        for (pointer, wrong, what) in [
            ("/outputs", json!([]), "\"/outputs\" is not a list of 1 to 256 tensors"),
            ("/outputs/0/shape", json!([3, 1]), "\"/outputs/0/data\" has 2 values, and the shape says 3"),
            ("/outputs/0/data", json!(["secret", 1]), "\"/outputs/0/data\" is not a list of values of the datatype"),
            ("/outputs/1/data", json!([0.1, 0.2, 0.7, 2.0, 0.1, 0.1]), "it has probabilities that are not from 0 to 1"),
            (
                "/outputs/1/data",
                json!([0.1, 0.2, 0.7, 0.2, 0.1, 0.1]),
                "it has a row of probabilities whose sum is not 1",
            ),
            ("/outputs/1/name", json!(3), "\"/outputs/1/name\" is not a name"),
            ("/id", json!([1]), "its names are no texts"),
        ] {
            let mut answer = answer();
            *answer.pointer_mut(pointer).expect("it is there") = wrong;
            assert_eq!(decide(&rule, &json!({}), 2, &answer), Err(what.to_owned()));
        }
    }

    #[test]
    fn octets_are_read_as_json_is() {
        let rule = declared("[answer]\nformat = \"oip-v2\"\ndistribution = true");
        let octets = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let output = json!({ "name": "probabilities", "datatype": "FP32", "shape": [1, 3], "parameters": { "binary_data_size": 12 } });
        let head = json!({ "outputs": [output] }).to_string();
        let decide = |rows, tail: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(&oip::JSON_LENGTH, head.len().into());
            let body = [head.as_bytes(), tail].concat();
            let wanted = rule.wanted(&json!({}), rows);
            rule.decide(Some(&wanted), &headers, &body).map_err(|differs| differs.0.into_owned())
        };
        assert_eq!(decide(1, &octets(&[0.2, 0.5, 0.3])), Ok(()));
        assert!(decide(2, &octets(&[0.2, 0.5, 0.3])).is_err(), "another number of rows");
        assert!(decide(1, &octets(&[0.2, 0.5, 0.4])).is_err(), "no distribution");
        assert!(decide(1, &octets(&[f32::NAN, 0.5, 0.5])).is_err(), "no numbers");
        assert!(decide(1, &octets(&[0.5, 0.5])).is_err(), "too few");
        let more = decide(1, &octets(&[0.2, 0.5, 0.3, 0.0]));
        assert_eq!(more, Err("\"\" 4 octets behind the JSON belong to no output".into()));
    }
}
