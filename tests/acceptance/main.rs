//! What must hold, seen from outside: real programs, sockets, TLS and Redis. One file for each concern.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that can't go on has failed")]

mod api_key;
mod bodies;
mod cors;
mod forward;
mod jwt;
mod problems;
mod rbac;
mod tls;
mod token;
mod worker_faults;
