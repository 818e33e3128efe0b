//! Which segments of the logs must be there, told by those that are.
//!
//! The segments of a log are numbered from 0 without a gap, and so are its frames. The file of a segment is made
//! when the segment before it has begun, and has its whole length from then on. So a file proves that there were
//! those before it, though it holds nothing yet.

use super::directory::SegmentName;
use super::recovery::SegmentKind;
use crate::store::rows::{LogPosition, Meta};
use crate::store::segment::{BLOCK, Header};
use std::collections::BTreeMap;

/// How far each log was followed.
#[derive(Debug)]
pub(super) struct Chain {
    /// Epoch and shard → its last segment, and the last frame in it.
    marks: BTreeMap<(u64, u16), LogPosition>,
    /// The checkpoint was lost: what it had of the logs is not missing from them.
    has_lost_image: bool,
}

impl Chain {
    /// Behind what the checkpoint has.
    pub(super) fn new(meta: &Meta, has_lost_image: bool) -> Chain {
        let marks = meta.logs.iter().map(|(&shard, &mark)| ((meta.epoch, shard), mark)).collect();
        Chain { marks, has_lost_image }
    }

    /// What is not there between the last segment of a log and this one, in words.
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

    /// Was this segment read already?
    pub(super) fn has_passed(&self, name: &SegmentName) -> bool {
        self.marks.get(&(name.epoch, name.shard)).is_some_and(|mark| name.number <= mark.number)
    }

    /// A segment was read.
    pub(super) fn pass(&mut self, header: &Header, last_sequence: u64) {
        let mark = LogPosition { number: header.number, last_sequence };
        self.marks.insert((header.epoch, header.shard), mark);
    }

    /// Of a file without a segment of its own, of so many bytes: the number of the segment that is damaged, and
    /// what is to be said of it. It may be one before this. Each is told once.
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

/// A file of a length that no segment's has.
pub(super) fn cut(len: usize) -> String {
    format!("the file was cut to {len} bytes")
}
