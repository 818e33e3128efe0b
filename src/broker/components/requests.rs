//! Requests that wait for answers of other shards (SUBACK, UNSUBACK, a joining member, the start), and
//! packets whose filters are not all handled.

use crate::base::{ConnectionKey, LogMark, RequestToken, SessionKey, SessionSlot, ShardId};
use crate::mqtt::{PacketId, Reason, SubscriptionId};
use std::collections::{BTreeMap, VecDeque};

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Requests {
    last_token: u64,
    pending: BTreeMap<RequestToken, Pending>,
    unfinished: VecDeque<Unfinished>,
}

/// A request that waits for answers of other shards.
pub(in crate::broker) struct Pending {
    pub needed: Needed,
    pub then: Completion,
}

#[derive(Default)]
pub(in crate::broker) struct Needed {
    /// The number of missing answers.
    pub remaining: usize,
    /// The wildcard filters that every shard knows when all have answered.
    pub wildcards: Vec<(Box<str>, u64)>,
}

impl Needed {
    pub(in crate::broker) fn expect(&mut self, answers: usize) {
        self.remaining += answers;
    }
}

pub(in crate::broker) enum Completion {
    Restored,
    Suback(FiltersAnswer),
    Unsuback(FiltersAnswer),
    Joined { to: ShardId, token: RequestToken },
}

/// The answer to a connection, unless the connection has ended by then.
pub(in crate::broker) struct FiltersAnswer {
    pub connection: ConnectionKey,
    pub session: SessionSlot,
    pub packet_id: PacketId,
    pub codes: Vec<Reason>,
    pub refused: RefusedFilters,
    /// The mark that the log must reach.
    pub mark: LogMark,
}

/// A SUBSCRIBE or an UNSUBSCRIBE whose filters are not all handled. Its connection is not read meanwhile.
pub(in crate::broker) struct Unfinished {
    pub connection: ConnectionKey,
    pub session: SessionKey,
    pub token: RequestToken,
    /// The filters as they were received, and how far they are handled.
    pub rest: Box<[u8]>,
    pub at: usize,
    pub kind: FiltersKind,
}

/// Whose filters they are.
#[derive(Clone, Copy)]
pub(in crate::broker) enum FiltersKind {
    /// Those of a SUBSCRIBE, with its identifier.
    Subscribe(Option<SubscriptionId>),
    Unsubscribe,
}

/// The refused filters of one packet: the number that is reported one by one, and the number that is not.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::broker) struct RefusedFilters {
    pub logged: u32,
    pub unlogged: u64,
}

impl Requests {
    /// A token that this shard has not used yet.
    pub(in crate::broker) fn next_token(&mut self) -> RequestToken {
        self.last_token += 1;
        RequestToken::new(self.last_token)
    }

    /// Adds a request, which waits for its answers.
    pub(in crate::broker) fn insert(&mut self, token: RequestToken, pending: Pending) {
        self.pending.insert(token, pending);
    }

    /// Removes a request, whatever the reason.
    pub(in crate::broker) fn take(&mut self, token: RequestToken) -> Option<Pending> {
        self.pending.remove(&token)
    }

    /// Takes one answer, and returns the request if it was the last one.
    pub(in crate::broker) fn take_answer(&mut self, token: RequestToken) -> Option<Pending> {
        let pending = self.pending.get_mut(&token)?;
        pending.needed.remaining -= 1;
        if pending.needed.remaining > 0 {
            return None;
        }
        self.pending.remove(&token)
    }

    /// Puts off the rest of a packet's filters.
    pub(in crate::broker) fn put_off(&mut self, unfinished: Unfinished) {
        self.unfinished.push_back(unfinished);
    }

    /// The next packet whose filters are not all handled.
    pub(in crate::broker) fn pop_unfinished(&mut self) -> Option<Unfinished> {
        self.unfinished.pop_front()
    }

    /// Whether there are packets whose filters are not all handled.
    pub(in crate::broker) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Whether nothing waits for an answer.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(requests: &mut Requests, answers: usize) -> RequestToken {
        let token = requests.next_token();
        let mut needed = Needed::default();
        needed.expect(answers);
        requests.insert(token, Pending { needed, then: Completion::Restored });
        token
    }

    #[test]
    fn a_request_is_done_with_the_last_of_its_own_answers() {
        let mut requests = Requests::default();
        let (one, other) = (insert(&mut requests, 1), insert(&mut requests, 3));
        assert!(one < other, "tokens rise");
        assert!(requests.take_answer(other).is_none() && requests.take_answer(other).is_none());
        assert!(requests.take_answer(one).is_some());
        assert!(requests.take_answer(one).is_none(), "it is done");
        assert!(requests.take_answer(other).is_some());
        let given_up = insert(&mut requests, 2);
        assert!(requests.take(given_up).is_some());
        assert!(requests.take_answer(given_up).is_none(), "an answer that comes too late changes nothing");
        assert!(requests.pending.is_empty());
    }
}
