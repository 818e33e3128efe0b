//! Questions for retained messages and their answers, which wait until every box has been emptied once more.

use crate::base::{RequestToken, SessionKey};
use crate::session::Message;
use std::collections::VecDeque;

/// What waits for the next turn: by then every box has been emptied once more.
pub(in crate::broker) enum RetainedMail {
    /// Another shard asks. What was stored before it asked is here when it is answered, and so a subscriber
    /// gets a retained message from the store or live, and never neither.
    Query { session: SessionKey, token: RequestToken, filter: Box<str>, after: Option<Box<str>> },
    /// Another shard answers. What was published before it answered is here when the answer is sent, and so no
    /// live message follows a newer one from the store.
    Batch { session: SessionKey, token: RequestToken, messages: Vec<Message>, next: Option<Box<str>> },
}

/// Mails that wait for a later turn, by when they have come.
#[derive(Default)]
pub(in crate::broker) struct RetainedQueries {
    /// Since the boxes were last emptied.
    arrived: Vec<RetainedMail>,
    /// Before that: due when they have been emptied once more.
    next: Vec<RetainedMail>,
    due: VecDeque<RetainedMail>,
}

impl RetainedQueries {
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.next.is_empty() && self.due.is_empty()
    }

    /// A mail has come.
    pub(in crate::broker) fn arrive(&mut self, mail: RetainedMail) {
        self.arrived.push(mail);
    }

    /// Is there any that is due?
    pub(in crate::broker) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// All that have come are due: a single shard has nothing to wait for.
    pub(in crate::broker) fn make_all_due(&mut self) {
        self.due.extend(self.arrived.drain(..));
    }

    /// The boxes have been emptied once more: what came before the last time is due.
    pub(in crate::broker) fn note_boxes_emptied(&mut self) {
        self.due.extend(self.next.drain(..));
        std::mem::swap(&mut self.arrived, &mut self.next);
    }

    /// The next that is due.
    pub(in crate::broker) fn pop_due(&mut self) -> Option<RetainedMail> {
        self.due.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SessionSlot;

    fn query(filter: &str) -> RetainedMail {
        let session = SessionKey { shard: 0, slot: SessionSlot::new(0), generation: 0 };
        RetainedMail::Query { session, token: RequestToken::new(7), filter: filter.into(), after: None }
    }

    fn due(queries: &mut RetainedQueries) -> Vec<Box<str>> {
        let filters = std::iter::from_fn(|| queries.pop_due()).map(|mail| match mail {
            RetainedMail::Query { filter, .. } => filter,
            RetainedMail::Batch { .. } => panic!("none was put in"),
        });
        filters.collect()
    }

    #[test]
    fn a_query_is_due_when_the_boxes_have_been_emptied_twice() {
        let mut queries = RetainedQueries::default();
        queries.arrive(query("a"));
        queries.note_boxes_emptied();
        assert!(!queries.has_due(), "what its sender put into other boxes before may be there still");
        queries.arrive(query("b"));
        queries.note_boxes_emptied();
        assert_eq!(due(&mut queries), ["a".into()]);
        queries.note_boxes_emptied();
        assert_eq!(due(&mut queries), ["b".into()]);
        assert!(queries.is_empty());
    }

    #[test]
    fn a_single_shard_waits_for_nothing() {
        let mut queries = RetainedQueries::default();
        queries.arrive(query("a"));
        queries.make_all_due();
        assert_eq!(due(&mut queries), ["a".into()]);
        assert!(queries.is_empty());
    }
}
