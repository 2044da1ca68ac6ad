//! Connections: how many at once, how long they may take, when to stop.
//!
//! One thread per core, each with a runtime, a listener on the shared port (`SO_REUSEPORT`), its own
//! connections to workers and its own log batch. A request never leaves the thread that accepted it, so
//! nothing on its way is locked or sent between cores.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};
use tokio::task::unconstrained;
use tokio_rustls::server::TlsStream;

use crate::activity::{Activity, Over, Peer, Reader, Watched};
use crate::connection_limit::{AddressPlace, ConnectionLimit, Quota, Refused};
use crate::deadline::within;
use crate::edge::socket::Socket;
use crate::edge::tls::{self, Shown};
use crate::exchange::{AnswerBody, Core, Cores, Snapshot};
use crate::frames::Frames;
use crate::journey::{self, Tunnelling};
use crate::listener::{LINGER, ListenerSettings, Listeners, ProxyProtocol};
use crate::problem::HeadFault;
use crate::proxy_protocol::{self, Parsed};
use crate::types::{ClientAddress, ClientCertificate};
use crate::wakes::ConnectionWaker;
use crate::wire::{self, Bounds, Wire};

/// How long accepting rests after an error such as "too many open files".
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
/// How long an idle HTTP/2 connection may take to end after it was told to: a client that is there answers
/// a ping, and takes what is left of its answers.
const GOODBYE: Duration = Duration::from_secs(10);
/// How much of an answer hyper takes before it waits for an HTTP/1 client, and how much of a body it reads at
/// once. The kernel puts less than 64 KiB into one packet, headers included: what is a little longer goes out
/// in two, and the short one costs as much as the long one.
const MOST_BUFFERED: usize = 63 << 10;
/// How many headers hyper takes where it is not told otherwise.
const HYPER_HEADERS: usize = 100;
/// How much is read and thrown away at a connection's end.
const MOST_LINGERED: usize = 256 << 10;
/// The threads that serve.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Serving {
    /// Waits until every thread has finished its requests or its time.
    ///
    /// # Errors
    /// The first error of a thread.
    pub fn join(self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in self.threads {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a serving thread ended early")));
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Serves until `stop` says so. `core` makes each thread's own part, inside its runtime, and again for each snapshot
/// that comes, from the part before.
///
/// # Errors
/// If a thread can't be started.
pub fn serve(
    settings: &Arc<ListenerSettings>,
    listeners: Listeners,
    stop: &watch::Receiver<bool>,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    core: impl Fn(usize, Arc<Snapshot>, Option<&Core>) -> Core + Clone + Send + 'static,
) -> io::Result<Serving> {
    let limit = Arc::new(ConnectionLimit::new(settings.max_connections_per_address));
    let mut threads = Vec::new();
    for (index, listener) in listeners.sockets.into_iter().enumerate() {
        let (settings, limit) = (Arc::clone(settings), Arc::clone(&limit));
        let (stop, core, mut snapshots) = (stop.clone(), core.clone(), snapshots.clone());
        let body = move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
            runtime.block_on(async move {
                let first = Arc::clone(&snapshots.borrow_and_update());
                let cores = Cores::new(core(index, first, None));
                tokio::task::spawn_local(adopt(Rc::clone(&cores), snapshots, move |snapshot, before| {
                    core(index, snapshot, Some(before))
                }));
                let thread = Thread { cores, open: Rc::default(), limit, settings, stop };
                thread.accept(TcpListener::from_std(listener)?).await;
                Ok(())
            })
        };
        threads.push(std::thread::Builder::new().name(format!("serve-{index}")).spawn(body)?);
    }
    Ok(Serving { threads })
}

/// A client's stream. On the heap, because it is handed on from one state of a connection to the next.
type Client = Box<TlsStream<Socket>>;

/// Whose connection it is.
#[derive(Clone)]
struct Caller {
    address: ClientAddress,
    /// The client certificate that it began with.
    certificate: Option<Rc<ClientCertificate>>,
    /// The same, to ask whether it is still vouched for.
    shown: Option<Rc<Shown>>,
}

/// What became of a connection.
enum Driven<T> {
    /// It ended by itself.
    Ended(T),
    /// It has had no request for a while, and none is on its way.
    Rests,
    /// It broke a bound.
    CutOff,
}

/// What a connection's task does next.
enum Turn<T> {
    /// It has ended.
    Ended(T),
    /// The gateway is stopping.
    Stop,
    /// It has had its requests, or its time.
    Retire,
    /// It is time to look at its bounds.
    Look,
}

/// How many connections are open, and a way to hear of their end.
#[derive(Default)]
struct Open {
    count: Cell<usize>,
    ended: Notify,
}

/// One connection's place, given back however its task ends.
struct Place {
    cores: Rc<Cores>,
    open: Rc<Open>,
}

impl Place {
    fn take(thread: &Thread) -> Self {
        thread.open.count.set(thread.open.count.get() + 1);
        let core = thread.cores.now();
        core.metrics.tally(core.thread).connection_opened();
        Self { cores: Rc::clone(&thread.cores), open: Rc::clone(&thread.open) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let core = self.cores.now();
        core.metrics.tally(core.thread).connection_closed();
        self.open.count.set(self.open.count.get() - 1);
        self.open.ended.notify_one();
    }
}

#[derive(Clone)]
struct Thread {
    cores: Rc<Cores>,
    open: Rc<Open>,
    limit: Arc<ConnectionLimit>,
    settings: Arc<ListenerSettings>,
    stop: watch::Receiver<bool>,
}

impl Thread {
    async fn accept(mut self, listener: TcpListener) {
        let most = self.settings.max_connections.div_ceil(self.settings.threads);
        tokio::task::spawn_local(upkeep(Rc::clone(&self.cores)));
        tokio::task::spawn_local(self.cores.now().log.clone().keep_flushing());
        let mut was_full = false;
        loop {
            // A place before a connection: what can't be served stays in the kernel's queue.
            let full = self.open.count.get() >= most;
            if full && !was_full {
                self.tell_full(most);
            }
            was_full = full;
            let accepted = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => break,
                () = self.open.ended.notified(), if full => continue,
                accepted = listener.accept(), if !full => accepted,
            };
            self.admit(accepted).await;
        }
        // What the kernel had accepted for us before the sign to stop is ours to answer.
        while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
            self.admit(Ok(accepted)).await;
        }
        drop(listener);
        let drained = async {
            while self.open.count.get() > 0 {
                self.open.ended.notified().await;
            }
        };
        // Requests that are cut off after that have their records too: the last of the batch's owners, which
        // are these requests' tasks, sends it.
        let _ = tokio::time::timeout(self.settings.drain, drained).await;
    }

    async fn admit(&self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors, or a client that left: neither is a reason to spin or to stop.
            tokio::time::sleep(ACCEPT_BACK_OFF).await;
            return;
        };
        let (this, place) = (self.clone(), Place::take(self));
        tokio::task::spawn_local(async move {
            this.connection(stream, peer.ip()).await;
            drop(place);
        });
    }

    /// The core for what begins now.
    fn core(&self) -> Rc<Core> {
        self.cores.now()
    }

    fn tell_full(&self, most: usize) {
        self.core().metrics.tally(self.core().thread).connections_full();
        if let Some(times) = self.limit.tell_full() {
            let fields = [("thread_connections", &*most.to_string()), ("times", &*times.to_string())];
            self.core().log.log().event("connections-full", &fields);
        }
    }

    /// Counts and tells that a connection is closed before its handshake.
    fn refuse(&self, refused: Refused, address: IpAddr, cause: &str) {
        self.core().metrics.tally(self.core().thread).connection_refused(refused.index());
        if let Some(times) = self.limit.tell(refused) {
            let (address, times) = (address.to_string(), times.to_string());
            let fields = [("reason", refused.slug()), ("address", &address), ("cause", cause), ("times", &times)];
            self.core().log.log().event("connection-refused", &fields);
        }
    }

    /// Whose connection it is, and that address's place; `None` where it is refused. A proxy's own address is
    /// not counted, because it stands for many clients.
    async fn identify(
        &self,
        stream: &mut TcpStream,
        peer: IpAddr,
    ) -> io::Result<Option<(IpAddr, Option<AddressPlace>)>> {
        let mut address = peer.to_canonical();
        match &self.settings.proxy_protocol {
            ProxyProtocol::Off => {}
            ProxyProtocol::From(proxies) if !proxies.iter().any(|proxy| proxy.contains(peer)) => {
                self.refuse(Refused::ProxyPeer, peer, "it is not in proxy_protocol_from");
                return Ok(None);
            }
            proxies => match read_proxy_header(stream).await? {
                Ok(Some(source)) => address = source.ip(),
                Ok(None) if matches!(proxies, ProxyProtocol::From(_)) => return Ok(Some((address, None))),
                Ok(None) => {}
                Err(fault) => {
                    self.refuse(Refused::ProxyHeader, peer, fault.reason());
                    return Ok(None);
                }
            },
        }
        if self.core().snapshot.policy.trusted_proxies.trusts(address) {
            return Ok(Some((address, None)));
        }
        let place = self.limit.take(address);
        if place.is_none() {
            self.refuse(Refused::AddressFull, address, "it has max_connections_per_address");
        }
        Ok(place.map(|place| (address, Some(place))))
    }

    async fn connection(&self, mut stream: TcpStream, peer: IpAddr) {
        // Answers are written whole; waiting to fill a segment only adds delay.
        let _ = stream.set_nodelay(true);
        let handshake = async {
            let Some((address, place)) = self.identify(&mut stream, peer).await? else { return Ok(None) };
            let mut first = [0];
            let length = stream.peek(&mut first).await?;
            // Every TLS connection begins with a handshake record (RFC 8446 §5.1); letters are plain HTTP.
            if length == 1 && first.iter().all(u8::is_ascii_uppercase) {
                explain_plain_http(stream).await?;
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (acceptor, vouching) = self.settings.tls.acceptor();
            let stream = acceptor.accept(Socket(stream)).await?;
            Ok(Some((Box::new(stream), vouching, address, place)))
        };
        // What only the handshake needs is not kept for the connection's life.
        let shaken: Result<io::Result<_>, _> =
            tokio::time::timeout(self.settings.handshake_timeout, Box::pin(handshake)).await;
        let (stream, vouching, address, place) = match shaken {
            Ok(Ok(Some(shaken))) => shaken,
            Ok(Ok(None)) => return,
            Ok(Err(_)) | Err(_) => {
                self.core().metrics.tally(self.core().thread).handshake_failed();
                return;
            }
        };
        // Read once, and nothing where there is none.
        let connection = stream.get_ref().1;
        let caller = Caller {
            address: ClientAddress::new(address),
            certificate: tls::client_certificate(connection),
            shown: Shown::of(connection, vouching).map(Rc::new),
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Box::pin(self.http2(stream, caller)).await;
        } else {
            self.http1(stream, caller).await;
        }
        drop(place);
    }

    fn quota(&self) -> Quota {
        Quota::new(self.settings.max_requests_per_connection, self.settings.max_connection_age)
    }

    /// Whether nobody vouches any more for the certificate that the connection began with. It ends then.
    fn is_disowned(&self, peer: &Caller, quota: &Quota) -> bool {
        let gone = peer.shown.as_ref().is_some_and(|shown| !self.settings.tls.stands(shown));
        if gone {
            quota.end();
        }
        gone
    }

    /// Serves HTTP/1, and holds next to nothing of it while the client rests between requests.
    async fn http1(&self, mut stream: Client, peer: Caller) {
        let activity = Activity::new(true);
        let quota = self.quota();
        loop {
            let (back, rests) = Box::pin(self.http1_at_work(stream, &peer, &activity, &quota)).await;
            stream = back;
            if !(rests && self.wakes(&stream, &activity).await) {
                break;
            }
        }
        Box::pin(linger(stream)).await;
    }

    /// Waits for a resting client to send something; `false` where it takes too long.
    async fn wakes(&self, stream: &Client, activity: &Activity) -> bool {
        let mut stop = self.stop.clone();
        let socket = &stream.get_ref().0.0;
        tokio::select! {
            biased;
            woken = within(activity.idle_left(&self.settings.patience), socket.readable()) => return woken.is_some(),
            _ = stop.wait_for(|stop| *stop) => {}
        }
        within(LINGER, socket.readable()).await.is_some()
    }

    /// Serves HTTP/1 until the connection ends or rests; gives back the stream, and whether it rests.
    async fn http1_at_work(
        &self,
        stream: Client,
        peer: &Caller,
        activity: &Rc<Activity>,
        quota: &Quota,
    ) -> (Client, bool) {
        let wire = Wire::new(Bounds { head: self.settings.max_head, headers: self.settings.max_headers });
        let mut builder = http1::Builder::new();
        // Where hyper's own bound is above the one that `wire` keeps, it has its table on the stack.
        if self.settings.max_headers >= HYPER_HEADERS {
            builder.max_headers(self.settings.max_headers + 1);
        }
        // What the connection becomes when its last answer says so.
        let switch = Rc::new(journey::Switch::default());
        let connection = builder
            // Above the bounds that `wire` keeps, whose answers say why.
            .max_header_size(self.settings.max_head * 2)
            // What one answer may have waiting beside its last part, and how much is read at once; 400 KiB otherwise.
            .max_buf_size(MOST_BUFFERED.max(self.settings.max_head * 2))
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .serve_connection(
                TokioIo::new(Watched::new(stream, Rc::clone(activity), Reader::Wire(wire))),
                service_fn(|request: Request<Incoming>| {
                    let (is_last, switch) = (quota.spend(), Rc::clone(&switch));
                    let gone = self.is_disowned(peer, quota);
                    let Caller { address, certificate, .. } = peer.clone();
                    let (core, busy) = (self.core(), activity.begin());
                    async move {
                        if gone {
                            return Ok(journey::refuse(core, address, busy, HeadFault::Certificate));
                        }
                        journey::serve(core, address, busy, certificate, is_last, request, Some(&switch)).await
                    }
                }),
            );
        // An idle HTTP/1 connection is not told at once: a request may be on its way. Its next answer
        // says `Connection: close`, and after a while without one it is closed.
        let mut connection = connection;
        let mut waker = ConnectionWaker::default();
        let polled = poll_fn(|cx| {
            activity.look();
            Pin::new(&mut connection).poll(&mut Context::from_waker(waker.of(cx.waker())))
        });
        let driven = self.drive(pin!(polled), activity, quota, |_| false).await;
        let parts = connection.into_parts();
        let (mut stream, fault) = parts.io.into_inner().into_inner();
        if let Some(tunnelling) = switch.take() {
            // Who sent something else than HTTP before it was answered is not let through.
            if matches!(driven, Driven::Ended(Ok(()))) && fault.is_none() {
                Box::pin(self.tunnel(*tunnelling, &mut stream, &parts.read_buf)).await;
            }
            return (stream, false);
        }
        if matches!(driven, Driven::Rests) {
            return (stream, true);
        }
        if let Some(fault) = fault {
            let answer = journey::refuse(self.core(), peer.address.clone(), activity.begin(), HeadFault::Wire(fault));
            let written = write_answer(&mut stream, answer);
            let _ = tokio::time::timeout(LINGER, written).await;
        }
        (stream, false)
    }

    /// Passes octets between a client and a worker, both of which have switched protocols.
    async fn tunnel(&self, tunnelling: Tunnelling, stream: &mut Client, early: &[u8]) {
        let Tunnelling { tunnel, id, places } = tunnelling;
        let mut stop = self.stop.clone();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let ended = tunnel.run(stream, early, stopped).await;
        drop(places);
        let (to_worker, to_client) = (ended.to_worker.to_string(), ended.to_client.to_string());
        let fields =
            [("request_id", id.as_str()), ("cause", ended.why), ("to_worker", &to_worker), ("to_client", &to_client)];
        self.core().log.log().event("websocket-ended", &fields);
    }

    async fn http2(&self, stream: Client, peer: Caller) {
        let activity = Activity::new(false);
        let quota = self.quota();
        let frames = Reader::Frames(Frames::new(Instant::now()));
        let most_headers = self.settings.max_headers;
        let connection = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.settings.max_streams)
            // What a head may take once it is decompressed; four times as much ends the connection. It also
            // bounds the parts that a head may come in.
            .max_header_list_size(u32::try_from(self.settings.max_head).unwrap_or(u32::MAX))
            // Small windows bound what one connection can make us hold of bodies: 256 KiB in all, and a fourth
            // of it for one stream, so that one body can't keep the others out. Large bodies are not what
            // this is for.
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(256 << 10)
            // What one answer may have waiting beside its last part. One frame is enough to go on with.
            .max_send_buf_size(16 << 10)
            // Requests that were taken back before we had looked at them; those after that are counted by
            // `frames`. More than this is CVE-2023-44487.
            .max_pending_accept_reset_streams(32)
            // Faults of a client that we answered with RST_STREAM, in a connection's life: CVE-2025-8671. Among
            // them are streams beyond the limit, and clients begin up to 100 before they were told of it.
            .max_local_error_reset_streams(64 + 100_usize.saturating_sub(self.settings.max_streams as usize))
            .serve_connection(
                TokioIo::new(Watched::new(stream, Rc::clone(&activity), frames)),
                service_fn(|request: Request<Incoming>| {
                    let is_last = quota.spend();
                    let gone = self.is_disowned(&peer, &quota);
                    let Caller { address, certificate, .. } = peer.clone();
                    let (core, busy) = (self.core(), activity.begin());
                    // On the heap, because hyper and the runtime hand it on several times.
                    Box::pin(async move {
                        if gone {
                            return Ok(journey::refuse(core, address, busy, HeadFault::Certificate));
                        }
                        if request.headers().len() > most_headers {
                            return Ok(journey::refuse(
                                core,
                                address,
                                busy,
                                HeadFault::Wire(wire::Fault::HeadTooLarge),
                            ));
                        }
                        journey::serve(core, address, busy, certificate, is_last, request, None).await
                    })
                }),
            );
        let graceful = |connection: Pin<&mut http2::Connection<_, _, _>>| {
            connection.graceful_shutdown();
            true
        };
        let ended = self.drive(pin!(connection), &activity, &quota, graceful).await;
        if let Some(flood) = activity.flood().filter(|_| !matches!(ended, Driven::Ended(Ok(())))) {
            self.core().metrics.tally(self.core().thread).flooded(flood);
            self.core().log.log().security("http2-flood", &[("kind", flood.name()), ("client", &*peer.address.text)]);
        }
    }

    /// Runs a connection until it ends, rests, breaks a bound, or is asked to stop. `graceful` tells the client,
    /// if the protocol can, and says whether it can.
    async fn drive<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        activity: &Activity,
        quota: &Quota,
        graceful: impl Fn(Pin<&mut C>) -> bool,
    ) -> Driven<C::Output> {
        let patience = &self.settings.patience;
        let mut stop = self.stop.clone();
        let mut told = pin!(stop.wait_for(|stop| *stop));
        let interval = patience.interval();
        let mut clock = pin!(tokio::time::sleep(interval.min(activity.rest())));
        let (mut stopping, mut retired) = (false, false);
        loop {
            let mut asked = false;
            let turn = poll_fn(|cx| {
                // Its error is the client's doing, and the requests on it have their own records.
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Turn::Ended(ended));
                }
                // The others have this task's waker once they were asked. It is nearly always the connection that
                // woke it, and whether one of them did is seen for less than it takes to ask again.
                let first = !std::mem::replace(&mut asked, true);
                let changed = first || self.stop.has_changed().unwrap_or(true);
                if !stopping && changed && pin!(unconstrained(told.as_mut())).poll(cx).is_ready() {
                    return Poll::Ready(Turn::Stop);
                }
                if !retired && quota.is_spent() {
                    return Poll::Ready(Turn::Retire);
                }
                if (first || clock.is_elapsed()) && pin!(unconstrained(clock.as_mut())).poll(cx).is_ready() {
                    return Poll::Ready(Turn::Look);
                }
                Poll::Pending
            });
            match turn.await {
                Turn::Ended(ended) => return Driven::Ended(ended),
                Turn::Stop => {
                    stopping = true;
                    activity.drain();
                    graceful(connection.as_mut());
                    clock.as_mut().reset(tokio::time::Instant::now() + interval.min(LINGER));
                }
                Turn::Retire => {
                    retired = true;
                    graceful(connection.as_mut());
                }
                Turn::Look => {
                    if quota.is_overdrawn() {
                        return Driven::CutOff;
                    }
                    match activity.over(patience) {
                        None if activity.rests() => return Driven::Rests,
                        None => {
                            let next = if stopping { LINGER } else { activity.rest() };
                            clock.as_mut().reset(tokio::time::Instant::now() + interval.min(next));
                        }
                        Some(Over::Stalled) => return Driven::CutOff,
                        Some(Over::Idle) => {
                            // HTTP/2 says which requests were not looked at, and may still hold the end of an
                            // answer that its client takes slowly. HTTP/1 has no word for it, and holds nothing.
                            if graceful(connection.as_mut()) {
                                let ended = tokio::time::timeout(patience.stalled.min(GOODBYE), connection).await;
                                return ended.map_or(Driven::CutOff, Driven::Ended);
                            }
                            return Driven::CutOff;
                        }
                    }
                }
            }
        }
    }
}

/// Reads the header that a proxy sends first, and nothing behind it. A peer that leaves without a word is an
/// error, and no fault: proxies look in this way whether somebody is there.
async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Result<Option<SocketAddr>, proxy_protocol::Fault>> {
    let (mut octets, mut have) = (Vec::new(), 0);
    loop {
        match proxy_protocol::parse(octets.get(..have).unwrap_or_default()) {
            Parsed::Complete { source, .. } => return Ok(Ok(source)),
            Parsed::Fault(fault) => return Ok(Err(fault)),
            Parsed::Incomplete { needed } => octets.resize(needed, 0),
        }
        match stream.read(octets.get_mut(have..).unwrap_or_default()).await? {
            0 if have == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(Err(proxy_protocol::Fault::Absent)),
            read => have += read,
        }
    }
}

impl Peer for Client {
    fn ask(&mut self, cx: &mut Context<'_>) {
        // A change of keys is seen by TLS alone (RFC 8446 §4.6.3). TLS 1.2 has nothing like it; there a client
        // that is gone is noticed when its answer is sent.
        let _ = self.get_mut().1.refresh_traffic_keys();
        let _ = Pin::new(self).poll_flush(cx);
    }

    fn is_gone(&self) -> bool {
        !matches!(self.get_ref().0.0.take_error(), Ok(None))
    }
}

/// Writes an answer that hyper has no request for.
async fn write_answer(stream: &mut Client, answer: Response<AnswerBody>) -> io::Result<()> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut text = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(&body);
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Ends a connection so that the client sees the last answer: closing over bytes that it sent and nobody
/// read would reset the connection, and a reset overtakes the answer (RFC 9112 §9.6).
async fn linger(mut stream: Client) {
    let drained = async {
        stream.shutdown().await?;
        let mut left = MOST_LINGERED;
        let mut sink = [0; 4096];
        // Below TLS: what still comes is thrown away, so it need not be decrypted.
        let stream = stream.get_mut().0;
        while let Some(rest) = left.checked_sub(stream.read(&mut sink).await?) {
            if rest == left {
                break;
            }
            left = rest;
        }
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Says to somebody who speaks plain HTTP on the TLS port what is wrong.
async fn explain_plain_http(mut stream: TcpStream) -> io::Result<()> {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 56\r\n\r\nThis port speaks HTTPS. Use https:// instead of http://\n";
    // Read once what is there: closing over unread bytes would reset the connection before the answer.
    let _ = stream.read(&mut [0; 4096]).await?;
    stream.write_all(ANSWER).await?;
    stream.shutdown().await
}

/// Serves by each snapshot that comes.
async fn adopt(
    cores: Rc<Cores>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    core: impl Fn(Arc<Snapshot>, &Core) -> Core,
) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        cores.replace(core(Arc::clone(&snapshot), &cores.now()));
        snapshot.adopted.fetch_add(1, Ordering::Release);
    }
}

/// Closes connections to workers that nobody uses any more.
async fn upkeep(cores: Rc<Cores>) {
    let mut clock = tokio::time::interval(Duration::from_secs(5));
    loop {
        clock.tick().await;
        cores.now().pools.iter().for_each(|pool| pool.sweep());
    }
}

/// Runs HTTP/2 streams on the thread of their connection.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
