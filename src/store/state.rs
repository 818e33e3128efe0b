//! The state that survives, as changed rows over a base.
//!
//! The input is frames of a log ([`Changes::apply_frame`]). The output is the rows that differ from those of
//! the base ([`Changes::each_changed`]). The base commits them in one transaction. A record that refers to
//! something that does not exist, as happens after damage, is ignored and counted.
//!
//! This file handles frames, segments and epochs. `records` defines the effect of each record, and `sessions`
//! and `deliveries` carry it out.

mod deliveries;
mod records;
mod sessions;

pub(crate) use deliveries::read_count;

use super::base::Base;
use super::passing::Passing;
use super::rows::{self, LogPosition, META_KEY, Meta, Row, Table};
use super::segment::{Header, LogName};
use super::{BadRecord, ClockReading, LogClock, Record, StoreError, StoredMessage, open_body};
use crate::base::{IntentNumber, MessageNumber, Numbered, SessionNumber};
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The reason why a frame was not applied. None of its records was applied, unless the base failed.
#[derive(Debug)]
pub enum ApplyError {
    /// It contains an invalid record although its checksum is correct.
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

/// Changed rows, and a summary of all rows. The base is an argument of every method, and must always be the
/// same.
#[derive(Debug)]
pub struct Changes {
    /// Key → the new value. `None` if the row was removed.
    pub(crate) tables: [BTreeMap<Row, Option<Row>>; Table::ALL.len()],
    pub(crate) meta: Meta,
    /// The summary of the base. Nothing in the base has a higher number than its `highest`.
    pub(crate) base_meta: Meta,
    /// A cache of which sessions exist.
    sessions: HashMap<SessionNumber, bool, RandomState>,
    /// The messages that are new in the open frame, and the number of deliveries of each so far. At the end
    /// of the frame, messages without a delivery are removed. From then on, a message without a row of counts
    /// has one delivery.
    fresh: HashMap<MessageNumber, u32, RandomState>,
    /// Deliveries that begin and end within the segment that is being applied. They leave no trace.
    pub(crate) passing: Passing,
    ignored: u64,
    pub(crate) bad_rows: u64,
    pub(crate) bytes: usize,
    pub(crate) buffer: Vec<u8>,
}

impl Changes {
    /// No changes to this base.
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

    /// The summary of all rows.
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

    /// The number of records that referred to something that does not exist.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The number of rows that could not be read.
    pub fn bad_rows(&self) -> u64 {
        self.bad_rows
    }

    /// The approximate number of bytes of the changed rows.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.meta == self.base_meta && self.tables.iter().all(BTreeMap::is_empty)
    }

    /// Passes on each changed row, table by table, in the order of the keys. A removed row has no value.
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

    /// Forgets the changes, because the base has committed them.
    pub fn clear(&mut self) {
        self.tables = Default::default();
        self.base_meta = self.meta.clone();
        self.sessions.clear();
        self.bytes = 0;
    }

    /// Whether the rows already contain this segment. All segments of an epoch are applied before any of the
    /// next.
    pub fn has_segment(&self, name: LogName, number: u64) -> bool {
        let mark = self.meta.logs.get(&name.shard);
        name.epoch < self.meta.epoch
            || (name.epoch == self.meta.epoch && mark.is_some_and(|mark| number <= mark.number))
    }

    /// Applies the records of a frame.
    ///
    /// # Errors
    /// [`ApplyError`]. If the base did not fail, the following frames may still be applied.
    pub fn apply_frame(&mut self, base: &dyn Base, header: &Header, body: &[u8]) -> Result<(), ApplyError> {
        // A frame is applied as a whole or not at all.
        let (_, mut check) = open_body(body).map_err(ApplyError::Bad)?;
        while check.read_next().map_err(ApplyError::Bad)?.is_some() {}
        self.apply_sound_frame(base, header, body)?;
        Ok(())
    }

    /// Applies a frame whose records can all be read.
    pub(crate) fn apply_sound_frame(
        &mut self,
        base: &dyn Base,
        header: &Header,
        body: &[u8],
    ) -> Result<(), StoreError> {
        let Ok((millis, mut records)) = open_body(body) else { return Ok(()) };
        self.begin_frame(header, millis);
        // Messages of this frame that no delivery has referred to yet.
        let mut messages: SmallVec<[(MessageNumber, StoredMessage<'_>); 4]> = SmallVec::new();
        while let Ok(Some(record)) = records.read_next() {
            match record {
                Record::Lost { sid, number, cause, count } => {
                    self.change_losses(base, sid, |losses| losses.set(cause, count, millis))?;
                    let Some(number) = number else { continue };
                    self.raise(number);
                    if !self.passing.contains(number) {
                        let was_there = self.settle(base, &rows::DeliveryKey { sid, number }.row())?;
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

    /// A frame that leaves no row, of which this is the highest number.
    pub(crate) fn pass_frame(&mut self, header: &Header, body: &[u8], highest: u64) {
        if let Ok((millis, _)) = open_body(body) {
            self.begin_frame(header, millis);
            self.meta.highest = self.meta.highest.max(highest);
        }
    }

    fn begin_frame(&mut self, header: &Header, millis: u64) {
        self.begin_epoch(header);
        let wall = self.meta.walls.entry(header.epoch).or_default();
        *wall = millis.max(*wall);
    }

    /// Notes that all frames of a segment were applied, up to this sequence. `0` if the sequence is unknown.
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

    fn raise(&mut self, number: impl Numbered) {
        self.meta.highest = self.meta.highest.max(number.get());
    }

    /// Notes that an intent is in the log of a shard.
    fn note_intent(&mut self, shard: u16, number: IntentNumber) {
        self.raise(number);
        let highest = self.meta.intents.entry(shard).or_default();
        *highest = (*highest).max(number.get());
    }

    /// Removes the records that intents were seen by their targets for intents that are done and have no open
    /// intent before them: those below the lowest open intent, or all of them if none is open.
    fn prune_seen(&mut self, base: &dyn Base) -> Result<(), StoreError> {
        let shards = u64::from(self.meta.shards.max(1));
        let mut floors: BTreeMap<u64, u64> = self
            .meta
            .intents
            .iter()
            .map(|(&shard, &last)| (u64::from(shard), last.saturating_add(1)))
            .collect();
        self.scan(base, Table::Intents, &[], None, &mut |key, _| {
            if let Some(number) = rows::raw_number_at(key, 0) {
                let floor = floors.entry(number % shards).or_insert(0);
                *floor = (*floor).min(number);
            }
        })?;
        let mut pruned: Vec<Row> = Vec::new();
        self.scan(base, Table::Seen, &[], None, &mut |key, _| {
            let number = rows::raw_number_at(key, 0).unwrap_or(0);
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

/// A map whose keys are midge's own numbers. Clients can't choose them to collide.
pub(crate) fn by_number<N, T>() -> HashMap<N, T, RandomState> {
    HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4))
}

#[cfg(test)]
#[path = "state_tests.rs"]
pub(crate) mod tests;
