//! A start with the state of an earlier run: whether the other shards know it, and what became due while the
//! broker was down.

use crate::base::SessionSlot;
use crate::session::Will;
use std::collections::VecDeque;

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Restart {
    /// Whether other shards do not know yet which messages the sessions of an earlier run want.
    is_restoring: bool,
    /// Whether some shard is not restored yet.
    is_held: bool,
    /// The wills of sessions that ended with the broker.
    wills: VecDeque<Will>,
    /// Sessions whose will delay is over.
    delayed: VecDeque<SessionSlot>,
    /// Sessions that have expired.
    sessions: VecDeque<SessionSlot>,
}

/// An item that is due.
pub(in crate::broker) enum OverdueWork {
    /// The will of a session that ended with the broker.
    Will(Will),
    /// This session's will delay is over.
    DelayedWill(SessionSlot),
    /// This session has expired.
    Session(SessionSlot),
}

impl Restart {
    /// The state at a start that has something to restore.
    pub(in crate::broker) fn held(wills: Vec<Will>) -> Restart {
        Restart { is_held: true, wills: wills.into(), ..Restart::default() }
    }

    /// Sets whether other shards do not know yet which messages the sessions of an earlier run want.
    pub(in crate::broker) fn set_restoring(&mut self, is_restoring: bool) {
        self.is_restoring = is_restoring;
    }

    pub(in crate::broker) fn is_restoring(&self) -> bool {
        self.is_restoring
    }

    /// Whether timers of sessions must not take effect yet.
    pub(in crate::broker) fn is_held(&self) -> bool {
        self.is_held
    }

    /// Adds a session whose will delay is over.
    pub(in crate::broker) fn add_will(&mut self, session: SessionSlot) {
        self.delayed.push_back(session);
    }

    /// Adds a session that has expired.
    pub(in crate::broker) fn add_session(&mut self, session: SessionSlot) {
        self.sessions.push_back(session);
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.wills.is_empty() && self.delayed.is_empty() && self.sessions.is_empty()
    }

    /// Whether the next turn has something to do.
    pub(in crate::broker) fn has_work(&self) -> bool {
        !self.is_held && !self.is_empty()
    }

    /// Allows timers of sessions to take effect.
    pub(in crate::broker) fn release(&mut self) {
        self.is_held = false;
    }

    /// The next item, if items may take effect.
    pub(in crate::broker) fn pop(&mut self) -> Option<OverdueWork> {
        if self.is_held {
            return None;
        }
        let will = self.wills.pop_front().map(OverdueWork::Will);
        let will = will.or_else(|| self.delayed.pop_front().map(OverdueWork::DelayedWill));
        will.or_else(|| self.sessions.pop_front().map(OverdueWork::Session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_done_before_every_shard_is_restored() {
        let mut restart = Restart::held(Vec::new());
        restart.add_session(SessionSlot::new(1));
        restart.add_will(SessionSlot::new(2));
        assert!(restart.is_held() && !restart.has_work() && restart.pop().is_none());
        restart.release();
        assert!(restart.has_work());
        let first = restart.pop();
        assert!(
            matches!(first, Some(OverdueWork::DelayedWill(slot)) if slot == SessionSlot::new(2)),
            "wills first"
        );
        assert!(matches!(restart.pop(), Some(OverdueWork::Session(slot)) if slot == SessionSlot::new(1)));
        assert!(restart.is_empty() && restart.pop().is_none());
    }
}
