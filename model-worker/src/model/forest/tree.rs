//! One tree: nodes in a row, children side by side and after their parent, so that a walk always ends.

/// In place of a feature's number: the node is a leaf.
const LEAF: u16 = u16::MAX;

/// Which way a value on the threshold itself goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Values below the threshold go left: linfa-trees.
    Below,
    /// Values are rounded to `f32`; those below or on the threshold go left: scikit-learn.
    AtMostSingle,
}

impl Rule {
    /// The value as it is compared.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "scikit-learn rounds to f32, so its trees must be asked so")]
    pub fn rounded(self, value: f64) -> f64 {
        match self {
            Self::Below => value,
            Self::AtMostSingle => f64::from(value as f32),
        }
    }

    /// Whether a rounded value goes left.
    #[must_use]
    pub fn goes_left(self, value: f64, threshold: f64) -> bool {
        match self {
            Self::Below => value < threshold,
            Self::AtMostSingle => value <= threshold,
        }
    }
}

/// One node: a question, or the number of a row of [`super::Leaves`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    threshold: f64,
    child: u32,
    feature: u16,
}

/// A node, taken apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Asks one feature; the right child is the one after `left`.
    Split {
        /// Number of the feature.
        feature: u16,
        /// See [`Rule`].
        threshold: f64,
        /// Number of the left child within the tree.
        left: u32,
    },
    /// Ends the walk: a row of the forest's leaves.
    Leaf(u32),
}

impl Node {
    /// The node that does `step`.
    #[must_use]
    pub fn new(step: Step) -> Self {
        match step {
            Step::Split { feature, threshold, left } => Self { threshold, child: left, feature },
            Step::Leaf(row) => Self { threshold: 0.0, child: row, feature: LEAF },
        }
    }

    /// What the node does.
    #[must_use]
    pub fn step(self) -> Step {
        let Self { threshold, child, feature } = self;
        if feature == LEAF { Step::Leaf(child) } else { Step::Split { feature, threshold, left: child } }
    }
}

/// A tree's leaves from left to right: each one's row of leaves, and the splits on the way to it, with whether the way
/// went left there.
pub type Ways = Vec<(u32, Vec<(Step, bool)>)>;

/// The nodes of one tree; the first is the root.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tree(pub Vec<Node>);

/// As an index; a number that does not fit points nowhere.
#[must_use]
pub fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Tree {
    /// The row of leaves at which `row`, already rounded, ends.
    #[must_use]
    pub fn walk(&self, row: &[f64], rule: Rule) -> u32 {
        let mut at = 0_u32;
        loop {
            match self.0.get(index(at)).map(|node| node.step()) {
                Some(Step::Split { feature, threshold, left }) => {
                    let value = row.get(usize::from(feature)).copied().unwrap_or(f64::NAN);
                    at = left + u32::from(!rule.goes_left(value, threshold));
                }
                Some(Step::Leaf(row)) => return row,
                None => return u32::MAX,
            }
        }
    }

    /// Whether every step leads somewhere.
    ///
    /// # Errors
    ///
    /// The first that does not.
    pub fn check(&self, features: usize, leaves: usize) -> Result<(), &'static str> {
        if self.0.is_empty() {
            return Err("a tree has no nodes");
        }
        for (at, node) in self.0.iter().enumerate() {
            match node.step() {
                Step::Leaf(row) if index(row) >= leaves => return Err("a leaf has no values"),
                Step::Split { feature, .. } if usize::from(feature) >= features => {
                    return Err("a node asks a feature that the card does not name");
                }
                Step::Split { threshold, .. } if !threshold.is_finite() => {
                    return Err("a threshold is not a finite number");
                }
                Step::Split { left, .. } if index(left) <= at || index(left).saturating_add(1) >= self.0.len() => {
                    return Err("a node's child does not come after it within its tree");
                }
                Step::Leaf(_) | Step::Split { .. } => {}
            }
        }
        Ok(())
    }

    /// Leaves from left to right, and with each the splits on the way. Returns `None` when there are more than `most`: children may be shared by a hostile file, and the number of
    /// ways then has no bound.
    #[must_use]
    pub fn ways(&self, most: usize) -> Option<Ways> {
        let mut found = Vec::new();
        let mut open = vec![(0_u32, Vec::new())];
        while let Some((at, way)) = open.pop() {
            if way.len() > 256 {
                return None;
            }
            match self.0.get(index(at))?.step() {
                Step::Leaf(row) => {
                    found.push((row, way));
                    if found.len() > most {
                        return None;
                    }
                }
                split @ Step::Split { left, .. } => {
                    let with = |went_left| way.iter().copied().chain([(split, went_left)]).collect();
                    open.push((left + 1, with(false)));
                    open.push((left, with(true)));
                }
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(left: u32) -> Node {
        Node::new(Step::Split { feature: 0, threshold: 1.5, left })
    }

    fn leaf(row: u32) -> Node {
        Node::new(Step::Leaf(row))
    }

    #[test]
    fn a_value_on_the_threshold_goes_as_its_library_says() {
        let tree = Tree(vec![split(1), leaf(0), leaf(1)]);
        assert_eq!([1.499_999, 1.5, f64::NAN].map(|value| tree.walk(&[value], Rule::Below)), [0, 1, 1]);
        assert_eq!([1.5, 1.500_001].map(|value| tree.walk(&[value], Rule::AtMostSingle)), [0, 1]);
        assert_eq!(tree.walk(&[], Rule::Below), 1);
        assert!(Rule::AtMostSingle.rounded(0.1) > 0.1);
    }

    #[test]
    fn hostile_trees_are_refused() {
        let infinite = Node::new(Step::Split { feature: 0, threshold: f64::INFINITY, left: 1 });
        let foreign = Node::new(Step::Split { feature: 1, threshold: 0.0, left: 1 });
        for (name, nodes) in [
            ("empty", vec![]),
            ("cycle to itself", vec![split(0), leaf(0)]),
            ("cycle back", vec![split(1), split(0), leaf(0)]),
            ("child outside", vec![split(2), leaf(0), leaf(0)]),
            ("far outside", vec![split(u32::MAX), leaf(0), leaf(0)]),
            ("infinite threshold", vec![infinite, leaf(0), leaf(0)]),
            ("unknown feature", vec![foreign, leaf(0), leaf(0)]),
            ("unknown leaf", vec![leaf(2)]),
        ] {
            assert!(Tree(nodes).check(1, 2).is_err(), "{name}");
        }
        assert_eq!(Tree(vec![split(1), leaf(0), leaf(1)]).check(1, 2), Ok(()));
    }

    #[test]
    fn shared_children_do_not_multiply() {
        // Each node's children are the two after it, so the number of ways doubles at nearly each step.
        let mut nodes: Vec<Node> = (0..60).map(|at| split(at + 1)).collect();
        nodes.extend([leaf(0), leaf(0)]);
        let tree = Tree(nodes);
        assert_eq!(tree.check(1, 1), Ok(()));
        assert_eq!(tree.ways(64), None);
    }
}
