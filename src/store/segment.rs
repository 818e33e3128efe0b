//! The bytes of a log: frames in batches, and batches in a segment. `FORMAT.md` has the tables.
//!
//! A segment begins with a [`Header`] in its own block. Batches follow. Each batch is one write and starts at
//! the beginning of a block: frames without a gap, then zeros to the end of the block. A frame contains the
//! changes of one turn of a shard's machine and is valid as a whole or not at all: length, checksum,
//! sequence, body. Sequences rise by one. The checksum covers shard and epoch, so that a frame of an earlier
//! log in the same blocks is never read as one of this log.
//!
//! A batch is written only after the batch before it is durable. So an unreadable frame is a torn end if no
//! batch begins after it, and damage if one does.

use super::source::{PIECE_BYTES, Source};
use std::ops::{Range, RangeInclusive};

/// The size of a block in bytes. Segments are written in blocks.
pub const BLOCK: usize = 4096;

/// The number of bytes before a frame's body: length and flag, checksum, sequence.
pub const FRAME_HEAD: usize = 16;

/// The largest length of a frame's body. MQTT has no packets that need more.
pub const FRAME_BODY_MAX: usize = 1 << 30;

/// A flag in the length: the frame is the first of its batch.
const BATCH_START: u32 = 1 << 31;

/// The largest number of frames in a segment. Each takes at least 16 bytes.
const SEQUENCE_GAP_MAX: u64 = 1 << 32;

const MAGIC: &[u8; 8] = b"midgelog";
/// The format of the segments that are written: see FORMAT.md. A new kind of record needs a new version too.
const VERSION: u32 = 3;
/// The oldest format that is read: the one before [`VERSION`], but not older than the first that was
/// released.
const VERSION_OLDEST: u32 = 2;
/// The formats that are read.
pub const VERSIONS: RangeInclusive<u32> = VERSION_OLDEST..=VERSION;
const HEADER_BYTES: usize = 60;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of the start of the broker that wrote it. It rises with each start.
    pub epoch: u64,
    /// The shard.
    pub shard: u16,
    /// The number of shards.
    pub shards: u16,
    /// The number of the segment in its log, from 0.
    pub number: u64,
    /// The sequence of its first frame.
    pub first_sequence: u64,
    /// The seed that determines the home shards of sessions, topics and groups (`Shared::new`).
    pub seed: u64,
}

impl Header {
    /// Encodes the first block.
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

    /// Reads the first block. `None` if it is not one, or if its version is not supported: see
    /// [`Header::other_version`].
    pub fn decode(segment: &[u8]) -> Option<Header> {
        let (head, version) = sound_head(segment)?;
        if !VERSIONS.contains(&version) {
            return None;
        }
        let u16_at = |at: usize| Some(u16::from_le_bytes(head[at..at + 2].try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?));
        Some(Header {
            epoch: u64_at(12)?,
            shard: u16_at(20)?,
            shards: u16_at(22)?,
            number: u64_at(24)?,
            first_sequence: u64_at(32)?,
            seed: u64_at(40)?,
        })
    }

    /// The version of an intact first block if this midge does not read it.
    pub fn other_version(segment: &[u8]) -> Option<u32> {
        let (_, version) = sound_head(segment)?;
        (!VERSIONS.contains(&version)).then_some(version)
    }
}

/// A header with a correct checksum, and its version. Magic, version and checksum have the same places in
/// every version, so a header of another version can be distinguished from a damaged one.
fn sound_head(segment: &[u8]) -> Option<(&[u8; HEADER_BYTES], u32)> {
    let head = segment.first_chunk::<HEADER_BYTES>()?;
    let checksum = u32::from_le_bytes(head[HEADER_BYTES - 4..].try_into().ok()?);
    let is_sound = &head[..8] == MAGIC && checksum == crc32fast::hash(&head[..HEADER_BYTES - 4]);
    is_sound.then_some((head, u32::from_le_bytes(head[8..12].try_into().ok()?)))
}

/// The identity of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName {
    /// The number of the start of the broker.
    pub epoch: u64,
    /// The shard.
    pub shard: u16,
}

/// The name of a segment's file: epoch, shard and number, so that names sort in the order of writing.
pub fn file_name(name: LogName, number: u64) -> String {
    format!("{:010}-{:03}-{number:010}.log", name.epoch, name.shard)
}

/// The log and number of a segment's file. `None` if the name was not made by [`file_name`].
pub fn parse_file_name(file_name: &str) -> Option<(LogName, u64)> {
    let mut parts = file_name.strip_suffix(".log")?.split('-');
    let (epoch, shard, number) = (parts.next()?, parts.next()?, parts.next()?);
    let name = LogName { epoch: epoch.parse().ok()?, shard: shard.parse().ok()? };
    let number = number.parse().ok()?;
    (self::file_name(name, number) == file_name).then_some((name, number))
}

/// The suffix of a segment's file name until the file has its length.
pub const UNFINISHED: &str = ".new";

/// Finishes a frame whose head and body are in `frame`: fills in the head.
pub(crate) fn finish_frame(name: LogName, sequence: u64, frame: &mut [u8]) {
    let body_len = u32::try_from(frame.len() - FRAME_HEAD).expect("a turn's records are bounded");
    frame[..4].copy_from_slice(&body_len.to_le_bytes());
    let checksum = checksum(name, sequence, &frame[FRAME_HEAD..]);
    frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    frame[8..16].copy_from_slice(&sequence.to_le_bytes());
}

/// Marks the first frame of a batch.
pub(crate) fn mark_batch(batch: &mut [u8]) {
    if let Some(length) = batch.get_mut(3) {
        *length |= 1 << 7;
    }
}

fn checksum(name: LogName, sequence: u64, body: &[u8]) -> u32 {
    let mut hasher = begin_checksum(name, sequence, body.len());
    hasher.update(body);
    hasher.finalize()
}

/// Starts a checksum. The body must be added.
fn begin_checksum(name: LogName, sequence: u64, body_len: usize) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&name.epoch.to_le_bytes());
    hasher.update(&name.shard.to_le_bytes());
    hasher.update(&sequence.to_le_bytes());
    hasher.update(&u32::try_from(body_len).unwrap_or(u32::MAX).to_le_bytes());
    hasher
}

/// A frame that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFrame<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// Its records.
    pub body: &'a [u8],
    /// Its offset in the segment.
    pub at: usize,
}

/// The content at a position of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A frame.
    Frame(LogFrame<'a>),
    /// Bytes that can't be read although the bytes after them were written later: durable data is lost.
    /// Reading continues after them.
    Damage {
        /// The offset of the first byte.
        from: usize,
        /// The offset of the byte after the last.
        to: usize,
    },
    /// The end of the written data.
    End {
        /// The offset.
        at: usize,
        /// Whether an unfinished batch, which can't be read, follows.
        torn: bool,
    },
}

/// As [`Step`], for a segment that need not be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Frame(FramePlace),
    Damage { from: usize, to: usize },
    End { at: usize, torn: bool },
}

/// The position of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FramePlace {
    pub(crate) sequence: u64,
    pub(crate) at: usize,
    /// The length of its body.
    pub(crate) len: usize,
    is_batch_start: bool,
}

impl FramePlace {
    /// The range of its body.
    pub(crate) fn body(&self) -> Range<usize> {
        let from = self.at + FRAME_HEAD;
        from..from + self.len
    }
}

/// Reads a segment in memory frame by frame.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    bytes: &'a [u8],
    walk: Walk,
}

impl<'a> SegmentReader<'a> {
    /// A reader that begins after the header. `bytes` is the whole segment.
    pub fn new(bytes: &'a [u8], header: &Header) -> SegmentReader<'a> {
        SegmentReader { bytes, walk: Walk::new(header) }
    }

    /// The next frame, gap or end. After the end it returns the end again.
    pub fn step(&mut self) -> Step<'a> {
        let Ok(place) = self.walk.next(&mut self.bytes);
        match place {
            Place::Frame(place) => {
                let FramePlace { sequence, at, .. } = place;
                Step::Frame(LogFrame { sequence, body: &self.bytes[place.body()], at })
            }
            Place::Damage { from, to } => Step::Damage { from, to },
            Place::End { at, torn } => Step::End { at, torn },
        }
    }
}

/// Goes through a segment frame by frame.
#[derive(Debug)]
pub(crate) struct Walk {
    name: LogName,
    at: usize,
    next_sequence: u64,
}

impl Walk {
    /// Begins after the header.
    pub(crate) fn new(header: &Header) -> Walk {
        let name = LogName { epoch: header.epoch, shard: header.shard };
        Walk { name, at: BLOCK, next_sequence: header.first_sequence }
    }

    /// The next frame, gap or end. After the end it returns the end again.
    pub(crate) fn next<S: Source>(&mut self, source: &mut S) -> Result<Place, S::Error> {
        if let Some(frame) = self.frame_at(source, self.at, self.next_sequence)? {
            return Ok(self.take(frame));
        }
        let boundary = self.at.next_multiple_of(BLOCK);
        if boundary != self.at && boundary <= source.len() && source.is_zero(self.at..boundary)? {
            // Skip the rest of a batch's last block.
            if let Some(frame) = self.frame_at(source, boundary, self.next_sequence)? {
                return Ok(self.take(frame));
            }
            self.at = boundary;
        }
        let from = self.at;
        Ok(match self.find_batch(source, self.at.next_multiple_of(BLOCK).max(BLOCK))? {
            Some(to) => {
                self.at = to;
                self.next_sequence = 0;
                Place::Damage { from, to }
            }
            None => {
                let head_end = (from + FRAME_HEAD).min(source.len());
                Place::End { at: from, torn: from < source.len() && !source.is_zero(from..head_end)? }
            }
        })
    }

    fn take(&mut self, frame: FramePlace) -> Place {
        self.at = frame.body().end;
        self.next_sequence = frame.sequence + 1;
        Place::Frame(frame)
    }

    /// Finds a batch that begins in a block after this offset.
    fn find_batch<S: Source>(&self, source: &mut S, from: usize) -> Result<Option<usize>, S::Error> {
        let after = self.next_sequence;
        for at in (from..source.len()).step_by(BLOCK).filter(|&at| at > self.at) {
            if self.has_likely_head(source, at)?
                && let Some(frame) = self.frame_at(source, at, 0)?
                && frame.is_batch_start
                && frame.sequence > after
            {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Whether the bytes look like the head of a frame with a near sequence. Other bytes seldom do, so no
    /// checksum is computed over the random length that they would give.
    fn has_likely_head<S: Source>(&self, source: &mut S, at: usize) -> Result<bool, S::Error> {
        let sequence = source.bytes(at..at + FRAME_HEAD)?.get(8..).and_then(|rest| rest.first_chunk::<8>());
        Ok(sequence.is_some_and(|&bytes| {
            u64::from_le_bytes(bytes).wrapping_sub(self.next_sequence) <= SEQUENCE_GAP_MAX
        }))
    }

    /// The frame at an offset, if its checksum is correct and its sequence is the expected one. `0` accepts
    /// any sequence.
    fn frame_at<S: Source>(
        &self,
        source: &mut S,
        at: usize,
        expected: u64,
    ) -> Result<Option<FramePlace>, S::Error> {
        let Some(&head) = source.bytes(at..at + FRAME_HEAD)?.first_chunk::<FRAME_HEAD>() else {
            return Ok(None);
        };
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let length = word(0);
        let len = (length & !BATCH_START) as usize;
        if len == 0 || len > FRAME_BODY_MAX || len > source.len() - (at + FRAME_HEAD) {
            return Ok(None);
        }
        let sequence = u64::from_le_bytes(head[8..16].try_into().expect("eight bytes"));
        if (expected != 0 && sequence != expected) || sequence == u64::MAX {
            return Ok(None);
        }
        // A body is seldom longer than a piece. A false frame takes no more memory than a piece.
        let mut hasher = begin_checksum(self.name, sequence, len);
        let (from, mut done) = (at + FRAME_HEAD, 0);
        while done < len {
            let piece = source.bytes(from + done..from + len.min(done + PIECE_BYTES))?;
            if piece.is_empty() {
                return Ok(None);
            }
            hasher.update(piece);
            done += piece.len();
        }
        let is_sound = hasher.finalize() == word(4);
        let is_batch_start = length & BATCH_START != 0;
        Ok(is_sound.then_some(FramePlace { sequence, at, len, is_batch_start }))
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
