//! Ends of sessions that are not durable yet, by the hashes of their client identifiers. A power failure
//! would bring such a session back.

use crate::base::{LogMark, TextHash};
use ahash::RandomState;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// See the module. The marks are those of the journal, and rise.
pub(in crate::broker) struct Ends {
    /// Client → the mark of its last end.
    by_client: HashMap<TextHash, LogMark, RandomState>,
    /// Marks and clients, in order. A client that has ended more than one session may appear more than once.
    in_order: VecDeque<(LogMark, TextHash)>,
    /// The mark of ends with an unknown client: those that were forgotten at the bound, and those of an
    /// earlier run. It applies to all clients.
    forgotten: LogMark,
}

/// The number of ends that are remembered, which take some megabytes. If the disk is further behind, clients
/// without a session wait for the ends that were forgotten.
const REMEMBERED_MAX: usize = 1 << 16;

impl Ends {
    pub(in crate::broker) fn new(seed: u64) -> Ends {
        Ends {
            by_client: HashMap::with_hasher(RandomState::with_seeds(seed, 0x656e, 0x6473, 0)),
            in_order: VecDeque::new(),
            forgotten: LogMark::START,
        }
    }

    /// Whether every end is durable.
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.forgotten == LogMark::START
    }

    /// Notes the end of a session of this client, which is durable at this mark.
    pub(in crate::broker) fn note(&mut self, client: TextHash, mark: LogMark) {
        if self.in_order.len() == REMEMBERED_MAX
            && let Some((mark, _)) = self.forget_first()
        {
            self.forgotten = mark;
        }
        self.by_client.insert(client, mark);
        self.in_order.push_back((mark, client));
    }

    /// Notes the end of a session of an unknown client, which is durable at this mark.
    pub(in crate::broker) fn note_unknown(&mut self, mark: LogMark) {
        self.forgotten = self.forgotten.max(mark);
    }

    /// The mark at which the last end of this client is durable.
    pub(in crate::broker) fn mark_of(&self, client: TextHash) -> LogMark {
        self.by_client.get(&client).copied().unwrap_or(self.forgotten)
    }

    /// Forgets all ends that are durable at this mark.
    pub(in crate::broker) fn forget_to(&mut self, durable: LogMark) {
        if self.forgotten <= durable {
            self.forgotten = LogMark::START;
        }
        while self.in_order.front().is_some_and(|(mark, _)| *mark <= durable) {
            self.forget_first();
        }
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.by_client.shrink_to_fit();
        self.in_order.shrink_to_fit();
    }

    fn forget_first(&mut self) -> Option<(LogMark, TextHash)> {
        let (mark, client) = self.in_order.pop_front()?;
        // The client may have ended another session.
        if self.by_client.get(&client) == Some(&mark) {
            self.by_client.remove(&client);
        }
        Some((mark, client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_end_of_a_client_counts_until_it_is_durable() {
        let mut ends = Ends::new(1);
        for (client, mark) in [(7, 1), (8, 2), (7, 3), (9, 3)] {
            ends.note(TextHash::new(client), LogMark::behind(mark));
        }
        assert_eq!(
            [7, 8, 9, 10].map(|client| ends.mark_of(TextHash::new(client))),
            [3, 2, 3, 0].map(LogMark::behind)
        );
        ends.forget_to(LogMark::behind(1));
        assert_eq!(ends.mark_of(TextHash::new(7)), LogMark::behind(3), "it has ended twice");
        ends.forget_to(LogMark::behind(2));
        assert_eq!([7, 8].map(|client| ends.mark_of(TextHash::new(client))), [3, 0].map(LogMark::behind));
        ends.forget_to(LogMark::NEVER);
        assert!(ends.is_empty() && ends.by_client.is_empty());
    }

    #[test]
    fn an_end_of_an_unknown_client_is_waited_for_by_all() {
        let mut ends = Ends::new(1);
        ends.note_unknown(LogMark::behind(2));
        ends.note(TextHash::new(7), LogMark::behind(3));
        assert_eq!(
            ([7, 8].map(|client| ends.mark_of(TextHash::new(client))), ends.is_empty()),
            ([3, 2].map(LogMark::behind), false)
        );
        ends.forget_to(LogMark::behind(2));
        assert_eq!([7, 8].map(|client| ends.mark_of(TextHash::new(client))), [3, 0].map(LogMark::behind));
    }

    #[test]
    fn ends_that_are_forgotten_at_the_bound_are_waited_for_by_all() {
        let mut ends = Ends::new(1);
        let many = REMEMBERED_MAX as u64 + 100;
        (1..=many).for_each(|mark| ends.note(TextHash::new(mark), LogMark::behind(mark)));
        assert_eq!(ends.in_order.len(), REMEMBERED_MAX);
        assert_eq!(ends.mark_of(TextHash::new(many)), LogMark::behind(many));
        assert_eq!(
            [1, 100, many + 1].map(|client| ends.mark_of(TextHash::new(client))),
            [100; 3].map(LogMark::behind),
            "no less than its own"
        );
        ends.forget_to(LogMark::behind(99));
        assert_eq!(ends.mark_of(TextHash::new(1)), LogMark::behind(100));
        ends.forget_to(LogMark::behind(100));
        assert_eq!([1, 101].map(|client| ends.mark_of(TextHash::new(client))), [0, 101].map(LogMark::behind));
        ends.forget_to(LogMark::behind(many));
        assert!(ends.is_empty());
    }
}
