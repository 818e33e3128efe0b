//! The host and the wall clock: whether it was set.

use super::{Host, Io};
use crate::base::Time;
use crate::store::{ClockMark, STEP_MILLIS_MIN, Wall};
use std::sync::atomic::Ordering;

/// What a shard has noted of the machine's clocks.
pub(super) struct ClockWatch {
    /// The log's clock, if there is a log.
    wall: Wall,
    noted: ClockMark,
    /// Of all steps since the start, milliseconds.
    step_millis: i64,
    next: Time,
}

/// So often a turn looks at the wall clock.
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
    /// A log begins, with a note of the clocks.
    pub(super) fn begin_clock(&mut self, wall: Wall) {
        let (now, reading) = self.io.read_clock();
        self.machine.handle_clock(now, reading);
        self.clock.wall = wall;
        self.clock.noted = ClockMark { at_millis: wall.millis(now), reading };
    }

    /// A wall clock that was set moves no expiry: those go by the machine's steady clock. But the next start may have
    /// to measure by it how long the machine was off, and permissions end by it.
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
        // Every shard sees it, and one says so.
        let told = self.control.told_step_millis.swap(total, Ordering::AcqRel);
        if told.abs_diff(total) >= STEP_MILLIS_MIN {
            tracing::warn!(
                step_millis = total.saturating_sub(told),
                "the wall clock was set: expiries and delays go on by the time that passes, not by it"
            );
        }
    }
}
