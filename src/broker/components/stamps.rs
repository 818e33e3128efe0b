//! Stamps, which order the retained messages of a topic over all shards.

use crate::base::{SHARDS_MAX, ShardId, Stamp, Time};

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Stamps {
    shard: ShardId,
    last: Stamp,
    /// Stamps of earlier runs are below this.
    base: u64,
}

/// The lowest bits of a stamp are the shard's number.
const SHARD_MASK: u64 = 127;
/// The six bits before them number the messages of a microsecond. The rest is the clock: microseconds for 71
/// years.
const CLOCK_SHIFT: u32 = 7 + 6;

/// It is lower than every stamp that is given.
const BEFORE_ALL: Stamp = Stamp::new(1);

const _: () = assert!(SHARDS_MAX == SHARD_MASK as usize + 1);

impl Stamps {
    pub(in crate::broker) fn new(shard: ShardId) -> Stamps {
        Stamps { shard, last: BEFORE_ALL, base: 0 }
    }

    /// The next stamp, by the clock that all shards share. A shard never returns the same stamp twice, and no
    /// two shards return the same. The stamp does not run ahead of the clock, because the next message of
    /// another shard would then count as the older one: every message takes a shard at least 1/64 of a
    /// microsecond.
    pub(in crate::broker) fn next(&mut self, now: Time) -> Stamp {
        let by_clock = (now.as_micros() << CLOCK_SHIFT).saturating_add(self.base);
        let next = Stamp::new(by_clock.max((self.last.get() | SHARD_MASK) + 1) | u64::from(self.shard));
        self.last = next;
        next
    }

    /// The last stamp.
    pub(in crate::broker) fn last(&self) -> Stamp {
        self.last
    }

    /// Notes a message of another shard: everything published here from now on is newer.
    pub(in crate::broker) fn note(&mut self, stamp: Option<Stamp>) {
        self.last = stamp.map_or(self.last, |stamp| self.last.max(stamp));
    }

    /// Raises the stamps of this run above those of all earlier runs.
    pub(in crate::broker) fn begin(&mut self, last: Option<Stamp>) {
        self.base = (last.map_or(0, Stamp::get) | ((1 << CLOCK_SHIFT) - 1)).saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_and_no_two_shards_give_the_same() {
        let now = Time::ZERO.after_seconds(1);
        let (mut one, mut other) = (Stamps::new(0), Stamps::new(127));
        let mut given: Vec<Stamp> = (0..100).flat_map(|_| [one.next(now), other.next(now)]).collect();
        assert!(given.chunks(2).is_sorted_by(|before, after| before[0] < after[0] && before[1] < after[1]));
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 200);
    }

    #[test]
    fn what_is_published_after_a_message_of_another_shard_is_newer() {
        let now = Time::ZERO.after_seconds(1);
        let (mut one, mut other) = (Stamps::new(3), Stamps::new(4));
        let ahead = other.next(now.after_seconds(5));
        one.note(Some(ahead));
        assert!(one.next(now) > ahead, "also while its own clock is behind");
    }

    #[test]
    fn stamps_of_this_run_are_above_those_of_the_last() {
        let mut before = Stamps::new(9);
        let last = before.next(Time::ZERO.after_seconds(1_000_000));
        let mut after = Stamps::new(2);
        after.begin(Some(last));
        assert!(after.next(Time::ZERO) > last, "the clock begins anew");
    }
}
