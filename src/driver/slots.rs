//! The connections of a shard: the socket in each slot, what is armed on it, and rarely needed parts
//! (backlog, held bytes) in a separate box.
//!
//! A slot is reused only if no operation is armed on it, from the next turn on, and with a new generation. So
//! neither a late completion nor an event that the owner still has can affect its next connection.

use std::os::fd::RawFd;
use std::time::Instant;

use super::ring::{GENERATION_MASK, Op, Tag};
use super::{SocketEnd, backlog::UnsentBytes};
use crate::base::ConnectionSlot;

/// How a connection is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It is not read until the owner asks for it.
    Off,
    /// One receive, then `Off`.
    Once,
    /// A multishot that is armed again whenever it ends.
    Stream,
}

/// One connection. Parts that most connections never have are in `extra`.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) generation: u32,
    pub(super) flags: u32,
    pub(super) armed: u8,
    pub(super) mode: Mode,
    pub(super) extra: Option<Box<SlotExtra>>,
}

/// The parts that a connection has while it is slow, paused or closing.
#[derive(Debug, Default)]
pub(super) struct SlotExtra {
    pub(super) backlog: UnsentBytes,
    /// Bytes that came while reading was paused.
    pub(super) held: Vec<u8>,
    /// The end of the connection, if it came after the held bytes.
    pub(super) held_hangup: Option<SocketEnd>,
    /// The number of bytes that were discarded since the close.
    pub(super) discarded_bytes: usize,
    /// The time since which the socket has taken nothing, where this is measured. See [`PEER_SHUT`].
    pub(super) stalled_since: Option<Instant>,
}

/// A receive is armed.
pub(super) const RECEIVING: u32 = 1 << 0;
/// A poll for room to send is armed.
pub(super) const POLLING: u32 = 1 << 1;
/// A cancel of the receive is pending.
pub(super) const CANCELLING: u32 = 1 << 2;
/// The owner has asked for a pause.
pub(super) const PAUSED: u32 = 1 << 3;
/// Bytes are held, or are not delivered yet after a resume. Later bytes are appended to them.
pub(super) const HOLDING: u32 = 1 << 4;
/// The end was reported to the owner, or must not be reported any more.
pub(super) const HUNG_UP: u32 = 1 << 5;
/// The peer's end of stream was read.
pub(super) const AT_END: u32 = 1 << 6;
/// The socket can't be used any more: it was reset, has failed, or was aborted.
pub(super) const BROKEN: u32 = 1 << 7;
/// The owner has closed the slot. The slot stays in use until nothing is armed.
pub(super) const CLOSING: u32 = 1 << 8;
/// Our end of stream is sent.
pub(super) const SHUT: u32 = 1 << 9;
/// Both directions are shut down, to end the armed operations.
pub(super) const TORN: u32 = 1 << 10;
/// There was no buffer for the receive. It is armed again when there are some.
pub(super) const STARVED: u32 = 1 << 11;
/// A send from the backlog is in the batch.
pub(super) const DRAINING: u32 = 1 << 12;
/// That send was incomplete.
pub(super) const SHORT: u32 = 1 << 13;
/// The slot is in the list of those to close.
pub(super) const LISTED: u32 = 1 << 14;
/// A poll for the end of the peer is armed, because no receive is.
pub(super) const WATCHED: u32 = 1 << 15;
/// A poll has reported that the peer sends no more. Every further poll would return at once, writable or not.
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

    /// Frees the box when it is no longer needed.
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
    /// Slots that were freed in this turn. The owner may still have events of them.
    resting: Vec<ConnectionSlot>,
    /// The generation of the next connection, whatever its slot. An empty slot stores no state.
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

    /// Empties a slot on which nothing is armed, and returns its socket.
    pub(super) fn remove(&mut self, slot: ConnectionSlot) -> RawFd {
        let entry = &mut self.slots[slot.at()];
        assert!(entry.fd != FREE && entry.armed == 0, "a slot is freed when nothing is armed on it");
        let fd = std::mem::replace(&mut entry.fd, FREE);
        entry.flags = 0;
        entry.extra = None;
        self.resting.push(slot);
        fd
    }

    /// Allows the slots that were freed in the last turn to be used again.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.resting);
    }

    /// Removes the free slots after the last connection, and frees their memory.
    pub(super) fn give_memory_back(&mut self) {
        let used = self.slots.iter().rposition(|entry| entry.fd != FREE).map_or(0, |last| last + 1);
        // The owner may still have events of the slots that rest.
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

    /// The connection that a completion is for. `None` if the slot has another one by now.
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
