//! What one connection is doing, so that its time limits can be kept without a timer per request.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::frames::{Flood, Frames};
use crate::wire::{Fault, Wire};

/// The bounds that a connection keeps.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a head's first octet to its last.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// While the client takes nothing of what is being sent.
    pub stalled: Duration,
    /// How long a connection without a request outlives the sign to stop.
    pub linger: Duration,
}

impl Patience {
    /// How often a connection looks at its clock: a quarter of the shortest bound is exact enough.
    #[must_use]
    pub fn interval(&self) -> Duration {
        (self.head.min(self.idle).min(self.stalled) / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// How long a connection must be idle to rest.
const REST: Duration = Duration::from_millis(100);

/// What one answer has for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// There is no such answer.
    Free,
    /// Nothing: the worker is waited for.
    Nothing,
    /// Something, since then.
    Since(Instant),
}

/// One connection's state.
#[derive(Debug)]
pub struct Activity {
    /// The time, read once for all that is done while an HTTP/1 connection is polled.
    now: Cell<Option<Instant>>,
    requests: Cell<usize>,
    since: Cell<Instant>,
    head_began: Cell<Option<Instant>>,
    write_stalled: Cell<Option<Instant>>,
    /// Something was written and not yet flushed.
    unflushed: Cell<bool>,
    /// What the client could take of each answer; as many as there ever were requests at once.
    offers: RefCell<Vec<Offer>>,
    draining: Cell<Option<Instant>>,
    /// The beginning of a head has come.
    in_head: Cell<bool>,
    /// Who reads on when the request has its answer.
    held: RefCell<Option<Waker>>,
    /// Parts of answers that were there to be sent, since they were credited last.
    worked: Cell<u32>,
    flood: Cell<Option<Flood>>,
    /// Whether a request may still come after the sign to stop.
    lingers: bool,
}

impl Activity {
    /// A connection that was just made. One that `lingers` may bring a request after the sign to stop.
    #[must_use]
    pub fn new(lingers: bool) -> Rc<Self> {
        Rc::new(Self {
            now: Cell::default(),
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            // The first head is awaited from the start: a client that connects has something to ask.
            head_began: Cell::new(Some(Instant::now())),
            write_stalled: Cell::default(),
            unflushed: Cell::default(),
            offers: RefCell::default(),
            draining: Cell::default(),
            in_head: Cell::default(),
            held: RefCell::default(),
            worked: Cell::default(),
            flood: Cell::default(),
            lingers,
        })
    }

    /// The connection is polled: what time it is will be looked up again.
    pub fn look(&self) {
        self.now.set(None);
    }

    fn now(&self) -> Instant {
        // The requests of an HTTP/2 connection are polled by themselves.
        if !self.lingers {
            return Instant::now();
        }
        self.now.get().unwrap_or_else(|| self.read_clock())
    }

    fn read_clock(&self) -> Instant {
        let now = Instant::now();
        self.now.set(Some(now));
        now
    }

    /// A request's head is complete. The request ends when the guard is dropped.
    #[must_use]
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.requests.set(self.requests.get() + 1);
        self.head_began.set(None);
        let mut offers = self.offers.borrow_mut();
        let place = offers.iter().position(|offer| *offer == Offer::Free).unwrap_or_else(|| {
            offers.push(Offer::Free);
            offers.len() - 1
        });
        if let Some(offer) = offers.get_mut(place) {
            *offer = Offer::Nothing;
        }
        Busy { activity: Rc::clone(self), place }
    }

    /// How long it takes until a connection without a request rests; HTTP/2 never does.
    #[must_use]
    pub fn rest(&self) -> Duration {
        if self.lingers { REST } else { Duration::MAX }
    }

    /// Whether nothing was asked for a while, and nothing is on its way in or out.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.lingers
            && self.requests.get() == 0
            && self.head_began.get().is_none()
            && !self.unflushed.get()
            && self.write_stalled.get().is_none()
            && self.draining.get().is_none()
            && self.since.get().elapsed() >= REST
    }

    /// How long a connection may still be idle.
    #[must_use]
    pub fn idle_left(&self, patience: &Patience) -> Duration {
        patience.idle.saturating_sub(self.since.get().elapsed())
    }

    /// The gateway is stopping: a connection without a request is closed after a while.
    pub fn drain(&self) {
        self.draining.set(Some(Instant::now()));
    }

    /// What the connection was flooded with, where it has ended in an error.
    #[must_use]
    pub fn flood(&self) -> Option<Flood> {
        self.flood.get()
    }

    /// Whether the client leaves an answer where it is. HTTP/2 can refuse one stream's octets and take all
    /// others, so its socket does not tell; for HTTP/1 it does, whatever lies in buffers.
    fn is_refused(&self, bound: Duration) -> bool {
        let refused = |offer: &Offer| matches!(offer, Offer::Since(since) if since.elapsed() >= bound);
        !self.lingers && self.offers.borrow().iter().any(refused)
    }

    /// Which bound was passed, if one was.
    #[must_use]
    pub fn over(&self, patience: &Patience) -> Option<Over> {
        let past = |since: Option<Instant>, bound: Duration| since.is_some_and(|since| since.elapsed() >= bound);
        if past(self.write_stalled.get(), patience.stalled) || self.is_refused(patience.stalled) {
            return Some(Over::Stalled);
        }
        // What the client still takes is not cut off, though its request has ended for us.
        if self.requests.get() > 0 || self.unflushed.get() || self.write_stalled.get().is_some() {
            return None;
        }
        let idle = past(self.head_began.get(), patience.head)
            || past(Some(self.since.get()), patience.idle)
            // HTTP/2 ends by itself once it was told to (GOAWAY) and its last answer is out.
            || (self.lingers && past(self.draining.get(), patience.linger));
        idle.then_some(Over::Idle)
    }
}

/// Which kind of bound a connection has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It has nothing to do.
    Idle,
    /// Its client does not take what it asked for.
    Stalled,
}

/// A request that is being served.
#[derive(Debug)]
pub struct Busy {
    activity: Rc<Activity>,
    place: usize,
}

impl Busy {
    /// When the request began, as it begins.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.activity.now()
    }

    /// When it ended, as it ends.
    #[must_use]
    pub fn ended(&self) -> Instant {
        self.activity.read_clock()
    }

    /// The client has something to take, or (`false`) waits for the worker as we do.
    pub fn offer(&self, something: bool) {
        // For HTTP/1 its socket tells.
        if self.activity.lingers {
            return;
        }
        let worked = &self.activity.worked;
        worked.set(worked.get().saturating_add(something.into()));
        self.set(if something { Offer::Since(Instant::now()) } else { Offer::Nothing });
    }

    fn set(&self, offer: Offer) {
        if let Some(place) = self.activity.offers.borrow_mut().get_mut(self.place) {
            *place = offer;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(Offer::Free);
        let activity = &self.activity;
        activity.requests.set(activity.requests.get().saturating_sub(1));
        activity.since.set(activity.now());
        // What came of the next head meanwhile is where hyper read it to, so the connection is at work.
        if activity.in_head.get() {
            activity.head_began.set(Some(activity.now()));
        }
        if let Some(reader) = activity.held.take() {
            reader.wake();
        }
    }
}

/// A stream whose other end can be asked whether it is still there.
pub trait Peer {
    /// Sends something that a client takes no notice of, where the protocol has such a thing.
    fn ask(&mut self, cx: &mut Context<'_>);
    /// Whether the other end has said that it is gone.
    fn is_gone(&self) -> bool;
}

/// Who reads along with hyper.
#[derive(Debug)]
pub enum Reader {
    /// HTTP/1.
    Wire(Wire),
    /// HTTP/2.
    Frames(Frames),
}

/// A connection's stream, watched.
pub struct Watched<S> {
    stream: S,
    activity: Rc<Activity>,
    reader: Reader,
    /// Whether the reader came to the head that is refused.
    refused: bool,
    /// When a client that has stopped sending is asked next, or for how long one is read from at its end.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Octets that were thrown away at an HTTP/2 client's end.
    lingered: usize,
}

/// How often a client that has stopped sending is asked whether it still listens.
const ASK: Duration = Duration::from_millis(500);
/// For how long an HTTP/2 client is read from at its end, and how much of it is thrown away.
const LINGER: Duration = Duration::from_millis(500);
const MOST_LINGERED: usize = 256 << 10;

impl<S> Watched<S> {
    /// Watches a stream.
    pub fn new(stream: S, activity: Rc<Activity>, reader: Reader) -> Self {
        Self { stream, activity, reader, refused: false, timer: None, lingered: 0 }
    }

    /// The stream, and what was wrong with the last head, if that is still to be answered: nothing follows an
    /// answer that ended the connection.
    pub fn into_inner(self) -> (S, Option<Fault>) {
        let fault = match self.reader {
            Reader::Wire(wire) if self.refused => wire.fault(),
            Reader::Wire(_) | Reader::Frames(_) => None,
        };
        (self.stream, fault)
    }

    fn is_serving(&self) -> bool {
        self.activity.requests.get() > 0
    }

    /// What goes out is work done. What hyper says at a flood's end goes out last.
    fn credit(&mut self, parts: &[io::IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        let Reader::Frames(frames) = &mut self.reader else { return };
        if let Poll::Ready(Ok(mut left)) = *written {
            let told = parts.last().and_then(|last| Flood::told(last));
            self.activity.flood.set(frames.flood().or(told));
            for part in parts {
                let taken = part.get(..left).unwrap_or(part);
                frames.wrote(taken);
                left -= taken.len();
            }
        }
    }

    /// Lets the reader wait for the end of the request, of which hyper does not tell it.
    fn hold(&self, cx: &Context<'_>) {
        self.activity.held.replace(Some(cx.waker().clone()));
    }

    fn wrote<T>(&self, written: Poll<T>) -> Poll<T> {
        let stalled = &self.activity.write_stalled;
        if written.is_ready() {
            stalled.set(None);
        } else if stalled.get().is_none() {
            stalled.set(Some(Instant::now()));
        }
        written
    }
}

impl<S: Peer> Watched<S> {
    /// A client that sends no more may still wait for its answer, or be gone: the end of its stream looks the
    /// same. Only what is sent to it tells, because nobody answers for a socket that was closed.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.timer.is_none() {
            self.stream.ask(cx);
        }
        self.hold(cx);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(ASK)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if self.stream.is_gone() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.stream.ask(cx);
            timer.as_mut().reset(tokio::time::Instant::now() + ASK);
        }
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    fn poll_frames(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Reader::Frames(frames) = &mut self.reader else { return Poll::Ready(Ok(())) };
        frames.earn(self.activity.worked.take());
        if !frames.is_ended() {
            let before = buf.filled().len();
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
            let passed = frames.follow(buf.filled_mut().get_mut(before..).unwrap_or_default(), Instant::now);
            buf.set_filled(before + passed);
            if let Some(flood) = frames.flood() {
                self.activity.flood.set(Some(flood));
            }
            return Poll::Ready(read);
        }
        let rest = buf.initialize_unfilled();
        let length = rest.len();
        frames.say_farewell(rest);
        buf.advance(length);
        Poll::Ready(Ok(()))
    }

    /// Reads on a little at the end: closing over what was sent and not read would reset the connection, and
    /// a reset overtakes GOAWAY.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut sink = [0; 4096];
        while timer.as_mut().poll(cx).is_pending() {
            let mut part = ReadBuf::new(&mut sink);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part));
            self.lingered += part.filled().len();
            if read.is_err() || part.filled().is_empty() || self.lingered > MOST_LINGERED {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Peer + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let serving = this.is_serving();
        let Reader::Wire(wire) = &mut this.reader else { return this.poll_frames(cx, buf) };
        if wire.is_body_broken() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if wire.is_ended() {
            // The request before the one that is wrong gets its answer first.
            this.refused = !serving;
            if serving {
                this.hold(cx);
                return Poll::Pending;
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        let octets = buf.filled().get(before..).unwrap_or_default();
        if octets.is_empty() {
            let ended = read.is_ok() || read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
            return if ended && wire.is_between() && serving { this.poll_gone(cx) } else { Poll::Ready(read) };
        }
        let passed = wire.follow(octets);
        let is_broken = passed == 0 && wire.is_body_broken();
        buf.set_filled(before + passed);
        this.activity.in_head.set(wire.is_in_head());
        if !serving && this.activity.head_began.get().is_none() {
            this.activity.head_began.set(Some(this.activity.now()));
        }
        if is_broken {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        if passed == 0 && serving {
            this.hold(cx);
            return Poll::Pending;
        }
        this.refused = passed == 0;
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.credit(&[io::IoSlice::new(buf)], &written);
        self.activity.unflushed.set(true);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.credit(bufs, &written);
        self.activity.unflushed.set(true);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() && self.activity.unflushed.replace(false) {
            self.activity.since.set(self.activity.now());
        }
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match &self.reader {
            // The answer to the head that is refused is still to be written.
            Reader::Wire(_) if self.refused => return Poll::Ready(Ok(())),
            Reader::Wire(_) => return Pin::new(&mut self.stream).poll_shutdown(cx),
            Reader::Frames(_) => ready!(Pin::new(&mut self.stream).poll_shutdown(cx)),
        };
        if shut.is_ok() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bounds;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    /// What a client sends, part by part; at its end nothing more comes, or an end of the stream.
    struct Client {
        parts: Vec<&'static str>,
        ends: bool,
    }

    impl AsyncRead for Client {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.parts.is_empty() {
                return if self.ends { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            buf.put_slice(self.parts.remove(0).as_bytes());
            Poll::Ready(Ok(()))
        }
    }

    impl Peer for Client {
        fn ask(&mut self, _: &mut Context<'_>) {}

        fn is_gone(&self) -> bool {
            false
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    fn watched(parts: &[&'static str], ends: bool) -> (Watched<Client>, Rc<Activity>) {
        let activity = Activity::new(true);
        let wire = Wire::new(Bounds { head: 1024, headers: 8 });
        let client = Client { parts: parts.to_vec(), ends };
        (Watched::new(client, Rc::clone(&activity), Reader::Wire(wire)), activity)
    }

    /// Reads once; gives back how many octets came, if anything did.
    fn read(watched: &mut Watched<Client>, woken: &Arc<Woken>) -> Option<usize> {
        let waker = Waker::from(Arc::clone(woken));
        let mut octets = [0; 256];
        let mut buf = ReadBuf::new(&mut octets);
        let read = Pin::new(watched).poll_read(&mut Context::from_waker(&waker), &mut buf);
        read.is_ready().then_some(buf.filled().len())
    }

    /// Found by fuzzing: hyper reads on by itself only where the stream said that there is more.
    #[tokio::test]
    async fn whoever_waits_for_an_answer_reads_on_when_it_is_given() {
        for (parts, ends) in [(&[GET, "\n"][..], false), (&[GET], true)] {
            let woken = Arc::default();
            let (mut watched, activity) = watched(parts, ends);
            assert_eq!(read(&mut watched, &woken), Some(GET.len()));
            let busy = activity.begin();
            assert_eq!(read(&mut watched, &woken), None, "the answer comes first");
            assert_eq!(woken.0.load(Ordering::Relaxed), 0);
            drop(busy);
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "{parts:?}");
            assert_eq!(read(&mut watched, &woken), Some(0));
        }
    }

    /// What was read of a head while an answer was awaited would be lost, and its rest be taken for a head.
    #[test]
    fn a_connection_inside_a_head_does_not_rest() {
        let beginnings = [(&[GET][..], true), (&[GET, "GET /a"], false), (&[GET, "GET / HTTP/1.1\r\nHos"], false)];
        for (parts, rests) in beginnings {
            let woken = Arc::default();
            let (mut watched, activity) = watched(parts, false);
            read(&mut watched, &woken);
            let busy = activity.begin();
            read(&mut watched, &woken);
            drop(busy);
            activity.since.set(Instant::now().checked_sub(2 * REST).expect("a clock that has run"));
            assert_eq!(activity.rests(), rests, "{parts:?}");
        }
    }
}
