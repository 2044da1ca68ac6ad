//! The worker's stand-in: one thread, HTTP/1.1 with kept connections, one short answer to everything.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::wire::{field, head_length};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 88\r\n\r\n\
{\"predictions\":[{\"label\":\"setosa\",\"probability\":0.9731}],\"model\":\"iris\",\"version\":\"1\"} \n";
/// An octet more than the head says, and no proxy would keep the connection.
const _: () = assert!(ANSWER.len() == 71 + 88);

/// A running stand-in; it lives as long as the program.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) address: SocketAddr,
    recording: Arc<AtomicBool>,
    last: Arc<Mutex<Vec<u8>>>,
}

impl Worker {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (recording, last) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<u8>>>::default());
        let serving = Serving { recording: Arc::clone(&recording), last: Arc::clone(&last) };
        std::thread::spawn(move || serving.run(listener));
        Self { address, recording, last }
    }

    /// Keeps the octets of what arrives from now on, or no longer.
    pub(crate) fn record(&self, on: bool) {
        self.recording.store(on, Ordering::SeqCst);
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The request that arrived last, head and body, while recording.
    pub(crate) fn last(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&last).into_owned()
    }
}

struct Serving {
    recording: Arc<AtomicBool>,
    last: Arc<Mutex<Vec<u8>>>,
}

struct Connection {
    socket: TcpStream,
    /// What was read of a head that is not complete yet.
    head: Vec<u8>,
    body: Body,
}

#[derive(Clone, Copy)]
enum Body {
    /// Octets to come.
    Length(usize),
    /// Ends with `0 CRLF CRLF`, of which so many octets of the end were seen: only for the few peers that chunk.
    Chunked,
    Head,
}

impl Serving {
    fn run(&self, mut listener: TcpListener) {
        const LISTENER: Token = Token(usize::MAX);
        let mut poll = Poll::new().expect("a poll");
        let mut events = Events::with_capacity(256);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE).expect("it can be waited for");
        let mut connections: Vec<Option<Connection>> = Vec::new();
        let mut free = Vec::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if poll.poll(&mut events, None).is_err() {
                continue;
            }
            for event in &events {
                if event.token() == LISTENER {
                    while let Ok((mut socket, _)) = listener.accept() {
                        let _ = socket.set_nodelay(true);
                        let slot = free.pop().unwrap_or_else(|| {
                            connections.push(None);
                            connections.len() - 1
                        });
                        poll.registry().register(&mut socket, Token(slot), Interest::READABLE).expect("a registration");
                        connections[slot] = Some(Connection { socket, head: Vec::new(), body: Body::Head });
                    }
                    continue;
                }
                let slot = event.token().0;
                let Some(connection) = connections[slot].as_mut() else { continue };
                let open = self.read(connection, &mut buffer);
                if !open || event.is_read_closed() {
                    connections[slot] = None;
                    free.push(slot);
                }
            }
        }
    }

    /// Whether the connection is still open.
    fn read(&self, connection: &mut Connection, buffer: &mut [u8]) -> bool {
        loop {
            match connection.socket.read(buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    if !self.take(connection, &buffer[..count]) {
                        return false;
                    }
                    // A short read has emptied the socket: epoll(7).
                    if count < buffer.len() {
                        return true;
                    }
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn take(&self, connection: &mut Connection, mut octets: &[u8]) -> bool {
        while !octets.is_empty() {
            match connection.body {
                Body::Head => {
                    connection.head.extend_from_slice(octets);
                    let Some(length) = head_length(&connection.head) else { return true };
                    let rest = octets.len() - (connection.head.len() - length);
                    octets = &octets[rest..];
                    connection.head.truncate(length);
                    connection.body = if let Some(length) = field(&connection.head, "content-length") {
                        Body::Length(length.parse().unwrap_or(0))
                    } else if field(&connection.head, "transfer-encoding").is_some() {
                        Body::Chunked
                    } else {
                        Body::Length(0)
                    };
                    self.keep(&connection.head, true);
                    connection.head.clear();
                }
                Body::Length(length) => {
                    let taken = length.min(octets.len());
                    self.keep(&octets[..taken], false);
                    connection.body = Body::Length(length - taken);
                    octets = &octets[taken..];
                }
                Body::Chunked => {
                    self.keep(octets, false);
                    // Nobody pipelines to a worker, so the end of the body is the end of what was sent.
                    connection.head.extend_from_slice(&octets[octets.len().saturating_sub(5)..]);
                    octets = &[];
                    if connection.head.ends_with(b"0\r\n\r\n") {
                        connection.head.clear();
                        connection.body = Body::Length(0);
                    }
                }
            }
            if matches!(connection.body, Body::Length(0)) {
                connection.body = Body::Head;
                if connection.socket.write_all(ANSWER).is_err() {
                    return false;
                }
            }
        }
        true
    }

    fn keep(&self, octets: &[u8], first: bool) {
        if self.recording.load(Ordering::Relaxed) {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if first {
                last.clear();
            }
            last.extend_from_slice(octets);
        }
    }
}
