//! Is the disk or another shard behind, and which connections wait until it is not?

use crate::base::{ConnectionKey, ConnectionSlot};
use std::collections::{BTreeSet, VecDeque};

/// Records that wait for the disk.
const JOURNAL_BYTES_MAX: usize = 16 << 20;

/// What is behind, and who waits for it.
#[derive(Debug)]
pub(in crate::broker) struct Behind {
    journal_bytes_max: usize,
    /// More records wait than may, or have since, and there are still more than half as many.
    is_log_behind: bool,
    /// The box of another shard is full.
    is_mesh_full: bool,
    /// Connections, with their serials.
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

    /// A smaller bound for the journal, for tests.
    pub(in crate::broker) fn bound_journal(&mut self, bytes: usize) {
        self.journal_bytes_max = bytes;
    }

    pub(in crate::broker) fn journal_bytes_max(&self) -> usize {
        self.journal_bytes_max
    }

    /// Do more records wait for the disk than may?
    pub(in crate::broker) fn is_log_behind(&self) -> bool {
        self.is_log_behind
    }

    /// The box of another shard is full (`true`), or none is any more.
    pub(in crate::broker) fn set_mesh_full(&mut self, is_full: bool) {
        self.is_mesh_full = is_full;
    }

    pub(in crate::broker) fn is_mesh_full(&self) -> bool {
        self.is_mesh_full
    }

    /// So many bytes of records wait for the disk now.
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

    /// A connection waits from now on.
    pub(in crate::broker) fn wait(&mut self, key: ConnectionKey) {
        self.waiting.push_back(key);
    }

    /// The next that waits; it does not any more.
    pub(in crate::broker) fn pop_waiting(&mut self) -> Option<ConnectionKey> {
        self.waiting.pop_front()
    }

    /// A connection waits for room on a disk from now on.
    pub(in crate::broker) fn wait_for_disk(&mut self, slot: ConnectionSlot) {
        self.for_disk.insert(slot);
    }

    /// The connection has ended.
    pub(in crate::broker) fn forget(&mut self, slot: ConnectionSlot) {
        self.for_disk.remove(&slot);
    }

    /// The next that waits for room on a disk; it does not any more.
    pub(in crate::broker) fn pop_for_disk(&mut self) -> Option<ConnectionSlot> {
        self.for_disk.pop_first()
    }

    /// Is a timer to be started for those who wait for a disk? True once, until it has fired.
    pub(in crate::broker) fn needs_disk_timer(&mut self) -> bool {
        !self.for_disk.is_empty() && !std::mem::replace(&mut self.has_disk_timer, true)
    }

    /// The timer has fired.
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
