//! midge: an MQTT 3.1, 3.1.1 and 5.0 broker for very large fleets of small devices.
//!
//! `ARCHITECTURE.md` describes the rooms of this crate and their imports, the way of a PUBLISH, a CONNECT and
//! a durable acknowledgement, and has a glossary. In short: each core runs a shard. [`driver`] is its ring,
//! [`host`] runs its turn, and [`broker::Shard`] is its state machine, which knows no socket, clock, thread
//! or file. [`mqtt::codec`] reads and writes packets. [`topic::TopicIndex`] finds subscriptions. [`session`]
//! holds what the broker keeps for a client. [`store`] has what must survive.
//!
//! [`base`], [`mqtt`], [`topic`], [`session`], [`settings`], [`policy`], [`store`] and [`broker`] build without the
//! feature `runtime`, and the unit tests of their parts pass without it. [`driver`] is the only room with `unsafe`.

// The in-memory broker in `tests/world` is compiled into the unit tests too. It refers to the crate by name.
#[cfg(all(test, feature = "runtime"))]
extern crate self as midge;

#[cfg(feature = "runtime")]
#[allow(
    clippy::disallowed_methods,
    reason = "the admin interface owns its sockets, its thread and its clock"
)]
pub mod admin;
#[cfg(feature = "runtime")]
pub mod auth;
#[cfg(feature = "runtime")]
pub mod banner;
pub mod base;
pub mod broker;
#[cfg(feature = "runtime")]
pub mod cli;
#[cfg(feature = "runtime")]
pub mod config;
#[cfg(feature = "runtime")]
pub mod control;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the driver owns sockets, clocks and threads")]
pub mod driver;
#[cfg(feature = "runtime")]
mod files;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "joins the machine to the clock and the ring")]
pub mod host;
#[cfg(feature = "runtime")]
pub mod logging;
pub mod mqtt;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "a command writes the pages, and no shard runs")]
pub mod pages;
#[cfg(feature = "runtime")]
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
pub mod persistence;
pub mod policy;
pub mod session;
pub mod settings;
pub mod store;
pub mod topic;
#[cfg(feature = "runtime")]
pub mod transport;
