//! Wake-ups that would find nothing to do.
//!
//! hyper's HTTP/1 connection wakes its own task whenever a part of a client's body is taken from it, also after the
//! last one, when nobody is left to give more (`hyper::body::chan`, `Receiver::poll_next`). Each request with a body
//! would have its connection looked at once more for nothing. Never loses a wake-up that comes from anywhere else.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listening {
    /// Wake-ups go where they belong.
    No,
    Yes,
    /// There was one.
    Woken,
}

thread_local! {
    static LISTENING: Cell<Listening> = const { Cell::new(Listening::No) };
}

struct Own(Waker);

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if LISTENING.get() == Listening::No {
            self.0.wake_by_ref();
        } else {
            LISTENING.set(Listening::Woken);
        }
    }
}

/// What an HTTP/1 connection is polled with, in the place of its task's own waker.
#[derive(Debug, Default)]
pub struct ConnectionWaker(Option<(Waker, Waker)>);

impl ConnectionWaker {
    /// The waker for this task.
    pub fn of(&mut self, task: &Waker) -> &Waker {
        // A connection stays with its task.
        if !self.0.as_ref().is_some_and(|(known, _)| known.will_wake(task)) {
            self.0 = None;
        }
        &self.0.get_or_insert_with(|| (task.clone(), Waker::from(Arc::new(Own(task.clone()))))).1
    }
}

/// The next part of a client's body.
pub fn poll_body(incoming: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    /// Lets others be woken again, however this ends.
    struct Listen;
    impl Drop for Listen {
        fn drop(&mut self) {
            LISTENING.set(Listening::No);
        }
    }
    let listen = Listen;
    LISTENING.set(Listening::Yes);
    let frame = Pin::new(&mut *incoming).poll_frame(cx);
    let woken = LISTENING.get() == Listening::Woken;
    drop(listen);
    // The request is served by its connection's own task, so that this waker is as good as the one that was called.
    if woken && !incoming.is_end_stream() {
        cx.waker().wake_by_ref();
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_is_woken_while_a_body_is_taken_is_kept_back() {
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let mut connection = ConnectionWaker::default();
        let waker = connection.of(&task).clone();
        assert!(connection.of(&task).will_wake(&waker), "one for the connection's life");
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        LISTENING.set(Listening::Yes);
        waker.wake_by_ref();
        assert!(LISTENING.get() == Listening::Woken);
        LISTENING.set(Listening::No);
        waker.wake();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
