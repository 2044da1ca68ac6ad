//! Whether a client's certificate is still vouched for, while its connection is open.
//!
//! What vouches is asked at the handshake, and again at the first request after its files have changed. Otherwise a
//! request costs the comparison of two addresses.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use rustls::ServerConnection;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use super::Tls;

/// What checks the certificates of clients.
pub struct Vouching(pub(super) Arc<dyn ClientCertVerifier>);

impl fmt::Debug for Vouching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vouching")
    }
}

/// A client's certificate, with those that lead to its authority.
#[derive(Debug)]
pub struct Shown {
    chain: Box<[CertificateDer<'static>]>,
    /// Who was asked last.
    asked: RefCell<Arc<Vouching>>,
    stands: Cell<bool>,
}

impl Shown {
    /// That of a connection whose handshake asked this.
    #[must_use]
    pub fn of(connection: &ServerConnection, asked: Option<Arc<Vouching>>) -> Option<Self> {
        let chain = connection.peer_certificates()?.into();
        Some(Self { chain, asked: RefCell::new(asked?), stands: Cell::new(true) })
    }
}

impl Tls {
    /// Whether a connection would still be let in with its certificate.
    #[must_use]
    pub fn stands(&self, shown: &Shown) -> bool {
        let current = self.current.load();
        let Some(now) = &current.vouching else { return false };
        if !Arc::ptr_eq(now, &shown.asked.borrow()) {
            let verified = shown
                .chain
                .split_first()
                .map(|(leaf, between)| now.0.verify_client_cert(leaf, between, UnixTime::now()).is_ok());
            shown.stands.set(verified == Some(true));
            shown.asked.replace(Arc::clone(now));
        }
        shown.stands.get()
    }
}
