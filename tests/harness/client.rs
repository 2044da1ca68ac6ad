//! A client of the gateway: HTTP/1.1 or HTTP/2 over TLS, and raw octets for what no library would send.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;
use crate::ca::{Issued, TestCa};
use crate::identity;

/// Makes a new connection for each request that it sends by itself.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    http2: bool,
}

/// What a TLS client offers: protocols of HTTP, and versions of TLS (all, where none is named).
#[must_use]
pub fn tls_config(alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if versions.is_empty() { rustls::DEFAULT_VERSIONS } else { versions };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions that are known")
        .with_root_certificates(Arc::clone(&TestCa::shared().roots))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Shakes hands as a configuration says.
///
/// # Errors
/// Why there is no connection.
pub async fn handshake(address: SocketAddr, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    handshake_shared(address, Arc::new(config)).await
}

async fn handshake_shared(address: SocketAddr, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    shake(stream, "localhost", config).await
}

/// Shakes hands on a connection that is there already, with the host of this name.
///
/// # Errors
/// Why there is no connection.
pub async fn handshake_over(stream: TcpStream, name: &str, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    shake(stream, name, Arc::new(config)).await
}

async fn shake(stream: TcpStream, name: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let shaking = TlsConnector::from(config).connect(name, stream);
    tokio::time::timeout(PATIENCE, shaking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends octets and reads until the other side closes or all patience is gone.
pub async fn exchange(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    octets: &[u8],
) -> String {
    // A server that refuses may close before it has read everything.
    let _ = stream.write_all(octets).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(PATIENCE, reading).await.is_ok();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(ended, "the connection stays open after:\n{answer}");
    answer
}

impl Client {
    /// Speaks HTTP/1.1.
    #[must_use]
    pub fn http1(address: SocketAddr) -> Self {
        Self { address, config: Arc::new(tls_config(&["http/1.1"], &[])), http2: false }
    }

    /// Speaks HTTP/2.
    #[must_use]
    pub fn http2(address: SocketAddr) -> Self {
        Self { address, config: Arc::new(tls_config(&["h2"], &[])), http2: true }
    }

    /// The same client with a certificate of its own, and tickets of its own to come back with.
    #[must_use]
    pub fn presenting(&self, issued: &Issued) -> Self {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(self.config.crypto_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("versions that are known")
            .with_root_certificates(Arc::clone(&TestCa::shared().roots))
            .with_client_auth_cert(vec![issued.der()], issued.key_der())
            .expect("a certificate and its key");
        config.alpn_protocols.clone_from(&self.config.alpn_protocols);
        Self { config: Arc::new(config), ..*self }
    }

    /// Begins a request.
    pub fn request(&self, method: &str, path: &str) -> Request {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        Request { client: self.clone(), method, path: path.to_owned(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Begins a GET.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// Begins a POST.
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// Begins a POST to `/predict` with a flower and the credential of `id` (see [`identity::key`]).
    pub fn predict(&self, id: &str) -> Request {
        self.post("/predict").key(id).json(&flower())
    }

    /// Begins a POST to `/token` with a form.
    pub fn token(&self, form: &str) -> Request {
        self.post("/token").form(form)
    }

    /// The token that a user gets for a password.
    pub async fn log_in(&self, user: &str, password: &str) -> String {
        let password = password.replace(' ', "+");
        let answer = self.token(&format!("grant_type=password&username={user}&password={password}")).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// Opens a connection for several requests.
    pub async fn connect(&self) -> Connection {
        self.try_connect().await.unwrap_or_else(|reason| panic!("no connection: {reason}"))
    }

    /// Opens a connection for several requests.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn try_connect(&self) -> Result<Connection, String> {
        let stream =
            handshake_shared(self.address, Arc::clone(&self.config)).await.map_err(|error| error.to_string())?;
        let io = TokioIo::new(stream);
        let (sender, task) = if self.http2 {
            let shaking = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = shaking.map_err(|error| error.to_string())?;
            (Sender::Http2(sender), tokio::spawn(async move { drop(connection.await) }))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
            (Sender::Http1(sender), tokio::spawn(async move { drop(connection.await) }))
        };
        Ok(Connection { sender, driver: Arc::new(Driver(task)) })
    }

    /// A TLS connection that nothing was sent on.
    pub async fn tls(&self) -> TlsStream<TcpStream> {
        let shaken = handshake_shared(self.address, Arc::clone(&self.config)).await;
        shaken.unwrap_or_else(|error| panic!("no connection: {error}"))
    }

    /// Sends exactly these octets over TLS, and reads until the gateway closes the connection.
    pub async fn raw(&self, octets: impl AsRef<[u8]>) -> String {
        exchange(&mut self.tls().await, octets.as_ref()).await
    }
}

/// The features of one flower.
#[must_use]
pub fn flower() -> Value {
    serde_json::json!({ "sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2 })
}

/// A request that is being written.
#[derive(Clone, Debug)]
#[must_use]
pub struct Request {
    client: Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    /// Adds a header; the same name may come again.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    /// Adds the API key of an id; see [`identity::key`].
    pub fn key(self, id: &str) -> Self {
        self.header("x-api-key", &identity::key(id))
    }

    /// Adds a token.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Says in `Authorization: Basic` which client it is (RFC 6749 §2.3.1); see [`identity::clients`].
    pub fn as_client(self, name: &str) -> Self {
        let pair = BASE64_STANDARD.encode(format!("{name}:{}", identity::client_secret(name)));
        self.header("authorization", &format!("Basic {pair}"))
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With a body in JSON.
    pub fn json(mut self, body: &Value) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body(body.to_string())
    }

    /// With a form as its body.
    pub fn form(mut self, form: &str) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        self.body(form.to_owned())
    }

    /// Sends it on a connection of its own.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|reason| panic!("{what}: {reason}"))
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    /// Why no whole answer came.
    pub async fn try_send(self) -> Result<Answer, String> {
        self.client.try_connect().await?.try_send(self).await
    }

    fn build(self) -> http::Request<Full<Bytes>> {
        let authority = format!("localhost:{}", self.client.address.port());
        let mut request = http::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        let target = if self.client.http2 {
            format!("https://{authority}{}", self.path)
        } else {
            let host = HeaderValue::from_str(&authority).expect("a host");
            request.headers_mut().entry(HOST).or_insert(host);
            self.path
        };
        *request.uri_mut() = target.parse().expect("a target");
        request
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Drives a connection until nobody holds it.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection for several requests.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    driver: Arc<Driver>,
}

impl Connection {
    /// Sends a request on it.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn send(&mut self, request: Request) -> Answer {
        self.try_send(request).await.unwrap_or_else(|reason| panic!("no answer: {reason}"))
    }

    /// Sends a request on it.
    ///
    /// # Errors
    /// Why no whole answer came.
    pub async fn try_send(&mut self, request: Request) -> Result<Answer, String> {
        let request = request.build();
        let exchange = async {
            let answer = match &mut self.sender {
                Sender::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
                Sender::Http2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await?
                }
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), version: head.version, headers: head.headers, body })
        };
        let ended = tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "nothing comes any more".to_owned())?;
        ended.map_err(|error: hyper::Error| format!("{error:?}"))
    }

    /// The same HTTP/2 connection for one more request at the same time.
    #[must_use]
    pub fn beside(&self) -> Self {
        match &self.sender {
            Sender::Http1(_) => panic!("HTTP/1.1 has one request at a time"),
            Sender::Http2(sender) => Self { sender: Sender::Http2(sender.clone()), driver: Arc::clone(&self.driver) },
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// The version of HTTP.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("this is not JSON: {}", self.text()))
    }

    /// The value of a header; empty without one, and with commas between several.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    }

    /// The id that the gateway gave the request.
    #[must_use]
    pub fn request_id(&self) -> String {
        self.header("x-request-id")
    }

    /// The word that says what is wrong, of a problem (RFC 9457): `not-found`. Holds the answer to the form
    /// that every problem has.
    #[must_use]
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {}", self.status, self.text());
        assert_eq!(self.header("cache-control"), "no-store");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{body}");
        assert_eq!(body["request_id"], self.request_id(), "{body}");
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        let kind = body["type"].as_str().unwrap_or_default();
        kind.strip_prefix("urn:modelgate:problem:")
            .unwrap_or_else(|| panic!("a type of another form: {body}"))
            .to_owned()
    }

    /// Fails unless the answer is this problem with this status.
    pub fn assert_problem(&self, status: u16, slug: &str) {
        assert_eq!((self.status, self.problem().as_str()), (status, slug), "{}", self.text());
    }
}
