//! From a worker's octets to what a client is sent: `properties/answer.rs`.
#![no_main]

#[path = "../properties/answer.rs"]
mod answer;
#[path = "../properties/http1.rs"]
mod http1;
#[path = "../properties/policy.rs"]
mod policy;
#[path = "../properties/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| answer::check(octets));
