//! The memory that clients make the shards keep: this shard's account, the memory of the others, whether
//! memory is short or tight, and the search for the connection that holds the most.

use crate::base::{ConnectionKey, MemoryAccount, MemoryKind, Time};

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Memory {
    account: MemoryAccount,
    /// `limits.memory_bytes`.
    max: usize,
    /// This shard's part of `limits.queue_bytes_total`.
    queues_max: usize,
    /// The bytes of the messages in queues. A message in several queues counts several times.
    queued: usize,
    /// The total that the other shards were last told. If a turn does not change it, they are not told again.
    published: usize,
    /// The bytes that the other shards keep, as of this turn.
    others: usize,
    /// Since when memory is tight.
    tight_since: Option<Time>,
    /// Whether a timer for the next check runs.
    is_watching: bool,
    /// The connections that are not read until memory is not tight any more.
    paused: Vec<ConnectionKey>,
    search: Search,
}

/// Bounds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct MemoryMax {
    /// The bound of what clients make all shards keep.
    pub of_all: usize,
    /// The bound of the messages of this shard.
    pub of_queues: usize,
}

/// The search for the connection that holds the most. It covers some slots per turn.
#[derive(Debug, Default)]
struct Search {
    next: u32,
    worst: Option<Worst>,
    /// When the next search may begin, after one that found no connection worth ending.
    rests_until: Time,
}

/// A connection, and the bytes that its end frees.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Worst {
    pub key: ConnectionKey,
    pub bytes: usize,
}

impl Memory {
    /// Begins with nothing in use.
    pub(in crate::broker) fn new(max: MemoryMax) -> Memory {
        Memory {
            account: MemoryAccount::default(),
            max: max.of_all,
            queues_max: max.of_queues,
            queued: 0,
            published: 0,
            others: 0,
            tight_since: None,
            is_watching: false,
            paused: Vec::new(),
            search: Search::default(),
        }
    }

    /// Changes the bounds. Nothing is given up at once if more is kept.
    pub(in crate::broker) fn set_max(&mut self, max: MemoryMax) {
        (self.max, self.queues_max) = (max.of_all, max.of_queues);
    }

    /// The account of this shard.
    #[inline]
    pub(in crate::broker) fn account(&self) -> &MemoryAccount {
        &self.account
    }

    /// The bytes that clients make all shards keep.
    #[inline]
    pub(in crate::broker) fn used(&self) -> usize {
        self.others + self.account.total()
    }

    /// Whether less than a quarter of the bound is left.
    #[inline]
    pub(in crate::broker) fn is_short(&self) -> bool {
        self.used() >= self.max - self.max / 4
    }

    /// Whether less than an eighth of the bound is left.
    #[inline]
    pub(in crate::broker) fn is_tight(&self) -> bool {
        self.used() >= self.max - self.max / 8
    }

    /// Whether the bound is reached.
    pub(in crate::broker) fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    /// By how many bytes the messages of this shard would exceed their bound with `more` bytes added.
    #[inline]
    pub(in crate::broker) fn queues_excess(&self, more: usize) -> usize {
        (self.account.of(MemoryKind::Messages) + more).saturating_sub(self.queues_max)
    }

    /// This shard's part of `limits.queue_bytes_total`, in bytes.
    pub(in crate::broker) fn queues_max(&self) -> usize {
        self.queues_max
    }

    /// Notes that messages of this many bytes were queued or, if negative, left their queues. Returns the
    /// bytes in all queues.
    pub(in crate::broker) fn note_queued(&mut self, bytes: isize) -> usize {
        self.queued = self.queued.saturating_add_signed(bytes);
        self.queued
    }

    /// Whether the others must be told the total of this shard. True once for each change.
    pub(in crate::broker) fn needs_telling(&mut self) -> bool {
        let total = self.account.total();
        std::mem::replace(&mut self.published, total) != total
    }

    /// Sets the bytes that the other shards keep.
    pub(in crate::broker) fn set_others(&mut self, bytes: usize) {
        self.others = bytes;
    }

    /// Notes that memory is tight. Returns since when.
    pub(in crate::broker) fn note_tight(&mut self, now: Time) -> Time {
        *self.tight_since.get_or_insert(now)
    }

    /// Whether memory was tight, or connections still wait for that to end.
    pub(in crate::broker) fn was_tight(&self) -> bool {
        self.tight_since.is_some() || !self.paused.is_empty()
    }

    /// Notes that memory is not tight any more. Returns the connections that must be read again.
    pub(in crate::broker) fn end(&mut self) -> Vec<ConnectionKey> {
        self.tight_since = None;
        self.search = Search::default();
        std::mem::take(&mut self.paused)
    }

    /// Whether a timer for the next check must be started. True once until it has fired.
    pub(in crate::broker) fn needs_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.is_watching, true)
    }

    /// Notes that the timer has fired.
    pub(in crate::broker) fn note_fired(&mut self) {
        self.is_watching = false;
    }

    /// Notes that a connection is not read until memory is not tight any more. Above `listed_max` entries,
    /// connections that have ended are removed from the list.
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

    /// Whether a search may continue now.
    pub(in crate::broker) fn may_search(&self, now: Time) -> bool {
        self.search.rests_until <= now
    }

    /// Whether a search is in progress.
    pub(in crate::broker) fn is_searching(&self) -> bool {
        self.search.next > 0
    }

    /// The first slot that the search has not checked.
    pub(in crate::broker) fn search_from(&self) -> u32 {
        self.search.next
    }

    /// Notes that the search has found a connection, with the bytes that it holds.
    pub(in crate::broker) fn note_found(&mut self, found: Worst) {
        if self.search.worst.is_none_or(|worst| worst.bytes < found.bytes) {
            self.search.worst = Some(found);
        }
    }

    /// Sets the slot from which the search continues.
    pub(in crate::broker) fn search_on(&mut self, from: u32) {
        self.search.next = from;
    }

    /// Ends the search and returns the worst connection. If there is none, the next search may begin at
    /// `rests_until`.
    pub(in crate::broker) fn end_search(&mut self, rests_until: Time) -> Option<Worst> {
        let worst = std::mem::take(&mut self.search).worst;
        if worst.is_none() {
            self.search.rests_until = rests_until;
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ConnectionSlot;

    fn memory() -> Memory {
        Memory::new(MemoryMax { of_all: 800, of_queues: 100 })
    }

    #[test]
    fn short_tight_and_full_count_what_all_shards_keep() {
        let mut memory = memory();
        memory.account().add(MemoryKind::Messages, 99);
        let states = |memory: &Memory| (memory.is_short(), memory.is_tight(), memory.is_full());
        for (others, expected) in [
            (500, (false, false, false)),
            (501, (true, false, false)),
            (601, (true, true, false)),
            (701, (true, true, true)),
        ] {
            memory.set_others(others);
            assert_eq!(states(&memory), expected, "{others}");
        }
        assert_eq!((memory.queues_excess(1), memory.queues_excess(11)), (0, 10));
        assert!(memory.needs_telling() && !memory.needs_telling());
    }

    #[test]
    fn a_search_gives_the_worst_and_rests_after_none() {
        let mut memory = memory();
        let key = |slot| ConnectionKey { slot: ConnectionSlot::new(slot), serial: 0 };
        let at = |seconds| Time::ZERO.after_seconds(seconds);
        for (slot, bytes) in [(1, 5), (2, 9), (3, 7)] {
            memory.note_found(Worst { key: key(slot), bytes });
        }
        assert_eq!(memory.end_search(at(5)).map(|worst| worst.bytes), Some(9));
        assert!(memory.may_search(at(1)));
        assert!(memory.end_search(at(5)).is_none());
        assert!(!memory.may_search(at(1)) && memory.may_search(at(5)));
    }

    #[test]
    fn connections_that_have_ended_do_not_fill_the_list_of_paused_ones() {
        let mut memory = memory();
        let key = |serial| ConnectionKey { slot: ConnectionSlot::new(1), serial };
        for serial in 0..100 {
            memory.pause(key(serial), 10, |key| key.serial > 95);
        }
        assert!(memory.was_tight());
        assert!(memory.end().len() < 20);
        assert!(!memory.was_tight());
    }
}
