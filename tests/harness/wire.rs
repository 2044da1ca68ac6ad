//! One connection, octet by octet: requests that are sent in parts, and answers that are read one at a time.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;
use crate::client::{Answer, Client};

/// A connection, and what was read ahead from it.
#[derive(Debug)]
pub struct Wire<S = TlsStream<TcpStream>> {
    stream: S,
    buffer: Vec<u8>,
}

impl Wire {
    /// Over TLS, to where the client goes.
    pub async fn open(client: &Client) -> Self {
        Self::over(client.tls().await)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over a stream that is there already.
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends these octets.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets).await.expect("the connection takes what is sent");
    }

    /// Sends these octets.
    ///
    /// # Errors
    /// If the other side has closed.
    pub async fn try_send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(octets.as_ref()).await?;
        self.stream.flush().await
    }

    /// Reads on; `false` where the other side has closed.
    async fn more(&mut self) -> io::Result<bool> {
        let reading = self.stream.read_buf(&mut self.buffer);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(|count| count > 0)
    }

    async fn line(&mut self, end: &[u8]) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.more().await.map_err(|error| error.to_string())? {
                return Err(format!("closed after {:?}", String::from_utf8_lossy(&self.buffer)));
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.buffer.len() < length {
            if !self.more().await.map_err(|error| error.to_string())? {
                return Err(format!("closed {} octets early", length - self.buffer.len()));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// The next head alone, an interim one too.
    ///
    /// # Errors
    /// If the connection ends before.
    pub async fn head(&mut self) -> Result<Answer, String> {
        let octets = self.line(b"\r\n\r\n").await?;
        parse_head(&String::from_utf8_lossy(&octets))
    }

    /// The next whole answer to a request that was no HEAD.
    ///
    /// # Panics
    /// If none comes.
    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.unwrap_or_else(|reason| panic!("no whole answer: {reason}"))
    }

    /// The next whole answer to a request that was no HEAD.
    ///
    /// # Errors
    /// Why none comes.
    pub async fn try_answer(&mut self) -> Result<Answer, String> {
        let mut answer = self.head().await?;
        self.body(&mut answer).await?;
        Ok(answer)
    }

    /// The body of an answer whose head was read.
    ///
    /// # Errors
    /// Why it does not come whole.
    pub async fn body(&mut self, answer: &mut Answer) -> Result<(), String> {
        let mut body = Vec::new();
        if answer.header("transfer-encoding").is_empty() {
            let length = answer.header("content-length");
            body = self.exactly(length.parse().unwrap_or(0)).await?;
        } else {
            loop {
                let size = self.line(b"\r\n").await?;
                let size = String::from_utf8_lossy(&size);
                let size =
                    usize::from_str_radix(size.trim(), 16).map_err(|_| format!("{size:?} is no chunk's size"))?;
                let chunk = self.exactly(size + 2).await?;
                body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        }
        answer.body = Bytes::from(body);
        Ok(())
    }

    /// Everything up to and with these words.
    ///
    /// # Panics
    /// If they do not come.
    pub async fn until(&mut self, words: &str) -> String {
        let octets = self.line(words.as_bytes()).await.unwrap_or_else(|reason| panic!("no {words:?}: {reason}"));
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// Everything that still comes, until the other side closes, properly or not.
    pub async fn rest(&mut self) -> String {
        while self.more().await.unwrap_or(false) {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// Waits for the other side to close, which must send nothing before.
    ///
    /// # Errors
    /// What it sent instead.
    pub async fn closed(&mut self) -> Result<(), String> {
        match self.rest().await {
            rest if rest.is_empty() => Ok(()),
            rest => Err(rest),
        }
    }
}

fn parse_head(text: &str) -> Result<Answer, String> {
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let versions = [("HTTP/1.1 ", Version::HTTP_11), ("HTTP/1.0 ", Version::HTTP_10)];
    let parsed = versions.iter().find_map(|(name, version)| {
        let code = status.strip_prefix(name)?.get(..3)?.parse().ok()?;
        Some((code, *version))
    });
    let (status, version) = parsed.ok_or_else(|| format!("{text:?} is no answer"))?;
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is no header"))?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| error.to_string())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|error| error.to_string())?);
    }
    Ok(Answer { status, version, headers, body: Bytes::new() })
}

/// The one answer in a text that a connection gave until it was closed.
///
/// # Panics
/// If it is not one whole answer.
#[must_use]
pub fn only_answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut answer = parse_head(head).unwrap_or_else(|reason| panic!("{reason}"));
    let announced = answer.header("content-length");
    assert_eq!(announced, body.len().to_string(), "one answer and nothing behind it:\n{text}");
    answer.body = Bytes::from(body.to_owned());
    answer
}

/// Asks over plain HTTP, as operators ask the admin listener.
pub async fn plain(address: SocketAddr, method: &str, path: &str) -> Answer {
    let stream = TcpStream::connect(address).await.expect("the port is open");
    let mut wire = Wire::over(stream);
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await;
    wire.answer().await
}

/// A body in chunks of at most so many octets, with the last one behind them.
#[must_use]
pub fn in_chunks(body: &str, most: usize) -> String {
    body.as_bytes().chunks(most).fold(String::new(), |chunks, chunk| {
        chunks + &format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk))
    }) + "0\r\n\r\n"
}
