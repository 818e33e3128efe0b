//! Who brings more than the disk or another shard takes is read no further until there is room again.
//!
//! In come the bytes of the journal and of the mails that wait; out goes whether a connection is read on. The bounds
//! hold within a turn: they are looked at before each packet. A connection stops only behind a packet that adds to
//! what is behind, so that those who need neither the log nor another shard are served meanwhile.

use super::pauses::PAUSED_BY_ROOM;
use super::{Effect, Event, Limit, Shard};
use crate::base::Time;
use std::collections::VecDeque;

/// Records that wait for the disk.
const JOURNAL_BYTES_MAX: usize = 16 << 20;

/// While the disk is full nothing is taken down that is large, and mails are taken until there are so many times as
/// many bytes of records.
const FULL_DISK_FACTOR: usize = 4;

/// Messages for other shards that wait in the list of effects.
const MAIL_BYTES_MAX: usize = 1 << 20;

/// What is behind, and who waits for it.
#[derive(Debug)]
pub(super) struct Behind {
    journal_bytes_max: usize,
    /// More records wait than may, or have since, and there are still more than half as many.
    is_log_behind: bool,
    /// The box of another shard is full.
    is_mesh_full: bool,
    /// Effects that were looked at, and the bytes of the messages in them.
    effects_seen: usize,
    mail_bytes: usize,
    /// Connections, with their serials.
    waiting: VecDeque<(u32, u32)>,
}

/// What had been taken down, and sent to other shards, before a connection was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brought {
    records: u64,
    mail_bytes: usize,
}

impl Default for Behind {
    fn default() -> Behind {
        Behind {
            journal_bytes_max: JOURNAL_BYTES_MAX,
            is_log_behind: false,
            is_mesh_full: false,
            effects_seen: 0,
            mail_bytes: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl Behind {
    pub(super) fn give_memory_back(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// The effects are taken.
    pub(super) fn forget_effects(&mut self) {
        (self.effects_seen, self.mail_bytes) = (0, 0);
    }
}

impl Shard {
    /// A smaller bound for the journal, for tests.
    pub fn bound_journal(&mut self, bytes: usize) {
        self.behind.journal_bytes_max = bytes;
    }

    /// Do more records wait for the disk than may? What else adds to them is better left for later.
    pub fn is_log_behind(&self) -> bool {
        self.behind.is_log_behind
    }

    /// Do so many records wait that nothing may be read at all?
    pub fn is_log_far_behind(&self) -> bool {
        self.journal.waiting_bytes() > 2 * self.behind.journal_bytes_max
    }

    /// May mails of other shards be handled now? What the log needs to go on does not come by mail.
    pub fn takes_mails(&self) -> bool {
        let bytes_max = FULL_DISK_FACTOR * self.behind.journal_bytes_max;
        let has_room =
            !self.behind.is_log_behind || (self.store_full && self.journal.waiting_bytes() <= bytes_max);
        has_room && self.has_turn_for_mails()
    }

    /// The box of another shard is full (`true`), or none is any more.
    pub fn handle_mesh_full(&mut self, is_full: bool) {
        self.behind.is_mesh_full = is_full;
    }

    /// The journal has grown, or some of it was taken.
    pub(super) fn note_journal(&mut self) {
        let (bytes, behind) = (self.journal.waiting_bytes(), &mut self.behind);
        let bytes_max = behind.journal_bytes_max;
        behind.is_log_behind = bytes > if behind.is_log_behind { bytes_max / 2 } else { bytes_max };
    }

    pub(super) fn brought(&mut self) -> Brought {
        // A single shard sends no mails.
        let mail_bytes = if self.shared.shards() > 1 { self.mail_bytes() } else { 0 };
        Brought { records: self.journal.count(), mail_bytes }
    }

    /// Must the next packet of a served connection wait until there is room? `before`: as it was before it was read.
    pub(super) fn waits_for_room(&mut self, slot: u32, before: Brought) -> bool {
        let is_log = self.behind.is_log_behind && self.journal.count() > before.records;
        let is_mesh =
            self.shared.shards() > 1 && self.mail_bytes() > before.mail_bytes && !self.has_room_for_mails();
        if !is_log && !is_mesh {
            return false;
        }
        let Some(connection) = self.connection(slot) else { return false };
        let serial = connection.serial;
        if self.behind.waiting.is_empty() && is_log {
            self.report(Event::LimitReached { limit: Limit::Log, client: "".into() });
        }
        if self.pause(slot, PAUSED_BY_ROOM) {
            self.behind.waiting.push_back((slot, serial));
        }
        true
    }

    /// Bytes of the messages that this turn sends to other shards and that are not handed over yet.
    fn mail_bytes(&mut self) -> usize {
        let behind = &mut self.behind;
        for effect in self.effects.iter().skip(behind.effects_seen) {
            if let Effect::Mail { mail, .. } = effect {
                behind.mail_bytes += mail.message_bytes();
            }
        }
        behind.effects_seen = self.effects.len();
        behind.mail_bytes
    }

    fn has_room_for_mails(&self) -> bool {
        !self.behind.is_mesh_full && self.behind.mail_bytes <= MAIL_BYTES_MAX
    }

    /// Is someone waiting for whom there is room?
    pub(super) fn has_room_for_waiting(&self) -> bool {
        let behind = &self.behind;
        !behind.waiting.is_empty() && !behind.is_log_behind && self.has_room_for_mails()
    }

    /// Goes on with those who wait, each in turn, as long as there is room.
    pub(super) fn read_waiting(&mut self, now: Time) {
        for _ in 0..self.behind.waiting.len() {
            if !self.has_room_for_waiting() {
                return;
            }
            let Some((slot, serial)) = self.behind.waiting.pop_front() else { return };
            if self.connection(slot).is_some_and(|connection| connection.serial == serial) {
                self.go_on(now, slot, PAUSED_BY_ROOM);
                self.settle(now);
            }
        }
    }
}
