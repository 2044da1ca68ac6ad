//! From a client's octets to what a worker is sent: `properties/head.rs`.
#![no_main]

#[path = "../properties/head.rs"]
mod head;
#[path = "../properties/http1.rs"]
mod http1;
#[path = "../properties/policy.rs"]
mod policy;
#[path = "../properties/world.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| head::check(octets));
