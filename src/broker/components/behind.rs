//! Whether the disk or another shard is behind, and which connections wait for that to end.

use crate::base::{ConnectionKey, ConnectionSlot};
use std::collections::{BTreeSet, VecDeque};

/// The largest number of bytes of records that may wait for the disk.
const JOURNAL_BYTES_MAX: usize = 16 << 20;

/// What is behind, and which connections wait for it.
#[derive(Debug)]
pub(in crate::broker) struct Behind {
    journal_bytes_max: usize,
    /// Whether more records wait than may. It stays true until at most half as many wait.
    is_log_behind: bool,
    /// Whether the box of another shard is full.
    is_mesh_full: bool,
    /// Waiting connections, with their serials.
    waiting: VecDeque<ConnectionKey>,
    /// Connections of 3.x clients whose next message waits for room on a disk.
    for_disk: BTreeSet<ConnectionSlot>,
    has_disk_timer: bool,
}

impl Default for Behind {
    fn default() -> Behind {
        Behind {
            journal_bytes_max: JOURNAL_BYTES_MAX,
            is_log_behind: false,
            is_mesh_full: false,
            waiting: VecDeque::new(),
            for_disk: BTreeSet::new(),
            has_disk_timer: false,
        }
    }
}

impl Behind {
    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.waiting.shrink_to_fit();
    }

    /// Sets a smaller bound for the journal, for tests.
    pub(in crate::broker) fn bound_journal(&mut self, bytes: usize) {
        self.journal_bytes_max = bytes;
    }

    pub(in crate::broker) fn journal_bytes_max(&self) -> usize {
        self.journal_bytes_max
    }

    /// Whether more records wait for the disk than may.
    pub(in crate::broker) fn is_log_behind(&self) -> bool {
        self.is_log_behind
    }

    /// Notes whether the box of another shard is full.
    pub(in crate::broker) fn set_mesh_full(&mut self, is_full: bool) {
        self.is_mesh_full = is_full;
    }

    pub(in crate::broker) fn is_mesh_full(&self) -> bool {
        self.is_mesh_full
    }

    /// Notes how many bytes of records wait for the disk now.
    pub(in crate::broker) fn note_journal(&mut self, bytes: usize) {
        let bytes_max = self.journal_bytes_max;
        self.is_log_behind = bytes > if self.is_log_behind { bytes_max / 2 } else { bytes_max };
    }

    pub(in crate::broker) fn is_anyone_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(in crate::broker) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a waiting connection.
    pub(in crate::broker) fn wait(&mut self, key: ConnectionKey) {
        self.waiting.push_back(key);
    }

    /// Removes and returns the next waiting connection.
    pub(in crate::broker) fn pop_waiting(&mut self) -> Option<ConnectionKey> {
        self.waiting.pop_front()
    }

    /// Adds a connection that waits for room on a disk.
    pub(in crate::broker) fn wait_for_disk(&mut self, slot: ConnectionSlot) {
        self.for_disk.insert(slot);
    }

    /// Forgets a connection that has ended.
    pub(in crate::broker) fn forget(&mut self, slot: ConnectionSlot) {
        self.for_disk.remove(&slot);
    }

    /// Removes and returns the next connection that waits for room on a disk.
    pub(in crate::broker) fn pop_for_disk(&mut self) -> Option<ConnectionSlot> {
        self.for_disk.pop_first()
    }

    /// Whether a timer must be started for connections that wait for a disk. True once until it has fired.
    pub(in crate::broker) fn needs_disk_timer(&mut self) -> bool {
        !self.for_disk.is_empty() && !std::mem::replace(&mut self.has_disk_timer, true)
    }

    /// Notes that the timer has fired.
    pub(in crate::broker) fn note_disk_timer_fired(&mut self) {
        self.has_disk_timer = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_behind_until_half_of_it_has_gone() {
        let mut behind = Behind::default();
        behind.bound_journal(100);
        let states = [100, 101, 51, 50, 51].map(|bytes| {
            behind.note_journal(bytes);
            behind.is_log_behind()
        });
        assert_eq!(states, [false, true, true, false, false]);
    }

    #[test]
    fn a_timer_runs_while_someone_waits_for_a_disk() {
        let mut behind = Behind::default();
        assert!(!behind.needs_disk_timer());
        behind.wait_for_disk(ConnectionSlot::new(1));
        behind.wait_for_disk(ConnectionSlot::new(2));
        assert!(behind.needs_disk_timer() && !behind.needs_disk_timer(), "one is enough");
        behind.note_disk_timer_fired();
        behind.forget(ConnectionSlot::new(1));
        assert_eq!(behind.pop_for_disk(), Some(ConnectionSlot::new(2)));
        assert!(!behind.needs_disk_timer());
    }
}
