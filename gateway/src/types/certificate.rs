//! What a client's certificate says, once its connection is there.

use super::{Sha256, Timestamp};

/// A client's certificate that was verified when its connection began: who it names, and until when.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// The SHA-256 of its DER, which tokens are bound by (RFC 8705 §3.1).
    pub thumbprint: Sha256,
    /// When it ends.
    pub until: Timestamp,
    /// Its subject as RFC 4514 writes it; `None` where that can't be written, or it has none.
    pub subject: Option<Box<str>>,
    /// The DNS names among its alternative names, in lower case.
    pub dns: Box<[Box<str>]>,
    /// The URIs among them.
    pub uris: Box<[Box<str>]>,
    /// The addresses of e-mail among them.
    pub emails: Box<[Box<str>]>,
}

impl ClientCertificate {
    /// One that has ended at the beginning of time and names nobody.
    #[must_use]
    pub fn nameless(thumbprint: Sha256) -> Self {
        Self {
            thumbprint,
            until: Timestamp::from_secs(0),
            subject: None,
            dns: Box::default(),
            uris: Box::default(),
            emails: Box::default(),
        }
    }

    /// Whether it has not ended. A connection, or a ticket to a new one, can outlive the certificate that opened it.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.until
    }
}
