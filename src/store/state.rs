//! The state that survives, as changed rows over a base.
//!
//! Frames of a log come in ([`Changes::apply_frame`]); out go the rows that are other than the base's
//! ([`Changes::each_changed`]), which the base takes over in one transaction. What a record names that is
//! not there, as happens after damage, is ignored and counted.

use super::base::{Base, bounds};
use super::passing::Passing;
use super::record::put_message;
use super::rows::{
    self, DeliveryRow, IntentRow, LogPosition, META_KEY, Meta, Presence, RetainedRow, Row, SessionRow,
    SubscriptionRow, Table, WillRow, decode_message,
};
use super::segment::{Header, LogName};
use super::{BadRecord, ClockReading, LogClock, Record, StoreError, StoredMessage, open_body};
use crate::session::Losses;
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Why a frame was not applied. None of its records were, unless the base failed.
#[derive(Debug)]
pub enum ApplyError {
    /// It holds what is no record, though its checksum is right.
    Bad(BadRecord),
    /// The base can't be read.
    Store(StoreError),
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Bad(bad) => bad.fmt(f),
            ApplyError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ApplyError {}

impl From<StoreError> for ApplyError {
    fn from(error: StoreError) -> ApplyError {
        ApplyError::Store(error)
    }
}

/// Changed rows, and what they are about as a whole. The base is an argument of every method, always the
/// same one.
#[derive(Debug)]
pub struct Changes {
    /// Key → the new value, or none: it is gone.
    pub(crate) tables: [BTreeMap<Row, Option<Row>>; Table::ALL.len()],
    pub(crate) meta: Meta,
    /// As it is in the base, which has nothing that is named by a higher number than its highest.
    pub(crate) base_meta: Meta,
    /// Is there such a session? What was asked once is remembered.
    sessions: HashMap<u64, bool, RandomState>,
    /// Messages that are new in the open frame, and the deliveries of each so far. At its end those that
    /// have none are gone; from then on a message without a row of counts has one delivery.
    fresh: HashMap<u64, u32, RandomState>,
    /// Deliveries that come and go within the segment that is being applied: they leave no trace.
    pub(crate) passing: Passing,
    ignored: u64,
    pub(crate) bad_rows: u64,
    pub(crate) bytes: usize,
    pub(crate) buffer: Vec<u8>,
}

impl Changes {
    /// No changes of this base.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn new(base: &dyn Base) -> Result<Changes, StoreError> {
        let meta = match base.get(Table::Meta, META_KEY)? {
            None => Meta::default(),
            Some(value) => Meta::decode(&value).map_err(|bad| {
                StoreError::new("can't read the summary of the checkpoint", "".as_ref(), bad)
            })?,
        };
        Ok(Changes {
            tables: Default::default(),
            base_meta: meta.clone(),
            meta,
            sessions: by_number(),
            fresh: by_number(),
            passing: Passing::default(),
            ignored: 0,
            bad_rows: 0,
            bytes: 0,
            buffer: Vec::new(),
        })
    }

    /// What the rows are about.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The time of the last frame, on the log's clock.
    pub fn last_millis(&self) -> Option<u64> {
        self.meta.walls.values().copied().max()
    }

    /// The log's clock of a start; `now` was read at the zero of the broker's clock.
    pub fn log_clock(&self, now: ClockReading) -> LogClock {
        LogClock::resume(self.last_millis(), self.meta.clock, now)
    }

    /// Records that named what is not there.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Rows that could not be read.
    pub fn bad_rows(&self) -> u64 {
        self.bad_rows
    }

    /// About how many bytes the changed rows take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is there nothing to take over?
    pub fn is_empty(&self) -> bool {
        self.meta == self.base_meta && self.tables.iter().all(BTreeMap::is_empty)
    }

    /// Hands over each changed row, table by table in the order of the keys; no value: it is gone.
    pub fn each_changed(&self, mut each: impl FnMut(Table, &[u8], Option<&[u8]>)) {
        for table in Table::ALL {
            for (key, value) in &self.tables[table as usize] {
                each(table, key, value.as_deref());
            }
        }
        if self.meta != self.base_meta {
            let mut value = Vec::new();
            self.meta.encode(&mut value);
            each(Table::Meta, META_KEY, Some(&value));
        }
    }

    /// The base has taken the changes over.
    pub fn clear(&mut self) {
        self.tables = Default::default();
        self.base_meta = self.meta.clone();
        self.sessions.clear();
        self.bytes = 0;
    }

    /// Is this segment in the rows already? All of an epoch are applied before any of the next.
    pub fn has_segment(&self, name: LogName, number: u64) -> bool {
        let mark = self.meta.logs.get(&name.shard);
        name.epoch < self.meta.epoch
            || (name.epoch == self.meta.epoch && mark.is_some_and(|mark| number <= mark.number))
    }

    /// Applies the records of a frame.
    ///
    /// # Errors
    /// [`ApplyError`]; the frames after it may be applied all the same if the base did not fail.
    pub fn apply_frame(&mut self, base: &dyn Base, header: &Header, body: &[u8]) -> Result<(), ApplyError> {
        // A frame counts wholly or not at all.
        let (_, mut check) = open_body(body).map_err(ApplyError::Bad)?;
        while check.read_next().map_err(ApplyError::Bad)?.is_some() {}
        self.apply_sound_frame(base, header, body)?;
        Ok(())
    }

    /// Applies a frame all of whose records can be read.
    pub(crate) fn apply_sound_frame(
        &mut self,
        base: &dyn Base,
        header: &Header,
        body: &[u8],
    ) -> Result<(), StoreError> {
        let Ok((millis, mut records)) = open_body(body) else { return Ok(()) };
        self.begin_epoch(header);
        let wall = self.meta.walls.entry(header.epoch).or_default();
        *wall = millis.max(*wall);
        // Messages of this frame that no delivery has referred to yet.
        let mut messages: SmallVec<[(u64, StoredMessage<'_>); 4]> = SmallVec::new();
        while let Ok(Some(record)) = records.read_next() {
            match record {
                Record::Lost { sid, number, cause, count } => {
                    self.raise(number);
                    self.change_losses(base, sid, |losses| losses.set(cause, count, millis))?;
                    if number != 0 && !self.passing.contains(number) {
                        let was_there = self.settle(base, &rows::delivery_key(sid, number))?;
                        self.ignored += u64::from(!was_there);
                    }
                    continue;
                }
                Record::Message { number, message } => {
                    self.raise(number);
                    messages.push((number, message));
                    continue;
                }
                Record::Delivery { number, .. }
                | Record::Started { number, .. }
                | Record::Released { number, .. }
                | Record::Settled { number, .. }
                    if self.passing.contains(number) =>
                {
                    self.raise(number);
                    continue;
                }
                Record::Delivery { message, .. } => {
                    if let Some(at) = messages.iter().rposition(|(number, _)| *number == message) {
                        let (number, message) = messages.swap_remove(at);
                        self.add_message(base, number, &message)?;
                    }
                }
                _ => {}
            }
            self.apply(base, header, &record)?;
        }
        self.end_fresh();
        Ok(())
    }

    /// The messages that are new have all their deliveries.
    pub(crate) fn end_fresh(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let fresh = std::mem::replace(&mut self.fresh, by_number());
        for (number, count) in fresh {
            match count {
                // Its delivery found no room in the queue, or is settled.
                0 => self.remove(Table::Messages, &rows::key(number)),
                1 => {}
                _ => self.set_count(number, count),
            }
        }
    }

    /// All frames of a segment were applied, up to this sequence; 0 if that is not known.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn finish_segment(
        &mut self,
        base: &dyn Base,
        header: &Header,
        last_sequence: u64,
    ) -> Result<(), StoreError> {
        self.begin_epoch(header);
        if header.epoch == self.meta.epoch {
            self.meta.logs.insert(header.shard, LogPosition { number: header.number, last_sequence });
        }
        self.prune_seen(base)
    }

    fn begin_epoch(&mut self, header: &Header) {
        if header.epoch > self.meta.epoch || self.meta.shards == 0 {
            self.meta.epoch = header.epoch;
            self.meta.shards = header.shards;
            self.meta.seed = header.seed;
            self.meta.logs.clear();
            self.meta.intents.clear();
        }
    }

    fn apply(&mut self, base: &dyn Base, header: &Header, record: &Record<'_>) -> Result<(), StoreError> {
        match record {
            Record::Session { sid, client_id, version, expiry_seconds, will } => {
                self.raise(*sid);
                let presence = Presence::Connected { epoch: header.epoch };
                let row = SessionRow {
                    version: *version,
                    expiry_seconds: *expiry_seconds,
                    presence,
                    client_id,
                    will: *will,
                };
                self.sessions.insert(*sid, true);
                self.set(Table::Sessions, &rows::key(*sid), |out| row.encode(out));
                Ok(())
            }
            Record::Left { sid, at_millis, expiry_seconds } => self.change_session(base, *sid, |row| {
                row.presence = Presence::Left { at_millis: *at_millis };
                row.expiry_seconds = *expiry_seconds;
            }),
            Record::WillGone { sid } => self.change_session(base, *sid, |row| row.will = None),
            Record::Ended { sid } => self.end_session(base, *sid),
            Record::Subscribed { sid, filter, options, subscription_id } => {
                if self.knows(base, *sid)? {
                    let row = SubscriptionRow { options: *options, subscription_id: *subscription_id };
                    let key = rows::subscription_key(*sid, filter);
                    self.set(Table::Subscriptions, &key, |out| row.encode(out));
                }
                Ok(())
            }
            Record::Unsubscribed { sid, filter } => {
                if self.knows(base, *sid)? {
                    self.remove(Table::Subscriptions, &rows::subscription_key(*sid, filter));
                }
                Ok(())
            }
            // `apply_frame` adds it with its first delivery, and knows when a message was lost.
            Record::Message { .. } | Record::Lost { .. } => Ok(()),
            Record::LossesTold { sid, left } => self.change_losses(base, *sid, |losses| losses.leave(*left)),
            Record::Delivery { sid, number, message, qos, retain, packet_id, subscription_ids, group } => {
                let row = DeliveryRow {
                    message: *message,
                    qos: *qos,
                    retain: *retain,
                    packet_id: *packet_id,
                    released: false,
                    subscription_ids: subscription_ids.clone(),
                    group,
                };
                self.raise((*number).max(*message));
                if self.knows(base, *sid)? { self.deliver(base, *sid, *number, &row) } else { Ok(()) }
            }
            Record::Started { sid, number, packet_id } => {
                self.change_delivery(base, *sid, *number, |row| row.packet_id = *packet_id)
            }
            Record::Released { sid, number } => {
                self.change_delivery(base, *sid, *number, |row| row.released = true)
            }
            Record::Settled { sid, number } => {
                self.raise((*sid).max(*number));
                let was_there = self.settle(base, &rows::delivery_key(*sid, *number))?;
                self.ignored += u64::from(!was_there);
                Ok(())
            }
            Record::Returned { sid, delivery, number } => {
                self.raise((*sid).max(*delivery));
                self.note_intent(header.shard, *number);
                self.return_delivery(base, &rows::delivery_key(*sid, *delivery), *number)
            }
            Record::Held { sid, packet_id, payload_bytes } => {
                if self.knows(base, *sid)? {
                    let key = rows::pair_key(*sid, *packet_id);
                    self.set(Table::Held, &key, |out| {
                        super::record::put_varint(out, u64::from(*payload_bytes))
                    });
                }
                Ok(())
            }
            Record::Unheld { sid, packet_id } => {
                if self.knows(base, *sid)? {
                    self.remove(Table::Held, &rows::pair_key(*sid, *packet_id));
                }
                Ok(())
            }
            Record::Retained { stamp, message } => {
                self.retain(*stamp, message);
                Ok(())
            }
            Record::Unretained { topic } => {
                self.remove(Table::Retained, topic.as_bytes());
                Ok(())
            }
            Record::Intent { number, targets, stamp, group, message } => {
                self.note_intent(header.shard, *number);
                self.meta.last_stamp = self.meta.last_stamp.max(*stamp);
                let row = IntentRow { targets: *targets, stamp: *stamp, group, message: *message };
                self.set(Table::Intents, &rows::key(*number), |out| row.encode(out));
                Ok(())
            }
            Record::IntentDone { number } => {
                self.raise(*number);
                let was_there = self.has_row(base, Table::Intents, &rows::key(*number))?;
                self.ignored += u64::from(!was_there);
                self.remove(Table::Intents, &rows::key(*number));
                Ok(())
            }
            Record::IntentSeen { number } => {
                self.raise(*number);
                self.set(Table::Seen, &rows::pair_key(*number, header.shard), |_| {});
                Ok(())
            }
            Record::Alive => Ok(()),
            Record::Clock(mark) => {
                if self.meta.clock.is_none_or(|last| last.at_millis <= mark.at_millis) {
                    self.meta.clock = Some(*mark);
                }
                Ok(())
            }
            Record::Will { number, client_id, will } => {
                self.raise(*number);
                let row = WillRow { client_id, will: *will };
                self.set(Table::Wills, &rows::key(*number), |out| row.encode(out));
                Ok(())
            }
            Record::WillOver { number } => {
                self.raise(*number);
                let was_there = self.has_row(base, Table::Wills, &rows::key(*number))?;
                self.ignored += u64::from(!was_there);
                self.remove(Table::Wills, &rows::key(*number));
                Ok(())
            }
        }
    }

    fn raise(&mut self, number: u64) {
        self.meta.highest = self.meta.highest.max(number);
    }

    /// Is there such a session? If not, the record that names it is ignored.
    fn knows(&mut self, base: &dyn Base, sid: u64) -> Result<bool, StoreError> {
        self.raise(sid);
        let known = match self.sessions.get(&sid) {
            Some(&known) => known,
            None => {
                let known = self.has_row(base, Table::Sessions, &rows::key(sid))?;
                self.sessions.insert(sid, known);
                known
            }
        };
        self.ignored += u64::from(!known);
        Ok(known)
    }

    fn change_session(
        &mut self,
        base: &dyn Base,
        sid: u64,
        change: impl FnOnce(&mut SessionRow<'_>),
    ) -> Result<(), StoreError> {
        self.raise(sid);
        let Some(value) = self.row(base, Table::Sessions, &rows::key(sid))? else {
            self.ignored += 1;
            return Ok(());
        };
        match SessionRow::decode(&value) {
            Ok(mut row) => {
                change(&mut row);
                self.set(Table::Sessions, &rows::key(sid), |out| row.encode(out));
            }
            Err(_) => self.bad_rows += 1,
        }
        Ok(())
    }

    /// Changes what a session has lost.
    fn change_losses(
        &mut self,
        base: &dyn Base,
        sid: u64,
        change: impl FnOnce(&mut Losses),
    ) -> Result<(), StoreError> {
        if !self.knows(base, sid)? {
            return Ok(());
        }
        let key = rows::key(sid);
        let before = self.row(base, Table::Losses, &key)?;
        let decoded = before.as_deref().map(rows::decode_losses);
        self.bad_rows += u64::from(matches!(decoded, Some(Err(_))));
        let mut losses = decoded.and_then(Result::ok).unwrap_or_default();
        change(&mut losses);
        if !losses.is_empty() {
            self.set(Table::Losses, &key, |out| rows::encode_losses(&losses, out));
        } else if before.is_some() {
            self.remove(Table::Losses, &key);
        }
        Ok(())
    }

    /// Removes a session with all that is its.
    pub(crate) fn end_session(&mut self, base: &dyn Base, sid: u64) -> Result<(), StoreError> {
        if !self.knows(base, sid)? {
            return Ok(());
        }
        self.sessions.insert(sid, false);
        self.remove(Table::Sessions, &rows::key(sid));
        if self.has_row(base, Table::Losses, &rows::key(sid))? {
            self.remove(Table::Losses, &rows::key(sid));
        }
        for table in [Table::Subscriptions, Table::Held] {
            for key in self.keys_of(base, table, sid)? {
                self.remove(table, &key);
            }
        }
        for key in self.keys_of(base, Table::Deliveries, sid)? {
            self.settle(base, &key)?;
        }
        Ok(())
    }

    fn keys_of(&self, base: &dyn Base, table: Table, sid: u64) -> Result<Vec<Row>, StoreError> {
        let (from, until) = (rows::key(sid), sid.checked_add(1).map(rows::key));
        let until = until.as_ref().map(|key| &key[..]);
        let mut keys = Vec::new();
        if sid > self.base_meta.highest {
            let mine = self.tables[table as usize].range::<[u8], _>(bounds(&from, until));
            keys.extend(mine.filter(|(_, value)| value.is_some()).map(|(key, _)| key.clone()));
        } else {
            self.scan(base, table, &from, until, &mut |key, _| keys.push(Row::from_slice(key)))?;
        }
        Ok(keys)
    }

    /// A message that deliveries will refer to, before [`Changes::end_fresh`].
    pub(crate) fn add_message(
        &mut self,
        base: &dyn Base,
        number: u64,
        message: &StoredMessage<'_>,
    ) -> Result<(), StoreError> {
        let key = rows::key(number);
        let was_there = match self.set(Table::Messages, &key, |out| put_message(out, message)) {
            Some(before) => before.is_some(),
            None if self.may_be_in_base(Table::Messages, &key) => base.contains(Table::Messages, &key)?,
            None => false,
        };
        if !was_there {
            self.fresh.insert(number, 0);
        }
        Ok(())
    }

    /// A delivery is new, or written once more.
    pub(crate) fn deliver(
        &mut self,
        base: &dyn Base,
        sid: u64,
        number: u64,
        row: &DeliveryRow<'_>,
    ) -> Result<(), StoreError> {
        let is_there = self.fresh.contains_key(&row.message)
            || self.has_row(base, Table::Messages, &rows::key(row.message))?;
        if !is_there {
            self.ignored += 1;
            return Ok(());
        }
        let key = rows::delivery_key(sid, number);
        let before = match self.set(Table::Deliveries, &key, |out| row.encode(out)) {
            Some(before) => before,
            None if self.may_be_in_base(Table::Deliveries, &key) => base.get(Table::Deliveries, &key)?,
            None => None,
        };
        let before = before.and_then(|value| DeliveryRow::decode(&value).ok().map(|row| row.message));
        if before != Some(row.message) {
            self.count(base, row.message, 1)?;
            if let Some(before) = before {
                self.count(base, before, -1)?;
            }
        }
        Ok(())
    }

    fn change_delivery(
        &mut self,
        base: &dyn Base,
        sid: u64,
        number: u64,
        change: impl FnOnce(&mut DeliveryRow<'_>),
    ) -> Result<(), StoreError> {
        self.raise(sid.max(number));
        let key = rows::delivery_key(sid, number);
        let Some(value) = self.row(base, Table::Deliveries, &key)? else {
            self.ignored += 1;
            return Ok(());
        };
        match DeliveryRow::decode(&value) {
            Ok(mut row) => {
                change(&mut row);
                self.set(Table::Deliveries, &key, |out| row.encode(out));
            }
            Err(_) => self.bad_rows += 1,
        }
        Ok(())
    }

    /// Removes a delivery, and its message with the last; false if there is none.
    pub(crate) fn settle(&mut self, base: &dyn Base, key: &[u8]) -> Result<bool, StoreError> {
        let Some(value) = self.row(base, Table::Deliveries, key)? else { return Ok(false) };
        self.remove(Table::Deliveries, key);
        match DeliveryRow::decode(&value) {
            Ok(row) => self.count(base, row.message, -1)?,
            Err(_) => self.bad_rows += 1,
        }
        Ok(true)
    }

    /// A delivery becomes an intent for its group.
    fn return_delivery(&mut self, base: &dyn Base, key: &[u8], number: u64) -> Result<(), StoreError> {
        let Some(value) = self.row(base, Table::Deliveries, key)? else {
            self.ignored += 1;
            return Ok(());
        };
        if let Ok(DeliveryRow { message, group, .. }) = DeliveryRow::decode(&value)
            && let Some(stored) = self.row(base, Table::Messages, &rows::key(message))?
        {
            match decode_message(&stored) {
                Ok(message) => {
                    let row = IntentRow { targets: 0, stamp: 0, group, message };
                    self.set(Table::Intents, &rows::key(number), |out| row.encode(out));
                }
                Err(_) => self.bad_rows += 1,
            }
        }
        self.settle(base, key)?;
        Ok(())
    }

    /// An intent is in the log of a shard.
    fn note_intent(&mut self, shard: u16, number: u64) {
        self.raise(number);
        let highest = self.meta.intents.entry(shard).or_default();
        *highest = (*highest).max(number);
    }

    /// One delivery more or less refers to a message, which is gone with the last.
    fn count(&mut self, base: &dyn Base, message: u64, by: i32) -> Result<(), StoreError> {
        if let Some(count) = self.fresh.get_mut(&message) {
            *count = count.saturating_add_signed(by);
            return Ok(());
        }
        let key = rows::key(message);
        let value = self.row(base, Table::Counts, &key)?;
        let count = value.as_deref().and_then(read_count).unwrap_or(1).saturating_add_signed(by);
        if count == 0 {
            self.remove(Table::Messages, &key);
        }
        if count > 1 {
            self.set_count(message, count);
        } else if value.is_some() {
            self.remove(Table::Counts, &key);
        }
        Ok(())
    }

    fn set_count(&mut self, message: u64, count: u32) {
        self.set(Table::Counts, &rows::key(message), |out| out.extend_from_slice(&count.to_le_bytes()));
    }

    pub(crate) fn retain(&mut self, stamp: u64, message: &StoredMessage<'_>) {
        self.meta.last_stamp = self.meta.last_stamp.max(stamp);
        let row = RetainedRow { stamp, message: *message };
        self.set(Table::Retained, message.topic.as_bytes(), |out| row.encode(out));
    }

    /// Forgets that targets have seen intents of which all is known to be done: those below the lowest
    /// that is open, or, if none is, up to the last.
    fn prune_seen(&mut self, base: &dyn Base) -> Result<(), StoreError> {
        let shards = u64::from(self.meta.shards.max(1));
        let mut floors: BTreeMap<u64, u64> = self
            .meta
            .intents
            .iter()
            .map(|(&shard, &last)| (u64::from(shard), last.saturating_add(1)))
            .collect();
        self.scan(base, Table::Intents, &[], None, &mut |key, _| {
            if let Some(number) = rows::number_at(key, 0) {
                let floor = floors.entry(number % shards).or_insert(0);
                *floor = (*floor).min(number);
            }
        })?;
        let mut pruned: Vec<Row> = Vec::new();
        self.scan(base, Table::Seen, &[], None, &mut |key, _| {
            let number = rows::number_at(key, 0).unwrap_or(0);
            if floors.get(&(number % shards)).is_some_and(|&floor| number < floor) {
                pruned.push(Row::from_slice(key));
            }
        })?;
        for key in pruned {
            self.remove(Table::Seen, &key);
        }
        Ok(())
    }
}

/// A map whose keys are our own numbers: no one can choose them to collide.
pub(crate) fn by_number<T>() -> HashMap<u64, T, RandomState> {
    HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4))
}

pub(crate) fn read_count(value: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(value.try_into().ok()?))
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;
