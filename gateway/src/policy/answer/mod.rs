//! How much of a prediction may this caller see? Rules by role, applied to a worker's answer before it leaves.
//!
//! Only what a rule shows passes: of an answer that is shaped, members that are not known to be part of a prediction
//! (node ids, margins, timings) are left out, and one that is not of the declared form is not passed on. What this does
//! not do: answers that are shaped still say which class is meant, so whoever may ask often enough can train a copy on
//! labels alone. It makes each answer worth less; limits that count rows make many answers dear.

pub mod declared;
mod oip;
mod predict;
mod probabilities;

use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};

use super::authorize::Roles;
use crate::settings::{ByteSize, Named, Section};
use crate::types::{Name, Principal, Role};

use probabilities::Grid;

/// The longest answer that a rule can have read.
const MOST_WHOLE: usize = 16 << 20;

/// The form of a worker's predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `{"label": …, "probabilities": {…}}`, or a list of those in `predictions`.
    Predict,
    /// The Open Inference Protocol, version 2.
    Oip,
}

impl Named for Form {
    const SHAPE: &'static str = "\"predict\" or \"oip-v2\"";
    const NAMES: &'static [(&'static str, Self)] = &[("predict", Self::Predict), ("oip-v2", Self::Oip)];
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Label,
    Top,
    All,
}

impl Named for Word {
    const SHAPE: &'static str = "\"label\", \"top\" or \"all\"";
    const NAMES: &'static [(&'static str, Self)] = &[("label", Self::Label), ("top", Self::Top), ("all", Self::All)];
}

/// What is shown of probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    /// None.
    Label,
    /// The largest so many.
    Top(usize),
    /// Each.
    All,
}

/// The outputs of a model by what they are, for the Open Inference Protocol.
#[derive(Debug)]
struct Outputs {
    labels: Box<[Box<str>]>,
    probabilities: Box<[Box<str>]>,
    scores: Box<[Box<str>]>,
}

/// One `[answers.NAME]`.
#[derive(Debug)]
pub struct AnswerRule {
    /// Its name.
    pub name: Name,
    form: Form,
    show: Show,
    grid: Option<Grid>,
    outputs: Outputs,
    max: usize,
}

/// All rules by name.
#[derive(Debug, Default)]
pub struct AnswerRules(HashMap<Name, Arc<AnswerRule>>);

impl AnswerRules {
    /// Reads every `[answers.NAME]`.
    #[must_use]
    pub fn compile(root: &Section<'_>) -> Self {
        let mut rules = HashMap::new();
        for section in root.sections("answers") {
            if &*section.name() == FULL {
                section.mistake_here(
                    "is called \"full\", which already means answers as they are",
                    "give it another name",
                );
            }
            let rule = AnswerRule::compile(&section);
            section.finish();
            rules.extend(rule.map(|rule| (Name::clone(&rule.name), Arc::new(rule))));
        }
        Self(rules)
    }
}

/// The word for answers as workers give them.
const FULL: &str = "full";

impl AnswerRule {
    fn compile(section: &Section<'_>) -> Option<Self> {
        let form: Option<Form> = section.required("form", "write \"predict\" or \"oip-v2\"");
        let word: Option<Word> = section.required("show", "write \"label\", \"top\" (of so many classes) or \"all\"");
        let top = section.optional::<usize>("top");
        match (word, top) {
            (Some(Word::Top), None) => section.missing("top", "write how many classes are shown: top = 1"),
            (Some(Word::Top), Some(0)) => section.mistake("top", "is 0", "write show = \"label\", or a larger number"),
            (Some(Word::Label | Word::All), Some(_)) => {
                section.mistake("top", "stands without show = \"top\"", "write show = \"top\", or remove it");
            }
            _ => {}
        }
        let steps = section.optional::<u32>("steps");
        if steps.is_some_and(|steps| !(2..=1_000_000).contains(&steps)) {
            section.mistake("steps", "is not from 2 to 1000000", "write 100 for two decimals, 10 for tenths");
        }
        if steps.is_some() && word == Some(Word::Label) {
            section.mistake("steps", "stands beside show = \"label\", which shows no number", "remove it");
        }
        let names = |key: &str, default: &[&str]| {
            let names = section.all::<String>(key);
            if names.is_empty() {
                default.iter().map(|name| Box::from(*name)).collect()
            } else {
                names.into_iter().map(Into::into).collect()
            }
        };
        let ByteSize(max) = section.or("max", ByteSize(1 << 20));
        if !(1..=MOST_WHOLE).contains(&max) {
            section.mistake("max", "is 0, or more than is held in memory", "write at most \"16MiB\"");
        }
        let outputs = Outputs {
            labels: names("labels", &["label", "class_name", "class", "predict", "prediction"]),
            probabilities: names("probabilities", &["probabilities", "predict_proba"]),
            scores: names("scores", &["score"]),
        };
        if form == Some(Form::Predict) {
            for key in ["labels", "probabilities", "scores"].into_iter().filter(|key| section.has(key)) {
                section.mistake(key, "names outputs, and only form = \"oip-v2\" has any", "remove it");
            }
        }
        Some(Self {
            name: section.name(),
            form: form?,
            show: match word? {
                Word::Label => Show::Label,
                Word::Top => Show::Top(top.unwrap_or(1)),
                Word::All => Show::All,
            },
            grid: steps.map(Grid::new),
            outputs,
            max,
        })
    }

    /// How much it shows, to compare.
    fn openness(&self) -> (usize, u32) {
        let shown = match self.show {
            Show::Label => 0,
            Show::Top(most) => most,
            Show::All => usize::MAX,
        };
        (shown, self.grid.map_or(u32::MAX, Grid::steps))
    }

    /// The longest answer that is read, in octets.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Shapes the body of a worker's answer, which succeeded. `headers` are changed where they would no longer be true.
    ///
    /// # Errors
    /// [`Undeclared`], if it is not of the form that the rule declares.
    pub fn apply(&self, status: StatusCode, headers: &mut HeaderMap, body: &[u8]) -> Result<Vec<u8>, Undeclared> {
        if status != StatusCode::OK {
            return Err(Undeclared("it is a part, or something else than an answer"));
        }
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Undeclared("it has a coding that was not asked for"));
        }
        let shaped = match self.form {
            Form::Predict => predict::shape(self, headers, body)?,
            Form::Oip => oip::shape(self, headers, body)?,
        };
        forget(headers);
        Ok(shaped)
    }
}

/// Removes what was true of the worker's octets and is not true of those in their place.
pub fn forget(headers: &mut HeaderMap) {
    for name in [
        "etag",
        "last-modified",
        "accept-ranges",
        "content-range",
        "content-md5",
        "digest",
        "content-digest",
        "repr-digest",
    ] {
        headers.remove(name);
    }
}

/// Whether a media type is JSON.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// The answer is not of the form that the rule declares; why, for the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undeclared(pub &'static str);

/// Which rule a route has for whom.
#[derive(Debug, Default)]
pub struct Answers {
    everybody: Option<Arc<AnswerRule>>,
    /// What holders of a role see instead; nothing where that is everything.
    roles: Box<[(Role, Option<Arc<AnswerRule>>)]>,
}

impl Answers {
    /// Reads a route's `answers` and `answers_for`.
    #[must_use]
    pub fn compile(section: &Section<'_>, defined: &AnswerRules, roles: &Roles) -> Self {
        let find = |section: &Section<'_>, key: &str, name: &str| {
            if name == FULL {
                return None;
            }
            let found = defined.0.get(name).cloned();
            if found.is_none() {
                let names: Vec<&str> = defined.0.keys().map(|name| &**name).collect();
                section.undefined(key, None, ("answer rule", "answers"), name, &names);
            }
            found
        };
        let everybody = section.optional::<String>("answers").and_then(|name| find(section, "answers", &name));
        let mut by_role = Vec::new();
        if let Some(table) = section.section("answers_for") {
            if everybody.is_none() {
                section.mistake(
                    "answers_for",
                    "stands without `answers`, so everybody sees all anyway",
                    "write `answers` for the others",
                );
            }
            for key in table.keys() {
                let shown = table.optional::<String>(key).and_then(|name| find(&table, key, &name));
                if let Some(role) = roles.find(key) {
                    by_role.push((role, shown));
                } else {
                    let names: Vec<&str> = roles.names().iter().map(|name| &**name).collect();
                    table.undefined(key, None, ("role", "roles"), key, &names);
                }
            }
            table.finish();
        }
        Self { everybody, roles: by_role.into() }
    }

    /// The rule for a caller: of those for the roles that it holds the one that shows most.
    #[must_use]
    pub fn rule(&self, principal: &Principal) -> Option<&Arc<AnswerRule>> {
        let everybody = self.everybody.as_ref()?;
        let mut held = self.roles.iter().filter(|(role, _)| principal.roles.contains(*role)).map(|(_, rule)| rule);
        let Some(first) = held.next() else { return Some(everybody) };
        held.fold(first.as_ref(), |most, rule| match (most, rule) {
            (Some(most), Some(rule)) => Some(if rule.openness() > most.openness() { rule } else { most }),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::with_section;
    use http::HeaderValue;
    use serde_json::{Value, json};

    pub(super) fn rule(toml: &str) -> AnswerRule {
        let (rule, mistakes) = with_section(toml, AnswerRule::compile);
        assert_eq!(mistakes, []);
        rule.expect("a rule")
    }

    fn shaped(toml: &str, answer: &Value) -> Result<Value, Undeclared> {
        let mut headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))]);
        let body = rule(toml).apply(StatusCode::OK, &mut headers, answer.to_string().as_bytes())?;
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn predictions_lose_what_is_not_shown() {
        let row = json!({
            "prediction": 1, "label": "b", "score": 0.512_34, "nodes": [1, 2], "margin": 7.5,
            "probabilities": { "a": 0.123_4, "b": 0.654_3, "c": 0.222_3 }, "out_of_training_range": ["x"],
        });
        let mut answer = row.clone();
        answer["model"] = json!("iris");
        answer["took_ms"] = json!(3);
        let label = json!({ "prediction": 1, "label": "b", "out_of_training_range": ["x"], "model": "iris" });
        assert_eq!(shaped("form = \"predict\"\nshow = \"label\"", &answer), Ok(label));
        let top = json!({ "prediction": 1, "label": "b", "out_of_training_range": ["x"], "model": "iris", "probabilities": { "b": 0.6 } });
        assert_eq!(shaped("form = \"predict\"\nshow = \"top\"\ntop = 1\nsteps = 10", &answer), Ok(top));
        let many = json!({ "predictions": [row, row], "version": "2" });
        let all = json!({
            "prediction": 1, "label": "b", "out_of_training_range": ["x"], "score": 0.51,
            "probabilities": { "a": 0.12, "b": 0.66, "c": 0.22 },
        });
        assert_eq!(
            shaped("form = \"predict\"\nshow = \"all\"\nsteps = 100", &many),
            Ok(json!({ "predictions": [all, all], "version": "2" }))
        );
    }

    #[test]
    fn what_is_not_of_the_form_is_not_passed_on() {
        for answer in [
            json!([]),
            json!("label"),
            json!({}),
            json!({ "predictions": [] , "label": "a" }),
            json!({ "label": "a", "probabilities": "0.5" }),
            json!({ "label": "a", "probabilities": { "a": "0.5" } }),
            json!({ "label": "a", "probabilities": { "a": -0.5 } }),
            json!({ "label": { "a": 1 } }),
            json!({ "predictions": [{ "label": "a" }, 3.5] }),
        ] {
            assert!(shaped("form = \"predict\"\nshow = \"all\"", &answer).is_err(), "{answer}");
        }
        let rule = rule("form = \"predict\"\nshow = \"all\"");
        let mut headers = HeaderMap::new();
        assert!(rule.apply(StatusCode::OK, &mut headers, b"{\"label\":\"a\"}").is_err(), "no media type");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(rule.apply(StatusCode::OK, &mut headers, b"{\"label\":\"a\"}").is_ok());
        assert!(rule.apply(StatusCode::OK, &mut headers, b"{\"label\":\"a\",\"label\":\"b\"}").is_err(), "two labels");
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(rule.apply(StatusCode::OK, &mut headers, b"{\"label\":\"a\"}").is_err());
    }
}
