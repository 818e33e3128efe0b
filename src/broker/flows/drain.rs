//! A drain: clients are let go at a pace, and new ones are refused, until the broker stops or the operator thinks
//! otherwise. Sessions stay.

use crate::base::{ConnectionSlot, Time};
use crate::broker::components::budget::WORK_A_FAREWELL;
use crate::broker::components::timers::Timer;
use crate::broker::questions::DrainOrder;
use crate::broker::{EndCause, Shard, Violation};
use crate::mqtt::{ProtocolVersion, Reason};

/// The time between two looks at who may go.
const LOOK_MILLIS: u64 = 50;

impl Shard {
    /// Begins a drain, or ends it.
    pub(in crate::broker) fn set_drain(&mut self, now: Time, order: Option<DrainOrder>) {
        match order {
            Some(order) => self.drain.begin(now, order),
            None => self.drain.end(),
        }
        self.start_drain_timer(now);
    }

    fn start_drain_timer(&mut self, now: Time) {
        if self.drain.needs_timer() {
            self.timers.schedule(now.after_millis(LOOK_MILLIS), Timer::Drain);
        }
    }

    /// Lets go whoever is due.
    pub(in crate::broker) fn handle_drain_timer(&mut self, now: Time) {
        self.drain.note_fired();
        let mut due = self.drain.due(now);
        while due > 0
            && !self.is_spent()
            && let Some(slot) = self.drain.next_slot(self.connections.slots())
        {
            let slot = ConnectionSlot::new(slot);
            // Others have their answer soon: their CONNECT is refused.
            if self.connections.session_of(slot).is_none() {
                continue;
            }
            self.spend(WORK_A_FAREWELL);
            self.drain.note_gone();
            due -= 1;
            let reason = match self.drain.server_reference() {
                Some(_) => Reason::UseAnotherServer,
                None => Reason::ServerShuttingDown,
            };
            self.end_connection(now, slot, EndCause::Drained(reason));
        }
        self.start_drain_timer(now);
    }

    /// The refusal of a client that comes while the others go.
    pub(in crate::broker) fn refuses_for_drain(&self, version: ProtocolVersion) -> Result<(), Violation> {
        if !self.drain.is_on() {
            return Ok(());
        }
        // 3.x has no word for another server.
        let reason = match self.drain.server_reference() {
            Some(_) if version == ProtocolVersion::V5 => Reason::UseAnotherServer,
            _ => Reason::ServerUnavailable,
        };
        Err(Violation { reason, cause: "the operator lets all clients go" })
    }
}
