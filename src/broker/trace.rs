//! What an operator sees of the packets of some clients or topics while a trace runs, as plain data.

use crate::base::Time;
use std::net::{IpAddr, SocketAddr};

/// The name of a trace. It is the same on all shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub u64);

/// What a trace shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTarget {
    /// Everything about the client with this client identifier.
    Client(Box<str>),
    /// The messages whose topic names match this filter, which is valid and not shared.
    Topic(Box<str>),
    /// Everything about the clients of this address.
    Address(IpAddr),
}

/// A trace to begin.
#[derive(Clone, Debug)]
pub struct TraceOrder {
    /// The name.
    pub id: TraceId,
    /// What it shows.
    pub target: TraceTarget,
    /// Whether it shows the first [`TRACED_PAYLOAD_BYTES_MAX`] bytes of payloads.
    pub shows_payload: bool,
    /// When it ends by itself, in seconds from now. At most [`TRACE_SECONDS_MAX`].
    pub seconds: u32,
}

/// The largest number of traces at the same time.
pub const TRACES_MAX: usize = 8;
/// The longest trace, in seconds.
pub const TRACE_SECONDS_MAX: u32 = 3600;
/// The largest number of lines of a trace in a second, of one shard. Others are counted.
pub const TRACED_PER_SECOND_MAX: u32 = 1000;
/// The number of bytes that a trace shows of a payload.
pub const TRACED_PAYLOAD_BYTES_MAX: usize = 256;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceDirection {
    /// It came from the client.
    In,
    /// It was given to the client's socket.
    Out,
    /// No packet: the broker has decided something.
    Inside,
}

/// A line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceLine {
    /// When it happened, on the clock of the shards.
    pub at: Time,
    /// The client identifier. Empty if it is not known.
    pub client: Box<str>,
    /// The address of its connection, if it has one.
    pub peer: Option<SocketAddr>,
    /// The direction.
    pub direction: TraceDirection,
    /// The type of the packet, or what was decided, in a word or two.
    pub what: &'static str,
    /// The rest, in words.
    pub words: Box<str>,
    /// The size of the packet in bytes. 0 if it is none.
    pub bytes: usize,
    /// The beginning of the payload, if it is shown.
    pub payload: Option<Box<[u8]>>,
}

/// The lines of a trace on one shard since the last page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracePage {
    /// The lines, in order.
    pub lines: Vec<TraceLine>,
    /// The number of lines that were left out, because there were too many.
    pub left_out: u64,
}
