//! An issuer's key server: HTTPS, one answer for everybody, which the test can change.

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

/// Publishes a JWK Set, or whatever else it is told to answer.
#[derive(Debug)]
pub struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
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
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (answer, asked) = (Arc::new(Mutex::new(octets.into())), Arc::<AtomicUsize>::default());
        let closing = Arc::<AtomicBool>::default();
        let acceptor = std::thread::spawn({
            let (answer, asked, closing) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&closing));
            move || {
                let config = config();
                while let Ok((stream, _)) = listener.accept() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    // Whoever does not trust the certificate leaves here.
                    let answer = || answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if serve(stream, &config, answer).is_some() {
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
        Self { address, answer, asked, closing, acceptor: Some(acceptor) }
    }

    /// Publishes other keys from now on.
    pub fn publish(&self, keys: &[Value]) {
        let set = serde_json::json!({ "keys": keys }).to_string();
        self.answer(format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{set}", set.len()));
    }

    /// Answers with other octets from now on.
    pub fn answer(&self, octets: impl Into<Vec<u8>>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = octets.into();
    }

    /// Where the set is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://localhost:{}/keys", self.address.port())
    }

    /// How often it was asked over a connection that the other side trusts.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
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

fn serve(stream: TcpStream, config: &Arc<ServerConfig>, answer: impl Fn() -> Vec<u8>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config)).ok()?, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if stream.read(&mut octet).ok()? == 0 {
            return None;
        }
        head.extend_from_slice(&octet);
    }
    // The reader may have had enough of it before its end.
    let _ = stream.write_all(&answer());
    stream.conn.send_close_notify();
    let _ = stream.flush();
    Some(())
}
