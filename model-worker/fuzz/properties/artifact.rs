//! A file that somebody wrote who can compute checksums: it is refused, or it is a model that predicts.

use model_worker::model::card::FeatureType;
use model_worker::model::{self, Rows};

/// `octets` are a whole file but for the checksum.
pub(crate) fn check(octets: &[u8]) {
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    let file = [octets, sum.as_ref()].concat();
    let Ok(model) = model::load(&file) else {
        return;
    };
    let card = model.card();
    let text = card.features.iter().any(|feature| feature.kind == FeatureType::Text);
    for value in [-1e300, -1.5, 0.0, 1.0, 2.45, 1e300] {
        let rows =
            if text { Rows::Texts(vec!["not bad".into()]) } else { Rows::Numbers(vec![value; card.features.len()]) };
        let probabilities = model.predict_all(&rows);
        assert_eq!(probabilities.len(), card.classes.len());
        let sum: f64 = probabilities.iter().sum();
        assert!(probabilities.iter().all(|number| (0.0..=1.0).contains(number)) && (sum - 1.0).abs() < 1e-6);
    }
}
