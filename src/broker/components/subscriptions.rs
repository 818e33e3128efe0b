//! The subscriptions of this shard's sessions except shared ones: the index of their filters, and the cost of
//! their wildcards.

use crate::base::SessionSlot;
use crate::mqtt::{SubscriptionId, SubscriptionOptions};
use crate::topic::GrantedOptions;
use crate::topic::{Matches, Patterns, TopicIndex};

/// See the module.
pub(in crate::broker) struct Subscriptions {
    index: TopicIndex,
    /// The work that the wildcards of all filters, including shared ones, add to a match.
    patterns: Patterns,
    /// A list that a match can fill without an allocation.
    spare: Matches,
    /// The largest number of subscriptions.
    max: usize,
}

impl Subscriptions {
    pub(in crate::broker) fn new(seed: u64, max: usize) -> Subscriptions {
        Subscriptions {
            index: TopicIndex::new(seed ^ 1),
            patterns: Patterns::new(seed ^ 7),
            spare: Matches::default(),
            max,
        }
    }

    /// Changes the largest number of subscriptions. Those that are there stay.
    pub(in crate::broker) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// A number that changes with every change of the index.
    pub(in crate::broker) fn version(&self) -> u64 {
        self.index.version()
    }

    /// Whether the largest number of subscriptions is reached.
    pub(in crate::broker) fn is_full(&self) -> bool {
        self.index.len() >= self.max
    }

    /// Adds a subscription, or changes its options. Returns whether `filter` had no subscriber before.
    pub(in crate::broker) fn add(
        &mut self,
        filter: &str,
        session: SessionSlot,
        options: SubscriptionOptions,
        subscription_id: Option<SubscriptionId>,
    ) -> bool {
        let is_changed = self.index.subscribe(
            filter,
            session.get(),
            options,
            subscription_id.map_or(0, SubscriptionId::get),
        );
        !is_changed && self.index.subscriber_count(filter) == 1
    }

    /// Removes a subscription. Returns whether `filter` has no subscriber any more.
    pub(in crate::broker) fn remove(&mut self, filter: &str, session: SessionSlot) -> bool {
        self.index.unsubscribe(filter, session.get());
        self.index.subscriber_count(filter) == 0
    }

    /// The options with which a session has this filter.
    pub(in crate::broker) fn granted(&self, filter: &str, session: SessionSlot) -> Option<GrantedOptions> {
        self.index.granted(filter, session.get())
    }

    /// The subscribers of a topic name, without the subscriptions of `origin` that have No Local. Return the
    /// list with [`Subscriptions::recycle`].
    #[inline]
    pub(in crate::broker) fn find(&mut self, topic: &str, origin: Option<SessionSlot>) -> Matches {
        let mut matches = std::mem::take(&mut self.spare);
        self.index.matches(topic, origin.map(SessionSlot::get), &mut matches);
        matches
    }

    /// Takes a list of [`Subscriptions::find`] for reuse.
    #[inline]
    pub(in crate::broker) fn recycle(&mut self, matches: Matches) {
        self.spare = matches;
    }

    /// Whether a session may add the new patterns of a filter within these bounds.
    pub(in crate::broker) fn has_room_for_patterns(
        &self,
        filter: &str,
        session: SessionSlot,
        max: PatternsMax,
    ) -> bool {
        let new = self.patterns.new_in(filter);
        new == 0
            || (self.patterns.brought_by(session.get()) + new <= max.of_session
                && self.patterns.len() + new <= max.of_shard)
    }

    /// Notes that a session has a new filter with a wildcard.
    pub(in crate::broker) fn add_patterns(&mut self, filter: &str, session: SessionSlot) {
        self.patterns.add(filter, session.get());
    }

    /// Notes that a session no longer has a filter with a wildcard.
    pub(in crate::broker) fn remove_patterns(&mut self, filter: &str) {
        self.patterns.remove(filter);
    }

    /// The number of subscriptions.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn len(&self) -> usize {
        self.index.len()
    }

    /// The number of patterns that their wildcards add.
    #[cfg(all(test, feature = "runtime"))]
    pub(in crate::broker) fn patterns(&self) -> usize {
        self.patterns.len()
    }

    pub(in crate::broker) fn give_memory_back(&mut self) {
        self.spare = Matches::default();
    }
}

/// The bounds of the patterns that wildcards add.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct PatternsMax {
    pub of_session: usize,
    pub of_shard: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{QoS, RetainHandling};

    const OPTIONS: SubscriptionOptions = SubscriptionOptions {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    };

    #[test]
    fn the_first_subscriber_of_a_filter_and_the_last_are_told() {
        let mut subscriptions = Subscriptions::new(1, 2);
        let (one, other) = (SessionSlot::new(1), SessionSlot::new(2));
        assert!(subscriptions.add("a", one, OPTIONS, None));
        assert!(!subscriptions.add("a", one, OPTIONS, SubscriptionId::new(7)), "it has only changed");
        assert!(!subscriptions.is_full());
        assert!(!subscriptions.add("a", other, OPTIONS, None));
        assert!(subscriptions.is_full());
        assert_eq!(subscriptions.find("a", None).as_slice().len(), 2);
        assert!(!subscriptions.remove("a", one));
        assert!(subscriptions.remove("a", other));
    }

    #[test]
    fn patterns_are_bounded_for_a_session_and_for_all() {
        let mut subscriptions = Subscriptions::new(1, 100);
        let (one, other) = (SessionSlot::new(1), SessionSlot::new(2));
        let max = PatternsMax { of_session: 2, of_shard: 4 };
        assert!(subscriptions.has_room_for_patterns("a/+", one, max));
        subscriptions.add_patterns("a/+", one);
        assert!(!subscriptions.has_room_for_patterns("+/a", one, max), "it has brought in two");
        assert!(subscriptions.has_room_for_patterns("+/a", other, max));
        subscriptions.add_patterns("+/a", other);
        let third = SessionSlot::new(3);
        assert!(!subscriptions.has_room_for_patterns("+/+", third, max));
        subscriptions.remove_patterns("a/+");
        assert!(subscriptions.has_room_for_patterns("+/+", third, max));
    }
}
