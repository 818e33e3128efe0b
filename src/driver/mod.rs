//! The driver: sockets, files, buffers, threads and the mesh between shards, on io_uring. It is the
//! only room with `unsafe` and knows nothing of MQTT: bytes and slots come out, bytes and slots go in.
//!
//! Each shard owns one [`Net`]. Its owner's turn is
//! 1. [`Net::poll`]: what happened, at most [`EVENTS_MAX`] events;
//! 2. handle the events, give each [`Buffer`] back, fill the [`crate::broker::outbox::Outbox`];
//! 3. [`Net::park`]: sends the outbox, waits for the next completion, deadline or mail, all in one
//!    system call when it can; then clear the outbox.
//!
//! Operations on files ([`crate::base::log_files::LogFiles`]) go out with the same system call;
//! [`Net::next_file_done`] tells how they went.
//!
//! A slot number is the owner's from its [`IoEvent::Accepted`] (or [`Net::adopt`]) until the owner
//! calls [`Net::close`], [`Net::abort`] or [`Net::detach`]; it is not given to another connection
//! before the next [`Net::poll`].

mod accept;
mod backlog;
mod bell;
mod buffers;
mod clock;
mod close;
mod executor;
mod files;
mod heap;
mod kernel;
mod lent;
mod listen;
mod locked;
mod mesh;
mod net;
mod park;
mod receive;
mod ring;
mod send;
mod shard;
mod slots;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::host::{IoEvent, SocketEnd};

pub use bell::Bell;
pub use clock::Clock;
pub use executor::{Prepared, Shards, prepare_shards, processors};
pub use kernel::{KernelProblem, check_kernel};
pub use listen::{BindOptions, SocketFile, bind, bind_unix, interface_addresses, local_address, probe_bind};
pub use mesh::{MeshEnd, MeshSize, Sleeping, mesh};
pub use net::{EVENTS_MAX, Net};
pub use ring::RingSize;
pub use shard::ShardIo;

/// The sizes and limits of a [`Net`].
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The size of the ring, see [`check_kernel`].
    pub ring: RingSize,
    /// Receive buffers, a power of two up to 32,768.
    pub buffers: u16,
    /// Size of a receive buffer in bytes.
    pub buffer_bytes: u32,
    /// Unsent bytes a connection may have; one that has more is hung up with
    /// [`SocketEnd::BacklogFull`]. The owner stops filling at [`IoEvent::Backlogged`], long before.
    pub backlog_bytes_max: usize,
    /// How long a closed connection may take to send its backlog and to read our end of stream; and how long the
    /// socket of a peer that has closed its own side may take nothing.
    pub linger: Duration,
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            ring: RingSize::FULL,
            buffers: 1024,
            buffer_bytes: 4096,
            backlog_bytes_max: 512 << 20,
            linger: Duration::from_secs(2),
        }
    }
}

/// Received bytes on loan: read with [`Net::bytes`], returned with [`Net::give_back`].
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to the shard"]
pub struct Buffer {
    id: u32,
    len: u32,
}

impl Buffer {
    /// Number of bytes, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}
