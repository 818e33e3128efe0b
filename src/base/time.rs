//! Times on the broker's clock.
//!
//! A [`Time`] counts microseconds on a monotonic clock whose zero the caller chooses. The core never reads a
//! clock; it gets the time as an argument. Intervals are in milliseconds or seconds. The microseconds are
//! needed to order events of different shards. All sums saturate, so a session that expires in 136 years, or
//! a clock close to its end, needs no special case. No deadline is a time on the wall clock. Only the store
//! has such deadlines, because they survive a restart. It learns the machine's clocks from a
//! [`ClockReading`].

use std::time::Duration;

/// The machine's clocks, all read at the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockReading {
    /// The wall clock, in milliseconds since 1970.
    pub wall_millis: u64,
    /// Identifies the boot of the machine; 0: unknown.
    pub boot: u64,
    /// Milliseconds since that boot, including time that the machine was suspended.
    pub boot_millis: u64,
}

/// Microseconds since the caller's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// The end of the clock. A deadline at this time is never reached.
    pub const MAX: Time = Time(u64::MAX);

    /// The time `millis` milliseconds after the start.
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis.saturating_mul(1000))
    }

    /// The time `micros` microseconds after the start.
    pub const fn from_micros(micros: u64) -> Time {
        Time(micros)
    }

    /// Whole milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1000
    }

    /// Microseconds since the start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time `seconds` later, at most [`Time::MAX`].
    pub const fn after_seconds(self, seconds: u32) -> Time {
        self.after_millis(seconds as u64 * 1000)
    }

    /// The time `millis` milliseconds later, at most [`Time::MAX`].
    pub const fn after_millis(self, millis: u64) -> Time {
        Time(self.0.saturating_add(millis.saturating_mul(1000)))
    }

    /// The time `duration` later, to the microsecond, at most [`Time::MAX`].
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// The duration from `earlier` to this time. Zero if `earlier` is the later one.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// Milliseconds from `earlier` to this time. Zero if `earlier` is the later one.
    pub const fn millis_since(self, earlier: Time) -> u64 {
        self.micros_since(earlier) / 1000
    }

    /// Microseconds from `earlier` to this time. Zero if `earlier` is the later one.
    pub const fn micros_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Seconds from `now` to this time, rounded up. This is the rest of an interval of whole seconds after
    /// subtracting the whole seconds that have passed. Zero when the time is reached. `[MQTT5-3.3.2-6]`
    pub const fn seconds_left(self, now: Time) -> u32 {
        let seconds = self.micros_since(now).div_ceil(1_000_000);
        if seconds > u32::MAX as u64 { u32::MAX } else { seconds as u32 }
    }
}

const _: () = assert!(size_of::<Time>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_interval_loses_the_whole_seconds_waited() {
        // [MQTT5-3.3.2-6]
        let received = Time::from_millis(12_345);
        let expires_at = received.after_seconds(60);
        assert_eq!(expires_at.seconds_left(received), 60);
        assert_eq!(expires_at.seconds_left(received.after_millis(999)), 60);
        assert_eq!(expires_at.seconds_left(received.after_millis(1000)), 59);
        assert_eq!(expires_at.seconds_left(received.after_millis(5200)), 55);
        assert_eq!(expires_at.seconds_left(received.after_millis(59_999)), 1);
        assert_eq!(expires_at.seconds_left(received.after_millis(60_000)), 0);
        assert_eq!(expires_at.seconds_left(received.after_millis(60_001)), 0);
    }

    #[test]
    fn sums_and_differences_saturate() {
        let late = Time::from_micros(u64::MAX - 5000);
        assert_eq!(late.after_seconds(u32::MAX), Time::MAX);
        assert_eq!(late.after_millis(5), Time::MAX);
        assert_eq!(late.after_millis(4).as_micros(), u64::MAX - 1000);
        assert_eq!(Time::ZERO.millis_since(late), 0);
        assert_eq!(late.micros_since(Time::from_micros(1)), u64::MAX - 5001);
        assert_eq!(Time::from_millis(u64::MAX), Time::MAX);
        assert_eq!(Time::MAX.seconds_left(Time::ZERO), u32::MAX);
        assert_eq!(late.after(Duration::MAX), Time::MAX);
        assert_eq!(late.after(Duration::from_nanos(4_999_999)).as_micros(), u64::MAX - 1);
        assert_eq!(Time::ZERO.since(late), Duration::ZERO);
        assert_eq!(Time::from_millis(7).since(Time::from_millis(3)), Duration::from_millis(4));
    }

    #[test]
    fn the_longest_session_expiry_fits() {
        let ends = Time::from_millis(7).after_seconds(u32::MAX);
        assert_eq!(ends.as_millis(), 7 + 4_294_967_295_000);
        assert_eq!(ends.seconds_left(Time::from_millis(7)), u32::MAX);
    }
}
