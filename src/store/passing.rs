//! Deliveries that begin and end within one segment. On a busy broker these are most of them, and they never
//! reach the checkpoint.

use super::Record;
use super::segment::{Header, Place, Walk};
use super::source::Source;
use super::{BadRecord, open_body};
use crate::base::DeliveryNumber;
use std::collections::VecDeque;

/// The content of a segment. It is read once before any of it is applied.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Frames with unreadable records, in order: their offset and the error.
    pub(crate) bad: VecDeque<(usize, BadRecord)>,
    pub(crate) passing: Passing,
    /// The first frames, in order.
    notes: Vec<Note>,
    /// Something is unlike what a shard writes, and the notes may be wrong.
    is_odd: bool,
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    /// Its highest number of a message or a delivery.
    highest: u64,
    /// Its records that leave something.
    rest: u32,
}

/// The numbers of such deliveries.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// The number of the first delivery that begins in the segment. Later ones have higher numbers.
    first: u64,
    /// From a number of the shard to the next one.
    step: u64,
    /// By the number of steps from the first.
    deliveries: Vec<Fate>,
}

/// What becomes of a delivery: 0 if it did not begin in the segment. Else the number of its frame, plus 1, and in the
/// lowest bit whether it passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate(u32);

impl Fate {
    fn begins(frame: usize) -> Fate {
        Fate((u32::try_from(frame.min(NOTES_MAX)).expect("the notes are bounded") + 1) << 1)
    }

    fn is_known(self) -> bool {
        self.0 != 0
    }

    fn passes(self) -> bool {
        self.0 & 1 != 0
    }

    fn passed(self) -> Fate {
        Fate(self.0 | 1)
    }

    fn frame(self) -> usize {
        (self.0 >> 1).saturating_sub(1) as usize
    }
}

/// A delivery that is further from the first than so many steps is taken for one that stays.
const STEPS_MAX: u64 = 16 << 20;

/// Further frames are read twice, whatever they hold.
const NOTES_MAX: usize = 1 << 20;

/// So many records may wait for what becomes of their deliveries. Frames with others are read twice.
const UNDECIDED_MAX: usize = 1 << 20;

/// What is gathered while a segment is read.
#[derive(Default)]
struct Gathered {
    /// Deliveries that end in the frame.
    settled: Vec<DeliveryNumber>,
    /// Deliveries that have begun and go on in the frame: their place, and the frame.
    undecided: Vec<(u32, u32)>,
}

impl Reading {
    /// Reads a whole segment.
    pub(crate) fn of<S: Source>(source: &mut S, header: &Header) -> Result<Reading, S::Error> {
        let mut reading = Reading::default();
        reading.passing.step = u64::from(header.shards.max(1));
        let mut walk = Walk::new(header);
        let mut gathered = Gathered::default();
        let mut frames = 0;
        loop {
            match walk.next(source)? {
                Place::Frame(frame) => {
                    let body = source.bytes(frame.body())?;
                    if let Err(bad) = reading.read(body, frames, &mut gathered) {
                        reading.bad.push_back((frame.at, bad));
                    }
                    frames += 1;
                }
                Place::Damage { .. } => {}
                Place::End { .. } => break,
            }
        }
        for &(place, frame) in &gathered.undecided {
            if !reading.passing.deliveries[place as usize].passes() {
                reading.note_rest(frame as usize);
            }
        }
        Ok(reading)
    }

    /// The highest number of a frame that leaves nothing else; none if it has to be applied.
    pub(crate) fn nothing_but(&self, frame: usize) -> Option<u64> {
        self.notes.get(frame).filter(|note| note.rest == 0 && !self.is_odd).map(|note| note.highest)
    }

    fn read(&mut self, body: &[u8], frame: usize, gathered: &mut Gathered) -> Result<(), BadRecord> {
        if frame < NOTES_MAX {
            self.notes.push(Note::default());
        }
        let (_, mut records) = open_body(body)?;
        gathered.settled.clear();
        let mut highest = 0;
        while let Some(record) = records.read_next()? {
            match record {
                Record::Message { number, .. } => highest = highest.max(number.get()),
                Record::Delivery { number, .. } => {
                    highest = highest.max(number.get());
                    self.begin(number, frame);
                }
                Record::Started { number, .. } | Record::Released { number, .. } => {
                    highest = highest.max(number.get());
                    self.go_on(number, frame, gathered);
                }
                Record::Settled { number, .. } => {
                    highest = highest.max(number.get());
                    gathered.settled.push(number);
                }
                Record::Lost { number, .. } => {
                    gathered.settled.extend(number);
                    self.note_rest(frame);
                }
                // What it becomes has to be made of it.
                Record::Returned { delivery, .. } => {
                    if let Some(fate) = self.passing.fate_mut(delivery) {
                        self.is_odd |= fate.passes();
                        *fate = Fate::default();
                    }
                    self.note_rest(frame);
                }
                _ => self.note_rest(frame),
            }
        }
        // A frame that can't be read will not be applied: what it ends has not ended.
        for &number in &gathered.settled {
            match self.passing.fate_mut(number) {
                Some(fate) if fate.is_known() => {
                    let (has_passed, begun_in) = (fate.passes(), fate.frame());
                    *fate = fate.passed();
                    if !has_passed && let Some(note) = self.notes.get_mut(begun_in) {
                        note.rest -= 1;
                    }
                }
                _ => self.note_rest(frame),
            }
        }
        if let Some(note) = self.notes.get_mut(frame) {
            note.highest = highest;
        }
        Ok(())
    }

    fn note_rest(&mut self, frame: usize) {
        if let Some(note) = self.notes.get_mut(frame) {
            note.rest += 1;
        }
    }

    /// A delivery begins. It leaves something until it is known to pass.
    fn begin(&mut self, number: DeliveryNumber, frame: usize) {
        self.note_rest(frame);
        if let Some(fate) = self.passing.begin(number) {
            // No delivery begins again once it has ended.
            self.is_odd |= fate.passes();
            *fate = Fate::begins(frame);
        }
    }

    /// A delivery goes on, which leaves something unless the delivery passes.
    fn go_on(&mut self, number: DeliveryNumber, frame: usize, gathered: &mut Gathered) {
        let place = self.passing.place(number).filter(|&place| {
            self.passing.deliveries.get(place).is_some_and(|fate| fate.is_known())
                && gathered.undecided.len() < UNDECIDED_MAX
        });
        match (place.map(u32::try_from), u32::try_from(frame)) {
            (Some(Ok(place)), Ok(frame)) => gathered.undecided.push((place, frame)),
            _ => self.note_rest(frame),
        }
    }
}

impl Passing {
    /// Of a delivery that begins; none if it is too far from the first.
    fn begin(&mut self, number: DeliveryNumber) -> Option<&mut Fate> {
        if self.deliveries.is_empty() {
            self.first = number.get();
        }
        let place = self.place(number)?;
        if self.deliveries.len() <= place {
            self.deliveries.resize(place + 1, Fate::default());
        }
        self.deliveries.get_mut(place)
    }

    fn place(&self, number: DeliveryNumber) -> Option<usize> {
        let distance = number.get().checked_sub(self.first)?;
        // The numbers of another shard are not counted.
        if self.step == 0 || !distance.is_multiple_of(self.step) || distance / self.step >= STEPS_MAX {
            return None;
        }
        usize::try_from(distance / self.step).ok()
    }

    fn fate_mut(&mut self, number: DeliveryNumber) -> Option<&mut Fate> {
        let place = self.place(number)?;
        self.deliveries.get_mut(place)
    }

    pub(crate) fn contains(&self, number: DeliveryNumber) -> bool {
        let place = self.place(number);
        place.and_then(|place| self.deliveries.get(place)).is_some_and(|fate| fate.passes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{message, packet};
    use super::super::rows::Table;
    use super::super::segment::{BLOCK, LogName};
    use super::super::{Changes, Journal, MemoryBase};
    use super::*;
    use crate::base::nth;
    use crate::mqtt::{ProtocolVersion, QoS};
    use smallvec::smallvec;

    fn delivery(number: u64, message: u64) -> Record<'static> {
        Record::Delivery {
            sid: nth(1),
            number: nth(number),
            message: nth(message),
            qos: QoS::AtLeastOnce,
            retain: false,
            packet_id: None,
            subscription_ids: smallvec![],
            group: "",
        }
    }

    #[test]
    fn what_begins_and_ends_in_a_segment_leaves_no_row() {
        let header = Header { epoch: 1, shard: 0, shards: 1, number: 0, first_sequence: 1, seed: 0 };
        let mut journal = Journal::new(LogName { epoch: 1, shard: 0 });
        let version = ProtocolVersion::V311;
        journal.record(&Record::Session {
            sid: nth(1),
            client_id: "c",
            version,
            expiry_seconds: 9,
            will: None,
        });
        for (number, payload) in [(10, "goes"), (20, "stays"), (30, "goes for one")] {
            journal
                .record(&Record::Message { number: nth(number), message: message("t", payload.as_bytes()) });
            journal.record(&delivery(number + 1, number));
        }
        journal.record(&delivery(32, 30));
        let mut bytes = header.encode().to_vec();
        bytes.extend(journal.take().unwrap().bytes);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        journal.record(&Record::Started { sid: nth(1), number: nth(11), packet_id: packet(1) });
        journal.record(&Record::Settled { sid: nth(1), number: nth(11) });
        journal.record(&Record::Settled { sid: nth(1), number: nth(31) });
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

    const HEADER: Header = Header { epoch: 1, shard: 0, shards: 4, number: 0, first_sequence: 1, seed: 0 };

    /// A segment of frames.
    fn segment(frames: &[Vec<Record<'_>>]) -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        let mut journal = Journal::new(LogName { epoch: 1, shard: 0 });
        for records in frames {
            records.iter().for_each(|record| journal.record(record));
            bytes.extend(journal.take().unwrap().bytes);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes
    }

    #[test]
    fn a_frame_all_of_whose_deliveries_pass_is_not_applied() {
        let start = |number| Record::Started { sid: nth(1), number: nth(number), packet_id: packet(1) };
        let settled = |number| Record::Settled { sid: nth(1), number: nth(number) };
        let frame = |message: u64| {
            let record = Record::Message { number: nth(message), message: self::message("t", b"p") };
            vec![record, delivery(message + 4, message)]
        };
        let frames = [
            vec![Record::Alive],
            frame(8),
            frame(16),
            frame(24),
            vec![start(12), start(20)],
            vec![settled(12)],
            vec![settled(28), settled(20)],
            vec![settled(4)],
            frame(32),
            vec![start(36)],
            vec![Record::Lost {
                sid: nth(1),
                number: Some(nth(28)),
                cause: crate::session::LossCause::Expired,
                count: 1,
            }],
        ];
        let bytes = segment(&frames);
        let Ok(reading) = Reading::of(&mut &bytes[..], &HEADER);
        let passed: Vec<Option<u64>> = (0..12).map(|frame| reading.nothing_but(frame)).collect();
        let is = |number| Some(number);
        assert_eq!(
            passed,
            [None, is(12), is(20), is(28), is(20), is(12), is(28), None, None, None, None, None]
        );
    }

    #[test]
    fn whatever_a_segment_holds_passing_frames_over_changes_nothing() {
        let mut random = crate::base::Random::new(11);
        let mut passed = 0;
        for round in 0..3000 {
            let mut number = 4;
            let (strays, frames) = (round % 3 == 0, 1 + random.index(12));
            let frames: Vec<Vec<Record<'_>>> =
                (0..frames)
                    .map(|at| {
                        let mut records = Vec::new();
                        if at == 0 {
                            let (version, client_id) = (ProtocolVersion::V5, "c");
                            let expiry_seconds = 9;
                            records.push(Record::Session {
                                sid: nth(1),
                                client_id,
                                version,
                                expiry_seconds,
                                will: None,
                            });
                        }
                        for _ in 0..=random.index(5) {
                            // A number of a delivery, or with strays of anything.
                            let some = |random: &mut crate::base::Random| {
                                let some = 8 * random.below(number / 8 + 1) + 4;
                                if strays { some + random.below(3) * 2 } else { some }
                            };
                            match random.index(12) {
                                0..=3 => {
                                    let again = strays && random.index(4) == 0;
                                    let message = if again { some(&mut random) } else { number + 4 };
                                    records.push(Record::Message {
                                        number: nth(message),
                                        message: self::message("t", b"payload"),
                                    });
                                    let delivered = if again { some(&mut random) } else { number + 8 };
                                    records.push(delivery(delivered, message));
                                    number += 8;
                                }
                                4 => records.push(Record::Started {
                                    sid: nth(1),
                                    number: nth(some(&mut random)),
                                    packet_id: packet(3),
                                }),
                                5 => records
                                    .push(Record::Released { sid: nth(1), number: nth(some(&mut random)) }),
                                6 if random.index(8) == 0 => {
                                    let cause = crate::session::LossCause::QueueFull;
                                    records.push(Record::Lost {
                                        sid: nth(1),
                                        number: Some(nth(some(&mut random))),
                                        cause,
                                        count: 1,
                                    });
                                }
                                7 if random.index(8) == 0 => {
                                    let (delivery, number) = (nth(some(&mut random)), nth(4000));
                                    records.push(Record::Returned { sid: nth(1), delivery, number });
                                }
                                _ => records
                                    .push(Record::Settled { sid: nth(1), number: nth(some(&mut random)) }),
                            }
                        }
                        records
                    })
                    .collect();
            let bytes = segment(&frames);
            let base = MemoryBase::default();
            let applied = |reading: Reading| {
                let mut changes = Changes::new(&base).unwrap();
                let replayed = changes.apply_read(&base, &HEADER, &mut &bytes[..], reading).unwrap();
                (replayed, changes.meta().clone(), changes.ignored(), format!("{:?}", changes.tables))
            };
            let Ok(reading) = Reading::of(&mut &bytes[..], &HEADER);
            passed += (0..frames.len()).filter(|&frame| reading.nothing_but(frame).is_some()).count();
            let Ok(mut all) = Reading::of(&mut &bytes[..], &HEADER);
            all.notes.clear();
            assert_eq!(applied(reading), applied(all), "{frames:?}");
        }
        assert!(passed > 1000, "{passed}");
    }
}
