//! The reasons why a connection is not read. A pause does not count against the client's keep alive.
//!
//! The reasons of the machine and of its host are stored together in the connection, and end with it. The
//! host stops reading at [`Effect::Pause`] and at [`Shard::hold_back`], and reads again when no reason is
//! left.

use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::connections::HoldBack;
use crate::broker::{Effect, Shard};

impl Shard {
    /// Stops reading from a connection. Returns `false` if it is already stopped for this reason.
    pub(in crate::broker) fn pause(&mut self, slot: ConnectionSlot, why: u16) -> bool {
        let Some(connection) =
            self.connections.get_mut(slot).filter(|connection| connection.paused & why == 0)
        else {
            return false;
        };
        let before = connection.paused;
        connection.paused |= why;
        if before == 0 {
            self.effects.push(Effect::Pause { slot });
        }
        true
    }

    /// Removes a reason, and reads from the connection again if there is no other.
    pub(in crate::broker) fn unpause(&mut self, now: Time, slot: ConnectionSlot, why: u16) {
        if self.end_pause(now, slot, why) {
            self.effects.push(Effect::Resume { slot });
        }
    }

    /// Removes a reason. Returns whether reading may continue.
    fn end_pause(&mut self, now: Time, slot: ConnectionSlot, why: u16) -> bool {
        let Some(connection) =
            self.connections.get_mut(slot).filter(|connection| connection.paused & why != 0)
        else {
            return false;
        };
        connection.paused &= !why;
        if connection.paused != 0 {
            return false;
        }
        // Packets that arrived meanwhile are unread, including PINGREQ.
        connection.hear(now);
        true
    }

    /// The host stops reading from a connection. Returns `false` if it has already stopped for this reason,
    /// or if there is no such connection.
    pub fn hold_back(&mut self, slot: ConnectionSlot, why: HoldBack) -> bool {
        let Some(connection) = self.connections.get_mut(slot).filter(|c| !c.is_paused_by(why as u16)) else {
            return false;
        };
        connection.paused |= why as u16;
        true
    }

    /// Removes the host's reason. Returns whether the host may read again.
    pub fn let_go(&mut self, now: Time, slot: ConnectionSlot, why: HoldBack) -> bool {
        self.end_pause(now, slot, why as u16)
    }

    /// Whether there is a reason not to read from this connection.
    pub fn is_paused(&self, slot: ConnectionSlot) -> bool {
        self.connections.get(slot).is_some_and(|connection| connection.paused != 0)
    }
}
