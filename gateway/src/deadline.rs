//! Time limits that cost next to nothing while they are kept.
//!
//! Most limits of a request are never reached, so none of them is worth a timer of its own. All that
//! are running on a thread lie in one table, which is looked through now and then while it is not empty. A
//! limit is never early, and late by [`TICK`] at most.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often the table is looked through.
pub const TICK: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Table {
    places: Vec<Place>,
    /// The first free place.
    free: Option<usize>,
    running: usize,
    /// Whether somebody looks through the table.
    watched: bool,
}

enum Place {
    Free { next: Option<usize> },
    Running { at: Instant, waker: Waker },
    Reached,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

impl Table {
    fn put(&mut self, place: Place) -> usize {
        self.running += 1;
        let Some(index) = self.free else {
            self.places.push(place);
            return self.places.len() - 1;
        };
        if let Some(free) = self.places.get_mut(index)
            && let Place::Free { next } = std::mem::replace(free, place)
        {
            self.free = next;
        }
        index
    }

    fn remove(&mut self, index: usize) {
        if let Some(place) = self.places.get_mut(index) {
            *place = Place::Free { next: self.free };
            self.free = Some(index);
            self.running -= 1;
        }
    }

    fn wake_reached(&mut self) {
        let now = Instant::now();
        for place in &mut self.places {
            if matches!(place, Place::Running { at, .. } if *at <= now)
                && let Place::Running { waker, .. } = std::mem::replace(place, Place::Reached)
            {
                waker.wake();
            }
        }
    }
}

/// Looks through the table until it is empty.
async fn watch() {
    /// Lets the next limit start a new watch, however this one ends.
    struct Watch;
    impl Drop for Watch {
        fn drop(&mut self) {
            // Where the thread is ending there is no table, and nobody who would need it.
            let _ = TABLE.try_with(|table| table.borrow_mut().watched = false);
        }
    }
    let _watch = Watch;
    while TABLE.with_borrow(|table| table.running) > 0 {
        tokio::time::sleep(TICK).await;
        TABLE.with_borrow_mut(Table::wake_reached);
    }
}

/// A limit, which begins to run when it is polled first. Needs a runtime that takes local tasks.
#[derive(Debug)]
pub struct Deadline {
    length: Duration,
    place: Option<usize>,
}

impl Deadline {
    /// A limit of this length.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self { length, place: None }
    }

    /// Begins anew when it is polled again.
    pub fn reset(&mut self) {
        if let Some(place) = self.place.take() {
            TABLE.with_borrow_mut(|table| table.remove(place));
        }
    }

    /// Ready once the limit is reached.
    pub fn poll_reached(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (length, running) = (self.length, self.place);
        let (place, start) = TABLE.with_borrow_mut(|table| {
            if let Some(index) = running {
                return match table.places.get_mut(index) {
                    Some(Place::Running { waker, .. }) => {
                        waker.clone_from(cx.waker());
                        (Some(index), false)
                    }
                    _ => (None, false),
                };
            }
            let place = table.put(Place::Running { at: Instant::now() + length, waker: cx.waker().clone() });
            (Some(place), !std::mem::replace(&mut table.watched, true))
        });
        if start {
            tokio::task::spawn_local(watch());
        }
        match place {
            Some(_) => {
                self.place = place;
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.reset();
    }
}

/// How slowly somebody may send: each pause by itself, and all of them together by what came.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The longest pause.
    pub pause: Duration,
    /// Bytes that each second of waiting must bring, beyond one pause.
    pub rate: u64,
}

impl Pace {
    /// Whether so many bytes are enough for so long a wait.
    fn is_kept(self, waited: Duration, bytes: u64) -> bool {
        let beyond = waited.saturating_sub(self.pause);
        beyond.as_nanos().saturating_mul(self.rate.into()) <= u128::from(bytes) * 1_000_000_000
    }
}

/// Somebody who is waited for, part by part. Only time spent waiting counts: who is quicker than whoever takes
/// the parts is never late.
#[derive(Debug)]
pub struct Sender {
    pace: Pace,
    pause: Deadline,
    /// Since when the next part is awaited.
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Sender {
    /// Nobody has been waited for.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, pause: Deadline::new(pace.pause), since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// The next part is not there. Ready once it has been awaited for too long.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.since.get_or_insert_with(Instant::now);
        self.pause.poll_reached(cx)
    }

    /// A part of so many bytes came. Whether they come fast enough.
    #[must_use]
    pub fn came(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        let Some(since) = self.since.take() else { return true };
        self.pause.reset();
        self.waited += since.elapsed();
        self.pace.is_kept(self.waited, self.bytes)
    }
}

/// What `future` gives, or `None` where it takes longer than `length`.
pub async fn within<F: Future>(length: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut deadline = Deadline::new(length);
    std::future::poll_fn(|cx: &mut Context<'_>| {
        let future: Pin<&mut F> = future.as_mut();
        match future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => deadline.poll_reached(cx).map(|()| None),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(future)
    }

    fn running() -> usize {
        TABLE.with_borrow(|table| table.running)
    }

    #[test]
    fn a_limit_ends_what_takes_too_long_and_nothing_else() {
        run(async {
            assert_eq!(within(Duration::from_mins(1), async { 1 }).await, Some(1));
            assert_eq!(running(), 0, "what is ready at once needs no limit");
            let begun = Instant::now();
            let short = within(Duration::from_millis(30), std::future::pending::<()>());
            let other = within(Duration::from_mins(1), tokio::time::sleep(Duration::from_millis(50)));
            let (short, other) = tokio::join!(short, other);
            assert_eq!((short, other), (None, Some(())));
            assert!(begun.elapsed() >= Duration::from_millis(50));
            assert_eq!(running(), 0);
        });
    }

    #[test]
    fn places_are_used_again_and_a_later_runtime_watches_too() {
        for _ in 0..3 {
            run(async {
                let many = (0..100).map(|_| within(Duration::from_millis(1), std::future::pending::<()>()));
                let ended = futures_util::future::join_all(many).await;
                assert!(ended.iter().all(Option::is_none));
            });
            assert_eq!((running(), TABLE.with_borrow(|table| table.places.len())), (0, 100));
        }
    }

    #[test]
    fn a_pace_is_one_pause_and_then_a_rate() {
        let pace = Pace { pause: Duration::from_secs(30), rate: 1024 };
        for (millis, bytes, kept) in [
            (0, 0, true),
            (30_000, 0, true),
            (30_001, 0, false),
            (30_001, 1, false),
            (30_001, 2, true),
            (31_000, 1023, false),
            (31_000, 1024, true),
            (3_630_000, 3600 * 1024, true),
            (3_630_000, 3600 * 1024 - 1, false),
            (u64::MAX, u64::MAX / 1000, false),
        ] {
            assert_eq!(pace.is_kept(Duration::from_millis(millis), bytes), kept, "{bytes} bytes in {millis} ms");
        }
        assert!(Pace { pause: Duration::MAX, rate: u64::MAX }.is_kept(Duration::from_secs(1), 0));
    }

    #[test]
    fn a_sender_is_late_by_what_it_lets_us_wait_alone() {
        run(async {
            let mut sender = Sender::new(Pace { pause: Duration::from_millis(20), rate: 1 << 10 });
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert!(sender.came(1), "nobody waited for it");
            std::future::poll_fn(|cx| sender.poll_late(cx)).await;
            assert!(!sender.came(0), "its one pause is over");
            assert!(sender.came(1), "and nothing is counted while nobody waits");
        });
    }

    #[test]
    fn a_limit_that_is_reset_begins_anew() {
        run(async {
            let begun = Instant::now();
            let mut deadline = Deadline::new(Duration::from_millis(60));
            let mut last = None;
            std::future::poll_fn(|cx| {
                if begun.elapsed() < Duration::from_millis(40) {
                    last = Some(Instant::now());
                    deadline.reset();
                    cx.waker().wake_by_ref();
                }
                deadline.poll_reached(cx)
            })
            .await;
            assert!(last.is_some_and(|last| last.elapsed() >= Duration::from_millis(60)));
        });
    }
}
