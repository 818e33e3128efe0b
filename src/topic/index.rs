//! The index: it maps filters to subscribers, and a topic name to its subscribers, each once.
//!
//! The inputs are filters (the matching part of checked filters) with a subscriber and its options. The
//! output for a topic name is the list of subscribers that it reaches (5.0 sections 3.3.4 and 4.7). Filters
//! without a wildcard are in a hash table, for which a topic name is hashed once. The others are in a trie;
//! its documentation gives the worst case. The index holds the filters of one shard and knows no session.
//!
//! # Memory
//! Bytes per subscription, as requested from the allocator and (in parentheses) resident with glibc's malloc
//! on x86-64, measured with a counting allocator in a separate process:
//!
//! | subscriptions | 1,000,000 | 10,000,000 |
//! |---|---|---|
//! | `device/<id>/cmd`, one subscriber each | 71 (91) | 61 (74) |
//! | `device/<id>/cmd`, two subscribers each | 52 (63) | |
//! | `device/<id>/cmd`, ten subscribers each | 21 (24) | |
//! | `site/<n>/#`, one subscriber each | 49 (52) | |
//! | `tenant/<n>/+/state`, one subscriber each | 49 (52) | 45 (46) |
//! | all on one filter | 19 (19) | |
//!
//! The first and the last value vary by a third with the fill level of their tables. A [`Matches`] keeps 12
//! bytes for each subscriber of its largest answer. After several filters have matched at once, it also keeps
//! 8 bytes for each subscriber number. An emptied index keeps 16 KiB.

use super::matches::Matches;
use super::subscribers::{GrantedOptions, ListSlot, Lists, Subscription};
use super::table::{Keys, SegmentedTable};
use super::trie::Trie;
use crate::mqtt::SubscriptionOptions;
use crate::mqtt::has_wildcard;
use std::fmt;

/// Maps filters to subscribers.
pub struct TopicIndex {
    keys: Keys,
    exact: SegmentedTable<Exact>,
    wildcard: Trie,
    lists: Lists,
    subscriptions: usize,
    /// The number of changes so far.
    version: u64,
}

/// A filter without wildcards.
struct Exact {
    filter: Box<str>,
    subscribers: ListSlot,
}

const _: () = assert!(size_of::<Exact>() == 24);

impl TopicIndex {
    /// An empty index. `hash_seed` keys its hash tables against flooding. No observable result depends on it.
    pub fn new(hash_seed: u64) -> TopicIndex {
        TopicIndex {
            keys: Keys::new(hash_seed),
            exact: SegmentedTable::new(),
            wildcard: Trie::new(),
            lists: Lists::new(),
            subscriptions: 0,
            version: 0,
        }
    }

    /// A number that every change increments. While it is the same, a topic name has the same answer.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Adds a subscription, or replaces the subscriber's subscription with the same filter, compared by
    /// bytes. Returns `true` if it replaced one. `[MQTT5-3.8.4-3]` `[MQTT311-3.8.4-3]`
    ///
    /// `filter` is the matching part of a checked filter. `subscriber` is a dense number (an index into a
    /// table of sessions): the memory of a [`Matches`] grows with the highest one. `id` is the Subscription
    /// Identifier, 1 to 268,435,455, or 0 for none.
    pub fn subscribe(
        &mut self,
        filter: &str,
        subscriber: u32,
        options: SubscriptionOptions,
        id: u32,
    ) -> bool {
        let keys = &self.keys;
        let slot = if has_wildcard(filter) {
            let place = self.wildcard.place_or_insert(keys, filter);
            self.wildcard.slot_mut(place)
        } else {
            let hash = keys.text(filter.as_bytes());
            let make = || Exact { filter: filter.into(), subscribers: ListSlot::default() };
            let exact = self.exact.find_or_insert(
                hash,
                |exact| *exact.filter == *filter,
                |exact| exact.hash(keys),
                make,
            );
            &mut exact.subscribers
        };
        let replaced = self.lists.put(slot, Subscription::new(subscriber, options, id));
        self.subscriptions += usize::from(!replaced);
        self.version += 1;
        replaced
    }

    /// Removes a subscription by its exact filter. Returns `true` if there was one. `[MQTT5-3.10.4-1]`
    /// `[MQTT311-3.10.4-1]`
    pub fn unsubscribe(&mut self, filter: &str, subscriber: u32) -> bool {
        let removed = if has_wildcard(filter) {
            self.unsubscribe_wildcard(filter, subscriber)
        } else {
            self.unsubscribe_exact(filter, subscriber)
        };
        self.subscriptions -= usize::from(removed);
        self.version += u64::from(removed);
        removed
    }

    /// Finds the subscribers that a topic name reaches. It clears `matches` first and puts them there. It
    /// allocates nothing after `matches` has grown.
    ///
    /// `origin` is the publishing session, if it is one of this index's subscribers. Its subscriptions with
    /// No Local are skipped. `[MQTT5-3.8.3-3]`
    pub fn matches(&self, topic: &str, origin: Option<u32>, matches: &mut Matches) {
        matches.clear();
        if self.subscriptions == 0 {
            return;
        }
        if !self.exact.is_empty() {
            let hash = self.keys.text(topic.as_bytes());
            let exact = self.exact.find(hash, |exact| *exact.filter == *topic);
            matches.lists.extend(exact.map(|exact| exact.subscribers));
        }
        self.wildcard.collect(&self.keys, topic, &mut matches.frontier, &mut matches.lists);
        matches.gather(&self.lists, origin);
    }

    /// The number of subscribers of a filter. 0: the last one has gone.
    pub fn subscriber_count(&self, filter: &str) -> usize {
        self.slot(filter).map_or(0, |slot| self.lists.items(slot).len())
    }

    /// The options of the subscription of this subscriber with this filter, if there is one.
    pub fn granted(&self, filter: &str, subscriber: u32) -> Option<GrantedOptions> {
        let slot = self.slot(filter)?;
        let at = self.lists.position(slot, subscriber)?;
        Some(self.lists.items(slot)[at].granted())
    }

    fn slot(&self, filter: &str) -> Option<&ListSlot> {
        if has_wildcard(filter) {
            self.wildcard.place(&self.keys, filter).map(|place| self.wildcard.slot(place))
        } else {
            let hash = self.keys.text(filter.as_bytes());
            self.exact.find(hash, |exact| *exact.filter == *filter).map(|exact| &exact.subscribers)
        }
    }

    /// The number of subscriptions: pairs of a filter and a subscriber.
    pub fn subscription_count(&self) -> usize {
        self.subscriptions
    }

    /// The same as [`TopicIndex::subscription_count`].
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    fn unsubscribe_wildcard(&mut self, filter: &str, subscriber: u32) -> bool {
        let Some(place) = self.wildcard.place(&self.keys, filter) else { return false };
        let slot = self.wildcard.slot_mut(place);
        let removed = self.lists.remove(slot, subscriber);
        if removed && slot.is_empty() {
            self.wildcard.prune(&self.keys, place);
        }
        removed
    }

    fn unsubscribe_exact(&mut self, filter: &str, subscriber: u32) -> bool {
        let keys = &self.keys;
        let hash = keys.text(filter.as_bytes());
        let is_it = |exact: &Exact| *exact.filter == *filter;
        let Some(exact) = self.exact.find_mut(hash, is_it) else { return false };
        let removed = self.lists.remove(&mut exact.subscribers, subscriber);
        if removed && exact.subscribers.is_empty() {
            self.exact.remove(hash, is_it, |exact| exact.hash(keys));
        }
        removed
    }
}

impl Exact {
    fn hash(&self, keys: &Keys) -> u64 {
        keys.text(self.filter.as_bytes())
    }
}

impl fmt::Debug for TopicIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicIndex").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Random;
    use crate::mqtt::MATCHING;
    use crate::mqtt::QoS;
    use crate::mqtt::{RetainHandling, TopicFilter, filter_matches};
    use std::collections::BTreeMap;

    /// Subscriber, QoS, Retain As Published, sorted identifiers.
    type Plain = (u32, QoS, bool, Vec<u32>);

    fn options(qos: QoS) -> SubscriptionOptions {
        SubscriptionOptions::v3(qos)
    }

    fn found(index: &TopicIndex, topic: &str, origin: Option<u32>) -> Vec<Plain> {
        let mut matches = Matches::default();
        index.matches(topic, origin, &mut matches);
        plain(&matches)
    }

    fn plain(matches: &Matches) -> Vec<Plain> {
        let plain = |matched| {
            let mut ids = matches.subscription_ids(matched).to_vec();
            ids.sort_unstable();
            (matched.subscriber, matched.qos, matched.retain_as_published, ids)
        };
        matches.as_slice().iter().map(plain).collect()
    }

    fn assert_freed(index: &TopicIndex) {
        assert!(index.is_empty() && index.wildcard.is_freed());
        assert_eq!((index.exact.capacity(), index.lists.len()), (0, 0));
    }

    #[test]
    fn topics_of_table_16_2_reach_their_filters() {
        // [MQTT5-4.7.1-1] [MQTT5-4.7.2-1] [MQTT5-4.7.3-4] [MQTT311-4.7.2-1] [MQTT311-4.7.3-4]
        let mut all = TopicIndex::new(1);
        for (number, (filter, matching, others)) in (0..).zip(MATCHING) {
            let mut alone = TopicIndex::new(2);
            alone.subscribe(filter, number, options(QoS::AtMostOnce), 0);
            all.subscribe(filter, number, options(QoS::AtMostOnce), 0);
            for (topic, expected) in matching.iter().map(|t| (t, 1)).chain(others.iter().map(|t| (t, 0))) {
                assert_eq!(found(&alone, topic, None).len(), expected, "{filter:?} and {topic:?}");
            }
        }
        for topic in MATCHING.iter().flat_map(|(_, matching, others)| matching.iter().chain(*others)) {
            let expected = MATCHING.iter().filter(|(filter, ..)| filter_matches(filter, topic)).count();
            assert_eq!(found(&all, topic, None).len(), expected, "{topic:?}");
        }
    }

    #[test]
    fn overlapping_subscriptions_reach_a_subscriber_once_with_the_highest_qos_and_all_identifiers() {
        // [MQTT5-3.3.4-2] [MQTT5-3.3.4-3] [MQTT5-3.3.4-4] [MQTT5-3.3.4-5] [MQTT311-3.3.5-1]
        let mut index = TopicIndex::new(1);
        index.subscribe("a/b", 7, options(QoS::AtMostOnce), 3);
        index.subscribe(
            "a/+",
            7,
            SubscriptionOptions { retain_as_published: true, ..options(QoS::ExactlyOnce) },
            0,
        );
        index.subscribe("a/#", 7, options(QoS::AtLeastOnce), 9);
        index.subscribe("#", 7, options(QoS::AtLeastOnce), 3);
        index.subscribe("+/b", 8, options(QoS::AtMostOnce), 0);
        index.subscribe("+/#", 8, options(QoS::AtMostOnce), 268_435_455);
        let mut answer = found(&index, "a/b", None);
        answer.sort();
        let both =
            [(7, QoS::ExactlyOnce, true, vec![3, 3, 9]), (8, QoS::AtMostOnce, false, vec![268_435_455])];
        assert_eq!(answer, both);
    }

    #[test]
    fn a_subscription_with_no_local_is_passed_over_for_its_own_session_only() {
        // [MQTT5-3.8.3-3]
        let no_local = SubscriptionOptions { no_local: true, ..options(QoS::ExactlyOnce) };
        let mut index = TopicIndex::new(1);
        for subscriber in 0..200 {
            index.subscribe("t", subscriber, no_local, 1);
        }
        for origin in [0, 100, 199] {
            let answer = found(&index, "t", Some(origin));
            assert_eq!(answer.len(), 199);
            assert!(answer.iter().all(|(subscriber, ..)| *subscriber != origin));
        }
        assert_eq!(found(&index, "t", None).len(), 200);
        assert_eq!(found(&index, "t", Some(200)).len(), 200);
        // Another subscription of that session without No Local gets the message, alone.
        index.subscribe("#", 100, options(QoS::AtMostOnce), 2);
        let answer = found(&index, "t", Some(100));
        assert_eq!(answer.len(), 200);
        assert!(answer.contains(&(100, QoS::AtMostOnce, false, vec![2])));
    }

    #[test]
    fn replacing_and_removing_go_by_the_exact_filter() {
        // [MQTT5-3.8.4-3] [MQTT5-3.10.4-1]
        let mut index = TopicIndex::new(1);
        for filter in ["a/+", "a/b", "a/#", "a/b/", "A/b", "#"] {
            assert!(!index.subscribe(filter, 1, options(QoS::AtMostOnce), 1));
            assert!(index.subscribe(filter, 1, options(QoS::AtLeastOnce), 2));
            assert_eq!(index.subscriber_count(filter), 1);
        }
        assert_eq!(index.subscription_count(), 6);
        for filter in ["+", "a", "a/+/", "b", "+/#", "a/b/c", "/#", "a/+/#", ""] {
            assert!(!index.unsubscribe(filter, 1), "{filter:?}");
            assert_eq!(index.subscriber_count(filter), 0);
        }
        assert!(!index.unsubscribe("a/+", 2));
        assert_eq!(found(&index, "a/b", None), [(1, QoS::AtLeastOnce, false, vec![2, 2, 2, 2])]);
        for filter in ["a/+", "a/b", "a/#", "a/b/", "A/b", "#"] {
            assert!(index.unsubscribe(filter, 1));
            assert!(!index.unsubscribe(filter, 1));
        }
        assert_freed(&index);
    }

    #[test]
    fn random_operations_agree_with_the_naive_matcher() {
        for seed in 1..=40 {
            // With few subscribers, one subscriber has many overlapping filters. With many, lists are long
            // and are merged by marks.
            let subscribers = [3, 12, 300][seed as usize % 3];
            Twin::new(seed, subscribers).run(if subscribers == 300 { 6_000 } else { 1_500 });
        }
    }

    /// An index, another one with other hash keys, and a simple model of both.
    struct Twin {
        random: Random,
        subscribers: u32,
        index: TopicIndex,
        other: TopicIndex,
        model: BTreeMap<(String, u32), (SubscriptionOptions, u32)>,
        matches: Matches,
    }

    impl Twin {
        fn new(seed: u64, subscribers: u32) -> Twin {
            Twin {
                random: Random::new(seed),
                subscribers,
                index: TopicIndex::new(seed),
                other: TopicIndex::new(!seed),
                model: BTreeMap::new(),
                matches: Matches::default(),
            }
        }

        fn run(mut self, steps: usize) {
            for step in 0..steps {
                // Phases of growth and of shrinking alternate.
                let grows = (step / 300) % 2 == 0;
                match self.below(10) {
                    0..3 => self.check_a_topic(),
                    3..8 if grows => self.subscribe(),
                    8.. if !grows => self.subscribe(),
                    _ => self.unsubscribe(),
                }
            }
            while let Some((filter, subscriber)) = self.model.keys().next().cloned() {
                self.remove(&filter, subscriber);
            }
            assert_freed(&self.index);
        }

        fn subscribe(&mut self) {
            let filter = self.levels(&["", "a", "b", "$x", "a-name-of-twenty-one!", "+", "+"], true);
            self.add(filter);
        }

        fn add(&mut self, filter: String) {
            assert!(TopicFilter::parse(&filter).is_ok());
            let subscriber = self.below(self.subscribers);
            let options = SubscriptionOptions {
                qos: [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.below(3) as usize],
                no_local: self.below(2) == 0,
                retain_as_published: self.below(4) == 0,
                retain_handling: RetainHandling::Always,
            };
            let id = self.below(4);
            let known = self.model.insert((filter.clone(), subscriber), (options, id)).is_some();
            assert_eq!(self.index.subscribe(&filter, subscriber, options, id), known);
            assert_eq!(self.other.subscribe(&filter, subscriber, options, id), known);
            self.check_counts(&filter);
        }

        fn unsubscribe(&mut self) {
            let wanted = self.below(self.model.len() as u32 + 1) as usize;
            let (filter, subscriber) = match self.model.keys().nth(wanted) {
                Some(key) => key.clone(),
                None => (self.levels(&["", "a", "$x", "+"], true), self.below(self.subscribers)),
            };
            self.remove(&filter, subscriber);
        }

        fn remove(&mut self, filter: &str, subscriber: u32) {
            let known = self.model.remove(&(filter.to_owned(), subscriber)).is_some();
            assert_eq!(self.index.unsubscribe(filter, subscriber), known);
            assert_eq!(self.other.unsubscribe(filter, subscriber), known);
            self.check_counts(filter);
        }

        fn check_counts(&self, filter: &str) {
            assert_eq!(self.index.subscription_count(), self.model.len());
            let of_filter = self.model.range((filter.to_owned(), 0)..=(filter.to_owned(), u32::MAX)).count();
            assert_eq!(self.index.subscriber_count(filter), of_filter);
        }

        fn check_a_topic(&mut self) {
            let topic = self.levels(&["", "a", "b", "$x", "a-name-of-twenty-one!", "unknown"], false);
            self.check(&topic);
        }

        fn check(&mut self, topic: &str) {
            let origin = Some(self.below(self.subscribers)).filter(|origin| origin % 2 == 0);
            self.index.matches(topic, origin, &mut self.matches);
            let answer = plain(&self.matches);
            assert_eq!(answer, found(&self.other, topic, origin), "the order depends on no hash");

            let mut expected: BTreeMap<u32, Plain> = BTreeMap::new();
            for ((filter, subscriber), (options, id)) in &self.model {
                if filter_matches(filter, topic) && !(options.no_local && Some(*subscriber) == origin) {
                    let one =
                        expected.entry(*subscriber).or_insert((*subscriber, options.qos, false, Vec::new()));
                    one.1 = one.1.max(options.qos);
                    one.2 |= options.retain_as_published;
                    one.3.extend(Some(*id).filter(|id| *id != 0));
                    one.3.sort_unstable();
                }
            }
            let mut answer = answer;
            answer.sort();
            assert_eq!(answer, expected.into_values().collect::<Vec<_>>(), "{topic:?} from {origin:?}");
        }

        fn levels(&mut self, alphabet: &[&str], is_filter: bool) -> String {
            loop {
                let count = 1 + self.below(4);
                let mut levels: Vec<&str> =
                    (0..count).map(|_| alphabet[self.below(alphabet.len() as u32) as usize]).collect();
                if is_filter && self.below(3) == 0 {
                    levels.push("#");
                }
                let text = levels.join("/");
                if !text.is_empty() {
                    return text;
                }
            }
        }

        fn below(&mut self, bound: u32) -> u32 {
            self.random.below(u64::from(bound)) as u32
        }
    }

    #[test]
    fn an_index_larger_than_a_cache_agrees_with_the_naive_matcher() {
        // The filters differ at every level, some texts are too long for one leaf, and some nodes have
        // hundreds of children.
        let mut twin = Twin::new(7, 1_000);
        let long = "a-level-that-is-longer-than-all-the-text-that-a-leaf-of-the-trie-may-have";
        let names: Vec<String> = (0..12).map(|n| n.to_string()).chain([long.to_owned()]).collect();
        let plain: Vec<&str> = names.iter().map(String::as_str).collect();
        let with_plus: Vec<&str> = plain.iter().copied().chain(["+", "+", "+", "site/line"]).collect();
        for number in 0..6_000 {
            let filter = match number % 4 {
                0 => format!("fleet/+/{number}/#"),
                1 => format!("fleet/{number}/+/state"),
                _ => twin.levels(&with_plus, true) + "/+",
            };
            let filter = filter.replace("#/+", "+");
            twin.add(filter);
        }
        assert!(twin.index.wildcard.node_count() > 2 * 2_048);
        for round in 0..3 {
            for number in 0..60 {
                let topic = match number % 3 {
                    0 => format!("fleet/{}/{}/state", twin.below(6_000), twin.below(6_000)),
                    _ => twin.levels(&plain, false) + "/x",
                };
                twin.check(&topic);
            }
            for _ in 0..if round == 0 { 2_000 } else { 1_900 } {
                twin.unsubscribe();
            }
        }
        while let Some((filter, subscriber)) = twin.model.keys().next().cloned() {
            twin.remove(&filter, subscriber);
        }
        assert_freed(&twin.index);
    }

    #[test]
    fn topics_and_filters_of_hostile_depth_finish() {
        // [MQTT5-4.7.3-3]
        let mut index = TopicIndex::new(1);
        let slashes = "/".repeat(65_535);
        let filters = [
            "#".to_owned(),
            "+/#".to_owned(),
            "/".repeat(30_000) + "#",
            "+/".repeat(30_000) + "#",
            "/+".repeat(30_000) + "/x",
            "/+".repeat(32_767),
            slashes.clone(),
            "+".to_owned() + &slashes[..65_534],
        ];
        for (subscriber, filter) in (0..).zip(&filters) {
            assert!(TopicFilter::parse(filter).is_ok());
            index.subscribe(filter, subscriber, options(QoS::AtMostOnce), 0);
        }
        let expected: Vec<u32> = (0..)
            .zip(&filters)
            .filter(|(_, filter)| filter_matches(filter, &slashes))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(expected, [0, 1, 2, 3, 6]);
        let mut matches = Matches::default();
        for _ in 0..20 {
            index.matches(&slashes, None, &mut matches);
            let mut reached: Vec<u32> = matches.as_slice().iter().map(|matched| matched.subscriber).collect();
            reached.sort_unstable();
            assert_eq!(reached, expected);
        }
        for (subscriber, filter) in (0..).zip(&filters) {
            assert!(index.unsubscribe(filter, subscriber));
        }
        assert_freed(&index);
    }

    #[test]
    fn filters_full_of_plus_cost_no_more_than_the_nodes_of_the_trie() {
        // Every filter of 12 levels of `a` and `+` that ends with a level that no topic has.
        let mut index = TopicIndex::new(1);
        for bits in 0..1_u32 << 12 {
            let levels: String =
                (0..12).map(|level| if bits >> level & 1 == 0 { "a/" } else { "+/" }).collect();
            index.subscribe(&(levels + "+/x"), 1, options(QoS::AtMostOnce), 0);
        }
        assert!(index.wildcard.node_count() <= 4 << 12);
        assert!(found(&index, &("a/".repeat(13) + "y"), None).is_empty());
        assert_eq!(found(&index, &("a/".repeat(13) + "x"), None).len(), 1);
    }

    #[test]
    fn a_removed_branch_leaves_its_siblings() {
        let mut index = TopicIndex::new(1);
        for subscriber in 0..1_000 {
            index.subscribe(&format!("site/{subscriber}/+"), subscriber, options(QoS::AtMostOnce), 0);
        }
        let nodes = index.wildcard.node_count();
        for subscriber in (0..1_000).filter(|subscriber| subscriber % 3 != 1) {
            assert!(index.unsubscribe(&format!("site/{subscriber}/+"), subscriber));
        }
        for subscriber in 0..1_000 {
            let reached = found(&index, &format!("site/{subscriber}/x"), None).len();
            assert_eq!(reached, usize::from(subscriber % 3 == 1));
        }
        for subscriber in (0..1_000).filter(|subscriber| subscriber % 3 != 1) {
            index.subscribe(&format!("site/{subscriber}/+"), subscriber, options(QoS::AtMostOnce), 0);
        }
        assert_eq!(index.wildcard.node_count(), nodes);
    }
}
