//! What a wrong login costs the connection: its refusal waits as long as the gate says, and nothing is read from it
//! meanwhile. How long that is depends on the address, which this machine alone does not know enough of: it is an
//! effect, and the answer comes as [`Shard::handle_penalty`].

use super::connect::Told;
use super::read::Progress;
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::connections::Stage;
use crate::broker::components::timers::Timer;
use crate::broker::{Counter, Effect, EndCause, Event, SLOTS_A_TURN, Shard, Violation};
use std::net::SocketAddr;

/// Refusals of a shard that wait at a time: more are sent at once, so that guessing does not fill the
/// shard with connections that wait. `gate.delay_milliseconds_max` tells of it.
pub const REFUSALS_WAITING_MAX: usize = 1000;

impl Shard {
    /// What a wrong login of this connection costs. `serial`: as in [`Effect::LoginFailed`]. The refusal is sent
    /// after the delay, in milliseconds; at once with none, or when [`REFUSALS_WAITING_MAX`] wait.
    pub fn handle_penalty(&mut self, now: Time, slot: ConnectionSlot, serial: u32, delay_millis: u64) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if connection.serial != serial || !matches!(connection.stage, Stage::Refuse) {
            return;
        }
        if delay_millis == 0 || self.connections.refusals_waiting() > REFUSALS_WAITING_MAX {
            return self.send_refusal(now, slot);
        }
        self.count(Counter::RefusalsDelayed, 1);
        // The time for CONNECT is over with its answer.
        let timer = self.timers.schedule(now.after_millis(delay_millis), Timer::Connection(slot));
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if let Some(connect_timer) = connection.timer.replace(timer) {
            self.timers.cancel(connect_timer);
        }
    }

    /// Ends the connections of those who are banned from now on, in some slots from this one on. Gives where to go on
    /// in the next turn, if not all is done.
    pub fn handle_bans(
        &mut self,
        now: Time,
        from: u32,
        is_banned: impl Fn(ConnectionSlot, SocketAddr) -> bool,
    ) -> Option<u32> {
        let slots = self.connections.slots();
        let to = from.saturating_add(SLOTS_A_TURN).min(slots);
        for slot in (from..to).map(ConnectionSlot::new) {
            let peer = self.connections.get(slot).map(|connection| SocketAddr::from(&connection.peer));
            if peer.is_some_and(|peer| is_banned(slot, peer)) {
                self.end_connection(now, slot, EndCause::Banned);
            }
        }
        self.settle(now);
        (to < slots).then_some(to)
    }

    /// The address of a connection is known, and the gate is closed to it. Not a word, and no log line of its own.
    pub fn handle_turned_away(&mut self, now: Time, slot: ConnectionSlot) {
        self.end_connection(now, slot, EndCause::Refused);
        self.settle(now);
    }

    /// The client has not proved who it is: it hears so when the gate says.
    pub(in crate::broker) fn refuse_login(
        &mut self,
        slot: ConnectionSlot,
        told: &Told,
        client_id: &str,
        violation: Violation,
    ) -> Progress {
        let user = self.user_tried(slot, Some(told));
        let mut refusal = Vec::new();
        told.encode(&mut refusal, violation.reason);
        let Some(connection) = self.connections.refuse(slot, refusal.into()) else { return Progress::Gone };
        let (serial, peer) = (connection.serial, SocketAddr::from(&connection.peer));
        let listener = connection.listener.into();
        self.report(Event::Refused { client: client_id.into(), peer, user, listener, violation });
        self.note_failure(slot, serial, peer);
        Progress::Next
    }

    fn note_failure(&mut self, slot: ConnectionSlot, serial: u32, peer: SocketAddr) {
        self.count(Counter::LoginsFailed, 1);
        self.effects.push(Effect::LoginFailed { slot, serial, peer });
    }

    /// A client that is in has not proved itself again: it counts as any wrong login, and has its end at once.
    pub(in crate::broker) fn note_failed_again(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connections.get(slot) {
            self.note_failure(slot, connection.serial, SocketAddr::from(&connection.peer));
        }
    }

    /// The client has proved who it is, whatever becomes of it.
    pub(in crate::broker) fn note_proof(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.connections.get(slot) {
            let peer = SocketAddr::from(&connection.peer);
            self.effects.push(Effect::LoginSucceeded { slot, peer });
        }
    }

    pub(in crate::broker) fn send_refusal(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let refusal = std::mem::take(&mut connection.extras().refusal);
        self.send_packet(slot, |out| out.extend_from_slice(&refusal));
        self.end_connection(now, slot, EndCause::Refused);
        self.settle(now);
    }
}
