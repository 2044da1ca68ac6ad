//! `properties/infer.rs`
#![no_main]
#![allow(dead_code)]

#[path = "../properties/infer.rs"]
mod infer;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| infer::check_predict(octets));
