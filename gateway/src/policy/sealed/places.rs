//! Where named members stand in a JSON text, to the octet, so that one is replaced and everything else stays as it was
//! written: no number is read and written again.

use std::fmt::Write as _;
use std::ops::Range;

use crate::policy::json::{self, Place};

/// A value that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its octets.
    pub(super) at: Range<usize>,
    /// Its place (RFC 6901).
    pub(super) pointer: String,
}

/// Finds the values at some places, none of which is inside another, in a text that [`json::parse`] takes: in their order,
/// one more than `most` at the most. `None` where the text is no JSON.
pub(super) fn find(text: &str, places: &[Place], most: usize) -> Option<Vec<Found>> {
    let mut reader = Reader { text, at: 0, pointer: String::new(), found: Vec::new(), most };
    reader.value(&places.iter().map(|place| &**place).collect::<Vec<_>>())?;
    Some(reader.found)
}

/// A text with some of its values replaced.
pub(super) fn replace(text: &str, found: &[Found], values: impl Iterator<Item = String>) -> Option<Vec<u8>> {
    let mut replaced = Vec::with_capacity(text.len() + 128 * found.len());
    let mut end = 0;
    for (found, value) in found.iter().zip(values) {
        replaced.extend_from_slice(text.get(end..found.at.start)?.as_bytes());
        replaced.extend_from_slice(value.as_bytes());
        end = found.at.end;
    }
    replaced.extend_from_slice(text.get(end..)?.as_bytes());
    Some(replaced)
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    pointer: String,
    found: Vec<Found>,
    most: usize,
}

/// What is left of a place.
type Rest<'p> = &'p [Box<str>];

impl<'t> Reader<'t> {
    /// Passes a value. `places` are those that lead here. As deep as the longest of them.
    fn value(&mut self, places: &[Rest<'_>]) -> Option<()> {
        self.space();
        if places.iter().any(|place| place.is_empty()) {
            let begin = self.at;
            self.skip()?;
            if self.found.len() <= self.most {
                self.found.push(Found { at: begin..self.at, pointer: self.pointer.clone() });
            }
            return Some(());
        }
        match self.peek()? {
            b'{' if !places.is_empty() => self.object(places),
            b'[' if !places.is_empty() => self.array(places),
            _ => self.skip(),
        }
    }

    fn object(&mut self, places: &[Rest<'_>]) -> Option<()> {
        self.at += 1;
        let length = self.pointer.len();
        loop {
            self.space();
            match self.peek()? {
                b'}' => break,
                b',' => {
                    self.at += 1;
                    continue;
                }
                b'"' => {}
                _ => return None,
            }
            let raw = self.string()?;
            let name: String = serde_json::from_str(raw).ok()?;
            self.space();
            self.take(b':')?;
            let inner = inner(places, &name);
            let _ = write!(self.pointer, "/{}", json::escape(&name));
            self.value(&inner)?;
            self.pointer.truncate(length);
        }
        self.take(b'}')
    }

    fn array(&mut self, places: &[Rest<'_>]) -> Option<()> {
        self.at += 1;
        let (length, inner) = (self.pointer.len(), inner(places, "*"));
        let mut index = 0_usize;
        loop {
            self.space();
            match self.peek()? {
                b']' => break,
                b',' => self.at += 1,
                _ => {
                    let _ = write!(self.pointer, "/{index}");
                    self.value(&inner)?;
                    self.pointer.truncate(length);
                    index += 1;
                }
            }
        }
        self.take(b']')
    }

    /// Passes a value, however deep it is, without recursion.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                _ => {
                    let scalar = |octet: &u8| !matches!(octet, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                    self.at += self.text.as_bytes().get(self.at..)?.iter().take_while(|octet| scalar(octet)).count();
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Passes a string; gives it back as it is written, with its quotes.
    fn string(&mut self) -> Option<&'t str> {
        let begin = self.at;
        self.take(b'"')?;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let next = memchr::memchr2(b'"', b'\\', rest)?;
            let is_end = rest.get(next) == Some(&b'"');
            self.at += next + if is_end { 1 } else { 2 };
            if is_end {
                return self.text.get(begin..self.at);
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, octet: u8) -> Option<()> {
        (self.peek()? == octet).then(|| self.at += 1)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

/// What is left of the places that lead to a member of this name, or to an element (`*`).
fn inner<'p>(places: &[Rest<'p>], name: &str) -> Vec<Rest<'p>> {
    let leads = |place: &Rest<'p>| place.split_first().filter(|(first, _)| ***first == *name).map(|(_, rest)| rest);
    places.iter().filter_map(leads).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn places(list: &[&str]) -> Vec<Place> {
        list.iter().map(|text| json::place(text).expect("a place")).collect()
    }

    #[test]
    fn values_are_found_to_the_octet() {
        let text = r#" { "a" : {"b\"/":[ 1.50 , "x]" ]} , "rows":[{"id":"1","n":{"id":2}},{"id" :{"deep":[1]}}, 7], "\u0069d":null}"#;
        let found = |list: &[&str]| -> Vec<(String, &str)> {
            let found = find(text, &places(list), 9).expect("JSON");
            found.into_iter().map(|it| (it.pointer, &text[it.at])).collect()
        };
        let of = |pointer: &str, raw: &'static str| (pointer.to_owned(), raw);
        assert_eq!(found(&["/a/b\"~1/*"]), [of("/a/b\"~1/0", "1.50"), of("/a/b\"~1/1", "\"x]\"")]);
        assert_eq!(
            found(&["/rows/*/id", "/id", "/none", "/rows/*/id/none", "/a/b"]),
            [of("/rows/0/id", "\"1\""), of("/rows/1/id", "{\"deep\":[1]}"), of("/id", "null")]
        );
        assert_eq!(found(&["/a"]), [of("/a", "{\"b\\\"/\":[ 1.50 , \"x]\" ]}")]);
        assert_eq!(find("[[1],[2],[3]]", &places(&["/*"]), 1).expect("JSON").len(), 2, "one more than the most");
        assert_eq!(find("7", &places(&["/a"]), 1), Some(Vec::new()));
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-c\"\\\\/~é{}\\[\\],: ]{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[abc\"]{1,2}", inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_the_pointer_means(value in value(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
            let whole: Value = serde_json::from_str(&text).expect("JSON");
            for list in [&["/a"][..], &["/*"], &["/a/b", "/*/a", "/b/*/*", "/c/*/a"]] {
                let found = find(&text, &places(list), 1000).expect("JSON");
                for found in &found {
                    let read: Value = serde_json::from_str(&text[found.at.clone()]).expect("JSON");
                    prop_assert_eq!(Some(&read), whole.pointer(&found.pointer));
                }
                let same = found.iter().map(|found| text[found.at.clone()].to_owned());
                prop_assert_eq!(replace(&text, &found, same).expect("it fits"), text.as_bytes());
            }
            if let Some(members) = value.as_object() {
                prop_assert_eq!(find(&text, &places(&["/a"]), 9).expect("JSON").len(), usize::from(members.contains_key("a")));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\a1 ]{0,24}") {
            let _ = find(&text, &places(&["/a", "/*/a", "/b/*"]), 3);
        }
    }
}
