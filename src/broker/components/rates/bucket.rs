//! Token buckets: how much may be received, and when there is enough again.
//!
//! The input is the cost of a packet and the present time. The output is whether there is enough for it, and
//! if not, when there will be. A bucket holds at most the amount of one second. A packet with a higher cost
//! passes when the bucket is full, and leaves a debt that the following packets wait for.

use crate::base::Time;

/// The cost of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::broker) struct Cost {
    /// The number of application messages: one for a PUBLISH packet, none for others.
    pub messages: u32,
    /// The number of its bytes.
    pub bytes: u32,
}

/// The unit of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum RateMeasure {
    Messages,
    Bytes,
}

/// The limits of a rate. 0 means no limit.
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

/// The levels of a meter's buckets, or a part of them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::broker) struct Levels {
    messages: i64,
    bytes: i64,
}

impl Meter {
    /// Full buckets with one part in `shares` of the rates.
    pub(in crate::broker) fn new(now: Time, rates: Rates, shares: usize) -> Meter {
        Meter {
            messages: Bucket::new(rates.messages_per_second, shares),
            bytes: Bucket::new(rates.bytes_per_second, shares),
            filled_at: now,
        }
    }

    /// Adds the amount for the time since the last call.
    pub(in crate::broker) fn fill(&mut self, now: Time) {
        let micros = now.micros_since(self.filled_at);
        self.filled_at = self.filled_at.max(now);
        self.messages.fill(micros);
        self.bytes.fill(micros);
    }

    /// The unit that a packet lacks. `None` if it may pass.
    pub(in crate::broker) fn lacks(&self, cost: Cost) -> Option<RateMeasure> {
        if self.messages.missing(cost.messages) > 0 {
            Some(RateMeasure::Messages)
        } else if self.bytes.missing(cost.bytes) > 0 {
            Some(RateMeasure::Bytes)
        } else {
            None
        }
    }

    /// When there will be enough for a packet if nothing else is taken.
    pub(in crate::broker) fn ready_at(&self, cost: Cost) -> Time {
        let micros = self.messages.micros_until(cost.messages).max(self.bytes.micros_until(cost.bytes));
        Time::from_micros(self.filled_at.as_micros().saturating_add(micros))
    }

    /// Takes the cost of a packet.
    pub(in crate::broker) fn take(&mut self, cost: Cost) {
        self.messages.take(cost.messages);
        self.bytes.take(cost.bytes);
    }

    /// The unit in which a packet has a cost, if it has one.
    pub(in crate::broker) fn counts(&self, cost: Cost) -> Option<RateMeasure> {
        let messages = self.messages.counts(cost.messages).then_some(RateMeasure::Messages);
        messages.or_else(|| self.bytes.counts(cost.bytes).then_some(RateMeasure::Bytes))
    }

    /// One part in `of` of the levels.
    pub(in crate::broker) fn part(&self, of: usize) -> Levels {
        let part = |level: i64| level.max(0) / i64::try_from(of.max(1)).unwrap_or(i64::MAX);
        Levels { messages: part(self.messages.level), bytes: part(self.bytes.level) }
    }

    /// The levels after `part` was taken.
    pub(in crate::broker) fn without(&self, part: Levels) -> Levels {
        let left = |level: i64, part: i64| level.saturating_sub(part);
        Levels {
            messages: left(self.messages.level, part.messages),
            bytes: left(self.bytes.level, part.bytes),
        }
    }

    /// Whether at least this much is left after a packet.
    pub(in crate::broker) fn leaves(&self, cost: Cost, floor: Levels) -> bool {
        self.messages.leaves(cost.messages, floor.messages) && self.bytes.leaves(cost.bytes, floor.bytes)
    }
}

/// Counts in the fraction of a unit that a share gets per microsecond for each unit per second. So sums are
/// exact.
#[derive(Debug)]
struct Bucket {
    /// 0 if there is no limit.
    per_second: i64,
    /// The value of one unit.
    unit: i64,
    /// A negative level is a debt.
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

    /// The number of packets that pass in this time if there are always more.
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
            // Whatever part of a share one message is, the rate is right in the end.
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
        // A packet without a cost passes.
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
