//! What is wrong with a body, fault by fault: where, which rule, what it allows, what was sent.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{ValidationError, Validator};
use serde::Serialize;
use serde_json::Value;

use crate::policy::json;

/// How many faults one answer lists. More would only help somebody who sends garbage.
pub(super) const MOST_FAULTS: usize = 32;
/// How much of a wrong value is shown back.
const MOST_SHOWN: usize = 64;

/// One thing that is wrong with a body.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fault {
    /// Where (RFC 6901).
    pub pointer: String,
    /// Which rule, such as `maximum`.
    pub code: &'static str,
    /// What is wrong, in words.
    pub detail: String,
    /// What the rule allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Value>,
    /// What was sent, cut where it is long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Value>,
}

pub(super) fn faults(schema: &Validator, value: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    for error in schema.iter_errors(value) {
        explain(&error, &mut faults);
        if faults.len() >= MOST_FAULTS {
            faults.truncate(MOST_FAULTS);
            break;
        }
    }
    faults
}

fn explain(error: &ValidationError<'_>, faults: &mut Vec<Fault>) {
    let pointer = error.instance_path().as_str();
    let sent = Some(shown(error.instance()));
    let mut add = |pointer: String, code, detail: String, limit: Option<Value>, sent| {
        faults.push(Fault { pointer, code, detail, limit, sent });
    };
    let here = pointer.to_owned();
    match error.kind() {
        Kind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            add(format!("{pointer}/{}", json::escape(name)), "required", "is missing".into(), None, None);
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            for name in unexpected {
                let at = format!("{pointer}/{}", json::escape(name));
                add(at, "unknown_member", "is not a member that is known here".into(), None, None);
            }
        }
        Kind::Type { kind } => {
            let types = match kind {
                TypeKind::Single(one) => Value::from(one.to_string()),
                TypeKind::Multiple(many) => many.iter().map(|one| Value::from(one.to_string())).collect(),
            };
            let was = type_name(error.instance());
            add(here, "type", format!("must be {}, was {was}", plain(&types)), Some(types), sent);
        }
        Kind::Minimum { limit } => add(here, "minimum", format!("must be at least {limit}"), Some(limit.clone()), sent),
        Kind::Maximum { limit } => add(here, "maximum", format!("must be at most {limit}"), Some(limit.clone()), sent),
        Kind::ExclusiveMinimum { limit } => {
            add(here, "exclusive_minimum", format!("must be more than {limit}"), Some(limit.clone()), sent);
        }
        Kind::ExclusiveMaximum { limit } => {
            add(here, "exclusive_maximum", format!("must be less than {limit}"), Some(limit.clone()), sent);
        }
        Kind::MinLength { limit } => {
            add(here, "min_length", format!("must have at least {limit} characters"), Some((*limit).into()), sent);
        }
        Kind::MaxLength { limit } => {
            add(here, "max_length", format!("must have at most {limit} characters"), Some((*limit).into()), sent);
        }
        Kind::MinItems { limit } => {
            add(here, "min_items", format!("must have at least {limit} elements"), Some((*limit).into()), None);
        }
        Kind::MaxItems { limit } => {
            add(here, "max_items", format!("must have at most {limit} elements"), Some((*limit).into()), None);
        }
        Kind::Enum { options } => {
            add(here, "enum", format!("must be one of {options}"), Some((**options).clone()), sent);
        }
        Kind::Constant { expected_value } => {
            add(here, "const", format!("must be {expected_value}"), Some((**expected_value).clone()), sent);
        }
        Kind::Pattern { pattern } => {
            add(here, "pattern", "does not have the form asked for".into(), Some(pattern.as_str().into()), sent);
        }
        // The other keywords are rare in request schemas; the keyword's name says which rule it was.
        _ => add(here, "schema", format!("breaks the rule `{}`", error.kind().keyword()), None, sent),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(many) => many.iter().map(plain).collect::<Vec<_>>().join(" or "),
        other => other.to_string(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as it is shown back: scalars, cut where long; of the rest only what it is.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => match text.char_indices().nth(MOST_SHOWN) {
            Some((end, _)) => Value::String(format!("{}…", text.get(..end).unwrap_or_default())),
            None => value.clone(),
        },
        Value::Array(_) | Value::Object(_) => Value::String(format!("({})", type_name(value))),
        scalar => scalar.clone(),
    }
}
