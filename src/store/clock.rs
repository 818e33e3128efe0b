//! The log's clock, which all deadlines on the disk use.
//!
//! It began as the wall clock of the first start. From then on it moves like the machine's steady clock,
//! which can't be set. So a wall clock that is set, forwards or backwards, moves no deadline. Only the time
//! between two runs of the broker must be measured in another way. For that, each log notes the machine's
//! clocks ([`ClockMark`]): once at its start, and again whenever the wall clock was set, which begins an
//! epoch.
//!
//! Time that can't be measured counts as no time: a message, a session or a will may be kept longer than it
//! should, but never shorter.

use super::Wall;
pub use crate::base::ClockReading;
use std::ops::Range;

/// A reading of the machine's clocks, and the log's clock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockMark {
    /// The log's clock, in milliseconds.
    pub at_millis: u64,
    /// The machine's clocks.
    pub reading: ClockReading,
}

/// The interval of the records by which a broker with persistent sessions of connected clients shows that it
/// is alive. They tell a start about when these clients' connections ended.
pub const ALIVE_SECONDS: u32 = 60;
/// The longest time between two such records, including the delays of a timer and a write.
const ALIVE_MILLIS_MAX: u64 = ALIVE_SECONDS as u64 * 1000 + 5000;

/// The difference between the wall clock and the steady clock from which the wall clock counts as set.
pub const STEP_MILLIS_MIN: u64 = 1000;

/// A wall clock earlier than this, the beginning of 2025, was never set.
const SET_MILLIS_MIN: u64 = 1_735_689_600_000;

/// The longest time that the difference of two wall clocks may count for between two boots of the machine.
/// The earlier one may have been wrong.
const DOWN_MILLIS_MAX: u64 = 24 * 3600 * 1000;

impl ClockMark {
    /// By how many milliseconds the wall clock was set since then. Negative if it was set back.
    pub fn step_millis(&self, at_millis: u64, reading: ClockReading) -> i64 {
        let wall = moved(self.reading.wall_millis..reading.wall_millis);
        wall.saturating_sub(moved(self.at_millis..at_millis))
    }

    /// The wall clock at this point of the log's clock, if it was not set since then.
    fn wall_at(&self, at_millis: u64) -> u64 {
        self.reading.wall_millis.saturating_add_signed(moved(self.at_millis..at_millis))
    }
}

impl Wall {
    /// The latest time at which the connections of an earlier run that was alive at `alive_millis` can have
    /// ended. A session must not expire early because nothing was written for a while.
    pub(crate) fn latest_end(self, alive_millis: u64) -> u64 {
        alive_millis.saturating_add(ALIVE_MILLIS_MAX).min(self.zero_millis.max(alive_millis))
    }
}

/// How the time between the last record and a start was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// There is no record.
    #[default]
    First,
    /// By the steady clock: the machine was not restarted.
    Steady,
    /// By the wall clock.
    Wall,
    /// By the wall clock, which has moved further than may count. Only the maximum counts.
    Bounded {
        /// The movement of the wall clock, in milliseconds.
        by_wall_millis: u64,
    },
    /// Not at all: one of the wall clocks was never set, or the later one is behind the earlier one.
    Unknown {
        /// The movement of the wall clock, in milliseconds.
        by_wall_millis: i64,
    },
}

/// The log's clock at a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogClock {
    /// The log's clock at the zero of the broker's clock.
    pub wall: Wall,
    /// The time that it has moved since the last record, in milliseconds.
    pub down_millis: u64,
    /// How that time was measured.
    pub measure: Measure,
}

impl LogClock {
    /// Continues from the last record and the last mark. `now` was read at the zero of the broker's clock.
    pub fn resume(last_millis: Option<u64>, mark: Option<ClockMark>, now: ClockReading) -> LogClock {
        let Some(last) = last_millis else {
            let wall = Wall { zero_millis: now.wall_millis };
            return LogClock { wall, down_millis: 0, measure: Measure::First };
        };
        // Logs without marks used the wall clock as the log's clock.
        let unset = ClockReading { wall_millis: last, ..ClockReading::default() };
        let mark = mark.unwrap_or(ClockMark { at_millis: last, reading: unset });
        let before = mark.reading;
        let (down_millis, measure) =
            if before.boot != 0 && before.boot == now.boot && now.boot_millis >= before.boot_millis {
                let at = mark.at_millis.saturating_add(now.boot_millis - before.boot_millis);
                (at.saturating_sub(last), Measure::Steady)
            } else {
                by_wall(mark.wall_at(last)..now.wall_millis)
            };
        let wall = Wall { zero_millis: last.saturating_add(down_millis) };
        LogClock { wall, down_millis, measure }
    }
}

/// Compares the wall clock before the machine was restarted with the present one.
fn by_wall(way: Range<u64>) -> (u64, Measure) {
    let before = way.start;
    let by_wall_millis = moved(way);
    match u64::try_from(by_wall_millis) {
        Ok(millis) if before >= SET_MILLIS_MIN => {
            if millis <= DOWN_MILLIS_MAX {
                (millis, Measure::Wall)
            } else {
                (DOWN_MILLIS_MAX, Measure::Bounded { by_wall_millis: millis })
            }
        }
        _ => (0, Measure::Unknown { by_wall_millis }),
    }
}

/// By how much a clock has moved, in its units. Negative if it was set back.
fn moved(way: Range<u64>) -> i64 {
    let size = i64::try_from(way.end.abs_diff(way.start)).unwrap_or(i64::MAX);
    if way.end >= way.start { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_800_000_000_000;
    const HOUR: u64 = 3_600_000;
    const DECADE: u64 = 10 * 365 * 24 * HOUR;

    fn reading(wall_millis: u64, boot: u64, boot_millis: u64) -> ClockReading {
        ClockReading { wall_millis, boot, boot_millis }
    }

    fn mark(wall_millis: u64) -> ClockMark {
        ClockMark { at_millis: NOON, reading: reading(wall_millis, 7, 5000) }
    }

    #[test]
    fn a_log_without_records_begins_with_the_wall_clock() {
        let clock = LogClock::resume(None, None, reading(12_345, 7, 99));
        assert_eq!((clock.wall.zero_millis, clock.measure), (12_345, Measure::First));
    }

    #[test]
    fn on_a_machine_that_has_been_running_the_wall_clock_does_not_matter() {
        for wall in [0, NOON - DECADE, NOON - HOUR, NOON, NOON + HOUR, NOON + DECADE] {
            let clock = LogClock::resume(Some(NOON + 2000), Some(mark(NOON)), reading(wall, 7, 5000 + HOUR));
            assert_eq!(clock.wall.zero_millis, NOON + HOUR);
            assert_eq!((clock.down_millis, clock.measure), (HOUR - 2000, Measure::Steady));
        }
    }

    #[test]
    fn after_a_start_of_the_machine_the_wall_clock_tells_a_day_at_most_and_never_runs_back() {
        let resume = |before: u64, now: u64| {
            let clock = LogClock::resume(Some(NOON + 2000), Some(mark(before)), reading(now, 8, 60));
            assert_eq!(clock.wall.zero_millis, NOON + 2000 + clock.down_millis);
            (clock.down_millis, clock.measure)
        };
        assert_eq!(resume(NOON, NOON + HOUR), (HOUR - 2000, Measure::Wall));
        // The log's clock differs from the wall clock: only the difference counts.
        assert_eq!(resume(NOON + DECADE, NOON + DECADE + HOUR), (HOUR - 2000, Measure::Wall));
        let by_wall_millis = DECADE - 2000;
        assert_eq!(resume(NOON, NOON + DECADE), (24 * HOUR, Measure::Bounded { by_wall_millis }));
        assert_eq!(resume(NOON, NOON - HOUR).0, 0);
        assert_eq!(resume(NOON, 0).0, 0);
        // The clock stood at 1973 until NTP set it, before this start.
        assert_eq!(resume(SET_MILLIS_MIN - DECADE, NOON).0, 0);
    }

    #[test]
    fn a_log_of_an_earlier_version_has_the_wall_clock_for_its_own() {
        let clock = LogClock::resume(Some(NOON), None, reading(NOON + HOUR, 7, 60));
        assert_eq!((clock.down_millis, clock.measure), (HOUR, Measure::Wall));
    }

    #[test]
    fn connections_ended_a_minute_after_the_last_sign_of_life_or_at_the_start() {
        let latest_end = |zero_millis| Wall { zero_millis }.latest_end(NOON);
        assert_eq!(latest_end(NOON + HOUR), NOON + 65_000);
        assert_eq!(latest_end(NOON + 2000), NOON + 2000);
        assert_eq!(latest_end(0), NOON);
    }

    #[test]
    fn a_step_is_what_the_wall_clock_has_moved_otherwise_than_the_steady_one() {
        let step = |wall| mark(NOON).step_millis(NOON + 500, reading(wall, 7, 5500));
        assert_eq!(step(NOON + 500), 0);
        assert_eq!(step(NOON + 500 + HOUR), HOUR.cast_signed());
        assert_eq!(step(NOON + 500 - DECADE), -DECADE.cast_signed());
        assert_eq!(step(u64::MAX).signum(), 1);
    }
}
