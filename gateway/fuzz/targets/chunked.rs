//! HTTP/1 streams and their chunks: `properties/chunked.rs`.
#![no_main]

#[path = "../properties/chunked.rs"]
mod chunked;
#[path = "../properties/http1.rs"]
mod http1;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| chunked::check(octets));
