//! midge: an MQTT 3.1, 3.1.1 and 5.0 broker for very large fleets of small devices.
//!
//! # The way of a PUBLISH
//!
//! 1. **Driver.** Each core runs one shard: a pinned thread with an io_uring of its own. The ring's
//!    multishot receive has put the bytes into one of the shard's buffers; [`driver::Net`] hands
//!    them to [`shard::run`] as a slot and a slice. The driver knows nothing of MQTT.
//! 2. **Codec.** [`packet::frame`] finds the packet, [`packet::decode`] borrows its fields from the
//!    buffer and has checked whatever a packet alone can be checked for.
//! 3. **Machine.** [`shard::Shard`] looks at the session: packet identifier, Receive Maximum, topic
//!    alias, reserved topics. What passes is a [`message::Publication`], still borrowed.
//! 4. **Index.** [`topic::TopicIndex`] yields each subscriber of the shard once, with its QoS and
//!    subscription identifiers. For each, the message becomes a range of the turn's arena
//!    ([`outbox::Outbox`]), encoded once per variant; QoS 1 and 2 also take a place in the
//!    session's window ([`session`]), or in its queue.
//! 5. **Mesh.** Shards that may have subscribers (by a shared bit set for exact filters, by a
//!    replicated index for wildcards) get one mail with the message, and match their own index. A
//!    retained message also goes to the home shard of its topic.
//! 6. **Log.** What must survive was taken down in the shard's journal on the way ([`store`]). At the end of
//!    the turn the journal's frames go to the disk in one write ([`persistence`]), on the ring of the sockets; the
//!    acknowledgements that promise them wait ([`shard::Shard::handle_durable`]), and those of other shards come as
//!    receipts.
//! 7. **Flush.** At the end of the turn each touched connection has one send, and all of them, the
//!    wake-ups of other shards and the wait for what comes next are one system call.
//!
//! A client identifier has a home shard: the shard that accepts a connection reads its CONNECT and
//! hands the socket over, so that all state of a client is local to one core.
//!
//! # The rooms
//!
//! What a listener puts in front of MQTT (PROXY header, TLS, WebSocket) is in [`transport`]; the runner passes bytes
//! through it on their way in, and once a turn on their way out. Who may come in and what they may do is in [`auth`];
//! what takes long to check is checked on the threads of [`control`].
//!
//! [`packet`], [`topic`], [`session`], [`router`], [`shard`] (but for `shard::run`), [`persistence`], and the journal
//! and the state of [`store`] are plain synchronous state machines: no sockets, clocks, threads or chance of their own.
//! They build and pass their tests without the feature `runtime`. [`driver`] is the only room with `unsafe`.

// The in-memory broker in `tests/world` is compiled into the unit tests too, and names the crate.
#[cfg(test)]
extern crate self as midge;

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
#[allow(clippy::disallowed_methods, reason = "the store owns its files and the thread of the checkpoint")]
pub mod persistence;
pub mod policy;
pub mod session;
pub mod settings;
pub mod store;
pub mod topic;
#[cfg(feature = "runtime")]
pub mod transport;
