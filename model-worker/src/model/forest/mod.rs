//! The forest: each tree leads a row to a leaf, a leaf holds one number for each class, and a class's probability is
//! its share of the sum over all trees. Trees of votes have leaves of 0 and 1; scikit-learn's hold probabilities.
//!
//! Payload: the rule (u16: 0 `<`, 1 `<=` after rounding to `f32`), the number of leaf rows (u32), the rows (f64, one
//! for each class), the number of trees (u32), then for each tree its number of nodes (u32) and the nodes of 16 bytes:
//! feature (u16, `0xFFFF` for a leaf), zero (u16), left child or leaf row (u32), threshold (f64). The right child comes
//! after the left one, both after their parent.

pub mod engine;
mod grid;
mod masks;
pub mod tree;

use super::artifact::{ArtifactError, Reader};
use super::card::{Card, FeatureType};
use engine::{Engine, Scratch};
use tree::{Node, Rule, Step, Tree, index};

const MOST_TREES: u32 = 65_536;
const LEAF: u16 = u16::MAX;

/// What the leaves hold: rows of one number for each class.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaves {
    width: usize,
    values: Vec<f64>,
}

impl Leaves {
    /// Rows of `width` numbers.
    #[must_use]
    pub fn new(width: usize, values: Vec<f64>) -> Self {
        Self { width: width.max(1), values }
    }

    /// One row of a single vote for each class, in their order, and one without any vote.
    #[must_use]
    pub fn votes(classes: usize) -> Self {
        let row = |class: usize| (0..classes).map(move |other| if other == class { 1.0 } else { 0.0 });
        Self::new(classes, (0..=classes).flat_map(row).collect())
    }

    /// Numbers in a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether every number is a whole vote or none.
    #[must_use]
    pub fn are_votes(&self) -> bool {
        self.values.iter().all(|value| matches!(value.to_bits(), 0 | 0x3ff0_0000_0000_0000))
    }

    /// One row; empty when there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f64] {
        let begin = row.saturating_mul(self.width);
        self.values.get(begin..begin.saturating_add(self.width)).unwrap_or_default()
    }

    /// Adds one row.
    pub fn add(&self, row: usize, sums: &mut [f64]) {
        for (sum, value) in sums.iter_mut().zip(self.row(row)) {
            *sum += value;
        }
    }
}

/// Trees, and what they lead to.
#[derive(Debug, Clone, PartialEq)]
pub struct Trees {
    /// How values are compared.
    pub rule: Rule,
    /// What the leaves hold.
    pub leaves: Leaves,
    /// The trees.
    pub trees: Vec<Tree>,
}

/// Turns sums over all trees into shares; equal ones when no tree has voted.
fn share(sums: &mut [f64]) {
    let total: f64 = sums.iter().sum();
    if total > 0.0 {
        for sum in sums {
            *sum /= total;
        }
    } else {
        let equal = 1.0 / f64::from(u32::try_from(sums.len()).unwrap_or(u32::MAX));
        sums.fill(equal);
    }
}

impl Trees {
    /// The probabilities of one row, tree by tree: what every faster form must agree with.
    #[must_use]
    pub fn walk(&self, row: &[f64]) -> Vec<f64> {
        let row: Vec<f64> = row.iter().map(|value| self.rule.rounded(*value)).collect();
        let mut sums = vec![0.0; self.leaves.width];
        for tree in &self.trees {
            self.leaves.add(index(tree.walk(&row, self.rule)), &mut sums);
        }
        share(&mut sums);
        sums
    }

    /// The payload that holds them.
    ///
    /// # Errors
    ///
    /// When there are more than the format can count.
    pub fn encode(&self) -> Result<Vec<u8>, ArtifactError> {
        let count = |count: usize| u32::try_from(count).map(u32::to_le_bytes).map_err(|_| ArtifactError::TooLarge);
        let rule: u16 = match self.rule {
            Rule::Below => 0,
            Rule::AtMostSingle => 1,
        };
        let mut payload = rule.to_le_bytes().to_vec();
        payload.extend(count(self.leaves.rows())?);
        payload.extend(self.leaves.values.iter().flat_map(|value| value.to_le_bytes()));
        payload.extend(count(self.trees.len())?);
        for tree in &self.trees {
            payload.extend(count(tree.0.len())?);
            for node in &tree.0 {
                let (feature, child, threshold) = match node.step() {
                    Step::Split { feature, threshold, left } => (feature, left, threshold),
                    Step::Leaf(row) => (LEAF, row, 0.0),
                };
                payload.extend(feature.to_le_bytes());
                payload.extend([0, 0]);
                payload.extend(child.to_le_bytes());
                payload.extend(threshold.to_le_bytes());
            }
        }
        Ok(payload)
    }

    fn decode(payload: &[u8], width: usize) -> Result<Self, ArtifactError> {
        let mut reader = Reader(payload);
        let rule = match reader.u16().ok_or(ArtifactError::Truncated)? {
            0 => Rule::Below,
            1 => Rule::AtMostSingle,
            _ => return Err(ArtifactError::Payload("its rule of comparison is not one that this worker knows")),
        };
        let rows = reader.u32().ok_or(ArtifactError::Truncated)?;
        let bytes = index(rows).checked_mul(width * 8).and_then(|bytes| reader.take(bytes));
        let mut numbers = Reader(bytes.ok_or(ArtifactError::Truncated)?);
        let values: Vec<f64> = std::iter::from_fn(|| numbers.f64()).collect();
        let count = reader.u32().ok_or(ArtifactError::Truncated)?;
        if count > MOST_TREES {
            return Err(ArtifactError::Payload("there are too many trees"));
        }
        let mut trees = Vec::new();
        for _ in 0..count {
            trees.push(decode_tree(&mut reader)?);
        }
        if !reader.0.is_empty() {
            return Err(ArtifactError::Payload("there is something after the last tree"));
        }
        Ok(Self { rule, leaves: Leaves::new(width, values), trees })
    }

    fn check(&self, card: &Card) -> Result<(), &'static str> {
        if card.features.iter().any(|feature| feature.kind != FeatureType::Number) {
            return Err("a forest takes numbers only");
        }
        if self.trees.is_empty() {
            return Err("there are no trees");
        }
        if self.leaves.width != card.classes.len() || self.leaves.rows() == 0 {
            return Err("a leaf does not hold one number for each class");
        }
        if !self.leaves.values.iter().all(|value| (0.0..=1.0).contains(value)) {
            return Err("a leaf holds a number that is no probability");
        }
        self.trees.iter().try_for_each(|tree| tree.check(card.features.len(), self.leaves.rows()))
    }
}

fn decode_tree(reader: &mut Reader<'_>) -> Result<Tree, ArtifactError> {
    let count = reader.u32().ok_or(ArtifactError::Truncated)?;
    let bytes = index(count).checked_mul(16).and_then(|bytes| reader.take(bytes)).ok_or(ArtifactError::Truncated)?;
    let mut reader = Reader(bytes);
    let mut nodes = Vec::with_capacity(index(count));
    while let (Some(feature), Some(zero), Some(child), Some(threshold)) =
        (reader.u16(), reader.u16(), reader.u32(), reader.f64())
    {
        let leaf = feature == LEAF;
        if zero != 0 || (leaf && threshold.to_bits() != 0) {
            return Err(ArtifactError::Payload("a node's reserved bytes are not zero"));
        }
        nodes.push(Node::new(if leaf { Step::Leaf(child) } else { Step::Split { feature, threshold, left: child } }));
    }
    Ok(Tree(nodes))
}

/// A forest and its card.
#[derive(Debug)]
pub struct Forest {
    card: Card,
    leaves: Leaves,
    engine: Engine,
}

impl Forest {
    /// A forest, after checking that card and trees fit each other.
    ///
    /// # Errors
    ///
    /// The first rule that they break.
    pub fn new(card: Card, trees: Trees) -> Result<Self, ArtifactError> {
        trees.check(&card).map_err(ArtifactError::Payload)?;
        let engine = Engine::compile(&trees.trees, &trees.leaves, card.features.len(), trees.rule);
        Ok(Self { card, leaves: trees.leaves, engine })
    }

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn decode(card: Card, payload: &[u8]) -> Result<Self, ArtifactError> {
        let trees = Trees::decode(payload, card.classes.len())?;
        Self::new(card, trees)
    }

    /// What it takes and gives.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// How its trees are kept.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Appends the probabilities of one row.
    pub fn predict(&self, row: &[f64], scratch: &mut Scratch, probabilities: &mut Vec<f64>) {
        let begin = probabilities.len();
        probabilities.resize(begin + self.leaves.width, 0.0);
        if let Some(sums) = probabilities.get_mut(begin..) {
            self.engine.add(row, &self.leaves, scratch, sums);
            share(sums);
        }
    }
}

#[cfg(test)]
mod tests;
