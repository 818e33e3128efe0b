//! Who is still to be judged by what the listeners ask: clients that are in, and clients with many filters.

use crate::base::ConnectionSlot;
use std::collections::VecDeque;
use std::num::NonZeroU64;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Judging {
    /// New rules: clients in slots from this one on.
    slots_from: Option<u32>,
    /// Clients with many filters.
    filters: VecDeque<FiltersLeft>,
    /// Number of the last one that was put there.
    last: u64,
}

/// A client, and its filters behind this one.
#[derive(Debug)]
pub(in crate::broker) struct FiltersLeft {
    pub slot: ConnectionSlot,
    pub judgement: NonZeroU64,
    pub after: Box<str>,
}

impl Judging {
    /// The rules are new: everyone is judged.
    pub(in crate::broker) fn begin(&mut self) {
        self.slots_from = Some(0);
    }

    /// Is anyone still to be judged?
    pub(in crate::broker) fn is_under_way(&self) -> bool {
        self.slots_from.is_some() || !self.filters.is_empty()
    }

    /// The next slot whose client is judged, of so many.
    pub(in crate::broker) fn next_slot(&mut self, slots: u32) -> Option<ConnectionSlot> {
        let slot = self.slots_from?;
        let to = slot.saturating_add(1);
        self.slots_from = (to < slots).then_some(to);
        Some(ConnectionSlot::new(slot))
    }

    /// The next client whose filters are looked at.
    pub(in crate::broker) fn pop_filters(&mut self) -> Option<FiltersLeft> {
        self.filters.pop_front()
    }

    /// Filters of a client are left for later.
    pub(in crate::broker) fn put_off(&mut self, left: FiltersLeft) {
        self.filters.push_back(left);
    }

    /// A number that no judgement has had.
    pub(in crate::broker) fn next_judgement(&mut self) -> NonZeroU64 {
        self.last += 1;
        NonZeroU64::new(self.last).expect("it counts from 1")
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.filters.shrink_to_fit();
    }
}
