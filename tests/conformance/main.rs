//! Conformance: every normative statement of MQTT 5.0, 3.1.1 and 3.1, and every known pitfall, is a row of
//! `statements.tsv`, proved by scenarios or excused with a reason.
//!
//! A scenario is a conversation of hand-written bytes. Each runs against the real broker over loopback, and
//! against the same machine in memory on a virtual clock, with 1, 2 and 7 shards. It has the tags of the
//! statements that it proves, and `table.rs` compares tags and rows. `cargo test --test conformance` runs
//! all, `cargo test --test conformance shards_2::will` some.

// The lint that protects the core does not apply to scenarios: they open sockets, start processes and read
// the clock. `pub` marks what other rooms use; nothing is exported from a test.
#![allow(unreachable_pub, clippy::disallowed_methods, clippy::disallowed_types)]

mod configs;
mod harness;
mod line;
mod runner;
#[cfg(test)]
mod table;
#[path = "../world/mod.rs"]
#[allow(dead_code, reason = "the unit tests use more of it")]
mod world;

mod alias;
mod auth;
mod connect;
mod flow;
mod inspect;
mod keep_alive;
mod limits;
mod malformed;
mod order;
mod properties;
mod publish;
mod qos;
mod refused;
mod retained;
mod session;
mod shared;
mod subscribe;
mod topics;
mod will;

/// The imports of every scenario.
mod prelude {
    pub use crate::configs::*;
    pub use crate::harness::*;
    pub use crate::runner::each;
    pub use midge_kit::codec::Kind::*;
    pub use midge_kit::codec::*;
    pub use midge_kit::{Client, Next, PATIENCE};
    pub use std::time::Duration;
}

/// Creates the registry and the tests of all scenarios: over loopback, in memory, and in memory with a log,
/// for every shard count.
macro_rules! scenarios {
    ($($room:ident { $($name:ident)* })*) => {
        const REGISTRY: &[(&str, runner::Scenario)] =
            &[$($((concat!(stringify!($room), "::", stringify!($name)), $room::$name as runner::Scenario)),*),*];
        #[cfg(test)]
        const SOURCES: &[(&str, &str)] =
            &[$((stringify!($room), include_str!(concat!(stringify!($room), ".rs")))),*];
        scenarios!(@over_loopback shards_1, 1, $($room { $($name)* })*);
        scenarios!(@over_loopback shards_2, 2, $($room { $($name)* })*);
        scenarios!(@over_loopback shards_7, 7, $($room { $($name)* })*);
        scenarios!(@in_memory memory_1, 1, false, $($room { $($name)* })*);
        scenarios!(@in_memory kept_1, 1, true, $($room { $($name)* })*);
        scenarios!(@in_memory memory_2, 2, false, $($room { $($name)* })*);
        scenarios!(@in_memory kept_2, 2, true, $($room { $($name)* })*);
        scenarios!(@in_memory memory_7, 7, false, $($room { $($name)* })*);
        scenarios!(@in_memory kept_7, 7, true, $($room { $($name)* })*);
    };
    (@over_loopback $place:ident, $shards:literal, $($room:ident { $($name:ident)* })*) => {
        #[cfg(test)]
        mod $place { $(mod $room { $(#[test] fn $name() {
            let name = concat!(stringify!($room), "::", stringify!($name));
            crate::runner::run($shards, name, crate::$room::$name, crate::REGISTRY);
        })* })* }
    };
    (@in_memory $place:ident, $shards:literal, $kept:literal, $($room:ident { $($name:ident)* })*) => {
        #[cfg(test)]
        mod $place { $(mod $room { $(#[test] fn $name() {
            crate::runner::run_in_memory($shards, $kept, crate::$room::$name);
        })* })* }
    };
}
include!("registry.rs");
