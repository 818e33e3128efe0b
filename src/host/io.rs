//! The operations that a host requests from the kernel, and its exchange with other shards.
//!
//! The driver performs them on the shard's ring. The simulator performs them as its seed decides. The host's
//! turn is
//! 1. [`Io::poll`] returns what has happened;
//! 2. the host handles the events, gives each buffer back, takes the messages of other shards, and fills the
//!    outbox;
//! 3. [`Io::park`] sends the outbox, wakes the shards that have new messages, and waits.
//!
//! A slot number belongs to the host from [`IoEvent::Accepted`] (or [`Io::adopt`]) until it calls
//! [`Io::close`], [`Io::abort`] or [`Io::detach`]. It is not given to another connection before the next
//! [`Io::poll`].

use super::ShardMessage;
use crate::base::log_files::{FileDone, LogFiles};
use crate::base::{ClockReading, ConnectionSlot, Time};
use crate::broker::outbox::Outbox;
use crate::settings::Limits;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// See the module. The file operations are for the shard's log.
pub trait Io: LogFiles {
    /// A listening socket.
    type Listener;
    /// A connection that moves to another shard.
    type Socket;
    /// A buffer with received bytes. [`Io::bytes`] reads it, and [`Io::give_back`] returns it.
    type Buffer;

    /// The current time, on the clock that all shards share.
    fn now(&self) -> Time;
    /// The current time, and a reading of the machine's clocks.
    fn read_clock(&self) -> (Time, ClockReading);

    /// Appends what has happened to `events`, as much as one turn should handle.
    fn poll(&mut self, events: &mut Vec<IoEvent<Self::Buffer>>);
    /// Sends the outbox, and wakes other shards. The owner clears the outbox.
    ///
    /// # Errors
    /// The ring's error. The shard can't continue.
    fn flush(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Self::Buffer>>) -> io::Result<()>;
    /// Does the same, and waits for the next event, for `deadline`, or, if `takes_mails`, for a message of
    /// another shard. Returns at once if `events` is not empty. It may also return without a reason.
    ///
    /// # Errors
    /// The same as for [`Io::flush`].
    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Self::Buffer>>,
        deadline: Option<Duration>,
        takes_mails: bool,
    ) -> io::Result<()>;

    /// Sets how many unsent bytes a connection may have. A connection with more ends with
    /// [`SocketEnd::BacklogFull`].
    fn set_backlog_bytes_max(&mut self, bytes: usize);
    /// Starts to accept connections for this listener.
    fn listen(&mut self, listener: u16, socket: Self::Listener);
    /// Stops accepting on the sockets of one listener.
    fn close_listener(&mut self, listener: u16);
    /// Sets `limits.tcp_keepalive_seconds` and `limits.tcp_user_timeout_seconds` for connections that are accepted later.
    ///
    /// # Errors
    /// The kernel's error.
    fn tune_listeners(&mut self, limits: &Limits) -> io::Result<()>;
    /// Stops accepting on all.
    fn stop_listening(&mut self);
    /// The number of connections, including those whose last bytes are still being sent.
    fn connections(&self) -> usize;

    /// The bytes of a buffer.
    fn bytes<'a>(&'a self, buffer: &'a Self::Buffer) -> &'a [u8];
    /// Returns a buffer that is no longer needed.
    fn give_back(&mut self, buffer: Self::Buffer);
    /// Keeps a buffer, from the byte `consumed` on, until [`Io::resume`]. It is then delivered again, before
    /// newer bytes.
    fn hold(&mut self, slot: ConnectionSlot, buffer: Self::Buffer, consumed: usize);
    /// Keeps the end of a connection until everything that came before it has been read. Returns false if the
    /// connection must end now.
    fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool;
    /// Whether something is held for this connection.
    fn is_held(&self, slot: ConnectionSlot) -> bool;

    /// Starts one receive, if none is pending.
    fn receive_once(&mut self, slot: ConnectionSlot);
    /// Receives until [`Io::pause`] or the end.
    fn receive_stream(&mut self, slot: ConnectionSlot);
    /// Stops receiving. Bytes that were already received are still delivered.
    fn pause(&mut self, slot: ConnectionSlot);
    /// Receives again.
    fn resume(&mut self, slot: ConnectionSlot);
    /// Closes a connection after it has sent what it was given, including this turn's bytes.
    fn close(&mut self, slot: ConnectionSlot);
    /// Closes a connection at once.
    fn abort(&mut self, slot: ConnectionSlot);
    /// Takes a connection out, for another shard. `None` if this is not possible because a receive is pending
    /// or the peer has gone. In this case the slot still belongs to the host.
    fn detach(&mut self, slot: ConnectionSlot) -> Option<Self::Socket>;
    /// Adds a connection of another shard. Nothing is received before [`Io::receive_once`].
    fn adopt(&mut self, socket: Self::Socket) -> ConnectionSlot;

    /// Puts a message into the box of another shard. A box has bounds on the number of messages, and on the
    /// `bytes` that they take outside of it.
    ///
    /// # Errors
    /// The box is full. The error returns the message.
    #[expect(clippy::result_large_err, reason = "what does not fit comes back as it is")]
    fn send(
        &mut self,
        to: usize,
        message: ShardMessage<Self::Socket>,
        bytes: usize,
    ) -> Result<(), ShardMessage<Self::Socket>>;
    /// The number of waiting messages of another shard.
    fn waiting(&self, from: usize) -> usize;
    /// The oldest waiting message of another shard.
    fn receive(&mut self, from: usize) -> Option<ShardMessage<Self::Socket>>;
    /// Whether any shard has sent a message.
    fn has_messages(&self) -> bool;

    /// The next finished operation on files.
    fn next_file_done(&mut self) -> Option<FileDone>;
    /// Waits until an operation on files has finished, at most for `patience`. No events are lost.
    ///
    /// # Errors
    /// The same as for [`Io::flush`].
    fn await_files(&mut self, patience: Duration) -> io::Result<()>;

    /// Called in a quiet moment: frees memory that was only needed for a larger number of connections.
    fn give_memory_back(&mut self);
}

/// An event on a shard's sockets.
#[derive(Debug)]
pub enum IoEvent<B> {
    /// A connection was accepted. One receive is pending on it.
    Accepted {
        /// The number given to [`Io::listen`].
        listener: u16,
        /// The slot of the connection.
        slot: ConnectionSlot,
        /// The peer's address, or [`UNIX_PEER`] for a Unix-domain socket.
        peer: SocketAddr,
    },
    /// The kernel could not accept a connection. The listener continues, after a pause if file descriptors or
    /// memory are missing.
    AcceptFailed {
        /// The number given to [`Io::listen`].
        listener: u16,
        /// The error number.
        error: i32,
    },
    /// Bytes were received.
    Received {
        /// The connection.
        slot: ConnectionSlot,
        /// The buffer with the bytes. The host must give it back.
        buffer: B,
    },
    /// A connection has ended, paused or not. This comes at most once, unless the host has returned it with
    /// [`Io::hold_hangup`], and never after the host has closed the connection. The slot belongs to the host
    /// until it calls [`Io::close`].
    Hangup {
        /// The connection.
        slot: ConnectionSlot,
        /// The cause.
        cause: SocketEnd,
    },
    /// The peer has not taken everything that was sent. The rest is kept. This comes again each time the rest
    /// has grown or shrunk, until [`IoEvent::Drained`].
    Backlogged {
        /// The connection.
        slot: ConnectionSlot,
        /// The number of unsent bytes.
        bytes: u32,
        /// The number of bytes that the peer's socket has taken since the backlog began.
        taken: u64,
    },
    /// A backlog is completely sent.
    Drained {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// Another shard has sent something.
    Woken,
    /// A watched file descriptor is readable: the shard's bell has rung.
    Readable {
        /// Identifies the descriptor, if there are several.
        token: u32,
    },
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The peer has closed its sending side. It may still read.
    EndOfStream,
    /// The peer reset the connection.
    Reset,
    /// The connection failed with this error number.
    Error(i32),
    /// The peer did not read, and the backlog reached its bound: [`Io::set_backlog_bytes_max`].
    BacklogFull,
}

/// The address of peers on a Unix-domain socket. No TCP connection can have it.
pub const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
