//! A hash table that stays responsive with ten million entries. It is divided into segments by the hash. Each
//! segment grows and shrinks by itself, so a single insertion moves at most a 256th of all entries. The
//! caller provides hash and comparison.

use crate::base::Random;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::hash::{BuildHasher, Hasher};

/// The keyed hash functions of an index. Without the seed, nobody can choose names that collide.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    state: RandomState,
    /// An odd number.
    factor: u64,
}

impl Keys {
    pub(super) fn new(hash_seed: u64) -> Keys {
        let mut random = Random::new(hash_seed);
        let mut key = || random.next_u64();
        Keys { state: RandomState::with_seeds(key(), key(), key(), key()), factor: key() | 1 }
    }

    pub(super) fn text(&self, text: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    /// The hash of a child, computed from the hash of its level. Every bit of the secret factor affects every
    /// bit of the result, through both halves of the product.
    pub(super) fn child(&self, parent: u32, level_hash: u64) -> u64 {
        let product = u128::from(level_hash ^ u64::from(parent)) * u128::from(self.factor);
        product as u64 ^ (product >> 64) as u64
    }
}

#[derive(Debug)]
pub(super) struct SegmentedTable<T> {
    segments: Box<[HashTable<T>]>,
    len: usize,
}

impl<T> SegmentedTable<T> {
    pub(super) fn new() -> SegmentedTable<T> {
        SegmentedTable { segments: (0..SEGMENTS).map(|_| HashTable::new()).collect(), len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[segment(hash)].find(hash, is_it)
    }

    pub(super) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.segments[segment(hash)].find_mut(hash, is_it)
    }

    pub(super) fn find_or_insert(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hasher: impl Fn(&T) -> u64,
        make: impl FnOnce() -> T,
    ) -> &mut T {
        match self.segments[segment(hash)].entry(hash, is_it, hasher) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(make()).into_mut()
            }
        }
    }

    /// Removes an entry. `hasher` is only called for entries that stay.
    pub(super) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hasher: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let table = &mut self.segments[segment(hash)];
        let (value, _) = table.find_entry(hash, is_it).ok()?.remove();
        give_back(table, hasher);
        self.len -= 1;
        Some(value)
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.segments.iter().map(HashTable::capacity).sum()
    }
}

/// Shrinks a table that is at most a quarter full to twice its content. Amortized, a removal moves one entry.
pub(super) fn give_back<T>(table: &mut HashTable<T>, hasher: impl Fn(&T) -> u64) {
    if table.len() <= table.capacity() / 4 {
        table.shrink_to(table.len() * 2, hasher);
    }
}

const SEGMENTS: usize = 256;

/// The segment. Its bits are used by hashbrown neither for the place (the lowest) nor for the tag (the
/// highest seven).
fn segment(hash: u64) -> usize {
    (hash >> 48) as usize % SEGMENTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_table_owns_no_entries() {
        let keys = Keys::new(1);
        let hash = |value: &u32| keys.child(*value, 0);
        let mut table = SegmentedTable::new();
        for value in 0..10_000 {
            table.find_or_insert(hash(&value), |other| *other == value, hash, || value);
        }
        assert_eq!(table.find(hash(&77), |value| *value == 77), Some(&77));
        for value in 0..10_000 {
            assert_eq!(table.remove(hash(&value), |other| *other == value, hash), Some(value));
        }
        assert_eq!(table.remove(hash(&0), |other| *other == 0, hash), None);
        assert_eq!(table.capacity(), 0);
    }

    #[test]
    fn seeds_give_different_hashes() {
        assert_ne!(Keys::new(1).text(b"a/b"), Keys::new(2).text(b"a/b"));
        assert_eq!(Keys::new(1).text(b"a/b"), Keys::new(1).text(b"a/b"));
    }
}
