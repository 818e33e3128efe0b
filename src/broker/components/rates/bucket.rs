//! Token buckets: how much may come at a time, and when there is enough again.
//!
//! Comes in: what a packet counts for, and the present time. Goes out: whether there is enough for it, and else
//! when. A bucket holds at most what one second brings. A packet that counts for more passes when the bucket is
//! full, and leaves a debt that the following ones wait for.

use crate::base::Time;

/// What a packet counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Cost {
    /// Application messages: one for a PUBLISH packet, none for another.
    pub messages: u32,
    /// Its bytes.
    pub bytes: u32,
}

/// What a rate is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum RateMeasure {
    Messages,
    Bytes,
}

/// How fast something may come; 0: as fast as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Rates {
    pub messages_per_second: u64,
    pub bytes_per_second: u64,
}

/// A bucket for messages and one for bytes.
#[derive(Debug)]
pub(in crate::broker) struct Meter {
    messages: Bucket,
    bytes: Bucket,
    filled_at: Time,
}

/// What is in the buckets of a meter, or a part of it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::broker) struct Levels {
    messages: i64,
    bytes: i64,
}

impl Meter {
    /// Full buckets with the `shares`-th part of the rates.
    pub(in crate::broker) fn new(now: Time, rates: Rates, shares: usize) -> Meter {
        Meter {
            messages: Bucket::new(rates.messages_per_second, shares),
            bytes: Bucket::new(rates.bytes_per_second, shares),
            filled_at: now,
        }
    }

    /// Puts in what has come together since the last call.
    pub(in crate::broker) fn fill(&mut self, now: Time) {
        let micros = now.micros_since(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        self.messages.fill(micros);
        self.bytes.fill(micros);
    }

    /// What there is not enough of for a packet; none: it may come.
    pub(in crate::broker) fn lacks(&self, cost: Cost) -> Option<RateMeasure> {
        if self.messages.missing(cost.messages) > 0 {
            Some(RateMeasure::Messages)
        } else if self.bytes.missing(cost.bytes) > 0 {
            Some(RateMeasure::Bytes)
        } else {
            None
        }
    }

    /// When there will be enough for a packet, if nothing else is taken.
    pub(in crate::broker) fn ready_at(&self, cost: Cost) -> Time {
        let micros = self.messages.micros_until(cost.messages).max(self.bytes.micros_until(cost.bytes));
        Time::from_micros(self.filled_at.as_micros().saturating_add(micros))
    }

    /// Takes out what a packet counts for.
    pub(in crate::broker) fn take(&mut self, cost: Cost) {
        self.messages.take(cost.messages);
        self.bytes.take(cost.bytes);
    }

    /// What a packet counts for, if for anything.
    pub(in crate::broker) fn counts(&self, cost: Cost) -> Option<RateMeasure> {
        let messages = self.messages.counts(cost.messages).then_some(RateMeasure::Messages);
        messages.or_else(|| self.bytes.counts(cost.bytes).then_some(RateMeasure::Bytes))
    }

    /// The `of`-th part of what is there.
    pub(in crate::broker) fn part(&self, of: usize) -> Levels {
        let part = |level: i64| level.max(0) / i64::try_from(of.max(1)).unwrap_or(i64::MAX);
        Levels { messages: part(self.messages.level), bytes: part(self.bytes.level) }
    }

    /// What is left when so much has been taken.
    pub(in crate::broker) fn without(&self, part: Levels) -> Levels {
        let left = |level: i64, part: i64| level.saturating_sub(part);
        Levels {
            messages: left(self.messages.level, part.messages),
            bytes: left(self.bytes.level, part.bytes),
        }
    }

    /// Is at least so much left after a packet?
    pub(in crate::broker) fn leaves(&self, cost: Cost, floor: Levels) -> bool {
        self.messages.leaves(cost.messages, floor.messages) && self.bytes.leaves(cost.bytes, floor.bytes)
    }
}

/// Counts in the part of a unit that a share gets in a microsecond for each unit per second: sums are exact.
#[derive(Debug)]
struct Bucket {
    /// 0: it holds nothing, and nothing is asked of it.
    per_second: i64,
    /// What one unit counts for.
    unit: i64,
    /// Below zero: a debt.
    level: i64,
}

const MICROS_PER_SECOND: i64 = 1_000_000;

impl Bucket {
    fn new(per_second: u64, shares: usize) -> Bucket {
        let shares = i64::try_from(shares).unwrap_or(i64::MAX);
        let mut bucket = Bucket {
            per_second: i64::try_from(per_second).unwrap_or(i64::MAX),
            unit: MICROS_PER_SECOND.saturating_mul(shares),
            level: 0,
        };
        bucket.level = bucket.full();
        bucket
    }

    fn full(&self) -> i64 {
        self.per_second.saturating_mul(MICROS_PER_SECOND)
    }

    fn fill(&mut self, micros: u64) {
        let more = self.per_second.saturating_mul(i64::try_from(micros).unwrap_or(i64::MAX));
        self.level = self.level.saturating_add(more).min(self.full());
    }

    fn counts(&self, units: u32) -> bool {
        self.per_second > 0 && units > 0
    }

    fn worth(&self, units: u32) -> i64 {
        i64::from(units).saturating_mul(self.unit)
    }

    fn missing(&self, units: u32) -> i64 {
        if self.counts(units) { self.worth(units).min(self.full()) - self.level } else { 0 }
    }

    fn micros_until(&self, units: u32) -> u64 {
        let missing = u64::try_from(self.missing(units)).unwrap_or(0);
        missing.div_ceil(self.per_second.max(1).cast_unsigned())
    }

    fn take(&mut self, units: u32) {
        if self.counts(units) {
            self.level = self.level.saturating_sub(self.worth(units));
        }
    }

    fn leaves(&self, units: u32, floor: i64) -> bool {
        !self.counts(units) || self.level.saturating_sub(self.worth(units)) >= floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Cost = Cost { messages: 1, bytes: 10 };

    fn meter(messages_per_second: u64, bytes_per_second: u64, shares: usize) -> Meter {
        Meter::new(Time::ZERO, Rates { messages_per_second, bytes_per_second }, shares)
    }

    /// How many of these come in so many milliseconds, if there are always more.
    fn come(meter: &mut Meter, cost: Cost, millis: u64) -> u64 {
        let end = Time::from_millis(meter.filled_at.as_millis() + millis);
        let mut come = 0;
        loop {
            while meter.lacks(cost).is_none() {
                meter.take(cost);
                come += 1;
            }
            let at = meter.ready_at(cost);
            assert!(at > meter.filled_at, "what lacks now is there later");
            if at > end {
                meter.fill(end);
                return come;
            }
            meter.fill(at);
        }
    }

    #[test]
    fn a_second_comes_at_once_and_then_the_rate_to_the_message() {
        for (shares, rate) in [(1, 50), (2, 100), (7, 7), (3, 1), (128, 1)] {
            let mut meter = meter(rate, 0, shares);
            let seconds = 10 * shares as u64;
            assert_eq!(come(&mut meter, ONE, 0), (rate / shares as u64).max(1), "{rate} for {shares}");
            // Whatever one message is of a share, in the end it is the rate.
            let more = come(&mut meter, ONE, seconds * 1000);
            assert!(more.abs_diff(rate * seconds / shares as u64) <= 1, "{more} at {rate} for {shares}");
        }
    }

    #[test]
    fn the_scarcer_of_messages_and_bytes_rules() {
        let mut both = meter(50, 100, 1);
        assert_eq!(come(&mut both, ONE, 1000), 20);
        assert_eq!(both.lacks(ONE), Some(RateMeasure::Bytes));
        let mut both = meter(5, 100, 1);
        assert_eq!(come(&mut both, ONE, 1000), 10);
        assert_eq!(both.lacks(ONE), Some(RateMeasure::Messages));
        // What counts for nothing passes.
        assert_eq!(both.lacks(Cost { messages: 0, bytes: 0 }), None);
        let mut none = meter(0, 0, 1);
        (0..1_000_000).for_each(|_| none.take(ONE));
        assert!(none.lacks(ONE).is_none() && none.counts(ONE).is_none());
    }

    #[test]
    fn a_packet_above_a_second_passes_and_leaves_its_debt() {
        let mut meter = meter(0, 1000, 1);
        let large = Cost { messages: 1, bytes: 10_000 };
        assert_eq!(meter.lacks(large), None);
        meter.take(large);
        assert_eq!(meter.lacks(ONE), Some(RateMeasure::Bytes));
        assert_eq!(meter.ready_at(ONE), Time::from_millis(9010));
        // The next one waits until the bucket is full.
        assert_eq!(meter.ready_at(large), Time::from_millis(10_000));
    }

    #[test]
    fn the_largest_rates_and_the_longest_times_do_not_overflow() {
        let mut meter = meter(1_000_000_000, 1 << 40, 128);
        let large = Cost { messages: 1, bytes: 268_435_460 };
        for at in [Time::ZERO, Time::from_millis(1), Time::MAX, Time::ZERO] {
            meter.fill(at);
            while meter.lacks(large).is_none() {
                meter.take(large);
            }
            assert!(meter.ready_at(large) >= at);
        }
    }

    #[test]
    fn a_part_is_as_large_as_the_others() {
        let mut meter = meter(6, 0, 1);
        let floor = meter.without(meter.part(3));
        assert!(meter.leaves(ONE, floor));
        meter.take(ONE);
        assert!(meter.leaves(ONE, floor));
        meter.take(ONE);
        assert!(!meter.leaves(ONE, floor));
    }
}
