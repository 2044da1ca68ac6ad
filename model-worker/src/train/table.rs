//! A table of numbers with one column of classes, read from CSV (RFC 4180) with a line of names.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::TrainError;
use crate::model::artifact::sha256_hex;
use crate::model::card::Bounds;

/// Largest file.
const MOST_BYTES: u64 = 512 << 20;
/// Most columns beside the target.
const MOST_FEATURES: usize = 1024;
/// Most classes.
const MOST_CLASSES: usize = 256;

/// One column of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Unit of its values; empty where none was given.
    pub unit: String,
    /// What no value can exceed; where none is given, they are taken from the values seen.
    pub bounds: Option<Bounds>,
}

/// Rows of numbers, each of one class.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// Names of the classes, in order.
    pub classes: Vec<String>,
    /// Row after row.
    pub values: Vec<f64>,
    /// The class of each row.
    pub labels: Vec<usize>,
    /// Where it comes from.
    pub source: String,
    /// SHA-256 over the data, in lower-case hexadecimal.
    pub sha256: String,
}

impl Table {
    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f64] {
        let width = self.columns.len();
        self.values.get(row * width..(row + 1) * width).unwrap_or_default()
    }

    /// All values of one column, in order of the rows.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f64> {
        self.values.iter().skip(column).step_by(self.columns.len().max(1)).copied()
    }
}

/// The lines of a CSV file, as text.
#[derive(Debug)]
pub struct Lines {
    /// The first line.
    pub names: Vec<String>,
    /// The others, each with its number in the file.
    pub lines: Vec<(u64, csv::StringRecord)>,
    /// SHA-256 over the file.
    pub sha256: String,
}

/// Reads CSV.
///
/// # Errors
///
/// When it cannot be read, is too large, or its lines differ in length.
pub fn lines(reader: impl Read) -> Result<Lines, TrainError> {
    let mut bytes = Vec::new();
    reader.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MOST_BYTES) {
        return Err(TrainError::Data(format!("it is larger than {MOST_BYTES} bytes")));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let malformed = |error: csv::Error| TrainError::Data(error.to_string());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
    let names: Vec<String> = reader.headers().map_err(malformed)?.iter().map(str::to_owned).collect();
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(malformed)?;
        lines.push((record.position().map_or(0, csv::Position::line), record));
    }
    Ok(Lines { names, lines, sha256: sha256_hex(&bytes) })
}

impl Lines {
    /// The place of the column called `name`.
    ///
    /// # Errors
    ///
    /// When there is none, or several.
    pub fn place(&self, name: &str) -> Result<usize, TrainError> {
        let mut places = self.names.iter().enumerate().filter(|(_, other)| *other == name).map(|(place, _)| place);
        match (places.next(), places.next()) {
            (Some(place), None) => Ok(place),
            (Some(_), Some(_)) => Err(TrainError::Data(format!("the column {name:?} is there more than once"))),
            (None, _) => {
                let known: Vec<&str> = self.names.iter().take(20).map(String::as_str).collect();
                Err(TrainError::Data(format!("there is no column {name:?} among {}", known.join(", "))))
            }
        }
    }

    /// The number in one line's column.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn number(&self, (line, record): &(u64, csv::StringRecord), place: usize) -> Result<f64, TrainError> {
        let text = record.get(place).unwrap_or_default();
        text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(|| {
            let name = self.names.get(place).map_or("", String::as_str);
            let what = if text.is_empty() { "there is no value" } else { "it is not a finite number" };
            TrainError::Data(format!("line {line}, column {name:?}: {what}"))
        })
    }
}

/// Numbers by their value, then everything else by its letters.
fn in_order(names: &mut [String]) {
    let number = |name: &str| name.parse::<f64>().ok().filter(|number| number.is_finite());
    names.sort_by(|a, b| match (number(a), number(b)) {
        (Some(x), Some(y)) => x.total_cmp(&y).then_with(|| a.cmp(b)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    });
}

/// Reads a table whose column `target` holds the classes and all others numbers.
///
/// # Errors
///
/// Names the line and column of what is not as it should be.
pub fn read(path: &Path, target: &str) -> Result<Table, TrainError> {
    let lines = lines(std::fs::File::open(path)?)?;
    let place = lines.place(target)?;
    let names: Vec<(usize, &String)> = lines.names.iter().enumerate().filter(|(at, _)| *at != place).collect();
    if names.is_empty() || names.len() > MOST_FEATURES {
        return Err(TrainError::Data(format!("there are {} columns beside {target:?}, not 1 to 1024", names.len())));
    }
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for line in &lines.lines {
        for (at, _) in &names {
            values.push(lines.number(line, *at)?);
        }
        let class = line.1.get(place).unwrap_or_default();
        if class.is_empty() {
            return Err(TrainError::Data(format!("line {}, column {target:?}: there is no class", line.0)));
        }
        labels.push(class);
    }
    let mut classes: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
    in_order(&mut classes);
    classes.dedup();
    if !(2..=MOST_CLASSES).contains(&classes.len()) {
        let hint = if classes.len() > 2 { "; the worker learns classes, not amounts" } else { "" };
        let count = classes.len();
        return Err(TrainError::Data(format!("the column {target:?} holds {count} classes, not 2 to 256{hint}")));
    }
    let numbers: BTreeMap<&str, usize> = classes.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let labels = labels.iter().map(|label| numbers.get(label).copied().unwrap_or(0)).collect();
    let column = |name: &String| Column { name: name.clone(), unit: String::new(), bounds: None };
    let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok(Table {
        columns: names.iter().map(|(_, name)| column(name)).collect(),
        classes,
        values,
        labels,
        source: format!("{file}, classes from {target:?}; digest over the file"),
        sha256: lines.sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Table, String> {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("data.csv");
        std::fs::write(&path, text).expect("written");
        read(&path, "y").map_err(|error| error.to_string())
    }

    #[test]
    fn columns_and_classes_are_found_wherever_they_are() {
        let table = table("\u{feff}a,y,\"b, c\"\r\n1,10,2\n3,9,4e1\n5,10,-6\n").expect("a table");
        assert_eq!(table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a", "b, c"]);
        assert_eq!((table.classes.join(" ").as_str(), table.labels.as_slice()), ("9 10", [1, 0, 1].as_slice()));
        assert_eq!((table.row(1), table.column(0).sum::<f64>()), ([3.0, 40.0].as_slice(), 9.0));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, expected) in [
            ("a,b\n1,2\n", "no column \"y\" among a, b"),
            ("a,y,y\n1,2,3\n", "more than once"),
            ("y\n1\n2\n", "0 columns beside"),
            ("a,y\n1,x\n", "1 classes"),
            ("a,y\n", "0 classes"),
            ("a,y\n1,x\n,z\n", "line 3, column \"a\": there is no value"),
            ("a,y\n1,x\nNaN,z\n", "line 3, column \"a\": it is not a finite number"),
            ("a,y\n1,x\n1,\n", "line 3, column \"y\": there is no class"),
            ("a,y\n1,x\n1\n", "1 fields"),
        ] {
            let error = table(text).expect_err(text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
