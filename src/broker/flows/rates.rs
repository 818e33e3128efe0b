//! Rate limits of clients, and of all clients of a listener together. Clients that exceed the rate are
//! throttled: midge reads from them more slowly and drops nothing.
//!
//! The input is each packet of a connection whose listener has rates, before the packet is handled, and the
//! timers that end a wait. The output is whether the packet may be handled now. If not, it stays with the
//! connection's unread bytes, and reading stops until the bucket has enough. Connections that wait for the
//! bucket of a listener are in a lane and continue in turn, each with the same part of what has accumulated.

use crate::base::ConnectionKey;
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::rates::{Cost, Levels, Pace, RateMeasure};

use crate::broker::components::connections::Connection;
use crate::broker::components::connections::{GOES_ON, PAUSED_BY_LANE, PAUSED_BY_RATE};
use crate::broker::components::timers::Timer;
use crate::broker::{Effect, EndCause, Event, Limit, Shard};
use crate::mqtt::codec::Frame;
use std::sync::Arc;

impl Shard {
    /// Begins to count the packets of an accepted client.
    pub(in crate::broker) fn start_pace(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get(slot) else { return };
        let terms = self.settings.terms_of(self.listener_of(connection.entrance));
        if !terms.is_paced() {
            return;
        }
        let pace = Pace::new(now, terms);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.begin_pace(pace);
        }
    }

    /// Gives a connected client the rates that its listener has now. One that waits for its own bucket goes on as the
    /// new rate says.
    pub(in crate::broker) fn change_pace(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(listener) = self.settings.listener_of(connection.entrance) else { return };
        let terms = self.settings.terms_of(listener);
        let Some(pace) = connection.pace_mut() else {
            if terms.is_paced() {
                connection.begin_pace(Pace::new(now, terms));
            }
            return;
        };
        if pace.change(now, terms)
            && let Some(timer) = pace.timer().take()
        {
            self.timers.cancel(timer);
            self.go_on(now, slot, PAUSED_BY_RATE);
        }
    }

    /// Gives the listeners the rates that they have now. The clients that wait for one go on as the new rate says.
    pub(in crate::broker) fn change_lanes(&mut self, now: Time) {
        let settings = Arc::clone(&self.settings);
        let changed = self.lanes.change(now, settings.newest_terms(), self.shared.shards());
        for listener in changed {
            if let Some(timer) = self.lanes.of(listener).take_timer() {
                self.timers.cancel(timer);
                self.handle_lane_timer(now, listener);
            }
        }
    }

    /// Whether a packet may be handled. If not, the connection is paused, and continues with this packet when
    /// there is enough for it.
    pub(in crate::broker) fn takes_packet(
        &mut self,
        now: Time,
        slot: ConnectionSlot,
        packet: &Frame<'_>,
    ) -> bool {
        let cost = Cost {
            messages: u32::from(packet.first_byte >> 4 == PUBLISH_TYPE),
            bytes: u32::try_from(packet.total_len).unwrap_or(u32::MAX),
        };
        let Some(connection) = self.connections.get_mut(slot) else { return true };
        if connection.waits_for_rate() {
            return false;
        }
        let (entrance, key) = (connection.entrance, ConnectionKey { slot, serial: connection.serial });
        let Some(pace) = connection.pace_mut() else { return true };
        if let Some((measure, at)) = pace.lacks(now, cost) {
            let timer = self.timers.schedule(at, Timer::Rate(slot));
            if let Some(pace) = self.connections.get_mut(slot).and_then(Connection::pace_mut) {
                *pace.timer() = Some(timer);
            }
            let limit = match measure {
                RateMeasure::Messages => Limit::ClientMessages,
                RateMeasure::Bytes => Limit::ClientBytes,
            };
            self.pause_for_rate(slot, PAUSED_BY_RATE, limit);
            return false;
        }
        let Some(listener) = self.settings.listener_of(entrance) else { return true };
        let lane = self.lanes.of(listener);
        if let Err(measure) = lane.admit(now, slot, cost) {
            lane.wait(key, cost);
            let limit = match measure {
                RateMeasure::Messages => Limit::ListenerMessages,
                RateMeasure::Bytes => Limit::ListenerBytes,
            };
            self.pause_for_rate(slot, PAUSED_BY_LANE, limit);
            self.start_lane_timer(listener);
            return false;
        }
        if let Some(pace) = self.connections.get_mut(slot).and_then(Connection::pace_mut) {
            pace.take(cost);
        }
        true
    }

    /// Reports once for each connection, and counts each time that reading stops.
    fn pause_for_rate(&mut self, slot: ConnectionSlot, why: u16, limit: Limit) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let is_stopped = connection.is_paused_by(GOES_ON);
        let is_logged = connection.pace_mut().is_none_or(|pace| !pace.tell());
        self.pause(slot, why);
        if is_stopped {
            return;
        }
        match self.connections.session_of(slot).filter(|_| !is_logged) {
            Some(session) => {
                let client = self.client_for_log(session);
                self.report(Event::LimitReached { limit, client });
            }
            None => self.count(limit.counter(), 1),
        }
    }

    /// Continues a connection whose own bucket has enough.
    pub(in crate::broker) fn handle_rate_timer(&mut self, now: Time, slot: ConnectionSlot) {
        let connection = self.connections.get_mut(slot);
        let pace = connection.and_then(|connection| connection.pace_mut());
        if pace.is_some_and(|pace| self.timers.take_fired(pace.timer())) {
            self.go_on(now, slot, PAUSED_BY_RATE);
        }
    }

    fn start_lane_timer(&mut self, listener: u16) {
        if let Some(at) = self.lanes.of(listener).next_timer() {
            let timer = self.timers.schedule(at, Timer::Lane(listener));
            self.lanes.of(listener).set_timer(timer);
        }
    }

    /// Continues the connections of a lane, because there is enough for the first one. Each gets the same
    /// part of the level, and at least one packet. The remainder is shared in another round, and connections
    /// that get some of it are placed after the others for the next time. If the last one of a round always
    /// got the remainder, it would be the same connection each time.
    pub(in crate::broker) fn handle_lane_timer(&mut self, now: Time, listener: u16) {
        self.lanes.of(listener).note_fired(now);
        let (mut round, mut part) = (0, Levels::default());
        loop {
            let lane = self.lanes.of(listener);
            lane.drop_gone(|key| self.connections.has(key));
            if round == 0 {
                (round, part) = (lane.waiting(), lane.part());
            }
            let Some(turn) = lane.next_turn(part) else { break };
            round -= 1;
            self.go_on(now, turn.slot, PAUSED_BY_LANE);
            self.lanes.of(listener).end_turn();
        }
        self.start_lane_timer(listener);
    }

    /// Handles what a connection has sent before it was paused, and then reads from it again.
    pub(in crate::broker) fn go_on(&mut self, now: Time, slot: ConnectionSlot, why: u16) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.begin_going_on(why);
        // Packets that the client has sent meanwhile are unread, including PINGREQ. [MQTT5-3.1.2-22]
        connection.last_packet = now;
        self.read(now, slot, &[]);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let is_paused = connection.end_going_on();
        if connection.has_unhandled() {
            return;
        }
        if let Some(hangup) = connection.extras.as_mut().and_then(|extras| extras.hangup.take()) {
            self.end_connection(now, slot, EndCause::Hangup(hangup));
        } else if !is_paused {
            self.effects.push(Effect::Resume { slot });
        }
    }

    /// Ends the rate state of a connection that leaves this machine.
    pub(in crate::broker) fn end_pace(&mut self, connection: &mut Connection) {
        let waits_in_lane = connection.is_paused_by(PAUSED_BY_LANE);
        if let Some(timer) = connection.pace_mut().and_then(|pace| pace.timer().take()) {
            self.timers.cancel(timer);
        }
        if waits_in_lane {
            self.lanes.of(self.listener_of(connection.entrance)).note_gone(|key| self.connections.has(key));
        }
    }
}

/// The packet type of PUBLISH.
const PUBLISH_TYPE: u8 = 3;
