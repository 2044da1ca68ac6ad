//! The card: everything that a user of a model wants to know, and everything that the worker checks rows against.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Value;

/// The header of an artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Which engine reads the payload.
    pub kind: Kind,
    /// What the model was called when it was trained; it answers to its directory's name.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// What each row must hold, in the order of the payload's feature numbers.
    pub features: Vec<Feature>,
    /// Names of the classes, in the order of the class numbers.
    pub classes: Vec<String>,
    /// How good it is, on rows that it was not trained on.
    pub metrics: Metrics,
    /// What it was trained on.
    pub data: Data,
    /// Seed of every random choice.
    pub seed: u64,
    /// What was chosen before training.
    pub hyper_parameters: BTreeMap<String, f64>,
    /// Versions of the crates that shaped the numbers.
    pub crates: BTreeMap<String, String>,
    /// Rows with the answers given at training time, tried again at each load.
    pub golden: Vec<Golden>,
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Votes of decision trees over numbers.
    Forest,
    /// Ordinal logistic regression over words.
    Sentiment,
}

/// The type of a feature's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureType {
    /// A JSON number.
    Number,
    /// A JSON string.
    Text,
}

/// One member of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// The member's name.
    pub name: String,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: FeatureType,
    /// Unit of numbers; of a text, what its length is counted in.
    pub unit: String,
    /// Values outside are refused: `above` < value <= `at_most`. For a text, its length.
    pub bounds: Bounds,
    /// Smallest and largest value seen in training; values outside are predicted, and the answer says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub training_range: Option<Range>,
}

/// `above` < value <= `at_most`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Values must be larger.
    pub above: f64,
    /// Values must not be larger.
    pub at_most: f64,
}

/// `minimum` <= value <= `maximum`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest.
    pub minimum: f64,
    /// Largest.
    pub maximum: f64,
}

/// What a model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Where it comes from, its licence, and whom to cite.
    pub source: String,
    /// SHA-256 over the data in the form that the trainer states, in lower-case hexadecimal.
    pub sha256: String,
    /// Rows the model was fitted on.
    pub training_rows: u32,
}

/// Measurements on held-out rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// How the held-out rows were chosen.
    pub split: String,
    /// Over all held-out rows.
    pub held_out: Evaluation,
    /// The same, part by part, where the data has parts of different nature.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub parts: BTreeMap<String, Evaluation>,
    /// Accuracy of the same recipe in cross-validation over all rows: steadier than one small held-out part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cross_validated_accuracy: Option<f64>,
}

/// How predictions compare with the truth.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Rows compared.
    pub rows: u32,
    /// Share of rows whose class was predicted.
    pub accuracy: f64,
    /// `confusion[truth][prediction]` counts rows.
    pub confusion: Vec<Vec<u32>>,
    /// Mean of -ln(probability given to the true class), no probability taken below 0.001.
    pub log_loss: f64,
    /// Where the truth is a position on a scale: share of rows with a sign whose score has the same sign.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sign_accuracy: Option<f64>,
}

/// A row and its answer at training time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Values in the order of the features.
    pub row: Vec<Cell>,
    /// Predicted class.
    pub class: usize,
    /// Predicted probabilities.
    pub probabilities: Vec<f64>,
}

/// A stored value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Cell {
    /// The same, borrowed, as a model takes it.
    #[must_use]
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
        }
    }
}

/// Adds up an [`Evaluation`] row by row.
#[derive(Debug, Default)]
pub struct Tally {
    confusion: Vec<Vec<u32>>,
    loss: f64,
    signed: u32,
    same_sign: u32,
}

impl Tally {
    /// Counts one row.
    pub fn add(&mut self, truth: usize, prediction: usize, probabilities: &[f64]) {
        let classes = probabilities.len();
        self.confusion.resize_with(classes, || vec![0; classes]);
        if let Some(cell) = self.confusion.get_mut(truth).and_then(|row| row.get_mut(prediction)) {
            *cell += 1;
        }
        self.loss -= probabilities.get(truth).copied().unwrap_or(0.0).max(0.001).ln();
    }

    /// Counts the signs of one row, unless its truth has none.
    pub fn add_sign(&mut self, truth: f64, score: f64) {
        if truth.abs() > 0.0 {
            self.signed += 1;
            self.same_sign += u32::from((truth > 0.0) == (score > 0.0));
        }
    }

    /// The result.
    #[must_use]
    pub fn finish(self) -> Evaluation {
        let rows: u32 = self.confusion.iter().flatten().sum();
        let hits: u32 = self.confusion.iter().enumerate().filter_map(|(class, row)| row.get(class)).sum();
        let share = |part: u32, whole: u32| f64::from(part) / f64::from(whole.max(1));
        Evaluation {
            rows,
            accuracy: share(hits, rows),
            confusion: self.confusion,
            log_loss: self.loss / f64::from(rows.max(1)),
            sign_accuracy: (self.signed > 0).then(|| share(self.same_sign, self.signed)),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn unique<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    names.all(|name| is_name(name) && seen.insert(name))
}

impl Card {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        if !is_name(&self.name) {
            return Err("the name is not 1 to 64 letters, digits, `_`, `-` or `.`");
        }
        if !(1..=1024).contains(&self.features.len()) || !unique(self.features.iter().map(|f| f.name.as_str())) {
            return Err("the features are not 1 to 1024 different names");
        }
        if !(2..=256).contains(&self.classes.len()) || !unique(self.classes.iter().map(String::as_str)) {
            return Err("the classes are not 2 to 256 different names");
        }
        for feature in &self.features {
            let bounds = feature.bounds;
            if !(bounds.above.is_finite() && bounds.at_most.is_finite() && bounds.above < bounds.at_most) {
                return Err("a feature's bounds are not a finite, non-empty range");
            }
            if feature.training_range.is_some_and(|range| {
                !(range.minimum.is_finite() && range.maximum.is_finite() && range.minimum <= range.maximum)
            }) {
                return Err("a feature's training range is not a finite range");
            }
        }
        for golden in &self.golden {
            let fits = golden.row.len() == self.features.len()
                && golden.row.iter().zip(&self.features).all(|(cell, feature)| {
                    matches!(
                        (cell, feature.kind),
                        (Cell::Number(_), FeatureType::Number) | (Cell::Text(_), FeatureType::Text)
                    )
                });
            if !fits || golden.class >= self.classes.len() || golden.probabilities.len() != self.classes.len() {
                return Err("a golden row does not fit the features and classes");
            }
        }
        if self.golden.is_empty() {
            return Err("there is no golden row to try the model with");
        }
        Ok(())
    }
}
