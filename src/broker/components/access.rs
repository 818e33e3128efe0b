//! The access rules of the listeners, and the clients that must still be checked against new rules: after a
//! change all clients, and clients with many filters in several steps.

use crate::base::ConnectionSlot;
use crate::policy::access::Access;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct AccessRules {
    /// By the number of the listener.
    rules: Arc<[Access]>,
    /// After a change of the rules: the first slot that was not checked yet.
    slots_from: Option<u32>,
    /// Clients with many filters, whose check is not complete.
    filters: VecDeque<FiltersLeft>,
    /// The number of the last judgement that was begun.
    last: u64,
}

/// A client, and the filter after which its check continues.
#[derive(Debug)]
pub(in crate::broker) struct FiltersLeft {
    pub slot: ConnectionSlot,
    pub judgement: NonZeroU64,
    pub after: Box<str>,
}

impl AccessRules {
    /// Rules without restrictions, for a number of listeners.
    pub(in crate::broker) fn new(listeners: usize) -> AccessRules {
        let rules = std::iter::repeat_with(Access::default).take(listeners).collect();
        AccessRules { rules, ..AccessRules::default() }
    }

    /// The rules of a listener. `None` if there is no such listener.
    pub(in crate::broker) fn of(&self, listener: u16) -> Option<&Access> {
        self.rules.get(usize::from(listener))
    }

    /// The rules of all listeners, by number.
    pub(in crate::broker) fn all(&self) -> &[Access] {
        &self.rules
    }

    /// Replaces the rules. All clients must be checked again.
    pub(in crate::broker) fn set(&mut self, rules: Arc<[Access]>) {
        self.rules = rules;
        self.slots_from = Some(0);
    }

    /// Whether any client must still be checked.
    pub(in crate::broker) fn is_under_way(&self) -> bool {
        self.slots_from.is_some() || !self.filters.is_empty()
    }

    /// The next slot to check. `slots` is the number of slots.
    pub(in crate::broker) fn next_slot(&mut self, slots: u32) -> Option<ConnectionSlot> {
        let slot = self.slots_from?;
        let to = slot.saturating_add(1);
        self.slots_from = (to < slots).then_some(to);
        Some(ConnectionSlot::new(slot))
    }

    /// The next client whose filters must be checked.
    pub(in crate::broker) fn pop_filters(&mut self) -> Option<FiltersLeft> {
        self.filters.pop_front()
    }

    /// Puts off the check of a client's filters.
    pub(in crate::broker) fn put_off(&mut self, left: FiltersLeft) {
        self.filters.push_back(left);
    }

    /// A new number for a judgement.
    pub(in crate::broker) fn next_judgement(&mut self) -> NonZeroU64 {
        self.last += 1;
        NonZeroU64::new(self.last).expect("it counts from 1")
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.filters.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_rules_have_every_slot_judged_once() {
        let mut access = AccessRules::new(2);
        assert!(access.of(1).is_some() && access.of(2).is_none());
        assert!(!access.is_under_way());
        access.set(Arc::new([Access::default()]));
        assert!(access.of(0).is_some() && access.of(1).is_none());
        let judged: Vec<_> = std::iter::from_fn(|| access.next_slot(3)).map(ConnectionSlot::get).collect();
        assert_eq!(judged, [0, 1, 2]);
        assert!(!access.is_under_way());
    }

    #[test]
    fn a_judgement_has_a_number_of_its_own() {
        let mut access = AccessRules::default();
        let (one, other) = (access.next_judgement(), access.next_judgement());
        assert_ne!(one, other);
        access.put_off(FiltersLeft { slot: ConnectionSlot::new(7), judgement: one, after: "a".into() });
        assert!(access.is_under_way());
        assert_eq!(access.pop_filters().map(|left| left.judgement), Some(one));
        assert!(!access.is_under_way());
    }
}
