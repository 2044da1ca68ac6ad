//! A forest on a table, grown with `linfa-trees`.
//!
//! The bagging is our own, and `linfa-ensemble` is not used, because a forest must be the same in every process:
//! linfa counts classes in randomly seeded hash maps, so with three classes the order of its `f32` sums, and with it
//! the split that wins a tie, changes from run to run, and so do the votes of its ensemble. Two classes escape that:
//! a + b = b + a. So each member of our forest is one bootstrap sample and a part of the features, given to one linfa
//! tree for each class ("this class or another"; of two classes to a single tree). A sample has at most 4096 rows and
//! the class's own weigh 1 + 2^-12: sums stay exact in `f32`, and no leaf can be a tie. A class's probability is its
//! share of all votes.

use std::collections::{BTreeMap, VecDeque};
use std::thread;

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_trees::{DecisionTree, TreeNode};
use ndarray::{Array1, Array2};

use super::random::Random;
use super::table::Table;
use super::{LINFA, Progress, TrainError, crates};
use crate::model::argmax;
use crate::model::artifact::{self, ArtifactError};
use crate::model::card::{
    Bounds, Card, Cell, Data, Feature, FeatureType, Golden, Kind, Metrics, Quantiles, Range, Tally,
};
use crate::model::forest::tree::{Node, Rule, Step, Tree};
use crate::model::forest::{Leaves, Trees};

/// Members of a forest unless another number is given.
pub const TREES: u32 = 100;
/// Parts of a cross-validation unless another number is given.
pub const FOLDS: u32 = 5;

/// Rows of one bootstrap sample: what keeps sums exact, see above, and bounds the time that one tree takes.
const MOST_SAMPLED: usize = 4096;
const TIE_BREAK: f32 = 1.0 + 1.0 / 4096.0;
const GOLDEN: usize = 12;

/// What is chosen before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Members of the forest.
    pub members: u32,
    /// Features that a member sees; where no number is given, three of four of up to five, and two of five of many.
    pub features: Option<u32>,
    /// Parts of the cross-validation.
    pub folds: u32,
    /// Decides every random choice.
    pub seed: u64,
}

impl Recipe {
    fn features_of(self, table: &Table) -> usize {
        let all = table.columns.len();
        let wanted = self.features.and_then(|features| usize::try_from(features).ok());
        // linfa chooses among a tree's features at every split, so that trees of wide tables differ only by seeing few.
        let few = (all * 3).div_ceil(4).min(4);
        wanted.unwrap_or((all * 2).div_ceil(5).max(few)).clamp(1, all.max(1))
    }
}

/// Deals the rows into `parts` of near equal size, each class spread evenly.
fn deal(table: &Table, parts: usize, random: &mut Random) -> Vec<Vec<usize>> {
    let mut hands = vec![Vec::new(); parts];
    let mut dealt = 0;
    for class in 0..table.classes.len() {
        let mut members: Vec<usize> =
            table.labels.iter().enumerate().filter(|(_, label)| **label == class).map(|(row, _)| row).collect();
        random.shuffle(&mut members);
        for row in members {
            if let Some(hand) = hands.get_mut(dealt % parts) {
                hand.push(row);
            }
            dealt += 1;
        }
    }
    hands
}

/// The flat form of a linfa tree that was fitted on the columns `features`; `yes` and `no` are rows of leaves.
fn flatten(tree: &DecisionTree<f64, bool>, features: &[u16], yes: u32, no: u32) -> Result<Tree, TrainError> {
    let data = |text: &str| TrainError::Data(text.to_owned());
    let mut nodes = Vec::new();
    let mut queue = VecDeque::from([tree.root_node()]);
    let mut next_child = 1_u32;
    while let Some(node) = queue.pop_front() {
        let step = if let Some([left, right]) = children(node) {
            let (column, threshold, _) = node.split();
            let feature = *features.get(column).ok_or_else(|| data("a tree asks an unknown column"))?;
            queue.extend([left, right]);
            let left = next_child;
            next_child = left.checked_add(2).ok_or(ArtifactError::TooLarge)?;
            Step::Split { feature, threshold, left }
        } else {
            let vote = node.prediction().ok_or_else(|| data("a leaf has no prediction"))?;
            Step::Leaf(if vote { yes } else { no })
        };
        nodes.push(Node::new(step));
    }
    Ok(Tree(nodes))
}

fn children(node: &TreeNode<f64, bool>) -> Option<[&TreeNode<f64, bool>; 2]> {
    if node.is_leaf() {
        return None;
    }
    match node.children().as_slice() {
        [Some(left), Some(right)] => Some([left, right]),
        _ => None,
    }
}

/// One tree, still as linfa made it.
struct Grown {
    tree: DecisionTree<f64, bool>,
    features: Vec<u16>,
    class: u32,
}

/// One member: a tree for each class, or a single one for two.
fn grow(table: &Table, rows: &[usize], member: u32, recipe: Recipe) -> Result<Vec<Grown>, TrainError> {
    let mut random = Random::new(recipe.seed, u64::from(member));
    let count = rows.len().min(MOST_SAMPLED);
    let sample: Vec<usize> = (0..count).filter_map(|_| rows.get(random.below(rows.len())).copied()).collect();
    let mut features: Vec<u16> = (0..).take(table.columns.len()).collect();
    random.shuffle(&mut features);
    features.truncate(recipe.features_of(table));
    features.sort_unstable();
    let value = |(row, column): (usize, usize)| {
        let feature = features.get(column).map_or(0, |feature| usize::from(*feature));
        sample.get(row).and_then(|row| table.row(*row).get(feature)).copied().unwrap_or(f64::NAN)
    };
    let records = Array2::from_shape_fn((sample.len(), features.len()), value);
    let first = usize::from(table.classes.len() == 2);
    let mut grown = Vec::new();
    for class in first..table.classes.len() {
        let is_class: Array1<bool> = sample.iter().map(|row| table.labels.get(*row) == Some(&class)).collect();
        let weights = is_class.mapv(|yes| if yes { TIE_BREAK } else { 1.0 });
        let data = DatasetBase::new(records.clone(), is_class).with_weights(weights);
        let tree = DecisionTree::params().fit(&data).map_err(|error| TrainError::Learner(error.to_string()))?;
        let class = u32::try_from(class).map_err(|_| ArtifactError::TooLarge)?;
        grown.push(Grown { tree, features: features.clone(), class });
    }
    Ok(grown)
}

/// Some members, flat.
fn members(
    table: &Table,
    rows: &[usize],
    range: std::ops::Range<u32>,
    recipe: Recipe,
) -> Result<Vec<Tree>, TrainError> {
    let classes = u32::try_from(table.classes.len()).map_err(|_| ArtifactError::TooLarge)?;
    let mut trees = Vec::new();
    for member in range {
        for grown in grow(table, rows, member, recipe)? {
            // Of two classes, a tree that does not vote for one votes for the other.
            let no = if classes == 2 { 0 } else { classes };
            trees.push(flatten(&grown.tree, &grown.features, grown.class, no)?);
        }
    }
    Ok(trees)
}

/// A forest on some of the rows. Every core grows a part of the members; the order of the trees is always the same.
fn fit(table: &Table, rows: &[usize], recipe: Recipe) -> Result<Trees, TrainError> {
    if rows.len() < 2 {
        return Err(TrainError::Data("there are fewer than two rows to learn from".to_owned()));
    }
    let cores = u32::try_from(thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
    let part = recipe.members.div_ceil(cores).max(1);
    let parts: Vec<Result<Vec<Tree>, TrainError>> = thread::scope(|scope| {
        let running: Vec<_> = (0..cores)
            .map(|core| (core.saturating_mul(part), core.saturating_add(1).saturating_mul(part)))
            .map(|(from, to)| from.min(recipe.members)..to.min(recipe.members))
            .map(|range| scope.spawn(move || members(table, rows, range, recipe)))
            .collect();
        let failed = || Err(TrainError::Learner("it stopped in the middle of a tree".to_owned()));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| failed())).collect()
    });
    let mut trees = Vec::new();
    for part in parts {
        trees.extend(part?);
    }
    Ok(Trees { rule: Rule::Below, leaves: Leaves::votes(table.classes.len()), trees })
}

fn cross_validate(table: &Table, recipe: Recipe, progress: Progress<'_>) -> Result<Metrics, TrainError> {
    let folds = usize::try_from(recipe.folds).unwrap_or(usize::MAX);
    let parts = deal(table, folds.clamp(2, table.labels.len().max(2)), &mut Random::new(recipe.seed, u64::MAX));
    let mut all = Tally::default();
    let mut accuracies = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let others = parts.iter().enumerate().filter(|(other, _)| *other != number);
        let training: Vec<usize> = others.flat_map(|(_, rows)| rows.iter().copied()).collect();
        let forest = fit(table, &training, recipe)?;
        let mut own = Tally::default();
        for row in part {
            let probabilities = forest.walk(table.row(*row));
            let truth = table.labels.get(*row).copied().unwrap_or(usize::MAX);
            all.add(truth, argmax(&probabilities), &probabilities);
            own.add(truth, argmax(&probabilities), &probabilities);
        }
        accuracies.push(own.accuracy());
        progress(&format!("part {} of {}: accuracy {:.3}", number + 1, parts.len(), own.accuracy()));
    }
    Ok(Metrics {
        split: format!(
            "stratified cross-validation in {} parts, each predicted by a forest that was trained on the others; \
             this forest was then trained on all rows",
            parts.len()
        ),
        held_out: all.finish(),
        parts: BTreeMap::new(),
        folds: accuracies,
    })
}

/// What a card says of one column. Where no bounds are known, a value further from those seen than ten times their
/// spread is taken for a mistake.
pub(super) fn feature(table: &Table, index: usize) -> Option<Feature> {
    let column = table.columns.get(index)?;
    let mut values: Vec<f64> = table.column(index).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (minimum, maximum) = (*values.first()?, *values.last()?);
    let spread = [maximum - minimum, maximum.abs(), minimum.abs(), 1.0].into_iter().find(|spread| *spread > 0.0)?;
    let far = spread.min(f64::MAX / 64.0) * 10.0;
    let widened =
        Bounds { above: (minimum - far).clamp(f64::MIN, f64::MAX), at_most: (maximum + far).clamp(f64::MIN, f64::MAX) };
    Some(Feature {
        name: column.name.clone(),
        kind: FeatureType::Number,
        unit: column.unit.clone(),
        bounds: column.bounds.unwrap_or(widened),
        training_range: Some(Range { minimum, maximum }),
        quantiles: Quantiles::of(&values),
    })
}

/// Rows spread evenly over the table, with the forest's answers.
fn golden(table: &Table, forest: &Trees) -> Vec<Golden> {
    let step = table.labels.len().div_ceil(GOLDEN).max(1);
    let rows = (0..table.labels.len()).step_by(step).map(|row| {
        let probabilities = forest.walk(table.row(row));
        let cells = table.row(row).iter().map(|value| Cell::Number(*value)).collect();
        Golden { row: cells, class: argmax(&probabilities), probabilities }
    });
    rows.collect()
}

/// Trains a forest called `name`, and returns its card and the artifact's bytes.
///
/// # Errors
///
/// When linfa refuses the data, or the forest does not fit the format.
pub fn train(
    table: &Table,
    name: &str,
    description: &str,
    recipe: Recipe,
    progress: Progress<'_>,
) -> Result<(Card, Vec<u8>), TrainError> {
    let rows: Vec<usize> = (0..table.labels.len()).collect();
    let forest = fit(table, &rows, recipe)?;
    progress(&format!("forest of {} trees on {} rows", forest.trees.len(), rows.len()));
    let of_class = |class: usize| table.labels.iter().filter(|label| **label == class).count();
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let per_tree = count(recipe.features_of(table));
    let card = Card {
        kind: Kind::Forest,
        name: name.to_owned(),
        description: description.to_owned(),
        features: (0..table.columns.len()).filter_map(|index| feature(table, index)).collect(),
        classes: table.classes.clone(),
        metrics: cross_validate(table, recipe, progress)?,
        data: Data {
            source: table.source.clone(),
            sha256: table.sha256.clone(),
            training_rows: count(rows.len()),
            class_rows: (0..table.classes.len()).map(|class| count(of_class(class))).collect(),
        },
        seed: recipe.seed,
        hyper_parameters: [
            ("members", f64::from(recipe.members)),
            ("trees", f64::from(count(forest.trees.len()))),
            ("features_per_tree", f64::from(per_tree)),
            ("most_rows_per_tree", f64::from(count(MOST_SAMPLED))),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        crates: crates(&[("linfa", LINFA), ("linfa-trees", LINFA), ("linfa-datasets", LINFA)]),
        golden: golden(table, &forest),
    };
    let bytes = artifact::encode(&card, &forest.encode()?)?;
    Ok((card, bytes))
}

#[cfg(test)]
mod tests {
    use linfa::traits::Predict;

    use super::super::iris;
    use super::*;

    #[test]
    fn the_walk_and_the_engine_agree_with_linfa_on_every_tree() {
        let table = iris::table().expect("iris");
        let recipe = Recipe { members: 1, features: None, folds: 2, seed: 1 };
        let rows: Vec<usize> = (0..150).collect();
        let mut random = Random::new(3, 3);
        // Rows of the data lie on no threshold; random ones on a fine grid often do.
        let mut asked: Vec<Vec<f64>> = (0..150).map(|row| table.row(row).to_vec()).collect();
        let mut grid = || f64::from(u32::try_from(random.below(180)).expect("small")) / 20.0;
        asked.extend((0..500).map(|_| (0..4).map(|_| grid()).collect::<Vec<_>>()));
        for member in 0..20 {
            for grown in grow(&table, &rows, member, recipe).expect("grown") {
                let records = Array2::from_shape_fn((asked.len(), grown.features.len()), |(row, column)| {
                    asked[row][usize::from(grown.features[column])]
                });
                let expected = grown.tree.predict(&records);
                let flat = flatten(&grown.tree, &grown.features, 0, 1).expect("flat");
                for (row, expected) in asked.iter().zip(expected) {
                    assert_eq!(flat.walk(row, Rule::Below) == 0, expected, "{row:?}");
                }
            }
        }
    }

    #[test]
    fn parts_hold_every_row_once_and_every_class_evenly() {
        let table = iris::table().expect("iris");
        let parts = deal(&table, 10, &mut Random::new(1, 1));
        let mut all: Vec<usize> = parts.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..150).collect::<Vec<_>>());
        assert!(parts.iter().all(|part| part.iter().filter(|row| table.labels[**row] == 0).count() == 5));
    }

    #[test]
    fn bounds_that_are_not_known_are_far_from_the_values_seen() {
        let mut table = iris::table().expect("iris");
        table.columns[0].bounds = None;
        let bounds = feature(&table, 0).expect("a feature").bounds;
        assert!((bounds.above - (4.3 - 36.0)).abs() < 1e-9 && (bounds.at_most - (7.9 + 36.0)).abs() < 1e-9);
        table.values.fill(f64::MAX);
        let bounds = feature(&table, 0).expect("a feature").bounds;
        assert!(bounds.above < bounds.at_most && bounds.at_most.is_finite());
    }
}
