//! What is known of a request before anything is decided about who sent it.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::types::{ClientCertificate, Timestamp};

/// The facts that decisions about a request are made on; all as the client sent them.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The host that was asked, without port.
    pub host: &'a str,
    /// The path in its normal form.
    pub path: &'a str,
    /// The path as it was sent.
    pub sent_path: &'a str,
    /// The query, as it was sent.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The certificate that its connection began with, or was resumed with; it was verified then.
    pub certificate: Option<&'a ClientCertificate>,
    /// The client's address, behind the proxies that are trusted.
    pub address: IpAddr,
    /// When the request came, by the wall clock.
    pub now: Timestamp,
}
