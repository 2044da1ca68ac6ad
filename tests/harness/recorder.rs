//! A stand-in for the model worker: it keeps the exact octets that it was sent, and answers by a script.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::watch;

use crate::PATIENCE;
use crate::gateway::Upstream;

/// How far apart drops are.
const DRIP: Duration = Duration::from_millis(5);

/// What a reply does, one after the other. Afterwards the connection takes its next request.
#[derive(Clone, Debug)]
enum Step {
    ReadBody,
    Write(Vec<u8>),
    Wait(Gate),
    Drip(Vec<u8>),
    Stall,
    Close,
}

/// How one request is answered: steps, in order.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    steps: Vec<Step>,
}

impl Reply {
    /// Reads the request whole, then answers 200 with this JSON.
    #[must_use]
    pub fn json(body: &Value) -> Self {
        Self::with(200, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// Reads the request whole, then answers with a status, header lines (each with CRLF) and a body.
    #[must_use]
    pub fn with(status: u16, headers: &str, body: &[u8]) -> Self {
        let mut octets =
            format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        octets.extend_from_slice(body);
        Self::raw(octets)
    }

    /// Reads the request whole, then sends exactly these octets.
    #[must_use]
    pub fn raw(octets: impl Into<Vec<u8>>) -> Self {
        Self::early().read_body().write(octets)
    }

    /// Begins before the request's body was read.
    #[must_use]
    pub fn early() -> Self {
        Self::default()
    }

    /// Reads the request whole and never answers, until the recorder is dropped.
    #[must_use]
    pub fn never() -> Self {
        Self::early().read_body().stall()
    }

    /// Then reads the rest of the request.
    #[must_use]
    pub fn read_body(mut self) -> Self {
        self.steps.push(Step::ReadBody);
        self
    }

    /// Then sends these octets.
    #[must_use]
    pub fn write(mut self, octets: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Write(octets.into()));
        self
    }

    /// Then waits until the gate is opened.
    #[must_use]
    pub fn wait(mut self, gate: &Gate) -> Self {
        self.steps.push(Step::Wait(gate.clone()));
        self
    }

    /// Then sends these octets again and again, a little apart, until the other side closes.
    #[must_use]
    pub fn drip(mut self, octets: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Drip(octets.into()));
        self
    }

    /// Then does nothing more, and keeps the connection open until the other side closes it.
    #[must_use]
    pub fn stall(mut self) -> Self {
        self.steps.push(Step::Stall);
        self
    }

    /// Then closes the connection.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.steps.push(Step::Close);
        self
    }
}

/// A gate in a reply, which the test opens.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody pass from now on.
    pub fn open(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.0.1.wait_timeout_while(lock(&self.0.0), PATIENCE, |open| !*open);
        drop(closed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The head's octets, with the empty line at its end.
    pub head: Vec<u8>,
    /// The body as it was framed, so far as it was read.
    pub framed: Vec<u8>,
    /// The body's content, so far as it was read.
    pub body: Vec<u8>,
    /// Whether the body was read to its end.
    pub whole: bool,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

impl Seen {
    /// Everything that was read of it.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        [&self.head[..], &self.framed].concat()
    }

    /// The head as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    /// The first line: `POST /models/iris/predict HTTP/1.1`.
    #[must_use]
    pub fn line(&self) -> String {
        self.text().lines().next().unwrap_or_default().to_owned()
    }

    /// Every value of a header, whatever the case of its name.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
    }

    /// The one value of a header; `None` without one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.headers(name);
        assert!(values.len() < 2, "{name} came {} times:\n{}", values.len(), self.text());
        values.into_iter().next()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the worker was sent JSON")
    }
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    connections: usize,
    hung_up: usize,
    closed: usize,
    remains: Vec<Vec<u8>>,
    streams: Vec<TcpStream>,
    closing: bool,
}

/// The stand-in.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    acceptor: Option<JoinHandle<()>>,
    /// Keeps the port from others where nobody is to listen.
    _held: Option<TcpSocket>,
}

type Script = Arc<dyn Fn(usize, &Seen) -> Reply + Send + Sync>;

impl Recorder {
    /// Answers every request with the prediction `{"label":"setosa"}`.
    #[must_use]
    pub fn start() -> Self {
        Self::replying(Reply::json(&serde_json::json!({ "label": "setosa" })))
    }

    /// Answers every request with the same reply.
    #[must_use]
    pub fn replying(reply: Reply) -> Self {
        Self::scripted(move |_, _| reply.clone())
    }

    /// Answers by a script, which gets the number of the request (from 0) and its head.
    #[must_use]
    pub fn scripted(script: impl Fn(usize, &Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(watch::Sender::new(State::default()));
        let acceptor = std::thread::spawn({
            let (state, script) = (Arc::clone(&state), Arc::new(script) as Script);
            move || accept(&listener, &state, &script)
        });
        Self { address, state, acceptor: Some(acceptor), _held: None }
    }

    /// A port where nobody listens, and nobody else can.
    #[must_use]
    pub fn refusing() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("there is a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        Self { address, state: Arc::new(watch::Sender::new(State::default())), acceptor: None, _held: Some(socket) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.borrow().seen.clone()
    }

    /// The only request so far.
    #[must_use]
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "the worker was to be called once");
        seen.remove(0)
    }

    /// Fails if the worker was called.
    pub fn assert_untouched(&self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "the worker was called:\n{}", seen.first().map(Seen::text).unwrap_or_default());
    }

    /// How many connections were opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.borrow().connections
    }

    /// Waits until so many requests' heads have arrived.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait_for("so many requests", |state| state.seen.len() >= count).await;
    }

    /// Waits until what was seen is as wanted.
    pub async fn wait_until(&self, wanted: impl Fn(&[Seen]) -> bool) {
        self.wait_for("other requests", |state| wanted(&state.seen)).await;
    }

    /// Waits until the gateway has closed so many connections.
    pub async fn wait_for_hang_ups(&self, count: usize) {
        self.wait_for("so many connections to be closed", |state| state.hung_up >= count).await;
    }

    /// Waits until so many connections are at their end, whoever closed them; `false` if that does not come.
    pub async fn ends(&self, count: usize) -> bool {
        let mut receiver = self.state.subscribe();
        let reached = receiver.wait_for(|state| state.hung_up + state.closed >= count);
        tokio::time::timeout(PATIENCE, reached).await.is_ok()
    }

    /// Waits until it has closed so many connections by itself ([`Reply::close`]).
    pub async fn wait_for_closes(&self, count: usize) {
        self.wait_for("so many closes", |state| state.closed >= count).await;
    }

    /// Waits until no connection is left.
    pub async fn wait_until_all_ended(&self) {
        self.wait_for("the end of every connection", |state| state.hung_up + state.closed == state.connections).await;
    }

    /// What came on connections that are at their end, and is no request.
    #[must_use]
    pub fn remains(&self) -> Vec<Vec<u8>> {
        self.state.borrow().remains.clone()
    }

    async fn wait_for(&self, what: &str, reached: impl Fn(&State) -> bool) {
        let mut receiver = self.state.subscribe();
        let waited = tokio::time::timeout(PATIENCE, receiver.wait_for(|state| reached(state))).await.is_ok();
        let seen = self.seen().iter().map(Seen::text).collect::<String>();
        assert!(waited, "the recorder waited in vain for {what}; it saw\n{seen}");
    }

    /// Closes every connection and the port.
    pub fn stop(&mut self) {
        self.state.send_modify(|state| {
            state.closing = true;
            for stream in state.streams.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        if let Some(acceptor) = self.acceptor.take() {
            // Wakes it up.
            let _ = TcpStream::connect(self.address);
            let _ = acceptor.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Upstream for Recorder {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn accept(listener: &TcpListener, state: &Arc<watch::Sender<State>>, script: &Script) {
    while let Ok((stream, _)) = listener.accept() {
        let mut connection = 0;
        let mut closing = false;
        state.send_modify(|state| {
            closing = state.closing;
            if !closing {
                connection = state.connections;
                state.connections += 1;
                state.streams.extend(stream.try_clone());
            }
        });
        if closing {
            return;
        }
        let (state, script) = (Arc::clone(state), Arc::clone(script));
        std::thread::spawn(move || {
            let mut line = Line { stream, buffer: Vec::new() };
            let ended = serve(&mut line, connection, &state, &script);
            let _ = line.stream.shutdown(Shutdown::Both);
            state.send_modify(|state| {
                state.remains.extend((!line.buffer.is_empty()).then_some(line.buffer));
                match ended {
                    Ok(Ended::HungUp) | Err(_) => state.hung_up += 1,
                    Ok(Ended::Closed) => state.closed += 1,
                }
            });
        });
    }
}

enum Ended {
    HungUp,
    Closed,
}

fn serve(line: &mut Line, connection: usize, state: &watch::Sender<State>, script: &Script) -> io::Result<Ended> {
    loop {
        let Some(head) = line.head()? else { return Ok(Ended::HungUp) };
        let seen = Seen { head, framed: Vec::new(), body: Vec::new(), whole: false, connection };
        let mut number = 0;
        state.send_modify(|state| {
            number = state.seen.len();
            state.seen.push(seen.clone());
        });
        let mut reply = script(number, &seen);
        if !reply.steps.iter().any(|step| matches!(step, Step::ReadBody)) {
            reply = reply.read_body();
        }
        for step in reply.steps {
            match step {
                Step::ReadBody => line.body(&seen, |framed, content, whole| {
                    state.send_modify(|state| {
                        if let Some(seen) = state.seen.get_mut(number) {
                            seen.framed.extend_from_slice(framed);
                            seen.body.extend_from_slice(content);
                            seen.whole |= whole;
                        }
                    });
                })?,
                Step::Write(octets) => line.stream.write_all(&octets)?,
                Step::Wait(gate) => gate.pass(),
                Step::Drip(octets) => loop {
                    line.stream.write_all(&octets)?;
                    std::thread::sleep(DRIP);
                },
                Step::Stall => {
                    while line.more()? {}
                    return Ok(Ended::HungUp);
                }
                Step::Close => return Ok(Ended::Closed),
            }
        }
    }
}

/// A connection and what was read ahead from it.
struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Line {
    /// Reads on; `false` at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut part = [0; 16 << 10];
        let count = self.stream.read(&mut part)?;
        self.buffer.extend_from_slice(part.get(..count).unwrap_or_default());
        Ok(count > 0)
    }

    /// Takes everything up to and with `end`; `None` where the connection ends before.
    fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.buffer.drain(..at + end.len()).collect()));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.until(b"\r\n\r\n")
    }

    /// Reads exactly `length` octets, in the parts in which they come.
    fn exactly(&mut self, mut length: usize, mut part: impl FnMut(&[u8], bool)) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken: Vec<u8> = self.buffer.drain(..length.min(self.buffer.len())).collect();
            length -= taken.len();
            part(&taken, length == 0);
        }
        Ok(())
    }

    /// Reads the body that the head announces, and tells of each part: framed, content, whether it is whole.
    fn body(&mut self, seen: &Seen, mut tell: impl FnMut(&[u8], &[u8], bool)) -> io::Result<()> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let lengths = seen.headers("content-length");
        if let Some(length) = lengths.first() {
            let length = length.parse().map_err(|_| broken())?;
            tell(b"", b"", length == 0);
            return self.exactly(length, |part, last| tell(part, part, last));
        }
        if seen.headers("transfer-encoding").is_empty() {
            tell(b"", b"", true);
            return Ok(());
        }
        loop {
            let size = self.until(b"\r\n")?.ok_or_else(broken)?;
            tell(&size, b"", false);
            let digits = String::from_utf8_lossy(&size);
            let digits = digits.trim().split(';').next().unwrap_or_default();
            let length = usize::from_str_radix(digits, 16).map_err(|_| broken())?;
            if length == 0 {
                break;
            }
            self.exactly(length, |part, _| tell(part, part, false))?;
            self.exactly(2, |part, _| tell(part, b"", false))?;
        }
        // Trailers, if there are any, and the empty line.
        loop {
            let trailer = self.until(b"\r\n")?.ok_or_else(broken)?;
            let last = trailer == b"\r\n";
            tell(&trailer, b"", last);
            if last {
                return Ok(());
            }
        }
    }
}
