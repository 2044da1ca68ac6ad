//! Workers: a good one, and some that are not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"label\":\"setosa\"}";
/// What `/large` answers.
const LARGE: usize = 8 << 20;
/// How far apart drops are.
const DRIP: Duration = Duration::from_millis(100);

/// Starts one on a thread of its own, which ends with the process.
///
/// It answers `/large` with 8 MiB, `/silent` never, `/drip` without an end, and everything else at once.
pub(crate) fn start() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.set_nonblocking(true).expect("a socket of ours");
    let address = listener.local_addr().expect("a listener has an address");
    std::thread::spawn(move || {
        Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
            let listener = TcpListener::from_std(listener).expect("a socket of ours");
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(converse(stream));
                }
            }
        });
    });
    address
}

/// A port where nobody listens.
pub(crate) fn dead() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address")
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some(head) = until(&mut stream, &mut buffer, b"\r\n\r\n").await? else { return Ok(()) };
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.contains("\r\ntransfer-encoding: chunked") {
            if until(&mut stream, &mut buffer, b"\r\n0\r\n\r\n").await?.is_none() {
                return Ok(());
            }
        } else {
            let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            while buffer.len() < length {
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
            }
            buffer.drain(..length);
        }
        let is_head = head.starts_with("HEAD ");
        match head.split(' ').nth(1) {
            Some("/large") => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                if is_head {
                    continue;
                }
                let part = vec![b'x'; 64 << 10];
                for _ in 0..LARGE / part.len() {
                    stream.write_all(&part).await?;
                }
            }
            Some("/silent") => {
                while stream.read_buf(&mut buffer).await? > 0 {}
                return Ok(());
            }
            Some("/drip") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"1\r\nx\r\n").await?;
                    tokio::time::sleep(DRIP).await;
                }
            }
            _ => stream.write_all(ANSWER).await?,
        }
    }
}

/// Everything up to and with `end`; what came before the end of a chunked body is thrown away piece by piece.
async fn until(stream: &mut TcpStream, buffer: &mut Vec<u8>, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            return Ok(Some(buffer.drain(..at + end.len()).collect()));
        }
        if buffer.len() > 64 << 10 {
            buffer.drain(..buffer.len() - end.len());
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
