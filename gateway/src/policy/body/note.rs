//! What a client is told in one header: a list of bounded number and length (RFC 9651 §3.1).

use std::fmt::Write as _;

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

    /// Notes one more thing. `write` writes it, as an item of such a list.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut String)) {
        // What comes behind something that is left out is left out too, so that the list is a beginning.
        if self.more > 0 || self.listed == MOST {
            self.more += 1;
            return;
        }
        let before = self.text.len();
        if before > 0 {
            self.text.push_str(", ");
        }
        write(&mut self.text);
        if self.text.len() > LONGEST {
            self.text.truncate(before);
            self.more += 1;
        } else {
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
pub(super) fn string(text: &str, out: &mut String) {
    let is_plain = |octet: u8| (0x20..0x7F).contains(&octet);
    if text.bytes().all(is_plain) {
        out.push('"');
        for char in text.chars() {
            if matches!(char, '"' | '\\') {
                out.push('\\');
            }
            out.push(char);
        }
    } else {
        out.push_str("%\"");
        for octet in text.bytes() {
            if is_plain(octet) && !matches!(octet, b'"' | b'%') {
                out.push(char::from(octet));
            } else {
                let _ = write!(out, "%{octet:02x}");
            }
        }
    }
    out.push('"');
}

/// A name as a token (§3.3.4), or where it is none as a string.
pub(super) fn token(text: &str, out: &mut String) {
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&octet);
    if text.bytes().all(is_token) && text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic()) {
        out.push_str(text);
    } else {
        string(text, out);
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
            note.add(|out| token("abc", out));
        }
        assert!(!note.is_empty());
        let text = note.finish();
        assert_eq!(text.matches("abc").count(), MOST);
        assert!(text.ends_with(", *;more=8"), "{text}");
        let mut note = Note::default();
        for _ in 0..3 {
            note.add(|out| token(&"x".repeat(900), out));
        }
        let text = note.finish();
        assert!(text.len() < LONGEST + 20 && text.ends_with(", *;more=1"), "{text}");
        let mut note = Note::default();
        note.add(|out| token(&"x".repeat(9000), out));
        assert_eq!(note.finish(), "*;more=1");
    }

    #[test]
    fn whatever_the_name_the_header_can_be_read() {
        let written = |text: &str| {
            let mut out = String::new();
            token(text, &mut out);
            out
        };
        assert_eq!(written("petal_width"), "petal_width");
        assert_eq!(written("petal width, \"cm\""), "\"petal width, \\\"cm\\\"\"");
        assert_eq!(written("Größe %"), "%\"Gr%c3%b6%c3%9fe %25\"");
        assert_eq!(written("7"), "\"7\"");
        assert_eq!(written(""), "\"\"");
    }
}
