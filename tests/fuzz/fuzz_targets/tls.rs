#![no_main]
//! Hands the inputs of libFuzzer to the target `tls`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| midge_fuzz::targets::tls::run(input));
