//! A connection between a client and the broker: bytes on their way in both directions, and everything that
//! can happen to them.

use crate::random::Random;
use crate::socket::Socket;
use crate::tls::{TlsArrival, TlsEnd};
use crate::wire::{Layers, Unwrap, Wire};
use midge::base::ConnectionSlot;
use std::collections::VecDeque;

/// A connection. Times are in microseconds of the simulation's clock.
pub struct Link {
    /// Its shard, or the one it is being handed over to.
    pub shard: usize,
    /// `None` before it is accepted, while it is handed over, and after the broker has closed it.
    pub slot: Option<ConnectionSlot>,
    pub latency: u64,
    // From the client to the broker. The sent, consumed and sure numbers count bytes of MQTT; the others
    // include the layers.
    wire: Wire,
    /// The TLS below it.
    pub tls: Option<TlsEnd>,
    pub up_sent: u64,
    pub up_last: u64,
    pub up_stalled_until: u64,
    /// Bytes beyond this number do not arrive, and neither does anything after them.
    pub up_cut_after: Option<u64>,
    pub up_arrived: u64,
    pub socket: Socket,
    /// Whether its shard is about to look at it.
    pub is_ready: bool,
    /// The bytes that the machine was given, and how many of them it has taken.
    pub up_given: u64,
    pub up_consumed: u64,
    /// The bytes that it has noticed for certain.
    pub up_sure: u64,
    // From the broker to the client.
    /// As it is sent, and as it arrives.
    sent: Unwrap,
    arriving: Unwrap,
    pub backlog: VecDeque<u8>,
    /// The bytes that the kernels have taken since the backlog began.
    pub backlog_taken: u64,
    /// Whether the shard is about to be told of it.
    pub backlog_told: bool,
    /// The largest number of bytes that the kernels between broker and client hold.
    pub capacity: usize,
    pub in_flight: usize,
    pub on_the_way: VecDeque<Vec<u8>>,
    pub down_last: u64,
    pub down_stalled_until: u64,
    pub backlogged: bool,
    pub was_backlogged: bool,
    /// Whether the broker has sent something. If so, it has processed the CONNECT.
    pub served: bool,
    /// The time at which it last sent something.
    pub sent_at: u64,
    /// The time since which the broker has no connection any more.
    pub closed_at: Option<u64>,
    /// Whether the host wants it closed at the end of the turn.
    pub closing: bool,
    /// Whether it is cut: no more bytes pass.
    pub severed: bool,
    /// Whether the client has closed it.
    pub left: bool,
    /// Whether the client knows that it has ended.
    pub ended: bool,
}

impl Link {
    pub fn new(
        shard: usize,
        latency: u64,
        capacity: usize,
        layers: Layers,
        (wire, tls): (Wire, Option<TlsEnd>),
    ) -> Link {
        Link {
            wire,
            tls,
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

    /// The bytes to send for these MQTT bytes. There may be none yet.
    pub fn wrap(&mut self, mqtt: &[u8], rng: &mut Random) -> Vec<u8> {
        let plain = self.wire.wrap(mqtt, rng);
        match &mut self.tls {
            Some(tls) => tls.seal(&plain, rng),
            None => plain,
        }
    }

    /// The number of MQTT bytes that can be read in the first `raw` bytes of the client.
    pub fn mqtt_in(&self, raw: u64) -> u64 {
        self.wire.mqtt_in(self.tls.as_ref().map_or(raw, |tls| tls.plain_in(raw)))
    }

    /// Forgets positions before `raw`. They are not queried any more.
    pub fn forget(&mut self, raw: u64) {
        let plain = self.tls.as_ref().map_or(raw, |tls| tls.plain_in(raw));
        self.wire.forget(plain);
        if let Some(tls) = &mut self.tls {
            tls.forget(raw);
        }
    }

    /// Takes bytes that the broker has sent. Returns the MQTT in them.
    pub fn take_sent(&mut self, raw: &[u8]) -> Result<Vec<u8>, String> {
        match &mut self.tls {
            Some(tls) => self.sent.take(&tls.sent(raw)?),
            None => self.sent.take(raw),
        }
    }

    /// Takes bytes that arrive at the client. Returns the MQTT in them, and what TLS does.
    pub fn take_arrived(&mut self, raw: &[u8]) -> Result<(Vec<u8>, TlsArrival), String> {
        match &mut self.tls {
            Some(tls) => {
                let mut arrival = tls.arrived(raw.len());
                let plain = std::mem::take(&mut arrival.plain);
                Ok((self.arriving.take(&plain)?, arrival))
            }
            None => Ok((self.arriving.take(raw)?, TlsArrival::default())),
        }
    }
}
