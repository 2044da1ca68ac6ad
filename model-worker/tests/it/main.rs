//! Drives the real binary: one world per test, no fixed ports, no sleeps.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod attacks;
mod cli;
mod directory;
mod grpc;
mod hostile;
mod serve;
mod support;
mod trust;
mod v2;
