//! JSON that can be read in one way only.
//!
//! Stricter than RFC 8259 where readers differ: a repeated member is refused (§4 leaves it open, and
//! two readers take different ones), and so are numbers that no double holds, and nesting past a bound.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not acceptable JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where, as a JSON pointer (RFC 6901) to the innermost value that was being read.
    pub pointer: String,
    /// What kind: `syntax`, `utf8`, `duplicate_member` or `depth`.
    pub code: &'static str,
    /// What is wrong and, for syntax, at which line and column.
    pub detail: String,
}

/// Parses one JSON text and nothing after it, with at most `depth` levels of arrays and objects.
///
/// # Errors
/// [`Malformed`].
pub fn parse(bytes: &[u8], depth: usize) -> Result<Value, Malformed> {
    let text = std::str::from_utf8(bytes).map_err(|error| Malformed {
        pointer: String::new(),
        code: "utf8",
        detail: format!("the text is not UTF-8 at octet {}", error.valid_up_to()),
    })?;
    let trail = RefCell::new(Trail::default());
    let mut reader = serde_json::Deserializer::from_str(text);
    // Our own bound replaces serde_json's fixed one of 128; `BodyRule` keeps it far below the stack.
    let parsed =
        Strict { depth, trail: &trail }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|error| {
        let trail = trail.into_inner();
        let pointer = trail.keys.iter().rev().fold(String::new(), |pointer, key| pointer + "/" + &escape(key));
        let (code, detail) = match trail.fault {
            Some(Fault::Duplicate) => ("duplicate_member", "the member stands there more than once".to_owned()),
            Some(Fault::Depth) => ("depth", format!("it is nested deeper than {depth} levels")),
            None => ("syntax", error.to_string()),
        };
        Malformed { pointer, code, detail }
    })
}

/// A member's name inside a JSON pointer (RFC 6901 §3).
#[must_use]
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A place in a text: the names on the way to it, where `*` stands for every element of a list.
pub type Place = Box<[Box<str>]>;

/// Reads a place, written as a JSON pointer (RFC 6901).
#[must_use]
pub fn place(text: &str) -> Option<Place> {
    if text.is_empty() {
        return Some(Place::default());
    }
    let parts = text.strip_prefix('/')?.split('/');
    Some(parts.map(|part| part.replace("~1", "/").replace("~0", "~").into()).collect())
}

/// Writes a place as it is read.
#[must_use]
pub fn pointer(place: &Place) -> String {
    place.iter().fold(String::new(), |pointer, part| pointer + "/" + &escape(part))
}

/// Where an error happened: filled from the inside out while it travels up, so that a text without
/// errors pays nothing for it.
#[derive(Default)]
struct Trail {
    keys: Vec<String>,
    fault: Option<Fault>,
}

enum Fault {
    Duplicate,
    Depth,
}

#[derive(Clone, Copy)]
struct Strict<'t> {
    depth: usize,
    trail: &'t RefCell<Trail>,
}

impl Strict<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.fail(Fault::Depth)),
        }
    }

    fn fail<E: serde::de::Error>(self, fault: Fault) -> E {
        self.trail.borrow_mut().fault = Some(fault);
        E::custom("refused")
    }

    fn at<E>(self, key: impl FnOnce() -> String) -> impl FnOnce(E) -> E {
        move |error| {
            self.trail.borrow_mut().keys.push(key());
            error
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(inner).map_err(self.at(|| elements.len().to_string()))? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if members.contains_key(&key) {
                return Err(self.at(|| key)(self.fail::<A::Error>(Fault::Duplicate)));
            }
            let value = access.next_value_seed(inner).map_err(self.at(|| key.clone()))?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use serde_json::json;

    #[test]
    fn ordinary_json_is_read_as_it_is() {
        let value = parse(br#" {"a":[1,-2,3.5,null,true,"\u00e9"],"b":{}} "#, 3);
        assert_eq!(value, Ok(json!({"a": [1, -2, 3.5, null, true, "é"], "b": {}})));
        assert_eq!(parse(b"7", 0), Ok(json!(7)));
    }

    #[test]
    fn what_readers_read_differently_is_refused_with_its_place() {
        for (text, code, pointer) in [
            (&br#"{"a":1,"a":2}"#[..], "duplicate_member", "/a"),
            (br#"{"x":[{"a/b":1,"a/b":2}]}"#, "duplicate_member", "/x/0/a~1b"),
            (br#"{"a":1,"\u0061":2}"#, "duplicate_member", "/a"),
            (br#"{"a":[[[1]]]}"#, "depth", "/a/0/0"),
            (br#"{"a":NaN}"#, "syntax", "/a"),
            (br#"{"a":Infinity}"#, "syntax", "/a"),
            (br#"{"a":-Infinity}"#, "syntax", "/a"),
            (br#"{"a":1e400}"#, "syntax", "/a"),
            (br#"{"a":01}"#, "syntax", "/a"),
            (br#"{"a":1} x"#, "syntax", ""),
            (br#"{"a":1}{"a":1}"#, "syntax", ""),
            (br#"{"a":1,}"#, "syntax", ""),
            (b"{'a':1}", "syntax", ""),
            (b"\xef\xbb\xbf{}", "syntax", ""),
            (b"{\"a\":\"\xff\"}", "utf8", ""),
            (br#"{"a":"\ud800"}"#, "syntax", "/a"),
            (b"", "syntax", ""),
            (b"{\"a\":\"\0\"}", "syntax", "/a"),
        ] {
            let refused = parse(text, 3).expect_err("must be refused");
            assert_eq!((refused.code, refused.pointer.as_str()), (code, pointer), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_recursion_past_the_bound() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(parse(deep.as_bytes(), 32).expect_err("too deep").code, "depth");
    }
}
