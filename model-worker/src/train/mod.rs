//! From data to an artifact. The same seed and data give the same bytes, in any process.

pub mod corpus;
pub mod forest;
pub mod iris;
pub mod random;
pub mod sentiment;
pub mod sklearn;
pub mod table;

use std::collections::BTreeMap;

use crate::model::artifact::ArtifactError;

/// Seed used unless another is given.
pub const SEED: u64 = 20_240_229;

/// Versions that shape the numbers; a test holds them to the lock file.
const LINFA: &str = "0.8.1";
const VADER: &str = "0.1.3";

/// Why training did not give an artifact.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The learner refused the data.
    #[error("the learner refused the data: {0}")]
    Learner(String),
    /// What was learned does not fit the format.
    #[error("what was learned does not fit the artifact: {0}")]
    Artifact(#[from] ArtifactError),
    /// The data lacks something.
    #[error("the data is not usable: {0}")]
    Data(String),
    /// The data could not be read.
    #[error("the data could not be read: {0}")]
    Read(#[from] std::io::Error),
}

/// Is told, in words, what has been done.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

fn crates(used: &[(&str, &str)]) -> BTreeMap<String, String> {
    used.iter().chain(&[("model-worker", env!("CARGO_PKG_VERSION"))]).map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn stated_versions_are_the_locked_ones() {
        let lock = include_str!("../../../Cargo.lock");
        for (name, version) in [
            ("linfa", super::LINFA),
            ("linfa-trees", super::LINFA),
            ("linfa-datasets", super::LINFA),
            ("vader-sentimental", super::VADER),
        ] {
            assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{name}");
        }
    }
}
