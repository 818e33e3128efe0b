//! The account of the memory that clients make a shard keep, by kind.
//!
//! Owns one number of bytes for each kind. What is kept carries its own charge ([`Charge`],
//! a kept message) and gives it back when it is dropped, so no list of places has to be kept in step. The
//! numbers are what the allocator takes, not what the client sent. The machine asks them at its bounds
//! (`limits.memory_bytes`).

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

/// What clients make the broker keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Messages that wait for a session or are on their way to one, each once.
    Messages,
    /// Bytes written that sockets have not taken.
    Backlogs,
    /// Packets whose end has not come.
    Partial,
    /// Sessions with their client identifiers, and connections.
    Sessions,
    /// Topic filters of subscriptions, with their places in the index of each shard.
    Subscriptions,
    /// Wills.
    Wills,
    /// Topic aliases.
    Aliases,
    /// Retained messages.
    Retained,
}

/// Every kind, in the order of its numbers.
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

/// The account of one shard. A clone is the same account.
#[derive(Clone, Debug, Default)]
pub struct MemoryAccount(Rc<Cells>);

#[derive(Debug, Default)]
struct Cells {
    kinds: [Cell<usize>; KINDS],
    total: Cell<usize>,
}

impl MemoryAccount {
    /// Bytes of all kinds.
    pub fn total(&self) -> usize {
        self.0.total.get()
    }

    /// Bytes of one kind.
    pub fn of(&self, kind: MemoryKind) -> usize {
        self.0.kinds[kind as usize].get()
    }

    /// Bytes of each kind, in the order of [`MEMORY_KINDS`].
    pub fn of_all(&self) -> [u64; KINDS] {
        std::array::from_fn(|kind| self.0.kinds[kind].get() as u64)
    }

    /// Counts bytes in.
    pub fn add(&self, kind: MemoryKind, bytes: usize) {
        let (cell, total) = (&self.0.kinds[kind as usize], &self.0.total);
        cell.set(cell.get() + bytes);
        total.set(total.get() + bytes);
    }

    /// Counts bytes out that were counted in.
    pub fn subtract(&self, kind: MemoryKind, bytes: usize) {
        let (cell, total) = (&self.0.kinds[kind as usize], &self.0.total);
        debug_assert!(cell.get() >= bytes, "{kind:?}: no more is given back than was taken");
        cell.set(cell.get().saturating_sub(bytes));
        total.set(total.get().saturating_sub(bytes));
    }

    /// Counts so many bytes of a kind instead of those that were counted.
    pub fn set(&self, kind: MemoryKind, bytes: usize) {
        self.subtract(kind, self.of(kind));
        self.add(kind, bytes);
    }

    /// Counts bytes in for as long as the charge lives.
    pub fn charge(&self, kind: MemoryKind, bytes: usize) -> Charge {
        self.add(kind, bytes);
        Charge { account: self.clone(), kind, bytes }
    }
}

/// Bytes that are counted while this lives.
#[derive(Debug)]
pub struct Charge {
    account: MemoryAccount,
    kind: MemoryKind,
    bytes: usize,
}

impl Charge {
    /// Bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts a new size instead.
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

/// Something and what it counts for.
#[derive(Debug)]
pub struct Charged<T> {
    inner: T,
    _charge: Charge,
}

impl<T> Charged<T> {
    /// Counts it in until it is dropped.
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

/// What the allocator takes for a block of this size: a header, and steps of 16 bytes.
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
