#![no_main]
//! Hands the inputs of libFuzzer to the target `mosquitto`.

libfuzzer_sys::fuzz_target!(|input: &[u8]| midge_fuzz::targets::mosquitto::run(input));
