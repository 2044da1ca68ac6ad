//! Fisher's iris data as linfa-datasets has it: the UCI file, whose rows 35 and 38 differ from Fisher's and
//! scikit-learn's by a known mistake.

use super::forest::{self, Recipe};
use super::table::{Column, Table};
use super::{LINFA, Progress, TrainError};
use crate::model::artifact::sha256_hex;
use crate::model::card::{Bounds, Card};

/// Parts of the cross-validation: with 150 rows, ten keep nearly all of them for training.
const FOLDS: u32 = 10;

const FEATURES: [&str; 4] = ["sepal_length", "sepal_width", "petal_length", "petal_width"];
const CLASSES: [&str; 3] = ["setosa", "versicolor", "virginica"];

/// The data; its digest is over each row's sizes (f64, little-endian) and class (one byte).
///
/// # Errors
///
/// When linfa-datasets does not hold what it is expected to.
pub fn table() -> Result<Table, TrainError> {
    let data = linfa_datasets::iris();
    let mut bytes = Vec::new();
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for (row, class) in data.records().rows().into_iter().zip(data.targets()) {
        if row.len() != FEATURES.len() || *class >= CLASSES.len() {
            return Err(TrainError::Data(
                "a row of the iris data does not have four sizes and a known class".to_owned(),
            ));
        }
        values.extend(row.iter().copied());
        labels.push(*class);
        bytes.extend(row.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(u8::try_from(*class));
    }
    // No iris part is of no size, and none comes near 30 cm: beyond, the unit was mistaken.
    let bounds = Some(Bounds { above: 0.0, at_most: 30.0 });
    let column = |name: &str| Column { name: name.to_owned(), unit: "cm".to_owned(), bounds };
    Ok(Table {
        columns: FEATURES.map(column).to_vec(),
        classes: CLASSES.map(str::to_owned).to_vec(),
        values,
        labels,
        source: format!(
            "Fisher's iris data as in linfa-datasets {LINFA}; digest over each row's sizes (f64, little-endian) and class (u8)"
        ),
        sha256: sha256_hex(&bytes),
    })
}

/// Trains a forest of `members` members, and returns its card and the artifact's bytes.
///
/// # Errors
///
/// When the forest does not fit the format (far more trees than anyone needs).
pub fn train(members: u32, seed: u64, progress: Progress<'_>) -> Result<(Card, Vec<u8>), TrainError> {
    let recipe = Recipe { members, features: None, folds: FOLDS, seed };
    forest::train(&table()?, "iris", "Species of an iris flower from four sizes, by a random forest", recipe, progress)
}

#[cfg(test)]
mod tests {
    use super::super::{SEED, random::Random};
    use super::*;
    use crate::model::artifact::{self, ArtifactError};
    use crate::model::{self, Rows};

    fn train(members: u32, seed: u64) -> Result<(Card, Vec<u8>), TrainError> {
        super::train(members, seed, &mut |_| {})
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
        let (card, bytes) = train(forest::TREES, SEED).expect("trained");
        assert_eq!((card.metrics.held_out.rows, card.metrics.folds.len()), (150, 10));
        assert!(card.metrics.held_out.accuracy >= 0.93, "{:?}", card.metrics);
        let model::Model::Forest(forest) = model::load(&bytes).expect("loads") else { panic!("a forest") };
        assert_eq!(forest.engine().forms(), (4, 0, 0), "all trees are in the grids of three features each");
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
                let row = Rows::Numbers(vec![1.0; model.card().features.len()]);
                assert_eq!(model.predict_all(&row).len(), model.card().classes.len());
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
