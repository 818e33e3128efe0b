//! The answer of the index: each subscriber once, with the highest QoS and all identifiers of its matching
//! subscriptions.
//!
//! The input are lists of subscriptions, one for each matching filter. The output is a slice. A single list
//! has each subscriber once and is copied. Several lists are merged with an array that is indexed by
//! subscriber number. All memory is reused for later answers.

use super::subscribers::{ListSlot, Lists, Subscription};
use super::trie::Frontier;
use crate::mqtt::QoS;

/// One subscriber that a topic name reaches, whatever the number of its matching subscriptions.
#[derive(Clone, Copy, Debug)]
pub struct Matched {
    /// The subscriber: the dense number that the caller passed to `subscribe`.
    pub subscriber: u32,
    /// The identifier (0: none), or the position of the identifiers in `Matches::ids`.
    ids: u32,
    /// The highest QoS of the matching subscriptions. `[MQTT5-3.3.4-2]`
    pub qos: QoS,
    /// Whether any matching subscription has Retain As Published.
    pub retain_as_published: bool,
    has_several_ids: bool,
}

const _: () = assert!(size_of::<Matched>() == 12);

/// The reusable list of subscribers that a topic name reaches.
///
/// The order is that of the index's own lists: the same operations give the same order.
#[derive(Debug, Default)]
pub struct Matches {
    found: Vec<Matched>,
    /// The identifiers of subscribers with several: their number, followed by the identifiers.
    ids: Vec<u32>,
    pub(super) lists: Vec<ListSlot>,
    pub(super) frontier: Frontier,
    links: Vec<IdLink>,
    /// Indexed by subscriber number. It grows to the highest one that was ever merged.
    seen: Vec<Seen>,
    /// Marks the entries of `seen` that belong to this answer.
    epoch: u32,
}

/// Used while lists are merged: an identifier, linked to the previous one of the same subscriber.
#[derive(Clone, Copy, Debug)]
struct IdLink {
    id: u32,
    before: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    epoch: u32,
    position: u32,
}

impl Matches {
    /// The subscribers found.
    pub fn as_slice(&self) -> &[Matched] {
        &self.found
    }

    /// The number of filters that the topic name has matched, including those with No Local for its
    /// publisher.
    pub fn filters(&self) -> usize {
        self.lists.len()
    }

    /// The number of trie nodes and subscriptions that the search has visited.
    pub fn visited(&self) -> usize {
        self.frontier.visited
    }

    /// Whether the topic name reaches nobody.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The identifiers of all matching subscriptions of a subscriber, in no particular order. Equal ones are
    /// repeated, and subscriptions without one add nothing. `[MQTT5-3.3.4-3]` `[MQTT5-3.3.4-4]`
    /// `[MQTT5-3.3.4-5]`
    ///
    /// # Panics
    /// If `matched` is not from this answer, it panics or returns the identifiers of another subscriber.
    pub fn subscription_ids<'a>(&'a self, matched: &'a Matched) -> &'a [u32] {
        if matched.has_several_ids {
            let first = matched.ids as usize + 1;
            return &self.ids[first..first + self.ids[first - 1] as usize];
        }
        if matched.ids == 0 { &[] } else { std::slice::from_ref(&matched.ids) }
    }

    pub(super) fn clear(&mut self) {
        self.found.clear();
        self.ids.clear();
        self.lists.clear();
        self.frontier.visited = 0;
    }

    /// Turns the lists that were found into the answer.
    pub(super) fn gather(&mut self, lists: &Lists, origin: Option<u32>) {
        let slots = std::mem::take(&mut self.lists);
        match &*slots {
            [] => {}
            [slot] => self.copy(lists, slot, origin),
            slots => self.merge(lists, slots, origin),
        }
        self.lists = slots;
    }

    fn copy(&mut self, lists: &Lists, slot: &ListSlot, origin: Option<u32>) {
        let items = lists.items(slot);
        let own = origin
            .and_then(|origin| lists.position(slot, origin))
            .filter(|position| items[*position].is_own(origin));
        match own {
            None => self.found.extend(items.iter().map(Matched::from)),
            Some(own) => {
                self.found.extend(items[..own].iter().map(Matched::from));
                self.found.extend(items[own + 1..].iter().map(Matched::from));
            }
        }
    }

    fn merge(&mut self, lists: &Lists, slots: &[ListSlot], origin: Option<u32>) {
        let total: usize = slots.iter().map(|slot| lists.items(slot).len()).sum();
        self.frontier.visited += total;
        let is_short = total <= SCAN_MAX;
        if !is_short {
            self.next_epoch();
        }
        for slot in slots {
            for subscription in lists.items(slot).iter().filter(|item| !item.is_own(origin)) {
                let known = if is_short {
                    self.found.iter().position(|found| found.subscriber == subscription.subscriber)
                } else {
                    self.mark(subscription.subscriber)
                };
                self.add(*subscription, known);
            }
        }
        if !self.links.is_empty() {
            self.lay_out_ids();
        }
    }

    fn add(&mut self, subscription: Subscription, known: Option<usize>) {
        let Some(position) = known else {
            self.found.push(Matched::from(&subscription));
            return;
        };
        let found = &mut self.found[position];
        found.qos = found.qos.max(subscription.qos());
        found.retain_as_published |= subscription.retain_as_published();
        let id = subscription.id();
        if found.has_several_ids {
            found.ids = link(&mut self.links, id, Some(found.ids));
        } else if found.ids == 0 {
            found.ids = id;
        } else if id != 0 {
            let first = link(&mut self.links, found.ids, None);
            found.ids = link(&mut self.links, id, Some(first));
            found.has_several_ids = true;
        }
    }

    /// The position of a subscriber in the answer. If it is not there, returns `None` and marks it as the
    /// next one.
    fn mark(&mut self, subscriber: u32) -> Option<usize> {
        let place = subscriber as usize;
        if place >= self.seen.len() {
            self.seen.resize(place + 1, Seen::default());
        }
        let seen = &mut self.seen[place];
        if seen.epoch == self.epoch {
            return Some(seen.position as usize);
        }
        *seen = Seen { epoch: self.epoch, position: self.found.len() as u32 };
        None
    }

    fn next_epoch(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        // Otherwise marks from four billion answers ago would look current.
        if self.epoch == 0 {
            self.seen.fill(Seen::default());
            self.epoch = 1;
        }
    }

    /// Turns chains of identifiers into slices.
    fn lay_out_ids(&mut self) {
        for found in self.found.iter_mut().filter(|found| found.has_several_ids) {
            let start = self.ids.len();
            self.ids.push(0);
            let mut next = Some(found.ids);
            while let Some(link) = next.map(|number| self.links[number as usize]) {
                self.ids.push(link.id);
                next = link.before;
            }
            self.ids[start] = (self.ids.len() - start - 1) as u32;
            self.ids[start + 1..].reverse();
            found.ids = start as u32;
        }
        self.links.clear();
    }
}

impl From<&Subscription> for Matched {
    fn from(subscription: &Subscription) -> Matched {
        Matched {
            subscriber: subscription.subscriber,
            ids: subscription.id(),
            qos: subscription.qos(),
            retain_as_published: subscription.retain_as_published(),
            has_several_ids: false,
        }
    }
}

/// Adds a link for an identifier. The identifier 0 (none) adds nothing.
fn link(links: &mut Vec<IdLink>, id: u32, before: Option<u32>) -> u32 {
    if let (0, Some(before)) = (id, before) {
        return before;
    }
    links.push(IdLink { id, before });
    links.len() as u32 - 1
}

/// Up to this many subscriptions, a scan of the answer is cheaper than a cold cache line of `seen`.
const SCAN_MAX: usize = 16;
