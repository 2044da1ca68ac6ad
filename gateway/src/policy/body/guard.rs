//! Are the values such as the model knows? Its card says what it takes and what it has seen.
//!
//! `bounds` are hard: a value outside is no measurement at all. Outside `training_range` a model answers, and nobody knows how
//! well. A row that can't be told to be one of the model's is refused: what is not looked at does not pass. The card is in a
//! file, or the workers tell it while they serve; then a guard is given the one that is active, and knows none itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Number, Value, json};

use super::card::{Card, Feature};
use super::fault::{Fault, MOST_FAULTS};
use super::note::{self, Note};
use super::oip::{Datatype, Tensor};
use crate::policy::json;
use crate::settings::{Named, Section};
use crate::types::Name;

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

/// Where a guard's card is.
#[derive(Debug)]
enum Source {
    /// It was read with the policy.
    File(Card),
    /// Workers tell it.
    Workers(Asked),
}

/// Where workers tell a model's card, and how often they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The guard that wants it.
    pub guard: Name,
    /// The path of the model's metadata.
    pub path: Box<str>,
    /// How often each worker is asked.
    pub interval: Duration,
}

/// The card of the models that are active, as workers tell it, for a guard that has none itself.
#[derive(Clone, Copy, Debug)]
pub enum Active<'c> {
    /// This one.
    Card(&'c Card),
    /// None is known: nothing passes. Why, for the log.
    Unknown(&'static str),
    /// It is not asked for: the guard lets everything pass. For those who only explain the policy.
    Unasked,
}

/// One `[guards.NAME]`.
#[derive(Debug)]
pub(super) struct Guard {
    source: Source,
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
            let source = if section.has("card_path") { workers(&section) } else { file(&section) };
            let outside_bounds = section.or("outside_bounds", Outside::Refuse);
            if outside_bounds == Outside::Pass {
                section.mistake(
                    "outside_bounds",
                    "is \"pass\", so nothing would be guarded",
                    "write \"refuse\", \"clip\" or \"flag\"",
                );
            }
            let outside_training = section.or("outside_training", Outside::Flag);
            if let Some(source) = source {
                guards.insert(section.name(), Arc::new(Guard { source, outside_bounds, outside_training }));
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

/// Reads `card`: a file.
fn file(section: &Section<'_>) -> Option<Source> {
    let remedy =
        "name a file with the model's card, or the path where its workers tell it: card_path = \"/v2/models/NAME\"";
    if !section.has("card") {
        section.missing("card", remedy);
    }
    if section.has("interval") {
        section.mistake("interval", "stands beside a card that nobody is asked for", "remove it, or write `card_path`");
    }
    let read = Card::parse(&section.file("card", remedy)?);
    let told = |reason| section.mistake("card", reason, "save what GET /v2/models/NAME of the worker answers");
    read.map_err(told).ok().map(Source::File)
}

/// Reads `card_path` and `interval`.
fn workers(section: &Section<'_>) -> Option<Source> {
    let path: Option<String> = section.optional("card_path");
    let is_path = |path: &String| path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
    let remedy = "write the path of the model's metadata, such as \"/v2/models/iris\"";
    if path.as_ref().is_some_and(|path| !is_path(path)) {
        section.mistake("card_path", "is not a path", remedy);
    } else if path.as_ref().is_some_and(|path| path.contains(['{', '}'])) {
        section.mistake("card_path", "has a part in braces, and a guard has the card of one model", remedy);
    }
    if section.has("card") {
        section.mistake("card", "stands beside `card_path`, which asks the workers for it", "keep one of them");
    }
    let interval = section.or("interval", Duration::from_secs(5));
    if !(Duration::from_millis(100)..=Duration::from_hours(1)).contains(&interval) {
        section.mistake("interval", "is out of bounds", "write a time from \"100ms\" to \"1h\"");
    }
    let path = path.filter(is_path)?.into();
    Some(Source::Workers(Asked { guard: section.name(), path, interval }))
}

/// What a guard found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) faults: Vec<Fault>,
    /// Values that were changed, by their places.
    pub(super) changed: Note,
    /// Features with values outside that pass.
    pub(super) flagged: BTreeSet<Box<str>>,
    /// Whether a value in the JSON was changed.
    pub(super) is_rewritten: bool,
}

impl Found {
    fn fault(&mut self, pointer: &str, code: &'static str, detail: String, limit: Option<Value>) {
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(Fault { pointer: pointer.into(), code, detail, limit, sent: None });
        }
    }
}

impl Guard {
    /// Where its card is asked for, if it is.
    pub(super) fn asked(&self) -> Option<&Asked> {
        match &self.source {
            Source::File(_) => None,
            Source::Workers(asked) => Some(asked),
        }
    }

    /// What holds values against the card that it has or is told; `None` where everything passes.
    ///
    /// # Errors
    /// Why there is no card.
    pub(super) fn with<'g>(&'g self, active: Active<'g>) -> Result<Option<Held<'g>>, &'static str> {
        let card = match (&self.source, active) {
            (Source::File(card), _) | (Source::Workers(_), Active::Card(card)) => card,
            (Source::Workers(_), Active::Unknown(why)) => return Err(why),
            (Source::Workers(_), Active::Unasked) => return Ok(None),
        };
        Ok(Some(Held { card, outside_bounds: self.outside_bounds, outside_training: self.outside_training }))
    }
}

/// A guard with a card to hold values against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'g> {
    card: &'g Card,
    outside_bounds: Outside,
    outside_training: Outside,
}

impl Held<'_> {
    /// Judges one value of a type; gives back what it becomes, where that is something else.
    fn value(
        self,
        feature: &Feature,
        (value, datatype): (f64, Option<Datatype>),
        pointer: &dyn Fn() -> String,
        found: &mut Found,
    ) -> Option<f64> {
        let Feature { above, at_most, seen, .. } = *feature;
        let bounds = (above.next_up(), at_most);
        let training = seen.map(|seen| (self.outside_training, seen, "out_of_training_range"));
        let mut clipped = None;
        for (outside, range, code) in
            [Some((self.outside_bounds, bounds, "out_of_bounds")), training].into_iter().flatten()
        {
            let value = clipped.unwrap_or(value);
            if (range.0..=range.1).contains(&value) {
                continue;
            }
            match outside {
                Outside::Pass => continue,
                Outside::Flag => {
                    if !found.flagged.contains(&feature.name) {
                        found.flagged.insert(feature.name.clone());
                    }
                    continue;
                }
                Outside::Clip if !value.is_nan() => {
                    // What was seen in training may have been outside the bounds, which are hard.
                    let both = (range.0.max(bounds.0), range.1.min(bounds.1));
                    let inside = datatype.map_or(Some(both), |datatype| datatype.inside(both));
                    if let Some((low, high)) = inside.filter(|(low, high)| low <= high) {
                        clipped = Some(value.clamp(low, high));
                        continue;
                    }
                }
                Outside::Refuse | Outside::Clip => {}
            }
            let mut detail = if code == "out_of_bounds" {
                format!("must be more than {above} and at most {at_most}")
            } else {
                format!("must be from {} to {}, as in training", range.0, range.1)
            };
            if outside == Outside::Clip && !value.is_nan() {
                detail.push_str(", and no value of its type is");
            }
            found.fault(&pointer(), code, detail, Some(json!([range.0, range.1])));
            return None;
        }
        if clipped.is_some() {
            found.changed.add(|| note::string(&pointer()) + ";clipped");
        }
        clipped
    }

    fn cell(
        self,
        feature: &Feature,
        (value, datatype): (&mut Value, Option<Datatype>),
        pointer: &dyn Fn() -> String,
        found: &mut Found,
    ) {
        let Some(number) = value.as_f64() else {
            found.fault(&pointer(), "type", format!("is not a number, and {} is one", feature.name), None);
            return;
        };
        let Some(clipped) = self.value(feature, (number, datatype), pointer, found) else { return };
        let number = match datatype.and_then(|datatype| datatype.whole(clipped)) {
            Some(whole) => Some(whole),
            None => Number::from_f64(clipped),
        };
        if let Some(number) = number {
            *value = Value::Number(number);
            found.is_rewritten = true;
        }
    }

    /// Judges a body for people: a row, `instances` of them, or a list of them.
    pub(super) fn rows(self, body: &mut Value, found: &mut Found) {
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

    fn list(self, rows: &mut [Value], place: &str, found: &mut Found) {
        if rows.is_empty() {
            found.fault(place, "count", "has no row".into(), None);
        }
        for (index, row) in rows.iter_mut().enumerate() {
            self.row(row, &format!("{place}/{index}"), found);
        }
    }

    fn row(self, row: &mut Value, place: &str, found: &mut Found) {
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

    fn named(self, row: &mut Map<String, Value>, place: &str, found: &mut Found) {
        let mut there = 0;
        for feature in &self.card.features {
            let pointer = || format!("{place}/{}", json::escape(&feature.name));
            match row.get_mut(&*feature.name) {
                Some(value) => {
                    there += 1;
                    self.cell(feature, (value, None), &pointer, found);
                }
                None => found.fault(&pointer(), "required", "is missing".into(), None),
            }
        }
        if there == row.len() {
            return;
        }
        for name in row.keys().filter(|name| self.card.place(name).is_none()).take(MOST_FAULTS) {
            let pointer = format!("{place}/{}", json::escape(name));
            found.fault(&pointer, "unknown_member", "is no feature of the model".into(), None);
        }
    }

    fn columns(self, values: &mut [Value], place: &str, found: &mut Found) {
        let width = self.card.width();
        if values.len() != width {
            let detail = format!("has {} values, and the model takes {width}", values.len());
            found.fault(place, "count", detail, None);
            return;
        }
        for (index, (feature, value)) in self.card.features.iter().zip(values).enumerate() {
            self.cell(feature, (value, None), &|| format!("{place}/{index}"), found);
        }
    }

    /// Judges the tensors of a request of the Open Inference Protocol; `tail` is what follows the JSON.
    pub(super) fn tensors(self, body: &mut Value, tail: &mut [u8], tensors: &[Tensor], found: &mut Found) {
        let width = self.card.width();
        for (index, tensor) in tensors.iter().enumerate() {
            let place = format!("/inputs/{index}");
            // A name counts where each row has one value: a worker takes what is wider for whole rows, whatever its name.
            let is_narrow = tensor.shape.iter().skip(1).all(|side| *side == 1);
            let named = self.card.place(&tensor.name).filter(|_| is_narrow);
            let stacked = tensor.shape.last().is_some_and(|side| *side == width as u64);
            let column = |number: usize| {
                named.or(stacked.then_some(number % width.max(1))).and_then(|column| self.card.features.get(column))
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
                self.nested((data, tensor.datatype), &column, &mut number, &place, found);
            }
        }
    }

    fn nested<'f>(
        self,
        (data, datatype): (&mut Value, Datatype),
        column: &dyn Fn(usize) -> Option<&'f Feature>,
        number: &mut usize,
        place: &str,
        found: &mut Found,
    ) {
        if let Value::Array(values) = data {
            for value in values {
                self.nested((value, datatype), column, number, place, found);
            }
            return;
        }
        let at = *number;
        *number += 1;
        if let Some(feature) = column(at) {
            self.cell(feature, (data, Some(datatype)), &|| format!("{place}/data/{at}"), found);
        }
    }

    fn octets<'f>(
        self,
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
            if let Some(clipped) = self.value(feature, (value, Some(datatype)), &|| pointer(number), found) {
                datatype.write(clipped, raw);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::oip;
    use super::*;

    fn held(card: &Value, outside_bounds: Outside, outside_training: Outside) -> Held<'static> {
        let card = Box::leak(Box::new(Card::parse(card.to_string().as_bytes()).expect("a card")));
        Held { card, outside_bounds, outside_training }
    }

    fn guard(outside_bounds: Outside, outside_training: Outside) -> Held<'static> {
        let card = json!({ "card": { "features": [
            { "name": "a", "type": "number", "bounds": { "above": 0.0, "at_most": 10.0 }, "training_range": { "minimum": 2.0, "maximum": 4.0 } },
            { "name": "b", "bounds": { "above": -5, "at_most": 5 } },
        ] } });
        held(&card, outside_bounds, outside_training)
    }

    fn rows(guard: Held<'_>, body: &Value) -> (Value, Vec<String>, Vec<String>) {
        let (mut body, mut found) = (body.clone(), Found::default());
        guard.rows(&mut body, &mut found);
        let faults = found.faults.iter().map(|fault| format!("{} {}", fault.pointer, fault.code)).collect();
        (body, faults, found.flagged.into_iter().map(String::from).collect())
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
                rows(strict, &body),
                (
                    body.clone(),
                    faults.iter().map(ToString::to_string).collect(),
                    flagged.iter().map(ToString::to_string).collect()
                ),
                "{body}"
            );
        }
        let clipping = guard(Outside::Clip, Outside::Clip);
        let (body, faults, _) = rows(clipping, &json!([[100, -100], [1, 0], [3, 0]]));
        assert_eq!((body, faults), (json!([[4.0, (-5.0_f64).next_up()], [2.0, 0], [3, 0]]), vec![]));
        let (_, faults, _) = rows(guard(Outside::Refuse, Outside::Refuse), &json!([1, 0]));
        assert_eq!(faults, ["/0 out_of_training_range"]);
    }

    #[test]
    fn tensors_are_held_against_the_card() {
        let judge = |guard: Held<'_>, body: &Value, tail: &[u8]| {
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
            judge(strict, &stacked, b"").2,
            ["/inputs/0/data/2 out_of_bounds", "/inputs/0/data/3 out_of_bounds"]
        );
        let named = json!({ "inputs": [
            { "name": "b", "datatype": "INT8", "shape": [1, 1], "data": [6] }, { "name": "a", "datatype": "INT8", "shape": [1, 1], "data": [3] },
        ] });
        assert_eq!(judge(strict, &named, b"").2, ["/inputs/0/data/0 out_of_bounds"]);
        let other = json!({ "inputs": [{ "name": "x", "datatype": "FP64", "shape": [3], "data": [1, 2, 3] }] });
        assert_eq!(judge(strict, &other, b"").2, ["/inputs/0 shape"]);
        let wide = json!({ "inputs": [{ "name": "a", "datatype": "FP64", "shape": [1, 2], "data": [3, 6] }] });
        assert_eq!(
            judge(strict, &wide, b"").2,
            ["/inputs/0/data/1 out_of_bounds"],
            "its name does not hide its columns"
        );
        let text = json!({ "inputs": [{ "name": "a", "datatype": "BYTES", "shape": [1], "data": ["3"] }] });
        assert_eq!(judge(strict, &text, b"").2, ["/inputs/0/datatype enum"]);

        let raw = |datatype: &str, size: usize| json!({ "inputs": [{ "name": "x", "datatype": datatype, "shape": [1, 2], "parameters": { "binary_data_size": size } }] });
        let singles = |values: [f32; 2]| values.map(f32::to_le_bytes).concat();
        assert_eq!(judge(strict, &raw("FP32", 8), &singles([f32::NAN, f32::INFINITY])).2.len(), 2);
        let clipping = guard(Outside::Clip, Outside::Clip);
        assert_eq!(
            judge(clipping, &raw("FP32", 8), &singles([f32::NAN, 0.0])).2.len(),
            1,
            "what is no number can't be clipped"
        );
        assert_eq!(
            judge(clipping, &raw("FP32", 8), &singles([f32::INFINITY, -9.0])).1,
            singles([4.0, (-5.0_f32).next_up()])
        );
        assert_eq!(judge(clipping, &raw("INT16", 4), &[100, 0, 0xF6, 0xFF]).1, [4, 0, 0xFC, 0xFF]);
        assert_eq!(judge(clipping, &raw("UINT8", 2), &[1, 4]).1, [2, 4]);
    }

    #[test]
    fn what_is_clipped_ends_inside_in_the_type_of_its_tensor() {
        let card = json!({ "features": [
            { "name": "a", "bounds": { "above": 0.0, "at_most": 30.0 }, "training_range": { "minimum": 0.1, "maximum": 6.9 } },
            { "name": "b", "bounds": { "above": -7.5, "at_most": -2.2 } },
            { "name": "c", "bounds": { "above": 300.2, "at_most": 300.8 } },
            { "name": "d", "bounds": { "above": 0, "at_most": 10 }, "training_range": { "minimum": 20, "maximum": 30 } },
        ] });
        let guard = held(&card, Outside::Clip, Outside::Clip);
        let judge = |name: &str, datatype: &str, raw: Option<&[u8]>, data: Option<Value>| {
            let mut input = json!({ "name": name, "datatype": datatype, "shape": [1] });
            match (&raw, data) {
                (Some(raw), _) => input["parameters"] = json!({ "binary_data_size": raw.len() }),
                (_, data) => input["data"] = json!([data]),
            }
            let (mut body, mut tail, mut found) =
                (json!({ "inputs": [input] }), raw.unwrap_or_default().to_vec(), Found::default());
            let tensors = oip::read(&body, &tail).expect("a good request");
            guard.tensors(&mut body, &mut tail, &tensors, &mut found);
            let codes: Vec<_> = found.faults.iter().map(|fault| fault.code).collect();
            (body["inputs"][0]["data"][0].clone(), tail, codes)
        };
        let single = |name: &str, value: f32| {
            let (_, tail, codes) = judge(name, "FP32", Some(&value.to_le_bytes()), None);
            assert_eq!(codes, Vec::<&str>::new());
            f32::from_le_bytes(tail.try_into().expect("four octets"))
        };
        for (name, value, range) in [
            ("a", 0.01, (0.1, 6.9)),
            ("a", 99.0, (0.1, 6.9)),
            ("b", 9.0, (-7.5_f64.next_up(), -2.2)),
            ("b", -9.0, (-7.5_f64.next_up(), -2.2)),
        ] {
            let clipped = single(name, value);
            assert!((range.0..=range.1).contains(&f64::from(clipped)), "{name} {value}: {clipped}");
            let (in_json, _, _) = judge(name, "FP32", None, Some(json!(value)));
            #[expect(clippy::cast_possible_truncation, reason = "that is how a worker reads it")]
            let read = in_json.as_f64().expect("a number") as f32;
            assert!((range.0..=range.1).contains(&f64::from(read)), "{name} {value}: {in_json}");
        }
        for (name, raw, expected) in [("a", 0_i8, 1_i8), ("a", 100, 6), ("b", 9, -3), ("b", -9, -7)] {
            assert_eq!(judge(name, "INT8", Some(&raw.to_le_bytes()), None).1, expected.to_le_bytes(), "{name} {raw}");
            assert_eq!(judge(name, "INT8", None, Some(json!(raw))).0.to_string(), expected.to_string(), "{name} {raw}");
        }
        // No whole number is inside, or none that the type has.
        for (name, datatype) in [("c", "INT32"), ("c", "UINT8"), ("b", "UINT8")] {
            assert_eq!(judge(name, datatype, None, Some(json!(9))).2, ["out_of_bounds"], "{name} {datatype}");
        }
        assert_eq!(judge("d", "FP64", None, Some(json!(99))).2, ["out_of_training_range"], "nothing is in both");
    }
}
