//! The forest engine: every tree of a class votes for it or not; a class's probability is its share of the votes.
//!
//! Payload: number of trees (u32), then for each tree its class (u16), its number of nodes (u16) and the nodes of 16
//! bytes: feature (u16, `0xFFFF` for a leaf), left child or a leaf's vote (u16), right child (u16), zero (u16),
//! threshold (f64). A value below the threshold goes left. Children come after their parents, so a walk always ends.

use super::artifact::{ArtifactError, Reader};
use super::card::{Card, FeatureType};
use super::{Model, Prediction, Value, argmax};

const LEAF: u16 = u16::MAX;
const MAX_TREES: u32 = 65_536;

/// One node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// Asks one feature.
    Split {
        /// Number of the feature.
        feature: u16,
        /// Smaller values go left.
        threshold: f64,
        /// Where smaller values go, within the tree.
        left: u16,
        /// Where the others go, within the tree.
        right: u16,
    },
    /// Ends the walk.
    Leaf {
        /// Whether the tree votes for its class.
        vote: bool,
    },
}

/// One tree: a vote for or against one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// The class.
    pub class: u16,
    /// The nodes; the first is the root.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// Whether the tree votes for its class.
    #[must_use]
    pub fn votes(&self, row: &[f64]) -> bool {
        let mut at = 0_u16;
        loop {
            match self.nodes.get(usize::from(at)) {
                Some(Node::Split { feature, threshold, left, right }) => {
                    let value = row.get(usize::from(*feature)).copied().unwrap_or(f64::NAN);
                    at = if value < *threshold { *left } else { *right };
                }
                Some(Node::Leaf { vote }) => return *vote,
                None => return false,
            }
        }
    }

    fn check(&self, features: usize, classes: usize) -> Result<(), &'static str> {
        if usize::from(self.class) >= classes {
            return Err("a tree votes for a class that the card does not name");
        }
        if self.nodes.is_empty() {
            return Err("a tree has no nodes");
        }
        for (index, node) in self.nodes.iter().enumerate() {
            if let Node::Split { feature, threshold, left, right } = *node {
                if usize::from(feature) >= features {
                    return Err("a node asks a feature that the card does not name");
                }
                if !threshold.is_finite() {
                    return Err("a threshold is not a finite number");
                }
                if [left, right].map(usize::from).iter().any(|child| *child <= index || *child >= self.nodes.len()) {
                    return Err("a node's child does not come after it within its tree");
                }
            }
        }
        Ok(())
    }
}

/// A forest and its card.
#[derive(Debug)]
pub struct Forest {
    card: Card,
    trees: Vec<Tree>,
}

impl Forest {
    /// A forest, after checking that card and trees fit each other.
    ///
    /// # Errors
    ///
    /// The first rule that they break.
    pub fn new(card: Card, trees: Vec<Tree>) -> Result<Self, ArtifactError> {
        if card.features.iter().any(|feature| feature.kind != FeatureType::Number) {
            return Err(ArtifactError::Payload("a forest takes numbers only"));
        }
        if trees.is_empty() {
            return Err(ArtifactError::Payload("there are no trees"));
        }
        for tree in &trees {
            tree.check(card.features.len(), card.classes.len()).map_err(ArtifactError::Payload)?;
        }
        Ok(Self { card, trees })
    }

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn decode(card: Card, payload: &[u8]) -> Result<Self, ArtifactError> {
        let mut reader = Reader(payload);
        let count = reader.u32().ok_or(ArtifactError::Truncated)?;
        if count > MAX_TREES {
            return Err(ArtifactError::Payload("there are too many trees"));
        }
        let mut trees = Vec::new();
        for _ in 0..count {
            trees.push(decode_tree(&mut reader)?);
        }
        if !reader.0.is_empty() {
            return Err(ArtifactError::Payload("there is something after the last tree"));
        }
        Self::new(card, trees)
    }

    /// The trees.
    #[must_use]
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }
}

fn decode_tree(reader: &mut Reader<'_>) -> Result<Tree, ArtifactError> {
    let short = ArtifactError::Truncated;
    let class = reader.u16().ok_or(short.clone())?;
    let count = reader.u16().ok_or(short.clone())?;
    let mut nodes = Vec::new();
    for _ in 0..count {
        let mut next = || reader.u16();
        let (Some(feature), Some(left), Some(right), Some(zero)) = (next(), next(), next(), next()) else {
            return Err(short);
        };
        let threshold = reader.f64().ok_or(short.clone())?;
        nodes.push(match (feature, left) {
            _ if zero != 0 => {
                return Err(ArtifactError::Payload("a node's reserved bytes are not zero"));
            }
            (LEAF, 0 | 1) => Node::Leaf { vote: left == 1 },
            (LEAF, _) => {
                return Err(ArtifactError::Payload("a leaf's vote is neither yes nor no"));
            }
            _ => Node::Split { feature, threshold, left, right },
        });
    }
    Ok(Tree { class, nodes })
}

/// The payload that holds `trees`.
///
/// # Errors
///
/// When there are more trees or nodes than the format can count.
pub fn encode(trees: &[Tree]) -> Result<Vec<u8>, ArtifactError> {
    let count = u32::try_from(trees.len()).map_err(|_| ArtifactError::TooLarge)?;
    let mut payload = count.to_le_bytes().to_vec();
    for tree in trees {
        let count = u16::try_from(tree.nodes.len()).map_err(|_| ArtifactError::TooLarge)?;
        payload.extend_from_slice(&tree.class.to_le_bytes());
        payload.extend_from_slice(&count.to_le_bytes());
        for node in &tree.nodes {
            let (numbers, threshold) = match *node {
                Node::Split { feature, threshold, left, right } => ([feature, left, right, 0], threshold),
                Node::Leaf { vote } => ([LEAF, u16::from(vote), 0, 0], 0.0),
            };
            for number in numbers {
                payload.extend_from_slice(&number.to_le_bytes());
            }
            payload.extend_from_slice(&threshold.to_le_bytes());
        }
    }
    Ok(payload)
}

/// Each class's share of the votes of `trees`; equal shares when no tree votes for its class.
#[must_use]
pub fn shares(trees: &[Tree], classes: usize, row: &[f64]) -> Vec<f64> {
    let mut votes = vec![0_u32; classes];
    for tree in trees {
        if let Some(count) = votes.get_mut(usize::from(tree.class)) {
            *count += u32::from(tree.votes(row));
        }
    }
    if votes.iter().all(|count| *count == 0) {
        votes.fill(1);
    }
    let total = f64::from(votes.iter().sum::<u32>());
    votes.into_iter().map(|count| f64::from(count) / total).collect()
}

impl Model for Forest {
    fn card(&self) -> &Card {
        &self.card
    }

    fn predict(&self, row: &[Value<'_>]) -> Prediction {
        let numbers: Vec<f64> =
            row.iter().map(|value| if let Value::Number(number) = value { *number } else { f64::NAN }).collect();
        let probabilities = shares(&self.trees, self.card.classes.len(), &numbers);
        Prediction { class: argmax(&probabilities), probabilities, score: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(left: u16, right: u16) -> Node {
        Node::Split { feature: 0, threshold: 1.5, left, right }
    }

    const YES: Node = Node::Leaf { vote: true };
    const NO: Node = Node::Leaf { vote: false };

    #[test]
    fn a_value_on_the_threshold_goes_right() {
        let tree = Tree { class: 0, nodes: vec![split(1, 2), YES, NO] };
        assert!(tree.votes(&[1.499_999]));
        assert!(!tree.votes(&[1.5]));
        assert!(!tree.votes(&[f64::NAN]));
        assert!(!tree.votes(&[]));
    }

    #[test]
    fn hostile_trees_are_refused() {
        let infinite = Node::Split { feature: 0, threshold: f64::INFINITY, left: 1, right: 2 };
        let foreign = Node::Split { feature: 1, threshold: 0.0, left: 1, right: 2 };
        for (name, class, nodes) in [
            ("empty", 0, vec![]),
            ("cycle to itself", 0, vec![split(0, 1), YES]),
            ("cycle back", 0, vec![split(1, 2), split(0, 2), YES]),
            ("child outside", 0, vec![split(1, 3), YES, NO]),
            ("infinite threshold", 0, vec![infinite, YES, NO]),
            ("unknown feature", 0, vec![foreign, YES, NO]),
            ("unknown class", 2, vec![YES]),
        ] {
            assert!(Tree { class, nodes }.check(1, 2).is_err(), "{name}");
        }
        assert_eq!(Tree { class: 1, nodes: vec![split(1, 2), YES, NO] }.check(1, 2), Ok(()));
    }

    #[test]
    fn trees_survive_writing_and_reading() {
        let trees = vec![Tree { class: 0, nodes: vec![split(1, 2), YES, NO] }, Tree { class: 1, nodes: vec![NO] }];
        let payload = encode(&trees).expect("small");
        let mut reader = Reader(&payload);
        assert_eq!(reader.u32(), Some(2));
        assert_eq!(decode_tree(&mut reader).as_ref(), Ok(&trees[0]));
        assert_eq!(decode_tree(&mut reader).as_ref(), Ok(&trees[1]));
        assert!(reader.0.is_empty());
    }

    #[test]
    fn no_votes_at_all_leaves_every_class_equal() {
        let trees = vec![Tree { class: 0, nodes: vec![NO] }, Tree { class: 1, nodes: vec![NO] }];
        assert_eq!(shares(&trees, 2, &[0.0]), vec![0.5, 0.5]);
    }
}
