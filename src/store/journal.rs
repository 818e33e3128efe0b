//! The journal of a shard. It collects records in frames until a write takes them.

use super::record::{Encoder, Record, put_varint};
use super::segment::{FRAME_HEAD, LogName, finish_frame, mark_batch};
use super::{BadRecord, Decoder, Wall};
use crate::base::{LogMark, Time};
use std::collections::VecDeque;

/// Frames that are written to the disk in one write.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The frames.
    pub bytes: Vec<u8>,
    /// The sequence of the first frame.
    pub first: u64,
    /// The sequence of the last frame. It is durable when the batch is.
    pub last: u64,
}

/// The journal. Without a log ([`Journal::off`]) it records nothing, and everything counts as durable.
#[derive(Debug)]
pub struct Journal {
    name: Option<LogName>,
    /// Batches that have reached the maximum length, oldest first.
    full: VecDeque<Batch>,
    /// The number of bytes in them.
    full_bytes: usize,
    /// The frames after them, including the open one.
    bytes: Vec<u8>,
    /// The offset of the open frame.
    open_at: usize,
    encoder: Encoder,
    /// The sequence of the open frame.
    sequence: u64,
    /// The sequence of the first frame in `bytes`.
    first: u64,
    durable: LogMark,
    /// The number of records ever added.
    count: u64,
    /// Whether the log has failed, so that nothing takes frames any more.
    has_failed: bool,
    /// The log's clock, for the times of frames.
    wall: Wall,
    now: Time,
}

/// The length at which a frame is closed. A turn may have more than one frame.
const FRAME_BYTES_WANTED: usize = 32 << 10;

/// A batch ends with the frame that reaches this length. A batch is longer only if a single frame is.
pub(crate) const BATCH_BYTES_WANTED: usize = 4 << 20;

/// A buffer that a single large batch made larger than this is freed.
const KEPT_BYTES_MAX: usize = 1 << 20;

impl Journal {
    /// A journal that records nothing.
    pub fn off() -> Journal {
        Journal {
            name: None,
            full: VecDeque::new(),
            full_bytes: 0,
            bytes: Vec::new(),
            open_at: 0,
            encoder: Encoder::default(),
            sequence: 1,
            first: 1,
            durable: LogMark::START,
            count: 0,
            has_failed: false,
            wall: Wall::default(),
            now: Time::ZERO,
        }
    }

    /// The journal of a new log. Its first frame has sequence 1.
    pub fn new(name: LogName) -> Journal {
        Journal { name: Some(name), ..Journal::off() }
    }

    /// Whether the journal records anything.
    pub fn is_on(&self) -> bool {
        self.name.is_some()
    }

    /// Sets the log's clock.
    pub fn set_wall(&mut self, wall: Wall) {
        self.wall = wall;
    }

    /// Sets the time of the records that follow.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// The time of the records that follow.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The present time of the log's clock, in milliseconds since 1970.
    pub fn wall_millis(&self) -> u64 {
        self.wall.millis(self.now)
    }

    /// Adds a change to the open frame.
    pub fn record(&mut self, record: &Record<'_>) {
        if self.name.is_none() {
            return;
        }
        self.count += 1;
        if self.has_failed {
            return;
        }
        if self.bytes.len() == self.open_at {
            self.bytes.resize(self.open_at + FRAME_HEAD, 0);
            put_varint(&mut self.bytes, self.wall.millis(self.now));
            self.encoder.begin_frame();
        }
        self.encoder.encode(&mut self.bytes, record);
    }

    /// Notes that an answer relies on earlier changes. Nothing changes, so nothing is recorded. But a client
    /// that is told so relies on what others have changed before, so its answer must wait for these changes
    /// to become durable, as if it had added a record.
    pub fn rely_on_earlier(&mut self) {
        self.count += u64::from(self.name.is_some());
    }

    /// The number of records ever added, plus the calls of [`Journal::rely_on_earlier`]. A change of it shows
    /// that an answer must wait.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mark that [`Journal::durable`] must reach for everything recorded so far to be durable.
    pub fn mark(&self) -> LogMark {
        if self.has_failed {
            return LogMark::NEVER;
        }
        LogMark::behind(if self.bytes.len() == self.open_at { self.sequence - 1 } else { self.sequence })
    }

    /// Notes that the log has failed. Nothing recorded from now on will ever be durable.
    pub fn fail(&mut self) {
        self.has_failed = true;
        self.full = VecDeque::new();
        self.full_bytes = 0;
        self.bytes = Vec::new();
        self.open_at = 0;
    }

    /// Whether the log has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The mark up to which everything is durable.
    pub fn durable(&self) -> LogMark {
        self.durable
    }

    /// Notes that the last batch taken is durable up to this sequence.
    pub fn set_durable(&mut self, sequence: u64) {
        self.durable = self.durable.max(LogMark::behind(sequence));
    }

    /// Closes the open frame if it is long enough. Call this between two inputs of the machine.
    pub fn seal_if_long(&mut self) {
        if self.bytes.len() - self.open_at >= FRAME_BYTES_WANTED {
            self.seal();
        }
    }

    /// The number of bytes that wait to be taken.
    pub fn waiting_bytes(&self) -> usize {
        self.full_bytes + self.bytes.len()
    }

    /// Takes the oldest waiting frames as a batch of at most some MB. `None` if no frames wait. Closes the
    /// open frame if it is among them.
    pub fn take(&mut self) -> Option<Batch> {
        if self.full.is_empty() {
            self.seal();
        }
        // Closing the frame may have filled the batch.
        let Some(batch) = self.full.pop_front() else { return self.end_batch() };
        self.full_bytes -= batch.bytes.len();
        Some(batch)
    }

    fn seal(&mut self) {
        let Some(name) = self.name else { return };
        if self.bytes.len() > self.open_at {
            finish_frame(name, self.sequence, &mut self.bytes[self.open_at..]);
            self.open_at = self.bytes.len();
            self.sequence += 1;
        }
        if self.open_at >= BATCH_BYTES_WANTED
            && let Some(batch) = self.end_batch()
        {
            self.full_bytes += batch.bytes.len();
            self.full.push_back(batch);
        }
    }

    /// Takes the frames after the last batch as a batch. None of them is open.
    fn end_batch(&mut self) -> Option<Batch> {
        if self.bytes.is_empty() {
            return None;
        }
        let capacity = self.bytes.capacity().min(KEPT_BYTES_MAX);
        let mut bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        mark_batch(&mut bytes);
        self.open_at = 0;
        let first = std::mem::replace(&mut self.first, self.sequence);
        Some(Batch { bytes, first, last: self.sequence - 1 })
    }
}

/// Opens the body of a frame: the time at which it was begun, on the log's clock, and its records.
///
/// # Errors
/// [`BadRecord`] if the time is missing.
pub fn open_body(body: &[u8]) -> Result<(u64, Decoder<'_>), BadRecord> {
    let mut decoder = Decoder::new(body);
    let millis = decoder.varint()?;
    Ok((millis, decoder))
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::message;
    use super::super::segment::{BLOCK, Header, SegmentReader, Step};
    use super::*;
    use crate::base::nth;

    const NAME: LogName = LogName { epoch: 9, shard: 1 };

    fn header() -> Header {
        Header { epoch: 9, shard: 1, shards: 2, number: 0, first_sequence: 1, seed: 77 }
    }

    /// Writes batches like the log writer.
    fn segment(batches: &[Batch]) -> Vec<u8> {
        let mut bytes = header().encode().to_vec();
        for batch in batches {
            bytes.extend_from_slice(&batch.bytes);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        bytes.resize(bytes.len() + 4 * BLOCK, 0);
        bytes
    }

    fn batch(journal: &mut Journal, payload: &[u8], frames: usize) -> Batch {
        for _ in 0..frames {
            journal.record(&Record::Message { number: nth(5), message: message("t", payload) });
            journal.seal();
        }
        journal.take().unwrap()
    }

    /// The sequences of the frames, and the other steps.
    fn read(bytes: &[u8]) -> (Vec<u64>, Vec<Step<'_>>) {
        let header = Header::decode(bytes).unwrap();
        let mut reader = SegmentReader::new(bytes, &header);
        let (mut sequences, mut others) = (Vec::new(), Vec::new());
        loop {
            match reader.step() {
                Step::Frame(frame) => {
                    let (millis, mut records) = open_body(frame.body).unwrap();
                    assert_eq!(millis, 1234);
                    let Ok(Some(Record::Message { number, .. })) = records.read_next() else { panic!() };
                    assert_eq!(number, nth(5));
                    assert_eq!(records.read_next(), Ok(None));
                    sequences.push(frame.sequence);
                }
                step @ Step::Damage { .. } => others.push(step),
                step @ Step::End { .. } => {
                    others.push(step);
                    return (sequences, others);
                }
            }
        }
    }

    fn three() -> (Vec<u8>, usize) {
        let mut journal = Journal::new(NAME);
        journal.set_wall(Wall { zero_millis: 1000 });
        journal.set_now(Time::from_millis(234));
        let large = [7; 3 * BLOCK];
        let batches = [
            batch(&mut journal, b"one", 2),
            batch(&mut journal, &large, 1),
            batch(&mut journal, b"three", 3),
        ];
        (segment(&batches), batches[1].bytes.len())
    }

    #[test]
    fn a_journal_that_is_off_takes_nothing() {
        let mut journal = Journal::off();
        journal.record(&Record::Ended { sid: nth(1) });
        assert_eq!(
            (journal.mark(), journal.durable(), journal.take()),
            (LogMark::START, LogMark::START, None)
        );
    }

    #[test]
    fn the_mark_covers_what_was_taken_down_before_it() {
        let mut journal = Journal::new(NAME);
        assert_eq!(journal.mark(), LogMark::START);
        journal.record(&Record::Ended { sid: nth(1) });
        assert_eq!(journal.mark(), LogMark::behind(1));
        let batch = journal.take().unwrap();
        assert_eq!((batch.first, batch.last, journal.mark()), (1, 1, LogMark::behind(1)));
        journal.record(&Record::Ended { sid: nth(1) });
        assert_eq!(journal.mark(), LogMark::behind(2));
        journal.set_durable(batch.last);
        assert_eq!(journal.durable(), LogMark::behind(1));
    }

    #[test]
    fn after_a_failure_nothing_is_gathered_and_nothing_durable() {
        let mut journal = Journal::new(NAME);
        journal.record(&Record::Ended { sid: nth(1) });
        journal.fail();
        assert_eq!((journal.waiting_bytes(), journal.mark()), (0, LogMark::NEVER));
        let count = journal.count();
        for sid in 1..=1000 {
            journal.record(&Record::Ended { sid: nth(sid) });
            journal.seal_if_long();
        }
        assert_eq!((journal.waiting_bytes(), journal.take()), (0, None));
        // A caller that asks whether something was recorded still sees it, and waits forever.
        assert_eq!(journal.count(), count + 1000);
    }

    #[test]
    fn batches_are_bounded_and_a_longer_one_holds_a_single_frame() {
        let mut journal = Journal::new(NAME);
        journal.set_wall(Wall { zero_millis: 1234 });
        let short = std::iter::repeat_n(40_000, 300);
        for size in short.chain([5_000_000, 70_000, 9_000_000, 33_000, 5_000_000]) {
            journal.record(&Record::Message { number: nth(5), message: message("t", &vec![3; size]) });
            journal.seal_if_long();
        }
        let waiting = journal.waiting_bytes();
        let (mut batches, mut taken, mut next) = (Vec::new(), 0, 1);
        while let Some(batch) = journal.take() {
            taken += batch.bytes.len();
            assert_eq!(journal.waiting_bytes(), waiting - taken);
            assert_eq!(batch.first, next, "no frame is passed over");
            next = batch.last + 1;
            let longest = if batch.bytes.len() > BATCH_BYTES_WANTED + 41_000 { 9_000_000 } else { 0 };
            assert!(batch.bytes.len() < BATCH_BYTES_WANTED + longest + 41_000, "{}", batch.bytes.len());
            batches.push(batch);
        }
        assert_eq!(batches.len(), 5);
        assert_eq!((taken, journal.mark()), (waiting, LogMark::behind(next - 1)));
        let bytes = segment(&batches);
        let (sequences, others) = read(&bytes);
        assert_eq!(sequences, (1..next).collect::<Vec<_>>());
        assert!(matches!(others[..], [Step::End { torn: false, .. }]), "{others:?}");
        // The few records of a turn stay one batch, and the buffer is kept.
        journal.record(&Record::Ended { sid: nth(1) });
        journal.record(&Record::Ended { sid: nth(2) });
        let batch = journal.take().unwrap();
        assert_eq!((batch.first, batch.last), (next, next));
    }

    #[test]
    fn frames_come_back_in_order() {
        let (bytes, _) = three();
        let (sequences, others) = read(&bytes);
        assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
        assert!(matches!(others[..], [Step::End { torn: false, .. }]), "{others:?}");
    }

    #[test]
    fn a_torn_end_is_cut_wherever_it_is_torn() {
        let (bytes, second_len) = three();
        let second = 2 * BLOCK;
        let third = second + second_len.next_multiple_of(BLOCK);
        // The third batch was never begun, and any block of the second may be missing.
        for missing in (second..third).step_by(BLOCK) {
            let mut torn = bytes.clone();
            torn[third..].fill(0);
            torn[missing..missing + BLOCK].fill(0);
            let (sequences, others) = read(&torn);
            assert_eq!(sequences, [1, 2], "{missing}");
            assert!(matches!(others[..], [Step::End { .. }]), "{others:?}");
        }
        // Cut off at any byte.
        for len in (BLOCK..bytes.len()).step_by(97) {
            let (sequences, others) = read(&bytes[..len]);
            assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
            assert_eq!(others.len(), 1);
        }
    }

    #[test]
    fn what_can_not_be_read_before_a_later_batch_is_damage_and_the_rest_is_read() {
        let (mut bytes, second_len) = three();
        bytes[2 * BLOCK + 100] ^= 1;
        let (sequences, others) = read(&bytes);
        assert_eq!(sequences, [1, 2, 4, 5, 6]);
        let third = 2 * BLOCK + second_len.next_multiple_of(BLOCK);
        assert_eq!(others[0], Step::Damage { from: 2 * BLOCK, to: third });
    }

    #[test]
    fn what_another_log_left_in_the_blocks_is_not_read() {
        let (bytes, _) = three();
        let mut mine = segment(&[]);
        let len = mine.len();
        mine[BLOCK..].copy_from_slice(&bytes[BLOCK..len]);
        let other = Header { epoch: 10, ..header() };
        mine[..BLOCK].copy_from_slice(&other.encode());
        let (sequences, others) = read(&mine);
        assert_eq!(sequences, [] as [u64; 0]);
        assert!(matches!(others[..], [Step::End { at: BLOCK, torn: true }]), "{others:?}");
    }

    #[test]
    fn a_header_with_a_flipped_bit_is_none() {
        let block = header().encode();
        assert_eq!(Header::decode(&block), Some(header()));
        for bit in 0..60 * 8 {
            let mut flipped = block;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "{bit}");
        }
        assert_eq!(Header::decode(&block[..59]), None);
    }
}
