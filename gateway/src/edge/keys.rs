//! Keys that issuers publish: fetched, kept fresh, the last good set kept.
//!
//! Source: RFC 7517. A gateway starts while an issuer is down: only its tokens get 503 until the first
//! fetch. HTTPS alone, no redirect, bounded in size, number and time; symmetric keys in a set are ignored.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http_body_util::BodyExt as _;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};

use super::tls;
use crate::policy::authenticate::jwt::{Issuers, JwtAlgorithm, Keys, Published, VerifyKey, fits};
use crate::policy::json;
use crate::types::Name;

/// How often a set is fetched again.
const FRESH: Duration = Duration::from_mins(5);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(10);
/// The longest fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest set in bytes, and in keys.
const MOST_BYTES: usize = 256 << 10;
const MOST_KEYS: usize = 64;

/// The last good keys of every issuer that publishes them, by the issuer's position.
#[derive(Debug, Default)]
pub struct KeyRing(Vec<(usize, ArcSwapOption<Vec<VerifyKey>>)>);

impl Keys for KeyRing {
    fn of(&self, issuer: usize) -> Option<Arc<Vec<VerifyKey>>> {
        self.0.iter().find(|(position, _)| *position == issuer).and_then(|(_, keys)| keys.load_full())
    }
}

impl KeyRing {
    /// An empty place for each issuer that publishes keys.
    #[must_use]
    pub fn new(issuers: &Issuers) -> Arc<Self> {
        Arc::new(Self(issuers.published().map(|issuer| (issuer.position, ArcSwapOption::empty())).collect()))
    }

    /// Keeps the keys of issuers that another ring had, where they are the same under another policy.
    pub fn keep(&self, issuers: &Issuers, other: &Self, others: &Issuers) {
        for issuer in issuers.published() {
            let same = others.published().find(|old| old.name == issuer.name && old.url == issuer.url);
            let place = self.0.iter().find(|(position, _)| *position == issuer.position);
            if let (Some(same), Some((_, place))) = (same.filter(|old| old.algorithms == issuer.algorithms), place) {
                place.store(other.of(same.position));
            }
        }
    }

    /// The issuers, by name, whose keys were never had.
    #[must_use]
    pub fn missing(&self, issuers: &Issuers) -> Vec<Name> {
        let missing = issuers.published().filter(|issuer| self.of(issuer.position).is_none());
        missing.map(|issuer| Name::clone(issuer.name)).collect()
    }

    /// Keeps the keys fresh for ever. `changed` is told the issuer and what became of a fetch that ended
    /// otherwise than the one before.
    pub async fn refresh(self: Arc<Self>, issuers: &Issuers, changed: impl Fn(&Name, Result<usize, &str>)) {
        let fetches = issuers.published().map(|issuer| self.refresh_one(issuer, &changed));
        futures_util::future::join_all(fetches).await;
    }

    async fn refresh_one(&self, issuer: Published<'_>, changed: &impl Fn(&Name, Result<usize, &str>)) {
        let mut before: Option<Result<usize, String>> = None;
        loop {
            let fetched = fetch(issuer).await;
            let state = fetched.as_ref().map(Vec::len).map_err(Clone::clone);
            let wait = if state.is_ok() { FRESH } else { RETRY };
            if let Ok(keys) = fetched
                && let Some((_, place)) = self.0.iter().find(|(position, _)| *position == issuer.position)
            {
                place.store(Some(Arc::new(keys)));
            }
            if before.as_ref() != Some(&state) {
                changed(issuer.name, state.as_ref().map(|count| *count).map_err(String::as_str));
            }
            before = Some(state);
            tokio::time::sleep(wait).await;
        }
    }
}

async fn fetch(issuer: Published<'_>) -> Result<Vec<VerifyKey>, String> {
    let client = https_client(TIMEOUT, issuer.ca)?;
    let answer = client.get(issuer.url).send().await.map_err(|error| error.without_url().to_string())?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let mut body = Vec::new();
    let mut stream = reqwest::Body::from(answer);
    while let Some(frame) = stream.frame().await {
        let frame = frame.map_err(|error| error.without_url().to_string())?;
        body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if body.len() > MOST_BYTES {
            return Err(format!("its key set is larger than {MOST_BYTES} bytes"));
        }
    }
    read_set(&body, issuer.algorithms)
}

/// An HTTPS client that follows no redirect. `ca` is one more certificate to trust, in PEM.
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

/// A client for plain HTTP on this machine.
///
/// # Errors
/// A reason.
pub fn plain_client(timeout: Duration) -> Result<reqwest::Client, String> {
    client(timeout).build().map_err(|error| error.to_string())
}

fn client(timeout: Duration) -> reqwest::ClientBuilder {
    // The provider is named once for the process; a second naming changes nothing.
    let _ = rustls::crypto::CryptoProvider::install_default((*tls::provider()).clone());
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(timeout).no_proxy()
}

fn read_set(body: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Vec<VerifyKey>, String> {
    let set = json::parse(body, 8).map_err(|wrong| format!("its key set is not JSON: {}", wrong.detail))?;
    let listed = set.get("keys").and_then(|keys| keys.as_array()).ok_or("its key set has no `keys`")?;
    let mut keys = Vec::new();
    for listed in listed.iter().take(MOST_KEYS) {
        // Keys of kinds that we don't know may stand beside ours (RFC 7517 §5).
        let Ok(jwk) = serde_json::from_value::<Jwk>(listed.clone()) else { continue };
        if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
            continue;
        }
        let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
        let stated = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string());
        for &algorithm in algorithms {
            let name = format!("{:?}", algorithm.0);
            let asymmetric = key.family() != jsonwebtoken::AlgorithmFamily::Hmac;
            let fits = asymmetric && key.family() == algorithm.family() && fits(algorithm, &key).is_ok();
            if fits && stated.as_ref().is_none_or(|stated| *stated == name) {
                keys.push(VerifyKey { kid: jwk.common.key_id.as_deref().map(Into::into), algorithm, key: key.clone() });
            }
        }
    }
    if keys.is_empty() { Err("its key set has no key for the algorithms that are configured".into()) } else { Ok(keys) }
}
