//! What a model is to the rest of the worker: a card that says what it takes and gives, and a `predict`.

pub mod artifact;
pub mod card;
pub mod evaluation;
pub mod forest;
pub mod sentiment;
pub mod words;

use std::borrow::Cow;
use std::ops::Range;

use artifact::ArtifactError;
use card::{Card, Cell, FeatureType, Kind};
use forest::engine::Scratch;

/// Rows that one model takes, in the order of its card's features.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows<'a> {
    /// Finite numbers, row after row.
    Numbers(Vec<f64>),
    /// One text in each row.
    Texts(Vec<Cow<'a, str>>),
}

impl Rows<'_> {
    /// How many rows of `width` values there are.
    #[must_use]
    pub fn count(&self, width: usize) -> usize {
        match self {
            Self::Numbers(values) => values.len() / width.max(1),
            Self::Texts(texts) => texts.len(),
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub enum Model {
    /// Numbers to classes.
    Forest(forest::Forest),
    /// Text to three classes.
    Sentiment(sentiment::Sentiment),
}

impl Model {
    /// What it takes, gives, and was made from.
    #[must_use]
    pub fn card(&self) -> &Card {
        match self {
            Self::Forest(forest) => forest.card(),
            Self::Sentiment(sentiment) => sentiment.card(),
        }
    }

    /// Appends the probabilities of some of the rows, one number for each class; they add up to 1. Rows of another
    /// shape give meaningless numbers, not a panic; validation is the caller's.
    pub fn predict(&self, rows: &Rows<'_>, range: Range<usize>, scratch: &mut Scratch, probabilities: &mut Vec<f64>) {
        let many = range.len();
        match (self, rows) {
            (Self::Forest(forest), Rows::Numbers(values)) => {
                let width = forest.card().features.len();
                for row in values.chunks(width.max(1)).skip(range.start).take(many) {
                    forest.predict(row, scratch, probabilities);
                }
            }
            (Self::Sentiment(sentiment), Rows::Texts(texts)) => {
                for text in texts.iter().skip(range.start).take(many) {
                    probabilities.extend(sentiment.predict(text));
                }
            }
            _ => {}
        }
    }

    /// All rows' probabilities.
    #[must_use]
    pub fn predict_all(&self, rows: &Rows<'_>) -> Vec<f64> {
        let mut probabilities = Vec::new();
        self.predict(rows, 0..rows.count(self.card().features.len()), &mut Scratch::default(), &mut probabilities);
        probabilities
    }

    /// For models whose classes form a scale: where on it the probabilities lie, -1 (lowest) to 1 (highest).
    #[must_use]
    pub fn score(&self, probabilities: &[f64]) -> Option<f64> {
        match (self, probabilities) {
            (Self::Sentiment(_), [negative, _, positive]) => Some((positive - negative).clamp(-1.0, 1.0)),
            _ => None,
        }
    }
}

/// One row that a card stores.
#[must_use]
pub fn stored_row(row: &[Cell]) -> Rows<'_> {
    match row {
        [Cell::Text(text)] => Rows::Texts(vec![Cow::Borrowed(text)]),
        cells => Rows::Numbers(
            cells
                .iter()
                .filter_map(|cell| if let Cell::Number(number) = cell { Some(*number) } else { None })
                .collect(),
        ),
    }
}

/// Reads an artifact as something that a stranger may have written, and tries it on its golden rows.
///
/// # Errors
///
/// Says in which way the bytes are no usable artifact.
pub fn load(bytes: &[u8]) -> Result<Model, ArtifactError> {
    let (card, payload) = artifact::decode(bytes)?;
    if card.features.len() > 1 && card.features.iter().any(|feature| feature.kind == FeatureType::Text) {
        return Err(ArtifactError::Header("a text is not the only feature".to_owned()));
    }
    let model = match card.kind {
        Kind::Forest => Model::Forest(forest::Forest::decode(card, payload)?),
        Kind::Sentiment => Model::Sentiment(sentiment::Sentiment::decode(card, payload)?),
    };
    for (index, golden) in model.card().golden.iter().enumerate() {
        let probabilities = model.predict_all(&stored_row(&golden.row));
        // The system's `exp` may differ in the last digit from the one that the model was trained with.
        let same = argmax(&probabilities) == golden.class
            && probabilities.len() == golden.probabilities.len()
            && probabilities.iter().zip(&golden.probabilities).all(|(now, then)| (now - then).abs() < 1e-6);
        if !same {
            return Err(ArtifactError::Golden(index));
        }
    }
    Ok(model)
}

/// The index of the largest number; of equals the first.
#[must_use]
pub fn argmax(numbers: &[f64]) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, &number) in numbers.iter().enumerate() {
        if number > best.1 {
            best = (index, number);
        }
    }
    best.0
}
