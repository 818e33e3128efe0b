//! Visits the connections now and then to see how many messages each one carries.

use crate::base::{ConnectionSlot, Time};
use crate::broker::components::loads::LoadSeen;
use crate::broker::{SLOTS_A_TURN, Shard};

impl Shard {
    /// Goes on with a round, if one is due.
    #[inline(always)]
    pub(in crate::broker) fn look_at_loads(&mut self, now: Time) {
        if let Some(from) = self.loads.due(now) {
            self.visit_connections(now, from);
        }
    }

    #[cold]
    fn visit_connections(&mut self, now: Time, from: u32) {
        let slots = self.connections.slots();
        if from == 0 {
            self.loads.begin(now, slots);
        }
        let to = from.saturating_add(SLOTS_A_TURN).min(slots);
        for slot in (from..to).map(ConnectionSlot::new) {
            let Some(connection) = self.connections.get(slot) else { continue };
            let sent = self.outbox.given(slot).messages;
            let seen = LoadSeen { serial: connection.serial, received: connection.messages_in, sent };
            self.loads.visit(slot, seen);
        }
        self.loads.go_on_at((to < slots).then_some(to));
    }
}
