//! The driver: sockets, files, buffers, threads and the mesh between shards, on io_uring. It is the only room
//! with `unsafe`. It knows nothing of MQTT: its inputs and outputs are bytes and slots.
//!
//! Each shard owns one [`Net`]. A turn of its owner is
//! 1. [`Net::poll`]: take what has happened, at most [`EVENTS_MAX`] events;
//! 2. handle the events, give each [`Buffer`] back, and fill the [`crate::broker::outbox::Outbox`];
//! 3. [`Net::park`]: send the outbox, and wait for the next completion, deadline or mail, in one system call
//!    if possible. Then clear the outbox.
//!
//! Operations on files ([`crate::base::log_files::LogFiles`]) are submitted with the same system call.
//! [`Net::next_file_done`] returns their results.
//!
//! A slot number belongs to the owner from [`IoEvent::Accepted`] (or [`Net::adopt`]) until it calls
//! [`Net::close`], [`Net::abort`] or [`Net::detach`]. It is not given to another connection before the next
//! [`Net::poll`].

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
    /// The size of the ring. See [`check_kernel`].
    pub ring: RingSize,
    /// The number of receive buffers, a power of two up to 32,768.
    pub buffers: u16,
    /// The size of a receive buffer in bytes.
    pub buffer_bytes: u32,
    /// The largest number of unsent bytes of a connection. A connection with more ends with
    /// [`SocketEnd::BacklogFull`]. The owner should stop adding at [`IoEvent::Backlogged`], long before.
    pub backlog_bytes_max: usize,
    /// How long a closed connection may take to send its backlog and to read our end of stream. It is also
    /// how long the socket of a peer that has closed its own side may take nothing.
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

/// A buffer with received bytes. [`Net::bytes`] reads it, and [`Net::give_back`] returns it.
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to the shard"]
pub struct Buffer {
    id: u32,
    len: u32,
}

impl Buffer {
    /// The number of bytes, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}
