//! Counts the memory that clients make a shard keep, by kind.
//!
//! It has one number of bytes for each kind. A kept object holds its own charge ([`Charge`]), which is
//! returned when the object is dropped, so no separate list has to be maintained. The numbers are the bytes
//! that the allocator takes, not the bytes that the client sent. The machine compares them with its bounds
//! (`limits.memory_bytes`).

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// A kind of memory that clients make the broker keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Messages that wait for sessions or are on their way, each counted once.
    Messages,
    /// Bytes written for connections that their sockets have not taken.
    Backlogs,
    /// Packets that have not arrived completely.
    Partial,
    /// Sessions with their client identifiers, and connections.
    Sessions,
    /// Topic filters of subscriptions, with their entries in the index of each shard.
    Subscriptions,
    /// Wills.
    Wills,
    /// Topic aliases.
    Aliases,
    /// Retained messages.
    Retained,
}

/// Every kind, in the order of the numbers.
pub const MEMORY_KINDS: [MemoryKind; 8] = [
    MemoryKind::Messages,
    MemoryKind::Backlogs,
    MemoryKind::Partial,
    MemoryKind::Sessions,
    MemoryKind::Subscriptions,
    MemoryKind::Wills,
    MemoryKind::Aliases,
    MemoryKind::Retained,
];

const KINDS: usize = MEMORY_KINDS.len();

/// The memory account of one shard. A clone refers to the same account.
#[derive(Clone, Debug, Default)]
pub struct MemoryAccount(Rc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    kinds: [Cell<usize>; KINDS],
    total: Cell<usize>,
}

impl MemoryAccount {
    /// The bytes of all kinds.
    pub fn total(&self) -> usize {
        self.0.total.get()
    }

    /// The bytes of one kind.
    pub fn of(&self, kind: MemoryKind) -> usize {
        self.0.kinds[kind as usize].get()
    }

    /// The bytes of each kind, in the order of [`MEMORY_KINDS`].
    pub fn of_all(&self) -> [u64; KINDS] {
        std::array::from_fn(|kind| self.0.kinds[kind].get() as u64)
    }

    /// Adds bytes.
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        let (cell, total) = (&self.0.kinds[kind as usize], &self.0.total);
        cell.set(cell.get() + bytes);
        total.set(total.get() + bytes);
    }

    /// Subtracts bytes that were added before.
    pub fn subtract(&self, kind: MemoryKind, bytes: usize) {
        let (cell, total) = (&self.0.kinds[kind as usize], &self.0.total);
        debug_assert!(cell.get() >= bytes, "{kind:?}: no more is given back than was taken");
        cell.set(cell.get().saturating_sub(bytes));
        total.set(total.get().saturating_sub(bytes));
    }

    /// Replaces the counted bytes of a kind by `bytes`.
    pub fn set(&self, kind: MemoryKind, bytes: usize) {
        self.subtract(kind, self.of(kind));
        self.add(kind, bytes);
    }

    /// Adds bytes until the charge is dropped.
    pub fn charge(&self, kind: MemoryKind, bytes: usize) -> Charge {
        self.add(kind, bytes);
        Charge { account: self.clone(), kind, bytes }
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub struct Charge {
    account: MemoryAccount,
    kind: MemoryKind,
    bytes: usize,
}

impl Charge {
    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes the number of bytes.
    pub fn set(&mut self, bytes: usize) {
        self.account.subtract(self.kind, self.bytes);
        self.account.add(self.kind, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.subtract(self.kind, self.bytes);
    }
}

/// An object together with its charge.
#[derive(Debug)]
pub struct Charged<T> {
    inner: T,
    _charge: Charge,
}

impl<T> Charged<T> {
    /// Counts the object until it is dropped.
    pub fn new(inner: T, charge: Charge) -> Charged<T> {
        Charged { inner, _charge: charge }
    }
}

impl<T> Deref for Charged<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

/// The bytes that the allocator takes for a block of this size: a header, in steps of 16 bytes.
pub const fn allocated(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_counts_for_as_long_as_it_lives_at_its_present_size() {
        let account = MemoryAccount::default();
        let mut charge = account.charge(MemoryKind::Wills, 100);
        let other = account.charge(MemoryKind::Aliases, 7);
        assert_eq!((account.of(MemoryKind::Wills), account.total()), (100, 107));
        charge.set(40);
        assert_eq!((account.of(MemoryKind::Wills), account.total(), charge.bytes()), (40, 47, 40));
        drop((charge, other));
        assert_eq!(account.total(), 0);
    }

    #[test]
    fn kinds_stand_in_the_order_of_their_numbers() {
        assert!(MEMORY_KINDS.iter().enumerate().all(|(at, &kind)| at == kind as usize));
    }
}
