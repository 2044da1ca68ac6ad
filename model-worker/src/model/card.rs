//! The card: everything that a user of a model wants to know, and everything that the worker checks rows against.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use super::evaluation::{Evaluation, Tally};

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
    /// How the values seen in training are spread.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quantiles: Option<Quantiles>,
}

/// Values that this share of the training values does not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    /// 5 of 100.
    pub p05: f64,
    /// 25 of 100.
    pub p25: f64,
    /// Half.
    pub p50: f64,
    /// 75 of 100.
    pub p75: f64,
    /// 95 of 100.
    pub p95: f64,
}

impl Quantiles {
    /// Those of `sorted`, by the nearest rank.
    #[must_use]
    pub fn of(sorted: &[f64]) -> Option<Self> {
        let at = |percent: usize| sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied();
        Some(Self { p05: at(5)?, p25: at(25)?, p50: at(50)?, p75: at(75)?, p95: at(95)? })
    }

    fn are_in_order(self) -> bool {
        let all = [self.p05, self.p25, self.p50, self.p75, self.p95];
        all.iter().all(|number| number.is_finite()) && all.is_sorted()
    }
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
    /// How many of them are of each class, where each row has one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub class_rows: Vec<u32>,
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
    /// Accuracy on each part of a cross-validation, where the rows were held out part by part.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub folds: Vec<f64>,
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

/// Whether `name` is that of a model: it becomes part of paths.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether `name` may be that of a feature or class: anything that can be shown.
fn is_label(name: &str) -> bool {
    (1..=128).contains(&name.len()) && !name.chars().any(char::is_control) && name.trim() == name
}
/// Most golden rows: they are tried at each load.
const MOST_GOLDEN: usize = 256;

fn unique<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = BTreeSet::new();
    names.all(|name| is_label(name) && seen.insert(name))
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
            if feature.quantiles.is_some_and(|quantiles| !quantiles.are_in_order()) {
                return Err("a feature's quantiles are not finite numbers in order");
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
        if self.golden.len() > MOST_GOLDEN {
            return Err("there are too many golden rows");
        }
        if self.golden.is_empty() {
            return Err("there is no golden row to try the model with");
        }
        Ok(())
    }
}
