//! Fuzzing: arbitrary bytes for everything of midge that reads bytes from outside.
//!
//! `targets` has one function of a byte string for each such parser, which panics when an invariant
//! breaks. They run in two ways:
//!
//! - `cargo test --test fuzz`: the corpus (`corpus/<target>/`, one input a file), then a bounded number
//!   of inputs mutated from it, the same ones each time. `MIDGE_FUZZ_RUNS` is another number of them,
//!   `MIDGE_FUZZ_SEED` another beginning. An input that fails is printed as hexadecimal digits.
//! - cargo-fuzz, guided by coverage, with a nightly toolchain (this file is the library of its package):
//!   `cargo +nightly fuzz run --fuzz-dir tests/fuzz packet grown/packet tests/fuzz/corpus/packet`, and
//!   likewise `connection`, `topic`, `config`, `log`, `checkpoint`, `mosquitto`, `websocket`, `proxy`, `scram` and `tls`.
//!   What it finds on its way lands in the first of the two folders, which has to exist; what fails, in
//!   `tests/fuzz/artifacts`.
//!
//! An input that has failed becomes a file of the corpus, so that `cargo test` keeps trying it.

// A test reads files, and `pub` is how its rooms show what the package of cargo-fuzz uses.
#![allow(unreachable_pub, missing_docs, clippy::disallowed_methods)]

#[cfg(test)]
mod bounded;
pub mod targets;

#[cfg(feature = "runtime")]
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "the conformance scenarios use more of it")]
mod world;
