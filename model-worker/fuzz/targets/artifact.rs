//! `properties/artifact.rs`
#![no_main]

#[path = "../properties/artifact.rs"]
mod artifact;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| artifact::check(octets));
