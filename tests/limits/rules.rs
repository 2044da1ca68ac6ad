//! Limits and their store without a policy around them.

use std::sync::Arc;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;
use gateway::edge::counter::{SharedStore, StoreSettings};
use gateway::policy::limit::{self, Limit};
use gateway::settings::{Mistakes, Section, Source};

/// Where there is nothing but what is written here.
struct Nowhere;

impl Source for Nowhere {
    fn locate(&self, _: &[String]) -> String {
        String::new()
    }
    fn rank(&self, _: &[String]) -> Option<usize> {
        None
    }
    fn file(&self, _: &str) -> Result<Vec<u8>, String> {
        Err(String::new())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

/// One limit by principal, in a Redis on this port.
pub(crate) fn one(port: u16, quota: u64, window: u64) -> (Arc<Limit>, Arc<SharedStore>) {
    let toml = format!(
        "[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1:{port}\"\ntimeout = \"5s\"\n\
         [limits.calls]\nquota = {quota}\nwindow = \"{window}s\"\nby = [\"principal\"]\nstore_lost = \"deny\"\n"
    );
    let dict: Dict = Figment::from(Toml::string(&toml)).extract().expect("good TOML");
    let mistakes = Mistakes::default();
    let root = Section::root(&Nowhere, &mistakes, &dict);
    let limits = limit::compile_all(&root, &[], false);
    let settings = root.section("store").and_then(StoreSettings::compile).expect("a store");
    assert_eq!(mistakes.into_vec().len(), 0, "{toml}");
    let limit = limits.into_values().next().expect("a limit");
    (limit, Arc::new(SharedStore::new(settings, 1)))
}
