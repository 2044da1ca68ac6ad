//! The load: one thread, many TLS connections, closed or open loop.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::session::{Done, Request, Session};

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    /// At once on each connection; more than one is HTTP/2.
    pub(crate) streams: usize,
    /// A connection for each request.
    pub(crate) reconnect: bool,
    /// Requests a second, sent on time whatever the answers do. Otherwise each answer brings the next request.
    pub(crate) rate: Option<f64>,
}

/// What one stretch of time brought.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// From when each request was due to its answer's last octet; for open loops alone.
    pub(crate) latencies: Vec<Duration>,
    /// Connections that ended with a request unanswered.
    pub(crate) lost: u64,
    /// Connections made.
    pub(crate) connects: u64,
}

impl Tally {
    pub(crate) fn requests(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// The latency that so many of a hundred stay below.
    pub(crate) fn percentile(&mut self, percent: usize) -> Option<Duration> {
        self.latencies.sort_unstable();
        let last = self.latencies.len().checked_sub(1)?;
        self.latencies.get(last * percent / 100).copied()
    }
}

struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    session: Session,
    /// Octets that TLS did not take yet.
    out: Vec<u8>,
}

/// Tells that a request is due.
const PACER: Token = Token(usize::MAX);

/// When a request is due, from the beginning.
fn due(number: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

/// Wakes the load whenever a request is due: epoll itself counts in milliseconds.
fn pace(waker: Arc<Waker>, rate: f64, begin: Instant, duration: Duration) {
    std::thread::spawn(move || {
        for next in (0..).map(|number| due(number, rate)).take_while(|next| *next < duration) {
            std::thread::sleep(next.saturating_sub(begin.elapsed()));
            if begin.elapsed() < next + Duration::from_millis(100) {
                let _ = waker.wake();
            }
        }
    });
}

/// A load that can be run for stretches of time, one after another, with its connections kept.
pub(crate) struct Load {
    target: SocketAddr,
    tls: Arc<ClientConfig>,
    shape: Shape,
    requests: Vec<(Request, Vec<u8>)>,
    next: usize,
    poll: Poll,
    waker: Arc<Waker>,
    slots: Vec<Option<Connection>>,
    /// Slots with room for another request; open loops alone.
    idle: Vec<usize>,
    /// Requests that are due and wait for a connection; open loops alone.
    waiting: VecDeque<Instant>,
    tally: Tally,
}

impl Load {
    pub(crate) fn new(target: SocketAddr, tls: Arc<ClientConfig>, shape: Shape, requests: &[Request]) -> Self {
        let poll = Poll::new().expect("a poll");
        Self {
            waker: Arc::new(Waker::new(poll.registry(), PACER).expect("a waker")),
            target,
            tls,
            shape,
            requests: requests.iter().map(|request| (request.clone(), request.http1())).collect(),
            next: 0,
            poll,
            slots: (0..shape.connections).map(|_| None).collect(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Goes on for so long.
    pub(crate) fn run(&mut self, duration: Duration) -> Tally {
        self.tally = Tally::default();
        let begin = Instant::now();
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_none() {
                self.connect(slot);
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut sent = 0_u64;
        if let Some(rate) = self.shape.rate {
            pace(Arc::clone(&self.waker), rate, begin, duration);
        }
        loop {
            let elapsed = begin.elapsed();
            if elapsed >= duration {
                return std::mem::take(&mut self.tally);
            }
            if let Some(rate) = self.shape.rate {
                while due(sent, rate) <= elapsed {
                    self.waiting.push_back(begin + due(sent, rate));
                    sent += 1;
                }
                self.dispatch();
            }
            match self.poll.poll(&mut events, Some(duration.saturating_sub(elapsed))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("epoll fails: {error}"),
                _ => {}
            }
            for event in &events {
                if event.token() != PACER {
                    self.drive(event.token().0, event.is_read_closed());
                }
            }
        }
    }

    /// Makes so many connections more, one after another, sends a request on each, and holds them.
    pub(crate) fn hold(&mut self, count: usize, limit: Duration) -> Tally {
        let begin = Instant::now();
        let mut events = Events::with_capacity(1024);
        self.tally = Tally::default();
        for more in 1..=count {
            self.slots.push(None);
            self.connect(self.slots.len() - 1);
            self.waiting.push_back(Instant::now());
            while self.tally.requests() < more as u64 && begin.elapsed() < limit {
                let _ = self.poll.poll(&mut events, Some(Duration::from_millis(100)));
                for event in &events {
                    self.drive(event.token().0, event.is_read_closed());
                }
                self.dispatch();
            }
            // The next request is the next connection's.
            self.idle.clear();
        }
        std::mem::take(&mut self.tally)
    }

    fn dispatch(&mut self) {
        while let Some(due) = self.waiting.front().copied() {
            let Some(slot) = self.idle.pop() else { return };
            if self.slots[slot].is_some() {
                self.waiting.pop_front();
                self.send(slot, due);
            }
        }
    }

    fn connect(&mut self, slot: usize) {
        let mut socket = TcpStream::connect(self.target).expect("a socket");
        let _ = socket.set_nodelay(true);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(slot), both).expect("a registration");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(Arc::clone(&self.tls), name).expect("a client");
        tls.set_buffer_limit(None);
        let session = Session::new(self.shape.streams > 1);
        let out = session.open().to_vec();
        self.slots[slot] = Some(Connection { socket, tls, session, out });
        self.tally.connects += 1;
    }

    /// Puts a request on a connection and sends what there is to send.
    fn send(&mut self, slot: usize, due: Instant) {
        let Some(connection) = self.slots[slot].as_mut() else { return };
        let (request, octets) = &self.requests[self.next % self.requests.len()];
        self.next += 1;
        connection.session.send(request, octets, due, &mut connection.out);
        if connection.flush().is_err() {
            self.lose(slot);
        }
    }

    fn drive(&mut self, slot: usize, closed: bool) {
        let Some(connection) = self.slots[slot].as_mut() else { return };
        let was_open = !connection.tls.is_handshaking();
        let mut done = Vec::new();
        let alive = connection.pump(&mut done);
        let opened = !was_open && !connection.tls.is_handshaking();
        let closing = connection.session.closing() && connection.session.in_flight() == 0;
        for end in &done {
            self.finish(*end);
        }
        if alive.is_err() || closed || closing || (self.shape.reconnect && !done.is_empty()) {
            self.lose(slot);
            return;
        }
        if opened {
            // What one connection can carry at once: open loops take it from `idle`.
            for _ in 0..self.shape.streams {
                self.offer(slot);
            }
        } else {
            for _ in &done {
                self.offer(slot);
            }
        }
    }

    /// A place for one more request on a connection.
    fn offer(&mut self, slot: usize) {
        if self.shape.rate.is_some() {
            self.idle.push(slot);
        } else {
            self.send(slot, Instant::now());
        }
    }

    fn finish(&mut self, end: Done) {
        *self.tally.statuses.entry(end.status).or_default() += 1;
        if self.shape.rate.is_some() {
            self.tally.latencies.push(end.due.elapsed());
        }
    }

    /// Gives a connection up and makes another in its place; requests without an answer are sent again.
    fn lose(&mut self, slot: usize) {
        let Some(mut connection) = self.slots[slot].take() else { return };
        connection.tls.send_close_notify();
        let _ = connection.flush();
        let lost = connection.session.lost();
        self.tally.lost += lost.len() as u64;
        if self.shape.rate.is_some() {
            self.waiting.extend(lost);
        }
        self.idle.retain(|idle| *idle != slot);
        self.connect(slot);
    }
}

impl Connection {
    /// Reads what there is, and writes what there is to write.
    fn pump(&mut self, done: &mut Vec<Done>) -> std::io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            self.tls.process_new_packets().map_err(std::io::Error::other)?;
            loop {
                match self.tls.reader().read(&mut buffer) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(count) => self.session.receive(&buffer[..count], &mut self.out, done),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            // All answers are there: what may follow brings an event of its own.
            if !done.is_empty() && self.session.in_flight() == 0 {
                break;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() && !self.tls.is_handshaking() {
            self.tls.writer().write_all(&self.out)?;
            self.out.clear();
        }
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
