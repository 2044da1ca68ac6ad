//! Issuers of tokens beside the gateway itself: what is believed of them, and what their words mean here.

mod claims;
mod introspection;
mod libraries;
mod mistakes;
mod provider;

use harness::client::flower;
use harness::{Answer, Gateway};

const ISSUER: &str = "https://idp.example";

/// An issuer `corp` in TOML with these lines more.
fn corp(more: &str) -> String {
    format!("[issuers.corp]\nissuer = \"{ISSUER}\"\naudience = \"modelgate\"\n{more}\n")
}

async fn predict(gateway: &Gateway, token: &str) -> Answer {
    gateway.client().post("/predict").bearer(token).json(&flower()).send().await
}
