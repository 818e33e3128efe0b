//! Stamps, which order the retained messages of a topic over all shards.

use crate::base::{SHARDS_MAX, ShardId, Time};

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Stamps {
    shard: ShardId,
    last: u64,
    /// Stamps of an earlier run are below.
    base: u64,
}

/// The lowest bits of a stamp are the shard's number.
const SHARD_MASK: u64 = 127;
/// Before them six bits number the messages of a microsecond, and the rest is the clock: microseconds for 71 years.
const CLOCK_SHIFT: u32 = 7 + 6;

const _: () = assert!(SHARDS_MAX == SHARD_MASK as usize + 1);

impl Stamps {
    pub(in crate::broker) fn new(shard: ShardId) -> Stamps {
        Stamps { shard, last: 0, base: 0 }
    }

    /// The next stamp: by the clock that all shards share, in a shard never twice, and between shards never the same.
    /// It does not run ahead of the clock, or the next message of another shard would be taken for the older one: none
    /// takes a shard less than 1/64 of a microsecond.
    pub(in crate::broker) fn next(&mut self, now: Time) -> u64 {
        let by_clock = (now.as_micros() << CLOCK_SHIFT).saturating_add(self.base);
        let next = by_clock.max((self.last | SHARD_MASK) + 1) | u64::from(self.shard);
        self.last = next;
        next
    }

    /// The last one.
    pub(in crate::broker) fn last(&self) -> u64 {
        self.last
    }

    /// A message of another shard is here: whatever is published here from now on is newer.
    pub(in crate::broker) fn note(&mut self, stamp: u64) {
        self.last = self.last.max(stamp);
    }

    /// Stamps of this run are above those of all runs before.
    pub(in crate::broker) fn begin(&mut self, last: u64) {
        self.base = (last | ((1 << CLOCK_SHIFT) - 1)).saturating_add(1);
    }
}
