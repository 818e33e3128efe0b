//! Detects changes of the wall clock.

use super::{Host, Io};
use crate::base::Time;
use crate::store::{ClockMark, STEP_MILLIS_MIN, Wall};
use std::sync::atomic::Ordering;

/// The machine's clocks, as a shard has last seen them.
pub(super) struct ClockWatch {
    /// The log's clock. It is only set if there is a log.
    wall: Wall,
    noted: ClockMark,
    /// The sum of all clock changes since the start, in milliseconds.
    step_millis: i64,
    next: Time,
}

/// How often a turn looks at the wall clock.
const LOOK_MILLIS: u64 = 1000;

impl ClockWatch {
    pub(super) fn new(io: &impl Io) -> ClockWatch {
        let (now, reading) = io.read_clock();
        let wall = Wall::default();
        let noted = ClockMark { at_millis: wall.millis(now), reading };
        ClockWatch { wall, noted, step_millis: 0, next: now.after_millis(LOOK_MILLIS) }
    }
}

impl<I: Io> Host<I> {
    /// Starts with the log's clock and a reading of the machine's clocks.
    pub(super) fn begin_clock(&mut self, wall: Wall) {
        let (now, reading) = self.io.read_clock();
        self.machine.handle_clock(now, reading);
        self.clock.wall = wall;
        self.clock.noted = ClockMark { at_millis: wall.millis(now), reading };
    }

    /// Checks whether the wall clock was set. A change moves no expiry, because these use the machine's
    /// steady clock. But the next start may need the wall clock to measure how long the machine was off, and
    /// permissions end by it.
    pub(super) fn watch_clock(&mut self, now: Time) {
        if now < self.clock.next {
            return;
        }
        let watch = &mut self.clock;
        watch.next = now.after_millis(LOOK_MILLIS);
        let (now, reading) = self.io.read_clock();
        let at_millis = watch.wall.millis(now);
        let step = watch.noted.step_millis(at_millis, reading);
        if step.unsigned_abs() < STEP_MILLIS_MIN {
            return;
        }
        watch.noted = ClockMark { at_millis, reading };
        watch.step_millis = watch.step_millis.saturating_add(step);
        let total = watch.step_millis;
        self.machine.handle_clock(now, reading);
        self.machine.handle_wall_step(now, step);
        // Every shard sees the change. One of them logs it.
        let logged = self.control.logged_step_millis.swap(total, Ordering::AcqRel);
        if logged.abs_diff(total) >= STEP_MILLIS_MIN {
            tracing::warn!(
                step_millis = total.saturating_sub(logged),
                "the wall clock was set: expiries and delays do not follow it, and count the time that passes"
            );
        }
    }
}
