//! What must hold, seen from outside: real programs, sockets, TLS and Redis. One file for each concern.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that can't go on has failed")]

mod admin;
mod answers;
mod api_key;
mod api_key_redis;
mod ask;
mod assertion;
mod bodies;
mod certificates;
mod config_errors;
mod conformance;
mod cors;
mod counter_model;
mod fernet;
mod forward;
mod guards;
mod hostile_tokens;
mod http2;
mod issuer_keys;
mod issuers;
mod jwt;
mod limit_histories;
mod limits;
mod listener;
mod oauth;
mod open_inference;

mod pools;
mod problems;
mod quickstart;
mod rate_limit;
mod rbac;
mod regression;
mod reload;
mod rights;
mod secrets;
mod shutdown;
mod store_links;
mod store_lost;
mod stores;
mod tls;
mod token;
mod worker_faults;
mod worker_tls;
