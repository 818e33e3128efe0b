//! The code that the tests share: a codec, a client for any stream, free ports, and directories for single
//! tests.
//!
//! It depends on nothing of midge. Unit tests, integration tests and the simulator use the same build of it.
//! Random numbers are in `midge::base::Random`, because the broker needs the same generator.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests open sockets and read the clock"
)]

pub mod client;
pub mod codec;
mod link;
mod port;
mod scratch;

pub use client::Client;
pub use link::{Frames, Heard, Link, Next, PATIENCE, Stream, expect, open, read_packet, read_to_end};
pub use port::free_port;
pub use scratch::ScratchFolder;
