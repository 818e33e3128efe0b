//! midge
#![allow(missing_docs)]
pub mod auth;
#[cfg(feature = "runtime")]
pub mod banner;
#[cfg(feature = "runtime")]
pub mod cli;
pub mod config;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the driver owns sockets, clocks and threads")]
pub mod driver;
#[cfg(feature = "runtime")]
pub mod logging;
pub mod message;
pub mod outbox;
pub mod packet;
pub mod router;
pub mod session;
pub mod shard;
pub mod time;
pub mod topic;
