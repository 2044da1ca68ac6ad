//! The models of a directory, `NAME/VERSION.model`, and the one compiled in. Never changes once loaded: a reload
//! makes another catalog and requests in flight keep theirs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::failure::{Exit, Failure};
use crate::metrics::Counts;
use crate::model::{self, Model, artifact};

/// The sentiment model that every worker has, unless its directory holds another of that name.
const SENTIMENT: &[u8] = include_bytes!("../models/sentiment/1.model");

/// A version: numbers between dots, compared number by number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Vec<u32>);

impl Version {
    /// Reads `1`, `2.10` or `2024.2.29`; one spelling for each version, so no `01`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |part: &str| {
            let canonical = part == "0" || !part.starts_with('0');
            (canonical && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok()).flatten()
        };
        let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
        (numbers.len() <= 4).then_some(Self(numbers))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, number) in self.0.iter().enumerate() {
            write!(f, "{}{number}", if index > 0 { "." } else { "" })?;
        }
        Ok(())
    }
}

/// A model that is being served.
#[derive(Debug)]
pub struct Served {
    /// The name it answers to.
    pub name: String,
    /// Its version, as it is written.
    pub version: String,
    /// The model.
    pub model: Model,
    /// What it has done so far.
    pub counts: Counts,
}

/// All that is served.
#[derive(Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, BTreeMap<Version, Arc<Served>>>,
    own: usize,
}

impl Catalog {
    /// Loads every model of `directory`, and the one compiled in.
    ///
    /// # Errors
    ///
    /// Exit code 66 when the directory, or a model's directory's content, is missing; 65 when any artifact is not
    /// usable or is wrongly named: serving the rest would hide it.
    pub fn load(directory: &Path) -> Result<Self, Failure> {
        let mut catalog = Self::default();
        for (name, path) in list(directory)? {
            if !path.is_dir() {
                continue;
            }
            if !is_name(&name) {
                return Err(misnamed(&path, "a model's name is 1 to 64 of a-z, 0-9, `_` and `-`"));
            }
            let mut found = false;
            for (file, path) in list(&path)? {
                let Some(version) = file.strip_suffix(".model") else {
                    continue;
                };
                let version =
                    Version::parse(version).ok_or_else(|| misnamed(&path, "a version is numbers between dots"))?;
                let bytes = artifact::read(&path)?;
                let model = model::load(&bytes).map_err(|error| artifact::unusable(&path, &error))?;
                catalog.add(&name, version, model);
                catalog.own += 1;
                found = true;
            }
            if !found {
                return Err(Failure::new(
                    Exit::NoInput,
                    format!("there is no model in {}", path.display()),
                    "the directory holds no VERSION.model",
                    "write one with `model-worker train`, or remove the directory",
                ));
            }
        }
        if !catalog.models.contains_key("sentiment") {
            catalog.add_built_in()?;
        }
        Ok(catalog)
    }

    /// The catalog of a worker without any models of its own.
    ///
    /// # Errors
    ///
    /// Exit code 70 when the model compiled in does not load, which a test rules out.
    pub fn built_in() -> Result<Self, Failure> {
        let mut catalog = Self::default();
        catalog.add_built_in()?;
        Ok(catalog)
    }

    fn add_built_in(&mut self) -> Result<(), Failure> {
        let model = model::load(SENTIMENT).map_err(|error| {
            let what = "the sentiment model that is compiled in cannot be used";
            Failure::new(Exit::Software, what, error.to_string(), "build the worker again")
        })?;
        self.add("sentiment", Version(vec![1]), model);
        Ok(())
    }

    /// Adds a model.
    pub fn add(&mut self, name: &str, version: Version, model: Model) {
        let counts = Counts::new(model.card());
        let served = Served { name: name.to_owned(), version: version.to_string(), model, counts };
        self.models.entry(name.to_owned()).or_default().insert(version, Arc::new(served));
    }

    /// How many artifacts came from the directory.
    #[must_use]
    pub fn own(&self) -> usize {
        self.own
    }

    /// The highest version of each model, by name.
    pub fn current(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.models.values().filter_map(|versions| versions.values().next_back())
    }

    /// The highest version of a model, or the one that is named.
    #[must_use]
    pub fn find(&self, name: &str, version: Option<&str>) -> Option<&Arc<Served>> {
        let versions = self.models.get(name)?;
        match version {
            Some(version) => versions.get(&Version::parse(version)?),
            None => versions.values().next_back(),
        }
    }

    /// All versions of a model, lowest first.
    pub fn versions(&self, name: &str) -> impl Iterator<Item = &str> {
        self.models.get(name).into_iter().flat_map(BTreeMap::values).map(|served| served.version.as_str())
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

fn misnamed(path: &Path, why: &str) -> Failure {
    Failure::new(Exit::BadData, format!("{} is not named as a model is", path.display()), why, "rename or move it")
}

/// Names and paths in a directory, in order; hidden ones (an unfinished copy, say) are left out.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let failure =
        |error: std::io::Error| Failure::reading(format!("cannot list the models in {}", directory.display()), &error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failure)? {
        let entry = entry.map_err(failure)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            entries.push((name, entry.path()));
        }
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = |text| Version::parse(text).expect(text);
        assert!(version("10") > version("9"));
        assert!(version("1.10") > version("1.9"));
        assert!(version("2") > version("1.99.99"));
        for text in ["", "01", "1.", ".1", "-1", "+1", "v1", "1.2.3.4.5", "99999999999", "1 "] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_model_compiled_in_works() {
        let catalog = Catalog::built_in().expect("loads");
        let served = catalog.find("sentiment", Some("1")).expect("is there");
        let predict = |text: &str| model::argmax(&served.model.predict_all(&model::Rows::Texts(vec![text.into()])));
        assert_eq!(predict("I love it, great work!"), 2);
        assert_eq!(predict("It is terrible, I hate it."), 0);
        assert_eq!(predict("The meeting is on Monday."), 1);
    }

    #[test]
    fn the_highest_version_answers_and_every_version_can_be_named() {
        let root = tempfile::tempdir().expect("directory");
        let iris = root.path().join("iris");
        std::fs::create_dir(&iris).expect("created");
        for version in ["9", "10"] {
            let (_, bytes) = crate::train::iris::train(1, 1, &mut |_| {}).expect("trained");
            artifact::write(&iris.join(format!("{version}.model")), &bytes).expect("written");
        }
        std::fs::write(iris.join(".11.model"), "unfinished").expect("written");
        let catalog = Catalog::load(root.path()).expect("loads");
        assert_eq!(catalog.find("iris", None).expect("is there").version, "10");
        assert_eq!(catalog.find("iris", Some("9")).expect("is there").version, "9");
        assert!(catalog.find("iris", Some("11")).is_none());
        assert_eq!(catalog.versions("iris").collect::<Vec<_>>(), ["9", "10"]);
        assert_eq!(catalog.current().count(), 2);
    }

    #[test]
    fn what_is_wrong_with_a_directory_is_said() {
        let root = tempfile::tempdir().expect("directory");
        let exit = || Catalog::load(root.path()).map_err(|failure| failure.exit()).err();
        assert_eq!(exit(), None);
        let iris = root.path().join("iris");
        std::fs::create_dir(&iris).expect("created");
        assert_eq!(exit(), Some(Exit::NoInput));
        std::fs::write(iris.join("1.model"), "MWRK").expect("written");
        assert_eq!(exit(), Some(Exit::BadData));
        std::fs::rename(iris.join("1.model"), iris.join("one.model")).expect("renamed");
        assert_eq!(exit(), Some(Exit::BadData));
        std::fs::remove_dir_all(&iris).expect("removed");
        std::fs::create_dir(root.path().join("Iris!")).expect("created");
        assert_eq!(exit(), Some(Exit::BadData));
    }
}
