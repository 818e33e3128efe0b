//! A connection between a client and the broker: bytes on their way in both directions, and all that can
//! happen to them.

use crate::socket::Socket;
use crate::wire::{Layers, Unwrap, Wire};
use midge::base::ConnectionSlot;
use std::collections::VecDeque;

/// A connection. Times are microseconds of the simulation's clock.
pub struct Link {
    /// Where it is, or where it is being handed over to.
    pub shard: usize,
    /// None before it is accepted, while it is handed over, and once the broker has closed it.
    pub slot: Option<ConnectionSlot>,
    pub latency: u64,
    // From the client to the broker. What is sent, consumed and sure are bytes of MQTT; the others are with its layers.
    pub wire: Wire,
    pub up_sent: u64,
    pub up_last: u64,
    pub up_stalled_until: u64,
    /// What arrives beyond so many bytes does not, and nothing else after it.
    pub up_cut_after: Option<u64>,
    pub up_arrived: u64,
    pub socket: Socket,
    /// Its shard is about to look at it.
    pub is_ready: bool,
    /// What the machine has been given, and how much of that it has taken.
    pub up_given: u64,
    pub up_consumed: u64,
    /// What it has surely taken notice of.
    pub up_sure: u64,
    // From the broker to the client.
    /// As it is sent, and as it arrives.
    pub sent: Unwrap,
    pub arriving: Unwrap,
    pub backlog: VecDeque<u8>,
    /// What the kernels have taken since it began.
    pub backlog_taken: u64,
    /// The shard is about to be told of it.
    pub backlog_told: bool,
    /// Bytes that the kernels between broker and client hold at most.
    pub capacity: usize,
    pub in_flight: usize,
    pub on_the_way: VecDeque<Vec<u8>>,
    pub down_last: u64,
    pub down_stalled_until: u64,
    pub backlogged: bool,
    pub was_backlogged: bool,
    /// The broker has sent something: it has processed the CONNECT.
    pub served: bool,
    /// When it has sent something for the last time.
    pub sent_at: u64,
    /// The broker has no connection any more; since when.
    pub closed_at: Option<u64>,
    /// The host wants it closed at the end of the turn.
    pub closing: bool,
    /// No byte gets through any more.
    pub severed: bool,
    /// The client has closed it.
    pub left: bool,
    /// The client knows that it is over.
    pub ended: bool,
}

impl Link {
    pub fn new(shard: usize, latency: u64, capacity: usize, wire: Wire, layers: Layers) -> Link {
        Link {
            wire,
            sent: Unwrap::new(layers),
            arriving: Unwrap::new(layers),
            shard,
            slot: None,
            latency,
            up_sent: 0,
            up_last: 0,
            up_stalled_until: 0,
            up_cut_after: None,
            up_arrived: 0,
            socket: Socket::new(),
            is_ready: false,
            up_given: 0,
            up_consumed: 0,
            up_sure: 0,
            backlog: VecDeque::new(),
            backlog_taken: 0,
            backlog_told: false,
            capacity,
            in_flight: 0,
            on_the_way: VecDeque::new(),
            down_last: 0,
            down_stalled_until: 0,
            backlogged: false,
            was_backlogged: false,
            served: false,
            sent_at: 0,
            closed_at: None,
            closing: false,
            severed: false,
            left: false,
            ended: false,
        }
    }
}
