//! The table of the trie's children: it maps hashes to links, with eight slots in a cache line.
//!
//! Half of a slot is half of a hash. So a search that finds nothing reads only the slot, and growing needs no
//! hash to be computed again. It has segments like [`super::table`], each with linear probing. hashbrown
//! stores one byte of the hash apart from the link, which costs one more cache line per child.

use super::node::Link;

#[derive(Debug)]
pub(super) struct Slots {
    segments: Box<[Segment]>,
}

#[derive(Debug, Default)]
struct Segment {
    /// Empty, or a power of two.
    buckets: Vec<Bucket>,
    /// The number of slots in use, at most two thirds of all.
    used: usize,
}

/// One cache line, filled from its beginning.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Bucket([Slot; BUCKET]);

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    tag: u32,
    link: Option<Link>,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Slots {
    pub(super) fn new() -> Slots {
        Slots { segments: (0..SEGMENTS).map(|_| Segment::default()).collect() }
    }

    /// Reads the place where a search for this hash begins, to load its cache line. The result has no
    /// meaning.
    pub(super) fn touch(&self, hash: u64) -> u32 {
        let segment = &self.segments[segment(hash)];
        segment.buckets.get(segment.home(tag(hash))).map_or(0, |bucket| bucket.0[0].tag)
    }

    /// Calls `found` with the links that have this hash, and rarely with another one.
    pub(super) fn each_with_hash(&self, hash: u64, found: impl FnMut(Link)) {
        self.segments[segment(hash)].each(tag(hash), found);
    }

    /// Adds a link.
    pub(super) fn insert(&mut self, hash: u64, link: Link) {
        let segment = &mut self.segments[segment(hash)];
        if (segment.used + 1) * 3 > segment.buckets.len() * BUCKET * 2 {
            segment.resize((segment.buckets.len() * 2).max(1));
        }
        segment.put(Slot { tag: tag(hash), link: Some(link) });
        segment.used += 1;
    }

    /// Replaces a link by another with the same hash. Returns `false` if it is not there.
    pub(super) fn replace(&mut self, hash: u64, old: Link, new: Link) -> bool {
        let segment = &mut self.segments[segment(hash)];
        let place = segment.place(tag(hash), old);
        if let Some(place) = place {
            segment.slot_mut(place).link = Some(new);
        }
        place.is_some()
    }

    /// Removes a link. Returns `false` if it is not there.
    pub(super) fn remove(&mut self, hash: u64, link: Link) -> bool {
        let segment = &mut self.segments[segment(hash)];
        let Some(place) = segment.place(tag(hash), link) else { return false };
        segment.close(place);
        segment.used -= 1;
        if segment.used == 0 {
            segment.buckets = Vec::new();
        } else if segment.used < segment.buckets.len() * BUCKET / 6 && segment.buckets.len() > 1 {
            segment.resize(segment.buckets.len() / 2);
        }
        true
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.segments.iter().map(|segment| segment.buckets.capacity()).sum()
    }
}

impl Segment {
    /// The bucket where the slots of a tag begin.
    fn home(&self, tag: u32) -> usize {
        tag as usize & self.buckets.len().wrapping_sub(1)
    }

    /// Calls `found` with the links of a tag.
    fn each(&self, tag: u32, mut found: impl FnMut(Link)) {
        let mut number = self.home(tag);
        // Without slots there is no bucket. Otherwise some slots are free, and the loop ends at one of these.
        while let Some(bucket) = self.buckets.get(number) {
            for slot in &bucket.0 {
                let Some(link) = slot.link else { return };
                if slot.tag == tag {
                    found(link);
                }
            }
            number = (number + 1) & (self.buckets.len() - 1);
        }
    }

    /// The place of a link: its bucket, and its slot in the bucket.
    fn place(&self, tag: u32, link: Link) -> Option<(usize, usize)> {
        let mut place = (self.home(tag), 0);
        while let Some(found) = self.buckets.get(place.0)?.0[place.1].link {
            if found == link {
                return Some(place);
            }
            place = self.after(place);
        }
        None
    }

    fn slot_mut(&mut self, (bucket, number): (usize, usize)) -> &mut Slot {
        &mut self.buckets[bucket].0[number]
    }

    fn after(&self, (bucket, number): (usize, usize)) -> (usize, usize) {
        if number + 1 < BUCKET { (bucket, number + 1) } else { ((bucket + 1) & (self.buckets.len() - 1), 0) }
    }

    fn put(&mut self, slot: Slot) {
        let mut place = (self.home(slot.tag), 0);
        while self.slot_mut(place).link.is_some() {
            place = self.after(place);
        }
        *self.slot_mut(place) = slot;
    }

    /// Empties a slot, and moves later slots that a search would no longer find.
    fn close(&mut self, mut gap: (usize, usize)) {
        let mask = self.buckets.len() - 1;
        let mut next = gap;
        loop {
            next = self.after(next);
            let slot = *self.slot_mut(next);
            if slot.link.is_none() {
                break;
            }
            let home = self.home(slot.tag);
            let (from_home, from_gap) = (next.0.wrapping_sub(home) & mask, next.0.wrapping_sub(gap.0) & mask);
            if from_home >= from_gap {
                *self.slot_mut(gap) = slot;
                gap = next;
            }
        }
        *self.slot_mut(gap) = Slot::default();
    }

    fn resize(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::default(); buckets]);
        for slot in old.iter().flat_map(|bucket| bucket.0).filter(|slot| slot.link.is_some()) {
            self.put(slot);
        }
    }
}

/// The part of a hash that a slot stores. It also determines the slot's place.
pub(super) fn tag(hash: u64) -> u32 {
    hash as u32
}

/// The segment. It is taken from the half that is not in the tag.
fn segment(hash: u64) -> usize {
    (hash >> 48) as usize % SEGMENTS
}

const SEGMENTS: usize = 256;
/// The number of slots in a bucket.
const BUCKET: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::node::Linked;
    use super::*;
    use std::collections::BTreeMap;

    fn link(number: u32) -> Link {
        Link::new(if number.is_multiple_of(2) { Linked::Node(number) } else { Linked::Leaf(number) })
    }

    #[test]
    fn random_operations_agree_with_a_map() {
        // Few hashes in few segments cause long runs of slots, some of them around the end.
        for (seed, kinds) in [(1, 40), (2, 1_000), (3, 20_000)] {
            let (mut slots, mut model) = (Slots::new(), BTreeMap::<u32, u64>::new());
            let mut random = seed;
            let mut below = |bound: u64| {
                random = u64::wrapping_mul(random, 0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                (random >> 33) % bound
            };
            for step in 0..20_000_u32 {
                let hash = (below(3) << 48) | (below(kinds) * 0x0100_0007 % (1 << 32));
                let grows = step / 2_000 % 2 == 0;
                if below(4) == 0 || !grows {
                    let wanted = below(model.len() as u64 + 1) as usize;
                    let one = model.iter().nth(wanted).map(|(number, hash)| (*number, *hash));
                    if let Some((number, hash)) = one {
                        assert!(slots.remove(hash, link(number)));
                        assert!(!slots.remove(hash, link(number)));
                        model.remove(&number);
                    }
                } else {
                    slots.insert(hash, link(step));
                    model.insert(step, hash);
                }
                let mut found = Vec::new();
                slots.each_with_hash(hash, |link| found.push(link.linked()));
                found.sort_by_key(|linked| match linked {
                    Linked::Node(number) | Linked::Leaf(number) => *number,
                });
                let expected = model.iter().filter(|(_, other)| **other == hash);
                assert_eq!(found, expected.map(|(number, _)| link(*number).linked()).collect::<Vec<_>>());
            }
            for (number, hash) in model {
                assert!(slots.replace(hash, link(number), link(number + 30_000)));
                assert!(!slots.replace(hash, link(number), link(0)));
                assert!(slots.remove(hash, link(number + 30_000)));
            }
            assert_eq!(slots.capacity(), 0);
        }
    }
}
