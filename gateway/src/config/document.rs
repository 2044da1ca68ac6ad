//! A TOML document that remembers where everything stands.

use toml_edit::{ImDocument, Item, Table, TableLike, Value};

use crate::settings::Mistake;

/// A parsed document.
#[derive(Debug)]
pub(super) struct Document {
    name: String,
    parsed: ImDocument<String>,
}

impl Document {
    /// Parses a text.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Mistake> {
        ImDocument::parse(text.to_owned()).map(|parsed| Self { name: name.to_owned(), parsed }).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Mistake {
                place: place(name, text, at),
                key: String::new(),
                reason: format!("is not TOML: {}", error.message().replace('\n', "; ")),
                remedy: "correct the line; TOML is described at toml.io".into(),
            }
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn text(&self) -> &str {
        self.parsed.raw()
    }

    /// `file:line:column` of a path of keys and list positions, if the document has it.
    pub(super) fn locate(&self, path: &[String]) -> Option<String> {
        let (last, parents) = path.split_last()?;
        let mut here = Node::Table(self.parsed.as_table());
        for part in parents {
            here = here.step(part)?.1;
        }
        let (at, _) = here.step(last)?;
        Some(place(&self.name, self.text(), at?))
    }
}

#[derive(Clone, Copy)]
enum Node<'d> {
    Table(&'d Table),
    Item(&'d Item),
    Value(&'d Value),
}

impl<'d> Node<'d> {
    /// Where the part begins, and what is there.
    fn step(self, part: &str) -> Option<(Option<usize>, Node<'d>)> {
        let table: &dyn TableLike = match self {
            Self::Table(table) => table,
            Self::Item(item) => match item.as_table_like() {
                Some(table) => table,
                None => match item.as_array_of_tables() {
                    Some(tables) => {
                        let table = tables.get(part.parse().ok()?)?;
                        return Some((table.span().map(|span| span.start), Node::Table(table)));
                    }
                    None => return element(item.as_value()?, part),
                },
            },
            Self::Value(value) => match value.as_inline_table() {
                Some(table) => table,
                None => return element(value, part),
            },
        };
        let (key, item) = table.get_key_value(part)?;
        let at = key.span().or_else(|| item.span()).map(|span| span.start);
        Some((at, Node::Item(item)))
    }
}

fn element<'d>(value: &'d Value, part: &str) -> Option<(Option<usize>, Node<'d>)> {
    let element = value.as_array()?.get(part.parse().ok()?)?;
    Some((element.span().map(|span| span.start), Node::Value(element)))
}

fn place(name: &str, text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
    format!("{name}:{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::Document;

    #[test]
    fn places() {
        let text =
            "[listener]\naddress = \"x\"\n\n[routes.a]\nlimits = [\"one\", \"two\"]\nbody = { max = \"1KiB\" }\n";
        let document = Document::parse("f.toml", text).map_err(|m| m.reason).expect("it is TOML");
        for (path, place) in [
            (&["listener", "address"][..], Some("f.toml:2:1")),
            (&["routes", "a", "limits", "1"], Some("f.toml:5:18")),
            (&["routes", "a", "body", "max"], Some("f.toml:6:10")),
            (&["routes", "a"], Some("f.toml:4:9")),
            (&["routes", "b"], None),
        ] {
            let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
            assert_eq!(document.locate(&path).as_deref(), place, "{path:?}");
        }
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let mistake = Document::parse("f.toml", "a = 1\nb = = 2\n").expect_err("not TOML");
        assert_eq!(mistake.place, "f.toml:2:5");
    }
}
