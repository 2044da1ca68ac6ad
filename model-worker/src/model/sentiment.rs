//! The sentiment engine: ordinal logistic regression (the proportional odds model). A text gets one number
//! from its words and the VADER rules; two cuts on that number's axis give the three classes their probabilities.
//!
//! Payload: number of bits of a bucket (u16), weight of one step (f64), lower and upper cut (2 × f64), weights of the
//! rules (3 × f64), then one signed byte for each of the 2^bits buckets.

use super::artifact::{ArtifactError, Reader};
use super::card::{Card, FeatureType};
use super::words;

/// Bits that a bucket's number may have.
const BITS: std::ops::RangeInclusive<u16> = 4..=22;

/// The numbers of a sentiment model.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// log2 of the number of buckets.
    pub bits: u8,
    /// What one step of a bucket's weight is worth.
    pub step: f64,
    /// Below the first: negative. Above the second: positive.
    pub cuts: [f64; 2],
    /// Weights of [`words::rules`].
    pub rules: [f64; 3],
    /// Steps, one for each bucket.
    pub buckets: Vec<i8>,
}

/// 1 / (1 + e^-x)
#[must_use]
pub fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Probabilities of negative, neutral and positive at `latent`.
#[must_use]
pub fn probabilities(latent: f64, cuts: [f64; 2]) -> [f64; 3] {
    let [lower, upper] = cuts;
    let negative = logistic(lower - latent);
    let positive = logistic(latent - upper);
    [negative, (1.0 - negative - positive).max(0.0), positive]
}

impl Weights {
    /// The text's place on the axis.
    #[must_use]
    pub fn latent(&self, text: &str) -> f64 {
        let buckets = words::buckets(text, self.bits);
        let steps: f64 = buckets
            .iter()
            .filter_map(|bucket| self.buckets.get(usize::try_from(*bucket).ok()?))
            .map(|step| f64::from(*step))
            .sum();
        let rules: f64 = words::rules(text).iter().zip(self.rules).map(|(value, weight)| value * weight).sum();
        steps * self.step * words::share(buckets.len()) + rules
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = u16::from(self.bits).to_le_bytes().to_vec();
        for number in [self.step].iter().chain(&self.cuts).chain(&self.rules) {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend(self.buckets.iter().map(|step| step.to_le_bytes()[0]));
        payload
    }

    fn decode(payload: &[u8]) -> Result<Self, ArtifactError> {
        let mut reader = Reader(payload);
        let bits = reader.u16().ok_or(ArtifactError::Truncated)?;
        if !BITS.contains(&bits) {
            return Err(ArtifactError::Payload("the number of buckets is not one that this worker takes"));
        }
        let mut numbers = [0.0; 6];
        for number in &mut numbers {
            *number = reader.f64().ok_or(ArtifactError::Truncated)?;
        }
        let [step, lower, upper, compound, positive, negative] = numbers;
        if !numbers.iter().all(|number| number.is_finite()) || lower > upper {
            return Err(ArtifactError::Payload("a weight is not finite, or the cuts are in the wrong order"));
        }
        if reader.0.len() != 1 << bits {
            return Err(ArtifactError::Payload("there is not one weight for each bucket"));
        }
        Ok(Self {
            bits: u8::try_from(bits).map_err(|_| ArtifactError::Truncated)?,
            step,
            cuts: [lower, upper],
            rules: [compound, positive, negative],
            buckets: reader.0.iter().map(|byte| i8::from_le_bytes([*byte])).collect(),
        })
    }
}

/// A sentiment model and its card.
#[derive(Debug)]
pub struct Sentiment {
    card: Card,
    weights: Weights,
}

impl Sentiment {
    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn decode(card: Card, payload: &[u8]) -> Result<Self, ArtifactError> {
        let takes_text = matches!(card.features.as_slice(), [feature] if feature.kind == FeatureType::Text);
        if !takes_text || card.classes.len() != 3 {
            return Err(ArtifactError::Payload("a sentiment model takes one text and knows three classes"));
        }
        Ok(Self { card, weights: Weights::decode(payload)? })
    }
}

impl Sentiment {
    /// What it takes and gives.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Probabilities of negative, neutral and positive.
    #[must_use]
    pub fn predict(&self, text: &str) -> [f64; 3] {
        probabilities(self.weights.latent(text), self.weights.cuts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::argmax;

    fn weights() -> Weights {
        Weights { bits: 4, step: 0.1, cuts: [-1.0, 1.0], rules: [1.0, 0.5, -0.5], buckets: vec![3; 16] }
    }

    #[test]
    fn probabilities_add_up_and_follow_the_axis() {
        for latent in [-800.0, -3.0, 0.0, 0.7, 3.0, 800.0] {
            let sum: f64 = probabilities(latent, [-0.5, 0.7]).iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{latent}");
        }
        assert_eq!(argmax(&probabilities(-3.0, [-1.0, 1.0])), 0);
        assert_eq!(argmax(&probabilities(0.0, [-1.0, 1.0])), 1);
        assert_eq!(argmax(&probabilities(3.0, [-1.0, 1.0])), 2);
    }

    #[test]
    fn weights_survive_writing_and_reading() {
        assert_eq!(Weights::decode(&weights().encode()), Ok(weights()));
    }

    #[test]
    fn hostile_payloads_are_refused() {
        let good = weights().encode();
        assert!(Weights::decode(&good[..good.len() - 1]).is_err());
        assert!(Weights::decode(&[good.as_slice(), &[0]].concat()).is_err());
        assert!(Weights::decode(&[]).is_err());
        let not_finite = Weights { step: f64::NAN, ..weights() };
        assert!(Weights::decode(&not_finite.encode()).is_err());
        let crossed = Weights { cuts: [1.0, -1.0], ..weights() };
        assert!(Weights::decode(&crossed.encode()).is_err());
        let mut huge = good;
        huge[0] = 60;
        assert!(Weights::decode(&huge).is_err());
    }
}
