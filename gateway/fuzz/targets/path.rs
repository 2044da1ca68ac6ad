//! Paths and their normal form: `properties/path.rs`.
#![no_main]

#[path = "../properties/path.rs"]
mod path;
#[path = "../properties/policy.rs"]
mod policy;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| path::check(octets));
