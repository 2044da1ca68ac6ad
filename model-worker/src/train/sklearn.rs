//! A scikit-learn forest, as `model-worker/export_sklearn.py` writes it, becomes an artifact. The rows that it is tried
//! on come along with scikit-learn's own answers, and an import that answers otherwise is refused.

use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

use super::table::{Column, Table};
use super::{TrainError, crates, forest};
use crate::model::argmax;
use crate::model::artifact::{self, ArtifactError, sha256_hex};
use crate::model::card::{Card, Cell, Data, Golden, Kind, Metrics, Range, Tally};
use crate::model::forest::tree::{Node, Rule, Step, Tree};
use crate::model::forest::{Forest, Leaves, Trees};

/// Rows that are kept as golden ones.
const GOLDEN: usize = 12;
/// How far scikit-learn's sums may be from ours.
const TOLERANCE: f64 = 1e-9;

/// The exported file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    format: String,
    scikit_learn: String,
    description: String,
    features: Vec<String>,
    classes: Vec<String>,
    /// Smallest and largest value of each feature in training.
    minimum: Vec<f64>,
    maximum: Vec<f64>,
    training_rows: u32,
    trees: Vec<Arrays>,
    test: Test,
}

/// `tree_` of one estimator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arrays {
    feature: Vec<i64>,
    threshold: Vec<f64>,
    left: Vec<i64>,
    right: Vec<i64>,
    value: Vec<Vec<f64>>,
}

/// Rows that were held out, their classes and the probabilities that scikit-learn gives them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    rows: Vec<Vec<f64>>,
    labels: Vec<usize>,
    probabilities: Vec<Vec<f64>>,
}

fn wrong(what: &str) -> TrainError {
    TrainError::Data(what.to_owned())
}

/// Rows of leaves, each kept once.
#[derive(Default)]
struct Rows {
    values: Vec<f64>,
    known: BTreeMap<Vec<u64>, u32>,
}

impl Rows {
    fn number(&mut self, row: &[f64]) -> Result<u32, TrainError> {
        let sum: f64 = row.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(wrong("a leaf holds no class"));
        }
        // Counts before scikit-learn 1.3, shares since.
        let row: Vec<f64> = row.iter().map(|value| value / sum).collect();
        let next = u32::try_from(self.known.len()).map_err(|_| ArtifactError::TooLarge)?;
        let number = *self.known.entry(row.iter().map(|value| value.to_bits()).collect()).or_insert(next);
        if number == next {
            self.values.extend(row);
        }
        Ok(number)
    }
}

/// The same tree with children side by side and after their parent.
fn convert(tree: &Arrays, classes: usize, rows: &mut Rows) -> Result<Tree, TrainError> {
    let mut nodes = Vec::new();
    let mut queue = VecDeque::from([0_usize]);
    let mut next = 1_u32;
    while let Some(at) = queue.pop_front() {
        if nodes.len() > tree.left.len() {
            return Err(wrong("a tree has a cycle"));
        }
        let child = |list: &[i64]| list.get(at).copied().ok_or_else(|| wrong("a node is missing"));
        let (left, right) = (child(&tree.left)?, child(&tree.right)?);
        let step = if left < 0 {
            let value = tree.value.get(at).filter(|value| value.len() == classes);
            Step::Leaf(rows.number(value.ok_or_else(|| wrong("a leaf does not hold one number for each class"))?)?)
        } else {
            for child in [left, right] {
                queue.push_back(usize::try_from(child).map_err(|_| wrong("a node has one child only"))?);
            }
            let feature = child(&tree.feature)?;
            let threshold = tree.threshold.get(at).copied().ok_or_else(|| wrong("a threshold is missing"))?;
            let left = next;
            next = next.checked_add(2).ok_or(ArtifactError::TooLarge)?;
            Step::Split {
                feature: u16::try_from(feature).map_err(|_| wrong("a feature's number is too large"))?,
                threshold,
                left,
            }
        };
        nodes.push(Node::new(step));
    }
    Ok(Tree(nodes))
}

/// The table that stands for the training data: its smallest and largest values.
fn extremes(export: &Export) -> Table {
    let column = |name: &String| Column { name: name.clone(), unit: String::new(), bounds: None };
    Table {
        columns: export.features.iter().map(column).collect(),
        classes: export.classes.clone(),
        values: export.minimum.iter().chain(&export.maximum).copied().collect(),
        labels: vec![0, 0],
        source: String::new(),
        sha256: String::new(),
    }
}

/// Makes an artifact called `name` of an export.
///
/// # Errors
///
/// When it is not what the script writes, or the forest would not answer as scikit-learn does.
pub fn import(bytes: &[u8], name: &str) -> Result<(Card, Vec<u8>), TrainError> {
    let export: Export = serde_json::from_slice(bytes).map_err(|error| TrainError::Data(error.to_string()))?;
    if export.format != "modelgate-sklearn-forest-1" {
        return Err(wrong("it is not what export_sklearn.py writes"));
    }
    let width = export.features.len();
    if [export.minimum.len(), export.maximum.len()] != [width, width] {
        return Err(wrong("there is not one smallest and one largest value for each feature"));
    }
    let mut rows = Rows::default();
    let trees: Vec<Tree> =
        export.trees.iter().map(|tree| convert(tree, export.classes.len(), &mut rows)).collect::<Result<_, _>>()?;
    let forest = Trees { rule: Rule::AtMostSingle, leaves: Leaves::new(export.classes.len(), rows.values), trees };
    let Test { rows, labels, probabilities } = &export.test;
    if rows.is_empty() || labels.len() != rows.len() || probabilities.len() != rows.len() {
        return Err(wrong("there is not one label and one answer for each test row"));
    }
    let mut tally = Tally::default();
    let mut golden = Vec::new();
    let step = rows.len().div_ceil(GOLDEN);
    for (number, ((row, label), expected)) in rows.iter().zip(labels).zip(probabilities).enumerate() {
        if row.len() != width || expected.len() != export.classes.len() || *label >= export.classes.len() {
            return Err(wrong("a test row does not fit the features and classes"));
        }
        let ours = forest.walk(row);
        if ours.iter().zip(expected).any(|(ours, theirs)| (ours - theirs).abs() > TOLERANCE) {
            return Err(TrainError::Data(format!("test row {number} is not predicted as scikit-learn does")));
        }
        let class = argmax(&ours);
        tally.add(*label, class, &ours);
        if number % step == 0 {
            golden.push(Golden {
                row: row.iter().map(|value| Cell::Number(*value)).collect(),
                class,
                probabilities: ours,
            });
        }
    }
    let table = extremes(&export);
    let mut features: Vec<_> = (0..width).filter_map(|at| forest::feature(&table, at)).collect();
    for (feature, (minimum, maximum)) in features.iter_mut().zip(export.minimum.iter().zip(&export.maximum)) {
        feature.quantiles = None;
        feature.training_range = Some(Range { minimum: *minimum, maximum: *maximum });
    }
    let mut versions = crates(&[]);
    versions.insert("scikit-learn".to_owned(), export.scikit_learn);
    let trees = u32::try_from(forest.trees.len()).unwrap_or(u32::MAX);
    let card = Card {
        kind: Kind::Forest,
        name: name.to_owned(),
        description: export.description,
        features,
        classes: export.classes,
        metrics: Metrics {
            split: "the test rows that were exported with the forest".to_owned(),
            held_out: tally.finish(),
            parts: BTreeMap::new(),
            folds: Vec::new(),
        },
        data: Data {
            source: "a scikit-learn forest; digest over the exported file".to_owned(),
            sha256: sha256_hex(bytes),
            training_rows: export.training_rows,
            class_rows: Vec::new(),
        },
        seed: 0,
        hyper_parameters: [("trees".to_owned(), f64::from(trees))].into(),
        crates: versions,
        golden,
    };
    let encoded = artifact::encode(&card, &forest.encode()?)?;
    // Reports what the format cannot hold now, not at the first start.
    let forest = Forest::decode(card, artifact::decode(&encoded)?.1)?;
    Ok((forest.card().clone(), encoded))
}
