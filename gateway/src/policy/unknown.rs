//! What something is worth while the store that knows about it does not answer.

use crate::settings::Named;

/// What the policy says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// It is refused.
    Refuse,
    /// It is taken.
    Allow,
}

impl Named for Unknown {
    const SHAPE: &'static str = "\"refuse\" or \"allow\"";
    const NAMES: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("allow", Self::Allow)];
}
