//! What the tests share: a codec, a client over any stream, free ports, folders of a test's own.
//!
//! It depends on nothing of midge, and unit tests, integration tests and the simulator use one and the same build of
//! it. Chance is not here but in `midge::base::Random`, because the broker wants the same generator.

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
