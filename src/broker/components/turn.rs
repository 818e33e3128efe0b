//! What goes on later in this turn or in another: sessions with queues, connections with unread packets, mails that were
//! left, the farewell.

use crate::base::{ConnectionKey, ConnectionSlot, SessionSlot};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Turn {
    /// There may be something here, or elsewhere, that goes on later. Without it there is nothing.
    has_put_off: bool,
    /// Sessions whose queues go on later.
    sessions: VecDeque<SessionSlot>,
    /// Connections whose unread packets are handled later.
    unread: VecDeque<ConnectionKey>,
    /// Not all mails have been taken that were there when the boxes were last looked at.
    has_mails_left: bool,
    /// The broker stops.
    is_closing: bool,
    /// Connections in slots from this one on are still to be closed for that.
    farewell_to: Option<u32>,
}

impl Turn {
    /// Something goes on later.
    #[inline]
    pub(in crate::broker) fn put_off(&mut self) {
        self.has_put_off = true;
    }

    /// Something may go on later.
    #[inline]
    pub(in crate::broker) fn put_off_if(&mut self, has_more: bool) {
        self.has_put_off |= has_more;
    }

    /// All that was put off was looked at: is there more?
    pub(in crate::broker) fn set_put_off(&mut self, has_more: bool) {
        self.has_put_off = has_more;
    }

    /// May there be something that goes on later?
    #[inline]
    pub(in crate::broker) fn has_put_off(&self) -> bool {
        self.has_put_off
    }

    /// Is there something of this component's own?
    pub(in crate::broker) fn has_work(&self) -> bool {
        !self.sessions.is_empty() || !self.unread.is_empty() || self.farewell_to.is_some()
    }

    /// The queue of a session goes on later.
    pub(in crate::broker) fn defer_session(&mut self, session: SessionSlot) {
        self.sessions.push_back(session);
        self.has_put_off = true;
    }

    /// Sessions whose queues go on later.
    pub(in crate::broker) fn deferred_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The next of them.
    pub(in crate::broker) fn pop_session(&mut self) -> Option<SessionSlot> {
        self.sessions.pop_front()
    }

    /// A connection is read on later.
    pub(in crate::broker) fn read_later(&mut self, connection: ConnectionKey) {
        self.unread.push_back(connection);
        self.has_put_off = true;
    }

    /// The next connection to be read on.
    pub(in crate::broker) fn pop_unread(&mut self) -> Option<ConnectionKey> {
        self.unread.pop_front()
    }

    /// Have mails been left that were there when the boxes were last looked at?
    pub(in crate::broker) fn set_mails_left(&mut self, are_left: bool) {
        self.has_mails_left = are_left;
    }

    pub(in crate::broker) fn has_mails_left(&self) -> bool {
        self.has_mails_left
    }

    /// The broker stops: all connections are to be closed.
    pub(in crate::broker) fn begin_farewell(&mut self) {
        self.is_closing = true;
        self.farewell_to = Some(0);
        self.has_put_off = true;
    }

    /// Does the broker stop?
    pub(in crate::broker) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// The next slot, of so many, whose connection is closed because the broker stops.
    pub(in crate::broker) fn next_farewell(&mut self, slots: u32) -> Option<ConnectionSlot> {
        let slot = self.farewell_to.filter(|&slot| slot < slots);
        self.farewell_to = slot.map(|slot| slot + 1).filter(|&next| next < slots);
        slot.map(ConnectionSlot::new)
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.sessions.shrink_to_fit();
        self.unread.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_off_goes_on_in_the_order_in_which_it_came() {
        let mut turn = Turn::default();
        assert!(!turn.has_put_off() && !turn.has_work());
        turn.defer_session(SessionSlot::new(5));
        turn.defer_session(SessionSlot::new(1));
        assert!(turn.has_put_off() && turn.has_work());
        assert_eq!(turn.pop_session(), Some(SessionSlot::new(5)));
        assert_eq!(turn.pop_session(), Some(SessionSlot::new(1)));
        assert!(!turn.has_work());
        turn.set_put_off(false);
        assert!(!turn.has_put_off());
    }

    #[test]
    fn a_farewell_visits_every_slot_once() {
        let mut turn = Turn::default();
        turn.begin_farewell();
        assert!(turn.is_closing() && turn.has_work());
        let visited: Vec<_> = std::iter::from_fn(|| turn.next_farewell(3)).map(ConnectionSlot::get).collect();
        assert_eq!(visited, [0, 1, 2]);
        assert!(turn.is_closing() && !turn.has_work());
    }

    #[test]
    fn a_farewell_without_connections_is_over_at_once() {
        let mut turn = Turn::default();
        turn.begin_farewell();
        assert_eq!(turn.next_farewell(0), None);
        assert!(!turn.has_work());
    }
}
