//! The ring of receive buffers that the kernel chooses from. All connections of a shard share it.
//!
//! A buffer belongs to the kernel until a completion names it, then to the owner until it is given back. One
//! store of the tail per turn makes the returned buffers visible to the kernel.
//!
//! The kernel uses its buffers in a circle, so it gets few while few are enough: those that were used last,
//! which are in the cache. A turn that nearly uses them up doubles their number.

use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::param::page_size;

pub(super) struct Buffers {
    entries: MemoryMapping,
    memory: MemoryMapping,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    published: u16,
    /// The number of buffers that the kernel has, according to the completions so far.
    available: u16,
    /// The number of buffers that the kernel should have.
    wanted: u16,
    /// Buffers that were given back and that the kernel does not have. The one that was used last is at the
    /// end.
    spare: Vec<u16>,
}

impl Buffers {
    /// Maps and registers `count` buffers of `buffer_bytes` each. `count` is a power of two up to 32,768.
    pub(super) fn new(submitter: &Submitter<'_>, count: u16, buffer_bytes: u32) -> io::Result<Buffers> {
        if !count.is_power_of_two() || count > COUNT_MAX || buffer_bytes == 0 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let entries = MemoryMapping::new(entries_bytes(count))?;
        let memory = MemoryMapping::new(usize::from(count) * buffer_bytes as usize)?;
        // SAFETY: the mapping is page aligned, large enough for `count` entries, and outlives the
        // registration, which `unregister` ends before the mapping is dropped.
        unsafe { submitter.register_buf_ring_with_flags(entries.base.as_ptr() as u64, count, GROUP, 0)? };
        let mut buffers = Buffers {
            entries,
            memory,
            count,
            buffer_bytes,
            tail: 0,
            published: 0,
            available: 0,
            wanted: count.min(WANTED_MIN),
            spare: (0..count).rev().collect(),
        };
        buffers.hand_out_wanted();
        Ok(buffers)
    }

    /// Ends the registration, so that the kernel no longer writes to any buffer.
    pub(super) fn unregister(&mut self, submitter: &Submitter<'_>) {
        let _ = submitter.unregister_buf_ring(GROUP);
    }

    /// Records that a completion has named a buffer.
    pub(super) fn lend(&mut self) {
        self.available -= 1;
    }

    /// The bytes that the kernel has written into a buffer that is not given back yet.
    pub(super) fn bytes(&self, id: u16, len: u32) -> &[u8] {
        assert!(id < self.count && len <= self.buffer_bytes, "not a buffer of this ring");
        // SAFETY: the assertion keeps the range inside the mapping. Mapped memory is initialized, and the
        // kernel does not write to this buffer before it is given back.
        unsafe { std::slice::from_raw_parts(self.address(id), len as usize) }
    }

    /// Returns a buffer. The kernel may get it at the next [`Buffers::publish`].
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count && self.lent() > 0, "a buffer is given back once");
        self.spare.push(id);
    }

    /// The number of buffers that completions have named and that are not given back yet.
    pub(super) fn lent(&self) -> usize {
        usize::from(self.count - self.available) - self.spare.len()
    }

    fn hand_out_wanted(&mut self) {
        while self.available < self.wanted
            && let Some(id) = self.spare.pop()
        {
            self.hand_out(id);
        }
        if self.published != self.tail {
            self.store_tail();
        }
    }

    fn hand_out(&mut self, id: u16) {
        let address = self.address(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`, so the entry lies within the mapping, and the kernel reads no
        // entry at or after the published tail.
        let entry = unsafe { &mut *self.first_entry().add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.available += 1;
    }

    /// Fills the kernel's buffers up to the wanted number and publishes them.
    pub(super) fn publish(&mut self) {
        if self.available < self.wanted / 4 {
            self.wanted = self.count.min(self.wanted.saturating_mul(2));
        }
        self.hand_out_wanted();
    }

    /// Takes back the buffers above [`WANTED_MIN`] that the kernel has, and frees the memory of all spare
    /// buffers.
    ///
    /// The caller must have handled every completion. No completion comes at the same time, because only the
    /// shard's own enter posts them. So the kernel's position in the ring is `available` before the tail.
    pub(super) fn give_memory_back(&mut self) {
        self.wanted = self.count.min(WANTED_MIN);
        while self.available > self.wanted {
            self.tail = self.tail.wrapping_sub(1);
            self.available -= 1;
            let index = usize::from(self.tail & (self.count - 1));
            // SAFETY: the index is below `count`, so the entry lies within the mapping. It was written when
            // the buffer was published.
            self.spare.push(unsafe { &*self.first_entry().add(index) }.bid());
        }
        self.store_tail();
        // The lowest buffers are used first again, so that the used ones are adjacent.
        self.spare.sort_unstable_by_key(|&id| std::cmp::Reverse(id));
        for run in self.spare.chunk_by(|&id, &next| id == next + 1) {
            let first = usize::from(run[run.len() - 1]);
            let bytes = self.buffer_bytes as usize;
            self.memory.discard(first * bytes..(first + run.len()) * bytes);
        }
    }

    fn store_tail(&mut self) {
        self.published = self.tail;
        // SAFETY: the base is the first entry of the registered ring, aligned and initialized. Its reserved
        // field is the tail, which the kernel reads with acquire order.
        let tail = unsafe { &*BufRingEntry::tail(self.first_entry()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// The number of buffers that the kernel has, according to the completions so far.
    pub(super) fn available(&self) -> u16 {
        self.available
    }

    fn first_entry(&self) -> *mut BufRingEntry {
        self.entries.base.cast().as_ptr()
    }

    fn address(&self, id: u16) -> *mut u8 {
        // SAFETY: callers have checked that `id` is below `count`. The mapping holds `count` buffers.
        unsafe { self.memory.base.as_ptr().add(usize::from(id) * self.buffer_bytes as usize) }
    }
}

/// The size of a ring of `count` buffers in bytes, without the buffers themselves.
pub(super) fn entries_bytes(count: u16) -> usize {
    usize::from(count) * size_of::<BufRingEntry>()
}

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;

const COUNT_MAX: u16 = 32_768;

/// The smallest number of buffers that the kernel has. It is enough for a turn of a shard that is not busy.
const WANTED_MIN: u16 = 64;

/// Anonymous memory, page aligned and zeroed. It takes no physical memory before it is used.
pub(super) struct MemoryMapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl MemoryMapping {
    pub(super) fn new(bytes: usize) -> io::Result<MemoryMapping> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing
        // memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(MemoryMapping { base, bytes })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The length in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The whole memory. No pending operation of the kernel may use it.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: mapped memory is initialized, and the borrow of `self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }

    /// Requests ordinary pages instead of huge ones.
    pub(super) fn use_small_pages(&self) {
        // SAFETY: base and length are those of our own mapping, and the advice does not change its content.
        unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_NOHUGEPAGE) };
    }

    /// Frees a part of the memory, if it consists of whole pages. It reads as zero afterwards.
    fn discard(&mut self, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= self.bytes, "not a part of this mapping");
        let page_bytes = page_size();
        if !part.start.is_multiple_of(page_bytes) || !part.end.is_multiple_of(page_bytes) {
            return;
        }
        // SAFETY: the assertion keeps the range inside our own mapping, which is private, anonymous and not
        // borrowed. The range begins and ends at a page boundary, so no byte outside of it is lost.
        unsafe {
            let start = self.base.as_ptr().add(part.start);
            libc::madvise(start.cast(), part.len(), libc::MADV_DONTNEED);
        }
    }
}

impl Drop for MemoryMapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of our own mapping, and no reference outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::ring::{Ring, RingSize};
    use super::*;

    #[test]
    fn buffers_come_back_and_lie_apart() {
        let ring = Ring::new(RingSize::LEAST).unwrap();
        let mut buffers = Buffers::new(&ring.submitter(), 4, 64).unwrap();
        assert_eq!(buffers.available(), 4);
        buffers.lend();
        assert_eq!(buffers.available(), 3);
        assert_eq!(buffers.bytes(3, 64).as_ptr() as usize - buffers.bytes(0, 64).as_ptr() as usize, 192);
        buffers.give_back(3);
        buffers.publish();
        assert_eq!(buffers.available(), 4);
        buffers.unregister(&ring.submitter());
    }

    #[test]
    fn the_kernel_gets_more_buffers_when_a_turn_uses_them_up_and_loses_them_again() {
        let ring = Ring::new(RingSize::LEAST).unwrap();
        let mut buffers = Buffers::new(&ring.submitter(), 256, 64).unwrap();
        assert_eq!(buffers.available(), WANTED_MIN);
        for _ in 0..WANTED_MIN - 10 {
            buffers.lend();
        }
        buffers.publish();
        assert_eq!(buffers.available(), WANTED_MIN * 2);
        for id in 0..WANTED_MIN - 10 {
            buffers.give_back(id);
        }
        buffers.give_memory_back();
        assert_eq!((buffers.available(), buffers.lent()), (WANTED_MIN, 0));
        let mut all = buffers.spare.clone();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256 - usize::from(WANTED_MIN));
        assert_eq!(buffers.spare.last(), all.first(), "the lowest comes first");
        buffers.unregister(&ring.submitter());
    }

    #[test]
    fn a_count_that_is_no_power_of_two_is_refused() {
        let ring = Ring::new(RingSize::LEAST).unwrap();
        assert!(Buffers::new(&ring.submitter(), 3, 64).is_err());
        assert!(Buffers::new(&ring.submitter(), 0, 64).is_err());
    }
}
