//! Sessions that have lost messages, and whose counts are not in the log as yet.

use crate::base::SessionSlot;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Unrecorded {
    sessions: BTreeSet<SessionSlot>,
    has_timer: bool,
}

impl Unrecorded {
    /// The counts of a session are to be taken down.
    pub(in crate::broker) fn add(&mut self, session: SessionSlot) {
        self.sessions.insert(session);
    }

    /// The next session whose counts are taken down.
    pub(in crate::broker) fn pop(&mut self) -> Option<SessionSlot> {
        self.sessions.pop_first()
    }

    /// Is a timer to be started? True once, until it has fired.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        !self.sessions.is_empty() && !std::mem::replace(&mut self.has_timer, true)
    }

    /// The timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.has_timer = false;
    }
}
