//! What `train` and `inspect` show: a card for people.

use std::fmt::Write;

use crate::model::card::{Card, Evaluation};

/// How to emphasise; nothing at all where colour is not wanted.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// A style with or without colour.
    #[must_use]
    pub fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn heading(self, text: &str) -> String {
        self.paint("1", text)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Truth by row, prediction by column; the diagonal is right.
fn confusion(evaluation: &Evaluation, classes: &[String], style: Style) -> String {
    let width = classes.iter().map(String::len).max().unwrap_or(0).max(6);
    let mut text = format!("  {:width$}", "truth");
    for class in classes {
        let _ = write!(text, "  {class:>width$}");
    }
    text.push('\n');
    for (truth, (class, row)) in classes.iter().zip(&evaluation.confusion).enumerate() {
        let _ = write!(text, "  {class:width$}");
        for (prediction, count) in row.iter().enumerate() {
            let cell = format!("{count:>width$}");
            let painted = match (truth == prediction, *count) {
                (true, _) => style.paint("32", &cell),
                (false, 0) => style.paint("2", &cell),
                (false, _) => style.paint("31", &cell),
            };
            let _ = write!(text, "  {painted}");
        }
        text.push('\n');
    }
    text
}

fn extremes(folds: &[f64]) -> Option<(f64, f64)> {
    let least = folds.iter().copied().reduce(f64::min)?;
    Some((least, folds.iter().copied().reduce(f64::max)?))
}

/// Classes that are shown one by one; of more, only what is true of all.
const SHOWN: usize = 20;

/// How good predictions are, as text of several lines.
#[must_use]
pub fn evaluation(evaluation: &Evaluation, classes: &[String], style: Style) -> String {
    let mut text = String::new();
    if classes.len() <= SHOWN {
        text.push_str(&confusion(evaluation, classes, style));
        let width = classes.iter().map(String::len).max().unwrap_or(0).max(6);
        for (class, figures) in classes.iter().zip(&evaluation.classes) {
            let (precision, recall) = (percent(figures.precision), percent(figures.recall));
            let _ = writeln!(text, "  {class:width$}  precision {precision}, recall {recall}");
        }
    }
    let _ = writeln!(
        text,
        "{}  Brier score {:.3}, calibration error {}",
        style.heading("calibration"),
        evaluation.brier,
        percent(evaluation.calibration_error)
    );
    for band in evaluation.calibration.iter().filter(|band| band.rows > 0) {
        let (probability, accuracy) = (percent(band.probability), percent(band.accuracy));
        let _ = writeln!(text, "  said {probability:>8}, right {accuracy:>8}, {} rows", band.rows);
    }
    text
}

/// The card as text of several lines.
#[must_use]
pub fn card(card: &Card, style: Style) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}  {}", style.heading(&card.name), card.description);
    let _ = writeln!(text, "{}", style.heading("features"));
    for feature in &card.features {
        let bounds = format!("above {}, at most {} {}", feature.bounds.above, feature.bounds.at_most, feature.unit);
        let seen = feature
            .training_range
            .map_or(String::new(), |range| format!("; trained on {} to {}", range.minimum, range.maximum));
        let _ = writeln!(text, "  {:14}{bounds}{seen}", feature.name);
    }
    let held_out = &card.metrics.held_out;
    let _ = writeln!(text, "{}  {}", style.heading("held out"), card.metrics.split);
    let _ = writeln!(
        text,
        "  accuracy {} of {} rows, log loss {:.3}",
        percent(held_out.accuracy),
        held_out.rows,
        held_out.log_loss
    );
    if let Some(sign) = held_out.sign_accuracy {
        let _ = writeln!(text, "  positive or negative told apart: {}", percent(sign));
    }
    if let Some((least, most)) = extremes(&card.metrics.folds) {
        let _ = writeln!(text, "  {} to {} in the {} parts", percent(least), percent(most), card.metrics.folds.len());
    }
    text.push_str(&evaluation(held_out, &card.classes, style));
    for (name, part) in &card.metrics.parts {
        let sign = part.sign_accuracy.map_or(String::new(), |sign| format!(", sign {}", percent(sign)));
        let _ = writeln!(text, "  {name:14}{}{sign}, {} rows", percent(part.accuracy), part.rows);
    }
    let _ = writeln!(text, "{}  {}", style.heading("data"), card.data.source);
    let _ = writeln!(text, "  {} rows for training, sha256 {}", card.data.training_rows, card.data.sha256);
    let pairs = |pairs: &mut dyn Iterator<Item = String>| pairs.collect::<Vec<_>>().join(", ");
    let choices = pairs(&mut card.hyper_parameters.iter().map(|(name, value)| format!("{name} {value}")));
    let _ = writeln!(text, "{}  seed {}, {choices}", style.heading("made with"), card.seed);
    let _ = writeln!(text, "  {}", pairs(&mut card.crates.iter().map(|(name, version)| format!("{name} {version}"))));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_only_where_it_is_wanted() {
        let (trained, _) = crate::train::iris::train(3, 1, &mut |_| {}).expect("trained");
        let plain = card(&trained, Style::new(false));
        assert!(!plain.contains('\u{1b}'));
        assert!(plain.contains("setosa") && plain.contains("petal_width"), "{plain}");
        assert!(card(&trained, Style::new(true)).contains('\u{1b}'));
    }
}
