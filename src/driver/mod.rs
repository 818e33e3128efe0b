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
//! A slot number is the owner's from its [`Event::Accepted`] (or [`Net::adopt`]) until the owner
//! calls [`Net::close`], [`Net::abort`] or [`Net::detach`]; it is not given to another connection
//! before the next [`Net::poll`].

mod accept;
mod backlog;
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
mod slots;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

pub use clock::Clock;
pub use executor::{Prepared, Shards, prepare_shards, processors};
pub use heap::give_heap_back;
pub use kernel::{KernelProblem, check_kernel};
pub use listen::{
    BindOptions, SocketFile, UNIX_PEER, bind, bind_unix, interface_addresses, local_address, probe_bind,
};
pub use mesh::{MeshEnd, Sleeping, mesh};
pub use net::{EVENTS_MAX, Net};
pub use ring::RingSize;

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
    /// [`Hangup::BacklogFull`]. The owner stops filling at [`Event::Backlogged`], long before.
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

/// What happened on a shard's sockets.
#[derive(Debug)]
pub enum Event {
    /// A connection came in; a single receive is armed on it.
    Accepted {
        /// The number given to [`Net::listen`].
        listener: u16,
        /// Its slot.
        slot: u32,
        /// The other side's address; [`UNIX_PEER`] for one that came by a Unix-domain socket.
        peer: SocketAddr,
    },
    /// The kernel could not hand a connection over; the listener goes on, after a pause when we
    /// lack file descriptors or memory.
    AcceptFailed {
        /// The number given to [`Net::listen`].
        listener: u16,
        /// The error number.
        error: i32,
    },
    /// Bytes came in.
    Received {
        /// The connection.
        slot: u32,
        /// Where they are; must be given back.
        buffer: Buffer,
    },
    /// A connection is at its end, paused or not. Comes at most once, unless the owner has given it back with
    /// [`Net::hold_hangup`], and not after the owner closed it. The slot stays the owner's until it calls
    /// [`Net::close`].
    Hangup {
        /// The connection.
        slot: u32,
        /// Why.
        cause: Hangup,
    },
    /// The peer did not take all that was sent; the rest is kept. Comes again each time that the rest has grown
    /// or shrunk, until [`Event::Drained`].
    Backlogged {
        /// The connection.
        slot: u32,
        /// Unsent bytes.
        bytes: u32,
        /// What the peer's socket has taken since the backlog began.
        taken: u64,
    },
    /// A backlog is sent to its end.
    Drained {
        /// The connection.
        slot: u32,
    },
    /// Another shard has put something into our mailbox.
    Woken,
    /// A watched file descriptor has something to read.
    Readable {
        /// The number given to [`Net::watch`].
        token: u32,
    },
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// The peer has sent its end of stream; it may still read.
    Eof,
    /// The peer reset the connection.
    Reset,
    /// The connection failed with this error number.
    Error(i32),
    /// The peer did not read, and the backlog reached [`NetConfig::backlog_bytes_max`].
    BacklogFull,
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
