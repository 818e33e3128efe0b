//! A slab: it stores values at small integer addresses. Values are stored in chunks and never move, even when
//! the slab grows. Addresses are reused. When the last value is removed, all memory is freed.

use std::ops::{Index, IndexMut};

/// No address.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Slab<T> {
    /// All chunks but the last are full.
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T: Default> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.addresses() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(address) = self.free.pop() {
            self[address] = value;
            return address;
        }
        let address = u32::try_from(self.addresses()).ok().filter(|address| *address != NONE);
        let address = address.expect("memory ends long before four billion values of 24 bytes and more");
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push(value),
            _ => self.chunks.push(vec![value]),
        }
        address
    }

    /// Removes a value and leaves a default one, which must own no heap.
    pub(super) fn remove(&mut self, address: u32) -> T {
        let value = std::mem::take(&mut self[address]);
        self.free.push(address);
        if self.len() == 0 {
            *self = Slab::new();
        }
        value
    }

    fn addresses(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, address: u32) -> &T {
        &self.chunks[address as usize / CHUNK][address as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, address: u32) -> &mut T {
        &mut self.chunks[address as usize / CHUNK][address as usize % CHUNK]
    }
}

/// The number of values in a chunk.
const CHUNK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reused_and_an_emptied_slab_owns_nothing() {
        let mut slab = Slab::new();
        let addresses: Vec<u32> = (0..10_000_u64).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.remove(addresses[5_000]), 5_000);
        assert_eq!(slab.insert(77), addresses[5_000]);
        assert_eq!((slab.len(), slab[addresses[9_999]], slab[addresses[5_000]]), (10_000, 9_999, 77));
        for address in addresses {
            slab.remove(address);
        }
        assert_eq!((slab.len(), slab.chunks.capacity(), slab.free.capacity()), (0, 0, 0));
    }
}
