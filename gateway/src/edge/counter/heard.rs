//! For how long nobody has known what stands in Redis: time goes on also where whoever reads there has stopped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When all was known last.
#[derive(Debug)]
pub(in crate::edge) struct Heard {
    began: Instant,
    /// Milliseconds from then, and one; 0 for never.
    last: AtomicU64,
}

impl Heard {
    /// Nothing was heard so far.
    pub(in crate::edge) fn never() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// All was known at that time; `None` for never.
    pub(in crate::edge) fn at(&self, known: Option<Instant>) {
        let last = known.map_or(0, |known| {
            let since = known.saturating_duration_since(self.began).as_millis();
            u64::try_from(since).unwrap_or(u64::MAX - 1) + 1
        });
        self.last.store(last, Ordering::Relaxed);
    }

    /// For how long not all has been known.
    pub(in crate::edge) fn silence(&self) -> Duration {
        match self.last.load(Ordering::Relaxed).checked_sub(1) {
            Some(last) => self.began.elapsed().saturating_sub(Duration::from_millis(last)),
            None => Duration::MAX,
        }
    }
}
