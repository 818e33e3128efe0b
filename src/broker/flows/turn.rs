//! The end of a turn, when work that was put off continues.
//!
//! Each kind of work has a part of the share, so that none keeps out another: fan-outs and unread packets,
//! sessions with queues, items that the log has, timers, retained messages, and rare work. The rest continues
//! in the next turn, which follows at once.

use crate::base::ConnectionKey;
use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::budget::WORK_A_FAREWELL;
use crate::broker::components::connections::Connection;
use crate::broker::components::connections::PAUSED_BY_WORK;
use crate::broker::{EndCause, Hangup, Shard};

impl Shard {
    /// Called once per turn, after all input. Continues work that was put off so that no client can fill a
    /// turn alone.
    pub fn handle_turn(&mut self, now: Time) {
        self.durability.set_now(now);
        if self.has_deferred() {
            self.go_on_with_deferred(now);
            let has_more = self.look_for_put_off();
            self.turn.set_put_off(has_more);
        }
        // The consequences of a receipt may cause more receipts.
        while self.post_receipts() {
            self.settle(now);
        }
        if self.outbox.has_overrun() {
            self.end_overrun(now);
        }
        self.recent = None;
        self.tell_sent();
        self.look_at_memory(now);
        self.look_at_loads(now);
        self.renew(1);
    }

    fn go_on_with_deferred(&mut self, now: Time) {
        self.renew(6);
        self.release_durable(now);
        self.settle(now);
        self.renew(6);
        self.run_timers(now);
        self.renew(6);
        self.pump_deferred(now);
        self.work_off_overdue(now);
        self.renew(6);
        self.handle_next_turn(now);
        self.renew(6);
        self.finish_filters(now);
        self.judge_again(now);
        self.say_farewell(now);
        self.settle(now);
        self.renew(2);
        self.read_waiting(now);
        self.read_on(now);
        self.settle(now);
    }

    /// Whether there is work for the next turn even without input.
    pub fn has_deferred(&self) -> bool {
        debug_assert!(self.turn.has_put_off() || !self.look_for_put_off(), "what puts something off says so");
        self.turn.has_put_off() || self.has_room_for_waiting()
    }

    /// Whether work was put off. Every turn needs to know this, and nearly always there is none, which
    /// [`Shard::has_put_off`] shows without this search.
    fn look_for_put_off(&self) -> bool {
        self.turn.has_work()
            || !self.convoys.is_empty()
            || self.requests.has_unfinished()
            || self.timers.has_fired()
            || self.has_next_turn()
            || self.is_judging()
            || self.is_making_room()
            || self.has_durable()
            || self.restart.has_work()
    }

    /// Sends DISCONNECT 0x8B to 5.0 clients and closes every connection, as fast as turns allow. Sessions stay.
    pub fn handle_shutdown(&mut self, now: Time) {
        self.durability.set_now(now);
        self.record_losses(usize::MAX);
        self.turn.begin_farewell();
        self.say_farewell(now);
        self.settle(now);
    }

    fn say_farewell(&mut self, now: Time) {
        while !self.is_spent()
            && let Some(slot) = self.turn.next_farewell(self.connections.slots())
        {
            if self.connections.get(slot).is_some() {
                self.spend(WORK_A_FAREWELL);
                self.end_connection(now, slot, EndCause::Shutdown);
            }
        }
    }

    fn pump_deferred(&mut self, now: Time) {
        // A session that is put off again is placed after all others.
        for _ in 0..self.turn.deferred_sessions() {
            if self.is_spent() {
                return;
            }
            let Some(session) = self.turn.pop_session() else { return };
            self.pump(now, session);
            self.settle(now);
        }
    }

    /// Continues with fan-outs and connections by turns.
    fn read_on(&mut self, now: Time) {
        loop {
            if self.is_spent() {
                return;
            }
            let has_convoy = self.run_convoy(now);
            // The publisher gets its answer, and is read again.
            while self.post_receipts() {
                self.settle(now);
            }
            let unread = self.turn.pop_unread();
            if let Some(key) = unread
                && self.connections.has(key)
            {
                self.go_on(now, key.slot, PAUSED_BY_WORK);
                self.settle(now);
            }
            if !has_convoy && unread.is_none() {
                return;
            }
        }
    }

    /// Stops reading from a connection until its turn comes again.
    pub(in crate::broker) fn put_off_reading(&mut self, slot: ConnectionSlot) {
        if self.pause(slot, PAUSED_BY_WORK)
            && let Some(key) = self.connections.key(slot)
        {
            self.turn.read_later(key);
        }
    }

    /// The number of bytes of MQTT that wait in the machine: of an incomplete packet, or of packets that are
    /// handled later.
    pub fn unread_bytes(&self, slot: ConnectionSlot) -> usize {
        self.connections.get(slot).map_or(0, Connection::unread_bytes)
    }

    /// Reads a connection again, because the work that it waited for is done.
    pub(in crate::broker) fn read_on_later(&mut self, key: ConnectionKey) {
        self.turn.read_later(key);
    }

    /// Ends connections whose data of one turn exceeded its arena. Their streams end before the gap.
    fn end_overrun(&mut self, now: Time) {
        for slot in self.outbox.take_overrun() {
            self.end_connection(now, slot, EndCause::Hangup(Hangup::BacklogFull));
        }
    }
}
