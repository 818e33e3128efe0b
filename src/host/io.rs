//! What a host asks of the kernel, and of the other shards.
//!
//! The driver does it on the shard's ring; the simulator does it as its seed says. The host's turn is
//! 1. [`Io::poll`]: what has happened;
//! 2. it handles the events, gives each buffer back, takes the messages of other shards, and fills the outbox;
//! 3. [`Io::park`]: sends the outbox, wakes the shards that something was sent to, and waits.
//!
//! A slot number is the host's from its [`IoEvent::Accepted`] (or [`Io::adopt`]) until it calls [`Io::close`],
//! [`Io::abort`] or [`Io::detach`]; it is not given to another connection before the next [`Io::poll`].

use super::ShardMessage;
use crate::base::log_files::{FileDone, LogFiles};
use crate::base::{ClockReading, ConnectionSlot, Time};
use crate::broker::outbox::Outbox;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// See the module. The files are those of the shard's log.
pub trait Io: LogFiles {
    /// A listening socket.
    type Listener;
    /// A connection on its way to another shard.
    type Socket;
    /// Received bytes on loan: read with [`Io::bytes`], returned with [`Io::give_back`].
    type Buffer;

    /// The present time, on the clock that all shards share.
    fn now(&self) -> Time;
    /// The present time, and what the machine's clocks say.
    fn read_clock(&self) -> (Time, ClockReading);

    /// Appends what has happened to `events`, as much as one turn is to handle.
    fn poll(&mut self, events: &mut Vec<IoEvent<Self::Buffer>>);
    /// Sends the outbox, with the wake-ups of other shards. The owner clears it.
    ///
    /// # Errors
    /// The ring's: there is no use in going on.
    fn flush(&mut self, outbox: &Outbox, events: &mut Vec<IoEvent<Self::Buffer>>) -> io::Result<()>;
    /// The same, and waits for the next event, for `deadline`, or, if `takes_mails`, for a message of another shard.
    /// Returns at once if something is in `events` already. It may return for no visible reason.
    ///
    /// # Errors
    /// As with [`Io::flush`].
    fn park(
        &mut self,
        outbox: &Outbox,
        events: &mut Vec<IoEvent<Self::Buffer>>,
        deadline: Option<Duration>,
        takes_mails: bool,
    ) -> io::Result<()>;

    /// Unsent bytes that a connection may have; one that has more ends with [`SocketEnd::BacklogFull`].
    fn set_backlog_bytes_max(&mut self, bytes: usize);
    /// Accepts connections for the listener of this number from now on.
    fn listen(&mut self, listener: u16, socket: Self::Listener);
    /// Accepts no more.
    fn stop_listening(&mut self);
    /// Connections, those included whose last bytes are still on their way.
    fn connections(&self) -> usize;

    /// The bytes of a buffer.
    fn bytes<'a>(&'a self, buffer: &'a Self::Buffer) -> &'a [u8];
    /// A buffer is done with.
    fn give_back(&mut self, buffer: Self::Buffer);
    /// Keeps a buffer, from byte `consumed` on, until [`Io::resume`]; then it comes again, before anything newer.
    fn hold(&mut self, slot: ConnectionSlot, buffer: Self::Buffer, consumed: usize);
    /// Keeps the end of a connection until all that came before it is read; false: nothing is kept from the host.
    fn hold_hangup(&mut self, slot: ConnectionSlot, cause: SocketEnd) -> bool;
    /// Is something of this connection kept?
    fn is_held(&self, slot: ConnectionSlot) -> bool;

    /// One receive, if none is under way.
    fn receive_once(&mut self, slot: ConnectionSlot);
    /// Receives until [`Io::pause`] or the end.
    fn receive_stream(&mut self, slot: ConnectionSlot);
    /// Reads no more. What has been received before still comes.
    fn pause(&mut self, slot: ConnectionSlot);
    /// Reads again.
    fn resume(&mut self, slot: ConnectionSlot);
    /// Ends a connection once it has sent what it was given, with this turn too.
    fn close(&mut self, slot: ConnectionSlot);
    /// Ends a connection at once.
    fn abort(&mut self, slot: ConnectionSlot);
    /// Takes a connection out; none if it can't be, because a receive is under way or its peer has gone. Then the
    /// slot is still the host's.
    fn detach(&mut self, slot: ConnectionSlot) -> Option<Self::Socket>;
    /// Takes a connection of another shard in. Nothing is received until [`Io::receive_once`].
    fn adopt(&mut self, socket: Self::Socket) -> ConnectionSlot;

    /// Puts a message into the box of another shard, or returns it when that box is full, by messages or by the
    /// `bytes` that they take elsewhere.
    ///
    /// # Errors
    /// The message.
    #[expect(clippy::result_large_err, reason = "what does not fit comes back as it is")]
    fn send(
        &mut self,
        to: usize,
        message: ShardMessage<Self::Socket>,
        bytes: usize,
    ) -> Result<(), ShardMessage<Self::Socket>>;
    /// How many messages of another shard are there.
    fn waiting(&self, from: usize) -> usize;
    /// The oldest message of another shard.
    fn receive(&mut self, from: usize) -> Option<ShardMessage<Self::Socket>>;
    /// Is there a message of any shard?
    fn has_messages(&self) -> bool;

    /// The end of an operation on files.
    fn next_file_done(&mut self) -> Option<FileDone>;
    /// Waits until an operation on files has ended, or for so long. Events are not lost meanwhile.
    ///
    /// # Errors
    /// As with [`Io::flush`].
    fn await_files(&mut self, patience: Duration) -> io::Result<()>;

    /// A quiet moment: gives back what only a larger number of connections needed.
    fn give_memory_back(&mut self);
}

/// What happened on a shard's sockets.
#[derive(Debug)]
pub enum IoEvent<B> {
    /// A connection came in; one receive is under way on it.
    Accepted {
        /// The number given to [`Io::listen`].
        listener: u16,
        /// Its slot.
        slot: ConnectionSlot,
        /// The other side's address; [`UNIX_PEER`] for one that came by a Unix-domain socket.
        peer: SocketAddr,
    },
    /// The kernel could not hand a connection over; the listener goes on, after a pause when we
    /// lack file descriptors or memory.
    AcceptFailed {
        /// The number given to [`Io::listen`].
        listener: u16,
        /// The error number.
        error: i32,
    },
    /// Bytes came in.
    Received {
        /// The connection.
        slot: ConnectionSlot,
        /// Where they are; must be given back.
        buffer: B,
    },
    /// A connection is at its end, paused or not. Comes at most once, unless the host has given it back with
    /// [`Io::hold_hangup`], and not after the host closed it. The slot stays the host's until it calls [`Io::close`].
    Hangup {
        /// The connection.
        slot: ConnectionSlot,
        /// Why.
        cause: SocketEnd,
    },
    /// The peer did not take all that was sent; the rest is kept. Comes again each time that the rest has grown
    /// or shrunk, until [`IoEvent::Drained`].
    Backlogged {
        /// The connection.
        slot: ConnectionSlot,
        /// Unsent bytes.
        bytes: u32,
        /// What the peer's socket has taken since the backlog began.
        taken: u64,
    },
    /// A backlog is sent to its end.
    Drained {
        /// The connection.
        slot: ConnectionSlot,
    },
    /// Another shard has sent something.
    Woken,
    /// A watched file descriptor has something to read: the shard's bell has rung.
    Readable {
        /// Which, if there are several.
        token: u32,
    },
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The peer has sent its end of stream; it may still read.
    EndOfStream,
    /// The peer reset the connection.
    Reset,
    /// The connection failed with this error number.
    Error(i32),
    /// The peer did not read, and the backlog reached its bound: [`Io::set_backlog_bytes_max`].
    BacklogFull,
}

/// Stands for the address of a peer that came by a Unix-domain socket: no TCP connection comes from it.
pub const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
