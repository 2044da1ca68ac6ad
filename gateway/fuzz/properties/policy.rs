//! A real policy, compiled from TOML.

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;

use gateway::settings::{Mistakes, Section, Source};

/// Reads a table with `compile`, which must find no mistake in it.
pub(crate) fn compiled<T>(toml: &str, compile: impl FnOnce(&Section<'_>) -> T) -> T {
    let dict: Dict = Figment::from(Toml::string(toml)).extract().expect("it is TOML");
    let mistakes = Mistakes::default();
    let compiled = compile(&Section::root(&Text, &mistakes, &dict));
    let mistakes = mistakes.into_vec();
    assert!(mistakes.is_empty(), "{mistakes:?}");
    compiled
}

struct Text;

impl Source for Text {
    fn locate(&self, path: &[String]) -> String {
        path.join(".")
    }

    fn rank(&self, _: &[String]) -> Option<usize> {
        Some(0)
    }

    fn file(&self, name: &str) -> Result<Vec<u8>, String> {
        Err(format!("{name} is not there"))
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}
