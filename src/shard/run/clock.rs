//! The runner and the wall clock: whether it was set.

use super::Runner;
use crate::store::{ClockMark, STEP_MILLIS_MIN, Wall};
use crate::time::Time;
use std::sync::atomic::Ordering;

/// What the log of a shard has of the machine's clocks.
pub(super) struct ClockWatch {
    wall: Wall,
    noted: ClockMark,
    /// Of all steps since the start, milliseconds.
    step_millis: i64,
    next: Time,
}

/// So often a turn looks at the wall clock.
const LOOK_MILLIS: u64 = 1000;

impl ClockWatch {
    /// Notes the clocks at the beginning of a log.
    pub(super) fn start(runner: &mut Runner, wall: Wall) -> ClockWatch {
        let (now, reading) = runner.control.clock.read();
        runner.machine.handle_clock(now, reading);
        let noted = ClockMark { at_millis: wall.millis(now), reading };
        ClockWatch { wall, noted, step_millis: 0, next: now.after_millis(LOOK_MILLIS) }
    }
}

impl Runner {
    /// A wall clock that was set moves nothing of what this run does: its clock is the machine's steady one. But the
    /// next start measures by the wall clock how long the machine was off, and must know of it.
    pub(super) fn watch_clock(&mut self, now: Time) {
        let Some(store) = &mut self.store else { return };
        let watch = store.clock_mut();
        if now < watch.next {
            return;
        }
        watch.next = now.after_millis(LOOK_MILLIS);
        let (now, reading) = self.control.clock.read();
        let at_millis = watch.wall.millis(now);
        let step = watch.noted.step_millis(at_millis, reading);
        if step.unsigned_abs() < STEP_MILLIS_MIN {
            return;
        }
        watch.noted = ClockMark { at_millis, reading };
        watch.step_millis = watch.step_millis.saturating_add(step);
        let total = watch.step_millis;
        self.machine.handle_clock(now, reading);
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
