//! Ordinal logistic regression on hashed words, word pairs and the VADER rules' verdict.
//!
//! Own descent, because linfa's logistic regression takes dense arrays, and 19 000 texts by 260 000 buckets would be
//! 40 GB of zeros. `AdaGrad` over the texts in an order that the seed decides, in one thread, so sums have one order.

use std::collections::BTreeMap;
use std::path::Path;

use super::corpus::{self, DOMAINS, Text};
use super::random::Random;
use super::{Progress, TrainError, VADER, crates};
use crate::model::artifact;
use crate::model::card::{Bounds, Card, Cell, Data, Feature, FeatureType, Golden, Kind, Metrics, Tally};
use crate::model::sentiment::{Weights, probabilities};
use crate::model::{argmax, words};

/// Choices made on the validation part, never on the held-out one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// log2 of the number of buckets.
    pub bits: u8,
    /// Passes over the texts.
    pub epochs: u32,
    /// First step of `AdaGrad`.
    pub rate: f64,
    /// Pull of each weight towards zero, each time its bucket occurs.
    pub decay: f64,
    /// Buckets in fewer training texts are not learned.
    pub least_texts: u32,
    /// Ratings above it are positive, below its negative are negative, others neutral.
    pub neutral: f64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self { bits: 18, epochs: 24, rate: 0.15, decay: 1e-4, least_texts: 3, neutral: 0.5 }
    }
}

const CLASSES: [&str; 3] = ["negative", "neutral", "positive"];

const GOLDEN: [&str; 8] = [
    "I love this, it works perfectly!",
    "This is the worst purchase I have ever made.",
    "The parcel arrived on Tuesday.",
    "Not bad at all, I would buy it again.",
    "The plot is thin, but the actors are wonderful.",
    "😀",
    "The council will meet again next week to discuss the budget.",
    "I'm not happy :(",
];

/// A text made ready for learning.
struct Example {
    buckets: Vec<u32>,
    scale: f64,
    rules: [f64; 3],
    class: usize,
}

struct Learner {
    recipe: Recipe,
    /// Bucket weights and `AdaGrad`'s sums of squares.
    buckets: Vec<(f64, f64)>,
    rules: [(f64, f64); 3],
    cuts: [(f64, f64); 2],
}

fn step(weight: &mut (f64, f64), gradient: f64, rate: f64) {
    weight.1 += gradient * gradient;
    weight.0 -= rate * gradient / (weight.1.sqrt() + 1e-8);
}

fn class_of(rating: f64, neutral: f64) -> usize {
    if rating > neutral { 2 } else { usize::from(rating >= -neutral) }
}

fn rows_of(texts: &[&Text], class: usize, neutral: f64) -> u32 {
    let rows = texts.iter().filter(|text| class_of(text.rating, neutral) == class).count();
    u32::try_from(rows).unwrap_or(u32::MAX)
}

fn bucket(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Learner {
    fn learn(&mut self, example: &Example) {
        let Recipe { rate, decay, .. } = self.recipe;
        let mut latent: f64 = example.rules.iter().zip(&self.rules).map(|(value, weight)| value * weight.0).sum();
        for number in &example.buckets {
            latent += self.buckets.get(bucket(*number)).map_or(0.0, |weight| weight.0) * example.scale;
        }
        let [negative, neutral, positive] = probabilities(latent, [self.cuts[0].0, self.cuts[1].0]);
        let neutral = neutral.max(1e-6);
        // Derivatives of -ln(probability of the true class) by the latent number and by the two cuts.
        let (slope, lower, upper) = match example.class {
            0 => (1.0 - negative, negative - 1.0, 0.0),
            1 => (positive - negative, negative * (1.0 - negative) / neutral, -positive * (1.0 - positive) / neutral),
            _ => (positive - 1.0, 0.0, 1.0 - positive),
        };
        for number in &example.buckets {
            if let Some(weight) = self.buckets.get_mut(bucket(*number)) {
                let gradient = slope * example.scale + decay * weight.0;
                step(weight, gradient, rate);
            }
        }
        for (weight, value) in self.rules.iter_mut().zip(example.rules) {
            step(weight, slope * value, rate);
        }
        step(&mut self.cuts[0], lower, rate);
        step(&mut self.cuts[1], upper, rate);
        self.cuts[1].0 = self.cuts[1].0.max(self.cuts[0].0 + 0.05);
    }

    /// The weights in whole steps of one 127th of the largest.
    fn quantised(&self) -> Weights {
        let largest = self.buckets.iter().fold(0.0_f64, |largest, weight| largest.max(weight.0.abs()));
        let step = (largest / 127.0).max(f64::MIN_POSITIVE);
        Weights {
            bits: self.recipe.bits,
            step,
            cuts: self.cuts.map(|cut| cut.0),
            rules: self.rules.map(|weight| weight.0),
            buckets: self.buckets.iter().map(|weight| nearest(weight.0 / step)).collect(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the number is brought into an i8's range first")]
fn nearest(steps: f64) -> i8 {
    steps.round().clamp(-127.0, 127.0) as i8
}

/// Learns from `texts`.
fn fit(texts: &[&Text], recipe: Recipe, seed: u64, progress: Progress<'_>) -> Weights {
    let mut counts = vec![0_u32; 1 << recipe.bits];
    let mut examples: Vec<Example> = texts
        .iter()
        .map(|text| {
            let buckets = words::buckets(&text.text, recipe.bits);
            for number in &buckets {
                if let Some(count) = counts.get_mut(bucket(*number)) {
                    *count += 1;
                }
            }
            let scale = words::share(buckets.len());
            let class = class_of(text.rating, recipe.neutral);
            Example { buckets, scale, rules: words::rules(&text.text), class }
        })
        .collect();
    for example in &mut examples {
        example.buckets.retain(|number| counts.get(bucket(*number)).is_some_and(|count| *count >= recipe.least_texts));
    }
    let mut learner = Learner {
        recipe,
        buckets: vec![(0.0, 0.0); counts.len()],
        rules: [(0.0, 0.0); 3],
        cuts: [(-0.5, 0.0), (0.5, 0.0)],
    };
    let mut random = Random::new(seed, 1);
    for epoch in 0..recipe.epochs {
        random.shuffle(&mut examples);
        for example in &examples {
            learner.learn(example);
        }
        progress(&format!("pass {} of {}", epoch + 1, recipe.epochs));
    }
    learner.quantised()
}

/// Compares the model with the humans, over all texts and domain by domain.
fn evaluate(weights: &Weights, texts: &[&Text], neutral: f64) -> (Tally, BTreeMap<usize, Tally>) {
    let mut all = Tally::default();
    let mut parts: BTreeMap<usize, Tally> = BTreeMap::new();
    for text in texts {
        let chances = probabilities(weights.latent(&text.text), weights.cuts);
        for tally in [&mut all, parts.entry(text.domain).or_default()] {
            tally.add(class_of(text.rating, neutral), argmax(&chances), &chances);
            tally.add_sign(text.rating, chances[2] - chances[0]);
        }
    }
    (all, parts)
}

/// Splits by review or article: of ten, two are held out.
fn split(texts: &[Text], seed: u64) -> (Vec<&Text>, Vec<&Text>) {
    texts.iter().partition(|text| {
        let stream = (u64::try_from(text.domain).unwrap_or(0) << 32) | u64::from(text.group);
        Random::new(seed, stream).below(10) >= 2
    })
}

/// Trains on the data at `path`, and returns the card and the artifact's bytes.
///
/// # Errors
///
/// When the data cannot be read or is not what is expected.
pub fn train(path: &Path, recipe: Recipe, seed: u64, progress: Progress<'_>) -> Result<(Card, Vec<u8>), TrainError> {
    let (texts, sha256) = corpus::read(path)?;
    let (training, held_out) = split(&texts, seed);
    if training.is_empty() || held_out.is_empty() {
        return Err(TrainError::Data("there are too few texts to train and to test".to_owned()));
    }
    progress(&format!("{} texts for training, {} held out", training.len(), held_out.len()));
    let weights = fit(&training, recipe, seed, progress);
    let (all, parts) = evaluate(&weights, &held_out, recipe.neutral);
    let domain = |index: usize| DOMAINS.get(index).map_or("other", |(name, _)| *name).to_owned();
    let golden = GOLDEN.map(|text| {
        let chances = probabilities(weights.latent(text), weights.cuts);
        Golden { row: vec![Cell::Text(text.to_owned())], class: argmax(&chances), probabilities: chances.to_vec() }
    });
    let card = Card {
        kind: Kind::Sentiment,
        name: "sentiment".to_owned(),
        description: "Whether an English text sounds negative, neutral or positive".to_owned(),
        features: vec![Feature {
            name: "text".to_owned(),
            kind: FeatureType::Text,
            unit: "bytes of UTF-8".to_owned(),
            bounds: Bounds { above: 0.0, at_most: 8192.0 },
            training_range: None,
            quantiles: None,
        }],
        classes: CLASSES.map(str::to_owned).to_vec(),
        metrics: Metrics {
            split: "one fifth held out by whole review or article; class by mean human rating, neutral within ±0.5 of -4..4"
                .to_owned(),
            held_out: all.finish(),
            parts: parts.into_iter().map(|(index, tally)| (domain(index), tally.finish())).collect(),
            folds: Vec::new(),
        },
        data: Data {
            source: "rated texts of Hutto & Gilbert, VADER, ICWSM 2014 (MIT), from the source distribution of \
                     vaderSentiment 3.3.2; digest over the four ground-truth files in alphabetical order"
                .to_owned(),
            sha256,
            training_rows: u32::try_from(training.len()).unwrap_or(u32::MAX),
            class_rows: (0..CLASSES.len()).map(|class| rows_of(&training, class, recipe.neutral)).collect(),
        },
        seed,
        hyper_parameters: [
            ("bits", f64::from(recipe.bits)),
            ("epochs", f64::from(recipe.epochs)),
            ("rate", recipe.rate),
            ("decay", recipe.decay),
            ("least_texts", f64::from(recipe.least_texts)),
            ("neutral", recipe.neutral),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        crates: crates(&[("vader-sentimental", VADER)]),
        golden: golden.to_vec(),
    };
    let bytes = artifact::encode(&card, &weights.encode())?;
    Ok((card, bytes))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::model::{self, Rows};

    fn train(path: &Path, recipe: Recipe, seed: u64) -> Result<(Card, Vec<u8>), TrainError> {
        super::train(path, recipe, seed, &mut |_| {})
    }

    /// Four small files in which "fine" is good and "awful" is bad, whatever the VADER rules think.
    fn corpus(directory: &Path) {
        for (_, name) in DOMAINS {
            let mut lines = String::new();
            for group in 0..40 {
                let (rating, text) = [(2.0, "a fine blorp"), (-2.0, "an awful blorp"), (0.0, "the blorp")][group % 3];
                let _ = write!(lines, "{group}_1\t{rating}\t{text}\r\n");
            }
            std::fs::write(directory.join(name), lines).expect("written");
        }
    }

    #[test]
    fn it_learns_and_the_same_seed_gives_the_same_bytes() {
        let directory = tempfile::tempdir().expect("directory");
        corpus(directory.path());
        let recipe = Recipe { bits: 10, rate: 0.5, ..Recipe::default() };
        let (card, bytes) = train(directory.path(), recipe, 1).expect("trained");
        assert_eq!(bytes, train(directory.path(), recipe, 1).expect("trained").1);
        assert!(card.metrics.held_out.accuracy > 0.9, "{:?}", card.metrics);
        assert_eq!(card.metrics.parts.len(), 4);
        let model = model::load(&bytes).expect("loads");
        assert_eq!(argmax(&model.predict_all(&Rows::Texts(vec!["an awful blorp".into()]))), 0);
    }

    #[test]
    fn groups_are_never_split() {
        let texts: Vec<Text> = (0..400)
            .map(|number| Text {
                domain: number % 4,
                group: u32::try_from(number / 8).expect("small"),
                rating: 0.0,
                text: String::new(),
            })
            .collect();
        let (training, held_out) = split(&texts, 1);
        assert!(!training.is_empty() && !held_out.is_empty());
        for text in training {
            assert!(held_out.iter().all(|other| (other.domain, other.group) != (text.domain, text.group)));
        }
    }

    #[test]
    fn missing_or_malformed_data_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        assert!(matches!(train(directory.path(), Recipe::default(), 1), Err(TrainError::Read(_))));
        for (_, name) in DOMAINS {
            std::fs::write(directory.path().join(name), "nonsense").expect("written");
        }
        assert!(matches!(train(directory.path(), Recipe::default(), 1), Err(TrainError::Data(_))));
    }
}
