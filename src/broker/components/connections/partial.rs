//! The beginning of a packet whose end has not arrived: its bytes, and whether they arrive fast enough to
//! count as a sign of life.
//!
//! A large PUBLISH over a slow link takes longer than one and a half times the keep alive. Its bytes keep the
//! client alive while they arrive at a minimum rate. Otherwise a client that sends a byte now and then could
//! hold memory forever.

use crate::base::Time;
use crate::base::{Charge, allocated};

/// The partial packet of a connection. It exists only while a packet is incomplete.
#[derive(Debug)]
pub(in crate::broker) struct Partial {
    /// The bytes that have arrived.
    pub(in crate::broker) bytes: Vec<u8>,
    /// Their memory charge.
    pub(in crate::broker) charge: Option<Charge>,
    /// The time from which its bytes are counted, and the number of bytes at that time.
    since: Time,
    counted: usize,
    /// The number of bytes that have arrived since then and are still incomplete for the layers below MQTT.
    below: usize,
    /// The memory of those layers, in bytes.
    held_below: usize,
}

/// Bytes of a client that MQTT has not seen, because the layers below it are still incomplete.
#[derive(Clone, Copy, Debug)]
pub struct BytesBelow {
    /// The number of bytes that have arrived now.
    pub received: usize,
    /// The memory of those layers for these and earlier bytes.
    pub held: usize,
}

impl Partial {
    /// Begins a packet.
    pub(in crate::broker) fn new(now: Time, bytes: Vec<u8>) -> Partial {
        Partial { bytes, charge: None, since: now, counted: 0, below: 0, held_below: 0 }
    }

    /// Notes that the first `used` bytes were packets. Another packet begins with the rest.
    pub(in crate::broker) fn advance(&mut self, now: Time, used: usize) {
        if used > 0 {
            self.bytes.drain(..used);
            (self.since, self.counted, self.below) = (now, 0, 0);
        }
    }

    /// Notes that bytes have arrived for the layers below MQTT.
    pub(in crate::broker) fn note_below(&mut self, bytes: BytesBelow) {
        self.below = self.below.saturating_add(bytes.received);
        self.held_below = bytes.held;
    }

    /// Whether nothing waits to be handled.
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.held_below == 0
    }

    /// The number of the client's bytes, here and in the layers below.
    pub(in crate::broker) fn len(&self) -> usize {
        self.bytes.len() + self.held_below
    }

    /// The memory that it takes.
    pub(in crate::broker) fn memory_bytes(&self) -> usize {
        allocated(self.bytes.capacity()) + self.held_below
    }

    /// The time from which its bytes are counted.
    pub(in crate::broker) fn since(&self) -> Time {
        self.since
    }

    /// Begins to count again: the bytes so far arrived in time.
    pub(in crate::broker) fn count_anew(&mut self, now: Time) {
        (self.since, self.counted, self.below) = (now, self.bytes.len(), 0);
    }

    /// Whether bytes have arrived at least at this rate since counting began. The minimum is one byte.
    pub(in crate::broker) fn comes_at(&self, now: Time, bytes_per_second: u64) -> bool {
        let come = (self.bytes.len() - self.counted).saturating_add(self.below) as u64;
        let due = now.millis_since(self.since).saturating_mul(bytes_per_second) / 1000;
        come >= due.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_from_the_beginning_of_their_packet_or_the_last_look() {
        let mut partial = Partial::new(Time::from_millis(1000), vec![0; 100]);
        assert!(partial.comes_at(Time::from_millis(1000), 50));
        assert!(partial.comes_at(Time::from_millis(3000), 50));
        assert!(!partial.comes_at(Time::from_millis(3100), 50));
        partial.count_anew(Time::from_millis(3000));
        assert!(!partial.comes_at(Time::from_millis(3000), 0), "nothing has come since");
        partial.note_below(BytesBelow { received: 50, held: 50 });
        assert!(partial.comes_at(Time::from_millis(4000), 50));
        partial.bytes.extend([0; 50]);
        assert!(partial.comes_at(Time::from_millis(5000), 50));
        assert!(!partial.comes_at(Time::from_millis(5100), 50));
        partial.advance(Time::from_millis(6000), 140);
        assert!(partial.bytes.len() == 10 && partial.comes_at(Time::from_millis(6200), 50));
    }
}
