//! The subscribers of one filter: none, one in place, or a list that finds each of them without a scan,
//! whatever its length. The order of a list depends on its operations only.

use super::slab::Slab;
use super::table::give_back;
use crate::mqtt::{QoS, SubscriptionId, SubscriptionOptions};
use hashbrown::HashTable;
use smallvec::SmallVec;

/// One subscription in a list.
///
/// `packed` holds the QoS in bits 0 and 1, No Local in bit 2, Retain As Published in bit 3, and above these
/// the Subscription Identifier, which has 28 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) subscriber: u32,
    packed: u32,
}

/// The options of a subscription that matter when a message is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedOptions {
    /// The granted QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// The Subscription Identifier.
    pub subscription_id: Option<SubscriptionId>,
}

/// The largest Subscription Identifier.
pub(super) const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;

const _: () = assert!(SUBSCRIPTION_ID_MAX == u32::MAX >> ID_SHIFT);

impl Subscription {
    /// `id` 0 means none.
    pub(super) fn new(subscriber: u32, options: SubscriptionOptions, id: u32) -> Subscription {
        debug_assert!(id <= SUBSCRIPTION_ID_MAX, "a variable byte integer has 28 bits");
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let packed = options.qos as u32
            | flag(options.no_local, NO_LOCAL)
            | flag(options.retain_as_published, RETAIN_AS_PUBLISHED)
            | id << ID_SHIFT;
        Subscription { subscriber, packed }
    }

    pub(super) fn qos(self) -> QoS {
        match self.packed & QOS {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub(super) fn retain_as_published(self) -> bool {
        self.packed & RETAIN_AS_PUBLISHED != 0
    }

    pub(super) fn id(self) -> u32 {
        self.packed >> ID_SHIFT
    }

    /// The options in the form for others.
    pub(super) fn granted(self) -> GrantedOptions {
        GrantedOptions {
            qos: self.qos(),
            no_local: self.packed & NO_LOCAL != 0,
            retain_as_published: self.retain_as_published(),
            subscription_id: SubscriptionId::new(self.id()),
        }
    }

    /// Whether this subscription must not get messages of the session `origin`. `[MQTT5-3.8.3-3]`
    pub(super) fn is_own(self, origin: Option<u32>) -> bool {
        self.packed & NO_LOCAL != 0 && Some(self.subscriber) == origin
    }
}

/// The subscribers of a filter: one in place, or several in a list of [`Lists`].
///
/// The QoS bits distinguish the two cases, because no subscription has QoS 3.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListSlot(Subscription);

const _: () = assert!(size_of::<ListSlot>() == 8);

impl ListSlot {
    const EMPTY: ListSlot = ListSlot(Subscription { subscriber: 0, packed: IS_EMPTY });

    pub(super) fn is_empty(self) -> bool {
        self.0.packed == IS_EMPTY
    }

    fn list(self) -> Option<u32> {
        (self.0.packed == IS_LIST).then_some(self.0.subscriber)
    }
}

impl Default for ListSlot {
    fn default() -> ListSlot {
        ListSlot::EMPTY
    }
}

/// All lists with two or more subscribers.
#[derive(Debug)]
pub(super) struct Lists {
    lists: Slab<List>,
}

impl Lists {
    pub(super) fn new() -> Lists {
        Lists { lists: Slab::new() }
    }

    /// Adds a subscription, or replaces that of the same subscriber. Returns `true` if it replaced one.
    pub(super) fn put(&mut self, slot: &mut ListSlot, subscription: Subscription) -> bool {
        if let Some(list) = slot.list() {
            return self.lists[list].put(subscription);
        }
        if slot.is_empty() {
            *slot = ListSlot(subscription);
            return false;
        }
        if slot.0.subscriber == subscription.subscriber {
            *slot = ListSlot(subscription);
            return true;
        }
        let list =
            self.lists.insert(List { items: SmallVec::from_buf([slot.0, subscription]), positions: None });
        *slot = ListSlot(Subscription { subscriber: list, packed: IS_LIST });
        false
    }

    /// Removes a subscriber. Returns `true` if it was there.
    pub(super) fn remove(&mut self, slot: &mut ListSlot, subscriber: u32) -> bool {
        let Some(list) = slot.list() else {
            let found = !slot.is_empty() && slot.0.subscriber == subscriber;
            if found {
                *slot = ListSlot::EMPTY;
            }
            return found;
        };
        let found = self.lists[list].remove(subscriber);
        if let [last] = *self.lists[list].items {
            self.lists.remove(list);
            *slot = ListSlot(last);
        }
        found
    }

    /// The subscriptions of a filter.
    pub(super) fn items<'a>(&'a self, slot: &'a ListSlot) -> &'a [Subscription] {
        match slot.list() {
            Some(list) => &self.lists[list].items,
            None if slot.is_empty() => &[],
            None => std::slice::from_ref(&slot.0),
        }
    }

    /// The position of a subscriber in `items`.
    pub(super) fn position(&self, slot: &ListSlot, subscriber: u32) -> Option<usize> {
        match slot.list() {
            Some(list) => self.lists[list].position(subscriber),
            None => (!slot.is_empty() && slot.0.subscriber == subscriber).then_some(0),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }
}

/// Half a cache line. It never crosses a line.
#[derive(Debug, Default)]
#[repr(align(32))]
struct List {
    /// Two subscriptions need no heap.
    items: SmallVec<[Subscription; 2]>,
    /// Maps a subscriber to its position, while the list is long.
    positions: Option<Box<HashTable<u32>>>,
}

const _: () = assert!(size_of::<List>() == 32);

impl List {
    fn put(&mut self, subscription: Subscription) -> bool {
        if let Some(position) = self.position(subscription.subscriber) {
            self.items[position] = subscription;
            return true;
        }
        self.items.push(subscription);
        let position = self.items.len() - 1;
        match &mut self.positions {
            Some(positions) => note(positions, &self.items, position),
            None if self.items.len() > SCAN_MAX => self.index_positions(),
            None => {}
        }
        false
    }

    fn remove(&mut self, subscriber: u32) -> bool {
        let Some(position) = self.position(subscriber) else { return false };
        let last = self.items.len() - 1;
        if let Some(positions) = &mut self.positions {
            if let Ok(entry) = positions.find_entry(spread(subscriber), |found| *found as usize == position) {
                entry.remove();
            }
            let moved = self.items[last].subscriber;
            if let Some(found) = positions.find_mut(spread(moved), |found| *found as usize == last) {
                *found = position as u32;
            }
        }
        self.items.swap_remove(position);
        self.give_back();
        true
    }

    fn position(&self, subscriber: u32) -> Option<usize> {
        let is_it = |position: usize| self.items[position].subscriber == subscriber;
        match &self.positions {
            Some(positions) => positions
                .find(spread(subscriber), |found| is_it(*found as usize))
                .map(|found| *found as usize),
            None => (0..self.items.len()).find(|position| is_it(*position)),
        }
    }

    fn index_positions(&mut self) {
        let mut positions = Box::new(HashTable::with_capacity(self.items.len()));
        for position in 0..self.items.len() {
            note(&mut positions, &self.items, position);
        }
        self.positions = Some(positions);
    }

    fn give_back(&mut self) {
        // This bound is well below the length at which the table is made. Otherwise a list near that length
        // would rebuild it again and again.
        if self.items.len() < SCAN_MAX / 4 {
            self.positions = None;
        }
        if let Some(positions) = &mut self.positions {
            give_back(positions, |position| spread(self.items[*position as usize].subscriber));
        }
        if self.items.len() < self.items.capacity() / 4 {
            let mut items = SmallVec::with_capacity(self.items.len() * 2);
            items.extend_from_slice(&self.items);
            self.items = items;
        }
    }
}

fn note(positions: &mut HashTable<u32>, items: &[Subscription], position: usize) {
    let hasher = |position: &u32| spread(items[*position as usize].subscriber);
    positions.insert_unique(spread(items[position].subscriber), position as u32, hasher);
}

/// Subscriber numbers are dense and chosen by midge, not by a peer. An odd factor spreads them over the low
/// bits without a collision.
fn spread(subscriber: u32) -> u64 {
    u64::from(subscriber).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Up to this length a scan of eight cache lines is as fast as a table.
const SCAN_MAX: usize = 64;

const QOS: u32 = 0b0011;
const NO_LOCAL: u32 = 0b0100;
const RETAIN_AS_PUBLISHED: u32 = 0b1000;
const ID_SHIFT: u32 = 4;
const IS_LIST: u32 = QOS;
const IS_EMPTY: u32 = QOS | NO_LOCAL;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::RetainHandling;

    fn plain(subscriber: u32, id: u32) -> Subscription {
        Subscription::new(subscriber, SubscriptionOptions::v3(QoS::AtLeastOnce), id)
    }

    #[test]
    fn a_subscription_keeps_all_its_parts_in_eight_bytes() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for (no_local, retain_as_published) in
                [(false, true), (true, false), (true, true), (false, false)]
            {
                let retain_handling = RetainHandling::Never;
                let options = SubscriptionOptions { qos, no_local, retain_as_published, retain_handling };
                let kept = Subscription::new(u32::MAX, options, SUBSCRIPTION_ID_MAX);
                assert_eq!((kept.qos(), kept.retain_as_published()), (qos, retain_as_published));
                assert_eq!((kept.is_own(Some(u32::MAX)), kept.is_own(Some(1))), (no_local, false));
                assert_eq!((kept.subscriber, kept.id()), (u32::MAX, SUBSCRIPTION_ID_MAX));
                assert!(!ListSlot(kept).is_empty() && ListSlot(kept).list().is_none());
            }
        }
    }

    #[test]
    fn a_list_grows_and_shrinks_through_all_its_shapes() {
        let (mut lists, mut slot) = (Lists::new(), ListSlot::default());
        for subscriber in 0..1_000 {
            assert!(!lists.put(&mut slot, plain(subscriber, 0)));
            assert!(lists.put(&mut slot, plain(subscriber, subscriber)), "the same subscriber replaces");
            assert_eq!(lists.items(&slot).len(), subscriber as usize + 1);
        }
        for subscriber in (0..1_000).step_by(2).chain((1..1_000).step_by(2)) {
            let position = lists.position(&slot, subscriber).expect("it has not been removed yet");
            assert_eq!(lists.items(&slot)[position], plain(subscriber, subscriber));
            assert!(lists.remove(&mut slot, subscriber));
            assert!(!lists.remove(&mut slot, subscriber));
        }
        assert!(slot.is_empty() && lists.items(&slot).is_empty());
        assert_eq!(lists.len(), 0);
    }

    #[test]
    fn a_million_subscribers_of_one_filter_leave_quickly_in_any_order() {
        for backwards in [false, true] {
            let (mut lists, mut slot) = (Lists::new(), ListSlot::default());
            for subscriber in 0..1_000_000 {
                assert!(!lists.put(&mut slot, plain(subscriber, 0)));
            }
            for subscriber in 0..1_000_000 {
                assert!(lists.remove(&mut slot, if backwards { 999_999 - subscriber } else { subscriber }));
            }
            assert!(slot.is_empty());
        }
    }
}
