//! What a model is to the rest of the worker: a card that says what it takes and gives, and a `predict`.

pub mod artifact;
pub mod card;
pub mod forest;
pub mod sentiment;
pub mod words;

use std::borrow::Cow;

use artifact::ArtifactError;
use card::{Card, Kind};

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// A finite number.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
}

/// What a model says about one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Index of the most probable class; of equals the lowest.
    pub class: usize,
    /// One number for each class, in the card's order; they add up to 1.
    pub probabilities: Vec<f64>,
    /// For models whose classes form a scale: -1 (lowest) to 1 (highest).
    pub score: Option<f64>,
}

/// A loaded model.
pub trait Model: Send + Sync + std::fmt::Debug {
    /// What it takes, gives, and was made from.
    fn card(&self) -> &Card;

    /// Predicts one row: the values in the order of the card's features, within their bounds. A row of another shape
    /// gives a meaningless prediction, not a panic; validation is the caller's.
    fn predict(&self, row: &[Value<'_>]) -> Prediction;
}

/// Reads an artifact as something that a stranger may have written, and tries it on its golden rows.
///
/// # Errors
///
/// Says in which way the bytes are no usable artifact.
pub fn load(bytes: &[u8]) -> Result<Box<dyn Model>, ArtifactError> {
    let (card, payload) = artifact::decode(bytes)?;
    let model: Box<dyn Model> = match card.kind {
        Kind::Forest => Box::new(forest::Forest::decode(card, payload)?),
        Kind::Sentiment => Box::new(sentiment::Sentiment::decode(card, payload)?),
    };
    for (index, golden) in model.card().golden.iter().enumerate() {
        let row: Vec<Value<'_>> = golden.row.iter().map(card::Cell::as_value).collect();
        let prediction = model.predict(&row);
        // The system's `exp` may differ in the last digit from the one that the model was trained with.
        let same = prediction.class == golden.class
            && prediction.probabilities.len() == golden.probabilities.len()
            && prediction.probabilities.iter().zip(&golden.probabilities).all(|(now, then)| (now - then).abs() < 1e-6);
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
