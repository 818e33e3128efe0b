//! Which segments of the logs must exist, concluded from those that do.
//!
//! The segments of a log are numbered from 0 without a gap, and so are its frames. The file of a segment is
//! created when the segment before it has begun, and it has its full length from then on. So even an empty
//! file proves that the segments before it existed.

use super::directory::SegmentName;
use super::recovery::SegmentKind;
use crate::store::rows::{LogPosition, Meta};
use crate::store::segment::{BLOCK, Header};
use std::collections::BTreeMap;

/// The last position that was read of each log.
#[derive(Debug)]
pub(super) struct Chain {
    /// Epoch and shard → its last segment, and the last frame in it.
    marks: BTreeMap<(u64, u16), LogPosition>,
    /// Whether the checkpoint was lost. If so, the segments that it contained are not missing from the logs.
    has_lost_image: bool,
}

impl Chain {
    /// Begins after what the checkpoint contains.
    pub(super) fn new(meta: &Meta, has_lost_image: bool) -> Chain {
        let marks = meta.logs.iter().map(|(&shard, &mark)| ((meta.epoch, shard), mark)).collect();
        Chain { marks, has_lost_image }
    }

    /// Describes what is missing between the last segment that was read of this log and this one.
    pub(super) fn missing_before(&self, header: &Header) -> Option<String> {
        let mark = self.marks.get(&(header.epoch, header.shard));
        if mark.is_none() && self.has_lost_image {
            return None;
        }
        if let Some(missing) = self.missing_segments(header.epoch, header.shard, header.number) {
            return Some(missing);
        }
        let next = mark.map_or(1, |mark| mark.last_sequence + 1);
        let last = header.first_sequence.saturating_sub(1);
        (next <= last).then(|| format!("frames {next} to {last} of its log can't be read"))
    }

    fn missing_segments(&self, epoch: u64, shard: u16, number: u64) -> Option<String> {
        let next = self.next(epoch, shard)?;
        (number > next)
            .then(|| format!("segments {next} to {} of its log are not there or can't be read", number - 1))
    }

    fn next(&self, epoch: u64, shard: u16) -> Option<u64> {
        match self.marks.get(&(epoch, shard)) {
            None if self.has_lost_image => None,
            mark => Some(mark.map_or(0, |mark| mark.number + 1)),
        }
    }

    /// Whether this segment was read already.
    pub(super) fn has_passed(&self, name: &SegmentName) -> bool {
        self.marks.get(&(name.epoch, name.shard)).is_some_and(|mark| name.number <= mark.number)
    }

    /// Notes that a segment was read.
    pub(super) fn pass(&mut self, header: &Header, last_sequence: u64) {
        let mark = LogPosition { number: header.number, last_sequence };
        self.marks.insert((header.epoch, header.shard), mark);
    }

    /// For a file of `len` bytes that contains no segment: the number of the damaged segment, and the
    /// description of the damage. The damaged segment may be an earlier one. Each is reported once.
    pub(super) fn fault_at(
        &mut self,
        name: &SegmentName,
        kind: &SegmentKind,
        len: usize,
    ) -> Option<(u64, String)> {
        if len < BLOCK || !len.is_multiple_of(BLOCK) {
            return Some((name.number, cut(len)));
        }
        if !matches!(kind, SegmentKind::Unused | SegmentKind::Spare) {
            return None;
        }
        let next = self.next(name.epoch, name.shard)?;
        let missing = self.missing_segments(name.epoch, name.shard, name.number)?;
        let mark = self.marks.entry((name.epoch, name.shard)).or_default();
        mark.number = name.number - 1;
        Some((next, missing))
    }
}

/// Describes a file whose length is impossible for a segment.
pub(super) fn cut(len: usize) -> String {
    format!("the file was cut to {len} bytes")
}
