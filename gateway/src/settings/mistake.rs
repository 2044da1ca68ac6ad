//! What is wrong with a configuration, all of it.

use std::cell::RefCell;
use std::fmt;

use serde::{Deserialize, Serialize};

/// One mistake: where, what, why and what to do. Never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// `file:line:column`, or the name of a variable.
    pub place: String,
    /// The key's path, such as `routes.predict.pool`; empty for a whole file.
    pub key: String,
    /// What is wrong, as the end of a sentence that begins with the key.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            writeln!(f, "  {}", self.place)?;
        } else {
            writeln!(f, "  {}  {}", self.place, self.key)?;
        }
        writeln!(f, "    {}", self.reason)?;
        write!(f, "    help: {}", self.remedy)
    }
}

/// All mistakes found so far, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<Vec<Mistake>>);

impl Mistakes {
    /// Notes one. The same mistake found twice is kept once.
    pub fn add(&self, mistake: Mistake) {
        let mut all = self.0.borrow_mut();
        if !all.contains(&mistake) {
            all.push(mistake);
        }
    }

    /// Whether one was noted at a key or below it.
    #[must_use]
    pub fn is_any_below(&self, key: &str) -> bool {
        self.0
            .borrow()
            .iter()
            .any(|mistake| mistake.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    }

    /// Whether there is none so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn into_vec(self) -> Vec<Mistake> {
        self.0.into_inner()
    }
}
