//! The floor: TLS and the bare system calls of a proxy, without HTTP. What one read of a client gives is written to a
//! worker connection of its own, and what one read of the worker gives is written back. Of a flood that is refused, each
//! read is answered with the same octets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};

/// The body of a refusal, about as long as the gateway's.
pub(crate) const REFUSAL: &[u8] = &[b'.'; 250];
/// The head before it, about as long as the gateway's.
const HEAD: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
    www-authenticate: ApiKey realm=\"benchmark\"\r\nx-request-id: 00000000-0000-0000-0000-000000000000\r\n\
    vary: Origin\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n\
    content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\ncontent-length: 250\r\n\r\n";

struct Pair {
    /// Answers by itself.
    refuses: bool,
    client: TcpStream,
    tls: ServerConnection,
    worker: TcpStream,
    /// A worker connection is written to once it is there.
    connected: bool,
    waiting: Vec<u8>,
}

/// Serves for ever; `refuses` everything, or passes it on.
pub(crate) fn run(listen: SocketAddr, worker: SocketAddr, config: ServerConfig, refuses: bool) -> std::io::Result<()> {
    const LISTENER: Token = Token(usize::MAX);
    let config = Arc::new(config);
    let mut listener = TcpListener::bind(listen)?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut client, _)) = listener.accept() {
                    client.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    let mut worker = TcpStream::connect(worker)?;
                    worker.set_nodelay(true)?;
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut client, Token(slot * 2), Interest::READABLE)?;
                    poll.registry().register(&mut worker, Token(slot * 2 + 1), both)?;
                    let tls = ServerConnection::new(Arc::clone(&config)).map_err(std::io::Error::other)?;
                    pairs[slot] = Some(Pair { refuses, client, tls, worker, connected: false, waiting: Vec::new() });
                }
                continue;
            }
            let slot = event.token().0 / 2;
            let Some(pair) = pairs[slot].as_mut() else { continue };
            let done = if event.token().0 % 2 == 0 {
                pair.client_spoke(&mut buffer)
            } else {
                if event.is_writable() && !pair.connected {
                    // From now on only what arrives is of interest.
                    pair.connected = true;
                    poll.registry().reregister(&mut pair.worker, event.token(), Interest::READABLE)?;
                }
                pair.worker_spoke(&mut buffer, event.is_readable())
            };
            if done.is_err() || event.is_read_closed() {
                pairs[slot] = None;
                free.push(slot);
            }
        }
    }
}

impl Pair {
    fn client_spoke(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        match self.tls.read_tls(&mut self.client) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            read => read?,
        };
        let state = self.tls.process_new_packets().map_err(std::io::Error::other)?;
        if self.tls.wants_write() {
            self.tls.write_tls(&mut self.client)?;
        }
        if state.plaintext_bytes_to_read() > 0 {
            let count = self.tls.reader().read(buffer)?;
            if self.refuses {
                self.tls.writer().write_all(HEAD.as_bytes())?;
                self.tls.writer().write_all(REFUSAL)?;
                self.tls.write_tls(&mut self.client)?;
            } else if self.connected {
                self.worker.write_all(&buffer[..count])?;
            } else {
                self.waiting.extend_from_slice(&buffer[..count]);
            }
        }
        Ok(())
    }

    fn worker_spoke(&mut self, buffer: &mut [u8], readable: bool) -> std::io::Result<()> {
        if !self.waiting.is_empty() && self.connected {
            self.worker.write_all(&std::mem::take(&mut self.waiting))?;
        }
        if !readable {
            return Ok(());
        }
        let count = match self.worker.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            read => read?,
        };
        self.tls.writer().write_all(&buffer[..count])?;
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.client)?;
        }
        Ok(())
    }
}
