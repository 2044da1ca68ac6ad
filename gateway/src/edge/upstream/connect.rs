//! A connection to a worker: names looked up, addresses raced, TLS where the worker's URL asks for it.
//!
//! Source: RFC 8305 (happy eyeballs). Plain text goes to private addresses only, looked at here, after the
//! name has been looked up: a name can lead anywhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Fault;
use super::address::{Address, is_private};
use crate::deadline::{Deadline, within};

/// How long one address may try before the next begins beside it (RFC 8305 §8).
const HEAD_START: Duration = Duration::from_millis(250);

/// The stream of a connection to a worker.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What connections of a pool are made with.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    /// For one connection, from the look-up to the end of the handshake.
    pub(super) timeout: Duration,
    /// Who vouches for workers with TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Plain text may go to public addresses.
    pub(super) danger_plaintext: bool,
}

impl Dial {
    pub(super) async fn connect(&self, address: &Address) -> Result<Socket, Fault> {
        let unreachable = |reason: &dyn std::fmt::Display| Fault::Unreachable(format!("{address}: {reason}"));
        let connecting = async {
            match address {
                Address::Unix { path } => {
                    UnixStream::connect(path).await.map(Socket::Unix).map_err(|error| unreachable(&error))
                }
                Address::Tcp { host, port, tls_name, .. } => {
                    let addresses = look_up(host, *port).await.map_err(|error| unreachable(&error))?;
                    let addresses = self.permitted(addresses, tls_name.is_some())?;
                    let stream = race(addresses).await.map_err(|error| unreachable(&error))?;
                    // Small messages both ways: waiting to fill a segment only adds delay.
                    let _ = stream.set_nodelay(true);
                    match (tls_name, &self.tls) {
                        (None, _) => Ok(Socket::Tcp(stream)),
                        (Some(name), Some(tls)) => {
                            self.secure(name.clone(), tls, stream).await.map_err(|error| unreachable(&error))
                        }
                        (Some(_), None) => Err(unreachable(&"nobody vouches for its certificate")),
                    }
                }
            }
        };
        within(self.timeout, connecting).await.unwrap_or_else(|| Err(unreachable(&"no connection in time")))
    }

    /// The addresses that may be tried.
    fn permitted(&self, mut addresses: Vec<SocketAddr>, tls: bool) -> Result<Vec<SocketAddr>, Fault> {
        let found = !addresses.is_empty();
        if !tls && !self.danger_plaintext {
            addresses.retain(|address| is_private(address.ip()));
        }
        if found && addresses.is_empty() { Err(Fault::NotPrivate) } else { Ok(addresses) }
    }

    async fn secure(
        &self,
        name: ServerName<'static>,
        tls: &Arc<ClientConfig>,
        stream: TcpStream,
    ) -> io::Result<Socket> {
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?;
        Ok(Socket::Tls(Box::new(stream)))
    }
}

async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    Ok(interleave(tokio::net::lookup_host((host, port)).await?.collect()))
}

/// Families take turns, beginning with the one that the resolver prefers (RFC 8305 §4).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut turns = Vec::new();
    for address in first {
        turns.push(address);
        turns.extend(second.next());
    }
    turns.extend(second);
    turns
}

/// Tries one address after the other, each a little later than the one before, and takes the first that
/// answers.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name leads nowhere");
    let mut head_start = Deadline::new(HEAD_START);
    trying.extend(waiting.next().map(TcpStream::connect));
    std::future::poll_fn(|cx| {
        loop {
            match trying.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(stream))) => return Poll::Ready(Ok(stream)),
                Poll::Ready(Some(Err(error))) => failure = error,
                Poll::Ready(None) if waiting.len() == 0 => {
                    return Poll::Ready(Err(std::mem::replace(&mut failure, io::ErrorKind::Other.into())));
                }
                Poll::Pending if waiting.len() == 0 || head_start.poll_reached(cx).is_pending() => {
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            head_start.reset();
            trying.extend(waiting.next().map(TcpStream::connect));
        }
    })
    .await
}

impl Socket {
    /// What was agreed to be spoken, where TLS asked for it.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().1.alpn_protocol().unwrap_or_default()),
        }
    }

    /// Whether the other side has closed, or has sent something: with nothing asked, both put the connection
    /// in doubt. A connection that `rested` is looked at itself, else only what the last events said.
    pub(super) fn is_stirred(&mut self, rested: bool) -> bool {
        let mut octet = [0];
        let mut buffer = ReadBuf::new(&mut octet);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if Pin::new(&mut *self).poll_read(&mut cx, &mut buffer).is_ready() {
            return true;
        }
        let peek = |socket: SockRef<'_>| {
            let looked = socket.peek(&mut [std::mem::MaybeUninit::uninit()]);
            !looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        };
        rested
            && match &*self {
                Self::Tcp(stream) => peek(SockRef::from(stream)),
                Self::Unix(stream) => peek(SockRef::from(stream)),
                Self::Tls(stream) => peek(SockRef::from(stream.get_ref().0)),
            }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => pin!(stream).poll_read(cx, buf),
            Self::Unix(stream) => pin!(stream).poll_read(cx, buf),
            Self::Tls(stream) => pin!(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => pin!(stream).poll_write(cx, buf),
            Self::Unix(stream) => pin!(stream).poll_write(cx, buf),
            Self::Tls(stream) => pin!(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => pin!(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => pin!(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => pin!(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            // What the kernel has is on its way.
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => pin!(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => pin!(stream).poll_shutdown(cx),
            Self::Unix(stream) => pin!(stream).poll_shutdown(cx),
            Self::Tls(stream) => pin!(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("a literal address")).collect()
    }

    #[test]
    fn families_take_turns() {
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"]);
        assert_eq!(interleave(mixed), addresses(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]));
        let one = addresses(&["10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(interleave(one.clone()), one);
    }

    #[tokio::test(flavor = "local")]
    async fn an_address_that_does_not_answer_holds_nobody_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let good = listener.local_addr().expect("an address");
        // TEST-NET-1 (RFC 5737) leads nowhere: packets vanish or are refused, both of which must do.
        let silent = addresses(&["192.0.2.1:9"]);
        let stream = race([silent, vec![good]].concat()).await.expect("the second address answers");
        assert_eq!(stream.peer_addr().expect("an address"), good);
        assert!(race(Vec::new()).await.is_err());
    }
}
