//! Are the values such as the model knows? Its card says what it takes and what it has seen.
//!
//! The card is a model's own description, as its worker publishes it (`card` in the metadata of the Open Inference Protocol)
//! or as a file. `bounds` are hard: a value outside is no measurement at all. Outside `training_range` a model answers, and
//! nobody knows how well. A row that can't be told to be one of the model's is refused: what is not looked at does not pass.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Number, Value, json};

use super::fault::{Fault, MOST_FAULTS};
use super::oip::{Datatype, Tensor};
use crate::policy::json;
use crate::settings::{Named, Section};
use crate::types::Name;

/// The most features of a model.
const MOST_FEATURES: usize = 4096;

/// What becomes of a value outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    Refuse,
    Clip,
    Flag,
    Pass,
}

impl Named for Outside {
    const SHAPE: &'static str = "\"refuse\", \"clip\", \"flag\" or \"pass\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("clip", Self::Clip), ("flag", Self::Flag), ("pass", Self::Pass)];
}

/// What a card says of one feature.
#[derive(Clone, Debug, PartialEq)]
struct Feature {
    name: Box<str>,
    /// Values must be larger.
    above: f64,
    /// Values must not be larger.
    at_most: f64,
    /// The smallest and the largest that the model was trained on.
    seen: Option<(f64, f64)>,
}

/// The part of a model card that rows are held against.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Card(Vec<Feature>);

impl Card {
    /// Reads a card, or the metadata that it is the `card` of.
    ///
    /// # Errors
    /// Why it is none.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let whole = json::parse(bytes, 16).map_err(|wrong| format!("is not JSON: {}", wrong.detail))?;
        let card = whole.get("card").unwrap_or(&whole);
        let listed = card.get("features").and_then(Value::as_array).ok_or("has no `features`")?;
        if listed.is_empty() || listed.len() > MOST_FEATURES {
            return Err(format!("has no feature, or more than {MOST_FEATURES}"));
        }
        let mut features: Vec<Feature> = Vec::with_capacity(listed.len());
        for (index, feature) in listed.iter().enumerate() {
            let number = |pointer: &str| feature.pointer(pointer).and_then(Value::as_f64);
            let wrong = |what: &str| format!("has a feature with {what} (/features/{index})");
            let name = feature.get("name").and_then(Value::as_str).ok_or_else(|| wrong("no name"))?;
            if feature.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "number") {
                return Err(wrong("another type than number, which has no bounds to hold"));
            }
            let (above, at_most) = (number("/bounds/above"), number("/bounds/at_most"));
            let (above, at_most) =
                above.zip(at_most).filter(|(above, at_most)| above < at_most).ok_or_else(|| wrong("no bounds"))?;
            let seen = number("/training_range/minimum").zip(number("/training_range/maximum"));
            if features.iter().any(|other| *other.name == *name) {
                return Err(wrong("a name that another has"));
            }
            features.push(Feature { name: name.into(), above, at_most, seen });
        }
        Ok(Self(features))
    }
}

/// One `[guards.NAME]`.
#[derive(Debug)]
pub(super) struct Guard {
    card: Card,
    outside_bounds: Outside,
    outside_training: Outside,
}

/// All guards by name.
#[derive(Debug, Default)]
pub struct Guards(HashMap<Name, Arc<Guard>>);

impl Guards {
    /// Reads every `[guards.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let mut guards = HashMap::new();
        for section in root.sections("guards") {
            let card = section.file("card", "name a file with the model's card, as its worker shows it");
            let card = card.and_then(|bytes| {
                let read = Card::parse(&bytes);
                read.map_err(|reason| {
                    section.mistake("card", reason, "save what GET /v2/models/NAME of the worker answers");
                })
                .ok()
            });
            if !section.has("card") {
                section.missing("card", "name a file with the model's card, as its worker shows it");
            }
            let outside_bounds = section.or("outside_bounds", Outside::Refuse);
            if outside_bounds == Outside::Pass {
                section.mistake(
                    "outside_bounds",
                    "is \"pass\", so nothing would be guarded",
                    "write \"refuse\", \"clip\" or \"flag\"",
                );
            }
            let outside_training = section.or("outside_training", Outside::Flag);
            if let Some(card) = card {
                guards.insert(section.name(), Arc::new(Guard { card, outside_bounds, outside_training }));
            }
            section.finish();
        }
        Self(guards)
    }

    /// Reads a body's `guard`.
    pub(super) fn reference(&self, section: &Section<'_>) -> Option<Arc<Guard>> {
        let name = section.optional::<String>("guard")?;
        let found = self.0.get(name.as_str()).cloned();
        if found.is_none() {
            let defined: Vec<&str> = self.0.keys().map(|name| &**name).collect();
            section.undefined("guard", None, ("guard", "guards"), &name, &defined);
        }
        found
    }
}

/// What a guard found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) faults: Vec<Fault>,
    /// Values that were changed, by their places.
    pub(super) clipped: Vec<String>,
    /// Features with values outside that pass.
    pub(super) flagged: BTreeSet<String>,
    /// Whether the JSON stays as long as it is, so that no value in it can be changed.
    pub(super) is_fixed: bool,
}

impl Found {
    fn fault(&mut self, pointer: &str, code: &'static str, detail: String, limit: Option<Value>) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { pointer: pointer.into(), code, detail, limit, sent: None });
        }
    }
}

impl Guard {
    /// Judges one value; gives back what it becomes, where that is something else.
    fn value(&self, feature: &Feature, value: f64, pointer: &dyn Fn() -> String, found: &mut Found) -> Option<f64> {
        let Feature { above, at_most, seen, .. } = *feature;
        let bounds = (self.outside_bounds, (above.next_up(), at_most), "out_of_bounds");
        let training = seen.map(|seen| (self.outside_training, seen, "out_of_training_range"));
        let mut clipped = None;
        for (outside, range, code) in [Some(bounds), training].into_iter().flatten() {
            let value = clipped.unwrap_or(value);
            if (range.0..=range.1).contains(&value) {
                continue;
            }
            match outside {
                Outside::Pass => {}
                Outside::Flag => {
                    found.flagged.insert(feature.name.to_string());
                }
                Outside::Clip if !value.is_nan() && !found.is_fixed => clipped = Some(value.clamp(range.0, range.1)),
                Outside::Refuse | Outside::Clip => {
                    let detail = if code == "out_of_bounds" {
                        format!("must be more than {above} and at most {at_most}")
                    } else {
                        format!("must be from {} to {}, as in training", range.0, range.1)
                    };
                    found.fault(&pointer(), code, detail, Some(json!([range.0, range.1])));
                    return None;
                }
            }
        }
        if clipped.is_some() && found.clipped.len() <= MOST_FAULTS {
            found.clipped.push(pointer());
        }
        clipped
    }

    fn cell(&self, feature: &Feature, value: &mut Value, pointer: &dyn Fn() -> String, found: &mut Found) {
        let Some(number) = value.as_f64() else {
            found.fault(&pointer(), "type", format!("is not a number, and {} is one", feature.name), None);
            return;
        };
        if let Some(clipped) = self.value(feature, number, pointer, found).and_then(Number::from_f64) {
            *value = Value::Number(clipped);
        }
    }

    /// Judges a body for people: a row, `instances` of them, or a list of them.
    pub(super) fn rows(&self, body: &mut Value, found: &mut Found) {
        match body {
            // Beside them nothing: a worker may read the one or the other.
            Value::Object(row) if row.len() == 1 && row.get("instances").is_some_and(Value::is_array) => {
                if let Some(Value::Array(rows)) = row.get_mut("instances") {
                    self.list(rows, "/instances", found);
                }
            }
            Value::Array(rows) if rows.iter().any(|row| !row.is_number()) || rows.is_empty() => {
                self.list(rows, "", found);
            }
            row => self.row(row, "", found),
        }
    }

    fn list(&self, rows: &mut [Value], place: &str, found: &mut Found) {
        if rows.is_empty() {
            found.fault(place, "count", "has no row".into(), None);
        }
        for (index, row) in rows.iter_mut().enumerate() {
            self.row(row, &format!("{place}/{index}"), found);
        }
    }

    fn row(&self, row: &mut Value, place: &str, found: &mut Found) {
        match row {
            Value::Object(row) if row.len() == 1 && row.get("features").is_some_and(Value::is_array) => {
                if let Some(Value::Array(values)) = row.get_mut("features") {
                    self.columns(values, &format!("{place}/features"), found);
                }
            }
            Value::Object(row) => self.named(row, place, found),
            Value::Array(values) => self.columns(values, place, found),
            _ => found.fault(place, "type", "is no row of the model".into(), None),
        }
    }

    fn named(&self, row: &mut Map<String, Value>, place: &str, found: &mut Found) {
        for name in row.keys().filter(|name| !self.card.0.iter().any(|feature| *feature.name == ***name)) {
            let pointer = format!("{place}/{}", json::escape(name));
            found.fault(&pointer, "unknown_member", "is no feature of the model".into(), None);
        }
        for feature in &self.card.0 {
            let pointer = || format!("{place}/{}", json::escape(&feature.name));
            match row.get_mut(&*feature.name) {
                Some(value) => self.cell(feature, value, &pointer, found),
                None => found.fault(&pointer(), "required", "is missing".into(), None),
            }
        }
    }

    fn columns(&self, values: &mut [Value], place: &str, found: &mut Found) {
        if values.len() != self.card.0.len() {
            found.fault(
                place,
                "count",
                format!("has {} values, and the model takes {}", values.len(), self.card.0.len()),
                None,
            );
            return;
        }
        for (index, (feature, value)) in self.card.0.iter().zip(values).enumerate() {
            self.cell(feature, value, &|| format!("{place}/{index}"), found);
        }
    }

    /// Judges the tensors of a request of the Open Inference Protocol; `tail` is what follows the JSON.
    pub(super) fn tensors(&self, body: &mut Value, tail: &mut [u8], tensors: &[Tensor], found: &mut Found) {
        let (width, has_octets) = (self.card.0.len(), !tail.is_empty());
        for (index, tensor) in tensors.iter().enumerate() {
            let place = format!("/inputs/{index}");
            // A name counts where each row has one value: a worker takes what is wider for whole rows, whatever its name.
            let is_narrow = tensor.shape.iter().skip(1).all(|side| *side == 1);
            let named = self.card.0.iter().position(|feature| *feature.name == *tensor.name).filter(|_| is_narrow);
            let stacked = tensor.shape.last().is_some_and(|side| *side == width as u64);
            let column = |number: usize| {
                named.or(stacked.then_some(number % width.max(1))).and_then(|column| self.card.0.get(column))
            };
            if column(0).is_none() {
                found.fault(
                    &place,
                    "shape",
                    format!("is neither a feature of the model nor rows of its {width}"),
                    None,
                );
            } else if matches!(tensor.datatype, Datatype::Bool | Datatype::Bytes | Datatype::Float(2)) {
                found.fault(
                    &format!("{place}/datatype"),
                    "enum",
                    "is none that the model's bounds can be held against".into(),
                    None,
                );
            } else if let Some((begins, size)) = tensor.octets {
                let octets = tail.get_mut(begins..begins + size).unwrap_or_default();
                let whole = |detail: usize| format!("{place}/data/{detail}");
                self.octets(octets, tensor.datatype, &column, &whole, found);
            } else if let Some(data) = body.pointer_mut(&format!("{place}/data")) {
                let mut number = 0;
                found.is_fixed = has_octets;
                self.nested(data, &column, &mut number, &place, found);
                found.is_fixed = false;
            }
        }
    }

    fn nested<'f>(
        &self,
        data: &mut Value,
        column: &dyn Fn(usize) -> Option<&'f Feature>,
        number: &mut usize,
        place: &str,
        found: &mut Found,
    ) {
        if let Value::Array(values) = data {
            for value in values {
                self.nested(value, column, number, place, found);
            }
            return;
        }
        let at = *number;
        *number += 1;
        if let Some(feature) = column(at) {
            self.cell(feature, data, &|| format!("{place}/data/{at}"), found);
        }
    }

    fn octets<'f>(
        &self,
        octets: &mut [u8],
        datatype: Datatype,
        column: &dyn Fn(usize) -> Option<&'f Feature>,
        pointer: &dyn Fn(usize) -> String,
        found: &mut Found,
    ) {
        let Some(width) = datatype.width() else { return };
        for (number, raw) in octets.chunks_exact_mut(width).enumerate() {
            let Some(feature) = column(number) else { continue };
            let value = datatype.read(raw);
            if let Some(clipped) = self.value(feature, value, &|| pointer(number), found) {
                datatype.write(clipped, raw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oip;
    use super::*;

    fn guard(outside_bounds: Outside, outside_training: Outside) -> Guard {
        let card = json!({ "card": { "features": [
            { "name": "a", "type": "number", "bounds": { "above": 0.0, "at_most": 10.0 }, "training_range": { "minimum": 2.0, "maximum": 4.0 } },
            { "name": "b", "bounds": { "above": -5, "at_most": 5 } },
        ] } });
        Guard { card: Card::parse(card.to_string().as_bytes()).expect("a card"), outside_bounds, outside_training }
    }

    fn rows(guard: &Guard, body: &Value) -> (Value, Vec<String>, Vec<String>) {
        let (mut body, mut found) = (body.clone(), Found::default());
        guard.rows(&mut body, &mut found);
        let faults = found.faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect();
        (body, faults, found.flagged.into_iter().collect())
    }

    #[test]
    fn rows_of_every_form_are_held_against_the_card() {
        let strict = guard(Outside::Refuse, Outside::Flag);
        for (body, faults, flagged) in [
            (json!({ "a": 3, "b": 0 }), vec![], vec![]),
            (json!([3, 0]), vec![], vec![]),
            (json!({ "features": [3, 0] }), vec![], vec![]),
            (json!({ "instances": [[3, 0], { "a": 5, "b": 5 }] }), vec![], vec!["a"]),
            (
                json!([{ "a": 0, "b": -5 }, [11, 5.5]]),
                vec!["/0/a out_of_bounds", "/0/b out_of_bounds", "/1/0 out_of_bounds", "/1/1 out_of_bounds"],
                vec![],
            ),
            (json!({ "a": "3", "b": null }), vec!["/a type", "/b type"], vec![]),
            (json!({ "a": 3 }), vec!["/b required"], vec![]),
            (json!({}), vec!["/a required", "/b required"], vec![]),
            (json!([1, 2, 3]), vec![" count"], vec![]),
            (json!({ "instances": ["x", []] }), vec!["/instances/0 type", "/instances/1 count"], vec![]),
            (json!("x"), vec![" type"], vec![]),
            (json!([]), vec![" count"], vec![]),
            (json!({ "instances": [] }), vec!["/instances count"], vec![]),
            (json!({ "a": 3, "b": 0, "inputs": [9] }), vec!["/inputs unknown_member"], vec![]),
        ] {
            assert_eq!(
                rows(&strict, &body),
                (
                    body.clone(),
                    faults.iter().map(ToString::to_string).collect(),
                    flagged.iter().map(ToString::to_string).collect()
                ),
                "{body}"
            );
        }
        let clipping = guard(Outside::Clip, Outside::Clip);
        let (body, faults, _) = rows(&clipping, &json!([[100, -100], [1, 0], [3, 0]]));
        assert_eq!((body, faults), (json!([[4.0, (-5.0_f64).next_up()], [2.0, 0], [3, 0]]), vec![]));
        let (_, faults, _) = rows(&guard(Outside::Refuse, Outside::Refuse), &json!([1, 0]));
        assert_eq!(faults, ["/0 out_of_training_range"]);
    }

    #[test]
    fn tensors_are_held_against_the_card() {
        let judge = |guard: &Guard, body: &Value, tail: &[u8]| {
            let (mut body, mut tail, mut found) = (body.clone(), tail.to_vec(), Found::default());
            let tensors = oip::read(&body, &tail).expect("a good request");
            guard.tensors(&mut body, &mut tail, &tensors, &mut found);
            (
                body,
                tail,
                found.faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect::<Vec<_>>(),
            )
        };
        let strict = guard(Outside::Refuse, Outside::Pass);
        let stacked =
            json!({ "inputs": [{ "name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[3, 0], [11, 6]] }] });
        assert_eq!(
            judge(&strict, &stacked, b"").2,
            ["/inputs/0/data/2 out_of_bounds", "/inputs/0/data/3 out_of_bounds"]
        );
        let named = json!({ "inputs": [
            { "name": "b", "datatype": "INT8", "shape": [1, 1], "data": [6] }, { "name": "a", "datatype": "INT8", "shape": [1, 1], "data": [3] },
        ] });
        assert_eq!(judge(&strict, &named, b"").2, ["/inputs/0/data/0 out_of_bounds"]);
        let other = json!({ "inputs": [{ "name": "x", "datatype": "FP64", "shape": [3], "data": [1, 2, 3] }] });
        assert_eq!(judge(&strict, &other, b"").2, ["/inputs/0 shape"]);
        let wide = json!({ "inputs": [{ "name": "a", "datatype": "FP64", "shape": [1, 2], "data": [3, 6] }] });
        assert_eq!(
            judge(&strict, &wide, b"").2,
            ["/inputs/0/data/1 out_of_bounds"],
            "its name does not hide its columns"
        );
        let text = json!({ "inputs": [{ "name": "a", "datatype": "BYTES", "shape": [1], "data": ["3"] }] });
        assert_eq!(judge(&strict, &text, b"").2, ["/inputs/0/datatype enum"]);

        let raw = |datatype: &str, size: usize| json!({ "inputs": [{ "name": "x", "datatype": datatype, "shape": [1, 2], "parameters": { "binary_data_size": size } }] });
        let singles = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
        assert_eq!(judge(&strict, &raw("FP32", 8), &singles([f32::NAN, f32::INFINITY])).2.len(), 2);
        let clipping = guard(Outside::Clip, Outside::Clip);
        assert_eq!(
            judge(&clipping, &raw("FP32", 8), &singles([f32::NAN, 0.0])).2.len(),
            1,
            "what is no number can't be clipped"
        );
        assert_eq!(
            judge(&clipping, &raw("FP32", 8), &singles([f32::INFINITY, -9.0])).1,
            singles([4.0, (-5.0_f32).next_up()])
        );
        assert_eq!(judge(&clipping, &raw("INT16", 4), &[100, 0, 0xF6, 0xFF]).1, [4, 0, 0xFC, 0xFF]);
        assert_eq!(judge(&clipping, &raw("UINT8", 2), &[1, 4]).1, [2, 4]);
    }

    #[test]
    fn what_is_no_card_is_told() {
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"features":[]}"#,
            r#"{"features":[{}]}"#,
            r#"{"features":[{"name":"a"}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":2,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a","type":"text","bounds":{"above":0,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":0,"at_most":1}},{"name":"a","bounds":{"above":0,"at_most":1}}]}"#,
        ] {
            assert!(Card::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
