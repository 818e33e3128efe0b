//! The unsettled deliveries of a session, in the order of their first sending. They are found by packet
//! identifier without a scan, however many there are and in whatever order they are settled.
//!
//! A short list is scanned. In a long list, a settled delivery leaves its place behind, so that nothing
//! moves. As long as the identifiers have not wrapped around, they increase from place to place and allow a
//! binary search. After that there is an index.

use super::inflight::{Inflight, InflightState};
use crate::base::Empty;
use crate::base::steps;
use crate::mqtt::PacketId;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// The first and the last place are not settled.
    places: VecDeque<Place>,
    /// Data that only a long list needs.
    aside: Option<Box<Aside>>,
}

#[derive(Debug)]
enum Place {
    Unsettled(Inflight),
    /// A place that was left behind, with its old identifier.
    Settled(PacketId),
}

const _: () = assert!(size_of::<Place>() <= 40);

#[derive(Debug, Default)]
struct Aside {
    /// The number of places that were left behind.
    settled: usize,
    /// The number of places that were removed from the front. Places are remembered by their numbers, and the
    /// first of `places` has this number.
    gone: u64,
    /// No place before this number must be sent again.
    resend_from: u64,
    index: Option<Index>,
}

/// The identifiers in use, and their places.
#[derive(Debug)]
struct Index {
    /// The identifier, and the lower half of its place's number.
    numbers: HashTable<(u16, u32)>,
    used: Box<UsedIds>,
}

/// A bit for each identifier in use. The bit of 0, which is not an identifier, is always set.
#[derive(Debug)]
struct UsedIds([u64; WORDS]);

const WORDS: usize = 1 << 10;

/// Up to this length a scan is as fast as anything else.
const SCAN_MAX: usize = 64;

/// The number of identifiers.
pub(super) const IDS: usize = u16::MAX as usize;

/// The largest capacity that an idle session keeps.
const KEPT_CAPACITY: usize = 4;

impl Empty for Unsettled {
    const EMPTY: &Self = &Unsettled { places: VecDeque::new(), aside: None };
}

impl Unsettled {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.aside.as_ref().map_or(0, |aside| aside.settled)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Inflight> {
        self.places.front().and_then(Place::unsettled)
    }

    pub(super) fn get(&self, at: usize) -> Option<&Inflight> {
        self.places.get(at).and_then(Place::unsettled)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Inflight> {
        self.places.get_mut(at).and_then(Place::unsettled_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Inflight> {
        self.places.iter().filter_map(Place::unsettled)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Inflight> {
        self.places.iter_mut().filter_map(Place::unsettled_mut)
    }

    #[inline(always)]
    pub(super) fn push(&mut self, inflight: Inflight) {
        if let Some(aside) = &mut self.aside
            && let Some(index) = &mut aside.index
        {
            index.insert(inflight.packet_id, aside.gone + self.places.len() as u64);
        }
        self.places.push_back(Place::Unsettled(inflight));
    }

    /// The place of the delivery with this identifier. `rises`: identifiers increase from place to place.
    #[inline(always)]
    pub(super) fn position(&self, packet_id: PacketId, rises: bool) -> Option<usize> {
        // Clients nearly always acknowledge in order.
        let first = self.places.front()?.packet_id();
        if first == packet_id { Some(0) } else { self.position_behind(first, packet_id, rises) }
    }

    fn position_behind(&self, first: PacketId, packet_id: PacketId, rises: bool) -> Option<usize> {
        // The delivery that was sent last is the most frequent next one.
        if self.places.back()?.packet_id() == packet_id {
            return Some(self.places.len() - 1);
        }
        if rises && self.places.len() > SCAN_MAX {
            return self.search(first, packet_id);
        }
        let index = self.aside.as_ref().and_then(|aside| Some((aside.gone, aside.index.as_ref()?)));
        match index {
            Some((gone, index)) => {
                index.find(packet_id).map(|number| number.wrapping_sub(gone as u32) as usize)
            }
            None => self.walk(packet_id),
        }
    }

    /// The same for a list that may be long. It creates the index if one is needed.
    #[inline(always)]
    pub(super) fn position_indexed(&mut self, packet_id: PacketId, rises: bool) -> Option<usize> {
        if !rises && self.places.len() > SCAN_MAX {
            self.index();
        }
        self.position(packet_id, rises)
    }

    fn walk(&self, packet_id: PacketId) -> Option<usize> {
        let is_it = |place: &Place| {
            steps::walked(1);
            place.unsettled().is_some_and(|inflight| inflight.packet_id == packet_id)
        };
        self.places.iter().position(is_it)
    }

    fn search(&self, first: PacketId, packet_id: PacketId) -> Option<usize> {
        let distance = |id: PacketId| {
            steps::walked(1);
            id.get().wrapping_sub(first.get())
        };
        let wanted = distance(packet_id);
        // If no identifier was skipped, the place follows from the distance.
        if self.get(wanted.into()).is_some_and(|inflight| inflight.packet_id == packet_id) {
            return Some(wanted.into());
        }
        let at = self.places.binary_search_by_key(&wanted, |place| distance(place.packet_id())).ok()?;
        self.get(at).map(|_| at)
    }

    /// Removes the delivery at a place.
    #[inline(always)]
    pub(super) fn remove(&mut self, at: usize) -> Option<Inflight> {
        if at == 0 && self.aside.is_none() {
            return self.places.pop_front().and_then(Place::into_unsettled);
        }
        self.remove_from_long(at)
    }

    fn remove_from_long(&mut self, at: usize) -> Option<Inflight> {
        let packet_id = self.get(at)?.packet_id;
        if let Some(index) = self.aside.as_mut().and_then(|aside| aside.index.as_mut()) {
            index.remove(packet_id);
        }
        let removed = if at == 0 {
            let first = self.places.pop_front();
            self.note_gone();
            first
        } else if at + 1 == self.places.len() {
            let last = self.places.pop_back();
            while matches!(self.places.back(), Some(Place::Settled(_))) {
                self.places.pop_back();
                self.aside.get_or_insert_default().settled -= 1;
            }
            last
        } else if self.places.len() <= SCAN_MAX && self.aside.is_none() {
            self.places.remove(at)
        } else {
            let left = std::mem::replace(&mut self.places[at], Place::Settled(packet_id));
            let aside = self.aside.get_or_insert_default();
            aside.settled += 1;
            if aside.settled * 2 > self.places.len() {
                self.close_up();
            }
            Some(left)
        };
        removed.and_then(Place::into_unsettled)
    }

    /// After the first place is removed, removes the left-behind places after it too.
    fn note_gone(&mut self) {
        let Some(aside) = &mut self.aside else { return };
        aside.gone += 1;
        while matches!(self.places.front(), Some(Place::Settled(_))) {
            self.places.pop_front();
            aside.gone += 1;
            aside.settled -= 1;
        }
    }

    /// Removes the left-behind places. It is called when they are more than half of all.
    fn close_up(&mut self) {
        steps::walked(self.places.len());
        self.places.retain(|place| matches!(place, Place::Unsettled(_)));
        let Some(aside) = &mut self.aside else { return };
        aside.settled = 0;
        aside.resend_from = aside.gone;
        if let Some(index) = &mut aside.index {
            index.renumber(aside.gone, &self.places);
        }
    }

    /// Frees what an empty list does not need. Returns true if its capacity exceeds what an idle session
    /// keeps.
    #[inline(always)]
    pub(super) fn trim(&mut self) -> bool {
        self.aside = None;
        self.places.capacity() > KEPT_CAPACITY
    }

    /// Prepares for asking for all deliveries that must be sent again, starting with the first.
    pub(super) fn begin_resending(&mut self) {
        if self.places.len() > SCAN_MAX || self.aside.is_some() {
            let aside = self.aside.get_or_insert_default();
            aside.resend_from = aside.gone;
        }
    }

    /// The next delivery that must be sent again.
    pub(super) fn next_resend(&mut self) -> Option<&mut Inflight> {
        let from = self.aside.as_ref().map_or(0, |aside| aside.resend_from.saturating_sub(aside.gone));
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.places.len());
        let is_next = |place: &Place| {
            steps::walked(1);
            place.unsettled().is_some_and(|inflight| inflight.state == InflightState::Resend)
        };
        let at = from + self.places.range(from..).position(is_next)?;
        if let Some(aside) = &mut self.aside {
            aside.resend_from = aside.gone + at as u64 + 1;
        }
        self.get_mut(at)
    }

    /// The first identifier from `from` on that is not in use. `None` if all are.
    pub(super) fn next_free(&mut self, from: PacketId) -> Option<PacketId> {
        if self.len() >= IDS {
            return None;
        }
        if self.places.len() > SCAN_MAX {
            return self.index().used.next_free(from);
        }
        // At most one more try than there are deliveries is needed.
        let mut id = from;
        while self.walk(id).is_some() {
            id = after(id);
        }
        Some(id)
    }

    fn index(&mut self) -> &mut Index {
        let Aside { gone, index, .. } = &mut **self.aside.get_or_insert_default();
        index.get_or_insert_with(|| {
            let mut index = Index { numbers: HashTable::new(), used: Box::new(UsedIds::none()) };
            index.renumber(*gone, &self.places);
            index
        })
    }
}

/// The next identifier. Identifiers wrap around.
pub(super) fn after(id: PacketId) -> PacketId {
    id.checked_add(1).unwrap_or(NonZeroU16::MIN)
}

impl Place {
    fn packet_id(&self) -> PacketId {
        match self {
            Place::Unsettled(inflight) => inflight.packet_id,
            Place::Settled(packet_id) => *packet_id,
        }
    }

    fn unsettled(&self) -> Option<&Inflight> {
        match self {
            Place::Unsettled(inflight) => Some(inflight),
            Place::Settled(_) => None,
        }
    }

    fn unsettled_mut(&mut self) -> Option<&mut Inflight> {
        match self {
            Place::Unsettled(inflight) => Some(inflight),
            Place::Settled(_) => None,
        }
    }

    fn into_unsettled(self) -> Option<Inflight> {
        match self {
            Place::Unsettled(inflight) => Some(inflight),
            Place::Settled(_) => None,
        }
    }
}

impl Index {
    fn insert(&mut self, packet_id: PacketId, number: u64) {
        let id = packet_id.get();
        self.used.set(id);
        self.numbers.insert_unique(spread(id), (id, number as u32), |(id, _)| spread(*id));
    }

    fn remove(&mut self, packet_id: PacketId) {
        let id = packet_id.get();
        self.used.clear(id);
        if let Ok(entry) = self.numbers.find_entry(spread(id), |found| found.0 == id) {
            entry.remove();
        }
    }

    fn find(&self, packet_id: PacketId) -> Option<u32> {
        let id = packet_id.get();
        self.numbers.find(spread(id), |found| found.0 == id).map(|found| found.1)
    }

    fn renumber(&mut self, first: u64, places: &VecDeque<Place>) {
        steps::walked(places.len());
        self.numbers.clear();
        for (number, place) in (first..).zip(places) {
            if let Place::Unsettled(inflight) = place {
                self.insert(inflight.packet_id, number);
            }
        }
    }
}

impl UsedIds {
    fn none() -> UsedIds {
        let mut words = [0; WORDS];
        words[0] = 1;
        UsedIds(words)
    }

    fn set(&mut self, id: u16) {
        self.0[usize::from(id) / 64] |= 1 << (id % 64);
    }

    fn clear(&mut self, id: u16) {
        self.0[usize::from(id) / 64] &= !(1 << (id % 64));
    }

    fn next_free(&self, from: PacketId) -> Option<PacketId> {
        let (word, bit) = (usize::from(from.get()) / 64, from.get() % 64);
        let here = !self.0[word] & (u64::MAX << bit);
        if here != 0 {
            return id_at(word, here);
        }
        // It wraps around to the first word, for the part before `from`.
        let mut others = (1..=WORDS).map(|step| (word + step) % WORDS);
        let word = others.find(|&word| {
            steps::walked(1);
            self.0[word] != u64::MAX
        })?;
        id_at(word, !self.0[word])
    }
}

fn id_at(word: usize, free: u64) -> Option<PacketId> {
    let id = word * 64 + free.trailing_zeros() as usize;
    u16::try_from(id).ok().and_then(PacketId::new)
}

/// An odd factor spreads identifiers over the low bits without a collision.
fn spread(id: u16) -> u64 {
    u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
