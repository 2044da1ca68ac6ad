//! A random forest on Fisher's iris data, grown with `linfa-trees`.
//!
//! The bagging is our own, and `linfa-ensemble` is not used, because a forest must be the same in every process:
//! linfa counts classes in randomly seeded hash maps, so with three classes the order of its `f32` sums, and with it
//! the split that wins a tie, changes from run to run, and so do the votes of its ensemble. Two classes escape that:
//! a + b = b + a. So each member of our forest is one bootstrap sample and three of the four features, given to one
//! linfa tree per class ("this class or another"); the class's rows weigh 1 + 2^-10, exact in `f32`, so that no
//! leaf of fewer than 1024 rows is a tie. A class's probability is its share of all votes.

use std::collections::{BTreeMap, VecDeque};

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_trees::{DecisionTree, TreeNode};
use ndarray::{Array1, Array2};

use super::random::Random;
use super::{LINFA, TrainError, crates};
use crate::model::argmax;
use crate::model::artifact::{self, ArtifactError, sha256_hex};
use crate::model::card::{
    Bounds, Card, Cell, Data, Evaluation, Feature, FeatureType, Golden, Kind, Metrics, Range, Tally,
};
use crate::model::forest::{Node, Tree, encode, shares};

/// Members of a forest unless another number is given.
pub const TREES: u32 = 100;

const FEATURES: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
const CLASSES: [&str; 3] = ["setosa", "versicolor", "virginica"];
const FEATURES_PER_MEMBER: usize = 3;
const FOLDS: usize = 10;
const TIE_BREAK: f32 = 1.0 + 1.0 / 1024.0;

/// One flower.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Flower {
    sizes: [f64; 4],
    class: usize,
}

fn flowers() -> Result<Vec<Flower>, TrainError> {
    let data = linfa_datasets::iris();
    let rows = data.records().rows().into_iter().zip(data.targets());
    rows.map(|(row, class)| match row.to_vec().try_into() {
        Ok(sizes) if *class < CLASSES.len() => Ok(Flower { sizes, class: *class }),
        _ => Err(TrainError::Data("a row of the iris data does not have four sizes and a known class".to_owned())),
    })
    .collect()
}

/// Over each row in order: four sizes (f64, little-endian) and the class (one byte).
fn digest(flowers: &[Flower]) -> String {
    let mut bytes = Vec::new();
    for flower in flowers {
        for size in flower.sizes {
            bytes.extend_from_slice(&size.to_le_bytes());
        }
        bytes.extend(u8::try_from(flower.class));
    }
    sha256_hex(&bytes)
}

/// Deals the flowers into `parts` of near equal size, each class spread evenly.
fn deal(flowers: &[Flower], parts: usize, random: &mut Random) -> Vec<Vec<Flower>> {
    let mut hands = vec![Vec::new(); parts];
    let mut dealt = 0;
    for class in 0..CLASSES.len() {
        let mut members: Vec<Flower> = flowers.iter().filter(|flower| flower.class == class).copied().collect();
        random.shuffle(&mut members);
        for flower in members {
            if let Some(hand) = hands.get_mut(dealt % parts) {
                hand.push(flower);
            }
            dealt += 1;
        }
    }
    hands
}

/// The flat form of a linfa tree that was fitted on the columns `features`; a positive leaf is a vote.
fn flatten(tree: &DecisionTree<f64, bool>, features: &[u16], class: u16) -> Result<Tree, TrainError> {
    let data = |text: &str| TrainError::Data(text.to_owned());
    let mut nodes = Vec::new();
    let mut queue = VecDeque::from([tree.root_node()]);
    let mut next_child = 1_u16;
    while let Some(node) = queue.pop_front() {
        nodes.push(match children(node) {
            Some([left, right]) => {
                let (column, threshold, _) = node.split();
                let feature = *features.get(column).ok_or_else(|| data("a tree asks an unknown column"))?;
                queue.extend([left, right]);
                let first = next_child;
                next_child = first.checked_add(2).ok_or(ArtifactError::TooLarge)?;
                Node::Split { feature, threshold, left: first, right: first + 1 }
            }
            None => Node::Leaf { vote: node.prediction().ok_or_else(|| data("a leaf has no prediction"))? },
        });
    }
    Ok(Tree { class, nodes })
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
    class: u16,
}

fn grow(rows: &[Flower], members: u32, seed: u64) -> Result<Vec<Grown>, TrainError> {
    let mut grown = Vec::new();
    for member in 0..members {
        let mut random = Random::new(seed, u64::from(member));
        let sample: Vec<Flower> = (0..rows.len()).filter_map(|_| rows.get(random.below(rows.len())).copied()).collect();
        let mut features: Vec<u16> = (0..).take(FEATURES.len()).collect();
        random.shuffle(&mut features);
        features.truncate(FEATURES_PER_MEMBER);
        features.sort_unstable();
        let size = |(row, column): (usize, usize)| {
            let feature = features.get(column).map_or(0, |feature| usize::from(*feature));
            sample.get(row).and_then(|flower| flower.sizes.get(feature)).copied().unwrap_or(f64::NAN)
        };
        let records = Array2::from_shape_fn((sample.len(), features.len()), size);
        for class in (0_u16..).take(CLASSES.len()) {
            let is_class: Array1<bool> = sample.iter().map(|flower| flower.class == usize::from(class)).collect();
            let weights = is_class.mapv(|yes| if yes { TIE_BREAK } else { 1.0 });
            let data = DatasetBase::new(records.clone(), is_class).with_weights(weights);
            let tree = DecisionTree::params().fit(&data)?;
            grown.push(Grown { tree, features: features.clone(), class });
        }
    }
    Ok(grown)
}

fn fit(rows: &[Flower], members: u32, seed: u64) -> Result<Vec<Tree>, TrainError> {
    grow(rows, members, seed)?.iter().map(|grown| flatten(&grown.tree, &grown.features, grown.class)).collect()
}

fn evaluate(trees: &[Tree], rows: &[Flower], tally: &mut Tally) {
    for flower in rows {
        let probabilities = shares(trees, CLASSES.len(), &flower.sizes);
        tally.add(flower.class, argmax(&probabilities), &probabilities);
    }
}

fn without(parts: &[Vec<Flower>], held_out: usize) -> Vec<Flower> {
    parts
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != held_out)
        .flat_map(|(_, part)| part.iter().copied())
        .collect()
}

fn cross_validate(flowers: &[Flower], members: u32, seed: u64) -> Result<Evaluation, TrainError> {
    let parts = deal(flowers, FOLDS, &mut Random::new(seed, u64::MAX - 1));
    let mut tally = Tally::default();
    for (index, part) in parts.iter().enumerate() {
        evaluate(&fit(&without(&parts, index), members, seed)?, part, &mut tally);
    }
    Ok(tally.finish())
}

fn feature(index: usize, name: &str, rows: &[Flower]) -> Feature {
    let values = || rows.iter().filter_map(|flower| flower.sizes.get(index).copied());
    Feature {
        name: name.to_owned(),
        kind: FeatureType::Number,
        unit: "cm".to_owned(),
        // No iris part is of no size, and none comes near 30 cm: beyond, the unit was mistaken.
        bounds: Bounds { above: 0.0, at_most: 30.0 },
        training_range: Some(Range {
            minimum: values().fold(f64::INFINITY, f64::min),
            maximum: values().fold(f64::NEG_INFINITY, f64::max),
        }),
    }
}

/// Trains a forest of `members` members, and returns its card and the artifact's bytes.
///
/// # Errors
///
/// When linfa refuses the data, or the forest does not fit the format (far more trees than anyone needs).
pub fn train(members: u32, seed: u64) -> Result<(Card, Vec<u8>), TrainError> {
    let flowers = flowers()?;
    let parts = deal(&flowers, 5, &mut Random::new(seed, u64::MAX));
    let [held_out, ..] = parts.as_slice() else {
        return Err(TrainError::Data("there are no rows".to_owned()));
    };
    let training = without(&parts, 0);
    let trees = fit(&training, members, seed)?;
    let mut tally = Tally::default();
    evaluate(&trees, held_out, &mut tally);
    let golden = held_out.iter().step_by(3).map(|flower| {
        let probabilities = shares(&trees, CLASSES.len(), &flower.sizes);
        Golden { row: flower.sizes.map(Cell::Number).to_vec(), class: argmax(&probabilities), probabilities }
    });
    let card = Card {
        kind: Kind::Forest,
        name: "iris".to_owned(),
        description: "Species of an iris flower from four sizes, by a random forest".to_owned(),
        features: FEATURES.iter().enumerate().map(|(index, name)| feature(index, name, &training)).collect(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        metrics: Metrics {
            split: "stratified, 4 parts for training, 1 held out; cross-validation in 10 parts".to_owned(),
            held_out: tally.finish(),
            parts: BTreeMap::new(),
            cross_validated_accuracy: Some(cross_validate(&flowers, members, seed)?.accuracy),
        },
        data: Data {
            source: format!(
                "Fisher's iris data as in linfa-datasets {LINFA}; digest over each row's sizes (f64, little-endian) and class (u8)"
            ),
            sha256: digest(&flowers),
            training_rows: u32::try_from(training.len()).unwrap_or(u32::MAX),
        },
        seed,
        hyper_parameters: [("trees", f64::from(members)), ("binary_trees_per_tree", 3.0), ("features_per_tree", 3.0)]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        crates: crates(&[("linfa", LINFA), ("linfa-trees", LINFA), ("linfa-datasets", LINFA)]),
        golden: golden.collect(),
    };
    let bytes = artifact::encode(&card, &encode(&trees)?)?;
    Ok((card, bytes))
}

#[cfg(test)]
mod tests {
    use linfa::traits::Predict;

    use super::*;
    use crate::model;

    #[test]
    fn the_flat_engine_agrees_with_linfa_on_every_tree() {
        let flowers = flowers().expect("iris");
        let mut random = Random::new(3, 3);
        // Rows from the data lie on no threshold; random ones on a fine grid often do.
        let mut rows: Vec<[f64; 4]> = flowers.iter().map(|flower| flower.sizes).collect();
        rows.extend(
            (0..500)
                .map(|_| std::array::from_fn(|_| f64::from(u32::try_from(random.below(180)).expect("small")) / 20.0)),
        );
        for grown in grow(&flowers, 10, 1).expect("grown") {
            let flat = flatten(&grown.tree, &grown.features, grown.class).expect("flat");
            let records =
                Array2::from_shape_fn((rows.len(), 3), |(row, column)| rows[row][usize::from(grown.features[column])]);
            let expected = grown.tree.predict(&records);
            for (row, expected) in rows.iter().zip(expected) {
                assert_eq!(flat.votes(row), expected, "{row:?}");
            }
        }
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let (card, bytes) = train(5, 1).expect("trained");
        assert_eq!(bytes, train(5, 1).expect("trained").1);
        assert_ne!(bytes, train(5, 2).expect("trained").1);
        assert_eq!(model::load(&bytes).expect("loads").card(), &card);
    }

    #[test]
    fn a_forest_of_the_default_size_is_good() {
        let (card, _) = train(TREES, super::super::SEED).expect("trained");
        assert_eq!(card.metrics.held_out.rows, 30);
        assert!(card.metrics.held_out.accuracy >= 0.9, "{:?}", card.metrics);
        assert!(card.metrics.cross_validated_accuracy >= Some(0.93), "{:?}", card.metrics);
    }

    #[test]
    fn altered_bytes_are_noticed_wherever_they_are() {
        let (_, bytes) = train(1, 1).expect("trained");
        for at in (0..bytes.len()).step_by(97) {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(model::load(&altered).is_err(), "byte {at}");
        }
        for length in (0..bytes.len()).step_by(97) {
            assert!(model::load(&bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_forger_who_can_compute_checksums_causes_errors_and_no_panic() {
        let (_, bytes) = train(1, 1).expect("trained");
        let content = &bytes[..bytes.len() - 32];
        let mut random = Random::new(5, 5);
        for _ in 0..400 {
            let mut forged = content.to_vec();
            for _ in 0..=random.below(3) {
                let at = random.below(forged.len());
                forged[at] = u8::try_from(random.below(256)).expect("a byte");
            }
            forged.truncate(forged.len() - random.below(2) * random.below(200));
            let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &forged);
            forged.extend_from_slice(sum.as_ref());
            // Some forgeries are harmless, in a description say; what loads must also predict.
            if let Ok(model) = model::load(&forged) {
                let row = vec![model::Value::Number(1.0); model.card().features.len()];
                assert_eq!(model.predict(&row).probabilities.len(), model.card().classes.len());
            }
        }
    }

    #[test]
    fn a_model_that_answers_otherwise_than_its_golden_rows_is_refused() {
        let (card, bytes) = train(5, 1).expect("trained");
        let (_, payload) = artifact::decode(&bytes).expect("reads");
        let mut other = card;
        other.golden[0].probabilities.rotate_left(1);
        other.golden[0].class = (other.golden[0].class + 1) % 3;
        let forged = artifact::encode(&other, payload).expect("encodes");
        assert_eq!(model::load(&forged).err(), Some(ArtifactError::Golden(0)));
    }
}
