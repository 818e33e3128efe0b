//! Applies the bytes of a segment to the state, and tells what was wrong with them.

use super::StoreError;
use super::base::Base;
use super::passing::Passing;
use super::segment::{Header, SegmentReader, Step};
use super::state::{ApplyError, Changes};

/// A stretch of a segment that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Offset of its first byte.
    pub from: usize,
    /// Offset of the byte after its last.
    pub to: usize,
    /// What it is, as a part of a sentence.
    pub what: String,
}

/// What a segment was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Frames applied.
    pub frames: u64,
    /// Sequence of the last frame; 0: there is none.
    pub last_sequence: u64,
    /// Offset of the end of what was written.
    pub end: usize,
    /// An unfinished batch stands at the end, which no one was told to be durable.
    pub torn: bool,
    /// What could not be read, though something later could.
    pub gaps: Vec<Gap>,
}

impl Changes {
    /// Applies all frames of a segment that can be read, and marks it as applied. `bytes` is the whole
    /// segment, `header` its header.
    ///
    /// # Errors
    /// [`StoreError`] if the base can't be read.
    pub fn apply_segment(
        &mut self,
        base: &dyn Base,
        header: &Header,
        bytes: &[u8],
    ) -> Result<Replayed, StoreError> {
        let mut replayed = Replayed::default();
        self.passing = Passing::of(bytes, header);
        let mut reader = SegmentReader::new(bytes, header);
        loop {
            match reader.step() {
                Step::Frame(frame) => {
                    replayed.last_sequence = frame.sequence;
                    match self.apply_frame(base, header, frame.body) {
                        Ok(()) => replayed.frames += 1,
                        Err(ApplyError::Bad(bad)) => replayed.gaps.push(Gap {
                            from: frame.at,
                            to: frame.at + frame.body.len(),
                            what: format!("a frame of another version of midge ({bad})"),
                        }),
                        Err(ApplyError::Store(error)) => return Err(error),
                    }
                }
                Step::Damage { from, to } => {
                    replayed.gaps.push(Gap { from, to, what: "bytes that can't be read".to_owned() });
                }
                Step::End { at, torn } => {
                    replayed.end = at;
                    replayed.torn = torn;
                    break;
                }
            }
        }
        let last = replayed.last_sequence.max(header.first_sequence.saturating_sub(1));
        self.passing = Passing::default();
        self.finish_segment(base, header, last)?;
        Ok(replayed)
    }
}
