//! The connections of a shard: which socket is in which slot, what is armed on it, and the rare
//! things (backlog, held bytes) in a box of their own.
//!
//! A slot is reused only when no operation is armed on it, from the next turn on, and under a new
//! generation: neither a late completion nor an event the owner still has can meet its successor.

use std::os::fd::RawFd;
use std::time::Instant;

use super::ring::{GENERATION_MASK, Op, Tag};
use super::{SocketEnd, backlog::UnsentBytes};
use crate::base::ConnectionSlot;

/// How a connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Not, until the owner asks.
    Off,
    /// One receive, then off.
    Once,
    /// A multishot that is armed again whenever it ends.
    Stream,
}

/// One connection. What most connections never have is in `extra`.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) generation: u32,
    pub(super) flags: u32,
    pub(super) armed: u8,
    pub(super) mode: Mode,
    pub(super) extra: Option<Box<SlotExtra>>,
}

/// What a connection has while it is slow, paused or closing.
#[derive(Debug, Default)]
pub(super) struct SlotExtra {
    pub(super) backlog: UnsentBytes,
    /// Bytes that came in while reading was paused.
    pub(super) held: Vec<u8>,
    /// The end that came behind the held bytes.
    pub(super) held_hangup: Option<SocketEnd>,
    /// Bytes thrown away since the close.
    pub(super) discarded_bytes: usize,
    /// Since when the socket has taken nothing, where that is asked: see [`PEER_SHUT`].
    pub(super) stalled_since: Option<Instant>,
}

/// A receive is armed.
pub(super) const RECEIVING: u32 = 1 << 0;
/// A poll for room to send is armed.
pub(super) const POLLING: u32 = 1 << 1;
/// A cancel of the receive is under way.
pub(super) const CANCELLING: u32 = 1 << 2;
/// The owner asked for a pause.
pub(super) const PAUSED: u32 = 1 << 3;
/// Bytes are held, or not delivered yet after a resume: what follows queues up behind them.
pub(super) const HOLDING: u32 = 1 << 4;
/// The owner was told of the end, or must not be any more.
pub(super) const HUNG_UP: u32 = 1 << 5;
/// The peer's end of stream was read.
pub(super) const AT_END: u32 = 1 << 6;
/// The socket is of no use any more: reset, failed, or aborted.
pub(super) const BROKEN: u32 = 1 << 7;
/// The owner closed the slot; it lives on until nothing is armed.
pub(super) const CLOSING: u32 = 1 << 8;
/// Our end of stream is sent.
pub(super) const SHUT: u32 = 1 << 9;
/// Both directions are shut, to end what is armed.
pub(super) const TORN: u32 = 1 << 10;
/// The receive found no buffer; it is armed again when there are some.
pub(super) const STARVED: u32 = 1 << 11;
/// A send from the backlog is in the batch.
pub(super) const DRAINING: u32 = 1 << 12;
/// That send fell short.
pub(super) const SHORT: u32 = 1 << 13;
/// The slot is in the list of those to close.
pub(super) const LISTED: u32 = 1 << 14;
/// A poll for the peer's going is armed, because no receive is.
pub(super) const WATCHED: u32 = 1 << 15;
/// A poll has told that the peer sends no more. Every further poll would come back at once, writable or not.
pub(super) const PEER_SHUT: u32 = 1 << 16;

impl Slot {
    pub(super) fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub(super) fn set(&mut self, flags: u32) {
        self.flags |= flags;
    }

    pub(super) fn clear(&mut self, flags: u32) {
        self.flags &= !flags;
    }

    pub(super) fn extra_mut(&mut self) -> &mut SlotExtra {
        self.extra.get_or_insert_default()
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.extra.as_ref().map_or(0, |extra| extra.backlog.len())
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.backlog_bytes() > 0
    }

    /// Frees the box once nothing of it is needed.
    pub(super) fn trim_extra(&mut self) {
        let unused = self.extra.as_ref().is_some_and(|extra| {
            extra.backlog.len() == 0 && extra.held.is_empty() && extra.held_hangup.is_none()
        });
        if unused && !self.has(CLOSING | HOLDING) {
            self.extra = None;
        }
    }
}

#[derive(Default)]
pub(super) struct SocketSlots {
    slots: Vec<Slot>,
    free: Vec<ConnectionSlot>,
    /// Freed in this turn; the owner may still have events of them.
    resting: Vec<ConnectionSlot>,
    /// Of the next connection, whatever its slot: a slot that is empty has no past to remember.
    generation: u32,
}

impl SocketSlots {
    /// Puts a socket into a slot.
    pub(super) fn insert(&mut self, fd: RawFd) -> ConnectionSlot {
        let generation = self.generation;
        self.generation = (generation + 1) & GENERATION_MASK;
        let entry = Slot { fd, generation, flags: 0, armed: 0, mode: Mode::Off, extra: None };
        if let Some(slot) = self.free.pop() {
            let free = &mut self.slots[slot.at()];
            assert!(free.fd == FREE && free.armed == 0, "a free slot is idle");
            *free = entry;
            return slot;
        }
        let slot = ConnectionSlot::new(self.slots.len() as u32);
        self.slots.push(entry);
        slot
    }

    /// Empties a slot on which nothing is armed and returns its socket.
    pub(super) fn remove(&mut self, slot: ConnectionSlot) -> RawFd {
        let entry = &mut self.slots[slot.at()];
        assert!(entry.fd != FREE && entry.armed == 0, "a slot is freed when nothing is armed on it");
        let fd = std::mem::replace(&mut entry.fd, FREE);
        entry.flags = 0;
        entry.extra = None;
        self.resting.push(slot);
        fd
    }

    /// Lets the slots freed in the last turn be used again.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// Forgets the free slots behind the last connection, and gives the memory back.
    pub(super) fn give_memory_back(&mut self) {
        let used = self.slots.iter().rposition(|entry| entry.fd != FREE).map_or(0, |last| last + 1);
        // The owner may still have events of those that rest.
        let used = self.resting.iter().map(|slot| slot.at() + 1).fold(used, usize::max);
        self.slots.truncate(used);
        self.slots.shrink_to_fit();
        self.free.retain(|&slot| slot.at() < used);
        self.free.shrink_to_fit();
        self.resting.shrink_to_fit();
    }

    /// The connection in a slot, if there is one.
    pub(super) fn get(&self, slot: ConnectionSlot) -> Option<&Slot> {
        self.slots.get(slot.at()).filter(|entry| entry.fd != FREE)
    }

    pub(super) fn get_mut(&mut self, slot: ConnectionSlot) -> Option<&mut Slot> {
        self.slots.get_mut(slot.at()).filter(|entry| entry.fd != FREE)
    }

    /// The connection a completion is for; none if the slot has another one by now.
    pub(super) fn tagged(&mut self, tag: Tag) -> Option<&mut Slot> {
        self.get_mut(tag.slot()).filter(|entry| entry.generation == tag.generation)
    }

    pub(super) fn tag(&self, op: Op, slot: ConnectionSlot) -> Tag {
        Tag { op, generation: self.slots[slot.at()].generation, index: slot.get() }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.resting.len()
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.slots.iter().map(|entry| entry.fd).filter(|&fd| fd != FREE)
    }
}

const FREE: RawFd = -1;

const _: () = assert!(size_of::<Slot>() <= 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_in_the_next_turn_under_a_new_generation() {
        let mut slots = SocketSlots::default();
        let first = slots.insert(10);
        let stale = slots.tag(Op::Receive, first);
        assert_eq!(slots.remove(first), 10);
        assert_ne!(slots.insert(11), first);
        slots.recycle();
        assert_eq!(slots.insert(12), first);
        assert!(slots.tagged(stale).is_none());
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn memory_behind_the_last_connection_goes_back_and_no_generation_with_it() {
        let mut slots = SocketSlots::default();
        let all: Vec<ConnectionSlot> = (0..1000).map(|fd| slots.insert(fd)).collect();
        let stale = slots.tag(Op::Receive, all[500]);
        for &slot in all.iter().filter(|&&slot| slot != all[10]) {
            slots.remove(slot);
        }
        slots.give_memory_back();
        assert_eq!(slots.slots.len(), 1000, "slots rest until the turn is over");
        slots.recycle();
        slots.give_memory_back();
        assert_eq!((slots.slots.len(), slots.len()), (11, 1));
        for fd in 0..600 {
            slots.insert(fd);
        }
        assert!(slots.get(all[500]).is_some() && slots.tagged(stale).is_none());
    }

    #[test]
    fn an_empty_slot_is_not_there() {
        let mut slots = SocketSlots::default();
        assert!(slots.get(ConnectionSlot::new(0)).is_none());
        let slot = slots.insert(10);
        slots.remove(slot);
        assert!(slots.get_mut(slot).is_none());
    }
}
