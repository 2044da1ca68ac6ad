//! The outputs: which there are, which are asked for, and how they are written.

use std::io::Write as _;

use serde::Serialize;

use super::super::score::Scored;
use super::binary::push_text;
use super::request::Wanted;
use crate::model::Model;
use crate::problem::Refusal;

/// One output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Number of the winning class.
    Label,
    /// Its name.
    ClassName,
    /// One number for each class.
    Probabilities,
    /// Where on the scale of classes, for models that have one.
    Score,
}

impl Output {
    /// What a model offers, in the order of its answers.
    #[must_use]
    pub fn of(model: &Model) -> &'static [Self] {
        match model {
            Model::Forest(_) => &[Self::Label, Self::ClassName, Self::Probabilities],
            Model::Sentiment(_) => &[Self::Label, Self::ClassName, Self::Probabilities, Self::Score],
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::ClassName => "class_name",
            Self::Probabilities => "probabilities",
            Self::Score => "score",
        }
    }

    /// Type of its elements.
    #[must_use]
    pub fn datatype(self) -> &'static str {
        match self {
            Self::Label => "INT64",
            Self::ClassName => "BYTES",
            Self::Probabilities | Self::Score => "FP32",
        }
    }

    /// Elements of one row.
    #[must_use]
    pub fn width(self, classes: usize) -> usize {
        if self == Self::Probabilities { classes } else { 1 }
    }

    /// Appends the elements as octets.
    pub fn write_binary(self, scored: &Scored<'_>, bytes: &mut Vec<u8>) {
        match self {
            Self::Label => {
                for class in scored.classes() {
                    bytes.extend(i64::try_from(class).unwrap_or(i64::MAX).to_le_bytes());
                }
            }
            Self::ClassName => names(scored).for_each(|name| push_text(bytes, name)),
            Self::Probabilities => {
                bytes.extend(scored.probabilities.iter().flat_map(|number| single(*number).to_le_bytes()));
            }
            Self::Score => bytes.extend(scores(scored).flat_map(f32::to_le_bytes)),
        }
    }

    /// Appends the elements as a JSON array.
    fn write_json(self, scored: &Scored<'_>, json: &mut Vec<u8>) {
        let written = match self {
            Self::Label => array(json, scored.classes()),
            Self::ClassName => array(json, names(scored)),
            Self::Probabilities => array(json, scored.probabilities.iter().map(|number| single(*number))),
            Self::Score => array(json, scores(scored)),
        };
        debug_assert!(written.is_ok(), "numbers and names always become JSON");
    }
}

fn array<T: Serialize>(json: &mut Vec<u8>, items: impl Iterator<Item = T>) -> serde_json::Result<()> {
    json.push(b'[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut *json, &item)?;
    }
    json.push(b']');
    Ok(())
}

/// Rounded as the output's type holds it.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "probabilities are given as FP32")]
pub fn single(number: f64) -> f32 {
    number as f32
}

/// The name of each row's class.
pub fn names<'a>(scored: &'a Scored<'_>) -> impl Iterator<Item = &'a str> {
    let classes = &scored.served.model.card().classes;
    scored.classes().map(|class| classes.get(class).map_or("", String::as_str))
}

/// Each row's score.
pub fn scores(scored: &Scored<'_>) -> impl Iterator<Item = f32> {
    scored.rows().map(|row| single(scored.served.model.score(row).unwrap_or(0.0)))
}

/// The outputs that are asked for, each with whether it comes as octets; all where none is named.
///
/// # Errors
///
/// When the model has no such output, or it is named twice.
pub fn choose(model: &Model, wanted: &Wanted) -> Result<Vec<(Output, bool)>, Refusal> {
    let offered = Output::of(model);
    if wanted.outputs.is_empty() {
        return Ok(offered.iter().map(|output| (*output, wanted.binary)).collect());
    }
    let mut chosen: Vec<(Output, bool)> = Vec::new();
    for (index, (name, binary)) in wanted.outputs.iter().enumerate() {
        let at = || format!("/outputs/{index}/name");
        let output = offered.iter().find(|output| output.name() == name).ok_or_else(|| {
            let names: Vec<&str> = offered.iter().map(|output| output.name()).collect();
            Refusal::invalid(at(), "unknown-output", format!("the model gives {}", names.join(", ")))
        })?;
        if chosen.iter().any(|(other, _)| other == output) {
            return Err(Refusal::invalid(at(), "duplicate-output", "the output is there more than once"));
        }
        chosen.push((*output, *binary));
    }
    Ok(chosen)
}

/// What lies outside the training range, in words that a parameter can hold: the features, and the number of rows.
#[must_use]
pub fn unusual(scored: &Scored<'_>) -> Option<(String, usize)> {
    if scored.unusual.is_empty() {
        return None;
    }
    let card = scored.served.model.card();
    let mut named = vec![false; card.features.len()];
    for (_, feature) in &scored.unusual {
        named.iter_mut().skip(*feature).take(1).for_each(|named| *named = true);
    }
    let features: Vec<&str> =
        card.features.iter().zip(named).filter(|(_, named)| *named).map(|(feature, _)| feature.name.as_str()).collect();
    let mut rows: Vec<usize> = scored.unusual.iter().map(|(row, _)| *row).collect();
    rows.dedup();
    Some((features.join(","), rows.len()))
}

/// Appends a text as JSON.
fn push(json: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(json, text);
    debug_assert!(written.is_ok(), "a text always becomes JSON");
}

/// The answer: its octets, and how many of them are JSON where others follow.
#[must_use]
pub fn write(scored: &Scored<'_>, id: Option<&str>, outputs: &[(Output, bool)]) -> (Vec<u8>, Option<usize>) {
    let served = scored.served;
    let classes = served.model.card().classes.len();
    let rows = scored.rows().len();
    let mut json = Vec::with_capacity(512 + rows * (16 + 12 * classes));
    json.extend_from_slice(b"{\"model_name\":");
    push(&mut json, &served.name);
    json.extend_from_slice(b",\"model_version\":");
    push(&mut json, &served.version);
    if let Some(id) = id {
        json.extend_from_slice(b",\"id\":");
        push(&mut json, id);
    }
    if let Some((features, rows)) = unusual(scored) {
        json.extend_from_slice(b",\"parameters\":{\"out_of_training_range\":");
        push(&mut json, &features);
        put(&mut json, format_args!(",\"out_of_training_range_rows\":{rows}}}"));
    }
    let mut tail = Vec::new();
    json.extend_from_slice(b",\"outputs\":[");
    for (index, (output, binary)) in outputs.iter().enumerate() {
        let (name, datatype, width) = (output.name(), output.datatype(), output.width(classes));
        let begin: &[u8] = if index > 0 { b",{\"name\":\"" } else { b"{\"name\":\"" };
        for part in [begin, name.as_bytes(), b"\",\"datatype\":\"", datatype.as_bytes(), b"\",\"shape\":["] {
            json.extend_from_slice(part);
        }
        put(&mut json, format_args!("{rows},{width}],"));
        if *binary {
            let before = tail.len();
            output.write_binary(scored, &mut tail);
            let size = tail.len() - before;
            put(&mut json, format_args!("\"parameters\":{{\"binary_data_size\":{size}}}"));
        } else {
            json.extend_from_slice(b"\"data\":");
            output.write_json(scored, &mut json);
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    let length = json.len();
    let binary = outputs.iter().any(|(_, binary)| *binary);
    json.append(&mut tail);
    (json, binary.then_some(length))
}

/// Appends what is formatted.
fn put(json: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = json.write_fmt(text);
    debug_assert!(written.is_ok(), "a vector grows");
}
