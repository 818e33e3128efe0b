//! The beginning of a packet whose end has not come: its bytes, and whether they come fast enough to be a sign of
//! life.
//!
//! A large PUBLISH over a slow link takes longer than one and a half times the keep alive. Its bytes keep the client
//! alive as long as they come at a lowest rate; else a client that sends a byte now and then could hold memory for
//! ever.

use crate::base::Time;
use crate::base::{Charge, allocated};

/// Of a connection, and only as long as a packet is under way.
#[derive(Debug)]
pub(in crate::broker) struct Partial {
    /// What has come of it.
    pub(in crate::broker) bytes: Vec<u8>,
    /// What it counts for.
    pub(in crate::broker) charge: Option<Charge>,
    /// Since when its bytes are counted, and how many there were by then.
    since: Time,
    counted: usize,
    /// Bytes that have come since then and that the layers below MQTT can't make anything of yet.
    below: usize,
    /// What those layers hold, in bytes of memory.
    held_below: usize,
}

/// Bytes of a client of which MQTT has seen nothing, since the layers below it can't make anything of them yet.
#[derive(Clone, Copy, Debug)]
pub struct BytesBelow {
    /// So many have come now.
    pub received: usize,
    /// The memory that those layers hold, for these and for earlier ones.
    pub held: usize,
}

impl Partial {
    /// A packet begins.
    pub(in crate::broker) fn new(now: Time, bytes: Vec<u8>) -> Partial {
        Partial { bytes, charge: None, since: now, counted: 0, below: 0, held_below: 0 }
    }

    /// The first `used` bytes were packets, and another one has begun with the rest.
    pub(in crate::broker) fn advance(&mut self, now: Time, used: usize) {
        if used > 0 {
            self.bytes.drain(..used);
            (self.since, self.counted, self.below) = (now, 0, 0);
        }
    }

    /// Bytes have come for the layers below MQTT.
    pub(in crate::broker) fn note_below(&mut self, bytes: BytesBelow) {
        self.below = self.below.saturating_add(bytes.received);
        self.held_below = bytes.held;
    }

    /// Nothing has come that is not handled.
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.held_below == 0
    }

    /// Bytes of the client that it holds, here and below.
    pub(in crate::broker) fn len(&self) -> usize {
        self.bytes.len() + self.held_below
    }

    /// The memory that it takes.
    pub(in crate::broker) fn memory_bytes(&self) -> usize {
        allocated(self.bytes.capacity()) + self.held_below
    }

    /// When its bytes were begun to be counted.
    pub(in crate::broker) fn since(&self) -> Time {
        self.since
    }

    /// What has come so far was in time.
    pub(in crate::broker) fn count_anew(&mut self, now: Time) {
        (self.since, self.counted, self.below) = (now, self.bytes.len(), 0);
    }

    /// Has it come at this rate at least since it was last asked? The smallest rate is any byte at all.
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
