//! Letting the clients of a shard go at a pace, before its broker stops.

use crate::base::Time;
use crate::broker::questions::DrainOrder;

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Drain {
    running: Option<RunningDrain>,
    /// Whether its timer runs.
    has_timer: bool,
}

struct RunningDrain {
    order: DrainOrder,
    since: Time,
    /// The number of clients that were let go.
    gone: u64,
    /// The next slot to look at.
    next: u32,
}

impl Drain {
    /// Begins, or goes on with another order.
    pub(in crate::broker) fn begin(&mut self, now: Time, order: DrainOrder) {
        self.running = Some(RunningDrain { order, since: now, gone: 0, next: 0 });
    }

    /// Lets nobody else go.
    pub(in crate::broker) fn end(&mut self) {
        self.running = None;
    }

    #[inline(always)]
    pub(in crate::broker) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// The server to which clients are sent, if one is named.
    pub(in crate::broker) fn server_reference(&self) -> Option<&str> {
        self.running.as_ref()?.order.server_reference.as_deref()
    }

    /// The number of clients that may go now.
    pub(in crate::broker) fn due(&self, now: Time) -> u64 {
        self.running.as_ref().map_or(0, |running| {
            let rate = u64::from(running.order.clients_per_second);
            (now.millis_since(running.since) * rate / 1000).saturating_sub(running.gone)
        })
    }

    /// The next slot to look at, of this many. It begins again after the last one, for clients that have come since.
    pub(in crate::broker) fn next_slot(&mut self, slots: u32) -> Option<u32> {
        let running = self.running.as_mut()?;
        if running.next >= slots {
            running.next = 0;
            return None;
        }
        running.next += 1;
        Some(running.next - 1)
    }

    /// Notes that a client was let go.
    pub(in crate::broker) fn note_gone(&mut self) {
        if let Some(running) = &mut self.running {
            running.gone += 1;
        }
    }

    /// Notes that its timer is about to run. Returns whether it must be started.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        self.is_on() && !std::mem::replace(&mut self.has_timer, true)
    }

    /// Notes that its timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.has_timer = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_go_at_the_rate_and_each_slot_has_its_turn() {
        let mut drain = Drain::default();
        assert!(!drain.is_on() && !drain.needs_timer() && drain.due(Time::from_millis(9)) == 0);
        drain.begin(
            Time::from_millis(1000),
            DrainOrder { clients_per_second: 10, server_reference: Some("b".into()) },
        );
        assert!(drain.needs_timer() && !drain.needs_timer());
        assert_eq!((drain.due(Time::from_millis(1099)), drain.due(Time::from_millis(2000))), (0, 10));
        assert_eq!([drain.next_slot(2), drain.next_slot(2), drain.next_slot(2)], [Some(0), Some(1), None]);
        assert_eq!(drain.next_slot(2), Some(0), "again");
        drain.note_gone();
        assert_eq!((drain.due(Time::from_millis(2000)), drain.server_reference()), (9, Some("b")));
        drain.note_fired();
        drain.end();
        assert!(!drain.is_on() && !drain.needs_timer());
    }
}
