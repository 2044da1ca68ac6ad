//! What must hold, seen from outside: real programs, sockets, TLS and Redis. One file for each concern.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that can't go on has failed")]

mod api_key;
mod counter_model;
mod issuer_keys;
mod jwt;
mod rate_limit;
mod rbac;
mod store_lost;
mod tls;
mod token;
