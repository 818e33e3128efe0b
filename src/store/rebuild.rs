//! Converts rows to what each shard of a new start receives.

use super::base::Base;
use super::rows::{
    self, DeliveryRow, Presence, RetainedRow, Row, SessionRow, SubscriptionRow, Table, WillRow,
    decode_message,
};
use super::state::{Changes, by_number};
use super::{
    Restored, RestoredDelivery, RestoredSession, RestoredState, RestoredSubscription, StoreError,
    StoredMessage, StoredWill, Wall,
};
use crate::base::{Homes, MessageNumber, SessionNumber, Time};
use crate::mqtt::{PacketId, TopicFilter};
use crate::session::Message;
use crate::session::{LossCause, Losses, Will};
use ahash::RandomState;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The counts of what was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoredCounts {
    /// The number of sessions.
    pub sessions: u64,
    /// The number of their subscriptions.
    pub subscriptions: u64,
    /// The number of messages that are queued for them or in an exchange.
    pub deliveries: u64,
    /// The number of retained messages.
    pub retained: u64,
    /// The number of wills of sessions that ended with the broker.
    pub wills: u64,
    /// The number of queued and retained messages that expired before this start.
    pub expired: u64,
}

type Messages = HashMap<MessageNumber, Message, RandomState>;

impl Changes {
    /// The sessions and retained messages of base and changes, divided among `shards` shards, with home
    /// shards according to `seed`. Items that have expired at the zero of `wall`'s clock are dropped, and so
    /// are items that lost their session through damage. The rows of both are then among the changes.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn restore(
        &mut self,
        base: &dyn Base,
        shards: usize,
        seed: u64,
        wall: Wall,
    ) -> Result<(Vec<Restored>, RestoredCounts), StoreError> {
        let homes = Homes::new(shards, seed);
        let mut counts = RestoredCounts::default();
        let next_number = self.meta.highest.saturating_add(1);
        let part = || Restored { next_number, last_stamp: self.meta.last_stamp, ..Restored::default() };
        let mut parts: Vec<Restored> = (0..shards).map(|_| part()).collect();

        let mut sessions = self.restore_sessions(base, wall)?;
        self.end_doubles(base, seed, &mut sessions)?;
        self.restore_subscriptions(base, &mut sessions)?;
        self.restore_held(base, &mut sessions)?;
        self.restore_losses(base, &mut sessions)?;
        let messages = self.restore_messages(base, wall)?;
        counts.expired += self.restore_deliveries(base, messages, &mut sessions, wall)?;
        counts.expired += self.restore_retained(base, wall, |message, topic| {
            counts.retained += 1;
            parts[usize::from(homes.home_of(topic))].retained.push(message);
        })?;
        self.restore_wills(base, |client_id, will| {
            counts.wills += 1;
            parts[usize::from(homes.home_of(client_id))].wills.push(will);
        })?;
        for session in sessions {
            counts.sessions += 1;
            counts.subscriptions += session.subscriptions.len() as u64;
            counts.deliveries += session.deliveries.len() as u64;
            parts[usize::from(homes.home_of(&session.client_id))].sessions.push(session);
        }
        Ok((parts, counts))
    }

    /// The sessions, in the order of their numbers, without their contents.
    fn restore_sessions(&mut self, base: &dyn Base, wall: Wall) -> Result<Vec<RestoredSession>, StoreError> {
        let (mut sessions, mut bad) = (Vec::new(), Vec::new());
        let mut epochs = BTreeSet::from([self.meta.epoch]);
        self.scan(base, Table::Sessions, &[], None, &mut |key, value| {
            let (Some(sid), Ok(row)) = (rows::number_at(key, 0), SessionRow::decode(value)) else {
                bad.push(Row::from_slice(key));
                return;
            };
            let left_at_millis = match row.presence {
                Presence::Left { at_millis } => at_millis,
                Presence::Connected { epoch } => {
                    epochs.insert(epoch);
                    let alive = self.meta.walls.get(&epoch);
                    alive.map_or(wall.zero_millis, |&alive| wall.latest_end(alive))
                }
            };
            sessions.push(RestoredSession {
                sid,
                client_id: row.client_id.into(),
                version: row.version,
                expiry_seconds: row.expiry_seconds,
                left_at_millis,
                will: row.will.as_ref().map(restored_will),
                subscriptions: Vec::new(),
                deliveries: Vec::new(),
                held: Vec::new(),
                losses: Losses::default(),
            });
        })?;
        // No session refers to the other epochs any more. The newest stays, because the log's clock continues
        // from it even if the last start has written nothing.
        epochs.extend(self.meta.walls.keys().next_back());
        self.meta.walls.retain(|epoch, _| epochs.contains(epoch));
        self.drop_bad(Table::Sessions, bad);
        Ok(sessions)
    }

    /// If several sessions have the same client identifier, the newest counts: the records that ended the
    /// others were lost.
    fn end_doubles(
        &mut self,
        base: &dyn Base,
        seed: u64,
        sessions: &mut Vec<RestoredSession>,
    ) -> Result<(), StoreError> {
        let mut newest: HashMap<&str, SessionNumber, RandomState> =
            HashMap::with_capacity_and_hasher(sessions.len(), RandomState::with_seeds(seed, 2, 3, 4));
        let mut ended = BTreeSet::new();
        for session in sessions.iter() {
            ended.extend(newest.insert(&session.client_id, session.sid));
        }
        if ended.is_empty() {
            return Ok(());
        }
        for &sid in &ended {
            self.end_session(base, sid)?;
        }
        sessions.retain(|session| !ended.contains(&session.sid));
        Ok(())
    }

    fn restore_subscriptions(
        &mut self,
        base: &dyn Base,
        sessions: &mut [RestoredSession],
    ) -> Result<(), StoreError> {
        let (mut owners, mut bad) = (Owners::of(sessions), Vec::new());
        self.scan(base, Table::Subscriptions, &[], None, &mut |key, value| {
            let owner = rows::number_at(key, 0).and_then(|sid| owners.owner(sid));
            // The machine assumes that filters are valid.
            let filter = rows::filter_of(key).filter(|filter| TopicFilter::parse(filter).is_ok());
            let (Some(session), Some(filter), Ok(row)) = (owner, filter, SubscriptionRow::decode(value))
            else {
                bad.push(Row::from_slice(key));
                return;
            };
            session.subscriptions.push(RestoredSubscription {
                filter: filter.into(),
                options: row.options,
                subscription_id: row.subscription_id,
            });
        })?;
        self.drop_bad(Table::Subscriptions, bad);
        Ok(())
    }

    /// Restores wills in the order of their numbers.
    fn restore_wills(&mut self, base: &dyn Base, mut each: impl FnMut(&str, Will)) -> Result<(), StoreError> {
        let mut bad = Vec::new();
        self.scan(base, Table::Wills, &[], None, &mut |key, value| match (
            rows::number_at(key, 0),
            WillRow::decode(value),
        ) {
            (Some(number), Ok(row)) => {
                each(row.client_id, Will { number: Some(number), ..restored_will(&row.will) });
            }
            _ => bad.push(Row::from_slice(key)),
        })?;
        self.drop_bad(Table::Wills, bad);
        Ok(())
    }

    fn restore_held(&mut self, base: &dyn Base, sessions: &mut [RestoredSession]) -> Result<(), StoreError> {
        let (mut owners, mut bad) = (Owners::of(sessions), Vec::new());
        self.scan(base, Table::Held, &[], None, &mut |key, value| {
            let pair = rows::read_pair(key);
            let owner =
                pair.and_then(|(sid, packet_id)| Some((owners.owner(sid)?, PacketId::new(packet_id)?)));
            match (owner, rows::decode_held(value)) {
                (Some((session, packet_id)), Ok(bytes)) => {
                    session.held.push((packet_id, bytes as usize));
                }
                _ => bad.push(Row::from_slice(key)),
            }
        })?;
        self.drop_bad(Table::Held, bad);
        Ok(())
    }

    fn restore_losses(
        &mut self,
        base: &dyn Base,
        sessions: &mut [RestoredSession],
    ) -> Result<(), StoreError> {
        let (mut owners, mut bad) = (Owners::of(sessions), Vec::new());
        self.scan(base, Table::Losses, &[], None, &mut |key, value| {
            let owner = rows::number_at(key, 0).and_then(|sid| owners.owner(sid));
            match (owner, rows::decode_losses(value)) {
                (Some(session), Ok(losses)) => session.losses = losses,
                _ => bad.push(Row::from_slice(key)),
            }
        })?;
        self.drop_bad(Table::Losses, bad);
        Ok(())
    }

    fn restore_messages(&mut self, base: &dyn Base, wall: Wall) -> Result<Messages, StoreError> {
        let mut messages: Messages = by_number();
        messages.reserve(self.changed(Table::Messages));
        let mut bad = Vec::new();
        self.scan(base, Table::Messages, &[], None, &mut |key, value| match (
            rows::number_at(key, 0),
            decode_message(value),
        ) {
            (Some(number), Ok(message)) => {
                messages.insert(number, message.to_message(expires_at(&message, wall), None));
            }
            _ => bad.push(Row::from_slice(key)),
        })?;
        self.drop_bad(Table::Messages, bad);
        Ok(messages)
    }

    /// Restores the deliveries, and returns how many had expired.
    fn restore_deliveries(
        &mut self,
        base: &dyn Base,
        mut messages: Messages,
        sessions: &mut [RestoredSession],
        wall: Wall,
    ) -> Result<u64, StoreError> {
        let mut shared = HashSet::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        self.scan(base, Table::Counts, &[], None, &mut |key, _| {
            shared.extend(rows::number_at::<MessageNumber>(key, 0))
        })?;
        let mut message_of = |number: MessageNumber| match messages.entry(number) {
            Entry::Vacant(_) => None,
            Entry::Occupied(entry) if shared.contains(&number) => Some(entry.get().clone()),
            // No other delivery needs it.
            Entry::Occupied(entry) => Some(entry.remove()),
        };
        let (mut owners, mut bad, mut expired) = (Owners::of(sessions), Vec::new(), Vec::new());
        let mut groups = HashSet::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        self.scan(base, Table::Deliveries, &[], None, &mut |key, value| {
            let owner = rows::number_at(key, 0).and_then(|sid| owners.owner(sid));
            let (Some(session), Some(number), Ok(row)) =
                (owner, rows::number_at(key, 8), DeliveryRow::decode(value))
            else {
                bad.push(Row::from_slice(key));
                return;
            };
            let Some(message) = message_of(row.message) else {
                bad.push(Row::from_slice(key));
                return;
            };
            let state = match (row.packet_id, row.released) {
                (None, _) => RestoredState::Queued,
                (Some(packet_id), false) => RestoredState::Sent(packet_id),
                (Some(packet_id), true) => RestoredState::Released(packet_id),
            };
            // A message that was sent before is completed. [MQTT5-3.3.2-5]
            if state == RestoredState::Queued && message.is_expired(Time::ZERO) {
                expired.push(Row::from_slice(key));
                session.losses.note(LossCause::Expired, wall.zero_millis);
                return;
            }
            session.deliveries.push(RestoredDelivery {
                number,
                message,
                qos: row.qos,
                retain: row.retain,
                subscription_ids: row.subscription_ids.to_vec(),
                group: group_of(row.group, &mut groups),
                state,
            });
        })?;
        let mut losers: Vec<SessionNumber> =
            expired.iter().filter_map(|key| rows::number_at(key, 0)).collect();
        losers.dedup();
        for session in sessions {
            if losers.binary_search(&session.sid).is_ok() {
                let losses = session.losses;
                self.set(Table::Losses, &rows::key(session.sid), |out| rows::encode_losses(&losses, out));
            }
            // The sort is stable: each half keeps its order.
            session.deliveries.sort_by_key(|delivery| delivery.state == RestoredState::Queued);
        }
        let count = expired.len() as u64;
        for key in bad.iter().chain(&expired) {
            self.settle(base, key)?;
        }
        for _ in &bad {
            self.bad_row();
        }
        Ok(count)
    }

    /// Restores the retained messages, and returns how many had expired.
    fn restore_retained(
        &mut self,
        base: &dyn Base,
        wall: Wall,
        mut each: impl FnMut(Message, &str),
    ) -> Result<u64, StoreError> {
        let (mut bad, mut expired) = (Vec::new(), Vec::new());
        self.scan(base, Table::Retained, &[], None, &mut |key, value| {
            let Ok(row) = RetainedRow::decode(key, value) else {
                bad.push(Row::from_slice(key));
                return;
            };
            let message = row.message.to_message(expires_at(&row.message, wall), Some(row.stamp));
            if message.is_expired(Time::ZERO) {
                expired.push(Row::from_slice(key));
            } else {
                each(message, row.message.topic);
            }
        })?;
        let count = expired.len() as u64;
        for key in expired {
            self.remove(Table::Retained, &key);
        }
        self.drop_bad(Table::Retained, bad);
        Ok(count)
    }

    fn drop_bad(&mut self, table: Table, keys: Vec<Row>) {
        for key in keys {
            self.bad_row();
            self.remove(table, &key);
        }
    }
}

/// Returns one shared text for all deliveries of a shared subscription.
fn group_of(filter: &str, groups: &mut HashSet<Arc<str>, RandomState>) -> Option<Arc<str>> {
    if filter.is_empty() {
        return None;
    }
    let group = groups.get(filter).cloned().unwrap_or_else(|| filter.into());
    groups.insert(Arc::clone(&group));
    Some(group)
}

/// Finds the sessions of rows that come in the order of their sessions.
struct Owners<'a> {
    sessions: &'a mut [RestoredSession],
    at: usize,
}

impl Owners<'_> {
    fn of(sessions: &mut [RestoredSession]) -> Owners<'_> {
        Owners { sessions, at: 0 }
    }

    fn owner(&mut self, sid: SessionNumber) -> Option<&mut RestoredSession> {
        while self.sessions.get(self.at).is_some_and(|session| session.sid < sid) {
            self.at += 1;
        }
        self.sessions.get_mut(self.at).filter(|session| session.sid == sid)
    }
}

fn expires_at(message: &StoredMessage<'_>, wall: Wall) -> Option<Time> {
    message.expires_at_millis.map(|millis| wall.time(millis))
}

fn restored_will(will: &StoredWill<'_>) -> Will {
    Will {
        message: will.message.to_message(None, None),
        delay_seconds: will.delay_seconds,
        message_expiry_seconds: will.message_expiry_seconds,
        number: None,
    }
}
