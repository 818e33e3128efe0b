//! Clients that bring more data than the disk or another shard takes are not read until there is room again.
//!
//! The input is the bytes of the journal and of waiting mails. The output is whether a connection is read.
//! The bounds hold within a turn, because they are checked before each packet. A connection stops only after
//! a packet that adds to the waiting data. So clients that need neither the log nor another shard are served
//! meanwhile.

use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::connections::PAUSED_BY_ROOM;
use crate::broker::{Event, Limit, Shard};

/// While the disk is full, no large records are written, and mails are taken until there are this many times
/// as many bytes of records.
const FULL_DISK_FACTOR: usize = 4;

/// The largest number of bytes of messages for other shards that the host has not taken.
const MAIL_BYTES_MAX: usize = 1 << 20;

/// The totals of records and of mails to other shards before a connection was read.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Brought {
    records: u64,
    mail_bytes: usize,
}

impl Shard {
    /// Sets a smaller bound for the journal, for tests.
    pub fn bound_journal(&mut self, bytes: usize) {
        self.behind.bound_journal(bytes);
    }

    /// Whether more records wait for the disk than may. The host should then put off input that adds to them.
    pub fn is_log_behind(&self) -> bool {
        self.behind.is_log_behind()
    }

    /// Whether so many records wait that nothing may be read at all.
    pub fn is_log_far_behind(&self) -> bool {
        self.durability.waiting_bytes() > 2 * self.behind.journal_bytes_max()
    }

    /// Whether mails of other shards may be handled now. The log does not depend on mails to make progress.
    pub fn takes_mails(&self) -> bool {
        let bytes_max = FULL_DISK_FACTOR * self.behind.journal_bytes_max();
        let has_room = !self.behind.is_log_behind()
            || (self.durability.is_full() && self.durability.waiting_bytes() <= bytes_max);
        has_room && self.has_turn_for_mails()
    }

    /// Notes whether the box of another shard is full.
    pub fn handle_mesh_full(&mut self, is_full: bool) {
        self.behind.set_mesh_full(is_full);
    }

    /// Notes that the journal has grown, or that some of it was taken.
    pub(in crate::broker) fn note_journal(&mut self) {
        self.behind.note_journal(self.durability.waiting_bytes());
    }

    pub(in crate::broker) fn brought(&mut self) -> Brought {
        // A single shard sends no mails.
        let mail_bytes = if self.shared.shards() > 1 { self.outgoing.bytes() } else { 0 };
        Brought { records: self.durability.count(), mail_bytes }
    }

    /// Whether the next packet of a served connection must wait for room. `before` has the totals before it
    /// was read.
    pub(in crate::broker) fn waits_for_room(&mut self, slot: ConnectionSlot, before: Brought) -> bool {
        let is_log = self.behind.is_log_behind() && self.durability.count() > before.records;
        let is_mesh = self.shared.shards() > 1
            && self.outgoing.bytes() > before.mail_bytes
            && !self.has_room_for_mails();
        if !is_log && !is_mesh {
            return false;
        }
        let Some(key) = self.connections.key(slot) else { return false };
        if !self.behind.is_anyone_waiting() && is_log {
            self.report(Event::LimitReached { limit: Limit::Log, client: "".into() });
        }
        if self.pause(slot, PAUSED_BY_ROOM) {
            self.behind.wait(key);
        }
        true
    }

    fn has_room_for_mails(&self) -> bool {
        !self.behind.is_mesh_full() && self.outgoing.bytes_seen() <= MAIL_BYTES_MAX
    }

    /// Whether a connection waits for which there is room.
    pub(in crate::broker) fn has_room_for_waiting(&self) -> bool {
        self.behind.is_anyone_waiting() && !self.behind.is_log_behind() && self.has_room_for_mails()
    }

    /// Reads from waiting connections, each in turn, while there is room.
    pub(in crate::broker) fn read_waiting(&mut self, now: Time) {
        for _ in 0..self.behind.waiting() {
            if !self.has_room_for_waiting() {
                return;
            }
            let Some(key) = self.behind.pop_waiting() else { return };
            if self.connections.has(key) {
                self.go_on(now, key.slot, PAUSED_BY_ROOM);
                self.settle(now);
            }
        }
    }
}
