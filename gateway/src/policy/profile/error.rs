//! What a worker's error says, and how a refusal is said where the clients of a protocol look.

use serde_json::{Map, Value, json};

use super::Profile;

/// The longest 500 that is looked at, in octets: those that are known are shorter.
pub const MOST_DISGUISED: u64 = 32 << 10;
/// The longest text of a worker's error that is passed on, in characters.
const MOST_TEXT: usize = 512;

/// A 500 that is a client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disguise {
    /// It says that the input could not be read.
    Told,
    /// It does not say whose fault it is: so a server answers to an input that its model can't use, and to everything
    /// else that goes wrong in it.
    Bare,
}

impl Profile {
    /// Whether a 500 of its workers may be a client's fault.
    #[must_use]
    pub fn has_disguises(self) -> bool {
        self == Self::Oip
    }

    /// Recognises a client's fault in a 500, as Triton 2.51 and `MLServer` 1.7.1 answer: by what Triton's reader of
    /// requests says; by where an exception of Python came from, which `MLServer` shows with `debug`, its default; or, as
    /// no more than a possibility, by the one text that there is for every exception without it.
    #[must_use]
    pub fn disguised(self, media_type: &str, body: &[u8]) -> Option<Disguise> {
        const TOLD: [&str; 4] = [
            "failed to parse the request JSON buffer: ",
            "Unable to parse '",
            "attempt to access JSON non-",
            "attempt to access non-existing object member '",
        ];
        if !self.has_disguises() {
            return None;
        }
        match essence(media_type) {
            "text/plain" if body == b"Internal Server Error" => Some(Disguise::Bare),
            "application/json" | "text/plain" if body.starts_with(b"{") => {
                let said = only_error(body)?;
                TOLD.iter().any(|told| said.starts_with(told)).then_some(Disguise::Told)
            }
            "text/plain" => exception(std::str::from_utf8(body).ok()?),
            _ => None,
        }
    }

    /// Whether a worker's 4xx is held to its form.
    #[must_use]
    pub fn has_errors(self) -> bool {
        matches!(self, Self::Oip | Self::OpenAi)
    }

    /// A worker's refusal in the profile's form: its own text where it has that form, shortened and without control
    /// characters, else one that says no more than the status.
    #[must_use]
    pub fn refusal(self, status: u16, media_type: &str, body: &[u8]) -> Vec<u8> {
        // Triton calls some of its JSON plain text.
        let is_json = matches!(essence(media_type), "application/json" | "text/plain" | "");
        let whole: Value = serde_json::from_slice(body).ok().filter(|_| is_json).unwrap_or_default();
        let said = whole.get("error");
        let text = match said {
            Some(Value::String(text)) => Some(clean(text)),
            Some(Value::Object(error)) if self == Self::OpenAi => {
                error.get("message").and_then(Value::as_str).map(clean)
            }
            _ => whole.get("detail").and_then(detail),
        };
        let text = text.unwrap_or_else(|| format!("The worker refused the request with status {status}."));
        let body = match (self, said) {
            (Self::OpenAi, Some(Value::Object(error))) => {
                let mut shown = Map::from_iter([("message".to_owned(), Value::from(text))]);
                for name in ["type", "param", "code"] {
                    let value = match error.get(name) {
                        Some(Value::String(word)) => Value::from(clean(word)),
                        Some(number @ Value::Number(_)) => number.clone(),
                        _ => Value::Null,
                    };
                    shown.insert(name.to_owned(), value);
                }
                json!({ "error": shown })
            }
            (Self::OpenAi, _) => json!({ "error": openai(&text, status, None) }),
            _ => json!({ "error": text }),
        };
        body.to_string().into_bytes()
    }

    /// What a refusal of our own says in `error`, for clients that look there.
    #[must_use]
    pub fn error(self, detail: &str, status: u16, slug: &str) -> Option<Value> {
        match self {
            Self::Plain | Self::Predict => None,
            Self::Oip => Some(Value::from(detail)),
            Self::OpenAi => Some(openai(detail, status, Some(slug))),
        }
    }
}

fn openai(message: &str, status: u16, code: Option<&str>) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({ "message": message, "type": kind, "param": null, "code": code })
}

fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim_matches([' ', '\t'])
}

/// What an exception of Python is: a client's fault where it came from reading the request's input, or from a model of
/// scikit-learn that counts columns.
fn exception(text: &str) -> Option<Disguise> {
    let lines = || text.trim_end().lines().rev();
    text.starts_with("Traceback (most recent call last):\n").then_some(())?;
    let says_columns = |line: &str| line.starts_with("ValueError: X has ") && line.ends_with(" features as input.");
    let raised = lines().find(|line| line.starts_with("  File \""));
    let is_told =
        lines().next().is_some_and(says_columns) || raised.is_some_and(|line| line.contains("/mlserver/codecs/"));
    Some(if is_told { Disguise::Told } else { Disguise::Bare })
}

/// The text of `{"error": "..."}`, where that is all there is.
fn only_error(body: &[u8]) -> Option<String> {
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else { return None };
    match (members.remove("error"), members.is_empty()) {
        (Some(Value::String(said)), true) => Some(said),
        _ => None,
    }
}

/// What `FastAPI` says of a request: its text, or of each fault the place and what is wrong there, without the input.
fn detail(detail: &Value) -> Option<String> {
    if let Value::String(text) = detail {
        return Some(clean(text));
    }
    let fault = |fault: &Value| {
        let place = fault.get("loc")?.as_array()?.iter().map(|part| match part {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        let place = place.collect::<Vec<_>>().join(".");
        Some(format!("{place}: {}", fault.get("msg")?.as_str()?))
    };
    let faults: Vec<String> = detail.as_array()?.iter().take(4).filter_map(fault).collect();
    (!faults.is_empty()).then(|| clean(&faults.join("; ")))
}

/// A text without control characters, and no longer than is passed on.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python prints an exception that was raised in a file.
    fn traceback(file: &str, last: &str) -> String {
        let frame =
            |file: &str| format!("  File \"/opt/python3/site-packages/{file}\", line 7, in call\n    return it()\n");
        format!("Traceback (most recent call last):\n{}{}{last}\n\n", frame("mlserver/codecs/base.py"), frame(file))
    }

    #[test]
    fn only_known_words_of_known_servers_are_a_clients_fault() {
        let json = "application/json";
        for (media_type, body, found) in [
            (
                json,
                r#"{"error":"failed to parse the request JSON buffer: Missing a comma or } after an object member. at 57"}"#,
                Some(Disguise::Told),
            ),
            (
                json,
                r#"{"error":"Unable to parse 'data': Shape does not match true shape of 'data' field"}"#,
                Some(Disguise::Told),
            ),
            (
                json,
                r#"{"error":"Unable to parse 'data': attempt to access JSON non-number as double"}"#,
                Some(Disguise::Told),
            ),
            ("text/plain; charset=utf-8", "Internal Server Error", Some(Disguise::Bare)),
            (
                "text/plain",
                &traceback(
                    "mlserver_sklearn/sklearn.py",
                    "ValueError: X has 3 features, but SVC is expecting 4 features as input.",
                ),
                Some(Disguise::Told),
            ),
            (
                "text/plain",
                &traceback("mlserver/codecs/numpy.py", "ValueError: cannot reshape array of size 3 into shape (1,4)"),
                Some(Disguise::Told),
            ),
            (
                "text/plain",
                &traceback("iris/model.py", "ValueError: cannot reshape array of size 3 into shape (1,4)"),
                Some(Disguise::Bare),
            ),
            ("text/plain", &traceback("iris/model.py", "MemoryError"), Some(Disguise::Bare)),
            ("text/html", &traceback("iris/model.py", "MemoryError"), None),
            ("text/plain", "Traceback", None),
            (
                json,
                r#"{"error":"Failed to process the request(s) for model instance 'iris_0_0', message: failed to parse the request JSON buffer: "}"#,
                None,
            ),
            (json, r#"{"error":"Unable to parse 'data': x","trace":"y"}"#, None),
            (json, r#"{"error":["Unable to parse 'data'"]}"#, None),
            (json, "\"Unable to parse 'data'\"", None),
            ("text/plain", "Internal Server Error\n", None),
            ("text/html", "Internal Server Error", None),
            ("", "Internal Server Error", None),
        ] {
            assert_eq!(Profile::Oip.disguised(media_type, body.as_bytes()), found, "{body}");
            for other in [Profile::Plain, Profile::Predict, Profile::OpenAi] {
                assert_eq!(other.disguised(media_type, body.as_bytes()), None, "{body}");
            }
        }
    }

    #[test]
    fn a_refusal_has_its_protocols_form_whatever_the_worker_said() {
        let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(9_000));
        let shown = |profile: Profile, media_type: &str, body: &str| -> Value {
            serde_json::from_slice(&profile.refusal(422, media_type, body.as_bytes())).expect("JSON")
        };
        let json = "application/json; charset=utf-8";
        let plain = "The worker refused the request with status 422.";
        assert_eq!(
            shown(Profile::Oip, json, r#"{"error":"no such\u0007 model","trace":"/srv"}"#),
            json!({ "error": "no such model" })
        );
        assert_eq!(shown(Profile::Oip, json, &long)["error"].as_str().map(str::len), Some(MOST_TEXT));
        let detail = json!({ "detail": [
            { "type": "missing", "loc": ["body", "inputs", 0, "name"], "msg": "Field required", "input": { "key": "secret" } },
            { "loc": ["body", "id"], "msg": "Input should be a valid string", "input": 7, "ctx": { "error": "x" } },
        ] });
        let said = "body.inputs.0.name: Field required; body.id: Input should be a valid string";
        assert_eq!(shown(Profile::Oip, json, &detail.to_string()), json!({ "error": said }));
        assert_eq!(shown(Profile::Oip, json, r#"{"detail":"Not Found"}"#), json!({ "error": "Not Found" }));
        assert_eq!(shown(Profile::Oip, "text/plain", r#"{"error":"not ready"}"#), json!({ "error": "not ready" }));
        assert_eq!(shown(Profile::Oip, "", r#"{"error":"no such model"}"#), json!({ "error": "no such model" }));
        for body in [
            r#"{"detail":[{"loc":["body"],"input":"secret"}]}"#,
            r#"{"detail":7}"#,
            "[]",
            r#"{"error":{"message":"x"}}"#,
            "{",
            "",
        ] {
            assert_eq!(shown(Profile::Oip, json, body), json!({ "error": plain }), "{body}");
        }
        assert_eq!(shown(Profile::Oip, "text/html", r#"{"error":"x"}"#), json!({ "error": plain }));
        let error =
            r#"{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":400,"trace":"/srv"}}"#;
        let expected = json!({ "message": "too long", "type": "invalid_request_error", "param": null, "code": 400 });
        assert_eq!(shown(Profile::OpenAi, json, error), json!({ "error": expected }));
        assert_eq!(shown(Profile::OpenAi, json, r#"{"error":"no"}"#)["error"]["message"], "no");
        assert_eq!(shown(Profile::OpenAi, json, "{}")["error"]["message"], plain);
    }
}
