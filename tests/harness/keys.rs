//! An issuer's server: HTTPS, one answer for everybody or a script, which the test can change.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::PATIENCE;
use crate::ca::TestCa;

/// What a request, head and body, is answered with.
type Script = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// Publishes a JWK Set, or whatever else it is told to answer. Each connection has a thread, so a script may wait.
pub struct KeyServer {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    asked: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl KeyServer {
    /// Publishes these keys.
    #[must_use]
    pub fn publishing(keys: &[Value]) -> Self {
        let server = Self::answering(Vec::new());
        server.publish(keys);
        server
    }

    /// Answers with exactly these octets.
    #[must_use]
    pub fn answering(octets: impl Into<Vec<u8>>) -> Self {
        let octets = octets.into();
        Self::following(move |_| octets.clone())
    }

    /// Answers what the script makes of each request.
    #[must_use]
    pub fn following(script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let script: Script = Arc::new(script);
        let (script, asked) = (Arc::new(Mutex::new(script)), Arc::<AtomicUsize>::default());
        let closing = Arc::<AtomicBool>::default();
        let acceptor = std::thread::spawn({
            let (script, asked, closing) = (Arc::clone(&script), Arc::clone(&asked), Arc::clone(&closing));
            move || {
                let config = config();
                while let Ok((stream, _)) = listener.accept() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let (script, asked, config) = (Arc::clone(&script), Arc::clone(&asked), Arc::clone(&config));
                    std::thread::spawn(move || {
                        let answer = |request: &str| {
                            asked.fetch_add(1, Ordering::SeqCst);
                            let script = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
                            script(request)
                        };
                        // Whoever does not trust the certificate leaves here.
                        let _ = serve(stream, &config, answer);
                    });
                }
            }
        });
        Self { address, script, asked, closing, acceptor: Some(acceptor) }
    }

    /// Publishes other keys from now on.
    pub fn publish(&self, keys: &[Value]) {
        self.answer(Self::ok(&serde_json::json!({ "keys": keys })));
    }

    /// An answer with JSON.
    #[must_use]
    pub fn ok(body: &Value) -> Vec<u8> {
        Self::ok_with("", body)
    }

    /// An answer with JSON and these header lines more.
    #[must_use]
    pub fn ok_with(headers: &str, body: &Value) -> Vec<u8> {
        let (body, fixed) = (body.to_string(), "HTTP/1.1 200 OK\r\nConnection: close\r\n");
        format!("{fixed}{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// An answer without content.
    #[must_use]
    pub fn status(status: u16) -> Vec<u8> {
        format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    }

    /// Answers with other octets from now on.
    pub fn answer(&self, octets: impl Into<Vec<u8>>) {
        let octets = octets.into();
        self.follow(move |_| octets.clone());
    }

    /// Follows another script from now on.
    pub fn follow(&self, script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Where the set is.
    #[must_use]
    pub fn url(&self) -> String {
        self.at("/keys")
    }

    /// Where something else is.
    #[must_use]
    pub fn at(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// How often it was asked over a connection that the other side trusts.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn config() -> Arc<ServerConfig> {
    let ca = TestCa::shared();
    let certificate = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(ca.private_key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they belong together"))
}

fn serve(stream: TcpStream, config: &Arc<ServerConfig>, answer: impl Fn(&str) -> Vec<u8>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).ok()?, stream);
    let mut request = Vec::new();
    let mut read = |request: &mut Vec<u8>| {
        let mut octet = [0];
        (stream.read(&mut octet).ok()? > 0).then(|| request.push(octet[0]))
    };
    while !request.ends_with(b"\r\n\r\n") {
        read(&mut request)?;
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    for _ in 0..length.unwrap_or(0) {
        read(&mut request)?;
    }
    // The reader may have had enough of it before its end.
    let _ = stream.write_all(&answer(&String::from_utf8_lossy(&request)));
    stream.conn.send_close_notify();
    let _ = stream.flush();
    Some(())
}
