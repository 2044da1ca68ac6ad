//! Clean text: one spelling for what looks the same, no control characters, a bounded length; and what was
//! changed.

use std::fmt::{self, Write as _};

use serde_json::Value;
use unicode_normalization::UnicodeNormalization as _;

use crate::policy::json;
use crate::settings::Section;

/// One `[clean_text.NAME]`: what is done to the strings at a place in the body.
#[derive(Debug)]
pub(super) struct CleanText {
    at: json::Place,
    nfc: bool,
    controls: bool,
    max_chars: Option<usize>,
}

impl CleanText {
    pub(super) fn compile(section: Section<'_>) -> Option<Self> {
        let at: Option<String> =
            section.required("at", "write a JSON pointer such as \"/text\"; `*` stands for every element");
        let nfc = section.or("nfc", true);
        let controls = section.or("remove_controls", true);
        let max_chars = section.optional::<usize>("max_chars");
        if max_chars == Some(0) {
            section.mistake("max_chars", "is 0, so no text would be left", "write how many characters are kept");
        }
        let at = at?;
        let parts = json::place(&at);
        if parts.is_none() || !at.is_ascii() {
            section.mistake("at", format!("is {at:?}, which is not a JSON pointer in ASCII"), "begin it with a slash");
        }
        section.finish();
        Some(Self { at: parts?, nfc, controls, max_chars })
    }

    pub(super) fn apply(&self, value: &mut Value, changes: &mut Vec<Change>) {
        self.descend(value, &self.at, &mut String::new(), changes);
    }

    fn descend(&self, value: &mut Value, at: &[Box<str>], pointer: &mut String, changes: &mut Vec<Change>) {
        let length = pointer.len();
        match (at.split_first(), value) {
            (None, Value::String(text)) => changes.extend(self.clean(text, pointer)),
            (Some((part, rest)), Value::Object(members)) => {
                if let Some(member) = members.get_mut(&**part) {
                    let _ = write!(pointer, "/{}", json::escape(part));
                    self.descend(member, rest, pointer, changes);
                }
            }
            (Some((part, rest)), Value::Array(elements)) if &**part == "*" => {
                for (index, element) in elements.iter_mut().enumerate() {
                    let _ = write!(pointer, "/{index}");
                    self.descend(element, rest, pointer, changes);
                    pointer.truncate(length);
                }
            }
            _ => {}
        }
        pointer.truncate(length);
    }

    fn clean(&self, text: &mut String, pointer: &str) -> Option<Change> {
        let mut change = Change { pointer: pointer.to_owned(), nfc: false, controls: 0, cut: 0 };
        if self.controls {
            let keep = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
            change.controls = text.chars().filter(|&c| !keep(c)).count();
            text.retain(keep);
        }
        if self.nfc && !unicode_normalization::is_nfc(text) {
            *text = text.nfc().collect();
            change.nfc = true;
        }
        if let Some(max) = self.max_chars
            && let Some((end, _)) = text.char_indices().nth(max)
        {
            change.cut = text.get(end..).unwrap_or_default().chars().count();
            text.truncate(end);
        }
        (change.nfc || change.controls > 0 || change.cut > 0).then_some(change)
    }
}

/// What was done to one string.
pub(super) struct Change {
    pointer: String,
    nfc: bool,
    controls: usize,
    cut: usize,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pointer's names come from the policy; only indexes come from the client.
        write!(f, "{:?}", self.pointer)?;
        if self.nfc {
            f.write_str(";nfc")?;
        }
        if self.controls > 0 {
            write!(f, ";controls={}", self.controls)?;
        }
        if self.cut > 0 {
            write!(f, ";cut={}", self.cut)?;
        }
        Ok(())
    }
}
