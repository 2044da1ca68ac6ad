//! Wrong configurations: every mistake at once, each with its place and what to do, and nothing starts.
//!
//! `0.toml` is the harness's mechanism, `1.toml` the base policy, `2.toml` and later what a test lays over them.

use std::path::Path;
use std::process::{Command, Output};

use harness::gateway::GatewayBuilder;
use harness::identity::SECRET;
use harness::{Gateway, Process, Signer, Signing, TestCa, binary};

/// What is printed to standard error, and the exit code.
fn refused(output: &Output) -> (String, Option<i32>) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is said to be good, or to listen");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code())
}

/// Holds `gateway check` and `gateway run` to the same words and exit code 78 (`EX_CONFIG`).
fn assert_mistakes(what: &str, builder: &GatewayBuilder, expected: &str) {
    let (text, code) = refused(&builder.output("check"));
    assert!(
        text == expected && code == Some(78),
        "{what}: exit code {code:?}, and it said\n{text}\ninstead of\n{expected}"
    );
    assert_eq!(refused(&builder.output("run")), (text, code), "{what}: `run` says the same and ends");
}

/// What is wrong, the overlay that is wrong, and what is said about it.
type Case = (&'static str, &'static str, &'static str);

fn assert_each(cases: &[Case]) {
    for (what, overlay, expected) in cases {
        assert_mistakes(what, &world().policy(*overlay), expected);
    }
}

/// A good configuration, with what the wrong ones refer to.
fn world() -> GatewayBuilder {
    Gateway::builder()
        .variable("WEAK", "hunter2hunter2")
        .variable("EMPTY", "")
        .file("bad.json", "{\"type\":}")
        .file("fernet.key", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
}

#[test]
fn the_base_of_these_tests_is_good() {
    let output = world().output("check");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = "The configuration is good: 9 routes, 1 pools, limits counted in memory.\n";
    assert_eq!((String::from_utf8_lossy(&output.stdout).as_ref(), output.status.code()), (said, Some(0)));
}

#[test]
fn a_key_that_nobody_knows_is_named_with_what_was_meant() {
    assert_each(UNKNOWN_KEYS);
}

const UNKNOWN_KEYS: &[Case] = &[
    (
        "a typo",
        r#"[listener]
head_timeot = "5s"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.head_timeot
    is not a key that is known here
    help: did you mean `head_timeout`?
",
    ),
    (
        "a stranger",
        r"[listener]
compression = true
",
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.compression
    is not a key that is known here
    help: remove it; known here: address, body_timeout, certificate, certificate_check, certificates, client_ca, client_certificates, client_crl, danger_proxy_protocol_from_anybody, drain, handshake_timeout, head_timeout, hsts, idle_timeout, max_connection_age, max_connections, max_connections_per_address, max_head, max_headers, max_requests_per_connection, max_streams, min_body_rate, ocsp, private_key, proxy_protocol, proxy_protocol_from, strict_sni, threads
",
    ),
    (
        "a table",
        r"[plugins.x]
a = 1
",
        r"error: 1 mistake in the configuration

  2.toml:1:2  plugins
    is not a key that is known here
    help: remove it; known here: admin, answers, api_key, api_keys, assertion, certificates, client_address, clients, cors, defaults, fernet, guards, issuers, limits, listener, log, pools, proofs, reload, rights, roles, routes, schemas, sealed, signing_keys, store, token, users
",
    ),
];

#[test]
fn a_reference_to_something_undefined_is_named_with_what_was_meant() {
    assert_each(UNDEFINED);
}

const UNDEFINED: &[Case] = &[
    (
        "a pool",
        r#"[routes.predict]
pool = "modelz"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  routes.predict.pool
    names the pool "modelz", which is not defined
    help: did you mean "models"?
"#,
    ),
    (
        "a limit",
        r#"[routes.predict]
limits = ["wide", "per-adress"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:19  routes.predict.limits.1
    names the limit "per-adress", which is not defined
    help: define it, or use one of: wide
"#,
    ),
    (
        "a role",
        r#"[routes.predict]
authorize = ["predictr"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:14  routes.predict.authorize.0
    names the role "predictr", which is not defined
    help: did you mean "predictor"?
"#,
    ),
    (
        "a role of a role",
        r#"[roles.admin]
includes = ["root"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:13  roles.admin.includes.0
    names the role "root", which is not defined
    help: define it, or use one of: admin, predictor, reader
"#,
    ),
    (
        "a role of a key",
        r#"[api_keys.reader]
roles = ["reeder"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:10  api_keys.reader.roles.0
    names the role "reeder", which is not defined
    help: did you mean "reader"?
"#,
    ),
    (
        "a role of a user",
        r#"[users.bob]
roles = ["reader", "reader2"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:20  users.bob.roles.1
    names the role "reader2", which is not defined
    help: did you mean "reader"?
"#,
    ),
    (
        "a CORS rule",
        r#"[routes.predict]
cors = "browsers"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  routes.predict.cors
    names the CORS rule "browsers", which is not defined
    help: did you mean "browser"?
"#,
    ),
    (
        "a schema",
        r#"[routes.predict.body]
schema = "rose"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  routes.predict.body.schema
    names the schema "rose", which is not defined
    help: define it, or use one of: iris, text
"#,
    ),
];

#[test]
fn a_secret_is_referred_to_and_never_written_out() {
    assert_each(SECRETS);
}

const SECRETS: &[Case] = &[
    (
        "a private key",
        r#"[listener]
private_key = "hunter2"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  listener.private_key
    is written out, and a secret must only be referred to
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here
"#,
    ),
    (
        "a password",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = "hunter2"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:4:1  store.password
    is written out, and a secret must only be referred to
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here
"#,
    ),
    (
        "a password in a URL",
        r#"[store]
kind = "redis"
url = "redis://:hunter2@127.0.0.1:6379"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:3:1  store.url
    has a password in it, and a secret must only be referred to
    help: remove it and write password = { env = "NAME" } or { file = "path" }
"#,
    ),
    (
        "a variable that is not set",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { env = "NOT_SET" }
"#,
        r"error: 1 mistake in the configuration

  2.toml:4:1  store.password
    refers to the environment variable NOT_SET, which is not set
    help: set NOT_SET before the start, or refer to a file
",
    ),
    (
        "a variable that is empty",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { env = "EMPTY" }
"#,
        r"error: 1 mistake in the configuration

  2.toml:4:1  store.password
    refers to a secret that is empty
    help: put the secret there
",
    ),
    (
        "a file that is not there",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { file = "nowhere" }
"#,
        r#"error: 1 mistake in the configuration

  2.toml:4:1  store.password
    names the file "nowhere", which can't be read: No such file or directory (os error 2)
    help: check the path (it is relative to the working directory) and its permissions
"#,
    ),
    (
        "two places",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { env = "WEAK", file = "server.key" }
"#,
        r#"error: 1 mistake in the configuration

  2.toml:4:1  store.password
    must have exactly one of `env` and `file`
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here
"#,
    ),
    (
        "a digest that is a key",
        r#"[api_keys.reader]
digest = "mgk_reader_hunter2"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  api_keys.reader.digest
    is not a SHA-256 digest
    help: write "sha256:" and 64 lower-case hexadecimal digits, as `gateway key new` prints it
"#,
    ),
    (
        "a digest that is a password",
        r#"[users.bob]
digest = "hunter2"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  users.bob.digest
    is not a password digest
    help: paste the line that `gateway password hash` printed
",
    ),
    (
        "no place",
        r#"[store]
kind = "redis"
url = "redis://127.0.0.1:6379"
password = { variable = "WEAK" }
"#,
        r#"error: 2 mistakes in the configuration

  2.toml:4:14  store.password.variable
    is not a key that is known here
    help: remove it; known here: env, file

  2.toml:4:1  store.password
    must have exactly one of `env` and `file`
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here
"#,
    ),
];

#[test]
fn a_value_of_the_wrong_form_is_told_with_the_right_one() {
    assert_each(WRONG_FORMS);
}

const WRONG_FORMS: &[Case] = &[
    (
        "types",
        r#"[listener]
threads = "two"
hsts = "yes"
max_head = 16384
idle_timeout = 60
address = "localhost:8443"
[limits.other]
quota = 1.5
window = "1 minute"
by = ["address", "adress"]
store_lost = "denied"
"#,
        r#"error: 9 mistakes in the configuration

  2.toml:6:1  listener.address
    is "localhost:8443", which is not an address and port
    help: write an address and port, such as "127.0.0.1:8443" or "[::]:8443"

  2.toml:2:1  listener.threads
    is a string, not a number
    help: write a whole number

  2.toml:5:1  listener.idle_timeout
    is a number, not a string
    help: write a duration with its unit, such as "500ms", "30s", "5m", "1h" or "31d"

  2.toml:4:1  listener.max_head
    is a number, not a string
    help: write a size with its unit, such as "512B", "64KiB" or "1MiB"

  2.toml:3:1  listener.hsts
    is a string, not true or false
    help: write true or false

  2.toml:8:1  limits.other.quota
    is a fraction
    help: write a whole number

  2.toml:9:1  limits.other.window
    is "1 minute", which is not a duration
    help: write a duration with its unit, such as "500ms", "30s", "5m", "1h" or "31d"

  2.toml:10:18  limits.other.by.1
    is "adress", which is not one of its choices
    help: write "address", "principal", "api_key", "role", "route", "model", "pool", "user" or "header:NAME" (of a trusted proxy)

  2.toml:11:1  limits.other.store_lost
    is "denied", which is not one of its choices
    help: write "deny", "allow" or "local"
"#,
    ),
    (
        "bounds",
        r#"[listener]
threads = 0
max_head = "1KiB"
min_body_rate = "0B"
[limits.other]
quota = 0
window = "1500ms"
by = ["address"]
store_lost = "deny"
[routes.predict.body]
depth = 0
max = "1GiB"
[token]
lifetime = "48h"
"#,
        r#"error: 8 mistakes in the configuration

  2.toml:2:1  listener.threads
    is 0
    help: write a number from 1 to 1024

  2.toml:3:1  listener.max_head
    is out of bounds
    help: write a size from "8KiB" to "1MiB"

  2.toml:4:1  listener.min_body_rate
    is out of bounds
    help: write a size in each second from "1B" to "1MiB"

  2.toml:14:1  token.lifetime
    is more than a day, in which nobody asks again whether its owner may still have it
    help: write at most "1d"; clients ask again by themselves, and users have refresh tokens

  2.toml:6:1  limits.other.quota
    is 0
    help: write a number from 1 to 1099511627776

  2.toml:7:1  limits.other.window
    is 1.5s, and headers give windows in whole seconds
    help: write whole seconds, one at least

  2.toml:11:1  routes.predict.body.depth
    is 0
    help: write a number from 1 to 64

  2.toml:12:1  routes.predict.body.max
    is more than 16 MiB, and a JSON body is held in memory whole
    help: lower it, or write format = "opaque"
"#,
    ),
    (
        "a table for a word",
        r#"[routes.predict.pool]
name = "models"
"#,
        r"error: 1 mistake in the configuration

  2.toml:1:17  routes.predict.pool
    is a table, not a string
    help: write a string
",
    ),
    (
        "a word for a table",
        r#"[routes.predict]
body = "json"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  routes.predict.body
    is a string, not a table
    help: write a table: [routes.predict.body]
",
    ),
];

#[test]
fn what_weakens_security_is_refused_or_must_be_called_dangerous() {
    assert_each(DANGERS);
}

const DANGERS: &[Case] = &[
    (
        "credentials for every origin",
        r#"[cors.browser]
origins = ["*"]
credentials = true
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:12  cors.browser.origins.0
    is "*" while credentials = true, so that every page could act as its visitor
    help: list the origins, or remove `credentials`
"#,
    ),
    (
        "origins that browsers never send",
        r#"[cors.browser]
origins = ["https://app.example.com/", "app.example.com", "https://*.example.com", "https://app.example.com:443"]
headers = ["*"]
"#,
        r#"error: 5 mistakes in the configuration

  2.toml:2:12  cors.browser.origins.0
    is "https://app.example.com/", which is not an origin as browsers send it
    help: write scheme and host in lower case, and a port where it is not the default: "https://app.example.com"

  2.toml:2:40  cors.browser.origins.1
    is "app.example.com", which is not an origin as browsers send it
    help: write scheme and host in lower case, and a port where it is not the default: "https://app.example.com"

  2.toml:2:59  cors.browser.origins.2
    is "https://*.example.com", which is not an origin as browsers send it
    help: write scheme and host in lower case, and a port where it is not the default: "https://app.example.com"

  2.toml:2:84  cors.browser.origins.3
    is "https://app.example.com:443", which is not an origin as browsers send it
    help: write scheme and host in lower case, and a port where it is not the default: "https://app.example.com"

  2.toml:3:12  cors.browser.headers.0
    is "*", which is not a header name
    help: list header names; "*" is not offered
"#,
    ),
    (
        "everybody is a proxy",
        r#"[client_address]
trusted_proxies = ["0.0.0.0/0", "::/0", "10.0.0.0/40"]
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:2:41  client_address.trusted_proxies.2
    is "10.0.0.0/40", which is not a network
    help: write a network such as "10.0.0.0/8" or one address

  2.toml:2:20  client_address.trusted_proxies.0
    trusts more addresses than one network has, so that any client there could choose its own
    help: list the addresses of your proxies

  2.toml:2:33  client_address.trusted_proxies.1
    trusts more addresses than one network has, so that any client there could choose its own
    help: list the addresses of your proxies
"#,
    ),
    (
        "operators' answers for everybody",
        r#"[admin]
address = "0.0.0.0:9443"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  admin.address
    is not a loopback address, and what this listener tells is not for everybody
    help: use 127.0.0.1, or say that you know with danger_public = true
",
    ),
    (
        "plain text through the open",
        r#"[pools.models]
workers = ["http://127.0.0.1:9001", "http://8.8.8.8:80", "httpx://127.0.0.1", "127.0.0.1:9001", "http://127.0.0.1/predict", "unix:worker.sock"]
"#,
        r#"error: 5 mistakes in the configuration

  2.toml:2:37  pools.models.workers.1
    is "http://8.8.8.8:80": plain text to a public address, where others can read and change it
    help: use a private address, or say that you know with danger_plaintext_to_public_addresses = true

  2.toml:2:58  pools.models.workers.2
    is "httpx://127.0.0.1", which is not the URL of a worker
    help: write one such as "http://127.0.0.1:9001" or "unix:/run/worker.sock"

  2.toml:2:79  pools.models.workers.3
    is "127.0.0.1:9001", which is not the URL of a worker
    help: write one such as "http://127.0.0.1:9001" or "unix:/run/worker.sock"

  2.toml:2:97  pools.models.workers.4
    is "http://127.0.0.1/predict", which is not the URL of a worker
    help: write one such as "http://127.0.0.1:9001" or "unix:/run/worker.sock"

  2.toml:2:125  pools.models.workers.5
    is "unix:worker.sock", which has a socket path that is not absolute
    help: write one such as "http://127.0.0.1:9001" or "unix:/run/worker.sock"
"#,
    ),
    (
        "the password grant",
        r"[token]
danger_password_grant = false
",
        r"error: 1 mistake in the configuration

  2.toml:2:1  token.danger_password_grant
    is not true, and no client is defined, so nobody could get a token
    help: define [clients.NAME], or remove [token]; danger_password_grant = true is for first-party clients that need it (RFC 9700 §2.4 advises against it)
",
    ),
    (
        "a digest that is cheap to guess",
        r#"[users.dave]
digest = "$argon2id$v=19$m=8,t=1,p=1$4+wVHGQLC6+n61U46RxAmw$NLqTAJyfqOc9yxRuOqvDv+Js7TG3DcxtYS+LJ4W6P1s"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  users.dave.digest
    uses less than 7 MiB, which is too cheap to guess
    help: paste the line that `gateway password hash` printed
",
    ),
    (
        "published secrets",
        r#"[issuers.corp]
issuer = "https://idp.example.com"
audience = "modelgate"
algorithms = ["none", "HS256"]
jwks_url = "http://idp.example.com/keys"
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:4:15  issuers.corp.algorithms.0
    is "none", which is not one of its choices
    help: write "HS256", "RS256", "PS256", "ES256", "ES384" or "EdDSA"

  2.toml:5:1  issuers.corp.jwks_url
    does not begin with https://, so anybody on the way could put keys there
    help: use https

  2.toml:4:1  issuers.corp.algorithms
    has an HMAC algorithm beside published keys, and what is published is no secret
    help: list the issuer's asymmetric algorithms
"#,
    ),
];

const TOKENS: &[Case] = &[
    (
        "clients",
        r#"[clients."a b"]
digest = "hunter2"
grants = ["client_credentials", "authorization_code"]
scopes = ["read", "wr ite"]
roles = ["reedar"]
lifetime = "2d"
[clients.alice]
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
grants = ["refresh_token"]
[clients.idle]
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
secret = "hunter2"
"#,
        r#"error: 10 mistakes in the configuration

  2.toml:1:10  clients.a b
    has a name that can't stand everywhere where clients are named
    help: use 1 to 64 letters, digits, -, _ and .

  2.toml:2:1  clients.a b.digest
    is not a SHA-256 digest
    help: write "sha256:" and 64 lower-case hexadecimal digits, as `gateway key new` prints it

  2.toml:5:10  clients.a b.roles.0
    names the role "reedar", which is not defined
    help: did you mean "reader"?

  2.toml:4:19  clients.a b.scopes.1
    can't be a scope
    help: use printable ASCII characters without spaces, " and \ (RFC 6749 §3.3)

  2.toml:3:33  clients.a b.grants.1
    is "authorization_code", which is not one of its choices
    help: write "client_credentials", "refresh_token" or "password"

  2.toml:6:1  clients.a b.lifetime
    is not between a second and a day
    help: write at most "1d"

  2.toml:9:1  clients.alice.grants
    has "refresh_token" without "password", and client_credentials never gives a refresh token
    help: add "password", or remove "refresh_token": with its secret it gets a new token at any time (RFC 6749 §4.4.3)

  2.toml:7:10  clients.alice
    has the name of a user, and who reads a token could not tell them apart
    help: give one of them another name (RFC 9068 §5)

  2.toml:10:10  clients.idle.grants
    is missing
    help: list how it gets tokens: grants = ["client_credentials"]

  2.toml:12:1  clients.idle.secret
    is not a key that is known here
    help: remove it; known here: all_tokens, bound, digest, grants, lifetime, roles, scopes
"#,
    ),
    (
        "the gateway's own tokens",
        r#"[token]
issuer = "http://gateway.example.com"
refresh_lifetime = "1m"
revocation_unknown = "ignore"
revocation_unknown_after = "10ms"
danger_password_grant = false
[token.keys.last]
algorithm = "ES256"
public_key = "server.key"
[token.keys.next]
algorithm = "ES256"
[clients.app]
digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
grants = ["password"]
"#,
        r#"error: 7 mistakes in the configuration

  2.toml:2:1  token.issuer
    does not begin with https://, or has a query or fragment
    help: write the https URL under which clients know the gateway (RFC 8414 §2)

  2.toml:3:1  token.refresh_lifetime
    is shorter than `lifetime` or longer than a year
    help: write one such as "30d"

  2.toml:4:1  token.revocation_unknown
    is "ignore", which is not one of its choices
    help: write "refuse" or "allow"

  2.toml:5:1  token.revocation_unknown_after
    is less than a second, in which no gateway can know
    help: write one such as "10s"

  2.toml:14:1  clients.app.grants
    has "password", which is switched off
    help: remove it here, or write danger_password_grant = true under [token]

  2.toml:9:1  token.keys.last.public_key
    is a private key, and only the public one belongs here
    help: check that the key is of the algorithm's kind

  2.toml:10:13  token.keys.next.public_key
    is missing
    help: write public_key = "old.pem", or signing_key = { file = "next.key" } for a key that will sign next or an HMAC secret
"#,
    ),
    (
        "endpoints",
        r#"[routes.token]
methods = ["POST", "GET"]
worker_path = "/x"
[routes.jwks]
path = "/keys"
methods = ["POST"]
builtin = "jwks"
authenticate = "anonymous"
authorize = "anonymous"
[routes.metadata]
path = "/.well-known/openid"
methods = ["GET"]
builtin = "metadata"
authenticate = "anonymous"
authorize = "anonymous"
[routes.introspect]
path = "/introspect"
methods = ["POST"]
builtin = "introspect"
authenticate = "anonymous"
authorize = "anonymous"
[routes.other]
path = "/other"
methods = ["POST"]
builtin = "userinfo"
authenticate = "anonymous"
authorize = "anonymous"
"#,
        r#"error: 6 mistakes in the configuration

  2.toml:19:1  routes.introspect.builtin
    is "introspect", which only clients may ask, and none is defined
    help: define [clients.NAME], or remove the route

  2.toml:6:1  routes.jwks.methods
    has a method that builtin = "jwks" does not answer
    help: write methods = ["GET", "HEAD"]

  2.toml:11:1  routes.metadata.path
    is not where clients of this issuer look for its metadata
    help: write path = "/.well-known/oauth-authorization-server" (RFC 8414 §3.1)

  2.toml:25:1  routes.other.builtin
    is "userinfo", which is not one of its choices
    help: write "token", "revoke", "introspect", "jwks", "metadata", "encrypt" or "decrypt"

  2.toml:3:1  routes.token.worker_path
    stands beside builtin = "token", which has its own
    help: remove it

  2.toml:2:1  routes.token.methods
    has a method that builtin = "token" does not answer
    help: write methods = ["POST"]
"#,
    ),
];

#[test]
fn tokens_that_could_not_be_trusted_are_refused() {
    assert_each(TOKENS);
}

#[test]
fn anonymous_is_written_out_on_both_sides_or_not_at_all() {
    assert_each(CONTRADICTIONS);
}

const CONTRADICTIONS: &[Case] = &[
    (
        "cards that workers tell",
        r#"[guards.a]
card = "card.json"
card_path = "/v2/models/iris"
interval = "10ms"
[guards.b]
card_path = "v2/models/iris"
[guards.c]
card_path = "/v2/models/{model}"
[guards.d]
card = "bad.json"
interval = "5s"
"#,
        r#"error: 6 mistakes in the configuration

  2.toml:2:1  guards.a.card
    stands beside `card_path`, which asks the workers for it
    help: keep one of them

  2.toml:4:1  guards.a.interval
    is out of bounds
    help: write a time from "100ms" to "1h"

  2.toml:6:1  guards.b.card_path
    is not a path
    help: write the path of the model's metadata, such as "/v2/models/iris"

  2.toml:8:1  guards.c.card_path
    has a part in braces, and a guard has the card of one model
    help: write the path of the model's metadata, such as "/v2/models/iris"

  2.toml:11:1  guards.d.interval
    stands beside a card that nobody is asked for
    help: remove it, or write `card_path`

  2.toml:10:1  guards.d.card
    is not JSON: expected value at line 1 column 9
    help: save what GET /v2/models/NAME of the worker answers
"#,
    ),
    (
        "guards",
        r#"[guards.a]
card = "2.toml"
outside_bounds = "pass"
[guards.b]
outside_training = "maybe"
[routes.upload.body]
guard = "c"
[routes.predict.body]
format = "oip-v2"
schema = "iris"
"#,
        r#"error: 7 mistakes in the configuration

  2.toml:2:1  guards.a.card
    is not JSON: expected value at line 1 column 2
    help: save what GET /v2/models/NAME of the worker answers

  2.toml:3:1  guards.a.outside_bounds
    is "pass", so nothing would be guarded
    help: write "refuse", "clip" or "flag"

  2.toml:4:9  guards.b.card
    is missing
    help: name a file with the model's card, or the path where its workers tell it: card_path = "/v2/models/NAME"

  2.toml:5:1  guards.b.outside_training
    is "maybe", which is not one of its choices
    help: write "refuse", "clip", "flag" or "pass"

  2.toml:10:1  routes.predict.body.schema
    stands beside format = "oip-v2", whose form is known
    help: remove it

  2.toml:7:1  routes.upload.body.guard
    names the guard "c", which is not defined
    help: define it; no guard is defined yet

  2.toml:7:1  routes.upload.body.guard
    stands beside format = "opaque", which nobody reads
    help: write another format
"#,
    ),
    (
        "answers",
        r#"[answers.full]
form = "predict"
show = "all"
[answers.a]
form = "predict"
show = "top"
steps = 1
labels = ["x"]
[answers.b]
show = "label"
top = 0
steps = 5
[answers.c]
form = "oip-v2"
show = "top"
top = 0
max = "1GiB"
[routes.known]
answers = "d"
[routes.models]
answers_for = { raeder = "full", admin = "e" }
"#,
        r#"error: 13 mistakes in the configuration

  2.toml:4:10  answers.a.top
    is missing
    help: write how many classes are shown: top = 1

  2.toml:7:1  answers.a.steps
    is not from 2 to 1000000
    help: write 100 for two decimals, 10 for tenths

  2.toml:8:1  answers.a.labels
    names outputs, and only form = "oip-v2" has any
    help: remove it

  2.toml:9:10  answers.b.form
    is missing
    help: write "predict" or "oip-v2"

  2.toml:11:1  answers.b.top
    stands without show = "top"
    help: write show = "top", or remove it

  2.toml:12:1  answers.b.steps
    stands beside show = "label", which shows no number
    help: remove it

  2.toml:16:1  answers.c.top
    is 0
    help: write show = "label", or a larger number

  2.toml:17:1  answers.c.max
    is 0, or more than is held in memory
    help: write at most "16MiB"

  2.toml:1:10  answers.full
    is called "full", which already means answers as they are
    help: give it another name

  2.toml:19:1  routes.known.answers
    names the answer rule "d", which is not defined
    help: did you mean "a"?

  2.toml:21:1  routes.models.answers_for
    stands without `answers`, so everybody sees all anyway
    help: write `answers` for the others

  2.toml:21:34  routes.models.answers_for.admin
    names the answer rule "e", which is not defined
    help: did you mean "a"?

  2.toml:21:17  routes.models.answers_for.raeder
    names the role "raeder", which is not defined
    help: did you mean "reader"?
"#,
    ),
    (
        "declared answers",
        r#"[schemas.out]
type = "object"
[routes.known.answer]
content_types = ["Application/JSON"]
max = "0B"
depth = 0
[routes.models.answer]
format = "opaque"
schema = "out"
[routes.predict.answer]
format = "json"
one_per_row = true
max = "1GiB"
schema = "uot"
distribution = true
[routes.model.answer]
format = "predict"
[routes.token.answer]
format = "json"
[routes.sentiment.answer]
format = "json"
predictions_at = "results"
"#,
        r#"error: 13 mistakes in the configuration

  2.toml:3:15  routes.known.answer.format
    is missing
    help: write "json", "predict", "oip-v2", or "opaque" for what passes unread

  2.toml:4:18  routes.known.answer.content_types.0
    is "Application/JSON", which is not a media type in lower case without parameters
    help: write one such as "application/json"

  2.toml:5:1  routes.known.answer.max
    is 0, or more than is held in memory
    help: write at most "16MiB"

  2.toml:6:1  routes.known.answer.depth
    is 0
    help: write a number from 1 to 64

  2.toml:16:15  routes.model.answer.one_per_row
    asks for a prediction per row, and this route reads no JSON, so the rows are not known
    help: write one_per_row = false, or a [body] that is read

  2.toml:7:16  routes.models.answer.content_types
    is missing
    help: list the media types that the worker answers

  2.toml:9:1  routes.models.answer.schema
    stands beside format = "opaque", where it says nothing
    help: remove it, or write another format

  2.toml:13:1  routes.predict.answer.max
    is 0, or more than is held in memory
    help: write at most "16MiB"

  2.toml:14:1  routes.predict.answer.schema
    names the schema "uot", which is not defined
    help: did you mean "out"?

  2.toml:15:1  routes.predict.answer.distribution
    stands beside format = "json", where it says nothing
    help: remove it, or write another format

  2.toml:10:17  routes.predict.answer.predictions_at
    is missing
    help: write where the list of predictions stands: "/results"

  2.toml:22:1  routes.sentiment.answer.predictions_at
    is not a JSON pointer
    help: write one such as "/results" (RFC 6901)

  2.toml:18:15  routes.token.answer
    stands beside `builtin`, whose answers are the gateway's own
    help: remove it
"#,
    ),
    (
        "sealed fields",
        r#"[sealed.a]
values = "number"
seal_request = ["/x", "/x/y", "", "z"]
open_request = ["/x"]
open_answer = ["/n"]
max_fields = 0
[sealed.b]
values = "json"
key = { env = "WEAK" }
readers = ["raeder"]
[sealed.c]
values = "text"
key = { file = "fernet.key" }
seal_request = ["/x"]
max = "1GiB"
[sealed.d]
values = "text"
keys = {}
[routes.known]
sealed = "c"
[routes.predict]
sealed = "e"
[routes.sentiment]
sealed = "c"
danger_shadow = ["body"]
[routes.token]
sealed = "c"
"#,
        r#"error: 20 mistakes in the configuration

  2.toml:2:1  sealed.a.values
    is "number", which is not one of its choices
    help: write "text" or "json"

  2.toml:1:9  sealed.a
    has no key, and no [fernet] is defined
    help: define [fernet], or write key = { file = "fields.key" } here

  2.toml:3:23  sealed.a.seal_request.1
    is named before, or inside or around what is
    help: keep one of them

  2.toml:3:31  sealed.a.seal_request.2
    is "", which is no JSON pointer to a member
    help: write one such as "/patient/id"; `*` stands for every element of a list

  2.toml:3:35  sealed.a.seal_request.3
    is "z", which is no JSON pointer to a member
    help: write one such as "/patient/id"; `*` stands for every element of a list

  2.toml:3:17  sealed.a.seal_request.0
    names a place that `open_request` names too, or one inside it, or around it
    help: keep it in one of them

  2.toml:1:9  sealed.a.readers
    is missing
    help: name the roles whose holders get the values: readers = ["doctor"]

  2.toml:6:1  sealed.a.max_fields
    is 0
    help: write a number from 1 to 10000

  2.toml:9:1  sealed.b.key
    is not a Fernet key: 32 octets in base64url, with padding
    help: make one with Fernet.generate_key() of Python's cryptography, or `openssl rand -base64 32 | tr +/ -_`

  2.toml:7:9  sealed.b.seal_request
    is missing
    help: name fields: seal_request, open_request, seal_answer or open_answer

  2.toml:10:12  sealed.b.readers.0
    names the role "raeder", which is not defined
    help: did you mean "reader"?

  2.toml:10:1  sealed.b.readers
    says who reads answers, and no field of one is named
    help: remove it, or write `seal_answer`

  2.toml:15:1  sealed.c.max
    is 0, or more than is held in memory
    help: write at most "16MiB"

  2.toml:16:9  sealed.d
    has no key, and no [fernet] is defined
    help: define [fernet], or write key = { file = "fields.key" } here

  2.toml:18:1  sealed.d.keys
    stands here without `key`, which seals
    help: write `key` too, or remove it

  2.toml:16:9  sealed.d.seal_request
    is missing
    help: name fields: seal_request, open_request, seal_answer or open_answer

  2.toml:20:1  routes.known.sealed
    names fields of requests, and this route's body is not read as JSON
    help: write [routes.NAME.body] with format = "json"

  2.toml:22:1  routes.predict.sealed
    names the rule for sealed fields "e", which is not defined
    help: did you mean "c"?

  2.toml:24:1  routes.sentiment.sealed
    names fields of requests, and a body that is not what it should be goes on as it is here
    help: take "body" out of `danger_shadow`

  2.toml:27:1  routes.token.sealed
    stands beside `builtin`, whose bodies are the gateway's own
    help: remove one of them
"#,
    ),
    (
        "assertions",
        r#"[assertion]
algorithm = "HS256"
signing_key = "b58c1f0a7d9e4463a2c87b1e5f90d3c46e8a1b7295cd40f3"
lifetime = "1h"
pools = { modles = "model-worker" }
"#,
        r#"error: 5 mistakes in the configuration

  2.toml:1:2  assertion.issuer
    is missing
    help: write the name by which workers know this gateway

  2.toml:4:1  assertion.lifetime
    is shorter than clocks differ, or longer than a stolen assertion should work
    help: write one from "10s" to "5m"

  2.toml:5:11  assertion.pools.modles
    names the pool "modles", which is not defined
    help: did you mean "models"?

  2.toml:2:1  assertion.algorithm
    is HMAC, with which whoever can check an assertion can make one
    help: write one such as "ES256" or "EdDSA"

  2.toml:3:1  assertion.signing_key
    is written out, and a secret must only be referred to
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here
"#,
    ),
    (
        "rights",
        r#"[rights.good]
roles = ["reader"]
[rights.models]
roles = "authenticated"
models = ["iris", "iris@", "a/b", "*"]
[rights.bad]
roles = ["raeder"]
methods = ["post"]
models = []
hours = "8-18"
days = ["monday"]
networks = ["10.0.0.0/33"]
claims = { group = [], team = { name = "x" } }
[rights.nobody]
scopes = ["two words"]
[routes.known]
authorize = "authenticated"
rights = ["good"]
[routes.two]
path = "/two"
methods = ["GET"]
pool = "models"
rights = ["good", "goood"]
scopes = ["read"]
[routes.three]
path = "/three"
methods = ["GET"]
pool = "models"
rights = ["models"]
danger_shadow = ["authenticate", "body"]
[routes.four]
path = "/four"
methods = ["GET"]
pool = "models"
authenticate = { all_of = ["jwt"] }
rights = []
"#,
        r#"error: 20 mistakes in the configuration

  2.toml:13:12  rights.bad.claims.group
    is not what a claim can be held against
    help: write a text, a number, true or false, or a list of those that will do

  2.toml:13:24  rights.bad.claims.team
    is not what a claim can be held against
    help: write a text, a number, true or false, or a list of those that will do

  2.toml:7:10  rights.bad.roles.0
    names the role "raeder", which is not defined
    help: did you mean "reader"?

  2.toml:8:12  rights.bad.methods.0
    is "post"
    help: write a method such as "POST"

  2.toml:9:1  rights.bad.models
    is empty, so the right is for nothing
    help: remove it, or name some

  2.toml:10:1  rights.bad.hours
    is "8-18", which is no part of a day
    help: write a time such as "08:00-18:00", in UTC; over midnight such as "22:00-06:00"

  2.toml:12:13  rights.bad.networks.0
    is "10.0.0.0/33", which is not a network
    help: write a network such as "10.0.0.0/8" or one address

  2.toml:11:9  rights.bad.days.0
    is "monday", which is not one of its choices
    help: write "mon", "tue", "wed", "thu", "fri", "sat" or "sun"

  2.toml:5:19  rights.models.models.1
    is "iris@", which names no model
    help: write a model such as "iris", one version of it such as "iris@2", or "mood-*"

  2.toml:5:28  rights.models.models.2
    is "a/b", which names no model
    help: write a model such as "iris", one version of it such as "iris@2", or "mood-*"

  2.toml:14:9  rights.nobody.roles
    is missing
    help: list the roles that have it: roles = ["predictor"]; "authenticated" means every proven principal, "anonymous" everybody

  2.toml:15:11  rights.nobody.scopes.0
    is "two words", which is no scope
    help: write one word such as "predict"

  2.toml:35:18  routes.four.authenticate.all_of
    names less than two schemes
    help: write a list such as ["api_key", "jwt"]

  2.toml:36:1  routes.four.rights
    is empty
    help: list the roles that may call it: authorize = ["predictor"]; "authenticated" means every proven principal, "anonymous" everybody; or list rights: rights = ["office-hours"]

  2.toml:18:1  routes.known.rights
    stands beside `authorize`
    help: keep one of them

  2.toml:29:1  routes.three.rights
    names one that is for some models, and this route names none
    help: write `model = "NAME"`, or {model} in the path

  2.toml:30:1  routes.three.danger_shadow
    names "authenticate" without "authorize", so whoever it lets pass would be refused for lack of a role
    help: write both

  2.toml:30:1  routes.three.danger_shadow
    names "body", and the route has no such rule
    help: remove it, or define `body`

  2.toml:24:1  routes.two.scopes
    stands beside `rights`, each of which has its own
    help: move it to [rights.NAME]

  2.toml:23:19  routes.two.rights.1
    names the right "goood", which is not defined
    help: did you mean "good"?
"#,
    ),
    (
        "contradictions",
        r#"[routes.open]
authorize = ["reader"]
[routes.known]
authorize = "anonymous"
[routes.token]
authorize = "authenticated"
[routes.admin]
authorize = "nobody"
[routes.models]
authenticate = "none"
[routes.model]
authenticate = []
"#,
        r#"error: 6 mistakes in the configuration

  2.toml:8:1  routes.admin.authorize
    is "nobody", which is not one of its words
    help: list the roles that may call it: authorize = ["predictor"]; "authenticated" means every proven principal, "anonymous" everybody; or list rights: rights = ["office-hours"]

  2.toml:4:1  routes.known.authorize
    is for "anonymous" callers while `authenticate` asks for a credential
    help: write authenticate = "anonymous" too, or "authenticated" here

  2.toml:12:1  routes.model.authenticate
    names no scheme, so nobody could call it
    help: write a list such as ["api_key", "jwt"], or "anonymous" for everybody

  2.toml:10:1  routes.models.authenticate
    is "none"
    help: write a list such as ["api_key", "jwt"], or "anonymous" for everybody

  2.toml:2:1  routes.open.authorize
    asks for more than `authenticate`, which is "anonymous", so nobody could call it
    help: ask for credentials, or write "anonymous" here too

  2.toml:6:1  routes.token.authorize
    asks for more than `authenticate`, which is "anonymous", so nobody could call it
    help: ask for credentials, or write "anonymous" here too
"#,
    ),
    (
        "a limit by principal",
        r#"[limits.each]
quota = 1
window = "1s"
by = ["principal"]
store_lost = "deny"
[routes.open]
limits = ["each"]
"#,
        r#"error: 1 mistake in the configuration

  2.toml:7:1  routes.open.limits
    names "each", which counts by principal, and this route proves none
    help: use a limit by "address" or "route"
"#,
    ),
];

#[test]
fn what_must_be_there_is_asked_for() {
    assert_each(MISSING);
}

const MISSING: &[Case] = &[
    (
        "empty tables",
        r"[routes.empty]
[limits.empty]
[cors.empty]
[pools.empty]
",
        r#"error: 10 mistakes in the configuration

  2.toml:4:8  pools.empty.workers
    is missing
    help: list where they are: workers = ["http://127.0.0.1:9001"]

  2.toml:2:9  limits.empty.quota
    is missing
    help: write how many requests one window admits

  2.toml:2:9  limits.empty.window
    is missing
    help: write the window's length, such as "60s"

  2.toml:2:9  limits.empty.by
    is missing
    help: write what is counted apart: by = ["address"], ["principal"] or ["route"], or several of them

  2.toml:2:9  limits.empty.store_lost
    is missing
    help: write what a lost store means: "deny", "allow" or "local" (counted in this process alone)

  2.toml:3:7  cors.empty.origins
    is missing
    help: list them: origins = ["https://app.example.com"]

  2.toml:1:9  routes.empty.path
    is missing
    help: write the path that clients call, such as "/predict"

  2.toml:1:9  routes.empty.methods
    is missing
    help: list them: methods = ["POST"]

  2.toml:1:9  routes.empty.pool
    is missing
    help: name the pool of workers that answers, or builtin = "token"

  2.toml:1:9  routes.empty.authorize
    is missing
    help: list the roles that may call it: authorize = ["predictor"]; "authenticated" means every proven principal, "anonymous" everybody; or list rights: rights = ["office-hours"]
"#,
    ),
    (
        "nothing to authorize",
        r"[routes.predict]
authorize = []
",
        r#"error: 1 mistake in the configuration

  2.toml:2:1  routes.predict.authorize
    names no role, so nobody could call it
    help: list the roles that may call it: authorize = ["predictor"]; "authenticated" means every proven principal, "anonymous" everybody; or list rights: rights = ["office-hours"]
"#,
    ),
    (
        "a key without an owner",
        r#"[api_keys.team-a]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
"#,
        r"error: 1 mistake in the configuration

  2.toml:1:11  api_keys.team-a.owner
    is missing
    help: write who holds the key, to know whom to ask
",
    ),
    (
        "a Redis without a place",
        r#"[store]
kind = "redis"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:1:2  store.url
    is missing
    help: write where Redis is, such as "redis://redis:6379"
"#,
    ),
];

#[test]
fn rules_that_can_not_be_kept_are_refused() {
    assert_each(CAN_NOT_BE_KEPT);
}

const CAN_NOT_BE_KEPT: &[Case] = &[
    (
        "two routes for one request",
        r#"[routes.again]
path = "/predict"
methods = ["POST"]
pool = "models"
authorize = ["reader"]
"#,
        r"error: 1 mistake in the configuration

  1.toml:31:9  routes.predict
    has the same host, path and method as another route, so one of them could never be reached
    help: change its path, hosts or methods, or remove one of the two
",
    ),
    (
        "paths",
        r#"[routes.a]
path = "predict"
methods = ["POST", "get"]
pool = "models"
authorize = ["reader"]
[routes.b]
path = "/a/../b"
methods = ["POST", "TRACE"]
pool = "models"
authorize = ["reader"]
worker_path = "//x"
"#,
        r#"error: 5 mistakes in the configuration

  2.toml:3:20  routes.a.methods.1
    is "get", which is not a method in upper case
    help: write one such as "POST"

  2.toml:2:1  routes.a.path
    is "predict", which is not a path in its normal form
    help: write a path such as "/predict", "/models/{name}/predict" or "/v2/*"

  2.toml:8:20  routes.b.methods.1
    is TRACE, which is never forwarded
    help: remove it

  2.toml:7:1  routes.b.path
    is "/a/../b", which is not a path in its normal form
    help: write a path such as "/predict", "/models/{name}/predict" or "/v2/*"

  2.toml:11:1  routes.b.worker_path
    is not a path in its normal form
    help: write one such as "/predict"
"#,
    ),
    (
        "keys",
        r#"[api_keys.Team_A]
digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
owner = "Team A"
expires = "tomorrow"
"#,
        r#"error: 2 mistakes in the configuration

  2.toml:1:11  api_keys.Team_A
    has an id that can't stand in a key
    help: use 1 to 64 lower-case letters, digits and -

  2.toml:4:1  api_keys.Team_A.expires
    is "tomorrow", which is not an instant
    help: write one such as "2027-01-31T00:00:00Z"
"#,
    ),
    (
        "schemas",
        r#"[schemas.wrong]
type = "objekt"
[schemas.away]
file = "away.json"
[schemas.bad]
file = "bad.json"
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:4:1  schemas.away.file
    names the file "away.json", which can't be read: No such file or directory (os error 2)
    help: check the path (it is relative to the working directory) and its permissions

  2.toml:6:1  schemas.bad.file
    is not JSON: expected value at line 1 column 9
    help: correct the file

  2.toml:1:10  schemas.wrong
    is not a JSON Schema: "objekt" is not valid under any of the schemas listed in the 'anyOf' keyword
    help: see JSON Schema, draft 2020-12
"#,
    ),
    (
        "a schema for what is not read",
        r#"[routes.upload.body]
schema = "iris"
"#,
        r#"error: 1 mistake in the configuration

  1.toml:106:1  routes.upload.body.format
    is "opaque", so no rule about the content could be kept
    help: write format = "json", or remove `schema`, `depth` and `clean_text`
"#,
    ),
    (
        "a place for a store in memory",
        r#"[store]
kind = "memory"
url = "redis://127.0.0.1"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:3:1  store.url
    is written while the store is in memory
    help: write kind = "redis", or remove `url`
"#,
    ),
    (
        "a certificate that is none",
        r#"[listener]
certificate = "server.key"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.certificate
    names a file without a certificate in PEM
    help: name the file that begins with -----BEGIN CERTIFICATE-----
",
    ),
];

#[test]
fn a_profile_that_would_not_be_kept_is_refused() {
    assert_each(PROFILES);
}

const PROFILES: &[Case] = &[
    (
        "a protocol that nobody speaks",
        r#"[pools.models]
profile = "oip"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  pools.models.profile
    is "oip", which is not one of its choices
    help: write "plain", "predict", "oip-v2" or "openai"
"#,
    ),
    (
        "paths that are closed",
        r#"[pools.v2]
workers = ["http://127.0.0.1:9"]
profile = "oip-v2"
[routes.index]
path = "/v2/repository/index"
methods = ["POST"]
pool = "v2"
authorize = ["admin"]
[routes.short]
path = "/metrics"
worker_path = "/v2/models/iris/stats"
methods = ["GET"]
pool = "v2"
authorize = ["admin"]
"#,
        r#"error: 2 mistakes in the configuration

  2.toml:5:1  routes.index.path
    is "/v2/repository/index", which the pool's profile "oip-v2" does not know with POST, so that it stays closed
    help: write opens = ["/v2/repository/index"] beside the role that may call it, or correct the path

  2.toml:11:1  routes.short.worker_path
    is "/v2/models/iris/stats", which the pool's profile "oip-v2" does not know with GET, so that it stays closed
    help: write opens = ["/v2/models/iris/stats"] beside the role that may call it, or correct the path
"#,
    ),
    (
        "paths that are opened to too many",
        r#"[pools.v2]
workers = ["http://127.0.0.1:9"]
profile = "oip-v2"
[routes.anybody]
path = "/v2/repository/index"
methods = ["POST"]
pool = "v2"
opens = ["/v2/repository"]
authenticate = "anonymous"
authorize = "anonymous"
[routes.proven]
path = "/v2/repository/*"
methods = ["POST"]
pool = "v2"
opens = ["/v2/repository"]
authorize = "authenticated"
[routes.tried]
path = "/v2/models/{model}/config"
methods = ["GET"]
pool = "v2"
opens = ["/v2/models"]
authorize = ["admin"]
danger_shadow = ["authorize"]
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:8:1  routes.anybody.opens
    lets callers beyond predictions, and not only those with a role or right come here
    help: write authorize = ["admin"], or rights with roles or scopes

  2.toml:15:1  routes.proven.opens
    lets callers beyond predictions, and not only those with a role or right come here
    help: write authorize = ["admin"], or rights with roles or scopes

  2.toml:21:1  routes.tried.opens
    lets callers beyond predictions, while who may come here is only tried out
    help: remove `danger_shadow`
"#,
    ),
    (
        "paths that nobody opens",
        r#"[pools.v2]
workers = ["http://127.0.0.1:9"]
profile = "oip-v2"
[routes.v2]
path = "/v2/models/*"
methods = ["POST"]
pool = "v2"
opens = ["/v2/repository", "/v2/models/", "/v2/models/*"]
authorize = ["admin"]
[routes.admin]
opens = ["/models"]
"#,
        r#"error: 4 mistakes in the configuration

  2.toml:11:1  routes.admin.opens
    opens paths beyond a profile, and the pool has none, so that all paths of the route are open
    help: remove it, or write `profile` in the pool's table

  2.toml:8:10  routes.v2.opens.0
    is "/v2/repository", which is a path that this route never reaches
    help: remove it, or correct the route's path

  2.toml:8:28  routes.v2.opens.1
    is "/v2/models/", which is no path in its normal form
    help: write a path of the worker such as "/v2/repository"

  2.toml:8:43  routes.v2.opens.2
    is "/v2/models/*", which is no path in its normal form
    help: write a path of the worker such as "/v2/repository"
"#,
    ),
    (
        "a canary that speaks another protocol",
        r#"[pools.v2]
workers = ["http://127.0.0.1:9"]
profile = "oip-v2"
canary = { to = "models", weight = 5 }
"#,
        r#"error: 1 mistake in the configuration

  2.toml:3:1  pools.v2.profile
    is another one than that of "models", which answers in its place
    help: write the same `profile` for both pools
"#,
    ),
    (
        "a model that is named too late, or never",
        r#"[pools.llm]
workers = ["http://127.0.0.1:9"]
profile = "openai"
[limits.at-once]
in_flight = 2
by = ["model"]
[rights.small]
roles = ["predictor"]
models = ["small"]
[routes.llm]
path = "/v1/*"
methods = ["POST"]
pool = "llm"
rights = ["small"]
limits = ["at-once"]
body = {}
[routes.unread]
path = "/v1/chat/completions"
methods = ["POST"]
pool = "llm"
rights = ["small"]
body = { format = "opaque", content_types = ["application/json"] }
"#,
        r#"error: 2 mistakes in the configuration

  2.toml:15:1  routes.llm.limits
    names "at-once", which counts requests in flight by model, which a body here names too late
    help: count by "principal" or "route", or write model = "NAME"

  2.toml:21:1  routes.unread.rights
    names one that is for some models, and this route names none
    help: write `model = "NAME"`, or {model} in the path
"#,
    ),
];

#[test]
fn a_listener_that_could_not_serve_is_refused() {
    let ca = TestCa::shared();
    let old = ca.issue(&["old.test"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = ca.issue(&["early.test"], |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let nameless = ca.issue(&["192.0.2.1"], |_| {});
    let (shop, again) = (ca.issue(&["shop.test", "b.test"], |_| {}), ca.issue(&["a.test", "shop.test"], |_| {}));
    let all = [("old", old), ("early", early), ("nameless", nameless), ("shop", shop), ("again", again)];
    let with = |overlay: &str| {
        let mut builder = world();
        for (name, issued) in &all {
            builder = builder.file(&format!("{name}.pem"), &issued.certificate);
            builder = builder.file(&format!("{name}.key"), &issued.private_key);
        }
        builder.policy(overlay)
    };
    for (what, overlay, expected) in LISTENERS {
        assert_mistakes(what, &with(overlay), expected);
    }
}

const LISTENERS: &[Case] = &[
    (
        "proxies that nobody has named",
        r"[listener]
proxy_protocol = true
",
        r#"error: 1 mistake in the configuration

  2.toml:1:2  listener.proxy_protocol_from
    is missing
    help: list the addresses of your proxies, such as ["10.0.0.0/24"]; nobody else can connect
"#,
    ),
    (
        "everybody is a balancer",
        r#"[listener]
proxy_protocol = true
proxy_protocol_from = ["10.0.0.0/8", "0.0.0.0/0", "::/0", "ten"]
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:3:59  listener.proxy_protocol_from.3
    is "ten", which is not a network
    help: write a network such as "10.0.0.0/8" or one address

  2.toml:3:38  listener.proxy_protocol_from.1
    trusts more addresses than one network has, so that any client there could choose its own
    help: list the addresses of your proxies, or say that you know with danger_proxy_protocol_from_anybody = true

  2.toml:3:51  listener.proxy_protocol_from.2
    trusts more addresses than one network has, so that any client there could choose its own
    help: list the addresses of your proxies, or say that you know with danger_proxy_protocol_from_anybody = true
"#,
    ),
    (
        "proxies without the protocol",
        r#"[listener]
proxy_protocol_from = ["10.0.0.0/8"]
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.proxy_protocol_from
    has no meaning while proxy_protocol is off
    help: write proxy_protocol = true
",
    ),
    (
        "anybody without the protocol",
        r"[listener]
danger_proxy_protocol_from_anybody = true
",
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.danger_proxy_protocol_from_anybody
    has no meaning while proxy_protocol is off
    help: write proxy_protocol = true
",
    ),
    (
        "numbers",
        r#"[listener]
max_connections_per_address = 0
max_requests_per_connection = 0
max_connection_age = "0s"
certificate_check = "soon"
strict_sni = "yes"
"#,
        r#"error: 5 mistakes in the configuration

  2.toml:6:1  listener.strict_sni
    is a string, not true or false
    help: write true or false

  2.toml:4:1  listener.max_connection_age
    is zero
    help: write a duration with its unit, such as "500ms", "30s", "5m", "1h" or "31d"

  2.toml:5:1  listener.certificate_check
    is "soon", which is not a duration
    help: write a duration with its unit, such as "500ms", "30s", "5m", "1h" or "31d"

  2.toml:2:1  listener.max_connections_per_address
    is 0
    help: write a number from 1 to 1000000

  2.toml:3:1  listener.max_requests_per_connection
    is 0
    help: write a number from 1 to 1000000000
"#,
    ),
    (
        "times of certificates",
        r#"[listener.certificates.early]
certificate = "early.pem"
private_key = { file = "early.key" }
[listener.certificates.old]
certificate = "old.pem"
private_key = { file = "old.key" }
"#,
        r"error: 2 mistakes in the configuration

  2.toml:2:1  listener.certificates.early.certificate
    is not valid before 2999-01-01T00:00:00Z, so every client would refuse it
    help: use one that is valid now, and check this machine's clock

  2.toml:5:1  listener.certificates.old.certificate
    has expired on 2020-01-01T00:00:00Z, so every client would refuse it
    help: renew it
",
    ),
    (
        "certificates that fit nothing",
        r#"[listener.certificates.crossed]
certificate = "shop.pem"
private_key = { file = "again.key" }
[listener.certificates.default]
certificate = "shop.pem"
private_key = { file = "shop.key" }
[listener.certificates.nameless]
certificate = "nameless.pem"
private_key = { file = "nameless.key" }
[listener.certificates.empty]
key = "x"
"#,
        r#"error: 6 mistakes in the configuration

  2.toml:2:1  listener.certificates.crossed.certificate
    can't be used with this private key: keys may not be consistent: KeyMismatch
    help: check that both belong together

  2.toml:4:24  listener.certificates.default
    has the name of the certificate that stands in [listener]
    help: choose another name

  2.toml:10:24  listener.certificates.empty.certificate
    is missing
    help: name a PEM file with the certificate and those between it and the root

  2.toml:10:24  listener.certificates.empty.private_key
    is missing
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here

  2.toml:11:1  listener.certificates.empty.key
    is not a key that is known here
    help: remove it; known here: certificate, ocsp, private_key

  2.toml:8:1  listener.certificates.nameless.certificate
    is for no host (it has no DNS name among its alternative names), so it would never be shown
    help: make one with the host's name
"#,
    ),
    (
        "two certificates for one host",
        r#"[listener.certificates.again]
certificate = "again.pem"
private_key = { file = "again.key" }
[listener.certificates.shop]
certificate = "shop.pem"
private_key = { file = "shop.key" }
"#,
        r#"error: 1 mistake in the configuration

  2.toml:5:1  listener.certificates.shop.certificate
    is for the host "shop.test", as the certificate "again" is, with the same kind of key
    help: remove one, or use one with an ECDSA and one with an RSA key
"#,
    ),
    (
        "a response that is none",
        r#"[listener]
ocsp = "server.pem"
"#,
        r"error: 1 mistake in the configuration

  2.toml:2:1  listener.ocsp
    is not an OCSP response in DER
    help: fetch the response for this certificate from its issuer
",
    ),
    (
        "clients that nobody vouches for",
        r#"[listener]
client_certificates = "required"
"#,
        r"error: 1 mistake in the configuration

  2.toml:1:2  listener.client_ca
    is missing
    help: name a PEM file with the certificates of those who vouch for clients
",
    ),
    (
        "trust that is not asked for",
        r#"[listener]
client_ca = "server.pem"
client_crl = "server.pem"
"#,
        r#"error: 2 mistakes in the configuration

  2.toml:2:1  listener.client_ca
    has no meaning while client_certificates is "off"
    help: write client_certificates = "required" or "optional"

  2.toml:3:1  listener.client_crl
    has no meaning while client_certificates is "off"
    help: write client_certificates = "required" or "optional"
"#,
    ),
    (
        "trust that is none",
        r#"[listener]
client_certificates = "optional"
client_ca = "bad.json"
"#,
        r"error: 1 mistake in the configuration

  2.toml:3:1  listener.client_ca
    names a file without a certificate in PEM
    help: name your CA's file
",
    ),
    (
        "a word that is none",
        r#"[listener]
client_certificates = "always"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  listener.client_certificates
    is "always", which is not one of its choices
    help: write "off", "optional" or "required"
"#,
    ),
    (
        "a list that is none",
        r#"[listener]
client_certificates = "optional"
client_ca = "server.pem"
client_crl = "server.pem"
"#,
        r"error: 1 mistake in the configuration

  2.toml:4:1  listener.client_crl
    names a file without a revocation list in PEM
    help: name the file that begins with -----BEGIN X509 CRL-----
",
    ),
];

#[test]
fn a_way_to_redis_that_can_not_be_gone_is_refused() {
    for (what, overlay, expected) in STORES {
        assert_mistakes(what, &world().signing(Signing::Es256).policy(*overlay), expected);
    }
}

const STORES: &[Case] = &[
    (
        "a prefix that is no hash tag",
        r#"[store]
prefix = "{a}"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:1  store.prefix
    can't be the hash tag that keeps all keys in one slot of a Cluster
    help: write a name of letters, digits, -, _ and ., such as "modelgate"
"#,
    ),
    (
        "several ways to Redis",
        r#"[store]
kind = "redis"
url = "redis://10.0.0.1"
sentinels = ["10.0.0.1"]
cluster = ["redis://10.0.0.1"]
"#,
        r"error: 2 mistakes in the configuration

  2.toml:4:1  store.sentinels
    is written beside `url`, and there is one way to Redis only
    help: write one of `url` (a server), `sentinels` and `cluster`

  2.toml:5:1  store.cluster
    is written beside `url`, and there is one way to Redis only
    help: write one of `url` (a server), `sentinels` and `cluster`
",
    ),
    (
        "Sentinels without a name of what they watch",
        r#"[store]
kind = "redis"
sentinels = ["10.0.0.1:26379"]
username = "modelgate"
sentinel_username = "modelgate"
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:1:2  store.password
    is missing
    help: write { env = "NAME" } or { file = "path" }: Redis takes a name with a password only

  2.toml:1:2  store.master
    is missing
    help: write the name that the Sentinels know it by, such as "mymaster"

  2.toml:1:2  store.sentinel_password
    is missing
    help: write { env = "NAME" } or { file = "path" }: Redis takes a name with a password only
"#,
    ),
    (
        "Sentinels that are not there",
        r#"[store]
kind = "redis"
url = "redis://10.0.0.1"
master = "mymaster"
sentinel_password = { env = "WEAK" }
"#,
        r"error: 2 mistakes in the configuration

  2.toml:4:1  store.master
    is about Sentinels, and none are written
    help: remove it, or write `sentinels`

  2.toml:5:1  store.sentinel_password
    is about Sentinels, and none are written
    help: remove it, or write `sentinels`
",
    ),
    (
        "a list without an address",
        r#"[store]
kind = "redis"
sentinels = []
master = "mymaster"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:3:1  store.sentinels
    is empty
    help: write each as host and port, such as ["10.0.0.1:26379"]
"#,
    ),
    (
        "addresses of a Cluster",
        r#"[store]
kind = "redis"
cluster = ["rediss://10.0.0.1:7000", "redis://10.0.0.2", "10.0.0.3:7000/1", "unix:/run/redis.sock", "http://10.0.0.4", "rediss://bob@10.0.0.5", "rediss://:hunter2@10.0.0.6", ":7000", "rediss://10.0.0.7/1"]
ca = "redis-ca.pem"
"#,
        r#"error: 8 mistakes in the configuration

  2.toml:3:38  store.cluster.1
    differs from the first in whether TLS is spoken
    help: write rediss:// before each of them, or before none

  2.toml:3:58  store.cluster.2
    is not an address of a Redis
    help: write some of its nodes, such as ["redis://10.0.0.1:7000"]

  2.toml:3:77  store.cluster.3
    is a socket of this machine, and others are told of by host and port
    help: write host and port

  2.toml:3:101  store.cluster.4
    is not an address of a Redis
    help: write some of its nodes, such as ["redis://10.0.0.1:7000"]

  2.toml:3:120  store.cluster.5
    has a user's name in it
    help: remove it and write username = "NAME"

  2.toml:3:145  store.cluster.6
    has a password in it, and a secret must only be referred to
    help: remove it and write password = { env = "NAME" } or { file = "path" }

  2.toml:3:175  store.cluster.7
    is not an address of a Redis
    help: write some of its nodes, such as ["redis://10.0.0.1:7000"]

  2.toml:3:184  store.cluster.8
    has the number of a database, which is for `url` alone
    help: remove what stands behind the port
"#,
    ),
    (
        "a master without a name",
        r#"[store]
kind = "redis"
sentinels = ["10.0.0.1", "redis://[fd00::1]:26379"]
master = ""
"#,
        r#"error: 1 mistake in the configuration

  2.toml:4:1  store.master
    is empty
    help: write the name that the Sentinels know it by, such as "mymaster"
"#,
    ),
    (
        "a database that is none",
        r#"[store]
kind = "redis"
url = "redis://10.0.0.1/one"
"#,
        r"error: 1 mistake in the configuration

  2.toml:3:1  store.url
    ends in something other than the number of a database
    help: write a number such as /1, or nothing
",
    ),
    (
        "TLS that is not spoken",
        r#"[store]
kind = "redis"
url = "redis://10.0.0.1"
ca = "server.pem"
certificate = "server.pem"
private_key = { file = "server.key" }
server_name = "redis"
"#,
        r"error: 4 mistakes in the configuration

  2.toml:4:1  store.ca
    is not used, because no address of Redis begins with rediss://
    help: remove it, or write rediss://

  2.toml:5:1  store.certificate
    is not used, because no address of Redis begins with rediss://
    help: remove it, or write rediss://

  2.toml:6:1  store.private_key
    is not used, because no address of Redis begins with rediss://
    help: remove it, or write rediss://

  2.toml:7:1  store.server_name
    is not used, because no address of Redis begins with rediss://
    help: remove it, or write rediss://
",
    ),
    (
        "TLS without anybody who vouches",
        r#"[store]
kind = "redis"
url = "rediss://10.0.0.1"
certificate = "server.pem"
server_name = "no name"
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:5:1  store.server_name
    is no name that a certificate could have
    help: write the one in the certificates of Redis, such as "redis.internal"

  2.toml:1:2  store.private_key
    is missing
    help: write the certificate's key: { env = "NAME" } or { file = "path" }

  2.toml:1:2  store.ca
    is missing
    help: name the PEM file of the authority that vouches for Redis: ca = "redis-ca.pem"
"#,
    ),
    (
        "certificates that are none",
        r#"[store]
kind = "redis"
url = "rediss://10.0.0.1"
ca = "server.key"
certificate = "server.key"
private_key = { file = "server.pem" }
"#,
        r"error: 3 mistakes in the configuration

  2.toml:5:1  store.certificate
    names a file without a certificate in PEM
    help: name the file that begins with -----BEGIN CERTIFICATE-----

  2.toml:6:1  store.private_key
    is not a private key in PEM
    help: name the file that begins with -----BEGIN PRIVATE KEY-----

  2.toml:4:1  store.ca
    names a file without a certificate in PEM
    help: name the file that begins with -----BEGIN CERTIFICATE-----
",
    ),
    (
        "a key for another certificate",
        r#"[store]
kind = "redis"
url = "rediss://10.0.0.1"
ca = "server.pem"
certificate = "server.pem"
private_key = { file = "token.key" }
"#,
        r"error: 1 mistake in the configuration

  2.toml:5:1  store.certificate
    can't be used with its key: keys may not be consistent: KeyMismatch
    help: name a certificate and the key that it was made for
",
    ),
    (
        "a key without its certificate",
        r#"[store]
kind = "redis"
url = "rediss://10.0.0.1"
ca = "server.pem"
private_key = { file = "server.key" }
"#,
        r"error: 1 mistake in the configuration

  2.toml:1:2  store.certificate
    is missing
    help: name the PEM file of the certificate that the key was made for
",
    ),
    (
        "a login for a store in memory",
        r#"[store]
username = "modelgate"
master = "mymaster"
ca = "server.pem"
"#,
        r#"error: 3 mistakes in the configuration

  2.toml:2:1  store.username
    is written while the store is in memory
    help: write kind = "redis", or remove `username`

  2.toml:3:1  store.master
    is written while the store is in memory
    help: write kind = "redis", or remove `master`

  2.toml:4:1  store.ca
    is written while the store is in memory
    help: write kind = "redis", or remove `ca`
"#,
    ),
];

#[test]
fn a_file_that_is_not_toml_is_told_with_the_line() {
    assert_each(NOT_TOML);
}

const NOT_TOML: &[Case] = &[
    (
        "a typo",
        r#"[routes.predict]
pool = = "models"
"#,
        r#"error: 1 mistake in the configuration

  2.toml:2:8
    is not TOML: invalid string; expected `"`, `'`
    help: correct the line; TOML is described at toml.io
"#,
    ),
    (
        "a table twice",
        r"[limits.wide]
quota = 1
[limits.wide]
quota = 2
",
        r"error: 1 mistake in the configuration

  2.toml:3:1
    is not TOML: invalid table header; duplicate key `wide` in table `limits`
    help: correct the line; TOML is described at toml.io
",
    ),
];

#[test]
fn mistakes_in_several_files_and_in_a_variable_come_all_at_once() {
    let builder = world()
        .policy("[listener]\nhead_timeot = \"5s\"\n[routes.predict]\npool = \"modelz\"\n")
        .policy("[routes.models]\ncors = \"browsers\"\n[admin]\naddress = \"0.0.0.0:9443\"\n")
        .variable("GATEWAY_LISTENER__MAX_STREAMS", "0")
        .variable("GATEWAY_LISTENER__TREADS", "2");
    let expected = r#"error: 6 mistakes in the configuration

  GATEWAY_LISTENER__MAX_STREAMS (environment)  listener.max_streams
    is 0
    help: write a number from 1 to 1000

  2.toml:2:1  listener.head_timeot
    is not a key that is known here
    help: did you mean `head_timeout`?

  GATEWAY_LISTENER__TREADS (environment)  listener.treads
    is not a key that is known here
    help: did you mean `threads`?

  3.toml:4:1  admin.address
    is not a loopback address, and what this listener tells is not for everybody
    help: use 127.0.0.1, or say that you know with danger_public = true

  3.toml:2:1  routes.models.cors
    names the CORS rule "browsers", which is not defined
    help: did you mean "browser"?

  2.toml:4:1  routes.predict.pool
    names the pool "modelz", which is not defined
    help: did you mean "models"?
"#;
    assert_mistakes("several", &builder, expected);
}

/// The program in a directory, with nothing around it.
fn gateway(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("gateway"));
    command.args(arguments).current_dir(directory).env_clear().output().expect("the gateway runs")
}

#[test]
fn files_that_are_not_there_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    for command in ["check", "run"] {
        let (text, code) = refused(&gateway(directory.path(), &[command]));
        let expected = "error: 2 mistakes in the configuration\n\n  \
            config/gateway.toml\n    can't be read: No such file or directory (os error 2)\n    \
            help: check the path and its permissions, or name other files with --config\n\n  \
            config/policy.toml\n    can't be read: No such file or directory (os error 2)\n    \
            help: check the path and its permissions, or name other files with --config\n";
        assert_eq!((text.as_str(), code), (expected, Some(78)));
    }
}

#[test]
fn an_empty_configuration_is_asked_for_what_it_needs() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("empty.toml"), "").expect("a file");
    let (text, code) = refused(&gateway(directory.path(), &["check", "--config", "empty.toml"]));
    let expected = r#"error: 5 mistakes in the configuration

  empty.toml  listener.address
    is missing
    help: write where to listen, such as "0.0.0.0:8443"

  empty.toml  listener.certificate
    is missing
    help: name a PEM file with the certificate and those between it and the root

  empty.toml  listener.private_key
    is missing
    help: write { env = "NAME" } or { file = "path" }; a secret itself never stands here

  empty.toml  pools
    is missing
    help: define where workers are: [pools.NAME] with workers = ["http://127.0.0.1:9001"]

  empty.toml  routes
    is missing
    help: define at least one: [routes.NAME]; what no route names is refused
"#;
    assert_eq!((text.as_str(), code), (expected, Some(78)));
}

#[test]
fn a_mistake_inside_a_table_does_not_make_what_it_defines_undefined() {
    let mut others = Vec::new();
    for (what, overlay, place, key) in [
        ("a secret that is written out", "[token]\nsigning_key = \"hunter2\"\n", "2.toml:2:1", "token.signing_key"),
        ("a secret that is too weak", "[token]\nsigning_key = { env = \"WEAK\" }\n", "2.toml:2:1", "token.signing_key"),
        ("a limit", "[limits.wide]\nquota = \"many\"\n", "2.toml:2:1", "limits.wide.quota"),
        ("a role", "[roles.reader]\nincluds = []\n", "2.toml:2:1", "roles.reader.includs"),
        ("a schema", "[schemas.text]\ntype = \"objekt\"\n", "2.toml:1:10", "schemas.text"),
        ("a list", "[routes.predict]\nmethods = \"POST\"\n", "2.toml:2:1", "routes.predict.methods"),
        ("a worker", "[pools.models]\nworkers = [\"127.0.0.1:9001\"]\n", "2.toml:2:12", "pools.models.workers.0"),
    ] {
        let (text, code) = refused(&world().policy(overlay).output("check"));
        let expected = format!("error: 1 mistake in the configuration\n\n  {place}  {key}\n");
        if !text.starts_with(&expected) || code != Some(78) {
            others.push(format!("{what} is one mistake, but it said\n{text}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

#[test]
fn a_later_reference_to_a_secret_replaces_an_earlier_one() {
    // The harness says `private_key = { file = "server.key" }`.
    let overlay = "[listener]\nprivate_key = { env = \"KEY\" }\n";
    let output = world().policy(overlay).variable("KEY", &TestCa::shared().private_key).output("check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_secret_is_never_shown_by_what_is_wrong_with_it() {
    for overlay in [
        "[listener]\nprivate_key = \"hunter2\"\n",
        "[token]\nsigning_key = \"hunter2\"\n",
        "[token]\nsigning_key = { env = \"WEAK\" }\n",
        "[token]\nalgorithm = \"ES256\"\nsigning_key = { env = \"WEAK\" }\n",
        "[store]\nkind = \"redis\"\nurl = \"redis://user:hunter2@127.0.0.1\"\n",
        "[store]\nkind = \"redis\"\nurl = \"redis ://user:hunter2@127.0.0.1\"\n",
        "[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1\"\npassword = \"hunter2\"\n",
        "[api_keys.reader]\ndigest = \"hunter2\"\n",
        "[users.bob]\ndigest = \"hunter2\"\n",
        "[users.bob]\npassword = \"hunter2\"\n",
        "[issuers.corp]\nissuer = \"https://x.example.com\"\naudience = \"x\"\nalgorithms = [\"HS256\"]\nsecret = \"hunter2\"\n",
    ] {
        let (text, code) = refused(&world().policy(overlay).output("check"));
        assert_eq!(code, Some(78), "{overlay}");
        assert!(!text.contains("hunter2"), "{overlay}\n{text}");
    }
}

#[test]
fn a_key_of_the_wrong_kind_is_told_when_the_gateway_starts() {
    for (algorithm, key) in
        [("ES256", Signer::rs256().private()), ("RS256", Signer::es256().private()), ("ES256", SECRET.to_owned())]
    {
        let overlay = format!("[token]\nalgorithm = \"{algorithm}\"\n");
        let (text, code) = refused(&world().policy(overlay).variable("TOKEN_SECRET", &key).output("check"));
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains("token.signing_key\n    is not a key for "), "{text}");
    }
}

/// The directory of what is shipped.
fn shipped() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config"))
}

#[test]
fn every_file_that_is_shipped_loads() {
    let mut names: Vec<String> = std::fs::read_dir(shipped())
        .expect("config/ is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    // The cases are held against the policy in `ask`.
    let expected =
        ["gateway.toml", "model-worker.toml", "oip-v2.tests.toml", "oip-v2.toml", "policy.tests.toml", "policy.toml"];
    assert_eq!(names, expected, "each is loaded by a test");

    let directory = tempfile::tempdir().expect("a directory");
    let here = |name: &str| directory.path().join(name);
    for name in ["config", "certs", "certs/dev"] {
        std::fs::create_dir(here(name)).expect("a directory");
    }
    let files = ["config/gateway.toml", "config/policy.toml", "config/oip-v2.toml"];
    for name in files {
        std::fs::copy(shipped().join("..").join(name), here(name)).expect("a copy");
    }
    let ca = TestCa::shared();
    for (name, text) in
        [("server.pem", &ca.certificate), ("server.key", &ca.private_key), ("token.key", &Signer::es256().private())]
    {
        std::fs::write(here("certs/dev").join(name), text).expect("a file");
    }
    let output = gateway(directory.path(), &["check"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = "The configuration is good: 7 routes, 1 pools, limits counted in memory.\n";
    assert_eq!((String::from_utf8_lossy(&output.stdout).as_ref(), output.status.code()), (said, Some(0)));

    // That for the Open Inference Protocol is laid over these.
    let laid_over = files.iter().flat_map(|file| ["--config", file]);
    let output = gateway(directory.path(), &std::iter::once("check").chain(laid_over).collect::<Vec<_>>());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let said = "The configuration is good: 18 routes, 3 pools, limits counted in memory.\n";
    assert_eq!((String::from_utf8_lossy(&output.stdout).as_ref(), output.status.code()), (said, Some(0)));
}

#[tokio::test]
async fn the_workers_file_that_is_shipped_loads() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(directory.path().join("models")).expect("a directory");
    let mut command = Command::new(binary("model-worker"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(shipped().join("model-worker.toml"));
    let worker = Process::start(command.current_dir(directory.path()).env_clear());
    let listening = worker.log().event("listening").await;
    assert!(listening["address"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")), "{listening}");
}

#[test]
fn machines_read_the_same_mistakes_as_json() {
    let said = |builder: &GatewayBuilder| {
        let output = builder.command("check").arg("--json").output().expect("the gateway runs");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (said, output.status.code())
    };
    assert_eq!(said(&world()), (serde_json::json!({ "good": true, "mistakes": [] }), Some(0)));
    let expected = serde_json::json!({ "good": false, "mistakes": [{
        "place": "2.toml:2:1",
        "key": "routes.predict.pool",
        "reason": "names the pool \"modelz\", which is not defined",
        "remedy": "did you mean \"models\"?",
    }] });
    assert_eq!(said(&world().policy("[routes.predict]\npool = \"modelz\"\n")), (expected, Some(78)));
}
