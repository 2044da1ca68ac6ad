//! The way to Redis, which can be cut: whatever is sent meanwhile is not delivered, and nobody is told.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    open: Arc<watch::Sender<bool>>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let open = Arc::new(watch::Sender::new(true));
        let told = open.subscribe();
        tokio::task::spawn_local(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (target, told) = (target.clone(), told.clone());
                tokio::task::spawn_local(async move {
                    let mut waiting = told.clone();
                    let _ = waiting.wait_for(|open| *open).await;
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::task::spawn_local(pass(near_in, far_out, told.clone()));
                    pass(far_in, near_out, told).await;
                });
            }
        });
        Self { port, open }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.open.send_replace(!is_cut);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        // As a network does it: what is sent again arrives once the way is open.
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
