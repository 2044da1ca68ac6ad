//! Named members of bodies and answers that are sealed, so that whoever must not read them can't: the worker and its
//! records, or clients without a role.
//!
//! What is sealed is a Fernet token in the place of the value; all other octets stay as they were written. The gateway's
//! own rules about a body (schema, clean text, guards, rows) always see values: what is opened is opened before
//! them, what is sealed is sealed behind them. Never makes an IV: the caller brings chance. What stands at another place than
//! a rule names is not sealed; a schema without unknown members keeps it out.

mod compile;
mod places;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::body::{Fault, Refusal};
use super::fernet::{Direction, Fernet};
use super::json::{self, Place};
use crate::settings::Named;
use crate::types::{Name, Principal, RoleSet, Timestamp};

use places::{find, replace};

/// How many faults one answer lists.
const MOST_FAULTS: usize = 32;
/// How deep a value may be nested.
const DEPTH: usize = 64;

/// What is inside a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// A text as it is.
    Text,
    /// Any value, as its JSON text.
    Json,
}

impl Named for Values {
    const SHAPE: &'static str = "\"text\" or \"json\"";
    const NAMES: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// One `[sealed.NAME]`.
#[derive(Debug)]
pub struct Sealed {
    /// Its name.
    pub name: Name,
    fernet: Arc<Fernet>,
    values: Values,
    open_request: Box<[Place]>,
    seal_request: Box<[Place]>,
    open_answer: Box<[Place]>,
    seal_answer: Box<[Place]>,
    readers: RoleSet,
    max_fields: usize,
    max_age: Option<u64>,
    max: usize,
}

/// All rules by name.
#[derive(Debug, Default)]
pub struct Sealings(HashMap<Name, Arc<Sealed>>);

/// Chance for IVs; nothing where the system gives none.
pub type Chance<'a> = &'a dyn Fn() -> Option<[u8; 16]>;

/// A body whose sealed values were opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// The new body, where there was anything to open.
    pub body: Option<Vec<u8>>,
    at: Vec<String>,
}

/// Why values could not be sealed or opened; each with its place.
type Faults = Vec<(String, &'static str, String)>;

impl Sealed {
    /// What it does, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut words = String::new();
        for (what, places) in [
            ("opens", &self.open_request),
            ("seals", &self.seal_request),
            ("opens for readers", &self.open_answer),
            ("seals for others", &self.seal_answer),
        ] {
            for (index, place) in places.iter().enumerate() {
                let separator = if words.is_empty() {
                    ""
                } else if index == 0 {
                    "; "
                } else {
                    ", "
                };
                let verb = if index == 0 { format!("{what} ") } else { String::new() };
                let _ = write!(words, "{separator}{verb}{}", json::pointer(place));
            }
        }
        words
    }

    /// Whether it changes bodies of requests.
    #[must_use]
    pub fn changes_requests(&self) -> bool {
        !self.open_request.is_empty() || !self.seal_request.is_empty()
    }

    /// What is done with answers for a caller, if anything.
    #[must_use]
    pub fn for_answer(&self, principal: &Principal) -> Option<Direction> {
        if principal.roles.first_common(self.readers).is_some() {
            (!self.open_answer.is_empty()).then_some(Direction::Decrypt)
        } else {
            (!self.seal_answer.is_empty()).then_some(Direction::Encrypt)
        }
    }

    /// The longest answer that is read, in octets.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Opens what clients send sealed. The body is read as its rule reads it, at most `depth` deep.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] or [`Refusal::Invalid`], with the places and no value.
    pub fn open_request(&self, body: &[u8], depth: usize, now: Timestamp) -> Result<Opened, Refusal> {
        if self.open_request.is_empty() {
            return Ok(Opened::default());
        }
        json::parse(body, depth).map_err(Refusal::Malformed)?;
        let mut at = Vec::new();
        let body = self.change(body, &self.open_request, |raw, pointer| {
            at.push(pointer.to_owned());
            self.open(raw, now)
        });
        Ok(Opened { body: body.map_err(invalid)?, at })
    }

    /// Seals what the worker is not to read, in a body that was found good. `None` where nothing was to be sealed.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub fn seal_request(&self, body: &[u8], chance: Chance<'_>, now: Timestamp) -> Result<Option<Vec<u8>>, Refusal> {
        if self.seal_request.is_empty() {
            return Ok(None);
        }
        self.change(body, &self.seal_request, |raw, _| self.seal(raw, chance, now)).map_err(invalid)
    }

    /// Opens or seals values of an answer, which is read as JSON. `None` where there were none.
    ///
    /// # Errors
    /// What is wrong with it, with the place of the value alone.
    pub fn answer(
        &self,
        direction: Direction,
        body: &[u8],
        chance: Chance<'_>,
        now: Timestamp,
    ) -> Result<Option<Vec<u8>>, String> {
        // Its pointer names members of the answer, so only what is wrong is told.
        json::parse(body, DEPTH).map_err(|wrong| format!("it is not JSON that can be taken: {}", wrong.code))?;
        let changed = match direction {
            Direction::Encrypt => self.change(body, &self.seal_answer, |raw, _| self.seal(raw, chance, now)),
            Direction::Decrypt => self.change(body, &self.open_answer, |raw, _| self.open(raw, now)),
        };
        changed.map_err(|faults| {
            faults.first().map_or_else(String::new, |(pointer, _, detail)| format!("{pointer:?} {detail}"))
        })
    }

    /// Puts other values in the places of some; `None` where there are none.
    fn change(
        &self,
        body: &[u8],
        places: &[Place],
        mut change: impl FnMut(&str, &str) -> Result<String, (&'static str, &'static str)>,
    ) -> Result<Option<Vec<u8>>, Faults> {
        let whole = |code, detail: &str| vec![(String::new(), code, detail.to_owned())];
        let text = std::str::from_utf8(body).map_err(|_| whole("utf8", "is not UTF-8"))?;
        let found = find(text, places, self.max_fields).ok_or_else(|| whole("syntax", "is no JSON"))?;
        if found.len() > self.max_fields {
            return Err(whole("max_fields", &format!("has more than {} fields that are sealed", self.max_fields)));
        }
        if found.is_empty() {
            return Ok(None);
        }
        let (mut values, mut faults) = (Vec::with_capacity(found.len()), Vec::new());
        for found in &found {
            match change(text.get(found.at.clone()).unwrap_or_default(), &found.pointer) {
                Ok(value) => values.push(value),
                Err((code, detail)) => faults.push((found.pointer.clone(), code, detail.to_owned())),
            }
            if faults.len() >= MOST_FAULTS {
                break;
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        replace(text, &found, values.into_iter()).map(Some).ok_or_else(|| whole("syntax", "is no JSON"))
    }

    /// The token for a value, as it is written in JSON.
    fn seal(&self, raw: &str, chance: Chance<'_>, now: Timestamp) -> Result<String, (&'static str, &'static str)> {
        const FAILED: (&str, &str) = ("sealing", "could not be sealed");
        let iv = chance().ok_or(FAILED)?;
        let sealed = match self.values {
            Values::Json => self.fernet.seal(raw.as_bytes(), iv, now),
            Values::Text => {
                let text: String =
                    serde_json::from_str(raw).map_err(|_| ("type", "is not a text, which is sealed here"))?;
                self.fernet.seal(text.as_bytes(), iv, now)
            }
        };
        // base64url needs no escaping.
        sealed.map(|token| format!("\"{token}\"")).ok_or(FAILED)
    }

    /// The value in a token, as it is written in JSON.
    fn open(&self, raw: &str, now: Timestamp) -> Result<String, (&'static str, &'static str)> {
        const WRONG: (&str, &str) =
            ("fernet", "is no token that was sealed with a key that is known here, or it is too old");
        let token: String = serde_json::from_str(raw).map_err(|_| WRONG)?;
        let opened = self.fernet.open_within(token.as_bytes(), now, self.max_age).ok_or(WRONG)?;
        let text = String::from_utf8(opened).map_err(|_| ("fernet", "holds octets that are no text"))?;
        match self.values {
            Values::Text => serde_json::to_string(&text).map_err(|_| WRONG),
            // One value and nothing behind it, or it could bring members of its own.
            Values::Json => match json::parse(text.as_bytes(), DEPTH) {
                Ok(_) => Ok(text),
                Err(_) => Err(("fernet", "holds no JSON text")),
            },
        }
    }
}

impl Opened {
    /// A refusal without what was inside tokens: whoever sends one need not be able to read it.
    #[must_use]
    pub fn redact(&self, refusal: Refusal) -> Refusal {
        let around = |pointer: &str| {
            let is_at = |at: &&String| {
                pointer.strip_prefix(at.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            self.at.iter().find(is_at).cloned()
        };
        match refusal {
            Refusal::Invalid { mut faults } => {
                for fault in &mut faults {
                    if let Some(at) = around(&fault.pointer) {
                        (fault.pointer, fault.sent) = (at, None);
                    }
                }
                Refusal::Invalid { faults }
            }
            Refusal::Malformed(mut malformed) => {
                if let Some(at) = around(&malformed.pointer) {
                    malformed.pointer = at;
                    "what it holds can't be taken here".clone_into(&mut malformed.detail);
                }
                Refusal::Malformed(malformed)
            }
            other => other,
        }
    }

    /// How many values were opened.
    #[must_use]
    pub fn count(&self) -> usize {
        self.at.len()
    }
}

fn invalid(faults: Faults) -> Refusal {
    let fault = |(pointer, code, detail)| Fault { pointer, code, detail, limit: None, sent: None };
    Refusal::Invalid { faults: faults.into_iter().map(fault).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::authorize::Roles;
    use crate::settings::tests::with_section;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    #[expect(clippy::unnecessary_wraps, reason = "it is what gives chance")]
    fn chance() -> Option<[u8; 16]> {
        Some([7; 16])
    }

    fn rule(toml: &str) -> Arc<Sealed> {
        let (rules, mistakes) = with_section(&format!("[fernet]\n[sealed.x]\n{toml}"), |root| {
            let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
            Sealings::compile(root, Fernet::of(key).map(Arc::new).as_ref(), &Roles::default())
        });
        assert_eq!(mistakes, []);
        Arc::clone(rules.0.get("x").expect("a rule"))
    }

    #[test]
    fn what_is_sealed_opens_to_the_same_octets() {
        let all = "\"/a/*/v\", \"/b\"";
        let rule = rule(&format!("values = \"json\"\nseal_request = [{all}]"));
        let open = self::rule(&format!("values = \"json\"\nopen_request = [{all}]"));
        let text = r#" {"n": 1.10, "big": 123456789012345678901234567890 ,"a":[ {"v":0.1000},{"v" : {"x":[1e2,"\u00e9"]}},{"w":1}],"b":null} "#;
        let sealed = rule.seal_request(text.as_bytes(), &chance, NOW).expect("it seals").expect("it has some");
        let value: Value = serde_json::from_slice(&sealed).expect("JSON");
        for pointer in ["/a/0/v", "/a/1/v", "/b"] {
            assert!(
                value.pointer(pointer).and_then(Value::as_str).is_some_and(|it| it.starts_with("gAAAA")),
                "{pointer}"
            );
        }
        let sealed_text = String::from_utf8(sealed.clone()).expect("text");
        assert!(
            sealed_text.starts_with(" {\"n\": 1.10, \"big\": 123456789012345678901234567890 ,\"a\":[ {"),
            "{sealed_text}"
        );
        let opened = open.open_request(&sealed, 8, NOW).expect("it opens");
        assert_eq!((opened.count(), opened.body.as_deref()), (3, Some(text.as_bytes())));
        assert_eq!(rule.seal_request(b"{\"c\":1}", &chance, NOW).expect("nothing is there"), None);
    }

    #[test]
    fn texts_are_texts_whatever_they_look_like() {
        let rule = rule("values = \"text\"\nseal_request = [\"/s\"]");
        let open = self::rule("values = \"text\"\nopen_request = [\"/s\"]");
        for text in ["", "5", "null", "{\"a\":1}", "\",\"admin\":true,\"x\":\"", "gr\u{fc}\u{df}\n\u{0}"] {
            let body = json!({ "s": text }).to_string();
            let sealed = rule.seal_request(body.as_bytes(), &chance, NOW).expect("it seals").expect("it has one");
            let opened = open.open_request(&sealed, 8, NOW).expect("it opens").body.expect("it has one");
            assert_eq!(serde_json::from_slice::<Value>(&opened).expect("JSON"), json!({ "s": text }));
        }
        for other in ["5", "null", "[\"a\"]"] {
            assert!(rule.seal_request(format!("{{\"s\":{other}}}").as_bytes(), &chance, NOW).is_err(), "{other}");
        }
    }

    #[test]
    fn what_a_token_holds_stays_one_value() {
        let open = rule("values = \"json\"\nopen_request = [\"/s\"]\nmax_age = \"60s\"");
        let of = |text: &str, at| open.fernet.seal(text.as_bytes(), [1; 16], at).expect("a token");
        let ask = |token: String| open.open_request(json!({ "s": token }).to_string().as_bytes(), 8, NOW);
        assert!(ask(of("[1]", NOW)).is_ok());
        let old = Timestamp::from_secs(NOW.secs() - 61);
        for wrong in [
            of("1,\"admin\":true", NOW),
            of("", NOW),
            of("{\"a\":1,\"a\":2}", NOW),
            of("[1]", old),
            "gAAAAA".into(),
            String::new(),
        ] {
            let Err(Refusal::Invalid { faults }) = ask(wrong.clone()) else { unreachable!("{wrong} opens") };
            assert_eq!((faults.len(), faults[0].pointer.as_str(), faults[0].code), (1, "/s", "fernet"), "{wrong}");
            assert_eq!(faults[0].sent, None);
        }
        assert!(open.open_request(b"{\"s\":5}", 8, NOW).is_err(), "no token");
        assert!(matches!(open.open_request(b"{\"s\":1,\"s\":2}", 8, NOW), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn faults_do_not_tell_what_is_inside() {
        let opened = Opened { body: None, at: vec!["/a/0".into()] };
        let fault = |pointer: &str| Fault {
            pointer: pointer.into(),
            code: "maximum",
            detail: "must be at most 3".into(),
            limit: None,
            sent: Some(json!(5)),
        };
        let refusal = Refusal::Invalid { faults: vec![fault("/a/0"), fault("/a/0/secret"), fault("/a/01")] };
        let Refusal::Invalid { faults } = opened.redact(refusal) else { unreachable!("it stays what it is") };
        let seen: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.sent.is_some())).collect();
        assert_eq!(seen, [("/a/0", false), ("/a/0", false), ("/a/01", true)]);
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let rule = rule("values = \"json\"\nseal_answer = [\"/*\"]\nmax_fields = 2");
        let answer = |text: &str| rule.answer(Direction::Encrypt, text.as_bytes(), &chance, NOW);
        assert!(answer("[1,2]").is_ok_and(|changed| changed.is_some()));
        assert_eq!(answer("[1,2,3]"), Err("\"\" has more than 2 fields that are sealed".into()));
    }
}
