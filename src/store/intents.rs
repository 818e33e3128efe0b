//! Resolves intents at the end of their epoch.
//!
//! An intent is a QoS 2 message that was accepted on one shard. If the broker ended before it had reached all
//! other shards, it reaches them here: each session and topic at home on such a shard gets what the shard
//! would have given it. A shard that has already recorded the intent gets nothing twice. `[MQTT5-4.3.3-1]`
//!
//! A message that a member of a shared subscription returned to its group goes to another member.
//! `[MQTT5 §4.8.2]`

use super::base::Base;
use super::rows::{self, DeliveryRow, IntentRow, RetainedRow, Row, SessionRow, SubscriptionRow, Table};
use super::state::{Changes, by_number};
use super::{DeliveryKey, StoreError, StoredMessage};
use crate::base::{DeliveryNumber, Homes, IntentNumber, MessageNumber, SHARDS_MAX, SessionNumber, Stamp};
use crate::mqtt::QoS;
use crate::mqtt::{SubscriptionId, TopicFilter, filter_matches};
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An intent that is not done.
struct Open {
    number: IntentNumber,
    value: Row,
    unseen: u128,
    /// Whether any shard has seen it.
    is_seen: bool,
    /// Session → the combined options of its matching subscriptions.
    direct: BTreeMap<SessionNumber, Wanted>,
    /// Shared filter → the first member for which the message would be kept.
    groups: BTreeMap<Box<str>, (SessionNumber, Wanted)>,
}

/// The combined options of matching subscriptions.
struct Wanted {
    qos: QoS,
    retain_as_published: bool,
    subscription_ids: SmallVec<[u32; 4]>,
}

impl Wanted {
    fn new() -> Wanted {
        Wanted { qos: QoS::AtMostOnce, retain_as_published: false, subscription_ids: SmallVec::new() }
    }

    fn is_qos_0(&self) -> bool {
        self.qos == QoS::AtMostOnce
    }

    /// `[MQTT5-3.3.4-2]` `[MQTT5-3.3.4-4]`
    fn add(&mut self, row: &SubscriptionRow) {
        self.qos = self.qos.max(row.options.qos);
        self.retain_as_published |= row.options.retain_as_published;
        self.subscription_ids.extend(row.subscription_id.map(SubscriptionId::get));
    }
}

impl Changes {
    /// Resolves the intents of the last epoch and returns their number. Afterwards there are no intents left,
    /// and no records that one was seen.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn resolve_intents(&mut self, base: &dyn Base) -> Result<usize, StoreError> {
        let mut open = self.take_intents(base)?;
        if open.is_empty() {
            return Ok(0);
        }
        let shards = usize::from(self.meta.shards).clamp(1, SHARDS_MAX);
        let homes = Homes::new(shards, self.meta.seed);
        self.find_subscriptions(base, &mut open)?;
        let mut client_homes = by_number();
        for open in &open {
            // The intent was readable when it was taken.
            let Ok(intent) = IntentRow::decode(&open.value) else { continue };
            let reaches = |text: &str| open.unseen >> homes.home_of(text) & 1 == 1;
            let mut wanted = Vec::new();
            if !intent.group.is_empty() {
                let member = open.groups.get(intent.group).filter(|_| !open.is_seen);
                wanted.extend(member.map(|(sid, member)| (*sid, intent.group, member)));
                self.deliver_intent(base, &intent, &wanted)?;
                continue;
            }
            for (&sid, direct) in &open.direct {
                let home = match client_homes.get(&sid) {
                    Some(&home) => home,
                    None => {
                        let home = self.home_of_session(base, &homes, sid)?;
                        client_homes.insert(sid, home);
                        home
                    }
                };
                if home.is_some_and(|home| open.unseen >> home & 1 == 1) {
                    wanted.push((sid, "", direct));
                }
            }
            for (filter, (sid, member)) in &open.groups {
                if reaches(filter) {
                    wanted.push((*sid, &**filter, member));
                }
            }
            self.deliver_intent(base, &intent, &wanted)?;
            if let Some(stamp) = intent.stamp
                && reaches(intent.message.topic)
            {
                self.retain_intent(base, stamp, &intent.message)?;
            }
        }
        Ok(open.len())
    }

    /// Takes the intents, in order, and removes their rows.
    fn take_intents(&mut self, base: &dyn Base) -> Result<Vec<Open>, StoreError> {
        let (mut seen, mut intents) = (BTreeSet::new(), Vec::new());
        let (mut keys, mut seen_keys) = (Vec::new(), Vec::new());
        self.scan(base, Table::Seen, &[], None, &mut |key, _| {
            seen_keys.push(Row::from_slice(key));
            seen.extend(rows::read_pair::<IntentNumber>(key));
        })?;
        let mut bad = 0;
        self.scan(base, Table::Intents, &[], None, &mut |key, value| {
            keys.push(Row::from_slice(key));
            match (rows::number_at(key, 0), IntentRow::decode(value)) {
                (Some(number), Ok(intent)) => {
                    let has_seen = |shard: u16| seen.contains(&(number, shard));
                    let seen =
                        (0..128).filter(|&shard| has_seen(shard)).fold(0, |mask, shard| mask | 1 << shard);
                    intents.push(Open {
                        number,
                        value: Row::from_slice(value),
                        unseen: intent.targets & !seen,
                        is_seen: seen != 0,
                        direct: BTreeMap::new(),
                        groups: BTreeMap::new(),
                    });
                }
                _ => bad += 1,
            }
        })?;
        for _ in 0..bad {
            self.bad_row();
        }
        for key in keys {
            self.remove(Table::Intents, &key);
        }
        for key in seen_keys {
            self.remove(Table::Seen, &key);
        }
        debug_assert!(intents.is_sorted_by_key(|open| open.number));
        Ok(intents)
    }

    /// Scans all subscriptions once. A subscription without a wildcard finds its intents by topic.
    fn find_subscriptions(&self, base: &dyn Base, open: &mut [Open]) -> Result<(), StoreError> {
        let mut by_topic: HashMap<Box<str>, Vec<usize>, RandomState> =
            HashMap::with_hasher(RandomState::with_seeds(self.meta.seed, 2, 3, 4));
        for (at, open) in open.iter().enumerate() {
            if let Ok(intent) = IntentRow::decode(&open.value) {
                by_topic.entry(intent.message.topic.into()).or_default().push(at);
            }
        }
        self.scan(base, Table::Subscriptions, &[], None, &mut |key, value| {
            let (Some(sid), Some(filter)) = (rows::number_at(key, 0), rows::filter_of(key)) else { return };
            let (Ok(filter), Ok(row)) = (TopicFilter::parse(filter), SubscriptionRow::decode(value)) else {
                return;
            };
            let mut add = |at: usize| {
                let open: &mut Open = &mut open[at];
                if filter.shared().is_none() {
                    open.direct.entry(sid).or_insert_with(Wanted::new).add(&row);
                } else if open.groups.get(filter.as_str()).is_none_or(|(_, first)| first.is_qos_0()) {
                    // The rows come in the order of the sessions. A member with QoS 0 is never the first
                    // choice.
                    let mut wanted = Wanted::new();
                    wanted.add(&row);
                    open.groups.insert(filter.as_str().into(), (sid, wanted));
                }
            };
            if filter.has_wildcard() {
                let matching =
                    by_topic.iter().filter(|(topic, _)| filter_matches(filter.matching_part(), topic));
                matching.flat_map(|(_, places)| places).for_each(|&at| add(at));
            } else if let Some(places) = by_topic.get(filter.matching_part()) {
                places.iter().for_each(|&at| add(at));
            }
        })
    }

    fn home_of_session(
        &mut self,
        base: &dyn Base,
        homes: &Homes,
        sid: SessionNumber,
    ) -> Result<Option<u16>, StoreError> {
        let value = self.row(base, Table::Sessions, &rows::key(sid))?;
        let row = value.as_deref().and_then(|value| SessionRow::decode(value).ok());
        Ok(row.map(|row| homes.home_of(row.client_id)))
    }

    fn deliver_intent(
        &mut self,
        base: &dyn Base,
        intent: &IntentRow<'_>,
        wanted: &[(SessionNumber, &str, &Wanted)],
    ) -> Result<(), StoreError> {
        let mut message = None;
        for &(sid, group, wanted) in wanted {
            let qos = wanted.qos.min(intent.message.qos);
            if qos == QoS::AtMostOnce || !self.has_row(base, Table::Sessions, &rows::key(sid))? {
                continue;
            }
            let message = match message {
                Some(number) => number,
                None => {
                    let number = MessageNumber::new(self.fresh_number());
                    self.add_message(base, number, &intent.message)?;
                    *message.insert(number)
                }
            };
            let row = DeliveryRow {
                message,
                qos,
                // [MQTT5-3.3.1-12] [MQTT5-3.3.1-13]
                retain: wanted.retain_as_published && intent.message.retain,
                packet_id: None,
                released: false,
                subscription_ids: wanted.subscription_ids.clone(),
                group,
            };
            let number = DeliveryNumber::new(self.fresh_number());
            self.deliver(base, DeliveryKey { sid, number }, &row)?;
        }
        self.end_fresh();
        Ok(())
    }

    /// An empty payload removes the retained message. `[MQTT5-3.3.1-6]`
    fn retain_intent(
        &mut self,
        base: &dyn Base,
        stamp: Stamp,
        message: &StoredMessage<'_>,
    ) -> Result<(), StoreError> {
        let topic = message.topic.as_bytes();
        let value = self.row(base, Table::Retained, topic)?;
        let present = value.as_deref().and_then(|value| RetainedRow::decode(topic, value).ok());
        if present.is_some_and(|present| present.stamp >= stamp) {
            return Ok(());
        }
        if message.payload.is_empty() {
            self.remove(Table::Retained, topic);
        } else {
            self.retain(stamp, message);
        }
        Ok(())
    }

    fn fresh_number(&mut self) -> u64 {
        self.meta.highest = self.meta.highest.saturating_add(1);
        self.meta.highest
    }
}

#[cfg(test)]
#[path = "intents_tests.rs"]
mod tests;
