//! The state of a connection whose socket does not take everything: how much waits, how much of that the
//! client has asked for itself, and when its socket last took something.
//!
//! If a client's backlog consists of other clients' messages, midge still reads from it, because its PINGREQs
//! and acknowledgements count. If a client asks for more than it reads, midge does not read from it until it
//! has read most of its backlog. The bytes of a backlog are not tracked one by one. Bytes that the client
//! asked for count until the socket has taken everything that waited at a later mark.

use crate::base::MemoryKind;
use crate::base::Time;
use crate::base::{ConnectionSlot, SessionSlot};
use crate::broker::components::connections::PAUSED_BY_BACKLOG;
use crate::broker::components::connections::{Backlog, Slow};
use crate::broker::components::sessions::BACKLOGGED;
use crate::broker::{Counter, Event, Limit, Shard};

impl Shard {
    pub(in crate::broker) fn note_backlog(&mut self, now: Time, slot: ConnectionSlot, backlog: Backlog) {
        let limit = self.settings.config.limits.backlog_bytes;
        let given = self.outbox.given(slot);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let (before, packets_before) = (connection.backlog_bytes(), connection.backlog_packets());
        let slow = connection.slow.get_or_insert_with(|| Box::new(Slow::new(now, backlog)));
        slow.note(now, backlog);
        slow.estimate(given);
        let packets = slow.packets();
        let (asks_too_much, may_ask_again) = (slow.asks_too_much(limit), slow.may_ask_again(limit));
        self.memory.account().subtract(MemoryKind::Backlogs, before);
        self.memory.account().add(MemoryKind::Backlogs, backlog.bytes);
        self.count(Counter::PacketsWaiting, packets.wrapping_sub(packets_before));
        let Some(session) = self.connections.session_of(slot) else { return };
        self.sessions.slot_mut(session).flags |= BACKLOGGED;
        // Only the client that causes the backlog is not read. It is not responsible for what others send to
        // it.
        if asks_too_much {
            if self.pause(slot, PAUSED_BY_BACKLOG) {
                let client = self.client_for_log(session);
                self.report(Event::LimitReached { limit: Limit::BacklogPause, client });
            }
        } else if may_ask_again {
            self.unpause(now, slot, PAUSED_BY_BACKLOG);
        }
    }

    pub(in crate::broker) fn count_no_backlog(&self, packets: u64) {
        if packets > 0 {
            self.shared.counters[usize::from(self.id)].subtract(Counter::PacketsWaiting, packets);
        }
    }

    /// Reports once for each backlog which messages its client has lost.
    pub(in crate::broker) fn tell_dropped(&mut self, session: SessionSlot, slow: Option<&Slow>) {
        let Some(messages) = slow.map(|slow| slow.dropped).filter(|&messages| messages > 0) else { return };
        let client = self.client_for_log(session);
        self.report(Event::DroppedForSlow { client, messages });
    }

    /// Notes that bytes go to a client because it has asked for them.
    pub(in crate::broker) fn note_asked(&mut self, slot: ConnectionSlot, bytes: usize) {
        if let Some(slow) = self.connections.get_mut(slot).and_then(|connection| connection.slow.as_mut()) {
            slow.note_asked(bytes);
        }
    }

    pub(in crate::broker) fn note_drained(&mut self, now: Time, slot: ConnectionSlot) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let slow = connection.slow.take();
        self.memory.account().subtract(MemoryKind::Backlogs, slow.as_ref().map_or(0, |slow| slow.bytes()));
        self.count_no_backlog(slow.as_ref().map_or(0, |slow| slow.packets()));
        let Some(session) = self.connections.session_of(slot) else { return };
        self.tell_dropped(session, slow.as_deref());
        self.sessions.slot_mut(session).flags &= !BACKLOGGED;
        self.unpause(now, slot, PAUSED_BY_BACKLOG);
        self.pump(now, session);
    }
}
