//! A value that cannot be printed.

use std::fmt;

/// Secret bytes: no `Display`, a `Debug` that shows nothing, and an explicit call to read them.
///
/// Never written to a log, an error, a metric or a panic, because no formatting of it exists.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps secret bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Wraps secret bytes without the line ends behind them, as editors and `echo` add them.
    #[must_use]
    pub fn from_text(bytes: &[u8]) -> Self {
        let end = bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |last| last + 1);
        Self::new(bytes.get(..end).unwrap_or_default())
    }

    /// The bytes, for the one place that must use them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        // Best effort: `black_box` keeps the compiler from removing the writes as dead.
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(*b"hunter2");
        assert_eq!(format!("{secret:?}"), "[secret]");
    }
}
