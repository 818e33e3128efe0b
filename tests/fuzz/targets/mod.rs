//! One target for each parser of bytes from outside: a function that panics when an invariant breaks.

#[cfg(feature = "runtime")]
pub mod config;
pub mod connection;
pub mod packet;
pub mod topic;
