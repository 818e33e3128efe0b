//! The timers of a shard: those that run, and those that have fired and are not handled yet.

use crate::base::{ConnectionSlot, SessionSlot, Time, TimerId, Wheel};

use std::collections::VecDeque;

/// The purpose of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) enum Timer {
    /// The time limit for CONNECT, and later the keep alive; or the time of a refusal that waits.
    Connection(ConnectionSlot),
    /// The permissions of a client's login end.
    Permission(ConnectionSlot),
    /// A will's delay is over.
    WillDelay(SessionSlot),
    /// A session's expiry interval is over.
    SessionExpiry(SessionSlot),
    /// The bucket of a connection has enough.
    Rate(ConnectionSlot),
    /// The bucket of a listener has enough.
    Lane(u16),
    /// Record the losses of sessions.
    Losses,
    /// Check whether the disks have room for connections that wait.
    Disk,
    /// Check for expired retained messages.
    Sweep,
    /// Publish `$SYS`.
    Sys,
    /// Record in the log that the broker is alive.
    Alive,
    /// Check whether memory is still tight.
    Memory,
    /// Let clients go.
    Drain,
}

/// See the module.
pub(in crate::broker) struct Timers {
    wheel: Wheel<Timer>,
    fired: VecDeque<Timer>,
}

impl Timers {
    pub(in crate::broker) fn new() -> Timers {
        Timers { wheel: Wheel::new(), fired: VecDeque::new() }
    }

    /// Starts a timer.
    pub(in crate::broker) fn schedule(&mut self, deadline: Time, timer: Timer) -> TimerId {
        self.wheel.schedule(deadline, timer)
    }

    /// Stops a timer, if it runs.
    pub(in crate::broker) fn cancel(&mut self, timer: TimerId) {
        self.wheel.cancel(timer);
    }

    /// When a timer fires. `None` if it does not run any more.
    pub(in crate::broker) fn deadline(&self, timer: TimerId) -> Option<Time> {
        self.wheel.deadline(timer)
    }

    /// When the next timer fires.
    pub(in crate::broker) fn next_deadline(&self) -> Option<Time> {
        self.wheel.next_deadline()
    }

    /// Clears `timer` if it has fired. Returns `false` if not.
    pub(in crate::broker) fn take_fired(&self, timer: &mut Option<TimerId>) -> bool {
        timer.take_if(|id| !self.wheel.is_running(*id)).is_some()
    }

    /// Notes the time: timers that are due have fired.
    pub(in crate::broker) fn expire(&mut self, now: Time) {
        self.wheel.expire(now, &mut self.fired);
    }

    /// Whether a timer has fired that is not handled.
    pub(in crate::broker) fn has_fired(&self) -> bool {
        !self.fired.is_empty()
    }

    /// The next fired timer, in the order of the deadlines.
    pub(in crate::broker) fn pop_fired(&mut self) -> Option<Timer> {
        self.fired.pop_front()
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.wheel.give_memory_back();
        self.fired.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines_and_cancelled_ones_do_not() {
        let mut timers = Timers::new();
        let at = |seconds| Time::ZERO.after_seconds(seconds);
        let mut late = Some(timers.schedule(at(9), Timer::Sys));
        let mut early = Some(timers.schedule(at(2), Timer::Sweep));
        let cancelled = timers.schedule(at(1), Timer::Disk);
        timers.cancel(cancelled);
        assert!(timers.next_deadline().is_some_and(|deadline| deadline <= at(2)), "never too late");
        timers.expire(at(3));
        assert!(timers.has_fired());
        assert!(timers.take_fired(&mut early) && early.is_none());
        assert!(!timers.take_fired(&mut late) && late.is_some());
        timers.expire(at(10));
        assert_eq!([timers.pop_fired(), timers.pop_fired()], [Some(Timer::Sweep), Some(Timer::Sys)]);
        assert!(!timers.has_fired() && timers.next_deadline().is_none());
    }
}
