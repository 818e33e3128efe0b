//! The packet identifiers of QoS 2 messages that are received and not yet released. They are found without a
//! scan, however many a client has. `[MQTT5-4.3.3-10]`

use crate::base::Empty;
use crate::base::Ticket;
use crate::base::steps;
use hashbrown::HashTable;

/// A QoS 2 message that waits for its PUBREL.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) packet_id: u16,
    /// Whether it has come again without DUP.
    pub(super) repeated: bool,
    pub(super) payload_bytes: u32,
    /// The ticket that its PUBREC waits for.
    pub(super) ticket: Option<Ticket>,
    /// Whether it was refused and its PUBREC is not sent yet.
    pub(super) refused: bool,
}

const _: () = assert!(size_of::<Held>() == 16);

/// The list. It has no particular order.
#[derive(Debug, Default)]
pub(super) struct HeldList {
    items: Vec<Held>,
    /// The identifiers and their positions in `items`, while the list is long.
    places: Option<Box<HashTable<(u16, u16)>>>,
}

/// Up to this length a scan is as fast as a table.
const SCAN_MAX: usize = 64;

/// The largest capacity of an empty list. It is a kilobyte, so that bursts cause no allocations.
const KEPT_CAPACITY: usize = SCAN_MAX;

impl Empty for HeldList {
    const EMPTY: &Self = &HeldList { items: Vec::new(), places: None };
}

impl HeldList {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn get(&self, packet_id: u16) -> Option<&Held> {
        self.place(packet_id).map(|place| &self.items[place])
    }

    pub(super) fn get_mut(&mut self, packet_id: u16) -> Option<&mut Held> {
        self.place(packet_id).map(|place| &mut self.items[place])
    }

    /// Adds an identifier that is not in the list.
    pub(super) fn insert(&mut self, held: Held) {
        let place = self.items.len();
        let packet_id = held.packet_id;
        self.items.push(held);
        match &mut self.places {
            Some(places) => note(places, packet_id, place),
            None if self.items.len() > SCAN_MAX => {
                let mut places = Box::new(HashTable::with_capacity(2 * SCAN_MAX));
                for (place, held) in self.items.iter().enumerate() {
                    note(&mut places, held.packet_id, place);
                }
                self.places = Some(places);
            }
            None => {}
        }
    }

    /// Removes an identifier, if it is there.
    pub(super) fn remove(&mut self, packet_id: u16) -> Option<Held> {
        let place = self.place(packet_id)?;
        let last = self.items.len() - 1;
        if let Some(places) = &mut self.places {
            if let Ok(entry) = places.find_entry(spread(packet_id), |found| found.0 == packet_id) {
                entry.remove();
            }
            let moved = self.items[last].packet_id;
            if let Some(found) = places.find_mut(spread(moved), |found| found.0 == moved) {
                found.1 = place as u16;
            }
        }
        let removed = self.items.swap_remove(place);
        self.give_back();
        Some(removed)
    }

    fn give_back(&mut self) {
        // This bound is well below the length at which the table is made. Otherwise a list near that length
        // would rebuild it again and again.
        if self.items.len() < SCAN_MAX / 4 {
            self.places = None;
        }
        if self.items.is_empty() && self.items.capacity() > KEPT_CAPACITY {
            self.items = Vec::new();
        }
    }

    fn place(&self, packet_id: u16) -> Option<usize> {
        match &self.places {
            Some(places) => {
                places.find(spread(packet_id), |found| found.0 == packet_id).map(|found| found.1.into())
            }
            None => self.items.iter().position(|held| {
                steps::walked(1);
                held.packet_id == packet_id
            }),
        }
    }
}

fn note(places: &mut HashTable<(u16, u16)>, packet_id: u16, place: usize) {
    let place = u16::try_from(place).expect("there are 65,535 identifiers, each once");
    places.insert_unique(spread(packet_id), (packet_id, place), |found| spread(found.0));
}

/// A client chooses the identifiers, but an odd factor spreads them over the low bits without a collision. No
/// more than 65,536 divided by the number of buckets share a bucket.
fn spread(packet_id: u16) -> u64 {
    u64::from(packet_id).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(packet_id: u16) -> Held {
        Held { packet_id, repeated: false, payload_bytes: u32::from(packet_id), ticket: None, refused: false }
    }

    #[test]
    fn a_client_that_holds_every_identifier_costs_few_steps_for_each_repeat() {
        let mut list = HeldList::default();
        let ((), steps) = steps::of(|| {
            for packet_id in 1..=u16::MAX {
                assert!(list.get(packet_id).is_none());
                list.insert(held(packet_id));
                assert!(list.get(u16::MAX).is_none_or(|held| held.packet_id == packet_id));
            }
            for packet_id in (1..=u16::MAX).rev() {
                assert_eq!(list.get_mut(packet_id).map(|held| held.payload_bytes), Some(packet_id.into()));
            }
        });
        assert_eq!(list.len(), 65_535);
        assert!(steps < 3 * 65_535, "{steps}");
        let ((), steps) = steps::of(|| {
            // 7919 and 65,535 have no common factor.
            for n in 0..65_535_u32 {
                let packet_id = u16::try_from(1 + n * 7919 % 65_535).unwrap();
                assert!(list.remove(packet_id).is_some() && list.remove(packet_id).is_none(), "{packet_id}");
            }
        });
        assert!(steps < 65_535, "{steps}");
        assert_eq!((list.len(), list.items.capacity(), list.places.is_none()), (0, 0, true));
    }

    #[test]
    fn the_list_keeps_its_memory_for_a_few_alone() {
        let mut list = HeldList::default();
        for _ in 0..3 {
            for packet_id in 1..=500 {
                list.insert(held(packet_id));
            }
            assert!((1..=500).all(|packet_id| list.remove(packet_id).is_some()));
            assert_eq!(list.items.capacity(), 0);
        }
        list.insert(held(1));
        list.remove(1);
        assert!(list.items.capacity() > 0, "one after the other costs no allocation");
    }
}
