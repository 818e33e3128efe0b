//! Where the shard stands with its memory: what all shards keep, whether that is tight, and the search for the
//! connection that holds the most.

use crate::base::{ConnectionKey, Time};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Pressure {
    /// What the other shards were told last: a turn that has kept nothing new tells nothing.
    told: usize,
    /// Bytes that the other shards keep, as of this turn.
    others: usize,
    /// Memory has been tight since then.
    tight_since: Option<Time>,
    /// A timer for the next look is running.
    is_watching: bool,
    /// Connections that are not read until it is not.
    paused: Vec<ConnectionKey>,
    search: Search,
}

/// The search for the connection that holds the most, some slots a turn.
#[derive(Debug, Default)]
struct Search {
    next: u32,
    worst: Option<Worst>,
    /// It found nothing worth ending; the next one begins then.
    rests_until: Time,
}

/// A connection, and the bytes that its end sets free.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Worst {
    pub key: ConnectionKey,
    pub bytes: usize,
}

impl Pressure {
    /// This shard keeps so many bytes now; true if the others are to be told.
    pub(in crate::broker) fn note_own(&mut self, bytes: usize) -> bool {
        std::mem::replace(&mut self.told, bytes) != bytes
    }

    /// The other shards keep so many bytes.
    pub(in crate::broker) fn set_others(&mut self, bytes: usize) {
        self.others = bytes;
    }

    pub(in crate::broker) fn others(&self) -> usize {
        self.others
    }

    /// Memory is tight; gives since when.
    pub(in crate::broker) fn note_tight(&mut self, now: Time) -> Time {
        *self.tight_since.get_or_insert(now)
    }

    /// Was it, or does anyone wait until it is not?
    pub(in crate::broker) fn was_tight(&self) -> bool {
        self.tight_since.is_some() || !self.paused.is_empty()
    }

    /// It is not any more; gives the connections that are read on.
    pub(in crate::broker) fn end(&mut self) -> Vec<ConnectionKey> {
        self.tight_since = None;
        self.search = Search::default();
        std::mem::take(&mut self.paused)
    }

    /// Is a timer for the next look to be started? True once, until it has fired.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.is_watching, true)
    }

    /// The timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.is_watching = false;
    }

    /// A connection is not read until memory is not tight any more. `listed_max`: so many are listed without a look at
    /// which have ended.
    pub(in crate::broker) fn pause(
        &mut self,
        key: ConnectionKey,
        listed_max: usize,
        is_here: impl Fn(ConnectionKey) -> bool,
    ) {
        if self.paused.len() > listed_max {
            // More than half have ended while memory stayed tight.
            self.paused.retain(|&key| is_here(key));
        }
        self.paused.push(key);
    }

    /// May a search go on now?
    pub(in crate::broker) fn may_search(&self, now: Time) -> bool {
        self.search.rests_until <= now
    }

    /// Is a search under way?
    pub(in crate::broker) fn is_searching(&self) -> bool {
        self.search.next > 0
    }

    /// The first slot that the search has not looked at.
    pub(in crate::broker) fn search_from(&self) -> u32 {
        self.search.next
    }

    /// The search has found a connection that holds so much.
    pub(in crate::broker) fn note_found(&mut self, found: Worst) {
        if self.search.worst.is_none_or(|worst| worst.bytes < found.bytes) {
            self.search.worst = Some(found);
        }
    }

    /// The search goes on from this slot.
    pub(in crate::broker) fn search_on(&mut self, from: u32) {
        self.search.next = from;
    }

    /// The search is over; gives the worst. If there is none, the next one begins at `rests_until`.
    pub(in crate::broker) fn end_search(&mut self, rests_until: Time) -> Option<Worst> {
        let worst = std::mem::take(&mut self.search).worst;
        if worst.is_none() {
            self.search.rests_until = rests_until;
        }
        worst
    }
}
