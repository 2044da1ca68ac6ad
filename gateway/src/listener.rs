//! `[listener]`: where connections arrive, how many and how long; and the port, taken.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::activity::Patience;
use crate::deadline::Pace;
use crate::edge::tls::Tls;
use crate::settings::{ByteSize, Section};
use crate::types::Network;

/// Connections that wait in the kernel to be accepted, per thread.
const BACKLOG: i32 = 1024;
/// How long a connection without a request is kept open after the sign to stop, for a request that is
/// on its way, and how long one is read from at its end.
pub(crate) const LINGER: Duration = Duration::from_millis(500);

/// `[listener]`, compiled.
#[derive(Debug)]
pub struct ListenerSettings {
    address: SocketAddr,
    pub(crate) tls: Arc<Tls>,
    pub(crate) threads: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: u32,
    pub(crate) max_requests_per_connection: u32,
    pub(crate) max_connection_age: Duration,
    pub(crate) proxy_protocol: ProxyProtocol,
    pub(crate) handshake_timeout: Duration,
    pub(crate) patience: Patience,
    pub(crate) drain: Duration,
    pub(crate) max_head: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_streams: u32,
    /// How often the files of certificates are looked at.
    pub certificate_check: Duration,
    /// Whether answers say `Strict-Transport-Security`.
    pub hsts: bool,
    /// How slowly a client's body may come.
    pub body_pace: Pace,
}

impl ListenerSettings {
    /// Reads `[listener]`.
    #[must_use]
    pub fn compile(section: Section<'_>) -> Option<Self> {
        let seconds = Duration::from_secs;
        let address = section.required("address", "write where to listen, such as \"0.0.0.0:8443\"");
        let tls = Tls::compile(&section);
        let body_timeout = section.or("body_timeout", seconds(30));
        let min_body_rate = section.or("min_body_rate", ByteSize(1 << 10)).0;
        let settings = Self {
            address: address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            threads: section.or("threads", std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
            max_connections: section.or("max_connections", 10_000),
            max_connections_per_address: section.or("max_connections_per_address", 256),
            max_requests_per_connection: section.or("max_requests_per_connection", 10_000),
            max_connection_age: section.or("max_connection_age", seconds(3600)),
            proxy_protocol: ProxyProtocol::compile(&section),
            handshake_timeout: section.or("handshake_timeout", seconds(5)),
            patience: Patience {
                head: section.or("head_timeout", seconds(10)),
                idle: section.or("idle_timeout", seconds(60)),
                stalled: body_timeout,
                linger: LINGER,
            },
            drain: section.or("drain", seconds(20)),
            max_head: section.or("max_head", ByteSize(16 << 10)).0,
            max_headers: section.or("max_headers", 64),
            max_streams: section.or("max_streams", 100),
            certificate_check: section.or("certificate_check", seconds(10)),
            hsts: section.or("hsts", true),
            body_pace: Pace { pause: body_timeout, rate: min_body_rate as u64 },
            tls: tls?,
        };
        for (key, value, low, high) in [
            ("threads", settings.threads, 1, 1024),
            ("max_connections", settings.max_connections, 1, 1_000_000),
            ("max_connections_per_address", settings.max_connections_per_address as usize, 1, 1_000_000),
            ("max_requests_per_connection", settings.max_requests_per_connection as usize, 1, 1_000_000_000),
            ("max_headers", settings.max_headers, 8, 1024),
            ("max_streams", settings.max_streams as usize, 1, 1000),
        ] {
            if !(low..=high).contains(&value) {
                section.mistake(key, format!("is {value}"), format!("write a number from {low} to {high}"));
            }
        }
        if !(8 << 10..=1 << 20).contains(&settings.max_head) {
            section.mistake("max_head", "is out of bounds", "write a size from \"8KiB\" to \"1MiB\"");
        }
        if !(1..=1 << 20).contains(&min_body_rate) {
            section.mistake("min_body_rate", "is out of bounds", "write a size in each second from \"1B\" to \"1MiB\"");
        }
        section.finish();
        address.map(|_| settings)
    }

    /// Where to listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What TLS is spoken with.
    #[must_use]
    pub fn tls(&self) -> Arc<Tls> {
        Arc::clone(&self.tls)
    }

    /// How many threads serve.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Takes the port, once for each thread.
    ///
    /// # Errors
    /// Why it can't be had.
    pub fn bind(&self) -> io::Result<Listeners> {
        // A shared port can be joined by anybody with our user id, so another gateway that already
        // listens would go unnoticed. A socket that does not share finds out first.
        socket(self.address)?.bind(&self.address.into())?;
        let first = bind(self.address)?;
        // Port 0 becomes one number, which all others share.
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..self.threads {
            sockets.push(bind(address)?);
        }
        Ok(Listeners { address, sockets })
    }
}

/// The port, taken.
#[derive(Debug)]
pub struct Listeners {
    /// The address with its real port.
    pub address: SocketAddr,
    pub(crate) sockets: Vec<StdListener>,
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without this, connections of the process before us would block the port for a minute.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether connections begin with a header of the PROXY protocol, and whose word it is.
#[derive(Debug)]
pub(crate) enum ProxyProtocol {
    /// They do not.
    Off,
    /// They do, and come from these networks alone.
    From(Box<[Network]>),
    /// They do, whoever they come from.
    FromAnybody,
}

impl ProxyProtocol {
    fn compile(section: &Section<'_>) -> Self {
        const LIST: &str = "proxy_protocol_from";
        let on = section.or("proxy_protocol", false);
        let anybody = section.or("danger_proxy_protocol_from_anybody", false);
        let networks = section.list::<Network>(LIST);
        if !on {
            if !networks.is_empty() || anybody {
                let key = if anybody { "danger_proxy_protocol_from_anybody" } else { LIST };
                section.mistake(key, "has no meaning while proxy_protocol is off", "write proxy_protocol = true");
            }
            return Self::Off;
        }
        if anybody {
            return Self::FromAnybody;
        }
        if networks.is_empty() {
            section.missing(
                LIST,
                "list the addresses of your proxies, such as [\"10.0.0.0/24\"]; nobody else can connect",
            );
        }
        for (index, network) in &networks {
            if network.is_too_large() {
                section.mistake_at(
                    LIST,
                    *index,
                    "trusts more addresses than one network has, so that any client there could choose its own",
                    "list the addresses of your proxies, or say that you know with danger_proxy_protocol_from_anybody = true",
                );
            }
        }
        Self::From(networks.into_iter().map(|(_, network)| network).collect())
    }
}
