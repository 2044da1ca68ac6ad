//! HTTP/2 connections to one worker, of one thread; each carries many requests at once.
//!
//! Source: RFC 9113 §3.3 (prior knowledge), §6.8 (GOAWAY), §5.1.2 (bounds on streams). There are as few connections as
//! the worker's bound on streams allows, and one is made at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Ping;
use h2::client::{Builder, SendRequest};
use tokio::sync::Mutex;

use super::Fault;
use super::address::Address;
use super::settings::PoolSettings;
use crate::deadline::within;

/// How much of one answer, and of all answers on a connection, may come before it is taken.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// How much of a request may lie between us and the socket.
const SEND_BUFFER: usize = 64 << 10;

/// One connection.
struct Session {
    send: SendRequest<Bytes>,
    open: Cell<usize>,
    /// Whether it takes no more requests.
    retired: Rc<Cell<bool>>,
    born: Instant,
    /// Since when it has no request.
    rests: Cell<Instant>,
}

/// Room for one request on a connection, given back when it is over.
pub(super) struct Slot(Rc<Session>);

impl Slot {
    pub(super) fn send(&self) -> SendRequest<Bytes> {
        self.0.send.clone()
    }

    /// Nothing new is to be sent on its connection: whether that is well can't be known.
    pub(super) fn retire(&self) {
        self.0.retired.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.rests.set(Instant::now());
    }
}

/// All connections to a worker.
#[derive(Default)]
pub(super) struct Sessions {
    all: RefCell<Vec<Rc<Session>>>,
    dialling: Mutex<()>,
    /// How often dialling failed, and why the last time.
    failures: Cell<u64>,
    failure: RefCell<Option<Fault>>,
}

impl Sessions {
    /// Room on a connection that there is.
    fn take(&self, max_age: Duration) -> Option<Slot> {
        let mut all = self.all.borrow_mut();
        all.retain(|session| !session.retired.get() && session.born.elapsed() < max_age);
        let found = all.iter().find(|session| session.open.get() < session.send.current_max_send_streams())?;
        found.open.set(found.open.get() + 1);
        Some(Slot(Rc::clone(found)))
    }

    /// Room on a connection that there is, or on a new one.
    pub(super) async fn slot(
        &self,
        pool: &PoolSettings,
        address: &Address,
        connected: &impl Fn(),
    ) -> Result<Slot, Fault> {
        let age = pool.max_connection_age;
        if let Some(slot) = self.take(age) {
            return Ok(slot);
        }
        let failures = self.failures.get();
        let _turn = self.dialling.lock().await;
        if let Some(slot) = self.take(age) {
            return Ok(slot);
        }
        // Those who waited for the same connection fail with it.
        if failures != self.failures.get()
            && let Some(fault) = &*self.failure.borrow()
        {
            return Err(fault.clone());
        }
        match Box::pin(open(pool, address)).await {
            Ok(session) => {
                connected();
                let session = Rc::new(session);
                self.all.borrow_mut().push(Rc::clone(&session));
                session.open.set(1);
                Ok(Slot(session))
            }
            Err(fault) => {
                self.failures.set(self.failures.get() + 1);
                self.failure.replace(Some(fault.clone()));
                Err(fault)
            }
        }
    }

    /// Lets connections end that nobody used for so long.
    pub(super) fn sweep(&self, idle: Duration) {
        self.all.borrow_mut().retain(|session| session.open.get() > 0 || session.rests.get().elapsed() < idle);
    }
}

async fn open(pool: &PoolSettings, address: &Address) -> Result<Session, Fault> {
    let socket = pool.dial.connect(address).await?;
    let unreachable = |reason: &dyn std::fmt::Display| Fault::Unreachable(format!("{address}: {reason}"));
    if socket.protocol().is_some_and(|protocol| protocol != b"h2") {
        return Err(unreachable(&"it does not speak HTTP/2"));
    }
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(pool.max_head).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .initial_max_send_streams(0);
    let shaking = async {
        let (send, mut connection) = builder.handshake::<_, Bytes>(socket).await?;
        // Its settings come before its answer to a ping, and who answers one speaks HTTP/2.
        if let Some(mut pings) = connection.ping_pong() {
            tokio::select! {
                pong = pings.ping(Ping::opaque()) => { pong?; }
                ended = &mut connection => ended?,
            }
        }
        Ok((send, connection))
    };
    let shaken = within(pool.dial.timeout, shaking).await;
    let shaken = shaken.ok_or_else(|| unreachable(&"no connection in time"))?;
    let (send, connection) = shaken.map_err(|error: h2::Error| unreachable(&error))?;
    if send.current_max_send_streams() == 0 {
        return Err(unreachable(&"it takes no requests"));
    }
    let retired = Rc::new(Cell::new(false));
    tokio::task::spawn_local({
        let retired = Rc::clone(&retired);
        async move {
            // Its requests hear of what went wrong.
            let _ = connection.await;
            retired.set(true);
        }
    });
    let now = Instant::now();
    Ok(Session { send, open: Cell::new(0), retired, born: now, rests: Cell::new(now) })
}
