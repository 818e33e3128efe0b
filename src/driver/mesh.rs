//! The mesh between shards: a bounded ring with one writer and one reader for each ordered pair, and
//! for each shard a flag that says whether it must be woken.
//!
//! The writer publishes, fences and looks at the reader's flag; the reader sets its flag, fences and
//! looks at its rings before it blocks. So at least one sees the other, and no mail is slept through.
//! One fence and one look serve all that a turn has published, since a wake-up leaves with the turn's
//! batch anyway.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

/// Makes the ends of a mesh, one for each shard, in order. A ring holds `capacity` items, rounded up
/// to a power of two.
pub fn mesh<T: Send>(shards: usize, capacity: usize) -> Vec<MeshEnd<T>> {
    let capacity = capacity.clamp(1, CAPACITY_MAX).next_power_of_two();
    let shared = Arc::new(Shared {
        shards,
        boxes: (0..shards * shards).map(|_| Mailbox::new(capacity)).collect(),
        sleepers: (0..shards).map(|_| Arc::new(Sleeping::default())).collect(),
    });
    (0..shards)
        .map(|shard| MeshEnd {
            shard,
            heads_seen: vec![0; shards],
            put_bytes: vec![0; shards],
            taken_bytes_seen: vec![0; shards],
            sent: 0,
            sleeping: shared.sleepers[shard].clone(),
            shared: shared.clone(),
        })
        .collect()
}

/// One shard's end: the only writer of its outgoing rings, the only reader of its incoming ones.
pub struct MeshEnd<T> {
    shard: usize,
    shared: Arc<Shared<T>>,
    sleeping: Arc<Sleeping>,
    /// The readers' places in our outgoing rings, as we last saw them.
    heads_seen: Vec<u32>,
    /// Bytes of the items that we have put into our outgoing rings, ever.
    put_bytes: Vec<u64>,
    /// And of those that their readers have taken, as we last saw them.
    taken_bytes_seen: Vec<u64>,
    /// Whom something was sent to since [`MeshEnd::wakes`], as a bit mask.
    sent: u128,
}

impl<T: Send> MeshEnd<T> {
    /// The number of this shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shared.shards
    }

    /// Tells the others how to wake this shard. Before it first sleeps.
    pub fn set_ring(&self, ring: RawFd) {
        self.sleeping.ring.store(ring, Ordering::Release);
    }

    /// This shard's flag, for [`super::Net::park`].
    pub fn sleeping(&self) -> Arc<Sleeping> {
        self.sleeping.clone()
    }

    /// Puts an item into the ring to another shard, or returns it when the ring is full, by items or by the
    /// `bytes` that they take elsewhere: the caller keeps it in a bounded list and stops reading from the
    /// connection that fills it. A reader that sleeps is among [`MeshEnd::wakes`], which must be heeded before the turn ends.
    pub fn send(&mut self, to: usize, item: T, bytes: usize) -> Result<(), T> {
        assert!(to != self.shard && to < self.shared.shards, "mail goes to another shard");
        let mailbox = self.shared.mailbox(self.shard, to);
        let (put, seen) = (self.put_bytes[to], &mut self.taken_bytes_seen[to]);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if put - *seen + u64::from(bytes) > RING_BYTES_MAX {
            *seen = mailbox.head.taken_bytes.load(Ordering::Acquire);
            // An item that is larger by itself goes alone.
            if put > *seen && put - *seen + u64::from(bytes) > RING_BYTES_MAX {
                return Err(item);
            }
        }
        // SAFETY: this end is the only writer from its shard, and `&mut self` makes it one at a time.
        let pushed = unsafe { mailbox.push((item, bytes), &mut self.heads_seen[to]) };
        pushed.map_err(|(item, _)| item)?;
        self.put_bytes[to] += u64::from(bytes);
        self.sent |= 1 << to;
        Ok(())
    }

    /// The rings of the shards that sleep though something was sent to them since the last call: to
    /// be passed to [`super::Net::wake`].
    pub fn wakes(&mut self) -> impl Iterator<Item = RawFd> {
        let mut sent = std::mem::take(&mut self.sent);
        if sent != 0 {
            fence(Ordering::SeqCst);
        }
        let sleepers = &self.shared.sleepers;
        std::iter::from_fn(move || {
            let to = (sent != 0).then(|| sent.trailing_zeros() as usize)?;
            sent &= sent - 1;
            Some(sleepers[to].rouse())
        })
        .flatten()
    }

    /// How many items from another shard are there; more may come meanwhile.
    pub fn waiting(&self, from: usize) -> usize {
        self.shared.mailbox(from, self.shard).len()
    }

    /// Takes the oldest item from another shard.
    pub fn receive(&mut self, from: usize) -> Option<T> {
        assert!(from < self.shared.shards, "no such shard");
        let mailbox = self.shared.mailbox(from, self.shard);
        // SAFETY: this end is the only reader for its shard, and `&mut self` makes it one at a time.
        let (item, bytes) = unsafe { mailbox.pop() }?;
        if bytes > 0 {
            let taken = &mailbox.head.taken_bytes;
            taken.store(taken.load(Ordering::Relaxed) + u64::from(bytes), Ordering::Release);
        }
        Some(item)
    }

    /// True when mail is there from any shard.
    pub fn any_ready(&self) -> bool {
        (0..self.shared.shards).any(|from| !self.shared.mailbox(from, self.shard).is_empty())
    }
}

/// Whether a shard must be woken to see its mail, and by which ring.
#[derive(Debug)]
#[repr(align(128))]
pub struct Sleeping {
    sleeping: AtomicBool,
    ring: AtomicI32,
}

impl Sleeping {
    /// Announces that the shard is about to sleep, or that it woke. After announcing sleep it must
    /// look for mail once more.
    pub fn set(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::Relaxed);
        if sleeping {
            fence(Ordering::SeqCst);
        }
    }

    /// For a writer that has published and fenced. The first one clears the flag and wakes.
    fn rouse(&self) -> Option<RawFd> {
        if !self.sleeping.load(Ordering::Relaxed) || !self.sleeping.swap(false, Ordering::AcqRel) {
            return None;
        }
        Some(self.ring.load(Ordering::Acquire)).filter(|ring| *ring != NO_RING)
    }
}

impl Default for Sleeping {
    fn default() -> Sleeping {
        Sleeping { sleeping: AtomicBool::new(false), ring: AtomicI32::new(NO_RING) }
    }
}

struct Shared<T> {
    shards: usize,
    boxes: Vec<Mailbox<T>>,
    sleepers: Vec<Arc<Sleeping>>,
}

impl<T> Shared<T> {
    fn mailbox(&self, from: usize, to: usize) -> &Mailbox<T> {
        &self.boxes[from * self.shards + to]
    }
}

/// A ring with one writer and one reader. Places count on and on; their low bits are the index.
struct Mailbox<T> {
    /// Written by the reader only.
    head: Head,
    /// Where the writer is. Written by the writer only.
    tail: Padded,
    /// Memory that no item has been in stays untouched: there are as many rings as pairs of shards.
    items: Box<[MaybeUninit<UnsafeCell<Weighed<T>>>]>,
}

/// An item, and the bytes that it takes elsewhere.
type Weighed<T> = (T, u32);

/// Where the reader is, and the bytes of what it has taken.
#[repr(align(128))]
struct Head {
    place: AtomicU32,
    taken_bytes: AtomicU64,
}

#[repr(align(128))]
struct Padded(AtomicU32);

// SAFETY: items move from the writer's thread to the reader's, so `T: Send` is needed and enough;
// an item is touched by the writer before the tail's release store and by the reader after its
// acquire load, never by both.
unsafe impl<T: Send> Sync for Mailbox<T> {}

impl<T> Mailbox<T> {
    fn new(capacity: usize) -> Mailbox<T> {
        Mailbox {
            head: Head { place: AtomicU32::new(0), taken_bytes: AtomicU64::new(0) },
            tail: Padded(AtomicU32::new(0)),
            items: Box::new_uninit_slice(capacity),
        }
    }

    fn cell(&self, place: u32) -> *mut Weighed<T> {
        UnsafeCell::raw_get(self.items[place as usize & (self.items.len() - 1)].as_ptr())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asked by the reader.
    fn len(&self) -> usize {
        self.tail.0.load(Ordering::Acquire).wrapping_sub(self.head.place.load(Ordering::Relaxed)) as usize
    }

    /// # Safety
    /// Only the one writer calls this. `head_seen` is its own and starts at zero.
    unsafe fn push(&self, item: Weighed<T>, head_seen: &mut u32) -> Result<(), Weighed<T>> {
        let tail = self.tail.0.load(Ordering::Relaxed);
        if tail.wrapping_sub(*head_seen) as usize == self.items.len() {
            *head_seen = self.head.place.load(Ordering::Acquire);
            if tail.wrapping_sub(*head_seen) as usize == self.items.len() {
                return Err(item);
            }
        }
        // SAFETY: the place is free: the reader's head, loaded with acquire, is past its last item.
        unsafe { self.cell(tail).write(item) };
        self.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// # Safety
    /// Only the one reader calls this.
    unsafe fn pop(&self) -> Option<Weighed<T>> {
        let head = self.head.place.load(Ordering::Relaxed);
        if head == self.tail.0.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the writer's tail, loaded with acquire, is past this place, so it holds an item,
        // and moving the head on gives it up.
        let item = unsafe { self.cell(head).read() };
        self.head.place.store(head.wrapping_add(1), Ordering::Release);
        Some(item)
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: neither writer nor reader is left.
        while unsafe { self.pop() }.is_some() {}
    }
}

const NO_RING: i32 = -1;

const CAPACITY_MAX: usize = 1 << 24;

/// Items of a ring together take no more elsewhere.
const RING_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_items_arrive_in_order() {
        const ITEMS: u64 = 1_000_000;
        let mut ends = mesh::<u64>(2, 256);
        let mut reader = ends.pop().unwrap();
        let mut writer = ends.pop().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for item in 0..ITEMS {
                    let mut item = item;
                    while let Err(back) = writer.send(1, item, 0) {
                        item = back;
                        std::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < ITEMS {
                match reader.receive(0) {
                    Some(item) => {
                        assert_eq!(item, expected);
                        expected += 1;
                    }
                    None => std::thread::yield_now(),
                }
            }
            assert!(reader.receive(0).is_none());
        });
    }

    #[test]
    fn a_full_ring_returns_the_item() {
        let mut ends = mesh::<u32>(2, 3);
        for item in 0..4 {
            assert_eq!(ends[0].send(1, item, 0), Ok(()));
        }
        assert_eq!(ends[0].send(1, 4, 0), Err(4));
        assert_eq!((ends[1].waiting(0), ends[1].receive(0)), (4, Some(0)));
        assert_eq!(ends[0].send(1, 4, 0), Ok(()));
    }

    #[test]
    fn a_ring_is_full_by_bytes_too_and_takes_an_item_that_is_larger_alone() {
        const MAX: usize = RING_BYTES_MAX as usize;
        let mut ends = mesh::<u32>(2, 64);
        assert_eq!(ends[0].send(1, 0, MAX - 10), Ok(()));
        assert_eq!(ends[0].send(1, 1, 11), Err(1));
        assert_eq!(ends[0].send(1, 1, 10), Ok(()));
        assert_eq!(ends[0].send(1, 2, 0), Ok(()), "what takes nothing has room");
        assert_eq!(ends[0].send(1, 3, 1), Err(3));
        assert_eq!(ends[1].receive(0), Some(0));
        assert_eq!(ends[0].send(1, 3, 5 * MAX), Err(3));
        assert_eq!((ends[1].receive(0), ends[1].receive(0)), (Some(1), Some(2)));
        assert_eq!(ends[0].send(1, 3, 5 * MAX), Ok(()));
        assert_eq!(ends[0].send(1, 4, 1), Err(4));
        assert_eq!(ends[1].receive(0), Some(3));
        for item in 0..1000 {
            assert_eq!(ends[0].send(1, item, MAX / 2), Ok(()));
            assert_eq!(ends[1].receive(0), Some(item));
        }
    }

    #[test]
    fn only_the_first_writer_wakes_a_sleeper() {
        let mut ends = mesh::<u32>(3, 4);
        ends[2].set_ring(7);
        ends[2].sleeping().set(true);
        assert!(!ends[2].any_ready());
        ends[0].send(2, 1, 0).unwrap();
        ends[0].send(1, 1, 0).unwrap();
        ends[1].send(2, 2, 0).unwrap();
        assert!(ends[2].any_ready());
        assert_eq!(ends[0].wakes().collect::<Vec<_>>(), [7]);
        assert_eq!((ends[0].wakes().count(), ends[1].wakes().count()), (0, 0));
    }

    #[test]
    fn items_that_were_not_read_are_dropped_with_the_mesh() {
        let item = Arc::new(());
        let mut ends = mesh::<Arc<()>>(2, 8);
        for _ in 0..5 {
            ends[0].send(1, item.clone(), 9).unwrap();
        }
        drop(ends[1].receive(0));
        drop(ends);
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
