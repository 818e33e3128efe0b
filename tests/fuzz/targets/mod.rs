//! One target for each parser of bytes from outside: a function that panics if an invariant is broken.

#[cfg(feature = "runtime")]
pub mod checkpoint;
#[cfg(feature = "runtime")]
pub mod config;
#[cfg(feature = "runtime")]
pub mod connection;
pub mod log;
pub mod mosquitto;
pub mod packet;
pub mod proxy;
#[cfg(feature = "runtime")]
pub mod scram;
#[cfg(feature = "runtime")]
pub mod tls;
pub mod topic;
pub mod websocket;
