//! The work that continues later in this turn or in another one: sessions with queues, connections with
//! unread packets, remaining mails, and the farewell.

use crate::base::{ConnectionKey, ConnectionSlot, SessionSlot};
use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Turn {
    /// Whether some work, here or elsewhere, may have been put off. If false, there is none.
    has_put_off: bool,
    /// Sessions whose queues continue later.
    sessions: VecDeque<SessionSlot>,
    /// Connections whose unread packets are handled later.
    unread: VecDeque<ConnectionKey>,
    /// Whether some of the mails that were there at the last look into the boxes have not been taken.
    has_mails_left: bool,
    /// Whether the broker stops.
    is_closing: bool,
    /// The first slot whose connection must still be closed because the broker stops.
    farewell_to: Option<u32>,
}

impl Turn {
    /// Notes that some work was put off.
    #[inline]
    pub(in crate::broker) fn put_off(&mut self) {
        self.has_put_off = true;
    }

    /// Notes that some work may have been put off.
    #[inline]
    pub(in crate::broker) fn put_off_if(&mut self, has_more: bool) {
        self.has_put_off |= has_more;
    }

    /// Sets whether there is still work that was put off, after all of it was checked.
    pub(in crate::broker) fn set_put_off(&mut self, has_more: bool) {
        self.has_put_off = has_more;
    }

    /// Whether there may be work that was put off.
    #[inline]
    pub(in crate::broker) fn has_put_off(&self) -> bool {
        self.has_put_off
    }

    /// Whether this component has work.
    pub(in crate::broker) fn has_work(&self) -> bool {
        !self.sessions.is_empty() || !self.unread.is_empty() || self.farewell_to.is_some()
    }

    /// Puts off the queue of a session.
    pub(in crate::broker) fn defer_session(&mut self, session: SessionSlot) {
        self.sessions.push_back(session);
        self.has_put_off = true;
    }

    /// The number of sessions whose queues continue later.
    pub(in crate::broker) fn deferred_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The next of them.
    pub(in crate::broker) fn pop_session(&mut self) -> Option<SessionSlot> {
        self.sessions.pop_front()
    }

    /// Puts off reading from a connection.
    pub(in crate::broker) fn read_later(&mut self, connection: ConnectionKey) {
        self.unread.push_back(connection);
        self.has_put_off = true;
    }

    /// The next connection to be read.
    pub(in crate::broker) fn pop_unread(&mut self) -> Option<ConnectionKey> {
        self.unread.pop_front()
    }

    /// Sets whether some of the mails that were there at the last look into the boxes remain.
    pub(in crate::broker) fn set_mails_left(&mut self, are_left: bool) {
        self.has_mails_left = are_left;
    }

    pub(in crate::broker) fn has_mails_left(&self) -> bool {
        self.has_mails_left
    }

    /// Begins to close all connections because the broker stops.
    pub(in crate::broker) fn begin_farewell(&mut self) {
        self.is_closing = true;
        self.farewell_to = Some(0);
        self.has_put_off = true;
    }

    /// Whether the broker stops.
    pub(in crate::broker) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// The next slot whose connection must be closed because the broker stops. `slots` is the number of
    /// slots.
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
