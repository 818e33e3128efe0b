//! The mesh between shards: a bounded ring with one writer and one reader for each ordered pair of shards,
//! and for each shard a flag that says whether it must be woken.
//!
//! The writer publishes, executes a fence, and reads the reader's flag. The reader sets its flag, executes a
//! fence, and checks its rings before it blocks. So at least one of them sees the other, and no wake-up is
//! lost. One fence and one check serve everything that a turn has published, because a wake-up leaves with
//! the turn's batch anyway.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

/// The dimensions of a mesh.
#[derive(Clone, Copy, Debug)]
pub struct MeshSize {
    /// The number of shards.
    pub shards: usize,
    /// The number of items that a ring holds. It is rounded up to a power of two.
    pub ring_items: usize,
}

/// Creates the ends of a mesh, one for each shard, in order.
pub fn mesh<T: Send>(size: MeshSize) -> Vec<MeshEnd<T>> {
    let shards = size.shards;
    let capacity = size.ring_items.clamp(1, CAPACITY_MAX).next_power_of_two();
    let sleepers: Arc<[_]> = (0..shards).map(|_| Arc::new(Sleeping::default())).collect();
    let mut incoming: Vec<Vec<Incoming<T>>> = (0..shards).map(|_| Vec::with_capacity(shards)).collect();
    let mut outgoing: Vec<Vec<Outgoing<T>>> = Vec::with_capacity(shards);
    for from in 0..shards {
        let to_all = incoming.iter_mut().enumerate().map(|(to, incoming)| {
            // A shard sends no mail to itself.
            let (items, taken) = RingBuffer::new(if from == to { 0 } else { capacity });
            let taken_bytes = Arc::new(TakenBytes::default());
            incoming.push(Incoming { items: taken, taken_bytes: taken_bytes.clone() });
            Outgoing { items, taken_bytes, put_bytes: 0, taken_bytes_seen: 0 }
        });
        outgoing.push(to_all.collect());
    }
    let ends = incoming.into_iter().zip(outgoing).enumerate();
    ends.map(|(shard, (incoming, outgoing))| MeshEnd {
        shard,
        incoming,
        outgoing,
        sent: 0,
        sleeping: sleepers[shard].clone(),
        sleepers: sleepers.clone(),
    })
    .collect()
}

/// One shard's end of the mesh. It is the only writer of its outgoing rings and the only reader of its
/// incoming rings.
pub struct MeshEnd<T> {
    shard: usize,
    /// By sender.
    incoming: Vec<Incoming<T>>,
    /// By receiver.
    outgoing: Vec<Outgoing<T>>,
    sleeping: Arc<Sleeping>,
    sleepers: Arc<[Arc<Sleeping>]>,
    /// The shards to which something was sent since [`MeshEnd::wakes`], as a bit mask.
    sent: u128,
}

/// The writer's end of a ring.
struct Outgoing<T> {
    items: Producer<Weighed<T>>,
    taken_bytes: Arc<TakenBytes>,
    /// The total bytes of all items that were put into it.
    put_bytes: u64,
    /// The total bytes that the reader has taken, as last read.
    taken_bytes_seen: u64,
}

/// The reader's end of a ring. Memory that has never held an item stays untouched, because there is a ring
/// for each pair of shards.
struct Incoming<T> {
    items: Consumer<Weighed<T>>,
    taken_bytes: Arc<TakenBytes>,
}

/// An item, and the bytes that it takes outside of the ring.
type Weighed<T> = (T, u32);

/// The total bytes that a reader has taken. Only the reader writes it.
#[derive(Default)]
#[repr(align(128))]
struct TakenBytes(AtomicU64);

impl<T: Send> MeshEnd<T> {
    /// The number of this shard.
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.incoming.len()
    }

    /// Tells the other shards how to wake this one. It must be called before this shard first sleeps.
    pub fn set_ring(&self, ring: RawFd) {
        self.sleeping.ring.store(ring, Ordering::Release);
    }

    /// Whether every shard can be woken.
    pub fn has_all_rings(&self) -> bool {
        self.sleepers.iter().all(|sleeper| sleeper.ring.load(Ordering::Acquire) != NO_RING)
    }

    /// This shard's flag, for [`super::Net::park`].
    pub fn sleeping(&self) -> Arc<Sleeping> {
        self.sleeping.clone()
    }

    /// Puts an item into the ring to another shard. If the ring is full, by items or by the `bytes` that
    /// these take outside of it, returns the item. The caller must keep it in a bounded list and stop reading
    /// from the connection that fills the ring. If the reader sleeps, it is in [`MeshEnd::wakes`], which the
    /// caller must process before the turn ends.
    pub fn send(&mut self, to: usize, item: T, bytes: usize) -> Result<(), T> {
        assert!(to != self.shard && to < self.outgoing.len(), "mail goes to another shard");
        let outgoing = &mut self.outgoing[to];
        let (put, seen) = (outgoing.put_bytes, &mut outgoing.taken_bytes_seen);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if put - *seen + u64::from(bytes) > RING_BYTES_MAX {
            *seen = outgoing.taken_bytes.0.load(Ordering::Acquire);
            // An item that is larger than the bound is sent alone.
            if put > *seen && put - *seen + u64::from(bytes) > RING_BYTES_MAX {
                return Err(item);
            }
        }
        outgoing.items.push((item, bytes)).map_err(|PushError::Full((item, _))| item)?;
        outgoing.put_bytes += u64::from(bytes);
        self.sent |= 1 << to;
        Ok(())
    }

    /// The rings of the shards that sleep although something was sent to them since the last call. They must
    /// be passed to [`super::Net::wake`].
    pub fn wakes(&mut self) -> impl Iterator<Item = RawFd> {
        let mut sent = std::mem::take(&mut self.sent);
        if sent != 0 {
            fence(Ordering::SeqCst);
        }
        let sleepers = &self.sleepers;
        std::iter::from_fn(move || {
            let to = (sent != 0).then(|| sent.trailing_zeros() as usize)?;
            sent &= sent - 1;
            Some(sleepers[to].rouse())
        })
        .flatten()
    }

    /// The number of items from another shard. More may come at the same time.
    pub fn waiting(&self, from: usize) -> usize {
        self.incoming[from].items.slots()
    }

    /// Takes the oldest item from another shard.
    pub fn receive(&mut self, from: usize) -> Option<T> {
        let incoming = &mut self.incoming[from];
        let (item, bytes) = incoming.items.pop().ok()?;
        if bytes > 0 {
            let taken = &incoming.taken_bytes.0;
            taken.store(taken.load(Ordering::Relaxed) + u64::from(bytes), Ordering::Release);
        }
        Some(item)
    }

    /// Whether mail from any shard is there.
    pub fn any_ready(&self) -> bool {
        self.incoming.iter().any(|incoming| !incoming.items.is_empty())
    }
}

/// Whether a shard must be woken to see its mail, and its ring.
#[derive(Debug)]
#[repr(align(128))]
pub struct Sleeping {
    sleeping: AtomicBool,
    ring: AtomicI32,
}

impl Sleeping {
    /// Announces that the shard is about to sleep, or is awake again. After announcing sleep it must check
    /// for mail once more.
    pub fn set(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::Relaxed);
        if sleeping {
            fence(Ordering::SeqCst);
        }
    }

    /// For a writer that has published and executed its fence. The first writer clears the flag and wakes the
    /// shard.
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

const NO_RING: i32 = -1;

const CAPACITY_MAX: usize = 1 << 24;

/// The largest number of bytes that the items of a ring may take outside of it.
const RING_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_items_arrive_in_order() {
        const ITEMS: u64 = 1_000_000;
        let mut ends = mesh::<u64>(MeshSize { shards: 2, ring_items: 256 });
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
        let mut ends = mesh::<u32>(MeshSize { shards: 2, ring_items: 3 });
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
        let mut ends = mesh::<u32>(MeshSize { shards: 2, ring_items: 64 });
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
        let mut ends = mesh::<u32>(MeshSize { shards: 3, ring_items: 4 });
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
        let mut ends = mesh::<Arc<()>>(MeshSize { shards: 2, ring_items: 8 });
        for _ in 0..5 {
            ends[0].send(1, item.clone(), 9).unwrap();
        }
        drop(ends[1].receive(0));
        drop(ends);
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
