//! Headers of the PROXY protocol: `properties/proxy_protocol.rs`.
#![no_main]

#[path = "../properties/proxy_protocol.rs"]
mod proxy_protocol;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| proxy_protocol::check(octets));
