#![no_main]
//! Hands the inputs of libFuzzer to the target `scram`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| midge_fuzz::targets::scram::run(input));
