//! How predictions compare with the truth.

use serde::{Deserialize, Serialize};

/// Least probability that the log loss reckons with: one certain mistake must not drown everything else.
const FLOOR: f64 = 0.001;
/// Bands of equal width into which the winning class's probabilities are sorted.
const BANDS: usize = 10;

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
    /// For each class, in order.
    pub classes: Vec<OfClass>,
    /// Mean of -ln(probability given to the true class), no probability taken below 0.001.
    pub log_loss: f64,
    /// Mean over all rows of the squared differences between probabilities and the truth (Brier 1950): 0 to 2.
    pub brier: f64,
    /// How often the winning class is right, by the probability that it was given.
    pub calibration: Vec<Band>,
    /// Mean distance between that probability and that share, each band weighed by its rows.
    pub calibration_error: f64,
    /// Where the truth is a position on a scale: share of rows with a sign whose score has the same sign.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sign_accuracy: Option<f64>,
}

/// One class's figures; 0 where there is nothing to divide by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfClass {
    /// Share of the rows predicted as this class that are of it.
    pub precision: f64,
    /// Share of the rows of this class that were predicted as it.
    pub recall: f64,
}

/// Rows whose winning class was given about the same probability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// Rows.
    pub rows: u32,
    /// Mean probability of the winning class.
    pub probability: f64,
    /// Share of the rows whose class it was.
    pub accuracy: f64,
}

/// Adds up an [`Evaluation`] row by row.
#[derive(Debug, Default)]
pub struct Tally {
    confusion: Vec<Vec<u32>>,
    loss: f64,
    squares: f64,
    bands: [(u32, f64, u32); BANDS],
    signed: u32,
    same_sign: u32,
}

fn share(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole.max(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number is brought into range first")]
fn band(probability: f64) -> usize {
    ((probability * 10.0).clamp(0.0, 9.0)) as usize
}

impl Tally {
    /// Counts one row.
    pub fn add(&mut self, truth: usize, prediction: usize, probabilities: &[f64]) {
        let classes = probabilities.len();
        self.confusion.resize_with(classes, || vec![0; classes]);
        if let Some(cell) = self.confusion.get_mut(truth).and_then(|row| row.get_mut(prediction)) {
            *cell += 1;
        }
        self.loss -= probabilities.get(truth).copied().unwrap_or(0.0).max(FLOOR).ln();
        for (class, probability) in probabilities.iter().enumerate() {
            let distance = probability - if class == truth { 1.0 } else { 0.0 };
            self.squares += distance * distance;
        }
        let probability = probabilities.get(prediction).copied().unwrap_or(0.0);
        if let Some((rows, sum, hits)) = self.bands.get_mut(band(probability)) {
            *rows += 1;
            *sum += probability;
            *hits += u32::from(truth == prediction);
        }
    }

    /// Counts the signs of one row, unless its truth has none.
    pub fn add_sign(&mut self, truth: f64, score: f64) {
        if truth.abs() > 0.0 {
            self.signed += 1;
            self.same_sign += u32::from((truth > 0.0) == (score > 0.0));
        }
    }

    /// Share of rows whose class was predicted, so far.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        share(self.hits(), self.rows())
    }

    fn rows(&self) -> u32 {
        self.confusion.iter().flatten().sum()
    }

    fn hits(&self) -> u32 {
        self.confusion.iter().enumerate().filter_map(|(class, row)| row.get(class)).sum()
    }

    /// The result.
    #[must_use]
    pub fn finish(self) -> Evaluation {
        let rows = self.rows();
        let all = f64::from(rows.max(1));
        let of_class = |class: usize| {
            let hits = self.confusion.get(class).and_then(|row| row.get(class)).copied().unwrap_or(0);
            let predicted = self.confusion.iter().filter_map(|row| row.get(class)).sum();
            let truly = self.confusion.get(class).map_or(0, |row| row.iter().sum());
            OfClass { precision: share(hits, predicted), recall: share(hits, truly) }
        };
        let calibration: Vec<Band> = self
            .bands
            .iter()
            .map(|(rows, sum, hits)| Band {
                rows: *rows,
                probability: sum / f64::from((*rows).max(1)),
                accuracy: share(*hits, *rows),
            })
            .collect();
        let error = |band: &Band| f64::from(band.rows) * (band.probability - band.accuracy).abs() / all;
        Evaluation {
            rows,
            accuracy: self.accuracy(),
            classes: (0..self.confusion.len()).map(of_class).collect(),
            log_loss: self.loss / all,
            brier: self.squares / all,
            calibration_error: calibration.iter().map(error).sum(),
            calibration,
            sign_accuracy: (self.signed > 0).then(|| share(self.same_sign, self.signed)),
            confusion: self.confusion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_what_they_say() {
        let mut tally = Tally::default();
        tally.add(0, 0, &[0.75, 0.25]);
        tally.add(0, 1, &[0.25, 0.75]);
        tally.add(1, 1, &[0.0, 1.0]);
        let evaluation = tally.finish();
        assert_eq!((evaluation.rows, evaluation.confusion.clone()), (3, vec![vec![1, 1], vec![0, 1]]));
        assert_eq!(evaluation.classes[0], OfClass { precision: 1.0, recall: 0.5 });
        assert_eq!(evaluation.classes[1], OfClass { precision: 0.5, recall: 1.0 });
        assert_eq!(evaluation.calibration[7], Band { rows: 2, probability: 0.75, accuracy: 0.5 });
        assert_eq!(evaluation.calibration[9], Band { rows: 1, probability: 1.0, accuracy: 1.0 });
        assert!((evaluation.calibration_error - 0.5 / 3.0).abs() < 1e-12);
        assert!((evaluation.brier - (0.125 + 1.125) / 3.0).abs() < 1e-12);
    }
}
