//! The bytes of a log: frames in batches, batches in a segment.
//!
//! A segment begins with a [`Header`] in a block of its own. Batches follow, each from the beginning of a
//! block: one write. A batch is frames without a gap, then zeros to the end of its block. A frame is
//! what one turn of a shard's machine changed, and counts wholly or not at all: length, checksum,
//! sequence, body. Sequences rise by one. The checksum covers whose log it is, so that what an earlier
//! log left in the same blocks is never taken for this one's.
//!
//! A batch is written only when the one before is durable. So a frame that can't be read is a torn end if
//! no batch begins after it, and damage if one does.

/// Segments are written in blocks of this many bytes.
pub const BLOCK: usize = 4096;

/// Bytes before a frame's body: length and flag, checksum, sequence.
pub const FRAME_HEAD: usize = 16;

/// No frame's body is longer: larger packets than MQTT's are not there.
pub const FRAME_BODY_MAX: usize = 1 << 30;

/// In the length: the frame is the first of its batch.
const BATCH_START: u32 = 1 << 31;

/// No segment has more frames: each takes 16 bytes at least.
const SEQUENCE_GAP_MAX: u64 = 1 << 32;

const MAGIC: &[u8; 8] = b"midgelog";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 60;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The start of the broker that wrote it; rises with each start.
    pub epoch: u64,
    /// The shard.
    pub shard: u16,
    /// How many shards there were.
    pub shards: u16,
    /// Number of the segment in its log, from 0.
    pub number: u64,
    /// Sequence of its first frame.
    pub first_sequence: u64,
    /// The seed by which sessions, topics and groups found their home shards (`Shared::new`).
    pub seed: u64,
}

impl Header {
    /// The first block.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            block[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&self.epoch.to_le_bytes());
        put(&self.shard.to_le_bytes());
        put(&self.shards.to_le_bytes());
        put(&self.number.to_le_bytes());
        put(&self.first_sequence.to_le_bytes());
        put(&self.seed.to_le_bytes());
        put(&[0; 8]);
        let checksum = crc32fast::hash(&block[..HEADER_BYTES - 4]);
        block[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        block
    }

    /// Reads the first block; none if it is not one.
    pub fn decode(segment: &[u8]) -> Option<Header> {
        let head = segment.get(..HEADER_BYTES)?;
        let checksum = u32::from_le_bytes(head[HEADER_BYTES - 4..].try_into().ok()?);
        if &head[..8] != MAGIC || checksum != crc32fast::hash(&head[..HEADER_BYTES - 4]) {
            return None;
        }
        let u16_at = |at: usize| Some(u16::from_le_bytes(head[at..at + 2].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?));
        if u32::from_le_bytes(head[8..12].try_into().ok()?) != VERSION {
            return None;
        }
        Some(Header {
            epoch: u64_at(12)?,
            shard: u16_at(20)?,
            shards: u16_at(22)?,
            number: u64_at(24)?,
            first_sequence: u64_at(32)?,
            seed: u64_at(40)?,
        })
    }
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName {
    /// The start of the broker.
    pub epoch: u64,
    /// The shard.
    pub shard: u16,
}

/// Name of a segment's file: epoch, shard and number, so that names sort as their segments were written.
pub fn file_name(name: LogName, number: u64) -> String {
    format!("{:010}-{:03}-{number:010}.log", name.epoch, name.shard)
}

/// Whose segment a file is, and which; none if it is not named as [`file_name`] names it.
pub fn parse_file_name(file_name: &str) -> Option<(LogName, u64)> {
    let mut parts = file_name.strip_suffix(".log")?.split('-');
    let (epoch, shard, number) = (parts.next()?, parts.next()?, parts.next()?);
    let name = LogName { epoch: epoch.parse().ok()?, shard: shard.parse().ok()? };
    let number = number.parse().ok()?;
    (self::file_name(name, number) == file_name).then_some((name, number))
}

/// Finishes a frame whose head and body lie in `frame`; the head is filled in.
pub(super) fn finish_frame(name: LogName, sequence: u64, frame: &mut [u8]) {
    let body_len = u32::try_from(frame.len() - FRAME_HEAD).expect("a turn's records are bounded");
    frame[..4].copy_from_slice(&body_len.to_le_bytes());
    let checksum = checksum(name, sequence, &frame[FRAME_HEAD..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
}

/// Marks the first frame of a batch.
pub(super) fn mark_batch(batch: &mut [u8]) {
    if let Some(length) = batch.get_mut(3) {
        *length |= 1 << 7;
    }
}

fn checksum(name: LogName, sequence: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&name.epoch.to_le_bytes());
    hasher.update(&name.shard.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// Its records.
    pub body: &'a [u8],
    /// Offset in the segment.
    pub at: usize,
    is_batch_start: bool,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Bytes that can't be read, though what comes after them was written later: something that was
    /// durable is lost. Reading goes on after them.
    Damage {
        /// Offset of the first byte.
        from: usize,
        /// Offset of the byte after the last.
        to: usize,
    },
    /// The end of what was written. `torn`: an unfinished batch stands there.
    End {
        /// Offset.
        at: usize,
        /// Something stands there that can't be read.
        torn: bool,
    },
}

/// Reads a segment frame by frame.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    bytes: &'a [u8],
    name: LogName,
    at: usize,
    next_sequence: u64,
}

impl<'a> SegmentReader<'a> {
    /// A reader behind the header. `bytes` is the whole segment.
    pub fn new(bytes: &'a [u8], header: &Header) -> SegmentReader<'a> {
        let name = LogName { epoch: header.epoch, shard: header.shard };
        SegmentReader { bytes, name, at: BLOCK, next_sequence: header.first_sequence }
    }

    /// The next frame, a gap, or the end; after the end, the end again.
    pub fn step(&mut self) -> Step<'a> {
        if let Some(frame) = self.frame_at(self.at, self.next_sequence) {
            return self.take(frame);
        }
        let boundary = self.at.next_multiple_of(BLOCK);
        if boundary != self.at && self.is_zero(self.at, boundary) {
            // The rest of a batch's last block.
            if let Some(frame) = self.frame_at(boundary, self.next_sequence) {
                return self.take(frame);
            }
            self.at = boundary;
        }
        let from = self.at;
        match self.find_batch(self.at.next_multiple_of(BLOCK).max(BLOCK)) {
            Some(to) => {
                self.at = to;
                self.next_sequence = 0;
                Step::Damage { from, to }
            }
            None => {
                let head_end = (from + FRAME_HEAD).min(self.bytes.len());
                Step::End { at: from, torn: from < self.bytes.len() && !self.is_zero(from, head_end) }
            }
        }
    }

    fn take(&mut self, frame: Frame<'a>) -> Step<'a> {
        self.at = frame.at + FRAME_HEAD + frame.body.len();
        self.next_sequence = frame.sequence + 1;
        Step::Frame(frame)
    }

    /// A batch that begins after this place, in a block of its own.
    fn find_batch(&self, from: usize) -> Option<usize> {
        let after = self.next_sequence;
        (from..self.bytes.len()).step_by(BLOCK).find(|&at| {
            at > self.at
                && self.has_likely_head(at)
                && self.frame_at(at, 0).is_some_and(|frame| frame.is_batch_start && frame.sequence > after)
        })
    }

    /// Bytes of something else seldom look like a head whose sequence is near: no checksum is computed over
    /// whatever length they seem to say.
    fn has_likely_head(&self, at: usize) -> bool {
        let sequence = self.bytes.get(at + 8..).and_then(|rest| rest.first_chunk::<8>());
        sequence.is_some_and(|&bytes| {
            u64::from_le_bytes(bytes).wrapping_sub(self.next_sequence) <= SEQUENCE_GAP_MAX
        })
    }

    /// The frame at a place, if its checksum is right and, unless 0, its sequence is the one expected.
    fn frame_at(&self, at: usize, expected: u64) -> Option<Frame<'a>> {
        let head = self.bytes.get(at..at + FRAME_HEAD)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let length = word(0);
        let len = (length & !BATCH_START) as usize;
        if len == 0 || len > FRAME_BODY_MAX {
            return None;
        }
        let body = self.bytes.get(at + FRAME_HEAD..)?.get(..len)?;
        let sequence = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
        if (expected != 0 && sequence != expected)
            || sequence == u64::MAX
            || checksum(self.name, sequence, body) != word(4)
        {
            return None;
        }
        Some(Frame { sequence, body, at, is_batch_start: length & BATCH_START != 0 })
    }

    fn is_zero(&self, from: usize, to: usize) -> bool {
        self.bytes
            .get(from..to.min(self.bytes.len()))
            .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_read_back() {
        let name = LogName { epoch: 7, shard: 2 };
        assert_eq!(file_name(name, 41), "0000000007-002-0000000041.log");
        let largest = LogName { epoch: u64::MAX, shard: u16::MAX };
        for (name, number) in [(name, 41), (name, 0), (largest, u64::MAX)] {
            assert_eq!(parse_file_name(&file_name(name, number)), Some((name, number)));
        }
    }

    #[test]
    fn what_is_named_otherwise_is_no_segment() {
        for other in [
            "",
            ".log",
            "0000000007-002-0000000041",
            "7-2-41.log",
            "0000000007-002-0000000041.log.bad",
            "0000000007-002.log",
            "0000000007-002-0000000041-1.log",
            "+000000007-002-0000000041.log",
            "0000000007-0x2-0000000041.log",
            "0000000007-70000-0000000041.log",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
