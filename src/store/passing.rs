//! Deliveries that begin and end within one segment: most of a busy broker's, and none of the
//! checkpoint's business.

use super::segment::{Header, SegmentReader, Step};
use super::{Record, open_body};
use ahash::RandomState;
use std::collections::HashMap;

/// The numbers of such deliveries.
#[derive(Debug)]
pub(super) struct Passing {
    /// A delivery that begins in the segment; true: it ends there too.
    deliveries: HashMap<u64, bool, RandomState>,
}

impl Default for Passing {
    fn default() -> Passing {
        // The keys are our own numbers: no one can choose them to collide.
        Passing { deliveries: HashMap::with_hasher(RandomState::with_seeds(5, 6, 7, 8)) }
    }
}

impl Passing {
    /// Those of a whole segment.
    pub(super) fn of(bytes: &[u8], header: &Header) -> Passing {
        let mut passing = Passing::default();
        let mut reader = SegmentReader::new(bytes, header);
        let mut settled = Vec::new();
        loop {
            match reader.step() {
                Step::Frame(frame) => passing.read(frame.body, &mut settled),
                Step::Damage { .. } => {}
                Step::End { .. } => return passing,
            }
        }
    }

    fn read(&mut self, body: &[u8], settled: &mut Vec<u64>) {
        let Ok((_, mut records)) = open_body(body) else { return };
        settled.clear();
        loop {
            match records.read_next() {
                Ok(Some(Record::Delivery { number, .. })) => {
                    self.deliveries.insert(number, false);
                }
                Ok(Some(Record::Settled { number, .. })) => settled.push(number),
                Ok(Some(_)) => {}
                Ok(None) => break,
                // A frame that can't be read will not be applied: what it ends has not ended.
                Err(_) => return,
            }
        }
        for number in &*settled {
            if let Some(ends) = self.deliveries.get_mut(number) {
                *ends = true;
            }
        }
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.deliveries.get(&number) == Some(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::message;
    use super::super::rows::Table;
    use super::super::segment::{BLOCK, LogName};
    use super::super::{Changes, Journal, MemoryBase};
    use super::*;
    use crate::packet::{ProtocolVersion, QoS};
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
