//! A stand-in for a worker that speaks HTTP/2: it keeps what it was asked, and answers by a script.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::PATIENCE;
use crate::gateway::Upstream;

/// What is done with a request, one after the other.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Reads the request to its end.
    ReadBody,
    /// Reads one part of it.
    ReadPart,
    /// Sends a head: status and headers; the last is whether the answer ends with it.
    Head(u16, Vec<(&'static str, String)>, bool),
    /// Sends a part of the body.
    Data(Bytes),
    /// Ends the answer with trailers.
    Trailers(Vec<(&'static str, &'static str)>),
    /// Ends the answer.
    End,
    /// Ends the stream for this reason.
    Reset(Reason),
    /// Lets the connection end once its streams have (GOAWAY).
    Goodbye,
    /// Waits for a permit.
    Wait(Arc<Semaphore>),
    /// Does nothing more until the other side ends the stream.
    Stall,
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its head.
    pub head: Parts,
    /// Its body, so far as it was read.
    pub body: Vec<u8>,
    /// Whether that was all of it.
    pub whole: bool,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    connections: usize,
    /// Streams that are open, by connection, and the most that were.
    open: Vec<(usize, usize)>,
}

type Script = Arc<dyn Fn(usize, &Stream) -> Vec<Deed> + Send + Sync>;

/// The stand-in.
#[derive(Debug)]
pub struct StreamWorker {
    address: SocketAddr,
    tls: bool,
    state: Arc<watch::Sender<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl StreamWorker {
    /// Answers every request with an empty JSON object.
    pub async fn start() -> Self {
        Self::scripted(|_, _| Self::json()).await
    }

    /// An empty JSON object.
    #[must_use]
    pub fn json() -> Vec<Deed> {
        let headers = vec![("content-type", "application/json".to_owned()), ("content-length", "2".to_owned())];
        vec![Deed::ReadBody, Deed::Head(200, headers, false), Deed::Data("{}".into()), Deed::End]
    }

    /// Answers by a script, which gets the number of the request (from 0) and its head.
    pub async fn scripted(script: impl Fn(usize, &Stream) -> Vec<Deed> + Send + Sync + 'static) -> Self {
        Self::with(None, 100, script).await
    }

    /// The same with TLS, and with a bound on streams.
    pub async fn with(
        tls: Option<ServerConfig>,
        max_streams: u32,
        script: impl Fn(usize, &Stream) -> Vec<Deed> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(watch::Sender::new(State::default()));
        let (is_tls, acceptor) = (tls.is_some(), tls.map(|config| TlsAcceptor::from(Arc::new(config))));
        let script: Script = Arc::new(script);
        let accepted = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, script, acceptor) = (Arc::clone(&accepted), Arc::clone(&script), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, max_streams, &state, &script).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, max_streams, &state, &script).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, tls: is_tls, state, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Stream> {
        self.state.borrow().streams.clone()
    }

    /// How many connections were opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.borrow().connections
    }

    /// The most streams that were open on one connection.
    #[must_use]
    pub fn most_streams(&self) -> usize {
        self.state.borrow().open.iter().map(|(_, most)| *most).max().unwrap_or(0)
    }

    /// Waits until what was seen is as wanted.
    pub async fn wait_until(&self, wanted: impl Fn(&[Stream]) -> bool) {
        let mut receiver = self.state.subscribe();
        let waiting = receiver.wait_for(|state| wanted(&state.streams));
        let reached = tokio::time::timeout(PATIENCE, waiting).await.is_ok();
        assert!(reached, "in vain; the worker saw {:?}", self.seen());
    }
}

impl Drop for StreamWorker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream for StreamWorker {
    fn url(&self) -> String {
        if self.tls { format!("https://localhost:{}", self.address.port()) } else { format!("http://{}", self.address) }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    max_streams: u32,
    state: &Arc<watch::Sender<State>>,
    script: &Script,
) {
    let mut number = 0;
    state.send_modify(|state| {
        number = state.connections;
        state.connections += 1;
        state.open.push((0, 0));
    });
    let shaken = Builder::new().max_concurrent_streams(max_streams).handshake::<_, Bytes>(stream).await;
    let Ok(mut connection): Result<Connection<S, Bytes>, _> = shaken else { return };
    let goodbye = Arc::new(Notify::new());
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let (state, script, goodbye) = (Arc::clone(state), Arc::clone(script), Arc::clone(&goodbye));
                tokio::spawn(async move {
                    change(&state, number, 1);
                    // The other side may end a stream at any time.
                    let _ = answer(request, respond, number, &state, &script, &goodbye).await;
                    change(&state, number, -1);
                });
            }
            () = goodbye.notified() => connection.graceful_shutdown(),
        }
    }
}

fn change(state: &watch::Sender<State>, connection: usize, by: isize) {
    state.send_modify(|state| {
        if let Some((open, most)) = state.open.get_mut(connection) {
            *open = open.saturating_add_signed(by);
            *most = (*most).max(*open);
        }
    });
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    connection: usize,
    state: &watch::Sender<State>,
    script: &Script,
    goodbye: &Notify,
) -> Result<(), h2::Error> {
    let (head, mut body) = request.into_parts();
    let stream = Stream { head, body: Vec::new(), whole: body.is_end_stream(), connection };
    let mut number = 0;
    state.send_modify(|state| {
        number = state.streams.len();
        state.streams.push(stream.clone());
    });
    let mut sending: Option<h2::SendStream<Bytes>> = None;
    for deed in script(number, &stream) {
        match deed {
            Deed::ReadBody => while read(&mut body, number, state).await? {},
            Deed::ReadPart => drop(read(&mut body, number, state).await?),
            Deed::Head(status, fields, end) => {
                let mut response = Response::builder().status(status);
                for (name, value) in fields {
                    response = response.header(name, value);
                }
                sending = Some(respond.send_response(response.body(()).expect("a legal head"), end)?);
            }
            Deed::Data(mut data) => {
                let stream = sending.as_mut().expect("a head was sent");
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                    let room = room.transpose()?.unwrap_or(0).min(data.len());
                    stream.send_data(data.split_to(room), false)?;
                }
            }
            Deed::Trailers(fields) => {
                let fields =
                    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
                sending.as_mut().expect("a head was sent").send_trailers(fields.collect::<HeaderMap>())?;
            }
            Deed::End => sending.as_mut().expect("a head was sent").send_data(Bytes::new(), true)?,
            Deed::Reset(reason) => match &mut sending {
                Some(stream) => stream.send_reset(reason),
                None => respond.send_reset(reason),
            },
            Deed::Goodbye => goodbye.notify_one(),
            Deed::Wait(turn) => turn.acquire().await.expect("it stays open").forget(),
            Deed::Stall => drop(match &mut sending {
                Some(stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await?,
                None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await?,
            }),
        }
    }
    Ok(())
}

/// Reads one part; `false` at the end.
async fn read(body: &mut RecvStream, number: usize, state: &watch::Sender<State>) -> Result<bool, h2::Error> {
    let part = body.data().await.transpose()?;
    if let Some(part) = &part {
        body.flow_control().release_capacity(part.len())?;
    }
    state.send_modify(|state| {
        if let Some(stream) = state.streams.get_mut(number) {
            stream.body.extend_from_slice(part.as_deref().unwrap_or_default());
            stream.whole |= part.is_none();
        }
    });
    Ok(part.is_some())
}
