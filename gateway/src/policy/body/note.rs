//! What a client is told in one header: a list of bounded number and length (RFC 9651 §3.1).

use std::fmt::Write as _;

use sfv::{ItemSerializer, RefBareItem, StringRef, TokenRef};

/// How many things one header lists.
const MOST: usize = 32;
/// How long it may get, in octets.
const LONGEST: usize = 2048;

/// A list that grows to its bounds; what does not fit is counted.
#[derive(Debug, Default)]
pub(super) struct Note {
    text: String,
    listed: usize,
    more: usize,
}

impl Note {
    /// Whether nothing was noted.
    pub(super) fn is_empty(&self) -> bool {
        self.listed + self.more == 0
    }

    /// Notes one more thing, which is written as an item of such a list.
    pub(super) fn add(&mut self, item: impl FnOnce() -> String) {
        // What comes behind something that is left out is left out too, so that the list is a beginning.
        if self.more > 0 || self.listed == MOST {
            self.more += 1;
            return;
        }
        let (item, separator) = (item(), if self.text.is_empty() { "" } else { ", " });
        if self.text.len() + separator.len() + item.len() > LONGEST {
            self.more += 1;
        } else {
            self.text.push_str(separator);
            self.text.push_str(&item);
            self.listed += 1;
        }
    }

    /// The list; its end says how much was left out: `*;more=17`.
    pub(super) fn finish(mut self) -> String {
        if self.more > 0 {
            let separator = if self.text.is_empty() { "" } else { ", " };
            // Writing to a string never fails.
            let _ = write!(self.text, "{separator}*;more={}", self.more);
        }
        self.text
    }
}

/// A text as a string of RFC 9651 §3.3.3, or where it is not ASCII as a display string (§3.3.8).
pub(super) fn string(text: &str) -> String {
    let item = StringRef::from_str(text).map_or(RefBareItem::DisplayString(text), RefBareItem::String);
    ItemSerializer::new().bare_item(item).finish()
}

/// A name as a token (§3.3.4), or where it is none as a string. What begins with a star could be taken for the end.
pub(super) fn token(text: &str) -> String {
    match TokenRef::from_str(text) {
        Ok(token) if !text.starts_with('*') => ItemSerializer::new().bare_item(token).finish(),
        _ => string(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_bounded_in_number_and_length_and_says_so() {
        let mut note = Note::default();
        assert!(note.is_empty());
        for _ in 0..40 {
            note.add(|| token("abc"));
        }
        assert!(!note.is_empty());
        let text = note.finish();
        assert_eq!(text.matches("abc").count(), MOST);
        assert!(text.ends_with(", *;more=8"), "{text}");
        let mut note = Note::default();
        for _ in 0..3 {
            note.add(|| token(&"x".repeat(900)));
        }
        let text = note.finish();
        assert!(text.len() < LONGEST + 20 && text.ends_with(", *;more=1"), "{text}");
        let mut note = Note::default();
        note.add(|| token(&"x".repeat(9000)));
        assert_eq!(note.finish(), "*;more=1");
    }

    #[test]
    fn whatever_the_name_the_header_can_be_read() {
        assert_eq!(token("petal_width"), "petal_width");
        assert_eq!(token("petal width, \"cm\""), "\"petal width, \\\"cm\\\"\"");
        assert_eq!(token("Größe %"), "%\"Gr%c3%b6%c3%9fe %25\"");
        assert_eq!(token("*"), "\"*\"");
        assert_eq!(token("7"), "\"7\"");
        assert_eq!(token(""), "\"\"");
    }
}
