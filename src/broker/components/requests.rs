//! What waits for answers of other shards: SUBACK, UNSUBACK, a member that joins, the start; and packets whose filters
//! are not all done.

use crate::base::{ConnectionKey, LogMark, RequestToken, SessionKey, SessionSlot, ShardId};
use crate::mqtt::{PacketId, Reason};
use std::collections::{BTreeMap, VecDeque};

/// See the module.
#[derive(Default)]
pub(in crate::broker) struct Requests {
    last_token: u64,
    pending: BTreeMap<RequestToken, Pending>,
    unfinished: VecDeque<Unfinished>,
}

/// Something that waits for answers of other shards.
pub(in crate::broker) struct Pending {
    pub needed: Needed,
    pub then: Completion,
}

#[derive(Default)]
pub(in crate::broker) struct Needed {
    /// Answers that have not come.
    pub remaining: usize,
    /// Wildcard filters that every shard knows once all have answered.
    pub wildcards: Vec<(Box<str>, u64)>,
}

impl Needed {
    pub(in crate::broker) fn expect(&mut self, answers: usize) {
        self.remaining += answers;
    }
}

pub(in crate::broker) enum Completion {
    Restored,
    Suback(Answer),
    Unsuback(Answer),
    Joined { to: ShardId, token: RequestToken },
}

/// What is to be answered to a connection, unless it has gone by then.
pub(in crate::broker) struct Answer {
    pub connection: ConnectionKey,
    pub session: SessionSlot,
    pub packet_id: PacketId,
    pub codes: Vec<Reason>,
    pub refused: RefusedFilters,
    /// The log must be durable up to here.
    pub mark: LogMark,
}

/// A SUBSCRIBE or an UNSUBSCRIBE whose filters are not all done. Its connection is not read meanwhile.
pub(in crate::broker) struct Unfinished {
    pub connection: ConnectionKey,
    pub session: SessionKey,
    pub token: RequestToken,
    /// The filters as they came, and how far they are done.
    pub rest: Box<[u8]>,
    pub at: usize,
    /// Of a SUBSCRIBE, 0: none.
    pub subscription_id: Option<u32>,
}

/// The refused filters of one packet: how many are told one by one, and how many are not.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::broker) struct RefusedFilters {
    pub told: u32,
    pub untold: u64,
}

impl Requests {
    /// A token that this shard has not given yet.
    pub(in crate::broker) fn next_token(&mut self) -> RequestToken {
        self.last_token += 1;
        RequestToken::new(self.last_token)
    }

    /// Waits for the answers that a request needs.
    pub(in crate::broker) fn insert(&mut self, token: RequestToken, pending: Pending) {
        self.pending.insert(token, pending);
    }

    /// A request does not wait any more, for whatever cause.
    pub(in crate::broker) fn take(&mut self, token: RequestToken) -> Option<Pending> {
        self.pending.remove(&token)
    }

    /// One answer has come; gives the request if it was the last one.
    pub(in crate::broker) fn take_answer(&mut self, token: RequestToken) -> Option<Pending> {
        let pending = self.pending.get_mut(&token)?;
        pending.needed.remaining -= 1;
        if pending.needed.remaining > 0 {
            return None;
        }
        self.pending.remove(&token)
    }

    /// The rest of a packet's filters is looked at later.
    pub(in crate::broker) fn put_off(&mut self, unfinished: Unfinished) {
        self.unfinished.push_back(unfinished);
    }

    /// The next packet whose filters are not all done.
    pub(in crate::broker) fn pop_unfinished(&mut self) -> Option<Unfinished> {
        self.unfinished.pop_front()
    }

    /// Are there packets whose filters are not all done?
    pub(in crate::broker) fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Does nothing wait for an answer?
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
