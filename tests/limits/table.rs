//! Tables for people and for the README.

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");

pub(crate) struct Column {
    name: &'static str,
    is_number: bool,
}

impl Column {
    pub(crate) fn words(name: &'static str) -> Self {
        Self { name, is_number: false }
    }

    pub(crate) fn number(name: &'static str) -> Self {
        Self { name, is_number: true }
    }
}

pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn text(&self) -> String {
        let head: Vec<String> = self.columns.iter().map(|column| column.name.to_owned()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = std::iter::once(&head).chain(&self.rows).filter_map(|row| row.get(index));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = format!("\n{}\n", self.title);
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), column) in row.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let parts = if column.is_number { [&padding, cell] } else { [cell, &padding] };
                line.extend([parts[0].as_str(), parts[1], "  "]);
            }
            text.extend([line.trim_end(), "\n"]);
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        let names = self.columns.iter().map(|column| column.name).collect();
        let rules = self.columns.iter().map(|column| if column.is_number { "---:" } else { "---" }).collect();
        let rows: String = self.rows.iter().map(|row| line(row.iter().map(String::as_str).collect())).collect();
        format!("{}:\n\n{}{}{rows}\n", self.title, line(names), line(rules))
    }
}

/// Puts text between the marks of that name in the README.
pub(crate) fn save(name: &str, text: &str) {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let readme = std::fs::read_to_string(README).expect("the README is there");
    let (before, rest) = readme.split_once(&begin).expect("it has a mark for the beginning");
    let (_, after) = rest.split_once(&end).expect("it has a mark for the end");
    std::fs::write(README, format!("{before}{begin}{text}{end}{after}")).expect("it can be written");
}
