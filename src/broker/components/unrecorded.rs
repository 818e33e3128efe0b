//! Sessions that have lost messages and whose counts are not yet in the log.

use crate::base::SessionSlot;
use std::collections::BTreeSet;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Unrecorded {
    sessions: BTreeSet<SessionSlot>,
    has_timer: bool,
}

impl Unrecorded {
    /// Adds a session whose counts must be recorded.
    pub(in crate::broker) fn add(&mut self, session: SessionSlot) {
        self.sessions.insert(session);
    }

    /// The next session whose counts must be recorded.
    pub(in crate::broker) fn pop(&mut self) -> Option<SessionSlot> {
        self.sessions.pop_first()
    }

    /// Whether a timer must be started. True once until it has fired.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        !self.sessions.is_empty() && !std::mem::replace(&mut self.has_timer, true)
    }

    /// Notes that the timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.has_timer = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_listed_once_and_one_timer_runs() {
        let mut unrecorded = Unrecorded::default();
        assert!(!unrecorded.needs_timer());
        for slot in [2, 1, 2] {
            unrecorded.add(SessionSlot::new(slot));
        }
        assert!(unrecorded.needs_timer() && !unrecorded.needs_timer());
        let listed: Vec<_> = std::iter::from_fn(|| unrecorded.pop()).map(SessionSlot::get).collect();
        assert_eq!(listed, [1, 2]);
        unrecorded.note_fired();
        assert!(!unrecorded.needs_timer(), "nothing is left to be recorded");
    }
}
