//! Who brings more than the disk or another shard takes is read no further until there is room again.
//!
//! In come the bytes of the journal and of the mails that wait; out goes whether a connection is read on. The bounds
//! hold within a turn: they are looked at before each packet. A connection stops only behind a packet that adds to
//! what is behind, so that those who need neither the log nor another shard are served meanwhile.

use crate::base::ConnectionSlot;
use crate::base::Time;
use crate::broker::components::connections::PAUSED_BY_ROOM;
use crate::broker::{Event, Limit, Shard};

/// While the disk is full nothing is taken down that is large, and mails are taken until there are so many times as
/// many bytes of records.
const FULL_DISK_FACTOR: usize = 4;

/// Messages for other shards that the host has not taken.
const MAIL_BYTES_MAX: usize = 1 << 20;

/// What had been taken down, and sent to other shards, before a connection was read.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Brought {
    records: u64,
    mail_bytes: usize,
}

impl Shard {
    /// A smaller bound for the journal, for tests.
    pub fn bound_journal(&mut self, bytes: usize) {
        self.behind.bound_journal(bytes);
    }

    /// Do more records wait for the disk than may? What else adds to them is better left for later.
    pub fn is_log_behind(&self) -> bool {
        self.behind.is_log_behind()
    }

    /// Do so many records wait that nothing may be read at all?
    pub fn is_log_far_behind(&self) -> bool {
        self.durability.waiting_bytes() > 2 * self.behind.journal_bytes_max()
    }

    /// May mails of other shards be handled now? What the log needs to go on does not come by mail.
    pub fn takes_mails(&self) -> bool {
        let bytes_max = FULL_DISK_FACTOR * self.behind.journal_bytes_max();
        let has_room = !self.behind.is_log_behind()
            || (self.durability.is_full() && self.durability.waiting_bytes() <= bytes_max);
        has_room && self.has_turn_for_mails()
    }

    /// The box of another shard is full (`true`), or none is any more.
    pub fn handle_mesh_full(&mut self, is_full: bool) {
        self.behind.set_mesh_full(is_full);
    }

    /// The journal has grown, or some of it was taken.
    pub(in crate::broker) fn note_journal(&mut self) {
        self.behind.note_journal(self.durability.waiting_bytes());
    }

    pub(in crate::broker) fn brought(&mut self) -> Brought {
        // A single shard sends no mails.
        let mail_bytes = if self.shared.shards() > 1 { self.outgoing.bytes() } else { 0 };
        Brought { records: self.durability.count(), mail_bytes }
    }

    /// Must the next packet of a served connection wait until there is room? `before`: as it was before it was read.
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

    /// Is someone waiting for whom there is room?
    pub(in crate::broker) fn has_room_for_waiting(&self) -> bool {
        self.behind.is_anyone_waiting() && !self.behind.is_log_behind() && self.has_room_for_mails()
    }

    /// Goes on with those who wait, each in turn, as long as there is room.
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
