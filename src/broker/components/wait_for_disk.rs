//! Connections of 3.x clients whose next message waits for room on a disk.

use crate::base::ConnectionSlot;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct WaitForDisk {
    slots: BTreeSet<ConnectionSlot>,
    has_timer: bool,
}

impl WaitForDisk {
    /// A connection waits from now on.
    pub(in crate::broker) fn add(&mut self, slot: ConnectionSlot) {
        self.slots.insert(slot);
    }

    /// The connection has ended.
    pub(in crate::broker) fn forget(&mut self, slot: ConnectionSlot) {
        self.slots.remove(&slot);
    }

    /// The next that waits; it does not any more.
    pub(in crate::broker) fn pop(&mut self) -> Option<ConnectionSlot> {
        self.slots.pop_first()
    }

    /// Is a timer to be started? True once, until it has fired.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        !self.slots.is_empty() && !std::mem::replace(&mut self.has_timer, true)
    }

    /// The timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.has_timer = false;
    }
}
