//! Counters by name. A name keeps its counters while the policy is replaced around it, and each thread counts in
//! a place of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The counters of one name: for each thread, one for each kind of event.
#[derive(Debug)]
pub struct Series<const N: usize>(Box<[[AtomicU64; N]]>);

impl<const N: usize> Series<N> {
    /// Nothing counted yet, for so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        let row = || std::array::from_fn(|_| AtomicU64::new(0));
        Self((0..threads).map(|_| row()).collect())
    }

    /// Counts one event on a thread.
    pub fn count(&self, thread: usize, event: usize) {
        if let Some(number) = self.0.get(thread).and_then(|row| row.get(event)) {
            number.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often an event came, on all threads.
    #[must_use]
    pub fn sum(&self, event: usize) -> u64 {
        self.0.iter().filter_map(|row| row.get(event)).map(|number| number.load(Ordering::Relaxed)).sum()
    }
}

/// The series of a policy, by position.
pub type SeriesList<const N: usize> = Arc<[Arc<Series<N>>]>;

/// All names that there ever were. They come from policies alone.
#[derive(Debug)]
pub struct Registry<const N: usize> {
    threads: usize,
    all: Mutex<Vec<(Box<str>, Arc<Series<N>>)>>,
}

impl<const N: usize> Registry<N> {
    /// None yet, for so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, all: Mutex::default() }
    }

    /// The series of these names, in their order.
    pub fn list<'n>(&self, names: impl Iterator<Item = &'n str>) -> SeriesList<N> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut find = |name: &str| {
            if let Some((_, series)) = all.iter().find(|(known, _)| **known == *name) {
                return Arc::clone(series);
            }
            let series = Arc::new(Series::new(self.threads));
            all.push((name.into(), Arc::clone(&series)));
            series
        };
        names.map(&mut find).collect()
    }

    /// Shows each name and its counters.
    pub fn each(&self, mut show: impl FnMut(&str, &Series<N>)) {
        for (name, series) in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            show(name, series);
        }
    }
}
