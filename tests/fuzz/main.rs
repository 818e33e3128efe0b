//! Fuzzing: arbitrary bytes for everything in midge that reads bytes from outside.
//!
//! `targets` has one function of a byte string for each such parser. It panics if an invariant is broken.
//! There are two ways to run them:
//!
//! - `cargo test --test fuzz` runs the corpus (`corpus/<target>/`, one input per file) and then a bounded number
//!   of inputs mutated from it, the same ones each time. `MIDGE_FUZZ_RUNS` sets their number and
//!   `MIDGE_FUZZ_SEED` the seed. A failing input is printed as hexadecimal digits.
//! - cargo-fuzz searches by coverage and needs a nightly toolchain (this file is the library of its package):
//!   `cargo +nightly fuzz run --fuzz-dir tests/fuzz packet grown/packet tests/fuzz/corpus/packet`, and
//!   likewise `connection`, `topic`, `config`, `log`, `checkpoint`, `mosquitto`, `websocket`, `proxy`, `scram`
//!   and `tls`. New inputs go to the first of the two folders, which must exist. Failing inputs go to
//!   `tests/fuzz/artifacts`.
//!
//! Add each failing input to the corpus as a file, so that `cargo test` always runs it.

// Tests read files, and the modules use `pub` for what the package of cargo-fuzz uses.
#![allow(unreachable_pub, missing_docs, clippy::disallowed_methods)]

#[cfg(test)]
mod bounded;
pub mod targets;

#[cfg(feature = "runtime")]
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "the conformance scenarios use more of it")]
mod world;
