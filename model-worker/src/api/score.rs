//! Rows that have been checked become predictions, block by block, so that no request keeps others waiting for long
//! and none is worked on after its caller has stopped waiting.

use std::time::Instant;

use tokio::task::yield_now;

use crate::catalog::Served;
use crate::metrics::Protocol;
use crate::model::card::Card;
use crate::model::forest::engine::Scratch;
use crate::model::{Rows, argmax};
use crate::problem::Refusal;

/// Values and bytes of text that are worked on before other connections get their turn.
const TURN: usize = 16 * 1024;

/// How one request is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Most rows.
    pub max_rows: u32,
    /// Whether values outside the training range are refused.
    pub strict: bool,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// When the whole body was there.
    pub begun: Instant,
    /// How it was put.
    pub protocol: Protocol,
}

impl Terms {
    /// The same for a body that is there by now; the deadline is still counted from the request's head.
    #[must_use]
    pub fn from_now(self) -> Self {
        Self { begun: Instant::now(), ..self }
    }
}

/// The predictions for a request's rows.
#[derive(Debug)]
pub struct Scored<'a> {
    /// The model that made them.
    pub served: &'a Served,
    /// Row after row, one number for each class.
    pub probabilities: Vec<f64>,
    /// (row, feature) of each value outside what training saw.
    pub unusual: Vec<(usize, usize)>,
}

impl Scored<'_> {
    /// One row's probabilities after the other's.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f64> {
        self.probabilities.chunks_exact(self.served.model.card().classes.len().max(1))
    }

    /// The winning class of each row.
    pub fn classes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.rows().map(argmax)
    }
}

/// The features of one row that lie outside what training saw.
fn unusual_in<'a>(card: &'a Card, row: &'a [f64]) -> impl Iterator<Item = usize> {
    card.features.iter().zip(row).enumerate().filter_map(|(index, (feature, value))| {
        let outside = feature.training_range.is_some_and(|range| !(range.minimum..=range.maximum).contains(value));
        outside.then_some(index)
    })
}

/// (row, feature) of each value outside what training saw.
fn unusual(card: &Card, rows: &Rows<'_>) -> Vec<(usize, usize)> {
    match rows {
        Rows::Numbers(values) => {
            let rows = values.chunks(card.features.len().max(1)).enumerate();
            rows.flat_map(|(at, row)| unusual_in(card, row).map(move |feature| (at, feature))).collect()
        }
        Rows::Texts(_) => Vec::new(),
    }
}

/// Where the block that begins at `from` ends.
fn turn(rows: &Rows<'_>, width: usize, from: usize) -> usize {
    match rows {
        Rows::Numbers(_) => from + (TURN / width.max(1)).max(1),
        Rows::Texts(texts) => {
            let mut bytes = 0;
            let fits = |text: &std::borrow::Cow<'_, str>| {
                let fits = bytes < TURN;
                bytes += text.len();
                fits
            };
            from + texts.iter().skip(from).map(fits).take_while(|fits| *fits).count()
        }
    }
}

/// Predicts rows that fit the model.
///
/// # Errors
///
/// When the caller has stopped waiting, or the range is strict and a value outside it; `place` says where that value
/// was in the request.
pub async fn score<'a>(
    served: &'a Served,
    rows: &Rows<'_>,
    terms: Terms,
    place: impl Fn(usize, usize) -> String,
) -> Result<Scored<'a>, Refusal> {
    let card = served.model.card();
    let width = card.features.len();
    let count = rows.count(width);
    let unusual = unusual(card, rows);
    if terms.strict && !unusual.is_empty() {
        return Err(Refusal::out_of_training_range(card, &unusual, place));
    }
    for (_, feature) in &unusual {
        served.counts.unusual(*feature);
    }
    let mut probabilities = Vec::with_capacity(count.saturating_mul(card.classes.len()));
    let mut scratch = Scratch::default();
    let mut from = 0;
    while from < count {
        if terms.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Refusal::TooLate);
        }
        if from > 0 {
            yield_now().await;
        }
        let to = turn(rows, width, from).min(count);
        served.model.predict(rows, from..to, &mut scratch, &mut probabilities);
        from = to;
    }
    served.counts.answered(terms.protocol, count, terms.begun.elapsed());
    Ok(Scored { served, probabilities, unusual })
}
