//! Deliveries that begin and end within one segment. On a busy broker these are most of them, and they never
//! reach the checkpoint.

use super::Record;
use super::segment::{Header, Place, Walk};
use super::source::Source;
use super::{BadRecord, open_body};
use std::collections::VecDeque;

/// The content of a segment. It is read once before any of it is applied.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Frames with unreadable records, in order: their offset and the error.
    pub(crate) bad: VecDeque<(usize, BadRecord)>,
    pub(crate) passing: Passing,
}

/// The numbers of such deliveries.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// The number of the first delivery that begins in the segment. Later ones have higher numbers.
    first: u64,
    /// By the distance from the first.
    deliveries: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fate {
    #[default]
    Unknown,
    Begins,
    Passes,
}

/// A delivery whose number is further from the first than this counts as one that stays.
const DISTANCE_MAX: u64 = 64 << 20;

impl Reading {
    /// Reads a whole segment.
    pub(crate) fn of<S: Source>(source: &mut S, header: &Header) -> Result<Reading, S::Error> {
        let mut reading = Reading::default();
        let mut walk = Walk::new(header);
        let mut settled = Vec::new();
        loop {
            match walk.next(source)? {
                Place::Frame(frame) => {
                    let body = source.bytes(frame.body())?;
                    if let Err(bad) = reading.passing.read(body, &mut settled) {
                        reading.bad.push_back((frame.at, bad));
                    }
                }
                Place::Damage { .. } => {}
                Place::End { .. } => return Ok(reading),
            }
        }
    }
}

impl Passing {
    fn read(&mut self, body: &[u8], settled: &mut Vec<u64>) -> Result<(), BadRecord> {
        let (_, mut records) = open_body(body)?;
        settled.clear();
        while let Some(record) = records.read_next()? {
            match record {
                Record::Delivery { number, .. } => self.begin(number),
                Record::Settled { number, .. } | Record::Lost { number, .. } => settled.push(number),
                // The delivery becomes an intent, so it must be applied.
                Record::Returned { delivery, .. } => {
                    if let Some(fate) = self.fate_mut(delivery) {
                        *fate = Fate::Unknown;
                    }
                }
                _ => {}
            }
        }
        // A frame that can't be read will not be applied, so the deliveries that it ends have not ended.
        for &number in &*settled {
            if let Some(fate) = self.fate_mut(number)
                && *fate == Fate::Begins
            {
                *fate = Fate::Passes;
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: u64) {
        if self.deliveries.is_empty() {
            self.first = number;
        }
        let Some(at) = number.checked_sub(self.first).filter(|&at| at < DISTANCE_MAX) else { return };
        let at = usize::try_from(at).expect("the distance is bounded");
        if self.deliveries.len() <= at {
            self.deliveries.resize(at + 1, Fate::Unknown);
        }
        self.deliveries[at] = Fate::Begins;
    }

    fn fate_mut(&mut self, number: u64) -> Option<&mut Fate> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.deliveries.get_mut(at)
    }

    pub(crate) fn contains(&self, number: u64) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.deliveries.get(at)) == Some(&Fate::Passes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::message;
    use super::super::rows::Table;
    use super::super::segment::{BLOCK, LogName};
    use super::super::{Changes, Journal, MemoryBase};
    use super::*;
    use crate::mqtt::{ProtocolVersion, QoS};
    use smallvec::smallvec;

    fn delivery(number: u64, message: u64) -> Record<'static> {
        Record::Delivery {
            sid: 1,
            number,
            message,
            qos: QoS::AtLeastOnce,
            retain: false,
            packet_id: 0,
            subscription_ids: smallvec![],
            group: "",
        }
    }

    #[test]
    fn what_begins_and_ends_in_a_segment_leaves_no_row() {
        let header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };
        let mut journal = Journal::new(LogName { epoch: 1, shard: 0 });
        let version = ProtocolVersion::V311;
        journal.record(&Record::Session { sid: 1, client_id: "c", version, expiry_seconds: 9, will: None });
        for (number, payload) in [(10, "goes"), (20, "stays"), (30, "goes for one")] {
            journal.record(&Record::Message { number, message: message("t", payload.as_bytes()) });
            journal.record(&delivery(number + 1, number));
        }
        journal.record(&delivery(32, 30));
        let mut bytes = header.encode().to_vec();
        bytes.extend(journal.take().unwrap().bytes);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        journal.record(&Record::Started { sid: 1, number: 11, packet_id: 1 });
        journal.record(&Record::Settled { sid: 1, number: 11 });
        journal.record(&Record::Settled { sid: 1, number: 31 });
        bytes.extend(journal.take().unwrap().bytes);
        bytes.resize(bytes.len() + 2 * BLOCK, 0);

        let base = MemoryBase::default();
        let mut changes = Changes::new(&base).unwrap();
        let replayed = changes.apply_segment(&base, &header, &bytes).unwrap();
        assert_eq!((replayed.frames, replayed.gaps.len(), changes.ignored()), (2, 0, 0));
        let mut rows = [0, 0];
        changes.each_changed(|table, _, value| {
            assert!(value.is_some(), "nothing to remove");
            rows[0] += usize::from(table == Table::Deliveries);
            rows[1] += usize::from(table == Table::Messages);
        });
        assert_eq!(rows, [2, 2]);
        assert_eq!(changes.meta().highest, 32);
    }
}
