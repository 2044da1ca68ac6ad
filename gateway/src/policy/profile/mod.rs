//! What does a pool's worker speak? Which of its paths predict, where a model's name and the rows of a request stand,
//! and what its errors look like.
//!
//! Sources: the Open Inference Protocol, version 2 (REST and gRPC), the API reference of `OpenAI`, and `model-worker`. A
//! profile is an allow-list: a path that it does not name is not of the protocol, whatever a worker does there. Never
//! decides who may do something.

mod error;
mod reach;

use http::Method;
use serde_json::Value;

use crate::settings::Named;

pub use error::{Disguise, MOST_DISGUISED};
pub use reach::{Closed, Reach};

/// The protocol of a pool's workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Nothing is known of it.
    #[default]
    Plain,
    /// `POST /predict` and `/models/NAME/predict`.
    Predict,
    /// The Open Inference Protocol, version 2.
    Oip,
    /// `OpenAI`'s API below `/v1`.
    OpenAi,
}

impl Named for Profile {
    const SHAPE: &'static str = "\"plain\", \"predict\", \"oip-v2\" or \"openai\"";
    const NAMES: &'static [(&'static str, Self)] =
        &[("plain", Self::Plain), ("predict", Self::Predict), ("oip-v2", Self::Oip), ("openai", Self::OpenAi)];
}

/// What a path of a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A model is asked.
    Prediction,
    /// What there is.
    Metadata,
    /// Whether it can be asked.
    Health,
}

impl Use {
    /// What it is, for people.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Prediction => "a prediction",
            Self::Metadata => "metadata",
            Self::Health => "health",
        }
    }
}

/// The segments of a path that a profile may know; `None` where there are more, or where the last is empty.
fn segments<'p, 's>(path: &'p str, held: &'s mut [&'p str; 6]) -> Option<&'s [&'p str]> {
    let mut count = 0;
    for segment in path.strip_prefix('/')?.split('/') {
        *held.get_mut(count)? = segment;
        count += 1;
    }
    held.get(..count).filter(|held| held.last().is_some_and(|last| !last.is_empty()))
}

impl Profile {
    /// Its name in TOML.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, profile)| *profile == self).map_or("", |(name, _)| name)
    }

    /// What a worker's path is for; `None` where the profile does not name it, or not with this method.
    #[must_use]
    pub fn knows(self, method: &Method, path: &str) -> Option<Use> {
        let mut held = [""; 6];
        let path = segments(path, &mut held)?;
        let found = self.knows_path(path)?;
        let is_call = found == Use::Prediction || path.first() == Some(&SERVICE);
        let taken = if is_call { *method == Method::POST } else { matches!(*method, Method::GET | Method::HEAD) };
        taken.then_some(found)
    }

    fn knows_path(self, path: &[&str]) -> Option<Use> {
        match self {
            Self::Plain => None,
            Self::Predict => match path {
                ["predict"] | ["models", _, "predict"] | ["models", _, "versions", _, "predict"] => {
                    Some(Use::Prediction)
                }
                ["models"] | ["models", _] => Some(Use::Metadata),
                ["healthz" | "readyz"] => Some(Use::Health),
                _ => None,
            },
            Self::Oip => match path {
                ["v2"]
                | ["v2", "models", _]
                | ["v2", "models", _, "versions", _]
                | [SERVICE, "ServerMetadata" | "ModelMetadata"] => Some(Use::Metadata),
                ["v2", "health", "live" | "ready"]
                | ["v2", "models", _, "ready"]
                | ["v2", "models", _, "versions", _, "ready"]
                | [SERVICE, "ServerLive" | "ServerReady" | "ModelReady"] => Some(Use::Health),
                ["v2", "models", _, "infer"]
                | ["v2", "models", _, "versions", _, "infer"]
                | [SERVICE, "ModelInfer" | "ModelStreamInfer"] => Some(Use::Prediction),
                _ => None,
            },
            Self::OpenAi => match path {
                ["v1", "chat", "completions"] | ["v1", "completions" | "embeddings" | "moderations" | "responses"] => {
                    Some(Use::Prediction)
                }
                ["v1", "models"] | ["v1", "models", _] => Some(Use::Metadata),
                ["health"] => Some(Use::Health),
                _ => None,
            },
        }
    }

    /// The model that a worker's path names, and its version; empty where it names none. Of paths too that the profile
    /// leaves closed, so that rights for models hold where a route opens them.
    #[must_use]
    pub fn model(self, path: &str) -> (&str, &str) {
        let mut parts = path.strip_prefix('/').unwrap_or_default().split('/');
        let begins = match self {
            Self::Plain => return ("", ""),
            Self::Predict => true,
            Self::Oip => parts.next() == Some("v2"),
            Self::OpenAi => parts.next() == Some("v1"),
        };
        let mut next = parts.next();
        if self == Self::Oip && next == Some("repository") {
            next = parts.next();
        }
        match (begins && next == Some("models"), parts.next(), parts.next(), parts.next()) {
            (true, Some(model), Some("versions"), Some(version)) => (model, version),
            (true, Some(model), _, _) => (model, ""),
            _ => ("", ""),
        }
    }

    /// Whether requests name their model in the body, where their path does not.
    #[must_use]
    pub fn names_in_body(self) -> bool {
        self == Self::OpenAi
    }

    /// The model that a body names; empty where it names none.
    #[must_use]
    pub fn model_of(self, body: &Value) -> &str {
        let named = if self.names_in_body() { body.get("model") } else { None };
        named.and_then(Value::as_str).unwrap_or_default()
    }

    /// How many rows a request has that goes to a worker's path; `None` where the profile does not know better than
    /// anybody.
    #[must_use]
    pub fn rows(self, path: &str, body: &Value) -> Option<u64> {
        match self {
            Self::Plain | Self::Oip => None,
            Self::Predict => {
                let members = ["instances", "features", "inputs"].map(|name| body.get(name).map_or(1, listed));
                Some(members.into_iter().fold(listed(body), u64::max))
            }
            Self::OpenAi => {
                let texts = |name: &str| body.get(name).map_or(1, texts);
                let asked = match segments(path, &mut [""; 6])? {
                    ["v1", "embeddings" | "moderations"] => texts("input"),
                    ["v1", "completions"] => texts("prompt"),
                    _ => 1,
                };
                // Each is answered so many times.
                let times = ["n", "best_of"].map(|name| body.get(name).and_then(Value::as_u64).unwrap_or(1));
                Some(times.into_iter().fold(1, u64::max).saturating_mul(asked))
            }
        }
    }
}

/// The service of gRPC, whose calls are paths.
const SERVICE: &str = "inference.GRPCInferenceService";

fn length(list: &[Value]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX).max(1)
}

/// The rows of a list; a list of single values is one row.
fn listed(value: &Value) -> u64 {
    match value {
        Value::Array(list) if list.iter().any(|one| one.is_array() || one.is_object()) => length(list),
        _ => 1,
    }
}

/// The texts of an `input` or a `prompt`: one, a list of them, the tokens of one, or a list of lists of tokens.
fn texts(value: &Value) -> u64 {
    match value {
        Value::Array(list) if list.iter().any(|one| !one.is_number()) => length(list),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: [Profile; 4] = [Profile::Plain, Profile::Predict, Profile::Oip, Profile::OpenAi];

    #[test]
    fn what_a_profile_does_not_name_is_not_known() {
        for (profile, method, path, found) in [
            (Profile::Oip, Method::GET, "/v2", Some(Use::Metadata)),
            (Profile::Oip, Method::HEAD, "/v2/health/live", Some(Use::Health)),
            (Profile::Oip, Method::POST, "/v2/models/iris/infer", Some(Use::Prediction)),
            (Profile::Oip, Method::POST, "/v2/models/iris/versions/1/infer", Some(Use::Prediction)),
            (Profile::Oip, Method::GET, "/v2/models/iris/versions/1/ready", Some(Use::Health)),
            (Profile::Oip, Method::POST, "/inference.GRPCInferenceService/ModelInfer", Some(Use::Prediction)),
            (Profile::Oip, Method::GET, "/inference.GRPCInferenceService/ModelReady", None),
            (Profile::Oip, Method::POST, "/inference.GRPCInferenceService/RepositoryModelLoad", None),
            (Profile::Oip, Method::GET, "/v2/models/iris/infer", None),
            (Profile::Oip, Method::POST, "/v2/models/iris/infer/", None),
            (Profile::Oip, Method::POST, "/V2/models/iris/infer", None),
            (Profile::Oip, Method::DELETE, "/v2/models/iris", None),
            (Profile::Oip, Method::GET, "/v2/models/iris/config", None),
            (Profile::Oip, Method::GET, "/v2/models/", None),
            (Profile::Oip, Method::POST, "/v2/repository/index", None),
            (Profile::Oip, Method::POST, "/v2/repository/models/iris/load", None),
            (Profile::Oip, Method::GET, "/v2/systemsharedmemory/status", None),
            (Profile::Oip, Method::POST, "/v2/models/a/b/c/d/e/f/infer", None),
            (Profile::Predict, Method::POST, "/predict", Some(Use::Prediction)),
            (Profile::Predict, Method::POST, "/models/iris/versions/2/predict", Some(Use::Prediction)),
            (Profile::Predict, Method::GET, "/models/iris", Some(Use::Metadata)),
            (Profile::Predict, Method::GET, "/metrics", None),
            (Profile::OpenAi, Method::POST, "/v1/chat/completions", Some(Use::Prediction)),
            (Profile::OpenAi, Method::GET, "/v1/models/gpt", Some(Use::Metadata)),
            (Profile::OpenAi, Method::DELETE, "/v1/models/gpt", None),
            (Profile::OpenAi, Method::POST, "/v1/files", None),
            (Profile::Plain, Method::POST, "/predict", None),
        ] {
            assert_eq!(profile.knows(&method, path), found, "{} {method} {path}", profile.name());
        }
    }

    #[test]
    fn names_of_models() {
        for (profile, path, named) in [
            (Profile::Oip, "/v2/models/iris/infer", ("iris", "")),
            (Profile::Oip, "/v2/models/iris/versions/2/infer", ("iris", "2")),
            (Profile::Oip, "/v2/repository/models/iris/load", ("iris", "")),
            (Profile::Oip, "/v1/models/iris", ("", "")),
            (Profile::Oip, "/v2/health/ready", ("", "")),
            (Profile::Predict, "/models/iris/predict", ("iris", "")),
            (Profile::Predict, "/models/iris/versions/2/predict", ("iris", "2")),
            (Profile::Predict, "/predict", ("", "")),
            (Profile::OpenAi, "/v1/models/gpt", ("gpt", "")),
            (Profile::OpenAi, "/v1/chat/completions", ("", "")),
            (Profile::Plain, "/v2/models/iris/infer", ("", "")),
        ] {
            assert_eq!(profile.model(path), named, "{} {path}", profile.name());
        }
        let body = json!({ "model": "gpt", "messages": [] });
        assert_eq!(ALL.map(|profile| profile.model_of(&body)), ["", "", "", "gpt"]);
        assert_eq!(Profile::OpenAi.model_of(&json!({ "model": 7 })), "");
    }

    #[test]
    fn rows_by_protocol() {
        let openai = |path: &str, body: Value| Profile::OpenAi.rows(&format!("/v1/{path}"), &body);
        assert_eq!(openai("embeddings", json!({ "input": "one" })), Some(1));
        assert_eq!(openai("embeddings", json!({ "input": ["one", "two"] })), Some(2));
        assert_eq!(openai("embeddings", json!({ "input": [1, 2, 3] })), Some(1), "the tokens of one text");
        assert_eq!(openai("embeddings", json!({ "input": [[1, 2], [3]] })), Some(2));
        assert_eq!(openai("embeddings", json!({ "input": [1, "two", 3] })), Some(3), "what is neither is counted high");
        assert_eq!(openai("completions", json!({ "prompt": ["one", "two"], "n": 3 })), Some(6));
        assert_eq!(openai("completions", json!({ "prompt": "one", "best_of": 9, "n": 2 })), Some(9));
        assert_eq!(openai("chat/completions", json!({ "messages": [{}, {}] })), Some(1));
        assert_eq!(openai("chat/completions", json!({ "messages": [], "n": 4 })), Some(4));
        assert_eq!(openai("responses", json!({ "input": [{}, {}] })), Some(1));
        assert_eq!(openai("chat/completions", json!({ "n": u64::MAX })), Some(u64::MAX));
        let predict = |body: Value| Profile::Predict.rows("/predict", &body);
        assert_eq!(predict(json!([5.1, 3.5, 1.4, 0.2])), Some(1), "one row by its places");
        assert_eq!(predict(json!([[5.1, 3.5], [1.4, 0.2]])), Some(2));
        assert_eq!(predict(json!([1, { "a": 1 }, { "a": 2 }])), Some(3));
        assert_eq!(predict(json!({ "features": [[1], [2], [3]] })), Some(3));
        assert_eq!(predict(json!({ "instances": [{}, {}] })), Some(2));
        assert_eq!(predict(json!({ "sepal_length": 1 })), Some(1));
    }
}
