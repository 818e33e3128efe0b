//! What fell due while the broker was down.

use crate::base::SessionSlot;
use crate::session::Will;
use std::collections::VecDeque;

/// What is due since before the start.
#[derive(Default)]
pub(in crate::broker) struct Overdue {
    /// Not every shard is restored.
    is_held: bool,
    /// Of sessions that ended with the broker.
    wills: VecDeque<Will>,
    /// Sessions whose will has waited for its delay.
    delayed: VecDeque<SessionSlot>,
    /// Sessions that are over.
    sessions: VecDeque<SessionSlot>,
}

/// Something of it.
pub(in crate::broker) enum OverdueWork {
    /// The will of a session that ended with the broker.
    Will(Will),
    /// The will of this session has waited for its delay.
    DelayedWill(SessionSlot),
    /// This session is over.
    Session(SessionSlot),
}

impl Overdue {
    /// Of a start that has something to restore.
    pub(in crate::broker) fn held(wills: Vec<Will>) -> Overdue {
        Overdue { is_held: true, wills: wills.into(), ..Overdue::default() }
    }

    /// No timer of a session may take effect yet.
    pub(in crate::broker) fn is_held(&self) -> bool {
        self.is_held
    }

    /// A will's delay is over.
    pub(in crate::broker) fn add_will(&mut self, session: SessionSlot) {
        self.delayed.push_back(session);
    }

    /// A session is over.
    pub(in crate::broker) fn add_session(&mut self, session: SessionSlot) {
        self.sessions.push_back(session);
    }

    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.wills.is_empty() && self.delayed.is_empty() && self.sessions.is_empty()
    }

    /// Is there something to do in the next turn?
    pub(in crate::broker) fn has_work(&self) -> bool {
        !self.is_held && !self.is_empty()
    }

    /// Timers of sessions may take effect from now on.
    pub(in crate::broker) fn release(&mut self) {
        self.is_held = false;
    }

    /// The next that is to be done, if it may be.
    pub(in crate::broker) fn pop(&mut self) -> Option<OverdueWork> {
        if self.is_held {
            return None;
        }
        let will = self.wills.pop_front().map(OverdueWork::Will);
        let will = will.or_else(|| self.delayed.pop_front().map(OverdueWork::DelayedWill));
        will.or_else(|| self.sessions.pop_front().map(OverdueWork::Session))
    }
}
