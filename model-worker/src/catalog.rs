//! The models of a directory, `NAME/VERSION.model`, and the one compiled in. Never changes once loaded: a reload
//! makes another catalog and requests in flight keep theirs. At the start every file must be usable; later on, one that
//! is not leaves in place what was served before it.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
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

/// A file of the directory that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The directory's name.
    pub name: String,
    /// The version that the file would be.
    pub version: String,
    /// The file.
    pub file: String,
    /// Why not.
    pub why: String,
}

/// By what a changed file is told from the same one: its length, its number on the disk, when it was written, and when
/// anything about it was changed, which nobody can set.
type Print = (u64, u64, [i64; 4]);

/// All that is served.
#[derive(Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, BTreeMap<Version, Arc<Served>>>,
    refused: Vec<Refused>,
    prints: BTreeMap<PathBuf, Print>,
    own: usize,
}

/// One file that should be a model.
struct Found {
    name: String,
    version: Version,
    path: PathBuf,
}

impl Catalog {
    /// Loads every model of `directory`, and the one compiled in.
    ///
    /// # Errors
    ///
    /// Exit code 66 when the directory, or a model's directory's content, is missing; 65 when any artifact is not
    /// usable or is wrongly named: serving the rest would hide it.
    pub fn load(directory: &Path) -> Result<Self, Failure> {
        let mut mistakes = Vec::new();
        let found = find(directory, &mut mistakes)?;
        if let Some((_, mistake)) = mistakes.into_iter().next() {
            return Err(mistake);
        }
        let mut catalog = Self { prints: prints(&found), ..Self::default() };
        for Found { name, version, path } in found {
            let bytes = artifact::read(&path)?;
            let model = model::load(&bytes).map_err(|error| artifact::unusable(&path, &error))?;
            catalog.add(&name, version, model);
            catalog.own += 1;
        }
        if !catalog.models.contains_key("sentiment") {
            catalog.add_built_in()?;
        }
        Ok(catalog)
    }

    /// The catalog after what has changed in `directory`; `None` when nothing has. Models whose files are the same are
    /// kept, with their counts; in place of a file that cannot be used, the model goes on that was served before.
    #[must_use]
    pub fn changed(&self, directory: &Path) -> Option<Self> {
        let mut mistakes = Vec::new();
        let refuse = |name: &str, version: &str, path: &Path, why: String| Refused {
            name: name.to_owned(),
            version: version.to_owned(),
            file: path.display().to_string(),
            why,
        };
        let found = match find(directory, &mut mistakes) {
            Ok(found) => found,
            Err(failure) => {
                // All that is known goes on: a directory that cannot be read is no order to serve nothing.
                let refused = vec![refuse("", "", directory, failure.why().to_owned())];
                let same = self.refused == refused;
                return (!same).then(|| Self {
                    models: self.models.clone(),
                    refused,
                    prints: BTreeMap::new(),
                    own: self.own,
                });
            }
        };
        let mut refused: Vec<Refused> =
            mistakes.into_iter().map(|(path, mistake)| refuse("", "", &path, mistake.why().to_owned())).collect();
        let prints = prints(&found);
        let misnamed = self.refused.iter().filter(|refused| refused.version.is_empty());
        if prints == self.prints && misnamed.eq(&refused) {
            return None;
        }
        let mut catalog = Self { prints, ..Self::default() };
        for Found { name, version, path } in found {
            let before = self.models.get(&name).and_then(|versions| versions.get(&version)).map(Arc::clone);
            let text = version.to_string();
            let print = catalog.prints.get(&path).copied();
            let same = print.is_some() && self.prints.get(&path).copied() == print;
            let known = self.refused.iter().find(|refused| refused.name == name && refused.version == text);
            let served = if same && known.is_none() && before.is_some() {
                before
            } else if let (true, Some(known)) = (same, known) {
                refused.push(known.clone());
                before
            } else {
                let read = artifact::read(&path);
                if read.is_err() {
                    // What the system refused today it may give tomorrow: the file is looked at again.
                    catalog.prints.remove(&path);
                }
                let loaded = read
                    .map_err(|failure| failure.why().to_owned())
                    .and_then(|bytes| model::load(&bytes).map_err(|error| error.to_string()));
                match loaded {
                    Ok(model) => Some(Arc::new(serve(&name, &version, model))),
                    Err(why) => {
                        refused.push(refuse(&name, &text, &path, why));
                        before
                    }
                }
            };
            if let Some(served) = served {
                catalog.models.entry(name).or_default().insert(version, served);
                catalog.own += 1;
            }
        }
        catalog.refused = refused;
        if !catalog.models.contains_key("sentiment") {
            let built_in = self.find("sentiment", Some("1")).filter(|_| self.own == self.all().count() - 1);
            match built_in {
                Some(same) => {
                    catalog
                        .models
                        .entry("sentiment".to_owned())
                        .or_default()
                        .insert(Version(vec![1]), Arc::clone(same));
                }
                None => catalog.add_built_in().ok()?,
            }
        }
        // All that was tried again was in vain.
        let same = catalog.refused == self.refused && catalog.all().map(Arc::as_ptr).eq(self.all().map(Arc::as_ptr));
        (!same).then_some(catalog)
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
        let served = serve(name, &version, model);
        self.models.entry(name.to_owned()).or_default().insert(version, Arc::new(served));
    }

    /// How many artifacts came from the directory.
    #[must_use]
    pub fn own(&self) -> usize {
        self.own
    }

    /// Every version of every model, by name, lowest version first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.models.values().flat_map(BTreeMap::values)
    }

    /// Features of the model that has most.
    #[must_use]
    pub fn widest(&self) -> usize {
        self.all().map(|served| served.model.card().features.len()).max().unwrap_or_default()
    }

    /// Files of the directory that cannot be used.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
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

fn serve(name: &str, version: &Version, model: Model) -> Served {
    let counts = Counts::new(model.card());
    Served { name: name.to_owned(), version: version.to_string(), model, counts }
}

/// The files of a directory that should be models, and what is not named as it should be.
fn find(directory: &Path, mistakes: &mut Vec<(PathBuf, Failure)>) -> Result<Vec<Found>, Failure> {
    let mut all = Vec::new();
    for (name, path) in list(directory)? {
        if !path.is_dir() {
            continue;
        }
        if !is_name(&name) {
            let mistake = misnamed(&path, "a model's name is 1 to 64 of a-z, 0-9, `_` and `-`");
            mistakes.push((path, mistake));
            continue;
        }
        let mut found = false;
        for (file, path) in list(&path)? {
            let Some(version) = file.strip_suffix(".model") else {
                continue;
            };
            found = true;
            if let Some(version) = Version::parse(version) {
                all.push(Found { name: name.clone(), version, path });
            } else {
                let mistake = misnamed(&path, "a version is numbers between dots");
                mistakes.push((path, mistake));
            }
        }
        if !found {
            let mistake = Failure::new(
                Exit::NoInput,
                format!("there is no model in {}", path.display()),
                "the directory holds no VERSION.model",
                "write one with `model-worker train`, or remove the directory",
            );
            mistakes.push((path, mistake));
        }
    }
    Ok(all)
}

fn prints(found: &[Found]) -> BTreeMap<PathBuf, Print> {
    let print = |path: &PathBuf| {
        let of = std::fs::metadata(path).ok()?;
        Some((path.clone(), (of.len(), of.ino(), [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()])))
    };
    found.iter().filter_map(|found| print(&found.path)).collect()
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
