//! Asking others over HTTPS: no redirect, no proxy, bounded in size and time.

use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt as _;

use super::tls;

/// An HTTPS client that follows no redirect. `ca` is who vouches for the other side, in PEM; the system's authorities
/// where absent.
///
/// # Errors
/// A reason.
pub fn https_client(timeout: Duration, ca: Option<&[u8]>) -> Result<reqwest::Client, String> {
    let mut builder = client(timeout).https_only(true);
    if let Some(ca) = ca {
        let ca = reqwest::Certificate::from_pem(ca).map_err(|error| error.to_string())?;
        builder = builder.tls_certs_only([ca]);
    }
    builder.build().map_err(|error| error.to_string())
}

/// A client for plain HTTP on this machine, over a socket where one is named.
///
/// # Errors
/// A reason.
pub fn plain_client(timeout: Duration, socket: Option<&Path>) -> Result<reqwest::Client, String> {
    let mut builder = client(timeout);
    if let Some(socket) = socket {
        builder = builder.unix_socket(socket);
    }
    builder.build().map_err(|error| error.to_string())
}

fn client(timeout: Duration) -> reqwest::ClientBuilder {
    // The provider is named once for the process; a second naming changes nothing.
    let _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(timeout).no_proxy()
}

/// What was answered to a request with success.
#[derive(Debug)]
pub struct Fetched {
    /// The body.
    pub body: Vec<u8>,
    /// For how long it says it is fresh: `max-age`, or nothing with `no-store` and `no-cache` (RFC 9111 §5.2.2).
    pub fresh_for: Option<Duration>,
}

/// Asks, and reads an answer of so many bytes at most.
///
/// # Errors
/// A reason, without the URL.
pub async fn fetch(request: reqwest::RequestBuilder, most: usize) -> Result<Fetched, String> {
    let answer = request.send().await.map_err(cause)?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let control = answer.headers().get_all(http::header::CACHE_CONTROL);
    let fresh_for = freshness(control.iter().filter_map(|value| value.to_str().ok()));
    let mut body = Vec::new();
    let mut stream = reqwest::Body::from(answer);
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(cause)?;
        body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if body.len() > most {
            return Err(format!("its answer is larger than {most} bytes"));
        }
    }
    Ok(Fetched { body, fresh_for })
}

/// An error without the URL, and what is behind it.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut said = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        said = format!("{said}: {inner}");
        source = inner.source();
    }
    said
}

fn freshness<'a>(control: impl Iterator<Item = &'a str>) -> Option<Duration> {
    let directives = control.flat_map(|value| value.split(',')).map(str::trim);
    let each = directives.filter_map(|directive| {
        let directive = directive.to_ascii_lowercase();
        match directive.split_once('=') {
            Some(("max-age", seconds)) => seconds.trim_matches('"').parse().ok().map(Duration::from_secs),
            _ if matches!(directive.as_str(), "no-store" | "no-cache") => Some(Duration::ZERO),
            _ => None,
        }
    });
    each.min()
}

#[cfg(test)]
mod tests {
    use super::freshness;
    use std::time::Duration;

    #[test]
    fn an_answer_says_for_how_long_it_is_fresh() {
        for (control, seconds) in [
            (&["max-age=600"][..], Some(600)),
            (&["public, Max-Age=\"60\" , must-revalidate"], Some(60)),
            (&["max-age=600", "no-cache"], Some(0)),
            (&["no-store"], Some(0)),
            (&["public"], None),
            (&["max-age=-1"], None),
            (&["max-age=99999999999999999999"], None),
            (&[], None),
        ] {
            assert_eq!(freshness(control.iter().copied()), seconds.map(Duration::from_secs), "{control:?}");
        }
    }
}
