//! Conformance: every normative statement of MQTT 5.0, 3.1.1 and 3.1, and every known pitfall, is a row of
//! `statements.tsv`, proved by scenarios or excused with a reason.
//!
//! A scenario is a conversation of hand-written bytes with the real broker over loopback; each runs with 1, 2
//! and 7 shards. It carries the tags of the statements that it proves, and `table.rs` holds tags and rows
//! together. `cargo test --test conformance` runs all, `cargo test --test conformance shards_2::will` some.

// Scenarios stand outside the wall around the core: they open sockets, start processes and read the clock. And
// `pub` is how a room shows what others use; nothing is exported from a test.
#![allow(unreachable_pub, clippy::disallowed_methods, clippy::disallowed_types)]

mod configs;
mod harness;
mod peer;
mod read;
mod runner;
#[cfg(test)]
mod table;
mod write;

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

/// What every scenario uses.
mod prelude {
    pub use crate::configs::*;
    pub use crate::harness::*;
    pub use crate::peer::*;
    pub use crate::read::Kind::*;
    pub use crate::read::{Kind, Packet};
    pub use crate::runner::each;
    pub use crate::write::*;
    pub use std::time::{Duration, Instant};
}

/// Makes the registry, and a test of every scenario for every shard count.
macro_rules! scenarios {
    ($($room:ident { $($name:ident)* })*) => {
        const REGISTRY: &[(&str, runner::Scenario)] =
            &[$($((concat!(stringify!($room), "::", stringify!($name)), $room::$name as runner::Scenario)),*),*];
        #[cfg(test)]
        const SOURCES: &[(&str, &str)] =
            &[$((stringify!($room), include_str!(concat!(stringify!($room), ".rs")))),*];
        #[cfg(test)]
        mod shards_1 { $(mod $room { $(#[test] fn $name() {
            crate::runner::run(1, concat!(stringify!($room), "::", stringify!($name)), crate::$room::$name, crate::REGISTRY);
        })* })* }
        #[cfg(test)]
        mod shards_2 { $(mod $room { $(#[test] fn $name() {
            crate::runner::run(2, concat!(stringify!($room), "::", stringify!($name)), crate::$room::$name, crate::REGISTRY);
        })* })* }
        #[cfg(test)]
        mod shards_7 { $(mod $room { $(#[test] fn $name() {
            crate::runner::run(7, concat!(stringify!($room), "::", stringify!($name)), crate::$room::$name, crate::REGISTRY);
        })* })* }
    };
}
include!("registry.rs");
