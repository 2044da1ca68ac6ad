//! What is done with a model without serving it: predicting lines, measuring against known classes, timing.

use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, Instant};

use crate::api::rows;
use crate::api::score::Terms;
use crate::body::{self, Json};
use crate::catalog::Served;
use crate::metrics::Protocol;
use crate::model::card::{Evaluation, FeatureType, Range, Tally};
use crate::model::forest::engine::Scratch;
use crate::model::{Model, Rows, argmax};
use crate::problem::Refusal;
use crate::train::TrainError;
use crate::train::random::Random;
use crate::train::table::{self, Lines};

/// Longest line of JSON.
const LONGEST_LINE: u64 = 16 << 20;

/// The places of the model's features among the columns.
fn places(model: &Model, lines: &Lines) -> Result<Vec<usize>, TrainError> {
    model.card().features.iter().map(|feature| lines.place(&feature.name)).collect()
}

/// How good the model is on the rows of a CSV file whose column `target` names their classes.
///
/// # Errors
///
/// Names the line and column of what is not as it should be.
pub fn evaluate(model: &Model, data: impl Read, target: &str) -> Result<Evaluation, TrainError> {
    let lines = table::lines(data)?;
    let (target, places) = (lines.place(target)?, places(model, &lines)?);
    let card = model.card();
    let mut tally = Tally::default();
    for line in &lines.lines {
        let class = line.1.get(target).unwrap_or_default();
        let truth = card.classes.iter().position(|known| known == class).ok_or_else(|| {
            TrainError::Data(format!("line {}: the class is none of {}", line.0, card.classes.join(", ")))
        })?;
        let numbers = || places.iter().map(|place| lines.number(line, *place)).collect::<Result<_, _>>();
        let rows = match card.features.first().map(|feature| feature.kind) {
            Some(FeatureType::Text) => {
                let text = places.first().and_then(|place| line.1.get(*place)).unwrap_or_default();
                Rows::Texts(vec![text.into()])
            }
            _ => Rows::Numbers(numbers()?),
        };
        let probabilities = model.predict_all(&rows);
        tally.add(truth, argmax(&probabilities), &probabilities);
    }
    if lines.lines.is_empty() {
        return Err(TrainError::Data("there are no rows".to_owned()));
    }
    Ok(tally.finish())
}

/// Why a stream of rows could not be predicted to its end.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The lines are no CSV that fits the model.
    #[error("{0}")]
    Data(#[from] TrainError),
    /// One line is not what the model takes.
    #[error("line {0}: {1}")]
    Line(u64, String),
}

async fn answer(served: &Served, json: &Json<'_>, line: u64, output: &mut impl Write) -> Result<(), PredictError> {
    let terms =
        Terms { max_rows: u32::MAX, strict: false, deadline: None, begun: Instant::now(), protocol: Protocol::Predict };
    let wrong = |refusal: Refusal| PredictError::Line(line, refusal.detail());
    let mut answer = rows::predict(served, json, terms).await.map_err(wrong)?;
    answer.push(b'\n');
    Ok(output.write_all(&answer)?)
}

/// Predicts rows line by line: JSON on each line as `POST /predict` takes it, or CSV with a line of names. Answers are
/// JSON, one line each, as `POST /predict` gives them.
///
/// # Errors
///
/// At the first line that cannot be predicted; the lines before it have been answered.
pub async fn predict(served: &Served, mut input: impl BufRead, output: &mut impl Write) -> Result<(), PredictError> {
    let begin = input.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
    if matches!(begin, Some(b'{' | b'[')) {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if !line.trim_ascii().is_empty() {
                let json = body::parse(&line).map_err(|why| PredictError::Line(number, why))?;
                answer(served, &json, number, output).await?;
            }
        }
        return Ok(output.flush()?);
    }
    let lines = table::lines(input)?;
    let features = &served.model.card().features;
    let places = places(&served.model, &lines)?;
    for line in &lines.lines {
        let value = |(kind, place): (FeatureType, &usize)| match kind {
            FeatureType::Number => lines.number(line, *place).map(Json::Number),
            FeatureType::Text => Ok(Json::Text(line.1.get(*place).unwrap_or_default().into())),
        };
        let row = features.iter().map(|feature| feature.kind).zip(&places).map(value).collect::<Result<_, _>>()?;
        answer(served, &Json::Array(vec![Json::Array(row)]), line.0, output).await?;
    }
    Ok(output.flush()?)
}

/// The time that one row takes.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Least of several rounds.
    pub least: Duration,
    /// Half of the rounds took no more.
    pub median: Duration,
}

/// Times predictions of random rows within the training ranges, `rows` at once, in one thread.
#[must_use]
pub fn time(model: &Model, rows: usize, rounds: usize) -> Timing {
    let card = model.card();
    let mut random = Random::new(1, 1);
    let mut between = |range: Option<Range>| {
        let share = f64::from(u32::try_from(random.below(1 << 20)).unwrap_or(0)) / f64::from(1 << 20);
        range.map_or(share, |range| range.minimum + (range.maximum - range.minimum) * share)
    };
    let data = match card.features.first().map(|feature| feature.kind) {
        Some(FeatureType::Text) => Rows::Texts(vec!["Not bad at all, I would buy it again.".into(); rows]),
        _ => Rows::Numbers(
            (0..rows).flat_map(|_| &card.features).map(|feature| between(feature.training_range)).collect(),
        ),
    };
    let mut scratch = Scratch::default();
    let mut probabilities = Vec::new();
    let mut times: Vec<Duration> = (0..rounds.max(1))
        .map(|_| {
            probabilities.clear();
            let begun = Instant::now();
            model.predict(&data, 0..rows, &mut scratch, &mut probabilities);
            let took = begun.elapsed();
            std::hint::black_box(&probabilities);
            took / u32::try_from(rows.max(1)).unwrap_or(u32::MAX)
        })
        .collect();
    times.sort_unstable();
    let at = |place: usize| times.get(place).copied().unwrap_or_default();
    Timing { least: at(0), median: at(times.len() / 2) }
}
