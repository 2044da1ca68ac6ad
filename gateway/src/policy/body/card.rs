//! A model's card: what each of its features may be, and what it was trained on.
//!
//! It is a model's own description, as its worker publishes it (`card` in the metadata of the Open Inference Protocol) or as a
//! file. Read as hostile input either way. Several versions that answer together have one card in common: a value that
//! satisfies it satisfies each of theirs.

use std::collections::HashMap;

use serde_json::Value;

use crate::policy::json;

/// The most features of a model.
const MOST_FEATURES: usize = 4096;
/// The longest name or version, in characters.
const MOST_NAME: usize = 128;
/// How deep a card may be nested, the metadata around it included.
const DEPTH: usize = 16;

/// What a card says of one feature.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Feature {
    pub(super) name: Box<str>,
    /// Values must be larger.
    pub(super) above: f64,
    /// Values must not be larger.
    pub(super) at_most: f64,
    /// The smallest and the largest that the model was trained on.
    pub(super) seen: Option<(f64, f64)>,
}

/// Which model a card is of, where it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: Option<Box<str>>,
    /// And its version.
    pub version: Option<Box<str>>,
}

/// The part of a model card that rows are held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    pub(super) features: Vec<Feature>,
    places: HashMap<Box<str>, usize>,
    /// The models that it is the card of.
    models: Vec<Model>,
}

impl Card {
    /// Reads a card, or the metadata that it is the `card` of.
    ///
    /// # Errors
    /// Why it is none, as the end of a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let whole = json::parse(bytes, DEPTH).map_err(|wrong| format!("is not JSON: {}", wrong.detail))?;
        let card = whole.get("card").unwrap_or(&whole);
        let listed = card.get("features").and_then(Value::as_array).ok_or("has no `features`")?;
        if listed.is_empty() || listed.len() > MOST_FEATURES {
            return Err(format!("has no feature, or more than {MOST_FEATURES}"));
        }
        let mut features: Vec<Feature> = Vec::with_capacity(listed.len());
        let mut places = HashMap::with_capacity(listed.len());
        for (index, feature) in listed.iter().enumerate() {
            let number = |pointer: &str| feature.pointer(pointer).and_then(Value::as_f64);
            let wrong = |what: &str| format!("has a feature with {what} (/features/{index})");
            let name = feature.get("name").and_then(Value::as_str).ok_or_else(|| wrong("no name"))?;
            if !is_word(name) {
                return Err(wrong("a name that is empty, too long or not plain text"));
            }
            if feature.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "number") {
                return Err(wrong("another type than number, which has no bounds to hold"));
            }
            let (above, at_most) = (number("/bounds/above"), number("/bounds/at_most"));
            let (above, at_most) =
                above.zip(at_most).filter(|(above, at_most)| above < at_most).ok_or_else(|| wrong("no bounds"))?;
            let seen = number("/training_range/minimum").zip(number("/training_range/maximum"));
            if seen.is_some_and(|(minimum, maximum)| minimum > maximum) {
                return Err(wrong("a training range that is upside down"));
            }
            if places.insert(name.into(), index).is_some() {
                return Err(wrong("a name that another has"));
            }
            features.push(Feature { name: name.into(), above, at_most, seen });
        }
        let word = |value: Option<&Value>, what: &str| match value.and_then(Value::as_str) {
            Some(text) if is_word(text) => Ok(Some(text.into())),
            Some(_) => Err(format!("has a {what} that is empty, too long or not plain text")),
            None => Ok(None),
        };
        let named = whole.get("card").and(whole.get("name"));
        let model = Model { name: word(named, "name")?, version: word(card.get("version"), "version")? };
        Ok(Self { features, places, models: vec![model] })
    }

    /// The card that several have in common; `None` where they don't have the same features in the same order.
    pub fn common<'c>(mut cards: impl Iterator<Item = &'c Self>) -> Option<Self> {
        let mut common = cards.next()?.clone();
        for other in cards {
            if !common.has_features_of(other) {
                return None;
            }
            for (ours, theirs) in common.features.iter_mut().zip(&other.features) {
                (ours.above, ours.at_most) = (ours.above.max(theirs.above), ours.at_most.min(theirs.at_most));
                ours.seen = match (ours.seen, theirs.seen) {
                    (Some(ours), Some(theirs)) => Some((ours.0.max(theirs.0), ours.1.min(theirs.1))),
                    (ours, theirs) => ours.or(theirs),
                };
            }
            for model in &other.models {
                if !common.models.contains(model) {
                    common.models.push(model.clone());
                }
            }
        }
        Some(common)
    }

    /// Whether both have the same features in the same order, so that a row of the one is a row of the other.
    #[must_use]
    pub fn has_features_of(&self, other: &Self) -> bool {
        self.features.iter().map(|feature| &feature.name).eq(other.features.iter().map(|feature| &feature.name))
    }

    /// Whether it is the card of the model and version that a request names; either is empty where none is named. What a card
    /// does not say is not held against it.
    #[must_use]
    pub fn is_of(&self, name: &str, version: &str) -> bool {
        let same =
            |asked: &str, own: &Option<Box<str>>| asked.is_empty() || own.as_deref().is_none_or(|own| own == asked);
        self.models.iter().all(|model| same(name, &model.name) && same(version, &model.version))
    }

    /// The models that it is the card of: several, where it is common to several.
    #[must_use]
    pub fn models(&self) -> &[Model] {
        &self.models
    }

    /// How many features there are.
    #[must_use]
    pub fn width(&self) -> usize {
        self.features.len()
    }

    /// Where a feature stands.
    pub(super) fn place(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }
}

/// Whether a text can stand in a log and a header: of bounded length, without control characters.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= MOST_NAME && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn card(version: &str, bounds: (f64, f64), seen: Option<(f64, f64)>) -> Card {
        let mut feature = json!({ "name": "a", "bounds": { "above": bounds.0, "at_most": bounds.1 } });
        if let Some((minimum, maximum)) = seen {
            feature["training_range"] = json!({ "minimum": minimum, "maximum": maximum });
        }
        let whole = json!({ "name": "m", "card": { "version": version, "features": [feature] } });
        Card::parse(whole.to_string().as_bytes()).expect("a card")
    }

    #[test]
    fn what_is_no_card_is_told() {
        let long = format!(r#"{{"features":[{{"name":"{}","bounds":{{"above":0,"at_most":1}}}}]}}"#, "a".repeat(129));
        let many = json!({ "features": vec![json!({ "name": "a" }); MOST_FEATURES + 1] }).to_string();
        let deep = format!(r#"{{"features":{}1{}}}"#, "[".repeat(20), "]".repeat(20));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"features":[]}"#,
            r#"{"features":[{}]}"#,
            r#"{"features":[{"name":"a"}]}"#,
            r#"{"features":[{"name":"","bounds":{"above":0,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a\r\nb","bounds":{"above":0,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":2,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":0,"at_most":1e999}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":"0","at_most":1}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":0,"at_most":1},"training_range":{"minimum":2,"maximum":1}}]}"#,
            r#"{"features":[{"name":"a","type":"text","bounds":{"above":0,"at_most":1}}]}"#,
            r#"{"features":[{"name":"a","bounds":{"above":0,"at_most":1}},{"name":"a","bounds":{"above":0,"at_most":1}}]}"#,
            r#"{"version":"1\n2","features":[{"name":"a","bounds":{"above":0,"at_most":1}}]}"#,
            &long,
            &many,
            &deep,
        ] {
            assert!(Card::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_satisfies_the_common_card_satisfies_each() {
        let (one, two) = (card("1", (0.0, 30.0), Some((1.0, 5.0))), card("2", (-5.0, 20.0), Some((2.0, 9.0))));
        let common = Card::common([&one, &two, &card("3", (-9.0, 90.0), None)].into_iter()).expect("the same features");
        let feature = &common.features[0];
        assert_eq!((feature.above, feature.at_most, feature.seen), (0.0, 20.0, Some((2.0, 5.0))));
        assert_eq!(common.models().len(), 3);
        let other = Card::parse(br#"{"features":[{"name":"b","bounds":{"above":0,"at_most":1}}]}"#).expect("a card");
        assert!(Card::common([&one, &other].into_iter()).is_none());
        assert!(Card::common(std::iter::empty()).is_none());
    }

    #[test]
    fn a_card_of_another_model_or_version_is_none_of_what_is_asked() {
        let one = card("1", (0.0, 30.0), None);
        assert!(one.is_of("", "") && one.is_of("m", "1") && one.is_of("m", ""));
        assert!(!one.is_of("n", "1") && !one.is_of("m", "2"));
        let both = Card::common([&one, &card("2", (0.0, 30.0), None)].into_iter()).expect("the same features");
        assert!(both.is_of("m", "") && !both.is_of("m", "1"), "the other's values may be outside this one's");
    }
}
