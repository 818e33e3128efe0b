//! Queries for retained messages and their answers. They wait until every box was emptied once more.

use crate::base::{RequestToken, SessionKey};
use crate::session::Message;
use std::collections::VecDeque;

/// A mail that waits for a later turn, when every box was emptied once more.
pub(in crate::broker) enum RetainedMail {
    /// Another shard asks. Messages that were stored before it asked are here when it is answered. So a
    /// subscriber gets each retained message either from the store or live.
    Query { session: SessionKey, token: RequestToken, filter: Box<str>, after: Option<Box<str>> },
    /// Another shard answers. Messages that were published before it answered are here when the answer is
    /// sent. So no live message follows a newer one from the store.
    Batch { session: SessionKey, token: RequestToken, messages: Vec<Message>, next: Option<Box<str>> },
}

/// Mails that wait for a later turn.
#[derive(Default)]
pub(in crate::broker) struct RetainedQueries {
    /// Those that came since the boxes were last emptied.
    arrived: Vec<RetainedMail>,
    /// Those that came before that. They are due when the boxes have been emptied once more.
    next: Vec<RetainedMail>,
    due: VecDeque<RetainedMail>,
}

impl RetainedQueries {
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.next.is_empty() && self.due.is_empty()
    }

    /// Adds a mail.
    pub(in crate::broker) fn arrive(&mut self, mail: RetainedMail) {
        self.arrived.push(mail);
    }

    /// Whether any mail is due.
    pub(in crate::broker) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Makes all mails due: a single shard has nothing to wait for.
    pub(in crate::broker) fn make_all_due(&mut self) {
        self.due.extend(self.arrived.drain(..));
    }

    /// Notes that the boxes have been emptied once more. Mails that came before the previous time are due.
    pub(in crate::broker) fn note_boxes_emptied(&mut self) {
        self.due.extend(self.next.drain(..));
        std::mem::swap(&mut self.arrived, &mut self.next);
    }

    /// The next mail that is due.
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
