//! The gateway's own OAuth2 endpoints: a test for each rule. `POST /token` with a password is in `token`.

mod grants;
pub(crate) mod library;
mod revocation;
mod rotation;

use harness::identity::{ALICE, client_secret, clients};
use harness::{Answer, Client, Gateway, GatewayBuilder};

/// A gateway with clients and every endpoint.
fn builder() -> GatewayBuilder {
    Gateway::builder().policy(clients())
}

/// Holds an answer to RFC 6749 §5.2.
fn assert_error(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), ("no-store".into(), "no-cache".into()));
    assert_eq!(answer.json()["error"], error, "{}", answer.text());
    assert_eq!(answer.header("www-authenticate").is_empty(), status != 401, "RFC 9110 §15.5.2");
}

/// A form for a user who logs in.
fn password(user: &str, password: &str) -> String {
    format!("grant_type=password&username={user}&password={}", password.replace(' ', "+"))
}

/// What a client gets for itself.
pub(crate) async fn credentials(client: &Client, name: &str) -> String {
    let answer = client.token("grant_type=client_credentials").as_client(name).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    text(&answer, "access_token")
}

/// What `alice` gets through a client: an access token and a refresh token.
async fn log_in(client: &Client, name: &str) -> (String, String) {
    let answer = client.token(&password("alice", ALICE)).as_client(name).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    (text(&answer, "access_token"), text(&answer, "refresh_token"))
}

/// What a client gets for a refresh token.
async fn refresh(client: &Client, name: &str, token: &str) -> Answer {
    client.token(&format!("grant_type=refresh_token&refresh_token={token}")).as_client(name).send().await
}

/// What a client is told of a token.
async fn introspect(client: &Client, name: &str, token: &str) -> serde_json::Value {
    let answer = client.post("/introspect").form(&format!("token={token}")).as_client(name).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), "no-store");
    answer.json()
}

async fn revoke(client: &Client, name: &str, token: &str) -> Answer {
    client.post("/revoke").form(&format!("token={token}")).as_client(name).send().await
}

/// The status of a request with a token.
async fn status(client: &Client, token: &str) -> u16 {
    client.get("/known").bearer(token).send().await.status
}

fn text(answer: &Answer, member: &str) -> String {
    answer.json()[member].as_str().expect("a member of the answer").to_owned()
}

/// A client that says in the form who it is.
fn posted(name: &str) -> String {
    format!("client_id={name}&client_secret={}", client_secret(name))
}
